"""What the request path keeps of a call: references and bytes only. Everything else is made of it in the background."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

_OVERHEAD_BYTES = 1024  # of a call in the queue, besides what it holds
_STREAMS = ("ndjson", "jsonl", "json-seq", "stream")


@lru_cache(maxsize=256)
def is_json(content_type: bytes | str) -> bool:
    """Whether a body is one JSON document: not a stream of them, not text, not a file."""
    text = content_type.decode("latin-1") if isinstance(content_type, bytes) else content_type
    kind = text.partition(";")[0].strip().lower()
    return "json" in kind and not any(stream in kind for stream in _STREAMS)


class Body:
    """A body in the making, up to a limit; beyond it only its size is known."""

    __slots__ = ("_limit", "chunks", "encoding", "size")

    def __init__(self, limit: int, encoding: bytes | str = "") -> None:
        self._limit = limit
        self.chunks: list[bytes] = []
        self.encoding = encoding
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size <= self._limit:
            self.chunks.append(bytes(chunk))  # of bytes no copy is made
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
    """A call, as its server told of it. `headers` are those that the settings name, under the server's names."""

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

    def held_bytes(self) -> int:
        """About how much memory it takes."""
        held = _OVERHEAD_BYTES + len(self.path) + len(self.query)
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
    """The bytes of a random UUID: made here, so that a batch that is sent twice is stored once."""
    return os.urandom(16)
