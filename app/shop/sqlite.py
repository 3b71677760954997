"""A shop in an SQLite file, like the demo's: copies its tables in one transaction and reads the copy.

One transaction is one instant for all tables. Each of the copy's columns holds values of one type: SQLite itself
accepts any value in any column.
"""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from app.core.errors import NoTableError, ShopError
from app.rules.snapshot_plan import SnapshotTable
from app.shop.columns import ShopColumn, require_planned, sqlite_column
from app.shop.reading import ONE_INSTANT, ShopReading

_BATCH_BYTES = 16 * 1024**2
_BATCH_ROWS = 8192
_WAIT_FOR_WRITERS_S = 10
_STORED_AS = {"Int64": "INTEGER", "Float64": "REAL"}
_ARROW_TYPES = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.large_string(), "BLOB": pa.large_binary()}
_REFUSED = "CHECK constraint failed: "
_MODES_OF_WRITING = slice(18, 20)  # offsets in the file's header
_WRITE_AHEAD = b"\x02\x02"


class SQLiteShop:
    """A shop in an SQLite file, which is only read: never written, never created."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self.name = f"sqlite://{self._path}"
        if not self._path.is_file():
            raise ShopError(f"{self.name}: no such file. Check CARAT_SHOP_DB; nothing was changed")
        # Opened in memory: the shop is attached read-only; the copy is the only file that is written.
        self._connection = sqlite3.connect("file::memory:", uri=True, isolation_level=None, timeout=_WAIT_FOR_WRITERS_S)
        self._connection.create_function("decimal_of", 2, _decimal_of, deterministic=True)
        try:
            self._at_rest = self._state() if self._write_ahead_log_is_gone() else None
            mode = "immutable=1" if self._at_rest else "mode=ro"
            self._connection.execute("ATTACH DATABASE ? AS shop", (f"file:{quote(str(self._path))}?{mode}",))
            self._connection.execute("SELECT count(*) FROM shop.sqlite_master")
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise ShopError(f"{self.name}: {self._problem(error)}. Check CARAT_SHOP_DB; nothing was changed") from None

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    def describe(self, table: SnapshotTable) -> list[ShopColumn]:
        """The kept columns of a table, in its order; ShopError if it is not what the plan says."""
        try:
            rows = self._connection.execute(f"PRAGMA shop.table_xinfo({_quoted(table.source)})").fetchall()
            columns = [
                sqlite_column(name, declared)
                for _, name, declared, *_, hidden in rows
                if hidden != 1 and table.keeps(name)
            ]
            if not rows:
                raise NoTableError(f"{self.name} has no table {table.source}")
            require_planned(table, [name for _, name, *_, hidden in rows if hidden != 1])
            if columns:
                self._connection.execute(f"{_select(table, columns)} LIMIT 0")
        except sqlite3.Error as error:
            raise ShopError(f"{self.name}, {table.source}: {error}") from None
        return columns

    def why_apart(self, tables: int) -> str:  # noqa: ARG002  one transaction is one instant
        """Why so many tables cannot be read at one instant: they can."""
        return ""

    @contextmanager
    def reading(
        self, tables: dict[SnapshotTable, list[ShopColumn]], folder: Path, *, limit_s: float
    ) -> Iterator[ShopReading]:
        """The tables as they were at one instant, while they are being read."""
        copy = folder / "shop.sqlite"
        ends_at = time.monotonic() + limit_s
        self._connection.set_progress_handler(lambda: time.monotonic() > ends_at, 100_000)
        try:
            rows, errors = self._copy(tables, copy)
        except sqlite3.Error as error:
            raise ShopError(f"{self.name}: {self._problem(error, limit_s)}; nothing was changed") from None
        finally:
            self._connection.set_progress_handler(None, 0)
        # The copy is a local file that nobody else has open, so reading it needs no time limit.
        with closing(sqlite3.connect(f"file:{quote(str(copy))}?mode=ro", uri=True)) as connection:
            connection.text_factory = bytes  # Arrow takes it as it is, and checks that it is UTF-8
            yield ShopReading(
                _CopyReader(connection, rows, copy.stat().st_size),
                dict.fromkeys((table.name for table in tables), ONE_INSTANT),
                {name: partial(int, count) for name, count in rows.items()},
                errors,
            )

    def _copy(self, tables: dict[SnapshotTable, list[ShopColumn]], path: Path) -> tuple[dict[str, int], dict[str, str]]:
        """Copy the tables to a file; returns the rows of those that were copied, and why the others were not."""
        run = self._connection.execute
        rows, errors = dict[str, int](), dict[str, str]()
        run("ATTACH DATABASE ? AS copy", (f"file:{quote(str(path))}?mode=rwc",))
        try:
            run("PRAGMA copy.journal_mode = OFF")
            run("PRAGMA copy.synchronous = OFF")
            run("BEGIN")
            run("SELECT count(*) FROM shop.sqlite_master")  # from here on, reads see one instant
            for table, columns in tables.items():
                order_by = ", ".join(next(c.order_by for c in columns if c.name == key) for key in table.key)
                run(f"CREATE TABLE copy.{_quoted(table.name)} ({', '.join(map(_stored, columns))})")
                try:  # FAIL, because nothing can be rolled back without a journal
                    copied = run(
                        f"INSERT OR FAIL INTO copy.{_quoted(table.name)} {_select(table, columns)} ORDER BY {order_by}"
                    )
                    rows[table.name] = copied.rowcount
                except sqlite3.IntegrityError as error:
                    errors[table.name] = str(error).removeprefix(_REFUSED)
            run("COMMIT")
            if self._at_rest and not (self._write_ahead_log_is_gone() and self._state() == self._at_rest):
                raise sqlite3.OperationalError("written to while it was read; try again")
        finally:
            if self._connection.in_transaction:
                run("ROLLBACK")
            run("DETACH DATABASE copy")
        return rows, errors

    def _write_ahead_log_is_gone(self) -> bool:
        """Whether this is a file in WAL mode that nobody has open.

        It is read as immutable, and checked afterwards: otherwise SQLite would create files next to it and leave them.
        """
        with self._path.open("rb") as file:
            modes = file.read(_MODES_OF_WRITING.stop)[_MODES_OF_WRITING]
        return modes == _WRITE_AHEAD and not self._sibling("-wal").exists()

    def _state(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size

    def _sibling(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending)

    def _problem(self, error: Exception, limit_s: float = 0) -> str:
        text = str(error)
        if text == "interrupted":
            return f"not read within {limit_s:g} s (CARAT_SNAPSHOT_TIMEOUT_S)"
        if "readonly database" in text and self._sibling("-journal").exists():
            return "whoever wrote to it died in the middle; open it once with the shop, which puts it in order"
        return text


class _CopyReader:
    """Reads tables of the copy; `rows` is the number of rows of each, `size` the bytes of all."""

    def __init__(self, connection: sqlite3.Connection, rows: dict[str, int], size: int) -> None:
        self._connection = connection
        self._rows = rows
        self._size = size

    def follow(self, table: str) -> Iterator[pa.RecordBatch]:
        """The batches of a table in the order in which it was copied; ShopError if it cannot be read."""
        batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * self._rows[table] // self._size))
        try:
            declared = self._connection.execute(f"PRAGMA table_info({_quoted(table)})").fetchall()
            schema = pa.schema([(name.decode(), _ARROW_TYPES[type_.decode()]) for _, name, type_, *_ in declared])
            cursor = self._connection.execute(f"SELECT * FROM {_quoted(table)}")
            while rows := cursor.fetchmany(batch_rows):
                columns = zip(schema, zip(*rows, strict=True), strict=True)
                yield pa.record_batch([_array(field, values) for field, values in columns], schema=schema)
        except sqlite3.Error as error:
            raise ShopError(f"could not be read whole: {error}") from None


def _array(field: pa.Field, values: tuple[Any, ...]) -> pa.Array:
    try:
        return pa.array(values, field.type)
    except pa.ArrowInvalid:  # all else was checked when the value was copied
        raise ShopError(
            f"could not be read whole: {field.name} holds text that is not UTF-8: fix it there, or exclude the column"
        ) from None


def _decimal_of(value: Any, scale: int) -> Any:
    """The decimal that a double stands for, as text; bytes, which its column rejects, if it has more digits."""
    if not isinstance(value, float):
        return value
    text = f"{Decimal(repr(value)):.{scale}f}"
    return text if math.isclose(float(text), value, rel_tol=1e-14, abs_tol=10.0 ** -(scale + 9)) else b""


def _stored(column: ShopColumn) -> str:
    """The declaration of the copy's column, which accepts only values of its type."""
    name = _quoted(column.kept_as)
    type_ = "BLOB" if column.holds_bytes else _STORED_AS.get(column.type, "TEXT")
    problem = f"{column.name} ({column.declared}) holds a value of another type: fix it there, or exclude the column"
    return f"{name} {type_} CONSTRAINT {_quoted(problem)} CHECK (typeof({name}) IN ('{type_.lower()}', 'null'))"


def _select(table: SnapshotTable, columns: list[ShopColumn]) -> str:
    selected = ", ".join(f"{column.select} AS {_quoted(column.kept_as)}" for column in columns)
    where = f" WHERE ({table.where}\n)" if table.where else ""  # the line break ends a comment
    return f"SELECT {selected} FROM shop.{_quoted(table.source)} AS t{where}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
