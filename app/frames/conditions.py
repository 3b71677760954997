"""Conditions of the endpoint map as expressions over columns."""

from collections.abc import Mapping

import polars as pl

from app.rules.expressions import AllOf, AnyOf, Condition, Not, Search, Test

_FALSE_TEXTS = ("", "false")


def holds(condition: Condition, columns: Mapping[Test | Search, str]) -> pl.Expr:
    """Whether a condition holds; `columns` are those of its tests' comparable text and its searches' results."""
    match condition:
        case Test(values=None):
            text = pl.col(columns[condition])
            return text.is_not_null() & ~text.is_in(_FALSE_TEXTS)
        case Test(values=values):
            assert values is not None
            text = pl.col(columns[condition])
            is_one = text.is_in([value for value in values if value is not None]).fill_null(value=False)
            return is_one | text.is_null() if None in values else is_one
        case Search():
            return pl.col(columns[condition])
        case Not(condition=inner):
            return ~holds(inner, columns)
        case AllOf(conditions=parts):
            return pl.all_horizontal(holds(part, columns) for part in parts)
        case AnyOf(conditions=parts):
            return pl.any_horizontal(holds(part, columns) for part in parts)
