"""`carat backup`: copies the warehouse, its history and the spool, while no other Carat process writes."""

import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

from app.core import console
from app.core.disk import existing_parent, free_bytes
from app.core.errors import BackupError, SettingsError
from app.intake.spool import spool_backlog
from app.jobs.backup.manifest import (
    SPOOL,
    WAREHOUSE,
    Manifest,
    TableCopy,
    digest_of_files,
    files_below,
    new_folder,
    require_free_folder,
)
from app.jobs.backup.spool import copy_segments
from app.jobs.backup.tables import (
    EMBEDDED_DISK,
    STATEMENT_TIMEOUT_S,
    Place,
    StoredTable,
    checksum,
    copy_table,
    embedded_config,
    stored_tables,
    stored_views,
)
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.cluster import refuse_on_cluster

_RESERVE_BYTES = 64 * 1024**2


def back_up(settings: Settings, folder: Path) -> Manifest:
    """Write a backup into a new directory; on a server the tables go to a disk of its own.

    Raises LockedError while another process writes, and SettingsError if the directory is in use.
    """
    refuse_on_cluster(settings, "`carat backup`", "Back up each server with its own tools (BACKUP DATABASE)")
    folder = folder.resolve()
    _require_place(settings, folder)
    started_at = datetime.now(tz=UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # before the engine makes it, readable by all
    with (
        embedded_config(folder) as config,
        open_warehouse(
            settings, purpose="carat backup", query_timeout_s=STATEMENT_TIMEOUT_S, engine_config=config
        ) as warehouse,
    ):
        require_free_folder(folder)  # again: now nobody else writes a backup of this warehouse
        tables = stored_tables(warehouse)
        _require_space(settings, folder, tables)
        with new_folder(folder) as complete:
            backup_id = uuid.uuid4().hex
            place = (
                Place(settings.backup_disk, f"carat-{started_at:%Y%m%dT%H%M%SZ}-{backup_id[:8]}")
                if settings.has_server
                else Place(EMBEDDED_DISK, WAREHOUSE)
            )
            for left in (folder / WAREHOUSE, folder / SPOOL):  # by an interrupted backup
                shutil.rmtree(left, ignore_errors=True)
            waiting_bytes = spool_backlog(settings.spool).bytes
            with console.progress("backup", sum(table.bytes for table in tables) + waiting_bytes) as bar:
                copies = []
                for table in tables:
                    bar.label(f"backup {table.name}")
                    copies.append(_copy(warehouse, table, place, folder))
                    bar.advance(table.bytes)
                bar.label("backup spool")
                segments = copy_segments(settings.spool, folder / SPOOL, bar.advance)
            manifest = Manifest(
                id=backup_id,
                started_at=started_at,
                ended_at=datetime.now(tz=UTC),
                engine=warehouse.version,
                disk=place.disk if settings.has_server else "",
                path=place.path,
                tables=copies,
                views=stored_views(warehouse),
                segments=segments,
            )
            complete(manifest)
    return manifest


def _copy(warehouse: Warehouse, table: StoredTable, place: Place, folder: Path) -> TableCopy:
    warehouse.require_lease()
    copy_table(warehouse, table.name, place)
    rows, total = checksum(warehouse, table.name)
    if not warehouse.is_embedded:
        return TableCopy(table.name, rows, total)
    root = folder / place.path / table.name
    files = files_below(root)
    return TableCopy(
        table.name,
        rows,
        total,
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        digest=digest_of_files(files, root=root),
    )


def _require_place(settings: Settings, folder: Path) -> None:
    require_free_folder(folder)
    own = [("CARAT_SPOOL", settings.spool.resolve())]
    if not settings.has_server:
        own.append(("CARAT_WAREHOUSE", settings.warehouse.local_path.resolve()))
    for name, path in own:
        if folder == path or folder.is_relative_to(path):
            raise SettingsError(f"{folder} is in the directory of {name}: name a directory outside, on another disk")


def _require_space(settings: Settings, folder: Path, tables: list[StoredTable]) -> None:
    needed = spool_backlog(settings.spool).bytes + _RESERVE_BYTES
    needed += 0 if settings.has_server else sum(table.bytes for table in tables)
    parent = existing_parent(folder)
    free = free_bytes(parent)
    if free < needed:
        raise BackupError(
            f"the backup needs {needed / 1024**3:.1f} GiB, {parent} has {free / 1024**3:.1f} GiB free: free some space "
            "or name a directory on another disk"
        )
