"""The data dictionary: one contract per table, from which its DDL, its comments and every check are made.

Contracts are enforced at two edges: on what is read from the warehouse (`Table.check_dtypes`) and on what is about
to be written (`Table.validate`), because an Arrow insert into ClickHouse turns null into a default and wraps an
overflow without a word.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import polars as pl
from polars.datatypes import DataType

from app.core.call_record import CONTENT_FIELDS
from app.core.errors import ContractError

MONEY = "Decimal(18, 2)"
TIME = "DateTime64(3, 'UTC')"
PRECISE_TIME = "DateTime64(6, 'UTC')"
LABEL = "LowCardinality(String)"
NULLABLE_LABEL = "LowCardinality(Nullable(String))"

_DTYPES: dict[str, DataType] = {
    "Bool": pl.Boolean(),
    "Date": pl.Date(),
    "Date32": pl.Date(),
    "Float32": pl.Float32(),
    "Float64": pl.Float64(),
    "Int8": pl.Int8(),
    "Int16": pl.Int16(),
    "Int32": pl.Int32(),
    "Int64": pl.Int64(),
    "String": pl.String(),
    "UInt8": pl.UInt8(),
    "UInt16": pl.UInt16(),
    "UInt32": pl.UInt32(),
    "UInt64": pl.UInt64(),
    "UUID": pl.Binary(),  # 16 bytes, in the order in which the text form reads
    TIME: pl.Datetime("ms", "UTC"),
    PRECISE_TIME: pl.Datetime("us", "UTC"),
}
_WRAPPED = re.compile(r"(Nullable|Array|LowCardinality)\((.*)\)")
_DECIMAL = re.compile(r"Decimal\((\d+), (\d+)\)")


def dtype_of(clickhouse_type: str) -> DataType:
    """The dtype in which a column of this ClickHouse type is held in a frame."""
    if match := _WRAPPED.fullmatch(clickhouse_type):
        inner = dtype_of(match[2])
        return pl.List(inner) if match[1] == "Array" else inner
    if match := _DECIMAL.fullmatch(clickhouse_type):
        return pl.Decimal(int(match[1]), int(match[2]))
    return _DTYPES[clickhouse_type]


@dataclass(frozen=True)
class Column:
    """One column: its ClickHouse type, what it means, and what is particular about how it is kept."""

    name: str
    type: str
    comment: str
    expression: str = ""  # "MATERIALIZED …" or "ALIAS …": computed by the warehouse, never written by us
    codec: str = ""
    holds_bytes: bool = False  # a String that need not be UTF-8

    @property
    def is_nullable(self) -> bool:
        return "Nullable(" in self.type and not self.type.startswith("Array(")

    @property
    def dtype(self) -> DataType:
        return pl.Binary() if self.holds_bytes else dtype_of(self.type)

    @property
    def ddl(self) -> str:
        codec = f" CODEC({self.codec})" if self.codec else ""
        expression = f" {self.expression}" if self.expression else ""
        return f"`{self.name}` {self.type}{expression} COMMENT {sql_text(self.comment)}{codec}"


@dataclass(frozen=True)
class Table:
    """One table: its columns in order, its sorting key, its partitioning, and the key that is unique in a day."""

    database: str
    name: str
    comment: str
    columns: tuple[Column, ...]
    order_by: str
    partition_by: str = ""
    unique_key: tuple[str, ...] = ()
    engine: str = "MergeTree"
    settings: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.database}.{self.name}"

    @property
    def remembers_inserts(self) -> bool:
        """Whether the engine drops an insert that has the same token as one of the last ones."""
        return "deduplication_window" in self.settings

    @cached_property
    def written(self) -> tuple[Column, ...]:
        """The columns that a writer supplies."""
        return tuple(column for column in self.columns if not column.expression)

    @cached_property
    def schema(self) -> pl.Schema:
        return pl.Schema({column.name: column.dtype for column in self.written})

    def create_statement(self, *, name: str | None = None, ttl: str = "", settings: str = "") -> str:
        """The CREATE TABLE of this contract; with `name` that of an equal table elsewhere (staging)."""
        lines = ",\n  ".join(column.ddl for column in self.columns)
        partition = f"\nPARTITION BY {self.partition_by}" if self.partition_by else ""
        ttl_clause = f"\nTTL {ttl}" if ttl else ""
        all_settings = ", ".join(text for text in (self.settings, settings) if text)
        settings_clause = f"\nSETTINGS {all_settings}" if all_settings else ""
        return (
            f"CREATE TABLE IF NOT EXISTS {name or self.full_name}\n(\n  {lines}\n)\nENGINE = {self.engine}{partition}"
            f"\nORDER BY {self.order_by}{ttl_clause}{settings_clause}\nCOMMENT {sql_text(self.comment)}"
        )

    def check_dtypes(self, frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
        """The frame itself, if its columns are those of the contract in type; else ContractError names the first."""
        for name, dtype in frame.schema.items():
            expected = self.schema.get(name)
            if expected is not None and dtype != expected and not (expected == pl.String() and dtype == pl.Enum):
                raise ContractError(f"{where}: column {self.full_name}.{name} is {dtype}, the contract says {expected}")
        return frame

    def validate(self, frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
        """The frame in the contract's column order; ContractError if it breaks the contract in any way.

        Checked: the same columns, exact types, no null in a column that is not nullable, nor in an array.
        """
        if missing := [name for name in self.schema if name not in frame.columns]:
            raise ContractError(f"{where}: {self.full_name} lacks {', '.join(missing)}")
        if unknown := [name for name in frame.columns if name not in self.schema]:
            raise ContractError(f"{where}: {self.full_name} has no column {', '.join(unknown)}")
        self.check_dtypes(frame, where=where)
        for column in self.written:
            if column.is_nullable:
                continue
            values = frame[column.name]
            nulls = values.null_count() + (_nulls_within(values) if column.type.startswith("Array(") else 0)
            if nulls:
                raise ContractError(f"{where}: {nulls} null(s) in {self.full_name}.{column.name}, which has none")
        # Column by column: a select of the frame would copy a text of many megabytes several times.
        return pl.DataFrame([frame[name] for name in self.schema])

    def require_unique(self, frame: pl.DataFrame, *, where: str) -> None:
        """Raise ContractError unless the table's unique key is unique in the frame.

        A frame whose equal keys would stand together, as one sorted by its key does, is enough for a key of several
        columns; it spares hashing the largest tables.
        """
        if len(self.unique_key) == 1:
            is_unique = frame[self.unique_key[0]].n_unique() == frame.height
        else:
            repeats = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in self.unique_key)
            is_unique = not frame.select(repeats.any()).item()
        if not is_unique:
            raise ContractError(f"{where}: rows of {self.full_name} share a key ({', '.join(self.unique_key)})")


def _nulls_within(lists: pl.Series) -> int:
    has_items = len(lists) and lists.list.len().sum()
    return int(lists.list.eval(pl.element().null_count()).list.sum().sum()) if has_items else 0


def sql_text(text: str) -> str:
    """The text as a ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# ---- pd: raw -----------------------------------------------------------------------------------------------------

_CONTENT_SQL = "concatWithSeparator(char(31), {})".format(
    ", ".join("toString(toUnixTimestamp64Milli(ts))" if f == "ts" else f"toString({f})" for f in CONTENT_FIELDS)
)
_VISITOR_KEY_SQL = (
    "multiIf(visitor_id != '', visitor_id, session_token != '', session_token, "
    "concat('anonymous-', lower(hex(sipHash64(ip, user_agent)))))"
)

# What was delivered survives a power cut, and an insert that is sent again because its answer was lost counts once.
_KEPT_SAFE = "non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1"

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
        Column("endpoint", LABEL, "path of the call, without the query string"),
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
    settings=f"index_granularity = 1024, {_KEPT_SAFE}",  # a call is wide
)  # fmt: skip

# ---- dwh: for people and BI --------------------------------------------------------------------------------------

# The visitor_hash of pd.api_calls, which a session_id begins with.
VISITOR_OF_SESSION = "reinterpretAsUInt64(reverse(unhex(substring(session_id, 1, 16))))"

# A part with a file a column: rows are masked in it by one file more. A part in one file would be written anew.
_CHEAP_TO_PATCH = "min_bytes_for_wide_part = 1048576"

EVENTS = Table(
    "dwh", "events",
    "One row per call, typed: the warehouse's one parsed form of the raw JSON, from which all else is built.",
    (
        Column("event_date", "Date", "business day of the call"),
        Column("ts", TIME, "when the call happened"),
        Column("call_id", "UUID", "the call in pd.api_calls"),
        Column("session_id", "String", "the session the call belongs to (it may have begun the day before)"),
        Column("visitor_id", "String", "visitor key: visitor_id, else session_token, else a hash of ip and user agent"),
        Column("user_id", "String", "the signed-in user; empty if none"),
        Column("event", LABEL, "what the call was, by the endpoint map; failed and unmapped calls are other"),
        Column("product_id", "String", "the product of a view, favorite or cart call; empty if none"),
        Column("quantity", "Nullable(UInt32)", "units put in or taken from the cart; of a purchase, units bought"),
        Column("price", f"Nullable({MONEY})", "price of the product at the call, where the call says it"),
        Column("order_id", "String", "the order of a purchase; empty if none"),
        Column("revenue", f"Nullable({MONEY})", "total of the order; an order sent again repeats it here"),
        Column("currency", LABEL, "currency of the order, as the shop writes it"),
        Column("search_query", "String", "what was searched for, trimmed; empty if not a search"),
        Column("section", "Array(String)", "sections filtered by"),
        Column("material", "Array(String)", "materials filtered by"),
        Column("metal", "Array(String)", "metals filtered by"),
        Column("price_min", f"Nullable({MONEY})", "lower price filtered by"),
        Column("price_max", f"Nullable({MONEY})", "upper price filtered by"),
        Column("page", "Nullable(UInt32)", "page of the listing, 1 is the first"),
        Column("per_page", "Nullable(UInt32)", "products a page"),
        Column("sort", LABEL, "sort order asked for"),
        Column("results_total", "Nullable(UInt32)", "products that matched"),
        Column("shown_products", "Array(String)", "products shown on the page, in their order"),
        Column("order_products", "Array(String)", "products of the order"),
        Column("order_quantities", "Array(UInt32)", "units of each product of the order; 1 where the call says none"),
        Column("order_prices", f"Array({MONEY})", "price of one unit of each product of the order; 0 where unknown"),
        Column("status", "UInt16", "HTTP status; 0 if the record had none"),
        Column("duration_ms", "UInt32", "how long the call took, in milliseconds"),
        Column("endpoint", LABEL, "path of the call"),
        Column("content_hash", "UInt64", "the record in pd.api_calls from which the row was typed, as hashed there"),
    ),
    order_by="(session_id, ts, call_id)",
    partition_by="event_date",
    unique_key=("call_id",),
    settings=_CHEAP_TO_PATCH,
)  # fmt: skip

SESSIONS = Table(
    "dwh", "sessions",
    "One row per session: a visitor's calls without a pause longer than the session timeout (30 minutes by default).",
    (
        Column("session_date", "Date", "business day on which the session began"),
        Column("session_id", "String", "hash of the visitor key and the start in epoch milliseconds"),
        Column("visitor_id", "String", "visitor key: visitor_id, else session_token, else a hash of ip and user agent"),
        Column("user_id", "String", "the last user seen in the session; empty for a guest"),
        Column("user_type", LABEL, "registered if any call carries a user, else guest"),
        Column("is_bot", "Bool", "whether the session is a machine's"),
        Column("bot_reason", LABEL, "why it is taken for a machine's: by its user agent or its pace; empty for people"),
        Column("started_at", TIME, "time of the first call"),
        Column("ended_at", TIME, "time of the last call"),
        Column("duration_s", "Float64", "seconds from the first call to the last"),
        Column("calls", "UInt32", "calls, errors included"),
        Column("errors", "UInt32", "calls that failed (status 400 or above)"),
        Column("catalog_views", "UInt32", "catalog calls"),
        Column("searches", "UInt32", "catalog calls with a search query"),
        Column("product_views", "UInt32", "product calls"),
        Column("products_viewed", "UInt32", "different products viewed"),
        Column("favorites_added", "UInt32", "calls that added a favorite"),
        Column("favorites_removed", "UInt32", "calls that removed a favorite"),
        Column("cart_adds", "UInt32", "calls that put something in the cart"),
        Column("cart_removes", "UInt32", "calls that took something from the cart"),
        Column("checkouts", "UInt32", "checkout calls"),
        Column("orders", "UInt32", "orders, each order_id once a session"),
        Column("units", "UInt32", "units of the counted orders"),
        Column("revenue", MONEY, "total of the counted orders"),
        Column("device_type", LABEL, "desktop, mobile, tablet, tv, bot or other"),
        Column("device_brand", LABEL, "maker of the device; empty if unknown"),
        Column("os", LABEL, "operating system; empty if unknown"),
        Column("browser", LABEL, "browser; empty if unknown"),
        Column("country", LABEL, "ISO 3166 code of the first address's country; empty if unknown"),
        Column("landing_page", "String", "page on which the session began, without its query"),
        Column("referrer", "String", "referrer of the call that decides the source; empty if it is the shop's own"),
        Column("referrer_host", LABEL, "host of the referrer, lower case, without www."),
        Column("utm_source", LABEL, "utm_source of the first call that carries a source, which decides it"),
        Column("utm_medium", LABEL, "utm_medium of that call"),
        Column("utm_campaign", LABEL, "utm_campaign of that call"),
        Column("utm_term", "String", "utm_term of that call"),
        Column("utm_content", "String", "utm_content of that call"),
        Column("click_id", "String", "advertising click id of that call (gclid, msclkid, fbclid, …); empty if none"),
        Column("source", LABEL, "what the channel was decided by: utm_source, else what click id or referrer say"),
        Column("medium", LABEL, "utm_medium, else what click id or referrer say; (none) if nothing does"),
        Column("search_term", "String", "what was searched for, where the referrer still says it; empty if not"),
        Column("channel", LABEL, "marketing channel"),
        Column("furthest_step", LABEL, "furthest step reached: visit, catalog, product, cart, checkout or purchase"),
        Column("is_bounce", "Bool", "whether at most one call was an event other than other"),
        # What the views look people up by, narrow enough to be read for years of days.
        Column(
            "visitor_hash", "UInt64", "hash of visitor_id, by which session_id begins",
            expression=f"MATERIALIZED {VISITOR_OF_SESSION}", codec="Delta, LZ4",
        ),
        Column(
            "user_hash", "UInt64", "hash of user_id; 0 for a guest",
            expression="MATERIALIZED if(user_id = '', 0, sipHash64('user', user_id))",
        ),
    ),
    order_by="session_id",
    partition_by="session_date",
    unique_key=("session_id",),
    settings=_CHEAP_TO_PATCH,
)  # fmt: skip

# What other tables repeat of the session, so that they are filtered without a join.
_OF_SESSION = (
    Column("is_bot", "Bool", "whether the session is a machine's"),
    Column("device_type", LABEL, "device of the session: desktop, mobile, tablet, tv, bot or other"),
    Column("channel", LABEL, "marketing channel of the session"),
)

CATALOG_SESSIONS = Table(
    "dwh", "catalog_sessions",
    "One row per catalog call, in its session: what was searched and filtered, shown, and what came of it.",
    (
        Column("session_date", "Date", "business day on which the session began"),
        Column("session_id", "String", "the session"),
        Column("visitor_id", "String", "visitor key"),
        Column("call_id", "UUID", "the catalog call"),
        Column("ts", TIME, "when the call happened"),
        Column("seq", "UInt32", "position among the session's catalog calls, from 1"),
        Column("listing_id", "UInt32", "query + filters + sort: the session's listings, numbered from 1"),
        Column("search_query", "String", "what was searched for; empty if nothing"),
        Column("section", "Array(String)", "sections filtered by"),
        Column("material", "Array(String)", "materials filtered by"),
        Column("metal", "Array(String)", "metals filtered by"),
        Column("price_min", f"Nullable({MONEY})", "lower price filtered by"),
        Column("price_max", f"Nullable({MONEY})", "upper price filtered by"),
        Column("filters_used", "UInt8", "how many of section, material, metal and price were filtered by"),
        Column("page", "UInt32", "page of the listing; 1 where the call says none"),
        Column("per_page", "Nullable(UInt32)", "products a page, where the call says it"),
        Column("sort", LABEL, "sort order asked for; empty is the shop's own"),
        Column("results_total", "Nullable(UInt32)", "products that matched; null if the response did not say"),
        Column("results_shown", "UInt32", "products shown on this page"),
        Column("is_search", "Bool", "whether the call carried a search query"),
        Column("is_zero_result", "Bool", "whether nothing matched"),
        Column("products_clicked", "UInt32", "different products viewed from this page"),
        Column("products_carted", "UInt32", "different products of this page put in the cart"),
        Column("products_bought", "UInt32", "different products of this page bought"),
        Column("clicked_positions", "Array(UInt16)", "places on this page, from 1, of the products viewed from it"),
        *_OF_SESSION,
    ),
    order_by="(session_id, seq)",
    partition_by="session_date",
    unique_key=("call_id",),
    settings=_CHEAP_TO_PATCH,
)  # fmt: skip

PRODUCT_SESSIONS = Table(
    "dwh", "product_sessions",
    "One row per session and product that was shown, viewed, kept, carted or bought in it.",
    (
        Column("session_date", "Date", "business day on which the session began"),
        Column("session_id", "String", "the session"),
        Column("visitor_id", "String", "visitor key"),
        Column("product_id", "String", "the product"),
        Column("first_seen_at", TIME, "when the product first appeared in the session"),
        Column("impressions", "UInt32", "times shown on catalog pages"),
        Column("views", "UInt32", "product calls"),
        Column("favorites_added", "UInt32", "calls that made it a favorite"),
        Column("favorites_removed", "UInt32", "calls that removed it from the favorites"),
        Column("cart_adds", "UInt32", "calls that put it in the cart"),
        Column("cart_removes", "UInt32", "calls that took it from the cart"),
        Column("units_added", "UInt32", "units put in the cart; 1 where a call says none"),
        Column("orders", "UInt32", "counted orders that hold it"),
        Column("units_bought", "UInt32", "units in those orders"),
        Column("revenue", MONEY, "its share of those orders' totals, by price times units"),
        Column("price", f"Nullable({MONEY})", "last price a call of the session gave for it"),
        Column("listing_id", "Nullable(UInt32)", "listing of its first click, else the first that showed it"),
        Column("title", NULLABLE_LABEL, "title at that moment, from history; null if unknown"),
        Column("section", NULLABLE_LABEL, "section at that moment, from history"),
        Column("material", NULLABLE_LABEL, "material at that moment, from history"),
        Column("metal", NULLABLE_LABEL, "metal at that moment, from history"),
        Column("list_price", f"Nullable({MONEY})", "list price at that moment, from history"),
        Column("stock_qty", "Nullable(Int64)", "units in stock at that moment, from history"),
        *_OF_SESSION,
    ),
    order_by="(session_id, product_id)",
    partition_by="session_date",
    unique_key=("session_id", "product_id"),
    settings=_CHEAP_TO_PATCH,
)  # fmt: skip

# ---- etl: staging, ledger, rejects -------------------------------------------------------------------------------

RUNS = Table(
    "etl", "runs",
    "One row per run, job and day: what was done, how long it took, how it ended.",
    (
        Column("run_id", "String", "the run"),
        Column("job", LABEL, "ingest, or the table that was built"),
        Column("day", "Nullable(Date)", "business day that was built"),
        Column("started_at", TIME, "when it began"),
        Column("ended_at", TIME, "when it ended"),
        Column("state", LABEL, "done or failed"),
        Column("rows_in", "UInt64", "rows read"),
        Column("rows_out", "UInt64", "rows written"),
        Column("rows_rejected", "UInt64", "records or values that could not be used"),
        Column("seconds", "Float64", "how long it took"),
        Column("error", "String", "why it failed"),
    ),
    order_by="(started_at, run_id)",
)  # fmt: skip

REJECTS = Table(
    "etl", "rejects",
    "Records that could not be stored, each with its reason and its bytes: nothing is dropped in silence.",
    (
        Column("rejected_at", TIME, "when"),
        Column("source", "String", "file the record came from, or stdin"),
        Column("position", "UInt64", "line or row in that source, from 1"),
        Column("reason", LABEL, "why, in few words"),
        Column("detail", "String", "why, exactly"),
        Column("record_bytes", "UInt64", "size of the record"),
        Column("record", "String", "the record's bytes (the first 64 MiB of it)", codec="ZSTD(3)", holds_bytes=True),
        Column("reject_id", "String", "hash of source, position, reason and bytes: a rerun adds nothing"),
    ),
    order_by="(rejected_at, reject_id)",
    settings=_KEPT_SAFE,
)  # fmt: skip

PUBLICATIONS = Table(
    "etl", "publications",
    "Journal of publishing: a day whose last state is publishing is published again on start.",
    (
        Column("publication_id", "String", "one build of one day"),
        Column("at", TIME, "when"),
        Column("day", "Date", "business day"),
        Column("tables", "Array(String)", "tables of dwh that are replaced together"),
        Column("state", LABEL, "publishing or published"),
    ),
    order_by="(at, publication_id)",
)  # fmt: skip

LEDGER = Table(
    "etl", "ledger",
    "What each business day and table was built from; a day is stale when this differs from what is there now.",
    (
        Column("day", "Date", "business day"),
        Column("job", LABEL, "the table that was built"),
        Column("built_at", TIME, "when it was built, or last found to be what its inputs say"),
        Column("calls", "UInt64", "raw calls of the day"),
        Column("raw_fingerprint", "UInt64", "sum of the hashes of the day's raw calls"),
        Column("previous_days_fingerprint", "UInt64", "the same of all calls of the two days before"),
        Column("next_day_fingerprint", "UInt64", "the same of all calls of the day after"),
        Column("earlier_fingerprint", "UInt64", "calls of the day before by visitors who went on into this day"),
        Column("later_fingerprint", "UInt64", "calls of the day after that sessions of this day reach into"),
        Column("endpoint_map", "String", "digest of the endpoint map"),
        Column("transform_version", "UInt32", "version of the rules by which calls become rows"),
        Column("timezone", LABEL, "business time zone"),
        Column("session_timeout_ms", "UInt64", "pause after which a session ends"),
        Column("product_plan", "String", "digest of what the snapshot plan says of products; of product_sessions only"),
        Column("session_rules", "String", "digest of the rules for devices, bots, channels, countries; not of events"),
        Column("history_until", TIME, "last call of the day's sessions: later versions of products cannot matter"),
        Column("history_fingerprint", "UInt64", "versions of the products' rows up to then; of product_sessions only"),
        Column("rows", "UInt64", "rows of the table for the day"),
        Column("unreadable", "UInt64", "JSON values the endpoint map names that could not be read when it was parsed"),
    ),
    order_by="(day, job, built_at)",
)  # fmt: skip

FINGERPRINTS = Table(
    "etl", "fingerprints",
    "What the parts of raw calls and of history hold, hashed once a part: how stale days are found without reading.",
    (
        Column("source", LABEL, "the table and what of it is hashed"),
        Column("part", "String", "checksum of the part's files: parts of other content have another"),
        Column("at", TIME, "quarter of an hour of the calls; of history, the instant from which the versions hold"),
        Column("rows", "UInt64", "rows of the part that belong to it"),
        Column("fingerprint", "UInt64", "sum of their hashes"),
    ),
    order_by="(source, part, at)",
)  # fmt: skip

USER_AGENTS = Table(
    "etl", "user_agents",
    "What user agents say, so that each is read once; may be emptied at any time.",
    (
        Column("user_agent", "String", "as the shop's calls carry it"),
        Column("rules", LABEL, "digest of the rules by which it was read"),
        Column("device_type", LABEL, "desktop, mobile, tablet, tv, bot or other"),
        Column("device_brand", LABEL, "maker of the device; empty if unknown"),
        Column("os", LABEL, "operating system; empty if unknown"),
        Column("browser", LABEL, "browser; empty if unknown"),
        Column("bot_reason", LABEL, "why it is a machine's; empty for people"),
        Column("read_at", TIME, "when it was read"),
    ),
    order_by="(user_agent, rules)",
)  # fmt: skip

SNAPSHOTS = Table(
    "etl", "snapshots",
    "Journal of snapshots: one row per snapshot, table and state; a table's last state is what became of it.",
    (
        Column("snapshot_id", "String", "one run of `carat snapshot`"),
        Column("table", LABEL, "the table of history"),
        Column("at", TIME, "the instant of the snapshot: valid_from of what it changed"),
        Column("recorded_at", TIME, "when this row was written"),
        Column("state", LABEL, "publishing, then done; or failed: refused or unreadable, nothing was changed"),
        Column("mode", LABEL, "append; rewrite when columns came or changed their type; rebuild when begun anew"),
        Column("guarantee", "String", "what instant was read, and what is not guaranteed of it"),
        Column("rows", "UInt64", "rows that the shop's table had"),
        Column("inserts", "UInt64", "rows that came, or came back"),
        Column("updates", "UInt64", "rows that changed"),
        Column("deletes", "UInt64", "rows that went"),
        Column("bounded", "UInt64", "dates before 1900 or after 2299, kept as the nearest that the warehouse can hold"),
        Column("columns", "Array(String)", "columns of the shop's table that were kept, each with its type"),
        Column("added", "Array(String)", "columns that came with this snapshot"),
        Column("dropped", "Array(String)", "columns that went with it: null from now on"),
        Column("retyped", "Array(String)", "columns whose type changed, from what to what"),
        Column("staged_uuid", "String", "the staged table: how an interrupted swap is told from a finished one"),
        Column("seconds", "Float64", "how long it took"),
        Column("error", "String", "why it was refused or failed"),
    ),
    order_by="(table, recorded_at)",
)  # fmt: skip

FORGOTTEN = Table(
    "etl", "forgotten",
    "Who asked to be forgotten, as keyed hashes: calls and rows of theirs that come later are not stored.",
    (
        Column("forgotten_at", TIME, "when; of devices only calls up to then are refused"),
        Column("kind", LABEL, "user, visitor, token, or a single call"),
        Column("digest", "String", "hash of the key, the kind and the id"),
        Column("key", "String", "random, the same for all"),
    ),
    order_by="(kind, digest)",
)  # fmt: skip

DWH_TABLES = (EVENTS, SESSIONS, CATALOG_SESSIONS, PRODUCT_SESSIONS)
TABLES = (API_CALLS, *DWH_TABLES, RUNS, REJECTS, PUBLICATIONS, LEDGER, FINGERPRINTS, USER_AGENTS, SNAPSHOTS, FORGOTTEN)
DATABASES = {
    "pd": "Raw calls of the shop's API",
    "dwh": "The warehouse for people and BI",
    "history": "Versions of the shop database's rows",
    "etl": "Staging, ledger, runs and rejects",
}
