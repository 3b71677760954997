"""The once rule: an order counts once in the shop, at its first call, as shops repeat an order's call."""

import polars as pl

from app.contracts import ORDER_CALLS

PLACED_SCHEMA = {name: ORDER_CALLS.schema[name] for name in ("order_id", "ts", "call_id")}


def first_order_calls(events: pl.DataFrame) -> pl.DataFrame:
    """`order_id, ts, call_id` of the first of each order's purchase calls; ties in time go by `call_id`."""
    calls = events.filter(pl.col("event") == "purchase", pl.col("order_id") != "").select(*PLACED_SCHEMA)
    return calls.sort("ts", "call_id").unique("order_id", keep="first", maintain_order=True)


def counted_order_calls(first: pl.DataFrame, elsewhere: pl.DataFrame, repeats: pl.Series) -> pl.Series:
    """The ids of the calls that count, of the first calls of some orders.

    In: `order_id, ts, call_id` of both; `elsewhere` holds the first calls of these orders among all others that are
    known. `repeats` are ids of calls that do not count.
    """
    both = first.join(elsewhere, on="order_id", how="left", suffix="_elsewhere", maintain_order="left")
    is_later = (pl.col("ts_elsewhere") < pl.col("ts")) | (
        (pl.col("ts_elsewhere") == pl.col("ts")) & (pl.col("call_id_elsewhere") < pl.col("call_id"))
    )
    counted = both.filter(~is_later.fill_null(value=False), ~pl.col("call_id").is_in(repeats.implode()))
    return counted["call_id"]


def counts_as_order(counted_calls: pl.Series) -> pl.Expr:
    """Whether a call is an order that counts: one of these calls, or a purchase without an order id."""
    is_counted = (pl.col("order_id") == "") | pl.col("call_id").is_in(counted_calls.implode())
    return (pl.col("event") == "purchase") & is_counted
