"""Reads how a day's sessions reach over its two midnights: what of its neighbours' calls the day depends on."""

from dataclasses import dataclass

import polars as pl

from app.contracts import API_CALLS
from app.frames.days import DaySpans
from app.frames.sessionize import reached_calls
from app.warehouse import Warehouse

# A quarter of an hour lies in one business day, wherever clocks are.
QUARTER = "toDateTime64(toStartOfInterval(ts, INTERVAL 15 MINUTE, 'UTC'), 3, 'UTC')"
CALL_HASH = "cityHash64(call_id, content_hash)"
# When a call was, and whose: what sessions are made by.
MOMENT = {"visitor_hash": pl.UInt64(), "ts": API_CALLS.schema["ts"], "call_id": API_CALLS.schema["call_id"]}
TS = "fromUnixTimestamp64Milli({{{}:Int64}}, 'UTC')".format


@dataclass(frozen=True)
class Reach:
    """What of its neighbours' calls a day depends on, as sums of hashes.

    Of the day before: when those visitors called who went on past midnight. Of the day after: the calls that go on,
    without a pause, from calls of this day.
    """

    earlier_fingerprint: int
    later_fingerprint: int


def crossing_visitors(midnight: str, *, among: str = "1") -> str:
    """The SQL of the visitors whose calls may go on over a midnight (the name of a parameter, epoch ms)."""
    at, timeout = f"{{{midnight}:Int64}}", "{timeout_ms:Int64}"
    before = f"ts >= fromUnixTimestamp64Milli({at} - {timeout}, 'UTC') AND ts < {TS(midnight)}"
    after = f"ts >= {TS(midnight)} AND ts <= fromUnixTimestamp64Milli({at} + {timeout}, 'UTC')"
    return (
        f"SELECT visitor_hash FROM pd.api_calls WHERE {among} AND {before} "
        f"AND visitor_hash IN (SELECT visitor_hash FROM pd.api_calls WHERE {among} AND {after})"
    )


def read_reach(warehouse: Warehouse, spans: DaySpans, *, timeout_ms: int) -> Reach:
    """What of its neighbours' calls the day depends on, as it is now."""
    parameters = {
        "previous_start": spans.previous_start - timeout_ms,
        "start": spans.start,
        "end": spans.end,
        "next_end": spans.next_end,
        "timeout_ms": timeout_ms,
    }
    earlier = warehouse.scalar(
        f"SELECT sum(cityHash64(visitor_hash, ts, call_id)) FROM pd.api_calls "
        f"WHERE ts >= {TS('previous_start')} AND ts < {TS('start')} AND visitor_hash IN ({crossing_visitors('start')})",
        parameters,
    )
    around = warehouse.query(
        f"SELECT visitor_hash, ts, call_id, {CALL_HASH} AS hash FROM pd.api_calls "
        f"WHERE ts >= fromUnixTimestamp64Milli({{end:Int64}} - {{timeout_ms:Int64}}, 'UTC') AND ts < {TS('next_end')} "
        f"AND visitor_hash IN ({crossing_visitors('end')})",
        parameters,
        schema=MOMENT | {"hash": pl.UInt64()},
    )
    later = reached_calls(around, midnight=spans.end, timeout_ms=timeout_ms)["hash"].sum()
    return Reach(int(earlier), int(later))
