"""What a product officer reads first: the shop's results, where shoppers leave, and what they search for."""

from datetime import datetime, timedelta
from itertools import pairwise

from app.core import console
from app.warehouse import Warehouse

_TOTALS = """
SELECT count() AS sessions, uniqExact(visitor_id) AS visitors, sum(s.orders) AS orders, sum(s.revenue) AS revenue,
    countIf(s.orders > 0) / count() AS conversion, countIf(is_bounce) / count() AS bounces,
    (SELECT count() FROM dwh.sessions WHERE is_bot) AS bot_sessions,
    min(session_date) AS first, max(session_date) AS last
FROM dwh.sessions AS s WHERE NOT is_bot"""

# A step counts every session that reached it or a later one: some land directly on a product.
_FUNNEL = """
WITH ['visit', 'catalog', 'product', 'cart', 'checkout', 'purchase'] AS steps
SELECT steps[number] AS step, count() AS sessions
FROM (SELECT arrayJoin(range(1, indexOf(steps, furthest_step) + 1)) AS number FROM dwh.sessions WHERE NOT is_bot)
GROUP BY number ORDER BY number"""

_SEARCHES = """
SELECT lower(search_query) AS search, count() AS searches, countIf(is_zero_result) / count() AS found_nothing,
    countIf(products_clicked > 0) / count() AS clicked
FROM dwh.catalog_sessions WHERE is_search AND page = 1
    AND session_id IN (SELECT session_id FROM dwh.sessions WHERE NOT is_bot)
GROUP BY search ORDER BY searches DESC, search LIMIT 8"""

_PRODUCTS = """
SELECT product_id, sum(impressions) AS shown, sum(views) AS viewed, sum(cart_adds) AS carted,
    sum(units_bought) AS bought, sum(p.revenue) AS revenue, argMax(title, first_seen_at) AS title
FROM dwh.product_sessions AS p WHERE session_id IN (SELECT session_id FROM dwh.sessions WHERE NOT is_bot)
GROUP BY product_id ORDER BY revenue DESC, product_id LIMIT 8"""

_CHANNELS = """
SELECT channel, count() AS sessions, countIf(orders > 0) / count() AS conversion, sum(s.revenue) AS revenue
FROM dwh.sessions AS s WHERE NOT is_bot GROUP BY channel ORDER BY sessions DESC"""

# The product whose price changed most often; of these, the one with the most revenue.
_REPRICED = """
SELECT product_id, any(p.title) AS name FROM dwh.product_sessions AS p
JOIN (SELECT toString(id) AS product, uniqExact(price) AS prices FROM history.items GROUP BY id) AS i
    ON i.product = p.product_id
GROUP BY product_id HAVING any(prices) > 1 ORDER BY any(prices) DESC, sum(p.revenue) DESC, product_id LIMIT 1"""

_PRICES = """
SELECT valid_from, valid_to, version, op, price, arrayStringConcat(changed, ', ') AS changed
FROM history.items_versions WHERE toString(id) = {product:String} ORDER BY version"""

_AS_OF = """
SELECT price, quantity FROM history.items_at(ts = {at:String}) AS items
JOIN history.stock_at(ts = {at:String}) AS stock ON stock.product_id = items.id WHERE toString(id) = {product:String}"""


def say_summary(warehouse: Warehouse) -> None:
    """Print the summary of the warehouse."""
    totals = warehouse.query(_TOTALS).row(0, named=True)
    console.say(
        f"\nThe shop from {totals['first']} to {totals['last']}, without {totals['bot_sessions']:,} bot sessions"
    )
    figures = (
        ("sessions", f"{totals['sessions']:,}"), ("visitors", f"{totals['visitors']:,}"),
        ("orders", f"{totals['orders']:,}"),
        ("revenue", f"{totals['revenue']:,} EUR"), ("conversion", _percent(totals["conversion"])),
        ("bounces", _percent(totals["bounces"])),
    )  # fmt: skip
    console.say("   ".join(f"{name} {figure}" for name, figure in figures) + "\n")

    funnel = warehouse.query(_FUNNEL).rows()
    visits = funnel[0][1] or 1
    lost = [None, *(1 - after / (before or 1) for (_, before), (_, after) in pairwise(funnel))]
    rows = [
        (step, sessions, _percent(sessions / visits), _percent(loss))
        for (step, sessions), loss in zip(funnel, lost, strict=True)
    ]
    console.say_table(
        "How far sessions came",
        ("step", "sessions", "of all", "lost since previous step"),
        rows,
        right=("sessions", "of all", "lost since previous step"),
    )

    searches = [
        (search, count, _percent(nothing), _percent(clicked))
        for search, count, nothing, clicked in warehouse.query(_SEARCHES).rows()
    ]
    console.say_table(
        "Top searches",
        ("search", "searches", "found nothing", "led to a click"),
        searches,
        right=("searches", "found nothing", "led to a click"),
    )

    products = [(title or product_id, *counts) for product_id, *counts, title in warehouse.query(_PRODUCTS).rows()]
    console.say_table(
        "Top products",
        ("product", "shown", "viewed", "carted", "bought", "revenue"),
        products,
        right=("shown", "viewed", "carted", "bought", "revenue"),
    )

    channels = [
        (channel, sessions, _percent(rate), revenue)
        for channel, sessions, rate, revenue in warehouse.query(_CHANNELS).rows()
    ]
    console.say_table(
        "Channels",
        ("channel", "sessions", "conversion", "revenue"),
        channels,
        right=("sessions", "conversion", "revenue"),
    )
    _say_history(warehouse)


def _say_history(warehouse: Warehouse) -> None:
    """Print one product's versions, and its price and stock just before and after a price change."""
    repriced = warehouse.query(_REPRICED)
    if repriced.is_empty():
        return
    product, title = repriced.row(0)
    versions = warehouse.query(_PRICES, {"product": product})
    console.say_table(f"History of {title} (product {product})", versions.columns, versions.rows(), right=("price",))
    changed_at: datetime = versions.filter(versions["changed"].str.contains("price"))["valid_from"][0]
    for at in (changed_at - timedelta(hours=1), changed_at):
        price, quantity = warehouse.query(_AS_OF, {"at": f"{at:%Y-%m-%d %H:%M:%S}", "product": product}).row(0)
        console.say(f"At {at:%Y-%m-%d %H:%M} it cost {price} EUR, {quantity} in stock.")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
