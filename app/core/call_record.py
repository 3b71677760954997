"""Validates call records one by one and converts them into rows of `pd.api_calls`.

The collector, its loader and `carat ingest` all use these rules, so they accept the same records. This module does not
import Polars, which keeps the collector small.
"""

import hashlib
import math
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from app.core.addresses import Addresses, kept
from app.core.json_text import as_utf8, is_deeper, with_whole_characters

# The fields that make up a record's content, in this order; `received_at` and `call_id` are not content.
CONTENT_FIELDS = (
    "ts", "visitor_id", "session_token", "user_id", "method", "endpoint", "status", "duration_ms", "ip", "user_agent",
    "referrer", "page_url", "request", "response",
)  # fmt: skip
CONTENT_SEPARATOR = "\x1f"
TEXT_FIELDS = (
    "visitor_id", "session_token", "user_id", "method", "endpoint", "ip", "user_agent", "referrer", "page_url"
)  # fmt: skip
REQUIRED_FIELDS = ("method", "endpoint")
COUNT_LIMITS = {"status": 2**16, "duration_ms": 2**32}  # a count is less
_DAY_MS = 86_400_000
EARLIEST_MS = 2 * _DAY_MS  # so that no business day, nor the day before it, lies before 1970 in any time zone
# In seconds the year 5138, in milliseconds 1973; each further unit begins a thousand times later.
MILLISECONDS_FROM = 10**11
_FINER_UNITS = ((10**17, 10**6), (10**14, 10**3))  # nanoseconds and microseconds: from where, and how many in one ms

_FRACTIONAL_SECONDS = re.compile(r"\d{1,10}\.\d{1,9}")
_AHEAD_MS = _DAY_MS
_KEPT = kept()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LONGEST_NUMBER = 19  # digits
_LARGEST_ID = 10**30


class Record(msgspec.Struct):
    """A call record as sent: numbers may be text, ids may be numbers, only ts, method and endpoint are required."""

    ts: Any = None
    method: Any = None
    endpoint: Any = None
    call_id: Any = None
    visitor_id: Any = None
    session_token: Any = None
    user_id: Any = None
    status: Any = None
    duration_ms: Any = None
    ip: Any = None
    user_agent: Any = None
    referrer: Any = None
    page_url: Any = None
    request: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")


class RejectedRecordError(ValueError):
    """A record cannot be stored: a short reason from a fixed list, and the exact detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class TimeRange(NamedTuple):
    """The times, in epoch ms, that a record received at some moment may have; `max_age_days=0` is any age."""

    earliest_ms: int
    latest_ms: int
    max_age_days: int


@dataclass(frozen=True)
class RecordLimits:
    """Which records are accepted, and how the shopper's address in them is kept; `max_age_days=0` accepts any age."""

    max_record_bytes: int = 1024 * 1024
    max_nesting: int = 64
    addresses: Addresses = _KEPT
    max_age_days: int = 0

    def times(self, received_at: datetime) -> TimeRange:
        """The times that a record received at this moment may have."""
        received_ms = epoch_ms(received_at)
        return TimeRange(max(self._oldest(received_ms), EARLIEST_MS), received_ms + _AHEAD_MS, self.max_age_days)

    def contain(self, ts_ms: Any, received_ms: Any) -> Any:
        """Whether times are accepted of records received at these moments; in epoch ms, as columns."""
        is_recent = (ts_ms >= EARLIEST_MS) & (ts_ms >= self._oldest(received_ms))
        return is_recent & (ts_ms <= received_ms + _AHEAD_MS)

    def _oldest(self, received_ms: Any) -> Any:
        """The earliest time by the age alone, of a moment in epoch ms or of a column of them."""
        return received_ms - self.max_age_days * _DAY_MS if self.max_age_days else EARLIEST_MS


@dataclass(frozen=True)
class Line:
    """One record's bytes and their position; `size` is the full size if the bytes were truncated."""

    position: int
    data: bytes
    size: int
    received_at: datetime | None = None  # if it differs from that of the other lines


_decoder = msgspec.json.Decoder(Record)
_raw_decoder = msgspec.json.Decoder(msgspec.Raw)


def epoch_ms(moment: datetime) -> int:
    """The moment in whole milliseconds since 1970."""
    return (moment - _EPOCH) // _MILLISECOND


def from_epoch_ms(moment_ms: int) -> datetime:
    """The moment, in UTC, of milliseconds since 1970."""
    return _EPOCH + moment_ms * _MILLISECOND


def read_line(line: Line, *, times: TimeRange, limits: RecordLimits) -> tuple[Any, ...]:
    """The values of a JSON record in the order of CONTENT_FIELDS, then its call_id; raises RejectedRecordError."""
    return row_of(_decode(line, limits), times, limits.addresses)


def require_size(line: Line, max_record_bytes: int) -> None:
    if line.size > max_record_bytes:
        settings = "CARAT_MAX_RECORD_BYTES, CARAT_COLLECT_MAX_RECORD_BYTES"
        detail = f"{line.size} bytes, the limit is {max_record_bytes} ({settings})"
        raise RejectedRecordError("too large", detail)


def _decode(line: Line, limits: RecordLimits) -> Record:
    require_size(line, limits.max_record_bytes)
    data = valid_text(line.data)  # the JSON decoder does not check the raw request and response
    try:
        record = _decoder.decode(data)
    except msgspec.ValidationError as error:
        reason = "not an object" if "Expected `object`" in str(error) else "number out of range"
        raise RejectedRecordError(reason, str(error)) from None
    except msgspec.DecodeError as error:
        raise RejectedRecordError("not JSON", str(error)) from None
    except RecursionError:
        raise RejectedRecordError("nested too deeply", "lists and objects are more than about 1000 deep") from None
    require_flat(data, limits.max_nesting, "")
    return record


def json_value(text: bytes, name: str, max_nesting: int) -> msgspec.Raw:
    """A field's own JSON text, held to the rules of a whole record."""
    text = valid_text(text)
    try:
        value = _raw_decoder.decode(text)
    except msgspec.DecodeError as error:
        raise RejectedRecordError("not JSON", f"{name}: {error}") from None
    except RecursionError:
        raise RejectedRecordError("nested too deeply", f"{name} is more than about 1000 deep") from None
    require_flat(text, max_nesting - 1, f" in {name}")  # the record itself is one level
    return value


def valid_text(data: bytes) -> bytes:
    """The JSON in UTF-8, with U+FFFD for each half of a surrogate pair; raises RejectedRecordError."""
    try:
        return with_whole_characters(as_utf8(data))
    except UnicodeDecodeError as error:
        raise RejectedRecordError("not UTF-8", f"byte {error.start}: {error.reason}") from None


def require_flat(data: bytes, max_nesting: int, place: str) -> None:
    if is_deeper(data, max_nesting):
        detail = f"lists and objects{place} are more than {max_nesting} deep (CARAT_MAX_NESTING)"
        raise RejectedRecordError("nested too deeply", detail)


def row_of(record: Record, times: TimeRange, addresses: Addresses) -> tuple[Any, ...]:
    """The record's values in the order of CONTENT_FIELDS, then its call_id."""
    ts_ms = _ts_ms(record.ts, times)
    texts = [text_of(getattr(record, name), name) for name in TEXT_FIELDS]
    visitor_id, session_token, user_id, method, endpoint, ip, user_agent, referrer, page_url = texts
    for name, value in zip(REQUIRED_FIELDS, (method, endpoint), strict=True):
        if not value:
            raise RejectedRecordError(f"no {name}", f"{name} is missing or empty")
    content = (
        ts_ms, visitor_id, session_token, user_id, method, endpoint,
        *(count_of(getattr(record, name), limit) for name, limit in COUNT_LIMITS.items()),
        addresses.treat(ip), user_agent, referrer, page_url, _json(record.request), _json(record.response),
    )  # fmt: skip
    return (*content, _call_id(record.call_id, content))


def _ts_ms(value: Any, times: TimeRange) -> int:
    if value is None or value == "":
        raise RejectedRecordError("no time", "ts is missing")
    ts_ms = moment_ms(value)
    if ts_ms is None:
        raise RejectedRecordError("no time", f"ts {_shown(value)} is neither an RFC 3339 time nor a Unix time")
    if ts_ms > times.latest_ms:
        raise RejectedRecordError(
            "in the future", f"ts {_shown(value)} is more than a day ahead of this machine's clock"
        )
    if ts_ms < EARLIEST_MS:
        raise RejectedRecordError("no time", f"ts {_shown(value)} is before 1970-01-03: the clock was never set")
    if ts_ms < times.earliest_ms:
        raise RejectedRecordError(
            "too old",
            f"ts {_shown(value)} is more than {times.max_age_days} days ago (CARAT_MAX_AGE_DAYS). To store such calls, "
            "raise the limit and run `carat ingest --rejects`",
        )
    return ts_ms


def moment_ms(value: Any) -> int | None:
    """The moment in epoch ms that a `ts` of any form means; None or RejectedRecordError if it means none."""
    if isinstance(value, datetime):
        return epoch_ms(value if value.tzinfo else value.replace(tzinfo=UTC))
    if isinstance(value, date):
        raise RejectedRecordError("no time", f"ts {value} is a day, not a moment")
    if isinstance(value, bytes):
        value = utf8(value)
    if isinstance(value, str) and _FRACTIONAL_SECONDS.fullmatch(value):
        value = float(value)
    if isinstance(value, Decimal) and value.is_finite():
        value = int(value) if value == value.to_integral_value() else float(value)
    ts_ms = _from_number(value)
    return _parse_time(value) if ts_ms is None and isinstance(value, str) else ts_ms


def _from_number(value: Any) -> int | None:
    """A Unix time in seconds, milli-, micro- or nanoseconds, told by its magnitude, as milliseconds."""
    if isinstance(value, float) and abs(value) < MILLISECONDS_FROM:
        return round(value * 1000)
    number = _whole(value)
    if number is None:
        return None
    for least, in_one_ms in _FINER_UNITS:
        if abs(number) >= least:
            return number // in_one_ms
    return number * 1000 if abs(number) < MILLISECONDS_FROM else number


def _whole(value: Any) -> int | None:
    """The value as a whole number if it is a number or digits; otherwise None."""
    if isinstance(value, str):
        digits = value.lstrip("0")
        if not (value.isascii() and value.isdigit()):
            return None
        return int(digits or "0") if len(digits) <= _LONGEST_NUMBER else 10**_LONGEST_NUMBER
    if isinstance(value, float | Decimal):
        return int(value) if math.isfinite(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # Python does not print numbers with thousands of digits
        return "of thousands of digits"


def _parse_time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.upper())  # RFC 3339 also allows t and z
    except ValueError:
        raise RejectedRecordError("no time", f"ts {_shown(text)} is not an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise RejectedRecordError("no time", f"ts {_shown(text)} has no offset from UTC, such as Z or +01:00")
    return epoch_ms(moment)


def text_of(value: Any, name: str) -> str:
    """The value of a field that holds text; RejectedRecordError if it is neither text nor an ordinary number."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = utf8(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal) and abs(value) < _LARGEST_ID:
        return f"{value:f}"
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_ID:
        return str(value)
    raise RejectedRecordError(f"bad {name}", f"{name} is {type(value).__name__} {_shown(value)}, not text")


def utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RejectedRecordError("not UTF-8", f"byte {error.start}: {error.reason}") from None


def count_of(value: Any, limit: int) -> int:
    """A whole number below the limit; 0 if the value is not a number, so that the call is kept."""
    return min(max(_whole(value) or 0, 0), limit - 1)


def _json(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode()
    return "" if text == "null" else text


def _call_id(value: Any, content: tuple[Any, ...]) -> bytes:
    if value is None or value == "":
        return content_digest(content)
    try:
        return uuid.UUID(bytes=value).bytes if isinstance(value, bytes) else uuid.UUID(str(value)).bytes
    except ValueError:
        raise RejectedRecordError("bad call_id", f"call_id {_shown(value)} is not a UUID") from None


def content_digest(content: Iterable[Any]) -> bytes:
    """A digest that identifies a record by its values, given in the order of CONTENT_FIELDS."""
    return text_digest(CONTENT_SEPARATOR.join(map(str, content)).encode())


def text_digest(text: bytes) -> bytes:
    """The digest of a content that is joined already."""
    return hashlib.md5(text, usedforsecurity=False).digest()
