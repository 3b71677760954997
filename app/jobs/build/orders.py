"""Which call of an order counts, by all of its calls in the shop: those that are built, and those of other days.

An order counts at its first call. A day's rows in `dwh.order_calls` say which calls its build counted, so what other
days hold of the same orders decides whether that is still right.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

import polars as pl

from app.contracts import ORDER_CALLS
from app.frames.orders import PLACED_SCHEMA
from app.warehouse import Warehouse

# In the order of calls: the engine orders UUIDs by their second half.
_AT = "(ts, toString(call_id))"
# The calls of other days that can be earlier: a session reaches at most into the next day.
_OTHER_DAYS = "session_date != {day:Date} AND session_date <= {day:Date} + 1"
_FOUND = {
    "hash": pl.UInt64(),
    "is_elsewhere": pl.Boolean(),
    "call_ids": pl.List(pl.String()),
    "sessions": pl.List(pl.String()),
}
_WRITTEN_ORDERS = 50_000
NO_CALLS = pl.Series(dtype=PLACED_SCHEMA["call_id"])


@dataclass(frozen=True)
class OrderCheck:
    """How a day's order calls are counted, compared with all calls of the same orders.

    `elsewhere` is a hash of the orders that were placed on another day, where they count. `wrong_calls` are the ids of
    the calls that are counted although they are not the first, or the other way round; `wrong_sessions` theirs.
    """

    elsewhere: int
    wrong_calls: pl.Series
    wrong_sessions: pl.Series


def read_elsewhere(warehouse: Warehouse, orders: pl.Series, day: date, *, replaced: str) -> pl.DataFrame:
    """`order_id, ts, call_id` of the first of these orders' calls among those that are published elsewhere.

    These are the calls of other days, and where a day's sessions are `replaced` (a query of session ids), those of its
    other sessions.
    """
    if orders.is_empty():
        return pl.DataFrame(schema=PLACED_SCHEMA)
    kept = f" OR session_date = {{day:Date}} AND session_id NOT IN ({replaced})" if replaced else ""
    asked = f"etl.unread_orders_{uuid.uuid4().hex}"
    for node in warehouse.peers:
        node.create_temp_table(asked, orders, column="order_id", kind="String")
    sql = (
        f"SELECT order_id, first.1 AS ts, toUUID(first.2) AS call_id FROM (SELECT order_id, min({_AT}) AS first "
        f"FROM dwh.order_calls WHERE ({_OTHER_DAYS}{kept}) AND order_id IN (SELECT order_id FROM {asked}) "
        "GROUP BY order_id)"
    )
    try:
        of_nodes = [node.query(sql, {"day": day}, schema=PLACED_SCHEMA) for node in warehouse.peers]
        return pl.concat(of_nodes).sort("ts", "call_id").unique("order_id", keep="first")
    finally:
        for node in warehouse.peers:
            node.drop_tables([asked])


def check_order_calls(warehouse: Warehouse, source: str, day: date) -> OrderCheck:
    """How the rows of the day in `source`, a table in the shape of `dwh.order_calls`, are counted."""
    if len(warehouse.nodes) == 1:
        return _check_on_one(warehouse, source, ORDER_CALLS.full_name, day)
    with _gathered(warehouse, source, day) as (own, published):
        return _check_on_one(warehouse.nodes[0], own, published, day)


@contextmanager
def _gathered(warehouse: Warehouse, source: str, day: date) -> Iterator[tuple[str, str]]:
    """Two tables on the first node: the day's rows in `source`, and what the other days hold of their orders."""
    first, suffix = warehouse.nodes[0], uuid.uuid4().hex
    own, published, asked = (f"etl.unread_{name}_{suffix}" for name in ("own_orders", "other_orders", "orders"))
    rows = f"SELECT {', '.join(ORDER_CALLS.schema)} FROM"
    try:
        for table in (own, published):
            first.command(ORDER_CALLS.create_statement(name=table))
        of_day = f"{rows} {source} WHERE session_date = {{day:Date}}"
        for node in warehouse.nodes:
            first.insert(ORDER_CALLS, node.query(of_day, {"day": day}, schema=ORDER_CALLS.schema), into=own)
        orders = first.query(f"SELECT DISTINCT order_id FROM {own}", schema={"order_id": pl.String()})["order_id"]
        warehouse.create_temp_table(asked, orders, column="order_id", kind="String")
        of_others = f"{rows} dwh.order_calls WHERE {_OTHER_DAYS} AND order_id IN (SELECT order_id FROM {asked})"
        for node in warehouse.nodes:
            found = node.query(of_others, {"day": day}, schema=ORDER_CALLS.schema)
            first.insert(ORDER_CALLS, found, into=published)
        yield own, published
    finally:
        warehouse.drop_tables([own, published, asked])


def _check_on_one(warehouse: Warehouse, source: str, published: str, day: date) -> OrderCheck:
    own = f"SELECT order_id, {_AT} AS at, call_id, session_id, is_counted, 1 AS is_own FROM {source}"
    other = f"SELECT order_id, {_AT} AS at, call_id, session_id, is_counted, 0 AS is_own FROM {published}"
    of_day = "session_date = {day:Date}"
    found = warehouse.query(
        f"""
SELECT cityHash64(order_id) AS hash, argMin(is_own, at) = 0 AS is_elsewhere,
    arrayFilter(call -> call.1 != (call.2 = min(at)), groupArrayIf((is_counted, at, session_id), is_own)) AS wrong,
    arrayMap(call -> call.2.2, wrong) AS call_ids, arrayMap(call -> call.3, wrong) AS sessions
FROM (
    {own} WHERE {of_day}
    UNION ALL {other} WHERE {_OTHER_DAYS} AND order_id IN (SELECT order_id FROM {source} WHERE {of_day}))
GROUP BY order_id HAVING is_elsewhere OR notEmpty(wrong)""",
        {"day": day},
        schema=_FOUND,
    )
    return OrderCheck(
        sum(found.filter("is_elsewhere")["hash"]) % 2**64,  # as the engine's sums wrap around
        _as_ids(found["call_ids"].explode().drop_nulls()),
        found["sessions"].explode().drop_nulls().unique(),
    )


def read_orders_elsewhere(warehouse: Warehouse) -> dict[date, int]:
    """Per day `OrderCheck.elsewhere` as published; days without such orders are left out."""
    if len(warehouse.nodes) > 1:
        return _orders_elsewhere_on(warehouse)
    found = warehouse.query(
        f"""
SELECT session_date AS day, sum(cityHash64(order_id)) AS hash FROM (
    SELECT session_date, order_id, min({_AT}) AS own, min(own) OVER (PARTITION BY order_id) AS first
    FROM dwh.order_calls WHERE cityHash64(order_id) IN (
        SELECT cityHash64(order_id) AS hash FROM dwh.order_calls
        GROUP BY hash HAVING min(session_date) != max(session_date))
    GROUP BY session_date, order_id)
WHERE own != first GROUP BY day""",
        schema={"day": pl.Date(), "hash": pl.UInt64()},
    )
    return dict(found.iter_rows())


def _orders_elsewhere_on(cluster: Warehouse) -> dict[date, int]:
    """The same of a cluster, whose nodes may each hold calls of one order."""
    days = {"hash": pl.UInt64(), "first": pl.Date(), "last": pl.Date()}
    of_orders = (
        "SELECT cityHash64(order_id) AS hash, min(session_date) AS first, max(session_date) AS last "
        "FROM dwh.order_calls GROUP BY hash"
    )
    spans = pl.concat([node.query(of_orders, schema=days) for node in cluster.nodes])
    spans = spans.group_by("hash").agg(pl.col("first").min(), pl.col("last").max())
    own = {
        "session_date": pl.Date(),
        "order_id": pl.String(),
        "hash": pl.UInt64(),
        "ts": PLACED_SCHEMA["ts"],
        "call_id": pl.String(),
    }
    sql = (
        f"SELECT session_date, order_id, cityHash64(order_id) AS hash, own.1 AS ts, own.2 AS call_id FROM ("
        f"SELECT session_date, order_id, min({_AT}) AS own FROM dwh.order_calls "
        "WHERE cityHash64(order_id) IN ({}) GROUP BY session_date, order_id)"
    )
    several = spans.filter(pl.col("first") != pl.col("last"))
    found = pl.concat(
        [
            pl.DataFrame(schema=own),
            *(  # written out, as readers cannot create tables
                node.query(sql.format(",".join(map(str, some["hash"]))), schema=own)
                for some in several.iter_slices(_WRITTEN_ORDERS)
                for node in cluster.nodes
            ),
        ]
    )
    firsts = found.sort("ts", "call_id").unique(["session_date", "order_id"], keep="first", maintain_order=True)
    later = firsts.filter(pl.col("session_date") != pl.col("session_date").first().over("order_id"))
    return {day: sum(hashes) % 2**64 for day, hashes in later.group_by("session_date").agg("hash").iter_rows()}


def _as_ids(texts: pl.Series) -> pl.Series:
    return texts.cast(pl.String).str.replace_all("-", "", literal=True).str.decode("hex")
