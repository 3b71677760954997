"""The format of a segment: frames one after the other, each with its length and a checksum over all of it.

A frame is what one request brought: its records, or those of its records that were refused, received at one moment.
Records are told apart by their lengths, so each comes back as it was sent, whatever bytes it holds.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from app.core.errors import SpoolError

# magic (kind and version of the frame), length of the payload, records, received at (epoch ms)
_HEAD = struct.Struct("<4sIIq")
_CHECKSUM = struct.Struct("<I")  # CRC-32 of the head and the payload
HEAD_BYTES = _HEAD.size + _CHECKSUM.size
MAGIC = b"\xc4RT"  # no text in UTF-8 holds it, so that the next frame is found after damage
_RECORDS = MAGIC + b"1"
_REFUSED = MAGIC + b"2"
_LONGEST_PAYLOAD = 2**31 - 1
_LENGTH_BYTES = 4


class Refused(NamedTuple):
    """A record that the collector did not accept: why, in few words and exactly, and its bytes."""

    reason: str
    detail: str
    data: bytes


class Frame(NamedTuple):
    """A frame to be written; its checksum is made where it is, away from the event loop."""

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
    """The head of a frame that was read."""

    is_refused: bool
    length: int
    records: int
    received_at_ms: int
    checksum: int


_refused_encoder = msgspec.msgpack.Encoder()
_refused_decoder = msgspec.msgpack.Decoder(list[Refused])


def frame_of_records(records: Sequence[bytes | msgspec.Raw], received_at_ms: int) -> Frame:
    """The records as a frame; SpoolError where they are larger than one can be."""
    lengths = array("I", map(len, records))
    if sys.byteorder == "big":
        lengths.byteswap()
    return _frame(_RECORDS, b"".join((lengths.tobytes(), *records)), len(records), received_at_ms)


def frame_of_refused(refused: Sequence[Refused], received_at_ms: int) -> Frame:
    """The refused records as a frame, each with its reason."""
    return _frame(_REFUSED, _refused_encoder.encode(refused), len(refused), received_at_ms)


def _frame(magic: bytes, payload: bytes, records: int, received_at_ms: int) -> Frame:
    if len(payload) > _LONGEST_PAYLOAD:
        raise SpoolError(f"a batch of {len(payload)} bytes does not fit into the spool: lower the limits of a request")
    return Frame(_HEAD.pack(magic, len(payload), records, received_at_ms), payload, records)


def parse_head(data: bytes) -> Head | None:
    """The head at the beginning of the data; None where there is none."""
    if len(data) < HEAD_BYTES:
        return None
    magic, length, records, received_at_ms = _HEAD.unpack_from(data)
    if magic not in {_RECORDS, _REFUSED}:
        return None
    return Head(magic == _REFUSED, length, records, received_at_ms, *_CHECKSUM.unpack_from(data, _HEAD.size))


def is_whole(head: Head, data: bytes, payload: bytes) -> bool:
    """Whether the payload that follows the head, itself the beginning of the data, is the one that was written."""
    return len(payload) == head.length and head.checksum == zlib.crc32(payload, zlib.crc32(data[: _HEAD.size]))


def records_of(head: Head, payload: bytes) -> Iterator[bytes | Refused]:
    """The records of a whole frame, as they were sent."""
    if head.is_refused:
        yield from _refused_decoder.decode(payload)
        return
    start = _LENGTH_BYTES * head.records
    lengths = array("I", payload[:start])
    if sys.byteorder == "big":
        lengths.byteswap()
    for length in lengths:
        yield payload[start : (start := start + length)]
