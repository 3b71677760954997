"""What the endpoint map made of a day is counted, and a map that does not fit is never silent."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from app.jobs.build.backfill import Backfill, build_stale
from app.ops import reports
from app.ops.doctor import _map_fit
from app.ops.status import map_misfits
from app.settings import SHIPPED_ENDPOINT_MAPS
from app.warehouse import Warehouse
from tests.test_main import carat

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]
DAY = date(2026, 3, 2)
DEMO = (SHIPPED_ENDPOINT_MAPS / "demo.toml").read_text(encoding="utf-8")
WOOCOMMERCE = Path(__file__).parents[2] / "fixtures" / "journeys" / "woocommerce.ndjson"
AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
)


def call(at: str, method: str, endpoint: str, request: Any = None, response: Any = None, **other: Any) -> dict:
    return {
        "ts": f"2026-03-02T{at}Z", "method": method, "endpoint": endpoint, "status": 200, "visitor_id": "v", "user_agent": AGENT,
        "request": request, "response": response,
    } | other  # fmt: skip


CATALOG = call(
    "10:00:00", "GET", "/api/v1/catalog", {"query": {"q": "ring", "page": "1"}}, {"total": 1, "items": [{"id": 7}]}
)
VIEW = call("10:01:00", "GET", "/api/v1/products/7", None, {"product_id": 7, "price": "149.00"})
ADD = call("10:02:00", "POST", "/api/v1/cart/items", {"body": {"product_id": 7, "quantity": 1}})
ORDER = call(
    "10:03:00", "POST", "/api/v1/orders", None,
    {"order_id": 5, "total": "149.00", "currency": "EUR", "items": [{"product_id": 7, "quantity": 1, "price": "149.00"}]},
)  # fmt: skip
FAILED = call("10:04:00", "POST", "/api/v1/orders", status=500)
SHOPPER = (CATALOG, VIEW, ADD, ORDER, FAILED)


@pytest.fixture
def build(warehouse, settings, ingest_records, tmp_path):
    """Ingests calls and builds what is stale, by a map's text or the file of a shipped one."""

    def run(*records: dict, tracking: str | Path = DEMO) -> Backfill:
        path = tracking if isinstance(tracking, Path) else tmp_path / "map.toml"
        if isinstance(tracking, str):
            path.write_text(tracking, encoding="utf-8")
        ingest_records(*records)
        return build_stale(warehouse, settings.model_copy(update={"tracking": path})).require_done()

    return run


def misfits(backfill: Backfill) -> list[tuple[str, str]]:
    return [(misfit.entry, misfit.field) for built in backfill.built for misfit in built.misfits]


def coverage(warehouse: Warehouse) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Calls, filled and unreadable by event and field."""
    rows = warehouse.query("SELECT event, field, calls, filled, unreadable FROM dwh.map_fit WHERE calls > 0").rows()
    return {(event, field): tuple(counts) for event, field, *counts in rows}


def test_a_map_that_fits_says_nothing(build, warehouse, capsys):
    backfill = build(*SHOPPER)
    assert misfits(backfill) == []
    assert map_misfits(warehouse).is_empty()
    assert [(f.is_ok, f.is_warning) for f in _map_fit(warehouse)] == [(True, False)]
    reports.print_backfill(backfill, is_plan=False, as_json=False)
    assert "warning" not in capsys.readouterr().out


def test_calls_and_values_are_counted_by_entry_and_field(build, warehouse):
    build(*SHOPPER)
    found = coverage(warehouse)
    assert found["catalog", ""] == (1, 1, 0)
    assert found["catalog", "search_query"] == (1, 1, 0)
    assert found["catalog", "section"] == (1, 0, 0)
    assert found["product_view", "product_id"] == (1, 1, 0)
    assert found["purchase", ""] == (1, 1, 0), "a failed order fits no entry"
    assert found["purchase", "order_prices"] == (1, 1, 0)


def test_the_demo_map_on_woocommerce_says_that_nothing_fits(build, warehouse, capsys):
    store = "/wp-json/wc/store/v1"
    calls = [
        *(
            ("GET", f"/products{rest}")
            for rest in ("/categories", "/collection-data", "", "/34", "/35?x=1", "/reviews")
        ),
        *(("POST", f"/cart/{verb}") for verb in ("add-item", "update-item", "remove-item")),
        *(("POST", "/checkout") for _ in range(3)),
    ]
    records = [call(f"10:00:{second:02}", way, store + rest) for second, (way, rest) in enumerate(calls)]
    backfill = build(*records, tracking=DEMO)
    assert warehouse.query("SELECT DISTINCT event FROM dwh.events").rows() == [("other",)]
    assert misfits(backfill) == [("the map", "")]
    problem, endpoints, counts = warehouse.query(
        "SELECT problem, endpoints, endpoint_calls FROM dwh.map_fit WHERE map_entry = ''"
    ).row(0)
    assert problem == "12 of 12 successful calls fit no entry"
    assert endpoints[:2] == [f"{store}/checkout", f"{store}/products/{{id}}"]
    assert counts[:2] == [3, 2]
    reports.print_backfill(backfill, is_plan=False, as_json=False)
    assert "warning (2026-03-02): the map: 12 of 12 successful calls fit no entry" in capsys.readouterr().out


def test_the_woocommerce_map_on_woocommerce_says_nothing(build):
    records = [json.loads(line) for line in WOOCOMMERCE.read_text(encoding="utf-8").splitlines()]
    assert misfits(build(*records, tracking=SHIPPED_ENDPOINT_MAPS / "woocommerce.toml")) == []


def test_a_misspelt_revenue_is_named_with_its_entry_everywhere(build, warehouse, capsys):
    backfill = build(
        *SHOPPER, tracking=DEMO.replace('response.total"\nfields.currency', 'response.sum"\nfields.currency')
    )
    (misfit,) = [m for built in backfill.built for m in built.misfits]
    assert ("POST /api/v1/orders" in misfit.entry, misfit.field) == (True, "revenue")
    assert warehouse.scalar("SELECT count() FROM dwh.sessions WHERE orders = 1") == 1, "the day is published"

    reports.print_backfill(backfill, is_plan=False, as_json=False)
    assert f"warning (2026-03-02): {misfit.entry} revenue: empty in 1 of 1 calls" in capsys.readouterr().out
    reports.print_backfill(backfill, is_plan=False, as_json=True)
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert (warning["day"], warning["entry"], warning["field"]) == ("2026-03-02", misfit.entry, "revenue")

    assert map_misfits(warehouse).select("last_day", "days", "entry", "field").rows() == [
        (DAY, 1, misfit.entry, "revenue")
    ]
    (finding,) = _map_fit(warehouse)
    assert (finding.is_ok, finding.is_warning) == (True, True)
    assert "revenue: empty in 1 of 1 calls" in finding.detail


def test_a_misspelt_product_is_named_with_its_entry(build):
    misspelt = DEMO.replace('"request.body.product_id"\nfields.quantity', '"request.body.product"\nfields.quantity')
    ((entry, field),) = misfits(build(*SHOPPER, tracking=misspelt))
    assert ("POST /api/v1/cart/items" in entry, field) == (True, "product_id")


def test_an_order_whose_total_the_map_does_not_read_is_named_too(build, warehouse):
    unread = DEMO.replace('fields.revenue = "response.total"\n', "")
    assert [field for _, field in misfits(build(*SHOPPER, tracking=unread))] == ["revenue"]
    assert coverage(warehouse)["purchase", "revenue"] == (1, 0, 0)


def test_values_that_cannot_be_read_count_under_their_field(build, warehouse):
    build(CATALOG | {"request": {"query": {"page": {"number": 1}}}}, VIEW | {"response": [1, 2]})
    found = coverage(warehouse)
    assert found["catalog", "page"] == (1, 0, 1)
    assert found["product_view", ""][2] + found["product_view", "price"][2] == 1


def test_amounts_without_a_rate_are_named(build):
    order = ORDER | {"response": ORDER["response"] | {"currency": "XAU"}}
    (misfit,) = [m for built in build(CATALOG, VIEW, ADD, order).built for m in built.misfits]
    assert (misfit.field, misfit.problem) == ("revenue", "1 of 1 amounts have no rate of exchange")


def test_a_patch_of_some_sessions_counts_the_whole_day(build, warehouse):
    """Of a day that is built again in part, unreadable values add up, and values are those of all of its calls."""
    others = [VIEW | {"visitor_id": f"visitor {number}"} for number in range(20)]
    build(*SHOPPER, *others)
    late = CATALOG | {"visitor_id": "late", "request": {"query": {"page": {"number": 1}}}}
    (built,) = build(late).built
    assert built.calls < len(others), "only the new session was built"
    found = coverage(warehouse)
    assert found["catalog", "page"] == (2, 1, 1)
    assert found["product_view", "product_id"] == (21, 21, 0)
    build(late | {"ts": "2026-03-02T15:00:00Z"})
    assert coverage(warehouse)["catalog", "page"] == (3, 1, 2)


def test_a_new_map_replaces_what_was_counted(build, warehouse):
    broken = CATALOG | {"request": {"query": {"page": {"number": 1}}}}
    build(broken, *SHOPPER[1:], tracking=DEMO.replace("response.items[].id", "response.items[].ident"))
    assert map_misfits(warehouse)["field"].to_list() == ["page", "shown_products"]
    build()
    assert map_misfits(warehouse)["field"].to_list() == ["page"]
    assert coverage(warehouse)["catalog", "page"] == (1, 0, 1), "calls that are typed again are counted once"


def test_the_commands_exit_0_and_show_the_warning(tmp_path, engine_url):
    calls = tmp_path / "calls.ndjson"
    calls.write_text("\n".join(map(json.dumps, SHOPPER)), encoding="utf-8")
    (tmp_path / "map.toml").write_text(DEMO.replace('fields.revenue = "response.total"\n', ""), encoding="utf-8")
    shop = {"CARAT_TRACKING": str(tmp_path / "map.toml")}
    assert carat("ingest", str(calls), folder=tmp_path, **shop).returncode == 0
    hour = carat("hourly", "--json", folder=tmp_path, **shop)
    assert hour.returncode == 0, hour.stderr
    assert [warning["field"] for warning in json.loads(hour.stdout)["warnings"]] == ["revenue"]
    status = carat("status", "--json", folder=tmp_path, **shop)
    assert [row["field"] for row in json.loads(status.stdout)["endpoint map"]] == ["revenue"]
    doctor = carat("doctor", "--json", folder=tmp_path, **shop)
    found = [finding for finding in json.loads(doctor.stdout) if finding["check"] == "endpoint map fits"]
    assert [(finding["is_ok"], finding["is_warning"]) for finding in found] == [(True, True)]


def test_bodies_that_the_middleware_could_not_read_are_counted_hour_by_hour_and_told(build, warehouse):
    unread = ORDER | {"response": {"_unreadable": 1234}}
    first = build(*SHOPPER, unread | {"ts": "2026-03-02T11:00:00Z", "visitor_id": "w"})
    assert ("9: POST /api/v1/orders", "response body") in misfits(first)
    assert coverage(warehouse)["purchase", "response body"] == (2, 1, 1)
    build(unread | {"ts": "2026-03-02T12:00:00Z", "visitor_id": "x"}, VIEW | {"ts": "2026-03-02T13:00:00Z"})
    assert coverage(warehouse)["purchase", "response body"] == (3, 1, 2)
    (row,) = [row for row in map_misfits(warehouse).iter_rows(named=True) if row["field"] == "response body"]
    assert "not read by the middleware in 2 of 3 calls" in row["problem"]
    assert "docs/middleware.md" in row["fix"]
    assert any(finding.is_warning and "response body" in finding.detail for finding in _map_fit(warehouse))
