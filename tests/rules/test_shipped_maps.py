"""Every shipped endpoint map makes of its platform's calls the events and the sessions that they were."""

import json
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.rules.endpoint_map import load_endpoint_map
from app.settings import SHIPPED_ENDPOINT_MAPS

JOURNEYS = Path(__file__).parents[1] / "fixtures" / "journeys"
NAMES = sorted(path.stem for path in JOURNEYS.glob("*.toml"))

# An event has none of these unless the journey names it: a call must not say more than it should.
STRICT = ("product_id", "order_id", "search_query", "revenue")
# What of the original amount stands in another column where dwh holds the converted one.
AMOUNTS = ("price", "revenue", "amount", "price_min", "price_max", "order_prices")
# Where the several products of one cart call stand.
CONVERTED = {"order_prices", "price_min", "price_max"}
CONVERTED_LISTS = {"price"}
LISTS = {"product_id": "order_products", "quantity": "order_quantities", "price": "order_prices"}

pytestmark = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)


def plain(value: Any) -> Any:
    """The value as a journey writes it: money as text, lists as lists."""
    if isinstance(value, Decimal):
        return f"{value:.2f}"
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def field_value(event: dict[str, Any], field: str, *, is_list: bool) -> Any:
    name = LISTS.get(field, field) if is_list else field
    original = f"{name}_original"
    return plain(event[original if field in AMOUNTS and original in event else name])


def differences(expected: dict[str, Any], event: dict[str, Any]) -> Iterator[str]:
    for field in dict.fromkeys([*STRICT, *expected]):
        if field in {"note", "ignored"}:
            continue
        if field in CONVERTED and event["currency"] not in {"", "EUR"}:
            continue  # stored in EUR, without the original
        wanted = expected.get(field)
        if isinstance(wanted, list) and field in CONVERTED_LISTS and event["currency"] not in {"", "EUR"}:
            continue
        found = field_value(event, field, is_list=isinstance(wanted, list))
        if field == "filters":
            found = {name: dict(found or {}).get(name) for name in wanted}
        if (found or None) != (wanted or None):
            yield f"{field}: {found!r}, expected {wanted!r}"


def products_of(events: list[dict[str, Any]]) -> list[str]:
    named = [[event["product_id"], *event["shown_products"], *event["order_products"]] for event in events]
    return sorted({product for products in named for product in products if product})


def session_differences(
    expected: dict[str, Any], session: dict[str, Any], events: list[dict[str, Any]]
) -> Iterator[str]:
    found = session | {"products": products_of(events)}
    for name, wanted in expected.items():
        value = plain(found[name])
        if value != (sorted(wanted) if name == "products" else wanted):
            yield f"session of {expected['visitor_id']}, {name}: {value!r}, expected {wanted!r}"


@pytest.fixture
def built(warehouse, settings, ingest_records):
    def build(name: str) -> tuple[list[dict], list[dict], list[dict]]:
        records = [json.loads(line) for line in (JOURNEYS / f"{name}.ndjson").read_text(encoding="utf-8").splitlines()]
        assert ingest_records(*records).rejected == {}
        shop = settings.model_copy(update={"tracking": SHIPPED_ENDPOINT_MAPS / f"{name}.toml"})
        build_stale(warehouse, shop, span=(None, None), jobs=JOBS).require_done()
        events = warehouse.query("SELECT * FROM dwh.events ORDER BY ts, call_id").to_dicts()
        sessions = warehouse.query("SELECT * FROM dwh.sessions ORDER BY started_at").to_dicts()
        return records, events, sessions

    return build


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_map_reads_its_platforms_calls(name, built):
    journey = tomllib.loads((JOURNEYS / f"{name}.toml").read_text(encoding="utf-8"))
    records, events, sessions = built(name)
    assert len(journey["call"]) == len(records)
    kept = [(record, call) for record, call in zip(records, journey["call"], strict=True) if not call.get("ignored")]
    assert len(events) == len(kept), "ignored calls are in no session"
    found = [
        f"call {number}, {record['method']} {record['endpoint']} {call.get('note', '')}: {difference}"
        for number, ((record, call), event) in enumerate(zip(kept, events, strict=True), start=1)
        for difference in differences(call, event)
    ]
    of_visitor = {session["visitor_id"]: session for session in sessions}
    for expected in journey["session"]:
        visitor = expected["visitor_id"]
        own = [event for event in events if event["visitor_id"] == visitor]
        found += session_differences(expected, of_visitor[visitor], own)
    assert not found, f"{name}\n" + "\n".join(found)


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED_ENDPOINT_MAPS.glob("*.toml")))
def test_a_shipped_map_is_valid_and_has_a_journey(name, engine_url):
    assert load_endpoint_map(SHIPPED_ENDPOINT_MAPS / f"{name}.toml").calls
    assert name in NAMES
