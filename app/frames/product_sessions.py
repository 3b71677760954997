"""Products in a session: how often each was shown, viewed, kept, carted and bought."""

import polars as pl

from app.contracts import PRODUCT_SESSIONS
from app.frames.browsing import Browsing, session_and_product
from app.frames.sessions import is_event

_COUNTS = (
    "impressions", "views", "favorites_added", "favorites_removed", "cart_adds", "cart_removes", "units_added",
    "orders", "units_bought", "revenue",
)  # fmt: skip
_FROM_HISTORY = ("title", "section", "material", "metal", "list_price", "stock_qty")


def build_product_sessions(browsing: Browsing, sessions: pl.DataFrame) -> pl.DataFrame:
    """The rows of `dwh.product_sessions`; `sessions`: `session_number, session_date, session_id, visitor_id`."""
    shown = browsing.impressions.group_by("key").agg(
        impressions=pl.len(),
        shown_first_at=pl.col("ts").min(),
        shown_in=pl.col("listing_id").sort_by("position").first(),
    )
    done = browsing.actions.group_by("key").agg(
        acted_first_at=pl.col("ts").min(),
        views=is_event("product_view").sum(),
        favorites_added=is_event("favorite_add").sum(),
        favorites_removed=is_event("favorite_remove").sum(),
        cart_adds=is_event("cart_add").sum(),
        cart_removes=is_event("cart_remove").sum(),
        units_added=pl.col("quantity").fill_null(1).filter(is_event("cart_add")).sum(),
        orders=pl.col("position").filter(is_event("purchase")).n_unique(),
        units_bought=pl.col("quantity").filter(is_event("purchase")).sum(),
        revenue=pl.col("revenue").sum(),
        price=pl.col("price").filter(pl.col("price").is_not_null()).last(),
        clicked_in=pl.col("listing_id").filter(is_event("product_view") & pl.col("listing_id").is_not_null()).first(),
    )
    both = shown.join(done, on="key", how="full", coalesce=True).sort("key")
    return (
        both.hstack(session_and_product(both["key"], browsing.products))
        .join(sessions, on="session_number", how="left", maintain_order="left")
        .with_columns(
            first_seen_at=pl.min_horizontal("shown_first_at", "acted_first_at"),
            listing_id=pl.coalesce("clicked_in", "shown_in"),
            **{name: pl.lit(None) for name in _FROM_HISTORY},
        )
        .with_columns(pl.col(*_COUNTS).fill_null(0))
        .select(pl.col(name).cast(dtype) for name, dtype in PRODUCT_SESSIONS.schema.items())
    )
