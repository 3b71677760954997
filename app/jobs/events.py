"""Job events: a shard's raw calls, typed and put into their sessions, to `dwh.events`."""

from dataclasses import dataclass

import polars as pl

from app.contracts import EVENTS
from app.frames.days import DaySpans
from app.frames.events import type_calls
from app.frames.sessionize import assign_sessions, first_of_each_call
from app.frames.sessions import counts_as_order
from app.jobs.shards import Shard
from app.tracking import EndpointMap
from app.warehouse import Staging, Warehouse


@dataclass(frozen=True)
class ShardEvents:
    """The events of the sessions that begin on the day, in call order, and how many JSON values could not be read."""

    of_sessions: pl.DataFrame
    unreadable: int


def run(
    shard: Shard, staging: Staging, *, through: Warehouse, spans: DaySpans, endpoint_map: EndpointMap, timeout_ms: int
) -> ShardEvents:
    calls = assign_sessions(first_of_each_call(shard.calls), shard.earlier, spans=spans, timeout_ms=timeout_ms)

    typed = type_calls(calls, shard.documents, endpoint_map=endpoint_map)
    events = typed.calls.with_columns(is_counted_order=counts_as_order(), session_date=pl.lit(spans.day))
    of_day = events.filter(pl.col("ts").dt.epoch("ms") < spans.end).with_columns(event_date=pl.lit(spans.day))

    if EVENTS.name in staging.rows:
        staging.append(EVENTS, of_day.select(EVENTS.schema.names()), through=through)
    return ShardEvents(events.filter("starts_today"), typed.unreadable)
