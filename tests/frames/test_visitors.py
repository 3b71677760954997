"""Whose the calls without a visitor id are, and that days built one by one make the sessions that the rules say."""

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from app.frames.days import DayBounds, day_bounds
from app.frames.sessionize import assign_sessions
from app.frames.visitors import CALLERS, link_calls, visitors_to_link
from tests.support.effort import repeated
from tests.support.reference import Record, sessions

MINUTE = 60_000
TIMEOUT_MS = 30 * MINUTE
ZONE = ZoneInfo("UTC")
DAY = date(2026, 3, 10)
NOON = int(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp() * 1000)
MIDNIGHT = NOON + 12 * 60 * MINUTE
HOME = {"ip": "203.0.113.9", "user_agent": "Firefox"}
OFFICE = {"ip": "198.51.100.7", "user_agent": "Firefox"}
_CALLS = {
    "visitor_hash": pl.UInt64, "visitor_key": pl.String, "has_id": pl.Boolean, "token": pl.UInt64, "agent": pl.UInt64,
    "ts": pl.Int64, "call_id": pl.Binary,
}  # fmt: skip


def call(number: int, ts: int, **who: str) -> Record:
    return {"call_id": f"{number:032x}", "ts": ts} | who


def frame(records: list[Record]) -> pl.DataFrame:
    """The calls with their visitors by their own ids; small numbers stand for the hashes of texts."""
    numbers: defaultdict[object, int] = defaultdict(lambda: len(numbers) + 1)
    rows = []
    for record in records:
        visitor, token = record.get("visitor_id"), record.get("session_token")
        agent = (record.get("ip"), record.get("user_agent"))
        key = visitor or token or f"anonymous-{agent}"
        agent_number = numbers["agent", agent] if all(agent) else 0
        token_number = numbers["token", token] if token else 0
        call_id = bytes.fromhex(str(record["call_id"]))
        rows.append((numbers[key], key, bool(visitor), token_number, agent_number, record["ts"], call_id))
    return pl.DataFrame(rows, schema=_CALLS, orient="row").with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC")))


def at() -> pl.Expr:
    return pl.col("ts").dt.epoch("ms")


def links_of(calls: pl.DataFrame, bounds: DayBounds) -> pl.DataFrame:
    """The links of a day, of what a build reads for them."""
    of_day = calls.filter(at().is_between(bounds.start, bounds.end, closed="left"))
    callers = of_day.group_by("visitor_hash", "visitor_key", "has_id", "token", "agent").agg(
        first_ts=pl.col("ts").min(), last_ts=pl.col("ts").max()
    )
    around = calls.filter(
        ~pl.col("has_id"),
        pl.col("visitor_hash").is_in(visitors_to_link(callers).implode()),
        at().is_between(bounds.start - TIMEOUT_MS, bounds.end + TIMEOUT_MS),
    )
    some = around.select("call_id", "ts", "visitor_hash", content_hash=pl.lit(0, pl.UInt64))
    return link_calls(callers.select(list(CALLERS)), some, bounds=bounds, timeout_ms=TIMEOUT_MS)


def built_day(calls: pl.DataFrame, day: date) -> pl.DataFrame:
    """The calls of a day in their sessions, and those that follow after it, of no more than a build reads."""
    bounds = day_bounds(day, ZONE)
    links = links_of(calls, bounds)
    owners = links.filter(pl.col("owner_hash") != pl.col("visitor_hash")).select("call_id", "owner_hash")
    moments = (
        calls.select("visitor_hash", "ts", "call_id")
        .join(owners, on="call_id", how="left")
        .with_columns(is_linked=pl.col("owner_hash").is_not_null())
        .with_columns(visitor_hash=pl.coalesce("owner_hash", "visitor_hash"))
    )
    there = {
        midnight: moments.filter(~pl.col("is_linked"), at().is_between(midnight - TIMEOUT_MS, midnight, closed="left"))[
            "visitor_hash"
        ].implode()
        for midnight in (bounds.start, bounds.end)
    }
    is_before = at().is_between(bounds.previous_start - TIMEOUT_MS, bounds.start, closed="left")
    is_after = at().is_between(bounds.end, bounds.next_end, closed="left")
    return assign_sessions(
        moments.filter(
            at().is_between(bounds.start, bounds.end, closed="left")
            | is_after & pl.col("visitor_hash").is_in(there[bounds.end])
        ),
        moments.filter(is_before & pl.col("visitor_hash").is_in(there[bounds.start])),
        bounds=bounds,
        timeout_ms=TIMEOUT_MS,
    )


def built_sessions(records: list[Record]) -> list[tuple[date, int, tuple[str, ...]]]:
    """Day, start and calls of every session, of days that are built one by one; a call is in one session."""
    calls = frame(records)
    first, last = (datetime.fromtimestamp(int(ts) / 1000, tz=UTC).date() for ts in (min(r["ts"] for r in records), max(r["ts"] for r in records)))  # fmt: skip
    begun, held = {}, defaultdict(list)
    for day in (first + timedelta(days=n) for n in range((last - first).days + 1)):
        found = built_day(calls, day).with_columns(id=pl.col("call_id").bin.encode("hex"))
        for key, of_session in found.filter("starts_today").group_by("session_id", maintain_order=True):
            assert key not in begun, "two sessions have the same id"
            begun[key] = (day, of_session.select(at().min()).item(), tuple(of_session["id"]))
        assert found["session_number"].is_sorted()
        end = day_bounds(day, ZONE).end
        for session_id, call_id in (
            found.filter(at() < end).sort("ts", "call_id").select("session_id", "id").iter_rows()
        ):
            held[(session_id,)].append(call_id)
    assert {key: tuple(ids) for key, ids in held.items()} == {key: ids for key, (_, _, ids) in begun.items()}
    return sorted(begun.values())


def expected_sessions(records: list[Record]) -> list[tuple[date, int, tuple[str, ...]]]:
    return sorted((found.day, found.started, found.call_ids) for found in sessions(records, ZONE, TIMEOUT_MS))


CALLERS_MET = [
    {"visitor_id": v, "session_token": t, **agent}
    for v in ("", "v", "w")
    for t in ("", "t", "u", "x")
    for agent in (HOME, OFFICE, {"ip": "203.0.113.9"})
]
_STEP = st.sampled_from([0, 1, MINUTE, 10 * MINUTE, TIMEOUT_MS, TIMEOUT_MS + 1, 2 * TIMEOUT_MS])
_START = st.sampled_from([NOON, MIDNIGHT - TIMEOUT_MS, MIDNIGHT - MINUTE, MIDNIGHT])
_TIRELESS = st.integers(40, 110).map(lambda number: [TIMEOUT_MS] * number)


@settings(max_examples=repeated(40, 3000))
@given(st.data())
def test_days_built_one_by_one_hold_the_sessions_of_the_rule(data):
    walks = data.draw(
        st.lists(
            st.tuples(_START, st.lists(st.tuples(_STEP, st.sampled_from(CALLERS_MET)), min_size=1, max_size=7)),
            min_size=1,
            max_size=4,
        )
    )
    records: list[Record] = []
    for start, steps in walks:
        ts = start
        for step, who in steps:
            ts += step
            records.append(call(len(records), ts, **who))
    if data.draw(st.booleans()):  # somebody who never pauses
        who = data.draw(st.sampled_from(CALLERS_MET))
        ts = data.draw(_START) - 24 * 60 * MINUTE
        for step in data.draw(_TIRELESS):
            ts += step
            records.append(call(len(records), ts, **who))
    assert built_sessions(records) == expected_sessions(records)
