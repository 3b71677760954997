"""Builds one business day: its shards through the jobs into staging, then checked and published as a whole."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime
from queue import SimpleQueue

import polars as pl

from app.contracts import DWH_TABLES, PRODUCT_SESSIONS
from app.errors import ContractError
from app.frames.browsing import browse
from app.frames.days import DaySpans, day_spans
from app.jobs import catalog_sessions, events, product_sessions, sessions
from app.jobs.product_history import read_product_versions
from app.jobs.shards import count_calls, read_shard, shard_count
from app.settings import Settings
from app.snapshot_plan import SnapshotPlan
from app.tracking import EndpointMap
from app.warehouse import Staging, Warehouse, publish

JOBS = tuple(table.name for table in DWH_TABLES)


@dataclass(frozen=True)
class DayBuilt:
    """What became of a day: raw calls in, rows out per table, JSON values that could not be read, seconds."""

    day: date
    calls: int
    rows: dict[str, int]
    unreadable: int
    seconds: float


def build_day(
    warehouse: Warehouse,
    day: date,
    *,
    settings: Settings,
    endpoint_map: EndpointMap,
    plan: SnapshotPlan,
    jobs: Sequence[str] = JOBS,
    on_calls: Callable[[int], None] = lambda _: None,
) -> DayBuilt:
    """Build the named tables of one day and publish them; what is published stays as it was if anything fails."""
    started = time.perf_counter()
    spans = day_spans(day, settings.zone)
    calls = count_calls(warehouse, spans)
    _require_raw(warehouse, day, calls)
    tables = [table for table in DWH_TABLES if table.name in jobs]
    versions = read_product_versions(warehouse, plan, spans) if PRODUCT_SESSIONS in tables else []
    staging = Staging(warehouse, day, tables)

    count = shard_count(calls, shard_calls=settings.shard_calls)
    workers = min(settings.workers, count)
    with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        connections = SimpleQueue[Warehouse]()
        for connection in (warehouse, *(stack.enter_context(warehouse.another()) for _ in range(workers - 1))):
            connections.put(connection)

        def build(number: int) -> int:
            connection = connections.get()
            try:
                shard_calls, unreadable = _build_shard(
                    connection,
                    staging,
                    number,
                    count,
                    spans=spans,
                    settings=settings,
                    endpoint_map=endpoint_map,
                    versions=versions,
                    jobs=jobs,
                )
            finally:
                connections.put(connection)
            on_calls(shard_calls)
            return unreadable

        futures = [pool.submit(build, number) for number in range(count)]
        try:
            unreadable = sum(future.result() for future in futures)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise

    staging.require_complete()
    publish(warehouse, day, [table.name for table in tables], now=datetime.now(tz=UTC))
    return DayBuilt(day, calls, dict(staging.rows), unreadable, time.perf_counter() - started)


def _build_shard(
    warehouse: Warehouse,
    staging: Staging,
    number: int,
    count: int,
    *,
    spans: DaySpans,
    settings: Settings,
    endpoint_map: EndpointMap,
    versions: Sequence[pl.DataFrame],
    jobs: Sequence[str],
) -> tuple[int, int]:
    """Run the jobs over one shard; the calls it held, and the JSON values of them that could not be read."""
    timeout_ms = settings.session_timeout_ms
    shard = read_shard(warehouse, number, count, spans=spans, endpoint_map=endpoint_map, timeout_ms=timeout_ms)
    if shard is None:
        return 0, 0
    built = events.run(shard, staging, through=warehouse, spans=spans, endpoint_map=endpoint_map, timeout_ms=timeout_ms)
    if "sessions" in jobs:
        sessions.run(built.of_sessions, staging, through=warehouse)
    if {"catalog_sessions", "product_sessions"} & set(jobs):
        browsing = browse(built.of_sessions)
        if "catalog_sessions" in jobs:
            catalog_sessions.run(browsing, staging, through=warehouse)
        if "product_sessions" in jobs:
            product_sessions.run(browsing, built.of_sessions, staging, through=warehouse, versions=versions)
    return shard.calls.height, built.unreadable


def _require_raw(warehouse: Warehouse, day: date, calls: int) -> None:
    """A day whose raw calls are past their retention must not be emptied by building it again."""
    if calls:
        return
    published = warehouse.scalar("SELECT count() FROM dwh.events WHERE event_date = {day:Date}", {"day": day})
    oldest = warehouse.scalar("SELECT if(count() = 0, today(), toDate(min(ts))) FROM pd.api_calls")
    if published and day < oldest:
        raise ContractError(
            f"{day}: pd.api_calls no longer holds this day's calls, so what is published is kept as it is"
        )
