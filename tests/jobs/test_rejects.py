"""Rejected records are read again: what is valid now is stored, once, and leaves `etl.rejects`."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.core.errors import SourceError
from app.jobs.ingest import ingest_paths
from app.jobs.raw_calls import LoadResult
from app.jobs.rejects import replay_rejects

NOW = datetime(2026, 6, 1, tzinfo=UTC)
BEHIND = NOW - timedelta(days=90)  # a clock that is three months behind
TEXT = "ring \\ud83d"


def record(number: int, ts: object = "2026-05-31T10:00:00.123Z", **fields: object) -> dict:
    return {"ts": ts, "method": "GET", "endpoint": f"/{number}", "visitor_id": "v", **fields}


@pytest.fixture
def rejected(warehouse, settings, tmp_path):
    """Ingests records under other settings, or at another time, and returns what became of them."""

    def run(*records: dict | bytes, now: datetime = NOW, **changed: object) -> LoadResult:
        path = tmp_path / "calls.ndjson"
        path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in records))
        return ingest_paths(warehouse, settings.model_copy(update=changed), [str(path)], now=now)

    return run


@pytest.fixture
def replay(warehouse, settings):
    def run(**options: object) -> LoadResult:
        changed = options.pop("changed", {})
        return replay_rejects(warehouse, settings.model_copy(update=changed), **({"now": NOW} | options))

    return run


def stored(warehouse) -> list[str]:
    return sorted(warehouse.query("SELECT endpoint FROM pd.api_calls", schema={"endpoint": pl.String()})["endpoint"])


def reasons(warehouse) -> list[str]:
    return sorted(warehouse.query("SELECT reason FROM etl.rejects", schema={"reason": pl.String()})["reason"])


def contents(warehouse) -> pl.DataFrame:
    return warehouse.query("SELECT * EXCEPT (received_at) FROM pd.api_calls ORDER BY call_id")


def test_calls_that_came_while_the_clock_was_behind_are_stored_after_it_was_corrected(warehouse, rejected, replay):
    assert rejected(record(1), record(2), now=BEHIND).rejected == {"in the future": 2}
    assert replay(now=BEHIND).rejected == {"in the future": 2}
    assert reasons(warehouse) == ["in the future"] * 2
    assert (replay().stored, stored(warehouse), reasons(warehouse)) == (2, ["/1", "/2"], [])
    assert replay() == LoadResult()


def test_old_calls_are_stored_after_the_limit_was_raised(warehouse, rejected, replay):
    old, older = record(1, "2025-04-20T00:00:00Z"), record(2, "2008-04-01T00:00:00Z")
    totals = rejected(old, older, record(3), max_age_days=400)
    assert (totals.stored, totals.rejected, totals.failures) == (1, {"too old": 2}, [])
    assert replay(changed={"max_age_days": 500}).stored == 1
    assert (stored(warehouse), reasons(warehouse)) == (["/1", "/3"], ["too old"])
    assert replay(changed={"max_age_days": 0}).stored == 1
    assert reasons(warehouse) == []


def test_large_and_deep_records_are_stored_after_the_limits_were_raised(warehouse, rejected, replay):
    deep, large = record(1, response=[[[[1]]]]), record(2, response="x" * 3000)
    assert rejected(deep, large, max_nesting=3, max_record_bytes=2000).rejects == 2
    assert replay().stored == 2
    assert stored(warehouse) == ["/1", "/2"]


def test_what_is_invalid_stays_as_it_is(warehouse, rejected, replay):
    rejected(b"no JSON", record(1), record(2, "soon"), record(3), now=BEHIND)
    before = warehouse.query("SELECT * FROM etl.rejects WHERE reason != 'in the future' ORDER BY reject_id")
    totals = replay()
    assert (totals.stored, totals.rejected) == (2, {"no time": 1, "not JSON": 1})
    assert warehouse.query("SELECT * FROM etl.rejects ORDER BY reject_id").equals(before)


def test_a_call_that_is_stored_already_leaves_the_rejects(warehouse, rejected, replay):
    rejected(record(1), now=BEHIND)
    rejected(record(1))
    totals = replay()
    assert (totals.stored, totals.duplicates, reasons(warehouse)) == (0, 1, [])


def test_a_call_id_that_another_record_has_taken_stays_a_reject_under_that_reason(warehouse, rejected, replay):
    same = "00000000-0000-0000-0000-000000000001"
    rejected(record(1, call_id=same), now=BEHIND)
    rejected(record(2, "2026-05-30T10:00:00Z", call_id=same))
    assert replay().rejected == {"call_id taken": 1}
    assert (stored(warehouse), reasons(warehouse)) == (["/2"], ["call_id taken"])
    assert replay() == LoadResult()


def test_only_what_was_rejected_since_a_time_is_read(warehouse, rejected, replay):
    rejected(record(1), now=BEHIND)
    rejected(record(2), now=BEHIND + timedelta(days=1))
    assert replay(since=BEHIND + timedelta(hours=1)).stored == 1
    assert stored(warehouse) == ["/2"]


def test_a_rejected_record_is_stored_as_if_it_had_never_been_rejected(warehouse, rejected, replay):
    odd = record(1, user_id=TEXT, response={"title": TEXT, "n": 1.10}, ip="10.1.2.3")
    raw = json.dumps(odd).encode().replace(b"\\\\ud83d", b"\\ud83d") + b" \r"
    rejected(raw, now=NOW)
    expected = contents(warehouse)
    warehouse.command("TRUNCATE TABLE pd.api_calls")
    rejected(raw, now=BEHIND)
    replay()
    assert contents(warehouse).equals(expected)


def test_a_rejected_row_of_parquet_is_stored_as_if_it_had_never_been_rejected(warehouse, settings, tmp_path, replay):
    path = tmp_path / "calls.parquet"
    columns = {
        "ts": pa.array([Decimal("1780221600.123"), Decimal("1780221601.5")], pa.decimal128(20, 3)),
        "method": ["GET", "GET"], "endpoint": ["/1", "/2"], "status": pa.array([200, 404], pa.int16()),
        "response": ['{"a": [1.10]}', "[2]"], "request": [{"query": {"q": "é"}}, None], "user_id": pa.array([7, None]),
    }  # fmt: skip
    for times in (columns["ts"], pa.array([1_780_221_600_123, 1_780_221_601_500], pa.timestamp("ms"))):
        pq.write_table(pa.table(columns | {"ts": times}), path)
        ingest_paths(warehouse, settings, [str(path)], now=NOW)
        expected = contents(warehouse)
        assert expected.height == 2
        warehouse.command("TRUNCATE TABLE pd.api_calls")
        assert ingest_paths(warehouse, settings, [str(path)], now=BEHIND).rejects == 2
        assert replay().stored == 2
        assert contents(warehouse).equals(expected)


# ---- a whole source that was rejected ----------------------------------------------------------------------------

WHOLE = {
    "CSV": ([b"ts,method,endpoint", b"1,GET,/x"], "not JSON.*one JSON object a line"),
    "no time": ([{"time": 1, "method": "GET", "endpoint": "/x"}], "no time, such as: ts is missing.*give each record a ts"),
    "old": ([record(1, "2008-04-01T00:00:00Z")], "too old.*CARAT_MAX_AGE_DAYS"),
    "ahead": ([record(1, "2026-08-01T00:00:00Z")], "in the future.*clock"),
    "Latin-1": ([b'{"ts": 1, "endpoint": "/gr\xfc"}'], "not UTF-8.*iconv"),
}  # fmt: skip


@pytest.mark.parametrize(("records", "told"), WHOLE.values(), ids=WHOLE)
def test_a_source_of_which_nothing_could_be_stored_fails_with_the_likely_fix(warehouse, rejected, records, told):
    totals = rejected(*records, max_age_days=400)
    assert totals.rejects == len(records)
    with pytest.raises(SourceError, match=told):
        totals.require_done()
    assert warehouse.query("SELECT state FROM etl.runs").item() == "failed"


def test_the_other_sources_are_ingested_all_the_same(warehouse, settings, tmp_path):
    for name, data in (
        ("a", b"no JSON"),
        ("b", json.dumps(record(1)).encode()),
        ("c", "[]".encode("utf-16")),
        ("d", b""),
    ):
        (tmp_path / name).write_bytes(data)
    totals = ingest_paths(warehouse, settings, [str(tmp_path / name) for name in "abcd"], now=NOW)
    assert (totals.stored, totals.rejects, len(totals.failures)) == (1, 1, 2)
