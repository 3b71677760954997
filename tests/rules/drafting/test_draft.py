"""Maps drafted from calls."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from app.rules.drafting.draft import draft_lines
from app.rules.drafting.groups import CallGroups
from app.rules.endpoint_map import EndpointMap, parse_endpoint_map
from tests.support.effort import repeated


def groups_of(*calls: dict) -> CallGroups:
    groups = CallGroups()
    for call in calls:
        groups.add(
            call.get("method", "GET"),
            call["endpoint"],
            call.get("status", 200),
            call.get("request"),
            call.get("response"),
        )
    return groups


def drafted(*calls: dict) -> tuple[EndpointMap, str]:
    text = "\n".join(draft_lines(groups_of(*calls)))
    return parse_endpoint_map(text, source="draft.toml"), text


LISTING = {
    "endpoint": "/shop/goods/search",
    "request": {"query": {"term": "ring", "offset": 24}},
    "response": {"total": 2, "hits": [{"sku": "R-1", "id": 901, "name": "Ring", "price": 10}, {"sku": "R-2", "id": 902, "name": "Stud", "price": 20}]},
}  # fmt: skip
VIEW = {"endpoint": "/shop/goods/R-1", "response": {"sku": "R-1", "id": 901, "name": "Ring", "price": 10}}


def fields(endpoint_map: EndpointMap, event: str) -> dict[str, str]:
    (call,) = (call for call in endpoint_map.calls if call.event == event)
    return {name: many[0].expression.text for name, many in call.fields.items() if many[0].expression}


def test_the_key_whose_values_meet_those_of_views_and_carts_is_the_products_id():
    add = {
        "method": "POST",
        "endpoint": "/shop/basket/lines",
        "request": {"body": {"item": 5, "sku": "R-2", "id": 71, "qty": 1}},
    }
    endpoint_map, text = drafted(LISTING, VIEW, add)
    assert fields(endpoint_map, "catalog")["shown_products"] == "response.hits[].sku"
    assert fields(endpoint_map, "cart_add") == {"product_id": "request.body.sku", "quantity": "request.body.qty"}
    assert "/shop/goods/{product_id}" in text
    assert "Products go by the key sku" in text


def test_an_offset_is_turned_into_a_page():
    _, text = drafted(LISTING, VIEW)
    assert 'fields.page = { path = "request.query.offset", offset = true }' in text


def test_a_neighbour_that_an_entry_would_take_is_named_as_other():
    endpoint_map, _ = drafted(LISTING, VIEW, {"endpoint": "/shop/goods/menu", "response": {"a": 1}})
    events = [call.event for call in endpoint_map.calls]
    assert events.index("other") < events.index("product_view")


def test_segments_with_many_values_are_slugs():
    views = [
        {"endpoint": f"/shop/product/{name}", "response": {"id": n, "price": 1}}
        for n, name in enumerate(["aba", "bebe", "cici", "dodo", "fufu", "gaga", "hehe", "jiji", "koko"])
    ]
    endpoint_map, text = drafted(*views, {"endpoint": "/shop/product/reviews", "response": {}})
    assert [call.event for call in endpoint_map.calls].count("product_view") == 1
    assert "9 calls" in text


def test_a_slug_that_a_list_has_shown_is_an_id_even_alone():
    listing = {"endpoint": "/products", "response": {"products": [{"id": 1, "handle": "yubiwa", "price": 5}]}}
    _, text = drafted(listing, {"endpoint": "/products/yubiwa.js", "response": {"id": 1, "price": 5, "title": "x"}})
    assert 'path = "/products/{product}.js"' in text


def order(**answer: object) -> dict:
    return {"method": "POST", "endpoint": "/orders", "response": answer}


def when(*calls: dict) -> str:
    text = "\n".join(draft_lines(groups_of(*calls)))
    return next((line for line in text.splitlines() if line.startswith("when = ")), "")


def test_an_order_that_failed_by_its_state_sets_the_condition():
    found = when(order(order_id=1, total=5, status="paid"), order(order_id=2, total=5, status="failed"))
    assert found == "when = \"response.order_id && response.status != 'failed'\""


def test_an_answer_with_errors_sets_the_condition():
    found = when(order(order_id=1, total=5, errors=[]), order(order_id=2, total=5, errors=[{"message": "no"}]))
    assert found == 'when = "response.order_id && !response.errors"'


def test_a_success_that_is_false_sets_the_condition():
    found = when(order(order_id=1, total=5, success=True), order(order_id=2, total=5, success=False))
    assert found == 'when = "response.order_id && response.success"'


def test_an_answer_without_an_order_does_not_count():
    assert when(order(order={"id": 1, "total": 5}), order(cart={"total": 5})) == 'when = "response.order.id"'


def test_the_decimals_next_to_an_amount_make_it_cents():
    _, text = drafted(order(order_id=1, total={"amount": 1990, "minor_unit": 2, "currency": "EUR"}))
    assert 'fields.revenue = { path = "response.total.amount", minor_units = "response.total.minor_unit" }' in text
    assert 'fields.currency = "response.total.currency"' in text


def test_an_amount_that_is_named_cents_is_cents():
    _, text = drafted(order(order_id=1, total={"centAmount": 1990}))
    assert "minor_units = 2" in text


def test_an_order_whose_answer_is_bare_recalls_what_the_cart_said():
    cart = {"endpoint": "/cart", "response": {"total": 30, "items": [{"sku": "R-1", "qty": 3, "price": 10}]}}
    endpoint_map, text = drafted(LISTING, VIEW, cart, order(order_id=7))
    assert 'fields.revenue = { recall = "cart_total" }' in text
    assert 'remember.cart_total = { value = "response.total" }' in text
    assert 'fields.order_products = { recall = "cart_products" }' in text
    assert endpoint_map.has_recall


def test_the_product_of_a_variant_is_recalled_from_the_lines_of_the_answer():
    add = {
        "method": "POST",
        "endpoint": "/cart/add",
        "request": {"body": {"variant_id": 55, "quantity": 1}},
        "response": {"lines": [{"variant_id": 55, "product": {"sku": "R-2"}}]},
    }
    _, text = drafted(LISTING, VIEW, add)
    assert 'fields.product_id = { path = "request.body.variant_id", recall = "variantids" }' in text
    assert 'value = "response.lines[].product.sku"' in text


def test_kinds_that_were_not_recognized_are_said_at_the_top():
    _, text = drafted(LISTING)
    assert "# purchase: NO CALL WAS RECOGNIZED." in text


def test_a_log_without_any_event_gives_a_valid_map_all_the_same():
    endpoint_map, text = drafted({"endpoint": "/flags"})
    assert [call.event for call in endpoint_map.calls] == ["other"]
    assert "no call looks like an event" in text


def test_calls_without_an_entry_are_comments_with_their_counts():
    text = "\n".join(draft_lines(groups_of(LISTING, {"endpoint": "/flags"}, {"endpoint": "/flags"})))
    assert "#       2  GET /flags: no word and no shape of an event" in text


def test_the_memory_of_a_log_with_many_endpoints_is_bounded():
    groups = CallGroups()
    for number in range(12_000):
        groups.add("GET", f"/a{'bcdefghij'[number % 9]}/{'x' * (number // 9 % 1_400 + 1)}y", 200, None, None)
    assert len(groups.groups()) <= 5_000
    assert groups.calls == 12_000


names = st.text(min_size=1, max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
keys = st.sampled_from(
    ["id", "product_id", "price", "total", "order_id", "items", "products", "quantity", "status", "errors", "success", "currency", "cart"]
) | names  # fmt: skip
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
segments = (
    st.sampled_from(["products", "cart", "orders", "search", "17", "checkout", "add", "wishlist", "cancel", "{x}"])
    | names
)
calls = st.fixed_dictionaries({
    "method": st.sampled_from(["GET", "POST", "DELETE", "PUT", "get", 'G"ET']),
    "endpoint": st.lists(segments, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    "status": st.sampled_from([0, 200, 404]),
    "request": st.none() | st.fixed_dictionaries({"query": documents, "body": documents}),
    "response": documents,
})  # fmt: skip


@given(st.lists(calls, min_size=1, max_size=8))
@settings(max_examples=repeated(40, 500))
def test_a_draft_of_any_calls_is_a_valid_map_and_the_same_every_time(found):
    lines = draft_lines(groups_of(*found))
    assert lines == draft_lines(groups_of(*json.loads(json.dumps(found))))
    parse_endpoint_map("\n".join(lines), source="draft.toml")
