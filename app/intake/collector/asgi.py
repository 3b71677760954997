"""The two ends of a request as ASGI hands them over: its body, read within bounds, and its answer."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple

from app.intake.collector.refusal import RefusedRequestError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
_DRAINED_BYTES = 64 * 1024**2
_DRAIN_S = 10.0


class DisconnectedError(Exception):
    """The sender is gone before its request was whole: nobody waits for an answer."""


class Answer(NamedTuple):
    """An answer to a request."""

    status: HTTPStatus
    content: bytes
    content_type: bytes = JSON
    headers: Headers = ()


class Body:
    """The body of a request that comes in."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self._receive = receive
        self._length = int(headers.get(b"content-length", b"0"))
        self._is_whole = not self._length and b"transfer-encoding" not in headers

    @property
    def is_to_come(self) -> bool:
        """Whether some of it was not read."""
        return not self._is_whole

    async def read(self, *, limit: int, hold: Callable[[int], None]) -> bytes:
        """The whole body; `hold` is told of each piece and may refuse it. The server bounds how long it may take."""
        if self._length > limit:
            raise _too_large(limit)
        pieces: list[bytes] = []
        size = 0
        while not self._is_whole:
            piece = await self._next()
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            hold(len(piece))
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def drain(self) -> None:
        """Read on and forget it, within bounds: who still sends would not see the answer if this end closed now."""
        left = _DRAINED_BYTES
        with suppress(DisconnectedError, TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while left > 0 and not self._is_whole:
                    left -= len(await self._next())

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            raise DisconnectedError
        self._is_whole = not message["more_body"]
        piece: bytes = message["body"]
        return piece


async def send_answer(send: Send, answer: Answer, body: Body) -> None:
    """Send the answer; where some of the body is still to come, the connection ends with it."""
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.content)).encode()),
        *answer.headers,
    ]
    is_last = body.is_to_come
    if is_last:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": int(answer.status), "headers": headers})
    await send({"type": "http.response.body", "body": answer.content, "more_body": is_last})
    if is_last:
        await body.drain()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _too_large(limit: int) -> RefusedRequestError:
    return RefusedRequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {limit} bytes (CARAT_COLLECT_MAX_BODY_BYTES): send less at once",
    )
