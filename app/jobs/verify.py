"""Proves that published days are what their raw calls say: builds them in staging and compares row by row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from app.contracts import Column, DwhTable
from app.core import console
from app.frames.days import day_bounds
from app.jobs.build.day import stage_day
from app.jobs.build.days import ALL_DAYS, Span, is_within, run_parallel
from app.jobs.build.ledger import compare, read_inputs
from app.jobs.build.order_book import find_stale_orders, published_order_days, stage_orders
from app.jobs.build.order_sources import OrderSources, find_sources
from app.jobs.build.rules import BuildRules
from app.jobs.build.shards import count_calls, open_scope
from app.settings import Settings
from app.warehouse import Staging, Warehouse

_SHOWN = 10  # differing rows of a table and day that are shown in full
_SPILL = "SETTINGS max_bytes_before_external_group_by = 1000000000"


@dataclass(frozen=True)
class RowDifference:
    """A row that differs: its key, and per column the published value and the one its calls give.

    `columns` is empty for a row that is on one side only; `kind` says on which.
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
    """One table and day: the number of rows built from the calls, how many differ from the published ones, examples."""

    day: date
    table: str
    rows: int
    differing: int
    examples: tuple[RowDifference, ...]


@dataclass(frozen=True)
class Verification:
    """The comparison of each table and day, oldest first, and why stale days are stale."""

    tables: list[TableVerified]
    stale: dict[date, str]

    @property
    def differing(self) -> list[TableVerified]:
        return [table for table in self.tables if table.differing]


def verify_days(warehouse: Warehouse, settings: Settings, *, span: Span = ALL_DAYS) -> Verification:
    """Build every day in the span whose raw calls are stored, and compare it with what is published."""
    rules = BuildRules.load(settings, remember_user_agents=False)
    inputs = read_inputs(warehouse, rules, keep=True)
    stale, _ = compare(warehouse, inputs)
    days = [day for day in inputs.verifiable_days() if is_within(day, span)]
    shared = rules.for_parallel_days(len(days))
    tables: list[TableVerified] = []
    with console.progress("verify", sum(inputs.of_day(day)["calls"] for day in days)) as bar:

        def verify(day: date, through: Warehouse) -> list[TableVerified]:
            bar.label(f"verify {day}")
            return _verify_day(through, day, shared, bar.advance)

        for verified in run_parallel(warehouse, days, verify, number=settings.days_at_once):
            tables += verified
    orders = Verification([], {}) if warehouse.is_cluster else _verify_orders(warehouse, rules, span)
    tables += orders.tables
    tables.sort(key=lambda table: table.day)  # stable: within a day they are in the order of dwh
    reasons = {day.day: [*day.reasons] for day in stale}
    for day, why in orders.stale.items():
        reasons.setdefault(day, []).append(why)
    return Verification(tables, {day: "; ".join(why) for day, why in sorted(reasons.items()) if is_within(day, span)})


def _verify_day(
    warehouse: Warehouse, day: date, rules: BuildRules, on_calls: Callable[[int], None]
) -> list[TableVerified]:
    bounds = day_bounds(day, rules.zone)
    calls = count_calls(warehouse, bounds, rules.endpoint_map)
    with open_scope(warehouse, bounds, rules.endpoint_map, rules.timeout_ms) as scope:
        staging = stage_day(warehouse, scope, rules, calls=calls, on_calls=on_calls).staging
    try:
        return [_compare_with_published(warehouse.nodes, staging, table) for table in staging.tables]
    finally:
        staging.drop()


def _verify_orders(warehouse: Warehouse, rules: BuildRules, span: Span) -> Verification:
    """Every day of orders and refunds in the span; a cluster has none yet."""
    days = sorted(day for day in published_order_days(warehouse) if is_within(day, span))
    sources = find_sources(warehouse, rules)
    stale = find_stale_orders(warehouse, rules, sources, keep=True, everything=True).days
    tables: list[TableVerified] = []
    with console.progress("verify orders", len(days)) as bar:
        for day in days:
            bar.label(f"verify orders {day}")
            tables += _verify_orders_of(warehouse, rules, sources, day)
            bar.advance(1)
    return Verification(tables, stale)


def _verify_orders_of(warehouse: Warehouse, rules: BuildRules, sources: OrderSources, day: date) -> list[TableVerified]:
    """A day's orders and refunds, from the published order calls and the history of the shop's tables."""
    staging = stage_orders(warehouse, rules, sources, day).staging
    try:
        return [_compare_with_published(warehouse.nodes, staging, table) for table in staging.tables]
    finally:
        staging.drop()


def _compare_with_published(nodes: Sequence[Warehouse], staging: Staging, table: DwhTable) -> TableVerified:
    """The comparison of each node's rows: a row on another node than its visitor's is a difference."""
    differing, examples = 0, list[RowDifference]()
    for node in nodes:
        published = _sums(node, table.full_name, table.is_day(staging.day), table)
        if _sums(node, staging.name(table.name), "1", table) == published:
            continue
        keys = _differing_keys(node, staging, table)
        differing += keys.height
        shown = keys.head(_SHOWN - len(examples))
        examples += (_example(node, staging, table, key) for key in shown.iter_rows(named=True))
    return TableVerified(staging.day, table.name, staging.rows[table.name], differing, tuple(examples))


def _sums(warehouse: Warehouse, source: str, where: str, table: DwhTable) -> tuple[int, int, int]:
    """The number of rows, and two independent sums of their hashes, which do not depend on the rows' order."""
    content = _content(table)
    found = warehouse.query(
        f"SELECT count(), sum(cityHash64({content})), sum(sipHash64({content})) FROM {source} WHERE {where}"
    )
    rows, first, second = found.row(0)
    return rows, first, second


def _differing_keys(warehouse: Warehouse, staging: Staging, table: DwhTable) -> pl.DataFrame:
    key = ", ".join(table.unique_key)
    content = f"{key}, cityHash64({_content(table)}) AS hash"
    return warehouse.query(
        f"SELECT DISTINCT {', '.join(_shown_key(table))} FROM (SELECT {key} FROM ("
        f"SELECT {content}, 1 AS published FROM {table.full_name} WHERE {table.is_day(staging.day)} "
        f"UNION ALL SELECT {content}, -1 AS published FROM {staging.name(table.name)}) "
        f"GROUP BY {key}, hash HAVING sum(published) != 0) ORDER BY ALL {_SPILL}"
    )


def _example(warehouse: Warehouse, staging: Staging, table: DwhTable, key: dict[str, Any]) -> RowDifference:
    parameters = {f"key{number}": value for number, value in enumerate(key.values())}
    matches = " AND ".join(f"toString({name}) = {{key{n}:String}}" for n, name in enumerate(table.unique_key))
    columns = ", ".join(f"toString({column.name}) AS `{column.name}`" for column in table.written)
    sides = [
        warehouse.query(
            f"SELECT {columns} FROM (SELECT * FROM {source} WHERE {where} AND {matches})", parameters
        ).to_dicts()
        for source, where in ((table.full_name, table.is_day(staging.day)), (staging.name(table.name), "1"))
    ]
    published, built = sides
    if not (published and built):
        return RowDifference("is missing" if built else "is not in the calls", key)
    if len(published) != len(built):
        return RowDifference(f"is published {len(published)} times", key)
    differing = {n: (published[0][n], built[0][n]) for n in published[0] if published[0][n] != built[0][n]}
    return RowDifference("differs", key, differing)


def _shown_key(table: DwhTable) -> list[str]:
    return [f"toString({name}) AS `{name}`" for name in table.unique_key]


def _content(table: DwhTable) -> str:
    """Every column, and whether a nullable one is null: hash functions ignore nulls."""
    return ", ".join(text for column in table.written for text in _hashed(column))


def _hashed(column: Column) -> list[str]:
    name = f"`{column.name}`"
    if column.is_nullable:
        return [f"isNull({name})", f"ifNull(toString({name}), '')"]
    return [f"toString({name})" if "Nullable(" in column.type else name]
