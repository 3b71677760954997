"""Compares a day built from raw calls alone with what is published of it, row by row."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from app.contracts import DWH_TABLES, Column, Table
from app.warehouse import Staging, Warehouse

_SHOWN = 10  # differing rows of a table and day that are told in full
_SPILL = "SETTINGS max_bytes_before_external_group_by = 1000000000"


@dataclass(frozen=True)
class RowDifference:
    """A row that differs: its key, and per column what is published and what its calls say.

    `columns` is empty for a row that is on one side only, which `kind` tells.
    """

    kind: str  # "differs", "is missing", "is not in the calls"
    key: dict[str, Any]
    columns: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        key = ", ".join(f"{name} {value}" for name, value in self.key.items())
        values = ", ".join(f"{n}: published {old!r}, is {new!r}" for n, (old, new) in self.columns.items())
        return f"{key} {self.kind}{f': {values}' if values else ''}"


@dataclass(frozen=True)
class TableVerified:
    """A table's day: its rows as built from the calls, how many differ from what is published, and some of them."""

    day: date
    table: str
    rows: int
    differing: int
    examples: tuple[RowDifference, ...]


def compare_with_published(warehouse: Warehouse, staging: Staging) -> list[TableVerified]:
    """Per staged table how it differs from the published day."""
    return [_compare(warehouse, staging, table) for table in DWH_TABLES if table.name in staging.rows]


def _compare(warehouse: Warehouse, staging: Staging, table: Table) -> TableVerified:
    rows = staging.rows[table.name]
    if _sums(warehouse, staging.name(table.name), "1", table) == _sums(
        warehouse, table.full_name, _of_day(table, staging.day), table
    ):
        return TableVerified(staging.day, table.name, rows, 0, ())
    keys = _differing_keys(warehouse, staging, table)
    examples = tuple(_example(warehouse, staging, table, key) for key in keys.head(_SHOWN).iter_rows(named=True))
    return TableVerified(staging.day, table.name, rows, keys.height, examples)


def _sums(warehouse: Warehouse, source: str, where: str, table: Table) -> tuple[int, int, int]:
    """The rows, and two independent sums of their hashes: equal for equal rows in any order, and for no others."""
    content = _content(table)
    found = warehouse.query(
        f"SELECT count(), sum(cityHash64({content})), sum(sipHash64({content})) FROM {source} WHERE {where}"
    )
    rows, first, second = found.row(0)
    return rows, first, second


def _differing_keys(warehouse: Warehouse, staging: Staging, table: Table) -> pl.DataFrame:
    key = ", ".join(table.unique_key)
    content = f"{key}, cityHash64({_content(table)}) AS hash"
    return warehouse.query(
        f"SELECT DISTINCT {', '.join(_shown_key(table))} FROM (SELECT {key} FROM ("
        f"SELECT {content}, 1 AS published FROM {table.full_name} WHERE {_of_day(table, staging.day)} "
        f"UNION ALL SELECT {content}, -1 AS published FROM {staging.name(table.name)}) "
        f"GROUP BY {key}, hash HAVING sum(published) != 0) ORDER BY ALL {_SPILL}"
    )


def _example(warehouse: Warehouse, staging: Staging, table: Table, key: dict[str, Any]) -> RowDifference:
    parameters = {f"key{number}": value for number, value in enumerate(key.values())}
    matches = " AND ".join(f"toString({name}) = {{key{n}:String}}" for n, name in enumerate(table.unique_key))
    columns = ", ".join(f"toString({column.name}) AS `{column.name}`" for column in table.written)
    sides = [
        warehouse.query(
            f"SELECT {columns} FROM (SELECT * FROM {source} WHERE {where} AND {matches})", parameters
        ).to_dicts()
        for source, where in ((table.full_name, _of_day(table, staging.day)), (staging.name(table.name), "1"))
    ]
    published, built = sides
    if not (published and built):
        return RowDifference("is missing" if built else "is not in the calls", key)
    if len(published) != len(built):
        return RowDifference(f"is published {len(published)} times", key)
    differing = {n: (published[0][n], built[0][n]) for n in published[0] if published[0][n] != built[0][n]}
    return RowDifference("differs", key, differing)


def _shown_key(table: Table) -> list[str]:
    return [f"toString({name}) AS `{name}`" for name in table.unique_key]


def _of_day(table: Table, day: date) -> str:
    return f"{table.partition_by} = toDate('{day}')"


def _content(table: Table) -> str:
    """Every column, and of a nullable one whether it is null: a hash takes null for nothing."""
    return ", ".join(text for column in table.written for text in _hashed(column))


def _hashed(column: Column) -> list[str]:
    name = f"`{column.name}`"
    return [f"isNull({name})", f"ifNull(toString({name}), '')"] if column.is_nullable else [name]
