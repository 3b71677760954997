"""From records to published tables, over both engines."""

import uuid
from datetime import date

import polars as pl
import pytest

from app.jobs.build.backfill import Backfill, build_stale
from app.jobs.build.day import JOBS

pytestmark = pytest.mark.slow

DAY = date(2026, 3, 1)


def call(ts: str, endpoint: str, *, method: str = "GET", visitor: str = "v1", **fields) -> dict:
    return {"ts": ts, "method": method, "endpoint": endpoint, "visitor_id": visitor, "status": 200, **fields}


def catalog(ts: str, ids: list, *, q: str | None = None, total: int | None = None, **query) -> dict:
    return call(
        ts,
        "/api/v1/catalog",
        request={"query": {"q": q, **query}},
        response={"total": len(ids) if total is None else total, "items": [{"id": i} for i in ids]},
    )


JOURNEY = [
    catalog("2026-03-01T10:00:00.000Z", [1, 2, 3], section=["rings"]),
    catalog("2026-03-01T10:01:00.000Z", [4, 5], section="rings", page="2"),
    call("2026-03-01T10:02:00Z", "/api/v1/products/4", response={"price": 19.9}),
    call(
        "2026-03-01T10:03:00Z", "/api/v1/cart/items", method="POST", request={"body": {"product_id": 4, "quantity": 2}}
    ),
    call("2026-03-01T10:04:00Z", "/api/v1/checkout", method="POST", status=500),
    call("2026-03-01T10:04:30Z", "/api/v1/checkout", method="POST"),
    call(
        "2026-03-01T10:05:00Z",
        "/api/v1/orders",
        method="POST",
        user_id="u7",
        response={
            "order_id": "o1",
            "total": "39.80",
            "currency": "EUR",
            "items": [{"product_id": 4, "quantity": 2, "price": 19.9}],
        },
    ),
    call(
        "2026-03-01T10:05:01Z",
        "/api/v1/orders",
        method="POST",
        response={
            "order_id": "o1",
            "total": "39.80",
            "currency": "EUR",
            "items": [{"product_id": 4, "quantity": 2, "price": 19.9}],
        },
    ),
]


def build(warehouse, settings, **options):
    return build_stale(warehouse, settings, span=(None, None), jobs=JOBS, **options)


def test_a_journey_becomes_one_session_with_every_step_counted_once(warehouse, settings, ingest_records):
    ingest_records(*JOURNEY)
    build(warehouse, settings)
    session = warehouse.query("SELECT * FROM dwh.sessions").to_dicts()[0]
    expected = {
        "session_date": DAY, "visitor_id": "v1", "user_id": "u7", "user_type": "registered", "calls": 8, "errors": 1,
        "catalog_views": 2, "searches": 0, "product_views": 1, "products_viewed": 1, "cart_adds": 1, "checkouts": 1,
        "orders": 1, "units": 2, "duration_s": 301.0, "furthest_step": "purchase", "is_bounce": 0,
    }  # fmt: skip
    assert {name: session[name] for name in expected} == expected
    assert str(session["revenue"]) == "39.80"


def test_pages_of_one_listing_share_its_id_and_a_click_counts_for_the_page_that_showed_the_product(
    warehouse, settings, ingest_records
):
    ingest_records(*JOURNEY)
    build(warehouse, settings)
    pages = warehouse.query(
        "SELECT seq, listing_id, page, products_clicked, products_carted, products_bought FROM dwh.catalog_sessions"
    )
    assert sorted(pages.rows()) == [(1, 1, 1, 0, 0, 0), (2, 1, 2, 1, 1, 1)]


def test_products_of_a_session_are_counted_from_impression_to_revenue(warehouse, settings, ingest_records):
    ingest_records(*JOURNEY)
    build(warehouse, settings)
    products = warehouse.query(
        "SELECT product_id, impressions, views, cart_adds, units_added, orders, units_bought, toFloat64(revenue) FROM dwh.product_sessions"
    )
    assert sorted(products.rows()) == [
        ("1", 1, 0, 0, 0, 0, 0, 0.0), ("2", 1, 0, 0, 0, 0, 0, 0.0), ("3", 1, 0, 0, 0, 0, 0, 0.0),
        ("4", 1, 1, 1, 2, 1, 2, 39.8), ("5", 1, 0, 0, 0, 0, 0, 0.0),
    ]  # fmt: skip


def test_building_again_changes_nothing_and_a_second_run_has_nothing_to_do(warehouse, settings, ingest_records):
    ingest_records(*JOURNEY)
    build(warehouse, settings)
    before = {job: warehouse.query(f"SELECT * FROM dwh.{job} ORDER BY ALL") for job in JOBS}
    assert build(warehouse, settings) == Backfill()
    build(warehouse, settings, force=True)
    for job in JOBS:
        assert warehouse.query(f"SELECT * FROM dwh.{job} ORDER BY ALL").equals(before[job])


def test_a_late_call_makes_its_day_stale_and_joins_its_session(warehouse, settings, ingest_records):
    ingest_records(JOURNEY[0], JOURNEY[2])
    build(warehouse, settings)
    ingest_records(JOURNEY[1])
    backfill = build(warehouse, settings)
    assert [(s.day, s.reasons) for s in backfill.stale] == [(DAY, ("1 call came",))]
    assert backfill.built[0].rows["sessions"] == 1
    assert warehouse.query("SELECT calls FROM dwh.sessions").rows() == [(3,)]


def test_a_session_over_midnight_belongs_to_the_day_it_starts_on(warehouse, settings, ingest_records):
    ingest_records(call("2026-03-01T23:50:00Z", "/x"), call("2026-03-02T00:10:00Z", "/y"))
    build(warehouse, settings)
    assert warehouse.query("SELECT session_date, calls FROM dwh.sessions").rows() == [(DAY, 2)]
    days = warehouse.query("SELECT event_date, session_id FROM dwh.events ORDER BY ts").rows()
    assert [day for day, _ in days] == [DAY, date(2026, 3, 2)]
    assert len({session_id for _, session_id in days}) == 1


def test_a_call_in_the_map_of_its_call_id_is_kept_whatever_order_two_records_come_in(
    warehouse, settings, ingest_records
):
    call_id = str(uuid.UUID(int=7))
    early, late = (
        call("2026-03-01T10:00:00Z", "/a", call_id=call_id),
        call("2026-03-03T10:00:00Z", "/b", call_id=call_id),
    )
    for first, second in ((early, late), (late, early)):
        warehouse.command("TRUNCATE TABLE pd.api_calls")
        ingest_records(first)
        totals = ingest_records(second)
        assert totals.rejected == {"call_id taken": 1}
        assert warehouse.query("SELECT endpoint FROM pd.api_calls").rows() == [("/a",)]


def test_every_table_and_column_carries_its_comment(warehouse):
    bare = warehouse.query(
        "SELECT database, table, name FROM system.columns WHERE database IN ('pd', 'dwh', 'etl') AND comment = ''"
    )
    assert bare.filter(pl.col("table") != "incoming_ids").rows() == []
    assert (
        warehouse.query("SELECT name FROM system.tables WHERE database IN ('pd', 'dwh', 'etl') AND comment = ''").rows()
        == []
    )
