"""Every call is in exactly one session, whatever the pauses, midnights and neighbours."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.frames.days import business_day, day_bounds
from app.frames.sessionize import assign_sessions, first_of_each_call
from tests.support.effort import repeated

TIMEOUT_MS = 30 * 60 * 1000
DAY = date(2026, 3, 10)
MINUTE = 60_000


def frame(calls: list[tuple[int, int]]) -> pl.DataFrame:
    """Calls from (visitor, epoch ms), each with its own id."""
    ids = [number.to_bytes(16) for number in range(len(calls))]
    columns = {"visitor_hash": [v for v, _ in calls], "ts": [t for _, t in calls], "call_id": ids}
    return pl.DataFrame(columns, schema={"visitor_hash": pl.UInt64, "ts": pl.Int64, "call_id": pl.Binary}).with_columns(
        pl.col("ts").cast(pl.Datetime("ms", "UTC")), is_linked=pl.lit(value=False)
    )


def sessions_of_day(calls: list[tuple[int, int]], day: date, zone: ZoneInfo) -> pl.DataFrame:
    """What a build of one day sees and makes, reading no more than it would."""
    bounds = day_bounds(day, zone)
    every = frame(calls)
    at = pl.col("ts").dt.epoch("ms")
    just_before = every.filter(at.is_between(bounds.start - TIMEOUT_MS, bounds.start, closed="left"))[
        "visitor_hash"
    ].unique()
    just_before_end = every.filter(at.is_between(bounds.end - TIMEOUT_MS, bounds.end, closed="left"))[
        "visitor_hash"
    ].unique()
    own = every.filter(
        at.is_between(bounds.start, bounds.end, closed="left")
        | at.is_between(bounds.end, bounds.next_end, closed="left")
        & pl.col("visitor_hash").is_in(just_before_end.implode())
    )
    earlier = every.filter(
        at.is_between(bounds.previous_start - TIMEOUT_MS, bounds.start, closed="left")
        & pl.col("visitor_hash").is_in(just_before.implode())
    )
    return assign_sessions(own, earlier, bounds=bounds, timeout_ms=TIMEOUT_MS)


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def sizes(calls: list[tuple[int, int]], day: date = DAY, zone: str = "UTC") -> list[int]:
    found = sessions_of_day(calls, day, ZoneInfo(zone)).filter("starts_today")
    return found.group_by("session_id", maintain_order=True).len()["len"].to_list()


def test_a_pause_of_exactly_the_timeout_keeps_a_session_and_a_millisecond_more_opens_one():
    noon = at("2026-03-10T12:00")
    assert sizes([(1, noon), (1, noon + TIMEOUT_MS)]) == [2]
    assert sizes([(1, noon), (1, noon + TIMEOUT_MS + 1)]) == [1, 1]


def test_visitors_have_sessions_of_their_own():
    noon = at("2026-03-10T12:00")
    assert sizes([(1, noon), (2, noon), (1, noon + 5)]) == [2, 1]


def test_a_session_crosses_one_midnight_and_belongs_to_the_day_it_starts_on():
    calls = [(1, at("2026-03-09T23:50")), (1, at("2026-03-10T00:10")), (1, at("2026-03-10T00:20"))]
    assert sizes(calls, date(2026, 3, 9)) == [3]
    assert sizes(calls, DAY) == []
    assert (
        sessions_of_day(calls, DAY, ZoneInfo("UTC")).height == 2
    )  # events of the day, in the session of the day before


def tireless(first: str, last: str) -> list[tuple[int, int]]:
    return [(1, t) for t in range(at(first), at(last), 20 * MINUTE)]


def test_a_visitor_who_never_pauses_all_day_gets_a_new_session_at_the_next_midnight():
    calls = tireless("2026-03-08T12:00", "2026-03-11T12:00")
    by_day = {day: sizes(calls, date(2026, 3, day)) for day in (8, 9, 10, 11)}
    assert by_day == {8: [36 + 72], 9: [], 10: [72], 11: [36]}


def test_a_first_call_at_midnight_after_a_pause_is_no_whole_day_without_one():
    calls = tireless("2026-03-10T00:00", "2026-03-11T06:00")
    assert sizes(calls, DAY) == [72 + 18]


@pytest.mark.parametrize(("zone", "day", "hours"), [
    ("Europe/Berlin", date(2026, 3, 29), 23), ("Europe/Berlin", date(2026, 10, 25), 25), ("America/New_York", date(2026, 3, 8), 23),
    ("Africa/Cairo", date(2026, 4, 24), 23), ("Australia/Lord_Howe", date(2026, 4, 5), 24.5), ("America/Havana", date(2026, 11, 1), 25),
    ("Pacific/Apia", date(2026, 1, 1), 24), ("UTC", date(2026, 3, 29), 24),
])  # fmt: skip
def test_business_days_of_other_lengths_are_right(zone, day, hours):
    bounds = day_bounds(day, ZoneInfo(zone))
    assert (bounds.end - bounds.start) / 3_600_000 == hours
    assert business_day(bounds.start, ZoneInfo(zone)) == day
    assert business_day(bounds.start - 1, ZoneInfo(zone)) == day - timedelta(days=1)
    assert business_day(bounds.end - 1, ZoneInfo(zone)) == day


def test_of_two_records_with_one_call_id_the_earlier_counts_then_the_smaller_hash():
    calls = frame([(1, 5), (1, 3), (1, 3), (2, 9)]).with_columns(
        call_id=pl.Series([b"a" * 16, b"a" * 16, b"a" * 16, b"b" * 16]),
        content_hash=pl.Series([1, 9, 4, 2], dtype=pl.UInt64),
    )
    kept = first_of_each_call(calls).sort("call_id")
    assert kept.select(pl.col("ts").dt.epoch("ms"), "content_hash").rows() == [(3, 4), (9, 2)]
    assert first_of_each_call(calls.reverse()).sort("call_id").equals(kept)


# ---- property: the rule, applied to everything at once -----------------------------------------------------------


def reference(calls: list[tuple[int, int]], zone: ZoneInfo) -> dict[int, tuple[date, int]]:
    """Per call the day and start of its session, by the words of the rule, with all calls at hand."""
    found = {}
    for visitor in {v for v, _ in calls}:
        own = sorted((t, number) for number, (v, t) in enumerate(calls) if v == visitor)
        paused = [i == 0 or own[i][0] - own[i - 1][0] > TIMEOUT_MS for i in range(len(own))]
        days = [business_day(t, zone) for t, _ in own]
        never_paused = {day for day in set(days) if not any(p for p, d in zip(paused, days, strict=True) if d == day)}
        start = 0
        for i, (t, number) in enumerate(own):
            is_first_of_day = i > 0 and days[i] != days[i - 1]
            if paused[i] or (
                is_first_of_day and days[i - 1] in never_paused and days[i] - days[i - 1] == timedelta(days=1)
            ):
                start = t
            found[number] = (business_day(start, zone), start)
    return found


moments = st.one_of(
    st.integers(at("2026-03-27T00:00"), at("2026-03-31T23:59")),
    st.integers(0, 5).map(lambda n: at("2026-03-27T23:00") + n * 24 * 60 * MINUTE),
)
walks = st.lists(
    st.sampled_from([1, MINUTE, 20 * MINUTE, TIMEOUT_MS, TIMEOUT_MS + 1, 29 * MINUTE]), min_size=1, max_size=30
)
tireless_walks = st.integers(100, 180).map(lambda n: [25 * MINUTE] * n)


@st.composite
def many_calls(draw):
    calls = []
    for visitor in range(1, draw(st.integers(1, 3)) + 1):
        t = draw(moments)
        for step in draw(st.one_of(walks, tireless_walks)):
            calls.append((visitor, t))
            t += step
    return draw(st.permutations(calls)) if len(calls) < 60 else calls


@settings(max_examples=repeated(30, 300))
@given(many_calls(), st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]))
def test_built_day_by_day_every_call_is_in_the_session_the_rule_says(calls, zone_name):
    zone = ZoneInfo(zone_name)
    expected = reference(calls, zone)
    days = {business_day(t, zone) for _, t in calls}
    in_sessions, in_events = {}, {}
    for day in sorted(days | {d - timedelta(days=1) for d in days} | {d + timedelta(days=1) for d in days}):
        built = sessions_of_day(calls, day, zone)
        for call_id, session_id, starts_today in built.select("call_id", "session_id", "starts_today").rows():
            number = int.from_bytes(call_id)
            if starts_today:
                assert number not in in_sessions, "a call is in two sessions"
                in_sessions[number] = (day, int(session_id.rpartition("-")[2]))
            if business_day(calls[number][1], zone) == day:
                in_events[number] = session_id
    assert in_sessions == expected
    assert {number: int(session_id.rpartition("-")[2]) for number, session_id in in_events.items()} == {
        n: start for n, (_, start) in expected.items()
    }
