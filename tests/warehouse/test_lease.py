"""One writer at a time on a server: the lease, its renewal, its end, and every order in which contenders may meet."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from app.contracts import DATABASES
from app.core.errors import LockedError, WarehouseError
from app.core.service_url import ServiceUrl
from app.warehouse import Warehouse, client, lease, publication
from app.warehouse.lease import Lease, hold_lease
from tests.support.clickhouse_http import RunningServer, running_server
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.slow

SHORT_S = 3.0
PASSWORD = "pa55-w0rd"
HOLD = """
import sys, time
from app.core.service_url import ServiceUrl
from app.warehouse import client
from app.warehouse.lease import hold_lease

with client.connect_server(ServiceUrl.parse(sys.argv[1], "clickhouse")) as warehouse, hold_lease(warehouse, purpose="carat etl", lease_s=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("served-engine"), password=PASSWORD) as server:
        yield server


@pytest.fixture
def connect(server) -> Iterator[Callable[[], Warehouse]]:
    """Opens connections to a server without databases."""
    with ExitStack() as opened:

        def connected() -> Warehouse:
            return opened.enter_context(client.connect_server(ServiceUrl.parse(server.url, "clickhouse")))

        connected().command("DROP DATABASE IF EXISTS etl SYNC")
        yield connected


@pytest.fixture
def start_holder(server) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that holds the lease until it is killed."""
    with ExitStack() as started:

        def start(lease_s: float) -> subprocess.Popen[str]:
            process = started.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", HOLD, server.url, str(lease_s)],
                    cwd=CHECKOUT,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            started.callback(process.kill)
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            return process

        yield start


def leases(warehouse: Warehouse) -> dict[str, dict]:
    """The comment of every lease's table."""
    found = warehouse.query(
        "SELECT name, comment FROM system.tables WHERE database = 'etl' AND name LIKE 'writer\\_lease\\_%'"
    )
    return {name: json.loads(comment) for name, comment in found.iter_rows()} if found.height else {}


def rewrite(warehouse: Warehouse, comment: str) -> None:
    name = warehouse.scalar("SELECT name FROM system.tables WHERE database = 'etl'")
    warehouse.command(f"ALTER TABLE etl.{name} MODIFY COMMENT {client.quote(comment)}")


def expire(warehouse: Warehouse) -> None:
    """Make the lease look as if its holder had died long ago."""
    (note,) = leases(warehouse).values()
    rewrite(warehouse, json.dumps(note | {"renewed_ms": note["renewed_ms"] - 3_600_000}))


def server_time(warehouse: Warehouse) -> datetime:
    return warehouse.scalar("SELECT now64(3, 'UTC')")


def refused(warehouse: Warehouse, **options) -> str:
    with pytest.raises(LockedError) as caught, hold_lease(warehouse, purpose="carat ingest", **options):
        pass
    return str(caught.value)


def acquired_after(warehouse: Warehouse, *, timeout_s: float = 20) -> dict:
    """The comment of the lease that is had as soon as it can be."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with hold_lease(warehouse, purpose="carat ingest"):
                (note,) = leases(warehouse).values()
                return note
        except LockedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# ---- holding and letting go --------------------------------------------------------------------------------------


def test_a_second_holder_is_told_who_holds_it_and_since_when(connect):
    holder, other = connect(), connect()
    before = server_time(holder).replace(microsecond=0)
    with hold_lease(holder, purpose="carat etl --date 2026-03-01 'ü' \\ {x:String} %s"):
        message = refused(other)
    found = re.fullmatch(
        r"the warehouse clickhouse://default:\*\*\*@127\.0\.0\.1:\d+/ is held by `(.*)` \(process (\d+) on (.*)\) since "
        r"(\S+); try again later: it frees itself 60 s after its holder has died",
        message,
    )
    assert found
    purpose, process, host, since = found.groups()
    assert purpose == "carat etl --date 2026-03-01 'ü' \\ {x:String} %s"
    assert (process, host) == (str(os.getpid()), socket.gethostname())
    assert before <= datetime.fromisoformat(since) <= server_time(other)
    assert LockedError.exit_code == 75


def test_a_connection_that_holds_it_cannot_have_it_twice(connect):
    warehouse = connect()
    with hold_lease(warehouse, purpose="carat etl") as held:
        refused(warehouse)
        held.require()


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt])
def test_a_released_lease_can_be_had_at_once_and_leaves_one_table(connect, ending):
    first, second = connect(), connect()
    for n, warehouse in enumerate((first, second, first), 1):
        with ExitStack() as expected:
            if ending:
                expected.enter_context(pytest.raises(ending))
            with hold_lease(warehouse, purpose="carat etl") as held:
                held.require()
                if ending:
                    raise ending
        notes = leases(warehouse)
        assert list(notes) == [f"writer_lease_{n}"]
        assert notes[f"writer_lease_{n}"]["released"]


def test_no_secret_is_in_a_message_or_a_comment(connect):
    holder, other = connect(), connect()
    with hold_lease(holder, purpose="carat etl") as held:
        texts = [refused(other), json.dumps(leases(other))]
        expire(other)
        with hold_lease(other, purpose="carat ingest"), pytest.raises(LockedError) as caught:
            held.require()
        texts.append(str(caught.value))
    assert not [text for text in texts if PASSWORD in text]


def test_the_database_is_made_as_a_migration_makes_it(connect):
    warehouse = connect()
    with hold_lease(warehouse, purpose="carat migrate"):
        pass
    found = warehouse.query("SELECT comment, engine FROM system.databases WHERE name = 'etl'")
    assert found.rows() == [(DATABASES["etl"], "Atomic")]
    bare = "SELECT count() FROM system.columns WHERE database = 'etl' AND comment = ''"
    assert warehouse.scalar(bare) == 0


def test_recovery_of_publications_leaves_the_lease_alone(connect):
    warehouse = connect()
    with hold_lease(warehouse, purpose="carat etl") as held:
        warehouse.command(publication.PUBLICATIONS.create_statement())
        warehouse.command("CREATE TABLE etl.staged_sessions_20260301 (a UInt8) ENGINE = MergeTree ORDER BY a")
        publication.recover(warehouse)
        assert warehouse.scalar("SELECT count() FROM system.tables WHERE name = 'staged_sessions_20260301'") == 0
        held.require()


# ---- a holder that dies, and one that lives ----------------------------------------------------------------------


def test_a_killed_process_frees_it_when_its_time_is_over_and_not_before(connect, start_holder):
    warehouse = connect()
    process = start_holder(SHORT_S)
    assert f"`carat etl` (process {process.pid} on " in refused(warehouse)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert f"it frees itself {SHORT_S:g} s after" in refused(warehouse)
    (dead,) = leases(warehouse).values()
    heir = acquired_after(warehouse)  # by one whose own leases are longer
    assert heir["renewed_ms"] - dead["renewed_ms"] >= SHORT_S * 1000


def test_renewal_keeps_it_beyond_its_time(connect):
    holder, other = connect(), connect()
    with hold_lease(holder, purpose="carat etl", lease_s=SHORT_S) as held:
        until = time.monotonic() + 1.5 * SHORT_S
        while time.monotonic() < until:
            refused(other, lease_s=0.01)  # the holder's time counts, not that of who comes
            time.sleep(0.2)
        held.require()
    (note,) = leases(other).values()
    since = datetime.fromisoformat(note["since"]).timestamp()
    assert note["renewed_ms"] / 1000 - since > SHORT_S


def test_a_server_that_refuses_for_a_moment_costs_nothing(connect, server):
    holder, other = connect(), connect()
    with hold_lease(holder, purpose="carat etl", lease_s=SHORT_S) as held:
        server.fail_next(5)
        time.sleep(1.25 * SHORT_S)
        refused(other)
        held.require()


def test_a_lease_outlives_a_restart_of_the_server(tmp_path):
    with (
        running_server(tmp_path) as server,
        client.connect_server(ServiceUrl.parse(server.url, "clickhouse")) as warehouse,
    ):
        lease._acquire(warehouse, "carat etl", 60_000)
        server.kill()
        with pytest.raises(WarehouseError), hold_lease(warehouse, purpose="carat ingest"):
            pass
    with (
        running_server(tmp_path) as server,
        client.connect_server(ServiceUrl.parse(server.url, "clickhouse")) as warehouse,
    ):
        assert f"`carat etl` (process {os.getpid()} on" in refused(warehouse)
        expire(warehouse)
        with hold_lease(warehouse, purpose="carat ingest"):
            assert list(leases(warehouse)) == ["writer_lease_2"]


# ---- a holder that lost it ---------------------------------------------------------------------------------------


def test_a_holder_whose_lease_was_taken_over_is_told_by_whom_and_since_when(connect):
    holder, other = connect(), connect()
    with hold_lease(holder, purpose="carat etl") as held:
        expire(other)
        with hold_lease(other, purpose="carat ingest") as heir:
            (note,) = leases(other).values()
            told = rf"lost the lease .*: taken over by `carat ingest` \(process {os.getpid()} on .*\) since {re.escape(note['since'])}\."
            for _ in range(2):
                with pytest.raises(LockedError, match=told):
                    held.require()
            heir.require()
    assert leases(other)["writer_lease_2"]["token"] == heir.token


def test_a_holder_that_lost_it_does_not_release_its_heirs(connect):
    first, second = connect(), connect()
    with ExitStack() as heir:
        with hold_lease(first, purpose="carat etl"):
            expire(second)
            held = heir.enter_context(hold_lease(second, purpose="carat ingest"))
        refused(first)
        held.require()


def test_a_lease_that_ran_out_is_lost_even_when_nobody_took_it(connect):
    warehouse = connect()
    with hold_lease(warehouse, purpose="carat etl") as held:
        expire(warehouse)
        with pytest.raises(LockedError, match=r"not renewed for 36\d\d"):
            held.require()
        (note,) = leases(warehouse).values()
    assert leases(warehouse)["writer_lease_1"] == note


@pytest.mark.parametrize("statement", ["DROP TABLE etl.writer_lease_1", "DROP DATABASE etl"])
def test_a_lease_that_was_dropped_is_lost(connect, statement):
    warehouse = connect()
    with hold_lease(warehouse, purpose="carat etl") as held:
        warehouse.command(statement)
        with pytest.raises(LockedError, match="etl.writer_lease_1 is gone"):
            held.require(connect())
        with (
            hold_lease(warehouse, purpose="carat ingest"),
            pytest.raises(LockedError, match="or is not this process's"),
        ):
            held.require()


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_renewal_that_arrives_too_late_is_none(connect, monkeypatch, is_taken):
    """Seen in time, written out of time: in between, others may have found it free, and be about to take it."""
    holder, other = connect(), connect()
    write = Lease._write

    def write_late(self, through, seen, **options):
        monkeypatch.setattr(Lease, "_write", write)
        time.sleep(SHORT_S - 0.5)
        if is_taken:
            lease._acquire(other, "carat ingest", 60_000)
        write(self, through, seen, **options)

    held = lease._acquire(holder, "carat etl", round(SHORT_S * 1000))  # nobody renews it
    time.sleep(1)
    monkeypatch.setattr(Lease, "_write", write_late)
    with pytest.raises(
        LockedError, match="taken over by `carat ingest`" if is_taken else f"renewed only after {SHORT_S:g} s"
    ):
        held.require()


# ---- contenders --------------------------------------------------------------------------------------------------


def test_of_twenty_contenders_exactly_one_wins(connect):
    warehouses = [connect() for _ in range(20)]
    start, finish = Barrier(20), Barrier(20)

    def contend(warehouse: Warehouse) -> bool:
        start.wait()
        try:
            with hold_lease(warehouse, purpose="carat etl") as held:
                finish.wait()
                held.require()
                return True
        except LockedError as error:
            assert "is held by `carat etl`" in str(error)  # noqa: PT017
            finish.wait()
            return False

    with ThreadPoolExecutor(20) as threads:
        for n in range(1, 4):
            assert sum(threads.map(contend, warehouses)) == 1
            assert list(leases(warehouses[0])) == [f"writer_lease_{n}"]
            if n % 2:
                expire(warehouses[0])  # the next round finds one left by a dead process rather than one released


@pytest.mark.parametrize("others", [1, 2, 3])
def test_a_contender_that_acts_on_what_it_saw_long_ago_does_not_win(connect, monkeypatch, others):
    """After one other holder its number is taken; after two it can be had again, and is not the highest any more."""
    slow, other = connect(), connect()
    with hold_lease(slow, purpose="the first"):
        pass
    create = lease._create

    def create_late(warehouse, number, note):
        monkeypatch.setattr(lease, "_create", create)
        for n in range(others - 1):
            with hold_lease(other, purpose=f"holder {n}"):
                pass
        holding.append(late.enter_context(hold_lease(other, purpose="the last")))
        created.append(create(warehouse, number, note))
        return created[0]

    holding, created = [], []
    with ExitStack() as late:
        monkeypatch.setattr(lease, "_create", create_late)
        assert "held by `the last`" in refused(slow)
        assert created == [others > 1]
        holding[0].require()
        assert list(leases(other)) == [f"writer_lease_{1 + others}"]
    with hold_lease(slow, purpose="at last"):
        pass


def test_a_contender_whose_number_was_taken_and_released_has_the_next(connect, monkeypatch):
    slow, other = connect(), connect()
    create = lease._create

    def create_late(*arguments):
        monkeypatch.setattr(lease, "_create", create)
        with hold_lease(other, purpose="one in between"):
            pass
        return create(*arguments)

    monkeypatch.setattr(lease, "_create", create_late)
    with hold_lease(slow, purpose="carat etl") as held:
        held.require()
        assert list(leases(other)) == ["writer_lease_2"]


@pytest.mark.parametrize("is_before", [True, False])
def test_a_contender_that_stops_at_its_table_for_longer_than_a_lease_is_overtaken(connect, monkeypatch, is_before):
    slow, other = connect(), connect()
    create = lease._create
    overtaking = []

    def create_and_stop(*arguments):
        monkeypatch.setattr(lease, "_create", create)
        if is_before:  # the table is as old as what was seen before it was made
            time.sleep(0.9)
        created = create(*arguments)
        time.sleep(0 if is_before else 0.9)
        overtaking.append(lease._acquire(other, "the overtaker", 60_000))
        return created

    monkeypatch.setattr(lease, "_create", create_and_stop)
    assert "held by `the overtaker`" in refused(slow, lease_s=0.8)
    overtaking[0].require()
    assert list(leases(other)) == ["writer_lease_2"]


def test_lower_tables_that_a_killed_process_left_are_cleared_away(connect):
    warehouse = connect()
    warehouse.command("CREATE DATABASE etl")
    for name in ("writer_lease_2", "writer_lease_9", "writer_lease_10", "writer_lease_old", "writer_lease_011"):
        warehouse.command(f"CREATE TABLE etl.{name} (a UInt8) ENGINE = MergeTree ORDER BY a")
    rewritten = '{"holder":"x","host":"h","pid":1,"token":"t","since":"s","renewed_ms":0,"lease_ms":1}'
    warehouse.command(f"ALTER TABLE etl.writer_lease_10 MODIFY COMMENT '{rewritten}'")
    with hold_lease(warehouse, purpose="carat etl"):
        names = warehouse.query("SELECT name FROM system.tables WHERE database = 'etl' ORDER BY name")
        assert names["name"].to_list() == ["writer_lease_011", "writer_lease_11", "writer_lease_old"]


# ---- damage, and clocks ------------------------------------------------------------------------------------------


def test_a_damaged_comment_holds_for_one_lease_after_its_last_change(connect):
    holder, other = connect(), connect()
    with hold_lease(holder, purpose="carat etl") as held:
        (note,) = leases(other).values()
        wrong_type = json.dumps(note | {"renewed_ms": "noon"})
        for comment in ("", "not JSON", "{", "[]", "null", '{"pid": 1}', wrong_type):
            rewrite(other, comment)
            assert re.search(r"is held by an unknown process since 20\d\d-\d\d-\d\dT", refused(other))
            with pytest.raises(LockedError, match="etl.writer_lease_1 is gone or is not this process's"):
                held.require()
        time.sleep(1)
        with hold_lease(other, purpose="carat ingest", lease_s=1):
            pass


@pytest.mark.parametrize("years", [-20, 20])
def test_a_clock_that_is_wrong_by_years_changes_nothing(connect, monkeypatch, years):
    off = timedelta(days=365 * years)
    true_time = time.time

    class WrongClock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + off

    def spoil(is_wrong: bool) -> None:
        monkeypatch.setattr(time, "time", (lambda: true_time() + off.total_seconds()) if is_wrong else true_time)
        monkeypatch.setattr(lease, "datetime", WrongClock if is_wrong else datetime)

    wrong, right = connect(), connect()
    spoil(is_wrong=True)
    with hold_lease(wrong, purpose="carat etl") as held:
        held.require()
        spoil(is_wrong=False)
        message = refused(right)
        assert f"since {datetime.now(tz=UTC).year}" in message
        held.require()
    with hold_lease(right, purpose="carat etl") as held:
        spoil(is_wrong=True)
        refused(wrong)
        held.require()


def test_a_server_clock_that_was_set_back_does_not_hold_it_for_years(connect):
    warehouse = connect()
    lease._acquire(warehouse, "carat etl", 60_000)
    (note,) = leases(warehouse).values()
    rewrite(warehouse, json.dumps(note | {"renewed_ms": note["renewed_ms"] + 600_000}))
    refused(warehouse)  # renewed while this look at it stood still between reading the clock and reading the comment
    rewrite(warehouse, json.dumps(note | {"renewed_ms": note["renewed_ms"] + 10**12}))
    with hold_lease(warehouse, purpose="carat ingest"):
        assert list(leases(warehouse)) == ["writer_lease_2"]
