"""Reads sealed segments of the collector's spool in chunks of checked records.

A segment is cut into the same chunks whenever it is read, so that a chunk can be stored under a token of its own and
sent again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from app.core.addresses import Addresses
from app.core.call_record import Line, RejectedRecordError
from app.intake.call_frames import Batch, read_lines, reject, reject_frame
from app.intake.spool import Damage, Received, Refused, Segment, read_segment

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
CHUNK_RECORDS = 20_000
CHUNK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class RecordLimits:
    """The largest records that the loader accepts, and how it stores IP addresses."""

    max_bytes: int
    max_nesting: int
    ips: Addresses


@dataclass(frozen=True)
class Chunk:
    """Some records of one segment, checked; `is_last` for the last chunk of a segment."""

    segment: Segment
    number: int
    batch: Batch
    records: int
    is_last: bool

    @property
    def source(self) -> str:
        return _source(self.segment)

    @property
    def token(self) -> str:
        """What makes a repeated insert of this chunk count once."""
        return f"{self.source}/{self.number}"


def read_chunks(segments: Sequence[Segment], limits: RecordLimits, unreadable: list[str]) -> Iterator[Chunk]:
    """Yield the segments' chunks in order, and append to `unreadable` which segments could not be read and why."""
    for segment in segments:
        try:
            yield from _chunks_of(segment, limits)
        except OSError as error:
            unreadable.append(f"segment {segment.path} could not be read: {error.strerror or error}; it stays there")


def _chunks_of(segment: Segment, limits: RecordLimits) -> Iterator[Chunk]:
    pieces = _pieces(segment)
    piece: _Piece | None = next(pieces, _Piece())
    number = 0
    while piece is not None:
        after = next(pieces, None)
        yield Chunk(segment, number, _checked(piece, segment, limits), piece.records, is_last=after is None)
        piece, number = after, number + 1


@dataclass
class _Piece:
    """Lines to be checked, and records that are already refused, of one chunk."""

    lines: list[Line] = field(default_factory=list)
    refused: list[tuple[Line, RejectedRecordError]] = field(default_factory=list)
    bytes: int = 0

    @property
    def records(self) -> int:
        return len(self.lines) + len(self.refused)

    def add(self, frame: Received | Damage, position: int, segment: Segment) -> int:
        """Add a frame whose first record has this position in the segment; returns its number of records."""
        if isinstance(frame, Damage):
            detail = f"bytes {frame.offset} to {frame.offset + frame.size} of the segment are damaged"
            line = Line(position, frame.data, frame.size, _instant(segment.written_at_ms))
            self._refuse(line, "damaged segment", detail)
            return 1
        received_at = _instant(frame.received_at_ms)
        for number, record in enumerate(frame.records, start=position):
            if isinstance(record, Refused):
                line = Line(number, record.data, len(record.data), received_at)
                self._refuse(line, record.reason, record.detail)
            else:
                self.lines.append(Line(number, record, len(record), received_at))
                self.bytes += len(record)
        return len(frame.records)

    def _refuse(self, line: Line, reason: str, detail: str) -> None:
        self.refused.append((line, RejectedRecordError(reason, detail)))
        self.bytes += len(line.data)


def _pieces(segment: Segment) -> Iterator[_Piece]:
    """The segment cut at frame borders into pieces of bounded size, always the same ones."""
    piece, position = _Piece(), 1
    for frame in read_segment(segment.path):
        position += piece.add(frame, position, segment)
        if piece.records >= CHUNK_RECORDS or piece.bytes >= CHUNK_BYTES:
            yield piece
            piece = _Piece()
    if piece.records:
        yield piece


def _checked(piece: _Piece, segment: Segment, limits: RecordLimits) -> Batch:
    source, sealed_at = _source(segment), _instant(segment.written_at_ms)
    batch = read_lines(
        piece.lines,
        source=source,
        now=sealed_at,
        max_record_bytes=limits.max_bytes,
        max_nesting=limits.max_nesting,
        ips=limits.ips,
    )
    refused = [reject(line, error, source=source, now=line.received_at or sealed_at) for line, error in piece.refused]
    return replace(batch, rejects=pl.concat([batch.rejects, reject_frame(refused)]))


def _source(segment: Segment) -> str:
    return f"collector:{segment.name}"


def _instant(at_ms: int) -> datetime:
    return _EPOCH + at_ms * _MILLISECOND
