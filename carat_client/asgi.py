"""The middleware of ASGI: FastAPI, Starlette, Django and whatever else speaks it."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from carat_client.captured import Body, Captured, clock, is_json, new_call_id, now_ns
from carat_client.sender import CallSender

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_CLOSED_BY_CLIENT = 499
_FAILED = 500
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class CaratASGI:
    """Lets each message through as it is and notes what it says of the call; never raises what the app did not."""

    def __init__(self, app: Application, sender: CallSender) -> None:
        self._app = app
        self._sender = sender
        self._header_names = frozenset(name.encode("latin-1") for name in sender.settings.read_headers())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            run = self._lifespan if scope["type"] == "lifespan" else self._app
            await run(scope, receive, send)
            return
        sender = self._sender
        call = None
        try:
            if sender.wants(scope["method"], scope["path"]):
                call = _Call(sender, self._header_names, scope, receive, send)
        except Exception:  # noqa: BLE001  the shop's answer never depends on the capture
            sender.note_failure()
        if call is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, call.receive if call.reads_request else receive, call.send)
        except Exception:
            call.end(_FAILED)
            raise
        except BaseException:
            call.end(call.status or _CLOSED_BY_CLIENT)
            raise
        call.end(call.status or _FAILED)  # an app that answered nothing: its server says 500

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's lifespan, with a flush before its end is confirmed; atexit is too late for most ASGI servers.

        An app that knows no lifespan (Django) says so by raising at once; it gets an empty one.
        """
        was_asked = has_answered = False

        async def receive_first() -> Message:
            nonlocal was_asked
            was_asked = True
            return await receive()

        async def send_after_flush(message: Message) -> None:
            nonlocal has_answered
            has_answered = True
            if message["type"].startswith("lifespan.shutdown."):
                await self._flush()
            await send(message)

        try:
            await self._app(scope, receive_first, send_after_flush)
        except Exception:
            if was_asked or has_answered:
                raise
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await self._flush()
            await send({"type": "lifespan.shutdown.complete"})

    async def _flush(self) -> None:
        try:
            await asyncio.to_thread(self._sender.flush)
        except Exception:  # noqa: BLE001  trio has no such threads; nothing else runs at the end anyway
            self._sender.flush()


class _Call:
    """One call while it happens."""

    __slots__ = (
        "_clock", "_headers", "_is_over", "_method", "_path", "_receive", "_request", "_response", "_scope", "_send",
        "_sender", "_started_ns", "reads_request", "status",
    )  # fmt: skip

    def __init__(self, sender: CallSender, names: frozenset[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        self._started_ns = now_ns()
        self._clock = clock()
        self._sender = sender
        self._scope = scope
        self._method = method = scope["method"]
        self._path = scope["path"]  # as the client asked; the app may change both
        self._receive = receive
        self._send = send
        self._request: Body | None = None
        self._response: Body | None = None
        self._is_over = False
        self.status = 0
        headers: dict[bytes, bytes] = {}
        self._headers = headers
        for name, value in scope["headers"]:
            if name in names:
                headers[name] = value if name not in headers else headers[name] + _joint(name) + value
        self.reads_request = (
            method not in _WITHOUT_BODY
            and is_json(headers.get(b"content-type", b""))
            and sender.wants_bodies(method, self._path)
        )

    async def receive(self) -> Message:
        message = await self._receive()
        try:
            if message["type"] == "http.request" and (chunk := message.get("body")):
                if self._request is None:
                    encoding = self._headers.get(b"content-encoding", b"")
                    self._request = Body(self._sender.settings.max_body_bytes, encoding)
                self._request.add(chunk)
        except Exception:  # noqa: BLE001
            self._sender.note_failure()
        return message

    async def send(self, message: Message) -> None:
        await self._send(message)
        try:
            kind = message["type"]
            if kind == "http.response.body":
                if self._response is not None and (chunk := message.get("body")):
                    self._response.add(chunk)
                if not message.get("more_body"):
                    self.end(self.status)
            elif kind == "http.response.start":
                self.status = message["status"]
                self._response = self._begin_response(message.get("headers", ()))
        except Exception:  # noqa: BLE001
            self._sender.note_failure()

    def _begin_response(self, headers: Any) -> Body | None:
        content_type = encoding = b""
        for name, value in headers:
            if len(name) in {12, 16}:  # as long as the names below, which may be in any case
                lower = name.lower()
                if lower == b"content-type":
                    content_type = value
                elif lower == b"content-encoding":
                    encoding = value
        if not is_json(content_type) or not self._sender.wants_bodies(self._method, self._path):
            return None
        return Body(self._sender.settings.max_body_bytes, encoding)

    def end(self, status: int) -> None:
        """The call is over; only the first time counts."""
        if self._is_over:
            return
        self._is_over = True
        try:
            duration_s = clock() - self._clock
            scope, sender = self._scope, self._sender
            client = scope.get("client")
            sender.offer(
                Captured(
                    call_id=new_call_id(),
                    started_ns=self._started_ns,
                    duration_s=duration_s,
                    method=self._method,
                    path=self._path,
                    query=scope.get("query_string", b""),
                    peer=client[0] if client else "",
                    headers=self._headers,
                    extracted=sender.extract(scope),
                    status=status,
                    request=self._request,
                    response=self._response,
                )
            )
        except Exception:  # noqa: BLE001
            self._sender.note_failure()


def _joint(name: bytes) -> bytes:
    return b"; " if name == b"cookie" else b", "
