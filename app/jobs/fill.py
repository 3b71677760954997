"""Fills an empty warehouse from another one: a cluster from a single server, or from a cluster of fewer shards.

What cannot be made again is copied: raw calls, each to the shard of its visitor, the history of the shop's database,
rejects, forgotten people, advertising costs (not to a cluster yet), and the days whose raw calls are past their
retention. `carat etl` then builds the other days. After an interruption the same command goes on; nothing that is there
is deleted.
"""

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime

import polars as pl

from app.contracts import (
    API_CALLS,
    FORGOTTEN,
    REJECTS,
    SNAPSHOTS,
    SPEND_TABLES,
    VISITOR_OF_SESSION,
    Table,
    dwh_tables,
)
from app.core import console
from app.core.errors import SettingsError, WarehouseError
from app.jobs.raw_calls import insert_calls, known_calls
from app.settings import Settings
from app.warehouse import Warehouse, migrate
from app.warehouse.history import existing_histories

_CALLS_AT_ONCE = 20_000  # their JSON is held in memory
_ROWS_AT_ONCE = 200_000
_COPIED = (REJECTS, SNAPSHOTS, FORGOTTEN)


def fill(warehouse: Warehouse, source: Warehouse, settings: Settings) -> Counter[str]:
    """Copy what cannot be built from `source` into a warehouse that holds nothing else; how many rows by table."""
    filled = Counter[str]()
    if not settings.has_server:
        raise SettingsError("`carat fill` fills a ClickHouse server or cluster; copy the directory of an embedded one")
    _require_nothing_else(warehouse, source)
    _copy_calls(warehouse, source, filled)
    first = (source.nodes[0],)
    for history in existing_histories(source).values():
        warehouse.command(history.create_statement())
        _copy_rows(warehouse.nodes[0], first, history, "1", filled)
    costs = () if warehouse.is_cluster else SPEND_TABLES  # views would not find them from other shards
    for table in (*_COPIED, *costs):
        _copy_rows(warehouse.nodes[0], first, table, "1", filled)
    past = _before_all_calls(source, settings)
    for table in dwh_tables() if past else ():
        for number, node in enumerate(warehouse.nodes):
            of_node = f"{VISITOR_OF_SESSION} % {len(warehouse.nodes)} = {number}"
            _copy_rows(node, source.nodes, table, f"{table.day} < toDate('{past}') AND {of_node}", filled)
    migrate(warehouse, settings)  # the views of the histories
    return +filled  # without those of which nothing was copied


def _require_nothing_else(warehouse: Warehouse, source: Warehouse) -> None:
    """Raise SettingsError if the warehouse holds calls that the source does not: two shops must not become one."""
    for node in warehouse.nodes:
        some = node.query(
            "SELECT call_id FROM pd.api_calls LIMIT 1000", schema={"call_id": API_CALLS.schema["call_id"]}
        )
        if known_calls(source, some["call_id"]).height < some.height:
            raise SettingsError(
                f"{node.url} holds calls that {source.url} does not: `carat fill` needs a new warehouse"
            )


def _copy_calls(warehouse: Warehouse, source: Warehouse, filled: Counter[str]) -> None:
    columns = ", ".join(API_CALLS.schema.names())
    counts = {"partition": pl.String(), "rows": pl.UInt64()}
    sql = "SELECT _partition_id AS partition, count() AS rows FROM pd.api_calls GROUP BY partition ORDER BY partition"
    found = [(node, *row) for node in source.nodes for row in node.query(sql, schema=counts).iter_rows()]
    with console.progress("fill", sum(rows for _, _, rows in found)) as bar:
        for node, partition, rows in found:
            bar.label(f"fill {partition}")
            for slice_ in _slices(rows, _CALLS_AT_ONCE, by="visitor_hash"):
                calls = node.query(
                    f"SELECT {columns} FROM pd.api_calls WHERE _partition_id = '{partition}' AND {slice_}",
                    schema=API_CALLS.schema,
                )
                known = known_calls(warehouse, calls["call_id"])
                fresh = calls.join(known, on="call_id", how="anti")
                insert_calls(warehouse, fresh, "")
                filled[API_CALLS.full_name] += fresh.height
                bar.advance(calls.height)
    stored = warehouse.counts({"calls": (API_CALLS.full_name, "1")})["calls"]
    expected = sum(rows for _, _, rows in found)
    if stored != expected:
        raise WarehouseError(
            f"{warehouse.url} holds {stored:,} calls, {source.url} {expected:,}: stop what writes to the source, then "
            "run the same command again"
        )


def _copy_rows(target: Warehouse, sources: Sequence[Warehouse], table: Table, where: str, filled: Counter[str]) -> None:
    """Copy the rows of a table that meet a condition, unless they are there."""
    count = f"SELECT count() FROM {table.full_name} WHERE {where}"
    rows = {source: int(source.scalar(count)) for source in sources}
    expected, there = sum(rows.values()), int(target.scalar(count))
    if there == expected:
        return
    if there:
        raise SettingsError(
            f"{target.url}: {table.full_name} holds {there:,} rows, not the {expected:,} of the other warehouse. If an "
            f"interrupted `carat fill` left them, delete those with {where} and run it again; else it needs a new "
            "warehouse"
        )
    columns = ", ".join(f"`{column.name}`" for column in table.written)
    key = ", ".join(f"`{column.name}`" for column in table.written[:3])
    for source, number in rows.items():
        for slice_ in _slices(number, _ROWS_AT_ONCE, by=f"cityHash64({key})"):
            some = source.query_arrow(f"SELECT {columns} FROM {table.full_name} WHERE ({where}) AND {slice_}")
            if some.num_rows:
                target.insert_arrow(table.full_name, some, {"insert_deduplication_token": uuid.uuid4().hex})
    filled[table.full_name] += expected


def _before_all_calls(source: Warehouse, settings: Settings) -> date | None:
    """The day of the oldest call: what is published of earlier days cannot be built again. None without calls."""
    schema = {"ts": API_CALLS.schema["ts"]}
    sql = "SELECT min(ts) AS ts FROM pd.api_calls HAVING count() > 0"
    oldest = pl.concat([node.query(sql, schema=schema) for node in source.nodes])["ts"].min()
    return oldest.astimezone(settings.zone).date() if isinstance(oldest, datetime) else None


def _slices(rows: int, at_once: int, *, by: str) -> Iterator[str]:
    """Conditions that divide rows into slices of about so many, by an expression that is even."""
    count = max(1, -(-rows // at_once))
    return (f"{by} % {count} = {number}" for number in range(count))
