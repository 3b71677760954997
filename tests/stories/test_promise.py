"""The central promise: whatever ran before, a day's rows are what its calls, and nothing else, say.

Stories of ingestion, late calls, deletions, new versions of products, other rules and builds between them; after each,
what is published equals what an empty warehouse is given from the same raw calls, and what the rules say in plain
Python. `make test-long` tells many more stories.
"""

import hashlib
import random
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.core.call_record import MILLISECONDS_FROM
from app.core.errors import SourceError
from app.frames.days import midnight_ms
from app.jobs.build import day as build_module
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.snapshot import take_snapshot
from app.jobs.verify import verify_days
from app.settings import Settings
from tests.support.effort import repeated
from tests.support.reference import Record, Session, sessions, stored

pytestmark = pytest.mark.slow

EXAMPLES = repeated(2, 100)
NOW = datetime(2027, 1, 1, tzinfo=UTC)
MINUTE = 60_000
HOUR = 60 * MINUTE
HALF_HOUR = 30 * MINUTE

embedded = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)
served = pytest.mark.parametrize("engine_url", ["served"], indirect=True)


def examples(number: int) -> hypothesis_settings:
    return hypothesis_settings(
        max_examples=number,
        suppress_health_check=[HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


# ---- a story's calls ---------------------------------------------------------------------------------------------

# Days of 23, 23½, 24½ and 25 hours, midnights that clocks skip or have twice, and zones off the full hour.
PLACES = [
    ("UTC", date(2026, 3, 10)),
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("America/Santiago", date(2026, 4, 4)),
    ("America/Santiago", date(2026, 9, 6)),
    ("Africa/Cairo", date(2026, 4, 24)),
    ("America/Havana", date(2026, 11, 1)),
    ("Asia/Kathmandu", date(2026, 5, 5)),
]
VISITORS: list[Record] = [
    {"visitor_id": "v1", "session_token": "t0"},
    {"session_token": "t1"},
    {"ip": "203.0.113.9", "user_agent": "Mozilla/5.0 (iPhone) Safari/1"},
    {"ip": "203.0.113.9", "user_agent": "curl/8"},
    {"visitor_id": "undefined", "session_token": " NULL ", "ip": "203.0.113.9", "user_agent": "curl/8"},  # the same one
    {"visitor_id": "v2", "user_agent": "Mozilla/5.0 (X11; Linux) Firefox/1"},
    {"session_token": "t0"},  # v1's
    {"visitor_id": "v3", "ip": "203.0.113.9", "user_agent": "curl/8"},  # may follow the ones without an id
    {"visitor_id": "v4", "session_token": "t2", "ip": "203.0.113.9", "user_agent": "curl/8"},
    {"session_token": "t2", "ip": "203.0.113.9", "user_agent": "curl/8"},
    {"session_token": "t3", "ip": "203.0.113.9", "user_agent": "curl/8"},
    {"visitor_id": "v5", "session_token": "t2"},  # a second one with this token
]
MENU: list[Record] = [
    {"method": "GET", "endpoint": "/api/v1/catalog", "request": {"query": {"q": "ring", "section": ["x", "y"]}}, "response": {"total": 2, "items": [{"id": 1}, {"id": 2}]}},
    {"method": "GET", "endpoint": "/api/v1/products/1", "response": {"price": 9.99}},
    {"method": "POST", "endpoint": "/api/v1/cart/items", "request": {"body": {"product_id": "2", "quantity": 3}}},
    {"method": "POST", "endpoint": "/api/v1/orders", "response": {"order_id": 7, "total": "7.77", "items": [{"product_id": 1, "quantity": 2, "price": 3}, {"product_id": 2}]}},
    {"method": "GET", "endpoint": "/api/v1/wishes", "status": 500},
    {"method": "GET", "endpoint": "/api/v1/wishes"},
    {"method": "GET", "endpoint": "/api/v1/products/2", "page_url": "https://shop.example/p?utm_source=mail", "response": "no object"},
]  # fmt: skip


def call(number: int, ts: int, visitor: Record, taste: int = 0) -> Record:
    """A call whose id says nothing of its time; now and then its visitor is signed in."""
    user = {"user_id": f"u{number}"} if (number + taste) % 3 == 0 else {"user_id": "0"} if number % 5 == 0 else {}
    call_id = str(uuid.UUID(bytes=hashlib.md5(f"call {number}".encode()).digest()))
    return {"call_id": call_id, "ts": ts, "status": 200} | visitor | MENU[(number + taste) % len(MENU)] | user


@dataclass(frozen=True)
class Story:
    """Calls in their order of time, which of them are stored at first, and what happens then."""

    zone: str
    day: date
    timeout_ms: int
    calls: list[Record]
    first: list[int]
    rounds: list[list[tuple]] = field(repr=False)

    def __repr__(self) -> str:
        lines = [f"{number}: {dict(call, ts=utc_text(call['ts']))}" for number, call in enumerate(self.calls)]
        lines += [f"first: {self.first}", *(f"then: {actions}" for actions in self.rounds)]
        return "\n".join([f"Story in {self.zone} around {self.day}, pauses of {self.timeout_ms} ms", *lines])


def utc_text(epoch_ms: int) -> str:
    return (datetime(1970, 1, 1) + timedelta(milliseconds=epoch_ms)).isoformat(timespec="milliseconds")


@st.composite
def stories(draw) -> Story:
    zone, day = draw(st.sampled_from(PLACES))
    timeout = draw(st.sampled_from([HALF_HOUR, HALF_HOUR, 6 * HOUR, 12 * HOUR]))
    calls = draw(_calls(ZoneInfo(zone), day, timeout))
    late = sorted({number for some in draw(st.lists(_some(len(calls)), min_size=1, max_size=3)) for number in some})
    first = [number for number in range(len(calls)) if number not in late]
    draw(st.randoms(use_true_random=False)).shuffle(first)
    rounds = draw(st.lists(_round(len(calls), late), min_size=2, max_size=5))
    return Story(zone, day, timeout, calls, first, rounds)


@st.composite
def _calls(draw, zone: ZoneInfo, day: date, timeout: int) -> list[Record]:
    calls: list[Record] = []
    for visitor in draw(st.lists(st.sampled_from(VISITORS), min_size=3, max_size=7)):
        taste = draw(st.integers(0, 6))
        begins = midnight_ms(day + timedelta(days=draw(st.integers(-1, 1))), zone) + draw(
            st.sampled_from([0, -1, 1, -timeout, -timeout - 1, 1 - timeout, timeout, timeout + 1]) | st.integers(-12 * HOUR, 12 * HOUR)
        )  # fmt: skip
        follows = draw(st.none() | st.sampled_from([0, 1, timeout // 2, timeout, timeout + 1]))
        ts = begins if follows is None or not calls else int(str(calls[-1]["ts"])) + follows
        walk = st.lists(st.sampled_from([0, 1, timeout // 2, timeout - 1, timeout, timeout + 1]), max_size=8)
        steps = draw(walk | _tireless(timeout) if len(calls) < 40 else walk)
        for step in [0, *steps]:
            ts += step
            calls.append(call(len(calls), ts, visitor, taste))
    for number in draw(st.lists(st.integers(0, len(calls) - 1), max_size=3)):  # another record with the same id
        other = call(
            len(calls),
            int(calls[number]["ts"]) + draw(st.sampled_from([0, -HOUR, 26 * HOUR])),
            draw(st.sampled_from(VISITORS)),
        )
        calls.append(other | {"call_id": calls[number]["call_id"]})  # fmt: skip
    return sorted(calls, key=lambda record: record["ts"])


def _tireless(timeout: int) -> st.SearchStrategy[list[int]]:
    """A day to three without a pause."""
    step = st.sampled_from([timeout, timeout - MINUTE])
    return st.tuples(st.integers(24, 72), step).map(lambda drawn: [drawn[1]] * (drawn[0] * HOUR // drawn[1]))


def _some(count: int) -> st.SearchStrategy[list[int]]:
    """Some of so many calls: single ones, or neighbours in time."""
    number = st.integers(0, count - 1)
    stretch = st.tuples(number, st.integers(1, 8)).map(lambda drawn: list(range(drawn[0], min(sum(drawn), count))))
    return st.one_of(number.map(lambda n: [n]), stretch, st.lists(number, min_size=1, max_size=6))


def _round(count: int, late: list[int]) -> st.SearchStrategy[list[tuple]]:
    some = _some(count)
    few_late = st.lists(st.sampled_from(late), min_size=1, max_size=3)
    ingest = st.tuples(st.just("ingest"), few_late | few_late | few_late | some)
    delete = st.tuples(st.just("delete"), some, st.booleans())
    version = st.tuples(
        st.just("version"), st.integers(1, 2), st.integers(1, 30), st.sampled_from(["1.50", "20", None])
    )
    rule = st.tuples(st.just("rule"), st.sampled_from(["timezone", "session_timeout", "tracking", "snapshots"]))
    change = st.sampled_from([ingest] * 6 + [delete] * 3 + [version, rule]).flatmap(lambda kind: kind)
    build = st.tuples(
        st.just("build"),
        st.sampled_from([JOBS] * 6 + [("events", "sessions"), ("product_sessions",)]),
        st.sampled_from([None] * 6 + [-1, 0, 1]),
    )
    return st.tuples(st.lists(change, min_size=1, max_size=2), build).map(lambda drawn: [*drawn[0], drawn[1]])


# ---- how a story is told -----------------------------------------------------------------------------------------


@dataclass
class Patches:
    """How many days were built, and how many of these by their changed sessions alone."""

    built: int = 0
    patched: int = 0


@pytest.fixture
def patches(monkeypatch) -> Patches:
    counted = Patches()
    stage_day = build_module.stage_day

    def counting(warehouse, scope, rules, **options):
        counted.built += 1
        counted.patched += bool(scope.sessions)
        return stage_day(warehouse, scope, rules, **options)

    monkeypatch.setattr(build_module, "stage_day", counting)
    return counted


@dataclass
class Teller:
    """Does what a story says, and keeps in mind what is stored by then."""

    warehouse: object
    settings: Settings
    ingest_records: Callable
    folder: Path
    raw: list[Record] = field(default_factory=list)
    versions: int = 0
    versions_until: datetime = NOW

    def begin(self, story: Story) -> None:
        for table in ("pd.api_calls", "etl.rejects", "history.items", "history.stock"):
            self.warehouse.command(f"TRUNCATE TABLE {table}")
        forget_builds(self.warehouse)
        self.raw, self.versions, self.story = [], 0, story
        self.versions_until = datetime(story.day.year, story.day.month, story.day.day, tzinfo=UTC) - timedelta(days=3)
        self.settings = self.rules(timezone=story.zone, session_timeout=timedelta(milliseconds=story.timeout_ms))
        # The oldest call stays: days before it would be kept as those past the retention of their calls are.
        oldest = (self.versions_until - timedelta(days=1)).replace(hour=12)
        self.ingest([call(-1, int(oldest.timestamp() * 1000), {"visitor_id": "oldest"})])
        self.ingest([story.calls[number] for number in story.first])
        self.build(JOBS)

    def rules(self, **changed) -> Settings:
        return self.settings.model_copy(update=changed)

    def ingest(self, records: list[Record]) -> None:
        self.ingest_records(*records, now=NOW)
        self.raw = stored([*self.raw, *records])

    def build(self, jobs, offset: int | None = None) -> None:
        day = None if offset is None else self.story.day + timedelta(days=offset)
        build_stale(self.warehouse, self.settings, span=(day, day), jobs=jobs).require_done()

    def do(self, action: tuple) -> None:
        match action:
            case ("ingest", numbers):
                self.ingest([self.story.calls[number] for number in numbers])
            case ("delete", numbers, as_mutation):
                gone = {self.story.calls[number]["call_id"] for number in numbers}
                where = f"call_id IN ({', '.join(map(repr, sorted(gone)))})"
                self.warehouse.command(
                    f"ALTER TABLE pd.api_calls DELETE WHERE {where} SETTINGS mutations_sync = 2"
                    if as_mutation
                    else f"DELETE FROM pd.api_calls WHERE {where}"
                )
                self.raw = [record for record in self.raw if record["call_id"] not in gone]
            case ("version", product, hours, price):
                self.add_version(product, hours, price)
            case ("rule", name):
                self.turn(name)
            case ("build", jobs, offset):
                self.build(jobs, offset)

    def add_version(self, product: int, hours: int, price: str | None) -> None:
        """A version of a product's rows as a snapshot would append it, later than all there are."""
        self.versions += 1
        self.versions_until += timedelta(hours=hours)
        op = "delete" if price is None else "update"
        known = f"{self.versions} AS version, '{self.versions_until:%Y-%m-%d %H:%M:%S}' AS valid_from, '{op}' AS op, {price is None} AS is_deleted"
        self.warehouse.command(
            f"INSERT INTO history.items (id, title, price, version, valid_from, op, is_deleted) SELECT {product}, 'title {self.versions}', '{price or 0}', {known}"
        )
        self.warehouse.command(f"INSERT INTO history.stock (product_id, quantity, version, valid_from, op, is_deleted) SELECT {product}, {self.versions}, {known}")  # fmt: skip

    def turn(self, name: str) -> None:
        """Another rule, or back to the one before."""
        usual = Settings(_env_file=None)
        ways = {
            "timezone": (self.story.zone, "America/Los_Angeles" if self.story.zone == "UTC" else "UTC"),
            "session_timeout": (timedelta(milliseconds=self.story.timeout_ms), timedelta(minutes=20)),
            "tracking": (usual.tracking, self.folder / "tracking.toml"),
            "snapshots": (usual.snapshots, self.folder / "snapshots.toml"),
        }[name]
        self.settings = self.rules(**{name: ways[getattr(self.settings, name) == ways[0]]})

    def require_promise(self) -> None:
        """What is published is what raw calls and rules say, is known to be, and is what an empty warehouse is given."""
        self.build(JOBS)
        assert plan_days(self.warehouse, self.settings, jobs=JOBS) == []
        assert stored_ids(self.warehouse) == sorted((str(r["call_id"]), r["ts"]) for r in self.raw)
        expected = sessions(self.raw, self.settings.zone, self.settings.session_timeout_ms)
        assert published_sessions(self.warehouse) == expected
        verification = verify_days(self.warehouse, self.settings)
        assert verification.differing == []
        assert verification.stale == {}
        published = tables(self.warehouse)
        forget_builds(self.warehouse)
        self.build(JOBS)
        assert tables(self.warehouse) == published


def forget_builds(warehouse) -> None:
    for table in ("etl.ledger", "etl.fingerprints", *(f"dwh.{job}" for job in JOBS)):
        warehouse.command(f"TRUNCATE TABLE {table}")


def tables(warehouse) -> dict[str, list]:
    return {job: warehouse.query(f"SELECT * FROM dwh.{job} ORDER BY ALL").rows() for job in JOBS}


def stored_ids(warehouse) -> list[tuple]:
    return warehouse.query(
        "SELECT toString(call_id) AS id, toUnixTimestamp64Milli(ts) AS at FROM pd.api_calls ORDER BY ALL"
    ).rows()


def published_sessions(warehouse) -> list[Session]:
    """The sessions of `dwh.sessions`, with their calls as `dwh.events` has them; every call is in one of these."""
    events = warehouse.query(
        "SELECT session_id, groupArray(toString(call_id)) AS calls FROM "
        "(SELECT session_id, call_id FROM dwh.events ORDER BY ts, hex(call_id)) GROUP BY session_id"
    )
    calls = {session_id: tuple(ids) for session_id, ids in events.rows()}
    found = warehouse.query(
        "SELECT session_date, toUnixTimestamp64Milli(started_at) AS started, toUnixTimestamp64Milli(ended_at) AS ended, "
        "user_id, session_id, calls FROM dwh.sessions"
    ).rows()
    assert sorted(row[4] for row in found) == sorted(calls), "events and sessions are not of the same sessions"
    assert [row[5] for row in found] == [len(calls[row[4]]) for row in found], "a call is in two sessions or in none"
    return sorted(Session(*row[:4], calls[row[4]]) for row in found)


@pytest.fixture
def teller(warehouse, settings, ingest_records, tmp_path) -> Teller:
    folder = tmp_path / "rules"
    folder.mkdir()
    also_wishes = '\n[[call]]\nevent = "checkout"\nmethod = "GET"\npath = "/api/v1/wishes"\n'
    (folder / "tracking.toml").write_text(settings.tracking.read_text() + also_wishes)
    (folder / "snapshots.toml").write_text(settings.snapshots.read_text().replace(', stock_qty = "quantity"', ""))
    return Teller(warehouse, settings, ingest_records, folder)


@pytest.fixture
def history(warehouse, settings, tmp_path) -> None:
    """Tables of history, made by a snapshot of an empty shop."""
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as shop, shop:
        shop.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, section TEXT, material TEXT, metal TEXT, price TEXT)")  # fmt: skip
        shop.execute("CREATE TABLE stock (product_id INTEGER PRIMARY KEY, quantity INTEGER)")
    shop_db = Settings(_env_file=None, shop_db=f"sqlite://{path}").shop_db
    of_shop = settings.model_copy(update={"shop_db": shop_db, "scratch": tmp_path / "scratch"})
    taken = take_snapshot(warehouse, of_shop, at=datetime(2026, 1, 1, tzinfo=UTC), names=["items", "stock"])
    assert [row["error"] for row in taken] == ["", ""]


def tell_stories(teller: Teller, number: int) -> None:
    @examples(number)
    @given(stories())
    def tell(story: Story) -> None:
        teller.begin(story)
        for actions in story.rounds:
            for action in actions:
                teller.do(action)
        teller.require_promise()

    tell()


@embedded
def test_whatever_happened_before_the_tables_are_those_of_the_raw_calls(teller, history, patches, record_property):
    tell_stories(teller, EXAMPLES)
    record_property(
        "told", f"{EXAMPLES} stories, {patches.built} days built, {patches.patched} of them by changed sessions alone"
    )
    if EXAMPLES >= 20:  # of fewer stories chance decides; that a small change is patched has a test of its own
        assert patches.patched >= EXAMPLES // 4, "hardly any day was built by its changed sessions alone"


@served
def test_whatever_happened_before_a_server_holds_the_tables_of_the_raw_calls(teller, history, patches):
    tell_stories(teller, max(1, EXAMPLES // 5))


# ---- told in words -----------------------------------------------------------------------------------------------

DAY = date(2026, 3, 10)
MIDNIGHT = midnight_ms(DAY, ZoneInfo("UTC"))


@pytest.fixture
def stored_calls(ingest_records) -> Callable:
    """Stores calls of a visitor at these moments, each with an id of its own; returns the records."""
    known: list[Record] = []

    def store(moments: list[int], visitor: str = "v") -> list[Record]:
        records = [call(len(known) + n, ts, {"visitor_id": visitor}) for n, ts in enumerate(moments)]
        known.extend(records)
        assert ingest_records(*records, now=NOW).stored == len(records)
        return records

    return store


def tireless(first: int, last: int, step: int = 29 * MINUTE) -> list[int]:
    return list(range(first, last, step))


def require_as_from_nothing(warehouse, settings: Settings, records: list[Record]) -> None:
    """The published rows are those of the raw calls: by the words of the rule, and as an empty warehouse is given."""
    assert plan_days(warehouse, settings, jobs=JOBS) == []
    assert published_sessions(warehouse) == sessions(records, settings.zone, settings.session_timeout_ms)
    assert verify_days(warehouse, settings).differing == []
    published = tables(warehouse)
    forget_builds(warehouse)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert tables(warehouse) == published


@embedded
def test_few_late_calls_of_a_large_day_cost_no_more_than_their_sessions(warehouse, settings, stored_calls, patches):
    records = []
    for visitor in range(60):
        records += stored_calls(tireless(MIDNIGHT + visitor * 15 * MINUTE, MIDNIGHT + visitor * 15 * MINUTE + 2 * HOUR, 10 * MINUTE), f"v{visitor}")  # fmt: skip
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    records += stored_calls([MIDNIGHT + 7 * HOUR, MIDNIGHT + 7 * HOUR + 1], "v20")
    (built,) = build_stale(warehouse, settings, jobs=JOBS).require_done().built
    assert (built.day, built.calls) == (DAY, 14)
    assert patches.patched == 1
    require_as_from_nothing(warehouse, settings, records)


@embedded
def test_a_session_may_reach_the_next_day_because_of_calls_that_went_the_day_before(warehouse, settings, stored_calls):
    """A whole day without a pause, after another: cut at its end; not so when the other is none any more."""
    records = stored_calls(tireless(MIDNIGHT - 25 * HOUR, MIDNIGHT + 30 * HOUR))
    stored_calls([MIDNIGHT - 40 * HOUR, MIDNIGHT + 40 * HOUR], "w")
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    gone = [record["call_id"] for record in records if MIDNIGHT - HOUR <= record["ts"] < MIDNIGHT]
    warehouse.command(f"DELETE FROM pd.api_calls WHERE call_id IN ({', '.join(map(repr, gone))})")
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert warehouse.scalar("SELECT sum(calls) FROM dwh.sessions") == len(records) - len(gone) + 2


@embedded
def test_a_session_may_end_at_midnight_because_of_calls_that_came_the_day_before(warehouse, settings, stored_calls):
    records = stored_calls(tireless(MIDNIGHT - 25 * HOUR, MIDNIGHT - HOUR) + tireless(MIDNIGHT + 5 * MINUTE, MIDNIGHT + 30 * HOUR))  # fmt: skip
    records += stored_calls([MIDNIGHT - 40 * HOUR, MIDNIGHT + 40 * HOUR], "w")
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    records += stored_calls(tireless(MIDNIGHT - HOUR, MIDNIGHT, 20 * MINUTE))
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    require_as_from_nothing(warehouse, settings, records)


@embedded
def test_around_midnights_of_any_clock_who_never_pauses_and_who_just_does_are_cut_right(warehouse, settings, stored_calls):  # fmt: skip
    for zone, day in PLACES[:: repeated(3, 1)]:
        of_zone = settings.model_copy(update={"timezone": zone})
        warehouse.command("TRUNCATE TABLE pd.api_calls")
        forget_builds(warehouse)
        start, end = (midnight_ms(day + timedelta(days=n), of_zone.zone) for n in (0, 1))
        records = stored_calls(tireless(start - HOUR, end + 2 * HOUR), "tireless")
        for visitor, midnight in (("before", start), ("after", end)):
            edge = [midnight - HALF_HOUR - 1, midnight - HALF_HOUR, midnight, midnight + HALF_HOUR + 1]
            records += stored_calls(edge, visitor)
        records += stored_calls([end - HALF_HOUR, end + 1], "paused")
        build_stale(warehouse, of_zone, jobs=JOBS).require_done()
        assert published_sessions(warehouse) == sessions(records, of_zone.zone, HALF_HOUR), f"{zone}, {day}"


@embedded
def test_building_everything_again_and_again_changes_nothing(warehouse, settings, stored_calls):
    stored_calls(tireless(MIDNIGHT - 10 * HOUR, MIDNIGHT + 30 * HOUR, 25 * MINUTE))
    stored_calls([MIDNIGHT, MIDNIGHT, MIDNIGHT + HALF_HOUR], "ties")
    found = []
    for force in (False, True, True, False):
        build_stale(warehouse, settings, jobs=JOBS, force=force).require_done()
        found.append(tables(warehouse))
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]["events"]) == warehouse.scalar("SELECT count() FROM pd.api_calls")


@embedded
def test_the_same_records_again_store_nothing_and_make_nothing_stale(warehouse, settings, stored_calls, ingest_records):
    records = stored_calls(tireless(MIDNIGHT - 3 * HOUR, MIDNIGHT + 3 * HOUR))
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    again = ingest_records(*random.Random(1).sample(records, len(records)), *records[:5], now=NOW)
    assert (again.stored, again.duplicates, again.rejected) == (0, len(records) + 5, {})
    assert plan_days(warehouse, settings, jobs=JOBS) == []


@embedded
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_a_late_call_of_any_age_is_built(warehouse, settings, stored_calls, zone):
    of_zone = settings.model_copy(update={"timezone": zone})
    records = stored_calls([MIDNIGHT, MIDNIGHT + HOUR])
    build_stale(warehouse, of_zone, jobs=JOBS).require_done()
    for moment in (MIDNIGHT - 400 * 24 * HOUR, MILLISECONDS_FROM):
        records += stored_calls([moment], "late")
        build_stale(warehouse, of_zone, jobs=JOBS).require_done()
    assert published_sessions(warehouse) == sessions(records, of_zone.zone, HALF_HOUR)


@embedded
@pytest.mark.parametrize(
    "zone",
    ["UTC", "America/New_York"],
)
def test_a_call_of_a_clock_that_was_never_set_keeps_nothing_from_being_built(
    warehouse, settings, stored_calls, ingest_records, zone
):
    of_zone = settings.model_copy(update={"timezone": zone})
    records = stored_calls([MIDNIGHT, MIDNIGHT + HOUR])
    with pytest.raises(SourceError, match="the clock was never set"):
        ingest_records(call(99, 1, {"visitor_id": "late"}), now=NOW)
    build_stale(warehouse, of_zone, jobs=JOBS).require_done()
    assert published_sessions(warehouse) == sessions(records, of_zone.zone, HALF_HOUR)


@embedded
def test_another_time_zone_leaves_no_row_of_the_days_of_the_one_before(warehouse, settings, stored_calls):
    records = stored_calls([MIDNIGHT + HOUR, MIDNIGHT + 30 * HOUR])
    for zone in ("America/New_York", "UTC", "Asia/Kathmandu"):
        of_zone = settings.model_copy(update={"timezone": zone})
        build_stale(warehouse, of_zone, jobs=JOBS).require_done()
        require_as_from_nothing(warehouse, of_zone, records)


@embedded
def test_one_day_may_be_built_by_another_time_zone_before_the_others_are(warehouse, settings, stored_calls):
    records = stored_calls([MIDNIGHT - 48 * HOUR, *tireless(MIDNIGHT - 2 * HOUR, MIDNIGHT + 10 * HOUR, 20 * MINUTE)])
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    of_zone = settings.model_copy(update={"timezone": "America/New_York"})
    yesterday = DAY - timedelta(days=1)
    for _ in range(2):
        build_stale(warehouse, of_zone, span=(yesterday, yesterday), jobs=JOBS).require_done()
        records += stored_calls([MIDNIGHT - 2 * HOUR - MINUTE + len(records)])
    build_stale(warehouse, of_zone, jobs=JOBS).require_done()
    require_as_from_nothing(warehouse, of_zone, records)


# ---- first calls without an id, told in words --------------------------------------------------------------------

PHONE = {"ip": "203.0.113.9", "user_agent": "Mozilla/5.0 (iPhone) Safari/1"}
NOON = MIDNIGHT + 12 * HOUR


def who(minute: int, visitor: str = "", token: str = "", **more: object) -> Record:
    """A call from the same phone, so many minutes after noon."""
    ids = {"visitor_id": visitor, "session_token": token}
    text = f"{minute} {visitor} {token} {sorted(more.items())}"
    call_id = str(uuid.UUID(bytes=hashlib.md5(text.encode()).digest()))
    return {"call_id": call_id, "ts": NOON + minute * MINUTE, "status": 200} | PHONE | ids | MENU[0] | more


CROWD = [who(n, f"c{n % 7}", ip=f"192.0.2.{n % 7}") for n in range(-300, 400, 5)]
TO_MIDNIGHT = 12 * 60
# What is there at first, and what comes in later hours; at the end so many calls are in the largest session.
LATE_CALLS: dict[str, tuple[list[Record], list[list[Record]], int]] = {
    "a first call that comes late": ([who(1, "v"), who(2, "v")], [[who(0)]], 3),
    "the first call of a visitor that comes late": ([who(0), who(2, "v")], [[who(1, "v")]], 3),
    "a cookie that comes an hour later": ([who(0), who(1)], [[who(2, "v"), who(3, "v")]], 4),
    "a token that is named late": ([who(0, token="t", ip="198.51.100.1"), who(1, "v")], [[who(2, "v", "t")]], 3),
    "a second visitor who follows": ([who(0), who(10, "v"), who(11, "v")], [[who(5, "w")]], 2),
    "a second visitor with the token": ([who(0, token="t"), who(1, "v", "t")], [[who(300, "w", "t")]], 1),
    "a visitor who was there before": ([who(0), who(1, "v"), who(2, "v")], [[who(-5, "v")]], 3),
    "a token that changes, and again": ([who(0, token="t")], [[who(20, token="u")], [who(45, token="x")]], 3),
    "a token that goes on after all": ([who(0, token="t"), who(1, token="u"), who(2, token="u")], [[who(2, token="t")]], 2),
    "a bridge between two sessions": ([who(0, "v", "t"), who(50, "v")], [[who(25, token="t")]], 3),
    "a first call before midnight": ([who(TO_MIDNIGHT - 2, "v"), who(TO_MIDNIGHT + 5, "v")], [[who(TO_MIDNIGHT - 3)]], 3),
    "a first call on the other side of midnight": ([who(TO_MIDNIGHT + 1, "v"), who(TO_MIDNIGHT + 2, "v")], [[who(TO_MIDNIGHT - 1)]], 2),
    "a session that turns out to cross midnight": ([who(TO_MIDNIGHT - 9), who(TO_MIDNIGHT - 8, "v")], [[who(TO_MIDNIGHT + 9, "v")]], 3),
    "calls without an id that turn out to cross midnight": ([who(TO_MIDNIGHT - 9), who(TO_MIDNIGHT - 8, "v")], [[who(TO_MIDNIGHT + 9)]], 2),
    "a token within a session from the day before": ([who(TO_MIDNIGHT - 5, "v"), who(TO_MIDNIGHT + 5, "v", "t"), who(TO_MIDNIGHT + 9, "v")], [[who(TO_MIDNIGHT + 7, token="t")]], 3),
    "a preflight that decides nothing": ([who(0), who(10, "v"), who(11, "v")], [[who(5, "w", method="OPTIONS"), who(1, method="OPTIONS")]], 3),
}  # fmt: skip


def of_own_people(record: Record, number: int) -> Record:
    """A call of another phone, visitor and token, so that many cases fit into one day."""
    own = {name: f"{record[name]}{number}" for name in ("visitor_id", "session_token") if record[name]}
    call_id = str(uuid.UUID(bytes=hashlib.md5(f"{record['call_id']} {number}".encode()).digest()))
    return record | own | {"call_id": call_id, "ip": f"{record['ip'].rpartition('.')[0]}.{100 + number}"}


@embedded
@pytest.mark.parametrize("is_at_midnight", [False, True])
def test_whose_first_calls_are_does_not_depend_on_when_calls_come(
    warehouse, settings, ingest_records, patches, is_at_midnight
):
    chosen = {
        number: (what, *LATE_CALLS[what])
        for number, what in enumerate(LATE_CALLS)
        if (LATE_CALLS[what][0][0]["ts"] > NOON + 10 * HOUR) == is_at_midnight
    }
    records = [*CROWD, *(of_own_people(call, n) for n, (_, first, _, _) in chosen.items() for call in first)]
    ingest_records(*records, now=NOW)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    for round_ in range(max(len(later) for _, _, later, _ in chosen.values())):
        batches = {n: later[round_] for n, (_, _, later, _) in chosen.items() if round_ < len(later)}
        batch = [of_own_people(call, n) for n, calls in batches.items() for call in calls]
        records += batch
        ingest_records(*batch, now=NOW)
        patches.patched = 0
        build_stale(warehouse, settings, jobs=JOBS).require_done()
        assert patches.patched, "the day was built as a whole"
    require_as_from_nothing(warehouse, settings, [record for record in records if record["method"] != "OPTIONS"])
    for number, (what, _, _, most) in chosen.items():
        of_case = f"SELECT call_id FROM pd.api_calls WHERE endsWith(ip, '.{100 + number}')"
        of_sessions = f"SELECT session_id FROM dwh.events WHERE call_id IN ({of_case})"
        found = warehouse.scalar(f"SELECT max(calls) FROM dwh.sessions WHERE session_id IN ({of_sessions})")
        assert found == most, what


@embedded
def test_a_late_preflight_makes_nothing_stale_in_part(warehouse, settings, ingest_records, patches):
    first, (late,), most = LATE_CALLS["a preflight that decides nothing"]
    ingest_records(*CROWD, *first, now=NOW)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    ingest_records(*late, now=NOW)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert not patches.patched
    phone = "visitor_id NOT LIKE 'c%'"
    assert warehouse.scalar(f"SELECT max(calls) FROM dwh.sessions WHERE {phone}") == most
