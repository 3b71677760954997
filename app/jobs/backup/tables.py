"""The statements of a backup, the same for both engines: BACKUP and RESTORE of a table, and sums of its rows' hashes.

The embedded engine is given a disk that is the backup's directory. A server has its own, which its administrator
allows for backups.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import polars as pl

from app.contracts import DATABASES
from app.core.errors import BackupError, WarehouseError
from app.core.sql import quote
from app.warehouse import Warehouse

EMBEDDED_DISK = "carat_backup"
STATEMENT_TIMEOUT_S = 24 * 3600
_KEPT_OUT = "database = 'etl' AND match(name, '^(writer_lease|staged)_')"
_TABLES = f"""
    SELECT database || '.' || name AS full_name, toUInt64(ifNull(total_bytes, 0)) AS bytes
    FROM system.tables
    WHERE database IN {{databases:Array(String)}} AND engine LIKE '%MergeTree' AND NOT ({_KEPT_OUT})
    ORDER BY database, name
"""
_VIEWS = """
    SELECT database || '.' || name AS full_name, create_table_query AS statement FROM system.tables
    WHERE database IN {databases:Array(String)} AND engine = 'View' ORDER BY database, name
"""


@dataclass(frozen=True)
class StoredTable:
    """A table that holds data, and its size on the disk."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Place:
    """Where the copies of tables are: a disk of the engine, and a directory there."""

    disk: str
    path: str

    def of(self, table: str) -> str:
        return f"Disk({quote(self.disk)}, {quote(f'{self.path}/{table}/')})"


def stored_tables(warehouse: Warehouse) -> list[StoredTable]:
    """Every table of Carat's databases that holds data, but for the writer's lease and days that are being built."""
    found = warehouse.query(
        _TABLES,
        {"databases": list(DATABASES)},
        schema={"full_name": pl.String(), "bytes": pl.Int64()},
    )
    return [StoredTable(*row) for row in found.iter_rows()]


def stored_views(warehouse: Warehouse) -> dict[str, str]:
    """The CREATE statement of every view."""
    found = warehouse.query(
        _VIEWS, {"databases": list(DATABASES)}, schema={"full_name": pl.String(), "statement": pl.String()}
    )
    return dict(found.iter_rows())


def checksum(warehouse: Warehouse, table: str) -> tuple[int, int]:
    """The number of rows, and a sum of their hashes, which depends neither on their order nor on the engine."""
    rows, total = warehouse.query(
        f"SELECT count(), sum(cityHash64(formatRow('RowBinary', *))) FROM {quoted(table)}"
    ).row(0)
    return rows, total


def copy_table(warehouse: Warehouse, table: str, place: Place) -> None:
    """BACKUP of a table; BackupError says what a server's administrator has to allow."""
    _run(warehouse, f"BACKUP TABLE {quoted(table)} TO {place.of(table)}", place)


def restore_table(warehouse: Warehouse, table: str, place: Place, *, into: str) -> None:
    """RESTORE of a table under another name; its database exists."""
    _run(warehouse, f"RESTORE TABLE {quoted(table)} AS {into} FROM {place.of(table)}", place)


def quoted(table: str) -> str:
    """The full name of a table as an identifier."""
    database, _, name = table.partition(".")
    return f"`{database}`.`{name}`"


@contextmanager
def embedded_config(folder: Path) -> Iterator[Path]:
    """A configuration of the embedded engine that allows backups in this directory, until the engine is closed."""
    disk = f"<{EMBEDDED_DISK}><type>local</type><path>{escape(str(folder))}/</path></{EMBEDDED_DISK}>"
    with tempfile.TemporaryDirectory(prefix="carat-") as scratch:
        path = Path(scratch, "config.xml")
        path.write_text(_config(disk, EMBEDDED_DISK), encoding="utf-8")
        yield path


def _run(warehouse: Warehouse, statement: str, place: Place) -> None:
    try:
        warehouse.command(statement)
    except WarehouseError as error:
        if "allowed_disk" not in str(error) and "UNKNOWN_DISK" not in str(error):
            raise
        disk = f"<{place.disk}><type>local</type><path>/backups/</path></{place.disk}>"
        raise BackupError(
            f"{warehouse.url} has no disk {place.disk!r} for backups. Put this into "
            f"/etc/clickhouse-server/config.d/carat-backups.xml, with a directory that the server may write to, and "
            f"restart the server: {_config(disk, place.disk)}. CARAT_BACKUP_DISK names another disk"
        ) from error


def _config(disk: str, name: str) -> str:
    return (
        f"<clickhouse><storage_configuration><disks>{disk}</disks></storage_configuration>"
        f"<backups><allowed_disk>{name}</allowed_disk></backups></clickhouse>"
    )
