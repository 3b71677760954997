"""What looks wrong in the counts of what a map made of calls."""

import pytest

from app.rules.fit import (
    Coverage,
    EntryCount,
    FieldCount,
    Meeting,
    find_misfits,
    find_repeated_orders,
    find_strangers,
)


def entry(event: str, calls: int, **fields: FieldCount | int) -> EntryCount:
    counts = {name: one if isinstance(one, FieldCount) else FieldCount(one) for name, one in fields.items()}
    return EntryCount(f"1: GET /{event}", event, calls, counts)


def problems(*entries: EntryCount, unmatched: int = 0, has_currency: bool = True) -> list[tuple[str, str]]:
    calls = sum(one.calls for one in entries) + unmatched
    coverage = Coverage(calls, unmatched, entries, has_currency=has_currency)
    return [(finding.field, finding.problem) for finding in find_misfits(coverage)]


FULL_ORDER = {"order_id": 10, "revenue": 10, "order_products": 10, "currency": 10}


def test_a_map_that_reads_everything_has_no_findings():
    assert problems(entry("purchase", 10, **FULL_ORDER), entry("product_view", 10, product_id=10)) == []


@pytest.mark.parametrize("field", ["order_id", "revenue", "order_products"])
def test_orders_without_what_an_order_needs_are_found(field):
    assert problems(entry("purchase", 10, **FULL_ORDER | {field: 3})) == [(field, "empty in 7 of 10 calls (purchase)")]


def test_a_field_that_the_entry_does_not_read_is_as_empty_as_one_without_values():
    assert problems(entry("product_view", 4)) == [("product_id", "empty in 4 of 4 calls (product_view)")]


def test_one_call_in_twenty_may_lack_a_product():
    assert problems(entry("cart_add", 20, product_id=19)) == []


def test_the_last_page_of_a_listing_may_show_nothing():
    assert problems(entry("catalog", 10, shown_products=6)) == []
    assert problems(entry("catalog", 10, shown_products=4)) == [("shown_products", "empty in 6 of 10 calls (catalog)")]


def test_orders_without_a_currency_are_found_unless_the_map_names_one():
    order = entry("purchase", 10, **FULL_ORDER | {"currency": 0})
    assert problems(order, has_currency=True) == []
    assert problems(order, has_currency=False) == [("currency", "empty in 10 of 10 calls (purchase)")]


def test_most_calls_without_an_entry_are_found():
    assert problems(entry("cart_view", 4), unmatched=4) == []
    assert problems(entry("cart_view", 4), unmatched=5) == [("", "5 of 9 successful calls fit no entry")]


def test_values_that_cannot_be_read_are_found_under_their_field():
    found = problems(entry("catalog", 10, shown_products=10, results_total=FieldCount(6, unreadable=4)))
    assert found == [("results_total", "4 of 10 values cannot be read")]


def test_documents_that_are_not_objects_are_found():
    counted = EntryCount("1: GET /c", "cart_view", 10, {"": FieldCount(10, unreadable=10)})
    assert problems(counted) == [("", "10 documents are not JSON objects")]


def test_a_field_that_is_always_empty_is_found_after_enough_calls():
    assert problems(entry("catalog", 19, shown_products=19, results_total=0)) == []
    assert problems(entry("catalog", 20, shown_products=20, results_total=0)) == [
        ("results_total", "empty in all 20 calls")
    ]


def test_what_shoppers_may_leave_out_takes_many_more_calls_to_be_found():
    assert problems(entry("catalog", 400, shown_products=400, search_query=0)) == [
        ("", "none of 400 calls is a product_view")
    ]
    found = problems(entry("catalog", 500, shown_products=500, search_query=0))
    assert ("search_query", "empty in all 500 calls") in found


def test_a_large_log_without_a_step_of_the_journey_is_found():
    entries = [entry("catalog", 6_000, shown_products=6_000), entry("product_view", 10, product_id=10)]
    assert problems(*entries) == [
        ("", "none of 6010 calls is a cart_add"),
        ("", "none of 6010 calls is a purchase"),
    ]


def test_a_finding_names_entry_and_field_and_how_to_fix_it():
    (finding,) = find_misfits(Coverage(4, 0, (entry("product_view", 4),)))
    assert str(finding) == (
        "1: GET /product_view product_id: empty in 4 of 4 calls (product_view). "
        "Point it at the product's id in the path, the request or the response"
    )


def test_an_entry_without_calls_has_no_findings():
    assert problems(entry("purchase", 0), entry("cart_view", 1)) == []


def test_products_that_no_earlier_step_had_are_found_with_examples():
    meetings = [
        Meeting("bought", "viewed", 15, 12, ("341", "342"), ("34", "35")),
        Meeting("carted", "viewed", 15, 7),
        Meeting("viewed", "shown", 2, 2),
    ]
    (finding,) = find_strangers(meetings)
    assert finding.problem == "never viewed: 12 of 15 products, e.g. 341, 342; viewed were 34, 35"


def test_orders_that_share_one_id_are_found():
    assert find_repeated_orders(10, 9) == []
    assert find_repeated_orders(3, 1) == []
    (finding,) = find_repeated_orders(10, 1, ["ok"])
    assert finding.problem == "10 orders have only 1 different ids, e.g. ok"
