"""Job ingest: call records from files or stdin to `pd.api_calls`, each call once, and to `etl.rejects`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import polars as pl

from app import addresses
from app.addresses import Addresses
from app.contracts import API_CALLS, REJECTS, sql_text
from app.forgotten import Forgotten, read_forgotten, refused, without_forgotten
from app.records import Line, RejectedRecordError, content_hashes, reject, reject_frame
from app.sources import read_batches
from app.warehouse import Warehouse

_INCOMING = "etl.incoming_ids"
_IDENTITY = ("call_id", "ts", "content_hash")
_KEPT = addresses.kept()


@dataclass
class Ingested:
    """What became of the records read: each is stored, a duplicate of a stored one, or rejected."""

    stored: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    @property
    def records(self) -> int:
        return self.stored + self.duplicates + sum(self.rejected.values())

    def add(self, other: "Ingested") -> None:
        self.stored += other.stored
        self.duplicates += other.duplicates
        for reason, count in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count

    def add_rejects(self, rejects: pl.DataFrame) -> None:
        self.add(Ingested(rejected=dict(rejects["reason"].value_counts().iter_rows())))


def run(
    warehouse: Warehouse,
    name: str,
    *,
    now: datetime,
    max_record_bytes: int,
    totals: Ingested,
    ips: Addresses = _KEPT,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Ingest one source and add to `totals` what was done; CaratError where it is damaged, after its good part."""
    forgotten = read_forgotten(warehouse)
    for batch in read_batches(name, now=now, max_record_bytes=max_record_bytes, ips=ips, on_bytes=on_bytes):
        taken = without_forgotten(batch.calls, forgotten)
        rejects, unnamed = _without_named(batch.rejects, forgotten)
        unkept = batch.calls.height - taken.height + unnamed
        calls, lost = _without_repeats(taken)
        known = _known_calls(warehouse, calls)

        fresh, beaten, replaced = _against_known(calls, known)
        conflicts = _conflict_rejects(pl.concat([lost, beaten]), source=name, now=now)

        not_kept = refused(unkept, source=name, now=now)
        for some in (rejects, conflicts, not_kept):  # not as one frame: a reject may be large, and joining copies it
            write_rejects(warehouse, some)
        moved = _move_to_rejects(warehouse, replaced, now=now)
        warehouse.insert(API_CALLS, fresh.drop("content_hash"))

        totals.stored += fresh.height - moved.height
        totals.duplicates += taken.height - fresh.height - conflicts.height
        for some in (rejects, conflicts, moved):
            totals.add_rejects(some)
        if unkept:
            totals.add(Ingested(rejected={"forgotten": unkept}))


def write_rejects(warehouse: Warehouse, rejects: pl.DataFrame) -> None:
    """Append rejects that are not there yet: a source may be read again."""
    if rejects.is_empty():
        return
    ids = rejects["reject_id"].unique().to_list()
    known = warehouse.query("SELECT reject_id FROM etl.rejects WHERE reject_id IN {ids:Array(String)}", {"ids": ids})
    if not known.is_empty():
        rejects = rejects.join(known, on="reject_id", how="anti")
    if rejects["reject_id"].is_duplicated().any():
        rejects = rejects.unique("reject_id", maintain_order=True)
    warehouse.insert(REJECTS, rejects)


def _without_named(rejects: pl.DataFrame, forgotten: Forgotten) -> tuple[pl.DataFrame, int]:
    """The rejects that are no forgotten person's, and how many are."""
    if not forgotten:
        return rejects, 0
    is_kept = pl.Series([not forgotten.is_named_in(record) for record in rejects["record"]], dtype=pl.Boolean)
    return rejects.filter(is_kept), int((~is_kept).sum())


def _without_repeats(calls: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The calls with each call_id once, and the different records that lost theirs to an earlier one."""
    calls = calls.with_columns(content_hash=pl.lit(None, pl.UInt64))
    is_repeated = calls["call_id"].is_duplicated()
    if not is_repeated.any():
        return calls, calls.clear()
    repeated = calls.filter(is_repeated)
    ranked = (
        repeated.with_columns(content_hashes(repeated))
        .unique(_IDENTITY, maintain_order=True)
        .sort("ts", "content_hash")
    )
    is_first = ranked["call_id"].is_first_distinct()
    return pl.concat([calls.filter(~is_repeated), ranked.filter(is_first)]), ranked.filter(~is_first)


def _known_calls(warehouse: Warehouse, calls: pl.DataFrame) -> pl.DataFrame:
    """`call_id, ts, content_hash` of the calls that are stored already under one of these ids."""
    if calls.is_empty():
        return calls.select(_IDENTITY)
    warehouse.keep_aside(_INCOMING, calls["call_id"])
    columns = ", ".join(_IDENTITY)
    known = warehouse.query(f"SELECT {columns} FROM pd.api_calls WHERE call_id IN (SELECT id FROM {_INCOMING})")
    return known if not known.is_empty() else calls.select(_IDENTITY).clear()


def _against_known(calls: pl.DataFrame, known: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Calls to store; calls that lose to a stored one; stored ones that lose: earlier ts, then smaller hash, wins."""
    if known.is_empty():
        return calls, calls.clear(), known
    fresh = calls.join(known, on="call_id", how="anti")
    met = calls.join(known, on="call_id", how="semi")
    met = met.with_columns(content_hashes(met)).join(known, on=_IDENTITY, how="anti")  # the same record again
    winners = (
        pl.concat([met.select(_IDENTITY), known.select(_IDENTITY)])
        .sort("ts", "content_hash")
        .unique("call_id", keep="first")
    )
    winning = met.join(winners, on=_IDENTITY, how="semi")
    beaten = met.join(winners, on=_IDENTITY, how="anti")
    return pl.concat([fresh, winning]), beaten, known.join(winners, on=_IDENTITY, how="anti")


def _conflict_rejects(calls: pl.DataFrame, *, source: str, now: datetime) -> pl.DataFrame:
    detail = "another record with this call_id counts: the earlier one, then that with the smaller content hash"
    error = RejectedRecordError("call_id taken", detail)
    rows = []
    # Without the time of receipt: the same record read again is the same reject.
    readable = calls.drop("received_at", "content_hash", strict=False).with_columns(
        pl.col("call_id").bin.encode("hex"), pl.col("ts").cast(pl.String)
    )
    for call in readable.iter_rows(named=True):
        data = msgspec.json.encode(call)
        rows.append(reject(Line(0, data, len(data)), error, source=source, now=now))
    return reject_frame(rows)


def _move_to_rejects(warehouse: Warehouse, replaced: pl.DataFrame, *, now: datetime) -> pl.DataFrame:
    """The rejects that stored calls become when an earlier record of the same call_id comes in."""
    moved = [reject_frame([])]
    for row in replaced.with_columns(pl.col("call_id").bin.encode("hex")).iter_rows(named=True):
        where = f"call_id = toUUID({sql_text(row['call_id'])}) AND content_hash = {row['content_hash']}"
        columns = ", ".join(API_CALLS.schema.names())
        stored = warehouse.query(f"SELECT {columns} FROM pd.api_calls WHERE {where} LIMIT 1")
        moved.append(_conflict_rejects(stored, source="pd.api_calls", now=now))
        write_rejects(warehouse, moved[-1])
        warehouse.command(f"DELETE FROM pd.api_calls WHERE {where}")
    return pl.concat(moved)
