"""What the timer runs: load the spool, snapshot the shop's database, build what is stale; and what became of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import CaratError, ShopError, require_none
from app.jobs.build.backfill import Backfill, build_stale
from app.jobs.build.day import JOBS
from app.jobs.load.delivery import Delivery, deliver_spool
from app.jobs.run_log import Run
from app.jobs.runs import refusals, take_snapshot
from app.settings import Settings
from app.warehouse import Warehouse


@dataclass
class Hour:
    """What an hourly run did: what it delivered, rows of `etl.snapshots`, the days built, and what failed."""

    delivery: Delivery = field(default_factory=Delivery)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    backfill: Backfill = field(default_factory=Backfill)
    failures: list[CaratError] = field(default_factory=list)

    def require_done(self) -> None:
        """Raise what failed as one error."""
        require_none(self.failures)


def run_hour(warehouse: Warehouse, settings: Settings, *, say: Callable[[str], None] = lambda _: None) -> Hour:
    """One hour's work, however many hours were missed.

    Days are built even where the shop's database is away, or what was collected could not be delivered.
    """
    hour = Hour()
    run = Run(warehouse, "hourly")
    try:
        say("delivering what was collected")
        hour.delivery = deliver_spool(warehouse, settings, patience_s=settings.patience_s)
        hour.failures += [hour.delivery.failure] if hour.delivery.failure else []
        if settings.shop_db:
            say("snapshot of the shop's database")
            _snapshot(warehouse, settings, hour)
        say("building what is stale")
        hour.backfill = build_stale(warehouse, settings, jobs=JOBS)
        hour.failures += hour.backfill.failures
    except BaseException as error:
        run.end(error=error)
        raise
    run.end(
        rows_in=sum(day.calls for day in hour.backfill.built),
        rows_out=sum(sum(day.rows.values()) for day in hour.backfill.built),
        error=hour.failures[0] if hour.failures else None,
    )
    return hour


def _snapshot(warehouse: Warehouse, settings: Settings, hour: Hour) -> None:
    try:
        hour.snapshots = take_snapshot(warehouse, settings)
    except ShopError as error:
        hour.failures.append(error)
    hour.failures += map(ShopError, refusals(hour.snapshots))
