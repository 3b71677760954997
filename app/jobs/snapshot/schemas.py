"""Decides how a table of the shop is compared with its history, before it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl
from polars.datatypes import DataType

from app.contracts import Column, Table, dtype_of
from app.core.errors import ShopError
from app.frames.type_promotion import common_type
from app.rules.snapshot_plan import SnapshotTable
from app.shop import ShopColumn
from app.warehouse import Warehouse
from app.warehouse.history import (
    LastSnapshot,
    absences,
    columns_of_shop,
    history_table,
    key_of,
)

_NUMBERS = ("Int", "UInt", "Decimal", "Float")


@dataclass(frozen=True)
class Limits:
    """What a snapshot may change without the user's consent, and what the user has consented to."""

    max_deleted_share: float
    accept_deletes: bool = False
    rebuild: bool = False


@dataclass(frozen=True)
class Comparison:
    """How a table of the shop is compared with its history."""

    table: SnapshotTable
    kept: Table  # as history will be
    old: Table | None  # as history is; None where it begins
    columns: tuple[ShopColumn, ...]
    mode: str
    compared: tuple[str, ...] = ()  # columns, other than the key, that history has
    filled: tuple[str, ...] = ()  # columns that unchanged rows get without a new version
    added: tuple[str, ...] = ()
    returned: Mapping[str, datetime] = field(default_factory=dict)  # of those added: dropped before, and when last seen
    dropped: tuple[str, ...] = ()
    retyped: tuple[str, ...] = ()
    live_rows: int | None = None  # as the last snapshot found, where known

    @property
    def key(self) -> list[str]:
        return key_of(self.kept)

    @property
    def person(self) -> str:
        """The column that says whose a row is, as history has it; empty if none does."""
        return next((c.kept_as for c in self.columns if c.name == self.table.person), "")

    @property
    def numbers(self) -> dict[str, DataType]:
        """The columns that are numbers in the shop and kept as text, because they once were text; as declared there."""
        return {
            column.kept_as: dtype_of(column.type)
            for column in self.columns
            if column.type.startswith(_NUMBERS) and self.kept.schema[column.kept_as] == pl.Binary()
        }

    @property
    def known(self) -> dict[str, DataType]:
        """The columns of a stored version that are compared, with their dtypes; keys have the dtypes they will have."""
        names = [*self.key, *self.compared, "version", "is_deleted", *(["valid_from"] if self.returned else [])]
        had = (self.old or self.kept).schema
        return {name: self.kept.schema[name] if name in self.key else had[name] for name in names}

    def record(self) -> dict[str, Any]:
        """The columns as a part of the row in `etl.snapshots`."""
        return {
            "mode": self.mode,
            "columns": [f"{column.kept_as} {column.type}" for column in self.columns],
            "added": list(self.added),
            "dropped": list(self.dropped),
            "retyped": list(self.retyped),
        }


def compare_schemas(
    warehouse: Warehouse,
    table: SnapshotTable,
    columns: Sequence[ShopColumn],
    *,
    old: Table | None,
    last: LastSnapshot | None,
    at: datetime,
    limits: Limits,
) -> Comparison:
    """How the table is compared with `old`, its history; `last` is its last snapshot.

    Raises ShopError where it cannot be compared, or where its schema looks like another shop's.
    """
    names = [column.name for column in columns]
    if "" in names:
        named = ", ".join(f'"{name}"' for name in names if name)
        raise ShopError(
            f"{table.source} has a column without a name, which history cannot store: set columns = [{named}] in the "
            "snapshot plan"
        )
    if odd := [name for name in names if "`" in name or "\\" in name]:
        raise ShopError(f"{table.source} has a column {odd[0]!r}, which history cannot store: exclude it")
    fresh = {column.kept_as: column.in_history(is_key=column.name in table.key) for column in columns}
    if len(fresh) < len(columns):
        raise ShopError(f"{table.source}: two columns would be stored under one name: exclude one of them")
    key = [column.kept_as for name in table.key for column in columns if column.name == name]
    if old is None or last is None or limits.rebuild:
        kept = history_table(table.name, list(fresh.values()), key)
        return Comparison(table, kept, old, tuple(columns), mode="rebuild")
    if at < last.at:
        raise ShopError(
            f"history.{table.name} already has a snapshot of {_text(last.at)}, which is later than {_text(at)}. Replay "
            f"the oldest first, or start over: `carat snapshot --rebuild --tables {table.name} --at …`"
        )
    if key_of(old) != key:
        raise ShopError(
            f"history.{table.name} has the key {', '.join(key_of(old))}, the plan now says {', '.join(key)}: start "
            f"it over with `carat snapshot --rebuild --tables {table.name}`"
        )
    gone = [name for name in last.columns if name not in fresh]
    others = len(last.columns) - len(key)
    if len(gone) > others / 2 and not limits.accept_deletes:
        raise ShopError(
            f"{table.source} has another schema: {len(gone)} of {others} columns are gone "
            f"({', '.join(gone)}). If that is right, use --accept-deletes"
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
    """How a table is compared whose columns may have been added, dropped or changed in type."""
    key, was = key_of(old), columns_of_shop(old)
    kept = dict(was)  # in the stored order; a dropped column stays, for the versions that had it
    retyped = dict[str, str]()
    for name, column in fresh.items():
        type_ = common_type(was[name].type, column.type) if name in was else column.type
        if name in key and "String" in {was[name].type, type_} and was[name].type != column.type:
            # Text and numbers sort differently, so that their keys cannot be compared.
            raise ShopError(
                f"{table.source} has another schema: its key {name} is now {column.type}, it was {was[name].type}. "
                f"If that is right, start it over: `carat snapshot --rebuild --tables {table.name}`"
            )
        if name in was and type_ != was[name].type:
            retyped[name] = f"{name}: {was[name].type} -> {type_}"
        kept[name] = Column(name, type_, column.comment)
    added = [name for name in fresh if name not in last.columns]
    # A column that comes back is compared with the versions that had it, and fills the later ones.
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
        live_rows=last.rows,
    )


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"
