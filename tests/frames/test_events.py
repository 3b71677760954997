"""What each call was, and its fields as typed columns."""

import json
from decimal import Decimal
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.rules.endpoint_map import parse_endpoint_map
from tests.support.effort import repeated
from tests.support.typed_calls import event_of, events_of, map_of, typed


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
    assert not result.unreadable


@pytest.mark.parametrize("value", ["cheap", -1, 2.5, 2**32, {"x": 1}])
def test_what_is_no_count_is_null_and_counted(value):
    result = typed({"endpoint": "/api/v1/catalog", "request": {"query": {"page": value}}})
    assert result.calls["page"].item() is None
    assert result.unreadable == {("1: GET /api/v1/catalog", "page"): 1}


@pytest.mark.parametrize(("value", "money"), [
    (19.9, "19.90"), ("19.90", "19.90"), (59.900000000000006, "59.90"), (2.675, "2.68"), (2.665, "2.66"), (1e3, "1000.00"), (-5, "-5.00"),
    (999999999999, "999999999999.00"), (1e12, None),
])  # fmt: skip
def test_money_is_exact_and_rounds_half_to_even(value, money):
    assert one("price", endpoint="/api/v1/products/1", response={"price": value}) == (
        None if money is None else Decimal(money)
    )


@pytest.mark.parametrize("value", [["a", "b"], "a,b", "a, b", [" a", "b ", ""], ["a", None, "b"], [None, "a", "b"]])
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


# ---- placeholders (cases 11, 15, 16) -----------------------------------------------------------------------------

SEARCH_AND_ORDERS = """
[[call]]
event = "catalog"
method = "GET"
path = "/api/v1/search/{search_query}"
[[call]]
event = "catalog"
method = "GET"
path = "/api/v1/catalog"
fields.search_query = "request.query.q"
[[call]]
event = "checkout"
method = "GET"
path = "/api/v1/orders/{order_id}"
[[call]]
event = "purchase"
method = "POST"
path = "/api/v1/orders"
fields.order_id = "response.order_id"
fields.revenue = "response.total"
"""


def test_a_placeholder_never_empties_another_calls_field():
    found = events_of(
        {"endpoint": "/api/v1/search/ring"},
        {"endpoint": "/api/v1/catalog", "request": {"query": {"q": "necklace"}}},
        {"endpoint": "/api/v1/orders/9", "response": {}},
        {"method": "POST", "endpoint": "/api/v1/orders", "response": {"order_id": 12, "total": 5}},
        endpoint_map=SEARCH_AND_ORDERS,
    )
    assert [(e["event"], e["search_query"], e["order_id"], e["revenue"]) for e in found] == [
        ("catalog", "ring", "", None),
        ("catalog", "necklace", "", None),
        ("checkout", "", "9", None),
        ("purchase", "", "12", "5.00"),
    ]


@pytest.mark.parametrize(
    ("path", "endpoint", "field", "value"),
    [
        ("/api/v1/catalog/{section}", "/api/v1/catalog/rings", "section", ["rings"]),
        ("/api/v1/catalog/{section}", "/api/v1/catalog/rings,charms", "section", ["rings", "charms"]),
        ("/api/v1/catalog/page/{page}", "/api/v1/catalog/page/3", "page", 3),
        ("/c/{price_min}-{price_max}", "/c/10-49.50", "price_max", "49.50"),
        ("/c/{shown_products}", "/c/17", "shown_products", ["17"]),
        ("/c/{page}", "/c/all", "page", None),
    ],
)
def test_a_placeholder_may_be_any_field_a_number_or_a_list(path, endpoint, field, value):
    toml = f'[[call]]\nevent = "catalog"\nmethod = "GET"\npath = "{path}"\n'
    found = event_of({"endpoint": endpoint, "response": {"items": [{"id": 1}]}}, toml)
    assert (found["event"], found[field]) == ("catalog", value)


def test_what_fields_say_goes_before_the_placeholder():
    toml = """[[call]]
event = "product_view"
method = "GET"
path = "/p/{product_id}"
fields.product_id = "response.id"
"""
    found = events_of(
        {"endpoint": "/p/gold-ring", "response": {"id": 314}}, {"endpoint": "/p/silver-ring"}, endpoint_map=toml
    )
    assert [e["product_id"] for e in found] == ["314", "silver-ring"]


@pytest.mark.parametrize(
    ("endpoint", "product"),
    [
        ("/api/v1/products/CLE-056621%2F6", "CLE-056621/6"),
        ("/api/v1/products/BAH-SB%2B7", "BAH-SB+7"),
        ("/api/v1/products/Ring%20Gold%20750", "Ring Gold 750"),
        ("/api/v1/products/Kette-%C3%96se", "Kette-Öse"),
        ("/api/v1/products/gid:%2F%2Fshopify%2FProduct%2F123", "gid://shopify/Product/123"),
        ("/api/v1/products/17.0", "17"),
        ("/api/v1/products/00017", "00017"),
        ("/api/v1/products/17;jsessionid=AB12", "17"),
        ("/api/v1/products/BAH-SB+7", "BAH-SB+7"),
        ("/api/v1/products/100%25", "100%"),
        ("/api/v1/products/100%", "100%"),
        ("/api/v1/products/17%00", "17\0"),
    ],
)
def test_the_article_number_of_a_path_is_that_of_the_cart(endpoint, product):
    view, add = events_of(
        {"endpoint": endpoint, "response": {"price": 10}},
        {"method": "POST", "endpoint": "/api/v1/cart/items", "request": {"query": {}, "body": {"product_id": product}}},
    )
    assert view["product_id"] == add["product_id"] == product


def test_a_placeholder_may_take_the_rest_of_the_path():
    toml = '[[call]]\nevent = "product_view"\nmethod = "GET"\npath = "/api/v1/products/{product_id...}"\n'
    assert event_of({"endpoint": "/api/v1/products/CLE-056621/6"}, toml)["product_id"] == "CLE-056621/6"


def test_a_placeholder_may_have_a_pattern():
    toml = '[[call]]\nevent = "product_view"\nmethod = "GET"\npath = \'/api/v1/products/{product_id:\\d+}{format:(\\.json)?}\'\n'
    found = events_of(
        *({"endpoint": f"/api/v1/products/{end}"} for end in ("17.json", "17", "reviews")), endpoint_map=toml
    )
    assert [(e["event"], e["product_id"]) for e in found] == [
        ("product_view", "17"),
        ("product_view", "17"),
        ("other", ""),
    ]


# ---- what a purchase is (cases 02, 16) ---------------------------------------------------------------------------

ORDERS_THAT_SUCCEEDED = """
[[call]]
event = "purchase"
method = "POST"
path = "/api/v1/orders"
when = "!contains(['failed', 'refunded'], response.status) && response.success != 'false' && response.order_id"
fields.order_id = "response.order_id"
fields.revenue = "response.total"
fields.order_products = "response.items[].product_id"
fields.order_quantities = "response.items[].quantity"
[[call]]
event = "order_cancel"
method = "POST"
path = "/api/v1/orders/{order_id}/cancel"
[[call]]
event = "refund"
method = "POST"
path = "/api/v1/orders"
when = "response.status == 'refunded'"
fields.order_id = "response.order_id"
fields.amount = "response.total"
"""


@pytest.mark.parametrize(
    ("response", "event", "is_error"),
    [
        ({"order_id": 275, "status": "failed", "total": 120, "currency": "EUR", "items": [{"product_id": 17, "quantity": 1, "price": 120}]}, "other", True),
        ({"success": False, "error": "card_declined", "order_id": None, "total": 99, "items": [{"product_id": 18, "quantity": 1, "price": 99}]}, "other", True),
        ({"order_id": 276, "status": "processing", "total": 200, "currency": "EUR", "items": [{"product_id": 19, "quantity": 2, "price": 100}]}, "purchase", False),
        ({"order_id": 277, "status": "refunded", "total": -100, "currency": "EUR", "items": [{"product_id": 21, "quantity": -1, "price": 100}]}, "refund", False),
        ({"order_id": 278, "status": "completed", "total": 0, "currency": "EUR", "items": [{"product_id": 22, "quantity": 1, "price": 30}]}, "purchase", False),
        ({"type": "cart", "error": "no stock"}, "other", True),
        (None, "other", True),
        ("<html>error</html>", "other", True),
    ],
)  # fmt: skip
def test_an_order_that_the_answer_calls_failed_is_none_and_an_error(response, event, is_error):
    found = event_of(
        {"method": "POST", "endpoint": "/api/v1/orders", "status": 201, "response": response}, ORDERS_THAT_SUCCEEDED
    )
    assert (found["event"], found["is_error"]) == (event, is_error)


def test_a_cancelled_order_is_named_by_its_path():
    cancel = {"method": "POST", "endpoint": "/api/v1/orders/276/cancel", "response": {"order_id": 276, "refunded": 200}}
    found = event_of(cancel, ORDERS_THAT_SUCCEEDED)
    assert (found["event"], found["order_id"]) == ("order_cancel", "276")


@pytest.mark.parametrize(
    ("items", "units"),
    [
        ([{"product_id": 17, "quantity": 2}, {"label": "SPRING25", "quantity": 1}], 2),
        ([{"product_id": 17, "quantity": 2}, {"product_id": "", "quantity": 1}], 2),
        ([{"product_id": None, "quantity": 4}], None),
        ([{"product_id": 17}, {"product_id": 18, "quantity": 3}], 4),
    ],
)
def test_order_lines_without_a_product_are_not_counted(items, units):
    response = {"order_id": 1, "total": 5, "items": items}
    assert event_of({"method": "POST", "endpoint": "/api/v1/orders", "response": response})["quantity"] == units


# ---- numbers in text (case 03) -----------------------------------------------------------------------------------

ORDER_TOTAL = '[[call]]\nevent = "purchase"\nmethod = "POST"\npath = "/api/v1/orders"\nfields.revenue = {}\n'


@pytest.mark.parametrize(
    ("total", "decimal", "revenue"),
    [
        ("6,795.00", "", "6795.00"), ("1.234,56", "", "1234.56"), ("1.234", "", None), ("149,00", "", "149.00"), ("€ 149.00", "", "149.00"),
        ("149.00 EUR", "", "149.00"), ("1 234,56", "", "1234.56"), ("1'234.50", "", "1234.50"), ("12.345.678,90", "", "12345678.90"),
        ("2,000", "", None), ("149.-", "", "149.00"), ("1,234", "", None), ("149,5", "", "149.50"), ({"amount": 149, "currency": "EUR"}, "", None),
        ("1.234", ",", "1234.00"), ("1.234", ".", "1.23"), ("2,000", ".", "2000.00"), ("2,000", ",", "2.00"), (1.234, ",", "1.23"), (1.234, "", "1.23"),
        ("1.230", "", None), ("12,345.00", ",", None), ("¥0", "", "0.00"), ("Rs.100", "", "100.00"), ("-€ 5.00", "", "-5.00"), ("CHF 1’234.50", "", "1234.50"),
    ],
)  # fmt: skip
def test_a_number_in_text_is_read_by_the_maps_sign_or_refused_and_counted(total, decimal, revenue):
    how = f'{{ path = "response.total", decimal = "{decimal}" }}' if decimal else '"response.total"'
    record = {"method": "POST", "endpoint": "/api/v1/orders", "response": {"total": total}}
    result = typed(record, endpoint_map=ORDER_TOTAL.format(how))
    found = result.calls["revenue"].item()
    assert (None if found is None else str(found)) == revenue
    assert result.unreadable == ({("1: POST /api/v1/orders", "revenue"): 1} if revenue is None else {})


def test_the_sign_of_the_whole_map_holds_where_a_field_says_none():
    record = {"method": "POST", "endpoint": "/api/v1/orders", "response": {"total": "1.234"}}
    toml = 'decimal_separator = ","\n' + ORDER_TOTAL
    assert event_of(record, toml.format('"response.total"'))["revenue"] == "1234.00"
    assert event_of(record, toml.format('{ path = "response.total", decimal = "." }'))["revenue"] == "1.23"


@pytest.mark.parametrize(
    ("reading", "response", "revenue"),
    [
        ('{ path = "response.cents", minor_units = 2 }', {"cents": "14900"}, "149.00"),
        ('{ path = "response.cents", minor_units = 0 }', {"cents": 14900}, "14900.00"),
        ('{ path = "response.cents", minor_units = "response.unit" }', {"cents": 1255, "unit": 3}, "1.26"),
        ('{ path = "response.cents", minor_units = "response.unit" }', {"cents": 1255}, None),
        ('{ path = "response.cents", minor_units = "response.prices[0].unit" }', {"cents": "500", "prices": [{"unit": "2"}]}, "5.00"),
        ('[{ path = "response.cents", minor_units = 2 }, "response.total"]', {"total": 7}, "7.00"),
        ('{ const = "7.50" }', {}, "7.50"),
        ('{ path = "response.text", match = "total: *([0-9.]+)" }', {"text": "your total: 12.50"}, "12.50"),
    ],
)  # fmt: skip
def test_an_amount_is_read_as_the_map_says(reading, response, revenue):
    record = {"method": "POST", "endpoint": "/api/v1/orders", "response": response}
    assert event_of(record, ORDER_TOTAL.format(reading))["revenue"] == revenue


# ---- filters and listings (case 12) ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ({"metal": ["Gold, 750 rose", "Silver"]}, "metal", ["Gold, 750 rose", "Silver"]),
        ({"metal": ["Gold, 750 rose"]}, "metal", ["Gold, 750 rose"]),
        ({"metal": [None, "Gold, 750 rose"]}, "metal", ["Gold, 750 rose"]),
        ({"metal[]": ["gold", "silver"]}, "metal", ["gold", "silver"]),
        ({"metal[]": "gold, rose"}, "metal", ["gold, rose"]),
        ({"metal[0]": "gold", "metal[1]": "silver"}, "metal", ["gold", "silver"]),
        ({"metal": "gold|silver"}, "metal", ["gold|silver"]),
        ({"metal": {"0": "gold", "1": "silver"}}, "metal", []),
        ({"q": "  Ring  "}, "search_query", "Ring"),
        ({"q": ["ring"]}, "search_query", "ring"),
        ({"q": ["ring", "gold"]}, "search_query", ""),
        ({"page": "2 "}, "page", 2),
        ({"price_min": "10", "price_max": ""}, "price_min", "10.00"),
        ({"q": "%"}, "search_query", "%"),
    ],
)
def test_filters_come_in_every_shape_and_elements_stay_whole(query, field, value):
    assert event_of({"endpoint": "/api/v1/catalog", "request": {"query": query}})[field] == value


LISTING = '[[call]]\nevent = "catalog"\nmethod = "GET"\npath = "/c"\n'


@pytest.mark.parametrize(
    ("fields", "query", "field", "value"),
    [
        ('fields.metal = { path = "request.query.metal", split = "|" }', {"metal": "gold|silver"}, "metal", ["gold", "silver"]),
        ('fields.metal = { path = "request.query.metal", split = false }', {"metal": "Black, blue, and grey"}, "metal", ["Black, blue, and grey"]),
        ('fields.metal = "request.query.filter.metal"', {"filter[metal][]": ["gold"]}, "metal", ["gold"]),
        ("fields.metal = 'request.query.\"filter[metal][]\"'", {"filter[metal][]": ["gold"]}, "metal", ["gold"]),
        ('fields.metal = "request.query.metal.in"', {"metal": {"in": ["gold", "silver"]}}, "metal", ["gold", "silver"]),
        ("fields.metal = \"request.query.attributes[?attribute=='pa_metal'].slug\"", {"attributes[0][attribute]": "pa_metal", "attributes[0][slug]": "gold", "attributes[1][slug]": "ruby"}, "metal", ["gold"]),
        ('fields.price_min = { path = "request.query.price", range = "-" }', {"price": "10-50"}, "price_min", "10.00"),
        ('fields.price_max = { path = "request.query.price", range = "-" }', {"price": "10-50"}, "price_max", "50.00"),
        ('fields.price_max = { path = "request.query.price", range = "-" }', {"price": "10"}, "price_max", None),
        ('fields.page = { path = "request.query.skip", offset = 20 }', {"skip": "40"}, "page", 3),
        ('fields.page = { path = "request.query.skip", offset = true }\nfields.per_page = "request.query.take"', {"skip": 48, "take": "24"}, "page", 3),
        ('fields.page = { path = "request.query.skip", offset = true }', {"skip": 48}, "page", None),
        ('fields.search_query = ["request.query.q", "request.query.search"]', {"q": "", "search": "ring"}, "search_query", "ring"),
        ('fields.metal = ["request.query.m", "request.query.metal"]', {"m": [], "metal": "gold"}, "metal", ["gold"]),
        ('fields.page = ["request.query.p", "request.query.page"]', {"p": " ", "page": "2"}, "page", 2),
        ('filters.stone = "request.query.stone"', {"stone": ["ruby", "Tiger, eye"]}, "filters", {"stone": ["ruby", "Tiger, eye"]}),
        ('filters.stone = "request.query.stone"', {"stone": ""}, "filters", {}),
    ],
)  # fmt: skip
def test_a_map_says_how_a_filter_is_read(fields, query, field, value):
    assert event_of({"endpoint": "/c", "request": {"query": query}}, LISTING + fields)[field] == value


# ---- documents in every dress (case 13) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        {"query": {}, "body": {"product_id": 17, "quantity": 2}},
        '{"query": {}, "body": {"product_id": 17, "quantity": 2}}',
        {"query": {}, "body": '{"product_id": 17, "quantity": 2}'},
        {"query": {}, "body": "eyJwcm9kdWN0X2lkIjogMTcsICJxdWFudGl0eSI6IDJ9"},
        {"query": {}, "body": "product_id=17&quantity=2"},
        {"query": {}, "body": {"product_id": ["17"], "quantity": ["2"]}},
        {"query": {}, "body": {"product_id": [None, 17.0], "quantity": 2.0}},
    ],
)
def test_a_cart_add_is_read_from_text_base64_and_forms(request_):
    found = event_of({"method": "POST", "endpoint": "/api/v1/cart/items", "request": request_})
    assert (found["product_id"], found["quantity"]) == ("17", 2)


@pytest.mark.parametrize(
    "record",
    [
        {"endpoint": "/api/v1/catalog?q=ring&metal[]=gold&page=2"},
        {"endpoint": "/api/v1/catalog", "request": {"query": "q=ring&metal[]=gold&page=2"}},
        {"endpoint": "https://api.shop.example/api/v1/catalog?q=ring&metal=gold&page=2"},
        {"endpoint": "//api/v1/catalog?q=ring&metal=gold&page=2#top"},
        {"endpoint": "/API/V1/Catalog/?q=ring&metal=gold&page=2", "request": {"body": None}},
        {"endpoint": "/api/v1/catalog?q=no&page=9", "request": {"query": {"q": "ring", "metal": "gold", "page": 2}}},
    ],
)
def test_a_listing_is_read_from_the_endpoints_query_and_other_forms_of_its_path(record):
    found = event_of({"response": '{"total": 1, "items": [{"id": 1}]}', **record})
    assert (found["event"], found["search_query"], found["metal"], found["page"]) == ("catalog", "ring", ["gold"], 2)
    assert (found["results_total"], found["shown_products"]) == (1, ["1"])


def test_the_query_of_an_endpoint_leaves_the_body_as_it_is():
    record = {"method": "POST", "endpoint": "/api/v1/orders?x=1", "request": {"body": {"total": 1.234}}}
    assert event_of(record, ORDER_TOTAL.format('"request.body.total"'))["revenue"] == "1.23"


@pytest.mark.parametrize("response", [[{"id": 1}], "nothing", 42, True])
def test_a_document_that_is_not_an_object_is_counted(response):
    result = typed({"endpoint": "/api/v1/catalog", "response": response})
    assert result.unreadable == {("1: GET /api/v1/catalog", ""): 1}


def test_a_list_at_the_root_can_be_read():
    toml = LISTING + 'fields.shown_products = "response[].id"'
    result = typed({"endpoint": "/c", "response": [{"id": 34}, {"id": "35"}]}, endpoint_map=toml)
    assert (result.calls["shown_products"].to_list(), dict(result.unreadable)) == ([["34", "35"]], {})


def test_several_products_of_a_cart_call_are_lists():
    toml = """[[call]]
event = "cart_add"
method = "POST"
path = "/cart"
fields.product_id = "request.body[].product_id || request.body.product_id"
fields.quantity = "request.body[].quantity || request.body.quantity"
"""
    bodies = [[{"product_id": 17, "quantity": 2}, {"product_id": 18, "quantity": 1}], {"product_id": 17, "quantity": 2}]
    found = events_of(
        *({"method": "POST", "endpoint": "/cart", "request": {"body": body}} for body in bodies), endpoint_map=toml
    )
    assert [(e["product_id"], e["order_products"], e["order_quantities"]) for e in found] == [
        ("17", ["17", "18"], [2, 1]), ("17", [], []),
    ]  # fmt: skip


# ---- one product, one id (case 14) -------------------------------------------------------------------------------


def test_an_id_with_zeros_behind_the_point_is_the_whole_one():
    found = events_of(
        {"endpoint": "/api/v1/catalog", "response": {"total": 1, "items": [{"id": 314.0}]}},
        {"endpoint": "/api/v1/products/314", "response": {"price": 10}},
        {"method": "POST", "endpoint": "/api/v1/cart/items", "request": {"body": {"product_id": "314"}}},
        {"method": "POST", "endpoint": "/api/v1/orders", "response": {"order_id": 14002.0, "items": [{"product_id": 314.0}, {"product_id": "314.5"}]}},
    )  # fmt: skip
    assert (found[0]["shown_products"], found[1]["product_id"], found[2]["product_id"]) == (["314"], "314", "314")
    assert (found[3]["order_products"], found[3]["order_id"]) == (["314", "314.5"], "14002")


# ---- shops that are not like ours (cases 20, 23) -----------------------------------------------------------------

GRAPHQL = """
[[call]]
event = "catalog"
method = "POST"
path = "/graphql/"
when = "request.body.operationName == 'ProductList'"
fields.search_query = "request.body.variables.search"
fields.metal = "request.body.variables.where.attributes[?slug=='metal'].value.slug.oneOf | []"
fields.results_total = "response.data.products.totalCount"
fields.shown_products = "response.data.products.edges[].node.id"
[[call]]
event = "cart_add"
method = "POST"
path = "/graphql"
when = "request.body.operationName == 'checkoutLinesAdd' && response.data.checkoutLinesAdd.checkout"
fields.product_id = "response.data.checkoutLinesAdd.checkout.lines[].variant.product.id"
fields.quantity = "request.body.variables.lines[].quantity"
[[call]]
event = "purchase"
method = "POST"
path = "/graphql"
when = "request.body.operationName == 'checkoutComplete' && response.data.checkoutComplete.order.id"
fields.order_id = "response.data.checkoutComplete.order.id"
fields.revenue = "response.data.checkoutComplete.order.total.gross.amount"
"""


def graphql(operation: str, variables: dict, response: dict) -> dict:
    body = {"operationName": operation, "query": f"query {operation} {{…}}", "variables": variables}
    return {"method": "POST", "endpoint": "/graphql/", "request": {"query": {}, "body": body}, "response": response}


def test_a_graphql_shop_is_conditions_over_one_path():
    where = {"attributes": [{"slug": "metal", "value": {"slug": {"oneOf": ["gold", "silver"]}}}]}
    products = {"totalCount": 33, "edges": [{"node": {"id": "UHJvZHVjdDo3Mg=="}}, {"node": {"id": "UHJvZHVjdDo3Mw=="}}]}
    line = {"variant": {"id": "UHJvZHVjdFZhcmlhbnQ6MjAz", "product": {"id": "UHJvZHVjdDo3Mg=="}}}
    order = {"id": "T3JkZXI6MQ==", "total": {"gross": {"amount": 149, "currency": "EUR"}}}
    lines = {"id": "c1", "lines": [{"variantId": "UHJvZHVjdFZhcmlhbnQ6MjAz", "quantity": 1}]}
    result = typed(
        graphql("ProductList", {"first": 12, "search": "ring", "where": where}, {"data": {"products": products}}),
        graphql("checkoutLinesAdd", lines, {"data": {"checkoutLinesAdd": {"checkout": {"lines": [line]}, "errors": []}}}),
        graphql("checkoutLinesAdd", lines, {"data": {"checkoutLinesAdd": {"checkout": None, "errors": [{"code": "INSUFFICIENT_STOCK"}]}}}),
        graphql("Menu", {"slug": "navbar"}, {"data": {"menu": {"items": []}}}),
        graphql("checkoutComplete", {"id": "c1"}, {"data": {"checkoutComplete": {"order": order}}}),
        graphql("checkoutComplete", {"id": "c1"}, {"errors": [{"message": "Invalid ID"}], "data": {"checkoutComplete": None}}),
        endpoint_map=GRAPHQL,
    )  # fmt: skip
    found = result.calls.to_dicts()
    assert [e["event"] for e in found] == ["catalog", "cart_add", "other", "other", "purchase", "other"]
    assert [e["is_error"] for e in found] == [False, False, False, False, False, True]
    assert (found[0]["search_query"], found[0]["metal"], found[0]["results_total"]) == ("ring", ["gold", "silver"], 33)
    assert found[0]["shown_products"] == ["UHJvZHVjdDo3Mg==", "UHJvZHVjdDo3Mw=="]
    assert (found[1]["product_id"], found[1]["quantity"]) == ("UHJvZHVjdDo3Mg==", 1)
    assert (found[4]["order_id"], found[4]["revenue"]) == ("T3JkZXI6MQ==", Decimal("149.00"))
    assert not result.unreadable


STORE_API = r"""
[[call]]
event = "catalog"
method = "GET"
path = "/wp-json/wc/store/v1/products"
fields.metal = "request.query.attributes[?attribute=='pa_metal'].slug"
fields.material = "request.query.attributes[?attribute=='pa_material'].slug"
fields.price_min = { path = "request.query.min_price", minor_units = 2 }
fields.shown_products = "response[].id"
[[call]]
event = "product_view"
method = "GET"
path = '/wp-json/wc/store/v1/products/{product_id:\d+}'
fields.price = { path = "response.prices.price", minor_units = "response.prices.currency_minor_unit" }
[[call]]
event = "purchase"
method = "POST"
path = "/wp-json/wc/store/v1/checkout"
when = "response.payment_result.payment_status == 'success'"
fields.order_id = "response.order_id"
fields.revenue = { path = "request.body.expected_total", minor_units = 2 }
"""


def test_a_store_api_writes_cents_root_lists_and_numbered_brackets():
    query = {"search": "ring", "attributes[0][attribute]": "pa_metal", "attributes[0][slug]": "gold", "attributes[1][attribute]": "pa_material", "attributes[1][slug]": "ruby", "min_price": "5000"}  # fmt: skip
    checkout = {"method": "POST", "endpoint": "/wp-json/wc/store/v1/checkout", "request": {"query": {}, "body": {"payment_method": "stripe", "expected_total": "14900"}}}  # fmt: skip
    prices = {"price": "14900", "currency_code": "EUR", "currency_minor_unit": 2}
    found = events_of(
        {"endpoint": "/wp-json/wc/store/v1/products/categories", "response": [{"id": 5, "name": "Rings"}]},
        {
            "endpoint": "/wp-json/wc/store/v1/products",
            "request": {"query": query},
            "response": [{"id": 34}, {"id": 35}],
        },
        {"endpoint": "/wp-json/wc/store/v1/products/34", "response": {"id": 34, "prices": prices}},
        checkout | {"response": {"order_id": 146, "status": "failed", "payment_result": {"payment_status": "failure"}}},
        checkout
        | {"response": {"order_id": 146, "status": "processing", "payment_result": {"payment_status": "success"}}},
        endpoint_map=STORE_API,
    )
    assert [e["event"] for e in found] == ["other", "catalog", "product_view", "other", "purchase"]
    listing, view, order = found[1], found[2], found[4]
    assert (listing["metal"], listing["material"], listing["price_min"]) == (["gold"], ["ruby"], "50.00")
    assert (listing["shown_products"], view["price"], order["revenue"]) == (["34", "35"], "149.00", "149.00")
    assert [e["is_error"] for e in found] == [False, False, False, True, False]


# ---- hostile documents -------------------------------------------------------------------------------------------

HOSTILE = [
    "[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, '{"query":{"page":NaN,"q":Infinity}}', '{"query":{"page":1,"page":2}}',
    '{"query":{"page":1e400}}', '{"query":{"page":' + "9" * 5_000 + "}}", '{"query":{"q":"\\ud800"}}', '"\\ud800"', '{"query":{"q":"' + "x" * 1_000_000 + '"}}',
    '{"query":"' + "a=1&" * 20_000 + '"}', '{"query":"' + "[" * 50_000 + '"}', '{"query":{"' + "metal[" * 2_000 + ']":1}}', '{"query":{"metal[99999999999]":1,"metal[x":2}}',
    '{"query":', "{", "}", "null", "\x00", "\ufeff{}", '{"query":{"":{"":1}}}', '{"body":"' + "e" * 100_000 + '"}',
]  # fmt: skip
EVERY_WAY = """
[[call]]
event = "catalog"
method = "*"
path = "/c/{rest...}"
when = "!request.body.bad && (length(keys(request || `{}`)) < `99` || response)"
fields.search_query = ["request.query.q", "response.query.q", { path = "request.query.q", match = "x+(y)" }]
fields.page = ["request.query.page", "request.query.page[0]", "to_number(request.query.page)"]
fields.metal = ["request.query.metal", "request.query.metal.*"]
fields.price_min = { path = "request.query.page", range = "-" }
fields.shown_products = ["response.items[].id", "response[].id", "response.**.id | []"]
fields.sort = { path = "request.body", decode = ["base64", "json"] }
"""


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_document_stops_nothing_and_leaves_its_neighbours_alone(text):
    good = {"endpoint": "/c/x", "request": {"query": {"q": "ring", "page": "2"}}, "response": {"items": [{"id": 1}]}}
    hostile = {"endpoint": "/c/y?page=3"}
    toml = EVERY_WAY.replace(', "response.**.id | []"', "")
    documents = {side: [json.dumps(good[side]), text, text] for side in ("request", "response")}
    found = typed(good, hostile, {"endpoint": "/c/z"}, endpoint_map=toml, documents=documents).calls
    assert found["event"].to_list()[0] == "catalog"
    assert (found["search_query"][0], found["page"][0], found["shown_products"][0].to_list()) == ("ring", 2, ["1"])


# ---- property: a call's event is its own -------------------------------------------------------------------------

STYLES = map_of(
    """
[[call]]
event = "catalog"
method = "GET"
path = "/c/{section}"
when = "request.query.kind == '1' || response.items || response.total == `1.5`"
fields.search_query = ["request.query.q", "request.query.search"]
fields.metal = ["request.query.metal", "request.body.metal"]
fields.price_min = ["request.query.price", { path = "request.query.range", range = "-" }]
fields.price_max = { path = "request.query.price", decimal = "," }
fields.page = { path = "request.query.skip", offset = 20 }
fields.results_total = "response.total"
fields.shown_products = ["response.items[].id", "response.ids"]
filters.stone = "request.query.filter.stone"
[[call]]
event = "cart_add"
method = "POST"
path = "/cart"
fields.product_id = ["request.body.lines[].id", "request.body.id"]
fields.quantity = ["request.body.lines[].quantity", "request.body.quantity"]
fields.price = { path = "request.body.lines[].price", minor_units = "response.unit" }
[[call]]
event = "purchase"
method = "POST"
path = "/orders"
when = "request.body.pay != 'no' && response.status != 'failed' && !response.errors"
fields.order_id = "response.id"
fields.revenue = "response.total"
fields.currency = "response.currency"
fields.order_products = "response.lines[].id"
fields.order_quantities = "response.lines[].quantity"
fields.order_prices = "response.lines[?price].price"
"""
)
a_scalar = st.sampled_from([
    None, True, False, 0, 1, 2, 2.5, 1.5, 1.234, -1, 314.0, 2**40, 10**25, "", " ", "1", "2", "2.0", "1.234", "1.230", "1,234", "1.234,56", "€ 5",
    "no", "failed", "EUR", "ring", "a,b", "10-50", "false", '{"id": 5}', "id=5&quantity=2", "x" * 40,
])  # fmt: skip
a_value = (
    a_scalar | st.lists(a_scalar, max_size=2) | st.fixed_dictionaries({}, optional={"id": a_scalar, "stone": a_scalar})
)
a_line = st.fixed_dictionaries({}, optional={"id": a_scalar, "quantity": a_scalar, "price": a_value}) | a_scalar


def an_object(*names: str, **others: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, a_value) | others)


lines = st.lists(a_line, max_size=2) | a_value
query = an_object(
    "kind", "q", "search", "metal", "metal[]", "metal[0]", "price", "range", "skip", "filter[stone]", "filter"
)
body = an_object("metal", "id", "quantity", "pay", "lines[0][id]", lines=lines)
as_text = st.one_of(query, body).map(json.dumps)
requests = an_object(query=query | a_value | as_text, body=body | a_value | as_text)
responses = an_object("total", "ids", "status", "errors", "id", "currency", "unit", items=lines, lines=lines)
documents = st.one_of(st.none(), requests, responses, a_value, responses.map(json.dumps))
calls = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "POST"]),
        "endpoint": st.sampled_from(["/c/rings", "/c/Ringe%20neu?q=1.234&metal[]=x", "/cart", "/orders", "/none"]),
        "status": st.sampled_from([0, 200, 201, 404]),
        "request": st.one_of(requests, requests, documents),
        "response": st.one_of(responses, responses, documents),
    }
)


@settings(max_examples=repeated(20, 200))
@given(st.lists(calls, min_size=1, max_size=12), st.randoms())
def test_a_call_is_the_same_event_in_any_order_any_shard_and_next_to_any_other(records, random):
    whole = typed(*records, endpoint_map=STYLES)
    by_row = list(whole.calls.drop("session_number").rows())
    alone = [typed(record, endpoint_map=STYLES) for record in records]
    assert by_row == [one.calls.drop("session_number").row(0) for one in alone]
    assert whole.unreadable == sum((one.unreadable for one in alone), start=type(whole.unreadable)())
    order = random.sample(range(len(records)), len(records))
    shuffled = typed(*(records[place] for place in order), endpoint_map=STYLES).calls.drop("session_number")
    assert shuffled.rows() == [by_row[place] for place in order]
    cuts = sorted({0, len(records), *random.choices(range(len(records) + 1), k=2)})
    shards = [typed(*records[start:end], endpoint_map=STYLES).calls for start, end in pairwise(cuts)]
    assert pl.concat(shards).drop("session_number").rows() == by_row
