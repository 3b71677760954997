"""Deletes rows physically: parts are rewritten without them, and the old parts are removed from the disk at once.

What is to be deleted is written to a journal first, a table of `etl`. Statements refer to that table instead of ids,
because the warehouse stores the text of deletions; and a process that was killed finds there what it was deleting.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, timedelta

import polars as pl

from app.contracts import LABEL, Column, Table
from app.core.errors import WarehouseError
from app.warehouse.client import Warehouse

# No partition has this id: dropping it only removes parts that are no longer active.
_NO_PARTITION = "19700101"
_REMOVAL_TIMEOUT_S = 60.0
_PAUSE_S = 0.5
_SYNCHRONOUS = "SETTINGS mutations_sync = 2"


class Journal:
    """What one erasure deletes: values by kind, stored until it is done."""

    def __init__(self, warehouse: Warehouse, name: str) -> None:
        self._warehouse = warehouse
        self.table = Table(
            "etl", name, "What an erasure that is under way removes.",
            (Column("kind", LABEL, "what it is"), Column("value", "String", "an id, a call, a session or a day")),
            order_by="(kind, value)",
        )  # fmt: skip

    def open(self) -> None:
        self._warehouse.command(self.table.create_statement())

    def add(self, values: Iterable[tuple[str, str]]) -> None:
        rows = pl.DataFrame(sorted(set(values)), schema=self.table.schema, orient="row")
        self._warehouse.insert(self.table, rows)

    def values(self, kind: str) -> list[str]:
        found = self._warehouse.query(
            f"SELECT DISTINCT value FROM {self.table.full_name} WHERE kind = {{kind:String}} ORDER BY value",
            {"kind": kind},
            schema={"value": pl.String()},
        )
        return found["value"].to_list()

    def select(self, kind: str, *, as_type: str = "String") -> str:
        """The query of the values of a kind."""
        value = "toUUID(value)" if as_type == "UUID" else "value"
        return f"SELECT {value} FROM {self.table.full_name} WHERE kind = '{kind}'"

    def close(self) -> None:
        self._warehouse.command(f"DROP TABLE IF EXISTS {self.table.full_name} SYNC")


def delete_rows(warehouse: Warehouse, table: str, where: str, *, days: Sequence[date] | None = None) -> None:
    """Rewrite the parts that hold such rows without them; with `days` only in these partitions."""
    warehouse.require_lease()
    warehouse.require_free_space()
    clauses = [""] if days is None else _partitions(warehouse, table, days)
    if clauses:
        deletions = ", ".join(f"DELETE {within} WHERE {where}" for within in clauses)
        warehouse.command(f"ALTER TABLE {table} {deletions} {_SYNCHRONOUS}")


def update_rows(warehouse: Warehouse, table: str, assignment: str, where: str) -> None:
    """Rewrite the parts that hold such rows with other values."""
    warehouse.require_lease()
    warehouse.require_free_space()
    warehouse.command(f"ALTER TABLE {table} UPDATE {assignment} WHERE {where} {_SYNCHRONOUS}")


def remove_masked(warehouse: Warehouse, table: str, days: Sequence[date]) -> None:
    """Rewrite the parts of these days and their neighbours without the rows that are masked there."""
    around = [day + timedelta(days=n) for day in days for n in (-1, 0, 1)]
    clauses = _partitions(warehouse, table, around, among="has_lightweight_delete")
    if clauses:
        warehouse.require_free_space()
        applied = ", ".join(f"APPLY DELETED MASK {within}" for within in clauses)
        warehouse.command(f"ALTER TABLE {table} {applied} {_SYNCHRONOUS}")


def remove_old_parts(warehouse: Warehouse, old: Mapping[str, AbstractSet[str]]) -> None:
    """Remove these replaced parts from the disk now; WarehouseError if readers still hold them.

    Parts that are replaced meanwhile do not matter: they were merged from clean ones.
    """
    for table, names in old.items():
        deadline = time.monotonic() + _REMOVAL_TIMEOUT_S
        if not names & inactive_parts(warehouse, table):
            continue
        warehouse.command(f"ALTER TABLE {table} MODIFY SETTING old_parts_lifetime = 0")
        try:
            while names & inactive_parts(warehouse, table):
                warehouse.command(f"ALTER TABLE {table} DROP PARTITION ID '{_NO_PARTITION}'")
                if time.monotonic() > deadline:
                    raise WarehouseError(
                        f"{table}: a query still reads old parts, so they are on the disk. Run the same command again"
                    )
                if names & inactive_parts(warehouse, table):
                    time.sleep(_PAUSE_S)
        finally:
            warehouse.command(f"ALTER TABLE {table} RESET SETTING old_parts_lifetime")


def inactive_parts(warehouse: Warehouse, table: str) -> set[str]:
    """The parts of the table that are on the disk although they have been replaced."""
    sql = "SELECT name FROM system.parts WHERE NOT active AND database || '.' || table = {table:String}"
    return set(warehouse.query(sql, {"table": table}, schema={"name": pl.String()})["name"])


def _partitions(warehouse: Warehouse, table: str, days: Sequence[date], *, among: str = "1") -> list[str]:
    """The IN PARTITION clauses of these days, where the partition has a part that fulfils `among`."""
    there = warehouse.query(
        f"SELECT DISTINCT partition_id FROM system.parts WHERE active AND {among} "
        "AND database || '.' || table = {table:String}",
        {"table": table},
        schema={"partition_id": pl.String()},
    )
    ids = set(there["partition_id"]) & {f"{day:%Y%m%d}" for day in days}
    return [f"IN PARTITION ID '{partition}'" for partition in sorted(ids)]
