"""Plain SQL inside the engine that Carat uses: the same four tables by INSERT … SELECT, no Python in between.

Session windows run over narrow columns and are joined back, so that no JSON is sorted. Each JSON column is parsed
once, into typed tuples, if the event needs it. The page that a step is credited to is found by an ASOF join of the
few pairs of session and product that were acted on. Not included: publishing, contracts, sessions over midnight, odd
JSON.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.contracts import CATALOG_SESSIONS, EVENTS, PRODUCT_SESSIONS, SESSIONS, Table
from app.settings import SHIPPED_TRACKING, Settings, load_settings
from app.warehouse import Warehouse, open_warehouse
from bench.day import DAY, Dataset
from bench.measure import Contender, Outcome

TABLES = (EVENTS, SESSIONS, CATALOG_SESSIONS, PRODUCT_SESSIONS)
# Columns that only Carat builds: the others would need its rules.
_CARATS_ALONE = {
    "events": {"map_entry", "amount", "price_original", "revenue_original", "amount_original", "filters"},
    "sessions": {"bot_reason", "source", "medium", "search_term", "country"},
    "catalog_sessions": {"filters", "clicked_positions", "is_bot", "device_type", "channel"},
    "product_sessions": {"is_bot", "device_type", "channel"},
}
OF_DAY = f"ts >= toDateTime64('{DAY}', 3, 'UTC') AND ts < toDateTime64('{DAY}', 3, 'UTC') + INTERVAL 1 DAY"


@contextmanager
def contender(day: Dataset) -> Iterator[Contender]:
    with open_warehouse(bench_settings(day), purpose="bench") as warehouse:
        warehouse.command("DROP DATABASE IF EXISTS plain SYNC")
        warehouse.command("CREATE DATABASE plain")
        for table in TABLES:
            warehouse.command(table.create_statement(name=f"plain.{table.name}"))

        def work() -> None:
            for statement in STATEMENTS:
                warehouse.command(statement)

        yield Contender(work, lambda sessions: read_outcome(warehouse, sessions, database="plain"))
        warehouse.command("DROP DATABASE plain SYNC")


def bench_settings(day: Dataset) -> Settings:
    """The settings of this environment, save for what decides the result."""
    return load_settings(
        warehouse=f"chdb://{day.warehouse}", timezone="UTC", session_timeout="30min", tracking=SHIPPED_TRACKING
    )


def read_outcome(warehouse: Warehouse, sessions_file: Path, *, database: str) -> Outcome:
    """What stands in the four tables of a database."""
    rows = {table.name: warehouse.scalar(f"SELECT count() FROM {database}.{table.name}") for table in TABLES}
    sums = warehouse.query(
        f"""SELECT * FROM (
    SELECT toInt64(sum(impressions)) AS impressions, toInt64(sum(views)) AS views, toInt64(sum(units_bought)) AS units,
        toInt64(sum(revenue) * 100) AS revenue_cents, toInt64(sum(listing_id)) AS product_listings
    FROM {database}.product_sessions) AS products, (
    SELECT toInt64(sum(listing_id)) AS listings, toInt64(sum(products_clicked)) AS clicked,
        toInt64(sum(products_carted)) AS carted, toInt64(sum(products_bought)) AS bought
    FROM {database}.catalog_sessions) AS catalog"""
    )
    warehouse.query(
        "SELECT visitor_id, toUnixTimestamp64Milli(started_at) AS started_at, calls, product_views, orders, "
        f"toInt64(revenue * 100) AS revenue_cents FROM {database}.sessions"
    ).write_parquet(sessions_file)
    return Outcome(rows, sums.row(0, named=True))


def _insert(table: Table, source: str, values: dict[str, str], *, prelude: str = "") -> str:
    """An INSERT of the table's columns; those not in `values` are the source's own of that name."""
    names = [name for name in table.schema if name not in _CARATS_ALONE.get(table.name, ())]
    columns = ",\n    ".join(f"{values[name]} AS {name}" if name in values else name for name in names)
    return f"INSERT INTO plain.{table.name} ({', '.join(names)})\n{prelude}SELECT {columns}\nFROM {source}"


# ---- events ------------------------------------------------------------------------------------------------------

_CALLS = f"""CREATE VIEW plain.calls AS
SELECT *,
    concat(leftPad(lower(hex(visitor_hash)), 16, '0'), '-', toString(toUnixTimestamp64Milli(started))) AS session_id
FROM (
    SELECT *, max(if(opens, ts, toDateTime64(0, 3, 'UTC'))) OVER so_far AS started
    FROM (
        SELECT visitor_hash, ts, call_id, user_agent, referrer, page_url,
            row_number() OVER visitor = 1 OR dateDiff('millisecond', lagInFrame(ts) OVER visitor, ts) > 1800000 AS opens
        FROM pd.api_calls WHERE {OF_DAY}
        WINDOW visitor AS (PARTITION BY visitor_hash ORDER BY ts, call_id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
    )
    WINDOW so_far AS (PARTITION BY visitor_hash ORDER BY ts, call_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)"""

_MONEY = "Nullable(Decimal(18, 2))"
_ITEM = f"product_id String, quantity Nullable(UInt32), price {_MONEY}"
_PARSED = f"""(
    SELECT call_id, content_hash, ts, visitor_key, user_id, status, duration_ms, endpoint,
        multiIf(
            status >= 400, 'other',
            method = 'GET' AND endpoint = '/api/v1/catalog', 'catalog',
            method = 'GET' AND match(endpoint, '^/api/v1/products/[^/]+$'), 'product_view',
            method = 'POST' AND endpoint = '/api/v1/favorites', 'favorite_add',
            method = 'DELETE' AND match(endpoint, '^/api/v1/favorites/[^/]+$'), 'favorite_remove',
            method = 'GET' AND endpoint = '/api/v1/cart', 'cart_view',
            method = 'POST' AND endpoint = '/api/v1/cart/items', 'cart_add',
            method = 'DELETE' AND match(endpoint, '^/api/v1/cart/items/[^/]+$'), 'cart_remove',
            method = 'POST' AND endpoint = '/api/v1/checkout', 'checkout',
            method = 'POST' AND endpoint = '/api/v1/orders', 'purchase', 'other'
        ) AS event,
        JSONExtract(if(event = 'catalog', request, ''), 'query',
            'Tuple(q String, section Array(String), material Array(String), metal Array(String), price_min {_MONEY},
            price_max {_MONEY}, page Nullable(UInt32), per_page Nullable(UInt32), sort String)') AS asked,
        JSONExtract(if(event IN ('favorite_add', 'cart_add'), request, ''), 'body',
            'Tuple(product_id String, quantity Nullable(UInt32))') AS body,
        JSONExtract(if(event = 'catalog', response, ''),
            'Tuple(total Nullable(UInt32), items Array(Tuple(id String)))') AS found,
        JSONExtract(if(event = 'product_view', response, ''), 'price', '{_MONEY}') AS price,
        JSONExtract(if(event = 'purchase', response, ''),
            'Tuple(order_id String, total {_MONEY}, currency String, items Array(Tuple({_ITEM})))') AS bought
    FROM pd.api_calls WHERE {OF_DAY}
)"""

_EVENTS = _insert(
    EVENTS,
    f"{_PARSED} AS parsed INNER JOIN (SELECT call_id, session_id FROM plain.calls) AS calls USING (call_id)",
    {
        "event_date": "toDate(ts)",
        "visitor_id": "visitor_key",
        "is_error": "status >= 400",
        "product_id": (
            "multiIf(event IN ('favorite_add', 'cart_add'), body.product_id, "
            "event IN ('product_view', 'favorite_remove', 'cart_remove'), extract(endpoint, '[^/]+$'), '')"
        ),
        "quantity": "if(event = 'purchase', arraySum(q -> ifNull(q, 1), bought.items.quantity), body.quantity)",
        "order_id": "bought.order_id",
        "revenue": "bought.total",
        "currency": "bought.currency",
        "search_query": "trimBoth(asked.q)",
        "results_total": "found.total",
        "shown_products": "found.items.id",
        "order_products": "bought.items.product_id",
        "order_quantities": "arrayMap(q -> ifNull(q, 1), bought.items.quantity)",
        "order_prices": "arrayMap(p -> ifNull(p, 0), bought.items.price)",
    }
    | {
        name: f"asked.{name}"
        for name in ("section", "material", "metal", "price_min", "price_max", "page", "per_page", "sort")
    },
)

# ---- sessions ----------------------------------------------------------------------------------------------------

_COUNTED = {
    "catalog_views": "catalog", "product_views": "product_view", "favorites_added": "favorite_add",
    "favorites_removed": "favorite_remove", "cart_adds": "cart_add", "cart_removes": "cart_remove",
    "checkouts": "checkout",
}  # fmt: skip
_BEHAVIOUR = f"""SELECT session_id, any(visitor_id) AS visitor_id, argMaxIf(user_id, ts, user_id != '') AS user_id,
    min(ts) AS started_at, max(ts) AS ended_at, count() AS calls, countIf(status >= 400) AS errors,
    countIf(event = 'catalog' AND search_query != '') AS searches,
    uniqExactIf(product_id, event = 'product_view') AS products_viewed,
    countIf(event != 'other') AS named_events, countIf(event = 'purchase') AS purchases,
    {", ".join(f"countIf(event = '{event}') AS {name}" for name, event in _COUNTED.items())}
FROM plain.events GROUP BY session_id"""
_ORDERS = """SELECT session_id, count() AS orders, sum(quantity) AS units, sum(revenue) AS revenue
FROM (SELECT session_id, quantity, revenue FROM plain.events WHERE event = 'purchase'
    ORDER BY session_id, order_id, ts LIMIT 1 BY session_id, order_id)
GROUP BY session_id"""
_ARRIVAL = """SELECT session_id, argMinIf(user_agent, ts, user_agent != '') AS user_agent,
    argMinIf(referrer, ts, referrer != '') AS referrer, argMinIf(page_url, ts, page_url != '') AS first_page,
    argMinIf(page_url, ts, match(page_url, '[?&](utm_source|utm_medium|utm_campaign|gclid|msclkid|fbclid)='))
        AS campaign
FROM plain.calls GROUP BY session_id"""

_SESSIONS = _insert(
    SESSIONS,
    "behaviour LEFT JOIN orders USING (session_id) LEFT JOIN arrival USING (session_id)",
    {
        "session_date": "toDate(started_at)",
        "user_type": "if(user_id = '', 'guest', 'registered')",
        "is_bot": "device_type = 'bot'",
        "duration_s": "dateDiff('millisecond', started_at, ended_at) / 1000",
        "device_type": (
            "multiIf(match(user_agent, '(?i)bot|crawl|spider'), 'bot', match(user_agent, 'iPad|Tablet'), 'tablet', "
            "match(user_agent, 'iPhone|Mobile'), 'mobile', match(user_agent, 'Android'), 'tablet', "
            "match(user_agent, 'Windows NT|Macintosh|X11'), 'desktop', 'other')"
        ),
        "device_brand": (
            "multiIf(match(user_agent, 'iPhone|iPad|Macintosh'), 'Apple', match(user_agent, 'SM-'), 'Samsung', "
            "match(user_agent, 'Pixel'), 'Google', '')"
        ),
        "os": (
            "multiIf(match(user_agent, 'iPhone|iPad'), 'iOS', match(user_agent, 'Android'), 'Android', "
            "match(user_agent, 'Windows'), 'Windows', match(user_agent, 'Macintosh'), 'macOS', "
            "match(user_agent, 'Linux'), 'Linux', '')"
        ),
        "browser": "multiIf(match(user_agent, 'Edg/'), 'Edge', match(user_agent, 'Chrome/'), 'Chrome', '')",
        "landing_page": "cutQueryStringAndFragment(first_page)",
        "referrer_host": "lower(domainWithoutWWW(referrer))",
        "click_id": "extractURLParameter(campaign, 'gclid')",
        "channel": (
            "multiIf(match(utm_medium, '^(.*cp.*|ppc|paid.*)$') OR click_id != '', 'Paid Search', "
            "utm_medium = 'email', 'Email', utm_medium = 'social' OR match(referrer_host, 'instagram|facebook'), "
            "'Organic Social', match(referrer_host, 'google|bing'), 'Organic Search', referrer_host != '', 'Referral', "
            "'Direct')"
        ),
        "furthest_step": (
            "multiIf(purchases > 0, 'purchase', checkouts > 0, 'checkout', cart_adds > 0, 'cart', "
            "product_views > 0, 'product', catalog_views > 0, 'catalog', 'visit')"
        ),
        "is_bounce": "named_events <= 1",
    }
    | {
        f"utm_{name}": f"decodeURLFormComponent(extractURLParameter(campaign, 'utm_{name}'))"
        for name in ("source", "medium", "campaign", "term", "content", "id")
    },
    prelude=f"WITH behaviour AS ({_BEHAVIOUR}), orders AS ({_ORDERS}), arrival AS ({_ARRIVAL})\n",
)

# ---- browsing ----------------------------------------------------------------------------------------------------

_FILTERS = "section, material, metal, price_min, price_max, sort"
_PAGES = f"""CREATE TABLE plain.pages ENGINE = MergeTree ORDER BY (session_id, seq) AS
SELECT * EXCEPT (listing, first_seq), dense_rank() OVER (PARTITION BY session_id ORDER BY first_seq) AS listing_id
FROM (
    SELECT *, min(seq) OVER (PARTITION BY session_id, listing) AS first_seq
    FROM (
        SELECT session_id, visitor_id, call_id, ts, search_query, {_FILTERS}, page, per_page, results_total,
            shown_products, row_number() OVER (PARTITION BY session_id ORDER BY ts, call_id) AS seq,
            sipHash64(search_query, arraySort(section), arraySort(material), arraySort(metal), ifNull(price_min, -1),
                ifNull(price_max, -1), sort) AS listing  -- of a NULL the hash would be NULL
        FROM plain.events WHERE event = 'catalog'
    )
)"""

_ACTED = """SELECT session_id, visitor_id, product_id, ts, event, ifNull(quantity, 1) AS units, price,
    toDecimal64(0, 2) AS revenue
FROM plain.events
WHERE event IN ('product_view', 'favorite_add', 'favorite_remove', 'cart_add', 'cart_remove') AND product_id != ''
UNION ALL
SELECT session_id, visitor_id, item.1 AS product_id, ts, event, item.2 AS units, nullIf(item.3, 0) AS price,
    item.2 * item.3 AS revenue
FROM (SELECT * FROM plain.events WHERE event = 'purchase' ORDER BY session_id, order_id, ts
    LIMIT 1 BY session_id, order_id)
ARRAY JOIN arrayZip(order_products, order_quantities, order_prices) AS item"""
_ACTIONS = f"""CREATE TABLE plain.actions ENGINE = MergeTree ORDER BY (session_id, product_id) AS
WITH acted AS ({_ACTED})
SELECT acted.*, shown.seq AS seq, shown.listing_id AS listing_id
FROM acted ASOF LEFT JOIN (
    SELECT session_id, product_id, ts, toNullable(seq) AS seq, toNullable(listing_id) AS listing_id
    FROM plain.pages ARRAY JOIN shown_products AS product_id
    WHERE cityHash64(session_id, product_id) IN (SELECT cityHash64(session_id, product_id) FROM acted)
) AS shown ON acted.session_id = shown.session_id AND acted.product_id = shown.product_id AND acted.ts >= shown.ts"""

_CATALOG_SESSIONS = _insert(
    CATALOG_SESSIONS,
    """plain.pages AS pages LEFT JOIN (
    SELECT session_id, toUInt64(assumeNotNull(seq)) AS seq,
        uniqExactIf(product_id, event = 'product_view') AS products_clicked,
        uniqExactIf(product_id, event = 'cart_add') AS products_carted,
        uniqExactIf(product_id, event = 'purchase') AS products_bought
    FROM plain.actions WHERE seq IS NOT NULL GROUP BY session_id, seq
) AS outcomes USING (session_id, seq)""",
    {
        "session_date": f"toDate('{DAY}')",
        "filters_used": (
            "notEmpty(section) + notEmpty(material) + notEmpty(metal) "
            "+ (price_min IS NOT NULL OR price_max IS NOT NULL)"
        ),
        "page": "ifNull(pages.page, 1)",
        "results_shown": "length(shown_products)",
        "is_search": "search_query != ''",
        "is_zero_result": "ifNull(results_total = 0, false)",
    },
)

_SHOWN = """SELECT session_id, product_id, any(visitor_id) AS visitor, min(ts) AS at, count() AS impressions,
    argMin(listing_id, seq) AS listing
FROM plain.pages ARRAY JOIN shown_products AS product_id GROUP BY session_id, product_id"""
_DONE = """SELECT session_id, product_id, any(visitor_id) AS visitor, min(ts) AS at,
    countIf(event = 'product_view') AS views, countIf(event = 'favorite_add') AS favorites_added,
    countIf(event = 'favorite_remove') AS favorites_removed, countIf(event = 'cart_add') AS cart_adds,
    countIf(event = 'cart_remove') AS cart_removes, sumIf(units, event = 'cart_add') AS units_added,
    countIf(event = 'purchase') AS orders, sumIf(units, event = 'purchase') AS units_bought, sum(revenue) AS revenue,
    argMax(price, ts) AS price, argMinIf(listing_id, ts, event = 'product_view') AS listing
FROM plain.actions GROUP BY session_id, product_id"""
_COUNTS = (
    "impressions", "views", "favorites_added", "favorites_removed", "cart_adds", "cart_removes", "units_added",
    "orders", "units_bought", "revenue",
)  # fmt: skip

_PRODUCT_SESSIONS = _insert(
    PRODUCT_SESSIONS,
    f"({_SHOWN}) AS shown FULL JOIN ({_DONE}) AS done USING (session_id, product_id) SETTINGS join_use_nulls = 1",
    {
        "session_date": f"toDate('{DAY}')",
        "visitor_id": "ifNull(shown.visitor, done.visitor)",
        "first_seen_at": "least(ifNull(shown.at, done.at), ifNull(done.at, shown.at))",
        "listing_id": "ifNull(done.listing, shown.listing)",
    }
    | {name: f"ifNull({name}, 0)" for name in _COUNTS}
    | dict.fromkeys(("title", "section", "material", "metal", "list_price", "stock_qty"), "NULL"),
)

STATEMENTS = (_CALLS, _EVENTS, _SESSIONS, _PAGES, _ACTIONS, _CATALOG_SESSIONS, _PRODUCT_SESSIONS)
