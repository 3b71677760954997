"""A day is what its calls say, whatever order they came in and however the work was cut."""

import random
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.core.errors import ContractError
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS, build_day
from app.jobs.build.rules import BuildRules
from app.rules.snapshot_plan import SnapshotPlan
from tests.support.effort import repeated

pytestmark = pytest.mark.slow

_VISITORS = ("a", "b", "c")
# What follows is the same SQL on a server, where the first test and tests of the promise run, too.
embedded = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)


def random_calls(seed: int, count: int) -> list[dict]:
    """Calls of three visitors over three days around two midnights, some repeated, some sharing an id with another."""
    rng = random.Random(seed)
    calls = []
    for number in range(count):
        minute = rng.choice(
            [rng.randrange(3 * 1440), 1440 - rng.randrange(60), 1440 + rng.randrange(60), 2880 + rng.randrange(-30, 30)]
        )
        product = rng.randrange(4)
        method, endpoint, body, response = rng.choice(
            [
                (
                    "GET",
                    "/api/v1/catalog",
                    {"query": {"section": rng.choice([["x"], "x", "x,y"])}},
                    {"total": 2, "items": [{"id": product}, {"id": product + 1}]},
                ),
                ("GET", f"/api/v1/products/{product}", None, {"price": 9.99}),
                ("POST", "/api/v1/cart/items", {"body": {"product_id": str(product)}}, None),
                (
                    "POST",
                    "/api/v1/orders",
                    None,
                    {
                        "order_id": rng.randrange(3),
                        "total": "7.77",
                        "items": [{"product_id": product, "quantity": 2, "price": 3}],
                    },
                ),
                ("GET", "/api/v1/banners", None, None),
            ]
        )
        calls.append(
            {
                "call_id": f"00000000-0000-0000-0000-{rng.randrange(count):012d}",
                "ts": f"2026-03-{1 + minute // 1440:02d}T{minute // 60 % 24:02d}:{minute % 60:02d}:00.{number % 1000:03d}Z",
                "method": method, "endpoint": endpoint, "visitor_id": rng.choice(_VISITORS), "status": rng.choice([200, 200, 200, 500]),
                "user_id": rng.choice(["", "u1"]), "user_agent": "Mozilla/5.0 (iPhone) Safari/1", "request": body, "response": response,
            }
        )  # fmt: skip
    return calls


def tables(warehouse) -> dict[str, list]:
    return {job: warehouse.query(f"SELECT * FROM dwh.{job} ORDER BY ALL").rows() for job in JOBS}


def empty_tables(warehouse) -> None:
    for table in ("pd.api_calls", "etl.ledger", "etl.rejects", *(f"dwh.{job}" for job in JOBS)):
        warehouse.command(f"TRUNCATE TABLE {table}")


@embedded  # on a server, the stories of tests/stories/test_promise.py
@hypothesis_settings(max_examples=repeated(4, 50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 40), max_size=3), build_between=st.booleans())
def test_any_order_and_split_of_ingestion_gives_the_same_tables(
    warehouse, settings, ingest_records, seed, cuts, build_between
):
    calls = random_calls(seed, 40)
    empty_tables(warehouse)
    ingest_records(*calls)
    build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    expected = tables(warehouse)
    expected_raw = warehouse.query("SELECT * EXCEPT received_at FROM pd.api_calls ORDER BY ALL").rows()

    empty_tables(warehouse)
    shuffled = random.Random(seed + 1).sample(calls, len(calls)) + calls[:3]
    bounds = [0, *sorted(cuts), len(shuffled)]
    for first, last in zip(bounds, bounds[1:], strict=False):
        if first < last:
            ingest_records(*shuffled[first:last])
            if build_between:
                build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    assert warehouse.query("SELECT * EXCEPT received_at FROM pd.api_calls ORDER BY ALL").rows() == expected_raw
    assert tables(warehouse) == expected


@embedded
def test_the_number_of_shards_and_workers_changes_nothing(warehouse, settings, ingest_records):
    ingest_records(*random_calls(5, 400))
    rules = replace(BuildRules.load(settings), plan=SnapshotPlan(()))
    found = []
    for shard_calls, workers in ((10**6, 1), (20, 1), (7, 3)):
        smaller = settings.model_copy(update={"shard_calls": shard_calls, "workers": workers})
        for day in (1, 2, 3):
            build_day(warehouse, date(2026, 3, day), replace(rules, settings=smaller))
        found.append(tables(warehouse))
    assert found[0] == found[1] == found[2]
    assert sum(len(rows) for rows in found[0].values()) > 400


@embedded
def test_every_stored_call_is_in_exactly_one_session_and_one_event(warehouse, settings, ingest_records):
    ingest_records(*random_calls(9, 300))
    build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    stored = warehouse.scalar("SELECT count() FROM pd.api_calls")
    assert warehouse.scalar("SELECT sum(calls) FROM dwh.sessions") == stored
    assert warehouse.query("SELECT count(), uniqExact(call_id) FROM dwh.events").rows() == [(stored, stored)]
    strangers = "SELECT count() FROM dwh.events WHERE session_id NOT IN (SELECT session_id FROM dwh.sessions)"
    assert warehouse.scalar(strangers) == 0


@embedded
def test_revenue_of_sessions_is_that_of_their_products(warehouse, settings, ingest_records):
    ingest_records(*random_calls(11, 300))
    build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    sessions = "SELECT sum(revenue) FROM dwh.sessions"
    assert warehouse.scalar(sessions) == warehouse.scalar("SELECT sum(revenue) FROM dwh.product_sessions") > 0


@embedded
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", "America/Los_Angeles"])
def test_days_are_those_of_the_business_time_zone(warehouse, settings, ingest_records, zone):
    ingest_records(*random_calls(13, 200))
    build_stale(warehouse, settings.model_copy(update={"timezone": zone}), span=(None, None), jobs=JOBS)
    wrong = f"SELECT count() FROM dwh.events WHERE event_date != toDate(ts, '{zone}')"
    assert warehouse.scalar(wrong) == 0
    assert warehouse.scalar("SELECT sum(calls) FROM dwh.sessions") == warehouse.scalar(
        "SELECT count() FROM pd.api_calls"
    )


@embedded
def test_some_jobs_leave_the_other_tables_as_they_are(warehouse, settings, ingest_records):
    ingest_records(*random_calls(3, 50))
    build_stale(warehouse, settings, span=(None, None), jobs=("sessions",))
    assert {name: bool(rows) for name, rows in tables(warehouse).items()} == {
        "events": False,
        "order_calls": True,  # says what the sessions counted
        "sessions": True,
        "catalog_sessions": False,
        "product_sessions": False,
    }


@embedded
def test_a_day_whose_calls_are_gone_is_emptied(warehouse, settings, ingest_records):
    ingest_records(*random_calls(3, 60))
    build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    warehouse.command("DELETE FROM pd.api_calls WHERE toDate(ts) = '2026-03-02'")
    build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    assert warehouse.scalar("SELECT count() FROM dwh.events WHERE event_date = '2026-03-02'") == 0


@embedded
def test_a_day_past_the_retention_of_its_calls_keeps_what_is_published(warehouse, settings, ingest_records):
    ingest_records(*random_calls(3, 60))
    build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    before = tables(warehouse)
    warehouse.command("DELETE FROM pd.api_calls WHERE toDate(ts) = '2026-03-01'")
    with pytest.raises(ContractError, match="2026-03-01: pd.api_calls no longer holds"):
        build_stale(warehouse, settings, span=(None, date(2026, 3, 1)), jobs=JOBS, force=True).require_done()
    assert tables(warehouse) == before
