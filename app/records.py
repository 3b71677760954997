"""Call records: JSON lines or rows of Parquet, checked one by one, as a frame ready for `pd.api_calls`.

A record that cannot be stored never fails its neighbours: it comes back as a reject with its reason and its bytes.
"""

import hashlib
import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from app import addresses
from app.addresses import Addresses
from app.contracts import API_CALLS, CONTENT_FIELDS, CONTENT_SEPARATOR, REJECTS

KEPT_REJECT_BYTES = 64 * 1024 * 1024
_AHEAD = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_EARLIEST_MS = 2 * 86_400_000  # before it, a business day somewhere or the day before it lies before 1970
_LONGEST_NUMBER = 19  # digits
_LARGEST_ID = 10**30
_UINT16 = 2**16
_UINT32 = 2**32
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


@dataclass(frozen=True)
class UnreadableRow:
    """A row of Parquet that Python has no values for: the row as an Arrow stream, and why."""

    data: bytes
    problem: str


@dataclass(frozen=True)
class Batch:
    """What became of some lines: `calls` in the shape of `pd.api_calls`, `rejects` in that of `etl.rejects`."""

    calls: pl.DataFrame
    rejects: pl.DataFrame


_decoder = msgspec.json.Decoder(Record)
_KEPT = addresses.kept()


def read_lines(
    lines: Sequence[Line], *, source: str, now: datetime, max_record_bytes: int, ips: Addresses = _KEPT
) -> Batch:
    """The calls and rejects of JSON lines. `now` bounds how far ahead a call may be, and is when they were received."""
    rows: list[tuple[Any, ...]] = []
    rejects = []
    latest_ms = (now + _AHEAD - _EPOCH) // _MILLISECOND
    for line in lines:
        try:
            rows.append(_row(_decode(line, max_record_bytes), latest_ms, ips))
        except RejectedRecordError as error:
            rejects.append(reject(_without_address(line, ips), error, source=source, now=now))
    return Batch(_calls(rows, now), reject_frame(rejects))


def read_rows(
    rows: Sequence[dict[str, Any] | UnreadableRow],
    *,
    first_position: int,
    source: str,
    now: datetime,
    max_record_bytes: int,
    ips: Addresses = _KEPT,
) -> Batch:
    """The calls and rejects of rows that are records already, as Parquet holds them; JSON is text in them."""
    calls = []
    rejects = []
    latest_ms = (now + _AHEAD - _EPOCH) // _MILLISECOND
    for position, row in enumerate(rows, start=first_position):
        data = row.data if isinstance(row, UnreadableRow) else msgspec.json.encode(row, enc_hook=str)
        line = Line(position, data, len(data))
        try:
            if isinstance(row, UnreadableRow):
                raise RejectedRecordError("unreadable row", row.problem)  # noqa: TRY301
            _require_size(line, max_record_bytes)
            calls.append(_row(_record(row), latest_ms, ips))
        except RejectedRecordError as error:
            rejects.append(reject(_without_address(line, ips), error, source=source, now=now))
    return Batch(_calls(calls, now), reject_frame(rejects))


def _record(row: dict[str, Any]) -> Record:
    fields = {name: value for name, value in row.items() if name in Record.__struct_fields__ and value is not None}
    return Record(**fields | {name: _raw(fields.get(name)) for name in ("request", "response")})


def _require_size(line: Line, max_record_bytes: int) -> None:
    if line.size > max_record_bytes:
        detail = f"{line.size} bytes, the limit is {max_record_bytes} (CARAT_MAX_RECORD_BYTES)"
        raise RejectedRecordError("too large", detail)


def _raw(value: Any) -> msgspec.Raw:
    if value is None:
        return msgspec.Raw(b"")
    if isinstance(value, str | bytes):
        return msgspec.Raw(value.encode() if isinstance(value, str) else _utf8(value).encode())
    return msgspec.Raw(msgspec.json.encode(value, enc_hook=str))


def _decode(line: Line, max_record_bytes: int) -> Record:
    _require_size(line, max_record_bytes)
    _utf8(line.data)  # the JSON decoder takes raw request and response as they are
    try:
        return _decoder.decode(line.data)
    except msgspec.ValidationError as error:
        raise RejectedRecordError("not an object", str(error)) from None
    except msgspec.DecodeError as error:
        raise RejectedRecordError("not JSON", str(error)) from None
    except RecursionError:
        raise RejectedRecordError("nested too deeply", "lists and objects stand more than about 1000 deep") from None


def _without_address(line: Line, ips: Addresses) -> Line:
    return Line(line.position, ips.in_bytes(line.data), line.size)


def _row(record: Record, latest_ms: int, ips: Addresses) -> tuple[Any, ...]:
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
    if epoch_ms < _EARLIEST_MS:
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
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RejectedRecordError("no time", f"ts {_shown(text)} is not an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise RejectedRecordError("no time", f"ts {_shown(text)} has no offset from UTC, such as Z or +01:00")
    return (moment - _EPOCH) // _MILLISECOND


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = _utf8(value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_ID:
        return str(value)
    raise RejectedRecordError(f"bad {name}", f"{name} is {type(value).__name__} {_shown(value)}, not text")


def _utf8(data: bytes) -> str:
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
        return _content_digest(content)
    try:
        return uuid.UUID(bytes=value).bytes if isinstance(value, bytes) else uuid.UUID(str(value)).bytes
    except ValueError:
        raise RejectedRecordError("bad call_id", f"call_id {_shown(value)} is not a UUID") from None


def _content_digest(content: Iterable[Any]) -> bytes:
    text = CONTENT_SEPARATOR.join(map(str, content)).encode()
    return hashlib.md5(text, usedforsecurity=False).digest()


def content_hashes(calls: pl.DataFrame) -> pl.Series:
    """The `content_hash` that `pd.api_calls` computes for these calls."""
    columns = [pl.col("ts").dt.epoch("ms"), *(name for name in CONTENT_FIELDS if name != "ts")]
    digests = (_content_digest(row) for row in calls.select(columns).iter_rows())
    return pl.Series("content_hash", [int.from_bytes(digest[:8], "little") for digest in digests], dtype=pl.UInt64)


def _calls(rows: Sequence[tuple[Any, ...]], now: datetime) -> pl.DataFrame:
    if not rows:
        return pl.DataFrame(schema=API_CALLS.schema)
    columns = dict(zip((*CONTENT_FIELDS, "call_id"), zip(*rows, strict=True), strict=True))
    ts = pl.Series("ts", columns.pop("ts"), dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    schema = {name: API_CALLS.schema[name] for name in columns}
    received_at = pl.lit(now).cast(pl.Datetime("ms", "UTC"))
    return (
        pl.DataFrame(columns, schema=schema).with_columns(ts, received_at=received_at).select(API_CALLS.schema.names())
    )


def reject(line: Line, error: RejectedRecordError, *, source: str, now: datetime) -> tuple[Any, ...]:
    """A row of `etl.rejects`. Its id makes a second run of the same source add nothing."""
    record = line.data[:KEPT_REJECT_BYTES]
    digest = hashlib.md5(f"{source}\0{line.position}\0{error.reason}\0".encode(), usedforsecurity=False)
    digest.update(record)
    return (now, source, line.position, error.reason, error.detail, line.size, record, digest.hexdigest())


def reject_frame(rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """Rows made by `reject`, in the shape of `etl.rejects`."""
    return pl.DataFrame(rows, schema=REJECTS.schema, orient="row")
