"""Reads sealed segments of the collector's spool in chunks of checked records.

A segment is cut into the same chunks whenever it is read, so that a chunk can be stored under a token of its own and
sent again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from app.core.call_record import Line, RecordLimits, RejectedRecordError, from_epoch_ms
from app.intake.blocks import Block
from app.intake.call_frames import Batch, read_block, reject_frame, reject_row
from app.intake.spool import Corruption, Received, RejectedRecord, Segment, read_segment

CHUNK_RECORDS = 20_000
CHUNK_BYTES = 32 * 1024 * 1024


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
    """Records to be checked, and records that are rejected by the collector, of one chunk."""

    block: Block = field(default_factory=lambda: Block(received_ms=[]))
    rejected: list[tuple[Line, RejectedRecordError]] = field(default_factory=list)
    bytes: int = 0

    @property
    def records(self) -> int:
        return len(self.block) + len(self.rejected)

    def add(self, entry: Received | Corruption, position: int, segment: Segment) -> int:
        """Add an entry whose first record has this position in the segment; returns its number of records."""
        if isinstance(entry, Corruption):
            detail = f"bytes {entry.offset} to {entry.offset + entry.size} of the segment are damaged"
            line = Line(position, entry.data, entry.size, from_epoch_ms(segment.written_at_ms))
            self._reject(line, "damaged segment", detail)
            return 1
        rejected = [record for record in entry.records if isinstance(record, RejectedRecord)]
        for number, record in enumerate(rejected, start=position):  # an entry has records of one kind
            line = Line(number, record.data, record.full_size, from_epoch_ms(entry.received_at_ms))
            self._reject(line, record.reason, record.detail)
        records = [record for record in entry.records if isinstance(record, bytes)]
        self.block.extend(
            Block(
                records,
                list(range(position, position + len(records))),
                list(map(len, records)),
                [entry.received_at_ms] * len(records),
            )
        )
        self.bytes += sum(map(len, records))
        return len(entry.records)

    def _reject(self, line: Line, reason: str, detail: str) -> None:
        self.rejected.append((line, RejectedRecordError(reason, detail)))
        self.bytes += len(line.data)


def _pieces(segment: Segment) -> Iterator[_Piece]:
    """The segment cut at entry borders into pieces of bounded size, always the same ones."""
    piece, position = _Piece(), 1
    for entry in read_segment(segment.path):
        position += piece.add(entry, position, segment)
        if piece.records >= CHUNK_RECORDS or piece.bytes >= CHUNK_BYTES:
            yield piece
            piece = _Piece()
    if piece.records:
        yield piece


def _checked(piece: _Piece, segment: Segment, limits: RecordLimits) -> Batch:
    source, sealed_at = _source(segment), from_epoch_ms(segment.written_at_ms)
    batch = read_block(piece.block, source=source, now=sealed_at, limits=limits)
    rejected = [
        reject_row(line, error, source=source, now=line.received_at or sealed_at) for line, error in piece.rejected
    ]
    return replace(batch, rejects=pl.concat([batch.rejects, reject_frame(rejected)]))


def _source(segment: Segment) -> str:
    return f"collector:{segment.name}"
