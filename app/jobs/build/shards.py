"""Reads a day's raw calls in shards of visitors, so that a build holds a bounded number of calls in memory.

A session is one visitor's, so shards are independent, and no result depends on how many there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl
import pyarrow as pa
from polars.datatypes import DataType

from app.contracts import API_CALLS, EVENTS, VISITOR_OF_SESSION, Table, sql_text
from app.core.errors import ContractError
from app.frames.days import DaySpans
from app.frames.events import FAILED_STATUS
from app.jobs.build.boundaries import MOMENT, TS, crossing_visitors
from app.rules.endpoint_map import FIELDS, EndpointMap, MappedCall
from app.warehouse import Warehouse

_HASHES = 2**64
_MAX_SHARDS = 4096
_DOCUMENTS = ["request", "response"]
_NO_DOCUMENTS = pa.table({name: pa.array([], pa.string()) for name in _DOCUMENTS})
_RECORD = ["call_id", "content_hash"]


@dataclass(frozen=True)
class Shard:
    """The calls of some of the visitors of a day: its own, and what their sessions reach into the next day.

    `documents` are the calls' `request` and `response`, which stay Arrow; a call's `document` is its row there. Where
    calls are typed already, `typed` has `call_id, content_hash, event` and the fields of those, and there are none.
    `earlier`: when these visitors called on the day before, as far as their sessions may have begun there.
    """

    calls: pl.DataFrame
    documents: pa.Table
    typed: pl.DataFrame
    earlier: pl.DataFrame


@dataclass(frozen=True)
class Scope:
    """What is read of a day: all of it, or of some visitors some sessions; and which days' `dwh.events` may be used.

    `visitors` is a query of `visitor_hash`, `sessions` one of `session_id`; both are empty where all is read. `blocks`
    are the starts, in epoch ms, of the 4 hours in which the calls of those sessions are.
    """

    spans: DaySpans
    endpoint_map: EndpointMap
    timeout_ms: int
    visitors: str = ""
    sessions: str = ""
    session_ids: pl.Series | None = None
    blocks: tuple[int, ...] = ()
    reusable_days: tuple[date, ...] = ()


def count_calls(warehouse: Warehouse, spans: DaySpans, *, what: str = "count()") -> int:
    """The calls of the day itself; `what` is the SQL of how they are counted."""
    sql = f"SELECT {what} FROM pd.api_calls WHERE ts >= {TS('start')} AND ts < {TS('end')}"
    return int(warehouse.scalar(sql, {"start": spans.start, "end": spans.end}))


def shard_count(day_calls: int, *, shard_calls: int) -> int:
    """How many shards keep each at about `shard_calls` calls."""
    return min(max(1, -(-day_calls // shard_calls)), _MAX_SHARDS)


def read_shard(warehouse: Warehouse, number: int, count: int, scope: Scope) -> Shard | None:
    """The shard with this number, from 0, of so many; None if it holds no call."""
    parameters = _parameters(scope, number, count)
    where = _CALLS_WHERE + _of_visitors(scope) + (f" AND {_IN_BLOCKS}" if scope.sessions else "")
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
    earlier = _read_earlier(warehouse, scope, parameters)
    if scope.sessions:  # of calls in other sessions only the moment matters
        others = f"SELECT {', '.join(MOMENT)} FROM pd.api_calls WHERE {_CALLS_WHERE}{_of_visitors(scope)}"
        elsewhere = _read_frame(warehouse, f"{others} AND NOT {_IN_BLOCKS}", parameters, schema=MOMENT)
        earlier = pl.concat([earlier, elsewhere])
    if not scope.reusable_days:
        return Shard(calls.with_row_index("document"), table.select(_DOCUMENTS).combine_chunks(), typed, earlier)
    return Shard(calls, _NO_DOCUMENTS, typed, earlier)


def read_moments(warehouse: Warehouse, number: int, count: int, scope: Scope) -> tuple[pl.DataFrame, pl.DataFrame]:
    """When a shard's calls were, and which they are: `visitor_hash, ts, call_id, content_hash`; and `earlier` ones."""
    parameters = _parameters(scope, number, count)
    sql = f"SELECT {', '.join(_CALLED)} FROM pd.api_calls WHERE {_CALLS_WHERE}{_of_visitors(scope)}"
    return _read_frame(warehouse, sql, parameters, schema=_CALLED), _read_earlier(warehouse, scope, parameters)


def read_published(warehouse: Warehouse, number: int, count: int, scope: Scope) -> pl.DataFrame:
    """`session_id, ts, call_id, content_hash` of a shard's calls of the day as `dwh.events` has them."""
    return warehouse.query(
        f"SELECT {', '.join(_PUBLISHED)} FROM dwh.events WHERE event_date = {{day:Date}} AND {_OF_SHARD}"
        f" AND {VISITOR_OF_SESSION} IN ({scope.visitors})",
        _parameters(scope, number, count),
        schema=_PUBLISHED,
    )


def _parameters(scope: Scope, number: int, count: int) -> dict[str, object]:
    spans = scope.spans
    first, last = number * _HASHES // count, (number + 1) * _HASHES // count - 1
    return {
        "first_hash": first,
        "last_hash": last,
        "first_session": f"{first:016x}",
        "last_session": f"{last:016x}~",
        "timeout_ms": scope.timeout_ms,
        "previous_start": spans.previous_start - scope.timeout_ms,
        "start": spans.start,
        "end": spans.end,
        "next_end": spans.next_end,
        "day": spans.day,
        "blocks": list(scope.blocks),
    }


def _of_visitors(scope: Scope) -> str:
    return f" AND visitor_hash IN ({scope.visitors})" if scope.visitors else ""


def _read_earlier(warehouse: Warehouse, scope: Scope, parameters: dict[str, object]) -> pl.DataFrame:
    return _read_frame(warehouse, f"{_EARLIER_SQL}{_of_visitors(scope)}", parameters, schema=MOMENT)


_IN_SHARD = "visitor_hash BETWEEN {first_hash:UInt64} AND {last_hash:UInt64}"
_IN_BLOCKS = "toUnixTimestamp(toStartOfInterval(ts, INTERVAL 4 HOUR)) * 1000 IN {blocks:Array(Int64)}"
_OF_SHARD = "session_id >= {first_session:String} AND session_id <= {last_session:String}"
_COLUMNS = """call_id, ts, visitor_key AS visitor_id, visitor_hash, content_hash, user_id, method, endpoint, status,
    duration_ms, ip, user_agent, referrer, page_url"""
# Only a session that crosses a midnight needs calls from beyond it.
_CALLS_WHERE = f"""{_IN_SHARD} AND (ts >= {TS("start")} AND ts < {TS("end")}
    OR ts >= {TS("end")} AND ts < {TS("next_end")} AND visitor_hash IN ({crossing_visitors("end", among=_IN_SHARD)}))"""
_EARLIER_SQL = f"""
SELECT visitor_hash, ts, call_id FROM pd.api_calls
WHERE {_IN_SHARD} AND ts >= {TS("previous_start")} AND ts < {TS("start")}
    AND visitor_hash IN ({crossing_visitors("start", among=_IN_SHARD)})"""
_CALLED = MOMENT | {"content_hash": pl.UInt64()}
_PUBLISHED = {name: EVENTS.schema[name] for name in ("session_id", "ts", "call_id", "content_hash")}
_TYPED = {name: EVENTS.schema[name] for name in ("call_id", "content_hash", "event", *FIELDS)}


def _read_typed(warehouse: Warehouse, scope: Scope, parameters: dict[str, object]) -> pl.DataFrame:
    """What `dwh.events` holds of the shard's calls: their JSON need not be parsed again."""
    of_sessions = f" AND session_id IN ({scope.sessions})" if scope.sessions else ""
    crossing = f"{VISITOR_OF_SESSION} IN ({crossing_visitors('end', among=_IN_SHARD)})"
    of_day = {
        scope.spans.day: f"event_date = {{day:Date}}{of_sessions}",
        scope.spans.day + timedelta(days=1): f"event_date = {{day:Date}} + 1 AND {crossing}",
    }
    days = " OR ".join(f"({sql})" for day, sql in of_day.items() if day in scope.reusable_days)
    sql = f"SELECT {', '.join(_TYPED)} FROM dwh.events WHERE ({days}) AND {_OF_SHARD}"
    typed = _read_frame(warehouse, sql, parameters, schema=_TYPED, contract=EVENTS)
    return typed.unique(_RECORD)  # by another time zone a call may be published on both days


def read_documents(
    warehouse: Warehouse, calls: pl.DataFrame, endpoint_map: EndpointMap, *, aside: str
) -> tuple[pl.DataFrame, pa.Table]:
    """The calls with `document`, and the JSON of those that have none yet; `aside` is a table's name to use meanwhile.

    In: `ts, call_id, content_hash`.
    """
    warehouse.keep_aside(aside, calls["call_id"])
    try:
        table = _read(
            warehouse,
            f"SELECT call_id, content_hash, {_documents(endpoint_map)} FROM pd.api_calls "
            f"WHERE {_IN_BLOCKS} AND call_id IN (SELECT id FROM {aside})",
            {"blocks": blocks_of(calls["ts"])},
        )
    finally:
        warehouse.command(f"DROP TABLE IF EXISTS {aside} SYNC")
    records = _frame(table.select(_RECORD)).with_row_index("document").unique(_RECORD, keep="first")
    return calls.join(records, on=_RECORD, how="left"), table.select(_DOCUMENTS).combine_chunks()


def blocks_of(moments: pl.Series) -> list[int]:
    """The 4 hours, by which calls stand together in the table, as the epoch ms of their starts."""
    return moments.dt.truncate("4h").dt.epoch("ms").unique().sort().to_list()


def _documents(endpoint_map: EndpointMap) -> str:
    """JSON is read only where the endpoint map takes a field from it; the frames decide again what a call was."""
    needs_request = _is_any([call for call in endpoint_map.calls if call.request])
    needs_response = _is_any([call for call in endpoint_map.calls if call.response])
    return f"if({needs_request}, request, '') AS request, if({needs_response}, response, '') AS response"


def _is_any(calls: list[MappedCall]) -> str:
    matches = [f"upper(method) = {sql_text(c.method)} AND match(endpoint, {sql_text(c.path_pattern)})" for c in calls]
    return f"status < {FAILED_STATUS} AND ({' OR '.join(matches) or '0'})"


def _read(warehouse: Warehouse, sql: str, parameters: dict[str, object]) -> pa.Table:
    table = warehouse.query_arrow(sql, parameters)
    try:  # nothing else on the way makes sure that stored text is UTF-8
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
    """The result as a frame; an empty one in this schema, as the embedded engine gives it none."""
    table = _read(warehouse, sql, parameters)
    return _frame(table, contract) if table.num_columns else pl.DataFrame(schema=schema)


def _frame(table: pa.Table, contract: Table = API_CALLS) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return contract.check_dtypes(frame, where=f"reading {contract.full_name}")
