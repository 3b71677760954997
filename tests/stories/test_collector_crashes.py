"""Nothing acknowledged is lost and nothing is stored twice, whoever is killed and whatever does not answer.

CARAT_TEST_COLLECTOR_KILLS raises how often collector and loader are killed.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.intake.collector.server import listen
from app.intake.spool import sealed_segments
from app.intake.spool.segments import delivered_segments
from app.jobs.load import delivery, follow, segments
from app.jobs.load.delivery import deliver_spool, load_spool
from app.jobs.load.follow import follow_spool
from app.settings import Settings
from app.warehouse import Warehouse, migrate, open_warehouse, opening
from app.warehouse.lease import hold_lease
from tests.jobs.test_load import call, collect, rejects, replay, stored, wait_until_delivered
from tests.support.clickhouse_http import running_server
from tests.support.collecting import KEY
from tests.support.effort import repeated
from tests.support.killing import Worker
from tests.support.paths import CHECKOUT
from tests.support.receivers import await_that
from tests.support.senders import Senders
from tests.support.unreliable import unreliable
from tests.test_main import carat

pytestmark = pytest.mark.slow

KILLS = repeated(2, 50)


def say(what: str) -> None:
    """Shown by pytest -s."""
    sys.stdout.write(f"{what}\n")


def counts(warehouse: Warehouse) -> tuple[int, int]:
    return warehouse.query("SELECT count(), uniqExact(call_id) FROM pd.api_calls").row(0)


def call_ids(warehouse: Warehouse) -> set[str]:
    return set(warehouse.query("SELECT toString(call_id) AS id FROM pd.api_calls")["id"])


@contextmanager
def a_collector(folder: Path, port_of: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A collector process on an open socket."""
    settings = {
        "CARAT_SPOOL": str(folder / "spool"), "CARAT_WRITE_KEYS": KEY, "CARAT_LOG": str(folder / "log"),
        "CARAT_SPOOL_SEGMENT_BYTES": "200000", "CARAT_SPOOL_MIN_FREE_BYTES": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "app", "collect", "--fd", str(port_of)]
    with (folder / "stderr").open("ab") as said:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=os.environ | settings | environment, pass_fds=[port_of], stderr=said
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_collector_that_is_killed_again_and_again_loses_nothing_acknowledged(tmp_path):
    chance = random.Random(7)
    settings = Settings(_env_file=None, warehouse=f"chdb://{tmp_path}/warehouse", spool=tmp_path / "spool")
    (listener,) = listen("127.0.0.1", 0)
    with listener, Senders(listener.getsockname()[1]) as senders:
        for _ in range(KILLS):
            with a_collector(tmp_path, listener.fileno()) as collector:
                senders.await_more()
                time.sleep(chance.uniform(0, 0.3))
                collector.kill()
        with a_collector(tmp_path, listener.fileno()):
            senders.await_more(5)
    load_spool(settings).require_done()
    with open_warehouse(settings, purpose="a test") as warehouse:
        stored_calls, ids = counts(warehouse)
        assert stored_calls == ids
        assert senders.acknowledged - call_ids(warehouse) == set()
        assert call_ids(warehouse) - senders.sent == set()
        assert not rejects(warehouse)
    unanswered = senders.unanswered
    say(f"{KILLS} kills: {len(senders.acknowledged)} acknowledged, {stored_calls} stored, {unanswered} not answered")


def test_a_loader_that_is_killed_at_any_moment_delivers_each_call_once(tmp_path, monkeypatch):
    chance = random.Random(11)
    folder = tmp_path / "spool"
    batches = [[call(100 * b + n, ts=f"2026-03-{1 + n % 3:02}T10:00:00Z") for n in range(100)] for b in range(60)]
    collect(folder, *batches, segment_bytes=60_000)
    segments = len(sealed_segments(folder))
    environment = {"CARAT_WAREHOUSE": f"chdb://{tmp_path}/warehouse", "CARAT_SPOOL": str(folder), "TEST_LEASE_S": "1"}
    now = datetime(2026, 3, 4, tzinfo=UTC)
    kills = 0
    while kills < KILLS:
        worker = Worker(tmp_path, environment).wait_until_ready()
        worker.send("load", now=now)
        finished = worker.finished(chance.uniform(0.05, 1.5))
        worker.kill()
        kills += finished is None
        if not sealed_segments(folder):
            replay(folder)
    worker = Worker(tmp_path, environment).wait_until_ready()
    assert worker.run("load", now=now).code == 0
    worker.kill()
    assert not sealed_segments(folder)
    counted = carat("query", "SELECT count(), uniqExact(call_id) FROM pd.api_calls", "--format", "csv", folder=tmp_path)
    assert counted.stdout.splitlines()[1] == b"6000,6000"
    say(f"{kills} kills of a loader with {segments} segments of 6000 calls: stored once each")


class _KilledError(BaseException):
    pass


@contextmanager
def ending_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """The loader dies before the so manieth thing that it does to the warehouse or the spool, and so after the last."""
    left = iter(range(number - 1, -1, -1))

    def dying(action):
        def run(*arguments: Any, **options: Any) -> Any:
            if next(left, None) == 0:
                raise _KilledError
            return action(*arguments, **options)

        return run

    with monkeypatch.context() as patched:
        for name in ("insert", "command"):
            patched.setattr(Warehouse, name, dying(getattr(Warehouse, name)))
        patched.setattr(delivery, "acknowledge", dying(delivery.acknowledge))
        yield


def test_a_loader_that_ends_at_any_statement_delivers_each_call_once(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "CHUNK_RECORDS", 2)
    settings = Settings(_env_file=None, warehouse=f"chdb://{tmp_path}/warehouse", spool=tmp_path / "spool")
    key = "7f3fb3a4-94c8-4f6b-9c55-5d0f2b1d8a01"
    collect(settings.spool, [call(1), call(2, ts="2026-03-01T10:00:00Z")], [call(91, call_id=key)])
    collect(settings.spool, [call(90, call_id=key), b"bad"])
    ends = 0
    with open_warehouse(settings, purpose="a test") as warehouse:
        migrate(warehouse, settings)
        while True:
            try:
                with ending_at(monkeypatch, ends + 1):
                    deliver_spool(warehouse, settings).require_done()
            except _KilledError:
                ends += 1
            else:
                break
            deliver_spool(warehouse, settings).require_done()
            assert [endpoint for endpoint, _ in stored(warehouse)] == [f"/api/v1/products/{n}" for n in (1, 2, 90)]
            assert {reason for reason, *_ in rejects(warehouse)} == {"not JSON", "call_id taken"}
            for table in ("pd.api_calls", "etl.rejects"):
                warehouse.command(f"TRUNCATE TABLE {table}")
            replay(settings.spool)
    assert ends > 8
    say(f"ended at each of {ends} statements")


def test_the_collector_does_not_notice_what_becomes_of_the_warehouse(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "_POLL_S", 0.05)
    monkeypatch.setattr(follow, "_LONGEST_BACKOFF_S", 0.5)
    monkeypatch.setattr(opening, "hold_lease", partial(hold_lease, lease_s=3))
    (listener,) = listen("127.0.0.1", 0)
    stopped = threading.Event()
    with running_server(tmp_path / "engine") as server, unreliable(server.port) as between:
        monkeypatch.setenv("CARAT_WAREHOUSE", server.url.replace(f":{server.port}", f":{between.port}"))
        settings = Settings(_env_file=None, spool=tmp_path / "spool")
        follower = threading.Thread(target=follow_spool, args=(settings,), kwargs={"stopped": stopped})
        with (
            listener,
            a_collector(tmp_path, listener.fileno(), CARAT_SPOOL_SEGMENT_S="0.2"),
            Senders(listener.getsockname()[1], pause_s=0.01) as senders,
        ):
            senders.await_more(20)
            follower.start()
            for state in ("up", "slow", "losing answers", "down", "up again"):
                between.delay_s = 0.1 if state == "slow" else 0
                between.answers_to_lose = 1 if state == "losing answers" else 0
                between.go_down() if state == "down" else between.come_back()
                senders.await_more(50)
                if state == "losing answers":
                    await_that(lambda: between.lost == 1, timeout_s=60)
        wait_until_delivered(settings.spool, 60)
        stopped.set()
        follower.join(30)
        assert not follower.is_alive()
        load_spool(settings).require_done()
        with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
            assert senders.acknowledged - call_ids(warehouse) == set()
            assert counts(warehouse)[0] == counts(warehouse)[1]
    assert between.lost == 1
    assert senders.unanswered == 0


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_serve_collects_delivers_and_starts_again_what_was_killed(tmp_path):
    (listener,) = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    environment = {
        "CARAT_SPOOL": str(tmp_path / "spool"), "CARAT_WRITE_KEYS": KEY, "CARAT_SPOOL_SEGMENT_S": "0.3",
        "CARAT_WAREHOUSE": f"chdb://{tmp_path}/warehouse", "CARAT_LOG": str(tmp_path / "log"),
        "CARAT_SPOOL_MIN_FREE_BYTES": "0",
    }  # fmt: skip
    with (tmp_path / "stderr").open("wb") as said:
        command = [sys.executable, "-m", "app", "serve", "--port", str(port)]
        serving = subprocess.Popen(command, env=os.environ | environment, cwd=CHECKOUT, stderr=said)
    try:
        with Senders(port, threads=2, pause_s=0.02) as senders:
            senders.await_more(2, 60)
            for victim in (0, 1):  # the collector, then the scheduler
                killed = children_of(serving.pid)[victim]
                os.kill(killed, signal.SIGKILL)
                until = time.monotonic() + 30
                while len(now := children_of(serving.pid)) < 2 or killed in now:
                    assert time.monotonic() < until
                    time.sleep(0.05)
                senders.await_more(2, 60)
            until = time.monotonic() + 60
            while not delivered_segments(tmp_path / "spool"):
                assert time.monotonic() < until, "the scheduler delivers nothing"
                time.sleep(0.05)
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(60) == 0
    finally:
        serving.kill()
        serving.wait()
    settings = Settings(_env_file=None, warehouse=environment["CARAT_WAREHOUSE"], spool=tmp_path / "spool")
    load_spool(settings).require_done()  # what the scheduler, just restarted, did not get to
    with open_warehouse(settings, purpose="a test") as warehouse:
        assert senders.acknowledged - call_ids(warehouse) == set()
        assert counts(warehouse)[0] == counts(warehouse)[1]


def test_serve_ends_where_a_part_cannot_be_started(tmp_path):
    environment = {"CARAT_SPOOL": str(tmp_path / "spool"), "CARAT_WRITE_KEYS": KEY}
    with listen("127.0.0.1", 0)[0] as taken:
        done = carat("serve", "--port", str(taken.getsockname()[1]), folder=tmp_path, **environment)
    assert done.returncode == 1
    assert b"cannot listen" in done.stderr
    done = carat("serve", "--port", "0", folder=tmp_path, **environment | {"CARAT_WRITE_KEYS": ""})
    assert done.returncode == 2
