"""Publishing a day: build aside in `etl`, then swap whole partitions, so that a reader sees the old day or the new.

`REPLACE PARTITION` is atomic to readers, but a process killed inside it can leave the old rows beside the new, and
the tables of a day are replaced one after the other. So what is about to be replaced is written to a journal first
(`etl.publications`, one row, atomic), the staged tables stay until it is done, and `recover` runs an interrupted
publication again. Repeating a replacement is harmless.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from threading import Lock

import polars as pl

from app.contracts import DWH_TABLES, PUBLICATIONS, Table
from app.errors import ContractError
from app.warehouse.client import Warehouse

_STAGED = "etl.staged_{table}_{day:%Y%m%d}"


class Staging:
    """The tables of one business day while they are being built, beside the published ones."""

    def __init__(self, warehouse: Warehouse, day: date, tables: Sequence[Table]) -> None:
        warehouse.require_room()
        self._warehouse = warehouse
        self._day = day
        self._counting = Lock()
        self.rows = dict.fromkeys((table.name for table in tables), 0)
        for table in tables:
            name = _STAGED.format(table=table.name, day=day)
            warehouse.command(f"DROP TABLE IF EXISTS {name} SYNC")
            warehouse.command(table.create_statement(name=name))
            # Merging parts that are about to move would take the cores that the build needs.
            warehouse.command(f"SYSTEM STOP MERGES {name}")

    def append(self, table: Table, frame: pl.DataFrame, *, through: Warehouse) -> None:
        """Add rows by a connection of the calling thread's own."""
        table.require_unique(frame, where=f"building {self._day}")
        through.insert(table, frame, into=_STAGED.format(table=table.name, day=self._day))
        with self._counting:
            self.rows[table.name] += frame.height

    def require_complete(self) -> None:
        """Raise ContractError unless what is staged is what was appended, in this day's partition alone."""
        for name, expected in self.rows.items():
            staged = _STAGED.format(table=name, day=self._day)
            column = next(table.partition_by for table in DWH_TABLES if table.name == name)
            found = self._warehouse.scalar(f"SELECT countIf({column} = {{day:Date}}) FROM {staged}", {"day": self._day})
            if found != expected:
                raise ContractError(
                    f"{staged} holds {found} rows of {self._day}, {expected} were written: not published"
                )


def publish(warehouse: Warehouse, day: date, tables: Sequence[str], *, now: datetime) -> None:
    """Replace a day of the named tables by what is staged for it."""
    journal = pl.DataFrame(
        {
            "publication_id": [f"{day:%Y%m%d}-{now:%Y%m%dT%H%M%S%f}"],
            "at": [now],
            "day": [day],
            "tables": [list(tables)],
            "state": ["publishing"],
        },
        schema=PUBLICATIONS.schema,
    )
    warehouse.insert(PUBLICATIONS, journal)
    warehouse.require_room()
    _replace_partitions(warehouse, day, tables)
    warehouse.insert(PUBLICATIONS, journal.with_columns(state=pl.lit("published")))
    _drop_staged(warehouse, day, tables)


def recover(warehouse: Warehouse) -> list[date]:
    """Finish what a killed process left half-done; the days that were published again."""
    interrupted = warehouse.query(
        "SELECT publication_id, max(at) AS at, any(day) AS day, any(tables) AS tables FROM etl.publications "
        "GROUP BY publication_id HAVING countIf(state = 'published') = 0 ORDER BY at"
    )
    days = []
    for row in interrupted.iter_rows(named=True):
        warehouse.require_room()
        _replace_partitions(warehouse, row["day"], row["tables"])
        done = pl.DataFrame({**row, "tables": [row["tables"]], "state": "published", "at": datetime.now(tz=UTC)})
        warehouse.insert(PUBLICATIONS, done.cast(PUBLICATIONS.schema))
        days.append(row["day"])
    leftover = warehouse.query("SELECT name FROM system.tables WHERE database = 'etl' AND name LIKE 'staged\\_%'")
    for name in leftover.iter_rows():
        warehouse.command(f"DROP TABLE IF EXISTS etl.{name[0]} SYNC")
    return days


def _replace_partitions(warehouse: Warehouse, day: date, tables: Sequence[str]) -> None:
    for table in tables:
        staged = _STAGED.format(table=table, day=day)
        database, _, name = staged.partition(".")
        found = warehouse.query(
            "SELECT total_rows FROM system.tables WHERE database = {database:String} AND name = {name:String}",
            {"database": database, "name": name},
        )
        partition = f"PARTITION ID '{day:%Y%m%d}'"
        if found.is_empty():  # a staged table is dropped only after its publication is in the journal as done
            continue
        if found.item():
            warehouse.command(f"ALTER TABLE dwh.{table} REPLACE {partition} FROM {staged}")
        else:  # the engine refuses to replace a partition by nothing
            warehouse.command(f"ALTER TABLE dwh.{table} DROP {partition}")


def _drop_staged(warehouse: Warehouse, day: date, tables: Sequence[str]) -> None:
    for table in tables:
        warehouse.command(f"DROP TABLE IF EXISTS {_STAGED.format(table=table, day=day)} SYNC")
