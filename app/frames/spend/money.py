"""Advertising costs in the warehouse's currency, at the rate of their day; a day's rows add up to the day's sum."""

from collections.abc import Sequence

import polars as pl

from app.frames.money import MONEY, in_currency
from app.frames.spend.numbers import NUMBER

RATE = pl.Decimal(18, 8)
_MICRO_MONEY = pl.Decimal(18, 6)
_DAY = ("day", "platform", "account", "currency")


def in_money(
    rows: pl.DataFrame, rates: pl.DataFrame, *, target: str, amounts: dict[str, str], day: str
) -> pl.DataFrame:
    """The rows with each amount in the target currency, its original beside it, and `rate` and `converted_to`.

    In: `day` is the column of the day; `platform, account, currency`; `amounts` maps the name of an amount, exact to 6
    decimals, to that of its original. The day's running total is rounded, not each row, so the rounded amounts add
    up to the rounded total. Amounts are null where no rate is known. The order of the rows is kept.
    """
    originals = rows.with_columns(
        *(pl.col(name).cast(_MICRO_MONEY).alias(original) for name, original in amounts.items()),
        pl.col(day).alias("day"),
    )
    growing = [f"{name}_{end}" for name in amounts for end in ("after", "before")]
    summed = originals.with_columns(
        *(pl.col(name).fill_null(0).cum_sum().over(_DAY).cast(NUMBER).alias(f"{name}_after") for name in amounts)
    ).with_columns((pl.col(f"{n}_after") - pl.col(n).fill_null(0)).cast(NUMBER).alias(f"{n}_before") for n in amounts)
    converted = in_currency(summed, growing, rates, target=target, default=target)
    of_target = rates.filter(pl.col("currency") == target).select("day", target_rate="rate")
    of_own = rates.select("day", "currency", own_rate="rate")
    return (
        converted.with_columns(
            pl.when(pl.col(name).is_not_null())
            .then(pl.col(f"{name}_after") - pl.col(f"{name}_before"))
            .cast(MONEY)
            .alias(name)
            for name in amounts
        )
        .join(of_own, on=["day", "currency"], how="left", maintain_order="left")
        .join(of_target, on="day", how="left", maintain_order="left")
        .with_columns(rate=_rate(target), converted_to=pl.lit(target))
        .drop("day", "own_rate", "target_rate", *growing)
    )


def _rate(target: str) -> pl.Expr:
    """What one unit was: the target's units per euro by its own, in integers of eight decimals."""
    ratio = (
        pl.col("target_rate").to_physical().cast(pl.Int128)
        * 10**RATE.scale
        // pl.col("own_rate").to_physical().cast(pl.Int128)
    )
    exact = (ratio.cast(pl.Decimal(38, 0)) / pl.lit(10**RATE.scale).cast(pl.Decimal(38, 8))).cast(RATE)
    return pl.when(pl.col("currency") == target).then(pl.lit(1).cast(RATE)).otherwise(exact)


def unknown_rates(rows: pl.DataFrame) -> Sequence[str]:
    """The currencies of rows that have no rate on their day."""
    return sorted(rows.filter(pl.col("rate").is_null())["currency"].unique())
