"""Decides which records of a batch are accepted: a fast check first, then the rules of `app.core.call_record`."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple
from uuid import UUID

import msgspec

from app.core.call_record import (
    MILLISECONDS_FROM,
    Line,
    RecordLimits,
    RejectedRecordError,
    is_deeper,
    latest_ms,
    read_line,
)
from app.intake.spool import RejectedRecord

_RECORDS_PER_SLICE = 250  # validated before other requests get their turn
_AHEAD = timedelta(hours=23)  # well below the limit, so that rounding does not matter
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
    unusual: list[int] = []
    for first in range(0, len(records), _RECORDS_PER_SLICE):
        if first:
            await asyncio.sleep(0)
        part = records[first : first + _RECORDS_PER_SLICE]
        unusual += [first + index for index in _unusual(part, now=now, limits=limits)]
    if not unusual:
        return ValidationResult(records, (), ())

    latest = latest_ms(now)
    rejected = {}
    for number, index in enumerate(unusual):
        if number and not number % _RECORDS_PER_SLICE:
            await asyncio.sleep(0)
        data = records[index]
        try:
            read_line(Line(index, data, len(data)), latest_ms=latest, limits=limits)
        except RejectedRecordError as error:
            rejected[index] = RejectedRecord(error.reason, error.detail, data)
    accepted = [data for index, data in enumerate(records) if index not in rejected]
    rejections = [Rejection(index, reason, detail) for index, (reason, detail, _) in rejected.items()]
    return ValidationResult(accepted, list(rejected.values()), rejections)


def _unusual(records: Sequence[bytes], *, now: datetime, limits: RecordLimits) -> list[int]:
    """The indexes of records that need the full check, which takes ten times as long as this one."""
    max_bytes, max_nesting = limits.max_record_bytes, limits.max_nesting
    latest = now + _AHEAD
    latest_number = latest.timestamp() * 1000
    unusual = []
    for index, data in enumerate(records):
        try:
            call = _decode_plain(data)
            if not data.isascii():
                data.decode()  # the decoder does not check the raw request and response
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            unusual.append(index)
            continue
        ts = call.ts
        is_in_time = MILLISECONDS_FROM <= ts <= latest_number if isinstance(ts, int) else _EARLIEST <= ts <= latest
        if (
            not is_in_time
            or len(data) > max_bytes
            or call.endpoint[0] == "?"
            or (data.count(b"[") + data.count(b"{") > max_nesting and is_deeper(data, max_nesting))
        ):
            unusual.append(index)
    return unusual
