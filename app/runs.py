"""The order in which jobs run, each run recorded in `etl.runs`: ingest sources, build what is stale."""

import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from app import console
from app.contracts import RUNS
from app.errors import CaratError, SettingsError, ShopError
from app.jobs import ingest as ingest_job
from app.jobs.build import DayBuilt, build_day
from app.jobs.snapshot import Limits, Snapshot, snapshot_tables
from app.ledger import StaleDay, inputs_now, record_built, stale_days
from app.settings import Settings
from app.shop import open_shop, require_shop
from app.snapshot_plan import load_snapshot_plan
from app.sources import STDIN, total_bytes
from app.tracking import load_endpoint_map
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
) -> ingest_job.Ingested:
    """Ingest the sources one after the other, recorded as one run; `now` is the clock's unless a past is replayed."""
    run = _Run(warehouse, "ingest")
    totals = ingest_job.Ingested()
    done_bytes = 0
    with console.progress("ingest", total_bytes(paths)) as bar:
        try:
            for path in paths:
                ingest_job.run(
                    warehouse,
                    path,
                    now=now or datetime.now(tz=UTC),
                    max_record_bytes=settings.max_record_bytes,
                    totals=totals,
                    on_bytes=lambda at, before=done_bytes: bar.reach(before + at),  # type: ignore[misc]
                )
                done_bytes += 0 if path == STDIN else Path(path).stat().st_size
        except BaseException as error:
            run.end(rows_in=totals.records, rows_out=totals.stored, rejected=sum(totals.rejected.values()), error=error)
            raise
    run.end(rows_in=totals.records, rows_out=totals.stored, rejected=sum(totals.rejected.values()))
    return totals


def ingest_summary(totals: ingest_job.Ingested) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(totals.rejected.items()))
    rejected = f"{sum(totals.rejected.values()):,} rejected" + (f" ({reasons}; see etl.rejects)" if reasons else "")
    return f"{totals.records:,} records: {totals.stored:,} stored, {totals.duplicates:,} already there, {rejected}"


def build_stale(
    warehouse: Warehouse,
    settings: Settings,
    *,
    span: tuple[date | None, date | None],
    jobs: tuple[str, ...],
    force: bool = False,
    dry_run: bool = False,
) -> tuple[list[StaleDay], list[DayBuilt]]:
    """The stale days in the span, oldest first, and what became of those that were built."""
    endpoint_map = load_endpoint_map(settings.tracking)
    plan = load_snapshot_plan(settings.snapshots)
    inputs = inputs_now(warehouse, settings, endpoint_map, plan)
    first, last = span[0] or date.min, span[1] or date.max
    stale = [s for s in stale_days(warehouse, inputs, jobs=jobs, force=force) if first <= s.day <= last]
    built: list[DayBuilt] = []
    if dry_run or not stale:
        return stale, built
    own_calls = int(inputs.filter(pl.col("day").is_in([s.day for s in stale]))["calls"].sum()) // 3
    with console.progress("etl", own_calls) as bar:
        for day in stale:
            bar.label(f"etl {day.day}")
            run = _Run(warehouse, "etl", day=day.day)
            try:
                result = build_day(
                    warehouse,
                    day.day,
                    settings=settings,
                    endpoint_map=endpoint_map,
                    plan=plan,
                    jobs=day.jobs,
                    on_calls=bar.advance,
                )
            except BaseException as error:
                run.end(error=error)
                raise
            now = datetime.now(tz=UTC)
            record_built(warehouse, inputs, day=day.day, jobs=day.jobs, unreadable=result.unreadable, now=now)
            run.end(rows_in=result.calls, rows_out=sum(result.rows.values()), rejected=result.unreadable)
            built.append(result)
    return stale, built


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
    run = _Run(warehouse, "snapshot")
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
    failed = [f"{row['table']}: {row['error']}" for row in done if row["error"]]
    run.end(
        rows_in=sum(row["rows"] for row in done),
        rows_out=sum(row["inserts"] + row["updates"] + row["deletes"] for row in done if not row["error"]),
        error=ShopError("; ".join(failed)) if failed else None,
    )
    return done


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="snapshot-", dir=folder) as path:
        yield Path(path).resolve()


class _Run:
    """A row of `etl.runs` in the making."""

    def __init__(self, warehouse: Warehouse, job: str, *, day: date | None = None) -> None:
        self._warehouse = warehouse
        self._row: dict[str, Any] = {
            "run_id": uuid.uuid4().hex,
            "job": job,
            "day": day,
            "started_at": datetime.now(tz=UTC),
        }
        self._clock = time.perf_counter()

    def end(
        self, *, rows_in: int = 0, rows_out: int = 0, rejected: int = 0, error: BaseException | None = None
    ) -> None:
        self._row |= {
            "ended_at": datetime.now(tz=UTC),
            "state": "failed" if error else "done",
            "rows_in": rows_in,
            "rows_out": rows_out,
        }
        self._row |= {
            "rows_rejected": rejected,
            "seconds": time.perf_counter() - self._clock,
            "error": str(error or ""),
        }
        try:
            self._warehouse.insert(RUNS, pl.DataFrame([self._row], schema=RUNS.schema))
        except CaratError:
            if error is None:
                raise
        console.log.info(self._row["job"], **{name: value for name, value in self._row.items() if name != "job"})
