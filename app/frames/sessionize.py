"""Which session each call belongs to: a visitor's calls without a pause longer than the timeout.

A session belongs to the business day on which it begins and may cross one midnight. A visitor who never pauses for a
whole business day gets a new session at the next midnight, so that a day's sessions never depend on more than the
day before, the day itself and the day after.
"""

import numpy as np
import polars as pl
import pyarrow as pa

from app.frames.days import DayBounds

CALL_ORDER = ("visitor_hash", "ts", "call_id")


def first_of_each_call(calls: pl.DataFrame) -> pl.DataFrame:
    """The calls with each `call_id` once: the earliest, then that with the smaller content hash."""
    if calls["call_id"].n_unique() == calls.height:
        return calls
    return calls.sort("ts", "content_hash").unique("call_id", keep="first", maintain_order=True)


def assign_sessions(calls: pl.DataFrame, earlier: pl.DataFrame, *, bounds: DayBounds, timeout_ms: int) -> pl.DataFrame:
    """The calls, sorted by visitor, session and time, with `session_id`, `session_number` and `starts_today`.

    `calls` are those of the day and what follows of the sessions that reach into the next day. `earlier` are
    `visitor_hash, ts, call_id` of the day before and of one timeout before that, for at least the visitors who were
    there just before midnight. Calls of the next day that belong to no session of this day are left out. In both,
    `is_linked` says that a call of the day is the visitor's by a link (`app.frames.visitors`), not by its own ids.
    `session_number` is ascending in the calls' order and dense within the frame, no identity beyond it.
    """
    moments = pl.concat(
        [
            earlier.select(*CALL_ORDER, "is_linked").with_columns(row=pl.lit(None, pl.UInt32)),
            calls.with_row_index("row").select(*CALL_ORDER, "is_linked", "row"),
        ]
    ).with_columns(at=pl.col("ts").dt.epoch("ms"))
    own = (
        moments.filter(~pl.col("is_linked"))
        .sort(CALL_ORDER)
        .with_columns(pauses_before=pauses_before(timeout_ms))
        .with_columns(session_number=opens_session(bounds).cum_sum())
        .with_columns(started=pl.col("at").first().over("session_number"))
        .with_columns(named_after="started")
        .drop("pauses_before")
    )
    linked = moments.filter("is_linked")
    sessions = own if linked.is_empty() else _with_linked(own, linked, bounds=bounds, timeout_ms=timeout_ms)
    starts = sessions.filter(pl.col("row").is_not_null()).select("row", "session_number", "started", "named_after")
    return (
        calls[starts["row"]]
        .drop("is_linked")
        .hstack(starts.drop("row"))
        .with_columns(starts_today=pl.col("started").is_between(bounds.start, bounds.end, closed="left"))
        .filter((pl.col("ts").dt.epoch("ms") < bounds.end) | pl.col("starts_today"))
        .pipe(_with_session_id)
        .with_columns(session_number=pl.col("session_number").rle_id())
        .drop("started", "named_after")
    )


def _with_linked(own: pl.DataFrame, linked: pl.DataFrame, *, bounds: DayBounds, timeout_ms: int) -> pl.DataFrame:
    """The calls in their sessions, in which linked calls have joined those that begin on the day, or are some alone.

    A session that was there before the day is left as it is. One that goes on after the day is still named after its
    own first call, as the next day, which does not know what joined it, names it.
    """
    visitors = linked["visitor_hash"].unique().implode()
    joins = pl.col("visitor_hash").is_in(visitors) & pl.col("started").is_between(
        bounds.start, bounds.end, closed="left"
    )
    goes_on = pl.col("started").filter(pl.col("at") >= bounds.end).max()
    joined = (
        pl.concat([own.filter(joins), linked], how="diagonal")
        .sort(CALL_ORDER)
        .with_columns(session_number=pauses_before(timeout_ms).cum_sum())
        .with_columns(named_after=pl.coalesce(goes_on, pl.col("at").first()).over("session_number"))
        .with_columns(started=pl.col("at").first().over("session_number"))
    )
    return (
        pl.concat([own.filter(~joins), joined])
        .sort("visitor_hash", "started", "ts", "call_id")
        .with_columns(session_number=pl.struct("visitor_hash", "started").rle_id())
    )


def reached_calls(calls: pl.DataFrame, *, midnight: int, timeout_ms: int) -> pl.DataFrame:
    """Of the calls after a midnight those that go on, without a pause, from a call of the visitor before it.

    In: `visitor_hash, ts, call_id` of one timeout before the midnight (epoch ms) and of what follows.
    """
    return (
        calls.sort(CALL_ORDER)
        .with_columns(at=pl.col("ts").dt.epoch("ms"))
        .with_columns(pauses_before=pauses_before(timeout_ms))
        .with_columns(stretch=pl.col("pauses_before").cum_sum())
        .filter((pl.col("at") >= midnight) & (pl.col("at").first().over("stretch") < midnight))
        .drop("at", "pauses_before", "stretch")
    )


def changed_sessions(
    calls: pl.DataFrame, published: pl.DataFrame, *, bounds: DayBounds, timeout_ms: int, reaches_on: bool
) -> pl.Series:
    """The ids of the sessions that do not hold the same calls of the day as the published ones, on either side.

    In: `session_id, ts, call_id, content_hash` on both sides. With `reaches_on` every
    session that was there just before the day's end counts as changed, too: what follows after it may have changed.
    """
    key = ["session_id", "call_id", "content_hash"]
    at = pl.col("ts").dt.epoch("ms")
    of_day = calls.filter(at < bounds.end)
    found = [of_day.join(published, on=key, how="anti"), published.join(of_day, on=key, how="anti")]
    if reaches_on:
        found.append(of_day.filter(at >= bounds.end - timeout_ms))
    return pl.concat([sessions.select("session_id") for sessions in found])["session_id"].unique()


def is_same_visitor() -> pl.Expr:
    return (pl.col("visitor_hash") == pl.col("visitor_hash").shift(1)).fill_null(value=False)


def pauses_before(timeout_ms: int) -> pl.Expr:
    """Whether the visitor paused for longer than the timeout before this call; exactly the timeout is no pause."""
    return ~is_same_visitor() | (pl.col("at").diff() > timeout_ms)


def opens_session(bounds: DayBounds) -> pl.Expr:
    """A call opens a session after a pause, or as the first of a day when there was no pause all the day before."""
    at = pl.col("at")
    return (
        pl.col("pauses_before")
        | _is_first_after(bounds.start) & ~_paused_within((at >= bounds.previous_start) & (at < bounds.start))
        | _is_first_after(bounds.end) & ~_paused_within((at >= bounds.start) & (at < bounds.end))
    )


def _is_first_after(midnight: int) -> pl.Expr:
    return (pl.col("at") >= midnight) & (pl.col("at").shift(1) < midnight) & is_same_visitor()


def _paused_within(day: pl.Expr) -> pl.Expr:
    return (pl.col("pauses_before") & day).any().over("visitor_hash")


def _with_session_id(calls: pl.DataFrame) -> pl.DataFrame:
    sessions = calls.select("session_number", "visitor_hash", "named_after").unique(
        "session_number", keep="first", maintain_order=True
    )
    ids = sessions.select(
        "session_number", session_id=_hex(sessions["visitor_hash"]) + "-" + sessions["named_after"].cast(pl.String)
    )
    return calls.join(ids, on="session_number", how="left", maintain_order="left")


def _hex(hashes: pl.Series) -> pl.Series:
    """Each unsigned 64-bit integer as 16 hexadecimal digits."""
    big_endian = np.ascontiguousarray(hashes.to_numpy().astype(">u8"))
    words = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), len(big_endian), [None, pa.py_buffer(big_endian)])
    return pl.Series(words.cast(pa.binary())).bin.encode("hex")
