"""SQL over raw calls that several steps of a build share."""

import polars as pl

from app.contracts import API_CALLS
from app.core.sql import quote
from app.frames.routes import normal_path_sql
from app.rules.endpoint_map import CallPattern, EndpointMap

# A quarter of an hour lies within one business day in every time zone.
QUARTER_HOUR = "toDateTime64(toStartOfInterval(ts, INTERVAL 15 MINUTE, 'UTC'), 3, 'UTC')"
CALL_HASH = "cityHash64(call_id, content_hash)"
# When a call happened, and whose it is: all that splitting calls into sessions needs.
MOMENT_SCHEMA = {"visitor_hash": pl.UInt64(), "ts": API_CALLS.schema["ts"], "call_id": API_CALLS.schema["call_id"]}


def instant(parameter: str) -> str:
    """The SQL of the instant that a query parameter holds in epoch ms."""
    return f"fromUnixTimestamp64Milli({{{parameter}:Int64}}, 'UTC')"


def crossing_visitors(midnight: str, *, among: str = "1") -> str:
    """The SQL of the visitors with calls on both sides of a midnight, each within the timeout of it.

    `midnight` is the name of a query parameter in epoch ms; the query also needs `timeout_ms`.
    """
    at, timeout = f"{{{midnight}:Int64}}", "{timeout_ms:Int64}"
    before = f"ts >= fromUnixTimestamp64Milli({at} - {timeout}, 'UTC') AND ts < {instant(midnight)}"
    after = f"ts >= {instant(midnight)} AND ts <= fromUnixTimestamp64Milli({at} + {timeout}, 'UTC')"
    return (
        f"SELECT visitor_hash FROM pd.api_calls WHERE {among} AND {before} "
        f"AND visitor_hash IN (SELECT visitor_hash FROM pd.api_calls WHERE {among} AND {after})"
    )


def fits(pattern: CallPattern) -> str:
    """The SQL condition of calls whose method and path are those of a pattern."""
    methods = ", ".join(map(quote, pattern.methods))
    is_path = "" if pattern.path_pattern == "^" else f"match({normal_path_sql()}, {quote(pattern.path_pattern)})"
    parts = [f"upper(method) IN ({methods})" if methods else "", is_path]
    return " AND ".join(filter(None, parts)) or "1"


def is_counted(endpoint_map: EndpointMap) -> str:
    """The SQL condition of calls that are not ignored."""
    ignored = " OR ".join(f"({fits(pattern)})" for pattern in endpoint_map.ignored)
    return f"NOT ({ignored})" if ignored else "1"
