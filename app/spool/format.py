"""The format of a segment: frames one after the other, each with its length and a checksum over all of it.

A frame is what one request brought: a batch of records as it was sent, received at one moment.
"""

import struct
import zlib
from typing import NamedTuple

from app.errors import SpoolError

# magic (with the version of the frame), length of the batch, records, received at (epoch ms), CRC-32 of all but itself
_HEAD = struct.Struct("<4sIIq")
_CHECKSUM = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CHECKSUM.size
MAGIC = b"\xc4RT1"  # no text in UTF-8 holds it, so that the next frame is found after damage
_LONGEST_BATCH = 2**31 - 1


class Frame(NamedTuple):
    """A frame to be written; its checksum is made where it is, away from the event loop."""

    head: bytes
    batch: bytes | memoryview
    records: int

    @property
    def size(self) -> int:
        return HEAD_BYTES + len(self.batch)

    @property
    def checksum(self) -> bytes:
        return _CHECKSUM.pack(zlib.crc32(self.batch, zlib.crc32(self.head)))


class Head(NamedTuple):
    """The head of a frame that was read."""

    length: int
    records: int
    received_at_ms: int
    checksum: int


def frame_of(batch: bytes | memoryview, *, records: int, received_at_ms: int) -> Frame:
    """The batch as a frame; SpoolError where it is larger than one can be."""
    if len(batch) > _LONGEST_BATCH:
        raise SpoolError(f"a batch of {len(batch)} bytes does not fit into the spool: lower the limits of a request")
    return Frame(_HEAD.pack(MAGIC, len(batch), records, received_at_ms), batch, records)


def parse_head(data: bytes) -> Head | None:
    """The head at the beginning of the data; None where there is none."""
    if len(data) < HEAD_BYTES or not data.startswith(MAGIC):
        return None
    _, length, records, received_at_ms = _HEAD.unpack_from(data)
    return Head(length, records, received_at_ms, *_CHECKSUM.unpack_from(data, _HEAD.size))


def is_whole(head: Head, data: bytes, batch: bytes) -> bool:
    """Whether the batch that follows the head, itself the beginning of the data, is the one that was written."""
    return len(batch) == head.length and head.checksum == zlib.crc32(batch, zlib.crc32(data[: _HEAD.size]))
