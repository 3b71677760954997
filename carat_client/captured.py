"""What the request path keeps of a call: only references and bytes. The background thread does the rest."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from carat_client.forms import MULTIPART, URLENCODED, media_type

_OVERHEAD_BYTES = 1024  # per queued call, in addition to its contents
_STREAMS = ("ndjson", "jsonl", "json-seq", "stream")
_FORMS = frozenset({URLENCODED, MULTIPART})


@lru_cache(maxsize=256)
def is_json(content_type: bytes | str) -> bool:
    """Whether a body is a single JSON document, not a stream of documents, text or a file."""
    kind = media_type(content_type)
    return "json" in kind and not any(stream in kind for stream in _STREAMS)


@lru_cache(maxsize=256)
def is_form(content_type: bytes | str) -> bool:
    """Whether a body is an HTML form."""
    return media_type(content_type) in _FORMS


class Body:
    """Collects a body up to a limit; of a larger one, only the size is kept."""

    __slots__ = ("_limit", "chunks", "content_type", "encoding", "size")

    def __init__(self, limit: int, encoding: bytes | str = "", content_type: bytes | str = "") -> None:
        self._limit = limit
        self.chunks: list[bytes] = []
        self.encoding = encoding
        self.content_type = content_type
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size <= self._limit:
            self.chunks.append(bytes(chunk))  # does not copy bytes
        elif self.chunks:
            self.chunks.clear()

    @property
    def is_whole(self) -> bool:
        return self.size <= self._limit

    @property
    def held_bytes(self) -> int:
        return self.size if self.chunks else 0


@dataclass(slots=True)
class Captured:
    """A finished call. `headers` holds those that the settings name, under the server's spelling.

    `path` is decoded, as the app sees it; `target` and `mount` are what `sent_path` needs in addition.
    """

    call_id: bytes
    started_ns: int
    duration_s: float
    method: str
    path: str | bytes
    query: str | bytes
    peer: str
    headers: dict[bytes, bytes] | dict[str, str]
    extracted: dict[tuple[str, int], str] | None
    status: int
    request: Body | None
    response: Body | None
    target: bytes = b""
    mount: bytes = b""
    set_cookies: tuple[bytes | str, ...] = ()

    def held_bytes(self) -> int:
        """Estimate the memory that the call takes."""
        held = _OVERHEAD_BYTES + len(self.path) + len(self.target) + len(self.query)
        for header in self.set_cookies:
            held += len(header)
        for value in self.headers.values():
            held += len(value)
        if self.request is not None:
            held += self.request.held_bytes
        if self.response is not None:
            held += self.response.held_bytes
        return held


now_ns = time.time_ns
clock: Callable[[], float] = time.perf_counter


def new_call_id() -> bytes:
    """Random bytes for a UUID, made on capture so that a batch that is sent twice is stored once."""
    return os.urandom(16)
