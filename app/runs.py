"""The order in which jobs run, each run recorded in `etl.runs`: ingest sources, build what is stale."""

import time
import uuid
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from app import console
from app.contracts import RUNS
from app.errors import CaratError
from app.jobs import ingest as ingest_job
from app.jobs.build import DayBuilt, build_day
from app.ledger import StaleDay, inputs_now, record_built, stale_days
from app.settings import Settings
from app.sources import STDIN, total_bytes
from app.tracking import load_endpoint_map
from app.warehouse import Warehouse, migrate, recover


def prepare(warehouse: Warehouse, settings: Settings) -> None:
    """Make sure the tables are there, and finish what a killed process left half-done."""
    migrate(warehouse, settings)
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
    inputs = inputs_now(warehouse, settings, endpoint_map)
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
