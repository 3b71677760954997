"""Rows of advertising costs at one level and of one day each: subtotals taken out, spans divided, hours added up."""

from collections.abc import Sequence
from datetime import date

import polars as pl

from app.core.errors import SpendError
from app.frames.spend.numbers import NUMBER

LEVELS = ("account", "campaign", "ad_group", "ad")  # from the coarsest to the finest
_OF_LEVEL = {
    "account": ("spend_date", "platform", "account"),
    "campaign": ("campaign_id", "campaign"),
    "ad_group": ("ad_group_id", "ad_group"),
}
_MICRO = 10**NUMBER.scale
_CENT = _MICRO // 100
MEASURES = ("amount", "clicks", "impressions", "conversions", "value")


def with_level(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with `level`: the finest one that each names."""
    level = pl.lit(LEVELS[0])
    for name in LEVELS[1:]:
        level = pl.when((pl.col(f"{name}_id") != "") | (pl.col(name) != "")).then(pl.lit(name)).otherwise(level)
    return rows.with_columns(level=level)


def without_subtotals(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows without the subtotals of finer rows; raises SpendError where a subtotal differs from their sum.

    A file with rows of campaigns and of their ad groups says the same cost twice.
    """
    kept = rows.with_row_index("row")
    for number in range(len(LEVELS) - 2, -1, -1):
        level = LEVELS[number]
        key = [name for upper in LEVELS[: number + 1] for name in _OF_LEVEL[upper]]
        finer = (
            kept.filter(pl.col("level").is_in(LEVELS[number + 1 :]))
            .group_by(key)
            .agg(pl.col("amount").sum().alias("of_finer"))
        )
        coarse = kept.filter(pl.col("level") == level).join(finer, on=key, how="inner", nulls_equal=True)
        if coarse.is_empty():
            continue
        sums = coarse.group_by(key).agg(pl.col("amount").sum(), pl.col("of_finer").first(), pl.col("line").first())
        wrong = sums.filter((pl.col("amount") - pl.col("of_finer")).abs() > pl.lit(1).cast(NUMBER) / 100)
        if wrong.height:
            row = wrong.sort("line").row(0, named=True)
            named = row.get(level) or row.get("account") or "the account"
            raise SpendError(
                f"line {row['line']}: {named} has a row of {row['amount']:.2f} and finer rows of {row['of_finer']:.2f} "
                f"in sum on {row['spend_date']}: which of them is it? Export one level: campaigns, or ad groups, or ads"
            )
        kept = kept.join(coarse.select("row"), on="row", how="anti", maintain_order="left")
    return kept.drop("row")


def spread(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of several days, `starts` to `ends`, as a row a day: `spend_date` and `is_spread`.

    Amounts are divided evenly to the cent, counts to whole numbers, conversions to millionths; the sum stays.
    """
    days = rows.with_columns(
        spend_date=pl.date_ranges("starts", "ends"),
        number_of_days=(pl.col("ends") - pl.col("starts")).dt.total_days() + 1,
    )
    days = days.explode("spend_date", empty_as_null=False, keep_nulls=False).with_columns(
        number=(pl.col("spend_date") - pl.col("starts")).dt.total_days(), is_spread=pl.col("number_of_days") > 1
    )
    units = {"amount": _CENT, "value": _CENT, "conversions": 1, "clicks": 0, "impressions": 0}
    return days.with_columns(_share(name, unit) for name, unit in units.items()).drop("number", "number_of_days")


def _share(name: str, unit: int) -> pl.Expr:
    """The part of a day: multiples of the unit, and on the last day what is left; a unit of 0 means whole counts."""
    if not unit:
        return (_up_to(pl.col(name), 1) - _up_to(pl.col(name), 0)).alias(name)
    micros = pl.col(name).to_physical().cast(pl.Int128)
    whole = micros // unit
    share = (_up_to(whole, 1) - _up_to(whole, 0)) * unit
    rest = pl.when(pl.col("number") == pl.col("number_of_days") - 1).then(micros - whole * unit).otherwise(0)
    exact = (share + rest).cast(pl.Decimal(38, 0)) / pl.lit(_MICRO).cast(pl.Decimal(38, 6))
    return exact.cast(NUMBER).alias(name)


def _up_to(total: pl.Expr, further: int) -> pl.Expr:
    return total * (pl.col("number") + further) // pl.col("number_of_days")


def added_up(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """One row per key, its measures added up: hours of a day, devices, networks. A measure nobody knows stays null."""
    sums = [pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name) for name in MEASURES]
    return rows.group_by(by).agg(*sums, is_spread=pl.col("is_spread").any()).sort(by)


def longest_span(rows: pl.DataFrame) -> tuple[date, date, int] | None:
    """The first row of several days: its first and last day, and its line; None if each is of one day."""
    spans = rows.filter(pl.col("ends") > pl.col("starts")).sort("line")
    return (spans["starts"][0], spans["ends"][0], spans["line"][0]) if spans.height else None
