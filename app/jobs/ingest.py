"""Loads call records from files or stdin into `pd.api_calls`, each call once; invalid ones go to `etl.rejects`."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from app.core import console
from app.core.call_record import RecordLimits
from app.core.errors import SourceError
from app.intake.files import STDIN, read_batches, source_name, total_bytes
from app.jobs.raw_calls import LoadResult, store
from app.jobs.runs import recorded
from app.settings import Settings
from app.warehouse import Warehouse

_DEFAULT_LIMITS = RecordLimits()
_NOT_AT_FAULT = frozenset({"forgotten", "call_id taken"})
_FIXES = {
    "not JSON": "write one JSON object a line, or a JSON array; CSV is not read",
    "not an object": "write one JSON object a line, with ts, method and endpoint",
    "not UTF-8": "convert the text to UTF-8, such as with `iconv -f LATIN1 -t UTF-8`",
    "no time": "give each record a ts: an RFC 3339 time with its offset, or a Unix time",
    "no method": "give each record a method, such as GET",
    "no endpoint": "give each record an endpoint, such as /api/v1/products/17",
    "too old": "raise CARAT_MAX_AGE_DAYS (0: any age) and run `carat ingest --rejects`",
    "in the future": "correct this machine's clock and run `carat ingest --rejects`",
    "too large": "raise CARAT_MAX_RECORD_BYTES and run `carat ingest --rejects`",
    "nested too deeply": "raise CARAT_MAX_NESTING and run `carat ingest --rejects`",
}


def ingest_paths(
    warehouse: Warehouse, settings: Settings, paths: list[str], *, now: datetime | None = None
) -> LoadResult:
    """Ingest the sources one after the other, recorded as one run; pass `now` to replay the past.

    A source that is damaged, or of which nothing could be stored, is a failure of the result; the others are ingested.
    """
    totals = LoadResult()
    done_bytes = 0
    with recorded(warehouse, "ingest") as run, console.progress("ingest", total_bytes(paths)) as bar:
        try:
            for path in paths:
                try:
                    ingest_source(
                        warehouse,
                        path,
                        now=now or datetime.now(tz=UTC),
                        totals=totals,
                        limits=settings.record_limits,
                        on_bytes=lambda at, before=done_bytes: bar.reach(before + at),  # type: ignore[misc]
                    )
                except SourceError as error:
                    totals.failures.append(error)
                done_bytes += 0 if path == STDIN else Path(path).stat().st_size
        finally:
            run.count(rows_in=totals.records, rows_out=totals.stored, rejected=totals.rejects)
        run.error = totals.failures[0] if totals.failures else None
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
    """Ingest one source and add the result to `totals`.

    Raises SourceError if it is damaged, after its valid part, or if none of its records could be stored.
    """
    of_source = LoadResult()
    details: dict[str, str] = {}  # of the first reject by reason, in the source's order
    try:
        for batch in read_batches(name, now=now, limits=limits, on_bytes=on_bytes):
            firsts = batch.rejects.select("reason", "detail").unique("reason", keep="first", maintain_order=True)
            for reason, detail in firsts.iter_rows():
                details.setdefault(reason, detail)
            of_source.add(store(warehouse, batch, source=name, now=now))
    finally:
        totals.add(of_source)
    _require_some_stored(of_source, source_name(name), details)


def _require_some_stored(of_source: LoadResult, source: str, details: Mapping[str, str]) -> None:
    """Raise SourceError if all records were rejected, unless that is as it should be."""
    faulty = {reason: count for reason, count in of_source.rejected.items() if reason not in _NOT_AT_FAULT}
    if of_source.stored or of_source.duplicates or not faulty:
        return
    in_order = [reason for reason in details if reason in faulty] or sorted(faulty)
    most = max(in_order, key=lambda reason: faulty[reason])
    fix = _FIXES.get(most, "see etl.rejects")
    raise SourceError(
        f"{source}: none of its {of_source.records:,} records could be stored: {most}, such as: "
        f"{details.get(most, '')}. Likely fix: {fix}"
    )
