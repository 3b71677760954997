"""Job events: a shard's raw calls, typed and put into their sessions, to `dwh.events`."""

import uuid
from dataclasses import dataclass

import polars as pl

from app.contracts import EVENTS
from app.frames.events import TypedCalls, type_calls
from app.frames.sessionize import assign_sessions, first_of_each_call
from app.frames.sessions import counts_as_order
from app.jobs.build.shards import Scope, Shard, read_documents
from app.warehouse import Staging, Warehouse


@dataclass(frozen=True)
class ShardEvents:
    """The events of the sessions that begin on the day, in call order, and how many JSON values could not be read."""

    of_sessions: pl.DataFrame
    unreadable: int


def run(shard: Shard, staging: Staging, *, through: Warehouse, scope: Scope) -> ShardEvents:
    spans = scope.spans
    calls = assign_sessions(first_of_each_call(shard.calls), shard.earlier, spans=spans, timeout_ms=scope.timeout_ms)
    if scope.session_ids is not None:
        calls = calls.filter(pl.col("session_id").is_in(scope.session_ids.implode()))

    typed = _typed(calls, shard, scope, through)
    events = typed.calls.with_columns(is_counted_order=counts_as_order(), session_date=pl.lit(spans.day))
    of_day = events.filter(pl.col("ts").dt.epoch("ms") < spans.end).with_columns(event_date=pl.lit(spans.day))

    if EVENTS.name in staging.rows:
        staging.append(EVENTS, of_day.select(EVENTS.schema.names()), through=through)
    return ShardEvents(events.filter("starts_today"), typed.unreadable)


def _typed(calls: pl.DataFrame, shard: Shard, scope: Scope, through: Warehouse) -> TypedCalls:
    """The calls with their event and its fields: parsed from their JSON, or taken over from an earlier build."""
    if not scope.reusable_days:
        return type_calls(calls, shard.documents, endpoint_map=scope.endpoint_map)
    calls = calls.with_row_index("order")
    known = calls.join(shard.typed, on=["call_id", "content_hash"])
    new = calls.join(shard.typed, on=["call_id", "content_hash"], how="anti")
    if new.is_empty():
        return TypedCalls(known.sort("order").drop("order"), 0)
    new, documents = read_documents(through, new, scope.endpoint_map, aside=f"etl.unread_{uuid.uuid4().hex}")
    parsed = type_calls(new, documents, endpoint_map=scope.endpoint_map)
    both = pl.concat([parsed.calls, known.select(parsed.calls.columns)]).sort("order").drop("order")
    return TypedCalls(both, parsed.unreadable)
