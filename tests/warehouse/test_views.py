"""People across devices, and what their past says of a visit: the views against the same rules in plain Python."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.contracts import SESSIONS
from app.warehouse import migrate
from app.warehouse.client import connect_embedded
from tests.support.effort import repeated

EXAMPLES = repeated(8, 200)
FIRST = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Session:
    """As much of a session as the views look at; `number` of the visitor, `at` in hours."""

    at: int
    visitor: str
    user: str = ""
    channel: str = "Direct"
    orders: int = 0
    is_bot: bool = False

    @property
    def started_at(self) -> datetime:
        return FIRST + timedelta(hours=self.at)

    @property
    def session_id(self) -> str:
        hashed = sum(ord(letter) << (8 * place) for place, letter in enumerate(self.visitor))
        return f"{hashed:016x}-{int(self.started_at.timestamp() * 1000)}"


def insert(warehouse, sessions: list[Session]) -> None:
    said = pl.DataFrame(
        {
            "session_date": [s.started_at.date() for s in sessions],
            "session_id": [s.session_id for s in sessions],
            "visitor_id": [s.visitor for s in sessions],
            "user_id": [s.user for s in sessions],
            "is_bot": [s.is_bot for s in sessions],
            "started_at": [s.started_at for s in sessions],
            "ended_at": [s.started_at + timedelta(minutes=5) for s in sessions],
            "orders": [s.orders for s in sessions],
            "revenue": [Decimal(10 * s.orders) for s in sessions],
            "channel": [s.channel for s in sessions],
            "source": [f"{s.channel} source" for s in sessions],
            "medium": [f"{s.channel} medium" for s in sessions],
            "utm_campaign": [f"{s.channel} {s.at}" for s in sessions],
        }
    )
    unsaid = {pl.String(): "", pl.Boolean(): False}
    rows = said.select(
        (pl.col(name) if name in said.columns else pl.lit(unsaid.get(dtype, 0)).alias(name)).cast(dtype)
        for name, dtype in SESSIONS.schema.items()
    )
    warehouse.insert(SESSIONS, rows)


# ---- the same in plain Python ------------------------------------------------------------------------------------


def person_of(session: Session, of_device: list[Session]) -> tuple[str, str]:
    """User and visitor of whoever was there; the visitor is empty where the user is known."""
    later = sorted(s.at for s in of_device if s.user and s.at > session.at)
    earlier = sorted(s.at for s in of_device if s.user and s.at < session.at)
    user_at = {s.at: s.user for s in of_device}
    if session.user:
        return session.user, ""
    if later:
        return user_at[later[0]], ""
    if earlier:
        return user_at[earlier[-1]], ""
    return "", session.visitor


def expected_visits(sessions: list[Session]) -> dict[str, tuple]:
    people = [s for s in sessions if not s.is_bot]
    by_person = defaultdict(list)
    for session in people:
        by_person[person_of(session, [s for s in people if s.visitor == session.visitor])].append(session)
    expected = {}
    for (user, visitor), of_person in by_person.items():
        of_person.sort(key=lambda s: (s.at, int(s.session_id[:16], 16)))
        for number, session in enumerate(of_person):
            before = of_person[:number]
            channel, at = session.channel, session.at
            if channel == "Direct":
                named = [s for s in before if s.channel != "Direct"]
                if named and session.started_at - named[-1].started_at <= timedelta(days=30):
                    channel, at = named[-1].channel, named[-1].at
            expected[session.session_id] = (
                user or visitor,
                number == 0,
                any(s.orders for s in before),
                number + 1,
                (session.at - before[-1].at) / 24 if before else None,
                channel,
                f"{channel} source",
                f"{channel} medium",
                f"{channel} {at}",
            )
    return expected


def expected_visitors(sessions: list[Session]) -> list[tuple]:
    people = [s for s in sessions if not s.is_bot]
    by_person = defaultdict(list)
    for session in people:
        by_person[person_of(session, [s for s in people if s.visitor == session.visitor])].append(session)
    return sorted(
        (
            user or visitor,
            user,
            sorted({s.visitor for s in own}),
            min(s.started_at for s in own),
            max(s.started_at for s in own) + timedelta(minutes=5),
            min((s.started_at for s in own if s.orders), default=None),
            len(own),
            sum(s.orders for s in own),
            Decimal(10 * sum(s.orders for s in own)),
        )
        for (user, visitor), own in by_person.items()
    )


# ---- what the views say ------------------------------------------------------------------------------------------

COLUMNS = """session_id, person_id, is_new_visitor, is_customer, visit_number, days_since_last_visit, attributed_channel,
    attributed_source, attributed_medium, attributed_campaign"""


def visits(warehouse, source: str = "dwh.visits") -> dict[str, tuple]:
    found = warehouse.query(f"SELECT {COLUMNS} FROM {source}")
    return {row[0]: tuple(bool(v) if i in (2, 3) else v for i, v in enumerate(row) if i) for row in found.iter_rows()}


def visitors(warehouse) -> list[tuple]:
    columns = "person_id, user_id, visitor_ids, first_seen_at, last_seen_at, first_order_at, sessions, orders, revenue"
    return sorted(warehouse.query(f"SELECT {columns} FROM dwh.visitors").rows(), key=lambda row: row[:2])


DAY = 24
CASES = {
    "sessions before signing in belong to the user": (
        [Session(0, "c1"), Session(1, "c1", "17"), Session(2, "c1")],
        ["17", "17", "17"],
    ),
    "users of one device keep apart, guests between them go to the next": (
        [Session(0, "c1", "17"), Session(1, "c1"), Session(2, "c1", "18"), Session(3, "c1")],
        ["17", "18", "18", "18"],
    ),
    "a user's devices are one person": (
        [Session(0, "c1", "17"), Session(1, "c2"), Session(2, "c2", "17")],
        ["17", "17", "17"],
    ),
    "a visitor called like a user is somebody else": ([Session(0, "17"), Session(1, "c1", "17")], ["17", "17"]),
}


def test_every_session_has_its_person(warehouse):
    for case, (sessions, people) in CASES.items():
        warehouse.command("TRUNCATE TABLE dwh.sessions")
        insert(warehouse, sessions)
        found = visits(warehouse)
        assert [found[s.session_id][0] for s in sessions] == people, case
        assert found == expected_visits(sessions), case
        assert visitors(warehouse) == expected_visitors(sessions), case


def test_last_channel_that_is_not_direct_counts_for_thirty_days_to_the_hour(warehouse):
    sessions = [
        Session(0, "c1", "17", channel="Email"),
        Session(30 * DAY, "c2", "17"),
        Session(30 * DAY + 1, "c1"),
        Session(30 * DAY + 2, "c1", channel="Paid Search"),
        Session(30 * DAY + 3, "c1"),
    ]
    insert(warehouse, sessions)
    found = visits(warehouse)
    channels = [found[s.session_id][5] for s in sessions]
    assert channels == ["Email", "Email", "Direct", "Paid Search", "Paid Search"]


def test_bots_are_no_visitors_and_every_column_says_what_it_means(warehouse):
    insert(warehouse, [Session(0, "c1"), Session(1, "c1", is_bot=True), Session(2, "c9", "99", is_bot=True)])
    assert warehouse.scalar("SELECT count() FROM dwh.sessions") == 3
    assert [row[0] for row in visits(warehouse).values()] == ["c1"]
    assert [row[:2] for row in visitors(warehouse)] == [("c1", "")]

    described = "SELECT name, comment FROM system.columns WHERE database = 'dwh' AND table = '{}' ORDER BY position"
    of_visits, of_visitors = (warehouse.query(described.format(name)) for name in ("visits", "visitors"))
    assert of_visits["name"].to_list()[: len(SESSIONS.written)] == [column.name for column in SESSIONS.written]
    assert (of_visits.height, of_visitors.height) == (len(SESSIONS.written) + 10, 11)
    assert "" not in {*of_visits["comment"], *of_visitors["comment"]}


@st.composite
def stories(draw) -> list[Session]:
    drawn = draw(
        st.lists(
            st.builds(
                Session,
                at=st.integers(0, 90 * DAY),
                visitor=st.sampled_from(["c1", "c2", "c3", "17"]),
                user=st.sampled_from(["", "", "", "17", "18"]),
                channel=st.sampled_from(["Direct", "Direct", "Email", "Referral"]),
                orders=st.integers(0, 1),
                is_bot=st.sampled_from([False, False, False, True]),
            ),
            min_size=1,
            max_size=14,
            unique_by=lambda s: (s.at, s.visitor),
        )
    )
    return sorted(drawn, key=lambda s: s.at)


@pytest.mark.slow
def test_views_say_of_any_sessions_what_plain_python_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CARAT_WAREHOUSE", f"chdb://{tmp_path}")
    from app.settings import Settings

    with connect_embedded(tmp_path) as warehouse:
        migrate(warehouse, Settings(_env_file=None))

        @hypothesis_settings(max_examples=EXAMPLES)
        @given(stories(), st.integers(0, 90), st.integers(0, 90))
        def tell(sessions: list[Session], one: int, other: int) -> None:
            warehouse.command("TRUNCATE TABLE dwh.sessions")
            insert(warehouse, sessions)
            wanted = expected_visits(sessions)
            assert visits(warehouse) == wanted
            assert visitors(warehouse) == expected_visitors(sessions)
            first, last = ((FIRST + timedelta(days=n)).date() for n in sorted((one, other)))
            within = {s.session_id for s in sessions if first <= s.started_at.date() <= last}
            of_span = visits(warehouse, f"dwh.visits_between(first = '{first}', last = '{last}')")
            assert of_span == {session_id: row for session_id, row in wanted.items() if session_id in within}

        tell()
