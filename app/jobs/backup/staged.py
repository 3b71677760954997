"""Restored tables beside the present ones, in a database of their own, until they are complete and checked.

They are then exchanged with the present tables, one by one. What is to be exchanged is written down first, by UUID, so
that the same command finishes what a killed one began. The replaced tables are dropped at the very end.
"""

from dataclasses import dataclass

import polars as pl

from app.contracts import DATABASES, FORGOTTEN
from app.core import console
from app.core.errors import BackupError
from app.core.sql import quote
from app.jobs.backup.manifest import Manifest, TableCopy
from app.jobs.backup.tables import Place, checksum, quoted, restore_table, stored_tables
from app.warehouse import Warehouse

DATABASE = "carat_restore"
_PLAN = f"{DATABASE}.plan"
NEWLY_FORGOTTEN = f"{DATABASE}.newly_forgotten"
_FORGOTTEN_COLUMNS = "forgotten_at, kind, digest, key"


@dataclass(frozen=True)
class StagedTables:
    """The tables of one backup, on their way into the warehouse."""

    warehouse: Warehouse
    manifest: Manifest

    @property
    def is_complete(self) -> bool:
        """Whether an earlier run staged and checked all tables of this backup, and may have exchanged some."""
        return bool(
            self.warehouse.scalar(
                "SELECT count() FROM system.tables WHERE database = {database:String} AND name = 'plan' "
                "AND comment = {id:String}",
                {"database": DATABASE, "id": self.manifest.id},
            )
        )

    def stage(self, place: Place) -> None:
        """Restore and check every table, and take over who was forgotten since the backup."""
        comment = self.warehouse.query(
            "SELECT comment FROM system.databases WHERE name = {name:String}",
            {"name": DATABASE},
            schema={"comment": pl.String()},
        )["comment"].to_list()
        if comment != [self.manifest.id]:
            self.drop()
            self.warehouse.command(f"CREATE DATABASE {DATABASE} COMMENT {quote(self.manifest.id)}")
        with console.progress("restore", sum(_weight(table) for table in self.manifest.tables)) as bar:
            for table in self.manifest.tables:
                bar.label(f"restore {table.name}")
                self._stage(table, place)
                bar.advance(_weight(table))
        self._keep_forgotten()
        self._write_plan()

    def exchange(self) -> None:
        """Put the staged tables into their places, and drop those that the backup does not have."""
        for name, comment in DATABASES.items():
            self.warehouse.command(f"CREATE DATABASE IF NOT EXISTS {name} COMMENT {quote(comment)}")
        plan = dict(
            self.warehouse.query(
                f"SELECT target, uuid FROM {_PLAN}", schema={"target": pl.String(), "uuid": pl.String()}
            ).iter_rows()
        )
        staged = dict(
            self.warehouse.query(
                "SELECT name, toString(uuid) AS uuid FROM system.tables WHERE database = {database:String}",
                {"database": DATABASE},
                schema={"name": pl.String(), "uuid": pl.String()},
            ).iter_rows()
        )
        present = {table.name for table in stored_tables(self.warehouse)}
        self.warehouse.require_lease()
        for target, uuid in plan.items():
            if staged.get(target) != uuid:  # an earlier run exchanged it: what is staged is the replaced table, or none
                continue
            if target in present:
                self.warehouse.command(f"EXCHANGE TABLES {_staged(target)} AND {quoted(target)}")
            else:
                self.warehouse.command(f"RENAME TABLE {_staged(target)} TO {quoted(target)}")
        for name in present - plan.keys() - {FORGOTTEN.full_name}:
            self.warehouse.command(f"DROP TABLE {quoted(name)} SYNC")

    def drop(self) -> None:
        """Drop what is left: the tables that were replaced, or those of a restore that was given up."""
        self.warehouse.command(f"DROP DATABASE IF EXISTS {DATABASE} SYNC")

    def _stage(self, table: TableCopy, place: Place) -> None:
        staged = _staged(table.name)
        expected = (table.rows, table.checksum)
        if self._exists(table.name):
            if checksum(self.warehouse, f"{DATABASE}.{table.name}") == expected:
                return  # by an earlier run
            self.warehouse.command(f"DROP TABLE {staged} SYNC")
        self.warehouse.require_lease()
        restore_table(self.warehouse, table.name, place, into=staged)
        if checksum(self.warehouse, f"{DATABASE}.{table.name}") != expected:
            raise BackupError(
                f"{table.name} is not as it was when the backup was made: the backup is damaged. Nothing was changed; "
                "use another one"
            )

    def _keep_forgotten(self) -> None:
        """People who were forgotten after the backup stay forgotten: what remembers them is added to it."""
        self.warehouse.command(f"DROP TABLE IF EXISTS {NEWLY_FORGOTTEN} SYNC")
        self.warehouse.command(FORGOTTEN.create_statement(name=NEWLY_FORGOTTEN))
        if not self.warehouse.scalar(f"EXISTS {FORGOTTEN.full_name}"):
            return
        if not self._exists(FORGOTTEN.full_name):
            self.warehouse.command(
                f"INSERT INTO {NEWLY_FORGOTTEN} ({_FORGOTTEN_COLUMNS}) "
                f"SELECT {_FORGOTTEN_COLUMNS} FROM {FORGOTTEN.full_name}"
            )
            return  # the present table stays where it is
        staged = _staged(FORGOTTEN.full_name)
        self.warehouse.command(
            f"INSERT INTO {NEWLY_FORGOTTEN} ({_FORGOTTEN_COLUMNS}) SELECT {_FORGOTTEN_COLUMNS} "
            f"FROM {FORGOTTEN.full_name} WHERE (kind, digest) NOT IN (SELECT kind, digest FROM {staged})"
        )
        keys = self.warehouse.query(
            f"SELECT DISTINCT key FROM {staged} UNION DISTINCT SELECT DISTINCT key FROM {NEWLY_FORGOTTEN}",
            schema={"key": pl.String()},
        )
        if keys.height > 1:
            raise BackupError(
                "the backup and this warehouse remember forgotten people by different keys, so that those of one could "
                "come back. Restore into an empty warehouse, and forget again who was forgotten here"
            )
        self.warehouse.command(
            f"INSERT INTO {staged} ({_FORGOTTEN_COLUMNS}) SELECT {_FORGOTTEN_COLUMNS} FROM {NEWLY_FORGOTTEN}"
        )

    def _write_plan(self) -> None:
        """Write down which table goes where. The plan appears at once and whole, by its rename."""
        new = f"{_PLAN}_new"
        self.warehouse.command(f"DROP TABLE IF EXISTS {new} SYNC")
        self.warehouse.command(
            f"CREATE TABLE {new} (target String, uuid String) ENGINE = MergeTree ORDER BY target "
            f"COMMENT {quote(self.manifest.id)}"
        )
        targets = ", ".join(quote(table.name) for table in self.manifest.tables)
        self.warehouse.command(
            f"INSERT INTO {new} SELECT name, toString(uuid) FROM system.tables "
            f"WHERE database = '{DATABASE}' AND name IN ({targets})"
        )
        self.warehouse.command(f"RENAME TABLE {new} TO {_PLAN}")

    def _exists(self, table: str) -> bool:
        return bool(
            self.warehouse.scalar(
                "SELECT count() FROM system.tables WHERE database = {database:String} AND name = {name:String}",
                {"database": DATABASE, "name": table},
            )
        )


def rows_in(warehouse: Warehouse) -> int:
    """How many rows there are of calls, of what was built from them, and of the shop's history."""
    return int(
        warehouse.scalar(
            "SELECT toInt64(sum(ifNull(total_rows, 0))) FROM system.tables "
            "WHERE database IN ('pd', 'dwh', 'history') AND engine LIKE '%MergeTree'"
        )
    )


def _staged(table: str) -> str:
    return f"`{DATABASE}`.`{table}`"


def _weight(table: TableCopy) -> int:
    return max(table.bytes, table.rows, 1)
