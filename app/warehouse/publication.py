"""Publishes a day: it is built in staging tables of `etl`, then whole partitions are swapped.

A reader sees the old day or the new one. `REPLACE PARTITION` is atomic to readers, but a process killed inside it can
leave old and new rows together, and the tables of a day are replaced one after the other. So the replacement is written
to a journal first (`etl.publications`, one row, atomic), the staged tables stay until it is done, and `recover` repeats
an interrupted publication. Repeating a replacement is harmless.

A day of which few sessions changed starts as a copy of the published day without those sessions' rows. Parts are shared
between tables, so the copy costs almost nothing, however large the day is.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from threading import Lock

import polars as pl

from app.contracts import PUBLICATIONS, DwhTable
from app.core.errors import AuditError, ContractError, WarehouseError
from app.warehouse.client import Warehouse

# Merging parts that are about to move would take the build's CPU time, and deletions would wait for it.
_UNMERGED = "max_bytes_to_merge_at_max_space_in_pool = 1"
_MASKING_POLL_S = 0.02


class Staging:
    """The staging tables of one business day.

    `rows` is the number of rows in each. With `replaced`, a query of session ids, they start as published, without the
    rows of these sessions; `published` is the number of rows of each table as published, `kept` of those they start
    with.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        day: date,
        tables: Sequence[DwhTable],
        *,
        replaced: str = "",
        published: Mapping[str, int] | None = None,
    ) -> None:
        warehouse.require_free_space()
        self._warehouse = warehouse
        self._counting = Lock()
        self.day = day
        self.build_id = uuid.uuid4().hex[:12]
        self.replaced = replaced
        self.tables = tuple(tables)
        self.rows = dict.fromkeys((table.name for table in tables), 0)
        for node in warehouse.nodes:
            for table in tables:
                node.command(table.create_statement(name=self.name(table.name), settings=_UNMERGED))
        if replaced:
            self.rows |= {name: rows for name, rows in (published or {}).items() if name in self.rows}
            for node in warehouse.nodes:
                self._begin_as_published(node)
        self.kept: Mapping[str, int] = dict(self.rows)

    def name(self, table: str) -> str:
        """The staged table of this name."""
        return _staged(table, self.day, self.build_id)

    def append(self, table: DwhTable, frame: pl.DataFrame, *, through: Warehouse) -> None:
        """Add rows, through a connection that belongs to the calling thread."""
        table.require_unique(frame, where=f"building {self.day}")
        through.insert(table, frame, into=self.name(table.name))
        with self._counting:
            self.rows[table.name] += frame.height

    def require_complete(self) -> None:
        """Raise ContractError unless the tables hold what was kept and appended, in this day's partition only."""
        if self.replaced:
            for node in self._warehouse.nodes:
                self._await_masking(node)
        in_day = self._warehouse.counts(
            {table.name: (self.name(table.name), table.is_day(self.day)) for table in self.tables}
        )
        for name, expected in self.rows.items():
            if in_day[name] != expected:
                raise ContractError(
                    f"{self.name(name)} holds {in_day[name]} rows of {self.day}, {expected} were written: not published"
                )

    def publish(self, *, now: datetime) -> None:
        """Replace the published day by the staged one."""
        publish(self._warehouse, self.day, list(self.rows), build_id=self.build_id, now=now)

    @contextmanager
    def dropped_on_failure(self) -> Iterator[None]:
        """Drop the staging tables if a check inside fails."""
        try:
            yield
        except (AuditError, ContractError):
            self.drop()
            raise

    def drop(self) -> None:
        """Drop the staging tables."""
        _drop_staged(self._warehouse, self.day, list(self.rows), self.build_id)

    def _begin_as_published(self, node: Warehouse) -> None:
        """Share the published parts and start to mask the replaced sessions' rows.

        Masking runs in the background, on the parts that exist now, so rows can be added meanwhile.
        """
        staged = {table.name: self.name(table.name) for table in self.tables}
        replaced = {table.name: f"{table.session_column} IN ({self.replaced})" for table in self.tables}
        for table in self.tables:
            attach = f"ATTACH {_partition(self.day)} FROM {table.full_name}"
            node.sync_replica(table.full_name)
            node.command(f"ALTER TABLE {staged[table.name]} {attach}")
        found = node.counts({name: (staged[name], replaced[name]) for name in staged})  # by the index
        for name, rows in found.items():
            self.rows[name] -= rows
            if rows:
                node.command(f"DELETE FROM {staged[name]} WHERE {replaced[name]} SETTINGS lightweight_deletes_sync = 0")

    def _await_masking(self, node: Warehouse) -> None:
        names = [self.name(table).partition(".")[2] for table in self.rows]
        pending = (
            "SELECT countIf(NOT is_done) AS pending, max(latest_fail_reason) AS problem FROM system.mutations "
            "WHERE database = 'etl' AND table IN {names:Array(String)}"
        )
        while True:
            left, problem = node.query(pending, {"names": names}).row(0)
            if problem:
                raise WarehouseError(f"the rows of {self.day} that are replaced could not be masked: {problem}")
            if not left:
                return
            time.sleep(_MASKING_POLL_S)


def publish(warehouse: Warehouse, day: date, tables: Sequence[str], *, build_id: str, now: datetime) -> None:
    """Replace a day of the named tables by what this build has staged."""
    warehouse.require_lease()
    journal = pl.DataFrame(
        {
            "publication_id": [build_id],
            "at": [now],
            "day": [day],
            "tables": [list(tables)],
            "state": ["publishing"],
        },
        schema=PUBLICATIONS.schema,
    )
    warehouse.insert(PUBLICATIONS, journal)
    warehouse.require_free_space()
    for node in warehouse.nodes:
        _replace_partitions(node, day, tables, build_id)
    warehouse.insert(PUBLICATIONS, journal.with_columns(state=pl.lit("published")))
    _drop_staged(warehouse, day, tables, build_id)


def recover(warehouse: Warehouse) -> list[date]:
    """Finish interrupted publications and drop left-over temporary tables; returns the days that were published."""
    publications = warehouse.query(
        "SELECT publication_id, max(at) AS at, any(day) AS day, any(tables) AS tables, "
        "countIf(state = 'published') > 0 AS is_done FROM etl.publications GROUP BY publication_id "
        "HAVING day IN (SELECT day FROM etl.publications GROUP BY day, publication_id "
        "HAVING countIf(state = 'published') = 0) ORDER BY at"
    )
    rows = publications.to_dicts()
    days = []
    for number, row in enumerate(rows):
        if row["is_done"]:
            continue
        # A later build of the same table and day replaces this one.
        later = {name for other in rows[number + 1 :] if other["day"] == row["day"] for name in other["tables"]}
        warehouse.require_free_space()
        tables = [name for name in row["tables"] if name not in later]
        for node in warehouse.nodes:
            _replace_partitions(node, row["day"], tables, row["publication_id"])
        done = pl.DataFrame(
            [row | {"state": "published", "at": datetime.now(tz=UTC)}], schema=PUBLICATIONS.schema, orient="row"
        )
        warehouse.insert(PUBLICATIONS, done)
        days.append(row["day"])
    for node in warehouse.nodes:
        leftover = node.query(
            "SELECT name FROM system.tables WHERE database = 'etl' AND match(name, '^(staged|changed|unread)_')"
        )
        if leftover.height:
            node.drop_tables([f"etl.{name}" for name in leftover["name"]])
    return days


def _replace_partitions(warehouse: Warehouse, day: date, tables: Sequence[str], build_id: str) -> None:
    staged = {table: _staged(table, day, build_id) for table in tables}
    found = warehouse.query(
        "SELECT name, total_rows FROM system.tables WHERE database = 'etl' AND name IN {names:Array(String)}",
        {"names": [name.removeprefix("etl.") for name in staged.values()]},
    )
    rows = dict(found.iter_rows())
    for table, name in staged.items():
        in_parts = rows.get(name.removeprefix("etl."))
        if in_parts is None:  # dropped already: its publication is done
            continue
        warehouse.sync_replica(f"dwh.{table}")
        if in_parts:
            warehouse.command(f"ALTER TABLE dwh.{table} REPLACE {_partition(day)} FROM {name}")
        else:  # the engine refuses to replace a partition by nothing
            warehouse.command(f"ALTER TABLE dwh.{table} DROP {_partition(day)}")
        if warehouse.is_node:
            _require_published(warehouse, day, table, name)


def _require_published(node: Warehouse, day: date, table: str, staged: str) -> None:
    """Raise WarehouseError unless a shard has published what is staged: a replica may copy only the parts it knows."""
    of_day = f"_partition_id = '{day:%Y%m%d}'"
    rows = node.counts({"published": (f"dwh.{table}", of_day), "staged": (staged, of_day)})
    if rows["published"] != rows["staged"]:
        raise WarehouseError(
            f"{node.url}: dwh.{table} has {rows['published']} rows of {day} after {rows['staged']} were published: run "
            "the same command again, which publishes them again"
        )


def _drop_staged(warehouse: Warehouse, day: date, tables: Sequence[str], build_id: str) -> None:
    warehouse.drop_tables([_staged(table, day, build_id) for table in tables])


def _staged(table: str, day: date, build_id: str) -> str:
    return f"etl.staged_{table}_{day:%Y%m%d}_{build_id}"


def _partition(day: date) -> str:
    return f"PARTITION ID '{day:%Y%m%d}'"
