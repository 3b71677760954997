"""The collector as an ASGI application: `POST /v1/calls`, `/health`, `/ready` and `/metrics`.

It is bare ASGI: Starlette costs 50 to 65 microseconds a request, a quarter of what a small batch takes.
"""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from app.intake.collector.asgi import ANSWERED, Answer, Body, DisconnectedError, Receive, Send, send_answer
from app.intake.collector.http_error import HTTPError
from app.intake.collector.metrics import CONTENT_TYPE, Metrics
from app.intake.collector.receiving import Receiver
from app.intake.spool import Spool, delivery_lag_s

_CALLS = "/v1/calls"
_METHODS = {_CALLS: ("POST",), "/health": ("GET", "HEAD"), "/ready": ("GET", "HEAD"), "/metrics": ("GET", "HEAD")}


class Application:
    """The routes of one collector."""

    def __init__(
        self, receiver: Receiver, spool: Spool, folder: Path, metrics: Metrics, *, connections: Callable[[], int]
    ) -> None:
        self._receiver = receiver
        self._spool = spool
        self._folder = folder
        self._metrics = metrics
        self._connections = connections
        self.is_stopping = False

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = dict(scope["headers"])
        body = Body(receive, headers)
        try:
            answer = await self._answer(scope["method"], scope["path"], headers, body)
        except HTTPError as error:
            answer = Answer(error.status, msgspec.json.encode({"reason": error.reason}), headers=error.headers)
        except DisconnectedError:
            return
        self._metrics.count_answer(answer.status)
        await send_answer(send, answer, body, on_incomplete=scope.get(ANSWERED, lambda: None))

    async def _answer(self, method: str, path: str, headers: Mapping[bytes, bytes], body: Body) -> Answer:
        methods = _METHODS.get(path)
        if methods is None:
            raise HTTPError(HTTPStatus.NOT_FOUND, f"no such path: send calls to POST {_CALLS}")
        if method not in methods:
            raise HTTPError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{path} accepts only {' and '.join(methods)}",
                headers=((b"allow", ", ".join(methods).encode()),),
            )
        match path:
            case "/health":
                return Answer(HTTPStatus.OK, b'{"status":"alive"}')
            case "/ready":
                if problem := self._problem():
                    raise HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, problem, retry_after_s=1)
                return Answer(HTTPStatus.OK, b'{"status":"ready"}')
            case "/metrics":
                return Answer(HTTPStatus.OK, await self._metrics_page(), CONTENT_TYPE)
        return await self._receiver.receive(headers, body)

    def _problem(self) -> str | None:
        """Why calls cannot be accepted now; None if they can."""
        return "stopping" if self.is_stopping else self._receiver.disk_problem or self._spool.problem()

    async def _metrics_page(self) -> bytes:
        lag_s = await asyncio.to_thread(delivery_lag_s, self._folder)
        return self._metrics.report(
            self._spool.stats(), lag_s=lag_s, connections=self._connections(), held_bytes=self._receiver.held_bytes
        )
