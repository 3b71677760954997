"""Turns captured calls into call records: JSON lines without anything that must not leave the shop."""

import ipaddress
import json
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

from carat_client.bodies import TOO_LARGE, UnreadBodyError, read_body
from carat_client.captured import Body, Captured
from carat_client.cookies import read_cookies, read_set_cookies
from carat_client.forms import decode, read_query
from carat_client.gil_yield import GilYield
from carat_client.path_tokens import is_sign_in
from carat_client.paths import sent_path, shortened
from carat_client.redaction import Redactor
from carat_client.settings import ClientSettings, Cookie, EndpointFilter, Header, Source, header_names_in_environ

_LONGEST_TEXT = 4096
_LONGEST_ID = 256
_LARGEST_DURATION_MS = 2**32 - 1
_VERSION_4 = 4
_RECORD_TOO_LARGE = "in a record larger than max_record_bytes"
_HASH_RANGE = 2**64
_IDS = frozenset({"visitor_id", "session_token", "user_id"})
_COOKIE_IDS = frozenset({"visitor_id", "session_token"})
# What scripts and frameworks send if they have no id; sent on, these would merge all such shoppers into one.
_PLACEHOLDERS = frozenset({"", "0", "null", "undefined", "none", "nan", "guest", "anonymous", "[object object]"})
_NIL_UUID = "0" * 32


class RecordMaker:
    """Turns captured calls into lines. Used by the sender's thread only."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.unread_bodies: Counter[str] = Counter()  # by reason; the sender takes them out
        self._yield_gil = GilYield()
        self._redactor = Redactor(
            hash_key=settings.hash_key, allow=settings.allow, deny=settings.deny, yield_gil=self._yield_gil
        )
        self._bodiless = EndpointFilter(settings.bodiless_endpoints)
        self._sources = settings.sources()
        self._from_environ = header_names_in_environ(settings.read_headers())

    def line(self, call: Captured) -> bytes | None:
        """The call's record as JSON without a line break; None if the call is not in the sample."""
        self._yield_gil()
        headers = self._headers(call.headers)
        values = self._values(call, headers)
        ip = client_ip(call.peer, headers.get("x-forwarded-for", ""), trusted_proxies=self._settings.trusted_proxies)
        visitor = values["visitor_id"] or values["session_token"] or f"{ip} {headers.get('user-agent', '')}"
        if not is_in_sample(visitor, self._settings.sample):
            return None
        record = self._record(call, headers, values, ip)
        line = _dump(record)
        for name in ("response", "request"):
            if len(line) > self._settings.max_record_bytes:
                record[name] = {"_truncated": len(_dump(record[name]))}
                self.unread_bodies[_RECORD_TOO_LARGE] += 1
                line = _dump(record)
        return line

    def _record(self, call: Captured, headers: Mapping[str, str], values: Mapping[str, str], ip: str) -> dict[str, Any]:
        redactor = self._redactor
        is_bodiless = self._bodiless.matches(call.method, decode(call.path))
        request = None if is_bodiless else {"query": read_query(decode(call.query)), "body": self._body(call.request)}
        response = None if is_bodiless else self._body(call.response)
        path = call.path if isinstance(call.path, bytes) else call.path.encode("utf-8", "surrogateescape")
        endpoint = shortened(sent_path(call.target, path, call.mount), _LONGEST_TEXT)
        return {
            "ts": _started_at(call).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "call_id": str(uuid.UUID(bytes=call.call_id, version=_VERSION_4)),
            "method": redactor.text(call.method[:_LONGEST_ID]),
            "endpoint": redactor.url_field("endpoint", endpoint),
            "status": call.status,
            "duration_ms": min(max(round(call.duration_s * 1000), 0), _LARGEST_DURATION_MS),
            "visitor_id": redactor.identity("visitor_id", values["visitor_id"][:_LONGEST_ID]),
            "session_token": self._session_token(values["session_token"]),
            "user_id": redactor.identity("user_id", values["user_id"][:_LONGEST_ID]),
            "ip": redactor.field("ip", ip),
            "user_agent": redactor.field("user_agent", headers.get("user-agent", "")[:_LONGEST_TEXT]),
            "referrer": redactor.url_field("referrer", values["referrer"][:_LONGEST_TEXT]),
            "page_url": redactor.url_field("page_url", values["page_url"][:_LONGEST_TEXT]),
            "request": redactor.field("request", request, signs_in=is_sign_in(endpoint)),
            "response": redactor.field("response", response),
        }

    def _session_token(self, token: str) -> str | None:
        if not token:
            return None
        if not self._settings.hash_session_token:
            return self._redactor.identity("session_token", token[:_LONGEST_ID])
        return self._redactor.token("session_token", token)

    def _headers(self, headers: Mapping[bytes, bytes] | Mapping[str, str]) -> dict[str, str]:
        """Headers by lower-case name, for ASGI and WSGI alike."""
        found = {}
        for name, value in headers.items():
            known = name.decode("latin-1") if isinstance(name, bytes) else self._from_environ[name]
            found[known] = _header_text(value)
        return found

    def _values(self, call: Captured, headers: Mapping[str, str]) -> dict[str, str]:
        cookies = read_cookies(headers.get("cookie", ""))
        set_cookies: dict[str, str] = {}
        if call.set_cookies:
            set_cookies = read_set_cookies(map(_header_text, call.set_cookies), _started_at(call))

        def candidates(field: str, place: int, source: Source) -> tuple[str, ...]:
            if isinstance(source, Header):
                return (headers.get(source.name.lower(), ""),)
            if not isinstance(source, Cookie):
                return ((call.extracted or {}).get((field, place), ""),)
            sent = cookies.get(source.name, "")
            # The id that came with the request counts. A new one (rotated at login) begins with the next call: only
            # under the old id does the call that signs in connect the shopper's earlier calls to the user.
            return (sent, set_cookies.get(source.name, "")) if field in _COOKIE_IDS else (sent,)

        values = {}
        for field, sources in self._sources.items():
            found = (value for place, source in enumerate(sources) for value in candidates(field, place, source))
            is_value = _is_id if field in _IDS else bool
            values[field] = next(filter(is_value, found), "")
        return values

    def _body(self, body: Body | None) -> Any:
        """The body, parsed as JSON or a form, or a marker with its size if it is too large or cannot be read."""
        if body is None or not body.size:
            return None
        try:
            return read_body(body, self._settings.max_body_bytes)
        except UnreadBodyError as error:
            self.unread_bodies[error.reason] += 1
            return {"_truncated" if error.reason == TOO_LARGE else "_unreadable": body.size}


def client_ip(peer: str, forwarded: str, *, trusted_proxies: int) -> str:
    """The shopper's address as the outermost trusted proxy saw it, never as the shopper claims it."""
    if trusted_proxies and forwarded:
        chain = [*(_address(part) for part in forwarded.split(",")), peer]
        if found := chain[max(len(chain) - 1 - trusted_proxies, 0)]:
            return found
    return _address(peer) or ""


def is_in_sample(visitor: str, share: float) -> bool:
    """Whether a visitor's calls are sent. Always the same answer for the same visitor."""
    if share >= 1:
        return True
    digest = blake2b(visitor.encode("utf-8", "surrogatepass"), digest_size=8, person=b"carat sample").digest()
    return int.from_bytes(digest) < share * _HASH_RANGE


def _address(text: str) -> str | None:
    """The IP address without port, zone or brackets; None if the text is not an address."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        return str(ipaddress.ip_address(bare.partition("%")[0]))
    except ValueError:
        return None


def _is_id(value: str) -> bool:
    """Whether a value is an id, not a placeholder for a missing one."""
    plain = unquote(value).strip().strip("\"'").strip().lower()
    return plain not in _PLACEHOLDERS and plain.strip("{}").replace("-", "") != _NIL_UUID


def _started_at(call: Captured) -> datetime:
    return datetime.fromtimestamp(call.started_ns // 1_000_000 / 1000, tz=UTC)


def _header_text(value: bytes | str) -> str:
    return decode(value if isinstance(value, bytes) else value.encode("latin-1", "replace"))


def _dump(content: Any) -> bytes:
    # A lone surrogate, valid in JSON but not in UTF-8, becomes a question mark.
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
