"""Job snapshot: one table of the shop, as it was read, against its latest versions; what changed, to `history`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from polars.datatypes import DataType

from app.contracts import Column, Table
from app.core import console
from app.core.errors import ShopError
from app.frames.snapshots import aligned, as_kept, changes, in_pieces, latest, require_keys
from app.frames.type_promotion import wider
from app.jobs.forget.suppression import Forgotten, read_forgotten
from app.rules.snapshot_plan import SnapshotPlan, SnapshotTable
from app.shop import Shop, ShopColumn
from app.warehouse import Warehouse
from app.warehouse.history import (
    LastSnapshot,
    StagedVersions,
    absences,
    columns_of_shop,
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
    mode: str
    compared: tuple[str, ...] = ()  # columns beside the key that history knows
    filled: tuple[str, ...] = ()  # columns that unchanged rows get without a new version
    added: tuple[str, ...] = ()
    returned: Mapping[str, datetime] = field(default_factory=dict)  # of those added: had gone, and when last seen
    dropped: tuple[str, ...] = ()
    retyped: tuple[str, ...] = ()

    @property
    def key(self) -> list[str]:
        return key_of(self.kept)

    @property
    def person(self) -> str:
        """The column that says whose a row is, as history has it; empty if none does."""
        return next((c.kept_as for c in self.columns if c.name == self.table.person), "")

    @property
    def known(self) -> dict[str, DataType]:
        """Of a version that history has, what is compared, and in which dtypes; keys in those they will have."""
        names = [*self.key, *self.compared, "version", "is_deleted", *(["valid_from"] if self.returned else [])]
        had = (self.old or self.kept).schema
        return {name: self.kept.schema[name] if name in self.key else had[name] for name in names}

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

    if comparisons:
        forgotten = read_forgotten(warehouse)
        wanted = {comparison.table: list(comparison.columns) for comparison in comparisons.values()}
        with (
            warehouse.another() as connection,
            ThreadPoolExecutor(1) as beside,
            shop.reading(wanted, folder, limit_s=limit_s) as reading,
            console.progress("snapshot", None) as bar,
        ):
            known = {name: beside.submit(_write_known, connection, c, folder) for name, c in comparisons.items()}
            for name, comparison in comparisons.items():
                record = records[name]
                record["guarantee"] = reading.guarantees[name]
                bar.label(f"snapshot {name}")
                with _failing(record):
                    known[name].result()
                    run(
                        warehouse,
                        comparison,
                        _frames(reading.batches(name), bar),
                        _known_file(folder, comparison),
                        record,
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
    if odd := [name for name in names if "`" in name or "\\" in name]:
        raise ShopError(f"{table.source} has a column {odd[0]!r}, which history cannot have: exclude it")
    fresh = {column.kept_as: column.in_history(is_key=column.name in table.key) for column in columns}
    if len(fresh) < len(columns):
        raise ShopError(f"{table.source}: two columns would be kept under one name; exclude one of them")
    key = [column.kept_as for name in table.key for column in columns if column.name == name]
    old = existing_history(warehouse, table.name)
    last = last_snapshot(warehouse, old) if old is not None and not limits.rebuild else None
    if old is None or last is None:
        kept = history_table(table.name, list(fresh.values()), key)
        return Comparison(table, kept, old, tuple(columns), mode="rebuild")
    if at < last.at:
        raise ShopError(
            f"history.{table.name} already has a snapshot of {_text(last.at)}: {_text(at)} lies before it. Replay "
            f"in the order of time, or begin anew: `carat snapshot --rebuild --tables {table.name} --at …`"
        )
    if key_of(old) != key:
        raise ShopError(
            f"history.{table.name} has the key {', '.join(key_of(old))}, the plan now says {', '.join(key)}: begin it "
            f"anew with `carat snapshot --rebuild --tables {table.name}`"
        )
    gone = [name for name in last.columns if name not in fresh]
    others = len(last.columns) - len(key)
    if len(gone) > others / 2 and not limits.accept_deletes:
        raise ShopError(
            f"{table.source} answers with another schema: {len(gone)} of {others} columns are gone "
            f"({', '.join(gone)}). If that is right: --accept-deletes"
        )
    return _evolved(warehouse, table, tuple(columns), fresh=fresh, old=old, last=last)


def _evolved(
    warehouse: Warehouse,
    table: SnapshotTable,
    columns: tuple[ShopColumn, ...],
    *,
    fresh: dict[str, Column],
    old: Table,
    last: LastSnapshot,
) -> Comparison:
    """How a table is compared whose columns may have come, gone or changed their type."""
    key, was = key_of(old), columns_of_shop(old)
    kept = dict(was)  # in the order of what is there; what went stays, for the versions that had it
    retyped = dict[str, str]()
    for name, column in fresh.items():
        type_ = wider(was[name].type, column.type) if name in was else column.type
        if name in key and "String" in {was[name].type, type_} and was[name].type != column.type:
            # Text and numbers sort differently, so that their keys cannot be compared.
            raise ShopError(
                f"{table.source} answers with another schema: its key {name} is now {column.type}, it was "
                f"{was[name].type}. If that is right, begin it anew: `carat snapshot --rebuild --tables {table.name}`"
            )
        if name in was and type_ != was[name].type:
            retyped[name] = f"{name}: {was[name].type} -> {type_}"
        kept[name] = Column(name, type_, column.comment)
    added = [name for name in fresh if name not in last.columns]
    # A column that comes back is compared with what the versions of its time say of it, and fills those of later.
    absent = absences(warehouse, table.name, [name for name in added if name in was])
    return Comparison(
        table,
        history_table(table.name, list(kept.values()), key),
        old,
        columns,
        mode="rewrite" if added or retyped else "append",
        compared=tuple(name for name in fresh if name in was and name not in key),
        filled=tuple(name for name in fresh if name not in key and (name in added or name in retyped)),
        added=tuple(added),
        returned={name: absence.last_seen for name, absence in absent.items()},
        dropped=tuple(name for name in last.columns if name not in fresh),
        retyped=tuple(retyped.values()),
    )


def run(
    warehouse: Warehouse,
    comparison: Comparison,
    batches: Iterator[pl.DataFrame],
    known: Path,
    record: dict[str, Any],
    *,
    limits: Limits,
    started: float,
    forgotten: Forgotten,
) -> None:
    """Compare one table, while it is being read, and publish what changed, counted in `record`.

    Raises ShopError where the table is refused: history stays as it was.
    """
    key, kept = comparison.key, comparison.kept
    of_shop = {column.kept_as: kept.schema[column.kept_as] for column in comparison.columns}
    staged = StagedVersions(warehouse, kept, filled=comparison.filled)
    try:
        was_live = 0
        kept_rows = _rows(_known_people(batches, comparison, forgotten), of_shop, key, record)
        for previous, rows in aligned(_previous(known, comparison), kept_rows, key):
            piece = changes(
                pl.DataFrame(schema=comparison.known) if previous is None else previous,
                pl.DataFrame(schema=of_shop) if rows is None else rows,
                key=key,
                compared=comparison.compared,
                filled=comparison.filled,
                returned=comparison.returned,
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
    share = comparison.table.max_deleted_share
    share = limits.max_deleted_share if share is None else share
    if not record["rows"] and share < 1:  # a table that may lose all its rows, such as carts, may be empty
        raise ShopError(f"{name} is empty, its history has {was_live:,} rows. If that is right: --accept-deletes")
    if deletes > share * was_live:
        raise ShopError(
            f"{deletes:,} of {was_live:,} rows of {name} are gone, more than {share:.0%} (CARAT_MAX_DELETED_SHARE). "
            "If that is right: --accept-deletes"
        )


# ---- the two states ----------------------------------------------------------------------------------------------


def _write_known(warehouse: Warehouse, comparison: Comparison, folder: Path) -> None:
    """Write what history knows of a table to a file, while the shop is being read."""
    if comparison.old is not None and comparison.mode != "rebuild":
        write_versions(warehouse, comparison.old, list(comparison.known), _known_file(folder, comparison))


def _known_file(folder: Path, comparison: Comparison) -> Path:
    return folder / f"{comparison.table.name}.known.arrow"


def _rows(
    batches: Iterator[pl.DataFrame], of_shop: dict[str, Any], key: Sequence[str], record: dict[str, Any]
) -> Iterator[pl.DataFrame]:
    """What was read, as it is kept; counted, its keys checked."""
    last = None
    for piece in in_pieces(batches):
        try:
            rows, bounded = as_kept(piece, of_shop)
        except pl.exceptions.PolarsError as error:
            raise ShopError(f"a value does not fit its declared type: {str(error).splitlines()[0]}") from None
        last = require_keys(rows, key, last)
        record["rows"] += rows.height
        record["bounded"] += bounded
        yield rows


def _known_people(
    batches: Iterator[pl.DataFrame], comparison: Comparison, forgotten: Forgotten
) -> Iterator[pl.DataFrame]:
    """What was read without the rows of people who were forgotten, though the shop still has them."""
    column = comparison.person
    for batch in batches:
        if not column or not forgotten:
            yield batch
            continue
        users = batch[column].unique()
        gone = users.filter(
            pl.Series([user is not None and forgotten.is_user(user) for user in users], dtype=pl.Boolean)
        )
        yield batch.filter(~pl.col(column).is_in(gone.implode()).fill_null(value=False)) if len(gone) else batch


def _previous(file: Path, comparison: Comparison) -> Iterator[pl.DataFrame]:
    """The latest version of each key, from all versions."""
    if file.exists():
        for piece in latest(in_pieces(_batches(file)), comparison.key):
            yield piece.select(pl.col(name).cast(dtype) for name, dtype in comparison.known.items())


def _frames(batches: Iterator[pa.RecordBatch], bar: console.Bar) -> Iterator[pl.DataFrame]:
    for batch in batches:
        bar.advance(batch.num_rows)
        yield _frame(batch)


def _batches(file: Path) -> Iterator[pl.DataFrame]:
    """The batches of an Arrow file, one in memory at a time (the pages of a mapped one would count as held)."""
    with pa.OSFile(str(file)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield _frame(reader.get_batch(number))


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(pa.Table.from_batches([batch]))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _as_versions(versions: pl.DataFrame, kept: Table, record: dict[str, Any]) -> pl.DataFrame:
    """New versions as rows of the history table; a column that the shop's table no longer has is null."""
    said = {"valid_from": record["at"], "snapshot_id": record["snapshot_id"]}
    return versions.select(
        pl.col(name) if name in versions.columns else pl.lit(said.get(name)).cast(dtype).alias(name)
        for name, dtype in kept.schema.items()
    )


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"
