"""The order in which stale days are built: the newest first, with the same rows as in any other order."""

from datetime import date

import pytest

from app.contracts import dwh_tables
from app.jobs.build import backfill
from app.jobs.build.backfill import build_stale
from app.jobs.verify import verify_days

pytestmark = pytest.mark.slow

DAYS = [date(2024, 5, 1), date(2026, 2, 27), date(2026, 3, 1), date(2026, 3, 2)]


def order(day: date, order_id: int, hour: int = 10) -> dict:
    return {
        "ts": f"{day}T{hour:02}:00:00Z", "method": "POST", "endpoint": "/api/v1/orders", "visitor_id": f"v{day}", "status": 201,
        "response": {"order_id": order_id, "total": 100.0, "currency": "EUR", "items": [{"product_id": 1, "quantity": 1, "price": 100.0}]},
    }  # fmt: skip


@pytest.fixture
def calls(ingest_records):
    """Orders of which some are called again on other days, so that which counts depends on all of them."""
    repeated = [order(day, 7) for day in DAYS] + [order(day, 8, 12) for day in DAYS[1:3]]
    return ingest_records(*repeated, *(order(day, 100 + number, 23) for number, day in enumerate(DAYS)))


def rows(warehouse) -> dict[str, list[tuple]]:
    return {t.name: warehouse.query(f"SELECT * FROM {t.full_name} ORDER BY ALL").rows() for t in dwh_tables()}


def begun(warehouse) -> list[date]:
    return warehouse.query("SELECT day FROM etl.runs WHERE job = 'etl' ORDER BY started_at")["day"].to_list()


def test_the_newest_day_is_built_first(warehouse, settings, calls):
    build_stale(warehouse, settings.model_copy(update={"days_at_once": 1})).require_done()
    assert begun(warehouse)[: len(DAYS)] == DAYS[::-1]


def test_any_order_gives_the_same_rows(warehouse, settings, calls):
    built = build_stale(warehouse, settings)
    built.require_done()
    assert [day.day for day in built.stale] == DAYS
    newest_first = rows(warehouse)
    assert not verify_days(warehouse, settings).differing
    for day in DAYS:
        build_stale(warehouse, settings, span=(day, day), force=True).require_done()
    assert build_stale(warehouse, settings).stale == []
    assert rows(warehouse) == newest_first
    revenue = dict(warehouse.query("SELECT session_date, sum(revenue) FROM dwh.sessions GROUP BY 1").iter_rows())
    assert {day: int(amount) for day, amount in revenue.items()} == dict(zip(DAYS, (200, 200, 100, 100), strict=True))


def test_days_that_are_not_begun_in_time_stay_stale_and_today_is_done(warehouse, settings, calls):
    one_at_once = settings.model_copy(update={"days_at_once": 1})
    built = build_stale(warehouse, one_at_once, longest_s=-1)
    assert [day.day for day in built.built] == [DAYS[-1]]
    assert sorted(built.postponed) == DAYS[:-1]
    assert built.failures == []
    assert [day.day for day in backfill.plan_days(warehouse, settings)][:3] == DAYS[:-1]
    rest = build_stale(warehouse, settings)
    assert rest.postponed == []
    assert not verify_days(warehouse, settings).differing
