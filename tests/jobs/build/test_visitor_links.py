"""First calls without an id, as statements of a build read them: through many shards, by any map, leaving no table."""

import pytest

from app.jobs.build import visitor_links
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.verify import verify_days

pytestmark = pytest.mark.slow

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def call(at: str, number: int, **fields: str) -> dict:
    said = {"ip": f"192.0.2.{number}", "user_agent": FIREFOX, "status": 200}
    return {"ts": f"2026-03-06T{at}Z", "method": "GET", "endpoint": "/api/v1/catalog", **said, **fields}


def require_sessions(warehouse, settings, expected: list[tuple]) -> None:
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert not verify_days(warehouse, settings).differing
    found = warehouse.query("SELECT visitor_id, calls, device_type FROM dwh.sessions ORDER BY visitor_id").rows()
    assert [row[:2] for row in found] == expected
    assert {device for _, _, device in found} == {"desktop"}
    left = "SELECT name FROM system.tables WHERE database = 'etl' AND match(name, '^(staged|changed|unread)_')"
    assert warehouse.query(left).is_empty()


@pytest.mark.parametrize("tracking", ["demo", "woocommerce"], ids=["reads calls alone", "recalls"])
@pytest.mark.parametrize("written", [0, 2000])
def test_first_calls_find_their_visitors_in_any_shard(
    warehouse, settings, ingest_records, monkeypatch, tracking, written
):
    monkeypatch.setattr(visitor_links, "_WRITTEN_VISITORS", written)
    small = settings.model_copy(update={"shard_calls": 2, "tracking": settings.tracking.parent / f"{tracking}.toml"})
    numbers = range(10, 20)
    ingest_records(*(call("10:00:00", n) for n in numbers), *(call("10:01:00", n, visitor_id=f"v{n}") for n in numbers))
    require_sessions(warehouse, small, [(f"v{n}", 2) for n in numbers])
    ingest_records(*(call("10:00:30", n) for n in (12, 15)), call("10:00:40", 17, visitor_id="w"))
    warehouse.command("OPTIMIZE TABLE pd.api_calls FINAL")
    build_stale(warehouse, small, jobs=JOBS).require_done()
    assert not verify_days(warehouse, small).differing
    longer = warehouse.query("SELECT visitor_id FROM dwh.sessions WHERE calls = 3 ORDER BY visitor_id")
    assert longer.rows() == [("v12",), ("v15",)]
    assert warehouse.scalar("SELECT count() FROM dwh.sessions") == len(numbers) + 2


def test_calls_that_are_ignored_neither_link_nor_name(warehouse, settings, ingest_records):
    ingest_records(
        call("10:00:00", 1),
        call("10:00:01", 1, visitor_id="probe", method="OPTIONS"),
        call("10:01:00", 1, visitor_id="v"),
        call("11:00:00", 2, session_token="t"),
        call("11:00:01", 3, session_token="t", visitor_id="probe", method="HEAD"),
    )
    require_sessions(warehouse, settings, [("t", 1), ("v", 2)])
