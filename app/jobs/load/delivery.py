"""Delivers the sealed segments of the collector's spool to `pd.api_calls`, each call once, and to `etl.rejects`.

Each chunk of a segment is stored under a token of its own, so it can be sent again after any failure: calls that are
stored are found by their call_id, and inserts that are still running by the token.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import polars as pl

from app.core import console
from app.core.call_record import RecordLimits
from app.core.errors import CaratError, ContractError, SpoolError, WarehouseError, WarehouseGoneError
from app.core.retry import attempts
from app.intake.spool import Segment, acknowledge, remove_old_deliveries, seal_leftovers, sealed_segments
from app.jobs.forget.identifiers import Identifiers, merged
from app.jobs.forget.spool import redact_delivered
from app.jobs.load.segments import CHUNK_BYTES, CHUNK_RECORDS, Chunk, read_chunks
from app.jobs.raw_calls import LoadResult, ingest_summary, known_calls, store
from app.jobs.runs import recorded
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.opening import LOADER

_QUERY_TIMEOUT_S = 300  # a warehouse that has not stored a chunk by then is asked again
_MAX_GROUPED_CHUNKS = 64  # small segments share the search for known calls, which asks each filter


@dataclass
class Delivery:
    """What was delivered: segments, what became of their records, and why the rest was not, if there is a rest."""

    segments: int = 0
    totals: LoadResult = field(default_factory=LoadResult)
    failure: CaratError | None = None

    @property
    def report(self) -> dict[str, object]:
        return {
            "segments": self.segments,
            "records": self.totals.records,
            "stored": self.totals.stored,
            "duplicates": self.totals.duplicates,
            "rejected": self.totals.rejected,
        }

    @property
    def summary(self) -> str:
        return f"{self.segments:,} segments, {ingest_summary(self.totals)}"

    def require_done(self) -> "Delivery":
        """Raise the failure, if there is one."""
        if self.failure:
            raise self.failure
        return self


def load_spool(
    settings: Settings,
    *,
    stopped: threading.Event | None = None,
    longest_s: float | None = None,
    is_prepared: bool = False,
) -> Delivery:
    """Deliver what is sealed now; the warehouse is held only while there is something to deliver.

    `is_prepared`: this process has prepared the warehouse before.
    """
    seal_leftovers(settings.spool)
    if not sealed_segments(settings.spool):
        return Delivery()
    until = time.monotonic() + longest_s if longest_s else float("inf")
    with open_warehouse(
        settings, purpose=LOADER, query_timeout_s=_QUERY_TIMEOUT_S, prepare=not is_prepared
    ) as warehouse:
        return deliver_spool(
            warehouse,
            settings,
            is_stopped=lambda: time.monotonic() > until or (stopped is not None and stopped.is_set()),
        )


def deliver_spool(
    warehouse: Warehouse,
    settings: Settings,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    retry_timeout_s: float = 0,
) -> Delivery:
    """Deliver what is sealed now, recorded as one run if there is anything.

    Where no collector runs, that is all that one has acknowledged; what a running collector took in the last seconds
    (CARAT_SPOOL_SEGMENT_S) comes with the next delivery. An unreachable warehouse is retried for `retry_timeout_s`.
    """
    delivery = Delivery()
    try:
        seal_leftovers(settings.spool)
        remove_old_deliveries(settings.spool, keep_s=settings.spool_keep_hours * 3600)
        if not sealed_segments(settings.spool):
            return delivery
    except SpoolError as error:
        delivery.failure = error
        return delivery
    with recorded(warehouse, "load") as run:
        try:
            for attempt in attempts(WarehouseGoneError, timeout_s=retry_timeout_s):
                with attempt:
                    _deliver_sealed(warehouse, settings, delivery, is_stopped)
        except (SpoolError, WarehouseError, ContractError) as error:
            delivery.failure = run.error = error
        finally:
            totals = delivery.totals
            run.count(rows_in=totals.records, rows_out=totals.stored, rejected=totals.rejects)
    return delivery


def _deliver_sealed(
    warehouse: Warehouse, settings: Settings, delivery: Delivery, is_stopped: Callable[[], bool]
) -> None:
    def note(_: Segment) -> None:
        delivery.segments += 1
        bar.advance(1)

    waiting = sealed_segments(settings.spool)
    with console.progress("load", len(waiting)) as bar:
        deliver_segments(
            warehouse,
            waiting,
            now=datetime.now(tz=UTC),
            limits=replace(
                settings.record_limits,
                max_record_bytes=max(settings.collect_max_record_bytes, settings.max_record_bytes),
            ),
            totals=delivery.totals,
            on_delivered=note,
            is_stopped=is_stopped,
        )


def deliver_segments(
    warehouse: Warehouse,
    segments: Sequence[Segment],
    *,
    now: datetime,
    limits: RecordLimits,
    totals: LoadResult,
    on_delivered: Callable[[Segment], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Deliver these segments in order and add the results to `totals`; `on_delivered` is called after each.

    Raises SpoolError for segments that could not be read, after the others are delivered.
    """
    unreadable: list[str] = []
    named = defaultdict[str, list[Identifiers]](list)
    for chunks in _grouped(read_chunks(segments, limits, unreadable)):
        call_ids = pl.concat([chunk.batch.calls["call_id"] for chunk in chunks])
        known = known_calls(warehouse, call_ids) if call_ids.is_unique().all() else None

        for chunk in chunks:
            done = store(warehouse, chunk.batch, source=chunk.source, now=now, token=chunk.token, known=known)
            totals.add(done)
            named[chunk.segment.name].append(done.forgotten)
            if chunk.is_last:
                acknowledge(chunk.segment)
                # The segment is kept for a while, and held what the warehouse did not take.
                redact_delivered(chunk.segment, merged(named.pop(chunk.segment.name)))
                on_delivered(chunk.segment)
        if is_stopped():
            break
    if unreadable:
        raise SpoolError("; ".join(unreadable))


def _grouped(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in groups, each little larger than one chunk may be."""
    group: list[Chunk] = []
    for chunk in chunks:
        group.append(chunk)
        size = sum(chunk.batch.calls.estimated_size() for chunk in group)
        is_full = sum(chunk.records for chunk in group) >= CHUNK_RECORDS or size >= CHUNK_BYTES
        if is_full or len(group) >= _MAX_GROUPED_CHUNKS:
            yield group
            group = []
    if group:
        yield group
