"""Calls to events: what each call was by the endpoint map, and its fields as typed columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from app.frames.json_fields import extract
from app.rules.endpoint_map import FIELDS, LIST_FIELDS, ORDER_ITEM_FIELDS, OTHER, EndpointMap, MappedCall
from app.rules.field_path import FieldPath, Kind

FAILED_STATUS = 400
_MONEY = pl.Decimal(18, 2)
_COUNT_FIELDS = frozenset({"quantity", "page", "per_page", "results_total", "order_quantities"})
_MONEY_LIMIT = 10**12  # larger ones are no prices, and their sums would not fit
_COUNT_LIMIT = 2**32
_NUMBER_TEXT = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class TypedCalls:
    """Calls with `event` and every field of the endpoint map, and how many JSON values could not be read."""

    calls: pl.DataFrame
    unreadable: int


def type_calls(calls: pl.DataFrame, documents: pa.Table, *, endpoint_map: EndpointMap) -> TypedCalls:
    """The calls with their event and its fields.

    In: calls with `method, endpoint, status, document`, the last being their row in `documents`, which holds `request`
    and `response` as Arrow text. A failed call (status 400 or above) and one that the map does not know are `other`.
    Text fields are empty where there is no value, numbers null, lists empty. Rows keep their order.
    """
    known = calls.with_row_index("row").join(
        _mapped_endpoints(calls, endpoint_map), on=["method", "endpoint"], how="left"
    )
    known = known.with_columns(
        mapped=pl.when(pl.col("status") < FAILED_STATUS).then("mapped"), product_id=pl.col("product_id").fill_null("")
    )
    parts = []
    unreadable = 0
    for number, mapped_call in enumerate(endpoint_map.calls):
        rows = known.filter(pl.col("mapped") == number)
        if rows.is_empty():
            continue
        values = rows.select("row", *(name for name in mapped_call.path_fields if name))
        taken = rows["document"].to_arrow()
        for side, leaves in (("request", mapped_call.request), ("response", mapped_call.response)):
            if leaves:
                extraction = extract(documents.column(side).take(taken), leaves)
                columns, lost = _typed_fields(extraction.values, leaves)
                values = values.hstack(columns.drop(values.columns, strict=False))
                unreadable += extraction.unreadable + lost
        parts.append(values.with_columns(event=pl.lit(mapped_call.event)))
    typed = pl.concat([_EMPTY, *parts], how="diagonal")
    events = known.drop("mapped", "product_id", "document").join(typed, on="row", how="left", maintain_order="left")
    return TypedCalls(events.drop("row").with_columns(_defaults()), unreadable)


def _mapped_endpoints(calls: pl.DataFrame, endpoint_map: EndpointMap) -> pl.DataFrame:
    """`method, endpoint` of the calls, with the number of the mapped call and the fields its path holds."""
    endpoints = calls.select("method", "endpoint").unique()
    mapped = pl.coalesce(
        [pl.lit(None, pl.UInt32)]
        + [
            pl.when(is_call(mapped_call)).then(pl.lit(number, pl.UInt32))
            for number, mapped_call in enumerate(endpoint_map.calls)
        ]
    )
    endpoints = endpoints.with_columns(mapped=mapped)
    names = {name for mapped_call in endpoint_map.calls for name in mapped_call.path_fields if name} | {"product_id"}
    return endpoints.with_columns(_path_field(name, endpoint_map).alias(name) for name in sorted(names))


def is_call(mapped_call: MappedCall) -> pl.Expr:
    """Whether a row's method and endpoint are those of the mapped call."""
    is_path = pl.col("endpoint").str.contains(mapped_call.path_pattern)
    return (pl.col("method").str.to_uppercase() == mapped_call.method) & is_path


def _path_field(name: str, endpoint_map: EndpointMap) -> pl.Expr:
    return pl.coalesce(
        [pl.lit(None, pl.String)]
        + [
            pl.when(pl.col("mapped") == number).then(pl.col("endpoint").str.extract(mapped_call.path_pattern, group))
            for number, mapped_call in enumerate(endpoint_map.calls)
            for group, field in enumerate(mapped_call.path_fields, start=1)
            if field == name
        ]
    )


# ---- fields as columns -------------------------------------------------------------------------------------------


def _field_dtype(field: str) -> pl.DataType:
    if field in _COUNT_FIELDS:
        scalar: pl.DataType = pl.UInt32()
    else:
        scalar = _MONEY if FIELDS[field] is Kind.NUMBER else pl.String()
    return pl.List(scalar) if field in LIST_FIELDS or FIELDS[field] is Kind.TEXTS else scalar


_EMPTY = pl.DataFrame(schema={"row": pl.UInt32, "event": pl.String} | {field: _field_dtype(field) for field in FIELDS})


def _defaults() -> list[pl.Expr]:
    """Nothing is empty text or an empty list; only a number that is not there is null."""
    return [
        pl.col("event").fill_null(OTHER),
        *(pl.col(field).fill_null("") for field in FIELDS if _field_dtype(field) == pl.String()),
        *(pl.col(field).fill_null([]) for field in FIELDS if isinstance(_field_dtype(field), pl.List)),
    ]


def _typed_fields(values: pl.DataFrame, leaves: Sequence[FieldPath]) -> tuple[pl.DataFrame, int]:
    """One column a field, of several places the first with a value; and how many values were no number."""
    columns = []
    unreadable = 0
    for field in dict.fromkeys(leaf.name.partition(".")[0] for leaf in leaves):
        places = [_field_values(values[leaf.name], field) for leaf in leaves if leaf.name.partition(".")[0] == field]
        column = places[0][0]
        for other, _ in places[1:]:
            column = pl.select(pl.coalesce(column, other).alias(field)).to_series()
        unreadable += sum(lost for _, lost in places)
        columns.append(column.alias(field))
    return _aligned_lists(pl.DataFrame(columns)), unreadable


def _field_values(values: pl.Series, field: str) -> tuple[pl.Series, int]:
    if FIELDS[field] is Kind.TEXTS:
        return _texts(values), 0
    if not isinstance(values.dtype, pl.List):
        return _scalars(values, field)
    items, lost = _scalars(values.explode(empty_as_null=False, keep_nulls=False), field)
    return _relist(items, like=values), lost


def _relist(items: pl.Series, *, like: pl.Series) -> pl.Series:
    """The items, which are those of `like` in another type, back in its lists."""
    lists = like.to_arrow(compat_level=pl.CompatLevel.oldest())
    mask = lists.is_null() if lists.null_count else None
    values = items.to_arrow(compat_level=pl.CompatLevel.oldest())
    return pl.Series(pa.LargeListArray.from_arrays(pc.subtract(lists.offsets, lists.offsets[0]), values, mask=mask))


def _scalars(values: pl.Series, field: str) -> tuple[pl.Series, int]:
    if FIELDS[field] is Kind.TEXT:
        return values.str.strip_chars() if values.dtype == pl.String else values.cast(pl.String), 0
    numbers, lost = _exact_numbers(values)
    frame = pl.DataFrame({"number": numbers})
    number = pl.col("number")
    if field in _COUNT_FIELDS:
        is_usable = (number >= 0) & (number < _COUNT_LIMIT) & (number == number.round(0))
        typed = pl.when(is_usable).then(number).cast(pl.UInt32)
    else:
        typed = pl.when(number.abs() < _MONEY_LIMIT).then(number).cast(_MONEY)  # rounds half to even
    column = frame.select(typed).to_series()
    return column, lost + column.null_count() - numbers.null_count()


def _exact_numbers(values: pl.Series) -> tuple[pl.Series, int]:
    """The values as exact decimals; and how many were text, not blank, that is no number."""
    decimal = pl.Decimal(38, 18)
    if values.dtype != pl.String:
        return values.cast(decimal), 0
    text = pl.col("text").str.strip_chars()
    frame = pl.DataFrame({"text": values}).select(
        number=pl.when(text.str.contains(_NUMBER_TEXT)).then(text).cast(decimal, strict=False),
        is_blank=text.fill_null("") == "",
    )
    return frame["number"], frame.filter(~pl.col("is_blank"), pl.col("number").is_null()).height


def _texts(values: pl.Series) -> pl.Series:
    """A list of text from a list, a scalar or a comma list; null where nothing is left."""
    name = values.name
    joined = (
        values.cast(pl.List(pl.String)).list.join(",", ignore_nulls=True)
        if isinstance(values.dtype, pl.List)
        else values
    )
    parts = (
        pl.col(name)
        .cast(pl.String)
        .str.split(",")
        .list.eval(pl.element().str.strip_chars().filter(pl.element().str.strip_chars() != ""))
    )
    return pl.DataFrame({name: joined}).select(pl.when(parts.list.len() > 0).then(parts)).to_series()


def _aligned_lists(fields: pl.DataFrame) -> pl.DataFrame:
    """Lists without gaps: a product shown has an id; an order's item has a product, 1 unit and price 0 if unsaid."""
    if "shown_products" in fields.columns:
        fields = fields.with_columns(
            pl.col("shown_products").list.drop_nulls().list.eval(pl.element().filter(pl.element() != ""))
        )
    if "order_products" not in fields.columns:
        return fields.drop(ORDER_ITEM_FIELDS, strict=False)
    products = pl.col("order_products").list.eval(pl.element().fill_null(""))
    fillers = {"order_quantities": pl.lit(1, pl.UInt32), "order_prices": pl.lit(0).cast(_MONEY)}
    items = {name: pl.col(name) if name in fields.columns else pl.lit(None, pl.List(pl.Null)) for name in fillers}
    return fields.with_columns(
        products,
        *(
            pl.when(items[name].list.len() == pl.col("order_products").list.len())
            .then(items[name].cast(_field_dtype(name)).list.eval(pl.element().fill_null(filler)))
            .otherwise(filler.repeat_by(pl.col("order_products").list.len()))
            .alias(name)
            for name, filler in fillers.items()
        ),
    ).with_columns(quantity=pl.col("order_quantities").list.sum().cast(pl.UInt32))
