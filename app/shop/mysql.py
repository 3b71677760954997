"""The shop's MySQL or MariaDB: describes its tables and reads all of them as of one instant.

One connection locks the tables against writers for the moment in which every reading connection opens its snapshot.
Without the right to lock, each table is still consistent in itself, and the snapshot reports that.
"""

import ssl
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import DictCursor

from app.core.errors import NoTableError, ShopError
from app.core.service_url import ServiceUrl
from app.rules.snapshot_plan import SnapshotTable
from app.shop.columns import ShopColumn, mysql_column, require_planned
from app.shop.reading import ONE_INSTANT, ReaderProcess, Reading, ShopReading

_CONNECT_LIMIT_S = 5
_ANSWER_LIMIT_S = 30  # of a server that has gone silent, or of a table that is being altered
_LOCK_TRIES, _LOCK_WAIT_S, _LOCK_PAUSE_S = 4, 1, 0.5  # while it is waited for, writers may have to wait, too
_OPEN_LIMIT_S = 3  # longest time that writers are held; measured: 10 to 90 ms
_LOST_AFTER_S = 30  # the server ends the lock of a client that it no longer hears
_BATCH_BYTES = 32 * 1024**2  # of all tables together; more than 2 GiB of text in a batch is a panic of the reader
_BATCH_ROWS = 8192  # more are no faster
_UNKNOWN_ROW_BYTES = 64 * 1024
_TRANSACTIONAL = {"InnoDB", "MyRocks", "ROCKSDB"}
_ACCESS_DENIED = {1044, 1142, 1227}  # for the database, the table, the privilege
_LOCK_TIMEOUT = 1205
_CONNECTION_LOST = {2003, 2006, 2013}
_CONNECTIONS_BESIDE = 2  # those that count and lock
_LOGIN_REFUSED = 1045
_BY_ITSELF = "each table by itself, not all at one instant: "
_OPEN_SNAPSHOT = "START TRANSACTION WITH CONSISTENT SNAPSHOT"


class MySQLShop:
    """A connection to the shop's database that describes its tables and has them read."""

    def __init__(self, url: ServiceUrl, *, max_replica_lag_s: int) -> None:
        self._is_encrypted = url.is_secure
        self._ssl_mode = url.option("ssl-mode", "disabled")
        self._ssl_ca = url.file_option("ssl-ca", variable="CARAT_SHOP_DB") or ""
        self.host, self.port, self.database = url.host, url.port, url.database
        self.user, self.password = url.user, url.password.get_secret_value()
        self._address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        self.name = f"mysql://{self._address}/{self.database}"
        self._control = self.connect()
        try:
            self._is_mariadb = "mariadb" in str(self._rows("SELECT VERSION() AS version")[0]["version"]).lower()
            self._require_fresh(max_replica_lag_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        _close(self._control)

    def connect(self, *, answer_limit_s: float | None = None) -> Connection:
        """One more connection; ShopError says at once why there is none."""
        try:
            return pymysql.connect(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password.encode(),  # of text, pymysql would take the Latin-1 bytes
                database=self.database,
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=_CONNECT_LIMIT_S,
                read_timeout=answer_limit_s or _ANSWER_LIMIT_S,
                ssl=self._ssl_context(),
                ssl_disabled=not self._is_encrypted,  # else it would prefer TLS, and the reader would not
            )
        except (pymysql.Error, OSError) as error:
            is_refused = _code(error) == _LOGIN_REFUSED and not self._is_encrypted
            also = ", and whether the server demands TLS (?ssl-mode=required)" if is_refused else ""
            raise ShopError(f"{self.name}: {_message(error)}. Check CARAT_SHOP_DB{also}; nothing was changed") from None

    def describe(self, table: SnapshotTable) -> list[ShopColumn]:
        """The kept columns of a table, in its order; ShopError if it is not what the plan says."""
        try:
            rows = _run(
                self._control,
                "SELECT COLUMN_NAME AS name, DATA_TYPE AS data_type, COLUMN_TYPE AS column_type, "
                "NUMERIC_PRECISION AS digits, NUMERIC_SCALE AS scale FROM information_schema.columns "
                "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
                table.source,
            )
            columns = [
                mysql_column(row["name"], row["data_type"], row["column_type"], row["digits"], row["scale"])
                for row in rows
                if table.keeps(row["name"])
            ]
            require_planned(table, [row["name"] for row in rows])
            if columns:  # what the plan says in SQL, and the right to read, are checked before anybody is held up
                _run(self._control, f"SELECT 1 FROM ({_select(table, columns)} LIMIT 0) AS t")
        except pymysql.Error as error:
            raise ShopError(f"{self.name}, {table.source}: {_message(error)}") from None
        if not rows:
            raise NoTableError(f"{self.name} has no table {table.source} that {self.user} may read")
        return columns

    @contextmanager
    def reading(
        self, tables: dict[SnapshotTable, list[ShopColumn]], folder: Path, *, limit_s: float
    ) -> Iterator[ShopReading]:
        """The tables as they were at one instant, while they are being read."""
        layout = {
            row["name"]: row
            for row in self._rows(
                "SELECT TABLE_NAME AS name, ENGINE AS engine, AVG_ROW_LENGTH AS row_bytes "
                "FROM information_schema.tables WHERE TABLE_SCHEMA = DATABASE()"
            )
        }
        apart = self.why_apart(len(tables))
        # Locks of a name, held by each reading connection: they tell when it has its snapshot, and which one it is.
        run_id = f"carat-{uuid.uuid4().hex[:12]}"
        signs = {table.name: f"{run_id}-{number}" for number, table in enumerate(tables)}
        settings = self._session_settings(limit_s)
        readings = []
        for table, columns in tables.items():
            order_by = ", ".join(next(c.order_by for c in columns if c.name == key) for key in table.key)
            row_bytes = int(layout.get(table.source, {}).get("row_bytes") or _UNKNOWN_ROW_BYTES)
            readings.append(
                Reading(
                    table.name,
                    f"{_select(table, columns)} ORDER BY {order_by}",
                    folder / f"{table.name}.arrow",
                    batch_rows=max(1, min(_BATCH_ROWS, _BATCH_BYTES // len(tables) // row_bytes)),
                    before=(*settings, _OPEN_SNAPSHOT, *([] if apart else [f"DO GET_LOCK('{signs[table.name]}', 0)"])),
                )
            )
        reader = ReaderProcess(self._reader_url(), readings, limit_s=limit_s)
        if apart:
            with reader.started():
                reader.go()
                yield ShopReading(reader, _guarantees(tables, layout, _BY_ITSELF + apart))
            return
        try:
            with (
                _closing(self.connect(answer_limit_s=limit_s + _ANSWER_LIMIT_S)) as counter,
                reader.started(),
                ThreadPoolExecutor(1) as beside,
                self._nothing_left((run_id, *signs.values())),
            ):
                for statement in (*settings, f"DO GET_LOCK('{run_id}', 0)"):
                    _run(counter, statement)
                with self._lock(tables) as (lock, unlocked):
                    began = time.monotonic()
                    _run(counter, _OPEN_SNAPSHOT)
                    reader.go()
                    unguarded = unlocked or _wait_until_open(reader, lock, signs)
                held_ms = (time.monotonic() - began) * 1000
                guarantee = unguarded or f"{ONE_INSTANT} (writers were held for {held_ms:.0f} ms)"
                guarantees = _guarantees(tables, layout, guarantee)
                counts = {
                    table.name: beside.submit(self._count, counter, table, began + limit_s).result
                    for table in tables
                    if guarantees[table.name].startswith(ONE_INSTANT)
                }
                beside.submit(_close, counter)
                yield ShopReading(reader, guarantees, counts)
        except pymysql.Error as error:
            raise ShopError(f"{self.name}: {_message(error)}; nothing was changed") from None

    def why_apart(self, tables: int) -> str:
        """Why so many tables cannot be read at one instant; empty if nothing is known to prevent it.

        That needs locks of a name, which clusters such as Percona XtraDB and proxies refuse, and more connections than
        a user may be allowed.
        """
        name = f"carat-{uuid.uuid4().hex[:12]}"
        for statement in (f"DO GET_LOCK('{name}', 0)", f"DO RELEASE_LOCK('{name}')"):
            try:
                _run(self._control, statement)
            except (pymysql.OperationalError, pymysql.InterfaceError) as error:
                if _code(error) in _CONNECTION_LOST:
                    raise ShopError(f"{self.name}: {_message(error)}; nothing was changed") from None
                return _message(error)
            except pymysql.Error as error:
                return _message(error)
        with suppress(pymysql.Error):  # who may not ask has no limit of its own
            asked = _run(
                self._control,
                "SELECT @@max_user_connections AS allowed, (SELECT COUNT(*) FROM information_schema.processlist "
                "WHERE USER = SUBSTRING_INDEX(USER(), '@', 1)) AS used",
            )[0]
            allowed, needed = int(asked["allowed"]), int(asked["used"]) + tables + _CONNECTIONS_BESIDE
            if 0 < allowed < needed:
                return (
                    f"{self.user} may have {allowed} connections (MAX_USER_CONNECTIONS), {needed} are needed to read "
                    f"{tables} tables at once"
                )
        return ""

    def _count(self, counter: Connection, table: SnapshotTable, ends_at: float) -> int:
        """Rows of a table at the instant of the counter's snapshot: what is read must be as many."""
        try:
            _run(counter, self._time_limit(max(ends_at - time.monotonic(), 1)))
            found = _run(counter, f"SELECT COUNT(*) AS n FROM {_quoted(table.source)} AS t{_where(table)}")
        except pymysql.Error as error:
            raise ShopError(f"could not be counted, which says whether it was read whole: {_message(error)}") from None
        return int(found[0]["n"])

    # ---- the one instant -----------------------------------------------------------------------------------------

    @contextmanager
    def _lock(self, tables: Iterable[SnapshotTable]) -> Iterator[tuple[Connection, str]]:
        """Hold writers of the tables; yields the connection that does, or why not where that is not to be had."""
        with _closing(self.connect()) as connection:  # to close it is to unlock, whatever becomes of this process
            # Should this machine vanish, the server shall not hold the lock for the hours that it waits by default.
            _run(connection, f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_S}, wait_timeout = {_LOST_AFTER_S}")
            yield connection, self._why_unlocked(connection, dict.fromkeys(table.source for table in tables))
            with suppress(pymysql.Error):
                _run(connection, "UNLOCK TABLES")

    def _why_unlocked(self, connection: Connection, sources: Iterable[str]) -> str:
        """Lock the tables against writers; why that is not possible, if so."""
        why = ""
        # The second holds writers of all databases, and is for those who may not do the first.
        for statement in (
            f"LOCK TABLES {', '.join(f'{_quoted(source)} READ' for source in sources)}",
            "FLUSH TABLES WITH READ LOCK",
        ):
            error = _tried(connection, statement)
            if error is None:
                return ""
            if _code(error) not in _ACCESS_DENIED:
                is_busy = _code(error) == _LOCK_TIMEOUT
                why = f"transactions held them in {_LOCK_TRIES} tries to lock them" if is_busy else _message(error)
                break
            why = f"{self.user} may not lock them; GRANT LOCK TABLES ON {_quoted(self.database)}.* TO {self.user}"
        return _BY_ITSELF + why

    @contextmanager
    def _nothing_left(self, signs: Iterable[str]) -> Iterator[None]:
        """End what the server still does for us: it would not notice that nobody waits for it."""
        try:
            yield
        finally:
            asked = ", ".join(f"IS_USED_LOCK('{sign}')" for sign in signs)
            with suppress(ShopError, pymysql.Error), _closing(self.connect()) as connection:
                for connection_id in _run(connection, f"SELECT {asked}")[0].values():
                    if connection_id is not None:
                        with suppress(pymysql.Error):  # it may have ended by now
                            _run(connection, f"KILL {connection_id}")

    # ---- the connection ------------------------------------------------------------------------------------------

    def _session_settings(self, limit_s: float) -> tuple[str, ...]:
        return (
            "SET time_zone = '+00:00'",
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SET max_sort_length = 4096",  # a key can have 3072 bytes; more than 1024 are left unsorted otherwise
            self._time_limit(limit_s + 1),
        )

    def _time_limit(self, limit_s: float) -> str:
        """Of a statement."""
        if self._is_mariadb:
            return f"SET max_statement_time = {limit_s:.3f}"
        return f"SET max_execution_time = {limit_s * 1000:.0f}"

    def _require_fresh(self, max_lag_s: int) -> None:
        """Raise ShopError where this is a replica that says it is behind, or that it stopped following."""
        status: list[dict[str, Any]] = []
        for statement in ("SHOW ALL SLAVES STATUS", "SHOW REPLICA STATUS", "SHOW SLAVE STATUS"):
            try:  # MariaDB, MySQL, older MySQL
                status = self._rows(statement)
                break
            except ShopError:  # not this server, or a user who may not ask
                continue
        for row in status:
            lag = next((row[name] for name in ("Seconds_Behind_Source", "Seconds_Behind_Master") if name in row), 0)
            if lag is None:
                raise ShopError(
                    f"{self.name} is a replica that has stopped following its source: start it again (or, where it is "
                    "none any more, RESET REPLICA ALL), or read the source; nothing was changed"
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
        return f"mysql://{login}@{self._address}/{quote(self.database, safe='')}?{query}"

    def _ssl_context(self) -> ssl.SSLContext | None:
        if not self._is_encrypted:
            return None
        context = ssl.create_default_context(cafile=self._ssl_ca or None)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # which the certificates that MySQL makes itself do not stand
        context.check_hostname = self._ssl_mode == "verify_identity"
        if self._ssl_mode == "required":
            context.verify_mode = ssl.CERT_NONE
        return context

    def _rows(self, sql: str, *values: str) -> list[dict[str, Any]]:
        try:
            return _run(self._control, sql, *values)
        except pymysql.Error as error:
            raise ShopError(f"{self.name}: {_message(error)}") from None


def _guarantees(
    tables: Iterable[SnapshotTable], layout: Mapping[str, Mapping[str, Any]], guarantee: str
) -> dict[str, str]:
    """What is guaranteed of each table: less where its engine has no transactions."""
    guarantees = {}
    for table in tables:
        engine = layout.get(table.source, {}).get("engine")
        guarantees[table.name] = guarantee
        if engine and engine not in _TRANSACTIONAL:
            guarantees[table.name] = (
                f"none: {table.source} is {engine}, what was written while it was read may be missing or "
                f"not; ALTER TABLE {table.source} ENGINE = InnoDB"
            )
    return guarantees


def _wait_until_open(reader: ReaderProcess, lock: Connection, signs: dict[str, str]) -> str:
    """Wait until every reading connection has its snapshot; why they are not of one instant, if so."""
    gives_up_at = time.monotonic() + _OPEN_LIMIT_S
    while True:
        reader.poll(0.002)
        waiting = [table for table in signs if not reader.read.has_begun(table)]
        asked = ", ".join(f"IS_USED_LOCK('{signs[table]}') AS {_quoted(table)}" for table in waiting)
        try:  # by the connection that locks: that it answers says that the tables are locked still
            holders = _run(lock, f"SELECT {asked or 1}")[0]
        except pymysql.Error as error:
            return f"{_BY_ITSELF}the lock was lost ({_message(error)})"
        waiting = [table for table in waiting if holders[table] is None]
        if not waiting:
            return ""
        if time.monotonic() > gives_up_at:
            return f"{_BY_ITSELF}{', '.join(waiting)} could not be opened within {_OPEN_LIMIT_S} s"


def _tried(connection: Connection, lock: str) -> pymysql.Error | None:
    """Lock; the error if that is not possible, in any of some tries if transactions hold a table."""
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            _run(connection, lock)
        except pymysql.Error as error:
            if _code(error) != _LOCK_TIMEOUT or not tries_left:
                return error
            time.sleep(_LOCK_PAUSE_S)
        else:
            return None
    return None


def _close(connection: Connection) -> None:
    with suppress(pymysql.Error):  # it is closed already
        connection.close()


@contextmanager
def _closing(connection: Connection) -> Iterator[Connection]:
    try:
        yield connection
    finally:
        _close(connection)


def _run(connection: Connection, sql: str, *values: str) -> list[dict[str, Any]]:
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(sql, values or None)
        return list(cursor.fetchall())


def _select(table: SnapshotTable, columns: list[ShopColumn]) -> str:
    selected = ", ".join(f"{column.select} AS {_quoted(column.kept_as)}" for column in columns)
    return f"SELECT {selected} FROM {_quoted(table.source)} AS t{_where(table)}"


def _where(table: SnapshotTable) -> str:
    return f" WHERE ({table.where}\n)" if table.where else ""  # a comment at its end ends there


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _code(error: Exception) -> Any:
    return error.args[0] if error.args else None


def _message(error: Exception) -> str:
    """What the server said, without its number."""
    text = str(error.args[1] if len(error.args) > 1 else error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")
