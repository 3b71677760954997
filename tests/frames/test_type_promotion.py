"""The type that a column is kept as once its type has changed holds what it was and what it is."""

import itertools
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from app.contracts import dtype_of
from app.frames.type_promotion import common_type

TIME = "DateTime64(6, 'UTC')"
# Types that shops' columns are kept as, each with values at its ends.
VALUES: dict[str, list[Any]] = {
    **{f"Int{bits}": [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": [0, 2**bits - 1] for bits in (8, 16, 32, 64)},
    "Decimal(4, 0)": [Decimal(-9999), Decimal(9999)],
    "Decimal(10, 2)": [Decimal("-99999999.99"), Decimal("1.10")],
    "Decimal(12, 4)": [Decimal("-99999999.9999"), Decimal("0.0001")],
    "Decimal(15, 5)": [Decimal("9999999999.99999")],
    "Decimal(16, 2)": [Decimal("99999999999999.99")],
    "Decimal(38, 10)": [Decimal("9999999999999999999999999999.9999999999")],
    "Decimal(38, 38)": [Decimal("0.99999999999999999999999999999999999999")],
    "Float32": [0.1, -1.5],
    "Float64": [0.1, 1e300],
    "Date32": [date(1900, 1, 1), date(2299, 12, 31)],
    TIME: [datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)],
    "String": ["", "é"],
}


@pytest.mark.parametrize(("was", "now", "expected"), [
    ("Int32", "Int64", "Int64"), ("Int64", "Int32", "Int64"), ("Int8", "UInt8", "Int16"), ("UInt32", "Int8", "Int64"),
    ("UInt64", "Int8", "Decimal(20, 0)"), ("Int64", "Decimal(10, 2)", "Decimal(22, 2)"), ("Int32", "Float64", "Float64"),
    ("Int64", "Float64", "String"), ("Decimal(10, 2)", "Decimal(12, 4)", "Decimal(12, 4)"),
    ("Decimal(12, 1)", "Decimal(12, 4)", "Decimal(15, 4)"), ("Decimal(38, 10)", "Decimal(38, 2)", "String"),
    ("Decimal(10, 2)", "Float32", "Float64"), ("Decimal(16, 2)", "Float64", "String"), ("Float32", "Float64", "Float64"),
    ("Date32", TIME, TIME), (TIME, "Date32", TIME), ("Date32", "Int32", "String"), ("String", "Int32", "String"),
    ("Float32", "Float32", "Float32"),
])  # fmt: skip
def test_a_column_is_kept_as_the_narrowest_type_that_holds_both(was, now, expected):
    assert common_type(was, now) == expected
    assert common_type(f"Nullable({was})", now) == common_type(was, f"Nullable({now})") == f"Nullable({expected})"


@pytest.mark.parametrize(("was", "now"), list(itertools.product(VALUES, VALUES)))
def test_whichever_came_first_both_fit_in_what_is_kept_exactly_and_it_stays_so(was, now):
    kept = common_type(was, now)
    assert kept == common_type(now, was)
    assert common_type(kept, was) == common_type(kept, now) == kept
    if kept == "String":
        return
    for type_ in (was, now):
        values = pl.Series(VALUES[type_], dtype=dtype_of(type_))
        there = values.cast(dtype_of(kept))
        # Polars would round in silence: what comes back must be what went.
        assert there.cast(dtype_of(type_), strict=True).equals(values)
