"""The only writer of a spool: acknowledges a batch when it is on disk. Waiting batches share one sync (group commit).

There is no timer: batches that arrive during a sync are written together with the next one. All disk access happens in
order in a single thread, so the event loop never waits for the disk.

A segment that could not be written or synced is never written again: after a failed fsync, the kernel may report lost
pages as clean. The segment is truncated to the part that is known to be on disk, and a new one is started.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from app.core import console
from app.core.disk import free_bytes
from app.core.errors import LockedError, SettingsError, SpoolError, SpoolFullError
from app.core.file_lock import take_lock
from app.intake.spool.files import require_private, truncate_segment
from app.intake.spool.format import Entry, RejectedRecord, records_entry, rejected_entry
from app.intake.spool.reader import end_of_entries
from app.intake.spool.segments import (
    DELIVERED,
    OPEN,
    SEALED,
    Backlog,
    Segment,
    delivered_segments,
    new_name,
    remove_old_deliveries,
    segments,
    spool_backlog,
    spool_errors,
    sync_folder,
)
from app.settings import Settings

_LOCK = "spool.lock"
_BUFFERS_A_WRITE = 1020  # the kernel accepts at most 1024
_SCAN_S = 5.0  # how often the folder is scanned
_RESCAN_WHEN_FULL_S = 1.0
_CLEANUP_S = 60.0
_MAINTENANCE_S = 1.0
_LOCK_WAIT_S = 5.0  # a loader holds the lock for a moment while it seals what a dead collector left
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class SpoolLimits:
    """When a segment is sealed, and how large the spool may become; `max_bytes=0` means no limit."""

    segment_bytes: int = 64 * 1024**2
    segment_records: int = 200_000
    segment_s: float = 10.0
    max_bytes: int = 20 * 1024**3
    min_free_bytes: int = 1024**3
    max_waiting_bytes: int = 64 * 1024**2
    keep_s: float = 48 * 3600.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            segment_bytes=settings.spool_segment_bytes,
            segment_s=settings.spool_segment_s,
            max_bytes=settings.spool_max_bytes,
            min_free_bytes=settings.spool_min_free_bytes,
            keep_s=settings.spool_keep_hours * 3600,
        )


@dataclass(frozen=True)
class SpoolStats:
    """What waits for delivery, and what was written since the spool was opened."""

    segments: int
    bytes: int
    oldest_at_ms: int | None
    records: int
    syncs: int
    waiting_bytes: int


# Called after each sync with the segment, the bytes of it that are on disk, and the seconds it took.
OnSync = Callable[[Path, int, float], None]


class Spool:
    """Writes segments into a folder. Must be used from a single event loop."""

    def __init__(self, folder: Path, limits: SpoolLimits, *, on_sync: OnSync = lambda *_: None) -> None:
        self._folder = folder
        self._limits = limits
        self._waiting: list[Entry] = []
        self._waiting_bytes = 0
        self._durable: asyncio.Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._maintenance: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._writer = _Writer(folder, limits, on_sync)
        self._is_closed = True

    async def open(self) -> None:
        """Lock the folder and seal what a dead process left; LockedError if another process writes there."""
        await self._in_thread(self._writer.open)
        self._maintenance = asyncio.create_task(self._maintain())
        self._is_closed = False

    async def append(
        self, records: Sequence[bytes | msgspec.Raw], *, received_at_ms: int, rejected: Sequence[RejectedRecord] = ()
    ) -> None:
        """Write accepted and rejected records; returns when they are on disk.

        Raises SpoolFullError if there is no room. Raises SpoolError if the disk failed: the records may or may not be
        delivered then, and the sender should send them again.
        """
        if self._is_closed:
            raise SpoolError(f"the spool {self._folder} is closed")
        entries = [records_entry(records, received_at_ms)] if records else []
        if rejected:
            entries.append(rejected_entry(rejected, received_at_ms))
        if not entries:
            return
        size = sum(entry.size for entry in entries)
        if self._waiting_bytes and self._waiting_bytes + size > self._limits.max_waiting_bytes:
            raise SpoolFullError(
                f"the disk of the spool {self._folder} is too slow: {self._waiting_bytes} bytes wait to be written"
            )
        self._waiting += entries
        self._waiting_bytes += size
        if self._durable is None:
            self._durable = asyncio.get_running_loop().create_future()
        durable = self._durable
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_what_waits())
        await asyncio.shield(durable)  # a cancelled waiter must not cancel the others

    def problem(self) -> str | None:
        """Why records cannot be written now; None if they can."""
        return f"the spool {self._folder} is closed" if self._is_closed else self._writer.problem()

    def stats(self) -> SpoolStats:
        """Figures about the spool; those about the folder are from its latest scan."""
        return self._writer.stats(self._waiting_bytes)

    async def close(self) -> None:
        """Write what waits, seal the segment, and unlock the folder."""
        self._is_closed = True
        while self._writing is not None:
            await asyncio.wait({self._writing})
        if self._maintenance:
            self._maintenance.cancel()
        await self._in_thread(self._writer.close)
        self._thread.shutdown()

    async def _write_what_waits(self) -> None:
        try:
            while self._waiting:
                entries, durable = self._waiting, self._durable
                written_bytes = self._waiting_bytes
                assert durable is not None
                self._waiting, self._durable = [], None
                try:
                    await self._in_thread(self._writer.write, entries)
                except Exception as error:  # noqa: BLE001  whatever failed, the waiters must learn of it
                    durable.set_exception(
                        error if isinstance(error, SpoolError) else SpoolError(f"the spool {self._folder}: {error}")
                    )
                    durable.exception()  # marks it as retrieved: all waiters may be gone
                else:
                    durable.set_result(None)
                finally:
                    self._waiting_bytes -= written_bytes
        finally:
            self._writing = None

    async def _maintain(self) -> None:
        """Seal by age even if nothing arrives, and clean up."""
        while True:
            await asyncio.sleep(min(self._limits.segment_s / 4, _MAINTENANCE_S))
            await self._in_thread(self._writer.maintain)

    async def _in_thread(self, action: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, action, *arguments)


class _Writer:
    """The part of Spool that runs in its thread. Only `stats` and `problem` are called from outside."""

    def __init__(self, folder: Path, limits: SpoolLimits, on_sync: OnSync) -> None:
        self._folder = folder
        self._limits = limits
        self._on_sync = on_sync
        self._lock: int | None = None
        self._segment: _OpenSegment | None = None
        self._unsealed: list[Path] = []  # complete, but not yet renamed
        self._last_name = ""
        self._backlog = Backlog(0, 0, None)
        self._kept_bytes = 0
        self._written_since = self._started_since = 0
        self._scanned_at = self._cleaned_at = -float("inf")
        self._records = self._syncs = 0

    def open(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / DELIVERED).mkdir(mode=0o700, exist_ok=True)
            require_private(self._folder, self._folder / DELIVERED)
            self._lock = take_lock(self._folder / _LOCK, wait_s=_LOCK_WAIT_S)
        except OSError as error:
            raise SettingsError(f"CARAT_SPOOL: cannot use the directory {self._folder}: {error.strerror}") from None
        except SpoolError as error:
            raise SettingsError(f"CARAT_SPOOL: {error}") from None
        if self._lock is None:
            raise LockedError(f"another collector writes to the spool {self._folder}: a spool can have only one writer")
        _seal_left(self._folder)
        self._scan()
        self._clean_up()

    def close(self) -> None:
        if self._segment:
            self._seal()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, entries: Sequence[Entry]) -> None:
        """Append the entries to the segment and sync it."""
        size = sum(entry.size for entry in entries)
        self._require_space(size)
        try:
            segment = self._segment = self._segment or self._begin()
            started = time.perf_counter()
            segment.write(entries)
            seconds = time.perf_counter() - started
        except OSError as error:
            self._abandon()
            self._scanned_at = -float("inf")
            kind = SpoolFullError if error.errno in _FULL else SpoolError
            raise kind(f"the spool {self._folder} could not be written: {error.strerror or error}") from error
        self._written_since += size
        self._records += sum(entry.records for entry in entries)
        self._syncs += 1
        self._on_sync(segment.path, segment.durable, seconds)
        if segment.durable >= self._limits.segment_bytes or segment.records >= self._limits.segment_records:
            self._seal()

    def maintain(self) -> None:
        """Seal an old segment, retry failed renames, rescan the folder, remove old deliveries."""
        if self._segment and self._segment.age_s >= self._limits.segment_s:
            self._seal()
        for path in self._unsealed[:]:
            self._rename(path)
        with suppress(OSError, SpoolError):
            if time.monotonic() - self._scanned_at >= _SCAN_S:
                self._scan()
                if not self._has_space(0):
                    self._make_space(0)
            if time.monotonic() - self._cleaned_at >= _CLEANUP_S:
                self._clean_up()

    def problem(self) -> str | None:
        try:
            return None if self._has_space(0) else self._no_space
        except OSError as error:
            return f"the spool {self._folder} cannot be used: {error.strerror}"

    def stats(self, waiting_bytes: int) -> SpoolStats:
        segment = self._segment
        oldest_ms = self._backlog.oldest_at_ms
        if oldest_ms is None and segment:
            oldest_ms = segment.begun_at_ms
        return SpoolStats(
            segments=self._backlog.segments + self._started_since,
            bytes=self._backlog.bytes + self._written_since,
            oldest_at_ms=oldest_ms,
            records=self._records,
            syncs=self._syncs,
            waiting_bytes=waiting_bytes,
        )

    def _begin(self) -> "_OpenSegment":
        now_ms = time.time_ns() // 1_000_000
        self._last_name = new_name([self._last_name, *(found.name for found in segments(self._folder))], now_ms)
        segment = _OpenSegment(self._folder / f"{self._last_name}{OPEN}", now_ms)
        try:
            sync_folder(self._folder)  # otherwise a power cut could remove the whole segment
        except OSError:
            segment.abandon()
            raise
        self._started_since += 1
        return segment

    def _seal(self) -> None:
        """Release the segment for delivery. If it cannot be renamed now, `maintain` retries: its data is on disk."""
        segment, self._segment = self._segment, None
        assert segment is not None
        segment.close()
        self._rename(segment.path)

    def _rename(self, path: Path) -> None:
        if path in self._unsealed:
            self._unsealed.remove(path)
        try:
            path.rename(path.with_suffix(SEALED))
            sync_folder(self._folder)
        except OSError:
            if path.exists():
                self._unsealed.append(path)

    def _abandon(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            if segment.abandon():
                self._rename(segment.path)
            _warn("a segment of the spool was abandoned", segment=segment.path.name, bytes=segment.durable)

    def _require_space(self, size: int) -> None:
        if self._has_space(size):
            return
        if time.monotonic() - self._scanned_at >= _RESCAN_WHEN_FULL_S:
            self._scan()
            self._make_space(size)
            if self._has_space(size):
                return
        raise SpoolFullError(self._no_space)

    @property
    def _no_space(self) -> str:
        return (
            f"the spool {self._folder} is full: {self._backlog.bytes + self._written_since} bytes wait for delivery, "
            f"{free_bytes(self._folder)} are free there (CARAT_SPOOL_MAX_BYTES, "
            "CARAT_SPOOL_MIN_FREE_BYTES). Free some space, or check why nothing is delivered"
        )

    def _has_space(self, size: int) -> bool:
        held = self._backlog.bytes + self._written_since + self._kept_bytes + size
        free = free_bytes(self._folder) - size
        return (not self._limits.max_bytes or held <= self._limits.max_bytes) and free >= self._limits.min_free_bytes

    def _make_space(self, size: int) -> None:
        """Remove delivered segments, oldest first, until there is space for this and for one more segment."""
        kept = delivered_segments(self._folder)
        self._kept_bytes = sum(segment.bytes for segment in kept)
        needed = size + self._limits.segment_bytes
        for segment in kept:
            if self._has_space(needed):
                break
            segment.path.unlink(missing_ok=True)
            self._kept_bytes -= segment.bytes

    def _scan(self) -> None:
        self._backlog = spool_backlog(self._folder)
        self._written_since = self._started_since = 0
        self._scanned_at = time.monotonic()

    def _clean_up(self) -> None:
        remove_old_deliveries(self._folder, keep_s=self._limits.keep_s)
        self._kept_bytes = sum(segment.bytes for segment in delivered_segments(self._folder))
        self._cleaned_at = time.monotonic()


class _OpenSegment:
    """The segment being written; `durable` bytes of it are on disk."""

    def __init__(self, path: Path, begun_at_ms: int) -> None:
        self.path = path
        self.begun_at_ms = begun_at_ms
        self.durable = 0
        self.records = 0
        self._begun = time.monotonic()
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._begun

    def write(self, entries: Sequence[Entry]) -> None:
        """Append the entries and sync."""
        buffers: list[bytes | memoryview] = []
        for entry in entries:
            buffers += (entry.head + entry.checksum, entry.payload)
        for first in range(0, len(buffers), _BUFFERS_A_WRITE):
            _write_all(self._handle, buffers[first : first + _BUFFERS_A_WRITE])
        os.fdatasync(self._handle)
        self.durable += sum(entry.size for entry in entries)
        self.records += sum(entry.records for entry in entries)

    def close(self) -> None:
        os.close(self._handle)

    def abandon(self) -> bool:
        """Truncate to what is known to be on disk, all of which was acknowledged; returns whether anything is left."""
        with suppress(OSError):
            os.ftruncate(self._handle, self.durable)
        with suppress(OSError):  # fails again for the same reason
            os.close(self._handle)
        if not self.durable:
            with suppress(OSError):
                self.path.unlink()
        return bool(self.durable)


def seal_leftovers(folder: Path) -> int:
    """Seal segments that a dead collector left open; returns how many. Does nothing while a collector runs."""
    require_private(folder, folder / DELIVERED)
    if not segments(folder, OPEN):
        return 0
    with spool_errors(folder):
        lock = take_lock(folder / _LOCK)
        if lock is None:
            return 0
        try:
            return _seal_left(folder)
        finally:
            os.close(lock)


def _seal_left(folder: Path) -> int:
    """Truncate incomplete entries of segments left open, and seal them; returns how many."""
    left = segments(folder, OPEN)
    for segment in left:
        try:
            end = end_of_entries(segment.path)
            if end < segment.bytes:
                _truncate(segment, end)
            if end:
                segment.path.rename(segment.path.with_suffix(SEALED))
            else:
                segment.path.unlink()
        except OSError as error:  # new records must still be accepted
            _warn("a segment of the spool cannot be read", segment=segment.path.name, error=str(error))
    if left:
        sync_folder(folder)
    return len(left)


def _truncate(segment: Segment, end: int) -> None:
    _warn("truncated an incomplete entry of a segment", segment=segment.path.name, bytes=segment.bytes - end)
    truncate_segment(segment.path, end)


def _warn(what: str, **details: object) -> None:
    with suppress(OSError):  # the log may be on the same full disk
        console.log.warning(what, **details)


def _write_all(handle: int, buffers: list[bytes | memoryview]) -> None:
    while buffers:
        written = os.writev(handle, buffers)
        while buffers and written >= len(buffers[0]):
            written -= len(buffers.pop(0))
        if written:
            buffers[0] = memoryview(buffers[0])[written:]
