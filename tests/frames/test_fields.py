"""Values of a field in their types."""

import math
from decimal import Decimal

import polars as pl
import pytest

from app.frames.fields import EXACT, exact_numbers, field_dtype, from_results, matched, relist, typed
from app.rules.endpoint_map import FIELDS, Reading


def read(values: list, field: str, dtype: pl.DataType | None = None, **reading) -> tuple[list, int]:
    column, lost = typed(pl.Series(field, values, dtype=dtype or pl.String()), field, Reading(**reading))
    return column.to_list(), lost


@pytest.mark.parametrize(
    ("values", "found", "lost"),
    [
        (["7", " 7 ", "7.0", "7E0", "7e0"], [7] * 5, 0),
        (["", " ", None], [None] * 3, 0),
        (["x", "-1", "2.5", "4294967296", "1" * 39, "9" * 500, "1e300", "true"], [None] * 8, 8),
        (["4294967295", "1,000", "1.000"], [4294967295, None, None], 2),
    ],
)
def test_a_count_is_a_whole_number_that_is_not_negative(values, found, lost):
    assert read(values, "page") == (found, lost)


@pytest.mark.parametrize(
    "number", ["1e25", "100000000000000000000000", "99999999999999999999.999", "-1e37", "1e-30", "0." + "0" * 400 + "1"]
)
@pytest.mark.parametrize("field", ["page", "price", "quantity", "revenue"])
def test_no_number_is_too_large_or_too_small_to_be_refused(field, number):
    values, lost = read([number, f"{number}E0" if "e" not in number else number, "5"], field)
    assert values[2] == 5
    assert lost in {0, 2}


def test_floats_are_refused_and_counted_where_they_are_too_large():
    values = pl.Series([1e19, 1.5, 2.0, None, 1e300, math.inf, math.nan])
    pages, prices = (typed(values.alias(field), field, Reading()) for field in ("page", "price"))
    assert (pages[0].to_list(), pages[1]) == ([None, None, 2, None, None, None, None], 3)
    assert (prices[0].to_list(), prices[1]) == ([None, Decimal("1.5"), Decimal(2), None, None, None, None], 2)


@pytest.mark.parametrize(
    ("values", "found"), [(["a, b"], ["a", "b"]), (["a,,b,"], ["a", "b"]), ([" "], None), ([None], None)]
)
def test_a_text_of_a_list_is_split_and_stripped(values, found):
    assert read(values, "metal") == ([found], 0)


def test_the_elements_of_a_list_are_never_split_and_a_text_among_lists_is():
    lists = [["a, b", " c "], ["\0", "a, b"], [None, "a, b"], [], None, [""]]
    assert read(lists, "metal", pl.List(pl.String)) == ([["a, b", "c"], ["a", "b"], ["a, b"], None, None, None], 0)


def test_another_separator_or_none_may_be_said():
    assert read(["a|b, c"], "metal", split="|")[0] == [["a", "b, c"]]
    assert read(["a|b, c"], "metal", split="")[0] == [["a|b, c"]]
    assert read([["\0", "a|b"]], "metal", pl.List(pl.String), split="|")[0] == [["a", "b"]]


def test_a_blank_text_is_no_value():
    assert read(["", "  ", " x ", None], "sort") == ([None, None, "x", None], 0)


def test_an_id_is_the_whole_number_and_a_currency_is_upper_case():
    assert read(["314.0", "314.00", "314.5", "007", "a.0"], "product_id")[0] == ["314", "314", "314.5", "007", "a.0"]
    assert read(["eur"], "currency")[0] == ["EUR"]


def test_a_range_has_two_parts():
    assert read(["10-50", "10", "-5", ""], "price_min", range_separator="-", range_part=0)[0] == [10, 10, None, None]
    assert read(["10-50", "10", "10-"], "price_max", range_separator="-", range_part=1)[0] == [50, None, None]


def test_only_bare_numbers_keep_a_doubtful_point():
    numbers, lost = exact_numbers(pl.Series(["1.234", "1.234E0", "12,5", "12.5E0"]), ",")
    assert (numbers.to_list(), lost) == ([Decimal(1234), Decimal("1.234"), Decimal("12.5"), Decimal("12.5")], 0)
    numbers, lost = exact_numbers(pl.Series(["1.234", "1.234E0", "1,5"]), "")
    assert (numbers.to_list(), lost) == ([None, Decimal("1.234"), Decimal("1.5")], 1)


def test_items_go_back_into_their_lists():
    lists = pl.Series([["a", "b"], None, [], ["c"]])
    items = pl.Series([1, None, 3])
    assert relist(items, like=lists).to_list() == [[1, None], None, [], [3]]


def test_the_first_group_of_a_pattern_is_the_value():
    assert matched(pl.Series(["search: gold, x", "none", None]), r"search: *(\w+)").to_list() == ["gold", None, None]
    assert matched(pl.Series([["a1", "b"], None]), r"(\d)").to_list() == [["1", None], None]


@pytest.mark.parametrize(
    ("result", "field", "as_list", "found", "lost"),
    [
        ("x", "sort", False, "x", []), (7, "sort", False, "7", []), (7.0, "product_id", False, "7.0", []), (True, "sort", False, "true", []),
        ([None, 7], "sort", False, "7", []), ([], "sort", False, None, []), ([1, 2], "sort", False, None, [0]), ({"a": 1}, "sort", False, None, [0]),
        (1.234, "price", False, "1.234E0", []), ("1.234", "price", False, "1.234", []), (float("inf"), "price", False, None, []),
        ([1, None, "2"], "order_prices", True, ["1.0E0", None, "2"], []), ([1, {"a": 1}], "order_prices", True, None, [0]), (5, "shown_products", True, ["5"], []),
        ("a,b", "metal", True, ["\0", "a,b"], []), (["a,b"], "metal", True, ["a,b"], []), ([[1], [2]], "shown_products", True, ["1", "2"], []), ("\ud800", "sort", False, "\ufffd", []),
    ],
)  # fmt: skip
def test_what_the_library_finds_becomes_a_column(result, field, as_list, found, lost):
    column, missed = from_results([result], field, Reading(), as_list=as_list)
    assert (column.to_list(), missed) == ([found], lost)


def test_every_field_has_a_type():
    lists = {name for name in FIELDS if isinstance(field_dtype(name), pl.List)}
    assert lists == {
        "section",
        "material",
        "metal",
        "shown_products",
        "order_products",
        "order_quantities",
        "order_prices",
    }
    assert field_dtype("revenue") == EXACT
