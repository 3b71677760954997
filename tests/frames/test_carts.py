"""A new quantity adds to the cart or takes from it, by what the session had of the product."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.frames.carts import with_cart_changes

SCHEMA = {
    "session_number": pl.UInt32, "event": pl.String, "product_id": pl.String, "quantity": pl.UInt32,
    "order_products": pl.List(pl.String), "order_quantities": pl.List(pl.UInt32),
}  # fmt: skip


def changes(*calls: tuple, session: int = 0) -> list[list[int] | None]:
    """Calls as `(event, product, quantity)` or `(event, {product: quantity})`, each with what it changes."""
    rows = []
    for event, *what in calls:
        several = what[0] if isinstance(what[0], dict) else {}
        product, quantity = (next(iter(several), ""), None) if several else what
        rows.append((session, event, product, quantity, list(several), list(several.values())))
    return with_cart_changes(pl.DataFrame(rows, schema=SCHEMA, orient="row"))["cart_changes"].to_list()


@pytest.mark.parametrize(("before", "quantity", "change"), [
    ([], 2, 2),
    ([("cart_add", "a", 1)], 3, 2),
    ([("cart_add", "a", None)], 3, 2),
    ([("cart_add", "a", 3)], 1, -2),
    ([("cart_add", "a", 3)], 0, -3),
    ([("cart_add", "a", 2)], 2, 0),
    ([("cart_add", "a", 2), ("cart_remove", "a", None)], 1, 1),
    ([("cart_add", "a", 2), ("cart_remove", "a", 1)], 1, 0),
    ([("cart_add", "b", 2)], 1, 1),
    ([("cart_update", "a", 5), ("cart_add", "a", 1)], 2, -4),
    ([("cart_add", {"a": 2, "b": 1})], 1, -1),
])  # fmt: skip
def test_an_update_counts_by_what_the_session_had(before, quantity, change):
    assert changes(*before, ("cart_update", "a", quantity))[-1] == [change]


def test_an_update_of_several_products_counts_each():
    assert changes(("cart_add", "a", 2), ("cart_update", {"a": 1, "b": 4}))[-1] == [-1, 4]


@pytest.mark.parametrize("call", [("cart_update", "", 2), ("cart_update", "a", None)])
def test_an_update_without_product_or_quantity_changes_nothing(call):
    assert changes(call) == [[0]]


def test_other_events_have_no_changes():
    assert changes(("cart_add", "a", 1), ("product_view", "a", None), ("cart_update", "a", 1)) == [None, None, [0]]


def test_another_sessions_cart_is_another_cart():
    frames = [
        pl.DataFrame([(number, "cart_update", "a", 2, [], [])], schema=SCHEMA, orient="row") for number in range(2)
    ]
    assert with_cart_changes(pl.concat(frames))["cart_changes"].to_list() == [[2], [2]]


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["cart_add", "cart_remove", "cart_update"]),
        st.sampled_from("ab"),
        st.none() | st.integers(0, 4),
    ),
    max_size=12,
)


@given(CALLS)
def test_the_changes_are_those_of_a_cart_kept_call_by_call(calls):
    cart = {"a": 0, "b": 0}
    expected = []
    for event, product, quantity in calls:
        before = cart[product]
        if event == "cart_update":
            expected.append([0 if quantity is None else quantity - max(before, 0)])
            cart[product] = before if quantity is None else quantity
        else:
            expected.append(None)
            if event == "cart_add":
                cart[product] = before + (1 if quantity is None else quantity)
            else:
                cart[product] = 0 if quantity is None else before - quantity
    assert changes(*calls) == expected
