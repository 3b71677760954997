"""Builds `dwh.orders` and `dwh.refunds`, a day at a time, from published order calls and the shop's `history`.

Which days are stale is found by comparison. What the sources hold is summed by the instant of each snapshot and by the
day of the sessions, once per part; only where a sum differs from what was seen last are orders looked at: those with
such a version or call. Each is compared with its published row by a hash of all that is known of it, and where that
differs, the days on which its rows are and shall be are stale. So the work of an hour follows from what changed in it.
"""

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from app.contracts import BOOK_TABLES, FINGERPRINTS, LEDGER, ORDER_CALLS, ORDERS, REFUNDS
from app.contracts.dwh import NORMAL_ORDER_ID
from app.core import console
from app.core.errors import CaratError
from app.frames.days import DayBounds, day_bounds
from app.frames.money import MONEY
from app.frames.order_book import OrderBook, build_order_book
from app.jobs.build.built import DayBuilt
from app.jobs.build.call_sql import instant
from app.jobs.build.days import ALL_DAYS, DAY_ERRORS, Span, is_within
from app.jobs.build.ledger import Sums
from app.jobs.build.order_sources import (
    CALLS_SOURCE,
    HistorySource,
    OrderSources,
    WantedOrders,
    find_sources,
    read_hashes,
    read_rows,
    wanted_orders,
)
from app.jobs.build.product_history import history_sums, read_product_versions
from app.jobs.build.rules import BuildRules
from app.rules.snapshot_plan import COST
from app.warehouse import FingerprintSource, Staging, Warehouse, fingerprints

_COST = {COST: MONEY}
_CHUNK = 50_000  # orders that are held in memory at a time
_WRAP = 2**64  # sums of the engine wrap around
_ZONE_MARGIN_MS = 26 * 3600 * 1000  # the shop's times may be local, or a day of another zone
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATES = {"day": pl.Date()}
_ROWS = pl.Schema({"table": pl.UInt8(), "order_key": pl.String(), "day": pl.Date(), "sources_hash": pl.UInt64()})
BOOK_JOBS = tuple(table.name for table in BOOK_TABLES)
_MADE_STALE = "its orders changed, in calls or in the shop's database"
_NOT_RECORDED = "not known what its orders were made of"
_RATES = "rates of exchange changed"
_COSTS = "costs of its products changed"
_RULES = "what the snapshot plan says of costs changed"


@dataclass(frozen=True)
class StaleOrders:
    """The days whose orders or refunds are to be built, each with why, and what was there when they were found."""

    days: dict[date, str]
    costs: Sums  # of the products' costs, by when they are valid
    seen: list[pl.DataFrame]


@dataclass
class BookBuilt:
    """The days of orders that were built, and why some could not be."""

    built: list[DayBuilt] = field(default_factory=list)
    failures: list[CaratError] = field(default_factory=list)


def build_orders(
    warehouse: Warehouse,
    rules: BuildRules,
    *,
    span: Span = ALL_DAYS,
    force: bool = False,
    also: Sequence[date] = (),
    until: float = math.inf,
) -> BookBuilt:
    """Build the stale days of orders in the span, newest first, and those `also`; with `force` every day that has any.

    No day but the first is begun after `until`, a time of the monotonic clock; it stays stale.
    """
    sources = find_sources(warehouse, rules)
    stale = find_stale_orders(warehouse, rules, sources, keep=True, everything=force)
    known = {*stale.days, *also, *(published_order_days(warehouse) if force else ())}
    days = sorted((day for day in known if is_within(day, span)), reverse=True)
    book = BookBuilt()
    with console.progress("orders", len(days)) as bar:
        for day in days:
            if time.monotonic() > until and day != days[0]:
                break
            bar.label(f"orders {day}")
            try:
                book.built.append(_build_day(warehouse, rules, sources, day, stale.costs))
            except DAY_ERRORS as error:
                book.failures.append(error)
            bar.advance(1)
    if stale.days.keys() <= {built.day for built in book.built}:
        for seen in stale.seen:  # not before: what was not built must be found again
            warehouse.insert(FINGERPRINTS, seen)
    return book


# ---- which days ----------------------------------------------------------------------------------------------------


def find_stale_orders(
    warehouse: Warehouse, rules: BuildRules, sources: OrderSources, *, keep: bool, everything: bool = False
) -> StaleOrders:
    """The days whose rows differ from what is known now; with `everything` all orders are compared."""
    differing = {
        source.full_name: _difference(warehouse, source, sources, keep=keep)
        for source in (CALLS_SOURCE, *(source.fingerprint for source in sources.of_history))
    }
    seen = [found.seen for found in differing.values() if found.seen.height]
    costs = Sums.of(
        history_sums(warehouse, rules.plan, attributes=(COST,), keep=keep).with_columns(pl.col("fingerprint").cum_sum())
    )
    days = _days_of_ledger(warehouse, rules, costs)
    # A version that was seen and is gone leaves no trace of its order.
    is_lost = any(found.is_lost for name, found in differing.items() if name != CALLS_SOURCE.full_name)
    if everything or is_lost:
        keys, rows, parameters = _of_everything(sources)
    elif not seen:
        return StaleOrders(days, costs, seen)
    else:
        keys, rows, parameters = _of_differing(sources, differing)
    with wanted_orders(warehouse, sources, keys=keys, rows=rows, parameters=parameters) as wanted:
        changed = _changed_orders(warehouse, wanted)
    for some in changed.to_frame().iter_slices(_CHUNK):
        for day in _days_of(warehouse, sources, some["order_key"]):
            days.setdefault(day, _MADE_STALE)
    return StaleOrders(days, costs, seen)


@dataclass(frozen=True)
class _Difference:
    """What of a source differs from what was seen: instants in epoch ms, and rows of `etl.fingerprints` that say so.

    `is_lost`: something that was seen is no longer there as it was.
    """

    instants: list[int]
    is_lost: bool
    seen: pl.DataFrame


def _difference(warehouse: Warehouse, source: FingerprintSource, sources: OrderSources, *, keep: bool) -> _Difference:
    name = f"orders made of {source.source} {sources.digest}"
    now = fingerprints(warehouse, source, keep=keep)
    before = warehouse.query(
        "SELECT at, sum(rows) AS rows, sum(fingerprint) AS fingerprint FROM etl.fingerprints "
        "WHERE source = {source:String} GROUP BY at",
        {"source": name},
        schema=now.schema,
    )
    both = now.join(before, on="at", how="full", coalesce=True, suffix="_before").with_columns(
        pl.exclude("at").fill_null(0)
    )
    differs = (pl.col("rows") != pl.col("rows_before")) | (pl.col("fingerprint") != pl.col("fingerprint_before"))
    differing = both.filter(differs)
    grown = [
        (at, (rows - rows_before) % _WRAP, (fingerprint - fingerprint_before) % _WRAP)
        for at, rows, fingerprint, rows_before, fingerprint_before in differing.iter_rows()
    ]
    shape = {"at": FINGERPRINTS.schema["at"], "rows": pl.UInt64(), "fingerprint": pl.UInt64()}
    seen = pl.DataFrame(grown, schema=shape, orient="row").with_columns(source=pl.lit(name), part=pl.lit("seen"))
    return _Difference(
        differing["at"].dt.epoch("ms").to_list(),
        bool((differing["rows_before"] > 0).any()),
        seen.select(FINGERPRINTS.schema.names()),
    )


Queries = tuple[list[str], list[str], dict[str, Any]]


def _of_everything(sources: OrderSources) -> Queries:
    """The queries of all orders."""
    keys = [
        f"SELECT {NORMAL_ORDER_ID('order_id')} AS order_key FROM {ORDER_CALLS.full_name}",
        *(f"SELECT order_key FROM {table.full_name}" for table in BOOK_TABLES),
    ]
    with_rows = [source for source in (sources.orders, sources.refunds) if source]
    rows = [f"SELECT {sources.row(source)} AS row_key FROM {source.full_name}" for source in with_rows]
    return keys, rows, {}


def _of_differing(sources: OrderSources, differing: dict[str, _Difference]) -> Queries:
    """The queries of the orders with a call on such a day, now or as published, or a version of such an instant."""
    dates = "(SELECT toDate(fromUnixTimestamp64Milli(arrayJoin({calls:Array(Int64)}), 'UTC')))"
    keys = [
        f"SELECT {NORMAL_ORDER_ID('order_id')} AS order_key FROM {ORDER_CALLS.full_name} WHERE session_date IN {dates}",
        f"SELECT order_key FROM {ORDERS.full_name} WHERE arrayExists(day -> day IN {dates}, session_dates)",
    ]
    parameters: dict[str, Any] = {"calls": differing[CALLS_SOURCE.full_name].instants}
    rows = []
    for source in sources.of_history:
        if instants := differing[source.full_name].instants:
            name = source.history.name
            parameters[name] = instants
            changed = f"SELECT {source.key} FROM {source.full_name} WHERE {_is_of(name)}"
            row = f"SELECT {sources.row(source)} AS row_key FROM {source.full_name} WHERE ({source.key}) IN ({changed})"
            # Items alone make no order, but a refund does make a row, whosever it is.
            known = f"SELECT {sources.row(orders)} FROM {orders.full_name}" if (orders := sources.orders) else ""
            rows.append(f"{row} AND row_key IN ({known})" if source is sources.items else row)
    return keys, rows, parameters


def _is_of(name: str) -> str:
    return f"toUnixTimestamp64Milli(valid_from) IN {{{name}:Array(Int64)}}"


def _changed_orders(warehouse: Warehouse, wanted: WantedOrders) -> pl.Series:
    """The keys of the orders whose published row is not made of what is known now."""
    tables = " UNION ALL ".join(
        f"SELECT order_key, sources_hash, {int(table is ORDERS)} AS is_order FROM {table.full_name} "
        f"WHERE order_key IN (SELECT order_key FROM {wanted.keys})"
        for table in BOOK_TABLES
    )
    published = warehouse.query(
        "SELECT order_key, any(sources_hash) AS published, uniqExact(sources_hash) AS hashes, sum(is_order) AS rows "
        f"FROM ({tables}) GROUP BY order_key",
        schema={"order_key": pl.String(), "published": pl.UInt64(), "hashes": pl.UInt64(), "rows": pl.UInt64()},
    )
    both = read_hashes(wanted).join(published, on="order_key", how="full", coalesce=True)
    is_same = (pl.col("sources_hash") == pl.col("published")) & (pl.col("hashes") == 1) & (pl.col("rows") <= 1)
    return both.filter(~is_same.fill_null(value=False))["order_key"].sort()


def _days_of(warehouse: Warehouse, sources: OrderSources, keys: pl.Series) -> set[date]:
    """The days on which rows of these orders or of their refunds are not as they would be now."""
    table = f"etl.unread_order_asked_{uuid.uuid4().hex}"
    asked = f"SELECT order_key FROM {table}"
    with warehouse.temp_table(table, keys, column="order_key", kind="String"):
        published = warehouse.query(
            " UNION DISTINCT ".join(
                f"SELECT {number} AS table, order_key, {table.day} AS day, sources_hash FROM {table.full_name} "
                f"WHERE order_key IN ({asked})"
                for number, table in enumerate(BOOK_TABLES)
            ),
            schema=_ROWS,
        )
        with wanted_orders(warehouse, sources, keys=[asked]) as wanted:
            book = build_order_book(read_rows(wanted), sources.rules)
    now = [
        frame.select(pl.lit(number).alias("table"), "order_key", pl.col(table.day).alias("day"), "sources_hash")
        for number, (table, frame) in enumerate(zip(BOOK_TABLES, (book.orders, book.refunds), strict=True))
    ]
    both = [published.unique(), *(frame.cast(_ROWS).unique() for frame in now)]
    return {*pl.concat(both).unique(keep="none")["day"]}


def _days_of_ledger(warehouse: Warehouse, rules: BuildRules, costs: Sums) -> dict[date, str]:
    """The days that were built by other rates or costs than there are now; a refund's rate is its order's as well."""
    last = _last_built(warehouse)
    found = dict.fromkeys(published_order_days(warehouse) - {*last["day"]}, _NOT_RECORDED)
    outdated = {
        day for day, rates in last.filter(pl.col("rates") != "").select("day", "rates").unique().iter_rows()
        if rates != rules.currencies.rates_digest(day)
    }  # fmt: skip
    if outdated:
        orders = warehouse.query(
            f"SELECT DISTINCT order_date AS day FROM {REFUNDS.full_name} "
            "WHERE refund_date IN {days:Array(Date)} AND order_date IS NOT NULL",
            {"days": sorted(outdated)},
            schema=_DATES,
        )
        found |= dict.fromkeys([*outdated, *orders["day"]], _RATES)
    of_orders = last.filter(pl.col("job") == ORDERS.name)
    found |= dict.fromkeys(of_orders.filter(pl.col("product_plan") != rules.plan.costs_digest)["day"], _RULES)
    built_from = of_orders.select("day", "history_until", "history_fingerprint").iter_rows()
    return found | dict.fromkeys([day for day, until, known in built_from if costs.at(until) != known], _COSTS)


def _last_built(warehouse: Warehouse) -> pl.DataFrame:
    names = ("day", "job", "built_at", "rates", "product_plan", "history_until", "history_fingerprint")
    return warehouse.query(
        f"SELECT {', '.join(names)} FROM etl.ledger WHERE job IN {{jobs:Array(String)}} "
        "ORDER BY built_at DESC LIMIT 1 BY day, job",
        {"jobs": list(BOOK_JOBS)},
        schema={name: LEDGER.schema[name] for name in names},
    )


def published_order_days(warehouse: Warehouse) -> set[date]:
    """The days that `dwh.orders` or `dwh.refunds` hold, by the names of their partitions."""
    found = warehouse.query(
        "SELECT DISTINCT toDate(partition) AS day FROM system.parts "
        "WHERE active AND rows > 0 AND database = 'dwh' AND table IN {tables:Array(String)}",
        {"tables": list(BOOK_JOBS)},
        schema=_DATES,
    )
    return {*found["day"]}


# ---- a day ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StagedOrders:
    """A day's orders and refunds, staged and not yet published.

    `until` is the moment of its last order. `has_foreign_amounts`: whether an amount was converted.
    """

    staging: Staging
    until: datetime
    has_foreign_amounts: bool


def stage_orders(warehouse: Warehouse, rules: BuildRules, sources: OrderSources, day: date) -> StagedOrders:
    """Build a day's orders and refunds in staging."""
    bounds = day_bounds(day, rules.zone)
    keys, rows, parameters = _of_day(sources, bounds)
    costs = read_product_versions(warehouse, rules.plan, bounds, attributes=_COST)
    with wanted_orders(warehouse, sources, keys=keys, rows=rows, parameters=parameters) as wanted:
        book = build_order_book(read_rows(wanted), sources.rules, costs)
    book = _of_date(book, day)
    staging = Staging(warehouse, day, BOOK_TABLES)
    with staging.dropped_on_failure():
        for table, frame in ((ORDERS, book.orders), (REFUNDS, book.refunds)):
            if frame.height:
                staging.append(table, frame, through=warehouse)
        staging.require_complete()
    until = book.moments["moment"].max()
    currencies = {*book.orders["currency"], *book.refunds["currency"]}
    assert until is None or isinstance(until, datetime)
    return StagedOrders(staging, until or _EPOCH, bool(currencies - {rules.currencies.target}))


def _of_date(book: OrderBook, day: date) -> OrderBook:
    orders = book.orders.filter(pl.col("order_date") == day)
    return replace(
        book,
        orders=orders,
        refunds=book.refunds.filter(pl.col("refund_date") == day),
        moments=book.moments.join(orders.select("order_key"), on="order_key", how="semi"),
    )


def _of_day(sources: OrderSources, bounds: DayBounds) -> Queries:
    """The queries of all orders that may have a row on the day: called, made or refunded on it."""
    is_day = f"ts >= {instant('start')} AND ts < {instant('end')}"
    around = "session_date >= {day:Date} - 1 AND session_date <= {day:Date}"
    keys = [
        f"SELECT {NORMAL_ORDER_ID('order_id')} AS order_key FROM {ORDER_CALLS.full_name} WHERE {around} AND {is_day}"
    ]
    parameters: dict[str, Any] = {
        "day": bounds.day,
        "start": bounds.start,
        "end": bounds.end,
        "early": bounds.start - _ZONE_MARGIN_MS,
        "late": bounds.end + _ZONE_MARGIN_MS,
    }
    rows = []

    def near(source: HistorySource, name: str) -> str:
        return f"{source.time(name)} >= {instant('early')} AND {source.time(name)} < {instant('late')}"

    seen_on = f"valid_from >= {instant('start')} AND valid_from < {instant('end')}"
    if orders := sources.orders:
        created = orders.time("created")
        # First seen when it was read, or changed, so that it may tell of a refund.
        of_versions = f"{seen_on} AND (version > 1 OR {created} IS NULL OR {created} > valid_from - INTERVAL 2 DAY)"
        rows.append(
            f"SELECT {sources.row(orders)} AS row_key FROM {orders.full_name} "
            f"WHERE {near(orders, 'created')} OR {of_versions}"
        )
    if refunds := sources.refunds:
        refunded = near(refunds, "at")
        rows.append(f"SELECT {sources.row(refunds)} AS row_key FROM {refunds.full_name} WHERE {refunded} OR {seen_on}")
    return keys, rows, parameters


def _build_day(warehouse: Warehouse, rules: BuildRules, sources: OrderSources, day: date, costs: Sums) -> DayBuilt:
    """Build, publish and record a day's orders and refunds."""
    started = time.perf_counter()
    staged = stage_orders(warehouse, rules, sources, day)
    now = datetime.now(tz=UTC)
    with staged.staging.dropped_on_failure():
        staged.staging.publish(now=now)
    rows = dict(staged.staging.rows)
    _record(warehouse, rules, day, staged, costs, now=now)
    return DayBuilt(day, 0, rows, time.perf_counter() - started, staged.until)


def _record(
    warehouse: Warehouse, rules: BuildRules, day: date, staged: StagedOrders, costs: Sums, *, now: datetime
) -> None:
    """Write down by which rates and costs the day was built."""
    last = _last_built(warehouse).filter(pl.col("day") == day)["built_at"].max()
    built_at = max(now, last + timedelta(milliseconds=1)) if isinstance(last, datetime) else now
    entries = [
        {name: type_.to_python()() for name, type_ in LEDGER.schema.items() if type_ not in (pl.Date, pl.Datetime)}
        | {
            "day": day, "job": table.name, "built_at": built_at,
            "currency": rules.digests["currency"], "timezone": rules.digests["timezone"],
            "transform_version": rules.digests["transform_version"],
            "rates": rules.currencies.rates_digest(day) if staged.has_foreign_amounts else "",
            "product_plan": rules.plan.costs_digest, "history_until": staged.until,
            "history_fingerprint": costs.at(staged.until), "rows": staged.staging.rows[table.name],
        }
        for table in BOOK_TABLES
    ]  # fmt: skip
    warehouse.insert(LEDGER, pl.DataFrame(entries, schema=LEDGER.schema))
