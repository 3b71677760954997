"""Turns captured calls into call records: JSON lines without anything that must not leave the shop."""

import ipaddress
import json
import uuid
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qsl

from carat_client.captured import Body, Captured
from carat_client.gil_yield import GilYield
from carat_client.redaction import Redactor
from carat_client.settings import ClientSettings, Cookie, EndpointFilter, Header, header_names_in_environ

_LONGEST_TEXT = 4096
_LONGEST_ID = 256
_MOST_QUERY_FIELDS = 1000
_LARGEST_DURATION_MS = 2**32 - 1
_VERSION_4 = 4
_GZIP_OR_ZLIB = 47  # zlib's window bits for detecting the format
_HASH_RANGE = 2**64


class RecordMaker:
    """Turns captured calls into lines. Used by the sender's thread only."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
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
        values = self._values(headers, call.extracted or {})
        ip = client_ip(call.peer, headers.get("x-forwarded-for", ""), trusted_proxies=self._settings.trusted_proxies)
        visitor = values["visitor_id"] or values["session_token"] or f"{ip} {headers.get('user-agent', '')}"
        if not is_in_sample(visitor, self._settings.sample):
            return None
        record = self._record(call, headers, values, ip)
        line = _dump(record)
        for name in ("response", "request"):
            if len(line) > self._settings.max_record_bytes:
                record[name] = {"_truncated": len(_dump(record[name]))}
                line = _dump(record)
        return line

    def _record(self, call: Captured, headers: Mapping[str, str], values: Mapping[str, str], ip: str) -> dict[str, Any]:
        redactor = self._redactor
        path = _decode(call.path)
        is_bodiless = self._bodiless.matches(call.method, path)
        request = None if is_bodiless else {"query": _query(_decode(call.query)), "body": self._body(call.request)}
        response = None if is_bodiless else self._body(call.response)
        moment = datetime.fromtimestamp(call.started_ns // 1_000_000 / 1000, tz=UTC)
        return {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "call_id": str(uuid.UUID(bytes=call.call_id, version=_VERSION_4)),
            "method": redactor.text(call.method[:_LONGEST_ID]),
            "endpoint": redactor.url_field("endpoint", path[:_LONGEST_TEXT].replace("?", "%3F").replace("#", "%23")),
            "status": call.status,
            "duration_ms": min(max(round(call.duration_s * 1000), 0), _LARGEST_DURATION_MS),
            "visitor_id": redactor.identity("visitor_id", values["visitor_id"][:_LONGEST_ID]),
            "session_token": self._session_token(values["session_token"]),
            "user_id": redactor.identity("user_id", values["user_id"][:_LONGEST_ID]),
            "ip": redactor.field("ip", ip),
            "user_agent": redactor.field("user_agent", headers.get("user-agent", "")[:_LONGEST_TEXT]),
            "referrer": redactor.url_field("referrer", values["referrer"][:_LONGEST_TEXT]),
            "page_url": redactor.url_field("page_url", values["page_url"][:_LONGEST_TEXT]),
            "request": redactor.field("request", request),
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
            found[known] = _decode(value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
        return found

    def _values(self, headers: Mapping[str, str], extracted: Mapping[tuple[str, int], str]) -> dict[str, str]:
        cookies: dict[str, str] | None = None
        values = {}
        for field, sources in self._sources.items():
            values[field] = ""
            for place, source in enumerate(sources):
                if isinstance(source, Header):
                    value = headers.get(source.name.lower(), "")
                elif isinstance(source, Cookie):
                    if cookies is None:
                        cookies = read_cookies(headers.get("cookie", ""))
                    value = cookies.get(source.name, "")
                else:
                    value = extracted.get((field, place), "")
                if value:
                    values[field] = value
                    break
        return values

    def _body(self, body: Body | None) -> Any:
        """The parsed JSON body, or a marker with its size if it is too large or not JSON."""
        if body is None or not body.size:
            return None
        if not body.is_whole:
            return {"_truncated": body.size}
        content = b"".join(body.chunks)
        encoding = body.encoding.decode("latin-1") if isinstance(body.encoding, bytes) else body.encoding
        try:
            match encoding.strip().lower():
                case "" | "identity":
                    plain: bytes | None = content
                case "gzip" | "deflate" | "x-gzip":
                    plain = _decompress(content, self._settings.max_body_bytes)
                case _:
                    return {"_unreadable": body.size}
            if plain is None:
                return {"_truncated": body.size}
            return json.loads(plain, parse_constant=lambda _: None)
        except (ValueError, RecursionError, zlib.error):
            return {"_unreadable": body.size}


def read_cookies(header: str) -> dict[str, str]:
    """Cookies by name. If a name occurs several times, the first (most specific) one counts."""
    cookies: dict[str, str] = {}
    for part in header.split(";"):
        name, mark, value = part.partition("=")
        if mark:
            cookies.setdefault(name.strip(), value.strip().strip('"'))
    return cookies


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


def _query(text: str) -> dict[str, Any]:
    """Names and values of a query string; a repeated name has a list of values."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_QUERY_FIELDS)
    except ValueError:
        return {"_truncated": len(text)}
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in found:
            found[name] = value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found


def _decode(value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _decompress(content: bytes, limit: int) -> bytes | None:
    """The decompressed content; None if it is longer than the limit."""
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    plain = decompressor.decompress(content, limit + 1)
    return plain if len(plain) <= limit and decompressor.eof else None


def _dump(content: Any) -> bytes:
    # A lone surrogate, valid in JSON but not in UTF-8, becomes a question mark.
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
