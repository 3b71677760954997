"""An empty warehouse for each test, and an embedded engine that stays open between tests.

Migrating takes ten times as long as dropping what a test has written, and starting the engine as long as most tests.
"""

from pathlib import Path

import chdb

from app.contracts import DATABASES
from app.settings import Settings
from app.warehouse import Warehouse, migrate

_SCHEMA = """
SELECT database, name, create_table_query FROM system.tables WHERE database IN {databases:Array(String)}"""
_WRITTEN = "SELECT DISTINCT database, table FROM system.parts WHERE database IN {databases:Array(String)}"

_migrated: dict[str, dict[tuple[str, str], str]] = {}


def make_empty(warehouse: Warehouse, settings: Settings) -> None:
    """Leave the warehouse as a first migration leaves it.

    Tables that hold anything are dropped and created again, so that neither parts on the disk nor what the engine
    remembers of inserts outlives a test. Where a table or view was changed or is missing, everything is made again.
    """
    databases = {"databases": list(DATABASES)}
    found = {(database, name): sql for database, name, sql in warehouse.query(_SCHEMA, databases).iter_rows()}
    wanted = _migrated.get(warehouse.url)
    if wanted is None or not wanted.items() <= found.items():
        for database in DATABASES:
            warehouse.command(f"DROP DATABASE IF EXISTS {database} SYNC")
        migrate(warehouse, settings)
        schema = warehouse.query(_SCHEMA, databases)
        _migrated[warehouse.url] = {(database, name): sql for database, name, sql in schema.iter_rows()}
        return
    for database, name in found.keys() - wanted.keys():
        warehouse.command(f"DROP TABLE {database}.`{name}` SYNC")
    for table in warehouse.query(_WRITTEN, databases).iter_rows():
        if table in wanted:
            warehouse.command(f"DROP TABLE {table[0]}.`{table[1]}` SYNC")
            warehouse.command(wanted[table])


class OpenEngine:
    """Keeps the embedded engine of one directory running in this process, which has room for no other meanwhile."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._handle: chdb.Connection | None = None

    def keep(self, settings: Settings) -> None:
        if settings.has_server or settings.warehouse.local_path == self._folder:
            return
        self.release()
        self._folder = settings.warehouse.local_path
        self._handle = chdb.connect(str(self._folder))

    def release(self) -> None:
        if self._handle is not None:
            self._handle.close()
        self._folder = self._handle = None
