"""A person in the collector's spool: what is sealed or delivered is written over, record by record, at its length.

A segment keeps its name, and each of its records its place and size: by these the loader cuts it into the pieces that
the warehouse knows it by. What a running collector is writing is left alone; it is sealed within seconds, and the
loader stores no call of a forgotten person.
"""

import os
from collections.abc import Iterator

import msgspec

from app.core.call_record import Record
from app.core.errors import SpoolError
from app.intake.spool import Corruption, Received, RejectedRecord, read_segment
from app.intake.spool.format import records_entry, rejected_entry
from app.intake.spool.segments import OPEN, Segment, delivered_segments, sealed_segments, segments, sync_folder
from app.jobs.forget.search import Identifiers, Trace, redacted
from app.settings import Settings

_FILLER = b'{"forgotten":true}'
_decoder = msgspec.json.Decoder(Record)


def redact_spool(settings: Settings, ids: Identifiers, *, change: bool) -> dict[str, int]:
    """Write over what the closed segments hold of the person; how many records that is, by file."""
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


def traces_in_spool(settings: Settings, ids: Identifiers) -> list[Trace]:
    """The segments that still name the person, of whatever state."""
    folder = settings.spool
    traces = []
    for segment in (*segments(folder, OPEN), *sealed_segments(folder), *delivered_segments(folder)):
        try:
            named = sum(old != new for old, new in _pairs(segment, ids))
        except FileNotFoundError:
            continue
        if named:
            traces.append(Trace(str(segment.path), "record", named))
    return traces


def _pairs(segment: Segment, ids: Identifiers) -> Iterator[tuple[bytes | RejectedRecord, bytes | RejectedRecord]]:
    """Each record, and each damaged stretch, as it is and without the person."""
    for frame in read_segment(segment.path):
        if isinstance(frame, Corruption):
            yield frame.data, _without_ids(frame.data, ids)
        else:
            yield from ((record, _without_person(record, ids)) for record in frame.records)


def _write_over(segment: Segment, ids: Identifiers) -> None:
    before = segment.path.stat()
    aside = segment.path.with_suffix(".forgetting")
    with aside.open("wb") as file:
        aside.chmod(before.st_mode & 0o777)
        for frame in read_segment(segment.path):
            if isinstance(frame, Corruption):
                if len(frame.data) < frame.size:
                    raise SpoolError(f"{segment.path} is damaged over {frame.size} bytes: see to it by hand")
                file.write(_without_ids(frame.data, ids))
            else:
                file.write(_frame_bytes(frame, ids))
        file.flush()
        os.fsync(file.fileno())
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))  # the loader judges records by when they were written
    aside.replace(segment.path)
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
    carried = ((record.user_id, (ids.user,)), (record.visitor_id, ids.visitors), (record.session_token, ids.tokens))
    return any(value is not None and str(value) in known for value, known in carried)


def _without_ids(data: bytes, ids: Identifiers) -> bytes:
    """The bytes with the person's ids written over, all others as they are, whatever bytes they are."""
    text = data.decode("utf-8", "surrogateescape")
    return redacted(text, ids, same_length=True).encode("utf-8", "surrogateescape")
