"""Amounts of money in one currency: each by the rate of its day, exact, rounded half to even to cents."""

from collections.abc import Sequence

import polars as pl

from app.rules.currencies import RATE

MONEY = pl.Decimal(18, 2)
EXACT = pl.Decimal(38, 6)  # of an amount; with a rate of 8 decimals, products stay within 128 bits
CENT = pl.lit(1).cast(MONEY) / 100


def currency_codes(currencies: pl.Series, *, default: str) -> set[str]:
    """The distinct currencies in capitals, the default for blank ones."""
    distinct = currencies.unique().to_frame("currency")
    return set(distinct.select(code_of(pl.col("currency"), default)).to_series())


def in_currency(
    calls: pl.DataFrame, amounts: Sequence[str], rates: pl.DataFrame, *, target: str, default: str
) -> pl.DataFrame:
    """The calls with these amounts in the target currency, as Decimal(18, 2), and `currency` as a code in capitals.

    In: `currency`, in any case, the default where blank; `day`; amounts that are decimals or lists of decimals, exact
    to 6 decimals. `rates`: `day, currency, rate` (units per euro) of these currencies and the target. An amount is
    null where its currency or the target has no rate on the day, or where it does not fit 18 digits. Rows keep their
    order, and no row depends on another.
    """
    coded = calls.with_columns(currency=code_of(pl.col("currency"), default))
    if (coded["currency"] == target).all():
        return coded.with_columns(_as_money(coded, name) for name in amounts)
    of_target = rates.filter(pl.col("currency") == target).select("day", target_rate="rate")
    converted = (
        coded.with_row_index("row")
        .join(rates.select("day", "currency", "rate"), on=["day", "currency"], how="left", maintain_order="left")
        .join(of_target, on="day", how="left", maintain_order="left")
        .with_columns(is_target=pl.col("currency") == target)
    )
    for name in amounts:
        dtype = converted.schema[name]
        if isinstance(dtype, pl.List):
            converted = _with_converted_lists(converted, name)
        else:
            converted = converted.with_columns(_converted(name))
    return converted.drop("row", "rate", "target_rate", "is_target")


def code_of(column: pl.Expr, default: str) -> pl.Expr:
    """A currency as a code in capitals; the default where it is blank."""
    code = column.fill_null("").str.strip_chars().str.to_uppercase()
    return pl.when(code == "").then(pl.lit(default)).otherwise(code)


def _as_money(calls: pl.DataFrame, name: str) -> pl.Expr:
    is_list = isinstance(calls.schema[name], pl.List)
    return pl.col(name).cast(pl.List(MONEY) if is_list else MONEY)


def _with_converted_lists(calls: pl.DataFrame, name: str) -> pl.DataFrame:
    items = calls.select("row", name, "rate", "target_rate", "is_target").explode(
        name, empty_as_null=False, keep_nulls=False
    )
    lists = items.select("row", _converted(name)).group_by("row", maintain_order=True).agg(pl.col(name))
    empty = pl.when(pl.col(name).is_not_null()).then(pl.lit([], pl.List(MONEY))).alias(name)
    return (
        calls.with_columns(empty)
        .join(lists, on="row", how="left", maintain_order="left", suffix="_filled")
        .with_columns(pl.coalesce(f"{name}_filled", name).alias(name))
        .drop(f"{name}_filled")
    )


def _converted(name: str) -> pl.Expr:
    """The amount times the target's rate by its own, in integers: neither order nor neighbours change a digit."""
    amount = pl.col(name).cast(EXACT).to_physical()
    dividend = amount.abs() * pl.col("target_rate").cast(RATE).to_physical().cast(pl.Int128) * 100
    divisor = pl.col("rate").cast(RATE).to_physical().cast(pl.Int128) * 10**EXACT.scale
    cents = dividend // divisor
    twice_rest = (dividend - cents * divisor) * 2
    is_up = (twice_rest > divisor) | ((twice_rest == divisor) & (cents % 2 == 1))
    rounded = (cents + is_up.cast(pl.Int128)) * amount.sign()
    fits = rounded.abs() < 10**MONEY.precision
    exact = (pl.when(fits).then(rounded).cast(pl.Decimal(38, 0)) * CENT).cast(MONEY)
    return pl.when("is_target").then(pl.col(name).cast(MONEY)).otherwise(exact).alias(name)


ORIGINALS = {"price": "price_original", "revenue": "revenue_original", "amount": "amount_original"}
ORIGINAL = pl.Decimal(18, 4)


def with_amounts(
    calls: pl.DataFrame, rates: pl.DataFrame, *, fields: Sequence[str], target: str, default: str
) -> pl.DataFrame:
    """The typed calls with these amounts in the target currency, and what the calls said next to them (`ORIGINALS`).

    In: as `in_currency`, with exact amounts. `currency` stays empty in calls that name neither. Prices of an order's
    lines that have no rate are 0, as unknown ones are.
    """
    has_amount = pl.any_horizontal(
        pl.col(name).list.len() > 0 if isinstance(calls.schema[name], pl.List) else pl.col(name).is_not_null()
        for name in fields
    )
    originals = [pl.col(name).cast(ORIGINAL, strict=False).alias(original) for name, original in ORIGINALS.items()]
    converted = in_currency(calls.with_columns(originals), fields, rates, target=target, default=default)
    lists = [name for name in fields if isinstance(calls.schema[name], pl.List)]
    return converted.with_columns(
        pl.when(has_amount | (calls["currency"] != "")).then("currency").otherwise(pl.lit("")),
        *(pl.col(name).list.eval(pl.element().fill_null(0)).cast(pl.List(MONEY)) for name in lists),
    )
