"""Events that depend on more than their call: tables of history, and what was said before midnight."""

from datetime import UTC, date, datetime

import pytest

from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.snapshot import take_snapshot
from app.jobs.verify import verify_days
from app.settings import Settings
from tests.jobs.build.test_product_history import change

# The SQL is the same on a server, where the tests of the promise run.
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

MAP = """
[[call]]
event = "product_view"
method = "GET"
path = "/products/{product_id}"

[[call]]
event = "cart_add"
method = "POST"
path = "/cart"
fields.product_id = { path = "request.body.variant", lookup = { table = "variants", key = "id", value = "product_id" } }
remember.lines = { key = "response.line", value = "request.body.variant" }

[[call]]
event = "cart_remove"
method = "DELETE"
path = "/cart/{line}"
fields.product_id = [
    { path = "path.line", recall = "lines", lookup = { table = "variants", key = "id", value = "product_id" } },
    { path = "path.line", recall = "lines" },
]
"""


def at(day: int, hour: int) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


def call(time: str, method: str, endpoint: str, **fields) -> dict:
    return {"ts": f"2026-03-{time}:00Z", "method": method, "endpoint": endpoint, "visitor_id": "v", "status": 200, **fields}  # fmt: skip


def add(time: str, variant: object, line: str = "") -> dict:
    return call(time, "POST", "/cart", request={"body": {"variant": variant}}, response={"line": line})


@pytest.fixture
def shop(warehouse, settings, tmp_path) -> tuple[Settings, object]:
    """The settings of a shop with variants, and what takes a snapshot after some statements."""
    path, plan, endpoint_map = tmp_path / "shop.sqlite", tmp_path / "plan.toml", tmp_path / "map.toml"
    change(path, "CREATE TABLE variants (id INTEGER PRIMARY KEY, product_id INTEGER)")
    plan.write_text('[variants]\nsource = "variants"\nkey = ["id"]\n')
    endpoint_map.write_text(MAP)
    url = Settings(_env_file=None, shop_db=f"sqlite://{path}").shop_db
    named = {"shop_db": url, "snapshots": plan, "tracking": endpoint_map, "scratch": tmp_path / "scratch"}
    warehouse.command("DROP TABLE IF EXISTS history.variants SYNC")
    settings = settings.model_copy(update=named)

    def snapshot(when: datetime, *statements: str) -> None:
        change(path, *statements)
        take_snapshot(warehouse, settings, at=when, accept_deletes=True)

    yield settings, snapshot
    for view in ("variants_current", "variants_versions", "variants_at"):
        warehouse.command(f"DROP VIEW IF EXISTS history.{view} SYNC")
    warehouse.command("DROP TABLE IF EXISTS history.variants SYNC")


def products(warehouse) -> list[tuple]:
    return warehouse.query(
        "SELECT formatDateTime(ts, '%dT%H:%i') AS at, product_id FROM dwh.events WHERE event LIKE 'cart%' ORDER BY ts"
    ).rows()


def test_a_variant_is_looked_up_as_of_the_call(warehouse, ingest_records, shop):
    settings, snapshot = shop
    ingest_records(
        call("15T10:01", "GET", "/products/314"), add("15T10:02", 315), add("15T12:00", "315"), add("15T14:00", 315),
        add("16T10:00", 315), add("16T10:01", 999), add("15T10:03", 315.0),
    )  # fmt: skip
    build_stale(warehouse, settings).require_done()
    assert {product for _, product in products(warehouse)} == {""}, "history has no such table yet"

    snapshot(at(15, 11), "INSERT INTO variants VALUES (315, 314)")
    days = {day.day: day.reasons for day in plan_days(warehouse, settings)}
    assert days == dict.fromkeys(
        (date(2026, 3, 15), date(2026, 3, 16)), ("a table that the endpoint map looks up changed",)
    )
    build_stale(warehouse, settings).require_done()
    assert products(warehouse) == [
        ("15T10:02", "314"), ("15T10:03", "314"),  # the first snapshot is valid for all time before it
        ("15T12:00", "314"), ("15T14:00", "314"), ("16T10:00", "314"), ("16T10:01", ""),
    ]  # fmt: skip
    bought = "SELECT product_id, views, cart_adds FROM dwh.product_sessions WHERE views > 0"
    assert warehouse.query(bought).rows() == [("314", 1, 2)]

    snapshot(at(15, 13), "UPDATE variants SET product_id = 400")
    snapshot(at(16, 9), "DELETE FROM variants", "INSERT INTO variants VALUES (1, 1)")
    build_stale(warehouse, settings).require_done()
    assert [product for _, product in products(warehouse)] == ["314", "314", "314", "400", "", ""]
    assert verify_days(warehouse, settings).differing == []
    assert plan_days(warehouse, settings) == []
    snapshot(at(17, 1), "UPDATE variants SET product_id = 2")
    assert plan_days(warehouse, settings) == [], "later versions cannot matter"


def test_a_call_after_midnight_recalls_what_was_said_before_it(warehouse, settings, ingest_records, shop):
    settings, _ = shop
    ingest_records(
        call("14T10:00", "GET", "/products/1"),
        add("15T23:50", 17, "line-1"),
        call("16T00:05", "DELETE", "/cart/line-1"),
        *(call(f"16T{hour:02}:00", "GET", "/products/1", visitor_id=f"v{hour}") for hour in range(2, 9)),
    )
    build_stale(warehouse, settings, span=(date(2026, 3, 16), date(2026, 3, 16))).require_done()
    assert products(warehouse) == [("16T00:05", "17")], "whichever day is built first"
    build_stale(warehouse, settings).require_done()
    assert products(warehouse) == [("15T23:50", ""), ("16T00:05", "17")]
    removed = "SELECT product_id, cart_removes FROM dwh.product_sessions WHERE cart_removes > 0"
    assert warehouse.query(removed).rows() == [("17", 1)]
    assert verify_days(warehouse, settings).differing == []

    ingest_records(add("16T00:04", 18, "line-2"), call("16T00:06", "DELETE", "/cart/line-2"))
    ingest_records(call("16T00:07", "DELETE", "/cart/line-1"))
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert [product for _, product in products(warehouse)] == ["", "", "17", "18", "17"]
    assert verify_days(warehouse, settings).differing == []
    assert plan_days(warehouse, settings) == []
