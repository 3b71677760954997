"""Reads segments in bounded memory, and recovers the entries that follow a corrupt part."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from app.intake.spool.checksums import FileChecksums
from app.intake.spool.files import open_segment
from app.intake.spool.format import (
    HEAD_BYTES,
    MAGIC,
    Head,
    RejectedRecord,
    head_checksum,
    is_whole,
    parse_head,
    records_of,
)

_CHUNK_BYTES = 1024 * 1024
_MAX_CORRUPTION_BYTES = 64 * 1024 * 1024  # of a longer part, only the start is returned


class Received(NamedTuple):
    """The records of one entry, in the order in which they were sent."""

    received_at_ms: int
    records: list[bytes | RejectedRecord]


class Corruption(NamedTuple):
    """A part of a segment that is not a valid entry: its offset, its size, and its bytes."""

    offset: int
    size: int
    data: bytes


def read_segment(path: Path) -> Iterator[Received | Corruption]:
    """The entries of a segment; anything else in it is returned as Corruption."""
    with open_segment(path) as file:
        for start, end, entry in _parts(file):
            if entry is None:
                file.seek(start)
                yield Corruption(start, end - start, file.read(min(end - start, _MAX_CORRUPTION_BYTES)))
            else:
                head, payload = entry
                yield Received(head.received_at_ms, list(records_of(head, payload)))


def end_of_entries(path: Path) -> int:
    """The offset after the last valid entry: what follows was never acknowledged."""
    with open_segment(path) as file:
        return max((end for _, end, entry in _parts(file) if entry), default=0)


def _parts(file: IO[bytes]) -> Iterator[tuple[int, int, tuple[Head, bytes] | None]]:
    """Start, end and content of each entry; the content is None for a corrupt part."""
    size = file.seek(0, 2)
    offset = 0
    while offset < size:
        entry = _entry_at(file, offset, size)
        end = offset + HEAD_BYTES + entry[0].length if entry else _next_entry(file, offset, size)
        yield offset, end, entry
        offset = end


def _next_entry(file: IO[bytes], corrupt: int, size: int) -> int:
    """The offset of the next valid entry after a corrupt part; the end of the file if there is none."""
    checksums = None
    for at in _magics(file, corrupt + 1):
        file.seek(at)
        data = file.read(HEAD_BYTES)
        head = parse_head(data)
        start = at + HEAD_BYTES
        if head is None or start + head.length > size:
            continue
        checksums = checksums or FileChecksums(file)
        if checksums.crc32(start, start + head.length, after=head_checksum(data)) == head.checksum:
            return at
    return size


def _magics(file: IO[bytes], at: int) -> Iterator[int]:
    """The offsets, from `at` on, at which an entry may begin."""
    overlap = b""
    while True:
        file.seek(at)
        chunk = file.read(_CHUNK_BYTES)
        if not chunk:
            return
        data = overlap + chunk
        found = data.find(MAGIC)
        while found != -1:
            yield at - len(overlap) + found
            found = data.find(MAGIC, found + 1)
        at += len(chunk)
        overlap = data[-len(MAGIC) + 1 :]


def _entry_at(file: IO[bytes], offset: int, size: int) -> tuple[Head, bytes] | None:
    """The valid entry at this offset, or None."""
    file.seek(offset)
    data = file.read(HEAD_BYTES)
    head = parse_head(data)
    if head is None or offset + HEAD_BYTES + head.length > size:
        return None
    payload = file.read(head.length)
    return (head, payload) if is_whole(head, data, payload) else None
