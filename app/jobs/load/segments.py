"""Job deliver: sealed segments of the collector's spool to `pd.api_calls`, each call once, and to `etl.rejects`.

Segments are read in chunks that are the same whenever they are read. Each chunk is stored with a token of its own, so
it may be sent again whatever became of it: what the warehouse has is found by its call_id, and what is still under way
there, by the token.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import polars as pl

from app.core.call_record import Line, RecordLimits, RejectedRecordError, from_epoch_ms
from app.core.errors import SpoolError
from app.intake.call_frames import Batch, read_lines, reject_frame, reject_row
from app.intake.spool import Corruption, Received, RejectedRecord, Segment, acknowledge, read_segment
from app.jobs.raw_calls import Ingested, known_calls, store
from app.warehouse import Warehouse

_CHUNK_RECORDS = 20_000
_CHUNK_BYTES = 32 * 1024 * 1024
_CHUNKS_AT_ONCE = 64  # small segments share the search for what is known: that reads every call_id


@dataclass(frozen=True)
class Chunk:
    """Some records of one segment, checked; `is_last` when none of the segment come after them."""

    segment: Segment
    number: int
    batch: Batch
    records: int
    is_last: bool


def run(
    warehouse: Warehouse,
    segments: Sequence[Segment],
    *,
    now: datetime,
    limits: RecordLimits,
    totals: Ingested,
    on_delivered: Callable[[Segment], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Deliver these segments in their order, and add to `totals` what was done.

    `on_delivered` is told of each segment that is delivered. SpoolError for those that could not be read, after the
    others.
    """
    unreadable: list[str] = []
    for chunks in _gathered(_read_chunks(segments, limits, unreadable)):
        call_ids = pl.concat([chunk.batch.calls["call_id"] for chunk in chunks])
        known = known_calls(warehouse, call_ids) if call_ids.is_unique().all() else None

        for chunk in chunks:
            source = _source(chunk.segment)
            token = f"{source}/{chunk.number}"
            totals.add(store(warehouse, chunk.batch, source=source, now=now, token=token, known=known))
            if chunk.is_last:
                acknowledge(chunk.segment)
                on_delivered(chunk.segment)
        if is_stopped():
            break
    if unreadable:
        raise SpoolError("; ".join(unreadable))


def _gathered(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in groups that are not much larger than one of them may be."""
    group: list[Chunk] = []
    for chunk in chunks:
        group.append(chunk)
        size = sum(chunk.batch.calls.estimated_size() for chunk in group)
        is_full = sum(chunk.records for chunk in group) >= _CHUNK_RECORDS or size >= _CHUNK_BYTES
        if is_full or len(group) >= _CHUNKS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _read_chunks(segments: Sequence[Segment], limits: RecordLimits, unreadable: list[str]) -> Iterator[Chunk]:
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
    """Lines to check, and records that the collector rejected, of one chunk."""

    lines: list[Line] = field(default_factory=list)
    rejected: list[tuple[Line, RejectedRecordError]] = field(default_factory=list)
    bytes: int = 0

    @property
    def records(self) -> int:
        return len(self.lines) + len(self.rejected)

    def add(self, entry: Received | Corruption, position: int, segment: Segment) -> int:
        """Take an entry whose first record stands at this position in the segment; how many it has."""
        if isinstance(entry, Corruption):
            detail = f"bytes {entry.offset} to {entry.offset + entry.size} of the segment are damaged"
            line = Line(position, entry.data, entry.size, from_epoch_ms(segment.written_at_ms))
            self._reject(line, "damaged segment", detail)
            return 1
        received_at = from_epoch_ms(entry.received_at_ms)
        for number, record in enumerate(entry.records, start=position):
            if isinstance(record, RejectedRecord):
                line = Line(number, record.data, len(record.data), received_at)
                self._reject(line, record.reason, record.detail)
            else:
                self.lines.append(Line(number, record, len(record), received_at))
                self.bytes += len(record)
        return len(entry.records)

    def _reject(self, line: Line, reason: str, detail: str) -> None:
        self.rejected.append((line, RejectedRecordError(reason, detail)))
        self.bytes += len(line.data)


def _pieces(segment: Segment) -> Iterator[_Piece]:
    """What the segment holds, cut at entries into pieces of bounded size: always at the same ones."""
    piece, position = _Piece(), 1
    for entry in read_segment(segment.path):
        position += piece.add(entry, position, segment)
        if piece.records >= _CHUNK_RECORDS or piece.bytes >= _CHUNK_BYTES:
            yield piece
            piece = _Piece()
    if piece.records:
        yield piece


def _checked(piece: _Piece, segment: Segment, limits: RecordLimits) -> Batch:
    source, sealed_at = _source(segment), from_epoch_ms(segment.written_at_ms)
    batch = read_lines(piece.lines, source=source, now=sealed_at, limits=limits)
    rejected = [
        reject_row(line, error, source=source, now=line.received_at or sealed_at) for line, error in piece.rejected
    ]
    return replace(batch, rejects=pl.concat([batch.rejects, reject_frame(rejected)]))


def _source(segment: Segment) -> str:
    return f"collector:{segment.name}"
