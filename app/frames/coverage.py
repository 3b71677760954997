"""What the endpoint map made of calls, counted: per entry its calls, per field the calls with a value."""

from collections import Counter
from collections.abc import Iterator

import polars as pl

from app.frames.events import FAILED_STATUS, TypedCalls
from app.rules.endpoint_map import ORDER_ITEM_FIELDS, EndpointMap, MappedCall
from app.rules.fit import UNREAD_BODIES

COVERAGE_SCHEMA: dict[str, pl.DataType] = {
    "map_entry": pl.String(),
    "event": pl.String(),
    "field": pl.String(),  # empty: the entry itself, whose `filled` are its calls
    "calls": pl.UInt64(),
    "filled": pl.UInt64(),
    "unreadable": pl.UInt64(),
}
_FILTER_LIST = pl.List(pl.Struct({"key": pl.String(), "value": pl.List(pl.String())}))
_LIST_OF = {"product_id": "order_products", "quantity": "order_quantities", "price": "order_prices"}


def count_coverage(typed: TypedCalls, endpoint_map: EndpointMap) -> pl.DataFrame:
    """A row an entry and field of the map, in its order: calls, calls with a value, and values that were unreadable.

    Coverages of parts of the calls add up: group by `map_entry, event, field` and sum.
    """
    rows = []
    parts = typed.calls.partition_by("map_entry", as_dict=True)
    for call in endpoint_map.calls:
        calls = parts.get((call.label,), typed.calls.clear())
        filled = _filled(calls, call)
        lost = Counter({name: count for (label, name), count in typed.unreadable.items() if label == call.label})
        rows.append((call.label, call.event, "", calls.height, calls.height, lost.pop("", 0)))
        rows += [(call.label, call.event, name, calls.height, filled[name], lost[name]) for name in filled]
        unread = {name: lost[name] for name in UNREAD_BODIES.values() if lost[name]}
        rows += [(call.label, call.event, name, calls.height, calls.height - n, n) for name, n in unread.items()]
    return pl.DataFrame(rows, schema=COVERAGE_SCHEMA, orient="row")


def add_coverages(coverages: list[pl.DataFrame]) -> pl.DataFrame:
    """The coverage of several parts of the calls together."""
    keys = ("map_entry", "event", "field")
    return pl.concat(coverages).group_by(keys, maintain_order=True).agg(pl.col("calls", "filled", "unreadable").sum())


def count_unmatched(typed: TypedCalls) -> int:
    """How many successful calls fit no entry."""
    return typed.calls.filter(is_unmatched()).height


def is_unmatched() -> pl.Expr:
    """Whether a typed call was successful and fits no entry."""
    return (pl.col("map_entry") == "") & (pl.col("status") < FAILED_STATUS) & ~pl.col("is_error")


def field_names(call: MappedCall) -> Iterator[str]:
    """The fields that an entry reads, filters as `filters.NAME`."""
    yield from call.fields
    yield from (f"filters.{name}" for name in call.filters)


def _filled(calls: pl.DataFrame, call: MappedCall) -> dict[str, int]:
    names = list(field_names(call))
    if not names or calls.is_empty():
        return dict.fromkeys(names, 0)
    sums = [has_value(calls, name).sum().alias(name) for name in names]
    return calls.select(sums).row(0, named=True)


def has_value(calls: pl.DataFrame, name: str) -> pl.Expr:
    """Whether a typed call has a value in a field: text that is not empty, a number, a list with elements."""
    if name.startswith("filters."):
        return (
            pl.col("filters")
            .cast(_FILTER_LIST)
            .list.eval(pl.element().struct.field("key") == name.removeprefix("filters."))
            .list.any()
        )
    dtype = calls.schema[name]
    if isinstance(dtype, pl.List):
        # Lines without a price are filled with 0, so a list of zeros says nothing.
        element = pl.element() != 0 if dtype.inner.is_numeric() and name in ORDER_ITEM_FIELDS else pl.element() != ""
        return pl.col(name).list.eval(element).list.any().fill_null(value=False)
    filled = pl.col(name) != "" if dtype == pl.String() else pl.col(name).is_not_null()
    if other := _LIST_OF.get(name):
        filled |= pl.col(other).list.len() > 0
    return filled.fill_null(value=False)
