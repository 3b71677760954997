"""Amounts in one currency: by the rate of the day, to the cent, whatever else stands in the frame."""

from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.frames.money import MONEY, currency_codes, in_currency
from app.rules.currencies import RATES_SCHEMA

THURSDAY, FRIDAY = date(2026, 3, 5), date(2026, 3, 6)
RATES = pl.DataFrame(
    [
        (THURSDAY, "EUR", Decimal(1)),
        (THURSDAY, "USD", Decimal("1.25")),
        (THURSDAY, "JPY", Decimal("183.03")),
        (THURSDAY, "TRY", Decimal("51.1125")),
        (FRIDAY, "EUR", Decimal(1)),
        (FRIDAY, "USD", Decimal("1.6")),
        (FRIDAY, "JPY", Decimal(160)),
    ],
    schema=RATES_SCHEMA,
    orient="row",
)
CODES = ["EUR", "USD", "JPY", "TRY", "KWD", "usd", " eur ", "", "€"]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(CODES),
        st.sampled_from([THURSDAY, FRIDAY]),
        st.none() | st.decimals(Decimal("-1e9"), Decimal("1e9"), places=2),
    ),
    max_size=12,
)


def frame(*rows: tuple[str | None, date, str | Decimal | None]) -> pl.DataFrame:
    return pl.DataFrame(
        [(currency, day, None if amount is None else Decimal(amount)) for currency, day, amount in rows],
        schema={"currency": pl.String, "day": pl.Date, "revenue": pl.Decimal(38, 6)},
        orient="row",
    )


def converted(*rows, target: str = "EUR", default: str = "EUR") -> list[str | None]:
    found = in_currency(frame(*rows), ["revenue"], RATES, target=target, default=default)
    assert found.schema["revenue"] == MONEY
    return [None if amount is None else str(amount) for amount in found["revenue"]]


@pytest.mark.parametrize(
    ("currency", "amount", "euros"),
    [
        ("JPY", "16000", "87.42"),
        ("USD", "100", "80.00"),
        ("usd", "100", "80.00"),
        (" Usd ", "100", "80.00"),
        ("EUR", "100", "100.00"),
        ("", "100", "100.00"),
        (None, "100", "100.00"),
        ("KWD", "1.255", None),
        ("€", "100", None),
        ("USD", None, None),
    ],
)
def test_an_amount_is_converted_by_its_currency_in_any_case(currency, amount, euros):
    assert converted((currency, THURSDAY, amount)) == [euros]


def test_a_blank_currency_is_the_default_of_the_endpoint_map():
    assert converted(("", THURSDAY, "100"), default="USD") == ["80.00"]


def test_each_row_has_the_rate_of_its_own_day():
    assert converted(("USD", THURSDAY, "100"), ("USD", FRIDAY, "100")) == ["80.00", "62.50"]
    assert converted(("TRY", FRIDAY, "100")) == [None]


def test_a_cross_rate_goes_through_the_euro():
    assert converted(("USD", FRIDAY, "1"), ("EUR", FRIDAY, "1"), target="JPY") == ["100.00", "160.00"]


def test_a_target_without_rates_keeps_its_own_amounts_and_has_no_others():
    assert converted(("KWD", THURSDAY, "1.25"), ("EUR", THURSDAY, "1"), target="KWD") == ["1.25", None]


@pytest.mark.parametrize(
    ("dollars", "euros"),
    [
        ("0.00625", "0.00"),  # half a cent
        ("0.01875", "0.02"),  # one and a half
        ("-0.01875", "-0.02"),
        ("0.03125", "0.02"),  # two and a half
        ("0.031251", "0.03"),
    ],
)
def test_cents_are_rounded_half_to_even(dollars, euros):
    assert converted(("USD", THURSDAY, dollars)) == [euros]


def test_an_amount_that_does_not_fit_is_null_rather_than_wrong():
    assert converted(("EUR", THURSDAY, "999999999999"), target="JPY") == ["183029999999816.97"]
    large = frame(("EUR", THURSDAY, "99999999999999"))
    assert in_currency(large, ["revenue"], RATES, target="JPY", default="EUR")["revenue"].to_list() == [None]


def test_lists_of_prices_are_converted_item_by_item():
    prices = pl.Series([["10", None], [], None, ["1"]], dtype=pl.List(pl.String)).cast(pl.List(pl.Decimal(18, 2)))
    calls = frame(*[("USD", THURSDAY, None)] * 3, ("EUR", THURSDAY, None)).with_columns(prices.alias("order_prices"))
    found = in_currency(calls, ["order_prices"], RATES, target="EUR", default="EUR")
    assert found["order_prices"].to_list() == [[Decimal("8.00"), None], [], None, [Decimal("1.00")]]
    assert found.columns == calls.columns


def test_the_currencies_of_calls_are_named_once_each_in_capitals():
    assert currency_codes(pl.Series(["usd", "USD ", "", None, "jpy"]), default="EUR") == {"USD", "EUR", "JPY"}


@settings(max_examples=50)
@given(ROWS, st.sampled_from(["EUR", "USD", "KWD"]))
def test_amounts_in_the_target_currency_stay_as_they_are(rows, target):
    found = in_currency(frame(*rows), ["revenue"], RATES, target=target, default="EUR")
    own = (pl.Series(rows and [row[0] for row in rows], dtype=pl.String).str.strip_chars().str.to_uppercase()) == target
    before = frame(*rows)["revenue"].cast(MONEY)
    assert found["revenue"].filter(own).equals(before.filter(own))


@settings(max_examples=50)
@given(ROWS, st.sampled_from(["EUR", "USD", "JPY"]))
def test_a_row_is_converted_the_same_alone_and_among_others_and_as_decimals_say(rows, target):
    together = converted(*rows, target=target)
    assert together == [converted(row, target=target)[0] for row in rows]
    assert together[::-1] == converted(*rows[::-1], target=target)
    rates = {(day, code): rate for day, code, rate in RATES.rows()}
    for (currency, day, amount), found in zip(rows, together, strict=True):
        own, wanted = rates.get((day, currency.strip().upper() or "EUR")), rates[day, target]
        if currency.strip().upper() == target:
            assert found == (None if amount is None else str(amount))
        elif amount is None or own is None:
            assert found is None
        else:
            exact = (amount * wanted / own).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
            assert found is not None
            assert Decimal(found) == exact
