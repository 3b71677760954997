"""Numbers as people and shops write them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rules.number_text import read_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6,795.00", "6795.00"), ("1.234,56", "1234.56"), ("149,00", "149.00"), ("€ 149.00", "149.00"), ("149.00 EUR", "149.00"), ("1 234,56", "1234.56"),
        ("1'234.50", "1234.50"), ("1’234.50", "1234.50"), ("12.345.678,90", "12345678.90"), ("149.-", "149"), ("149,–", "149"), ("149,5", "149.5"),
        ("Rs.100", "100"), ("Rs. 1,234.50", "1234.50"), ("-5", "-5"), ("−5", "-5"), ("€ -5,50", "-5.50"), ("$1,234,567", "1234567"), ("1.234.567", "1234567"),
        ("1e3", "1000"), ("1.5E+2", "150"), (".5", "0.5"), ("5.", "5"), ("0.123", "0.123"), ("0,123", "0.123"), ("1234.567", "1234.567"), ("007", "7"),
        ("1\u202f234,56\u00a0€", "1234.56"), ("  7  ", "7"), ("1 234 567", "1234567"), ("₹1,00,000.00", None), ("¥1500", "1500"), ("1.234E0", "1.234"),
    ],
)  # fmt: skip
def test_a_number_is_read_where_its_form_leaves_no_doubt(text, number):
    found = read_number(text)
    assert found == (None if number is None else Decimal(number))


@pytest.mark.parametrize("text", ["1.234", "1,234", "-1.234", "1.000", "12.500", "€ 1.234", "999,000 kr"])
def test_a_number_that_can_be_read_in_two_ways_is_refused(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "decimal", "number"),
    [
        ("1.234", ",", "1234"), ("1.234", ".", "1.234"), ("1,234", ".", "1234"), ("1,234", ",", "1.234"), ("1.234,5", ",", "1234.5"),
        ("1,234.5", ",", None), ("1.234,5", ".", None), ("12.34", ",", None), ("12,34", ".", None), ("149", ",", "149"), ("1 234.5", ",", None),
        ("1.234.567", ",", "1234567"), ("1.2345", ",", None), ("1.234E0", ",", "1.234"),
    ],
)  # fmt: skip
def test_the_sign_that_the_map_says_settles_it(text, decimal, number):
    found = read_number(text, decimal)
    assert found == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    "text",
    ["", " ", "free", "12 or 13", "1.2.3", "1,2,3", "12:30", "2026-03-04", "1-2", "€", "--5", "NaN", "inf", "1_000", "0x10", "1" * 61, "1..2", ".", ",", "1,,2"],
)  # fmt: skip
def test_what_is_not_a_number_is_none(text):
    assert read_number(text) is None


@given(st.text(max_size=80), st.sampled_from(["", ",", "."]))
def test_no_text_raises(text, decimal):
    found = read_number(text, decimal)
    assert found is None or found.is_finite()


@given(
    st.decimals(min_value=-(10**9), max_value=10**9, places=2),
    st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", ".")]),
)
def test_what_a_shop_formats_is_read_back(number, signs):
    group, sign = signs
    text = f"€ {number:,.2f}".translate(str.maketrans({",": group, ".": sign}))
    assert read_number(text) == number
