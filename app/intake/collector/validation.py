"""Decides which records of a batch are accepted: a fast check first, then the rules of `app.core.call_record`."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple, Self
from uuid import UUID

import msgspec

from app.core.call_record import (
    MILLISECONDS_FROM,
    Line,
    RecordLimits,
    RejectedRecordError,
    from_epoch_ms,
    read_line,
)
from app.core.json_text import is_deeper
from app.intake.spool import RejectedRecord

_RECORDS_PER_TURN, _BYTES_PER_TURN = 250, 256 * 1024  # validated before other requests get their turn
_MARGIN = timedelta(hours=1)  # so that rounding does not matter
_AHEAD = timedelta(days=1) - _MARGIN
_EARLIEST = datetime(1970, 2, 1, tzinfo=UTC)

_Text = str | None
_Needed = Annotated[str, msgspec.Meta(min_length=1)]
_Number = int | float | str | None


class _Plain(msgspec.Struct, gc=False):
    """A call record in its usual form. Whatever decodes into it can be stored."""

    ts: Annotated[datetime, msgspec.Meta(tz=True)] | int
    method: _Needed
    endpoint: _Needed
    call_id: UUID | None = None
    visitor_id: _Text = None
    session_token: _Text = None
    user_id: _Text = None
    status: _Number = None
    duration_ms: _Number = None
    ip: _Text = None
    user_agent: _Text = None
    referrer: _Text = None
    page_url: _Text = None
    request: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")


class Rejection(msgspec.Struct, frozen=True):
    """What the sender is told about a rejected record: its index in the batch, a short reason, and the detail."""

    index: int
    reason: str
    detail: str


class ValidationResult(NamedTuple):
    """A validated batch: the accepted records, the rejected ones, and what the sender is told about these."""

    accepted: Sequence[bytes]
    rejected: Sequence[RejectedRecord]
    rejections: Sequence[Rejection]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(rejection.reason for rejection in self.rejections)


_decode_plain = msgspec.json.Decoder(_Plain).decode


async def validate(records: Sequence[bytes], *, now: datetime, limits: RecordLimits) -> ValidationResult:
    """Validate a batch that was received at `now`. `limits.addresses` is not applied: records stay unchanged."""
    window = _Window.at(now, limits)
    unusual = [index async for index in in_turns(range(len(records)), records) if _is_unusual(records[index], window)]
    if not unusual:
        return ValidationResult(records, (), ())

    times = limits.times(now)
    rejected = {}
    async for index in in_turns(unusual, records):
        data = records[index]
        try:
            read_line(Line(index, data, len(data)), times=times, limits=limits)
        except RejectedRecordError as error:
            kept = data[: limits.max_record_bytes]  # a few bytes can decompress into a record of megabytes
            size = len(data) if len(kept) < len(data) else 0
            rejected[index] = RejectedRecord(error.reason, error.detail, kept, size)
    accepted = [data for index, data in enumerate(records) if index not in rejected]
    rejections = [Rejection(index, record.reason, record.detail) for index, record in rejected.items()]
    return ValidationResult(accepted, list(rejected.values()), rejections)


async def in_turns(indexes: Iterable[int], records: Sequence[bytes]) -> AsyncIterator[int]:
    """The indexes; other requests get their turn after every few hundred records, or kilobytes, of this one."""
    count = size = 0
    for index in indexes:
        if count >= _RECORDS_PER_TURN or size >= _BYTES_PER_TURN:
            await asyncio.sleep(0)
            count = size = 0
        count += 1
        size += len(records[index])
        yield index


class _Window(NamedTuple):
    """The limits in the form in which the fast check needs them, a little narrower than they are."""

    earliest: datetime
    latest: datetime
    earliest_ms: float
    latest_ms: float
    max_record_bytes: int
    max_nesting: int

    @classmethod
    def at(cls, now: datetime, limits: RecordLimits) -> Self:
        latest = now + _AHEAD
        earliest = _EARLIEST
        if limits.max_age_days:
            earliest = max(earliest, from_epoch_ms(limits.times(now).earliest_ms) + _MARGIN)
        earliest_ms = max(earliest.timestamp() * 1000, MILLISECONDS_FROM)
        return cls(
            earliest, latest, earliest_ms, latest.timestamp() * 1000, limits.max_record_bytes, limits.max_nesting
        )


def _is_unusual(data: bytes, window: _Window) -> bool:
    """Whether a record needs the full check, which takes ten times as long as this one."""
    if len(data) > window.max_record_bytes:
        return True
    try:
        call = _decode_plain(data)
        if not data.isascii():
            data.decode()  # the decoder does not check the raw request and response
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    ts = call.ts
    if isinstance(ts, int):
        is_in_time = window.earliest_ms <= ts <= window.latest_ms
    else:
        is_in_time = window.earliest <= ts <= window.latest
    return not is_in_time or call.endpoint[0] == "?" or is_deeper(data, window.max_nesting)
