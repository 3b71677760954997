"""Catalog calls in their session: what was asked, what was shown, and what came of it."""

import polars as pl

from app.contracts import CATALOG_SESSIONS
from app.frames.browsing import Browsing, as_pairs
from app.frames.sessions import REPEATED, is_event

_OUTCOMES = {"products_clicked": "product_view", "products_carted": "cart_add", "products_bought": "purchase"}


def build_catalog_sessions(browsing: Browsing, sessions: pl.DataFrame) -> pl.DataFrame:
    """The rows of `dwh.catalog_sessions`: one per catalog call, with the products each page led to.

    A view, cart_add or purchase counts for the latest earlier page of the session that showed the product.
    `sessions`: `session_number` and what the table repeats of them (`REPEATED`).
    """
    outcomes = browsing.actions.group_by(position="shown_at").agg(
        *(
            pl.col("key").filter(is_event(event)).n_unique().cast(pl.UInt32).alias(name)
            for name, event in _OUTCOMES.items()
        ),
        clicked_positions=pl.col("place").filter(is_event("product_view")).unique().sort(),
    )
    return (
        browsing.catalog.join(outcomes, on="position", how="left", maintain_order="left")
        .join(sessions.select("session_number", *REPEATED), on="session_number", how="left", maintain_order="left")
        .with_columns(
            pl.col(*_OUTCOMES).fill_null(0),
            pl.col("clicked_positions").fill_null([]),
            pl.col("page").fill_null(1),
            filters_used=filters_used(),
            results_shown=pl.col("shown_products").list.len(),
            is_search=pl.col("search_query") != "",
            is_zero_result=(pl.col("results_total") == 0).fill_null(value=False),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in CATALOG_SESSIONS.schema.items())
    )


def filters_used() -> pl.Expr:
    """How many of section, material, metal, price and the shop's own filters were used; both prices are one filter."""
    lists = [(pl.col(name).list.len() > 0).cast(pl.UInt8) for name in ("section", "material", "metal")]
    has_price = pl.col("price_min").is_not_null() | pl.col("price_max").is_not_null()
    return pl.sum_horizontal(*lists, has_price.cast(pl.UInt8), as_pairs().list.len().cast(pl.UInt8))
