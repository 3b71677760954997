"""The one writer of a spool: acknowledges a batch when it is on disk, and shares each sync among all that wait.

There is no timer: while one sync runs, the batches that come in are gathered for the next. All that touches the disk
happens in one thread of its own, in order, so that the event loop never waits for it.

A segment that could not be written or synced is never tried again: after a failed fsync the kernel may call pages
clean that are lost. It is cut where it was last known to be on disk, and a new one is begun.
"""

import asyncio
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from app.core import console
from app.core.errors import LockedError, SettingsError, SpoolError, SpoolFullError
from app.intake.spool.format import Frame, Refused, frame_of_records, frame_of_refused
from app.intake.spool.reader import end_of_frames
from app.intake.spool.segments import (
    DELIVERED,
    OPEN,
    SEALED,
    Depth,
    Segment,
    delivered_segments,
    new_name,
    remove_old_deliveries,
    segments,
    spool_depth,
    spool_errors,
    sync_folder,
)
from app.settings import Settings

_LOCK = "spool.lock"
_BUFFERS_A_WRITE = 1020  # the kernel takes 1024 at once
_LOOK_S = 5.0  # how old what is known of the folder may be
_LOOK_AGAIN_S = 1.0  # … while there is no room
_TIDY_S = 60.0
_TEND_S = 1.0
_LOCK_WAIT_S = 5.0  # a loader holds the lock for a moment where it finds what a dead collector has left
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class SpoolLimits:
    """When a segment is sealed, and how much the spool may take; 0 bytes mean no limit."""

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
    """What was written since the spool was opened, what waits to be, and what is to be delivered."""

    segments: int
    bytes: int
    oldest_at_ms: int | None
    records: int
    syncs: int
    waiting_bytes: int


# Told of each sync: the segment, up to where it is on disk now, and how many seconds that took.
OnSync = Callable[[Path, int, float], None]


class Spool:
    """The writer of a folder of segments; to be used from one event loop."""

    def __init__(self, folder: Path, limits: SpoolLimits, *, on_sync: OnSync = lambda *_: None) -> None:
        self._folder = folder
        self._limits = limits
        self._waiting: list[Frame] = []
        self._waiting_bytes = 0
        self._durable: asyncio.Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._writer = _Writer(folder, limits, on_sync)
        self._is_closed = True

    async def open(self) -> None:
        """Take the folder for this process, and seal what another has left; LockedError where one writes there."""
        await self._in_thread(self._writer.open)
        self._tending = asyncio.create_task(self._tend())
        self._is_closed = False

    async def append(
        self, records: Sequence[bytes | msgspec.Raw], *, received_at_ms: int, refused: Sequence[Refused] = ()
    ) -> None:
        """Return when the records, and those that were refused, are on disk.

        Raises SpoolFullError where there is no room for them, SpoolError where the disk failed: then they may, or may
        not, be delivered, and the sender should send them again.
        """
        if self._is_closed:
            raise SpoolError(f"the spool {self._folder} is closed")
        frames = [frame_of_records(records, received_at_ms)] if records else []
        if refused:
            frames.append(frame_of_refused(refused, received_at_ms))
        if not frames:
            return
        size = sum(frame.size for frame in frames)
        if self._waiting_bytes and self._waiting_bytes + size > self._limits.max_waiting_bytes:
            raise SpoolFullError(
                f"the disk of the spool {self._folder} is too slow: {self._waiting_bytes} bytes wait to be written"
            )
        self._waiting += frames
        self._waiting_bytes += size
        if self._durable is None:
            self._durable = asyncio.get_running_loop().create_future()
        durable = self._durable
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_what_waits())
        await asyncio.shield(durable)  # who gives up waiting must not cancel it for the others

    def refusal(self) -> str | None:
        """Why records would be refused now; None where they would not."""
        return f"the spool {self._folder} is closed" if self._is_closed else self._writer.refusal()

    def stats(self) -> SpoolStats:
        """How the spool is doing; of the folder, as it was when last looked at."""
        return self._writer.stats(self._waiting_bytes)

    async def close(self) -> None:
        """Write what waits, seal the segment, and let the folder go."""
        self._is_closed = True
        while self._writing is not None:
            await asyncio.wait({self._writing})
        if self._tending:
            self._tending.cancel()
        await self._in_thread(self._writer.close)
        self._thread.shutdown()

    async def _write_what_waits(self) -> None:
        try:
            while self._waiting:
                frames, durable = self._waiting, self._durable
                written_bytes = self._waiting_bytes
                assert durable is not None
                self._waiting, self._durable = [], None
                try:
                    await self._in_thread(self._writer.write, frames)
                except Exception as error:  # noqa: BLE001  whatever it is, who waits must hear of it
                    durable.set_exception(
                        error if isinstance(error, SpoolError) else SpoolError(f"the spool {self._folder}: {error}")
                    )
                    durable.exception()  # all of those who waited may have gone
                else:
                    durable.set_result(None)
                finally:
                    self._waiting_bytes -= written_bytes
        finally:
            self._writing = None

    async def _tend(self) -> None:
        """Seal by age though nothing comes in, and keep the folder in order."""
        while True:
            await asyncio.sleep(min(self._limits.segment_s / 4, _TEND_S))
            await self._in_thread(self._writer.tend)

    async def _in_thread(self, action: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, action, *arguments)


class _Writer:
    """What the spool's thread does; nothing else calls it, but for `stats`."""

    def __init__(self, folder: Path, limits: SpoolLimits, on_sync: OnSync) -> None:
        self._folder = folder
        self._limits = limits
        self._on_sync = on_sync
        self._lock: int | None = None
        self._segment: _OpenSegment | None = None
        self._unsealed: list[Path] = []  # whole, but could not be renamed yet
        self._last_name = ""
        self._seen = Depth(0, 0, None)
        self._kept_bytes = 0
        self._written_since = self._begun_since = 0
        self._looked_at = self._tidied_at = -float("inf")
        self._records = self._syncs = 0

    def open(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / DELIVERED).mkdir(mode=0o700, exist_ok=True)
            self._lock = _take_lock(self._folder, wait_s=_LOCK_WAIT_S)
        except OSError as error:
            raise SettingsError(f"CARAT_SPOOL: cannot use the directory {self._folder}: {error.strerror}") from None
        if self._lock is None:
            raise LockedError(f"another collector writes to the spool {self._folder}: a spool has one writer")
        _seal_left(self._folder)
        self._look()
        self._tidy()

    def close(self) -> None:
        if self._segment:
            self._seal()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, frames: Sequence[Frame]) -> None:
        """Put the frames on disk, behind each other in one segment."""
        size = sum(frame.size for frame in frames)
        self._require_room(size)
        try:
            segment = self._segment = self._segment or self._begin()
            started = time.perf_counter()
            segment.write(frames)
            seconds = time.perf_counter() - started
        except OSError as error:
            self._abandon()
            self._looked_at = -float("inf")
            kind = SpoolFullError if error.errno in _FULL else SpoolError
            raise kind(f"the spool {self._folder} could not be written: {error.strerror or error}") from error
        self._written_since += size
        self._records += sum(frame.records for frame in frames)
        self._syncs += 1
        self._on_sync(segment.path, segment.durable, seconds)
        if segment.durable >= self._limits.segment_bytes or segment.records >= self._limits.segment_records:
            self._seal()

    def tend(self) -> None:
        """Seal what is old enough, try again what could not be sealed, see what was delivered, remove what is old."""
        if self._segment and self._segment.age_s >= self._limits.segment_s:
            self._seal()
        for path in self._unsealed[:]:
            self._rename(path)
        with suppress(OSError, SpoolError):
            if time.monotonic() - self._looked_at >= _LOOK_S:
                self._look()
                if not self._has_room(0):
                    self._make_room(0)
            if time.monotonic() - self._tidied_at >= _TIDY_S:
                self._tidy()

    def refusal(self) -> str | None:
        try:
            return None if self._has_room(0) else self._no_room
        except OSError as error:
            return f"the spool {self._folder} cannot be used: {error.strerror}"

    def stats(self, waiting_bytes: int) -> SpoolStats:
        segment = self._segment
        oldest_ms = self._seen.oldest_at_ms
        if oldest_ms is None and segment:
            oldest_ms = segment.begun_at_ms
        return SpoolStats(
            segments=self._seen.segments + self._begun_since,
            bytes=self._seen.bytes + self._written_since,
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
            sync_folder(self._folder)  # else the segment, with all that is in it, could be gone after a power cut
        except OSError:
            segment.give_up()
            raise
        self._begun_since += 1
        return segment

    def _seal(self) -> None:
        """Let the segment be delivered. Where its name cannot be changed now, it is tried again: it is on disk."""
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
            if segment.give_up():
                self._rename(segment.path)
            _tell("a segment of the spool was given up", segment=segment.path.name, bytes=segment.durable)

    def _require_room(self, size: int) -> None:
        if self._has_room(size):
            return
        if time.monotonic() - self._looked_at >= _LOOK_AGAIN_S:
            self._look()
            self._make_room(size)
            if self._has_room(size):
                return
        raise SpoolFullError(self._no_room)

    @property
    def _no_room(self) -> str:
        return (
            f"the spool {self._folder} is full: {self._seen.bytes + self._written_since} bytes wait for delivery, "
            f"{shutil.disk_usage(self._folder).free} are free there (CARAT_SPOOL_MAX_BYTES, "
            "CARAT_SPOOL_MIN_FREE_BYTES). Free some room, or see why nothing is delivered"
        )

    def _has_room(self, size: int) -> bool:
        held = self._seen.bytes + self._written_since + self._kept_bytes + size
        free = shutil.disk_usage(self._folder).free - size
        return (not self._limits.max_bytes or held <= self._limits.max_bytes) and free >= self._limits.min_free_bytes

    def _make_room(self, size: int) -> None:
        """Remove what was delivered, the oldest first, until there is room for this and for some time to come."""
        kept = delivered_segments(self._folder)
        self._kept_bytes = sum(segment.bytes for segment in kept)
        wanted = size + self._limits.segment_bytes
        for segment in kept:
            if self._has_room(wanted):
                break
            segment.path.unlink(missing_ok=True)
            self._kept_bytes -= segment.bytes

    def _look(self) -> None:
        self._seen = spool_depth(self._folder)
        self._written_since = self._begun_since = 0
        self._looked_at = time.monotonic()

    def _tidy(self) -> None:
        remove_old_deliveries(self._folder, keep_s=self._limits.keep_s)
        self._kept_bytes = sum(segment.bytes for segment in delivered_segments(self._folder))
        self._tidied_at = time.monotonic()


class _OpenSegment:
    """The segment that is being written; `durable` bytes of it are on disk."""

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

    def write(self, frames: Sequence[Frame]) -> None:
        """Append the frames and wait until they are on disk."""
        buffers: list[bytes | memoryview] = []
        for frame in frames:
            buffers += (frame.head + frame.checksum, frame.payload)
        for first in range(0, len(buffers), _BUFFERS_A_WRITE):
            _write_all(self._handle, buffers[first : first + _BUFFERS_A_WRITE])
        os.fdatasync(self._handle)
        self.durable += sum(frame.size for frame in frames)
        self.records += sum(frame.records for frame in frames)

    def close(self) -> None:
        os.close(self._handle)

    def give_up(self) -> bool:
        """Cut what may not be on disk, and say whether anything is left. What cannot be cut was not acknowledged."""
        with suppress(OSError):
            os.ftruncate(self._handle, self.durable)
        with suppress(OSError):  # reports the same failure once more
            os.close(self._handle)
        if not self.durable:
            with suppress(OSError):
                self.path.unlink()
        return bool(self.durable)


def seal_what_was_left(folder: Path) -> int:
    """Seal what a collector that is gone has left open; how many segments. Nothing while one is running."""
    if not segments(folder, OPEN):
        return 0
    with spool_errors(folder):
        lock = _take_lock(folder, wait_s=0)
        if lock is None:
            return 0
        try:
            return _seal_left(folder)
        finally:
            os.close(lock)


def _seal_left(folder: Path) -> int:
    """Cut torn ends off the segments that a process left open, and seal them; how many."""
    left = segments(folder, OPEN)
    for segment in left:
        try:
            end = end_of_frames(segment.path)
            if end < segment.bytes:
                _cut(segment, end)
            if end:
                segment.path.rename(segment.path.with_suffix(SEALED))
            else:
                segment.path.unlink()
        except OSError as error:  # what comes in now must not be refused for it
            _tell("a segment of the spool cannot be read", segment=segment.path.name, error=str(error))
    if left:
        sync_folder(folder)
    return len(left)


def _cut(segment: Segment, end: int) -> None:
    _tell("cut the torn end of a segment", segment=segment.path.name, bytes=segment.bytes - end)
    handle = os.open(segment.path, os.O_WRONLY)
    try:
        os.ftruncate(handle, end)
        os.fsync(handle)
    finally:
        os.close(handle)


def _tell(what: str, **details: object) -> None:
    with suppress(OSError):  # the log may be on the disk that is full
        console.log.warning(what, **details)


def _take_lock(folder: Path, *, wait_s: float) -> int | None:
    """The handle that holds the folder until it is closed; None where another process does for so long."""
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(handle)
                return None
            time.sleep(_LOCK_WAIT_S / 20)
        else:
            return handle


def _write_all(handle: int, buffers: list[bytes | memoryview]) -> None:
    while buffers:
        written = os.writev(handle, buffers)
        while buffers and written >= len(buffers[0]):
            written -= len(buffers.pop(0))
        if written:
            buffers[0] = memoryview(buffers[0])[written:]
