"""The ASGI middleware: for FastAPI, Starlette, Django and any other ASGI framework."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from carat_client.call import Call
from carat_client.captured import Body
from carat_client.sender import CallSender

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_CLOSED_BY_CLIENT = 499
_FAILED = 500


class CaratASGI:
    """Passes every message on unchanged and captures the call. Raises only what the app raises."""

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
            if sender.should_capture(scope["method"], scope["path"]):
                call = _Call(sender, self._header_names, scope, receive, send)
        except Exception:  # noqa: BLE001  the shop's answer never depends on the capture
            sender.note_failure()
        if call is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, call.receive if call.captures_request else receive, call.send)
        except Exception:
            call.end(_FAILED)
            raise
        except BaseException:
            call.end(call.status or _CLOSED_BY_CLIENT)
            raise
        call.end(call.status or _FAILED)  # the app sent no response: its server answers 500

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app's lifespan and flush before confirming its end: for most ASGI servers, atexit is too late.

        An app without lifespan support (Django) raises immediately; the middleware then answers in its place.
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
        except Exception:  # noqa: BLE001  trio has no asyncio threads; at the end nothing else runs, so blocking is fine
            self._sender.flush()


class _Call(Call):
    """A call of ASGI: passes its messages on and takes notes."""

    __slots__ = ("_mount", "_receive", "_scope", "_send", "_target", "captures_request")

    def __init__(self, sender: CallSender, names: frozenset[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(sender, scope["method"], scope["path"])  # as the client asked; the app may change both
        self._target = scope.get("raw_path") or b""
        self._mount = (scope.get("root_path") or "").encode("utf-8", "surrogateescape")
        self._scope = scope
        self._receive = receive
        self._send = send
        headers: dict[bytes, bytes] = {}
        self._headers = headers
        for name, value in scope["headers"]:
            if name in names:
                headers[name] = value if name not in headers else headers[name] + _separator(name) + value
        self.captures_request = self._has_captured_request(headers.get(b"content-type", b""))

    async def receive(self) -> Message:
        message = await self._receive()
        try:
            if message["type"] == "http.request" and (chunk := message.get("body")):
                if self._request is None:
                    headers = self._headers
                    self._request = Body(
                        self._sender.settings.max_body_bytes,
                        headers.get(b"content-encoding", b""),
                        headers.get(b"content-type", b""),
                    )
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
                self._read_response_headers(message.get("headers", ()))
        except Exception:  # noqa: BLE001
            self._sender.note_failure()

    def _request_line(self) -> tuple[str | bytes, bytes, bytes, str | bytes, str, Any]:
        scope = self._scope
        client = scope.get("client")
        peer = client[0] if client else ""
        return self._path, self._target, self._mount, scope.get("query_string", b""), peer, scope


def _separator(name: bytes) -> bytes:
    return b"; " if name == b"cookie" else b", "
