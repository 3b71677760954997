"""Compares the shop's tables, as they are read, with their latest versions, and publishes what changed to `history`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from polars.datatypes import DataType

from app.contracts import Table
from app.core import console
from app.core.disk import free_bytes
from app.core.errors import NoTableError, ShopError
from app.frames.row_digests import gathered, unlike, with_digests
from app.frames.snapshots import aligned, as_kept, changes, in_pieces, latest, require_keys
from app.jobs.digests import Digests, frame_of
from app.jobs.forget.suppression import Forgotten, read_forgotten, without_texts
from app.jobs.snapshot.schemas import Comparison, Limits, compare_schemas
from app.rules.snapshot_plan import SnapshotPlan, SnapshotTable
from app.shop import ONE_INSTANT, Shop
from app.warehouse import Warehouse
from app.warehouse.history import (
    StagedVersions,
    existing_histories,
    last_snapshots,
    record_failed,
    write_versions,
)
from app.warehouse.history_lookup import latest_of_keys, state_of_history

_ASKED_KEYS = 131_072  # of rows that differ: their versions are read from history at once


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: its id, and the instant from which its versions are valid."""

    snapshot_id: str
    at: datetime


def snapshot_tables(
    warehouse: Warehouse,
    shop: Shop,
    plan: SnapshotPlan,
    snapshot: Snapshot,
    *,
    folder: Path,
    limits: Limits,
    limit_s: float,
) -> list[dict[str, Any]]:
    """Read the plan's tables at one instant and compare them one by one; returns a row of `etl.snapshots` for each."""
    started = time.perf_counter()
    comparisons = dict[str, Comparison]()
    records = {table.name: _record_of(table, snapshot) for table in plan.tables}
    histories = existing_histories(warehouse)
    last = last_snapshots(warehouse, [histories[table.name] for table in plan.tables if table.name in histories])
    for table in plan.tables:
        with _failing(records[table.name]):
            try:
                columns = shop.describe(table)
            except NoTableError:
                if not table.optional:
                    raise
                del records[table.name]
                continue
            comparisons[table.name] = compare_schemas(
                warehouse,
                table,
                columns,
                old=histories.get(table.name),
                last=last.get(table.name),
                at=snapshot.at,
                limits=limits,
            )
            records[table.name] |= comparisons[table.name].record()

    if comparisons:
        forgotten = read_forgotten(warehouse)
        wanted = {comparison.table: list(comparison.columns) for comparison in comparisons.values()}
        with (
            warehouse.new_connection() as connection,
            ThreadPoolExecutor(1) as pool,
            shop.reading(wanted, folder, limit_s=limit_s) as reading,
            console.progress("snapshot", None) as bar,
        ):
            digests = {name: _open_digests(warehouse, c, folder.parent) for name, c in comparisons.items()}
            known = {
                name: pool.submit(_write_known, connection, comparison, folder)
                for name, comparison in comparisons.items()
                if not digests[name].are_known
            }
            for name, comparison in comparisons.items():
                record = records[name]
                record["guarantee"] = reading.guarantees[name]
                if not reading.guarantees[name].startswith(ONE_INSTANT):
                    console.log.warning("snapshot", table=name, guarantee=reading.guarantees[name])
                bar.label(f"snapshot {name}")
                with _failing(record), closing(digests[name]):
                    if name in known:
                        known[name].result()
                    compare_and_publish(
                        warehouse,
                        comparison,
                        _frames(reading.batches(name), bar),
                        _known_file(folder, comparison),
                        record,
                        digests=digests[name],
                        limits=limits,
                        started=started,
                        forgotten=forgotten,
                    )
    for record in records.values():
        if record["error"]:
            record["seconds"] = time.perf_counter() - started
            record_failed(warehouse, record)
    return list(records.values())


@contextmanager
def _failing(record: dict[str, Any]) -> Iterator[None]:
    """Record the error of one table, so that the others continue."""
    try:
        yield
    except ShopError as error:
        record["error"] = str(error)


def _record_of(table: SnapshotTable, snapshot: Snapshot) -> dict[str, Any]:
    """The row of `etl.snapshots` of a table that was not read yet."""
    return {
        "snapshot_id": snapshot.snapshot_id, "table": table.name, "at": snapshot.at, "mode": "", "guarantee": "",
        "columns": [], "added": [], "dropped": [], "retyped": [], "staged_uuid": "", "seconds": 0.0, "error": "",
        **dict.fromkeys(("rows", "inserts", "updates", "deletes", "bounded"), 0),
    }  # fmt: skip


def compare_and_publish(
    warehouse: Warehouse,
    comparison: Comparison,
    batches: Iterator[pl.DataFrame],
    known: Path,
    record: dict[str, Any],
    *,
    digests: Digests,
    limits: Limits,
    started: float,
    forgotten: Forgotten,
) -> None:
    """Compare one table while it is being read, publish what changed, and count it in `record`.

    Raises ShopError where the table is refused; its history is then unchanged.
    """
    key, kept = comparison.key, comparison.kept
    of_shop = {column.kept_as: kept.schema[column.kept_as] for column in comparison.columns}
    staged = StagedVersions(warehouse, kept, filled=comparison.filled)
    try:
        was_live = 0
        declared = (_as_declared(batch, comparison.numbers) for batch in batches)
        kept_rows = _rows(_without_forgotten(declared, comparison, forgotten), of_shop, key, record, digests)
        if digests.are_known:
            pairs = _differing(warehouse, comparison, digests, kept_rows)
        else:
            pairs = aligned(_previous(known, comparison), kept_rows, key)
        for previous, rows in pairs:
            piece = changes(
                pl.DataFrame(schema=comparison.known) if previous is None else previous,
                pl.DataFrame(schema=of_shop) if rows is None else rows.select(list(of_shop)),
                key=key,
                compared=comparison.compared,
                filled=comparison.filled,
                returned=comparison.returned,
                numbers=comparison.numbers,
            )
            was_live += piece.was_live
            for op, count in piece.versions["op"].value_counts().iter_rows():
                record[f"{op}s"] += count
            staged.append(_as_versions(piece.versions, kept, record))
            staged.fill(piece.unchanged)
        was_live = digests.known_rows or was_live
        _require_plausible(record, comparison, was_live, limits)

        record["seconds"] = time.perf_counter() - started
        staged.publish(record, old=comparison.old)
        digests.keep(state_of_history(warehouse, kept.name))
    except BaseException:
        staged.discard()
        raise


def _require_plausible(record: dict[str, Any], comparison: Comparison, was_live: int, limits: Limits) -> None:
    name, deletes = comparison.table.source, record["deletes"]
    if limits.accept_deletes or not deletes:
        return
    share = comparison.table.max_deleted_share
    share = limits.max_deleted_share if share is None else share
    if not record["rows"] and share < 1:  # a table that may lose all its rows, such as carts, may be empty
        raise ShopError(f"{name} is empty, its history has {was_live:,} rows. If that is right, use --accept-deletes")
    if deletes > share * was_live:
        raise ShopError(
            f"{deletes:,} of {was_live:,} rows of {name} are gone, more than {share:.0%} (CARAT_MAX_DELETED_SHARE). "
            "If that is right, use --accept-deletes"
        )


# ---- the two states ----------------------------------------------------------------------------------------------


def _open_digests(warehouse: Warehouse, comparison: Comparison, scratch: Path) -> Digests:
    """The digests of a table's rows, open if they belong to its history as it is and say all that is to be compared."""
    kept = {column.kept_as: comparison.kept.schema[column.kept_as] for column in comparison.columns}
    digests = Digests(scratch, comparison.table.name, key=comparison.key, kept=kept)
    if comparison.mode == "append":
        digests.open(state_of_history(warehouse, comparison.table.name))
    return digests


def _differing(
    warehouse: Warehouse, comparison: Comparison, digests: Digests, rows: Iterator[pl.DataFrame]
) -> Iterator[tuple[pl.DataFrame | None, pl.DataFrame | None]]:
    """The rows that differ from those of the last snapshot, and the latest versions of their keys and of those gone."""
    assert comparison.old is not None
    key = comparison.key
    found = (unlike(was, now, key) for was, now in aligned(digests.known(), rows, key))
    for differing, keys in gathered(found, key, at_least=_ASKED_KEYS):
        latest = latest_of_keys(warehouse, comparison.old, list(comparison.known), keys)
        yield latest.select(pl.col(name).cast(dtype) for name, dtype in comparison.known.items()), differing


def _write_known(warehouse: Warehouse, comparison: Comparison, folder: Path) -> None:
    """Write the stored versions of a table to a file, while the shop is being read."""
    if comparison.old is not None and comparison.mode != "rebuild":
        path, live_rows = _known_file(folder, comparison), comparison.live_rows
        write_versions(warehouse, comparison.old, list(comparison.known), path, live_rows=live_rows)


def _known_file(folder: Path, comparison: Comparison) -> Path:
    return folder / f"{comparison.table.name}.known.arrow"


def _rows(
    batches: Iterator[pl.DataFrame],
    of_shop: dict[str, Any],
    key: Sequence[str],
    record: dict[str, Any],
    digests: Digests,
) -> Iterator[pl.DataFrame]:
    """The rows that were read, as history stores them, with their digests; counted, and their keys checked."""
    last = None
    for piece in in_pieces(batches):
        try:
            rows, bounded = as_kept(piece, of_shop)
        except pl.exceptions.PolarsError as error:
            raise ShopError(f"a value does not fit its declared type: {str(error).splitlines()[0]}") from None
        last = require_keys(rows, key, last)
        record["rows"] += rows.height
        record["bounded"] += bounded
        rows = with_digests(rows, digests.seeds)
        digests.add(rows)
        yield rows


def _as_declared(rows: pl.DataFrame, numbers: Mapping[str, DataType]) -> pl.DataFrame:
    """The rows with these numbers in the types that the shop declares: as text they are what the database writes."""
    return rows.with_columns(
        pl.col(name).cast(dtype)
        for name, dtype in numbers.items()
        if isinstance(dtype, pl.Decimal) and isinstance(rows.schema[name], pl.Decimal)
    )


def _without_forgotten(
    batches: Iterator[pl.DataFrame], comparison: Comparison, forgotten: Forgotten
) -> Iterator[pl.DataFrame]:
    """What was read, without forgotten people whom the shop's database still holds.

    Left out are their rows and rows whose key names them; what other columns say of them is removed.
    """
    texts = [column.kept_as for column in comparison.columns if column.type == "String"]
    keys = [name for name in texts if name in comparison.key]
    others = [name for name in texts if name not in comparison.key]
    for batch in batches:
        if not forgotten:
            yield batch
            continue
        rows = batch
        if comparison.person:
            users = rows[comparison.person].unique().drop_nulls()
            gone = users.filter(pl.Series([forgotten.is_user(user) for user in users], dtype=pl.Boolean))
            rows = rows.filter(~pl.col(comparison.person).is_in(gone.implode()).fill_null(value=False))
        for name in keys:
            rows = rows.filter(rows[name].eq_missing(without_texts(rows, [name], forgotten)[name]))
        yield without_texts(rows, others, forgotten)


def _previous(file: Path, comparison: Comparison) -> Iterator[pl.DataFrame]:
    """The latest version of each key, from all versions."""
    if file.exists():
        try:
            for piece in latest(in_pieces(_batches(file)), comparison.key):
                yield piece.select(pl.col(name).cast(dtype) for name, dtype in comparison.known.items())
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(file, error) from None


def _frames(batches: Iterator[pa.RecordBatch], bar: console.Bar) -> Iterator[pl.DataFrame]:
    for batch in batches:
        bar.advance(batch.num_rows)
        yield frame_of(batch)


def _batches(file: Path) -> Iterator[pl.DataFrame]:
    """The batches of an Arrow file, one in memory at a time (a mapped file's pages would count as memory in use)."""
    with pa.OSFile(str(file)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield frame_of(reader.get_batch(number))


def _unreadable(file: Path, error: Exception) -> ShopError:
    """A file that this process has written and that is not whole: the disk was full."""
    free = free_bytes(file.parent) / 1024**2
    return ShopError(
        f"{file.parent} ({free:,.0f} MiB free): a temporary file could not be written or read whole "
        f"({str(error).splitlines()[0]}). Free some space, or move CARAT_SCRATCH"
    )


def _as_versions(versions: pl.DataFrame, kept: Table, record: dict[str, Any]) -> pl.DataFrame:
    """New versions as rows of the history table; a column that the shop has dropped is null."""
    said = {"valid_from": record["at"], "snapshot_id": record["snapshot_id"]}
    return versions.select(
        pl.col(name) if name in versions.columns else pl.lit(said.get(name)).cast(dtype).alias(name)
        for name, dtype in kept.schema.items()
    )
