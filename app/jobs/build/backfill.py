"""Builds stale days: which ones, in what order, how many at once, and what happens to those that fail."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from app.contracts import EVENTS, ORDER_CALLS
from app.core import console
from app.core.errors import CaratError, WarehouseGoneError, require_none
from app.core.retry import attempts
from app.frames.days import day_bounds
from app.jobs.build.built import DayBuilt
from app.jobs.build.days import ALL_DAYS, DAY_ERRORS, Span, is_within, run_parallel
from app.jobs.build.ledger import Inputs, StaleDay, compare, read_inputs, record_built, record_untouched
from app.jobs.build.order_book import BOOK_JOBS, build_orders, find_stale_orders
from app.jobs.build.order_sources import find_sources
from app.jobs.build.rules import BuildRules
from app.jobs.runs import recorded
from app.settings import Settings
from app.warehouse import Warehouse

_ROUNDS = 4  # of days that are stale because others were built; two suffice unless calls arrive meanwhile


@dataclass
class Backfill:
    """The days that were stale, oldest first, those that were built, and why some could not be.

    `orders` are the days whose orders and refunds were built. `postponed` days were not begun because the time was up.
    """

    stale: list[StaleDay] = field(default_factory=list)
    built: list[DayBuilt] = field(default_factory=list)
    failures: list[CaratError] = field(default_factory=list)
    orders: list[DayBuilt] = field(default_factory=list)
    postponed: list[date] = field(default_factory=list)

    def require_done(self) -> "Backfill":
        """Raise the failures, if there are any, as one error."""
        require_none(self.failures)
        return self


@dataclass(frozen=True)
class Work:
    """Days to build, newest first, their inputs and rules, and the progress bar.

    No day but the first is begun after `until`, a time of the monotonic clock.
    """

    inputs: Inputs
    days: Sequence[StaleDay]
    rules: BuildRules
    skip_row_count_check: bool
    bar: console.Bar
    until: float = math.inf


# Builds days, begun in order, and yields the outcome of each as they end; none is begun after an error. A date is a day
# that was postponed.
DayRunner = Callable[[Warehouse, Work], Iterator[DayBuilt | CaratError | date]]


def plan_days(
    warehouse: Warehouse, settings: Settings, *, jobs: Sequence[str] | None = None, span: Span = ALL_DAYS
) -> list[StaleDay]:
    """The stale days, oldest first; nothing is written."""
    rules = BuildRules.load(settings)
    inputs = read_inputs(warehouse, rules, keep=False)
    stale, _ = compare(warehouse, inputs, jobs=jobs)
    if _builds_orders(warehouse, jobs):
        stale = _with_orders(warehouse, rules, stale)
    return [day for day in stale if is_within(day.day, span)]


def _with_orders(warehouse: Warehouse, rules: BuildRules, stale: Sequence[StaleDay]) -> list[StaleDay]:
    """These days, and those of which orders are stale, oldest first."""
    days = {day.day: day for day in stale}
    found = find_stale_orders(warehouse, rules, find_sources(warehouse, rules), keep=False)
    for day, why in found.days.items():
        known = days.get(day, StaleDay(day, (), ()))
        days[day] = replace(known, jobs=(*known.jobs, *BOOK_JOBS), reasons=(*known.reasons, why))
    return [days[day] for day in sorted(days)]


def build_stale(
    warehouse: Warehouse,
    settings: Settings,
    *,
    span: Span = ALL_DAYS,
    jobs: Sequence[str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    skip_row_count_check: bool = False,
    runner: DayRunner | None = None,
    longest_s: float = math.inf,
) -> Backfill:
    """Build the stale days in the span (with `force` all of its days), newest first, some in parallel.

    The order makes no difference to the rows. Newest first, today does not wait for what somebody sends of years ago.
    `jobs` names the tables, by default all. `runner` builds the days elsewhere than in this process. After `longest_s`
    no further day is begun here: it stays stale.
    """
    until = time.monotonic() + longest_s
    rules = BuildRules.load(settings)
    inputs = read_inputs(warehouse, rules, keep=not dry_run)
    stale, untouched = compare(warehouse, inputs, jobs=jobs, force=force)
    if dry_run and _builds_orders(warehouse, jobs):
        stale = _with_orders(warehouse, rules, stale)
    backfill = Backfill([day for day in stale if is_within(day.day, span)])
    if dry_run:
        return backfill
    record_untouched(warehouse, inputs, untouched=untouched, now=datetime.now(tz=UTC))
    failed: set[date] = set()
    days = list(backfill.stale)
    for _ in range(_ROUNDS):
        if not days:
            break
        with console.progress("etl", sum(inputs.of_day(day.day)["calls"] for day in days)) as bar:
            work = Work(inputs, days[::-1], rules, skip_row_count_check, bar, until)
            built = _build_round(warehouse, work, backfill, runner or _build_here)
        failed |= {day.day for day in days} - built
        # A day's orders decide whether those of other days count, so days that were up to date can be stale now.
        inputs = inputs.after_builds(warehouse)
        stale, _ = compare(warehouse, inputs, jobs=jobs)
        days = [day for day in stale if is_within(day.day, span) and day.day not in failed]
    backfill.built.sort(key=lambda built: built.day)
    if _builds_orders(warehouse, jobs):
        book = build_orders(warehouse, rules, span=span, force=force, until=until)
        backfill.orders = book.built
        backfill.failures += book.failures
    elif warehouse.is_cluster and backfill.built:
        console.log.warning("dwh.orders and dwh.refunds are not built on a cluster yet; see docs/cluster.md")
    return backfill


def _builds_orders(warehouse: Warehouse, jobs: Sequence[str] | None) -> bool:
    """Whether orders are built: they follow the order calls, and may be asked for by their own names.

    Not on a cluster yet: an order's calls are on several shards.
    """
    if warehouse.is_cluster:
        return False
    return jobs is None or not {*BOOK_JOBS, ORDER_CALLS.name}.isdisjoint(jobs)


def _build_round(warehouse: Warehouse, work: Work, backfill: Backfill, runner: DayRunner) -> set[date]:
    """Build these days and add what became of them; returns the days that were built."""
    known = {day.day for day in backfill.stale}
    backfill.stale += [day for day in work.days if day.day not in known]
    backfill.stale.sort(key=lambda stale: stale.day)
    built: dict[date, DayBuilt] = {}
    for outcome in runner(warehouse, work):
        if isinstance(outcome, DayBuilt):
            built[outcome.day] = outcome
        elif isinstance(outcome, date):
            backfill.postponed.append(outcome)
        else:
            backfill.failures.append(outcome)
    backfill.built[:] = [day for day in backfill.built if day.day not in built] + list(built.values())
    return {*built}


def _build_here(warehouse: Warehouse, work: Work) -> Iterator[DayBuilt | CaratError | date]:
    rules = work.rules.for_parallel_days(len(work.days))

    def build(day: StaleDay, through: Warehouse) -> DayBuilt | CaratError | date:
        if time.monotonic() > work.until and day is not work.days[0]:
            return day.day
        work.bar.label(f"etl {day.day}")
        check = {"skip_row_count_check": work.skip_row_count_check}
        try:
            return build_and_record(through, work.inputs, day, rules, **check, on_calls=work.bar.advance)
        except DAY_ERRORS as error:
            return error

    return run_parallel(warehouse, work.days, build, number=rules.settings.days_at_once)


def build_and_record(
    warehouse: Warehouse,
    inputs: Inputs,
    day: StaleDay,
    rules: BuildRules,
    *,
    skip_row_count_check: bool = False,
    on_calls: Callable[[int], None] = lambda _: None,
) -> DayBuilt:
    """Build a stale day, count what the endpoint map made of it, write it into the ledger and the log of runs.

    Retried while the warehouse is unreachable.
    """
    # Imported here: an hour in which nothing is stale does without all that makes rows.
    from app.jobs.build.coverage import record_coverage  # noqa: PLC0415
    from app.jobs.build.day import build_day  # noqa: PLC0415

    with recorded(warehouse, "etl", day=day.day) as run:
        for attempt in attempts(WarehouseGoneError, timeout_s=rules.settings.patience_s):
            with attempt:
                # Read before the build reads anything: calls that arrive meanwhile are found by the next comparison.
                boundaries = inputs.read_boundaries(warehouse, day_bounds(day.day, rules.zone))
                built = build_day(
                    warehouse,
                    day.day,
                    rules,
                    jobs=day.jobs,
                    reuse_plan=inputs.reuse_plan(day, boundaries),
                    skip_row_count_check=skip_row_count_check,
                    on_calls=on_calls,
                )
                warehouse.require_lease()  # a writer that lost the lease must not say what the day was built from
                now = datetime.now(tz=UTC)
                if EVENTS.name in built.rows:
                    built = replace(built, misfits=record_coverage(warehouse, built, rules.endpoint_map, now=now))
                record_built(warehouse, inputs, built, boundaries, now=now)
        run.count(rows_in=built.calls, rows_out=sum(built.rows.values()), rejected=built.unreadable)
    return built
