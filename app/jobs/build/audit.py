"""Audits a staged day before it is published: nothing lost, nothing twice, and about as much as on such a weekday."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median
from threading import Lock
from typing import Any

import polars as pl

from app.contracts import CATALOG_SESSIONS, EVENTS, PRODUCT_SESSIONS, SESSIONS, Table
from app.core.errors import AuditError
from app.warehouse import Staging, Warehouse

_WEEKS = 4
_FEWEST_ROWS = 1000  # of fewer rows chance alone makes a multiple
_KEYED_BY_ONE = (EVENTS, SESSIONS, CATALOG_SESSIONS)


@dataclass
class Tally:
    """What went into the sessions that begin on the day, counted from the typed calls before any session is made."""

    calls: int = 0
    orders: int = 0
    revenue: Decimal = Decimal(0)
    revenue_without_product: Decimal = Decimal(0)
    _adding: Lock = field(default_factory=Lock, repr=False)

    def add(self, events: pl.DataFrame) -> None:
        """Count a shard's events of these sessions; in: `dwh.events` with `is_counted_order`."""
        orders = events.filter("is_counted_order")
        has_product = pl.col("order_products").list.eval(pl.element() != "").list.any().fill_null(value=False)
        without = orders.filter(~has_product)
        with self._adding:
            self.calls += events.height
            self.orders += orders.height
            self.revenue += _total(orders)
            self.revenue_without_product += _total(without)


def _total(orders: pl.DataFrame) -> Decimal:
    return sum(orders["revenue"].drop_nulls(), Decimal(0))


def audit(
    warehouse: Warehouse,
    staging: Staging,
    tally: Tally,
    *,
    kept: Mapping[str, Any],
    day_calls: int,
    count_different_calls: Callable[[], int],
    is_over: bool,
    max_row_factor: float,
) -> None:
    """Raise AuditError, which says what is wrong, unless what is staged may be published.

    `kept`: the `kept_sums` of a day that begins as it is published. `day_calls`: the raw calls of the day itself.
    `max_row_factor`: how many times more or fewer rows than the median of the same weekday's last four weeks are
    believed of a day that is over; 0 believes any number.
    """
    findings = []
    staged = _sums(warehouse, {name: staging.name(name) for name in staging.rows}, "1")
    events = staging.rows.get(EVENTS.name, day_calls)
    if events != day_calls:
        different_calls = count_different_calls()  # the same call may be there twice where others than Carat insert
        if events != different_calls:
            findings.append(f"{events:,} events of {different_calls:,} raw calls")
    if SESSIONS.name in staging.rows:
        for name, counted in (("calls", tally.calls), ("orders", tally.orders), ("revenue", tally.revenue)):
            expected = counted + kept.get(name, 0)
            if staged[name] != expected:
                findings.append(f"sessions hold {name} {staged[name]:,}, their calls {expected:,}")
        if PRODUCT_SESSIONS.name in staging.rows:
            gap = staged["revenue"] - staged["product_revenue"]
            allowed = tally.revenue_without_product + kept.get("revenue", 0) - kept.get("product_revenue", 0)
            if gap != allowed:
                findings.append(
                    f"revenue is {staged['revenue']:,} in sessions, {staged['product_revenue']:,} in their products, "
                    f"{allowed:,} of orders without products"
                )
    findings += _key_findings(warehouse, staging)
    if max_row_factor and is_over:
        findings += [f for table in _tables(staging) for f in _size_findings(warehouse, staging, table, max_row_factor)]
    if findings:
        raise AuditError(f"{staging.day}: audit failed: {'; '.join(findings)}. What was published of it is kept")


def kept_sums(warehouse: Warehouse, staging: Staging) -> dict[str, Any]:
    """What the published day adds up to without the sessions that are built anew: as `_sums`."""
    published = {name: f"dwh.{name}" for name in staging.rows}
    of_day = f"session_date = toDate('{staging.day}')"
    replaced = _sums(warehouse, published, f"{of_day} AND session_id IN ({staging.replaced})")  # found by the index
    return {name: total - replaced[name] for name, total in _sums(warehouse, published, of_day).items()}


def _sums(warehouse: Warehouse, tables: Mapping[str, str], where: str) -> dict[str, Any]:
    """`calls, orders, revenue` of the sessions, `product_revenue` of their products, as far as the tables are given."""
    sums: dict[str, Any] = {}
    if sessions := tables.get(SESSIONS.name):
        columns = "sum(s.calls) AS calls, sum(s.orders) AS orders, sum(s.revenue)::Decimal(18, 2) AS revenue"
        sums |= warehouse.query(f"SELECT {columns} FROM {sessions} AS s WHERE {where}").row(0, named=True)
    if products := tables.get(PRODUCT_SESSIONS.name):
        total = f"SELECT sum(revenue)::Decimal(18, 2) FROM {products} WHERE {where}"
        sums["product_revenue"] = warehouse.scalar(total)
    return sums


def _key_findings(warehouse: Warehouse, staging: Staging) -> list[str]:
    """Keys that are empty or not unique; of a day that begins as it is published, among the sessions built anew."""
    tables = _tables(staging)
    built = f"session_id IN ({staging.replaced})" if staging.replaced else "1"
    empty = f"{built} AND (session_id = '' OR visitor_id = '')"
    found = warehouse.counts({table.name: (staging.name(table.name), empty) for table in tables})
    findings = [f"{rows:,} rows of {name} have no session or visitor" for name, rows in found.items() if rows]
    if staging.replaced:
        found = warehouse.counts({table.name: (staging.name(table.name), built) for table in tables})
        added = {name: staging.rows[name] - kept for name, kept in staging.kept.items()}
        return findings + [
            f"{name} holds {rows:,} rows of sessions of which {added[name]:,} were built"
            for name, rows in found.items()
            if rows != added[name]
        ]
    keyed = {table: table.unique_key[0] for table in tables if table in _KEYED_BY_ONE}
    repeats = " UNION ALL ".join(
        f"SELECT '{table.name}' AS name, '{key}' AS key, count() - uniqExact({key}) AS rows "
        f"FROM {staging.name(table.name)}"
        for table, key in keyed.items()
    )
    repeated = warehouse.query(repeats).iter_rows() if keyed else ()
    return findings + [f"{rows:,} rows of {name} repeat a {key}" for name, key, rows in repeated if rows]


def _size_findings(warehouse: Warehouse, staging: Staging, table: Table, factor: float) -> list[str]:
    """Whether the rows are many times more or fewer than those of the same weekday."""
    past = warehouse.query(
        f"SELECT count() AS rows FROM {table.full_name} WHERE {table.partition_by} < {{day:Date}} "
        f"AND {table.partition_by} >= {{day:Date}} - {7 * _WEEKS} "
        f"AND toDayOfWeek({table.partition_by}) = toDayOfWeek({{day:Date}}) GROUP BY {table.partition_by}",
        {"day": staging.day},
        schema={"rows": pl.UInt64()},
    )
    if past.height < _WEEKS - 1:
        return []
    usual, rows = median(past["rows"].to_list()), staging.rows[table.name]
    if usual < _FEWEST_ROWS or usual / factor <= rows <= usual * factor:
        return []
    return [
        (
            f"{rows:,} rows of {table.name}, usual for this weekday are {usual:,.0f} (CARAT_MAX_ROW_FACTOR {factor:g}; "
            "if that is how it was, run `carat etl --date` with --accept-rows)"
        )
    ]


def _tables(staging: Staging) -> list[Table]:
    return [table for table in (*_KEYED_BY_ONE, PRODUCT_SESSIONS) if table.name in staging.rows]
