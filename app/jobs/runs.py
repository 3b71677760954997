"""Runs of ingest and snapshot, each recorded in `etl.runs`, and what every command that writes begins with."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.core import console
from app.core.call_record import RecordLimits
from app.core.errors import SettingsError, ShopError
from app.intake.files import STDIN, total_bytes
from app.jobs import ingest as ingest_job
from app.jobs.raw_calls import Ingested
from app.jobs.run_log import Run
from app.jobs.snapshot import Limits, Snapshot, snapshot_tables
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import Settings
from app.shop import open_shop, require_shop
from app.warehouse import Warehouse, migrate, recover, recover_snapshots


def prepare(warehouse: Warehouse, settings: Settings) -> None:
    """Make sure the tables are there, and finish what a killed process left half-done."""
    migrate(warehouse, settings)
    for table in recover_snapshots(warehouse):
        console.log.warning("finished a snapshot after an interruption", table=table)
    for day in recover(warehouse):
        console.log.warning("published again after an interruption", day=str(day))


def ingest_paths(
    warehouse: Warehouse, settings: Settings, paths: list[str], *, now: datetime | None = None
) -> Ingested:
    """Ingest the sources one after the other, recorded as one run; `now` is the clock's unless a past is replayed."""
    run = Run(warehouse, "ingest")
    totals = Ingested()
    done_bytes = 0
    with console.progress("ingest", total_bytes(paths)) as bar:
        try:
            for path in paths:
                ingest_job.run(
                    warehouse,
                    path,
                    now=now or datetime.now(tz=UTC),
                    totals=totals,
                    limits=RecordLimits(settings.max_record_bytes, settings.max_nesting, settings.addresses),
                    on_bytes=lambda at, before=done_bytes: bar.reach(before + at),  # type: ignore[misc]
                )
                done_bytes += 0 if path == STDIN else Path(path).stat().st_size
        except BaseException as error:
            run.end(rows_in=totals.records, rows_out=totals.stored, rejected=sum(totals.rejected.values()), error=error)
            raise
    run.end(rows_in=totals.records, rows_out=totals.stored, rejected=sum(totals.rejected.values()))
    return totals


def take_snapshot(
    warehouse: Warehouse,
    settings: Settings,
    *,
    at: datetime | None = None,
    names: Sequence[str] = (),
    accept_deletes: bool = False,
    rebuild: bool = False,
) -> list[dict[str, Any]]:
    """Take one snapshot of the shop's database; per table its row of `etl.snapshots`, with its state.

    A table that is refused or could not be read changes nothing, and does not keep the others from being taken.
    """
    plan = load_snapshot_plan(settings.snapshots)
    plan = plan.select(names) if names else plan
    now = datetime.now(tz=UTC)
    at = (at or now).replace(microsecond=(at or now).microsecond // 1000 * 1000)
    if at > now:
        raise SettingsError(f"--at {at.isoformat()} lies in the future")
    require_shop(settings)
    run = Run(warehouse, "snapshot")
    snapshot = Snapshot(f"{at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}", at)
    limits = Limits(settings.max_deleted_share, accept_deletes=accept_deletes, rebuild=rebuild)
    try:
        with open_shop(settings) as shop, _scratch(settings.scratch) as folder:
            done = snapshot_tables(
                warehouse, shop, plan, snapshot, folder=folder, limits=limits, limit_s=settings.snapshot_timeout_s
            )
    except BaseException as error:
        run.end(error=error)
        raise
    failed = refusals(done)
    run.end(
        rows_in=sum(row["rows"] for row in done),
        rows_out=sum(row["inserts"] + row["updates"] + row["deletes"] for row in done if not row["error"]),
        error=ShopError("; ".join(failed)) if failed else None,
    )
    return done


def refusals(taken: Sequence[dict[str, Any]]) -> list[str]:
    """Why tables of a snapshot were refused or could not be read, each with its name."""
    return [f"{row['table']}: {row['error']}" for row in taken if row["error"]]


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder of this process in the scratch directory; those that killed processes left behind are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("snapshot-*-*"):
        pid = left.name.split("-")[1]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"snapshot-{os.getpid()}-", dir=folder) as path:
        yield Path(path).resolve()
