"""The one process of `carat serve` that owns the warehouse: it delivers the spool and does the hourly work.

All that writes is done by one thread, one thing after the other. A page that shows the warehouse, and what answers
other commands' queries of an embedded one, run beside it in threads of their own, and read by `Reader`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from app.core import console, watchdog
from app.core.errors import CaratError, SettingsError, WarehouseGoneError
from app.intake.spool import seal_what_was_left, sealed_segments
from app.jobs.build.backfill import build_stale
from app.jobs.hourly import run_hour
from app.jobs.load.delivery import Delivery, deliver_spool
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.query_socket import answering

PURPOSE = "carat serve"
_LOOK_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LAST_DELIVERY_S = 10.0
_Answer = TypeVar("_Answer")
_Hold = Callable[[], AbstractContextManager[Warehouse]]


class Reader:
    """Reads the warehouse from any thread while the keeper works on it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._owned: Warehouse | None = None

    def read(self, question: Callable[[Warehouse], _Answer]) -> _Answer:
        """What the question, a function of queries alone, answers by a connection that is its own.

        WarehouseGoneError while the keeper has not opened an embedded warehouse.
        """
        if self._settings.has_server:
            with open_warehouse(self._settings, purpose=PURPOSE, writes=False) as warehouse:
                return question(warehouse)
        if self._owned is None:
            raise WarehouseGoneError("the warehouse is not open yet; try again in a moment")
        with self._owned.new_connection() as warehouse:
            return question(warehouse)

    @contextmanager
    def over(self, warehouse: Warehouse) -> Iterator[None]:
        """Read this embedded warehouse, which the keeper has opened."""
        self._owned = warehouse
        try:
            yield
        finally:
            self._owned = None


class Page(Protocol):
    """Shows the warehouse until told to stop."""

    def __call__(self, reader: Reader, *, stopped: threading.Event) -> None: ...


class Keeper:
    """Delivers what is sealed, and does an hour's work at the beginning and at each full hour.

    The first calls of a new warehouse are built as soon as they are delivered.
    """

    def __init__(self, settings: Settings, *, stopped: threading.Event, page: Page | None = None) -> None:
        self._settings = settings
        self._stopped = stopped
        self._page = page
        self._reader = Reader(settings)
        self._hour_due_at = datetime.min.replace(tzinfo=UTC)
        self._is_new = False  # nothing was built yet, nor tried since the hour's work
        self._pause_s = 0.0
        self._paused_until = 0.0

    def run(self) -> None:
        """Work until told to stop, and then deliver once more. A server is held while there is work, no longer."""
        if self._page:
            threading.Thread(target=self._show, args=(self._page,), name="page", daemon=True).start()
        if self._settings.has_server:
            self._work(self._hold_server)
        else:
            path = self._settings.warehouse.local_path
            with (
                open_warehouse(self._settings, purpose=PURPOSE) as warehouse,
                self._reader.over(warehouse),
                answering(path, self._reader.read),
            ):
                self._work(lambda: nullcontext(warehouse))

    def _work(self, hold: _Hold) -> None:
        while not self._stopped.is_set():
            watchdog.progress()
            if time.monotonic() >= self._paused_until:
                self._attempt(hold)
            self._stopped.wait(_LOOK_S)
        until = time.monotonic() + _LAST_DELIVERY_S
        if self._has_sealed():
            with hold() as warehouse:
                deliver_spool(warehouse, self._settings, is_stopped=lambda: time.monotonic() > until).require_done()

    def _attempt(self, hold: _Hold) -> None:
        """Do what is to be done now; what fails is tried again, after ever longer pauses, or in the next hour."""
        try:
            if self._is_hour_due():
                with hold() as warehouse:
                    hour = run_hour(warehouse, self._settings, say=watchdog.status)
                    self._is_new = not hour.backfill.stale and not warehouse.scalar("SELECT count() FROM etl.ledger")
                self._hour_due_at = _next_hour(datetime.now(tz=UTC))
                hour.require_done()
            elif self._has_sealed():
                with hold() as warehouse:
                    delivery = deliver_spool(warehouse, self._settings, is_stopped=self._has_other_work)
                    self._build_first(warehouse, delivery)
                delivery.require_done()
            self._pause_s = 0.0
        except SettingsError:
            raise
        except CaratError as error:
            self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            self._paused_until = time.monotonic() + self._pause_s
            console.log.warning("not everything could be done", error=str(error), again_in_s=self._pause_s)

    def _build_first(self, warehouse: Warehouse, delivery: Delivery) -> None:
        """Build the first calls, once an hour at most: what fails is tried again with the hour's work."""
        if self._is_new and delivery.totals.stored:
            self._is_new = False
            watchdog.status("building the first calls")
            build_stale(warehouse, self._settings).require_done()

    def _is_hour_due(self) -> bool:
        return datetime.now(tz=UTC) >= self._hour_due_at

    def _has_other_work(self) -> bool:
        return self._stopped.is_set() or self._is_hour_due()

    def _has_sealed(self) -> bool:
        seal_what_was_left(self._settings.spool)
        return bool(sealed_segments(self._settings.spool))

    @contextmanager
    def _hold_server(self) -> Iterator[Warehouse]:
        with open_warehouse(self._settings, purpose=PURPOSE) as warehouse:
            yield warehouse

    def _show(self, page: Page) -> None:
        try:
            page(self._reader, stopped=self._stopped)
        except Exception as error:  # noqa: BLE001  the work goes on without it
            console.record_failure(error)
            console.log.error("the page ended", error=str(error))


def _next_hour(now: datetime) -> datetime:
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
