"""Takes one snapshot of the shop's database, recorded as one run."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.core import console
from app.core.errors import SettingsError, ShopError
from app.jobs.runs import recorded
from app.jobs.snapshot.schemas import Limits
from app.jobs.snapshot.tables import Snapshot, snapshot_tables
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import Settings
from app.shop import open_shop, require_shop
from app.warehouse import Warehouse
from app.warehouse.shop_views import refresh_shop_views


def take_snapshot(
    warehouse: Warehouse,
    settings: Settings,
    *,
    at: datetime | None = None,
    names: Sequence[str] = (),
    accept_deletes: bool = False,
    rebuild: bool = False,
) -> list[dict[str, Any]]:
    """Take one snapshot of the shop's database; returns each table's row of `etl.snapshots`, with its state.

    The history of a table that is refused or could not be read is unchanged, and the other tables are taken.
    """
    whole_plan = load_snapshot_plan(settings.snapshots)
    plan = whole_plan.select(names) if names else whole_plan
    now = datetime.now(tz=UTC)
    if at and at > now:
        raise SettingsError(f"--at {at.isoformat()} lies in the future")
    at = at or _after_the_last(warehouse, now)
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    require_shop(settings)
    snapshot = Snapshot(f"{at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}", at)
    limits = Limits(settings.max_deleted_share, accept_deletes=accept_deletes, rebuild=rebuild)
    with recorded(warehouse, "snapshot") as run:
        try:
            with open_shop(settings) as shop, _scratch(settings.scratch) as folder:
                done = snapshot_tables(
                    warehouse, shop, plan, snapshot, folder=folder, limits=limits, limit_s=settings.snapshot_timeout_s
                )
        except OSError as error:  # of the scratch directory: a full disk, no right to write
            raise ShopError(
                f"CARAT_SCRATCH={settings.scratch}: {error.strerror or error}. Free some space, or move it; what was "
                "not published is unchanged"
            ) from None
        refresh_shop_views(warehouse, whole_plan, settings.timezone)
        changes = (row["inserts"] + row["updates"] + row["deletes"] for row in done if not row["error"])
        run.count(rows_in=sum(row["rows"] for row in done), rows_out=sum(changes))
        failed = refusals(done)
        run.error = ShopError("; ".join(failed)) if failed else None
    return done


def _after_the_last(warehouse: Warehouse, now: datetime) -> datetime:
    """Now, or just after the last snapshot where the clock was set back since: snapshots go on all the same."""
    last = warehouse.query("SELECT max(at) AS at FROM etl.snapshots WHERE state = 'done' HAVING count() > 0")
    if last.is_empty() or last["at"][0] <= now:
        return now
    at: datetime = last["at"][0] + timedelta(milliseconds=1)
    console.log.warning("the clock is behind the last snapshot: this one is dated right after it", at=at.isoformat())
    return at


def refusals(taken: Sequence[dict[str, Any]]) -> list[str]:
    """Why tables of a snapshot were refused or could not be read, each with its name."""
    return [f"{row['table']}: {row['error']}" for row in taken if row["error"]]


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder of this process in the scratch directory; folders that killed processes left there are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("snapshot-*-*"):
        pid = left.name.split("-")[1]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"snapshot-{os.getpid()}-", dir=folder) as path:
        yield Path(path).resolve()
