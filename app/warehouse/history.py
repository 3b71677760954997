"""`history`: append-only versions of the shop's rows, each snapshot exactly once.

A snapshot's new versions are staged in `etl` and attached in one step. Where columns were added or changed their type,
the whole table is rewritten in staging and exchanged with the old one. Either step is announced in `etl.snapshots`
first, so that `recover_snapshots` finishes what a killed process began. A staged table is dropped only after its step
is recorded as done.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from app.contracts import LABEL, SNAPSHOTS, TIME, Column, Table
from app.core.errors import ContractError, WarehouseError
from app.core.sql import quote
from app.warehouse.client import Warehouse
from app.warehouse.views import View, differing_views

_STAGED = "etl.staged_history_{}".format
_FILLS = "etl.staged_fills_{}".format
_VERSION = (
    Column("version", "UInt32", "1, 2, … per key"),
    Column("valid_from", TIME, "instant of the snapshot that observed this version"),
    Column("op", LABEL, "insert (also when a key comes back), update or delete"),
    Column("is_deleted", "Bool", "whether the row was gone; its columns then are the last ones it had"),
    Column("changed", "Array(String)", "columns that an update changed"),
    Column("snapshot_id", "String", "the snapshot in etl.snapshots"),
)
_VERSION_NAMES = frozenset(column.name for column in _VERSION)
_VALID_TO = Column("valid_to", f"Nullable({TIME})", "when this version ceased to hold; null for the latest")
_INSERTED_ROWS, _INSERTED_BYTES = 524_288, 128 * 1024**2
_MANY_VERSIONS = 2  # of a row
_LOST = "a process was killed while it published this, and the staged rows are gone: nothing was changed"
_SORTED_BY = re.compile(r"`([^`]*)`|([^\s,`]+)")
# A type has spaces only within parentheses, a name may have them anywhere.
_NAME_AND_TYPE = re.compile(r"(.*) ([A-Za-z]\w*(?:\([^()]*\))?)", re.DOTALL)


# ---- reading -----------------------------------------------------------------------------------------------


def history_table(name: str, columns: Sequence[Column], key: Sequence[str]) -> Table:
    """The contract of a history table: the shop's columns, then those of the version.

    The warehouse has one type for text and bytes: frames hold both as bytes, so that they compare and sort alike.
    """
    order_by = ", ".join(f"`{column}`" for column in (*key, "version"))
    comment = f"Versions of the shop's {name}, append-only; read {name}_current, {name}_versions or {name}_at(ts = …)"
    of_shop = [replace(column, holds_bytes=column.type in {"String", "Nullable(String)"}) for column in columns]
    return Table(
        "history", name, comment, (*of_shop, *_VERSION), order_by=f"({order_by})", unique_key=(*key, "version")
    )


def key_of(table: Table) -> list[str]:
    """The key columns of a history table's contract."""
    return list(table.unique_key[:-1])


def columns_of_shop(table: Table) -> dict[str, Column]:
    """The columns of a history table's contract that are the shop's own."""
    return {column.name: column for column in table.columns if column.name not in _VERSION_NAMES}


def existing_histories(warehouse: Warehouse) -> dict[str, Table]:
    """The contracts of the history tables as they are in the warehouse, by name."""
    found = warehouse.query(
        "SELECT t.name AS table, t.sorting_key, c.name, c.type, c.comment FROM system.tables AS t "
        "INNER JOIN system.columns AS c ON c.database = t.database AND c.table = t.name "
        "WHERE t.database = 'history' AND c.database = 'history' AND t.engine LIKE '%MergeTree' "
        "ORDER BY table, c.position"
    )
    columns, sorted_by = defaultdict[str, list[Column]](list), dict[str, str]()
    for table, sorting_key, *column in found.iter_rows():
        sorted_by[table] = sorting_key
        columns[table].append(Column(*column))
    return {name: _history_of(name, columns[name], sorting_key) for name, sorting_key in sorted_by.items()}


def _history_of(name: str, columns: Sequence[Column], sorting_key: str) -> Table:
    key = [quoted or bare for quoted, bare in _SORTED_BY.findall(sorting_key)]
    return history_table(name, [column for column in columns if column.name not in _VERSION_NAMES], key[:-1])


def write_versions(
    warehouse: Warehouse, table: Table, columns: Sequence[str], path: Path, *, live_rows: int | None
) -> None:
    """Write versions, including the latest of each key, to an Arrow file in the order of key and version.

    Filtering for the latest costs the engine as much as writing twice the rows, so it is done only above that.
    `live_rows` is the number of rows that the last snapshot found, if known.
    """
    selected = ", ".join(f"`{name}`" for name in columns)
    key = ", ".join(f"`{name}`" for name in key_of(table))
    order_by = f"{key}, version"
    if live_rows is not None and _count(warehouse, table.full_name) > _MANY_VERSIONS * live_rows:
        order_by = f"{key}, version DESC LIMIT 1 BY {key}"
    warehouse.write_arrow_file(f"SELECT {selected} FROM {table.full_name} ORDER BY {order_by}", path)


# ---- the journal --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LastSnapshot:
    """When a table was last snapshotted, and the columns and rows that the shop's table had; no rows if unknown."""

    at: datetime
    columns: tuple[str, ...]
    rows: int | None = None


@dataclass(frozen=True)
class Absence:
    """The last snapshot that had a dropped column, and the first without it."""

    last_seen: datetime
    since: datetime


def last_snapshots(warehouse: Warehouse, tables: Collection[Table]) -> dict[str, LastSnapshot]:
    """The last completed snapshots of history tables, by name; without tables that have neither one nor a version.

    Versions that the journal does not know still say when the last snapshot was at the earliest.
    """
    done = warehouse.query(
        "SELECT table, at, columns, rows FROM etl.snapshots WHERE state = 'done' AND (table, recorded_at) IN "
        "(SELECT table, max(recorded_at) FROM etl.snapshots WHERE state = 'done' GROUP BY table)"
    )
    found = {table: LastSnapshot(at, _names(columns), rows) for table, at, columns, rows in done.iter_rows()}
    for table in tables:
        if table.name not in found:
            latest = warehouse.query(f"SELECT max(valid_from) AS at FROM {table.full_name} HAVING count() > 0")
            if latest.height:
                found[table.name] = LastSnapshot(latest.item(), tuple(columns_of_shop(table)))
    return {table.name: found[table.name] for table in tables if table.name in found}


def absences(warehouse: Warehouse, table: str, columns: Sequence[str]) -> dict[str, Absence]:
    """Since when the named columns have been missing in the shop's table; without those that it never had."""
    found = dict[str, Absence]()
    since = dict[str, datetime]()
    if not columns:
        return found
    for taken in _taken(warehouse, table):
        for name in columns:
            if name in found:
                continue
            if name in taken.columns:
                found[name] = Absence(taken.at, since.get(name, taken.at))
            else:
                since[name] = taken.at
        if len(found) == len(columns):
            break
    return found


def _taken(warehouse: Warehouse, table: str) -> Iterator[LastSnapshot]:
    """A table's completed snapshots, newest first, back to where its history began."""
    done = warehouse.query(
        "SELECT at, columns, mode FROM etl.snapshots WHERE table = {table:String} AND state = 'done' "
        "ORDER BY recorded_at DESC",
        {"table": table},
    )
    for at, columns, mode in done.iter_rows():
        yield LastSnapshot(at, _names(columns))
        if mode == "rebuild":
            return


def _names(columns: Sequence[str]) -> tuple[str, ...]:
    """The names of columns that are recorded as name and type."""
    matches = (_NAME_AND_TYPE.fullmatch(column) for column in columns)
    return tuple(match[1] for match in matches if match)


# ---- writing -----------------------------------------------------------------------------------------------------


class StagedVersions:
    """The new versions of one snapshot of one table, staged until they are published."""

    def __init__(self, warehouse: Warehouse, table: Table, *, filled: Sequence[str]) -> None:
        self._warehouse = warehouse
        self._table = table
        self._filled = filled
        self._waiting: dict[str, list[pl.DataFrame]] = {_STAGED(table.name): [], _FILLS(table.name): []}
        self._is_made = False
        self._is_announced = False
        self.rows = 0

    def append(self, versions: pl.DataFrame) -> None:
        self.rows += versions.height
        self._hold(_STAGED(self._table.name), versions)

    def fill(self, unchanged: pl.DataFrame) -> None:
        """Add values of columns that unchanged rows get without a new version."""
        if self._filled:
            self._hold(_FILLS(self._table.name), unchanged)

    def _hold(self, name: str, frame: pl.DataFrame) -> None:
        """Buffer rows until there are enough of them: each insert has a fixed cost and creates a part."""
        if frame.height:
            self._waiting[name].append(frame)
            waiting = self._waiting[name]
            size = sum(held.estimated_size() for held in waiting)
            if sum(held.height for held in waiting) >= _INSERTED_ROWS or size >= _INSERTED_BYTES:
                self._insert(name)

    def _insert(self, name: str) -> None:
        waiting, self._waiting[name] = self._waiting[name], []
        if waiting:
            self._make()
            table = self._fills_table if name == _FILLS(self._table.name) else self._table
            self._warehouse.insert(table, pl.concat(waiting), into=name)

    def publish(self, snapshot: dict[str, Any], *, old: Table | None) -> None:
        """Make the versions part of history and record the snapshot as done; `old` is the table as it is now."""
        mode, staged = snapshot["mode"], _STAGED(self._table.name)
        self._warehouse.require_free_space()
        if mode != "append":
            self._make()
        if old is None:  # so that there is something to exchange
            self._warehouse.command(self._table.create_statement())
        for name in self._waiting:
            self._insert(name)
        if mode == "rewrite":
            assert old is not None
            self._rewrite(old)
        if self._is_made:
            self._require_complete(old if mode == "rewrite" else None)
            if mode == "append":
                self._join_parts()
            snapshot["staged_uuid"] = _uuids(self._warehouse, staged)[staged]
            self._is_announced = (
                True  # from here on the staged table is dropped only after the snapshot is recorded as done
            )
            _record(self._warehouse, snapshot, state="publishing")
            if not _swap(self._warehouse, snapshot):
                raise WarehouseError(f"{staged} vanished before it could become part of {self._table.full_name}")
        _record(self._warehouse, snapshot, state="done")
        self._is_announced = False
        self.discard()
        has_new_words = mode == "append" and old is not None and self._renew_comments(old)
        if mode != "append" or snapshot["dropped"] or has_new_words:
            refresh_history_views(self._warehouse, [self._table])

    def discard(self) -> None:
        """Drop what is staged, unless it is announced: then the next start finishes it."""
        if self._is_made and not self._is_announced:
            for name in (_STAGED(self._table.name), _FILLS(self._table.name)):
                self._warehouse.command(f"DROP TABLE IF EXISTS {name} SYNC")

    @property
    def _fills_table(self) -> Table:
        names = {*key_of(self._table), "version", *self._filled}
        columns = tuple(column for column in self._table.columns if column.name in names)
        return Table("etl", f"staged_fills_{self._table.name}", "", columns, order_by=self._table.order_by)

    def _make(self) -> None:
        if self._is_made:
            return
        self._warehouse.require_free_space()
        staged, fills = _STAGED(self._table.name), _FILLS(self._table.name)
        self._is_made = True
        self._warehouse.command(f"DROP TABLE IF EXISTS {staged} SYNC")
        self._warehouse.command(self._table.create_statement(name=staged))
        if self._filled:
            self._warehouse.command(f"DROP TABLE IF EXISTS {fills} SYNC")
            self._warehouse.command(self._fills_table.create_statement(name=fills))

    def _rewrite(self, old: Table) -> None:
        """Stage the old versions in the new types as well; current ones get the values of the new columns."""
        columns = [column.name for column in self._table.columns]
        had = {column.name: column.type for column in old.columns}
        selected = ", ".join(
            f"{_converted(column.name, had.get(column.name), column.type)} AS `{column.name}`"
            for column in self._table.columns
        )
        before = f"SELECT {selected} FROM {old.full_name}"
        if self._filled:
            joined = " AND ".join(f"h.`{name}` = f.`{name}`" for name in self._table.unique_key)
            # Versions begin at 1, so 0 marks a row that has nothing to be filled with.
            chosen = ", ".join(
                f"if(f.version = 0, h.`{name}`, f.`{name}`)" if name in self._filled else f"h.`{name}`"
                for name in columns
            )
            before = f"SELECT {chosen} FROM ({before}) AS h LEFT JOIN {_FILLS(self._table.name)} AS f ON {joined}"
        target = f"{_STAGED(self._table.name)} ({', '.join(f'`{name}`' for name in columns)})"
        # Both sides are in the order of the key: a merge keeps memory bounded.
        settings = "join_algorithm = 'full_sorting_merge', join_use_nulls = 0, min_insert_block_size_rows = 262144"
        self._warehouse.command(f"INSERT INTO {target} {before} SETTINGS {settings}")

    def _require_complete(self, rewritten: Table | None) -> None:
        """Raise ContractError unless what is staged is what was appended and rewritten."""
        staged = _STAGED(self._table.name)
        wanted = self.rows + (_count(self._warehouse, rewritten.full_name) if rewritten else 0)
        if (found := _count(self._warehouse, staged)) != wanted:
            raise ContractError(f"{staged} holds {found} versions, {wanted} were written: nothing was changed")

    def _join_parts(self) -> None:
        """Merge the staged versions into one part: attaching several is atomic to readers, but not when killed."""
        staged = _STAGED(self._table.name)
        parts = "SELECT count() FROM system.parts WHERE active AND database || '.' || table = {name:String}"
        if self._warehouse.scalar(parts, {"name": staged}) > 1:
            self._warehouse.command(f"OPTIMIZE TABLE {staged} FINAL")

    def _renew_comments(self, old: Table) -> bool:
        """Update column comments that the shop has changed; returns whether any was."""
        had = {column.name: column.comment for column in old.columns}
        changed = [
            f"COMMENT COLUMN `{column.name}` {quote(column.comment)}"
            for column in self._table.columns
            if had[column.name] != column.comment
        ]
        if changed:
            self._warehouse.command(f"ALTER TABLE {self._table.full_name} {', '.join(changed)}")
        return bool(changed)


def _converted(name: str, was: str | None, now: str) -> str:
    """The SQL of a column in its new type, without loss; null where the column is new."""
    if was is None:
        return f"CAST(NULL AS {now})"
    if was == now:
        return f"`{name}`"
    if "Decimal" in was and "Float64" in now:  # the engine's own cast multiplies by a power of ten, which rounds twice
        return f"CAST(toString(`{name}`) AS {now})"
    return f"CAST(`{name}` AS {now})"


def record_failed(warehouse: Warehouse, snapshot: dict[str, Any]) -> None:
    """Record a snapshot that changed nothing, with its reason."""
    _record(warehouse, snapshot, state="failed")


def recover_snapshots(warehouse: Warehouse) -> list[str]:
    """Finish the snapshots that a killed process had announced; returns their tables.

    A snapshot whose staged versions are gone changes nothing: the next one finds the same differences.
    """
    interrupted = warehouse.query(
        "SELECT * FROM etl.snapshots WHERE state = 'publishing' "
        "AND (table, snapshot_id) NOT IN (SELECT table, snapshot_id FROM etl.snapshots WHERE state != 'publishing')"
    )
    finished = []
    for snapshot in interrupted.iter_rows(named=True):
        if not _swap(warehouse, snapshot, is_repeated=True):
            _record(warehouse, {**snapshot, "error": _LOST}, state="failed")
            continue
        _record(warehouse, snapshot, state="done")
        finished.append(snapshot["table"])
        refresh_history_views(warehouse, [existing_histories(warehouse)[snapshot["table"]]])
    return finished


def _swap(warehouse: Warehouse, snapshot: dict[str, Any], *, is_repeated: bool = False) -> bool:
    """Bring the staged table into history; repeating it after a kill at any moment has the same result.

    Returns false if what was staged is gone; history is then unchanged.
    """
    name, staged = f"history.{snapshot['table']}", _STAGED(snapshot["table"])
    warehouse.require_free_space()
    uuids = _uuids(warehouse, name, staged)
    is_staged = bool(uuids.get(staged) == snapshot["staged_uuid"])
    if name not in uuids:
        return False
    if snapshot["mode"] != "append":
        if uuids[name] == snapshot["staged_uuid"]:
            return True
        if is_staged:
            warehouse.command(f"EXCHANGE TABLES {staged} AND {name}")
        return is_staged
    expected = snapshot["inserts"] + snapshot["updates"] + snapshot["deletes"]
    if is_repeated:
        where, parameters = "snapshot_id = {snapshot_id:String}", {"snapshot_id": snapshot["snapshot_id"]}
        found = warehouse.scalar(f"SELECT count() FROM {name} WHERE {where}", parameters)
        if found == expected:
            return True
        if found:  # killed between the parts
            warehouse.command(f"ALTER TABLE {name} DELETE WHERE {where}", parameters)
    if not is_staged:
        return False
    before = _count(warehouse, name)
    warehouse.command(f"ALTER TABLE {name} ATTACH PARTITION ID 'all' FROM {staged}")
    if (found := _count(warehouse, name) - before) != expected:  # a client may send a statement twice
        raise ContractError(f"{name} got {found} versions of {expected}: the next command of Carat repairs that")
    return True


def _count(warehouse: Warehouse, full_name: str) -> int:
    return int(warehouse.scalar(f"SELECT count() FROM {full_name}"))


def _record(warehouse: Warehouse, snapshot: dict[str, Any], *, state: str) -> None:
    """Add a row to the journal, later than the table's other rows even if the clock was set back."""
    last = warehouse.scalar(
        "SELECT max(recorded_at) FROM etl.snapshots WHERE table = {table:String}", {"table": snapshot["table"]}
    )
    recorded_at = max(datetime.now(tz=UTC), last + timedelta(milliseconds=1))
    row = {**snapshot, "state": state, "recorded_at": recorded_at}
    frame = pl.DataFrame([{name: row[name] for name in SNAPSHOTS.schema}], schema_overrides=SNAPSHOTS.schema)
    warehouse.insert(SNAPSHOTS, frame.cast(SNAPSHOTS.schema))


def _uuids(warehouse: Warehouse, *full_names: str) -> dict[str, str]:
    """The UUID of each of the tables that exist."""
    found = warehouse.query(
        "SELECT database || '.' || name AS full_name, toString(uuid) FROM system.tables "
        "WHERE database IN ('etl', 'history') AND full_name IN {names:Array(String)}",
        {"names": list(full_names)},
    )
    return dict(found.iter_rows())


# ---- views -------------------------------------------------------------------------------------------------------


def refresh_history_views(warehouse: Warehouse, tables: Collection[Table]) -> list[str]:
    """Create the views of history tables, or replace those that differ; returns a line for each change."""
    if not tables:
        return []
    last = last_snapshots(warehouse, tables)
    declared = dict[str, list[Column]]()
    views = list[View]()
    for table in tables:
        seen = last.get(table.name)
        gone = [name for name in columns_of_shop(table) if seen is not None and name not in seen.columns]
        missing = {name: absence.since for name, absence in absences(warehouse, table.name, gone).items()}
        for view, columns in history_views(table, missing):
            views.append(view)
            declared[view.full_name] = columns
    differing = {view.full_name: exists for view, exists in differing_views(warehouse, views)}
    stored = _view_columns(warehouse)
    lines = []
    for view in views:
        columns = declared[view.full_name]
        # A view keeps the columns and types it was created with, even if its table changes.
        if view.full_name in differing or (columns and stored.get(view.full_name) != columns):
            _make_view(warehouse, view, columns)
            lines.append(f"{'replaced' if differing.get(view.full_name, True) else 'created'} view {view.full_name}")
    return lines


def _make_view(warehouse: Warehouse, view: View, columns: Sequence[Column]) -> None:
    warehouse.require_free_space()
    if columns:
        declared = ",\n  ".join(column.ddl for column in columns)
        warehouse.command(
            f"CREATE OR REPLACE VIEW {view.full_name}\n(\n  {declared}\n)\nAS {view.select}\n"
            f"COMMENT {quote(view.comment)}"
        )
    else:
        warehouse.command(view.create_statement)


def _view_columns(warehouse: Warehouse) -> dict[str, list[Column]]:
    """The columns of the views of `history`, by the views' full names."""
    found = warehouse.query(
        "SELECT 'history.' || table AS view, name, type, comment FROM system.columns WHERE database = 'history' "
        "AND table IN (SELECT name FROM system.tables WHERE database = 'history' AND engine = 'View') "
        "ORDER BY view, position"
    )
    columns = defaultdict[str, list[Column]](list)
    for view, *column in found.iter_rows():
        columns[view].append(Column(*column))
    return columns


def history_views(table: Table, missing: Mapping[str, datetime]) -> list[tuple[View, list[Column]]]:
    """The views of a history table and their columns; `missing`: columns the shop no longer has, and since when.

    A version keeps the value of such a column from when it began, although the column was dropped while it was valid.
    """
    key = ", ".join(f"`{name}`" for name in key_of(table))
    latest = f"ORDER BY {key}, version DESC LIMIT 1 BY {key}"
    columns = [replace(column, holds_bytes=False) for column in table.columns]
    now = _selected(table, dict.fromkeys(missing, "NULL"))
    then = _selected(
        table,
        {name: f"if({{ts:{TIME}}} < {_instant(since)}, `{name}`, NULL)" for name, since in missing.items()},
    )
    return [
        (
            View(
                f"{table.full_name}_current",
                f"The rows of the shop's {table.name} as of the last snapshot.",
                f"SELECT {now} FROM (SELECT * FROM {table.full_name} {latest}) WHERE NOT is_deleted",
                {},
            ),
            columns,
        ),
        (
            View(
                f"{table.full_name}_versions",
                f"Every version of the shop's {table.name} with the span in which it held: [valid_from, valid_to).",
                f"SELECT {_selected(table, {})}, leadInFrame(toNullable(valid_from)) OVER "
                f"(PARTITION BY {key} ORDER BY version ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS valid_to "
                f"FROM {table.full_name}",
                {},
            ),
            [*columns, _VALID_TO],
        ),
        (
            View(
                f"{table.full_name}_at",
                f"The rows of the shop's {table.name} that were live at an instant: {table.name}_at(ts = …).",
                f"SELECT {then} FROM (SELECT * FROM {table.full_name} "
                f"WHERE valid_from <= {{ts:{TIME}}} {latest}) WHERE NOT is_deleted",
                {},
            ),
            [],  # a parameterised view stores no columns
        ),
    ]


def _selected(table: Table, instead: Mapping[str, str]) -> str:
    types = {column.name: column.type for column in table.columns}
    return ", ".join(
        f"CAST({instead[name]} AS {types[name]}) AS `{name}`" if name in instead else f"`{name}`" for name in types
    )


def _instant(at: datetime) -> str:
    return f"fromUnixTimestamp64Milli({round(at.timestamp() * 1000)}, 'UTC')"
