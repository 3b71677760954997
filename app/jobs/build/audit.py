"""Audits a staged day before it is published: nothing lost, nothing twice, and a row count typical of the weekday.

What is checked of a table is declared in its contract (`DwhTable`).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median
from threading import Lock
from typing import Any

import polars as pl

from app.contracts import Control, DwhTable, Total
from app.core.errors import AuditError
from app.warehouse import Staging, Warehouse

_WEEKS = 4
_FEWEST_ROWS = 1000  # of fewer rows chance alone makes a multiple
CarriedOver = Mapping[tuple[str, Total], Any]


@dataclass
class ControlTotals:
    """What went into the sessions that begin on the day, counted from the typed calls before any session is made."""

    counted: dict[Control, Any] = field(default_factory=lambda: defaultdict(int))
    _adding: Lock = field(default_factory=Lock, repr=False)

    def add(self, events: pl.DataFrame) -> None:
        """Count a shard's events of these sessions; in: `dwh.events` with `is_counted_order`."""
        orders = events.filter("is_counted_order")
        order_calls = events.filter(pl.col("event") == "purchase")
        names_product = pl.col("order_products").list.eval(pl.element() != "").list.any().fill_null(value=False)
        found = {
            Control.CALLS: events.height,
            Control.ORDERS: orders.height,
            Control.ORDER_CALLS: order_calls.height,
            Control.REVENUE: _revenue(orders),
            Control.PRODUCT_REVENUE: _revenue(orders.filter(names_product)),
        }
        with self._adding:
            for control, value in found.items():
                self.counted[control] += value


def _revenue(orders: pl.DataFrame) -> Decimal:
    return sum(orders["revenue"].drop_nulls(), Decimal(0))


@dataclass(frozen=True)
class DayToAudit:
    """A staged day and what it is compared with.

    `day_calls` is the number of raw calls of the day itself, `has_ended` whether there are calls of a later day.
    `carried_over` holds the totals of a patched day's unchanged sessions.
    """

    staging: Staging
    controls: ControlTotals
    carried_over: CarriedOver
    day_calls: int
    count_different_calls: Callable[[], int]
    has_ended: bool


def audit(warehouse: Warehouse, day: DayToAudit, *, max_row_factor: float, skip_row_count_check: bool = False) -> None:
    """Raise AuditError, which says what is wrong, unless the staged day may be published.

    `max_row_factor`: a day that has ended may have this many times more or fewer rows than the median of the same
    weekday in the last four weeks; 0 disables the check.
    """
    findings = _total_findings(warehouse, day) + _key_findings(warehouse, day.staging)
    if max_row_factor and day.has_ended and not skip_row_count_check:
        for table in day.staging.tables:
            findings += _size_findings(warehouse, day.staging, table, max_row_factor)
    if findings:
        raise AuditError(
            f"{day.staging.day}: audit failed: {'; '.join(findings)}. What was published of it is unchanged"
        )


def _total_findings(warehouse: Warehouse, day: DayToAudit) -> list[str]:
    staging, findings = day.staging, []
    sums = _sums(warehouse, {table: (staging.name(table.name), "1") for table in staging.tables})
    for table in staging.tables:
        for total in table.totals:
            found = sums[table.name, total] if total.column else staging.rows[table.name]
            if total.control is Control.DAY_CALLS:
                expected = day.day_calls
                if found != expected:  # the same call may be stored twice where others than Carat insert
                    expected = day.count_different_calls()
            else:
                kept = day.carried_over.get((table.name, total), 0) if total.column else staging.kept[table.name]
                expected = day.controls.counted[total.control] + kept
            if found != expected:
                what = f"{table.name}.{total.column}" if total.column else f"rows of {table.name}"
                findings.append(f"{what}: {found:,} instead of {expected:,} ({total.control.value})")
    return findings


def carried_over(warehouse: Warehouse, staging: Staging) -> CarriedOver:
    """The sums of the published day without the sessions that are replaced."""
    published = {table: (table.full_name, table.is_day(staging.day)) for table in staging.tables}
    replaced = {
        table: (source, f"{is_day} AND {table.session_column} IN ({staging.replaced})")  # found by the index
        for table, (source, is_day) in published.items()
    }
    gone = _sums(warehouse, replaced)
    return {key: value - gone[key] for key, value in _sums(warehouse, published).items()}


def _sums(warehouse: Warehouse, sources: Mapping[DwhTable, tuple[str, str]]) -> dict[tuple[str, Total], Any]:
    """The totals of columns, by table, among the rows of a source that meet a condition."""
    totals = {table: [total for total in table.totals if total.column] for table in sources}
    queries = {
        table: f"SELECT {', '.join(map(table.sum_sql, totals[table]))} FROM {source} WHERE {where}"
        for table, (source, where) in sources.items()
        if totals[table]
    }
    sums: dict[tuple[str, Total], Any] = defaultdict(int)
    for node in warehouse.nodes:
        for table, row in zip(queries, node.one_rows(list(queries.values())), strict=True):
            for total, value in zip(totals[table], row, strict=True):
                sums[table.name, total] += value
    return sums


def _key_findings(warehouse: Warehouse, staging: Staging) -> list[str]:
    """Keys that are empty or not unique; of a patched day, among the sessions that were built."""

    def built(table: DwhTable) -> str:
        return f"{table.session_column} IN ({staging.replaced})" if staging.replaced else "1"

    empty = {
        table.name: (staging.name(table.name), f"{built(table)} AND ({_any_empty(table)})")
        for table in staging.tables
        if table.never_empty
    }
    names = {table.name: " or ".join(table.never_empty) for table in staging.tables}
    findings = [
        f"{rows:,} rows of {name} have no {names[name]}" for name, rows in warehouse.counts(empty).items() if rows
    ]
    if staging.replaced:
        found = warehouse.counts({table.name: (staging.name(table.name), built(table)) for table in staging.tables})
        added = {name: staging.rows[name] - kept for name, kept in staging.kept.items()}
        return findings + [
            f"{name} holds {rows:,} rows of replaced sessions, {added[name]:,} were built"
            for name, rows in found.items()
            if rows != added[name]
        ]
    repeats = " UNION ALL ".join(
        f"SELECT '{table.name}' AS name, '{', '.join(table.unique_key)}' AS key, "
        f"count() - uniqExact({', '.join(table.unique_key)}) AS rows FROM {staging.name(table.name)}"
        for table in staging.tables
        if table.counts_keys
    )
    repeated = [row for node in warehouse.nodes for row in node.query(repeats).iter_rows()] if repeats else []
    return findings + [f"{rows:,} rows of {name} repeat a {key}" for name, key, rows in repeated if rows]


def _any_empty(table: DwhTable) -> str:
    return " OR ".join(f"{column} = ''" for column in table.never_empty)


def _size_findings(warehouse: Warehouse, staging: Staging, table: DwhTable, factor: float) -> list[str]:
    """Whether the table has many times more or fewer rows than on the same weekday in the last weeks."""
    sql = (
        f"SELECT {table.day} AS day, count() AS rows FROM {table.full_name} WHERE {table.day} < {{day:Date}} "
        f"AND {table.day} >= {{day:Date}} - {7 * _WEEKS} "
        f"AND toDayOfWeek({table.day}) = toDayOfWeek({{day:Date}}) GROUP BY {table.day}"
    )
    schema = {"day": pl.Date(), "rows": pl.UInt64()}
    of_nodes = pl.concat([node.query(sql, {"day": staging.day}, schema=schema) for node in warehouse.nodes])
    past = of_nodes.group_by("day").agg(pl.col("rows").sum())
    if past.height < _WEEKS - 1:
        return []
    usual, rows = median(past["rows"].to_list()), staging.rows[table.name]
    if usual < _FEWEST_ROWS or usual / factor <= rows <= usual * factor:
        return []
    return [
        (
            f"{rows:,} rows of {table.name}, usual for this weekday are {usual:,.0f} (CARAT_MAX_ROW_FACTOR {factor:g}; "
            "if the number is right, run `carat etl --date` with --accept-rows)"
        )
    ]
