"""Backup and restore of the warehouse, its history and the collector's spool."""

from app.jobs.backup.back_up import back_up
from app.jobs.backup.manifest import Manifest, read_manifest
from app.jobs.backup.restore import Restored, restore

__all__ = ["Manifest", "Restored", "back_up", "read_manifest", "restore"]
