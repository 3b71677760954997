"""Builds stale days: which, in what order, how many at once, and what becomes of those that cannot be built."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TypeVar

import stamina

from app.core import console
from app.core.errors import AuditError, CaratError, ContractError, WarehouseGoneError, require_none
from app.frames.days import day_spans
from app.jobs.build.boundaries import read_reach
from app.jobs.build.day import DayBuilt, build_day
from app.jobs.build.ledger import Inputs, StaleDay, compare, read_inputs, record_built, record_untouched
from app.jobs.build.user_agents import UserAgents
from app.jobs.run_log import Run
from app.rules.endpoint_map import EndpointMap, load_endpoint_map
from app.rules.session_rules import SessionRules, load_session_rules
from app.rules.snapshot_plan import SnapshotPlan, load_snapshot_plan
from app.settings import Settings
from app.warehouse import Warehouse

# A day that cannot be built does not keep the others from being built.
OF_ONE_DAY = (AuditError, ContractError)
Day = TypeVar("Day")
Done = TypeVar("Done")
Span = tuple[date | None, date | None]
ALL_DAYS: Span = (None, None)


@dataclass(frozen=True)
class Rules:
    """By what days are built: the settings and the files they name, read once."""

    settings: Settings
    endpoint_map: EndpointMap
    plan: SnapshotPlan
    session_rules: SessionRules
    user_agents: UserAgents

    @classmethod
    def load(cls, settings: Settings, *, remember_user_agents: bool = True) -> "Rules":
        session_rules = load_session_rules(settings)
        return cls(
            settings,
            load_endpoint_map(settings.tracking),
            load_snapshot_plan(settings.snapshots),
            session_rules,
            UserAgents(session_rules.devices, remember=remember_user_agents),
        )


@dataclass
class Backfill:
    """What was stale, oldest first, what became of each day, and why some could not be built."""

    stale: list[StaleDay] = field(default_factory=list)
    built: list[DayBuilt] = field(default_factory=list)
    failures: list[CaratError] = field(default_factory=list)

    def require_done(self) -> "Backfill":
        """Raise the failures, if there are any, as one error."""
        require_none(self.failures)
        return self


@dataclass(frozen=True)
class Work:
    """Days to build, oldest first, from what and by what, and the bar that shows how far that is."""

    inputs: Inputs
    days: Sequence[StaleDay]
    rules: Rules
    believe_size: bool
    bar: console.Bar


# Builds days, begun in order, and tells what became of each as they end; none is begun after an error.
Builder = Callable[[Warehouse, Work], Iterator[DayBuilt | CaratError]]


def plan_days(
    warehouse: Warehouse,
    settings: Settings,
    *,
    jobs: Sequence[str],
    span: Span = ALL_DAYS,
) -> list[StaleDay]:
    """The stale days, oldest first, without touching anything."""
    rules = Rules.load(settings)
    inputs = read_inputs(warehouse, settings, rules.endpoint_map, rules.plan, rules.session_rules, keep=False)
    return [day for day in compare(warehouse, inputs, jobs=jobs)[0] if is_within(day.day, span)]


def build_stale(
    warehouse: Warehouse,
    settings: Settings,
    *,
    span: Span = ALL_DAYS,
    jobs: Sequence[str],
    force: bool = False,
    dry_run: bool = False,
    believe_size: bool = False,
    builder: Builder | None = None,
) -> Backfill:
    """Build the stale days in the span (with `force` all of its days), oldest first, some at once.

    Here, unless another `builder` takes the days elsewhere.
    """
    rules = Rules.load(settings)
    inputs = read_inputs(warehouse, settings, rules.endpoint_map, rules.plan, rules.session_rules, keep=not dry_run)
    stale, untouched = compare(warehouse, inputs, jobs=jobs, force=force)
    backfill = Backfill([day for day in stale if is_within(day.day, span)])
    if dry_run:
        return backfill
    record_untouched(warehouse, inputs, untouched=untouched, now=datetime.now(tz=UTC))
    with console.progress("etl", sum(inputs.of_day(day.day)["calls"] for day in backfill.stale)) as bar:
        work = Work(inputs, backfill.stale, rules, believe_size, bar)
        for outcome in (builder or _build_here)(warehouse, work):
            if isinstance(outcome, DayBuilt):
                backfill.built.append(outcome)
            else:
                backfill.failures.append(outcome)
    backfill.built.sort(key=lambda built: built.day)
    return backfill


def _build_here(warehouse: Warehouse, work: Work) -> Iterator[DayBuilt | CaratError]:
    rules = share_workers(work.rules, len(work.days))

    def build(day: StaleDay, through: Warehouse) -> DayBuilt | CaratError:
        work.bar.label(f"etl {day.day}")
        try:
            return build_one(
                through, work.inputs, day, rules=rules, believe_size=work.believe_size, on_calls=work.bar.advance
            )
        except OF_ONE_DAY as error:
            return error

    return at_once(warehouse, work.days, build, number=rules.settings.days_at_once)


def build_one(
    warehouse: Warehouse,
    inputs: Inputs,
    day: StaleDay,
    *,
    rules: Rules,
    believe_size: bool = False,
    on_calls: Callable[[int], None] = lambda _: None,
) -> DayBuilt:
    """Build a stale day and write it into the ledger; tried again for a while if the warehouse is gone meanwhile."""
    run = Run(warehouse, "etl", day=day.day)
    try:
        for attempt in stamina.retry_context(
            on=WarehouseGoneError, attempts=None, timeout=rules.settings.patience_s, wait_initial=0.5, wait_max=20
        ):
            with attempt:
                built = _build(warehouse, inputs, day, rules, believe_size=believe_size, on_calls=on_calls)
    except BaseException as error:
        run.end(error=error)
        raise
    run.end(rows_in=built.calls, rows_out=sum(built.rows.values()), rejected=built.unreadable)
    return built


def _build(
    warehouse: Warehouse,
    inputs: Inputs,
    day: StaleDay,
    rules: Rules,
    *,
    believe_size: bool,
    on_calls: Callable[[int], None],
) -> DayBuilt:
    settings = rules.settings
    # What is recorded is what was there before the build read anything: what comes meanwhile is found the next time.
    reach = read_reach(warehouse, day_spans(day.day, settings.zone), timeout_ms=settings.session_timeout_ms)
    built = build_day(
        warehouse,
        day.day,
        settings=settings,
        endpoint_map=rules.endpoint_map,
        plan=rules.plan,
        session_rules=rules.session_rules,
        user_agents=rules.user_agents,
        jobs=day.jobs,
        basis=inputs.basis(day, reach),
        believe_size=believe_size,
        on_calls=on_calls,
    )
    warehouse.require_lease()  # one who was overtaken since must not say what the day was built from
    record_built(
        warehouse,
        inputs,
        day=day.day,
        reach=reach,
        until=built.until,
        rows=built.rows,
        unreadable=built.unreadable,
        now=datetime.now(tz=UTC),
    )
    return built


def is_within(day: date, span: Span) -> bool:
    """Whether a day lies between the two, both included; None is no bound."""
    first, last = span
    return (first is None or first <= day) and (last is None or day <= last)


def share_workers(rules: Rules, days: int) -> Rules:
    """The rules for each of so many days: those that are built at the same time share the workers."""
    settings = rules.settings
    number = max(1, min(settings.days_at_once, days))
    return replace(rules, settings=settings.model_copy(update={"workers": max(1, settings.workers // number)}))


def at_once(
    warehouse: Warehouse, days: Sequence[Day], work: Callable[[Day, Warehouse], Done], *, number: int
) -> Iterator[Done]:
    """What `work` makes of each day, as they end, so many at once, each with a connection of its own.

    They are begun in order; none is begun after an error.
    """

    def attempt(day: Day) -> Done:
        with warehouse.another() as own:
            return work(day, own)

    with ThreadPoolExecutor(number) as pool:
        waiting = {pool.submit(attempt, day) for day in days}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in done]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
