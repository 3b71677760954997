"""The meanings of calls and sessions in plain Python, by the words of the rules: what builds are held against."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

Record = dict[str, object]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_IDS = {
    "", "0", "-1", "null", "undefined", "none", "nan", "guest", "anonymous", "[object object]",
    "00000000-0000-0000-0000-000000000000",
}  # fmt: skip
_CONTENT = (
    "ts", "visitor_id", "session_token", "user_id", "method", "endpoint", "status", "duration_ms", "ip", "user_agent",
    "referrer", "page_url", "request", "response",
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Session:
    """A session: its business day, its first and last call in epoch ms, who signed in last, its calls in order."""

    day: date
    started: int
    ended: int
    user_id: str
    call_ids: tuple[str, ...]


def stored(records: Iterable[Record]) -> list[Record]:
    """Each call once: of different records with one `call_id` the earlier, then that with the smaller hash."""
    first: dict[object, Record] = {}
    for record in sorted(records, key=lambda record: (record["ts"], content_hash(record))):
        first.setdefault(record["call_id"], record)
    return list(first.values())


def content_hash(record: Record) -> int:
    """The first 8 bytes, little endian, of the MD5 of everything a record says but its id."""
    text = "\x1f".join(_content(name, record.get(name)) for name in _CONTENT)
    return int.from_bytes(hashlib.md5(text.encode()).digest()[:8], "little")


def _content(name: str, value: object) -> str:
    if name in {"status", "duration_ms"}:
        return str(value or 0)
    if value is None:
        return ""
    return json.dumps(value) if name in {"request", "response"} else str(value)


def sessions(records: Iterable[Record], zone: ZoneInfo, timeout_ms: int) -> list[Session]:
    """Every session, oldest first, of calls that are all at hand."""
    ordered = sorted(records, key=lambda record: (_visitor(record), record["ts"], record["call_id"]))
    found = []
    for _, calls in groupby(ordered, key=_visitor):
        for session in _of_visitor(list(calls), zone, timeout_ms):
            users = [user for call in session if (user := _id(call, "user_id"))]
            found.append(
                Session(
                    _day(session[0], zone),
                    int(session[0]["ts"]),
                    int(session[-1]["ts"]),
                    users[-1] if users else "",
                    tuple(str(call["call_id"]) for call in session),
                )
            )
    return sorted(found)


def _visitor(record: Record) -> tuple[str, ...]:
    key = _id(record, "visitor_id") or _id(record, "session_token")
    return (key,) if key else ("", str(record.get("ip", "")), str(record.get("user_agent", "")))


def _id(record: Record, name: str) -> str:
    """The id that a record carries; empty where it carries none, or one that says that there is none."""
    value = str(record.get(name) or "")
    return "" if value.strip().lower() in _NO_IDS else value


def _day(record: Record, zone: ZoneInfo) -> date:
    return (_EPOCH + timedelta(milliseconds=int(record["ts"]))).astimezone(zone).date()


def _of_visitor(calls: list[Record], zone: ZoneInfo, timeout_ms: int) -> Iterator[list[Record]]:
    """One visitor's calls, cut after each pause, and at the midnight after a whole day without one."""
    paused = [i == 0 or int(call["ts"]) - int(calls[i - 1]["ts"]) > timeout_ms for i, call in enumerate(calls)]
    days = [_day(call, zone) for call in calls]
    days_with_pause = {day for day, has_paused in zip(days, paused, strict=True) if has_paused}
    session: list[Record] = []
    for i, call in enumerate(calls):
        is_after_midnight = i > 0 and days[i] != days[i - 1]
        if session and (paused[i] or (is_after_midnight and days[i - 1] not in days_with_pause)):
            yield session
            session = []
        session.append(call)
    yield session
