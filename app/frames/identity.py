"""Which calls are a user's: those that carry the user id, and guests' calls that are stitched to the user."""

from datetime import timedelta

import polars as pl

CALLS = pl.Schema(
    {
        "call_id": pl.Binary(),
        "ts": pl.Datetime("ms", "UTC"),
        "visitor_key": pl.String(),
        "visitor_id": pl.String(),
        "session_token": pl.String(),
        "user_id": pl.String(),
    }
)


def resolve_identity(calls: pl.DataFrame, *, user: str, timeout_ms: int) -> pl.DataFrame:
    """The calls, each once, with `belongs`: whether it is the user's.

    In: CALLS, all calls of the visitors and session tokens that the user was seen with. A session is a visitor's calls
    without a longer pause; its person is the last user in it, else that of the next session in which somebody was
    signed in, else of the last one before. A call that names another user belongs to that user, whatever its session.
    """
    opens = (pl.col("ts").diff() > timedelta(milliseconds=timeout_ms)).over("visitor_key").fill_null(value=True)
    signed_in = pl.when(pl.col("user_id") != "").then("user_id")
    carries_token = pl.col("session_token") != ""
    others = calls.filter(carries_token, pl.col("user_id") != "", pl.col("user_id") != user)["session_token"]
    own = calls.filter(carries_token, pl.col("user_id") == user)["session_token"].unique()
    by_token = pl.col("session_token").is_in(own.filter(~own.is_in(others.implode())).implode())
    return (
        calls.sort("visitor_key", "ts", "call_id")
        .unique("call_id", keep="first", maintain_order=True)
        .with_columns(session=opens.cum_sum())
        .with_columns(person=signed_in.drop_nulls().last().over("session"))
        .with_columns(person=pl.col("person").backward_fill().forward_fill().over("visitor_key"))
        .with_columns(
            belongs=(pl.col("user_id") == user)
            | (pl.col("user_id") == "") & ((pl.col("person") == user).fill_null(value=False) | by_token)
        )
        .select(*CALLS, "belongs")
    )


def exclusive_ids(calls: pl.DataFrame, column: str) -> list[str]:
    """The ids in a column that occur only in calls of the user; in: the result of `resolve_identity`."""
    return (
        calls.filter(pl.col(column) != "")
        .group_by(column)
        .agg(pl.col("belongs").all())
        .filter("belongs")[column]
        .sort()
        .to_list()
    )
