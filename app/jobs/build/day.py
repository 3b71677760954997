"""Builds one business day: its shards through the jobs into staging, then audited and published as a whole."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from queue import SimpleQueue
from typing import Any

import polars as pl

from app.contracts import DWH_TABLES, EVENTS, PRODUCT_SESSIONS
from app.core.errors import AuditError, ContractError
from app.frames.browsing import browse
from app.frames.days import DaySpans, day_spans
from app.jobs.build import catalog_sessions, events, product_sessions, sessions
from app.jobs.build.audit import Tally, audit, kept_sums
from app.jobs.build.incremental import Changes, find_changes
from app.jobs.build.product_history import read_product_versions
from app.jobs.build.shards import Scope, count_calls, read_shard, shard_count
from app.jobs.build.user_agents import UserAgents
from app.rules.endpoint_map import EndpointMap
from app.rules.session_rules import SessionRules
from app.rules.snapshot_plan import SnapshotPlan
from app.settings import Settings
from app.warehouse import Staging, Warehouse

JOBS = tuple(table.name for table in DWH_TABLES)
_WHOLE_SHARE = 0.7  # where more of a day's calls are to be built anew, copying the rest is no gain


@dataclass(frozen=True)
class Basis:
    """What of a published day a build may take over; by default nothing: all is made from the raw calls.

    `reusable_days`: days whose `dwh.events` were typed by today's map and rules. `rows`: of the tables as they were
    published, where they may be kept but for visitors whose calls changed: `quarters` are the day's raw calls by
    quarter of an hour, `around` whether calls of the day before and of the day after changed.
    """

    reusable_days: tuple[date, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    quarters: pl.DataFrame | None = None
    around: tuple[bool, bool] = (False, False)
    until: datetime | None = None


@dataclass(frozen=True)
class DayBuilt:
    """What became of a day: raw calls in, rows out per table, JSON values that could not be read, seconds.

    `calls`: those that were read. `until`: the last call of its sessions.
    """

    day: date
    calls: int
    rows: dict[str, int]
    unreadable: int
    seconds: float
    until: datetime


def build_day(
    warehouse: Warehouse,
    day: date,
    *,
    settings: Settings,
    endpoint_map: EndpointMap,
    plan: SnapshotPlan,
    session_rules: SessionRules,
    user_agents: UserAgents,
    jobs: Sequence[str] = JOBS,
    basis: Basis | None = None,
    believe_size: bool = False,
    on_calls: Callable[[int], None] = lambda _: None,
) -> DayBuilt:
    """Build the named tables of one day and publish them; what is published stays as it was if anything fails."""
    build = partial(
        _build_upon,
        warehouse,
        day,
        settings=settings,
        endpoint_map=endpoint_map,
        plan=plan,
        session_rules=session_rules,
        user_agents=user_agents,
        jobs=jobs,
        believe_size=believe_size,
        on_calls=on_calls,
    )
    if basis is None:
        return build(Basis())
    try:
        return build(basis)
    except AuditError:  # what it was built upon may be at fault: what is made from the raw calls alone decides
        return build(Basis())


def _build_upon(
    warehouse: Warehouse,
    day: date,
    basis: Basis,
    *,
    settings: Settings,
    endpoint_map: EndpointMap,
    plan: SnapshotPlan,
    session_rules: SessionRules,
    user_agents: UserAgents,
    jobs: Sequence[str],
    believe_size: bool,
    on_calls: Callable[[int], None],
) -> DayBuilt:
    started = time.perf_counter()
    spans = day_spans(day, settings.zone)
    day_calls = count_calls(warehouse, spans)
    _require_raw(warehouse, day, day_calls)

    scope = Scope(spans, endpoint_map, settings.session_timeout_ms, reusable_days=basis.reusable_days)
    with _changes(warehouse, scope, basis, jobs=jobs, day_calls=day_calls) as changes:
        if changes and changes.session_ids.is_empty():
            return DayBuilt(day, 0, dict(basis.rows), 0, time.perf_counter() - started, basis.until or _start(spans))
        if changes:
            scope = replace(
                scope,
                visitors=changes.visitors,
                sessions=changes.sessions,
                session_ids=changes.session_ids,
                blocks=changes.blocks,
            )
        calls = changes.calls if changes else day_calls
        built = stage_day(
            warehouse,
            scope,
            calls=calls,
            settings=settings,
            plan=plan,
            session_rules=session_rules,
            user_agents=user_agents,
            jobs=jobs,
            on_calls=on_calls,
        )
        with built.staging.dropped_on_failure():
            built.staging.require_complete()
            audit(
                warehouse,
                built.staging,
                built.tally,
                kept=built.kept,
                day_calls=day_calls,
                count_different_calls=partial(count_calls, warehouse, spans, what="uniqExact(call_id)"),
                is_over=_is_over(warehouse, spans),
                max_row_factor=0 if believe_size else settings.max_row_factor,
            )
            built.staging.publish(now=datetime.now(tz=UTC))
    until = max(built.until, basis.until or built.until) if changes else built.until
    seconds = time.perf_counter() - started
    return DayBuilt(day, built.calls, dict(built.staging.rows), built.unreadable, seconds, until)


@dataclass(frozen=True)
class StagedDay:
    """A day's tables, built and not published: what was in them before, what went in, what could not be read."""

    staging: Staging
    kept: Mapping[str, Any]
    tally: Tally
    calls: int
    unreadable: int
    until: datetime


def stage_day(
    warehouse: Warehouse,
    scope: Scope,
    *,
    calls: int,
    settings: Settings,
    plan: SnapshotPlan,
    session_rules: SessionRules,
    user_agents: UserAgents,
    jobs: Sequence[str] = JOBS,
    on_calls: Callable[[int], None] = lambda _: None,
) -> StagedDay:
    """Build the named tables of a day beside the published ones, some shards at a time."""
    tables = [table for table in DWH_TABLES if table.name in jobs]
    versions = read_product_versions(warehouse, plan, scope.spans) if PRODUCT_SESSIONS in tables else []
    agents = user_agents.of_scope(warehouse, scope) if tables != [EVENTS] else pl.DataFrame()
    staging = Staging(warehouse, scope.spans.day, tables, replaced=scope.sessions)
    kept = kept_sums(warehouse, staging) if scope.sessions else {}
    tally = Tally()
    count = shard_count(calls, shard_calls=settings.shard_calls)
    workers = min(settings.workers, count)
    with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        connections = SimpleQueue[Warehouse]()
        for connection in (warehouse, *(stack.enter_context(warehouse.another()) for _ in range(workers - 1))):
            connections.put(connection)

        def build(number: int) -> _ShardBuilt:
            connection = connections.get()
            try:
                shard = _build_shard(
                    connection,
                    number,
                    count,
                    scope,
                    staging=staging,
                    tally=tally,
                    agents=agents,
                    session_rules=session_rules,
                    versions=versions,
                    jobs=jobs,
                )
            finally:
                connections.put(connection)
            on_calls(shard.calls)
            return shard

        futures = [pool.submit(build, number) for number in range(count)]
        try:
            shards = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return StagedDay(
        staging,
        kept,
        tally,
        sum(shard.calls for shard in shards),
        sum(shard.unreadable for shard in shards),
        max((shard.until for shard in shards if shard.until), default=_start(scope.spans)),
    )


@dataclass(frozen=True)
class _ShardBuilt:
    calls: int = 0
    unreadable: int = 0
    until: datetime | None = None


def _build_shard(
    warehouse: Warehouse,
    number: int,
    count: int,
    scope: Scope,
    *,
    staging: Staging,
    tally: Tally,
    agents: pl.DataFrame,
    session_rules: SessionRules,
    versions: Sequence[pl.DataFrame],
    jobs: Sequence[str],
) -> _ShardBuilt:
    """Run the jobs over one shard."""
    shard = read_shard(warehouse, number, count, scope)
    if shard is None:
        return _ShardBuilt()
    built = events.run(shard, staging, through=warehouse, scope=scope)
    tally.add(built.of_sessions)
    if set(jobs) - {"events"}:
        of_day = sessions.run(built.of_sessions, agents, staging, rules=session_rules, through=warehouse)
    if {"catalog_sessions", "product_sessions"} & set(jobs):
        browsing = browse(built.of_sessions)
        if "catalog_sessions" in jobs:
            catalog_sessions.run(browsing, of_day, staging, through=warehouse)
        if "product_sessions" in jobs:
            product_sessions.run(browsing, of_day, staging, through=warehouse, versions=versions)
    until = built.of_sessions["ts"].max()
    assert until is None or isinstance(until, datetime)
    return _ShardBuilt(shard.calls.height, built.unreadable, until)


@contextmanager
def _changes(
    warehouse: Warehouse, scope: Scope, basis: Basis, *, jobs: Sequence[str], day_calls: int
) -> Iterator[Changes | None]:
    """The sessions to build anew; None where the whole day is, because most of it changed or it is not as recorded."""
    if basis.quarters is None or not _is_as_recorded(warehouse, scope.spans.day, basis.rows, jobs):
        yield None
        return
    with find_changes(warehouse, scope, basis.quarters, around=basis.around) as changes:
        yield changes if changes and changes.calls <= _WHOLE_SHARE * day_calls else None


def _is_as_recorded(warehouse: Warehouse, day: date, rows: Mapping[str, int], jobs: Sequence[str]) -> bool:
    """Whether the published tables hold as many rows as when they were built."""
    tables = [table for table in DWH_TABLES if table.name in jobs]
    found = warehouse.counts({t.name: (t.full_name, f"{t.partition_by} = toDate('{day}')") for t in tables})
    return all(found[table.name] == rows[table.name] for table in tables)


def _is_over(warehouse: Warehouse, spans: DaySpans) -> bool:
    """Whether there are calls of a later day: no clock is asked."""
    return bool(
        warehouse.scalar("SELECT toUnixTimestamp64Milli(max(ts)) >= {end:Int64} FROM pd.api_calls", {"end": spans.end})
    )


def _start(spans: DaySpans) -> datetime:
    return datetime.fromtimestamp(spans.start / 1000, tz=UTC)


def _require_raw(warehouse: Warehouse, day: date, calls: int) -> None:
    """A day whose raw calls are past their retention must not be emptied by building it again."""
    if calls:
        return
    oldest = "(SELECT if(count() = 0, now64(3), min(ts)) FROM pd.api_calls)"
    lost = warehouse.scalar(
        f"SELECT count() FROM dwh.events WHERE event_date = {{day:Date}} AND ts < {oldest}", {"day": day}
    )
    if lost:
        raise ContractError(
            f"{day}: pd.api_calls no longer holds this day's calls, so what is published is kept as it is"
        )
