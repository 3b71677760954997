"""Reads rejected records again: what can be stored by now is stored and leaves `etl.rejects`.

So calls are not lost that were rejected because a limit was too low or this machine's clock was wrong.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl

from app.contracts import REJECTS
from app.core import console
from app.core.sql import quote
from app.intake.blocks import Block
from app.intake.call_frames import Batch, read_block, reject_frame
from app.jobs.raw_calls import LoadResult, store
from app.jobs.runs import recorded
from app.settings import Settings
from app.warehouse import Warehouse

_SOURCE = "etl.rejects"
# Trying again cannot help: another record counts instead, or what was kept is not a record.
_FINAL_REASONS = ("call_id taken", "forgotten", "damaged segment", "unreadable row")
_BATCH_RECORDS = 5_000  # their ids fit into a statement
_BATCH_BYTES = 32 * 1024 * 1024


def replay_rejects(
    warehouse: Warehouse, settings: Settings, *, since: datetime | None = None, now: datetime | None = None
) -> LoadResult:
    """Store the rejected records that are valid by today's limits and clock; the others stay as they are.

    `since` leaves out what was rejected before. A crash loses nothing: what was stored is a duplicate next time.
    """
    totals = LoadResult()
    waiting = _waiting(warehouse, since)
    with recorded(warehouse, "ingest") as run, console.progress("rejects", waiting.height) as bar:
        try:
            for ids in _batches(waiting):
                _replay(warehouse, settings, ids, now=now or datetime.now(tz=UTC), totals=totals)
                bar.advance(len(ids))
        finally:
            run.count(rows_in=totals.records, rows_out=totals.stored, rejected=totals.rejects)
    return totals


def _waiting(warehouse: Warehouse, since: datetime | None) -> pl.DataFrame:
    """`reject_id, bytes` of the rejects that may be valid now, oldest first."""
    final = ", ".join(map(quote, _FINAL_REASONS))
    later = "" if since is None else " AND rejected_at >= {since:DateTime64(3, 'UTC')}"
    return warehouse.query(
        f"SELECT reject_id, length(record) AS bytes FROM etl.rejects WHERE reason NOT IN ({final}){later} "
        "ORDER BY rejected_at, reject_id",
        {} if since is None else {"since": since},
        schema={"reject_id": REJECTS.schema["reject_id"], "bytes": pl.UInt64()},
    )


def _batches(waiting: pl.DataFrame) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for reject_id, size in waiting.iter_rows():
        if batch and (len(batch) >= _BATCH_RECORDS or held + size > _BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(reject_id)
        held += size
    if batch:
        yield batch


def _replay(warehouse: Warehouse, settings: Settings, ids: list[str], *, now: datetime, totals: LoadResult) -> None:
    rows = warehouse.query(
        f"SELECT reject_id, record_bytes, hex(record) AS record FROM etl.rejects WHERE reject_id IN ({_listed(ids)})"
    ).with_columns(pl.col("record").str.decode("hex"))
    records = rows["record"].to_list()
    sizes = [max(size, len(record)) for size, record in zip(rows["record_bytes"], records, strict=True)]
    block = Block(records, list(range(len(records))), sizes)
    batch = read_block(block, source=_SOURCE, now=now, limits=settings.record_limits)
    still_invalid = set(batch.rejects["position"])
    valid = [reject_id for number, reject_id in enumerate(rows["reject_id"]) if number not in still_invalid]
    if valid:
        totals.add(store(warehouse, Batch(batch.calls, reject_frame([])), source=_SOURCE, now=now))
        warehouse.command(f"DELETE FROM etl.rejects WHERE reject_id IN ({_listed(valid)})")
    totals.add_rejects(batch.rejects)


def _listed(ids: list[str]) -> str:
    return ", ".join(map(quote, ids))
