"""User agents are read once a run, remembered between runs, and mean the same without memory."""

from datetime import date

import polars as pl
import pytest

import app.jobs.build.user_agents as user_agents_module
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.build.ledger import StaleDay
from app.jobs.verify import verify_days

embedded = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)
pytestmark = pytest.mark.slow
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.3 Mobile/15E148 Safari/604.1"


def call(second: int, user_agent: str = "", *, visitor: str = "v", day: int = 1, **fields) -> dict:
    return {
        "ts": f"2026-03-{day:02}T10:{second // 60:02}:{second % 60:02}Z", "method": "GET", "endpoint": "/api/v1/cart",
        "visitor_id": visitor, "user_agent": user_agent, **fields,
    }  # fmt: skip


@pytest.fixture
def readings(monkeypatch) -> list[list[str]]:
    """What was read, one list a reading that read any."""
    read: list[list[str]] = []
    original = user_agents_module.read_user_agents

    def counting(agents: pl.Series, rules) -> pl.DataFrame:
        if len(agents):
            read.append(sorted(agents))
        return original(agents, rules)

    monkeypatch.setattr(user_agents_module, "read_user_agents", counting)
    return read


def sessions(warehouse) -> list[tuple]:
    columns = "visitor_id, is_bot, bot_reason, device_type, os, browser"
    return warehouse.query(f"SELECT {columns} FROM dwh.sessions ORDER BY session_date, visitor_id").rows()


def test_each_is_read_once_and_remembered_and_the_same_without_memory(warehouse, settings, ingest_records, readings):
    ingest_records(call(0, PHONE), call(1, "curl/8", visitor="w"), call(0, PHONE, day=2))
    build_stale(warehouse, settings, jobs=JOBS)
    assert sorted(agent for reading in readings for agent in reading) == sorted([PHONE, "curl/8"])
    expected = sessions(warehouse)
    assert expected == [
        ("v", False, "", "mobile", "iOS", "Safari"),
        ("w", True, "user agent: http library", "bot", "", ""),
        ("v", False, "", "mobile", "iOS", "Safari"),
    ]

    readings.clear()
    ingest_records(call(5, "Wget/1", visitor="x"))
    build_stale(warehouse, settings, jobs=JOBS, force=True)
    assert readings == [["Wget/1"]]

    readings.clear()
    warehouse.command("TRUNCATE TABLE etl.user_agents")
    build_stale(warehouse, settings, jobs=JOBS, force=True)
    assert {agent for reading in readings for agent in reading} == {PHONE, "curl/8", "Wget/1"}
    assert [row for row in sessions(warehouse) if row[0] != "x"] == expected


@embedded
def test_verify_does_not_believe_what_was_remembered(warehouse, settings, ingest_records):
    ingest_records(call(0, PHONE))
    build_stale(warehouse, settings, jobs=JOBS)
    warehouse.command(
        "INSERT INTO etl.user_agents SELECT user_agent, rules, 'tv', '', '', '', 'made up', now64() FROM etl.user_agents"
    )
    assert verify_days(warehouse, settings).differing == []
    warehouse.command("TRUNCATE TABLE etl.user_agents")
    warehouse.command(
        "INSERT INTO etl.user_agents SELECT '"
        + PHONE
        + "', session_rules, 'tv', '', '', '', 'x', now64() FROM etl.ledger LIMIT 1"
    )
    assert verify_days(warehouse, settings).differing == []


@embedded
def test_what_other_rules_read_is_forgotten_and_no_more_is_kept_than_fits(
    warehouse, settings, ingest_records, readings, monkeypatch
):
    monkeypatch.setattr(user_agents_module, "_MOST_KEPT", 5)
    ingest_records(*(call(n, f"Thing/{n}", visitor=f"v{n}") for n in range(4)))
    build_stale(warehouse, settings, jobs=JOBS)
    assert warehouse.scalar("SELECT count() FROM etl.user_agents") == 4
    ingest_records(*(call(n, f"Other/{n}", visitor=f"w{n}") for n in range(8)))
    build_stale(warehouse, settings, jobs=JOBS)
    assert warehouse.scalar("SELECT count() FROM etl.user_agents") == 5
    assert warehouse.scalar("SELECT count() FROM dwh.sessions WHERE device_type = ''") == 0
    assert verify_days(warehouse, settings).differing == []


@embedded
def test_a_pace_that_is_no_persons_is_told_with_its_reason(warehouse, settings, ingest_records):
    slow = settings.model_copy(update={"max_calls_per_minute": 5})
    ingest_records(
        *(call(n, PHONE, visitor="fast") for n in range(6)), *(call(13 * n, PHONE, visitor="calm") for n in range(6))
    )
    build_stale(warehouse, slow, jobs=JOBS)
    assert sessions(warehouse) == [
        ("calm", False, "", "mobile", "iOS", "Safari"),
        ("fast", True, "more than 5 calls a minute", "mobile", "iOS", "Safari"),
    ]


@embedded
def test_a_change_of_rules_makes_days_stale_but_not_their_events(warehouse, settings, ingest_records, tmp_path):
    ingest_records(call(0, PHONE, page_url="https://shop.example/?utm_source=flyer&utm_medium=qr"))
    build_stale(warehouse, settings, jobs=JOBS)
    assert plan_days(warehouse, settings, jobs=JOBS) == []
    own = tmp_path / "channels.toml"
    own.write_text('extends = true\n[[channel]]\nname = "Flyers"\n[[channel.when]]\nsource = ["flyer"]\n')
    changed = settings.model_copy(update={"channels": own})
    others = ("order_calls", "sessions", "catalog_sessions", "product_sessions")
    expected = [StaleDay(date(2026, 3, 1), others, ("rules for devices, bots, channels or countries changed",))]
    assert plan_days(warehouse, changed, jobs=JOBS) == expected
    for other in ({"max_calls_per_minute": 7}, {"own_hosts": "shop.example"}):
        assert plan_days(warehouse, settings.model_copy(update=other), jobs=JOBS) == expected
    build_stale(warehouse, changed, jobs=JOBS)
    assert warehouse.scalar("SELECT channel FROM dwh.sessions") == "Flyers"
    assert plan_days(warehouse, changed, jobs=JOBS) == []
    assert verify_days(warehouse, changed).differing == []


@embedded
def test_many_days_at_once_read_each_user_agent_once(warehouse, settings, ingest_records, readings):
    ingest_records(*(call(0, PHONE, day=day) for day in range(1, 7)))
    build_stale(warehouse, settings.model_copy(update={"days_at_once": 4}), jobs=JOBS)
    assert readings == [[PHONE]]
