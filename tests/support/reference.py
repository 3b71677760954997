"""The meanings of calls and sessions in plain Python, by the words of the rules: what builds are held against."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

Record = dict[str, object]
Visitor = tuple[str, ...]
_Key = TypeVar("_Key")

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
    calls = sorted(records, key=_order)
    owners = _owners(calls, zone, timeout_ms)
    found: list[list[Record]] = []
    for visitor, own in _grouped(calls, _visitor).items():
        kept = _of_visitor([call for call in own if _call_id(call) not in owners], zone, timeout_ms)
        found += _with_first_calls(
            list(kept), [c for c in calls if owners.get(_call_id(c)) == visitor], zone, timeout_ms
        )
    return sorted(_session(calls, zone) for calls in found)


def _session(calls: list[Record], zone: ZoneInfo) -> Session:
    users = [user for call in calls if (user := _id(call, "user_id"))]
    return Session(
        _day(calls[0], zone),
        _at(calls[0]),
        _at(calls[-1]),
        users[-1] if users else "",
        tuple(map(_call_id, calls)),
    )


def _with_first_calls(
    own: list[list[Record]], linked: list[Record], zone: ZoneInfo, timeout_ms: int
) -> Iterator[list[Record]]:
    """A visitor's sessions, joined with calls without an id that are the visitor's too, a day at a time."""
    by_day = _grouped(linked, lambda call: _day(call, zone))
    yield from (session for session in own if _day(session[0], zone) not in by_day)
    for day, calls in by_day.items():
        begun = [call for session in own if _day(session[0], zone) == day for call in session]
        yield from _stretches(sorted(begun + calls, key=_order), timeout_ms)


def _owners(calls: list[Record], zone: ZoneInfo, timeout_ms: int) -> dict[str, Visitor]:
    """By call the visitor whose it is, of calls without a visitor id that are another's than their ids say."""
    alone = {
        _call_id(call)
        for of_visitor in _grouped(calls, _visitor).values()
        for stretch in _stretches(of_visitor, timeout_ms)
        if _day(stretch[0], zone) != _day(stretch[-1], zone)
        for call in stretch
    }
    owners: dict[str, Visitor] = {}
    for of_day in _grouped(calls, lambda call: _day(call, zone)).values():
        owners |= _owners_of_day(of_day, timeout_ms)
    return {call: owner for call, owner in owners.items() if call not in alone}


def _owners_of_day(calls: list[Record], timeout_ms: int) -> dict[str, Visitor]:
    owner_of = _followed(calls, _owners_by_token(calls), timeout_ms)
    owners = {}
    for call in calls:
        visitor, found = _visitor(call), {owner_of[_visitor(call)]}
        if not visitor[0]:
            found = _followers(calls, _agent(call), _at(call), _at(call) + timeout_ms, owner_of)
        if not _id(call, "visitor_id") and len(found) == 1 and found != {visitor}:
            owners[_call_id(call)] = found.pop()
    return owners


def _owners_by_token(calls: list[Record]) -> dict[Visitor, Visitor]:
    """Per visitor who it is: of a token without a visitor id the one visitor id that carries it, else the same."""
    owner_of = {_visitor(call): _visitor(call) for call in calls}
    for token in {_id(call, "session_token") for call in calls} - {""}:
        named = _named_by(token, calls)
        if len(named) == 1 and (token,) in owner_of:
            owner_of[(token,)] = named.pop()
    return owner_of


def _named_by(token: str, calls: list[Record]) -> set[Visitor]:
    return {_visitor(call) for call in calls if _id(call, "visitor_id") and _id(call, "session_token") == token}


def _followed(calls: list[Record], owner_of: dict[Visitor, Visitor], timeout_ms: int) -> dict[Visitor, Visitor]:
    """The same, where whoever follows a token that no visitor id carries is the one with that token."""
    follower = {}
    for visitor, own in _grouped((call for call in calls if not _id(call, "visitor_id")), _visitor).items():
        agents = {_agent(call) for call in own if _at(call) == _at(own[-1])}
        if visitor[0] and len(agents) == 1 and not _named_by(visitor[0], calls):
            end = _at(own[-1])
            found = _followers(calls, agents.pop(), end + 1, end + timeout_ms, owner_of)
            follower |= {visitor: found.pop()} if len(found) == 1 else {}
    final = {}
    for visitor, owner in owner_of.items():
        final[visitor] = owner
        while final[visitor] in follower:
            final[visitor] = follower[final[visitor]]
    return final


def _followers(
    calls: list[Record], agent: tuple[str, str], first: int, last: int, owner_of: dict[Visitor, Visitor]
) -> set[Visitor]:
    """The visitors with an id or token whose first call with this ip and user agent is between these moments."""
    begun: dict[Visitor, int] = {}
    for call in calls:
        if all(agent) and _agent(call) == agent and _visitor(call)[0]:
            begun.setdefault(owner_of[_visitor(call)], _at(call))
    return {visitor for visitor, at in begun.items() if first <= at <= last}


def _stretches(calls: list[Record], timeout_ms: int) -> Iterator[list[Record]]:
    """The calls, in order, cut after each pause."""
    stretch: list[Record] = []
    for call in calls:
        if stretch and _at(call) - _at(stretch[-1]) > timeout_ms:
            yield stretch
            stretch = []
        stretch.append(call)
    if stretch:
        yield stretch


def _grouped(calls: Iterable[Record], key: Callable[[Record], _Key]) -> dict[_Key, list[Record]]:
    groups: dict[_Key, list[Record]] = {}
    for call in calls:
        groups.setdefault(key(call), []).append(call)
    return groups


def _order(record: Record) -> tuple[int, str]:
    return _at(record), _call_id(record)


def _at(record: Record) -> int:
    return int(str(record["ts"]))


def _call_id(record: Record) -> str:
    return str(record["call_id"])


def _visitor(record: Record) -> Visitor:
    key = _id(record, "visitor_id") or _id(record, "session_token")
    return (key,) if key else ("", *_agent(record))


def _agent(record: Record) -> tuple[str, str]:
    return str(record.get("ip") or ""), str(record.get("user_agent") or "")


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
    if session:
        yield session
