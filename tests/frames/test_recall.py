"""What an earlier call of the session said, and what a table of the shop's database says."""

from datetime import UTC, datetime

import polars as pl
import pytest

from app.frames.recall import LOOKUP_SCHEMA
from app.rules.endpoint_map import Lookup
from tests.support.typed_calls import events_of, map_of, typed

CART = """
[[call]]
event = "cart_add"
method = "POST"
path = "/cart/items"
fields.product_id = "request.body.product_id"
remember.lines = { key = "response.cart.lines[].id", value = "response.cart.lines[].product_id" }
remember.total = { value = "response.cart.total" }
remember.bought = { value = "response.cart.lines[].product_id" }
[[call]]
event = "cart_remove"
method = "DELETE"
path = "/cart/items/{line}"
fields.product_id = { path = "path.line", recall = "lines" }
[[call]]
event = "purchase"
method = "POST"
path = "/orders"
fields.order_id = "response.id"
fields.revenue = { recall = "total" }
fields.order_products = { recall = "bought" }
[[call]]
event = "other"
method = "GET"
path = "/products/{slug}"
remember.variants = { key = "response.variants[].id", value = "response.id" }
[[call]]
event = "cart_update"
method = "PUT"
path = "/cart/items/{variant}"
fields.product_id = [{ path = "path.variant", recall = ["lines", "variants"] }, { path = "path.variant", recall = "variants" }, "path.variant"]
"""


def add(visitor: str, *lines: tuple, total=None) -> dict:
    cart = {"total": total, "lines": [{"id": line, "product_id": product} for line, product in lines]}
    return {"method": "POST", "endpoint": "/cart/items", "visitor_id": visitor, "request": {"body": {"product_id": lines[-1][1]}}, "response": {"cart": cart}}  # fmt: skip


def remove(visitor: str, line: str) -> dict:
    return {"method": "DELETE", "endpoint": f"/cart/items/{line}", "visitor_id": visitor}


def test_a_line_is_the_product_that_an_earlier_call_of_the_session_named():
    calls = [add("a", ("k1", 17)), add("b", ("k1", 99)), add("a", ("k1", 17), ("k2", 18)), remove("a", "k1"), remove("b", "k1"), remove("a", "k2"), remove("b", "k2")]  # fmt: skip
    found = [event["product_id"] for event in events_of(*calls, endpoint_map=CART)]
    assert found == ["17", "99", "18", "17", "99", "18", ""]


def test_the_last_call_before_counts():
    calls = [add("a", ("k1", 17)), remove("a", "k1"), add("a", ("k1", 18)), remove("a", "k1")]
    assert [event["product_id"] for event in events_of(*calls, endpoint_map=CART)] == ["17", "17", "18", "18"]


def test_a_later_call_is_not_recalled():
    assert events_of(remove("a", "k1"), add("a", ("k1", 17)), endpoint_map=CART)[0]["product_id"] == ""


def test_a_whole_value_is_recalled_and_a_list_as_a_list():
    order = {"method": "POST", "endpoint": "/orders", "visitor_id": "a", "response": {"id": 1}}
    found = events_of(add("a", ("k1", 17), ("k2", "18"), total="12.50"), order, endpoint_map=CART)[1]
    assert (found["revenue"], found["order_products"], found["quantity"]) == ("12.50", ["17", "18"], 2)


@pytest.mark.parametrize("total", [None, "", []])
def test_an_empty_value_is_not_remembered(total):
    order = {"method": "POST", "endpoint": "/orders", "visitor_id": "a", "response": {"id": 1}}
    calls = [add("a", ("k1", 17), total=5), add("a", ("k1", 17), total=total), order]
    assert events_of(*calls, endpoint_map=CART)[2]["revenue"] == "5.00"


def test_one_value_belongs_to_several_keys_and_names_are_recalled_in_turn():
    product = {
        "endpoint": "/products/ring",
        "visitor_id": "a",
        "response": {"id": 17, "variants": [{"id": 171}, {"id": 172.0}]},
    }
    update = {"method": "PUT", "visitor_id": "a"}
    calls = [product, add("a", ("k1", 171)), update | {"endpoint": "/cart/items/k1"}, update | {"endpoint": "/cart/items/172"}, update | {"endpoint": "/cart/items/900"}]  # fmt: skip
    assert [event["product_id"] for event in events_of(*calls, endpoint_map=CART)[2:]] == ["17", "17", "900"]


def test_what_the_call_itself_remembers_counts_where_no_earlier_one_says_it():
    toml = """[[call]]
event = "cart_remove"
method = "POST"
path = "/remove"
fields.product_id = { path = "request.body.line", recall = "lines" }
remember.lines = { key = "response.before[].id", value = "response.before[].product" }
"""
    call = {"method": "POST", "endpoint": "/remove", "request": {"body": {"line": "k1"}}}
    calls = [call | {"response": {"before": [{"id": "k1", "product": product}]}} for product in (17, 18)]
    assert [event["product_id"] for event in events_of(*calls, endpoint_map=toml)] == ["17", "17"]


# ---- lookups -----------------------------------------------------------------------------------------------------

VARIANTS = Lookup("variants", "id", "product_id")
LOOKED_UP = """[[call]]
event = "cart_add"
method = "POST"
path = "/cart"
fields.product_id = [
    { path = "request.body.variant", lookup = { table = "variants", key = "id", value = "product_id" } }, "request.body.variant",
]
"""


def versions(*rows: tuple) -> dict[Lookup, pl.DataFrame]:
    times = [(key, value, datetime(2026, 3, day, tzinfo=UTC)) for key, value, day in rows]
    return {VARIANTS: pl.DataFrame(times, schema=LOOKUP_SCHEMA, orient="row")}


def looked_up(*days_and_variants: tuple[int, object], lookups=None) -> list[str]:
    calls = [
        {
            "method": "POST",
            "endpoint": "/cart",
            "ts": f"2026-03-{day:02}T12:00:00Z",
            "request": {"body": {"variant": variant}},
        }
        for day, variant in days_and_variants
    ]
    return typed(*calls, endpoint_map=LOOKED_UP, lookups=lookups).calls["product_id"].to_list()


def test_a_value_is_looked_up_as_of_the_call():
    table = versions(("5", "50", 1), ("5", "51", 4), ("6", "60", 1))
    assert looked_up((3, 5), (5, "5"), (3, 6), (3, 7), (3, None), lookups=table) == ["50", "51", "60", "7", ""]


def test_a_row_that_has_ended_has_no_value():
    assert looked_up((2, 5), (4, 5), lookups=versions(("5", "50", 1), ("5", None, 3))) == ["50", "5"]


def test_a_table_that_history_does_not_have_gives_no_value():
    assert looked_up((2, 5), lookups={}) == looked_up((2, 5)) == ["5"]


def test_the_map_names_its_lookups_once():
    assert map_of(LOOKED_UP + LOOKED_UP.replace("/cart", "/basket")).lookups == (VARIANTS,)


def test_lists_are_looked_up_element_by_element():
    toml = LOOKED_UP.replace("cart_add", "purchase").replace("fields.product_id", "fields.order_products").replace("request.body.variant", "request.body.lines[].v")  # fmt: skip
    call = {"method": "POST", "endpoint": "/cart", "request": {"body": {"lines": [{"v": 5}, {}, {"v": 9}]}}}
    found = typed(call, endpoint_map=toml, lookups=versions(("5", "50", 1))).calls["order_products"].to_list()
    assert found == [["50", "", "9"]]
