"""Reads a day's raw calls in shards of visitors, so that a build holds a bounded number of calls in memory.

A session belongs to one visitor, so shards are independent and the number of shards never changes a result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
from app.rules.endpoint_map import EndpointMap
from app.warehouse import Warehouse

_HASHES = 2**64
_MAX_SHARDS = 4096
_DOCUMENTS = ["request", "response"]
_NO_DOCUMENTS = pa.table({name: pa.array([], pa.string()) for name in _DOCUMENTS})
_RECORD = ["call_id", "content_hash"]
_IN_SHARD = "visitor_hash BETWEEN {first_hash:UInt64} AND {last_hash:UInt64}"
_IN_BLOCKS = "toUnixTimestamp(toStartOfInterval(ts, INTERVAL 4 HOUR)) * 1000 IN {blocks:Array(Int64)}"
_OF_SHARD = "session_id >= {first_session:String} AND session_id <= {last_session:String}"
_COLUMNS = """call_id, ts, visitor_key AS visitor_id, visitor_hash, content_hash, valid_user_id AS user_id,
    method, endpoint, status, duration_ms, ip, user_agent, referrer, page_url"""
# Only a session that crosses a midnight needs calls from beyond it.
_CALLS_WHERE = f"""{_IN_SHARD} AND (ts >= {instant("start")} AND ts < {instant("end")}
    OR ts >= {instant("end")} AND ts < {instant("next_end")}
        AND visitor_hash IN ({crossing_visitors("end", among=_IN_SHARD)}))"""
_BEFORE_MIDNIGHT = f"""{_IN_SHARD} AND ts >= {instant("previous_start")} AND ts < {instant("start")}
    AND visitor_hash IN ({crossing_visitors("start", among=_IN_SHARD)})"""
_EARLIER_SQL = f"SELECT visitor_hash, ts, call_id FROM pd.api_calls WHERE {_BEFORE_MIDNIGHT}"
_CALLED = MOMENT_SCHEMA | {"content_hash": pl.UInt64()}
_PUBLISHED = {name: EVENTS.schema[name] for name in ("session_id", "ts", "call_id", "content_hash")}
_TYPED = {name: EVENTS.schema[name] for name in ("call_id", "content_hash", *TYPED_SCHEMA, *ORIGINALS.values())}


@dataclass(frozen=True)
class BuildScope:
    """What a build reads: the whole day, or selected sessions; and from which days it may reuse typed events.

    `visitors` is a query of `visitor_hash` and `sessions` one of `session_id`; both are empty where the whole day is
    read. `blocks` are the starts, in epoch ms, of the 4-hour blocks that hold the calls of those sessions.
    """

    bounds: DayBounds
    endpoint_map: EndpointMap
    timeout_ms: int
    visitors: str = ""
    sessions: str = ""
    session_ids: pl.Series | None = None
    blocks: tuple[int, ...] = ()
    reusable_days: tuple[date, ...] = ()

    @property
    def selected(self) -> str:
        """The SQL condition, to be appended, of calls that count, by the selected visitors."""
        of_visitors = f" AND visitor_hash IN ({self.visitors})" if self.visitors else ""
        return f" AND {is_counted(self.endpoint_map)}{of_visitors}"


@dataclass(frozen=True)
class ShardKey:
    """Which of a day's shards: its number, from 0, out of `count`."""

    scope: BuildScope
    number: int
    count: int

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
        }


@dataclass(frozen=True)
class Shard:
    """The calls of some of a day's visitors: those of the day, and those that their sessions reach on the next day.

    Where the endpoint map recalls, calls before the day's first midnight by visitors who cross it are among them, for
    what they remember.

    `documents` are the calls' `request` and `response`, kept in Arrow; a call's `document` is its row there. Where
    events are reused, `typed` holds `call_id, content_hash, event` and the fields of the typed calls, and `documents`
    is empty. `earlier` says when these visitors called on the day before, as far as their sessions may begin there.
    """

    calls: pl.DataFrame
    documents: pa.Table
    typed: pl.DataFrame
    earlier: pl.DataFrame


def count_calls(warehouse: Warehouse, bounds: DayBounds, endpoint_map: EndpointMap, *, what: str = "count()") -> int:
    """The number of calls of the day itself that are not ignored; `what` is the SQL by which they are counted."""
    of_day = f"ts >= {instant('start')} AND ts < {instant('end')} AND {is_counted(endpoint_map)}"
    sql = f"SELECT {what} FROM pd.api_calls WHERE {of_day}"
    return int(warehouse.scalar(sql, {"start": bounds.start, "end": bounds.end}))


def shard_count(day_calls: int, *, shard_calls: int) -> int:
    """The number of shards that gives each about `shard_calls` calls."""
    return min(max(1, -(-day_calls // shard_calls)), _MAX_SHARDS)


def read_shard(warehouse: Warehouse, key: ShardKey) -> Shard | None:
    """The shard, or None if it holds no call."""
    scope, parameters = key.scope, key.parameters
    where = f"({_CALLS_WHERE}{f' AND {_IN_BLOCKS}' if scope.sessions else ''})"
    if scope.endpoint_map.has_recall:
        where = f"({where} OR {_BEFORE_MIDNIGHT})"
    where += scope.selected
    if scope.reusable_days:
        calls = _read_frame(warehouse, f"SELECT {_COLUMNS} FROM pd.api_calls WHERE {where}", parameters, schema={})
        typed = _read_typed(warehouse, scope, parameters)
    else:
        sql = f"SELECT {_COLUMNS}, {_documents(scope.endpoint_map)} FROM pd.api_calls WHERE {where}"
        table = _read(warehouse, sql, parameters)
        calls = _frame(table.drop_columns(_DOCUMENTS)) if table.num_rows else pl.DataFrame()
        typed = pl.DataFrame(schema=_TYPED)
    if calls.is_empty():
        return None
    earlier = pl.DataFrame(schema=MOMENT_SCHEMA) if scope.endpoint_map.has_recall else _read_earlier(warehouse, key)
    if scope.sessions:  # of calls in other sessions only the moment matters
        others = f"SELECT {', '.join(MOMENT_SCHEMA)} FROM pd.api_calls WHERE {_CALLS_WHERE}{scope.selected}"
        elsewhere = _read_frame(warehouse, f"{others} AND NOT {_IN_BLOCKS}", parameters, schema=MOMENT_SCHEMA)
        earlier = pl.concat([earlier, elsewhere])
    if not scope.reusable_days:
        return Shard(calls.with_row_index("document"), table.select(_DOCUMENTS).combine_chunks(), typed, earlier)
    return Shard(calls, _NO_DOCUMENTS, typed, earlier)


def read_moments(warehouse: Warehouse, key: ShardKey) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`visitor_hash, ts, call_id, content_hash` of a shard's calls, and `earlier` as `Shard` has it."""
    sql = f"SELECT {', '.join(_CALLED)} FROM pd.api_calls WHERE {_CALLS_WHERE}{key.scope.selected}"
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
    return _read_frame(warehouse, f"{_EARLIER_SQL}{key.scope.selected}", key.parameters, schema=MOMENT_SCHEMA)


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
    warehouse: Warehouse, calls: pl.DataFrame, endpoint_map: EndpointMap, *, ids_table: str
) -> tuple[pl.DataFrame, pa.Table]:
    """The calls with `document`, and their JSON.

    In: `ts, call_id, content_hash`. `ids_table` is the name of a temporary table for their ids.
    """
    with warehouse.held_ids(calls["call_id"], table=ids_table) as ids:
        table = _read(
            warehouse,
            f"SELECT call_id, content_hash, {_documents(endpoint_map)} FROM pd.api_calls "
            f"WHERE {_IN_BLOCKS} AND call_id IN ({ids})",
            {"blocks": blocks_of(calls["ts"])},
        )
    records = _frame(table.select(_RECORD)).with_row_index("document").unique(_RECORD, keep="first")
    return calls.join(records, on=_RECORD, how="left"), table.select(_DOCUMENTS).combine_chunks()


def blocks_of(moments: pl.Series) -> list[int]:
    """The 4-hour blocks of these instants, by which the table is sorted, as the epoch ms of their starts."""
    return moments.dt.truncate("4h").dt.epoch("ms").unique().sort().to_list()


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
