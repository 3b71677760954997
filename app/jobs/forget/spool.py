"""Erases a person from the collector's spool: sealed and delivered segments are overwritten record by record.

A segment keeps its name, and each record its place and size, because the loader derives chunks and their tokens from
them. The segment that a running collector is writing is left alone: it is sealed within seconds, and the loader does
not store calls of a forgotten person.
"""

import os
from collections.abc import Iterator

import msgspec

from app.core.call_record import Record
from app.core.errors import SpoolError
from app.intake.spool import Corruption, Received, RejectedRecord, read_segment
from app.intake.spool.format import records_entry, rejected_entry
from app.intake.spool.segments import OPEN, Segment, delivered_segments, sealed_segments, segments, sync_folder
from app.jobs.forget.identifiers import Identifiers
from app.jobs.forget.redaction import redacted
from app.jobs.forget.search import Occurrence
from app.settings import Settings

_FILLER = b'{"forgotten":true}'
_decoder = msgspec.json.Decoder(Record)


def redact_spool(settings: Settings, ids: Identifiers, *, change: bool) -> dict[str, int]:
    """Overwrite what closed segments hold of the person (only with `change`); the number of such records by file."""
    found: dict[str, int] = {}
    for segment in (*sealed_segments(settings.spool), *delivered_segments(settings.spool)):
        try:
            named = sum(old != new for old, new in _pairs(segment, ids))
            if named and change:
                _write_over(segment, ids)
        except FileNotFoundError:  # delivered segments are removed when they are old
            continue
        if named:
            found[str(segment.path)] = named
    return found


def redact_delivered(segment: Segment, ids: Identifiers) -> None:
    """Overwrite what a segment that was just delivered, and is kept, holds of forgotten people."""
    if not ids:
        return
    for kept in delivered_segments(segment.path.parent):
        if kept.name == segment.name and any(old != new for old, new in _pairs(kept, ids)):
            _write_over(kept, ids)


def occurrences_in_spool(settings: Settings, ids: Identifiers) -> list[Occurrence]:
    """The segments, open ones included, that still name the person."""
    folder = settings.spool
    occurrences = []
    for segment in (*segments(folder, OPEN), *sealed_segments(folder), *delivered_segments(folder)):
        try:
            named = sum(old != new for old, new in _pairs(segment, ids))
        except FileNotFoundError:
            continue
        if named:
            occurrences.append(Occurrence(str(segment.path), "record", named))
    return occurrences


def _pairs(segment: Segment, ids: Identifiers) -> Iterator[tuple[bytes | RejectedRecord, bytes | RejectedRecord]]:
    """Each record and each damaged stretch, before and after redaction."""
    for frame in read_segment(segment.path):
        if isinstance(frame, Corruption):
            yield frame.data, _without_ids(frame.data, ids)
        else:
            yield from ((record, _without_person(record, ids)) for record in frame.records)


def _write_over(segment: Segment, ids: Identifiers) -> None:
    before = segment.path.stat()
    temporary = segment.path.with_suffix(".forgetting")
    with temporary.open("wb") as file:
        temporary.chmod(before.st_mode & 0o777)
        for frame in read_segment(segment.path):
            if isinstance(frame, Corruption):
                if len(frame.data) < frame.size:
                    raise SpoolError(f"{segment.path} is damaged over {frame.size} bytes: it must be repaired by hand")
                file.write(_without_ids(frame.data, ids))
            else:
                file.write(_frame_bytes(frame, ids))
        file.flush()
        os.fsync(file.fileno())
    os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))  # the loader uses it as the time of receipt
    temporary.replace(segment.path)
    sync_folder(segment.path.parent)


def _frame_bytes(frame: Received, ids: Identifiers) -> bytes:
    clean = [_without_person(record, ids) for record in frame.records]
    refused = [record for record in clean if isinstance(record, RejectedRecord)]
    if refused:
        written = rejected_entry(refused, frame.received_at_ms)
    else:
        written = records_entry([r for r in clean if isinstance(r, bytes)], frame.received_at_ms)
    return written.head + written.checksum + written.payload


def _without_person(record: bytes | RejectedRecord, ids: Identifiers) -> bytes | RejectedRecord:
    if isinstance(record, RejectedRecord):
        return RejectedRecord(record.reason, redacted(record.detail, ids), _filled_or_clean(record.data, ids))
    return _filled_or_clean(record, ids)


def _filled_or_clean(data: bytes, ids: Identifiers) -> bytes:
    if _is_theirs(data, ids):
        return _FILLER.ljust(len(data))[: len(data)]
    return _without_ids(data, ids)


def _is_theirs(data: bytes, ids: Identifiers) -> bool:
    try:
        record = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return False
    carried = ((record.user_id, ids.users), (record.visitor_id, ids.visitors), (record.session_token, ids.tokens))
    return any(value is not None and str(value) in known for value, known in carried)


def _without_ids(data: bytes, ids: Identifiers) -> bytes:
    """The bytes with the person's ids overwritten and all others unchanged, valid UTF-8 or not."""
    text = data.decode("utf-8", "surrogateescape")
    return redacted(text, ids, same_length=True).encode("utf-8", "surrogateescape")
