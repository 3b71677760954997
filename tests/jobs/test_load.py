"""From the spool into the warehouse: each call once, through whatever goes wrong between, and nothing in silence."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.contracts import API_CALLS
from app.core.call_record import Line
from app.core.errors import SpoolError, WarehouseGoneError
from app.intake.call_frames import read_lines
from app.intake.spool import RejectedRecord, Spool, SpoolLimits, sealed_segments
from app.intake.spool.segments import delivered_segments, segments
from app.jobs.hourly import run_hour
from app.jobs.load import delivery
from app.jobs.load import segments as chunks
from app.jobs.load.delivery import deliver_spool, load_spool
from app.ops.doctor import examine
from app.ops.status import spool_state
from app.settings import Settings
from app.warehouse import migrate, open_warehouse
from app.warehouse.lock import hold_embedded
from tests.support.clickhouse_http import running_server
from tests.support.paths import CHECKOUT
from tests.support.unreliable import unreliable
from tests.test_main import carat

pytestmark = pytest.mark.slow

T0 = datetime(2026, 3, 2, 10, tzinfo=UTC)
LIMITS = SpoolLimits(segment_s=3600, min_free_bytes=0)


def call(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "ts": (T0 + timedelta(seconds=number)).isoformat(), "method": "GET", "endpoint": f"/api/v1/products/{number}",
        "visitor_id": "v", "status": 200, "call_id": str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))),
    } | fields  # fmt: skip


def collect(folder: Path, *batches: list[dict | bytes], received_at: datetime = T0, rejected=(), **limits: Any) -> None:
    """Spools batches of records, sealed at the end."""

    async def run() -> None:
        spool = Spool(folder, SpoolLimits(**{"segment_s": 3600, "min_free_bytes": 0} | limits))
        await spool.open()
        for batch in batches:
            data = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in batch]
            await spool.append(data, received_at_ms=int(received_at.timestamp() * 1000), rejected=rejected)
        await spool.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def engine_url(tmp_path_factory) -> str:
    """The embedded engine; what is particular about a server has tests of its own."""
    return f"chdb://{tmp_path_factory.mktemp('engine')}"


@pytest.fixture
def spooling(settings, tmp_path) -> Settings:
    return settings.model_copy(update={"spool": tmp_path / "spool"})


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server behind a connection that can fail, and the settings to reach it by that."""
    with running_server(tmp_path / "engine") as server, unreliable(server.port) as between:
        monkeypatch.setenv("CARAT_WAREHOUSE", server.url.replace(f":{server.port}", f":{between.port}"))
        settings = Settings(_env_file=None, spool=tmp_path / "spool", patience_s=0)
        with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
            migrate(warehouse, settings)
        yield settings, between


def stored(warehouse) -> list[tuple]:
    return sorted(warehouse.query("SELECT endpoint, received_at FROM pd.api_calls", schema=stored_schema()).rows())


def stored_schema():
    return {name: API_CALLS.schema[name] for name in ("endpoint", "received_at")}


def rejects(warehouse) -> list[tuple]:
    sql = "SELECT reason, source, position, hex(record) AS record FROM etl.rejects ORDER BY position"
    return [] if not warehouse.scalar("SELECT count() FROM etl.rejects") else warehouse.query(sql).rows()


def replay(folder: Path) -> None:
    """What was delivered is there as if it had not been noted."""
    for segment in delivered_segments(folder):
        segment.path.rename(folder / segment.path.name)


def test_what_was_spooled_is_stored_with_its_time_of_receipt(warehouse, spooling):
    collect(spooling.spool, [call(1), call(2)], received_at=T0)
    collect(spooling.spool, [call(3, ts=(T0 + timedelta(days=1)).isoformat())], received_at=T0 + timedelta(seconds=5))
    done = deliver_spool(warehouse, spooling).require_done()
    assert (done.segments, done.totals.stored) == (2, 3)
    assert stored(warehouse) == [
        ("/api/v1/products/1", T0), ("/api/v1/products/2", T0), ("/api/v1/products/3", T0 + timedelta(seconds=5)),
    ]  # fmt: skip
    assert not sealed_segments(spooling.spool)
    assert len(delivered_segments(spooling.spool)) == 2
    runs = warehouse.query("SELECT job, state, rows_in, rows_out FROM etl.runs").rows()
    assert runs == [("load", "done", 3, 3)]


def test_an_empty_spool_and_none_at_all_are_nothing_to_do(warehouse, spooling):
    assert deliver_spool(warehouse, spooling).segments == 0
    collect(spooling.spool)
    assert deliver_spool(warehouse, spooling).segments == 0
    assert warehouse.scalar("SELECT count() FROM etl.runs") == 0


def test_bad_records_and_refused_ones_are_rejects_with_their_place(warehouse, spooling):
    collect(
        spooling.spool,
        [call(1), b"{bad", call(2, ts=None), b"\xff\n\x00"],
        rejected=[RejectedRecord("too large", "9 MB", b"x")],
    )
    done = deliver_spool(warehouse, spooling).require_done()
    (segment,) = delivered_segments(spooling.spool)
    source = f"collector:{segment.name}"
    assert done.totals.rejected == {"not JSON": 1, "no time": 1, "not UTF-8": 1, "too large": 1}
    assert [row[:3] for row in rejects(warehouse)] == [
        ("not JSON", source, 2), ("no time", source, 3), ("not UTF-8", source, 4), ("too large", source, 5),
    ]  # fmt: skip


def test_a_shops_clock_is_held_against_the_time_of_receipt_not_of_delivery(warehouse, spooling):
    ahead = call(1, ts=(T0 + timedelta(hours=30)).isoformat())
    behind = call(2, ts=(T0 - timedelta(days=400)).isoformat())
    collect(spooling.spool, [ahead, behind], received_at=T0)
    collect(spooling.spool, [call(3, ts=(T0 + timedelta(hours=30)).isoformat())], received_at=T0 + timedelta(hours=7))
    done = deliver_spool(warehouse, spooling).require_done()
    assert done.totals.rejected == {"in the future": 1}
    assert [endpoint for endpoint, _ in stored(warehouse)] == ["/api/v1/products/2", "/api/v1/products/3"]


def test_the_same_batch_twice_is_stored_once(warehouse, spooling):
    batch = [call(number) for number in range(50)] + [{**call(number), "call_id": None} for number in range(50, 60)]
    collect(spooling.spool, batch, batch)  # in one segment
    collect(spooling.spool, batch)  # in another
    first = deliver_spool(warehouse, spooling).require_done()
    collect(spooling.spool, batch)  # after the delivery
    second = deliver_spool(warehouse, spooling).require_done()
    assert (first.totals.stored, first.totals.duplicates) == (60, 120)
    assert (second.totals.stored, second.totals.duplicates) == (0, 60)
    assert warehouse.query("SELECT count(), uniqExact(call_id) FROM pd.api_calls").row(0) == (60, 60)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_records_with_one_call_id_the_earlier_counts_in_whatever_order_they_came(warehouse, spooling, order):
    key = str(uuid.uuid4())
    records = [call(1, call_id=key), call(2, call_id=key)]
    for number in order:
        collect(spooling.spool, [records[number]])
    done = deliver_spool(warehouse, spooling).require_done()
    assert [endpoint for endpoint, _ in stored(warehouse)] == ["/api/v1/products/1"]
    assert done.totals.rejected == {"call_id taken": 1}
    replay(spooling.spool)
    deliver_spool(warehouse, spooling).require_done()
    assert [endpoint for endpoint, _ in stored(warehouse)] == ["/api/v1/products/1"]
    assert {reason for reason, *_ in rejects(warehouse)} == {"call_id taken"}


def test_what_is_delivered_again_adds_nothing(warehouse, spooling, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 10)
    batches = [[call(n), call(n + 500, ts=(T0 - timedelta(days=n % 3)).isoformat()), b"bad %d" % n] for n in range(20)]
    collect(spooling.spool, *batches, segment_records=21)
    deliver_spool(warehouse, spooling).require_done()
    before = stored(warehouse), rejects(warehouse)
    replay(spooling.spool)
    again = deliver_spool(warehouse, spooling).require_done()
    assert again.totals.stored == 0
    assert (stored(warehouse), rejects(warehouse)) == before
    assert (len(before[0]), len(before[1])) == (40, 20)


def test_a_kept_segment_under_another_name_brings_back_what_the_warehouse_lost(warehouse, spooling):
    collect(spooling.spool, [call(1), call(2)])
    deliver_spool(warehouse, spooling).require_done()
    warehouse.command("DELETE FROM pd.api_calls WHERE endpoint = '/api/v1/products/2'")
    (kept,) = delivered_segments(spooling.spool)
    shutil.copy(kept.path, spooling.spool / f"{kept.name.partition('-')[0]}-again.sealed")
    again = deliver_spool(warehouse, spooling).require_done()
    assert (again.totals.stored, again.totals.duplicates) == (1, 1)
    assert [endpoint for endpoint, _ in stored(warehouse)] == ["/api/v1/products/1", "/api/v1/products/2"]


def test_damage_in_a_segment_is_a_reject_and_costs_no_other_batch(warehouse, spooling):
    collect(spooling.spool, *([call(number)] for number in range(5)))
    (segment,) = sealed_segments(spooling.spool)
    data = bytearray(segment.path.read_bytes())
    at = data.index(b"products/2")
    data[at] ^= 0x01
    segment.path.write_bytes(data)
    done = deliver_spool(warehouse, spooling).require_done()
    assert done.totals.stored == 4
    ((reason, _, position, record),) = rejects(warehouse)
    assert (reason, position) == ("damaged segment", 3)
    assert bytes(data[at : at + 10]) in bytes.fromhex(record)
    assert bytes.fromhex(record) in bytes(data)


def test_a_segment_that_cannot_be_read_stays_and_keeps_no_other_from_being_delivered(warehouse, spooling):
    collect(spooling.spool, [call(1)])
    (segment,) = sealed_segments(spooling.spool)
    broken = spooling.spool / "000000000000001-broken.sealed"
    broken.mkdir()  # even the superuser cannot read it
    (spooling.spool / "000000000000002-link.sealed").symlink_to("/etc/passwd")
    os.mkfifo(spooling.spool / "000000000000003-pipe.sealed")
    done = deliver_spool(warehouse, spooling)
    assert isinstance(done.failure, SpoolError)
    assert str(done.failure).count("could not be read: is not a regular file") == 3
    assert rejects(warehouse) == []
    assert [found.name for found in delivered_segments(spooling.spool)] == [segment.name]
    assert broken.exists()
    broken.rmdir()


def test_what_a_dead_collector_left_open_is_delivered_but_not_what_a_living_one_writes(warehouse, spooling):
    collect(spooling.spool, [call(1)])
    (segment,) = sealed_segments(spooling.spool)
    segment.path.rename(segment.path.with_suffix(".open"))

    async def run() -> None:
        spool = Spool(spooling.spool, LIMITS)
        await spool.open()
        await spool.append([json.dumps(call(2)).encode()], received_at_ms=0)
        assert deliver_spool(warehouse, spooling).totals.stored == 1
        assert len(segments(spooling.spool, ".open")) == 1
        del spool  # gone without a word: the kernel frees its lock
        raise _GoneError

    with pytest.raises(_GoneError):
        asyncio.run(run())


class _GoneError(Exception):
    pass


def test_inserts_with_one_token_are_one_and_those_without_are_never_taken_for_one(warehouse):
    batch = read_lines(
        [Line(1, json.dumps(call(1)).encode(), 1)], source="x", now=T0
    ).calls  # fmt: skip
    for _ in range(3):
        warehouse.insert(API_CALLS, batch, token="collector:x/0/2026-03-02")
    assert warehouse.scalar("SELECT count() FROM pd.api_calls") == 1
    for _ in range(2):
        warehouse.insert(API_CALLS, batch)
    assert warehouse.scalar("SELECT count() FROM pd.api_calls") == 3


def test_tables_of_an_earlier_version_get_the_settings_that_keep_calls_safe(warehouse, settings):
    warehouse.command("ALTER TABLE pd.api_calls RESET SETTING non_replicated_deduplication_window, fsync_after_insert")
    changes = migrate(warehouse, settings)
    assert changes == ["set non_replicated_deduplication_window = 1000, fsync_after_insert = 1 of pd.api_calls"]
    assert migrate(warehouse, settings) == []


def test_small_segments_share_one_search_for_known_calls(warehouse, spooling, monkeypatch):
    asked = []
    real = delivery.known_calls
    monkeypatch.setattr(delivery, "known_calls", lambda *given: asked.append(1) or real(*given))
    for number in range(30):
        collect(spooling.spool, [call(number)])
    assert deliver_spool(warehouse, spooling).require_done().totals.stored == 30
    assert len(asked) == 1


def test_the_hour_begins_with_the_spool_and_goes_on_where_that_fails(warehouse, spooling):
    collect(spooling.spool, [call(1)])
    hour = run_hour(warehouse, spooling)
    hour.require_done()
    assert hour.delivery.totals.stored == 1
    assert [str(day.day) for day in hour.backfill.built] == ["2026-03-02"]
    collect(spooling.spool, [call(86400)])
    (spooling.spool / "000000000000001-broken.sealed").mkdir()
    hour = run_hour(warehouse, spooling)
    assert [str(day.day) for day in hour.backfill.built] == ["2026-03-03"]
    with pytest.raises(SpoolError, match="could not be read"):
        hour.require_done()
    (spooling.spool / "000000000000001-broken.sealed").rmdir()


def test_a_spool_that_is_none_fails_the_delivery_and_not_the_hour(warehouse, spooling, monkeypatch):
    spooling.spool.write_bytes(b"a file")
    monkeypatch.setenv("CARAT_SPOOL", str(spooling.spool))
    assert [finding.is_ok for finding in examine() if finding.check == "spool"] == [False]
    assert "CARAT_SPOOL" in str(deliver_spool(warehouse, spooling).failure)
    with pytest.raises(SpoolError, match="cannot be used"):
        load_spool(spooling)
    hour = run_hour(warehouse, spooling)
    assert [type(failure) for failure in hour.failures] == [SpoolError]


def test_status_and_doctor_show_what_waits(spooling, monkeypatch):
    collect(spooling.spool, [call(1)], [call(2)])
    state = spool_state(spooling).row(0, named=True)
    (segment,) = sealed_segments(spooling.spool)
    assert (state["segments"], state["bytes"], state["delivery_lag_s"]) == (1, segment.bytes, None)
    assert abs(datetime.now(tz=UTC) - state["oldest_at"]) < timedelta(minutes=1)
    monkeypatch.setenv("CARAT_SPOOL", str(spooling.spool))
    monkeypatch.setenv("CARAT_SPOOL_MIN_FREE_BYTES", "0")
    (found,) = [finding for finding in examine() if finding.check == "spool"]
    assert found.is_ok
    assert "1 segments" in found.detail
    monkeypatch.setenv("CARAT_SPOOL_MIN_FREE_BYTES", str(2**62))
    (found,) = [finding for finding in examine() if finding.check == "spool"]
    assert not found.is_ok
    assert "CARAT_SPOOL_MIN_FREE_BYTES" in found.detail


def test_inserts_whose_answers_are_lost_are_not_done_twice(served):
    settings, between = served
    batches = [[call(n), call(n + 500, ts=(T0 - timedelta(days=n % 3)).isoformat())] for n in range(30)]
    collect(settings.spool, *batches, segment_records=10)
    between.answers_to_lose = 5
    attempts = 0
    while sealed_segments(settings.spool):
        attempts += 1
        assert attempts < 20
        delivery = load_spool(settings)
        assert delivery.failure is None or isinstance(delivery.failure, WarehouseGoneError)
    assert between.lost == 5
    with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
        assert warehouse.query("SELECT count(), uniqExact(call_id) FROM pd.api_calls").row(0) == (60, 60)


def wait_until_delivered(folder: Path, limit_s: float = 30) -> None:
    until = time.monotonic() + limit_s
    while sealed_segments(folder):
        assert time.monotonic() < until, "not delivered in time"
        time.sleep(0.05)


def test_the_command_delivers_waits_for_nobody_and_says_what_it_did(tmp_path):
    collect(tmp_path / "spool", [call(1), b"bad"])
    environment = {"CARAT_SPOOL": str(tmp_path / "spool")}
    with hold_embedded(tmp_path / "warehouse", purpose="carat etl"):
        assert carat("load", folder=tmp_path, **environment).returncode == 75
    done = carat("load", "--json", folder=tmp_path, **environment)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "segments": 1, "records": 2, "stored": 1, "duplicates": 0, "rejected": {"not JSON": 1},
    }  # fmt: skip
    assert b"0 segments" in carat("load", folder=tmp_path, **environment).stdout


def test_a_follower_lets_others_have_the_embedded_warehouse_and_ends_in_order(tmp_path):
    collect(tmp_path / "spool", [call(1)])
    environment = {"CARAT_SPOOL": f"{tmp_path}/spool", "CARAT_WAREHOUSE": f"chdb://{tmp_path}/warehouse"}
    follower = subprocess.Popen(
        [sys.executable, "-m", "app", "load", "--follow"], env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_delivered(tmp_path / "spool", 60)
        collect(tmp_path / "spool", [call(2)])
        wait_until_delivered(tmp_path / "spool", 60)
        counted = carat("query", "SELECT count() FROM pd.api_calls", "--format", "csv", folder=tmp_path)
        assert counted.stdout.splitlines()[1] == b"2"
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(30) == 0
    finally:
        follower.kill()
        follower.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_what_does_not_end_when_it_is_told_to_is_interrupted(number, code):
    script = (
        "from app.core.signals import stopped_by_signal\n"
        "import time\n"
        "with stopped_by_signal(grace_s=1) as stopped:\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=CHECKOUT
    ) as process:
        assert process.stdout.readline() == b"working\n"
        process.send_signal(number)
        assert process.wait(20) == code
