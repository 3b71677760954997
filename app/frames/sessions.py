"""Sessions out of events: one row a session, what was done in it, with what, and where it came from."""

import polars as pl

from app.contracts import SESSIONS
from app.frames.carts import adds_to_cart, removes_from_cart
from app.frames.channels import arrivals
from app.frames.pages import page_of
from app.rules.endpoint_map import OTHER
from app.rules.session_rules import SessionRules

# What the tables of a session's pages and products repeat of it.
REPEATED = ("is_bot", "device_type", "channel")
_MINUTE_MS = 60_000


def build_sessions(
    events: pl.DataFrame, user_agents: pl.DataFrame, rules: SessionRules, countries: pl.DataFrame
) -> pl.DataFrame:
    """The rows of `dwh.sessions`, with `session_number`, for events in call order that begin on one day.

    In: the columns of `dwh.events`, `session_number, session_date, is_counted_order, cart_changes, ip,
    user_agent, referrer, page_url`. `user_agents`: what each of theirs says (`read_user_agents`). `countries`:
    `ip, country` of theirs.
    """
    limit = rules.max_calls_per_minute
    behaviour = (
        with_pace(events, limit)
        .group_by("session_number", maintain_order=True)
        .agg(
            pl.col("session_date", "session_id", "visitor_id").first(),
            user_id=last_text("user_id"),
            started_at=pl.col("ts").first(),
            ended_at=pl.col("ts").last(),
            calls=pl.len(),
            errors=pl.col("is_error").sum(),
            catalog_views=is_event("catalog").sum(),
            searches=(is_event("catalog") & (pl.col("search_query") != "")).sum(),
            product_views=is_event("product_view").sum(),
            products_viewed=pl.col("product_id")
            .filter(is_event("product_view") & (pl.col("product_id") != ""))
            .n_unique(),
            favorites_added=is_event("favorite_add").sum(),
            favorites_removed=is_event("favorite_remove").sum(),
            cart_adds=adds_to_cart().sum(),
            cart_removes=removes_from_cart().sum(),
            checkouts=is_event("checkout").sum(),
            orders=pl.col("is_counted_order").sum(),
            units=pl.col("quantity").filter("is_counted_order").sum(),
            revenue=pl.col("revenue").filter("is_counted_order").sum(),
            purchases=is_event("purchase").sum(),
            named_events=(pl.col("event") != OTHER).sum(),
            ip=first_text("ip"),
            user_agent=first_text("user_agent"),
            first_page=first_text("page_url"),
            is_crowded=pl.col("is_crowded").any(),
        )
    )
    return (
        behaviour.with_columns(
            user_type=pl.when(pl.col("user_id") != "").then(pl.lit("registered")).otherwise(pl.lit("guest")),
            duration_s=seconds((pl.col("ended_at") - pl.col("started_at")).dt.total_milliseconds()),
            furthest_step=furthest_step(),
            is_bounce=pl.col("named_events") <= 1,
        )
        .pipe(with_landing_page)
        .pipe(with_persons_call, events, user_agents)
        .join(user_agents, on="user_agent", how="left", maintain_order="left")
        .join(countries, on="ip", how="left", maintain_order="left")
        .with_columns(pl.col("country").fill_null(""))
        .join(arrivals(events, rules.channels), on="session_number", how="left", maintain_order="left")
        .with_columns(bot_reason=bot_reason(limit))
        .with_columns(is_bot=pl.col("bot_reason") != "")
        .select("session_number", *(pl.col(name).cast(dtype) for name, dtype in SESSIONS.schema.items()))
    )


def seconds(milliseconds: pl.Expr) -> pl.Expr:
    """Milliseconds as seconds, the nearest float always.

    Polars divides many rows by one number as it multiplies by its reciprocal, a single row not: the last digit of a
    row would depend on its neighbours.
    """
    thousand_a_row = milliseconds * 0 + 1000
    return milliseconds / thousand_a_row


def with_pace(events: pl.DataFrame, limit: int) -> pl.DataFrame:
    """The events with `is_crowded`."""
    return events.with_columns(is_crowded=is_crowded(limit))


def with_landing_page(sessions: pl.DataFrame) -> pl.DataFrame:
    """The sessions with `landing_page`, the page of their first call that says one."""
    return sessions.with_columns(landing_page=page_of("first_page"))


def with_persons_call(sessions: pl.DataFrame, events: pl.DataFrame, user_agents: pl.DataFrame) -> pl.DataFrame:
    """The sessions with `user_agent` and `ip` of their first call by a person, where user agents differ.

    A storefront's own server may call before the shopper's browser does. The `ip` is the first that a person's calls
    say; a session without a person's call stays as it is.
    """
    differs = (pl.col("user_agent") != pl.col("user_agent").shift(1)) & (
        pl.col("session_number") == pl.col("session_number").shift(1)
    )
    mixed = events.filter(differs).select(pl.col("session_number").unique())
    people = user_agents.filter(pl.col("bot_reason") == "", pl.col("user_agent") != "").select("user_agent")
    by_person = (
        events.select("session_number", "user_agent", "ip")
        .join(mixed, on="session_number", how="semi", maintain_order="left")
        .join(people, on="user_agent", how="semi", maintain_order="left")
        .group_by("session_number", maintain_order=True)
        .agg(persons_agent=pl.col("user_agent").first(), persons_ip=first_text("ip"))
    )
    return (
        sessions.join(by_person, on="session_number", how="left", maintain_order="left")
        .with_columns(
            user_agent=pl.coalesce("persons_agent", "user_agent"),
            ip=pl.when(pl.col("persons_ip") != "").then("persons_ip").otherwise("ip"),
        )
        .drop("persons_agent", "persons_ip")
    )


def is_crowded(limit: int) -> pl.Expr:
    """Whether more calls than the limit begin with this one within a minute, in its session; in call order."""
    if not limit:
        return pl.lit(value=False)
    of_session = pl.col("session_number").shift(-limit) == pl.col("session_number")
    spread = (pl.col("ts").shift(-limit) - pl.col("ts")).dt.total_milliseconds()
    return (of_session & (spread < _MINUTE_MS)).fill_null(value=False)


def bot_reason(limit: int) -> pl.Expr:
    """Why a session is a machine's: by its user agent, else by its pace; empty for people."""
    by_pace = pl.when("is_crowded").then(pl.lit(f"more than {limit} calls a minute")).otherwise(pl.lit(""))
    return pl.when(pl.col("bot_reason") != "").then("bot_reason").otherwise(by_pace)


def is_event(name: str) -> pl.Expr:
    return pl.col("event") == name


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


def first_text(column: str) -> pl.Expr:
    return pl.col(column).filter(pl.col(column) != "").first().fill_null("")


def last_text(column: str) -> pl.Expr:
    return pl.col(column).filter(pl.col(column) != "").last().fill_null("")
