"""What holds for any amounts and days: nothing is lost by dividing, and every way to write a number says the same."""

from datetime import date, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.core.errors import SpendError
from app.frames.spend.days import DAY_FIRST, MONTH_FIRST, parse_day, settle_order
from app.frames.spend.levels import spread
from app.frames.spend.money import in_money
from app.frames.spend.numbers import NUMBER, read_numbers, settle_decimal, without_dressing
from app.rules.currencies import Currencies
from tests.support.effort import repeated

EXAMPLES = repeated(40, 1000)
CENTS = st.integers(-10_000_000, 10_000_000).map(lambda cents: Decimal(cents) / 100)
DAYS = st.dates(date(2020, 1, 1), date(2026, 11, 30))
WRITINGS = {
    "English": (".", lambda n: f"{n:,.2f}"),
    "plain": (".", lambda n: f"{n:.2f}"),
    "German": (",", lambda n: f"{n:,.2f}".translate(str.maketrans(",.", ".,"))),
    "French": (",", lambda n: f"{n:,.2f}".replace(",", "\u202f").replace(".", ",")),
    "Swiss": (".", lambda n: f"{n:,.2f}".replace(",", "'")),
}


@hypothesis_settings(max_examples=EXAMPLES)
@given(st.lists(CENTS, min_size=1, max_size=6), st.sampled_from(sorted(WRITINGS)))
def test_numbers_of_two_decimals_are_read_back_however_they_are_written(numbers, writing):
    sign, written = WRITINGS[writing]
    texts = without_dressing(pl.Series("amount", [written(number) for number in numbers]))
    settled = settle_decimal({"amount": texts}, counts=frozenset(), asked="", points=False, fits=lambda _: False)
    assert settled == sign
    assert read_numbers(texts, settled).to_list() == numbers


@hypothesis_settings(max_examples=EXAMPLES)
@given(st.lists(st.integers(1000, 999_999), min_size=1, max_size=5))
def test_groups_of_three_digits_alone_are_never_guessed(numbers):
    texts = pl.Series("amount", [f"{number:,}" for number in numbers])
    with pytest.raises(SpendError, match="more than a thousand"):
        settle_decimal({"amount": texts}, counts=frozenset(), asked="", points=False, fits=lambda _: False)
    of_counts = settle_decimal(
        {"clicks": texts}, counts=frozenset({"clicks"}), asked="", points=False, fits=lambda _: False
    )
    assert of_counts == "."


@hypothesis_settings(max_examples=EXAMPLES)
@given(st.lists(DAYS, min_size=1, max_size=6), st.sampled_from([DAY_FIRST, MONTH_FIRST]))
def test_an_order_of_days_is_right_or_asked_for(days, order):
    texts = [f"{day:%d/%m/%Y}" if order == DAY_FIRST else f"{day:%m/%d/%Y}" for day in days]
    try:
        settled = settle_order(texts, today=date(2026, 12, 1))
    except SpendError as question:
        assert "Say --dates" in str(question)  # noqa: PT017  a question is as right as the days
        return
    assert [parse_day(text, settled) for text in texts] == days


@hypothesis_settings(max_examples=EXAMPLES)
@given(CENTS, st.integers(0, 10**9), st.integers(1, 60))
def test_dividing_over_days_loses_nothing_and_differs_by_a_cent_at_most(amount, clicks, number_of_days):
    first = date(2026, 1, 1)
    row = pl.DataFrame(
        {
            "starts": [first], "ends": [first + timedelta(days=number_of_days - 1)], "amount": [amount], "value": [amount],
            "conversions": [amount], "clicks": [clicks], "impressions": [None],
        },
        schema_overrides=dict.fromkeys(("amount", "value", "conversions"), NUMBER) | {"clicks": pl.Int64, "impressions": pl.Int64},
    )  # fmt: skip
    days = spread(row)
    assert days.height == number_of_days
    assert (days["amount"].sum(), days["conversions"].sum(), days["clicks"].sum()) == (amount, amount, clicks)
    assert days["amount"].max() - days["amount"].min() <= Decimal("0.01")
    assert days["clicks"].max() - days["clicks"].min() <= 1
    assert days["impressions"].null_count() == number_of_days
    assert set(days["is_spread"]) == {number_of_days > 1}


@hypothesis_settings(max_examples=EXAMPLES)
@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=20), st.sampled_from(["EUR", "USD", "JPY"]))
def test_converted_rows_add_up_to_the_converted_sum(micros, currency):
    day = date(2026, 3, 2)
    rows = pl.DataFrame(
        {
            "spend_date": [day] * len(micros), "platform": "google", "account": "", "currency": currency,
            "amount": pl.Series([Decimal(micro) / 10**6 for micro in micros], dtype=NUMBER),
        }
    )  # fmt: skip
    rates = Currencies("EUR").rates({currency}, [day])
    options = {"target": "EUR", "amounts": {"amount": "amount_original"}, "day": "spend_date"}
    whole = rows.select(pl.col("spend_date", "platform", "account", "currency").first(), pl.col("amount").sum())
    assert in_money(rows, rates, **options)["amount"].sum() == in_money(whole, rates, **options)["amount"][0]
