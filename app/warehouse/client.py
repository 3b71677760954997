"""The connection to either engine, with data in Arrow both ways.

`chdb://path` runs the engine in this process, `clickhouse://…` speaks HTTP to a server.
"""

import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import polars as pl
import pyarrow as pa
from polars.datatypes import DataType

from app.contracts import DATABASES, MONEY, Column, Table
from app.core.disk import free_bytes
from app.core.errors import SettingsError, WarehouseError, WarehouseGoneError
from app.core.service_url import ServiceUrl
from app.core.sql import quote
from app.warehouse.advice import how_to_fix
from app.warehouse.engine_settings import pin_embedded, pin_server

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

QUERY_TIMEOUT_S = 3600  # the longest that a statement may take
_WRITTEN_IDS = 2000
_NEEDED_FREE_BYTES = 64 * 1024**2
# Tables travel with their buffers compressed: product_sessions shrinks more than tenfold.
_IPC_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")
_COUNTS = frozenset({"UInt8", "UInt16", "UInt32", "UInt64", MONEY})


class Warehouse:
    """A connection to one ClickHouse engine, embedded or served."""

    def __init__(
        self, connect: "Callable[[], Client]", *, url: str, secret: str = "", user: str = "", is_direct: bool = True
    ) -> None:
        self._connect = connect
        self._secret = secret
        self.user = user  # of a server
        self.is_direct = is_direct  # false where another process of this user holds the engine and answers
        self._guard: Callable[[Warehouse], None] = lambda _: None
        self.url = url
        self.is_embedded = url.startswith("chdb://")
        with self._readable_errors():
            self._client = connect()

    @property
    def nodes(self) -> "tuple[Warehouse, ...]":
        """The servers over which visitors and their rows are spread: of a cluster one a shard, else this one alone."""
        return (self,)

    @property
    def peers(self) -> "tuple[Warehouse, ...]":
        """All nodes of the cluster to which this one belongs."""
        return self.nodes

    @property
    def prefix(self) -> str:
        """What a line about this server begins with where there are several."""
        return ""

    @property
    def is_cluster(self) -> bool:
        """Whether `nodes` are the shards of a cluster."""
        return False

    @property
    def is_node(self) -> bool:
        """Whether this is a single shard of a cluster."""
        return False

    def other_replicas(self) -> "Iterator[Warehouse]":
        """A new connection to each replica of a cluster that is none of the nodes."""
        return iter(())

    def as_stored(self, table: Table) -> Table:
        """The contract of a table as this server stores it."""
        return table

    @property
    def databases(self) -> Mapping[str, str]:
        """The databases that Carat has on this server, with a comment for each."""
        return DATABASES

    def database(self, name: str) -> str:
        """What a database of Carat is called on this server."""
        return name

    def require_fitting(self, databases: Collection[str]) -> None:
        """Raise SettingsError if the databases that exist are of a warehouse of another kind."""
        if "pd_local" in databases:
            raise SettingsError(
                f"CARAT_WAREHOUSE: {self.url} is a shard of a cluster that holds a warehouse: add ?cluster=NAME"
            )

    def show_nodes(self) -> list[str]:
        """Make the rows of all nodes readable under their public names; returns a line for each change."""
        return []

    def routed(self, calls: pl.DataFrame) -> "list[tuple[Warehouse, pl.DataFrame]]":
        """Raw calls, each with the node of its visitor."""
        return [(self, calls)]

    def sync_replica(self, table: str) -> None:
        """Wait until this replica has all rows of a table that others have written."""

    def new_connection(self) -> "Warehouse":
        """One more connection to the same engine: each thread needs its own."""
        return Warehouse(
            self._connect, url=self.url, secret=self._secret, user=self.user, is_direct=self.is_direct
        ).with_guard(self._guard)

    def with_guard(self, guard: "Callable[[Warehouse], None]") -> Self:
        """Make `guard` the check of `require_lease`, and return the connection."""
        self._guard = guard
        return self

    def require_lease(self) -> None:
        """Raise LockedError if another writer has taken over; call it before whatever must not happen twice."""
        self._guard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def require_free_space(self) -> None:
        """Raise WarehouseError if a write could fill the disk, which the embedded engine does not survive.

        A table that is created on a full disk is broken, and the engine then never opens again.
        """
        if self.is_embedded:
            folder = self.url.removeprefix("chdb://")
            free = free_bytes(Path(folder))
            if free < _NEEDED_FREE_BYTES:
                raise WarehouseError(
                    f"the disk is full: {free // 1024**2} MiB free at {folder}, a write needs "
                    f"{_NEEDED_FREE_BYTES // 1024**2} MiB. Free some space and run the same command again"
                )

    @property
    def version(self) -> str:
        return str(self._client.server_version)

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that returns nothing."""
        with self._readable_errors():
            self._client.command(sql, parameters=dict(parameters or {}))

    def has_right(self, privileges: str) -> bool:
        """Whether the user has all of these rights, such as `SELECT ON dwh.*, INSERT ON dwh.*`."""
        with self._readable_errors():  # CHECK GRANT takes no FORMAT
            return str(self._client.command(f"CHECK GRANT {privileges}")).strip() == "1"

    def query_arrow(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The result of a query as Arrow, UUIDs as 16 bytes."""
        with self._readable_errors():
            stream = self._client.raw_query(sql, parameters=dict(parameters or {}), fmt="ArrowStream")
        if not stream:  # the embedded engine returns an empty result without a schema
            return pa.Table.from_batches([], pa.schema([]))
        table = pa.ipc.open_stream(stream).read_all()
        for index, field in enumerate(table.schema):
            if isinstance(field.type, pa.ExtensionType):
                storage = pa.chunked_array([c.storage for c in table.column(index).chunks], field.type.storage_type)
                table = table.set_column(index, pa.field(field.name, storage.type), storage)
        return table

    def query(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, schema: Mapping[str, DataType] | None = None
    ) -> pl.DataFrame:
        """The result of a query as a frame, in this schema if one is given.

        Without a schema, an empty result of the embedded engine has no columns.
        """
        frame = pl.from_arrow(self.query_arrow(sql, parameters))
        assert isinstance(frame, pl.DataFrame)
        if schema is None:
            return frame
        return frame.select(list(schema)).cast(pl.Schema(schema)) if frame.width else pl.DataFrame(schema=schema)

    def scalar(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """The one value of a query that returns one row of one column."""
        return self.query(sql, parameters).item()

    def counts(self, tables: Mapping[str, tuple[str, str]]) -> dict[str, int]:
        """Per name, the number of rows of a table that meet a condition, all in one statement."""
        parts = (
            f"SELECT {quote(name)} AS name, count() AS rows FROM {table} WHERE {where}"
            for name, (table, where) in tables.items()
        )
        return dict(self.query(" UNION ALL ".join(parts)).iter_rows()) if tables else {}

    def raw(self, sql: str, *, fmt: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        """The result of a query in one of ClickHouse's own output formats."""
        with self._readable_errors():
            return bytes(self._client.raw_query(sql, parameters=dict(parameters or {}), fmt=fmt))

    def set(self, name: str, value: Any) -> None:
        """Set one of the engine's settings for this connection from now on."""
        with self._readable_errors():
            self._client.set_client_setting(name, value)

    def write_arrow_file(self, sql: str, path: Path) -> None:
        """Write the result of a query to an Arrow file on this machine, in bounded memory; text as bytes."""
        plain = "output_format_arrow_string_as_string = 0, output_format_arrow_compression_method = 'none'"
        with self._readable_errors():
            if self.is_embedded:
                target = f"INSERT INTO FUNCTION file({quote(str(path.resolve()))}, 'Arrow')"
                self._client.command(f"{target} {sql} SETTINGS {plain}, engine_file_truncate_on_insert = 1")
            else:
                with self._client.raw_stream(f"{sql} SETTINGS {plain}", fmt="Arrow") as source, path.open("wb") as file:
                    shutil.copyfileobj(source, file)

    def insert(self, table: Table, frame: pl.DataFrame, *, into: str | None = None, token: str = "") -> None:
        """Append a frame to a table (or to `into`, a table of the same contract), after checking it.

        Of several inserts with the same token into a table that remembers inserts, only one is stored.
        """
        target = into or table.full_name
        checked = table.validate(frame, where=f"writing {target}")
        if checked.is_empty():
            return
        self.require_free_space()
        # A column that holds only its default need not be sent: the engine fills it in.
        sent = [column.name for column in table.written if not _is_default(checked[column.name], column)] or [
            table.written[0].name
        ]
        arrow = pl.DataFrame([checked[name] for name in sent]).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        for column in table.written:
            if column.type == "UUID":
                index = sent.index(column.name)
                arrow = arrow.set_column(index, column.name, arrow.column(index).cast(pa.binary(16)))
        # A table that remembers inserts drops equal ones, so an insert without a token gets a unique one.
        settings = {"insert_deduplication_token": token or uuid.uuid4().hex} if table.remembers_inserts else {}
        self.insert_arrow(target, arrow, settings)

    def create_temp_table(self, name: str, values: pl.Series, *, column: str = "id", kind: str = "UUID") -> None:
        """Create or replace an in-memory table that holds just these values; UUIDs are 16 bytes each."""
        self.command(f"CREATE OR REPLACE TABLE {name} (`{column}` {kind}) ENGINE = Memory")
        arrow = values.to_arrow(compat_level=pl.CompatLevel.oldest())
        if len(values):
            values_sent = arrow.cast(pa.binary(16)) if kind == "UUID" else arrow
            self.insert_arrow(name, pa.Table.from_arrays([values_sent], names=[column]))

    @contextmanager
    def held_ids(self, ids: pl.Series, *, table: str) -> Iterator[str]:
        """A query of these UUIDs, of 16 bytes each: written out if they are few, else of a temporary table."""
        if len(ids) <= _WRITTEN_IDS:
            text = ",".join(ids.bin.encode("hex"))  # one literal: the engine analyzes each
            yield f"SELECT toUUID(arrayJoin(splitByChar(',', '{text}')))"
            return
        with self.temp_table(table, ids):
            yield f"SELECT id FROM {table}"

    @contextmanager
    def temp_table(self, name: str, values: pl.Series, *, column: str = "id", kind: str = "UUID") -> Iterator[None]:
        """A table of `create_temp_table` that is there for the time of the context."""
        self.create_temp_table(name, values, column=column, kind=kind)
        try:
            yield
        finally:
            self.drop_tables([name])

    def drop_tables(self, names: Sequence[str]) -> None:
        """Drop those of the tables that exist."""
        self.command(f"DROP TABLE IF EXISTS {', '.join(names)} SYNC")

    def one_rows(self, queries: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of queries that each return one row, all in one statement."""
        if not queries:
            return []
        named = ", ".join(f"(SELECT tuple(*) FROM ({sql})) AS row{number}" for number, sql in enumerate(queries))
        return [tuple(row.values()) for row in self.query(f"SELECT {named}").row(0)]

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _is_a(error, "EngineError", "ClickHouseError"):
                raise
            message = (str(error).strip().splitlines() or [type(error).__name__])[0][:2000]
            if self._secret:
                message = message.replace(self._secret, "***")
            kind = WarehouseGoneError if _is_gone(error, message) else WarehouseError
            raise kind(f"{self.url}: {message}{how_to_fix(message, self.user)}") from error

    def insert_arrow(self, target: str, arrow: pa.Table, settings: dict[str, Any] | None = None) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, arrow.schema, options=_IPC_OPTIONS) as writer:
            writer.write_table(arrow)
        block = cast("bytes", memoryview(sink.getvalue()))  # a view spares a copy
        with self._readable_errors():
            self._client.raw_insert(
                target, column_names=arrow.column_names, insert_block=block, fmt="ArrowStream", settings=settings
            )


def connect_embedded(path: Path, *, engine_config: Path | None = None) -> Warehouse:
    """Open the embedded engine, with a configuration file of its own if one is given."""
    url = f"chdb://{path}"
    options = {"config-file": str(engine_config)} if engine_config else None

    def connect() -> "Client":
        from app.warehouse.embedded import EmbeddedClient  # noqa: PLC0415  the engine is half a gigabyte

        client = cast("Client", EmbeddedClient(str(path), options))
        pin_embedded(client)
        return client

    return Warehouse(connect, url=url)


def connect_server(url: ServiceUrl, *, query_timeout_s: int = QUERY_TIMEOUT_S, writes: bool = True) -> Warehouse:
    """Connect to a server. A user that may not change settings (`readonly = 1`) can read; `writes` asks for more."""
    return Warehouse(**server_arguments(url, query_timeout_s=query_timeout_s, writes=writes))


def server_arguments(url: ServiceUrl, *, query_timeout_s: int = QUERY_TIMEOUT_S, writes: bool = True) -> dict[str, Any]:
    """The arguments of a `Warehouse` on a server: see `connect_server`."""
    password = url.password.get_secret_value()
    tls = _tls_arguments(url)

    def connect() -> "Client":
        import clickhouse_connect  # noqa: PLC0415  the embedded engine does without

        client = clickhouse_connect.get_client(
            host=url.host,
            port=url.port,
            username=url.user,
            password=password,
            **tls,
            connect_timeout=30,
            send_receive_timeout=query_timeout_s,
            compress=False,  # inserts are compressed already
        )
        pin_server(client, user=url.user, writes=writes)
        return client

    return {"connect": connect, "url": str(url), "secret": password, "user": url.user}


def _tls_arguments(url: ServiceUrl) -> dict[str, Any]:
    if not url.is_secure:
        return {"secure": False}
    if not url.is_verified:  # `carat doctor` warns of it, and urllib3 would at every request
        import urllib3  # noqa: PLC0415

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    ca, cert, key = (url.file_option(name, variable="CARAT_WAREHOUSE") for name in ("ca", "cert", "key"))
    arguments = {"secure": True, "verify": url.is_verified, "ca_cert": ca, "client_cert": cert, "client_cert_key": key}
    if cert:  # without a password, the certificate alone says who the user is
        arguments["tls_mode"] = "strict" if url.password.get_secret_value() else "mutual"
    return arguments


def _is_default(values: pl.Series, column: Column) -> bool:
    """Whether every value is what an insert without this column gives: null, or zero where it is not nullable."""
    if column.is_nullable:
        return values.null_count() == len(values)
    return column.type in _COUNTS and not (values != 0).any()


def _is_a(error: Exception, *names: str) -> bool:
    """Whether an error is of a class with such a name: only one of the two clients that have them is imported."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _is_gone(error: Exception, message: str) -> bool:
    """Whether the server did not answer, as opposed to refusing."""
    has_no_code = "Code:" not in message and "DB::Exception" not in message
    return has_no_code and _is_a(error, "OperationalError")
