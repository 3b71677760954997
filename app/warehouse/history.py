"""`history`: append-only versions of the shop's rows, each snapshot exactly once.

A snapshot's new versions are staged in `etl` and attached in one step, or, where columns came or changed their type,
the whole table is written anew beside the old one and exchanged with it. Either is announced in `etl.snapshots` first,
so that `recover_snapshots` finishes what a killed process began. A staged table is dropped only when that is recorded.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from app.contracts import LABEL, SNAPSHOTS, TIME, Column, Table
from app.errors import ContractError
from app.warehouse.client import Warehouse
from app.warehouse.views import View, replace_view

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
_VALID_TO = "instant from which on this version no longer holds; null for the latest"


def history_table(name: str, columns: Sequence[Column], key: Sequence[str]) -> Table:
    """The contract of a history table: the shop's columns, then what a version says of itself."""
    order_by = ", ".join(f"`{column}`" for column in (*key, "version"))
    comment = f"Versions of the shop's {name}, append-only; read {name}_current, {name}_versions or {name}_at(ts = …)"
    return Table("history", name, comment, (*columns, *_VERSION), order_by=f"({order_by})")


def existing_history(warehouse: Warehouse, name: str) -> Table | None:
    """The contract of a history table as it is in the warehouse; None where there is none."""
    columns = warehouse.query(
        "SELECT name, type, comment, is_in_sorting_key AS is_key FROM system.columns "
        "WHERE database = 'history' AND table = {name:String} ORDER BY position",
        {"name": name},
    )
    if columns.is_empty():
        return None
    own = {column.name for column in _VERSION}
    of_shop = [row for row in columns.iter_rows(named=True) if row["name"] not in own]
    key = [row["name"] for row in of_shop if row["is_key"]]
    return history_table(name, [Column(row["name"], row["type"], row["comment"]) for row in of_shop], key)


def history_names(warehouse: Warehouse) -> list[str]:
    """The history tables that there are."""
    found = warehouse.query("SELECT name FROM system.tables WHERE database = 'history' AND engine LIKE '%MergeTree'")
    return sorted(found["name"]) if found.height else []


def last_snapshot(warehouse: Warehouse, name: str) -> dict[str, Any] | None:
    """The table's last snapshot that was done: its `at` and `columns`."""
    found = warehouse.query(
        "SELECT at, columns FROM etl.snapshots WHERE table = {name:String} AND state = 'done' "
        "ORDER BY recorded_at DESC LIMIT 1",
        {"name": name},
    )
    return None if found.is_empty() else found.row(0, named=True)


def write_versions(warehouse: Warehouse, table: Table, columns: Sequence[str], path: Path) -> None:
    """Write every version in the order of key and version to an Arrow file; text as bytes.

    The engine could leave out all but the latest of each key, but takes twice as long over it.
    """
    selected = ", ".join(f"`{name}`" for name in (*columns, "version", "is_deleted"))
    warehouse.write_arrow_file(f"SELECT {selected} FROM {table.full_name} ORDER BY {table.order_by.strip('()')}", path)


def key_of(table: Table) -> list[str]:
    """The key columns of a history table's contract."""
    return [name for name in table.order_by.strip("()").replace("`", "").split(", ") if name != "version"]


class StagedVersions:
    """The new versions of one snapshot of one table, aside until they are published."""

    def __init__(self, warehouse: Warehouse, table: Table, *, filled: Sequence[str]) -> None:
        self._warehouse = warehouse
        self._table = table
        self._filled = filled
        self._is_made = False
        self.rows = 0

    def append(self, versions: pl.DataFrame) -> None:
        if versions.is_empty():
            return
        self._make()
        self._warehouse.insert(self._table, versions, into=_STAGED(self._table.name))
        self.rows += versions.height

    def fill(self, unchanged: pl.DataFrame) -> None:
        """Values of columns that rows get without a new version."""
        if self._filled and not unchanged.is_empty():
            self._make()
            self._warehouse.insert(self._fills_table, unchanged, into=_FILLS(self._table.name))

    def publish(self, snapshot: dict[str, Any], *, old: Table | None) -> None:
        """Make the versions part of history and record the snapshot as done; `old` is the table as it is there."""
        mode = snapshot["mode"]
        self._warehouse.require_room()
        if mode != "append":
            self._make()
        if mode == "rewrite":
            assert old is not None
            self._rewrite(old)
        if self._is_made:
            if old is None:
                self._warehouse.command(self._table.create_statement())
            snapshot["staged_uuid"] = _uuid_of(self._warehouse, _STAGED(self._table.name))
            _record(self._warehouse, snapshot, state="publishing")
            _swap(self._warehouse, snapshot)
        elif old is None:
            self._warehouse.command(self._table.create_statement())
        _record(self._warehouse, snapshot, state="done")
        self.discard()
        refresh_history_views(self._warehouse, self._table)

    def discard(self) -> None:
        if self._is_made:
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
        self._warehouse.require_room()
        staged, fills = _STAGED(self._table.name), _FILLS(self._table.name)
        self._warehouse.command(f"DROP TABLE IF EXISTS {staged} SYNC")
        self._warehouse.command(self._table.create_statement(name=staged))
        if self._filled:
            self._warehouse.command(f"DROP TABLE IF EXISTS {fills} SYNC")
            self._warehouse.command(self._fills_table.create_statement(name=fills))
        self._is_made = True

    def _rewrite(self, old: Table) -> None:
        """Stage the old versions, too, in the new types; those that hold now get the values that came with it."""
        columns = [column.name for column in self._table.columns]
        types = {column.name: column.type for column in self._table.columns}
        had = {column.name for column in old.columns}
        key = key_of(self._table)

        def as_now(name: str) -> str:
            old_value = f"CAST(`{name}` AS {types[name]})" if name in had else f"CAST(NULL AS {types[name]})"
            return f"{old_value} AS `{name}`"

        before = f"SELECT {', '.join(as_now(name) for name in columns)} FROM {old.full_name}"
        if self._filled:
            chosen = ", ".join(
                f"if(f.is_filled, f.`{name}`, h.`{name}`)" if name in self._filled else f"h.`{name}`"
                for name in columns
            )
            joined = " AND ".join(f"h.`{name}` = f.`{name}`" for name in (*key, "version"))
            before = (
                f"SELECT {chosen} FROM ({before}) AS h LEFT JOIN "
                f"(SELECT *, true AS is_filled FROM {_FILLS(self._table.name)}) AS f ON {joined}"
            )
        target = f"{_STAGED(self._table.name)} ({', '.join(f'`{name}`' for name in columns)})"
        # Both sides are in the order of the key: a merge keeps memory bounded.
        self._warehouse.command(
            f"INSERT INTO {target} {before} SETTINGS join_algorithm = 'full_sorting_merge', join_use_nulls = 0"
        )
        wanted = self._warehouse.scalar(f"SELECT count() FROM {old.full_name}") + self.rows
        found = self._warehouse.scalar(f"SELECT count() FROM {_STAGED(self._table.name)}")
        if found != wanted:
            raise ContractError(f"writing {old.full_name} anew gave {found} rows of {wanted}: nothing was changed")


def record_failed(warehouse: Warehouse, snapshot: dict[str, Any]) -> None:
    """Write down a snapshot that changed nothing, with its reason."""
    _record(warehouse, snapshot, state="failed")


def recover_snapshots(warehouse: Warehouse) -> list[str]:
    """Finish the snapshots that a killed process had announced; the tables they are of."""
    interrupted = warehouse.query(
        "SELECT * FROM etl.snapshots WHERE state = 'publishing' "
        "AND (table, snapshot_id) NOT IN (SELECT table, snapshot_id FROM etl.snapshots WHERE state != 'publishing')"
    )
    for snapshot in interrupted.iter_rows(named=True):
        _swap(warehouse, snapshot)
        _record(warehouse, snapshot, state="done")
        table = existing_history(warehouse, snapshot["table"])
        assert table is not None
        refresh_history_views(warehouse, table)
    return interrupted["table"].to_list() if interrupted.height else []


def _swap(warehouse: Warehouse, snapshot: dict[str, Any]) -> None:
    """Bring the staged table into history; repeating it after a kill at any moment gives the same."""
    name, staged = f"history.{snapshot['table']}", _STAGED(snapshot["table"])
    warehouse.require_room()
    if snapshot["mode"] != "append":
        if _uuid_of(warehouse, name) != snapshot["staged_uuid"]:
            warehouse.command(f"EXCHANGE TABLES {staged} AND {name}")
        return
    expected = snapshot["inserts"] + snapshot["updates"] + snapshot["deletes"]
    where = "snapshot_id = {snapshot_id:String}"
    parameters = {"snapshot_id": snapshot["snapshot_id"]}
    found = warehouse.scalar(f"SELECT count() FROM {name} WHERE {where}", parameters)
    if found == expected:
        return
    if found:  # killed between the parts
        warehouse.command(f"ALTER TABLE {name} DELETE WHERE {where}", parameters)
    warehouse.command(f"ALTER TABLE {name} ATTACH PARTITION ID 'all' FROM {staged}")


def _record(warehouse: Warehouse, snapshot: dict[str, Any], *, state: str) -> None:
    row = {**snapshot, "state": state, "recorded_at": datetime.now(tz=UTC)}
    frame = pl.DataFrame([{name: row[name] for name in SNAPSHOTS.schema}], schema_overrides=SNAPSHOTS.schema)
    warehouse.insert(SNAPSHOTS, frame.cast(SNAPSHOTS.schema))


def _uuid_of(warehouse: Warehouse, full_name: str) -> str:
    database, _, name = full_name.partition(".")
    return str(
        warehouse.scalar(
            "SELECT toString(uuid) FROM system.tables WHERE database = {database:String} AND name = {name:String}",
            {"database": database, "name": name},
        )
    )


# ---- views -------------------------------------------------------------------------------------------------------


def refresh_history_views(warehouse: Warehouse, table: Table) -> list[str]:
    """Create or replace the views of a history table; what was changed, a line each."""
    return [line for view in history_views(table) for line in replace_view(warehouse, view)]


def history_views(table: Table) -> tuple[View, ...]:
    key = ", ".join(f"`{name}`" for name in key_of(table))
    latest = f"ORDER BY {key}, version DESC LIMIT 1 BY {key}"
    comments = {column.name: column.comment for column in table.columns}
    return (
        View(
            f"{table.full_name}_current",
            f"The rows of the shop's {table.name} as of the last snapshot.",
            f"SELECT * FROM (SELECT * FROM {table.full_name} {latest}) WHERE NOT is_deleted",
            comments,
        ),
        View(
            f"{table.full_name}_versions",
            f"Every version of the shop's {table.name} with the span in which it held: [valid_from, valid_to).",
            f"SELECT *, leadInFrame(toNullable(valid_from)) OVER (PARTITION BY {key} ORDER BY version "
            f"ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS valid_to FROM {table.full_name}",
            comments | {"valid_to": _VALID_TO},
        ),
        View(
            f"{table.full_name}_at",
            f"The rows of the shop's {table.name} that were live at an instant: {table.name}_at(ts = …).",
            f"SELECT * FROM (SELECT * FROM {table.full_name} "
            f"WHERE valid_from <= {{ts:DateTime64(3, 'UTC')}} {latest}) WHERE NOT is_deleted",
            {},  # a view with a parameter keeps no comments of columns
        ),
    )
