"""Reads segments in bounded memory. What is damaged comes as such, and what stands after it is found again."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from app.intake.spool.format import HEAD_BYTES, MAGIC, Head, Refused, is_whole, parse_head, records_of

_CHUNK_BYTES = 1024 * 1024
_KEPT_DAMAGE_BYTES = 64 * 1024 * 1024  # of a longer stretch, only its beginning comes


class Received(NamedTuple):
    """The records of one frame, in the order in which they were sent."""

    received_at_ms: int
    records: list[bytes | Refused]


class Damage(NamedTuple):
    """A stretch of a segment that is no whole frame: where it stands, how long it is, and its bytes."""

    offset: int
    size: int
    data: bytes


def read_segment(path: Path) -> Iterator[Received | Damage]:
    """The frames of a segment; what is damaged between, before or after them comes as Damage."""
    with path.open("rb") as file:
        for start, end, frame in _stretches(file):
            if frame is None:
                file.seek(start)
                yield Damage(start, end - start, file.read(min(end - start, _KEPT_DAMAGE_BYTES)))
            else:
                head, payload = frame
                yield Received(head.received_at_ms, list(records_of(head, payload)))


def end_of_frames(path: Path) -> int:
    """The offset after the last whole frame: what stands behind it was never acknowledged."""
    with path.open("rb") as file:
        return max((end for _, end, frame in _stretches(file) if frame), default=0)


def _stretches(file: IO[bytes]) -> Iterator[tuple[int, int, tuple[Head, bytes] | None]]:
    """Where each frame begins and ends, with the frame; None stands for what is none."""
    size = file.seek(0, 2)
    offset = 0
    while offset < size:
        frame = _frame_at(file, offset, size)
        end = offset + HEAD_BYTES + frame[0].length if frame else _next_frame(file, offset, size)
        yield offset, end, frame
        offset = end


def _next_frame(file: IO[bytes], damaged: int, size: int) -> int:
    """Where the next whole frame begins after a damaged one; the end of the file where there is none."""
    at = damaged + 1
    while (at := _find_magic(file, at)) != -1:
        if _frame_at(file, at, size):
            return at
        at += 1
    return size


def _find_magic(file: IO[bytes], at: int) -> int:
    file.seek(at)
    overlap = b""
    while chunk := file.read(_CHUNK_BYTES):
        data = overlap + chunk
        if (found := data.find(MAGIC)) != -1:
            return at - len(overlap) + found
        at += len(chunk)
        overlap = data[-len(MAGIC) + 1 :]
    return -1


def _frame_at(file: IO[bytes], offset: int, size: int) -> tuple[Head, bytes] | None:
    """The whole frame that begins there, or None."""
    file.seek(offset)
    data = file.read(HEAD_BYTES)
    head = parse_head(data)
    if head is None or offset + HEAD_BYTES + head.length > size:
        return None
    payload = file.read(head.length)
    return (head, payload) if is_whole(head, data, payload) else None
