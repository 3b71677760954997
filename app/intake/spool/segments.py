"""The files of a spool: `<segment>.open`, then `<segment>.sealed`, then `delivered/<segment>.sealed`.

Delivered segments are kept for a while, so that they can be delivered again if the warehouse loses data. A segment name
is never reused: the warehouse recognizes by it what was delivered before.
"""

import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import SpoolError
from app.intake.spool.files import require_private

OPEN, SEALED = ".open", ".sealed"
DELIVERED = "delivered"


@dataclass(frozen=True, order=True)
class Segment:
    """One file of a spool. Sorted by name, segments are in the order in which they were started."""

    name: str
    path: Path
    bytes: int
    written_at_ms: int

    @property
    def begun_at_ms(self) -> int:
        """When it was started, which its name starts with; where the clock was set back since, when it was written."""
        begun = self.name.partition("-")[0]
        return min(int(begun), self.written_at_ms) if begun.isdecimal() else self.written_at_ms


@dataclass(frozen=True)
class Backlog:
    """What waits for delivery: segments, their bytes, and when the oldest was started."""

    segments: int
    bytes: int
    oldest_at_ms: int | None


def segments(folder: Path, *states: str) -> list[Segment]:
    """The segments in these states (default: open and sealed), oldest first. Empty if the folder does not exist."""
    with spool_errors(folder):
        return sorted(_scan(folder, frozenset(states or (OPEN, SEALED))))


def sealed_segments(folder: Path) -> list[Segment]:
    """The segments that can be delivered, oldest first; SpoolError if others may write to the folder."""
    require_private(folder, folder / DELIVERED)
    return segments(folder, SEALED)


def delivered_segments(folder: Path) -> list[Segment]:
    """The delivered segments that are still kept, oldest first."""
    return segments(folder / DELIVERED, SEALED)


def spool_backlog(folder: Path) -> Backlog:
    """What waits for delivery now."""
    waiting = [segment for segment in segments(folder) if segment.bytes]
    return Backlog(
        segments=len(waiting),
        bytes=sum(segment.bytes for segment in waiting),
        oldest_at_ms=min((segment.begun_at_ms for segment in waiting), default=None),
    )


def acknowledge(segment: Segment) -> None:
    """Mark a segment as delivered. If a power cut loses the mark, it is delivered again, without effect."""
    kept = segment.path.parent / DELIVERED
    with spool_errors(segment.path.parent):
        kept.mkdir(mode=0o700, exist_ok=True)
        segment.path.rename(kept / segment.path.name)


def delivery_lag_s(folder: Path) -> float | None:
    """The time from the first record of the most recently delivered segment to its delivery; None if none is kept."""
    with suppress(FileNotFoundError):  # no folder, or just removed
        names = os.listdir(folder / DELIVERED)  # noqa: PTH208  there may be thousands
        newest = max((name for name in names if name.endswith(SEALED)), default="")
        begun = newest.partition("-")[0]
        if begun.isdecimal():
            found = (folder / DELIVERED / newest).stat()
            return max(found.st_ctime - min(int(begun) / 1000, found.st_mtime), 0)
    return None


def remove_old_deliveries(folder: Path, *, keep_s: float) -> int:
    """Remove delivered segments older than `keep_s`; returns how many."""
    oldest_ms = (time.time() - keep_s) * 1000
    old = [segment for segment in delivered_segments(folder) if segment.written_at_ms < oldest_ms]
    with spool_errors(folder):
        for segment in old:
            segment.path.unlink(missing_ok=True)
    return len(old)


def new_name(known: Iterable[str], now_ms: int) -> str:
    """A name that sorts after all known ones and differs from all that were removed."""
    begun = [int(before) for before, _, _ in (name.partition("-") for name in known) if before.isdecimal()]
    return f"{max((now_ms, *(at + 1 for at in begun))):015d}-{secrets.token_hex(4)}"


def foreign_files(folder: Path) -> list[Path]:
    """What is called like a segment and is none, such as links and pipes: it is neither read nor written."""
    with spool_errors(folder):
        return sorted(
            path
            for place in (folder, folder / DELIVERED)
            if place.is_dir()
            for path in place.iterdir()
            if path.suffix in {OPEN, SEALED} and not stat.S_ISREG(path.lstat().st_mode)
        )


@contextmanager
def spool_errors(folder: Path) -> Iterator[None]:
    """Turns OSError into SpoolError."""
    try:
        yield
    except OSError as error:
        raise SpoolError(
            f"the spool {folder} cannot be used: {error.strerror or error}. "
            "Check CARAT_SPOOL and the permissions of the directory"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make new and changed file names durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _scan(folder: Path, states: frozenset[str]) -> Iterator[Segment]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        name, state = os.path.splitext(entry.name)  # noqa: PTH122  there may be thousands
        if state in states:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # renamed or removed in the meantime
                continue
            if state == SEALED or stat.S_ISREG(found.st_mode):  # what cannot be delivered is told, not passed over
                yield Segment(name, Path(entry.path), found.st_size, found.st_mtime_ns // 1_000_000)
