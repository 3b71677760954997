"""The hourly run: loads the spool, takes a snapshot of the shop's database, builds what is stale."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import CaratError, ShopError, WarehouseError, require_none
from app.jobs.build.backfill import Backfill, build_stale
from app.jobs.load.delivery import Delivery, deliver_spool
from app.jobs.runs import recorded
from app.jobs.snapshot import refusals, take_snapshot
from app.settings import Settings
from app.warehouse import Warehouse

# What is left over waits for the next hour, so that no sender can keep today's calls from being built.
_LONGEST_DELIVERY_S = 15 * 60.0
_LONGEST_BUILD_S = 40 * 60.0


@dataclass
class Hour:
    """What an hourly run did: the delivery, rows of `etl.snapshots`, the days built, and what failed."""

    delivery: Delivery = field(default_factory=Delivery)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    backfill: Backfill = field(default_factory=Backfill)
    failures: list[CaratError] = field(default_factory=list)

    def require_done(self) -> None:
        """Raise the failures, if there are any, as one error."""
        require_none(self.failures)


def run_hour(warehouse: Warehouse, settings: Settings, *, say: Callable[[str], None] = lambda _: None) -> Hour:
    """Do one hour's work, however many hours were missed; `say` is called with each step.

    Days are built even if the shop's database is unreachable or the spool could not be delivered.
    """
    hour = Hour()
    with recorded(warehouse, "hourly") as run:
        say("delivering what was collected")
        until = time.monotonic() + _LONGEST_DELIVERY_S
        hour.delivery = deliver_spool(
            warehouse, settings, is_stopped=lambda: time.monotonic() > until, retry_timeout_s=settings.patience_s
        )
        hour.failures += [hour.delivery.failure] if hour.delivery.failure else []
        if settings.shop_db:
            say("snapshot of the shop's database")
            _snapshot(warehouse, settings, hour)
        say("building what is stale")
        hour.backfill = build_stale(warehouse, settings, longest_s=_LONGEST_BUILD_S)
        hour.failures += hour.backfill.failures
        built = hour.backfill.built
        run.count(rows_in=sum(day.calls for day in built), rows_out=sum(sum(day.rows.values()) for day in built))
        run.error = hour.failures[0] if hour.failures else None
    return hour


def _snapshot(warehouse: Warehouse, settings: Settings, hour: Hour) -> None:
    try:
        hour.snapshots = take_snapshot(warehouse, settings)
    except (ShopError, WarehouseError) as error:
        hour.failures.append(error)
    hour.failures += map(ShopError, refusals(hour.snapshots))
