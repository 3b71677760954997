"""Values of a field in their types: text, exact numbers, money, lists of these."""

from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from app.frames.json_fields import TEXT_AMONG_LISTS, number_as_text
from app.rules.endpoint_map import FIELDS, LIST_FIELDS, MONEY_FIELDS, Reading
from app.rules.field_path import Kind
from app.rules.number_text import AMBIGUOUS, read_number

EXACT = pl.Decimal(38, 18)
COUNT_FIELDS = frozenset({"quantity", "page", "per_page", "results_total", "order_quantities"})
ID_FIELDS = frozenset({"product_id", "order_id", "shown_products", "order_products"})
_EXACT_LIMIT = 10**20
_MONEY_LIMIT = 10**12  # larger ones are not prices, and their sums would not fit
_COUNT_LIMIT = 2**32
_PLAIN_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)$"
BARE = "E0"  # behind a number that was not text
_WHOLE_AS_FRACTION = r"^([0-9]+)\.0+$"


def kind_of(field: str) -> Kind:
    """What a field holds; filters of the shop's own hold lists of text."""
    return FIELDS.get(field, Kind.TEXTS)


def scalar_dtype(field: str) -> pl.DataType:
    """The type of one value of a field."""
    if field in COUNT_FIELDS:
        return pl.UInt32()
    return EXACT if field in MONEY_FIELDS else pl.String()


def field_dtype(field: str) -> pl.DataType:
    """The type of a field's column; money is exact."""
    scalar = scalar_dtype(field)
    return pl.List(scalar) if field in LIST_FIELDS or kind_of(field) is Kind.TEXTS else scalar


def typed(values: pl.Series, field: str, reading: Reading) -> tuple[pl.Series, int]:
    """The values of one reading of a field, null where there is none; and how many could not be read.

    In: text, numbers, or lists of these.
    """
    if reading.range_separator and values.dtype == pl.String:
        values = _part_of_range(values, reading)
    if kind_of(field) is Kind.TEXTS:
        return _texts(values, reading.split), 0
    if not isinstance(values.dtype, pl.List):
        return _scalars(values, field, reading)
    items, lost = _scalars(values.explode(empty_as_null=False, keep_nulls=False), field, reading)
    return relist(items, like=values), lost


def relist(items: pl.Series, *, like: pl.Series) -> pl.Series:
    """The items, which are those of `like` in another form, back in its lists."""
    lists = like.to_arrow(compat_level=pl.CompatLevel.oldest())
    mask = lists.is_null() if lists.null_count else None
    values = items.to_arrow(compat_level=pl.CompatLevel.oldest())
    return pl.Series(pa.LargeListArray.from_arrays(pc.subtract(lists.offsets, lists.offsets[0]), values, mask=mask))


def whole_id(text: pl.Expr) -> pl.Expr:
    """Ids such as `314.0` as the whole numbers that they are."""
    return text.str.replace(_WHOLE_AS_FRACTION, "$1")


def matched(values: pl.Series, pattern: str) -> pl.Series:
    """The first group of a pattern in each text, or in each text of lists."""
    if isinstance(values.dtype, pl.List):
        return values.cast(pl.List(pl.String)).list.eval(pl.element().str.extract(pattern, 1))
    return values.cast(pl.String).str.extract(pattern, 1)


def _part_of_range(values: pl.Series, reading: Reading) -> pl.Series:
    parts = values.str.splitn(reading.range_separator, 2).struct.field(f"field_{reading.range_part}")
    return parts.alias(values.name)


def _scalars(values: pl.Series, field: str, reading: Reading) -> tuple[pl.Series, int]:
    if kind_of(field) is Kind.TEXT:
        text = values.str.strip_chars() if values.dtype == pl.String else values.cast(pl.String)
        if field in ID_FIELDS and values.dtype == pl.String:
            text = text.to_frame("id").select(whole_id(pl.col("id"))).to_series()
        if field == "currency":
            text = text.str.to_uppercase()
        return text.set(text == "", None) if (text == "").any() else text, 0
    numbers, lost = exact_numbers(values, reading.decimal)
    limit = _COUNT_LIMIT if field in COUNT_FIELDS else _MONEY_LIMIT
    within = pl.when(pl.col("number").abs() < limit).then("number")
    column = numbers.to_frame("number").select(within).to_series()
    if field in COUNT_FIELDS:
        is_count = (pl.col("number") >= 0) & (pl.col("number") == pl.col("number").round(0))
        column = column.to_frame("number").select(pl.when(is_count).then("number").cast(pl.UInt32)).to_series()
    return column, lost + column.null_count() - numbers.null_count()


def exact_numbers(values: pl.Series, decimal: str) -> tuple[pl.Series, int]:
    """The values as exact decimals; and how many were text, not blank, that is not a number."""
    if values.dtype != pl.String:
        return values.cast(pl.String).cast(EXACT, strict=False), _too_large(values)
    text = pl.col("text").str.strip_chars()
    is_bare = text.str.ends_with(BARE)
    digits = text.str.strip_suffix(BARE)
    bare = digits.cast(pl.Float64, strict=False)
    is_plain = digits.str.contains(_PLAIN_NUMBER)
    if decimal == ",":
        is_plain &= is_bare | ~text.str.contains(".", literal=True)
    elif not decimal:
        is_plain &= ~text.str.contains(AMBIGUOUS)
    frame = values.to_frame("text").select(
        text=text,
        number=pl.when(is_plain)
        .then(pl.when(is_bare).then(bare.cast(pl.String)).otherwise(digits))
        .cast(EXACT, strict=False),
        is_blank=(text.fill_null("") == "") | (is_bare & bare.is_infinite().fill_null(value=False)),
    )
    odd = frame.filter(pl.col("number").is_null(), ~pl.col("is_blank"))["text"].unique()
    if not len(odd):
        return frame["number"], 0
    read = [read_number(one, decimal) for one in odd]
    found = pl.DataFrame(
        {"text": odd, "odd": pl.Series([None if one is None else f"{one:f}" for one in read], dtype=pl.String)}
    )
    found = found.with_columns(pl.col("odd").cast(EXACT, strict=False))
    frame = frame.join(found, on="text", how="left", maintain_order="left")
    frame = frame.with_columns(number=pl.coalesce("number", "odd"))
    return frame["number"], frame.filter(~pl.col("is_blank"), pl.col("number").is_null()).height


def _too_large(numbers: pl.Series) -> int:
    """How many finite numbers an exact decimal does not hold."""
    if not numbers.dtype.is_float():
        return 0
    return int((numbers.is_finite() & (numbers.abs() >= _EXACT_LIMIT)).sum())


def _texts(values: pl.Series, separator: str) -> pl.Series:
    """A list of text from a list, whose elements stay whole, or from a text that is split; null where nothing is left.

    A text that was read among lists is a list that begins with TEXT_AMONG_LISTS.
    """
    name = values.name
    column = pl.col(name)
    if isinstance(values.dtype, pl.List):
        values = values.cast(pl.List(pl.String))
        is_text = (column.list.first() == TEXT_AMONG_LISTS).fill_null(value=False)
        parts = pl.when(is_text).then(_split(column.list.get(1, null_on_oob=True), separator)).otherwise(column)
    else:
        parts = _split(column.cast(pl.String), separator)
    stripped = pl.element().str.strip_chars()
    parts = parts.list.eval(stripped.filter(stripped != ""))
    return values.to_frame(name).select(pl.when(parts.list.len() > 0).then(parts)).to_series()


def _split(text: pl.Expr, separator: str) -> pl.Expr:
    return text.str.split(separator) if separator else pl.concat_list(text)


# ---- results of the library --------------------------------------------------------------------------------------


def from_results(results: list[Any], field: str, reading: Reading, *, as_list: bool) -> tuple[pl.Series, list[int]]:
    """Python values as a column of text, or of lists of text, that `typed` takes; and where it cannot hold them."""
    lost: list[int] = []
    column: list[Any] = []
    for place, result in enumerate(results):
        value = _list_of(result, field, reading) if as_list else _one_of(result, field, reading)
        if value is _LOST:
            lost.append(place)
        column.append(None if value is _LOST else value)
    return pl.Series(column, dtype=pl.List(pl.String) if as_list else pl.String), lost


class _Lost:
    """Stands for a value that a field cannot hold."""


_LOST = _Lost()


def _list_of(result: Any, field: str, reading: Reading) -> Any:
    if result is None:
        return None
    if kind_of(field) is Kind.TEXTS and not isinstance(result, list):
        text = _one_of(result, field, reading)
        return [TEXT_AMONG_LISTS, text] if isinstance(text, str) else text
    items = [_one_of(item, field, reading) for item in (result if isinstance(result, list) else [result])]
    return _LOST if _LOST in items else items


def _one_of(result: Any, field: str, reading: Reading) -> Any:
    if isinstance(result, list):
        items = [item for item in result if item is not None]
        if len(items) > 1:
            return _LOST
        result = items[0] if items else None
    if result is None:
        return None
    if isinstance(result, dict | list):
        return _LOST
    if isinstance(result, bool):
        return "true" if result else "false"
    if isinstance(result, str):
        return result.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return number_as_text(result) if kind_of(field) is Kind.NUMBER and not reading.takes_text else repr(result)
