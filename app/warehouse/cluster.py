"""A warehouse that is spread over the shards of a ClickHouse cluster.

Each shard is a node: one connection to one replica, on which a visitor's calls and all that is built from them are
stored in `pd_local` and `dwh_local`. What a single server does with `pd` and `dwh` is done on each node with these.
The rest (`etl`, `history`, the views) is on the first node, where the Distributed tables in `pd` and `dwh` show
the rows of all shards under the names that queries and dashboards use.
"""

import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from app.contracts import DATABASES, Table, all_tables, raw_calls
from app.core.errors import ContractError, SettingsError
from app.core.service_url import ServiceUrl
from app.core.sql import quote
from app.settings import Settings
from app.warehouse.client import QUERY_TIMEOUT_S, Warehouse, connect_server, server_arguments

SHARDED = ("pd", "dwh")  # the databases whose rows are spread over the shards
# The first of these in a text decides, so that names inside of quotes and comments stay.
_NAMES = re.compile(
    r"""'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*"|(?<![\w.])(pd|dwh)(?=\.[\w`])""", re.DOTALL
)
_DEDUPLICATION = "non_replicated_deduplication_window"
_REPLICATED = "ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')"
_PRODUCT_MODE = "distributed_product_mode"
_ROUTED_BY = ("visitor_id", "session_token", "ip", "user_agent")
_DISCOVER = (
    "SELECT toUInt32(shard_num) AS shard, toUInt32(replica_num) AS replica, host_name FROM system.clusters "
    "WHERE cluster = {cluster:String} ORDER BY shard, replica"
)


@dataclass(frozen=True)
class Shard:
    """One shard: its number from 1, the replica that Carat works on, and the others."""

    number: int
    url: ServiceUrl
    others: tuple[ServiceUrl, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where a cluster's shards are. `is_replicated`: whether any has more than one replica."""

    name: str
    shards: tuple[Shard, ...]
    is_replicated: bool

    def label(self, shard: Shard) -> str:
        return f"shard {shard.number} of {len(self.shards)} of cluster {self.name}"


def local_name(database: str) -> str:
    """The database on each shard that holds the shard's rows of a public one."""
    return f"{database}_local" if database in SHARDED else database


def local_sql(sql: str) -> str:
    """A statement on public tables as one on a shard's own."""
    return _NAMES.sub(lambda found: local_name(found[1]) if found[1] else found[0], sql)


def local_table(table: Table, *, is_replicated: bool) -> Table:
    """The contract of a table as a shard stores it."""
    settings = table.settings
    if is_replicated:  # such a table drops equal inserts unless it is told not to
        settings = (
            settings.replace(_DEDUPLICATION, "replicated_deduplication_window")
            if _DEDUPLICATION in settings
            else ", ".join(filter(None, (settings, "replicated_deduplication_window = 0")))
        )
    engine = _REPLICATED if is_replicated else table.engine
    return replace(table, database=local_name(table.database), engine=engine, settings=settings)


def public_table_sql(table: Table, cluster: str, *, replaces: bool = False) -> str:
    """The statement that creates the table under whose public name the rows of all shards are read.

    It has no sharding key, so that the engine refuses inserts: Carat alone knows on which shard a row belongs.
    """
    local = local_name(table.database)
    create = "CREATE OR REPLACE TABLE" if replaces else "CREATE TABLE IF NOT EXISTS"
    return (
        f"{create} {table.full_name} AS {local}.{table.name}\n"
        f"ENGINE = Distributed({quote(cluster)}, {quote(local)}, {quote(table.name)})\nCOMMENT {quote(table.comment)}"
    )


def discover(url: ServiceUrl, *, query_timeout_s: int = QUERY_TIMEOUT_S) -> Layout:
    """The shards of the cluster that the URL names, as the server of the first shard or of the URL lists them."""
    asked = url.at(*url.hosts[0]) if url.hosts else url
    with connect_server(asked, query_timeout_s=query_timeout_s, writes=False) as warehouse:
        found = warehouse.query(
            _DISCOVER,
            {"cluster": url.cluster},
            schema={"shard": pl.UInt32(), "replica": pl.UInt32(), "host_name": pl.String()},
        )
        if found.is_empty():
            known = warehouse.query("SELECT DISTINCT cluster FROM system.clusters", schema={"cluster": pl.String()})
            names = ", ".join(known["cluster"].sort()) or "none"
            raise SettingsError(
                f"CARAT_WAREHOUSE: {warehouse.url} knows no cluster {url.cluster!r} (it knows: {names}). Add it to "
                "remote_servers in the configuration of every server of it; see docs/cluster.md"
            )
    return layout_of(url, found)


def layout_of(url: ServiceUrl, found: pl.DataFrame) -> Layout:
    """The layout by the rows of `system.clusters`: `shard, replica, host_name`."""
    replicas = [
        (number, of_shard["host_name"].to_list())
        for (number,), of_shard in found.sort("shard", "replica").group_by("shard", maintain_order=True)
    ]
    is_replicated = any(len(hosts) > 1 for _, hosts in replicas)
    if not url.hosts:
        places = [[url.at(host, url.port) for host in hosts] for _, hosts in replicas]
    elif len(url.hosts) != len(replicas):
        raise SettingsError(
            f"CARAT_WAREHOUSE: hosts= lists {len(url.hosts)} servers, cluster {url.cluster} has {len(replicas)} "
            "shards: list one replica of each, in the order of the shards"
        )
    else:
        places = [[url.at(*host)] for host in url.hosts]
    shards = tuple(Shard(number, urls[0], tuple(urls[1:])) for (number, _), urls in zip(replicas, places, strict=True))
    return Layout(url.cluster, shards, is_replicated)


class Node(Warehouse):
    """One shard of a cluster. Statements on `pd` and `dwh` reach the tables of this shard alone."""

    def __init__(self, shard: Shard, cluster: "Cluster", *, url: ServiceUrl | None = None) -> None:
        self.shard, self._cluster = shard, cluster
        place = url or shard.url
        super().__init__(**server_arguments(place, query_timeout_s=cluster.query_timeout_s, writes=cluster.writes))
        self._host, self._is_replicated = place.host, cluster.layout.is_replicated
        self.label = cluster.layout.label(shard)

    @property
    def peers(self) -> tuple[Warehouse, ...]:
        return self._cluster.nodes

    @property
    def prefix(self) -> str:
        return f"shard {self.shard.number}, {self._host}: "

    @property
    def is_node(self) -> bool:
        return True

    def require_lease(self) -> None:
        """The lease is that of the cluster, on its first shard."""
        self._cluster.require_lease()

    def as_stored(self, table: Table) -> Table:
        return local_table(table, is_replicated=self._is_replicated)

    @property
    def databases(self) -> Mapping[str, str]:
        """Which shard this is stands in the comments, by which `require_fitting` knows it again."""
        return {local_name(name): f"{self.label}. {comment}" for name, comment in DATABASES.items()}

    def database(self, name: str) -> str:
        return local_name(name)

    def require_fitting(self, databases: Collection[str]) -> None:
        if local_name("pd") not in databases:
            if "pd" in databases and self._is_single():
                raise SettingsError(
                    f"CARAT_WAREHOUSE: {self.url} holds the warehouse of a single server. Fill the cluster from a copy "
                    "of it on another server; see docs/cluster.md"
                )
            return
        found = str(self.scalar(f"SELECT comment FROM system.databases WHERE name = {quote(local_name('pd'))}"))
        if not found.startswith(f"{self.label}."):
            raise SettingsError(
                f"CARAT_WAREHOUSE: {self.url} is {found.partition('.')[0] or 'not of this cluster'} and is used as "
                f"{self.label}: put the shards back in the order in which they were filled; see docs/cluster.md"
            )

    def _is_single(self) -> bool:
        kinds = "SELECT count() FROM system.tables WHERE database IN ('pd', 'dwh') AND engine LIKE '%MergeTree'"
        return bool(self.scalar(kinds))

    def sync_replica(self, table: str) -> None:
        if self._is_replicated:
            self.command(f"SYSTEM SYNC REPLICA {table}")

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        super().command(local_sql(sql), parameters)

    def query_arrow(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        return super().query_arrow(local_sql(sql), parameters)

    def raw(self, sql: str, *, fmt: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        return super().raw(local_sql(sql), fmt=fmt, parameters=parameters)

    def write_arrow_file(self, sql: str, path: Path) -> None:
        super().write_arrow_file(local_sql(sql), path)

    def insert_arrow(self, target: str, arrow: pa.Table, settings: dict[str, Any] | None = None) -> None:
        super().insert_arrow(local_sql(target), arrow, settings)


class Cluster(Warehouse):
    """A connection to the first shard, which sees all rows under their public names; `nodes` has one to each shard.

    Temporary tables are made and dropped on all nodes.
    """

    def __init__(
        self, layout: Layout, settings: Settings, *, query_timeout_s: int = QUERY_TIMEOUT_S, writes: bool = True
    ) -> None:
        self.layout, self.query_timeout_s, self.writes = layout, query_timeout_s, writes
        self._settings = settings
        first = layout.shards[0].url
        super().__init__(**server_arguments(first, query_timeout_s=query_timeout_s, writes=writes))
        # A view may join or look up rows of other shards than those of its own rows.
        known = self._client.server_settings.get(_PRODUCT_MODE)
        if known is None or not known.readonly:  # a user that may not change settings has it in its profile
            self.set(_PRODUCT_MODE, "global")

    def new_connection(self) -> "Cluster":
        return Cluster(
            self.layout, self._settings, query_timeout_s=self.query_timeout_s, writes=self.writes
        ).with_guard(self._guard)

    def __exit__(self, *_: object) -> None:
        for node in self.__dict__.get("nodes", ()):
            node.__exit__()
        super().__exit__()

    @property
    def is_cluster(self) -> bool:
        return True

    @cached_property
    def nodes(self) -> tuple[Warehouse, ...]:  # connected when they are first needed
        return tuple(Node(shard, self) for shard in self.layout.shards)

    def other_replicas(self) -> Iterator[Warehouse]:
        return (Node(shard, self, url=url) for shard in self.layout.shards for url in shard.others)

    def show_nodes(self) -> list[str]:
        changes = []
        for name in SHARDED:
            if not self.scalar("SELECT count() FROM system.databases WHERE name = {name:String}", {"name": name}):
                self.command(f"CREATE DATABASE IF NOT EXISTS {name} COMMENT {quote(DATABASES[name])}")
                changes.append(f"created database {name}")
        columns = self.query(
            "SELECT database, table, groupArray((name, type, default_kind, default_expression, comment)) AS columns "
            "FROM (SELECT * FROM system.columns WHERE database IN {databases:Array(String)} ORDER BY position) "
            "GROUP BY database, table",
            {"databases": [*SHARDED, *map(local_name, SHARDED)]},
        )
        found = {(database, table): columns for database, table, columns in columns.iter_rows()}
        for table in all_tables():
            public = found.get((table.database, table.name))
            if table.database in SHARDED and public != found[local_name(table.database), table.name]:
                self.command(public_table_sql(table, self.layout.name, replaces=public is not None))
                changes.append(f"{'replaced' if public else 'created'} the public table {table.full_name}")
        return changes

    def counts(self, tables: Mapping[str, tuple[str, str]]) -> dict[str, int]:
        counted = [node.counts(tables) for node in self.nodes]
        return {name: sum(of_node[name] for of_node in counted) for name in tables}

    def create_temp_table(self, name: str, values: pl.Series, *, column: str = "id", kind: str = "UUID") -> None:
        for node in self.nodes:
            node.create_temp_table(name, values, column=column, kind=kind)

    def drop_tables(self, names: Sequence[str]) -> None:
        for node in self.nodes:
            node.drop_tables(names)

    def insert(self, table: Table, frame: pl.DataFrame, *, into: str | None = None, token: str = "") -> None:
        if table.database in SHARDED:
            raise ContractError(f"rows of {table.full_name} belong to a shard each: insert them through its connection")
        super().insert(table, frame, into=into, token=token)

    def routed(self, calls: pl.DataFrame) -> list[tuple[Warehouse, pl.DataFrame]]:
        if calls.is_empty():
            return []
        visitors = calls.select(_ROUTED_BY).unique()
        number = self._visitor_hashes(visitors)["visitor_hash"] % len(self.nodes)
        routed = calls.join(visitors.with_columns(node=number), on=_ROUTED_BY, how="left", maintain_order="left")
        return [
            (node, of_node.drop("node"))
            for index, node in enumerate(self.nodes)
            if (of_node := routed.filter(pl.col("node") == index)).height
        ]

    def _visitor_hashes(self, visitors: pl.DataFrame) -> pl.DataFrame:
        """`visitor_hash` of each row, computed by the engine as it does for stored calls, so that the two agree."""
        columns = {column.name: column for column in raw_calls(self._settings.no_id_values).columns}
        table = Table(
            "etl", f"changed_visitors_{uuid.uuid4().hex}", "Temporary: whose calls are being stored.",
            tuple(columns[name] for name in _ROUTED_BY), order_by="tuple()",
        )  # fmt: skip
        listed = ", ".join(f"{column.name} {column.type}" for column in table.columns)
        hash_of = columns["visitor_hash"].expression.removeprefix("MATERIALIZED ")
        self.command(f"CREATE TABLE {table.full_name} ({listed}) ENGINE = Memory")
        try:
            super().insert(table, visitors)
            hashes = self.query(f"SELECT {', '.join(_ROUTED_BY)}, {hash_of} AS visitor_hash FROM {table.full_name}")
        finally:
            super().drop_tables([table.full_name])
        return visitors.join(hashes, on=_ROUTED_BY, how="left", maintain_order="left")


def open_cluster(settings: Settings, *, query_timeout_s: int = QUERY_TIMEOUT_S, writes: bool = True) -> Cluster:
    """Connect to the cluster of the configured warehouse."""
    layout = discover(settings.warehouse, query_timeout_s=query_timeout_s)
    return Cluster(layout, settings, query_timeout_s=query_timeout_s, writes=writes)


def refuse_on_cluster(settings: Settings, what: str, instead: str) -> None:
    """Raise SettingsError where the warehouse is a cluster: better than work that is half done."""
    if settings.warehouse.cluster:
        raise SettingsError(f"not on a cluster yet: {what}. {instead}; see docs/cluster.md")
