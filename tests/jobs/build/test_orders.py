"""An order counts once in the shop, at its first call, whichever session, device or day its other calls are in."""

import random
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.verify import verify_days
from tests.support.effort import repeated

# The SQL is the same on a server, where the tests of the promise run.
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

SECOND = date(2026, 3, 2)


def order(at: str, visitor: str = "a", order_id: object = 1001, *, total: object = 120, **fields) -> dict:
    response = {"total": total, "currency": "EUR", "items": [{"product_id": 17, "quantity": 1, "price": total}]}
    response |= {} if order_id is None else {"order_id": order_id}
    return {"ts": f"2026-03-{at}Z", "method": "POST", "endpoint": "/api/v1/orders", "status": 201, "visitor_id": visitor, "response": response, **fields}  # fmt: skip


def view(at: str, visitor: str = "a") -> dict:
    return {"ts": f"2026-03-{at}Z", "method": "GET", "endpoint": "/api/v1/products/17", "status": 200, "visitor_id": visitor}  # fmt: skip


@pytest.fixture
def build(warehouse, settings):
    """Builds what is stale and returns the days that were built; afterwards nothing is stale and all is verified."""

    def build(**options) -> list[date]:
        built = build_stale(warehouse, settings, jobs=JOBS, **options).require_done().built
        if not options:
            assert plan_days(warehouse, settings) == []
            assert verify_days(warehouse, settings).differing == []
        return [day.day for day in built]

    return build


@pytest.fixture
def counted(warehouse):
    """The sessions with a purchase: visitor, begin, orders, revenue."""

    def counted() -> list[tuple]:
        return warehouse.query(
            "SELECT visitor_id, formatDateTime(started_at, '%dT%T') AS at, orders, revenue FROM dwh.sessions "
            "WHERE furthest_step = 'purchase' ORDER BY started_at, visitor_id"
        ).rows()

    return counted


def test_an_order_sent_again_counts_once_whichever_session_or_device_sends_it(
    warehouse, ingest_records, build, counted
):
    ingest_records(
        order("02T10:00:00"),
        order("02T10:00:04"),  # sent twice
        order("02T12:30:00"),  # in a later session
        order("02T13:00:00", "b", 1002, total=80),
        order("02T13:00:03", "b", "1002", total="80.0000"),  # the same order, as text
        order("02T14:00:00", "c", None, total=50),  # orders without an id count by themselves
        order("02T14:00:02", "c", None, total=50),
        order("02T15:00:00", "d", 1003, total=70),
        order("02T15:00:20", "d-app", 1003, total=70),  # on another device
    )
    build()
    assert counted() == [
        ("a", "02T10:00:00", 1, Decimal(120)),
        ("a", "02T12:30:00", 0, Decimal(0)),
        ("b", "02T13:00:00", 1, Decimal(80)),
        ("c", "02T14:00:00", 2, Decimal(100)),
        ("d", "02T15:00:00", 1, Decimal(70)),
        ("d-app", "02T15:00:20", 0, Decimal(0)),
    ]
    named = "if(startsWith(order_id, 'call-'), 'call-', order_id)"
    calls = warehouse.query(f"SELECT {named} AS named, visitor_id, is_counted FROM dwh.order_calls ORDER BY ts").rows()
    assert calls == [
        ("1001", "a", True), ("1001", "a", False), ("1001", "a", False),
        ("1002", "b", True), ("1002", "b", False),
        ("call-", "c", True), ("call-", "c", True),
        ("1003", "d", True), ("1003", "d-app", False),
    ]  # fmt: skip
    bought = "SELECT visitor_id, orders, revenue FROM dwh.product_sessions WHERE orders > 0 ORDER BY visitor_id"
    assert [visitor for visitor, *_ in warehouse.query(bought).rows()] == ["a", "b", "c", "d"]


def test_an_order_counts_once_however_many_shards_hold_its_calls(warehouse, settings, ingest_records, counted):
    ingest_records(*(order(f"02T10:00:{n:02}", f"device {n}", n % 3) for n in range(40)))
    many = settings.model_copy(update={"shard_calls": 2, "workers": 2})
    build_stale(warehouse, many).require_done()
    assert [row for row in counted() if row[2]] == [
        (f"device {n}", f"02T10:00:0{n}", 1, Decimal(120)) for n in range(3)
    ]
    assert verify_days(warehouse, settings).differing == []
    assert plan_days(warehouse, settings) == []


def test_an_order_seen_again_on_a_later_day_counts_on_the_first(ingest_records, build, counted):
    ingest_records(order("02T10:00:00"), order("04T10:00:00"), order("06T10:00:00", "b"))
    build()
    assert [row[2] for row in counted()] == [1, 0, 0]


def test_a_late_earlier_call_makes_the_later_day_stale_and_only_that_one(
    warehouse, settings, ingest_records, build, counted
):
    ingest_records(view("01T10:00:00"), view("03T10:00:00"), order("04T10:00:00"), order("05T10:00:00", "b", 5))
    build()
    ingest_records(order("02T10:00:00", "late"))
    assert build(span=(SECOND, SECOND)) == [SECOND]
    (stale,) = plan_days(warehouse, settings)
    assert (stale.day, stale.reasons) == (
        date(2026, 3, 4),
        (
            "which of its orders were placed on another day changed",
            "its orders changed, in calls or in the shop's database",
        ),
    )
    assert "events" not in stale.jobs
    assert build() == [date(2026, 3, 4)]
    assert counted() == [
        ("late", "02T10:00:00", 1, Decimal(120)),
        ("a", "04T10:00:00", 0, Decimal(0)),
        ("b", "05T10:00:00", 1, Decimal(120)),
    ]


def test_one_run_builds_the_days_that_a_late_call_makes_stale(warehouse, ingest_records, build, counted):
    ingest_records(order("04T10:00:00"), order("06T10:00:00", "b"))
    build()
    ingest_records(order("02T10:00:00", "late"))
    assert build() == [SECOND, date(2026, 3, 4)]
    assert [row[2] for row in counted()] == [1, 0, 0]
    warehouse.command("ALTER TABLE pd.api_calls DELETE WHERE visitor_key = 'late' SETTINGS mutations_sync = 2")
    ingest_records(view("01T10:00:00"))  # days before the oldest call are kept
    build()
    assert [row[2] for row in counted()] == [1, 0]


def test_a_call_that_arrives_later_in_the_day_does_not_count_a_second_time(ingest_records, build, counted):
    ingest_records(*(view(f"02T{hour:02}:00:00", f"v{hour}") for hour in range(9)), order("02T10:00:00"))
    build()
    ingest_records(order("02T11:00:00", "b"))
    build()
    assert [row[2] for row in counted()] == [1, 0]
    ingest_records(order("02T09:59:00", "c"))
    build()
    assert counted() == [
        ("c", "02T09:59:00", 1, Decimal(120)),
        ("a", "02T10:00:00", 0, Decimal(0)),
        ("b", "02T11:00:00", 0, Decimal(0)),
    ]


def test_a_call_after_midnight_is_not_the_first_where_a_new_session_of_that_day_has_an_earlier_one(
    ingest_records, build, counted
):
    ingest_records(view("02T23:50:00"), order("03T00:05:00"), order("03T00:03:00", "b"))
    build()
    assert counted() == [("a", "02T23:50:00", 0, Decimal(0)), ("b", "03T00:03:00", 1, Decimal(120))]


def test_an_order_of_a_day_past_its_calls_still_counts_there(warehouse, ingest_records, build, counted):
    ingest_records(order("02T10:00:00"), view("04T10:00:00"))
    build()
    warehouse.command("ALTER TABLE pd.api_calls DELETE WHERE ts < '2026-03-03' SETTINGS mutations_sync = 2")
    ingest_records(order("05T10:00:00"))
    build()
    assert [row[2] for row in counted()] == [1, 0]


def test_tables_that_count_orders_are_built_with_the_order_calls(warehouse, settings, ingest_records):
    ingest_records(order("02T10:00:00"))
    (built,) = build_stale(warehouse, settings, jobs=("sessions",)).require_done().built
    assert built.rows == {"order_calls": 1, "sessions": 1}
    (stale,) = plan_days(warehouse, settings, jobs=("sessions", "events"))
    assert stale.jobs == ("events",)


def first_calls(records: list[dict]) -> set[tuple]:
    """Who placed each order and when, in plain Python."""
    found: dict[object, dict] = {}
    for record in sorted(records, key=lambda record: record["ts"]):
        found.setdefault(record["response"]["order_id"], record)
    return {(record["visitor_id"], record["ts"][8:16]) for record in found.values()}


@hypothesis_settings(max_examples=repeated(4, 50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.tuples(st.integers(2, 4), st.integers(0, 47), st.sampled_from("abc"), st.integers(1, 3)),
        min_size=2,
        max_size=12,
        unique_by=lambda call: call[:2],
    ),
    seed=st.integers(0, 99),
    cut=st.integers(1, 11),
)
def test_any_order_of_arrival_counts_the_same_calls(warehouse, settings, ingest_records, calls, seed, cut):
    for table in ("pd.api_calls", "etl.ledger", *(f"dwh.{job}" for job in JOBS)):
        warehouse.command(f"TRUNCATE TABLE {table}")
    records = [
        order(f"{day:02}T{half_hour // 2:02}:{half_hour % 2 * 30:02}:00", visitor, order_id)
        for day, half_hour, visitor, order_id in calls
    ]
    random.Random(seed).shuffle(records)
    # The oldest call stays: days before it would be kept as those past the retention of their calls are.
    ingest_records(view("01T10:00:00"), *records[:cut])
    build_stale(warehouse, settings).require_done()
    if records[cut:]:
        ingest_records(*records[cut:])
        build_stale(warehouse, settings).require_done()
    counted = warehouse.query(
        "SELECT visitor_id, formatDateTime(ts, '%dT%H:%i') AS at FROM dwh.order_calls WHERE is_counted"
    )
    assert {*counted.iter_rows()} == first_calls(records)
    assert warehouse.scalar("SELECT sum(orders) FROM dwh.sessions") == counted.height
    assert plan_days(warehouse, settings) == []
    assert verify_days(warehouse, settings).differing == []
