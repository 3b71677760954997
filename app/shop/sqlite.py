"""A shop in an SQLite file, as the demo's is: its tables are copied in one transaction, and the copy is read.

One transaction is one instant for all tables. The copy's columns have the types that the reader goes by: SQLite itself
puts anything anywhere, and the reader would take a column's type from its first row.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from app.errors import ShopError
from app.shop.columns import ShopColumn, sqlite_column
from app.shop.reading import ReaderProcess, Reading, ShopReading
from app.snapshot_plan import SnapshotTable

_BATCH_ROWS = 65_536
_WAIT_FOR_WRITERS_S = 10
_STORED_AS = {"Int64": "INTEGER", "Float64": "REAL"}


class SQLiteShop:
    """An SQLite file that is read and never written, nor made where there is none."""

    def __init__(self, url: str) -> None:
        self._path = Path(url.removeprefix("sqlite://")).expanduser().resolve()
        self.name = f"sqlite://{self._path}"
        if not self._path.is_file():
            raise ShopError(f"{self.name}: no such file. Check CARAT_SHOP_DB; nothing was changed")
        try:
            # Opened on nothing: what is read is attached, read-only; what is written goes to the copy.
            self._connection = sqlite3.connect(
                "file::memory:", uri=True, isolation_level=None, timeout=_WAIT_FOR_WRITERS_S
            )
            self._connection.execute("ATTACH DATABASE ? AS shop", (f"file:{quote(str(self._path))}?mode=ro",))
            self._connection.execute("SELECT count(*) FROM shop.sqlite_master")
        except sqlite3.Error as error:
            raise ShopError(f"{self.name}: {error}. Check CARAT_SHOP_DB; nothing was changed") from None

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    def describe(self, table: SnapshotTable) -> list[ShopColumn]:
        """The kept columns of a table, in its order; ShopError if it is not what the plan says."""
        try:
            rows = self._connection.execute(f"PRAGMA shop.table_info({_quoted(table.source)})").fetchall()
            columns = [sqlite_column(name, declared) for _, name, declared, *_ in rows if table.keeps(name)]
            if not rows:
                raise ShopError(f"{self.name} has no table {table.source}")
            self._connection.execute(f"{_select(table, columns)} LIMIT 0")
        except sqlite3.Error as error:
            raise ShopError(f"{self.name}, {table.source}: {error}") from None
        return columns

    @contextmanager
    def reading(
        self, tables: dict[SnapshotTable, list[ShopColumn]], folder: Path, *, limit_s: float
    ) -> Iterator[ShopReading]:
        """The tables as they were at one instant, while they are being read."""
        copy = folder / "shop.sqlite"
        try:
            self._copy(tables, copy)
        except sqlite3.Error as error:
            raise ShopError(f"{self.name}: {error}; nothing was changed") from None
        readings = [
            Reading(
                table.name,
                f"SELECT * FROM {_quoted(table.name)}",
                folder / f"{table.name}.arrow",
                batch_rows=_BATCH_ROWS,
            )
            for table in tables
        ]
        reader = ReaderProcess(f"sqlite://{quote(str(copy))}", readings, limit_s=limit_s)
        with reader.started():
            reader.go()
            yield ShopReading(reader, dict.fromkeys((table.name for table in tables), "one instant for all tables"))

    def _copy(self, tables: dict[SnapshotTable, list[ShopColumn]], path: Path) -> None:
        run = self._connection.execute
        run("ATTACH DATABASE ? AS copy", (f"file:{quote(str(path))}?mode=rwc",))
        run("PRAGMA copy.journal_mode = OFF")
        run("PRAGMA copy.synchronous = OFF")
        run("BEGIN")
        for table, columns in tables.items():
            stored = ", ".join(f"{_quoted(column.kept_as)} {_stored_as(column)}" for column in columns)
            order_by = ", ".join(next(c.order_by for c in columns if c.name == key) for key in table.key)
            run(f"CREATE TABLE copy.{_quoted(table.name)} ({stored})")
            run(f"INSERT INTO copy.{_quoted(table.name)} {_select(table, columns)} ORDER BY {order_by}")
        run("COMMIT")
        run("DETACH DATABASE copy")


def _stored_as(column: ShopColumn) -> str:
    return "BLOB" if column.holds_bytes else _STORED_AS.get(column.type, "TEXT")


def _select(table: SnapshotTable, columns: list[ShopColumn]) -> str:
    selected = ", ".join(f"{column.select} AS {_quoted(column.kept_as)}" for column in columns)
    where = f" WHERE {table.where}" if table.where else ""
    return f"SELECT {selected} FROM shop.{_quoted(table.source)} AS t{where}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
