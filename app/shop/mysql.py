"""The shop's MySQL or MariaDB: what its tables look like, and all of them read as they were at one instant.

A control connection locks the tables against writers for the moment in which every reading connection opens its
snapshot. A user who may not lock gets snapshots that are each consistent in themselves, and is told so.
"""

import ssl
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import DictCursor

from app.errors import SettingsError, ShopError
from app.shop.columns import ShopColumn, mysql_column
from app.shop.reading import ReaderProcess, Reading, ShopReading
from app.snapshot_plan import SnapshotTable

_CONNECT_TIMEOUT_S = 5
_LOCK_WAIT_S = 5  # for transactions that hold a table; and longest time that writers are held
_BATCH_BYTES = 32 * 1024**2  # more than 2 GiB of text in a batch is a panic of the reader
_BATCH_ROWS = 65_536
_TRANSACTIONAL = {"InnoDB", "MyRocks", "ROCKSDB"}
_SSL_MODES = ("disabled", "required", "verify_ca", "verify_identity")
_ACCESS_DENIED = {1044, 1142, 1227}  # for the database, the table, the privilege
_NOT_THERE = 1146
_LOCK_TIMEOUT = 1205


class MySQLShop:
    """A connection to the shop's database that describes its tables and has them read."""

    def __init__(self, url: str, *, max_replica_lag_s: int) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        if unknown := options.keys() - {"ssl-mode", "ssl-ca"}:
            raise SettingsError(f"CARAT_SHOP_DB: unknown option {min(unknown)}; there are ssl-mode and ssl-ca")
        self._ssl_mode = options.get("ssl-mode", "disabled").lower().replace("-", "_")
        self._ssl_ca = options.get("ssl-ca", "")
        if self._ssl_mode not in _SSL_MODES:
            raise SettingsError(f"CARAT_SHOP_DB: ssl-mode={self._ssl_mode}: choose from {', '.join(_SSL_MODES)}")
        if self._ssl_mode.startswith("verify") and not Path(self._ssl_ca).is_file():
            raise SettingsError(f"CARAT_SHOP_DB: ssl-mode={self._ssl_mode} needs ssl-ca=, the file of the authority")
        self.host = parts.hostname or "localhost"
        self.port = parts.port or 3306
        self.user, self.password = unquote(parts.username or "root"), unquote(parts.password or "")
        self.database = unquote(parts.path.lstrip("/"))
        self.name = f"mysql://{self.host}:{self.port}/{self.database}"
        self._control = self.connect()
        try:
            self._is_mariadb = "mariadb" in str(self._value("SELECT VERSION()")).lower()
            self._require_fresh(max_replica_lag_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with suppress(pymysql.Error):
            self._control.close()

    def connect(self) -> Connection:
        """One more connection; ShopError says at once why there is none."""
        try:
            return pymysql.connect(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password,
                database=self.database,
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=_CONNECT_TIMEOUT_S,
                ssl=self._ssl_context(),
            )
        except (pymysql.Error, OSError) as error:
            raise ShopError(f"{self.name}: {_message(error)}. Check CARAT_SHOP_DB; nothing was changed") from None

    def describe(self, table: SnapshotTable) -> list[ShopColumn]:
        """The kept columns of a table, in its order; ShopError if it is not what the plan says."""
        rows = self._rows(
            "SELECT COLUMN_NAME AS name, DATA_TYPE AS data_type, COLUMN_TYPE AS column_type, "
            "NUMERIC_PRECISION AS digits, NUMERIC_SCALE AS scale FROM information_schema.columns "
            "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
            table.source,
        )
        if not rows:
            raise ShopError(f"{self.name} has no table {table.source} that {self.user} may read")
        columns = [
            mysql_column(row["name"], row["data_type"], row["column_type"], row["digits"], row["scale"])
            for row in rows
            if table.keeps(row["name"])
        ]
        try:  # what the plan says in SQL, and the right to read, are checked before anybody is held up
            self._rows(f"SELECT 1 FROM ({_select(table, columns)} LIMIT 0) AS t")
        except ShopError as error:
            raise ShopError(f"{self.name}, {table.source}: {error}") from None
        return columns

    @contextmanager
    def reading(
        self, tables: dict[SnapshotTable, list[ShopColumn]], folder: Path, *, limit_s: float
    ) -> Iterator[ShopReading]:
        """The tables as they were at one instant, while they are being read."""
        locks = {table.name: f"carat-{uuid.uuid4().hex[:12]}-{number}" for number, table in enumerate(tables)}
        layout = {
            row["name"]: row
            for row in self._rows(
                "SELECT TABLE_NAME AS name, ENGINE AS engine, AVG_ROW_LENGTH AS row_bytes "
                "FROM information_schema.tables WHERE TABLE_SCHEMA = DATABASE()"
            )
        }
        readings = []
        for table, columns in tables.items():
            order_by = ", ".join(next(c.order_by for c in columns if c.name == key) for key in table.key)
            row_bytes = int(layout.get(table.source, {}).get("row_bytes") or 1)
            readings.append(
                Reading(
                    table.name,
                    f"{_select(table, columns)} ORDER BY {order_by}",
                    folder / f"{table.name}.arrow",
                    batch_rows=max(100, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1))),
                    before=(*self._session(limit_s), f"DO GET_LOCK('{locks[table.name]}', 0)"),
                )
            )
        reader = ReaderProcess(self._reader_url(), readings, limit_s=limit_s)
        with closing(self.connect()) as counter, reader.started(), ThreadPoolExecutor(1) as beside:
            with self._lock(list(tables)) as unlocked:
                _run(counter, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
                reader.go()
                began = time.monotonic()
                unguarded = unlocked or self._wait_until_open(reader, locks)
                held_ms = (time.monotonic() - began) * 1000
            guarantee = unguarded or f"one instant for all tables (writers were held for {held_ms:.0f} ms)"
            guarantees = dict.fromkeys(locks, guarantee)
            for table in tables:
                engine = layout.get(table.source, {}).get("engine")
                if engine and engine not in _TRANSACTIONAL:
                    guarantees[table.name] = f"none: {table.source} is {engine}, written while it was read"
            counted = [table for table in tables if not unguarded and not guarantees[table.name].startswith("none")]
            yield ShopReading(reader, guarantees, beside.submit(_counts, counter, counted))

    # ---- the one instant -----------------------------------------------------------------------------------------

    @contextmanager
    def _lock(self, tables: Sequence[SnapshotTable]) -> Iterator[str]:
        """Hold writers of the tables; yields why not, where that is not to be had."""
        names = ", ".join(f"{_quoted(source)} READ" for source in dict.fromkeys(table.source for table in tables))
        unguarded = ""
        self._execute(f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_S}")
        for statement in (f"LOCK TABLES {names}", "FLUSH TABLES WITH READ LOCK"):
            try:
                self._execute(statement)
                unguarded = ""
                break
            except pymysql.Error as error:
                unguarded = f"each table by itself, not all at one instant: {_why_unlocked(error, self.user)}"
                if error.args and error.args[0] not in _ACCESS_DENIED:
                    break
        try:
            yield unguarded
        finally:
            with suppress(pymysql.Error):
                self._execute("UNLOCK TABLES")

    def _wait_until_open(self, reader: ReaderProcess, locks: dict[str, str]) -> str:
        """Wait until every reading connection has its snapshot; why not, if that took too long."""
        deadline = time.monotonic() + _LOCK_WAIT_S
        waiting = dict(locks)
        while waiting and time.monotonic() < deadline:
            reader.poll(0.002)
            for table, lock in list(waiting.items()):
                is_open = table in reader.read.batches or reader.read.has_ended(table)
                if is_open or self._value(f"SELECT IS_USED_LOCK('{lock}')") is not None:
                    del waiting[table]
        if waiting:
            return f"each table by itself: {', '.join(waiting)} could not be opened within {_LOCK_WAIT_S} s"
        return ""

    def _session(self, limit_s: float) -> tuple[str, ...]:
        limit = (
            f"SET max_statement_time = {limit_s:.0f}"
            if self._is_mariadb
            else f"SET max_execution_time = {limit_s * 1000:.0f}"
        )
        return (
            "SET time_zone = '+00:00'",
            limit,
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT",
        )

    # ---- the connection ------------------------------------------------------------------------------------------

    def _require_fresh(self, max_lag_s: int) -> None:
        """Raise ShopError where this is a replica that says it is behind, or that it stopped following."""
        status: list[dict[str, Any]] = []
        for statement in ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS"):
            try:
                status = self._rows(statement)
                break
            except ShopError:  # an older server, or a user who may not ask
                continue
        for row in status:
            lag = next((row[name] for name in ("Seconds_Behind_Source", "Seconds_Behind_Master") if name in row), 0)
            if lag is None:
                raise ShopError(
                    f"{self.name} is a replica that has stopped following its source: start it again, or read the "
                    "source; nothing was changed"
                )
            if int(lag) > max_lag_s:
                raise ShopError(
                    f"{self.name} is a replica {lag} s behind its source (limit {max_lag_s} s, "
                    "CARAT_MAX_REPLICA_LAG_S): try again later; nothing was changed"
                )

    def _reader_url(self) -> str:
        query = f"prefer_socket=false&ssl-mode={self._ssl_mode.upper()}"
        if self._ssl_mode.startswith("verify"):
            query += f"&ssl-ca={quote(str(Path(self._ssl_ca).resolve()))}"
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"mysql://{login}@{self.host}:{self.port}/{quote(self.database, safe='')}?{query}"

    def _ssl_context(self) -> ssl.SSLContext | None:
        if self._ssl_mode == "disabled":
            return None
        context = ssl.create_default_context(cafile=self._ssl_ca or None)
        context.check_hostname = self._ssl_mode == "verify_identity"
        if self._ssl_mode == "required":
            context.verify_mode = ssl.CERT_NONE
        return context

    def _rows(self, sql: str, *values: str) -> list[dict[str, Any]]:
        try:
            return _run(self._control, sql, *values)
        except pymysql.Error as error:
            raise ShopError(_message(error)) from None

    def _execute(self, sql: str) -> None:
        _run(self._control, sql)

    def _value(self, sql: str) -> Any:
        return next(iter(self._rows(sql)[0].values()))


def _run(connection: Connection, sql: str, *values: str) -> list[dict[str, Any]]:
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(sql, values or None)
        return list(cursor.fetchall())


def _counts(counter: Connection, tables: list[SnapshotTable]) -> dict[str, int]:
    """Rows of each table at that same instant: what is read must be as many."""
    counts = {}
    for table in tables:
        where = f" WHERE {table.where}" if table.where else ""
        with suppress(pymysql.Error):  # the reading itself says better what is wrong
            found = _run(counter, f"SELECT COUNT(*) AS n FROM {_quoted(table.source)} AS t{where}")
            counts[table.name] = int(found[0]["n"])
    return counts


def _select(table: SnapshotTable, columns: list[ShopColumn]) -> str:
    selected = ", ".join(f"{column.select} AS {_quoted(column.kept_as)}" for column in columns)
    where = f" WHERE {table.where}" if table.where else ""
    return f"SELECT {selected} FROM {_quoted(table.source)} AS t{where}"


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _message(error: Exception) -> str:
    """What the server said, without its number."""
    text = str(error.args[1] if len(error.args) > 1 else error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _why_unlocked(error: pymysql.Error, user: str) -> str:
    code = error.args[0] if error.args else 0
    if code in _ACCESS_DENIED:
        return f"{user} may not lock; GRANT LOCK TABLES ON the database TO it"
    if code == _LOCK_TIMEOUT:
        return f"a transaction held a table for more than {_LOCK_WAIT_S} s"
    return _message(error)
