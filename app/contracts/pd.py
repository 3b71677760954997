"""The contract of `pd`: raw calls, as the shop sent them."""

from collections.abc import Iterable
from dataclasses import replace

from app.contracts.table import Table
from app.contracts.types import LABEL, TIME, Column
from app.core.call_record import CONTENT_FIELDS
from app.core.no_ids import DEFAULT_NO_IDS, parse_no_ids
from app.core.sql import quote

_CONTENT_SQL = "concatWithSeparator(char(31), {})".format(
    ", ".join("toString(toUnixTimestamp64Milli(ts))" if f == "ts" else f"toString({f})" for f in CONTENT_FIELDS)
)
# What was delivered survives a power cut, and an insert that is sent again because its answer was lost counts once.
FSYNC_SETTINGS = "non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1"


def _valid_id(column: str, no_ids: Iterable[str]) -> str:
    values = ", ".join(map(quote, ("", *no_ids)))
    return f"if(lower(trimBoth({column})) IN ({values}), '', {column})"


def _id_expressions(no_ids: Iterable[str]) -> dict[str, str]:
    """Per column that the warehouse computes from ids: its expression."""
    visitor_id, session_token, user_id = (
        _valid_id(name, no_ids) for name in ("visitor_id", "session_token", "user_id")
    )
    visitor_key = (
        f"multiIf({visitor_id} != '', visitor_id, {session_token} != '', session_token, "
        "concat('anonymous-', lower(hex(sipHash64(ip, user_agent)))))"
    )
    return {
        "visitor_key": f"ALIAS {visitor_key}",
        "visitor_hash": f"MATERIALIZED sipHash64({visitor_key})",
        "valid_visitor_id": f"ALIAS {visitor_id}",
        "valid_session_token": f"ALIAS {session_token}",
        "valid_user_id": f"ALIAS {user_id}",
    }


_EXPRESSIONS = _id_expressions(parse_no_ids(DEFAULT_NO_IDS))

API_CALLS = Table(
    "pd", "api_calls",
    "Raw: one row per API call of the shop, as sent.",
    (
        Column("call_id", "UUID", "idempotency key of the call; derived from the content where the shop sent none"),
        Column("ts", TIME, "when the call happened", codec="Delta, ZSTD(1)"),
        Column("received_at", TIME, "when Carat took the record in", codec="Delta, ZSTD(1)"),
        Column("visitor_id", "String", "the device's long-lived cookie; empty if none"),
        Column("session_token", "String", "the shop API's own session token; empty if none"),
        Column("user_id", "String", "the signed-in user; empty if none"),
        Column("method", LABEL, "HTTP method"),
        Column("endpoint", LABEL, "path of the call as sent, with the query string if there was one"),
        Column("status", "UInt16", "HTTP status; 0 if the record had none"),
        Column("duration_ms", "UInt32", "how long the call took, in milliseconds"),
        Column("ip", "String", "the shopper's address"),
        Column("user_agent", LABEL, "the shopper's user agent"),
        Column("referrer", "String", "page from which the shopper came"),
        Column("page_url", "String", "page the shopper was on, with its utm parameters"),
        Column("request", "String", "JSON {query, body} as sent", codec="ZSTD(1)"),
        Column("response", "String", "JSON response body as sent", codec="ZSTD(1)"),
        Column(
            "visitor_key", "String", "visitor_id, else session_token, else a hash of ip and user agent",
            expression=_EXPRESSIONS["visitor_key"],
        ),
        Column(
            "visitor_hash", "UInt64", "hash of visitor_key; what a build is split by",
            expression=_EXPRESSIONS["visitor_hash"],
        ),
        Column(
            "content_hash", "UInt64", "first 8 bytes (little endian) of the MD5 of the record's content",
            expression=f"MATERIALIZED reinterpretAsUInt64(substring(MD5({_CONTENT_SQL}), 1, 8))",
        ),
        *(
            Column(
                f"valid_{name}", "String", f"{name}; empty if it is one of CARAT_NO_IDS",
                expression=_EXPRESSIONS[f"valid_{name}"],
            )
            for name in ("visitor_id", "session_token", "user_id")
        ),
    ),
    # By visitor, so that a build can read ranges of them; by hours first, so that new calls stand together.
    order_by="(toStartOfInterval(ts, INTERVAL 4 HOUR), visitor_hash, ts, call_id)",
    partition_by="toYYYYMMDD(ts)",
    unique_key=("call_id",),
    settings=f"index_granularity = 1024, {FSYNC_SETTINGS}",  # a call is wide
)  # fmt: skip


def raw_calls(no_ids: Iterable[str]) -> Table:
    """The contract of `pd.api_calls` where these values count as no id; an empty text always does.

    In: values in lower case, as `parse_no_ids` returns them.
    """
    expressions = _id_expressions(no_ids)
    return replace(
        API_CALLS,
        columns=tuple(
            replace(column, expression=expressions.get(column.name, column.expression)) for column in API_CALLS.columns
        ),
    )
