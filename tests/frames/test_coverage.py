"""What a map made of calls, counted per entry and field."""

from functools import partial

from app.frames.coverage import add_coverages, count_coverage, count_unmatched
from app.frames.product_steps import ProductSteps
from app.rules.endpoint_map import parse_endpoint_map
from app.rules.fit import Meeting
from tests.support import typed_calls

MAP = parse_endpoint_map(
    """
[[call]]
event = "catalog"
method = "GET"
path = "/c"
fields.results_total = "response.total"
fields.shown_products = "response.items[].id"
filters.stone = "request.query.stone"

[[call]]
event = "product_view"
method = "GET"
path = "/p/{product_id}"

[[call]]
event = "cart_add"
method = "POST"
path = "/cart"
fields.product_id = "request.body[].id"
fields.quantity = "request.body[].quantity"

[[call]]
event = "purchase"
method = "POST"
path = "/orders"
when = "response.id"
fields.order_id = "response.id"
fields.order_products = "response.lines[].id"
fields.order_prices = "response.lines[].price"
""",
    source="map.toml",
)


typed = partial(typed_calls.typed, endpoint_map=MAP)


def counts(*calls: dict) -> dict[tuple[str, str], tuple[int, int, int]]:
    rows = count_coverage(typed(*calls), MAP).select("event", "field", "calls", "filled", "unreadable").iter_rows()
    return {(event, field): tuple(values) for event, field, *values in rows}


def test_each_field_counts_the_calls_in_which_it_has_a_value():
    found = counts(
        {"endpoint": "/c", "request": {"query": {"stone": "ruby"}}, "response": {"total": 2, "items": [{"id": 1}]}},
        {"endpoint": "/c", "request": {"query": {"stone": ""}}, "response": {"total": None, "items": []}},
        {"endpoint": "/p/7"},
    )
    assert found["catalog", ""] == (2, 2, 0)
    assert found["catalog", "results_total"] == (2, 1, 0)
    assert found["catalog", "shown_products"] == (2, 1, 0)
    assert found["catalog", "filters.stone"] == (2, 1, 0)
    assert found["product_view", "product_id"] == (1, 1, 0)


def test_a_value_that_cannot_be_read_counts_under_its_field():
    assert counts({"endpoint": "/c", "response": {"total": "many", "items": [{"id": 1}]}})["catalog", "results_total"] == (
        1, 0, 1,
    )  # fmt: skip


def test_several_products_of_one_call_are_a_value():
    call = {
        "method": "POST",
        "endpoint": "/cart",
        "request": {"body": [{"id": 1, "quantity": 1}, {"id": 2, "quantity": 1}]},
    }
    assert counts(call)["cart_add", "product_id"] == (1, 1, 0)


def test_prices_that_were_only_filled_with_zero_are_no_value():
    call = {"method": "POST", "endpoint": "/orders", "response": {"id": 1, "lines": [{"id": 7}]}}
    found = counts(call)
    assert found["purchase", "order_products"] == (1, 1, 0)
    assert found["purchase", "order_prices"] == (1, 0, 0)


def test_an_entry_without_calls_is_counted_as_such():
    assert counts({"endpoint": "/p/7"})["purchase", "order_id"] == (0, 0, 0)


def test_coverages_of_parts_add_up_to_that_of_the_whole():
    calls = [{"endpoint": "/p/7"}, {"endpoint": "/c", "response": {"total": 1}}, {"endpoint": "/p/8"}]
    parts = [count_coverage(typed(call), MAP) for call in calls]
    assert add_coverages(parts).equals(count_coverage(typed(*calls), MAP))


def test_failed_calls_and_failed_orders_are_not_unmatched():
    found = typed(
        {"endpoint": "/unknown"},
        {"endpoint": "/unknown", "status": 404},
        {"method": "POST", "endpoint": "/orders", "response": {"error": "declined"}},
    )
    assert count_unmatched(found) == 1


def test_products_that_were_never_viewed_are_counted_with_examples():
    steps = ProductSteps()
    steps.add(typed({"endpoint": "/c", "response": {"items": [{"id": 1}, {"id": 2}]}}, {"endpoint": "/p/1"}).calls)
    order = {"method": "POST", "endpoint": "/orders", "response": {"id": 1, "lines": [{"id": 1}, {"id": 9}]}}
    steps.add(typed(order).calls)
    assert steps.meetings() == [
        Meeting("viewed", "shown", 1, 0, (), ("1", "2")),
        Meeting("bought", "shown or viewed", 2, 1, ("9",), ("1", "2")),
        Meeting("bought", "viewed", 2, 1, ("9",), ("1",)),
    ]
