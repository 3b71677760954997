"""What a new quantity means: an update adds to the cart or takes from it, by what the session had of the product."""

import polars as pl

_OF_PRODUCT = ["session_number", "product_id"]
_CART_EVENTS = ("cart_add", "cart_remove", "cart_update")


def with_cart_changes(events: pl.DataFrame) -> pl.DataFrame:
    """The events with `cart_changes`: per product of a cart update the units that came (or went, below 0).

    In: events in call order, with `session_number, event, product_id, quantity` and the lists of several products. A
    session begins with an empty cart. The list is null for other events; a product without id or quantity has 0.
    """
    if not (events["event"] == "cart_update").any():
        return events.with_columns(cart_changes=pl.lit(None, pl.List(pl.Int64)))
    numbered = events.with_row_index("position")
    items = (
        numbered.filter(pl.col("event").is_in(_CART_EVENTS))
        .select("position", "session_number", "event", *products_of_call())
        .explode("product_id", "units", empty_as_null=False)
        .with_row_index("item")
    )
    ordered = items.sort("session_number", "product_id", "item")
    changed = ordered.with_columns(times_set=_is_set().cum_sum().over(_OF_PRODUCT)).with_columns(
        units_after=_step().cum_sum().over([*_OF_PRODUCT, "times_set"]).clip(0)
    )
    changed = changed.with_columns(units_before=pl.col("units_after").shift(1, fill_value=0).over(_OF_PRODUCT))
    change = pl.when(pl.col("product_id") != "").then(pl.col("units") - pl.col("units_before"))
    changes = (
        changed.filter(pl.col("event") == "cart_update")
        .with_columns(change=change.fill_null(0))
        .sort("item")
        .group_by("position", maintain_order=True)
        .agg(cart_changes="change")
    )
    return numbered.join(changes, on="position", how="left", maintain_order="left").drop("position")


def products_of_call() -> tuple[pl.Expr, pl.Expr]:
    """The products of a call and the units of each, as lists, whether the call is about one product or several."""
    is_several = pl.col("order_products").list.len() > 0
    one, units = pl.concat_list("product_id"), pl.concat_list(pl.col("quantity").cast(pl.Int64))
    return (
        pl.when(is_several).then("order_products").otherwise(one).alias("product_id"),
        pl.when(is_several).then(pl.col("order_quantities").cast(pl.List(pl.Int64))).otherwise(units).alias("units"),
    )


def _is_set() -> pl.Expr:
    """Whether a call says how many units of the product are in the cart after it."""
    is_new_quantity = (pl.col("event") == "cart_update") & pl.col("units").is_not_null()
    return is_new_quantity | ((pl.col("event") == "cart_remove") & pl.col("units").is_null())


def _step() -> pl.Expr:
    """The units that a call sets, adds (1 where it says none) or takes."""
    is_add, is_update = pl.col("event") == "cart_add", pl.col("event") == "cart_update"
    return (
        pl.when(is_update)
        .then(pl.col("units").fill_null(0))
        .when(is_add)
        .then(pl.col("units").fill_null(1))
        .otherwise(-pl.col("units").fill_null(0))
    )


def adds_to_cart() -> pl.Expr:
    """Whether a call put something in the cart."""
    return (pl.col("event") == "cart_add") | (pl.col("cart_changes").list.max() > 0).fill_null(value=False)


def removes_from_cart() -> pl.Expr:
    """Whether a call took something from the cart."""
    return (pl.col("event") == "cart_remove") | (pl.col("cart_changes").list.min() < 0).fill_null(value=False)
