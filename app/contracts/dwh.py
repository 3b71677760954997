"""The contracts of `dwh`: the tables that people and BI tools read."""

from collections.abc import Collection

from app.contracts.table import CHEAP_TO_PATCH, Control, DwhTable, Input, PersonKey, Total
from app.contracts.types import FILTERS, LABEL, MONEY, NULLABLE_LABEL, ORIGINAL_MONEY, TIME, Column

# The visitor_hash of pd.api_calls, which a session_id begins with.
VISITOR_OF_SESSION = "reinterpretAsUInt64(reverse(unhex(substring(session_id, 1, 16))))"
USER_HASH = "if(user_id = '', 0, sipHash64('user', user_id))"

# An id of an order in one form: a collation ignores case, ZEROFILL writes numbers and BINARY(16) UUIDs otherwise.
NORMAL_ORDER_ID = (
    "multiIf(match(lowerUTF8({0}), '^([0-9a-f]{{32}}|[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}) *$'), "
    "replaceAll(trimRight(lowerUTF8({0})), '-', ''), match({0}, '^0*[0-9]+ *$'), "
    "replaceRegexpOne(trimRight({0}), '^0+([0-9])', '\\\\1'), trimRight(lowerUTF8({0})))"
).format
ORDER_HASH = f"cityHash64({NORMAL_ORDER_ID('order_id')})"

_TYPED_CALLS = frozenset({Input.CALLS, Input.SESSIONS, Input.ENDPOINT_MAP})

EVENTS = DwhTable(
    database="dwh", name="events",
    comment="One row per call, typed: the warehouse's one parsed form of the raw JSON, from which all else is built.",
    columns=(
        Column("event_date", "Date", "business day of the call"),
        Column("ts", TIME, "when the call happened"),
        Column("call_id", "UUID", "the call in pd.api_calls"),
        Column("session_id", "String", "the session the call belongs to (it may have begun the day before)"),
        Column("visitor_id", "String", "visitor key: visitor_id, else session_token, else a hash of ip and user agent"),
        Column("user_id", "String", "the signed-in user; empty if none"),
        Column("event", LABEL, "what the call was, by the endpoint map; failed and unmapped calls are other"),
        Column("map_entry", LABEL, "the entry of the endpoint map that the call fits: number, method and path"),
        Column("is_error", "Bool", "whether the call failed: by its status, or an order by what its answer says"),
        Column("product_id", "String", "the product of a view, favorite or cart call (the first of several)"),
        Column("quantity", "Nullable(UInt32)", "units put in or taken from the cart; of a purchase, units bought"),
        Column("price", f"Nullable({MONEY})", "price of the product at the call, in the warehouse's currency"),
        Column("order_id", "String", "the order of a purchase; empty if none"),
        Column("revenue", f"Nullable({MONEY})", "total of the order, in the warehouse's currency; null without a rate"),
        Column("amount", f"Nullable({MONEY})", "what a refund gives back"),
        Column("currency", LABEL, "currency of the amounts called original: the call's, else the endpoint map's"),
        Column("price_original", f"Nullable({ORIGINAL_MONEY})", "price as the call says it, in its currency"),
        Column("revenue_original", f"Nullable({ORIGINAL_MONEY})", "total of the order as the call says it"),
        Column("amount_original", f"Nullable({ORIGINAL_MONEY})", "what a refund gives back as the call says it"),
        Column("search_query", "String", "what was searched for, trimmed; empty if not a search"),
        Column("section", "Array(String)", "sections filtered by"),
        Column("material", "Array(String)", "materials filtered by"),
        Column("metal", "Array(String)", "metals filtered by"),
        Column("price_min", f"Nullable({MONEY})", "lower price filtered by"),
        Column("price_max", f"Nullable({MONEY})", "upper price filtered by"),
        Column("filters", FILTERS, "the shop's own filters, by name"),
        Column("page", "Nullable(UInt32)", "page of the listing, 1 is the first"),
        Column("per_page", "Nullable(UInt32)", "products a page"),
        Column("sort", LABEL, "sort order asked for"),
        Column("results_total", "Nullable(UInt32)", "products that matched"),
        Column("shown_products", "Array(String)", "products shown on the page, in their order"),
        Column("order_products", "Array(String)", "products of the order, or of a cart call about several"),
        Column("order_quantities", "Array(UInt32)", "units of each of these products; 1 where the call says none"),
        Column("order_prices", f"Array({MONEY})", "price of one unit of each of these products; 0 where unknown"),
        Column("status", "UInt16", "HTTP status; 0 if the record had none"),
        Column("duration_ms", "UInt32", "how long the call took, in milliseconds"),
        Column("endpoint", LABEL, "path of the call"),
        Column("content_hash", "UInt64", "the record in pd.api_calls from which the row was typed, as hashed there"),
    ),
    order_by="(session_id, ts, call_id)",
    day="event_date",
    unique_key=("call_id",),
    depends_on=_TYPED_CALLS,
    session_column="session_id",
    never_empty=("session_id", "visitor_id"),
    totals=(Total(Control.DAY_CALLS),),
    person_keys=(("call_id", PersonKey.CALL),),  # a session may hold calls of somebody else
    settings=CHEAP_TO_PATCH,
)  # fmt: skip

ORDER_CALLS = DwhTable(
    database="dwh", name="order_calls",
    comment="One row per purchase call; of an order's calls only the first counts, whichever session or day the "
    "others are in.",
    columns=(
        Column("session_date", "Date", "business day on which the session began"),
        Column("ts", TIME, "when the call happened"),
        Column("call_id", "UUID", "the purchase call"),
        Column("session_id", "String", "the session"),
        Column("visitor_id", "String", "visitor key"),
        Column("user_id", "String", "user of the session; empty for a guest"),
        Column("channel", LABEL, "marketing channel of the session"),
        Column("order_id", "String", "the order; call- and the call's id where the call names none"),
        Column("revenue", f"Nullable({MONEY})", "total of the order, as this call says it"),
        Column("revenue_original", f"Nullable({ORIGINAL_MONEY})", "the same in the call's currency"),
        Column("currency", LABEL, "currency that the call names, else the endpoint map's; upper case"),
        Column("order_products", "Array(String)", "products of the order"),
        Column("order_quantities", "Array(UInt32)", "units of each of these products; 1 where the call says none"),
        Column("order_prices", f"Array({MONEY})", "price of one unit of each of these products; 0 where unknown"),
        Column("is_counted", "Bool", "whether it is the order's first call in the shop, the one that counts"),
        Column(
            "order_hash", "UInt64", "hash of the order's id in one form, by which dwh.orders finds its calls",
            expression=f"MATERIALIZED {ORDER_HASH}",
        ),
    ),
    order_by="(order_id, ts, call_id)",
    day="session_date",
    unique_key=("call_id",),
    depends_on=_TYPED_CALLS | {Input.SESSION_RULES, Input.ORDERS},
    session_column="session_id",
    never_empty=("session_id", "visitor_id", "order_id"),
    totals=(Total(Control.ORDER_CALLS),),
    person_keys=(("session_id", PersonKey.SESSION),),
    settings=CHEAP_TO_PATCH,
)  # fmt: skip

SESSIONS = DwhTable(
    database="dwh", name="sessions",
    comment="One row per session: a visitor's calls without a pause longer than the session timeout "
    "(30 minutes by default).",
    columns=(
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
        Column("errors", "UInt32", "calls that failed, by their status or by what the map says of an order's answer"),
        Column("catalog_views", "UInt32", "catalog calls"),
        Column("searches", "UInt32", "catalog calls with a search query"),
        Column("product_views", "UInt32", "product calls"),
        Column("products_viewed", "UInt32", "different products viewed"),
        Column("favorites_added", "UInt32", "calls that added a favorite"),
        Column("favorites_removed", "UInt32", "calls that removed a favorite"),
        Column("cart_adds", "UInt32", "calls that put something in the cart, larger quantities included"),
        Column("cart_removes", "UInt32", "calls that took something from the cart, smaller quantities included"),
        Column("checkouts", "UInt32", "checkout calls"),
        Column("orders", "UInt32", "orders; an order_id counts once in the shop, at its first call"),
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
        Column("utm_id", "String", "utm_id of that call: the id of the platform's campaign"),
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
            expression=f"MATERIALIZED {USER_HASH}",
        ),
    ),
    order_by="session_id",
    day="session_date",
    unique_key=("session_id",),
    depends_on=_TYPED_CALLS | {Input.SESSION_RULES, Input.ORDERS},
    session_column="session_id",
    never_empty=("session_id", "visitor_id"),
    totals=(
        Total(Control.CALLS, "calls"), Total(Control.ORDERS, "orders"), Total(Control.REVENUE, "revenue"),
    ),
    person_keys=(("session_id", PersonKey.SESSION),),
    settings=CHEAP_TO_PATCH,
)  # fmt: skip

# What other tables repeat of the session, so that they are filtered without a join.
_OF_SESSION = (
    Column("is_bot", "Bool", "whether the session is a machine's"),
    Column("device_type", LABEL, "device of the session: desktop, mobile, tablet, tv, bot or other"),
    Column("channel", LABEL, "marketing channel of the session"),
)

CATALOG_SESSIONS = DwhTable(
    database="dwh", name="catalog_sessions",
    comment="One row per catalog call, in its session: what was searched and filtered, shown, and what came of it.",
    columns=(
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
        Column("filters", FILTERS, "the shop's own filters, by name"),
        Column("filters_used", "UInt8", "how many filters were used: section, material, metal, price, the shop's own"),
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
    day="session_date",
    unique_key=("call_id",),
    depends_on=_TYPED_CALLS | {Input.SESSION_RULES, Input.ORDERS},
    session_column="session_id",
    never_empty=("session_id", "visitor_id"),
    totals=(),
    person_keys=(("session_id", PersonKey.SESSION),),
    settings=CHEAP_TO_PATCH,
)  # fmt: skip

PRODUCT_SESSIONS = DwhTable(
    database="dwh", name="product_sessions",
    comment="One row per session and product that was shown, viewed, kept, carted or bought in it.",
    columns=(
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
    day="session_date",
    unique_key=("session_id", "product_id"),
    counts_keys=False,  # by far the most rows, and each frame that is written is sorted by the key
    depends_on=_TYPED_CALLS | {Input.SESSION_RULES, Input.PRODUCT_HISTORY, Input.ORDERS},
    session_column="session_id",
    never_empty=("session_id", "visitor_id"),
    totals=(Total(Control.PRODUCT_REVENUE, "revenue"),),
    person_keys=(("session_id", PersonKey.SESSION),),
    settings=CHEAP_TO_PATCH,
)  # fmt: skip

# In the order in which they are built and listed.
DWH_TABLES: tuple[DwhTable, ...] = (EVENTS, ORDER_CALLS, SESSIONS, CATALOG_SESSIONS, PRODUCT_SESSIONS)


def dwh_tables(names: Collection[str] | None = None) -> list[DwhTable]:
    """The tables of `dwh` in the order in which they are built; with `names` only these.

    Tables that count orders are never built without `order_calls`, by which other days know what they counted.
    """
    if names is None:
        return list(DWH_TABLES)
    chosen = [table for table in DWH_TABLES if table.name in names]
    counts_orders = any(Input.ORDERS in table.depends_on for table in chosen)
    return [table for table in DWH_TABLES if table in chosen or (counts_orders and table is ORDER_CALLS)]
