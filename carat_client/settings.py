"""Settings of the middleware: where calls are sent, and what is captured."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any
from urllib.parse import urlsplit

_LONGEST_MATCHED_PATH = 2048
_VALUES = ("visitor_id", "session_token", "user_id", "page_url", "referrer")
_ID_VALUES = ("visitor_id", "session_token")
_WILDCARDS = frozenset("*?[")
_MACHINE_ENDPOINTS = (
    "OPTIONS *",
    "HEAD *",
    *(
        f"{prefix}/{name}"
        for prefix in ("", "/api", "/api/v1", "/api/v2")
        for name in ("health", "healthz", "healthcheck", "health-check", "livez", "readyz", "ping")
    ),
    *("/health/live", "/health/ready", "/actuator/health", "/_health", "/-/health", "/up"),
)
_ALWAYS_READ = ("content-type", "content-encoding", "user-agent", "x-forwarded-for")


@dataclass(frozen=True)
class Cookie:
    """A cookie of the request, by name."""

    name: str


@dataclass(frozen=True)
class Header:
    """A header of the request, by name."""

    name: str


# A callable gets ASGI's scope or WSGI's environ after the response was sent, in the shop's own thread: keep it fast.
Extractor = Callable[[Any], str | None]
Source = Cookie | Header | Extractor
Sources = Source | tuple[Source, ...] | None  # the first source that gives a value is used


@dataclass(frozen=True)
class ClientSettings:
    """What a shop can configure. Only `url` and `write_key` are required; an empty url disables the middleware."""

    url: str
    """URL of the collector, such as `https://collector.example`."""
    write_key: str = field(repr=False)
    hash_key: str = field(default="", repr=False)
    """Key for hashing e-mail addresses; without a key they are replaced with `[email]`."""

    endpoints: tuple[str, ...] = ("*",)
    """Patterns of the calls to capture, such as `/api/*` or `POST /api/*`."""
    ignored_endpoints: tuple[str, ...] = ()
    """Patterns of calls that are not captured."""
    machine_endpoints: tuple[str, ...] = _MACHINE_ENDPOINTS
    """Patterns of calls that no shopper makes: preflights, HEAD requests and health checks. They are not captured."""
    bodiless_endpoints: tuple[str, ...] = ()
    """Patterns of calls that are captured without query, request body and response body."""
    sample: float = 1.0
    """Share of visitors whose calls are sent, from 0 to 1. A visitor is sent completely or not at all."""

    visitor_id: Sources = (Cookie("visitor_id"), Header("x-visitor-id"))
    session_token: Sources = (Cookie("session_token"), Header("x-session-token"))
    user_id: Sources = Header("x-user-id")
    page_url: Sources = (Header("x-page-url"), Header("referer"))
    """For a call made by a page's script, `Referer` is the page."""
    referrer: Sources = Header("x-referrer")
    """Where the shopper came from. Only the page knows (`document.referrer`), so its script must send it."""
    trusted_proxies: int = 0
    """Number of the shop's proxies that append to `X-Forwarded-For`; 0 uses the peer's address."""

    allow: tuple[str, ...] = ()
    """Names or dotted paths (`order_id`, `response.items.id`) of values that are sent without redaction."""
    deny: tuple[str, ...] = ()
    """Names or dotted paths of values that are never sent. Takes precedence over `allow`."""
    hash_session_token: bool = True
    """Whether to hash the session token, which is a credential of the shop."""

    max_body_bytes: int = 100_000
    """A larger request or response body is replaced with its size."""
    max_record_bytes: int = 256 * 1024
    max_queued_calls: int = 10_000
    max_queued_bytes: int = 32 * 1024 * 1024
    batch_calls: int = 500
    batch_bytes: int = 1024 * 1024
    flush_interval_s: float = 1.0
    flush_timeout_s: float = 5.0
    """How long the process waits for queued calls when it exits."""
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 60.0
    ca_file: str | None = None
    """CA certificates to trust instead of the system's."""

    def __post_init__(self) -> None:
        if self.url:
            self._require_collector()
        if not 0 <= self.sample <= 1:
            raise ValueError(f"sample: {self.sample} is not between 0 and 1")
        for name in ("endpoints", "ignored_endpoints", "machine_endpoints", "bodiless_endpoints", "allow", "deny"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: must be a tuple of strings: ({getattr(self, name)!r},)")  # noqa: TRY004
        for name in ("trusted_proxies", "flush_interval_s", "flush_timeout_s", "max_body_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative")
        for name in ("batch_calls", "batch_bytes", "max_queued_calls", "connect_timeout_s", "read_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be more than 0")

    def _require_collector(self) -> None:
        if "@" in self.url:
            raise ValueError("url: must not contain a user or password; the collector's key is write_key")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"url: {self.url!r} is not an address such as https://collector.example")
        if not self.write_key.strip() or not self.write_key.isascii() or not self.write_key.strip().isprintable():
            raise ValueError("write_key: is missing or contains invalid characters")

    @property
    def is_on(self) -> bool:
        return bool(self.url)

    def sources(self) -> dict[str, tuple[Source, ...]]:
        """The sources of each value, in the order in which they are tried."""
        return {name: _as_tuple(getattr(self, name)) for name in _VALUES}

    def id_cookies(self) -> frozenset[str]:
        """Names of the cookies that identify the visitor or the session."""
        many = (source for name in _ID_VALUES for source in _as_tuple(getattr(self, name)))
        return frozenset(source.name for source in many if isinstance(source, Cookie))

    def read_headers(self) -> frozenset[str]:
        """Lower-case names of the request headers that are read; all others are ignored."""
        named = {
            source.name.lower() for many in self.sources().values() for source in many if isinstance(source, Header)
        }
        return frozenset(named | {"cookie"} | set(_ALWAYS_READ))

    def extractors(self) -> dict[tuple[str, int], Extractor]:
        """The callables among the sources, by value name and position."""
        return {
            (name, place): source
            for name, many in self.sources().items()
            for place, source in enumerate(many)
            if not isinstance(source, Cookie | Header)
        }


class EndpointFilter:
    """Matches calls against patterns such as `/api/*` or, with a method, `POST /api/orders`."""

    def __init__(self, patterns: Iterable[str]) -> None:
        pairs = [_method_and_path(pattern) for pattern in patterns]
        self._takes_all = ("*", "*") in pairs
        # Most patterns are a method or a path: looking these up is faster than a regular expression.
        self._methods = frozenset(method for method, path in pairs if path == "*" and not _WILDCARDS & set(method))
        self._paths = frozenset(path for method, path in pairs if method == "*" and not _WILDCARDS & set(path))
        # fnmatch's expressions match in linear time, however many stars they have.
        others = [f"{m} {p}" for m, p in pairs if not (p == "*" and m in self._methods) and p not in self._paths]
        self._pattern = re.compile("|".join(map(translate, others))) if others and not self._takes_all else None

    def matches(self, method: str, path: str) -> bool:
        if self._takes_all or method in self._methods or path in self._paths:
            return True
        return self._pattern is not None and bool(self._pattern.match(f"{method} {path[:_LONGEST_MATCHED_PATH]}"))


def header_names_in_environ(names: Iterable[str]) -> Mapping[str, str]:
    """Header names by their WSGI spelling: `HTTP_X_PAGE_URL` for `x-page-url`."""
    bare = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
    return {bare.get(name, "HTTP_" + name.upper().replace("-", "_")): name for name in names}


def _method_and_path(pattern: str) -> tuple[str, str]:
    method, blank, path = pattern.partition(" ")
    return (method, path) if blank else ("*", pattern)


def _as_tuple(sources: Sources) -> tuple[Source, ...]:
    if sources is None:
        return ()
    return sources if isinstance(sources, tuple) else (sources,)
