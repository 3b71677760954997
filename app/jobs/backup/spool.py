"""The collector's spool in a backup: the segments that wait for delivery, as they were while nobody delivered any.

A running collector may add calls meanwhile. A segment that it is writing is copied up to where it was, which may be in
the middle of an entry; the spool cuts that off when it seals the segment.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from app.core.errors import BackupError
from app.intake.spool.segments import (
    OPEN,
    SEALED,
    Segment,
    delivered_segments,
    segments,
    spool_errors,
    sync_folder,
)
from app.jobs.backup.manifest import SegmentCopy, digest_of_file

_COPYING = ".copying"


def copy_segments(spool: Path, target: Path, on_bytes: Callable[[int], None]) -> list[SegmentCopy]:
    """Copy every segment that waits for delivery."""
    target.mkdir(mode=0o700, exist_ok=True)
    copies = []
    with spool_errors(spool):
        for segment in segments(spool):
            if path := _copied(segment, target):
                copies.append(SegmentCopy(path.name, path.stat().st_size, digest_of_file(path)))
                on_bytes(segment.bytes)
    return copies


def require_segments(folder: Path, copies: list[SegmentCopy], on_bytes: Callable[[int], None]) -> None:
    """Raise BackupError unless the copies are as they were written."""
    for copy in copies:
        path = folder / copy.name
        is_plain = Path(copy.name).name == copy.name and path.suffix in {OPEN, SEALED}
        if not is_plain or not path.is_file() or digest_of_file(path) != copy.digest:
            raise BackupError(f"{path} is missing or damaged: use another backup")
        on_bytes(copy.bytes)


def restore_segments(folder: Path, copies: list[SegmentCopy], spool: Path) -> int:
    """Add the copies to the spool, but for segments it has already; returns how many were added."""
    with spool_errors(spool):
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = {segment.name for segment in (*segments(spool), *delivered_segments(spool))}
        missing = [copy for copy in copies if Path(copy.name).stem not in there]
        for copy in missing:
            new = spool / f"{copy.name}{_COPYING}"
            shutil.copyfile(folder / copy.name, new)
            _sync(new)
            new.rename(spool / copy.name)
        sync_folder(spool)
    return len(missing)


def deliver_again(spool: Path) -> int:
    """Let the segments that were delivered, and are still kept, wait for delivery again; returns how many."""
    with spool_errors(spool):
        delivered = delivered_segments(spool)
        for segment in delivered:
            segment.path.rename(spool / segment.path.name)
        if delivered:
            sync_folder(spool)
    return len(delivered)


def _copied(segment: Segment, target: Path) -> Path | None:
    """The copy of a segment, which a collector may seal meanwhile; None if it had nothing and was removed."""
    for source in (segment.path, segment.path.with_suffix(SEALED)):
        try:
            return Path(shutil.copyfile(source, target / source.name))
        except FileNotFoundError:
            continue
    return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
