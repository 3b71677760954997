"""Reads request bodies within limits and sends answers, over ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple

from app.intake.collector.http_error import HTTPError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
ANSWERED = "carat.answered"  # in the scope: what to call once a request is answered before its body is complete
_MAX_DRAIN_BYTES = 64 * 1024**2
_DRAIN_S = 10.0


class DisconnectedError(Exception):
    """The sender disconnected before its request was complete; there is nobody to answer."""


class Answer(NamedTuple):
    """An answer to a request."""

    status: HTTPStatus
    content: bytes
    content_type: bytes = JSON
    headers: Headers = ()


class Body:
    """The body of an incoming request."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self._receive = receive
        self._length = int(headers.get(b"content-length", b"0"))
        self._is_complete = not self._length and b"transfer-encoding" not in headers

    @property
    def has_more(self) -> bool:
        """Whether part of it was not read yet."""
        return not self._is_complete

    async def read(self, *, limit: int, hold: Callable[[int], None]) -> bytes:
        """Read the whole body. `hold` is called with each chunk's size and may raise. The server limits the time."""
        if self._length > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while not self._is_complete:
            chunk = await self._next()
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            hold(len(chunk))
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drain(self) -> None:
        """Read and discard the rest, within limits: otherwise a client that still sends would not see the answer."""
        left = _MAX_DRAIN_BYTES
        with suppress(DisconnectedError, TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while left > 0 and not self._is_complete:
                    left -= len(await self._next())

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            raise DisconnectedError
        self._is_complete = not message["more_body"]
        chunk: bytes = message["body"]
        return chunk


async def send_answer(send: Send, answer: Answer, body: Body, *, on_incomplete: Callable[[], None]) -> None:
    """Send the answer. If part of the body was not read, drain it and close the connection."""
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.content)).encode()),
        *answer.headers,
    ]
    must_drain = body.has_more
    if must_drain:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": int(answer.status), "headers": headers})
    await send({"type": "http.response.body", "body": answer.content, "more_body": must_drain})
    if must_drain:
        on_incomplete()
        await body.drain()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _too_large(limit: int) -> HTTPError:
    return HTTPError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {limit} bytes (CARAT_COLLECT_MAX_BODY_BYTES): send smaller batches",
    )
