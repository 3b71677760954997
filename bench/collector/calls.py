"""The requests to send: call records of about 1 KB from the demo shop's catalog, encoded in advance."""

import json
import random
import uuid
from datetime import UTC, datetime, timedelta

KEY = "bench-key-of-thirty-two-letters."
_BODIES = 24
_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"


def requests(batch: int, *, seed: int = 7) -> list[bytes]:
    """Complete HTTP requests, each with a JSON array of `batch` calls."""
    chance = random.Random(seed)
    return [_request([_call(chance) for _ in range(batch)]) for _ in range(_BODIES)]


def _request(calls: list[dict[str, object]]) -> bytes:
    body = json.dumps(calls, separators=(",", ":")).encode()
    head = (
        "POST /v1/calls HTTP/1.1\r\nHost: collector\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _call(chance: random.Random) -> dict[str, object]:
    at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(milliseconds=chance.randrange(86_400_000))
    return {
        "ts": at.isoformat(timespec="milliseconds"),
        "method": "GET",
        "endpoint": "/api/v1/catalog",
        "call_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "visitor_id": chance.randbytes(16).hex(),
        "session_token": chance.randbytes(16).hex(),
        "user_id": None,
        "status": 200,
        "duration_ms": chance.randrange(5, 400),
        "ip": f"203.0.113.{chance.randrange(255)}",
        "user_agent": _AGENT,
        "referrer": "https://www.example.com/",
        "page_url": f"https://shop.example/rings?utm_source=mail&utm_campaign={chance.randrange(100)}",
        "request": {"query": {"q": "gold ring", "section": ["rings"], "page": chance.randrange(1, 9)}, "body": None},
        "response": {"total": 240, "items": [{"id": chance.randrange(1_000_000)} for _ in range(24)]},
    }
