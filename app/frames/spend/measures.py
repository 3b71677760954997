"""The amounts and counts of an export of advertising costs, compared with the totals that it names itself."""

import math
from collections.abc import Mapping
from decimal import Decimal
from functools import partial

import polars as pl

from app.core.errors import SpendError
from app.frames.spend.numbers import NUMBER, read_numbers, settle_decimal, without_dressing
from app.frames.spend.table import ExportTable
from app.rules.ad_platform import COUNT_FIELDS, NUMBER_FIELDS, plain

_LIMIT = Decimal(10**12)  # of what can be stored


def with_numbers(
    table: ExportTable, dated: pl.DataFrame, *, decimal: str, points: bool
) -> tuple[pl.DataFrame, str, str]:
    """The rows with numbers, the decimal sign, and which total they were compared with."""
    names = [name for name in NUMBER_FIELDS if name in dated.columns]
    of_rows = {name: without_dressing(dated[name]) for name in names}
    all_texts = {
        name: pl.concat([texts, without_dressing(_texts_of_totals(table, name))]) for name, texts in of_rows.items()
    }
    sign = settle_decimal(
        all_texts, counts=frozenset(COUNT_FIELDS), asked=decimal, points=points, fits=partial(_fits, table, of_rows)
    )
    read = {name: read_numbers(texts, sign) for name, texts in of_rows.items()}
    for name, texts in of_rows.items():
        wrong = dated.filter(texts.is_not_null() & read[name].is_null())
        if wrong.height:
            raise SpendError(
                f"line {wrong['line'][0]}: {wrong[name][0]!r} is not a number with {sign!r} as its decimal sign"
            )
        impossible = (read[name].abs() >= (_LIMIT * 10**6 if name.endswith("_micros") else _LIMIT)) | (
            (read[name] < 0) if name in COUNT_FIELDS else False
        )
        if too_far := dated.filter(impossible).head(1).to_dicts():
            (row,) = too_far
            raise SpendError(f"line {row['line']}: {row[name]!r} cannot be {name.replace('_', ' ')}. Export it again")
    if masked := sum(int((dated[name].is_not_null() & texts.is_null()).sum()) for name, texts in of_rows.items()):
        table.notes.append(f"{masked} numbers are masked, such as <5, and stay unknown")
    numbers = dated.with_columns(read[name] for name in names)
    numbers = numbers.with_columns(_measure(numbers, name) for name in ("amount", "value")).with_columns(
        pl.col("conversions") if "conversions" in names else pl.lit(None, NUMBER).alias("conversions"),
        *(pl.col(n).cast(pl.Int64) if n in names else pl.lit(None, pl.Int64).alias(n) for n in COUNT_FIELDS),
    )
    return numbers, sign, _require_totals(table, numbers, of_rows, sign)


def _measure(rows: pl.DataFrame, name: str) -> pl.Expr:
    """An amount, or a thousandth of a thousandth of it where the file says millionths."""
    if name in rows.columns:
        return pl.col(name)
    if f"{name}_micros" in rows.columns:
        return (pl.col(f"{name}_micros") / pl.lit(1_000_000).cast(NUMBER)).cast(NUMBER).alias(name)
    return pl.lit(None, NUMBER).alias(name)


def _amount_field(table: ExportTable) -> str:
    return "amount" if "amount" in table.layout.columns else "amount_micros"


def _texts_of_totals(table: ExportTable, name: str) -> pl.Series:
    texts = [cells[name] for _, _, cells in table.totals if plain(cells[name]) not in table.platform.nulls]
    return pl.Series(name, texts, dtype=pl.String)


def _fits(table: ExportTable, of_rows: Mapping[str, pl.Series], sign: str) -> bool:
    """Whether the file has totals that are right with this decimal sign."""
    name = _amount_field(table)
    read = read_numbers(of_rows[name], sign)
    if read.null_count() > of_rows[name].null_count():
        return False
    compared = [total for _, check, total in _totals(table, sign) if check == "equal"]
    return bool(compared) and all(abs(total - _sum(read)) <= _tolerance(of_rows[name], sign) for total in compared)


def _totals(table: ExportTable, sign: str) -> list[tuple[str, str, Decimal]]:
    """Label, check and amount of each total that has one."""
    name = _amount_field(table)
    found = []
    for label, check, cells in table.totals:
        amount = read_numbers(without_dressing(pl.Series("amount", [cells[name]], dtype=pl.String)), sign)[0]
        if amount is not None:
            found.append((label, check, amount))
    return found


def _require_totals(table: ExportTable, numbers: pl.DataFrame, of_rows: Mapping[str, pl.Series], sign: str) -> str:
    """The label of the total that the rows were compared with; SpendError if they differ."""
    name = _amount_field(table)
    total_of_rows = _sum(numbers[name])
    tolerance = _tolerance(of_rows[name], sign)
    checked = ""
    for label, check, amount in _totals(table, sign):
        if (check == "equal" and abs(amount - total_of_rows) > tolerance) or (
            check == "at_most" and total_of_rows > amount + tolerance
        ):
            raise SpendError(
                f"its total, {label!r}, is {amount:,.2f} and its rows are {total_of_rows:,.2f} in sum. Is it cut off, "
                f"edited, or is {sign!r} not its decimal sign? Export it again, or say --decimal"
            )
        checked = checked or (label if check != "none" else "")
    return checked


def _sum(numbers: pl.Series) -> Decimal:
    return Decimal(str(numbers.sum() or 0))


def _tolerance(texts: pl.Series, sign: str) -> Decimal:
    """How far a sum of rounded amounts may be from a total that was rounded once."""
    decimals = texts.str.extract(rf"\{sign}(\d+)$", 1).str.len_chars().drop_nulls().to_list()
    unit = Decimal(1).scaleb(-min(max([2, *decimals]), NUMBER.scale))
    return unit * Decimal(math.isqrt(len(texts) + 1))
