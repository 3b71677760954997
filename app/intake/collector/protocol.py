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

from app.intake.collector.metrics import Metrics
from app.settings import Settings

_MAX_HEAD_BYTES = 64 * 1024
_LAST_BODY_S = 5.0
_GONE = 499  # what a request is counted as whose sender did not wait for an answer


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
        self.body_timeout_s = settings.collect_body_timeout_s
        self.idle_timeout_s = settings.collect_idle_timeout_s
        self.max_connections = settings.collect_max_connections
        self.metrics = metrics
        self.waiting: dict[CollectorProtocol, None] = {}  # connections without a request, the longest waiting first


class _Joining(asyncio.Transport):
    """A transport that keeps the head of an answer back until its content comes, so that both go at once."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head = b""
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._head and data[:9] == b"HTTP/1.1 " and data[-4:] == b"\r\n\r\n" and data[9:12] != b"100":
            self._head = bytes(data)
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Send a head that nothing follows."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class CollectorProtocol(HttpToolsProtocol):
    """One connection."""

    config: ServerConfig
    transport: _Joining

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.timeout_keep_alive = cast("int", self.config.idle_timeout_s)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = True
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; where too many connections are open, in the place of another that waits."""
        super().connection_made(_Joining(transport))
        self._deadline = self.loop.call_later(self.config.head_timeout_s, self._end_late_head)
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
        if self.cycle and self.cycle.more_body and not self.cycle.response_started and not self._is_refused:
            self.config.metrics.answered(_GONE)
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
            if not self._is_in_head:
                if self.cycle.more_body and not self._deadline:
                    self._deadline = self.loop.call_later(self.config.body_timeout_s, self._end_late_body)
            elif self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")

    def on_message_begin(self) -> None:
        """A request begins: its head has to be whole in time."""
        super().on_message_begin()
        if not self._is_in_head:
            self._is_in_head = True
            self._head_bytes = 1  # at least
            self._deadline = self.loop.call_later(self.config.head_timeout_s, self._end_late_head)

    def on_headers_complete(self) -> None:
        """The head is whole: the request is no longer one that is waited for."""
        self._is_in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole, too."""
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent: wait for the next request."""
        self.transport.flush()
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.config.waiting[self] = None

    def shutdown(self) -> None:
        """The server stops: nothing new, and no long wait for a body that is still on its way."""
        super().shutdown()
        if self.cycle and self.cycle.more_body and not self.cycle.response_complete:
            self._stop_waiting()
            wait_s = min(self.config.body_timeout_s, _LAST_BODY_S)
            self._deadline = self.loop.call_later(wait_s, self._end_late_body)

    def give_way(self) -> None:
        """End the connection for the sake of another."""
        self._stop_waiting()
        self.transport.close()

    def _stop_waiting(self) -> None:
        self.config.waiting.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end_late_head(self) -> None:
        self._deadline = None
        if self.cycle and not self.cycle.response_complete:  # one request is being answered, the next began
            self._deadline = self.loop.call_later(self.config.head_timeout_s, self._end_late_head)
        elif self._head_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the head of the request did not come in time")
        else:
            self.give_way()

    def _end_late_body(self) -> None:
        self._deadline = None
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {self.config.body_timeout_s:g} s")

    def _refuse(self, status: HTTPStatus, reason: str, header: bytes = b"") -> None:
        """End the connection with an answer; where a whole request waits for its own, after that."""
        self._stop_waiting()
        is_answering = self.cycle and not self.cycle.response_complete
        if is_answering and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not is_answering or not self.cycle.response_started:
            self.config.metrics.answered(status)
            self._is_refused = True
            content = msgspec.json.encode({"reason": reason})
            line = b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(content)
            self.transport.write(line + head + header + b"\r\n" + content)
        self.transport.close()
