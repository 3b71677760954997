"""Builds one business day: its shards into staging, then audited and published as a whole."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from queue import SimpleQueue

import polars as pl

from app.contracts import DWH_TABLES, ORDER_CALLS, DwhTable, Input, dwh_tables
from app.core.errors import AuditError, ContractError
from app.frames.days import DayBounds, day_bounds
from app.jobs.build.audit import CarriedOver, ControlTotals, DayToAudit, audit, carried_over
from app.jobs.build.builders import BUILDERS, DayContext, ShardContent
from app.jobs.build.built import DayBuilt, ReusePlan
from app.jobs.build.incremental import ChangedSessions, find_changed_sessions
from app.jobs.build.lookups import read_lookups
from app.jobs.build.orders import NO_CALLS, OrderCheck, check_order_calls
from app.jobs.build.product_history import read_product_versions
from app.jobs.build.rules import BuildRules
from app.jobs.build.shards import (
    BuildScope,
    ShardKey,
    count_calls,
    holding_linked_calls,
    open_scope,
    read_shard,
)
from app.warehouse import Staging, Warehouse

JOBS = tuple(table.name for table in DWH_TABLES)
_ORDER_PASSES = 4  # the second is needed where two shards hold calls of one order, others where other days change
_WHOLE_SHARE = 0.7  # where more of a day's calls are to be rebuilt, copying the rest is not worth it


class KeptOrdersError(ContractError):
    """Orders of sessions that a patch keeps count otherwise, so that the whole day is to be built."""


def build_day(
    warehouse: Warehouse,
    day: date,
    rules: BuildRules,
    *,
    jobs: Sequence[str] | None = None,
    reuse_plan: ReusePlan | None = None,
    skip_row_count_check: bool = False,
    on_calls: Callable[[int], None] = lambda _: None,
) -> DayBuilt:
    """Build a day's tables (those named by `jobs`, else all) and publish them; if anything fails, nothing changes."""
    build = partial(
        _build_upon,
        warehouse,
        day,
        rules,
        tables=dwh_tables(jobs),
        skip_row_count_check=skip_row_count_check,
        on_calls=on_calls,
    )
    if reuse_plan is None:
        return build(ReusePlan())
    try:
        return build(reuse_plan)
    except KeptOrdersError:
        return build(ReusePlan(reuse_plan.reusable_days))
    except AuditError:  # what was taken over may be at fault: a build from the raw calls alone decides
        return build(ReusePlan())


def _build_upon(
    warehouse: Warehouse,
    day: date,
    rules: BuildRules,
    reuse_plan: ReusePlan,
    *,
    tables: Sequence[DwhTable],
    skip_row_count_check: bool,
    on_calls: Callable[[int], None],
) -> DayBuilt:
    started = time.perf_counter()
    bounds = day_bounds(day, rules.zone)
    day_calls = count_calls(warehouse, bounds, rules.endpoint_map)
    _require_raw(warehouse, day, day_calls)

    with ExitStack() as stack:
        scope = stack.enter_context(
            open_scope(warehouse, bounds, rules.endpoint_map, rules.timeout_ms, reusable_days=reuse_plan.reusable_days)
        )
        changed = stack.enter_context(
            _changed_sessions(warehouse, scope, reuse_plan, tables=tables, day_calls=day_calls)
        )
        if changed and changed.session_ids.is_empty():
            seconds = time.perf_counter() - started
            until = reuse_plan.until or _start(bounds)
            return DayBuilt(
                day,
                0,
                dict(reuse_plan.rows),
                seconds,
                until,
                took_events_over=True,
                is_patch=True,
                orders_elsewhere=reuse_plan.orders_elsewhere,
            )
        if changed:
            scope = replace(
                scope,
                visitors=changed.visitors,
                sessions=changed.sessions,
                session_ids=changed.session_ids,
                blocks=changed.blocks,
            )
        calls = changed.calls if changed else day_calls
        built = stage_day(
            warehouse, scope, rules, calls=calls, tables=tables, published=reuse_plan.rows, on_calls=on_calls
        )
        with built.staging.dropped_on_failure():
            to_audit = DayToAudit(
                built.staging,
                built.controls,
                built.carried_over,
                day_calls=day_calls,
                count_different_calls=partial(
                    count_calls, warehouse, bounds, rules.endpoint_map, what="uniqExact(call_id)"
                ),
                has_ended=_has_ended(warehouse, bounds),
            )
            max_row_factor = rules.settings.max_row_factor
            audit(warehouse, to_audit, max_row_factor=max_row_factor, skip_row_count_check=skip_row_count_check)
            built.staging.publish(now=datetime.now(tz=UTC))
    until = max(built.until, reuse_plan.until or built.until) if changed else built.until
    seconds = time.perf_counter() - started
    return DayBuilt(
        day,
        built.calls,
        dict(built.staging.rows),
        seconds,
        until,
        built.unreadable_values,
        took_events_over=bool(scope.reusable_days),
        has_foreign_amounts=built.has_foreign_amounts,
        is_patch=bool(changed),
        orders_elsewhere=built.orders_elsewhere,
    )


@dataclass(frozen=True)
class StagedDay:
    """A day's tables, built and not yet published, with what the audit compares them with.

    `calls` is the number of calls read, `until` the time of the last one; `unreadable_values` counts JSON values that
    could not be read, by entry of the map and field. `orders_elsewhere` is a hash of the orders that were placed on
    another day.
    """

    staging: Staging
    carried_over: CarriedOver
    controls: ControlTotals
    calls: int
    unreadable_values: Counter[tuple[str, str]]
    until: datetime
    has_foreign_amounts: bool
    orders_elsewhere: int


def stage_day(
    warehouse: Warehouse,
    scope: BuildScope,
    rules: BuildRules,
    *,
    calls: int,
    tables: Sequence[DwhTable] | None = None,
    published: Mapping[str, int] | None = None,
    on_calls: Callable[[int], None] = lambda _: None,
) -> StagedDay:
    """Build a day's tables in staging, some shards at a time.

    `calls`: about how many the scope holds; `published`: the rows of each table as published, for a scope of sessions.

    Shards count orders independently of each other. Where two hold calls of one order, the day is staged once more,
    with the calls that are not the order's first.
    """
    tables = dwh_tables() if tables is None else tables
    stage = partial(_stage, warehouse, rules=rules, calls=calls, tables=tables, published=published, on_calls=on_calls)
    with holding_linked_calls(warehouse, scope) as held:
        return _stage_until_orders_agree(warehouse, _day_context(warehouse, held, rules, tables), stage)


def _stage_until_orders_agree(
    warehouse: Warehouse, context: DayContext, stage: Callable[[DayContext], StagedDay]
) -> StagedDay:
    """The day as staged; once more where two shards hold calls of one order, or calls of other days changed."""
    scope = context.scope
    for _ in range(_ORDER_PASSES):
        staged = stage(context)
        with staged.staging.dropped_on_failure():
            staged.staging.require_complete()
            orders = _checked_orders(warehouse, staged.staging)
            if orders.wrong_calls.is_empty():
                return replace(staged, orders_elsewhere=orders.elsewhere)
            if scope.session_ids is not None and not orders.wrong_sessions.is_in(scope.session_ids.implode()).all():
                raise KeptOrdersError(f"{scope.bounds.day}: orders of sessions that were kept count otherwise now")
        staged.staging.drop()
        context = replace(context, repeats=pl.concat([context.repeats, orders.wrong_calls]))
    raise ContractError(f"{scope.bounds.day}: other days' orders kept changing while it was built; build it again")


def _checked_orders(warehouse: Warehouse, staging: Staging) -> OrderCheck:
    if ORDER_CALLS not in staging.tables:
        return OrderCheck(0, NO_CALLS, pl.Series(dtype=pl.String))
    return check_order_calls(warehouse, staging.name(ORDER_CALLS.name), staging.day)


def _stage(
    warehouse: Warehouse,
    context: DayContext,
    rules: BuildRules,
    *,
    calls: int,
    tables: Sequence[DwhTable],
    published: Mapping[str, int] | None,
    on_calls: Callable[[int], None],
) -> StagedDay:
    scope = context.scope
    staging = Staging(warehouse, scope.bounds.day, tables, replaced=scope.sessions, published=published)
    kept = carried_over(warehouse, staging) if scope.sessions else {}
    controls = ControlTotals()

    def build(key: ShardKey, through: Warehouse) -> _ShardBuilt:
        shard = _build_shard(through, key, context, staging, controls)
        on_calls(shard.calls)
        return shard

    keys = ShardKey.of(scope, calls, shard_calls=rules.settings.shard_calls)
    shards = _each_through_a_connection(warehouse, keys, build, workers=rules.settings.workers)
    return StagedDay(
        staging,
        kept,
        controls,
        sum(shard.calls for shard in shards),
        sum((shard.unreadable_values for shard in shards), Counter()),
        max((shard.until for shard in shards if shard.until), default=_start(scope.bounds)),
        any(shard.has_foreign_amounts for shard in shards),
        orders_elsewhere=0,
    )


def _day_context(warehouse: Warehouse, scope: BuildScope, rules: BuildRules, tables: Sequence[DwhTable]) -> DayContext:
    needed = {input_ for table in tables for input_ in table.depends_on}
    return DayContext(
        scope,
        rules.session_rules,
        rules.user_agents.of_scope(warehouse, scope) if Input.SESSION_RULES in needed else pl.DataFrame(),
        read_product_versions(warehouse, rules.plan, scope.bounds) if Input.PRODUCT_HISTORY in needed else [],
        rules.currencies,
        repeats=NO_CALLS,
        lookups=read_lookups(warehouse, scope.endpoint_map, scope.bounds),
    )


@dataclass(frozen=True)
class _ShardBuilt:
    calls: int = 0
    unreadable_values: Counter[tuple[str, str]] = field(default_factory=Counter)
    until: datetime | None = None
    has_foreign_amounts: bool = False


def _each_through_a_connection(
    warehouse: Warehouse,
    keys: Sequence[ShardKey],
    build: Callable[[ShardKey, Warehouse], _ShardBuilt],
    *,
    workers: int,
) -> list[_ShardBuilt]:
    """Build the shards in threads, each of which uses a connection of its own; after an error none is begun."""
    workers = min(workers, len(keys))
    with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        connections = SimpleQueue[Warehouse]()
        for own in (warehouse, *(stack.enter_context(warehouse.new_connection()) for _ in range(workers - 1))):
            connections.put(own)

        def work(key: ShardKey) -> _ShardBuilt:
            connection = connections.get()
            try:
                return build(key, connection)
            finally:
                connections.put(connection)

        futures = [pool.submit(work, key) for key in keys]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _build_shard(
    warehouse: Warehouse, key: ShardKey, context: DayContext, staging: Staging, controls: ControlTotals
) -> _ShardBuilt:
    """Build the staged tables' rows of one shard."""
    node = warehouse.nodes[key.node]
    shard = read_shard(node, key)
    if shard is None:
        return _ShardBuilt()
    content = ShardContent.of(shard, context, through=node)
    controls.add(content.events)
    for table in staging.tables:
        for rows in BUILDERS[table.name](content):
            staging.append(table, rows, through=node)
    until = content.events["ts"].max()
    assert until is None or isinstance(until, datetime)
    return _ShardBuilt(shard.calls.height, content.unreadable, until, content.has_foreign_amounts)


@contextmanager
def _changed_sessions(
    warehouse: Warehouse,
    scope: BuildScope,
    reuse_plan: ReusePlan,
    *,
    tables: Sequence[DwhTable],
    day_calls: int,
) -> Iterator[ChangedSessions | None]:
    """The sessions to rebuild; None where the whole day is, as most of it changed or it is not as recorded."""
    quarter_hours = reuse_plan.quarter_hours
    if quarter_hours is None or not _is_as_recorded(warehouse, scope.bounds.day, reuse_plan.rows, tables):
        yield None
        return
    with find_changed_sessions(warehouse, scope, quarter_hours, around=reuse_plan.around) as changed:
        yield changed if changed and changed.calls <= _WHOLE_SHARE * day_calls else None


def _is_as_recorded(warehouse: Warehouse, day: date, rows: Mapping[str, int], tables: Sequence[DwhTable]) -> bool:
    """Whether the published tables hold as many rows as when they were built."""
    found = warehouse.counts({table.name: (table.full_name, table.is_day(day)) for table in tables})
    return all(found[table.name] == rows[table.name] for table in tables)


def _has_ended(warehouse: Warehouse, bounds: DayBounds) -> bool:
    """Whether there are calls of a later day; the clock does not matter."""
    sql = "SELECT toUnixTimestamp64Milli(max(ts)) >= {end:Int64} FROM pd.api_calls"
    return any(node.scalar(sql, {"end": bounds.end}) for node in warehouse.nodes)


def _start(bounds: DayBounds) -> datetime:
    return datetime.fromtimestamp(bounds.start / 1000, tz=UTC)


def _require_raw(warehouse: Warehouse, day: date, calls: int) -> None:
    """Raise ContractError for a day whose raw calls are past their retention: a rebuild would empty it."""
    if calls:
        return
    oldest = "(SELECT if(count() = 0, now64(3), min(ts)) FROM pd.api_calls)"
    if len(warehouse.nodes) > 1:
        moments = [node.scalar(f"SELECT toUnixTimestamp64Milli({oldest})") for node in warehouse.nodes]
        oldest = f"fromUnixTimestamp64Milli({min(moments)}, 'UTC')"
    sql = f"SELECT count() FROM dwh.events WHERE event_date = {{day:Date}} AND ts < {oldest}"
    lost = sum(node.scalar(sql, {"day": day}) for node in warehouse.nodes)
    if lost:
        raise ContractError(
            f"{day}: pd.api_calls no longer holds this day's calls, so the published day is left unchanged"
        )
