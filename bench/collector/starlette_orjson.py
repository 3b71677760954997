"""A collector as it is usually written, with Starlette and orjson: checks the required fields and writes nothing."""

import hmac
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.collector.calls import KEY

_TEXTS = ("visitor_id", "session_token", "user_id", "ip", "user_agent", "referrer", "page_url")


async def collect(request: Request) -> Response:
    sent = request.headers.get("authorization", "")
    if not hmac.compare_digest(sent.encode(), f"Bearer {KEY}".encode()):
        return Response(orjson.dumps({"reason": "no write key"}), 401)
    calls = orjson.loads(await request.body())
    latest = datetime.now(tz=UTC) + timedelta(days=1)
    rejected = [
        {"index": index, "reason": reason} for index, call in enumerate(calls) if (reason := _why(call, latest))
    ]
    answer = {"accepted": len(calls) - len(rejected), "rejected": rejected}
    return Response(orjson.dumps(answer), media_type="application/json")


def _why(call: dict[str, Any], latest: datetime) -> str:
    try:
        if datetime.fromisoformat(call["ts"]) > latest:
            return "in the future"
    except (KeyError, ValueError):
        return "no time"
    if not call.get("method") or not call.get("endpoint"):
        return "no method or endpoint"
    return next((f"bad {name}" for name in _TEXTS if not isinstance(call.get(name), str | None)), "")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v1/calls", collect, methods=["POST"])])
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
