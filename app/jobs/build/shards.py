"""Reads a day's raw calls in shards of visitors, so that a build holds a bounded number of calls in memory.

A session belongs to one visitor, so shards are independent and the number of shards never changes a result.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import polars as pl
import pyarrow as pa
from polars.datatypes import DataType

from app.contracts import API_CALLS, EVENTS, VISITOR_OF_SESSION, Table
from app.core.errors import ContractError
from app.frames.days import DayBounds
from app.frames.events import FAILED_STATUS, TYPED_SCHEMA
from app.frames.money import ORIGINALS
from app.jobs.build.call_sql import MOMENT_SCHEMA, crossing_visitors, fits, instant, is_counted
from app.jobs.build.visitor_links import VisitorLinks, read_visitor_links
from app.rules.endpoint_map import EndpointMap
from app.warehouse import Warehouse

_HASHES = 2**64
_MAX_SHARDS = 4096
_COPIED_AT_ONCE = 50_000  # linked calls, from one node to another
_DOCUMENTS = ["request", "response"]
_NO_DOCUMENTS = pa.Table.from_batches([], pa.schema([(name, pa.string()) for name in _DOCUMENTS]))
_RECORD = ["call_id", "content_hash"]
_OF_HASHES = "BETWEEN {first_hash:UInt64} AND {last_hash:UInt64}"
_IN_SHARD = f"visitor_hash {_OF_HASHES}"
_OWNED_HERE = "owner_hash % {nodes:UInt64} = {node:UInt64}"
_IN_BLOCKS = "toUnixTimestamp(toStartOfInterval(ts, INTERVAL 4 HOUR)) * 1000 IN {blocks:Array(Int64)}"
_OF_SHARD = "session_id >= {first_session:String} AND session_id <= {last_session:String}"
_COLUMNS = """call_id, ts, visitor_key AS visitor_id, visitor_hash, content_hash, valid_user_id AS user_id,
    method, endpoint, status, duration_ms, ip, user_agent, referrer, page_url, false AS is_linked"""
_NAMES = ", ".join(column.split(" AS ")[-1].strip() for column in _COLUMNS.split(","))
# Only a session that crosses a midnight needs calls from beyond it.
_CALLS_WHERE = f"""{_IN_SHARD} AND (ts >= {instant("start")} AND ts < {instant("end")}
    OR ts >= {instant("end")} AND ts < {instant("next_end")}
        AND visitor_hash IN ({crossing_visitors("end", among=_IN_SHARD)}))"""
_BEFORE_MIDNIGHT = f"""{_IN_SHARD} AND ts >= {instant("previous_start")} AND ts < {instant("start")}
    AND visitor_hash IN ({crossing_visitors("start", among=_IN_SHARD)})"""
_EARLIER_SQL = f"SELECT visitor_hash, ts, call_id, false AS is_linked FROM pd.api_calls WHERE {_BEFORE_MIDNIGHT}"
_EARLIER = MOMENT_SCHEMA | {"is_linked": pl.Boolean()}
_CALLED = _EARLIER | {"content_hash": pl.UInt64()}
_PUBLISHED = {name: EVENTS.schema[name] for name in ("session_id", "ts", "call_id", "content_hash")}
_TYPED = {name: EVENTS.schema[name] for name in ("call_id", "content_hash", *TYPED_SCHEMA, *ORIGINALS.values())}


@dataclass(frozen=True)
class BuildScope:
    """What a build reads: the whole day, or selected sessions; and from which days it may reuse typed events.

    `visitors` is a query of `visitor_hash` and `sessions` one of `session_id`; both are empty where the whole day is
    read. `blocks` are the starts, in epoch ms, of the 4-hour blocks that hold the calls of those sessions. `links` say
    whose calls without an id are, and `linked_calls` is the temporary table of those that are another visitor's than
    their ids say, with this one as their visitor.
    """

    bounds: DayBounds
    endpoint_map: EndpointMap
    timeout_ms: int
    visitors: str = ""
    sessions: str = ""
    session_ids: pl.Series | None = None
    blocks: tuple[int, ...] = ()
    reusable_days: tuple[date, ...] = ()
    links: VisitorLinks = field(default_factory=VisitorLinks)
    linked_calls: str = ""
    nodes: int = 1  # over which visitors are spread: each on the one that `visitor_hash` modulo their number says

    @property
    def selected(self) -> str:
        """The SQL condition, to be appended, of calls that count, by the selected visitors."""
        of_visitors = f" AND visitor_hash IN ({self.visitors})" if self.visitors else ""
        return f" AND {is_counted(self.endpoint_map)}{of_visitors}"

    @property
    def own_calls(self) -> str:
        """The SQL condition, which `selected` narrows, of a shard's calls without those that are another visitor's."""
        if not self.links.has_linked:
            return _CALLS_WHERE
        return f"{_CALLS_WHERE} AND (visitor_hash, ts) NOT IN ({self.links.linked('visitor_hash, ts')})"

    def moments(self, columns: Iterable[str], where: str = "") -> str:
        """The SQL of these columns and `is_linked` of a shard's calls that meet a condition on `ts`."""
        names = ", ".join(columns)
        own = f"SELECT {names}, false AS is_linked FROM pd.api_calls WHERE {self.own_calls}{self.selected}{where}"
        if not self.links.has_linked:
            return own
        linked = self.links.linked(
            names.replace("visitor_hash", "owner_hash") + ", true AS is_linked", of_visitors=self.visitors
        )
        here = f" AND {_OWNED_HERE}" if self.nodes > 1 else ""
        return f"{own} UNION ALL {linked}{here} AND owner_hash {_OF_HASHES}{where}"


@dataclass(frozen=True)
class ShardKey:
    """Which of a day's shards: its number, from 0, out of `count`, of the visitors on one node."""

    scope: BuildScope
    number: int
    count: int
    node: int = 0

    @classmethod
    def of(cls, scope: BuildScope, calls: int, *, shard_calls: int) -> "list[ShardKey]":
        """The keys of all shards, each of which has about `shard_calls` of the scope's calls."""
        count = shard_count(-(-calls // scope.nodes), shard_calls=shard_calls)
        return [cls(scope, number, count, node) for node in range(scope.nodes) for number in range(count)]

    @property
    def parameters(self) -> dict[str, object]:
        """The query parameters of the shard's calls."""
        scope, bounds = self.scope, self.scope.bounds
        first = self.number * _HASHES // self.count
        last = (self.number + 1) * _HASHES // self.count - 1
        return {
            "first_hash": first,
            "last_hash": last,
            "first_session": f"{first:016x}",
            "last_session": f"{last:016x}~",
            "timeout_ms": scope.timeout_ms,
            "previous_start": bounds.previous_start - scope.timeout_ms,
            "start": bounds.start,
            "end": bounds.end,
            "next_end": bounds.next_end,
            "day": bounds.day,
            "blocks": list(scope.blocks),
            **({"nodes": scope.nodes, "node": self.node} if scope.nodes > 1 else {}),
        }


@dataclass(frozen=True)
class Shard:
    """The calls of some of a day's visitors: those of the day, and those that their sessions reach on the next day.

    Where the endpoint map recalls, calls before the day's first midnight by visitors who cross it are among them, for
    what they remember.

    `documents` are the calls' `request` and `response`, kept in Arrow; a call's `document` is its row there. Where
    events are reused, `typed` holds `call_id, content_hash, event` and the fields of the typed calls, and `documents`
    is empty. `earlier` says when these visitors called on the day before, as far as their sessions may begin there.
    Calls that belong to another visitor than their ids say have this one, and `is_linked`.
    """

    calls: pl.DataFrame
    documents: pa.Table
    typed: pl.DataFrame
    earlier: pl.DataFrame


def count_calls(warehouse: Warehouse, bounds: DayBounds, endpoint_map: EndpointMap, *, what: str = "count()") -> int:
    """The number of calls of the day itself that are not ignored; `what` is the SQL by which they are counted."""
    of_day = f"ts >= {instant('start')} AND ts < {instant('end')} AND {is_counted(endpoint_map)}"
    sql = f"SELECT {what} FROM pd.api_calls WHERE {of_day}"
    return sum(int(node.scalar(sql, {"start": bounds.start, "end": bounds.end})) for node in warehouse.nodes)


def shard_count(day_calls: int, *, shard_calls: int) -> int:
    """The number of shards that gives each about `shard_calls` calls."""
    return min(max(1, -(-day_calls // shard_calls)), _MAX_SHARDS)


def read_shard(warehouse: Warehouse, key: ShardKey) -> Shard | None:
    """The shard, or None if it holds no call."""
    scope, parameters = key.scope, key.parameters
    in_blocks = f" AND {_IN_BLOCKS}" if scope.sessions else ""
    where = f"({scope.own_calls}{in_blocks})"
    if scope.endpoint_map.has_recall:
        where = f"({where} OR {_BEFORE_MIDNIGHT})"
    sql = f"SELECT {_columns(scope)} FROM pd.api_calls WHERE {where}{scope.selected}"
    if scope.linked_calls:
        sql += f" UNION ALL SELECT {_names(scope)} FROM {scope.linked_calls} WHERE {_IN_SHARD}{in_blocks}"
    if scope.reusable_days:
        calls = _read_frame(warehouse, sql, parameters, schema={})
        typed = _read_typed(warehouse, scope, parameters)
    else:
        table = _read(warehouse, sql, parameters)
        calls = _frame(table.drop_columns(_DOCUMENTS)) if table.num_rows else pl.DataFrame()
        typed = pl.DataFrame(schema=_TYPED)
    if calls.is_empty():
        return None
    earlier = pl.DataFrame(schema=_EARLIER) if scope.endpoint_map.has_recall else _read_earlier(warehouse, key)
    if scope.sessions:  # of calls in other sessions only the moment matters
        others = scope.moments(MOMENT_SCHEMA, f" AND NOT {_IN_BLOCKS}")
        elsewhere = _read_frame(warehouse, others, parameters, schema=_EARLIER)
        earlier = pl.concat([earlier, elsewhere])
    if not scope.reusable_days:
        return Shard(calls.with_row_index("document"), table.select(_DOCUMENTS).combine_chunks(), typed, earlier)
    return Shard(calls, _NO_DOCUMENTS, typed, earlier)


@contextmanager
def open_scope(
    warehouse: Warehouse,
    bounds: DayBounds,
    endpoint_map: EndpointMap,
    timeout_ms: int,
    *,
    reusable_days: tuple[date, ...] = (),
) -> Iterator[BuildScope]:
    """The scope of a build of a whole day, with the day's links held in the warehouse."""
    with read_visitor_links(warehouse, bounds, endpoint_map, timeout_ms=timeout_ms) as links:
        nodes = len(warehouse.nodes)
        yield BuildScope(bounds, endpoint_map, timeout_ms, reusable_days=reusable_days, links=links, nodes=nodes)


@contextmanager
def holding_linked_calls(warehouse: Warehouse, scope: BuildScope) -> Iterator[BuildScope]:
    """The scope with `linked_calls`, copied in one go: they lie scattered, so that each shard would read everything."""
    if not scope.links.has_linked:
        yield scope
        return
    bounds, links = scope.bounds, scope.links
    table = f"etl.changed_calls_{bounds.day:%Y%m%d}_{uuid.uuid4().hex[:12]}"
    owned = "visitor_id, visitor_hash, is_linked"
    where = f"ts >= {instant('start')} AND ts < {instant('end')} AND {is_counted(scope.endpoint_map)}"
    linked = (
        f"SELECT calls.* EXCEPT ({owned}), owner_key AS visitor_id, owner_hash AS visitor_hash, true AS is_linked "
        f"FROM (SELECT {_columns(scope)} FROM pd.api_calls WHERE {where} AND (visitor_hash, ts) IN "
        f"({links.linked('visitor_hash, ts', of_visitors=scope.visitors)})) AS calls ANY LEFT JOIN "
        f"({links.linked('call_id, content_hash, owner_hash, owner_key')}) AS owners USING (call_id, content_hash)"
    )
    try:
        _copy_to_owners(warehouse, table, linked, {"start": bounds.start, "end": bounds.end}, nodes=scope.nodes)
        yield replace(scope, linked_calls=table)
    finally:
        warehouse.drop_tables([table])


def _copy_to_owners(warehouse: Warehouse, table: str, calls: str, parameters: dict[str, object], *, nodes: int) -> None:
    """Create `table` on each node and copy there what the query `calls` gives, on any node, of the node's visitors."""
    create = f"CREATE TABLE {table} ENGINE = MergeTree ORDER BY (visitor_hash, ts) AS"
    if nodes == 1:
        warehouse.command(f"{create} {calls}", parameters)
        return
    of_node = f"SELECT * FROM ({calls}) WHERE visitor_hash % {nodes} = {{node:UInt64}}"
    for number, node in enumerate(warehouse.nodes):
        node.command(f"{create} {of_node}", parameters | {"node": number})
    for source in warehouse.nodes:
        for number, target in enumerate(warehouse.nodes):
            if source is target:
                continue
            there = parameters | {"node": number}
            slices = -(-source.scalar(f"SELECT count() FROM ({of_node})", there) // _COPIED_AT_ONCE)
            for part in range(slices):
                some = f"{of_node} AND cityHash64(call_id) % {slices} = {part}"
                target.insert_arrow(table, source.query_arrow(some, there))


def read_moments(warehouse: Warehouse, key: ShardKey) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`visitor_hash, ts, call_id, content_hash, is_linked` of a shard's calls, and `earlier` as `Shard` has it."""
    sql = key.scope.moments((*MOMENT_SCHEMA, "content_hash"))
    return _read_frame(warehouse, sql, key.parameters, schema=_CALLED), _read_earlier(warehouse, key)


def read_published(warehouse: Warehouse, key: ShardKey) -> pl.DataFrame:
    """`session_id, ts, call_id, content_hash` of a shard's calls of the day as `dwh.events` holds them."""
    return warehouse.query(
        f"SELECT {', '.join(_PUBLISHED)} FROM dwh.events WHERE event_date = {{day:Date}} AND {_OF_SHARD}"
        f" AND {VISITOR_OF_SESSION} IN ({key.scope.visitors})",
        key.parameters,
        schema=_PUBLISHED,
    )


def _read_earlier(warehouse: Warehouse, key: ShardKey) -> pl.DataFrame:
    return _read_frame(warehouse, f"{_EARLIER_SQL}{key.scope.selected}", key.parameters, schema=_EARLIER)


def _read_typed(warehouse: Warehouse, scope: BuildScope, parameters: dict[str, object]) -> pl.DataFrame:
    """The shard's calls as `dwh.events` holds them, so that their JSON need not be parsed again."""
    of_sessions = f" AND session_id IN ({scope.sessions})" if scope.sessions else ""
    crossing = f"{VISITOR_OF_SESSION} IN ({crossing_visitors('end', among=_IN_SHARD)})"
    of_day = {
        scope.bounds.day: f"event_date = {{day:Date}}{of_sessions}",
        scope.bounds.day + timedelta(days=1): f"event_date = {{day:Date}} + 1 AND {crossing}",
    }
    days = " OR ".join(f"({sql})" for day, sql in of_day.items() if day in scope.reusable_days)
    sql = f"SELECT {', '.join(_TYPED)} FROM dwh.events WHERE ({days}) AND {_OF_SHARD}"
    typed = _read_frame(warehouse, sql, parameters, schema=_TYPED, contract=EVENTS)
    return typed.unique(_RECORD)  # by another time zone a call may be published on both days


def read_documents(
    warehouse: Warehouse, calls: pl.DataFrame, scope: BuildScope, *, ids_table: str
) -> tuple[pl.DataFrame, pa.Table]:
    """The calls with `document`, and their JSON.

    In: `ts, call_id, content_hash`. `ids_table` is the name of a temporary table for their ids.
    """
    found = []
    for node in warehouse.peers if scope.links.has_linked else [warehouse]:  # a linked call may be on another node
        with node.held_ids(calls["call_id"], table=ids_table) as ids:
            sql = (
                f"SELECT call_id, content_hash, {_documents(scope.endpoint_map)} FROM pd.api_calls "
                f"WHERE {_IN_BLOCKS} AND call_id IN ({ids})"
            )
            of_node = _read(node, sql, {"blocks": blocks_of(calls["ts"])})
        if of_node.num_columns:
            found.append(of_node)
    table = pa.concat_tables(found)
    records = _frame(table.select(_RECORD)).with_row_index("document").unique(_RECORD, keep="first")
    return calls.join(records, on=_RECORD, how="left"), table.select(_DOCUMENTS).combine_chunks()


def blocks_of(moments: pl.Series) -> list[int]:
    """The 4-hour blocks of these instants, by which the table is sorted, as the epoch ms of their starts."""
    return moments.dt.truncate("4h").dt.epoch("ms").unique().sort().to_list()


def _columns(scope: BuildScope) -> str:
    """What is read of each raw call; its JSON only where no event is taken over from an earlier build."""
    return _COLUMNS if scope.reusable_days else f"{_COLUMNS}, {_documents(scope.endpoint_map)}"


def _names(scope: BuildScope) -> str:
    return _NAMES if scope.reusable_days else f"{_NAMES}, {', '.join(_DOCUMENTS)}"


def _documents(endpoint_map: EndpointMap) -> str:
    """JSON is read only where the endpoint map takes a value from it; which event a call is, the frames decide."""
    columns = [
        f"if(status < {FAILED_STATUS} AND ({_is_any(endpoint_map, name)}), {name}, '') AS {name}" for name in _DOCUMENTS
    ]
    return ", ".join(columns)


def _is_any(endpoint_map: EndpointMap, document: str) -> str:
    calls = [call for call in endpoint_map.calls if document in call.roots]
    return " OR ".join(dict.fromkeys(fits(call.pattern) for call in calls)) or "0"


def _read(warehouse: Warehouse, sql: str, parameters: dict[str, object]) -> pa.Table:
    table = warehouse.query_arrow(sql, parameters)
    try:  # nothing else checks that stored text is UTF-8
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ContractError(f"reading the warehouse: {error}") from None
    return table


def _read_frame(
    warehouse: Warehouse,
    sql: str,
    parameters: dict[str, object],
    *,
    schema: Mapping[str, DataType],
    contract: Table = API_CALLS,
) -> pl.DataFrame:
    """The result as a frame; the embedded engine gives an empty result no columns, so it gets this schema."""
    table = _read(warehouse, sql, parameters)
    return _frame(table, contract) if table.num_columns else pl.DataFrame(schema=schema)


def _frame(table: pa.Table, contract: Table = API_CALLS) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return contract.check_dtypes(frame, where=f"reading {contract.full_name}")
