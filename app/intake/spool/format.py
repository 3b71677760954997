"""The file format of a segment: a sequence of entries, each with its length and a checksum.

An entry holds the accepted, or the rejected, records of one request, all received at the same moment. Each record is
stored with its length, so it is read back exactly as it was sent, whatever bytes it contains.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from app.core.errors import SpoolError

# magic (kind and version of the entry), length of the payload, records, received at (epoch ms)
_HEAD = struct.Struct("<4sIIq")
_CHECKSUM = struct.Struct("<I")  # CRC-32 of the head and the payload
HEAD_BYTES = _HEAD.size + _CHECKSUM.size
MAGIC = b"\xc4RT"  # not valid UTF-8, so that the next entry can be found after corruption
_RECORDS = MAGIC + b"1"
_REJECTED = MAGIC + b"2"
_LONGEST_PAYLOAD = 2**31 - 1
_LENGTH_BYTES = 4


class RejectedRecord(NamedTuple):
    """A record that the collector rejected: a short reason, the exact detail, and its bytes.

    `size` is the full size where only the first bytes are kept, otherwise 0; segments of older versions have none.
    """

    reason: str
    detail: str
    data: bytes
    size: int = 0

    @property
    def full_size(self) -> int:
        return self.size or len(self.data)


class Entry(NamedTuple):
    """An entry to write. The checksum is computed when it is written, outside the event loop."""

    head: bytes
    payload: bytes
    records: int

    @property
    def size(self) -> int:
        return HEAD_BYTES + len(self.payload)

    @property
    def checksum(self) -> bytes:
        return _CHECKSUM.pack(zlib.crc32(self.payload, zlib.crc32(self.head)))


class Head(NamedTuple):
    """The head of an entry."""

    is_rejected: bool
    length: int
    records: int
    received_at_ms: int
    checksum: int


_rejected_encoder = msgspec.msgpack.Encoder()
_rejected_decoder = msgspec.msgpack.Decoder(list[RejectedRecord])


def records_entry(records: Sequence[bytes | msgspec.Raw], received_at_ms: int) -> Entry:
    """The records as an entry; SpoolError if they are too large for one."""
    lengths = array("I", map(len, records))
    if sys.byteorder == "big":
        lengths.byteswap()
    return _entry(_RECORDS, b"".join((lengths.tobytes(), *records)), len(records), received_at_ms)


def rejected_entry(rejected: Sequence[RejectedRecord], received_at_ms: int) -> Entry:
    """The rejected records, with their reasons, as an entry."""
    return _entry(_REJECTED, _rejected_encoder.encode(rejected), len(rejected), received_at_ms)


def _entry(magic: bytes, payload: bytes, records: int, received_at_ms: int) -> Entry:
    if len(payload) > _LONGEST_PAYLOAD:
        raise SpoolError(f"a batch of {len(payload)} bytes does not fit into the spool: lower the limits of a request")
    return Entry(_HEAD.pack(magic, len(payload), records, received_at_ms), payload, records)


def parse_head(data: bytes) -> Head | None:
    """The head at the start of the data; None if there is none."""
    if len(data) < HEAD_BYTES:
        return None
    magic, length, records, received_at_ms = _HEAD.unpack_from(data)
    if magic not in {_RECORDS, _REJECTED}:
        return None
    return Head(magic == _REJECTED, length, records, received_at_ms, *_CHECKSUM.unpack_from(data, _HEAD.size))


def is_whole(head: Head, data: bytes, payload: bytes) -> bool:
    """Whether the payload matches the checksum; `data` starts with the bytes of the head."""
    return len(payload) == head.length and head.checksum == zlib.crc32(payload, head_checksum(data))


def head_checksum(data: bytes) -> int:
    """The checksum of a head, with which that of its payload continues; `data` starts with its bytes."""
    return zlib.crc32(data[: _HEAD.size])


def records_of(head: Head, payload: bytes) -> Iterator[bytes | RejectedRecord]:
    """The records of an entry, as they were sent."""
    if head.is_rejected:
        yield from _rejected_decoder.decode(payload)
        return
    start = _LENGTH_BYTES * head.records
    lengths = array("I", payload[:start])
    if sys.byteorder == "big":
        lengths.byteswap()
    for length in lengths:
        yield payload[start : (start := start + length)]
