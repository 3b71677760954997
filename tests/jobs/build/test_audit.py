"""What does not add up is not published; what is published is what the calls say, and one command proves it."""

from datetime import date, timedelta

import polars as pl
import pytest

from app.contracts import EVENTS, PRODUCT_SESSIONS, SESSIONS
from app.core.errors import AuditError
from app.jobs.build import builders
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.verify import verify_days

# The SQL is the same on a server: tests of the promise, of crashes and of hours run it there.
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

DAY = date(2026, 3, 2)


def order(at: str, *, visitor: str = "v", **response) -> dict:
    response = {"order_id": f"{visitor}-{at}", "total": "30.00", "currency": "EUR", "items": [{"product_id": 1, "quantity": 3, "price": "10.00"}]} | response  # fmt: skip
    return {"ts": f"2026-03-{at}Z", "method": "POST", "endpoint": "/api/v1/orders", "visitor_id": visitor, "status": 200, "response": response}  # fmt: skip


def built_days(warehouse, settings, **options) -> list[date]:
    return [day.day for day in build_stale(warehouse, settings, jobs=JOBS, **options).require_done().built]


def tables(warehouse) -> dict[str, list]:
    return {job: warehouse.query(f"SELECT * FROM dwh.{job} ORDER BY ALL").rows() for job in JOBS}


def spoil(monkeypatch, table, change):
    """Let a table's builder change its rows before they are staged."""
    build = builders.BUILDERS[table.name]
    monkeypatch.setitem(builders.BUILDERS, table.name, lambda shard: map(change, build(shard)))


SPOILT = {
    "a lost session": (SESSIONS, lambda f: f.head(f.height - 1), "sessions.calls: 1 instead of 2 (calls of the sessions that begin on the day)"),
    "a session's calls": (SESSIONS, lambda f: f.with_columns(calls=pl.lit(7, pl.UInt32)), "sessions.calls: 14 instead of 2"),
    "a session's revenue": (SESSIONS, lambda f: f.with_columns(revenue=(pl.col("revenue") + 1).cast(SESSIONS.schema["revenue"])), "sessions.revenue: 62.00 instead of 60.00"),
    "a product's revenue": (PRODUCT_SESSIONS, lambda f: f.with_columns(revenue=(pl.col("revenue") * 2).cast(PRODUCT_SESSIONS.schema["revenue"])), "product_sessions.revenue: 120.00 instead of 60.00"),
    "a session without visitor": (SESSIONS, lambda f: f.with_columns(visitor_id=pl.lit("")), "2 rows of sessions have no session_id or visitor_id"),
}  # fmt: skip


@pytest.mark.parametrize("upon_published", [False, True], ids=["the first build", "a build upon what is published"])
@pytest.mark.parametrize("defect", SPOILT)
def test_a_day_that_does_not_add_up_is_not_published(
    warehouse, settings, ingest_records, monkeypatch, defect, upon_published
):
    ingest_records(order("01T10:00:00"), *(order("02T10:00:00", visitor=f"w{n}") for n in range(3 * upon_published)))
    built_days(warehouse, settings)
    before = tables(warehouse)
    ingest_records(order("02T11:00:00"), order("02T12:00:00"))
    table, change, message = SPOILT[defect]
    spoil(monkeypatch, table, change)
    backfill = build_stale(warehouse, settings, jobs=JOBS)
    assert [day.day for day in backfill.built] == []
    with pytest.raises(
        AuditError, match=r"^2026-03-02: audit failed: .*What was published of it is unchanged$"
    ) as caught:
        backfill.require_done()
    if not upon_published:
        assert message in str(caught.value)
    assert tables(warehouse) == before
    assert warehouse.scalar("SELECT count() FROM system.tables WHERE database = 'etl' AND name LIKE 'staged%'") == 0
    failed = "SELECT error FROM etl.runs WHERE job = 'etl' AND state = 'failed'"
    assert "audit failed" in warehouse.scalar(failed)
    monkeypatch.undo()
    assert built_days(warehouse, settings) == [DAY]


def test_a_day_that_fails_does_not_keep_others_from_being_built(warehouse, settings, ingest_records, monkeypatch):
    ingest_records(*(order(f"{day:02}T10:00:00") for day in (1, 2, 3)))
    day_two = pl.col("session_date") == DAY
    spoil(monkeypatch, SESSIONS, lambda f: f.with_columns(calls=pl.when(day_two).then(pl.lit(9, pl.UInt32)).otherwise("calls")))  # fmt: skip
    backfill = build_stale(warehouse, settings, jobs=JOBS)
    assert [day.day for day in backfill.built] == [DAY - timedelta(days=1), DAY + timedelta(days=1)]
    assert len(backfill.failures) == 1


@pytest.mark.parametrize("response", [
    {"items": []}, {"items": [{"quantity": 2}]}, {"items": [{"quantity": 1, "price": 1}, {"product_id": 5, "quantity": 1, "price": 2}]},
    {"items": [{"product_id": 5, "quantity": 0}]}, {"total": None}, {"total": "999999999999.99"}, {"total": "9999999999999999.99"}, {"total": "-5.01"},
    {"items": [{"product_id": 5, "quantity": 4294967295, "price": "9999999999999999.99"}, {"product_id": 6, "price": -3}]},
])  # fmt: skip
def test_what_shops_send_of_their_orders_adds_up(warehouse, settings, ingest_records, response):
    ingest_records(order("02T10:00:00", **response), order("02T10:05:00"))
    assert built_days(warehouse, settings) == [DAY]
    assert verify_days(warehouse, settings).differing == []


def test_a_finished_day_with_many_times_more_rows_than_usual_waits_for_a_word(warehouse, settings, ingest_records):
    def days(day: date, count: int) -> list[dict]:
        return [{"ts": f"{day}T{n % 24:02}:{n // 24 % 60:02}:00Z", "method": "GET", "endpoint": "/x", "visitor_id": f"v{n}"} for n in range(count)]  # fmt: skip

    ingest_records(*(call for week in range(4) for call in days(DAY + timedelta(days=7 * week), 1200)))
    built_days(warehouse, settings)
    busy = DAY + timedelta(days=28)
    strict = settings.model_copy(update={"max_row_factor": 2.0})
    ingest_records(*days(busy, 2500))
    assert built_days(warehouse, strict) == [busy], "a day that is not over may grow"
    ingest_records(*days(busy + timedelta(days=1), 1))
    with pytest.raises(AuditError, match=r"2,500 rows of events, usual for this weekday are 1,200 .*--accept-rows"):
        built_days(warehouse, strict, force=True, span=(busy, busy))
    assert built_days(warehouse, strict, force=True, span=(busy, busy), skip_row_count_check=True) == [busy]
    assert built_days(warehouse, strict.model_copy(update={"max_row_factor": 0.0}), force=True, span=(busy, busy)) == [busy]  # fmt: skip


TAMPERED = {
    "a value": ("ALTER TABLE dwh.sessions UPDATE calls = 9 WHERE visitor_id = 'v' AND session_date = '2026-03-02'", "sessions", 1, "calls: published '9', is '2'"),
    "a null": ("ALTER TABLE dwh.product_sessions UPDATE price = NULL WHERE visitor_id = 'v' AND session_date = '2026-03-02'", "product_sessions", 1, "price: published None, is '10'"),
    "a lost row": ("DELETE FROM dwh.events WHERE visitor_id = 'w'", "events", 1, "is missing"),
    "a row too many": ("INSERT INTO dwh.sessions SELECT * REPLACE ('stray' AS session_id) FROM dwh.sessions WHERE visitor_id = 'w'", "sessions", 1, "session_id stray is not in the calls"),
    "a row twice": ("INSERT INTO dwh.sessions SELECT * FROM dwh.sessions WHERE visitor_id = 'w'", "sessions", 1, "is published 2 times"),
    "an array": ("ALTER TABLE dwh.events UPDATE order_products = ['2'] WHERE visitor_id = 'w'", "events", 1, "order_products: published \"['2']\", is \"['1']\""),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_verify_finds_what_is_not_what_the_calls_say(warehouse, settings, ingest_records, what):
    ingest_records(order("02T10:00:00"), order("02T10:05:00"), order("02T10:00:00", visitor="w"), order("03T10:00:00"))
    built_days(warehouse, settings)
    equal = verify_days(warehouse, settings)
    assert equal.differing == []
    assert {(table.day.day, table.table, table.rows) for table in equal.tables} >= {(2, "events", 3), (2, "sessions", 2), (3, "sessions", 1)}  # fmt: skip
    statement, table, rows, told = TAMPERED[what]
    warehouse.command(statement)
    (found,) = verify_days(warehouse, settings).differing
    assert (found.day, found.table, found.differing) == (DAY, table, rows)
    assert told in str(found.examples[0])
    assert warehouse.scalar("SELECT count() FROM system.tables WHERE database = 'etl' AND name LIKE 'staged%'") == 0
    build_stale(warehouse, settings, jobs=JOBS, force=True).require_done()
    assert verify_days(warehouse, settings).differing == []


def test_verify_says_of_a_stale_day_why_it_differs(warehouse, settings, ingest_records):
    ingest_records(order("02T10:00:00"))
    built_days(warehouse, settings)
    ingest_records(order("02T10:01:00"))
    verification = verify_days(warehouse, settings)
    assert {table.day for table in verification.differing} == {DAY}
    assert verification.stale == {DAY: "1 call came"}


def test_the_contract_of_events_says_from_which_record_a_row_was_typed(warehouse, settings, ingest_records):
    ingest_records(order("02T10:00:00"))
    built_days(warehouse, settings)
    pairs = "SELECT count() FROM dwh.events AS e JOIN pd.api_calls AS c USING (call_id, content_hash)"
    assert warehouse.scalar(pairs) == 1
    assert "content_hash" in EVENTS.schema
