"""DuckDB: the same four tables in SQL, from the day's rows in a Parquet file to tables in a DuckDB file.

The same plan as the engine's SQL: narrow session windows joined back, JSON parsed once if the event needs it, an ASOF
join to credit steps. DuckDB tables have no sorting key, so nothing is sorted on insert.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from bench.day import DAY, Dataset
from bench.measure import Contender, Outcome

TABLES = ("events", "sessions", "catalog_sessions", "product_sessions")


@contextmanager
def contender(day: Dataset) -> Iterator[Contender]:
    file = day.folder / "duckdb.db"
    for old in day.folder.glob(f"{file.name}*"):
        old.unlink()
    connection = duckdb.connect(str(file))
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = false")  # less memory, and no order is asked for
    connection.execute(f"CREATE VIEW api_calls AS SELECT * FROM read_parquet('{day.parquet}')")

    def work() -> None:
        for statement in STATEMENTS:
            connection.execute(statement)
        connection.execute("CHECKPOINT")

    yield Contender(work, lambda sessions: read_outcome(connection, sessions))
    connection.close()
    file.unlink()


def read_outcome(connection: duckdb.DuckDBPyConnection, sessions_file: Path) -> Outcome:
    rows = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in TABLES}
    sums = connection.sql(
        """SELECT * FROM (SELECT sum(impressions) AS impressions, sum(views) AS views, sum(units_bought) AS units,
        sum(revenue) * 100 AS revenue_cents, sum(listing_id) AS product_listings FROM product_sessions),
    (SELECT sum(listing_id) AS listings, sum(products_clicked) AS clicked, sum(products_carted) AS carted,
        sum(products_bought) AS bought FROM catalog_sessions)"""
    )
    totals = dict(zip(sums.columns, map(int, sums.fetchall()[0]), strict=True))
    connection.sql(
        "SELECT visitor_id, epoch_ms(started_at) AS started_at, calls, product_views, orders, "
        "(revenue * 100)::BIGINT AS revenue_cents FROM sessions"
    ).write_parquet(str(sessions_file))
    return Outcome(rows, totals)


VISITOR = (
    "CASE WHEN visitor_id <> '' THEN visitor_id WHEN session_token <> '' THEN session_token "
    "ELSE 'anonymous-' || md5(ip || user_agent) END"
)
_CALLS = f"""CREATE TEMP TABLE calls AS
WITH moments AS (
    SELECT call_id, ts, user_agent, referrer, page_url, {VISITOR} AS visitor_id FROM api_calls
    WHERE ts >= TIMESTAMPTZ '{DAY} 00:00:00+00' AND ts < TIMESTAMPTZ '{DAY} 00:00:00+00' + INTERVAL 1 DAY
), opened AS (
    SELECT *, coalesce(ts - lag(ts) OVER visitor > INTERVAL 30 MINUTE, true) AS opens
    FROM moments WINDOW visitor AS (PARTITION BY visitor_id ORDER BY ts, call_id)
), begun AS (
    SELECT * EXCLUDE (opens), max(CASE WHEN opens THEN ts END) OVER visitor AS started_at
    FROM opened WINDOW visitor AS (PARTITION BY visitor_id ORDER BY ts, call_id)
)
SELECT *, md5(visitor_id)[:16] || '-' || epoch_ms(started_at)::VARCHAR AS session_id FROM begun"""

_ASKED = """'{"query": {"q": "VARCHAR", "section": ["VARCHAR"], "material": ["VARCHAR"], "metal": ["VARCHAR"],
    "price_min": "DECIMAL(18,2)", "price_max": "DECIMAL(18,2)", "page": "UINTEGER", "per_page": "UINTEGER",
    "sort": "VARCHAR"}}'"""
_BODY = """'{"body": {"product_id": "VARCHAR", "quantity": "UINTEGER"}}'"""
_FOUND = """'{"total": "UINTEGER", "items": [{"id": "VARCHAR"}]}'"""
_BOUGHT = """'{"order_id": "VARCHAR", "total": "DECIMAL(18,2)", "currency": "VARCHAR",
    "items": [{"product_id": "VARCHAR", "quantity": "UINTEGER", "price": "DECIMAL(18,2)"}]}'"""
_EVENTS = f"""CREATE TABLE events AS
WITH named AS (
    SELECT *, CASE
        WHEN status >= 400 THEN 'other'
        WHEN method = 'GET' AND endpoint = '/api/v1/catalog' THEN 'catalog'
        WHEN method = 'GET' AND regexp_matches(endpoint, '^/api/v1/products/[^/]+$') THEN 'product_view'
        WHEN method = 'POST' AND endpoint = '/api/v1/favorites' THEN 'favorite_add'
        WHEN method = 'DELETE' AND regexp_matches(endpoint, '^/api/v1/favorites/[^/]+$') THEN 'favorite_remove'
        WHEN method = 'GET' AND endpoint = '/api/v1/cart' THEN 'cart_view'
        WHEN method = 'POST' AND endpoint = '/api/v1/cart/items' THEN 'cart_add'
        WHEN method = 'DELETE' AND regexp_matches(endpoint, '^/api/v1/cart/items/[^/]+$') THEN 'cart_remove'
        WHEN method = 'POST' AND endpoint = '/api/v1/checkout' THEN 'checkout'
        WHEN method = 'POST' AND endpoint = '/api/v1/orders' THEN 'purchase'
        ELSE 'other' END AS event
    FROM api_calls
), parsed AS (
    SELECT *,
        from_json(CASE WHEN event = 'catalog' THEN request END, {_ASKED}).query AS asked,
        from_json(CASE WHEN event IN ('favorite_add', 'cart_add') THEN request END, {_BODY}).body AS body,
        from_json(CASE WHEN event = 'catalog' THEN response END, {_FOUND}) AS found,
        (CASE WHEN event = 'product_view' THEN response END ->> '$.price')::DECIMAL(18, 2) AS price,
        from_json(CASE WHEN event = 'purchase' THEN response END, {_BOUGHT}) AS bought
    FROM named
)
SELECT calls.ts::DATE AS event_date, calls.ts AS ts, parsed.call_id::UUID AS call_id, session_id,
    calls.visitor_id AS visitor_id, user_id, event,
    CASE WHEN event IN ('favorite_add', 'cart_add') THEN body.product_id
        WHEN event IN ('product_view', 'favorite_remove', 'cart_remove') THEN regexp_extract(endpoint, '[^/]+$')
        ELSE '' END AS product_id,
    CASE WHEN event = 'purchase'
        THEN list_sum(list_transform(bought.items, lambda item: coalesce(item.quantity, 1)))::UINTEGER
        ELSE body.quantity END AS quantity,
    price, coalesce(bought.order_id, '') AS order_id, bought.total AS revenue,
    coalesce(bought.currency, '') AS currency,
    coalesce(trim(asked.q), '') AS search_query, coalesce(asked.section, []) AS section,
    coalesce(asked.material, []) AS material, coalesce(asked.metal, []) AS metal,
    asked.price_min AS price_min, asked.price_max AS price_max, asked.page AS page, asked.per_page AS per_page,
    coalesce(asked.sort, '') AS sort, found.total AS results_total,
    coalesce(list_transform(found.items, lambda item: item.id), []) AS shown_products,
    coalesce(list_transform(bought.items, lambda item: item.product_id), []) AS order_products,
    coalesce(list_transform(bought.items, lambda item: coalesce(item.quantity, 1)), []) AS order_quantities,
    coalesce(list_transform(bought.items, lambda item: coalesce(item.price, 0)), []) AS order_prices,
    status, duration_ms, endpoint
FROM parsed JOIN (SELECT call_id, ts, session_id, visitor_id FROM calls) AS calls ON calls.call_id = parsed.call_id"""

_COUNTED = {
    "catalog_views": "catalog", "product_views": "product_view", "favorites_added": "favorite_add",
    "favorites_removed": "favorite_remove", "cart_adds": "cart_add", "cart_removes": "cart_remove",
    "checkouts": "checkout",
}  # fmt: skip
_AGENT_RULES = {
    "device_type": (
        ("(?i)bot|crawl|spider", "bot"), ("iPad|Tablet", "tablet"), ("iPhone|Mobile", "mobile"), ("Android", "tablet"),
        ("Windows NT|Macintosh|X11", "desktop"), ("", "other"),
    ),
    "device_brand": (("iPhone|iPad|Macintosh", "Apple"), ("SM-", "Samsung"), ("Pixel", "Google"), ("", "")),
    "os": (
        ("iPhone|iPad", "iOS"), ("Android", "Android"), ("Windows", "Windows"), ("Macintosh", "macOS"),
        ("Linux", "Linux"), ("", ""),
    ),
    "browser": (("Edg/", "Edge"), ("Chrome/", "Chrome"), ("", "")),
}  # fmt: skip


def _first_match(rules: tuple[tuple[str, str], ...]) -> str:
    cases = " ".join(f"WHEN regexp_matches(user_agent, '{pattern}') THEN '{value}'" for pattern, value in rules)
    return f"CASE {cases} END"


_AGENTS = ", ".join(f"{_first_match(rules)} AS {name}" for name, rules in _AGENT_RULES.items())
_UTM = ", ".join(
    f"url_decode(replace(regexp_extract(coalesce(campaign, ''), '[?&]utm_{name}=([^&#]*)', 1), '+', ' ')) AS utm_{name}"
    for name in ("source", "medium", "campaign", "term", "content", "id")
)
_SESSIONS = f"""CREATE TABLE sessions AS
WITH behaviour AS (
    SELECT session_id, any_value(visitor_id) AS visitor_id, arg_max(user_id, ts) FILTER (user_id <> '') AS user_id,
        min(ts) AS started_at, max(ts) AS ended_at, count(*) AS calls, count(*) FILTER (status >= 400) AS errors,
        count(*) FILTER (event = 'catalog' AND search_query <> '') AS searches,
        count(DISTINCT product_id) FILTER (event = 'product_view') AS products_viewed,
        count(*) FILTER (event <> 'other') AS named_events, count(*) FILTER (event = 'purchase') AS purchases,
        {", ".join(f"count(*) FILTER (event = '{event}') AS {name}" for name, event in _COUNTED.items())}
    FROM events GROUP BY session_id
), orders AS (
    SELECT session_id, count(*) AS orders, sum(quantity) AS units, sum(revenue) AS revenue
    FROM (SELECT DISTINCT ON (session_id, order_id) session_id, quantity, revenue FROM events WHERE event = 'purchase'
        ORDER BY session_id, order_id, ts)
    GROUP BY session_id
), arrival AS (
    SELECT session_id, arg_min(user_agent, ts) FILTER (user_agent <> '') AS user_agent,
        coalesce(arg_min(referrer, ts) FILTER (referrer <> ''), '') AS referrer,
        arg_min(page_url, ts) FILTER (page_url <> '') AS first_page,
        arg_min(page_url, ts)
            FILTER (regexp_matches(page_url, '[?&](utm_source|utm_medium|utm_campaign|gclid|msclkid|fbclid)='))
            AS campaign
    FROM calls GROUP BY session_id
), agents AS (
    SELECT user_agent, {_AGENTS} FROM (SELECT DISTINCT user_agent FROM arrival)
), placed AS (
    SELECT *, regexp_replace(first_page, '[?#].*$', '') AS landing_page, {_UTM},
        lower(regexp_extract(referrer, '^[a-z]+://(?:www[.])?([^:/?#]+)', 1)) AS referrer_host,
        regexp_extract(coalesce(campaign, ''), '[?&]gclid=([^&#]*)', 1) AS click_id
    FROM behaviour LEFT JOIN orders USING (session_id) LEFT JOIN arrival USING (session_id)
        LEFT JOIN agents USING (user_agent)
)
SELECT started_at::DATE AS session_date, session_id, visitor_id, coalesce(user_id, '') AS user_id,
    CASE WHEN user_id IS NULL THEN 'guest' ELSE 'registered' END AS user_type, device_type = 'bot' AS is_bot,
    started_at, ended_at, epoch(ended_at - started_at) AS duration_s, calls, errors, catalog_views, searches,
    product_views, products_viewed, favorites_added, favorites_removed, cart_adds, cart_removes, checkouts,
    coalesce(orders, 0) AS orders, coalesce(units, 0) AS units, coalesce(revenue, 0)::DECIMAL(18, 2) AS revenue,
    device_type, device_brand, os, browser, landing_page, referrer, referrer_host, utm_source, utm_medium, utm_campaign,
    utm_term, utm_content, utm_id, click_id,
    CASE WHEN regexp_matches(utm_medium, '^(.*cp.*|ppc|paid.*)$') OR click_id <> '' THEN 'Paid Search'
        WHEN utm_medium = 'email' THEN 'Email'
        WHEN utm_medium = 'social' OR regexp_matches(referrer_host, 'instagram|facebook') THEN 'Organic Social'
        WHEN regexp_matches(referrer_host, 'google|bing') THEN 'Organic Search'
        WHEN referrer_host <> '' THEN 'Referral' ELSE 'Direct' END AS channel,
    CASE WHEN purchases > 0 THEN 'purchase' WHEN checkouts > 0 THEN 'checkout' WHEN cart_adds > 0 THEN 'cart'
        WHEN product_views > 0 THEN 'product' WHEN catalog_views > 0 THEN 'catalog' ELSE 'visit' END AS furthest_step,
    named_events <= 1 AS is_bounce
FROM placed"""

_PAGES = """CREATE TEMP TABLE pages AS
WITH listed AS (
    SELECT session_id, visitor_id, call_id, ts, search_query, section, material, metal, price_min, price_max, page,
        per_page, sort, results_total, shown_products,
        row_number() OVER (PARTITION BY session_id ORDER BY ts, call_id) AS seq,
        hash(search_query, list_sort(section), list_sort(material), list_sort(metal), price_min, price_max, sort)
            AS listing
    FROM events WHERE event = 'catalog'
), opened AS (
    SELECT *, min(seq) OVER (PARTITION BY session_id, listing) AS first_seq FROM listed
)
SELECT * EXCLUDE (listing, first_seq), dense_rank() OVER (PARTITION BY session_id ORDER BY first_seq) AS listing_id
FROM opened"""
_ACTIONS = """CREATE TEMP TABLE actions AS
WITH bought AS (
    SELECT session_id, visitor_id, ts, event,
        unnest(list_zip(order_products, order_quantities, order_prices)) AS item
    FROM (SELECT DISTINCT ON (session_id, order_id) * FROM events WHERE event = 'purchase'
        ORDER BY session_id, order_id, ts)
), acted AS (
    SELECT session_id, visitor_id, product_id, ts, event, coalesce(quantity, 1) AS units, price,
        0::DECIMAL(18, 2) AS revenue
    FROM events
    WHERE event IN ('product_view', 'favorite_add', 'favorite_remove', 'cart_add', 'cart_remove') AND product_id <> ''
    UNION ALL
    SELECT session_id, visitor_id, item[1], ts, event, item[2], nullif(item[3], 0), (item[2] * item[3])::DECIMAL(18, 2)
    FROM bought
), shown AS (
    SELECT session_id, product_id, ts, seq, listing_id
    FROM (SELECT session_id, ts, seq, listing_id, unnest(shown_products) AS product_id FROM pages)
    SEMI JOIN acted USING (session_id, product_id)
)
SELECT acted.*, shown.seq AS seq, shown.listing_id AS listing_id
FROM acted ASOF LEFT JOIN shown
    ON acted.session_id = shown.session_id AND acted.product_id = shown.product_id AND acted.ts >= shown.ts"""

_CATALOG_SESSIONS = f"""CREATE TABLE catalog_sessions AS
WITH outcomes AS (
    SELECT session_id, seq, count(DISTINCT product_id) FILTER (event = 'product_view') AS products_clicked,
        count(DISTINCT product_id) FILTER (event = 'cart_add') AS products_carted,
        count(DISTINCT product_id) FILTER (event = 'purchase') AS products_bought
    FROM actions WHERE seq IS NOT NULL GROUP BY session_id, seq
)
SELECT DATE '{DAY}' AS session_date, session_id, visitor_id, call_id, ts, seq, listing_id, search_query, section,
    material, metal, price_min, price_max,
    (len(section) > 0)::UTINYINT + (len(material) > 0)::UTINYINT + (len(metal) > 0)::UTINYINT
        + (price_min IS NOT NULL OR price_max IS NOT NULL)::UTINYINT AS filters_used,
    coalesce(page, 1) AS page, per_page, sort, results_total, len(shown_products) AS results_shown,
    search_query <> '' AS is_search, coalesce(results_total = 0, false) AS is_zero_result,
    coalesce(products_clicked, 0) AS products_clicked, coalesce(products_carted, 0) AS products_carted,
    coalesce(products_bought, 0) AS products_bought
FROM pages LEFT JOIN outcomes USING (session_id, seq)"""

_COUNTS = ", ".join(
    f"coalesce({name}, 0)::UINTEGER AS {name}"
    for name in (
        "views", "favorites_added", "favorites_removed", "cart_adds", "cart_removes", "units_added", "orders",
        "units_bought",
    )
)  # fmt: skip
_PRODUCT_SESSIONS = f"""CREATE TABLE product_sessions AS
WITH shown AS (
    SELECT session_id, product_id, count(*) AS impressions, any_value(visitor_id) AS visitor_id, min(ts) AS ts,
        arg_min(listing_id, seq) AS listing_id
    FROM (SELECT session_id, visitor_id, ts, seq, listing_id, unnest(shown_products) AS product_id FROM pages)
    GROUP BY session_id, product_id
), acted AS (
    SELECT session_id, product_id, any_value(visitor_id) AS visitor_id, min(ts) AS ts,
        count(*) FILTER (event = 'product_view') AS views,
        count(*) FILTER (event = 'favorite_add') AS favorites_added,
        count(*) FILTER (event = 'favorite_remove') AS favorites_removed,
        count(*) FILTER (event = 'cart_add') AS cart_adds, count(*) FILTER (event = 'cart_remove') AS cart_removes,
        sum(units) FILTER (event = 'cart_add') AS units_added, count(*) FILTER (event = 'purchase') AS orders,
        sum(units) FILTER (event = 'purchase') AS units_bought, sum(revenue) AS revenue,
        arg_max(price, ts) FILTER (price IS NOT NULL) AS price,
        arg_min(listing_id, ts) FILTER (event = 'product_view' AND listing_id IS NOT NULL) AS listing_id
    FROM actions GROUP BY session_id, product_id
)
SELECT DATE '{DAY}' AS session_date, session_id, coalesce(shown.visitor_id, acted.visitor_id) AS visitor_id, product_id,
    least(shown.ts, acted.ts) AS first_seen_at, coalesce(impressions, 0)::UINTEGER AS impressions,
    {_COUNTS},
    coalesce(revenue, 0)::DECIMAL(18, 2) AS revenue, price,
    coalesce(acted.listing_id, shown.listing_id)::UINTEGER AS listing_id, NULL::VARCHAR AS title,
    NULL::VARCHAR AS section, NULL::VARCHAR AS material, NULL::VARCHAR AS metal, NULL::DECIMAL(18, 2) AS list_price,
    NULL::BIGINT AS stock_qty
FROM shown FULL JOIN acted USING (session_id, product_id)"""

STATEMENTS = (_CALLS, _EVENTS, _SESSIONS, _PAGES, _ACTIONS, _CATALOG_SESSIONS, _PRODUCT_SESSIONS)
