"""Builds one business day: shard by shard through the jobs into staging, then checks and publishes it as a whole."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from app.contracts import DWH_TABLES
from app.errors import ContractError
from app.frames.browsing import browse
from app.frames.days import day_spans
from app.jobs import catalog_sessions, events, product_sessions, sessions
from app.jobs.shards import count_calls, read_shards
from app.settings import Settings
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
    jobs: Sequence[str] = JOBS,
    on_calls: Callable[[int], None] = lambda _: None,
) -> DayBuilt:
    """Build the named tables of one day and publish them; what is published stays as it was if anything fails."""
    started = time.perf_counter()
    spans = day_spans(day, settings.zone)
    tables = [table for table in DWH_TABLES if table.name in jobs]
    calls = count_calls(warehouse, spans)
    _require_raw(warehouse, day, calls)
    staging = Staging(warehouse, day, tables)
    unreadable = 0
    for shard in read_shards(
        warehouse,
        spans,
        endpoint_map=endpoint_map,
        timeout_ms=settings.session_timeout_ms,
        day_calls=calls,
        shard_calls=settings.shard_calls,
    ):
        shard_events = events.run(shard, staging, spans=spans, endpoint_map=endpoint_map, timeout_ms=settings.session_timeout_ms)
        unreadable += shard_events.unreadable
        if "sessions" in jobs:
            sessions.run(shard_events.of_sessions, staging)
        if {"catalog_sessions", "product_sessions"} & set(jobs):
            browsing = browse(shard_events.of_sessions)
            if "catalog_sessions" in jobs:
                catalog_sessions.run(browsing, staging)
            if "product_sessions" in jobs:
                product_sessions.run(browsing, shard_events.of_sessions, staging)
        on_calls(shard.calls.height)
    staging.require_complete()
    publish(warehouse, day, [table.name for table in tables], now=datetime.now(tz=UTC))
    return DayBuilt(day, calls, dict(staging.rows), unreadable, time.perf_counter() - started)


def _require_raw(warehouse: Warehouse, day: date, calls: int) -> None:
    """A day whose raw calls are past their retention must not be emptied by building it again."""
    if calls:
        return
    published = warehouse.scalar("SELECT count() FROM dwh.events WHERE event_date = {day:Date}", {"day": day})
    oldest = warehouse.scalar("SELECT toDate(min(ts)) FROM pd.api_calls HAVING count() > 0 UNION ALL SELECT today() LIMIT 1")
    if published and day < oldest:
        raise ContractError(f"{day}: pd.api_calls no longer holds this day's calls, so what is published is kept as it is")
