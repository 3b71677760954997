"""The process of `carat serve` that holds the warehouse: it delivers the spool and does the hourly work.

A single thread does everything that writes. The dashboard page, and the queries of other commands to an embedded
warehouse, run in their own threads and read through `Reader`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from app.core import console, watchdog
from app.core.backoff import Backoff
from app.core.errors import CaratError, SettingsError, WarehouseGoneError
from app.intake.spool import seal_leftovers, sealed_segments
from app.jobs.build.backfill import build_stale
from app.jobs.hourly import run_hour
from app.jobs.load.delivery import Delivery, deliver_spool
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.query_socket import serve_queries

PURPOSE = "carat serve"
_HOUR = timedelta(hours=1)
_POLL_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LAST_DELIVERY_S = 10.0
_Result = TypeVar("_Result")
_Hold = Callable[[], AbstractContextManager[Warehouse]]


class Reader:
    """Reads the warehouse from any thread while the scheduler writes to it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: Warehouse | None = None

    def read(self, query: Callable[[Warehouse], _Result]) -> _Result:
        """Run a function that only reads, with its own connection.

        WarehouseGoneError if the scheduler has not opened the embedded warehouse yet.
        """
        if self._settings.has_server:
            with open_warehouse(self._settings, purpose=PURPOSE, writes=False) as warehouse:
                return query(warehouse)
        if self._opened is None:
            raise WarehouseGoneError("the warehouse is not open yet; try again in a moment")
        with self._opened.new_connection() as warehouse:
            return query(warehouse)

    @contextmanager
    def reading(self, warehouse: Warehouse) -> Iterator[None]:
        """Read this embedded warehouse, which the scheduler has opened."""
        self._opened = warehouse
        try:
            yield
        finally:
            self._opened = None


class Page(Protocol):
    """Shows the warehouse until `stopped` is set."""

    def __call__(self, reader: Reader, *, stopped: threading.Event) -> None: ...


def _now() -> datetime:
    return datetime.now(tz=UTC)


class HourlyClock:
    """Says when the next hourly work is due: at a full hour, and never more than an hour after the last.

    So a clock that was ahead and is set back does not keep the hours waiting until it has caught up.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = _now,
        elapsed_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._elapsed_s = elapsed_s
        self._due_at = datetime.min.replace(tzinfo=UTC)
        self._due_in_any_case_s = 0.0

    def is_due(self) -> bool:
        now = self._now()
        return now >= self._due_at or self._due_at - now > _HOUR or self._elapsed_s() >= self._due_in_any_case_s

    def note_done(self) -> None:
        """The work that was due is done, or has failed for this hour."""
        self._due_at = self._now().replace(minute=0, second=0, microsecond=0) + _HOUR
        self._due_in_any_case_s = self._elapsed_s() + _HOUR.total_seconds()


class Scheduler:
    """Delivers sealed segments, and does the hourly work at the start and at each full hour.

    The first calls of a new warehouse are built as soon as they are delivered.
    """

    def __init__(self, settings: Settings, *, stopped: threading.Event, page: Page | None = None) -> None:
        self._settings = settings
        self._stopped = stopped
        self._page = page
        self._reader = Reader(settings)
        self._hour = HourlyClock()
        self._is_new = False  # nothing was built yet, nor tried since the hourly work
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._paused_until = 0.0

    def run(self) -> None:
        """Work until stopped, then deliver once more. A server is locked only while there is work."""
        if self._page:
            threading.Thread(target=self._show, args=(self._page,), name="page", daemon=True).start()
        if self._settings.has_server:
            self._work(self._hold_server)
        else:
            path = self._settings.warehouse.local_path
            with (
                open_warehouse(self._settings, purpose=PURPOSE) as warehouse,
                self._reader.reading(warehouse),
                serve_queries(path, self._reader.read),
            ):
                self._work(lambda: nullcontext(warehouse))

    def _work(self, hold: _Hold) -> None:
        while not self._stopped.is_set():
            watchdog.progress()
            if time.monotonic() >= self._paused_until:
                self._attempt(hold)
            self._stopped.wait(_POLL_S)
        until = time.monotonic() + _LAST_DELIVERY_S
        if self._has_sealed():
            with hold() as warehouse:
                deliver_spool(warehouse, self._settings, is_stopped=lambda: time.monotonic() > until).require_done()

    def _attempt(self, hold: _Hold) -> None:
        """Do what is due now. After a failure, retry with exponential backoff or in the next hour."""
        try:
            if self._hour.is_due():
                with hold() as warehouse:
                    hour = run_hour(warehouse, self._settings, say=watchdog.status)
                    self._is_new = not hour.backfill.stale and not warehouse.scalar("SELECT count() FROM etl.ledger")
                self._hour.note_done()
                hour.require_done()
            elif self._has_sealed():
                with hold() as warehouse:
                    delivery = deliver_spool(warehouse, self._settings, is_stopped=self._has_other_work)
                    self._build_first(warehouse, delivery)
                delivery.require_done()
            self._backoff.reset()
        except SettingsError:
            raise
        except CaratError as error:
            pause_s = self._backoff.next_s()
            self._paused_until = time.monotonic() + pause_s
            console.log.warning("the work failed and is retried", error=str(error), retry_in_s=pause_s)

    def _build_first(self, warehouse: Warehouse, delivery: Delivery) -> None:
        """Build the first calls, at most once an hour: a failure is retried with the hourly work."""
        if self._is_new and delivery.totals.stored:
            self._is_new = False
            watchdog.status("building the first calls")
            build_stale(warehouse, self._settings).require_done()

    def _has_other_work(self) -> bool:
        return self._stopped.is_set() or self._hour.is_due()

    def _has_sealed(self) -> bool:
        seal_leftovers(self._settings.spool)
        return bool(sealed_segments(self._settings.spool))

    @contextmanager
    def _hold_server(self) -> Iterator[Warehouse]:
        with open_warehouse(self._settings, purpose=PURPOSE) as warehouse:
            yield warehouse

    def _show(self, page: Page) -> None:
        try:
            page(self._reader, stopped=self._stopped)
        except Exception as error:  # noqa: BLE001  the work continues without the page
            console.record_failure(error)
            console.log.error("the page ended", error=str(error))
