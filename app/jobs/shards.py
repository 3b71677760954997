"""Reads a day's raw calls in shards of visitors, so that a build holds a bounded number of calls in memory.

A session is one visitor's, so shards are independent, and no result depends on how many there are.
"""

from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from app.contracts import API_CALLS, sql_text
from app.errors import ContractError
from app.frames.days import DaySpans
from app.frames.events import FAILED_STATUS
from app.tracking import EndpointMap, MappedCall
from app.warehouse import Warehouse

_HASHES = 2**64
_MAX_SHARDS = 4096
_DOCUMENTS = ["request", "response"]
_TS = "fromUnixTimestamp64Milli({{{}:Int64}}, 'UTC')".format


@dataclass(frozen=True)
class Shard:
    """The calls of some of the visitors of a day: its own, and what their sessions reach into the next day.

    `documents` are the calls' `request` and `response`, which stay Arrow; a call's `document` is its row there.
    `earlier`: when these visitors called on the day before, as far as their sessions may have begun there.
    """

    calls: pl.DataFrame
    documents: pa.Table
    earlier: pl.DataFrame


def count_calls(warehouse: Warehouse, spans: DaySpans) -> int:
    """The calls of the day itself."""
    where = f"ts >= {_TS('start')} AND ts < {_TS('end')}"
    return int(
        warehouse.scalar(f"SELECT count() FROM pd.api_calls WHERE {where}", {"start": spans.start, "end": spans.end})
    )


def shard_count(day_calls: int, *, shard_calls: int) -> int:
    """How many shards keep each at about `shard_calls` calls."""
    return min(max(1, -(-day_calls // shard_calls)), _MAX_SHARDS)


def read_shard(
    warehouse: Warehouse, number: int, count: int, *, spans: DaySpans, endpoint_map: EndpointMap, timeout_ms: int
) -> Shard | None:
    """The shard with this number, from 0, of so many; None if it holds no call."""
    parameters = {
        "first_hash": number * _HASHES // count,
        "last_hash": (number + 1) * _HASHES // count - 1,
        "timeout_ms": timeout_ms,
        "previous_start": spans.previous_start - timeout_ms,
        "start": spans.start,
        "end": spans.end,
        "next_end": spans.next_end,
    }
    table = _read(warehouse, _calls_sql(endpoint_map), parameters)
    if not table.num_rows:
        return None
    calls = _frame(table.drop_columns(_DOCUMENTS)).with_row_index("document")
    documents = table.select(_DOCUMENTS).combine_chunks()
    return Shard(calls, documents, _frame(_read(warehouse, _EARLIER_SQL, parameters)))


_IN_SHARD = "visitor_hash BETWEEN {first_hash:UInt64} AND {last_hash:UInt64}"


def _just_before(midnight: str) -> str:
    """Visitors with a call within one timeout before a midnight: only their sessions can cross it."""
    before = f"fromUnixTimestamp64Milli({{{midnight}:Int64}} - {{timeout_ms:Int64}}, 'UTC')"
    return f"SELECT visitor_hash FROM pd.api_calls WHERE {_IN_SHARD} AND ts >= {before} AND ts < {_TS(midnight)}"


_EARLIER_SQL = f"""
SELECT visitor_hash, ts, call_id FROM pd.api_calls
WHERE {_IN_SHARD} AND ts >= {_TS("previous_start")} AND ts < {_TS("start")}
    AND visitor_hash IN ({_just_before("start")})"""


def _calls_sql(endpoint_map: EndpointMap) -> str:
    """JSON is read only where the endpoint map takes a field from it; the frames decide again what a call was."""
    needs_request = _is_any([call for call in endpoint_map.calls if call.request])
    needs_response = _is_any([call for call in endpoint_map.calls if call.response])
    return f"""
SELECT call_id, ts, visitor_key AS visitor_id, visitor_hash, content_hash, user_id, method, endpoint, status,
    duration_ms, user_agent, referrer, page_url,
    if({needs_request}, request, '') AS request, if({needs_response}, response, '') AS response
FROM pd.api_calls
WHERE {_IN_SHARD} AND (ts >= {_TS("start")} AND ts < {_TS("end")}
    OR ts >= {_TS("end")} AND ts < {_TS("next_end")} AND visitor_hash IN ({_just_before("end")}))"""


def _is_any(calls: list[MappedCall]) -> str:
    matches = [f"upper(method) = {sql_text(c.method)} AND match(endpoint, {sql_text(c.path_pattern)})" for c in calls]
    return f"status < {FAILED_STATUS} AND ({' OR '.join(matches) or '0'})"


def _read(warehouse: Warehouse, sql: str, parameters: dict[str, int]) -> pa.Table:
    table = warehouse.query_arrow(sql, parameters)
    try:  # nothing else on the way makes sure that stored text is UTF-8
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ContractError(f"reading pd.api_calls: {error}") from None
    return table


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return API_CALLS.check_dtypes(frame, where="reading pd.api_calls")
