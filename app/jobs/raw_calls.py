"""Stores checked records in `pd.api_calls`, each call once, and rejected ones in `etl.rejects`.

Both ways in end here: files (`ingest`) and the collector's spool (`load`).
"""

from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import polars as pl

from app.contracts import API_CALLS, REJECTS
from app.core.call_record import Line, RejectedRecordError
from app.core.errors import CaratError, require_none
from app.core.sql import quote
from app.intake.call_frames import Batch, content_hashes, reject_frame, reject_row
from app.jobs.forget.identifiers import Identifiers, merged
from app.jobs.forget.suppression import (
    Forgotten,
    are_forgotten,
    identifiers_of,
    named_in_calls,
    read_forgotten,
    suppressed_reject,
    without_names,
    without_texts,
)
from app.warehouse import Warehouse
from app.warehouse.call_id_filters import stored_calls

_IDENTITY = ("call_id", "ts", "content_hash")
_KNOWN_SCHEMA = {"call_id": API_CALLS.schema["call_id"], "ts": API_CALLS.schema["ts"], "content_hash": pl.UInt64()}


@dataclass
class LoadResult:
    """How many records were stored, were duplicates of stored ones, or were rejected, by reason; and what failed.

    `forgotten`: the identifiers of forgotten people that the records still had.
    """

    stored: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    forgotten: Identifiers = field(default_factory=Identifiers)
    failures: list[CaratError] = field(default_factory=list)

    @property
    def records(self) -> int:
        return self.stored + self.duplicates + self.rejects

    @property
    def rejects(self) -> int:
        return sum(self.rejected.values())

    def add(self, other: "LoadResult") -> None:
        self.stored += other.stored
        self.duplicates += other.duplicates
        self.forgotten = merged([self.forgotten, other.forgotten]) if other.forgotten else self.forgotten
        for reason, count in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count
        self.failures += other.failures

    def require_done(self) -> None:
        """Raise the failures, if there are any, as one error."""
        require_none(self.failures)

    def add_rejects(self, rejects: pl.DataFrame) -> None:
        self.add(LoadResult(rejected=dict(rejects["reason"].value_counts().iter_rows())))


def ingest_summary(totals: LoadResult) -> str:
    """The result as one line."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(totals.rejected.items()))
    rejected = f"{totals.rejects:,} rejected" + (f" ({reasons}; see etl.rejects)" if reasons else "")
    return f"{totals.records:,} records: {totals.stored:,} stored, {totals.duplicates:,} already there, {rejected}"


def store(
    warehouse: Warehouse,
    batch: Batch,
    *,
    source: str,
    now: datetime,
    token: str = "",
    known: pl.DataFrame | None = None,
) -> LoadResult:
    """Store a batch and return how many of its records were stored, duplicates or rejected.

    With a `token` the batch may be sent again although an earlier insert, whose answer was lost, is still running: the
    engine drops the second of the two. It compares whole inserts only, so each day is inserted separately.
    `known` is the result of `known_calls` where it was read for several batches at once.
    """
    forgotten = read_forgotten(warehouse)
    # Before anything is compared: a call that was cleaned of a forgotten person is the same call when it comes again.
    is_theirs = are_forgotten(batch.calls, forgotten)
    kept, theirs = batch.calls.filter(~is_theirs), batch.calls.filter(is_theirs)
    names = named_in_calls(kept, forgotten)
    taken = without_names(kept, forgotten, names)
    names_in_rejects = forgotten.named_in_records(batch.rejects["record"].to_list()) if forgotten else names
    unforgotten, named = _without_named(batch.rejects, forgotten, names_in_rejects)
    not_kept = theirs.height + named
    calls, lost = _without_repeats(taken)
    known = known_calls(warehouse, calls["call_id"]) if known is None else known

    fresh, beaten, replaced = _against_known(calls, known)
    conflicts = _conflict_rejects(pl.concat([lost, beaten]), source=source, now=now)

    # Not as one frame: a reject may be large, and joining copies it.
    suppressed = suppressed_reject(not_kept, source=source, now=now)
    for name, rejects in (("rejects", unforgotten), ("conflicts", conflicts), ("forgotten", suppressed)):
        write_rejects(warehouse, rejects, token=token and f"{token}/{name}")
    moved = _move_to_rejects(warehouse, replaced, now=now)
    insert_calls(warehouse, fresh.drop("content_hash"), token)

    done = LoadResult(
        stored=fresh.height - moved.height,
        duplicates=taken.height - fresh.height - conflicts.height,
        forgotten=merged([identifiers_of(theirs, forgotten), names, names_in_rejects]),
    )
    for rejects in (unforgotten, conflicts, moved):
        done.add_rejects(rejects)
    if not_kept:
        done.add(LoadResult(rejected={"forgotten": not_kept}))
    return done


def _without_named(rejects: pl.DataFrame, forgotten: Forgotten, ids: Identifiers) -> tuple[pl.DataFrame, int]:
    """The rejects that do not name a forgotten person, and the number of those that do."""
    if not forgotten or rejects.is_empty():
        return rejects, 0
    is_named = pl.Series(forgotten.are_named(rejects["record"].to_list(), ids), dtype=pl.Boolean)
    return without_texts(rejects.filter(~is_named), ("source", "detail"), forgotten), int(is_named.sum())


def known_calls(warehouse: Warehouse, call_ids: pl.Series) -> pl.DataFrame:
    """`call_id, ts, content_hash` of the stored calls that have one of these ids."""
    return stored_calls(warehouse, call_ids, _KNOWN_SCHEMA)


def insert_calls(warehouse: Warehouse, calls: pl.DataFrame, token: str) -> None:
    """Insert calls that are not stored yet, on the node of their visitors."""
    for node, of_node in warehouse.routed(calls):
        if not token:
            node.insert(API_CALLS, of_node)
            continue
        for (day,), of_day in of_node.group_by(pl.col("ts").dt.date(), maintain_order=True):
            node.insert(API_CALLS, of_day, token=f"{token}/{day}")


def write_rejects(warehouse: Warehouse, rejects: pl.DataFrame, *, token: str = "") -> None:
    """Append the rejects that are not stored yet: a source may be read again."""
    if rejects.is_empty():
        return
    ids = rejects["reject_id"].unique().to_list()
    known = warehouse.query("SELECT reject_id FROM etl.rejects WHERE reject_id IN {ids:Array(String)}", {"ids": ids})
    if not known.is_empty():
        rejects = rejects.join(known, on="reject_id", how="anti")
    if rejects["reject_id"].is_duplicated().any():
        rejects = rejects.unique("reject_id", maintain_order=True)
    warehouse.insert(REJECTS, rejects, token=token)


def _without_repeats(calls: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The calls with each call_id once, and the other records that lost theirs to an earlier one."""
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
        rows.append(reject_row(Line(0, data, len(data)), error, source=source, now=now))
    return reject_frame(rows)


def _move_to_rejects(warehouse: Warehouse, replaced: pl.DataFrame, *, now: datetime) -> pl.DataFrame:
    """Turn stored calls into rejects, because an earlier record with the same call_id arrived."""
    moved = [reject_frame([])]
    for row in replaced.with_columns(pl.col("call_id").bin.encode("hex")).iter_rows(named=True):
        where = f"call_id = toUUID({quote(row['call_id'])}) AND content_hash = {row['content_hash']}"
        columns = ", ".join(API_CALLS.schema.names())
        for node in warehouse.nodes:
            stored = node.query(f"SELECT {columns} FROM pd.api_calls WHERE {where} LIMIT 1")
            if stored.is_empty():
                continue
            moved.append(_conflict_rejects(stored, source="pd.api_calls", now=now))
            write_rejects(warehouse, moved[-1])
            node.command(f"DELETE FROM pd.api_calls WHERE {where}")
    return pl.concat(moved)
