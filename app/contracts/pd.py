"""The contract of `pd`: raw calls, as the shop sent them."""

from app.contracts.table import Table
from app.contracts.types import LABEL, TIME, Column
from app.core.call_record import CONTENT_FIELDS

_CONTENT_SQL = "concatWithSeparator(char(31), {})".format(
    ", ".join("toString(toUnixTimestamp64Milli(ts))" if f == "ts" else f"toString({f})" for f in CONTENT_FIELDS)
)
_VISITOR_KEY_SQL = (
    "multiIf(visitor_id != '', visitor_id, session_token != '', session_token, "
    "concat('anonymous-', lower(hex(sipHash64(ip, user_agent)))))"
)

# What was delivered survives a power cut, and an insert that is sent again because its answer was lost counts once.
FSYNC_SETTINGS = "non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1"

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
            expression=f"ALIAS {_VISITOR_KEY_SQL}",
        ),
        Column(
            "visitor_hash", "UInt64", "hash of visitor_key; what a build is split by",
            expression=f"MATERIALIZED sipHash64({_VISITOR_KEY_SQL})",
        ),
        Column(
            "content_hash", "UInt64", "first 8 bytes (little endian) of the MD5 of the record's content",
            expression=f"MATERIALIZED reinterpretAsUInt64(substring(MD5({_CONTENT_SQL}), 1, 8))",
        ),
    ),
    # By visitor, so that a build can read ranges of them; by hours first, so that new calls stand together.
    order_by="(toStartOfInterval(ts, INTERVAL 4 HOUR), visitor_hash, ts, call_id)",
    partition_by="toYYYYMMDD(ts)",
    unique_key=("call_id",),
    settings=f"index_granularity = 1024, {FSYNC_SETTINGS}",  # a call is wide
)  # fmt: skip
