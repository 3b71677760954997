"""Expressions for the library: one document at a time, for the calls of one entry."""

import json

import polars as pl
import pyarrow as pa
import pytest

from app.frames.documents import Sought, search_documents
from app.rules.expressions import parse_expression
from tests.support.typed_calls import event_of, typed


def found(text: str, *responses, request="", decode=(), paths=None) -> list:
    calls = pl.DataFrame(
        {"method": ["GET"] * len(responses), "endpoint": ["/c"] * len(responses), "status": [200] * len(responses)}
    ).with_row_index("document")
    texts = [one if isinstance(one, str) else json.dumps(one) for one in responses]
    documents = pa.table({"request": [request] * len(responses), "response": texts})
    sought = [Sought("it", parse_expression(text), decode)]
    return search_documents(calls, documents, sought, pl.DataFrame(paths or {})).values["it"]


def test_results_are_in_the_order_of_the_calls():
    assert found("response.items[0].id", {"items": [{"id": 2}]}, {}, {"items": [{"id": "1"}]}) == [2, None, "1"]


def test_everything_of_the_record_can_be_read():
    text = "join(' ', [method, endpoint, to_string(status), path.line, request.a, response.b])"
    assert found(text, {"b": "y"}, request='{"a": "x"}', paths={"line": ["7"]}) == ["GET /c 200 7 x y"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("null", None), ("nope", None), ('{"items": [{"id": 1.5}], "x": NaN}', 1.5), ('{"items": [{"id": 5}], "x": "\x01"}', 5), ('{"items": [{"id": 5}], "x"', 5),
        ('"{\\"items\\": [{\\"id\\": 5}]}"', 5), ("[" * 20_000, None), ('{"items": [{"id": 12345678901234567890123}]}', 12345678901234567890123),
    ],
)  # fmt: skip
def test_a_document_is_read_as_far_as_it_goes(text, value):
    assert found("response.items[0].id", text, {"items": [{"id": 1}]}) == [value, 1]


def test_numbers_of_a_broken_document_are_numbers():
    assert found("sum(response.a)", '{"a": [1.5, 2], "x": NaN}') == [3.5]


def test_keys_with_brackets_are_nested_in_query_and_body():
    request = json.dumps({"query": {"f[metal][]": ["gold"]}, "body": {"lines[0][id]": "5"}})
    assert found("[request.query.f.metal[0], request.body.lines[0].id]", {}, request=request) == [["gold", "5"]]


@pytest.mark.parametrize(
    ("decode", "value", "expected"),
    [(("base64", "json"), "eyJpZCI6IDV9", 5), (("json",), '{"id": 5}', 5), (("form",), "id=5", "5"), (("json",), "id=5", None)],
)  # fmt: skip
def test_text_on_the_way_is_decoded_as_the_map_says(decode, value, expected):
    assert found("response.data.id", {"data": value}, decode=decode) == [expected]


def test_text_at_the_end_is_decoded_too():
    assert found("response.data", {"data": "Z29sZA=="}, decode=("base64",)) == ["gold"]


COSTLY = """[[call]]
event = "product_view"
method = "GET"
path = "/p/{product_id}"
fields.price = ["response.a[].[@, @, @, @][].[@, @, @, @][].[@, @, @, @][].[@, @, @, @] | [0][0]", "response.price"]
"""


def test_a_value_that_costs_too_much_counts_under_its_field_and_the_next_reading_counts():
    calls = [{"endpoint": f"/p/{n}", "response": {"a": [7] * n, "price": 5}} for n in (1, 20_000)]
    result = typed(*calls, endpoint_map=COSTLY)
    assert result.calls["price"].cast(pl.Int64).to_list() == [7, 5]
    assert result.unreadable == {("1: GET /p/{product_id}", "price"): 1}


def test_plain_paths_and_the_library_read_the_same_of_a_cart():
    toml = '[[call]]\nevent = "cart_add"\nmethod = "POST"\npath = "/cart"\nfields.product_id = "{}"\n'
    record = {"method": "POST", "endpoint": "/cart", "request": {"body": {"lines": [{"id": 5.0}, {"id": "6"}]}}}
    plain, by_library = (
        event_of(record, toml.format(text)) for text in ("request.body.lines[].id", "request.body.lines[*].id")
    )
    assert plain["order_products"] == by_library["order_products"] == ["5", "6"]
