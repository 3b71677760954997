"""Writes calls in the call record format, with the inconsistencies of real clients."""

from datetime import date
from functools import lru_cache
from random import Random
from typing import NamedTuple

import msgspec

from app.demo.chance import Weighted
from app.demo.plan import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

API = "/api/v1"

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_FAILURE_RATE = 0.0095
_NO_CALL_ID_RATE = 0.03
_NO_STATUS_RATE = 0.003

_encode = msgspec.json.Encoder().encode


class Call(NamedTuple):
    """One call: when it happened (epoch ms) and its record as one line of JSON."""

    ts_ms: int
    line: bytes


def error_response(code: str, message: str) -> bytes:
    """The body of the API's error responses."""
    return _encode({"error": {"code": code, "message": message}})


_FAILURES: Weighted[tuple[int, bytes]] = Weighted(
    (
        ((500, error_response("internal_error", "Something went wrong on our side.")), 30),
        ((502, error_response("bad_gateway", "The upstream service sent no valid answer.")), 14),
        ((504, error_response("upstream_timeout", "The upstream service took longer than 10 s.")), 16),
        ((429, error_response("too_many_requests", "Slow down, please. Retry after 20 s.")), 16),
        ((404, error_response("not_found", "There is nothing at this address.")), 14),
        ((401, error_response("token_expired", "The session token has expired.")), 10),
    ),
)


class RequestLog:
    """The calls of one client in one visit; its clock advances with every call and pause."""

    __slots__ = ("calls", "identity", "now_ms", "page_url", "referrer", "rng", "sends_epoch", "sends_nulls", "user_id")

    def __init__(
        self,
        rng: Random,
        starts_ms: int,
        identity: dict[str, str | None],
        *,
        sends_epoch: bool = False,
        sends_nulls: bool = False,
    ) -> None:
        self.rng = rng
        self.now_ms = starts_ms
        self.identity = identity
        self.sends_epoch = sends_epoch
        self.sends_nulls = sends_nulls
        self.user_id: str | None = None
        self.page_url: str | None = None
        self.referrer: str | None = None
        self.calls: list[Call] = []

    def send(
        self,
        method: str,
        endpoint: str,
        response: bytes | None,
        *,
        query: dict[str, object] | None = None,
        body: dict[str, object] | None = None,
        status: int = 200,
        typical_ms: int = 60,
    ) -> int:
        """Record one call and return its status, which is sometimes a random failure."""
        rng = self.rng
        luck = rng.random()
        if luck < _FAILURE_RATE and status < 400:
            status, response = _FAILURES.draw(rng)
        slowness = rng.random()
        duration_ms = int(typical_ms * (0.5 + slowness + 8 * slowness**12))
        if status == 504:
            duration_ms += 10 * SECOND_MS
        record: dict[str, object] = {
            "call_id": random_uuid(rng) if rng.random() >= _NO_CALL_ID_RATE else None,
            "ts": self.now_ms if self.sends_epoch else rfc3339(self.now_ms),
            "method": method,
            "endpoint": endpoint,
            **self.identity,
            "user_id": self.user_id,
            "page_url": self.page_url,
            "referrer": self.referrer,
            "request": self._request(query, body),
            "status": status if status >= 400 or luck < 1 - _NO_STATUS_RATE else None,
            "duration_ms": duration_ms,
            "response": None if response is None else msgspec.Raw(response),
        }
        if not self.sends_nulls:
            record = {field: value for field, value in record.items() if value is not None}
        self.calls.append(Call(self.now_ms, _encode(record)))
        # A page sends its calls in parallel: the next one may have the same millisecond.
        self.now_ms += int(rng.random() * 90)
        return status

    def _request(self, query: dict[str, object] | None, body: dict[str, object] | None) -> dict[str, object] | None:
        if self.sends_nulls or (query is not None and body is not None):
            return {"query": query, "body": body}
        if body is not None:
            return {"query": {}, "body": body}
        return None if query is None else {"query": query}


def random_uuid(rng: Random) -> str:
    """A version 4 UUID."""
    digits = f"{rng.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def rfc3339(moment_ms: int) -> str:
    """The moment with milliseconds, in UTC."""
    day, rest = divmod(moment_ms, DAY_MS)
    hour, rest = divmod(rest, HOUR_MS)
    minute, rest = divmod(rest, MINUTE_MS)
    second, millisecond = divmod(rest, SECOND_MS)
    return f"{_day_text(day)}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z"


@lru_cache(maxsize=256)
def _day_text(days_since_1970: int) -> str:
    return date.fromordinal(_EPOCH_ORDINAL + days_since_1970).isoformat()
