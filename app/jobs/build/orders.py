"""Which call of an order counts, by all of its calls in the shop: those that are built, and those of other days.

An order counts at its first call. A day's rows in `dwh.order_calls` say which calls its build counted, so what other
days hold of the same orders decides whether that is still right.
"""

import uuid
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
    warehouse.create_temp_table(asked, orders, column="order_id", kind="String")
    try:
        return warehouse.query(
            f"SELECT order_id, first.1 AS ts, toUUID(first.2) AS call_id FROM (SELECT order_id, min({_AT}) AS first "
            f"FROM dwh.order_calls WHERE ({_OTHER_DAYS}{kept}) AND order_id IN (SELECT order_id FROM {asked}) "
            "GROUP BY order_id)",
            {"day": day},
            schema=PLACED_SCHEMA,
        )
    finally:
        warehouse.command(f"DROP TABLE IF EXISTS {asked} SYNC")


def check_order_calls(warehouse: Warehouse, source: str, day: date) -> OrderCheck:
    """How the rows of the day in `source`, a table in the shape of `dwh.order_calls`, are counted."""
    own = f"SELECT order_id, {_AT} AS at, call_id, session_id, is_counted, 1 AS is_own FROM {source}"
    other = f"SELECT order_id, {_AT} AS at, call_id, session_id, is_counted, 0 AS is_own FROM {ORDER_CALLS.full_name}"
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


def _as_ids(texts: pl.Series) -> pl.Series:
    return texts.cast(pl.String).str.replace_all("-", "", literal=True).str.decode("hex")
