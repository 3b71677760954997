"""Decides which records of a batch are accepted: a fast check first, then the rules of `app.core.call_record`."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple
from uuid import UUID

import msgspec

from app.core.call_record import EARLIEST_MS, Line, RejectedRecordError, is_deeper, latest_ms, read_line
from app.intake.spool import Refused

_RECORDS_A_TURN = 250  # so many are judged before other requests have their turn
_AHEAD = timedelta(hours=23)  # well below the limit, so that no rounding matters
_EARLIEST = datetime(1970, 2, 1, tzinfo=UTC)

_Text = str | None
_Needed = Annotated[str, msgspec.Meta(min_length=1)]
_Number = int | float | str | None


class _Plain(msgspec.Struct, gc=False):
    """A call record as nearly all of them are: whatever fits can be stored."""

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


class Rejected(msgspec.Struct, frozen=True):
    """A record that is not taken: where it stood in its batch, why in few words, and exactly."""

    index: int
    reason: str
    detail: str


class Judged(NamedTuple):
    """A batch taken apart: what can be stored, what cannot, and the latter as the sender is told."""

    taken: Sequence[bytes]
    refused: Sequence[Refused]
    rejected: Sequence[Rejected]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(record.reason for record in self.rejected)


_decode_plain = msgspec.json.Decoder(_Plain).decode


async def judge(records: Sequence[bytes], *, now: datetime, max_bytes: int, max_nesting: int) -> Judged:
    """Judge each record of a batch that came in at `now`."""
    odd: list[int] = []
    for first in range(0, len(records), _RECORDS_A_TURN):
        if first:
            await asyncio.sleep(0)
        turn = records[first : first + _RECORDS_A_TURN]
        odd += [first + index for index in _not_plain(turn, now=now, max_bytes=max_bytes, max_nesting=max_nesting)]
    if not odd:
        return Judged(records, (), ())

    latest = latest_ms(now)
    refused = {}
    for number, index in enumerate(odd):
        if number and not number % _RECORDS_A_TURN:
            await asyncio.sleep(0)
        data = records[index]
        try:
            read_line(Line(index, data, len(data)), latest_ms=latest, max_bytes=max_bytes, max_nesting=max_nesting)
        except RejectedRecordError as error:
            refused[index] = Refused(error.reason, error.detail, data)
    taken = [data for index, data in enumerate(records) if index not in refused]
    rejected = [Rejected(index, reason, detail) for index, (reason, detail, _) in refused.items()]
    return Judged(taken, list(refused.values()), rejected)


def _not_plain(records: Sequence[bytes], *, now: datetime, max_bytes: int, max_nesting: int) -> list[int]:
    """Which of the records have to be read with care: those that are not, at a tenth of its cost, seen to be good."""
    latest = now + _AHEAD
    latest_number = latest.timestamp() * 1000
    odd = []
    for index, data in enumerate(records):
        try:
            call = _decode_plain(data)
            if not data.isascii():
                data.decode()  # raw request and response are not looked into
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            odd.append(index)
            continue
        ts = call.ts
        is_in_time = EARLIEST_MS <= ts <= latest_number if isinstance(ts, int) else _EARLIEST <= ts <= latest
        if (
            not is_in_time
            or len(data) > max_bytes
            or call.endpoint[0] == "?"
            or (data.count(b"[") + data.count(b"{") > max_nesting and is_deeper(data, max_nesting))
        ):
            odd.append(index)
    return odd
