"""Job snapshot: one table of the shop, as it was read, against its latest versions; what changed, to `history`."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from app import console
from app.contracts import TIME, Column, Table, dtype_of
from app.errors import ShopError
from app.frames.snapshots import aligned, as_kept, changes, in_pieces, latest, require_keys
from app.frames.widening import wider
from app.shop import Read, Shop, ShopColumn
from app.shop.columns import VERSION_COLUMNS
from app.snapshot_plan import SnapshotPlan, SnapshotTable
from app.warehouse import Warehouse
from app.warehouse.history import (
    StagedVersions,
    existing_history,
    history_table,
    key_of,
    last_snapshot,
    record_failed,
    write_versions,
)


@dataclass(frozen=True)
class Limits:
    """What a snapshot may do without being asked again."""

    max_deleted_share: float
    accept_deletes: bool = False
    rebuild: bool = False


@dataclass(frozen=True)
class Comparison:
    """How a table of the shop is compared with its history: decided before it is read."""

    table: SnapshotTable
    kept: Table  # as history will be
    old: Table | None  # as history is; None where it begins
    columns: tuple[ShopColumn, ...]
    compared: tuple[str, ...]  # columns beside the key that history has of the last snapshot
    filled: tuple[str, ...]  # columns that unchanged rows get without a new version
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    retyped: tuple[str, ...]
    mode: str

    @property
    def key(self) -> list[str]:
        return key_of(self.kept)

    def record(self) -> dict[str, Any]:
        """What `etl.snapshots` says of the columns."""
        return {
            "mode": self.mode,
            "columns": [f"{column.kept_as} {column.type}" for column in self.columns],
            "added": list(self.added),
            "dropped": list(self.dropped),
            "retyped": list(self.retyped),
        }


@dataclass(frozen=True)
class Snapshot:
    """One run over the tables: what its versions are known by, and from when they hold."""

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
    """The tables of the plan, read at one instant and compared one after the other: a row of `etl.snapshots` each."""
    started = time.perf_counter()
    comparisons = dict[str, Comparison]()
    records = {table.name: _record_of(table, snapshot) for table in plan.tables}
    for table in plan.tables:
        with _failing(records[table.name]):
            columns = shop.describe(table)
            comparisons[table.name] = compare_schemas(warehouse, table, columns, at=snapshot.at, limits=limits)
            records[table.name] |= comparisons[table.name].record()

    wanted = {comparison.table: list(comparison.columns) for comparison in comparisons.values()}
    with warehouse.another() as connection, ThreadPoolExecutor(1) as beside:
        known = beside.submit(_write_known, connection, list(comparisons.values()), folder)
        read, guarantees = shop.read(wanted, folder, limit_s=limit_s) if wanted else (Read(), {})
        known.result()

    with console.progress("snapshot", sum(read.rows.values())) as bar:
        for name, comparison in comparisons.items():
            record = records[name]
            record["guarantee"] = guarantees.get(name, "")
            with _failing(record):
                if problem := read.errors.get(name):
                    raise ShopError(f"{comparison.table.source} could not be read whole: {problem}")
                run(warehouse, comparison, folder / f"{name}.arrow", record, limits=limits, started=started)
            bar.advance(read.rows.get(name, 0))
    for record in records.values():
        if record["error"]:
            record["seconds"] = time.perf_counter() - started
            record_failed(warehouse, record)
    return list(records.values())


@contextmanager
def _failing(record: dict[str, Any]) -> Iterator[None]:
    """A table's trouble is its own: it is written down, and the others go on."""
    try:
        yield
    except ShopError as error:
        record["error"] = str(error)


def _record_of(table: SnapshotTable, snapshot: Snapshot) -> dict[str, Any]:
    """The row of `etl.snapshots` before anything is known."""
    return {
        "snapshot_id": snapshot.snapshot_id, "table": table.name, "at": snapshot.at, "mode": "", "guarantee": "",
        "columns": [], "added": [], "dropped": [], "retyped": [], "staged_uuid": "", "seconds": 0.0, "error": "",
        **dict.fromkeys(("rows", "inserts", "updates", "deletes", "bounded"), 0),
    }  # fmt: skip


def compare_schemas(
    warehouse: Warehouse, table: SnapshotTable, columns: Sequence[ShopColumn], *, at: datetime, limits: Limits
) -> Comparison:
    """How the table is compared; ShopError where it cannot be, or where it looks like another shop's."""
    names = [column.name for column in columns]
    if missing := [name for name in (*table.key, *table.columns) if name not in names]:
        raise ShopError(f"{table.source} has no column {', '.join(missing)}: another schema? See CARAT_SNAPSHOTS")
    fresh = {column.kept_as: column.in_history(is_key=column.name in table.key) for column in columns}
    if len(fresh) < len(columns):
        raise ShopError(f"{table.source}: two columns would be kept under one name; exclude one of them")
    key = [column.kept_as for name in table.key for column in columns if column.name == name]
    old, last = existing_history(warehouse, table.name), last_snapshot(warehouse, table.name)
    if old is None or last is None or limits.rebuild:
        kept = history_table(table.name, list(fresh.values()), key)
        mode = "append" if old is None else "rebuild"
        return Comparison(table, kept, old, tuple(columns), (), (), (), (), (), mode)
    if at < last["at"]:
        raise ShopError(
            f"history.{table.name} already has a snapshot of {_text(last['at'])}: {_text(at)} lies before it. Replay "
            f"in the order of time, or begin anew: `carat snapshot --rebuild --tables {table.name} --at …`"
        )
    if key_of(old) != key:
        raise ShopError(
            f"history.{table.name} has the key {', '.join(key_of(old))}, the plan now says {', '.join(key)}: begin it "
            f"anew with `carat snapshot --rebuild --tables {table.name}`"
        )
    had = [name.partition(" ")[0] for name in last["columns"]]
    return _evolved(table, tuple(columns), fresh=fresh, old=old, had=had, limits=limits)


def _evolved(
    table: SnapshotTable,
    columns: tuple[ShopColumn, ...],
    *,
    fresh: dict[str, Column],
    old: Table,
    had: list[str],
    limits: Limits,
) -> Comparison:
    key = key_of(old)
    dropped = [name for name in had if name not in fresh]
    others = len(had) - len(key)
    if len(dropped) > others / 2 and not limits.accept_deletes:
        raise ShopError(
            f"{table.source} answers with another schema: {len(dropped)} of {others} columns are gone "
            f"({', '.join(dropped)}). If that is right: --accept-deletes"
        )
    was = {column.name: column for column in old.columns if column.name not in VERSION_COLUMNS}
    retyped = []
    kept = dict(was)  # in the order of what is there; what went stays, for the versions that had it
    for name, column in fresh.items():
        type_ = wider(was[name].type, column.type) if name in was else column.type
        if name in was and type_ != was[name].type:
            if name in key and dtype_of(type_) == pl.String():
                raise ShopError(f"{table.source} answers with another schema: its key {name} is now {column.type}")
            retyped.append(f"{name}: {was[name].type} -> {type_}")
        # Text and bytes are one type to the warehouse, and two to a frame.
        kept[name] = Column(name, type_, column.comment, holds_bytes=column.holds_bytes and type_.endswith("String)"))
    added = [name for name in fresh if name not in had]
    contract = history_table(table.name, list(kept.values()), key)
    return Comparison(
        table,
        contract,
        old,
        columns,
        compared=tuple(name for name in fresh if name in had and name not in key),
        filled=tuple(
            name for name in fresh if name not in key and (name in added or kept[name].type != was[name].type)
        ),
        added=tuple(added),
        dropped=tuple(dropped),
        retyped=tuple(retyped),
        mode="rewrite" if added or retyped else "append",
    )


def run(
    warehouse: Warehouse,
    comparison: Comparison,
    file: Path,
    record: dict[str, Any],
    *,
    limits: Limits,
    started: float,
) -> None:
    """Compare one table and publish what changed, counted in `record`.

    Raises ShopError where the table is refused: history stays as it was.
    """
    key, kept = comparison.key, comparison.kept
    of_shop = {c.kept_as: kept.schema[c.kept_as] for c in comparison.columns}
    staged = StagedVersions(warehouse, kept, filled=comparison.filled)
    try:
        was_live = 0
        for previous, rows in aligned(
            _previous(_known_file(file.parent, comparison), comparison), _rows(file, of_shop, key, record), key
        ):
            piece = changes(
                _none_of(comparison) if previous is None else previous,
                pl.DataFrame(schema=of_shop) if rows is None else rows,
                key=key,
                compared=comparison.compared,
                filled=comparison.filled,
            )
            was_live += piece.was_live
            for op, count in piece.versions["op"].value_counts().iter_rows():
                record[f"{op}s"] += count
            staged.append(_as_versions(piece.versions, kept, record))
            staged.fill(piece.unchanged)
        _require_believable(record, comparison, was_live, limits)

        record["seconds"] = time.perf_counter() - started
        staged.publish(record, old=comparison.old)
    except BaseException:
        staged.discard()
        raise


def _require_believable(record: dict[str, Any], comparison: Comparison, was_live: int, limits: Limits) -> None:
    name, deletes = comparison.table.source, record["deletes"]
    if limits.accept_deletes or not deletes:
        return
    if not record["rows"]:
        raise ShopError(f"{name} is empty, its history has {was_live:,} rows. If that is right: --accept-deletes")
    share = comparison.table.max_deleted_share
    share = limits.max_deleted_share if share is None else share
    if deletes > share * was_live:
        raise ShopError(
            f"{deletes:,} of {was_live:,} rows of {name} are gone, more than {share:.0%} (CARAT_MAX_DELETED_SHARE). "
            "If that is right: --accept-deletes"
        )


# ---- the two states ----------------------------------------------------------------------------------------------


def _write_known(warehouse: Warehouse, comparisons: Sequence[Comparison], folder: Path) -> None:
    """Write what history knows of each table to a file, while the shop is being read."""
    for comparison in comparisons:
        if comparison.old is not None and comparison.mode != "rebuild":
            columns = [*comparison.key, *comparison.compared]
            write_versions(warehouse, comparison.old, columns, _known_file(folder, comparison))


def _known_file(folder: Path, comparison: Comparison) -> Path:
    return folder / f"{comparison.table.name}.known.arrow"


def _rows(file: Path, of_shop: dict[str, Any], key: Sequence[str], record: dict[str, Any]) -> Iterator[pl.DataFrame]:
    """What was read, as it is kept; counted, its keys checked."""
    last = None
    for piece in in_pieces(_batches(file)):
        try:
            rows, bounded = as_kept(piece, of_shop)
        except pl.exceptions.PolarsError as error:
            raise ShopError(f"a value does not fit its declared type: {str(error).splitlines()[0]}") from None
        last = require_keys(rows, key, last)
        record["rows"] += rows.height
        record["bounded"] += bounded
        yield rows


def _previous(file: Path, comparison: Comparison) -> Iterator[pl.DataFrame]:
    """The latest version of each key, from all versions; text comes as bytes from the warehouse."""
    if not file.exists():
        return
    wanted = _none_of(comparison).schema
    for piece in latest(in_pieces(_batches(file)), comparison.key):
        yield piece.select(pl.col(name).cast(dtype, strict=False) for name, dtype in wanted.items())


def _none_of(comparison: Comparison) -> pl.DataFrame:
    """No row, in the dtypes in which the latest versions are compared."""
    schema = dict[str, Any]()
    for name in (*comparison.key, *comparison.compared):
        kept = comparison.kept.schema[name]
        assert comparison.old is None or name in comparison.old.schema
        had = comparison.old.schema[name] if comparison.old is not None else kept
        schema[name] = kept if name in comparison.key or had == pl.String() == kept or kept == pl.Binary() else had
    return pl.DataFrame(schema=schema | {"version": pl.UInt32(), "is_deleted": pl.Boolean()})


def _batches(file: Path) -> Iterator[pl.DataFrame]:
    """The batches of an Arrow file, one in memory at a time (the pages of a mapped one would count as held)."""
    with pa.OSFile(str(file)) as source, pa.ipc.open_file(source) as reader:
        if not reader.num_record_batches:
            return
        for number in range(reader.num_record_batches):
            frame = pl.from_arrow(pa.Table.from_batches([reader.get_batch(number)]))
            assert isinstance(frame, pl.DataFrame)
            yield frame


def _as_versions(versions: pl.DataFrame, kept: Table, record: dict[str, Any]) -> pl.DataFrame:
    """New versions as rows of the history table; a column that the shop's table no longer has is null."""
    return versions.with_columns(
        pl.lit(record["at"]).cast(dtype_of(TIME)).alias("valid_from"),
        pl.lit(record["snapshot_id"]).alias("snapshot_id"),
        *(pl.lit(None, dtype).alias(name) for name, dtype in kept.schema.items() if name not in versions.columns
          and name not in {"valid_from", "snapshot_id"}),
    ).select(kept.schema.names())  # fmt: skip


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"
