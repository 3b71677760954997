"""Whose the calls without a visitor id are: those of the visitor whom their token names, or who follows at once.

A shopper's first calls carry no id yet, because an answer sets the cookie. Whose they are is decided within one
business day, so that a day's rows depend on no other day's first calls:

1. The calls with a session token that exactly one visitor id of the day carries as well are that visitor's.
2. The calls with a token that no visitor id carries are those of the one visitor who follows its last call, that is,
   whose first call of the day with the same ip and user agent comes later and within the timeout: a token may change
   when somebody signs in.
3. A call without any id is that of the one visitor whose first call of the day with the same ip and user agent comes
   at the same moment or later, and within the timeout.

Where there are several, calls stay alone, and so do stretches of calls without a pause that cross a midnight.
"""

import polars as pl

from app.contracts import API_CALLS
from app.frames.days import DayBounds

_TS, _CALL_ID = API_CALLS.schema["ts"], API_CALLS.schema["call_id"]
# Who called on a day, with which token and agent (ip and user agent; both as hashes, 0 is none), from when to when.
CALLERS = {
    "visitor_hash": pl.UInt64(),
    "visitor_key": pl.String(),
    "has_id": pl.Boolean(),
    "token": pl.UInt64(),
    "agent": pl.UInt64(),
    "first_ts": _TS,
    "last_ts": _TS,
}
# Calls without a visitor id, and whose they are: `owner_hash` is the call's own `visitor_hash` where it stays alone.
LINKS = {
    "call_id": _CALL_ID,
    "ts": _TS,
    "content_hash": pl.UInt64(),
    "visitor_hash": pl.UInt64(),
    "owner_hash": pl.UInt64(),
    "owner_key": pl.String(),
}
_HAS_TOKEN, _HAS_AGENT, _HAS_ID = pl.col("token") != 0, pl.col("agent") != 0, pl.col("has_id")


def visitors_to_link(callers: pl.DataFrame) -> pl.Series:
    """The `visitor_hash` of CALLERS without an id whose token a visitor id carries, or whose agent another visitor has.

    More calls take none of them away: who compares all of their calls with an earlier build finds every one whose
    owner changed because calls came.
    """
    shared = (
        callers.filter(_HAS_AGENT, _HAS_ID | _HAS_TOKEN).group_by("agent").agg(users=pl.col("visitor_hash").n_unique())
    )
    others = pl.col("users").fill_null(0) > _HAS_TOKEN.cast(pl.UInt32)
    return (
        _with_token_owner(callers)
        .filter(~_HAS_ID)
        .join(shared, on="agent", how="left")
        .filter((pl.col("names") > 0) | others)["visitor_hash"]
        .unique()
    )


def link_calls(callers: pl.DataFrame, calls: pl.DataFrame, *, bounds: DayBounds, timeout_ms: int) -> pl.DataFrame:
    """The LINKS of the day's calls among `calls`: `call_id, ts, content_hash, visitor_hash` of the `visitors_to_link`.

    `calls` are those of the day and of one timeout before and after it.
    """
    callers = _with_token_owner(callers)
    callers = (
        callers.join(_following_tokens(callers, timeout_ms), on="owner", how="left")
        .with_columns(owner=pl.coalesce("last_owner", "owner"))
        .drop("last_owner")
    )
    of_day = calls.with_columns(at=_at("ts"), is_alone=_crosses_midnight(calls, bounds, timeout_ms)).filter(
        pl.col("at").is_between(bounds.start, bounds.end, closed="left")
    )
    guests = callers.filter(~_HAS_ID, ~_HAS_TOKEN).select("visitor_hash", "agent")
    by_token = callers.filter(~_HAS_ID, _HAS_TOKEN).select("visitor_hash", "owner").unique("visitor_hash")
    owned = pl.concat(
        [
            of_day.join(by_token, on="visitor_hash"),
            of_day.join(guests, on="visitor_hash")
            .pipe(_with_follower, _first_calls(callers), timeout_ms)
            .with_columns(owner=pl.coalesce("follower", "visitor_hash"))
            .drop("agent", "follower"),
        ]
    )
    keys = callers.select(owner_hash="visitor_hash", owner_key="visitor_key").unique("owner_hash")
    return (
        owned.with_columns(owner_hash=pl.when("is_alone").then("visitor_hash").otherwise("owner"))
        .join(keys, on="owner_hash")
        .select(list(LINKS))
    )


def _at(column: str) -> pl.Expr:
    return pl.col(column).dt.epoch("ms")


def _with_token_owner(callers: pl.DataFrame) -> pl.DataFrame:
    """The callers with `names`, how many visitor ids carry their token, and `owner`, who they are by that."""
    names = (
        callers.filter(_HAS_ID, _HAS_TOKEN)
        .group_by("token")
        .agg(names=pl.col("visitor_hash").n_unique(), named=pl.col("visitor_hash").first())
    )
    is_named = ~_HAS_ID & (pl.col("names") == 1)
    return callers.join(names, on="token", how="left").with_columns(
        pl.col("names").fill_null(0), owner=pl.when(is_named).then("named").otherwise("visitor_hash")
    )


def _following_tokens(callers: pl.DataFrame, timeout_ms: int) -> pl.DataFrame:
    """`owner, last_owner`: of tokens that no visitor id carries, the one who follows in the end."""
    follows = (
        callers.filter(~_HAS_ID, _HAS_TOKEN, pl.col("names") == 0)
        .filter(pl.col("last_ts") == pl.col("last_ts").max().over("owner"))
        .unique("owner", keep="none")  # whoever uses two agents at the last moment
        .select("owner", "agent", at=_at("last_ts"))
        .pipe(_with_follower, _first_calls(callers), timeout_ms, is_later=True)
        .select("owner", last_owner="follower")
        .drop_nulls()
    )
    while True:  # each round doubles the steps; a follower always ends later, so there is no cycle
        further = follows.join(
            follows.select(last_owner="owner", further="last_owner"), on="last_owner", how="left"
        ).with_columns(last_owner=pl.coalesce("further", "last_owner"))
        if further["further"].null_count() == further.height:
            return follows
        follows = further.drop("further")


def _first_calls(callers: pl.DataFrame) -> pl.DataFrame:
    """`agent, at, visitor, number, next_at`, by `at`: when visitors first called with an agent.

    `visitor` is one of the `number` of those who did so at that moment; `next_at` is when the next ones did.
    """
    return (
        callers.filter(_HAS_AGENT, _HAS_ID | _HAS_TOKEN)
        .group_by("agent", visitor="owner")
        .agg(at=_at("first_ts").min())
        .group_by("agent", "at")
        .agg(pl.col("visitor").min(), number=pl.len())
        .sort("agent", "at")
        .with_columns(next_at=pl.col("at").shift(-1).over("agent"))
        .sort("at")
    )


def _with_follower(
    calls: pl.DataFrame, first_calls: pl.DataFrame, timeout_ms: int, *, is_later: bool = False
) -> pl.DataFrame:
    """The calls (`agent, at`) with `follower`, the one visitor who first called within the timeout, or null.

    With `is_later`, who first called at the same moment does not follow.
    """
    until = pl.col("at") + timeout_ms
    is_alone = (pl.col("number") == 1) & (pl.col("next_at").is_null() | (pl.col("next_at") > until))
    return (
        calls.with_columns(after=pl.col("at") + int(is_later))
        .sort("after")
        .join_asof(
            first_calls.rename({"at": "first_at"}),
            left_on="after",
            right_on="first_at",
            by="agent",
            strategy="forward",
            check_sortedness=False,
        )
        .with_columns(follower=pl.when((pl.col("first_at") <= until) & is_alone).then("visitor"))
        .drop("after", "first_at", "visitor", "number", "next_at")
    )


def _crosses_midnight(calls: pl.DataFrame, bounds: DayBounds, timeout_ms: int) -> pl.Series:
    """Whether a call is in a visitor's stretch of calls without a pause that begins before the day or ends after it."""
    at, is_other = _at("ts"), pl.col("visitor_hash") != pl.col("visitor_hash").shift(1)
    is_beyond = (at < bounds.start) | (at >= bounds.end)
    opens = (is_other | (at.diff() > timeout_ms)).fill_null(value=True)
    return (
        calls.with_row_index()
        .sort("visitor_hash", "ts")
        .with_columns(stretch=opens.cum_sum())
        .select("index", is_alone=is_beyond.any().over("stretch"))
        .sort("index")["is_alone"]
    )
