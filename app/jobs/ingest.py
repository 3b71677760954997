"""Loads call records from files or stdin into `pd.api_calls`, each call once; invalid ones go to `etl.rejects`."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from app.core import console
from app.core.call_record import RecordLimits
from app.intake.files import STDIN, read_batches, total_bytes
from app.jobs.raw_calls import LoadResult, store
from app.jobs.runs import recorded
from app.settings import Settings
from app.warehouse import Warehouse

_DEFAULT_LIMITS = RecordLimits()


def ingest_paths(
    warehouse: Warehouse, settings: Settings, paths: list[str], *, now: datetime | None = None
) -> LoadResult:
    """Ingest the sources one after the other, recorded as one run; pass `now` to replay the past."""
    totals = LoadResult()
    done_bytes = 0
    with recorded(warehouse, "ingest") as run, console.progress("ingest", total_bytes(paths)) as bar:
        try:
            for path in paths:
                ingest_source(
                    warehouse,
                    path,
                    now=now or datetime.now(tz=UTC),
                    totals=totals,
                    limits=RecordLimits(settings.max_record_bytes, settings.max_nesting, settings.addresses),
                    on_bytes=lambda at, before=done_bytes: bar.reach(before + at),  # type: ignore[misc]
                )
                done_bytes += 0 if path == STDIN else Path(path).stat().st_size
        finally:
            run.count(rows_in=totals.records, rows_out=totals.stored, rejected=totals.rejects)
    return totals


def ingest_source(
    warehouse: Warehouse,
    name: str,
    *,
    now: datetime,
    totals: LoadResult,
    limits: RecordLimits = _DEFAULT_LIMITS,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Ingest one source and add the result to `totals`; CaratError if it is damaged, after its valid part."""
    for batch in read_batches(name, now=now, limits=limits, on_bytes=on_bytes):
        totals.add(store(warehouse, batch, source=name, now=now))
