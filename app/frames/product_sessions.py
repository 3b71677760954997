"""Products in a session: how often each was shown, viewed, kept, carted and bought."""

from collections.abc import Sequence

import polars as pl

from app.contracts import PRODUCT_SESSIONS
from app.frames.as_of import attributes_as_of
from app.frames.browsing import Browsing, product_codes, session_and_product
from app.frames.sessions import REPEATED, is_event

_COUNTS = (
    "impressions", "views", "favorites_added", "favorites_removed", "cart_adds", "cart_removes", "units_added",
    "orders", "units_bought", "revenue",
)  # fmt: skip
_FROM_HISTORY = ("title", "section", "material", "metal", "list_price", "stock_qty")


def build_product_sessions(
    browsing: Browsing, sessions: pl.DataFrame, versions: Sequence[pl.DataFrame]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of `dwh.product_sessions`: first products that were shown and no more, then those something came of.

    In two frames because the first, by far the larger, is zero in most columns: it is cheaper built and written apart.
    `sessions`: those of `dwh.sessions` with `session_number`. `versions`: what history knows of products, as
    `attributes_as_of` takes it.
    """
    sessions = sessions.select(
        "session_number", "session_date", "session_id", "visitor_id", *(as_label(name, sessions) for name in REPEATED)
    )
    # Impressions and actions are in call order, so the first of a group is its earliest.
    shown = browsing.impressions.group_by("key").agg(
        impressions=pl.len(), shown_first_at=pl.col("ts").first(), shown_in=pl.col("listing_id").first()
    )
    acted = browsing.actions.group_by("key").agg(
        acted_first_at=pl.col("ts").first(),
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
    only_shown = shown.join(acted, on="key", how="anti").rename({"shown_first_at": "first_seen_at"})
    only_shown = only_shown.with_columns(pl.lit(0).alias(name) for name in _COUNTS if name != "impressions")
    acted = acted.join(shown, on="key", how="left").with_columns(
        pl.col("impressions").fill_null(0), first_seen_at=pl.min_horizontal("shown_first_at", "acted_first_at")
    )
    return (
        _rows(only_shown.with_columns(price=pl.lit(None), listing_id="shown_in"), browsing, sessions, versions),
        _rows(acted.with_columns(listing_id=pl.coalesce("clicked_in", "shown_in")), browsing, sessions, versions),
    )


def _rows(
    products: pl.DataFrame, browsing: Browsing, sessions: pl.DataFrame, versions: Sequence[pl.DataFrame]
) -> pl.DataFrame:
    """Keyed products as rows of the table, sorted as it is."""
    products = products.sort("key")
    codes = product_codes(products["key"])
    known = attributes_as_of(codes, products["first_seen_at"], browsing.products, versions)
    unknown = [pl.lit(None).alias(name) for name in _FROM_HISTORY if name not in known.columns]
    rows = products.hstack(session_and_product(products["key"], browsing.products)).hstack(known)
    return (
        rows.join(sessions, on="session_number", how="left", maintain_order="left")
        .with_columns(unknown)
        .select(
            pl.col(name) if name in known.columns or name in REPEATED else pl.col(name).cast(dtype)
            for name, dtype in PRODUCT_SESSIONS.schema.items()
        )
    )


def as_label(name: str, sessions: pl.DataFrame) -> pl.Expr:
    """A column of the sessions; text as Enum, because millions of rows share few values."""
    values = sessions[name]
    return pl.col(name).cast(pl.Enum(values.unique().sort())) if values.dtype == pl.String else pl.col(name)
