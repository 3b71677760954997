"""Takes one snapshot of the shop's database, recorded as one run."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    at = (at or now).replace(microsecond=(at or now).microsecond // 1000 * 1000)
    if at > now:
        raise SettingsError(f"--at {at.isoformat()} lies in the future")
    require_shop(settings)
    snapshot = Snapshot(f"{at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}", at)
    limits = Limits(settings.max_deleted_share, accept_deletes=accept_deletes, rebuild=rebuild)
    with recorded(warehouse, "snapshot") as run:
        with open_shop(settings) as shop, _scratch(settings.scratch) as folder:
            done = snapshot_tables(
                warehouse, shop, plan, snapshot, folder=folder, limits=limits, limit_s=settings.snapshot_timeout_s
            )
        refresh_shop_views(warehouse, whole_plan, settings.timezone)
        changes = (row["inserts"] + row["updates"] + row["deletes"] for row in done if not row["error"])
        run.count(rows_in=sum(row["rows"] for row in done), rows_out=sum(changes))
        failed = refusals(done)
        run.error = ShopError("; ".join(failed)) if failed else None
    return done


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
