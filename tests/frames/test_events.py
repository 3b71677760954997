"""What each call was, and its fields as typed columns."""

import json
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from app.frames.events import type_calls
from app.rules.endpoint_map import load_endpoint_map, parse_endpoint_map
from app.settings import SHIPPED_TRACKING

SHIPPED = load_endpoint_map(Path(SHIPPED_TRACKING))


def typed(*calls: dict, endpoint_map=SHIPPED):
    frame = pl.DataFrame(
        [
            {"method": "GET", "status": 200, **{k: v for k, v in call.items() if k not in {"request", "response"}}}
            for call in calls
        ],
        schema_overrides={"status": pl.UInt16},
    ).with_row_index("document")
    sides = {
        side: [json.dumps(call[side]) if side in call else "" for call in calls] for side in ("request", "response")
    }
    return type_calls(frame, pa.table(sides), endpoint_map=endpoint_map)


def one(field: str, **call):
    return typed(call).calls[field].item()


@pytest.mark.parametrize(("method", "endpoint", "event"), [
    ("GET", "/api/v1/catalog", "catalog"), ("GET", "/api/v1/catalog/", "catalog"), ("get", "/api/v1/catalog", "catalog"),
    ("GET", "/api/v1/products/17", "product_view"), ("GET", "/api/v1/products/17/reviews", "other"), ("GET", "/api/v1/products/", "other"),
    ("POST", "/api/v1/favorites", "favorite_add"), ("DELETE", "/api/v1/favorites/17", "favorite_remove"), ("POST", "/api/v1/cart/items", "cart_add"),
    ("DELETE", "/api/v1/cart/items/17", "cart_remove"), ("GET", "/api/v1/cart", "cart_view"), ("POST", "/api/v1/checkout", "checkout"),
    ("POST", "/api/v1/orders", "purchase"), ("GET", "/api/v1/orders", "other"), ("GET", "/xapi/v1/catalog", "other"), ("GET", "/api/v1.catalog", "other"),
])  # fmt: skip
def test_the_shipped_map_names_each_call(method, endpoint, event):
    assert one("event", method=method, endpoint=endpoint) == event


@pytest.mark.parametrize(
    ("status", "event"), [(0, "catalog"), (200, "catalog"), (399, "catalog"), (400, "other"), (503, "other")]
)
def test_a_failed_call_is_other_and_a_missing_status_is_success(status, event):
    assert one("event", endpoint="/api/v1/catalog", status=status) == event


@pytest.mark.parametrize("value", [7, "7", " 7 ", 7.0, "7.0"])
def test_a_number_may_come_as_text(value):
    assert one("page", endpoint="/api/v1/catalog", request={"query": {"page": value}}) == 7


@pytest.mark.parametrize("value", ["", None, "  "])
def test_a_blank_number_is_none_and_not_unreadable(value):
    result = typed({"endpoint": "/api/v1/catalog", "request": {"query": {"price_min": value}}})
    assert result.calls["price_min"].item() is None
    assert result.unreadable == 0


@pytest.mark.parametrize("value", ["cheap", -1, 2.5, 2**32, {"x": 1}])
def test_what_is_no_count_is_null_and_counted(value):
    result = typed({"endpoint": "/api/v1/catalog", "request": {"query": {"page": value}}})
    assert (result.calls["page"].item(), result.unreadable) == (None, 1)


@pytest.mark.parametrize(("value", "money"), [
    (19.9, "19.90"), ("19.90", "19.90"), (59.900000000000006, "59.90"), (2.675, "2.68"), (2.665, "2.66"), (1e3, "1000.00"), (-5, "-5.00"),
    (999999999999, "999999999999.00"), (1e12, None),
])  # fmt: skip
def test_money_is_exact_and_rounds_half_to_even(value, money):
    assert one("price", endpoint="/api/v1/products/1", response={"price": value}) == (
        None if money is None else Decimal(money)
    )


@pytest.mark.parametrize("value", [["a", "b"], "a,b", "a, b", ["a,b"], [" a", "b ", ""], ["a", None, "b"]])
def test_a_filter_may_be_a_list_a_scalar_or_a_comma_list(value):
    assert one("section", endpoint="/api/v1/catalog", request={"query": {"section": value}}).to_list() == ["a", "b"]


def test_a_filter_may_be_written_with_brackets_in_its_name():
    assert one("metal", endpoint="/api/v1/catalog", request={"query": {"metal[]": ["gold"]}}).to_list() == ["gold"]


@pytest.mark.parametrize(
    ("ids", "shown"), [([1, 2], ["1", "2"]), (["r-1", 2], ["r-1", "2"]), ([1, None], ["1"]), ([], [])]
)
def test_ids_are_text_in_the_warehouse(ids, shown):
    items = [{"id": i} for i in ids]
    assert one("shown_products", endpoint="/api/v1/catalog", response={"items": items}).to_list() == shown


def test_a_purchase_has_its_items_with_one_unit_where_none_is_said():
    response = {
        "order_id": 9,
        "total": "30",
        "currency": "EUR",
        "items": [{"product_id": 1, "quantity": 2, "price": 10}, {"product_id": "x"}],
    }
    row = typed({"method": "POST", "endpoint": "/api/v1/orders", "response": response}).calls.row(0, named=True)
    assert (row["order_id"], row["revenue"], row["quantity"]) == ("9", Decimal("30.00"), 3)
    assert (row["order_products"], row["order_quantities"], row["order_prices"]) == (
        ["1", "x"],
        [2, 1],
        [Decimal("10.00"), Decimal("0.00")],
    )


def test_calls_of_every_kind_keep_their_order():
    endpoints = ["/api/v1/products/1", "/x", "/api/v1/catalog", "/api/v1/products/2"]
    assert typed(*({"endpoint": e} for e in endpoints)).calls["endpoint"].to_list() == endpoints


def test_a_map_without_items_still_counts_orders():
    toml = '[[call]]\nevent="purchase"\nmethod="POST"\npath="/buy/{order_id}"\nfields.revenue="response.sum"'
    result = typed(
        {"method": "POST", "endpoint": "/buy/77", "response": {"sum": 5}},
        endpoint_map=parse_endpoint_map(toml, source="x"),
    )
    row = result.calls.row(0, named=True)
    assert (row["event"], row["order_id"], row["revenue"], row["order_products"]) == (
        "purchase",
        "77",
        Decimal("5.00"),
        [],
    )
