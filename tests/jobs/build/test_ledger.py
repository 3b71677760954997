"""A day is stale when what it would be built from differs from what it was built from, and only then."""

from datetime import UTC, date, datetime, timedelta

import pytest

from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.build.ledger import RAW_CALLS
from app.settings import SHIPPED_TRACKING
from app.warehouse import fingerprints

# The SQL is the same on a server: tests of the promise, of crashes and of hours run it there.
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

FIRST, SECOND, THIRD = (date(2026, 3, day) for day in (1, 2, 3))


def view(at: str, *, visitor: str = "v", product: int = 1, **fields) -> dict:
    return {"ts": f"2026-03-{at}Z", "method": "GET", "endpoint": f"/api/v1/products/{product}", "visitor_id": visitor, "status": 200, **fields}  # fmt: skip


THREE_DAYS = [view("01T10:00:00"), view("02T10:00:00"), view("03T10:00:00"), view("02T23:50:00", visitor="crossing"), view("03T00:05:00", visitor="crossing")]  # fmt: skip


@pytest.fixture
def built(warehouse, settings, ingest_records):
    ingest_records(*THREE_DAYS)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert stale(warehouse, settings) == {}
    return warehouse


def stale(warehouse, settings, **options) -> dict[date, str]:
    return {day.day: day.report["reason"] for day in plan_days(warehouse, settings, jobs=JOBS, **options)}


def test_plan_touches_nothing(warehouse, settings, ingest_records):
    ingest_records(*THREE_DAYS)
    rows = "SELECT name, total_rows, metadata_modification_time FROM system.tables WHERE database IN ('etl', 'dwh', 'pd') ORDER BY ALL"
    before = warehouse.query(rows).rows()
    assert stale(warehouse, settings) == dict.fromkeys((FIRST, SECOND, THIRD), "never built")
    assert warehouse.query(rows).rows() == before


def test_late_calls_of_any_age_are_found(built, settings, ingest_records):
    ingest_records(view("01T03:00:00"), view("01T04:00:00"), view("03T18:00:00"))
    assert stale(built, settings) == {FIRST: "2 calls came", THIRD: "1 call came"}


def test_a_call_that_is_gone_is_missed(built, settings):
    built.command("DELETE FROM pd.api_calls WHERE ts = '2026-03-01 10:00:00'")
    assert stale(built, settings) == {}, "a day before the oldest call is past its retention: it is kept"
    built.command("DELETE FROM pd.api_calls WHERE ts = '2026-03-03 10:00:00'")
    assert stale(built, settings) == {THIRD: "1 call went"}


def test_a_day_is_not_stale_by_calls_of_the_next_day_that_its_sessions_do_not_reach(built, settings, ingest_records):
    ingest_records(view("03T09:00:00", visitor="crossing"))
    assert stale(built, settings) == {THIRD: "1 call came"}
    build_stale(built, settings, jobs=JOBS)
    assert stale(built, settings) == {}


def test_a_day_is_stale_by_calls_of_the_next_day_that_its_sessions_reach_into(built, settings, ingest_records):
    ingest_records(view("03T00:20:00", visitor="crossing"))
    reasons = stale(built, settings)
    assert reasons == {SECOND: "calls of the day after, into which its sessions reach, changed", THIRD: "1 call came"}
    build_stale(built, settings, jobs=JOBS)
    crossing = "SELECT session_date, calls FROM dwh.sessions WHERE visitor_id = 'crossing'"
    assert built.query(crossing).rows() == [(SECOND, 3)]


def test_a_day_is_stale_by_calls_of_the_day_before_from_which_its_sessions_come(built, settings, ingest_records):
    ingest_records(view("02T23:30:00", visitor="crossing"))
    assert stale(built, settings)[THIRD] == "calls of the day before, from which its sessions come, changed"


@pytest.mark.parametrize(("change", "reason"), [
    ({"timezone": "Europe/Berlin"}, "time zone changed"), ({"session_timeout": timedelta(minutes=20)}, "session timeout changed"),
])  # fmt: skip
def test_other_settings_make_every_day_stale(built, settings, change, reason):
    reasons = stale(built, settings.model_copy(update=change))
    assert set(reasons) == {FIRST, SECOND, THIRD}
    assert all(reason in text for text in reasons.values())


def test_another_endpoint_map_makes_every_day_stale_and_the_calls_are_parsed_again(built, settings, tmp_path):
    path = tmp_path / "tracking.toml"
    path.write_text(SHIPPED_TRACKING.read_text(encoding="utf-8").replace("/api/v1/products/", "/api/v2/products/"))
    other = settings.model_copy(update={"tracking": path})
    assert stale(built, other) == dict.fromkeys((FIRST, SECOND, THIRD), "endpoint map changed")
    build_stale(built, other, jobs=JOBS).require_done()
    assert built.query("SELECT DISTINCT event FROM dwh.events").rows() == [("other",)]


@pytest.mark.parametrize("damage", [
    "TRUNCATE TABLE etl.ledger", "ALTER TABLE etl.ledger UPDATE raw_fingerprint = 7, calls = 0 WHERE 1", "TRUNCATE TABLE dwh.sessions",
    "ALTER TABLE etl.ledger UPDATE history_until = '1970-01-01 00:00:00', rows = 0 WHERE 1",
])  # fmt: skip
def test_after_damage_a_forced_build_or_what_the_plan_lists_restores_every_row(built, settings, damage, ingest_records):
    before = {job: built.query(f"SELECT * FROM dwh.{job} ORDER BY ALL").rows() for job in JOBS}
    built.command(damage)
    build_stale(built, settings, jobs=JOBS, force="dwh" in damage).require_done()
    ingest_records(view("03T12:00:00", visitor="late"))
    build_stale(built, settings, jobs=JOBS).require_done()
    built.command("DELETE FROM pd.api_calls WHERE visitor_id = 'late'")
    build_stale(built, settings, jobs=JOBS).require_done()
    assert {job: built.query(f"SELECT * FROM dwh.{job} ORDER BY ALL").rows() for job in JOBS} == before


def test_a_day_built_upon_what_is_no_longer_there_is_built_from_its_calls(built, settings, ingest_records):
    built.command("ALTER TABLE dwh.sessions DROP PARTITION '2026-03-03'")
    ingest_records(view("03T12:00:00", visitor="late"))
    build_stale(built, settings, jobs=JOBS).require_done()
    assert built.scalar("SELECT sum(calls) FROM dwh.sessions WHERE session_date = '2026-03-03'") == 2
    assert built.scalar("SELECT sum(calls) FROM dwh.sessions") == built.scalar("SELECT count() FROM pd.api_calls")


def test_one_new_call_of_a_long_day_has_its_own_session_built_alone(warehouse, settings, ingest_records):
    ingest_records(*(view(f"01T10:{n // 60:02}:{n % 60:02}", visitor=f"v{n}") for n in range(200)))
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    ingest_records(view("01T10:20:00", visitor="v7"))
    (day,) = build_stale(warehouse, settings, jobs=JOBS).require_done().built
    assert (day.calls, day.rows["sessions"], day.rows["events"]) == (2, 200, 201)


def test_the_json_of_a_call_is_parsed_once_in_its_life(warehouse, settings, ingest_records, monkeypatch):
    from app.jobs.build import builders

    parsed: list[int] = []
    type_calls = builders.type_calls
    monkeypatch.setattr(builders, "type_calls", lambda calls, *a, **k: parsed.append(calls.height) or type_calls(calls, *a, **k))  # fmt: skip
    for hour in range(5):
        ingest_records(*(view(f"01T{hour:02}:{n:02}:00", visitor=f"v{n % 3}", product=n) for n in range(10)))
        build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert sum(parsed) == warehouse.scalar("SELECT count() FROM pd.api_calls") == 50
    build_stale(warehouse, settings.model_copy(update={"session_timeout": timedelta(minutes=5)}), jobs=JOBS)
    assert sum(parsed) == 50, "another timeout cuts sessions anew, of the same events"


def test_fingerprints_are_those_of_the_rows_whatever_happens_to_their_parts(warehouse, ingest_records):
    def found():
        return fingerprints(warehouse, RAW_CALLS, keep=True).rows()

    def counted():
        return warehouse.query(f"SELECT {RAW_CALLS.sums} FROM pd.api_calls GROUP BY at ORDER BY at").rows()

    for minute in range(4):
        ingest_records(view(f"01T10:{minute * 14:02}:00"))
        assert found() == counted()
    warehouse.command("OPTIMIZE TABLE pd.api_calls FINAL")
    assert found() == counted()
    remembered = warehouse.scalar("SELECT count() FROM etl.fingerprints")
    assert found() == counted()
    assert warehouse.scalar("SELECT count() FROM etl.fingerprints") == remembered
    warehouse.command("DELETE FROM pd.api_calls WHERE toMinute(ts) = 14")
    assert found() == counted()
    warehouse.command("DELETE FROM pd.api_calls WHERE 1")
    assert found() == counted() == []
    remembered = warehouse.scalar("SELECT count() FROM etl.fingerprints")
    assert found() == []
    assert warehouse.scalar("SELECT count() FROM etl.fingerprints") == remembered, "an emptied part is known, too"


def test_a_year_of_hourly_changes_leaves_no_more_fingerprints_than_there_are_parts(warehouse, ingest_records):
    for number in range(50):
        ingest_records(view(f"01T{number // 3:02}:{number % 3 * 20:02}:00"))
        warehouse.command("OPTIMIZE TABLE pd.api_calls FINAL")
        fingerprints(warehouse, RAW_CALLS, keep=True)
    assert warehouse.scalar("SELECT uniqExact(part) FROM etl.fingerprints") < 50


def test_days_beyond_the_retention_of_their_calls_are_neither_stale_nor_emptied(built, settings):
    built.command("ALTER TABLE pd.api_calls DROP PARTITION '20260301'")
    assert stale(built, settings) == {}
    build_stale(built, settings, jobs=JOBS).require_done()
    assert built.scalar("SELECT count() FROM dwh.events WHERE event_date = '2026-03-01'") == 1


def test_days_are_built_at_the_same_time_and_each_once(warehouse, settings, ingest_records):
    ingest_records(*(view(f"{day:02}T{hour:02}:00:00", visitor=f"v{hour}") for day in range(1, 13) for hour in range(24)))  # fmt: skip
    backfill = build_stale(warehouse, settings.model_copy(update={"days_at_once": 4}), jobs=JOBS).require_done()
    assert [built.day for built in backfill.built] == [date(2026, 3, day) for day in range(1, 13)]
    assert warehouse.query("SELECT count(), uniqExact(call_id) FROM dwh.events").rows() == [(288, 288)]
    assert warehouse.scalar("SELECT count() FROM etl.ledger") == 12 * len(JOBS)


def test_a_clock_that_is_wrong_by_years_changes_nothing(built, settings, ingest_records, monkeypatch):
    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(1999, 1, 1, tzinfo=UTC)

    ingest_records(view("01T03:00:00"))
    for module in ("app.jobs.build.backfill", "app.jobs.runs"):
        monkeypatch.setattr(f"{module}.datetime", Wrong)
    assert stale(built, settings) == {FIRST: "1 call came"}
    build_stale(built, settings, jobs=JOBS).require_done()
    assert built.scalar("SELECT count() FROM dwh.events WHERE event_date = '2026-03-01'") == 2
    assert stale(built, settings) == {}
