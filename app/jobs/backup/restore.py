"""`carat restore`: puts a backup into the place of the warehouse, all or nothing, and erases forgotten people again."""

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from app.core import console
from app.core.disk import existing_parent, free_bytes
from app.core.errors import BackupError, SettingsError, WarehouseError
from app.jobs.backup.forgotten import erase_again
from app.jobs.backup.manifest import SPOOL, Manifest, digest_of_files, files_below, read_manifest
from app.jobs.backup.spool import deliver_again, require_segments, restore_segments
from app.jobs.backup.staged import StagedTables, rows_in
from app.jobs.backup.tables import (
    EMBEDDED_DISK,
    STATEMENT_TIMEOUT_S,
    Place,
    embedded_config,
    stored_views,
)
from app.jobs.runs import recorded
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.cluster import refuse_on_cluster
from app.warehouse.opening import prepare_warehouse


@dataclass(frozen=True)
class Restored:
    """What a restore did: the backup, segments added to the spool or delivered again, and who was erased again."""

    manifest: Manifest
    segments: int
    delivered_again: int
    erased_again: int
    lost_views: tuple[str, ...]

    @property
    def report(self) -> dict[str, Any]:
        return {
            "backup": self.manifest.id,
            "made_at": self.manifest.started_at,
            "tables": {table.name: table.rows for table in self.manifest.tables},
            "segments": self.segments,
            "segments_delivered_again": self.delivered_again,
            "erased_again": self.erased_again,
            "views_not_created": self.lost_views,
        }


def restore(settings: Settings, folder: Path, *, replace: bool, now: datetime) -> Restored:
    """Restore a backup into an empty warehouse, or with `replace` into the place of the present one.

    Until every table is restored beside the present ones and found as it was, nothing is changed. After an
    interruption the same command goes on.
    """
    refuse_on_cluster(settings, "`carat restore`", "Restore to a single server, and fill the cluster from it")
    folder = folder.resolve()
    manifest = read_manifest(folder)
    _require_same_engine(settings, folder, manifest)
    _require_intact(folder, manifest)
    with (
        nullcontext() if settings.has_server else embedded_config(folder) as config,
        open_warehouse(
            settings, purpose="carat restore", prepare=False, query_timeout_s=STATEMENT_TIMEOUT_S, engine_config=config
        ) as warehouse,
    ):
        staged = StagedTables(warehouse, manifest)
        if not staged.is_complete:
            _require_replaceable(warehouse, manifest, replace=replace)
            staged.stage(_place(manifest))
        staged.exchange()
        prepare_warehouse(warehouse, settings)
        with recorded(warehouse, "restore") as run:
            run.count(rows_in=manifest.rows, rows_out=manifest.rows)
        lost_views = tuple(_create_views(warehouse, manifest))
        added = restore_segments(folder / SPOOL, manifest.segments, settings.spool)
        again = deliver_again(settings.spool)
        erased = erase_again(warehouse, settings, now=now)
        staged.drop()
    return Restored(manifest, added, again, erased, lost_views)


def _require_same_engine(settings: Settings, folder: Path, manifest: Manifest) -> None:
    if manifest.is_on_a_server and not settings.has_server:
        raise SettingsError(
            f"the tables of {folder} are on the disk {manifest.disk!r} of a server: name that in CARAT_WAREHOUSE"
        )
    if settings.has_server and not manifest.is_on_a_server:
        raise SettingsError(
            f"the tables of {folder} are of an embedded engine, and a server cannot read them there: restore them "
            "with CARAT_WAREHOUSE=chdb:///path, and ingest the calls into the server"
        )


def _place(manifest: Manifest) -> Place:
    return Place(manifest.disk or EMBEDDED_DISK, manifest.path)


def _require_intact(folder: Path, manifest: Manifest) -> None:
    """Raise BackupError unless every file is as it was written; what a server stores, the server checks."""
    with console.progress("check", manifest.bytes) as bar:
        require_segments(folder / SPOOL, manifest.segments, bar.advance)
        if manifest.is_on_a_server:
            return
        for table in manifest.tables:
            bar.label(f"check {table.name}")
            root = folder / manifest.path / table.name
            if digest_of_files(files_below(root), root=root) != table.digest:
                raise BackupError(f"{root} is missing or damaged: use another backup. Nothing was changed")
            bar.advance(table.bytes)


def _require_replaceable(warehouse: Warehouse, manifest: Manifest, *, replace: bool) -> None:
    rows = rows_in(warehouse)
    if rows and not replace:
        raise SettingsError(
            f"the warehouse {warehouse.url} is not empty: it holds {rows:,} rows. --replace puts the backup in its "
            "place; or set CARAT_WAREHOUSE to an empty one"
        )
    if warehouse.is_embedded:
        needed = sum(table.bytes for table in manifest.tables)
        parent = existing_parent(Path(warehouse.url.removeprefix("chdb://")))
        if (free := free_bytes(parent)) < needed:
            raise BackupError(
                f"restoring needs {needed / 1024**3:.1f} GiB beside the present tables, {parent} has "
                f"{free / 1024**3:.1f} GiB free: free some space"
            )


def _create_views(warehouse: Warehouse, manifest: Manifest) -> list[str]:
    """Create the views that are not Carat's own; returns those that no longer fit."""
    missing = manifest.views.keys() - stored_views(warehouse).keys()
    lost = []
    for name in sorted(missing):
        try:
            warehouse.command(manifest.views[name])
        except WarehouseError as error:
            console.log.warning("a view was not created", view=name, error=str(error))
            lost.append(name)
    return lost
