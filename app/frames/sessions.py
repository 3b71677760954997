"""Sessions out of events: one row a session, what was done in it, with what, and where it came from."""

import polars as pl

from app.contracts import SESSIONS
from app.frames.channels import channel, page_without_query, referrer_host, url_parameter
from app.frames.devices import device_columns
from app.frames.events import FAILED_STATUS
from app.tracking import OTHER

# What the tables of a session's pages and products repeat of it.
REPEATED = ("is_bot", "device_type", "channel")
STEPS = ("visit", "catalog", "product", "cart", "checkout", "purchase")
CLICK_IDS = ("gclid", "gbraid", "wbraid", "msclkid", "fbclid", "ttclid", "yclid")
_UTM = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content")
_CAMPAIGN = rf"[?&](?:{'|'.join((*_UTM, *CLICK_IDS))})=[^&#]"


def build_sessions(events: pl.DataFrame) -> pl.DataFrame:
    """The rows of `dwh.sessions`, with `session_number`, for events in call order that begin on one day.

    In: the columns of `dwh.events`, `session_number, session_date, is_counted_order, user_agent, referrer, page_url`.
    """
    behaviour = events.group_by("session_number", maintain_order=True).agg(
        pl.col("session_date", "session_id", "visitor_id").first(),
        user_id=last_text("user_id"),
        started_at=pl.col("ts").first(),
        ended_at=pl.col("ts").last(),
        calls=pl.len(),
        errors=(pl.col("status") >= FAILED_STATUS).sum(),
        catalog_views=is_event("catalog").sum(),
        searches=(is_event("catalog") & (pl.col("search_query") != "")).sum(),
        product_views=is_event("product_view").sum(),
        products_viewed=pl.col("product_id").filter(is_event("product_view") & (pl.col("product_id") != "")).n_unique(),
        favorites_added=is_event("favorite_add").sum(),
        favorites_removed=is_event("favorite_remove").sum(),
        cart_adds=is_event("cart_add").sum(),
        cart_removes=is_event("cart_remove").sum(),
        checkouts=is_event("checkout").sum(),
        orders=pl.col("is_counted_order").sum(),
        units=pl.col("quantity").filter("is_counted_order").sum(),
        revenue=pl.col("revenue").filter("is_counted_order").sum(),
        purchases=is_event("purchase").sum(),
        named_events=(pl.col("event") != OTHER).sum(),
        user_agent=first_text("user_agent"),
        referrer=first_text("referrer"),
        first_page=first_text("page_url"),
        campaign_page=first_text("page_url", matching=_CAMPAIGN),
    )
    return (
        behaviour.with_columns(
            user_type=pl.when(pl.col("user_id") != "").then(pl.lit("registered")).otherwise(pl.lit("guest")),
            duration_s=seconds((pl.col("ended_at") - pl.col("started_at")).dt.total_milliseconds()),
            landing_page=page_without_query("first_page"),
            referrer_host=referrer_host("referrer"),
            furthest_step=furthest_step(),
            is_bounce=pl.col("named_events") <= 1,
            **{name: url_parameter("campaign_page", name) for name in _UTM},
            click_id=pl.coalesce(
                pl.when(p != "").then(p) for p in (url_parameter("campaign_page", k) for k in CLICK_IDS)
            ).fill_null(""),
        )
        .join(device_columns(behaviour["user_agent"]), on="user_agent", how="left", maintain_order="left")
        .with_columns(
            channel=channel(has_click_id=pl.col("click_id") != ""),
            bot_reason=pl.when("is_bot").then(pl.lit("user agent")).otherwise(pl.lit("")),
            source=first_said("utm_source", "referrer_host", otherwise="(direct)"),
            medium=first_said("utm_medium", otherwise="(none)"),
            search_term=pl.lit(""),
        )
        .select("session_number", *(pl.col(name).cast(dtype) for name, dtype in SESSIONS.schema.items()))
    )


def seconds(milliseconds: pl.Expr) -> pl.Expr:
    """Milliseconds as seconds, the nearest float always.

    Polars divides many rows by one number as it multiplies by its reciprocal, a single row not: the last digit of a
    row would depend on its neighbours.
    """
    thousand_a_row = milliseconds * 0 + 1000
    return milliseconds / thousand_a_row


def first_said(*columns: str, otherwise: str) -> pl.Expr:
    return pl.coalesce(*(pl.when(pl.col(name) != "").then(name) for name in columns), pl.lit(otherwise))


def is_event(name: str) -> pl.Expr:
    return pl.col("event") == name


def counts_as_order() -> pl.Expr:
    """A purchase counts unless its order was already seen in the session: shops repeat an order's call."""
    is_repeated = (pl.col("order_id") != "") & ~pl.struct("session_number", "order_id", "event").is_first_distinct()
    return is_event("purchase") & ~is_repeated


def furthest_step() -> pl.Expr:
    """The last step of the journey that the session reached, whatever it skipped on the way."""
    reached = {
        "purchase": pl.col("purchases") > 0,
        "checkout": pl.col("checkouts") > 0,
        "cart": pl.col("cart_adds") > 0,
        "product": pl.col("product_views") > 0,
        "catalog": pl.col("catalog_views") > 0,
    }
    return pl.coalesce(
        *(pl.when(has_reached).then(pl.lit(step)) for step, has_reached in reached.items()), pl.lit("visit")
    )


def first_text(column: str, *, matching: str | None = None) -> pl.Expr:
    text = pl.col(column)
    wanted = text.str.contains(matching) if matching else text != ""
    return text.filter(wanted).first().fill_null("")


def last_text(column: str) -> pl.Expr:
    return pl.col(column).filter(pl.col(column) != "").last().fill_null("")
