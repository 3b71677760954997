"""The collector as an ASGI application: `POST /v1/calls`, and what operates it: `/health`, `/ready`, `/metrics`."""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from app.intake.collector.asgi import Answer, Body, DisconnectedError, Receive, Send, send_answer
from app.intake.collector.intake import Intake
from app.intake.collector.metrics import CONTENT_TYPE, Metrics
from app.intake.collector.refusal import RefusedRequestError
from app.intake.spool import Spool, delivery_lag_s

_CALLS = "/v1/calls"
_METHODS = {_CALLS: ("POST",), "/health": ("GET", "HEAD"), "/ready": ("GET", "HEAD"), "/metrics": ("GET", "HEAD")}


class Application:
    """What one collector serves."""

    def __init__(
        self, intake: Intake, spool: Spool, folder: Path, metrics: Metrics, *, connections: Callable[[], int]
    ) -> None:
        self._intake = intake
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
        except RefusedRequestError as error:
            answer = Answer(error.status, msgspec.json.encode({"reason": error.reason}), headers=error.headers)
        except DisconnectedError:
            return
        self._metrics.answered(answer.status)
        await send_answer(send, answer, body)

    async def _answer(self, method: str, path: str, headers: Mapping[bytes, bytes], body: Body) -> Answer:
        methods = _METHODS.get(path)
        if methods is None:
            raise RefusedRequestError(HTTPStatus.NOT_FOUND, f"there is nothing here: calls go to POST {_CALLS}")
        if method not in methods:
            raise RefusedRequestError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{path} takes {' and '.join(methods)} only",
                headers=((b"allow", ", ".join(methods).encode()),),
            )
        match path:
            case "/health":
                return Answer(HTTPStatus.OK, b'{"status":"alive"}')
            case "/ready":
                if problem := self._problem():
                    raise RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, problem, retry_after_s=1)
                return Answer(HTTPStatus.OK, b'{"status":"ready"}')
            case "/metrics":
                return Answer(HTTPStatus.OK, await self._figures(), CONTENT_TYPE)
        return await self._intake.take(headers, body)

    def _problem(self) -> str | None:
        """Why calls would be refused now."""
        return "stopping" if self.is_stopping else self._intake.trouble or self._spool.refusal()

    async def _figures(self) -> bytes:
        lag_s = await asyncio.to_thread(delivery_lag_s, self._folder)
        return self._metrics.report(
            self._spool.stats(), lag_s=lag_s, connections=self._connections(), held_bytes=self._intake.held_bytes
        )
