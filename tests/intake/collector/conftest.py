"""One collector for the tests that only send to it: its limits are small, so that they are soon reached."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.collecting import Running, collecting_here

SMALL = {
    "collect_max_body_bytes": 200_000, "collect_max_decompressed_bytes": 400_000, "collect_max_records": 500,
    "collect_max_record_bytes": 50_000, "collect_max_held_bytes": 700_000, "collect_body_timeout_s": 0.5,
    "collect_head_timeout_s": 0.5, "collect_idle_timeout_s": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def collector(tmp_path_factory) -> Iterator[Running]:
    with collecting_here(tmp_path_factory.mktemp("collector"), **SMALL) as running:
        yield running


def call(**fields: Any) -> dict[str, Any]:
    return {"ts": "2026-03-01T10:00:00Z", "method": "GET", "endpoint": "/x", "visitor_id": "v", "status": 200, **fields}


def line(*, raw: bytes | None = None, **fields: Any) -> bytes:
    """A record's bytes; `raw` are further members, as they stand."""
    data = json.dumps(call(**fields)).encode()
    return data if raw is None else data[:-1] + b", " + raw + b"}"


def from_now(**ahead: float) -> str:
    return (datetime.now(tz=UTC) + timedelta(**ahead)).isoformat()


GOOD = line()
