"""Job ingest: call records from files or stdin to `pd.api_calls`, each call once, and to `etl.rejects`."""

from collections.abc import Callable
from datetime import datetime

from app.core.call_record import RecordLimits
from app.intake.files import read_batches
from app.jobs.raw_calls import Ingested, store
from app.warehouse import Warehouse

_DEFAULT_LIMITS = RecordLimits()


def run(
    warehouse: Warehouse,
    name: str,
    *,
    now: datetime,
    totals: Ingested,
    limits: RecordLimits = _DEFAULT_LIMITS,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Ingest one source and add to `totals` what was done; CaratError where it is damaged, after its good part."""
    for batch in read_batches(name, now=now, limits=limits, on_bytes=on_bytes):
        totals.add(store(warehouse, batch, source=name, now=now))
