"""Delivers the collector's spool: once (`carat load`, the hourly run), or as it fills (`carat load --follow`)."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import stamina

from app.core import console, watchdog
from app.core.backoff import Backoff
from app.core.call_record import RecordLimits
from app.core.errors import (
    CaratError,
    ContractError,
    LockedError,
    SettingsError,
    SpoolError,
    WarehouseError,
    WarehouseGoneError,
)
from app.intake.spool import Segment, remove_old_deliveries, seal_leftovers, sealed_segments
from app.jobs.load import segments as deliver
from app.jobs.raw_calls import Ingested, ingest_summary
from app.jobs.run_log import Run
from app.jobs.runs import prepare
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.opening import LOADER

_LOOK_S = 1.0  # how often a follower looks whether something was sealed
_LONGEST_PASS_S = 10.0  # then others who wait for the warehouse get it first
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 60.0
_ANSWER_S = 300  # a warehouse that has not taken a chunk after so long is asked again


@dataclass
class Delivery:
    """What was delivered: segments and what became of their records; and why not all of it, if so."""

    segments: int = 0
    totals: Ingested = field(default_factory=Ingested)
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
        """Raise what kept it from being all."""
        if self.failure:
            raise self.failure
        return self


def deliver_spool(
    warehouse: Warehouse,
    settings: Settings,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    patience_s: float = 0,
) -> Delivery:
    """Deliver what is sealed now, recorded as one run, if there is anything.

    Where no collector runs, that is all that one has acknowledged; what a running one took in the last seconds
    (CARAT_SPOOL_SEGMENT_S) comes with the next delivery. While the warehouse does not answer, it is asked again for
    `patience_s`.
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
    run = Run(warehouse, "load")
    try:
        for attempt in stamina.retry_context(
            WarehouseGoneError, attempts=None if patience_s else 1, timeout=patience_s or None, wait_initial=0.5
        ):
            with attempt:
                _deliver(warehouse, settings, delivery, is_stopped)
    except (SpoolError, WarehouseError, ContractError) as error:
        delivery.failure = error
    except BaseException as error:
        _end(run, delivery, error)
        raise
    _end(run, delivery, delivery.failure)
    return delivery


def load_spool(
    settings: Settings,
    *,
    stopped: threading.Event | None = None,
    longest_s: float | None = None,
    is_prepared: bool = False,
) -> Delivery:
    """Deliver what is sealed now, holding the warehouse only where there is something, and only meanwhile.

    `is_prepared`: this process has seen to the tables before.
    """
    seal_leftovers(settings.spool)
    if not sealed_segments(settings.spool):
        return Delivery()
    until = time.monotonic() + longest_s if longest_s else float("inf")
    with open_warehouse(settings, purpose=LOADER, answer_s=_ANSWER_S) as warehouse:
        if not is_prepared:
            prepare(warehouse, settings)
        return deliver_spool(
            warehouse,
            settings,
            is_stopped=lambda: time.monotonic() > until or (stopped is not None and stopped.is_set()),
        )


def follow(settings: Settings, *, stopped: threading.Event) -> None:
    """Deliver whatever is sealed until told to stop; while the warehouse is gone or refuses, ask ever more rarely."""
    backoff = Backoff(_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S)
    is_prepared = False
    while not stopped.is_set():
        watchdog.progress()
        pause_s = _LOOK_S
        try:
            delivery = load_spool(
                settings, stopped=stopped, longest_s=_LONGEST_PASS_S, is_prepared=is_prepared
            ).require_done()
            if delivery.segments:
                is_prepared = True
                watchdog.status(f"delivered {delivery.segments} segments, {delivery.totals.records} records")
            backoff.reset()
        except LockedError as error:
            watchdog.status(f"waiting: {error}")
        except SettingsError:
            raise
        except CaratError as error:
            is_prepared = False  # it may have come back as another
            pause_s = backoff.next_s() * random.uniform(0.5, 1)  # noqa: S311  so that not all come back at once
            console.log.warning("the spool could not be delivered", error=str(error), again_in_s=round(pause_s, 1))
            watchdog.status(f"the spool could not be delivered: {error}")
        stopped.wait(pause_s)


def _deliver(warehouse: Warehouse, settings: Settings, delivery: Delivery, is_stopped: Callable[[], bool]) -> None:
    def note(_: Segment) -> None:
        delivery.segments += 1
        bar.advance(1)

    waiting = sealed_segments(settings.spool)
    with console.progress("load", len(waiting)) as bar:
        deliver.run(
            warehouse,
            waiting,
            now=datetime.now(tz=UTC),
            limits=RecordLimits(
                max(settings.collect_max_record_bytes, settings.max_record_bytes),
                settings.max_nesting,
                settings.addresses,
            ),
            totals=delivery.totals,
            on_delivered=note,
            is_stopped=is_stopped,
        )


def _end(run: Run, delivery: Delivery, error: BaseException | None) -> None:
    totals = delivery.totals
    run.end(rows_in=totals.records, rows_out=totals.stored, rejected=sum(totals.rejected.values()), error=error)
