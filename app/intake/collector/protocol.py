"""uvicorn's HTTP protocol with limits against slow or hostile senders.

The head of a request must arrive in time and be of reasonable size, and the number of connections is limited. Idle
connections are closed in favor of new ones, longest idle first, so they never lock anybody out.

This subclasses uvicorn's httptools protocol and uses its internals, so pyproject.toml pins uvicorn to a minor version.
Check this file and run tests/intake/collector before raising the pin.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.intake.collector.asgi import ANSWERED
from app.intake.collector.metrics import Metrics
from app.settings import Settings

_MAX_HEAD_BYTES = 64 * 1024
_SEPARATORS_BYTES = 4  # a colon, a blank and a line break
_LAST_BODY_S = 5.0
_GONE = 499  # counted for requests whose sender disconnected before the answer


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and the state shared by its connections."""

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
        self.idle: dict[CollectorProtocol, None] = {}  # idle connections, longest idle first
        self.answered: dict[CollectorProtocol, None] = {}  # whose body is still to come


class _HeadBuffer(asyncio.Transport):
    """A transport that delays the head of an answer until its content, so that both are sent in one write."""

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
        """Send a head that no content follows."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class CollectorProtocol(HttpToolsProtocol):
    """One connection."""

    config: ServerConfig
    transport: _HeadBuffer

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.timeout_keep_alive = cast("int", self.config.idle_timeout_s)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = True
        self._is_head_too_large = False
        self._parsed_bytes = 0  # of the head
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request. If too many connections are open, replace an idle one."""
        super().connection_made(_HeadBuffer(transport))
        self._deadline = self.loop.call_later(self.config.head_timeout_s, self._end_late_head)
        idle, answered = self.config.idle, self.config.answered
        if len(self.connections) > self.config.max_connections:
            if answered or idle:
                next(iter(answered or idle)).give_way()
            else:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open", b"retry-after: 1\r\n")
                return
        idle[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after a closed connection."""
        self._leave_idle()
        if self.cycle and self.cycle.more_body and not self.cycle.response_started and not self._is_refused:
            self.config.metrics.count_answer(_GONE)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse more data, but not an endless head."""
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(HTTPStatus.BAD_REQUEST, "protocol upgrades are not supported")
        except httptools.HttpParserError as error:
            if self._is_head_too_large:
                self._refuse_head()
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, f"not a valid HTTP request: {error}")
        else:
            if not self._is_in_head:
                if self.cycle.more_body and not self._deadline:
                    self._deadline = self.loop.call_later(self.config.body_timeout_s, self._end_late_body)
            elif self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """A request begins: its head must be complete in time."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[ANSWERED] = self._note_answered
        self._parsed_bytes = 0
        if not self._is_in_head:
            self._is_in_head = True
            self._head_bytes = 1  # at least
            self._deadline = self.loop.call_later(self.config.head_timeout_s, self._end_late_head)

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._count_head(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count_head(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: the connection is no longer idle."""
        self._is_in_head = False
        self._leave_idle()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is complete."""
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent: wait for the next request."""
        self.config.answered.pop(self, None)
        self.transport.flush()
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.config.idle[self] = None

    def shutdown(self) -> None:
        """The server stops: accept nothing new, and wait only briefly for an incomplete body."""
        super().shutdown()
        if self.cycle and self.cycle.more_body and not self.cycle.response_complete:
            self._leave_idle()
            wait_s = min(self.config.body_timeout_s, _LAST_BODY_S)
            self._deadline = self.loop.call_later(wait_s, self._end_late_body)

    def give_way(self) -> None:
        """Close the connection in favor of another."""
        self._leave_idle()
        self.transport.close()

    def _count_head(self, *parts: bytes) -> None:
        """Stop the parser at a large head, of which the whole may have come in one piece."""
        self._parsed_bytes += sum(map(len, parts)) + _SEPARATORS_BYTES
        if self._parsed_bytes > _MAX_HEAD_BYTES:
            self._is_head_too_large = True
            raise ValueError

    def _note_answered(self) -> None:
        """The request is answered although its body is not there: a sender without a key could withhold it for long."""
        self.config.answered[self] = None

    def _leave_idle(self) -> None:
        self.config.idle.pop(self, None)
        self.config.answered.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end_late_head(self) -> None:
        self._deadline = None
        if self.cycle and not self.cycle.response_complete:  # the previous request is still being answered
            self._deadline = self.loop.call_later(self.config.head_timeout_s, self._end_late_head)
        elif self._head_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the head of the request did not arrive in time")
        else:
            self.give_way()

    def _end_late_body(self) -> None:
        self._deadline = None
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {self.config.body_timeout_s:g} s")

    def _refuse_head(self) -> None:
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")

    def _refuse(self, status: HTTPStatus, reason: str, header: bytes = b"") -> None:
        """Answer with an error and close the connection; a complete request in progress is answered first."""
        self._leave_idle()
        is_answering = self.cycle and not self.cycle.response_complete
        if is_answering and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not is_answering or not self.cycle.response_started:
            self.config.metrics.count_answer(status)
            self._is_refused = True
            content = msgspec.json.encode({"reason": reason})
            line = b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(content)
            self.transport.write(line + head + header + b"\r\n" + content)
        self.transport.close()
