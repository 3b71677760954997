"""Call records, checked one by one: what each means for `pd.api_calls`, or why it cannot be stored.

The collector, its loader and `carat ingest` judge by these rules alone, so what one of them takes the others take, too.
No frames here: the collector imports this, and stays small.
"""

import hashlib
import math
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from app.core import addresses
from app.core.addresses import Addresses

# Fields in the order in which they make up a record's content; `received_at` and `call_id` are not content.
CONTENT_FIELDS = (
    "ts", "visitor_id", "session_token", "user_id", "method", "endpoint", "status", "duration_ms", "ip", "user_agent",
    "referrer", "page_url", "request", "response",
)  # fmt: skip
CONTENT_SEPARATOR = "\x1f"
MAX_NESTING = 64  # where no setting says otherwise
EARLIEST_MS = 2 * 86_400_000  # before it, a business day somewhere or the day before it lies before 1970

_AHEAD = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LONGEST_NUMBER = 19  # digits
_LARGEST_ID = 10**30
_UINT16 = 2**16
_UINT32 = 2**32
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_REQUIRED = ("method", "endpoint")
_TEXTS = ("visitor_id", "session_token", "user_id", "method", "endpoint", "ip", "user_agent", "referrer", "page_url")


class Record(msgspec.Struct):
    """A call record as it may come: numbers as text, ids as numbers, anything but ts, method and endpoint missing."""

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
    """Why a record cannot be stored: a short reason of a closed list, and the exact detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Line:
    """One record's bytes and where they stood; `size` is larger than the bytes where these were cut."""

    position: int
    data: bytes
    size: int
    received_at: datetime | None = None  # where that was at another time than the others


_decoder = msgspec.json.Decoder(Record)
_KEPT = addresses.kept()


def epoch_ms(moment: datetime) -> int:
    """The moment in whole milliseconds since 1970."""
    return (moment - _EPOCH) // _MILLISECOND


def latest_ms(now: datetime) -> int:
    """The last moment, in epoch ms, that a record may carry when it is taken in at `now`."""
    return epoch_ms(now + _AHEAD)


def read_line(
    line: Line, *, latest_ms: int, max_bytes: int, max_nesting: int, ips: Addresses = _KEPT
) -> tuple[Any, ...]:
    """The values of a JSON record in the order of CONTENT_FIELDS, then its call_id; else RejectedRecordError."""
    return row_of(_decode(line, max_bytes, max_nesting), latest_ms, ips)


def require_size(line: Line, max_bytes: int) -> None:
    if line.size > max_bytes:
        detail = f"{line.size} bytes, the limit is {max_bytes} (CARAT_MAX_RECORD_BYTES, CARAT_COLLECT_MAX_RECORD_BYTES)"
        raise RejectedRecordError("too large", detail)


def _decode(line: Line, max_bytes: int, max_nesting: int) -> Record:
    require_size(line, max_bytes)
    utf8(line.data)  # the JSON decoder takes raw request and response as they are
    try:
        record = _decoder.decode(line.data)
    except msgspec.ValidationError as error:
        reason = "not an object" if "Expected `object`" in str(error) else "number out of range"
        raise RejectedRecordError(reason, str(error)) from None
    except msgspec.DecodeError as error:
        raise RejectedRecordError("not JSON", str(error)) from None
    except RecursionError:
        raise RejectedRecordError("nested too deeply", "lists and objects stand more than about 1000 deep") from None
    if is_deeper(line.data, max_nesting):
        detail = f"lists and objects stand more than {max_nesting} deep (CARAT_MAX_NESTING)"
        raise RejectedRecordError("nested too deeply", detail)
    return record


def is_deeper(data: bytes, limit: int) -> bool:
    """Whether lists and objects of this JSON stand in one another more than `limit` deep."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    brackets = _STRING.sub(b"", data).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(limit):  # each time the innermost are taken away
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def row_of(record: Record, latest_ms: int, ips: Addresses) -> tuple[Any, ...]:
    """The record's values in the order of CONTENT_FIELDS, then its call_id."""
    ts = _epoch_ms(record.ts, latest_ms)
    texts = [_text(getattr(record, name), name) for name in _TEXTS]
    visitor_id, session_token, user_id, method, endpoint, ip, user_agent, referrer, page_url = texts
    endpoint = endpoint.partition("?")[0]
    for name, value in zip(_REQUIRED, (method, endpoint), strict=True):
        if not value:
            raise RejectedRecordError(f"no {name}", f"{name} is missing or empty")
    content = (
        ts, visitor_id, session_token, user_id, method, endpoint,
        _count(record.status, _UINT16), _count(record.duration_ms, _UINT32), ips.treat(ip), user_agent,
        referrer, page_url, _json(record.request), _json(record.response),
    )  # fmt: skip
    return (*content, _call_id(record.call_id, content))


def _epoch_ms(value: Any, latest_ms: int) -> int:
    if value is None or value == "":
        raise RejectedRecordError("no time", "ts is missing")
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        epoch_ms: int | None = (moment - _EPOCH) // _MILLISECOND
    else:
        epoch_ms = _whole(value)
        if epoch_ms is None and isinstance(value, str):
            epoch_ms = _parse_time(value)
    if epoch_ms is None:
        raise RejectedRecordError("no time", f"ts {_shown(value)} is neither an RFC 3339 time nor epoch milliseconds")
    if epoch_ms > latest_ms:
        raise RejectedRecordError(
            "in the future", f"ts {_shown(value)} is more than a day ahead of this machine's clock"
        )
    if epoch_ms < EARLIEST_MS:
        raise RejectedRecordError("no time", f"ts {_shown(value)} lies before 1970-01-03: a clock that was never set")
    return epoch_ms


def _whole(value: Any) -> int | None:
    """A number, or one written as text, as a whole number; None for anything else."""
    if isinstance(value, str):
        digits = value.lstrip("0")
        if not (value.isascii() and value.isdigit()):
            return None
        return int(digits or "0") if len(digits) <= _LONGEST_NUMBER else 10**_LONGEST_NUMBER
    if isinstance(value, float):
        return int(value) if math.isfinite(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # Python refuses to write out numbers of thousands of digits
        return "of thousands of digits"


def _parse_time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.upper())  # RFC 3339 allows t and z as well
    except ValueError:
        raise RejectedRecordError("no time", f"ts {_shown(text)} is not an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise RejectedRecordError("no time", f"ts {_shown(text)} has no offset from UTC, such as Z or +01:00")
    return (moment - _EPOCH) // _MILLISECOND


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = utf8(value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_ID:
        return str(value)
    raise RejectedRecordError(f"bad {name}", f"{name} is {type(value).__name__} {_shown(value)}, not text")


def utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RejectedRecordError("not UTF-8", f"byte {error.start}: {error.reason}") from None


def _count(value: Any, limit: int) -> int:
    """A whole number below the limit, 0 where there is none: what is no number costs the number, not the call."""
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
    """What identifies a record of these values, in the order of CONTENT_FIELDS."""
    text = CONTENT_SEPARATOR.join(map(str, content)).encode()
    return hashlib.md5(text, usedforsecurity=False).digest()
