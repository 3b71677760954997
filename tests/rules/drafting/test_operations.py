"""What a request says it does where its path does not."""

import pytest

from app.rules.drafting.operations import operation_of


@pytest.mark.parametrize(("request_", "condition"), [
    ({"query": {"route": "checkout/cart.add"}}, "request.query.route == 'checkout/cart.add'"),
    ({"query": {"controller": "cart", "add": "1"}}, "request.query.controller == 'cart' && request.query.add"),
    ({"query": {"wc-ajax": "add_to_cart"}}, "request.query.\"wc-ajax\" == 'add_to_cart'"),
    ({"query": {"rest_route": "/wc/store/v1/products/77"}}, "starts_with(request.query.rest_route, '/wc/store/v1/products/')"),
    ({"query": {"rest_route": "/p/77/reviews"}}, "starts_with(request.query.rest_route, '/p/') && ends_with(request.query.rest_route, '/reviews')"),
    ({"body": {"operationName": "addToCart", "query": "mutation addToCart { x }"}}, "request.body.operationName == 'addToCart'"),
    ({"body": {"query": "{ featured: products(first: 4) { id } }"}}, "!request.body.operationName && contains(request.body.query, 'products(')"),
    ({"body": {"query": "mutation Done($c: ID!) { done: complete(id: $c) { id } }"}}, "!request.body.operationName && contains(request.body.query, 'mutation Done')"),
    ({"query": {"operationName": "Cart", "variables": "{}"}}, "request.query.operationName == 'Cart'"),
    ({"body": {"name": "checkout_completed"}}, "request.body.name == 'checkout_completed'"),
    ({"query": {"handle": "ruby-ring"}}, "request.query.handle"),
    ({"body": {"name": "Ada Lovelace"}}, ""), ({"body": {"type": "x"}}, ""), ({"query": {"q": "ring"}}, ""), ({"body": [1]}, ""), ({}, ""),
])  # fmt: skip
def test_a_request_is_named_by_its_route_action_or_graphql_operation(request_, condition):
    assert operation_of(request_).condition == condition


def test_a_graphql_query_is_a_read_and_a_mutation_a_write():
    assert operation_of({"body": {"query": "query Cart { cart { id } }"}}).is_write is False
    assert operation_of({"body": {"query": "mutation { addLine { id } }"}}).is_write is True


def test_a_quote_in_a_name_stays_inside_the_literal():
    assert operation_of({"body": {"operationName": "it's", "query": "query X { a }"}}).condition == (
        "request.body.operationName == 'it\\'s'"
    )
