"""HTTP as the collector speaks it: uvicorn's, with bounds on what an unhurried or hostile sender can hold up.

A request's head has to come in time and be of reasonable size, and only so many connections stay open. Those that wait
for a request make room for new ones, the longest waiting first, so that idle connections never shut anybody out.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.collector.metrics import Metrics
from app.settings import Settings

_MAX_HEAD_BYTES = 64 * 1024


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and what its connections share here."""

    def __init__(self, app: Any, settings: Settings, metrics: Metrics, *, stop_timeout_s: int) -> None:
        super().__init__(
            app,
            http=CollectorProtocol,
            ws="none",
            loop="uvloop",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=stop_timeout_s,
        )
        self.head_timeout_s = settings.collect_head_timeout_s
        self.idle_timeout_s = settings.collect_idle_timeout_s
        self.max_connections = settings.collect_max_connections
        self.metrics = metrics
        self.waiting: dict[CollectorProtocol, None] = {}  # connections without a request, the longest waiting first


class CollectorProtocol(HttpToolsProtocol):
    """One connection."""

    config: ServerConfig

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.timeout_keep_alive = cast("int", self.config.idle_timeout_s)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; where too many connections are open, in the place of another that waits."""
        super().connection_made(transport)
        self._set_deadline()
        waiting = self.config.waiting
        if len(self.connections) > self.config.max_connections:
            if waiting:
                next(iter(waiting)).give_way()
            else:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open", b"retry-after: 1\r\n")
                return
        waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, but never an endless head."""
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(HTTPStatus.BAD_REQUEST, "no other protocol is spoken here")
        except httptools.HttpParserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"this is no HTTP request: {error}")
        else:
            if self._is_in_head and self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")

    def on_message_begin(self) -> None:
        """A request begins: its head has to be whole in time."""
        super().on_message_begin()
        if not self._is_in_head:
            self._is_in_head = True
            self._head_bytes = 1  # at least
            self._set_deadline()

    def on_headers_complete(self) -> None:
        """The head is whole: what follows is the application's to bound."""
        self._is_in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The answer is sent: wait for the next request."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.config.waiting[self] = None

    def give_way(self) -> None:
        """End the connection for the sake of another."""
        self._stop_waiting()
        self.transport.close()

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.config.head_timeout_s, self._end_late)

    def _stop_waiting(self) -> None:
        self.config.waiting.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end_late(self) -> None:
        self._deadline = None
        if self.cycle and not self.cycle.response_complete:  # one request is being answered, the next began
            self._set_deadline()
        elif self._head_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the head of the request did not come in time")
        else:
            self.give_way()

    def _refuse(self, status: HTTPStatus, reason: str, header: bytes = b"") -> None:
        """End the connection with an answer; where a whole request waits for its own, after that."""
        self._stop_waiting()
        self.config.metrics.answered(status)
        is_answering = self.cycle and not self.cycle.response_complete
        if is_answering and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not is_answering or not self.cycle.response_started:
            content = msgspec.json.encode({"reason": reason})
            line = b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(content)
            self.transport.write(line + head + header + b"\r\n" + content)
        self.transport.close()
