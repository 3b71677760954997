"""Job ingest: call records from files or stdin to `pd.api_calls`, each call once, and to `etl.rejects`."""

from collections.abc import Callable
from datetime import datetime

from app.core import addresses
from app.core.addresses import Addresses
from app.core.call_record import MAX_NESTING
from app.intake.files import read_batches
from app.jobs.raw_calls import Ingested, store
from app.warehouse import Warehouse

_KEPT = addresses.kept()


def run(
    warehouse: Warehouse,
    name: str,
    *,
    now: datetime,
    max_record_bytes: int,
    max_nesting: int = MAX_NESTING,
    totals: Ingested,
    ips: Addresses = _KEPT,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Ingest one source and add to `totals` what was done; CaratError where it is damaged, after its good part."""
    for batch in read_batches(
        name, now=now, max_record_bytes=max_record_bytes, max_nesting=max_nesting, ips=ips, on_bytes=on_bytes
    ):
        totals.add(store(warehouse, batch, source=name, now=now))
