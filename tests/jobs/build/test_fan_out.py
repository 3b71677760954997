"""Days built by the workers of a Dask scheduler: real processes on loopback, one server, and every way to go wrong."""

import json
import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event

import distributed
import pytest

import app.jobs.build.day
from app.core.errors import AuditError, CaratError, ClusterError, LockedError, SettingsError, WarehouseError
from app.jobs import ingest
from app.jobs.build import fan_out
from app.jobs.build.backfill import Backfill, build_stale
from app.jobs.build.day import JOBS
from app.jobs.build.fan_out import DayTask, build_on_worker, open_runner
from app.jobs.build.ledger import compare, read_inputs
from app.jobs.build.rules import BuildRules
from app.jobs.verify import verify_days
from app.main import main
from app.settings import SHIPPED_TRACKING, Settings
from app.warehouse import Warehouse, open_warehouse, recover
from app.warehouse.lease import hold_lease, lent_token, require_lent
from tests.support.clickhouse_http import running_server
from tests.support.deadline import deadline
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.slow

PASSWORD = "pa55-w0rd"
FIRST, LAST = date(2026, 3, 1), date(2026, 3, 5)
SUNDAYS = tuple(date(2026, 4, day) for day in (5, 12, 19))
ODD_DAY = date(2026, 4, 26)
DAYS = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
START_S = 240


# ---- a server, a scheduler, workers ------------------------------------------------------------------------------


@dataclass
class Cluster:
    """A scheduler on loopback whose workers are processes with settings of their own."""

    folder: Path
    address: str
    observer: distributed.Client
    stack: ExitStack
    environment: dict[str, str]
    scheduler: subprocess.Popen

    def start_worker(self, name: str, **environment: str) -> subprocess.Popen:
        """A worker of one thread; it ends with the cluster, if not before."""
        preload = ("--preload", "tests.support.halting_worker") if "HALT_AT" in environment else ()
        command = ("worker", self.address, "--name", name, "--nthreads", "1", "--no-nanny", "--memory-limit", "0")
        process = start_dask(
            self.stack,
            *command, "--no-dashboard", "--local-directory", str(self.folder / name), *preload,
            log=self.folder / f"{name}.log",
            environment=self.environment | {"CARAT_LOG": str(self.folder / f"{name}.errors")} | environment,
        )  # fmt: skip
        wait_for(lambda: name in self.names(), f"worker {name}")
        return process

    def stop_worker(self, process: subprocess.Popen, name: str) -> None:
        process.kill()
        process.wait()
        wait_for(lambda: name not in self.names(), f"the end of {name}")

    def names(self) -> set[str]:
        return {worker["name"] for worker in self.observer.scheduler_info(n_workers=-1)["workers"].values()}


def start_dask(stack: ExitStack, *arguments: str, log: Path, environment: dict[str, str]) -> subprocess.Popen:
    file = stack.enter_context(log.open("wb"))
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            cwd=CHECKOUT,
            env={
                name: value
                for name, value in os.environ.items()
                if not name.startswith("CARAT_") or name == "CARAT_MAX_AGE_DAYS"
            }
            | environment,
            stdout=file,
            stderr=file,
        )
    )
    stack.callback(process.kill)
    return process


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited {START_S} s for {what}"
        time.sleep(0.05)


@contextmanager
def running_cluster(folder: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    with ExitStack() as stack:
        file = folder / "scheduler.json"
        command = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        process = start_dask(stack, *command, log=folder / "scheduler.log", environment={})
        wait_for(lambda: file.exists() and file.stat().st_size > 0, "the scheduler")
        address = json.loads(file.read_text())["address"]
        observer = distributed.Client(address, timeout=START_S, set_as_default=False)
        stack.callback(observer.close, timeout=2)
        yield Cluster(folder, address, observer, stack, environment, process)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The settings of all processes: a served warehouse that holds some weeks of calls."""
    with running_server(tmp_path_factory.mktemp("served-engine"), password=PASSWORD) as server:
        settings = Settings(_env_file=None, warehouse=server.url)
        with open_warehouse(settings, purpose="a test") as warehouse:
            path = tmp_path_factory.mktemp("calls") / "calls.ndjson"
            calls = [call for day in DAYS for call in calls_of(day, 150)]
            calls += [call for day in SUNDAYS for call in calls_of(day, 1050)]
            calls += calls_of(ODD_DAY, 2200) + calls_of(ODD_DAY + timedelta(days=1), 20)
            ingest_calls(warehouse, path, calls)
        yield {"CARAT_WAREHOUSE": server.url, "CARAT_WORKERS": "1"}


@pytest.fixture(scope="module")
def cluster(environment, tmp_path_factory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), environment) as cluster:
        for number in (1, 2, 3):
            cluster.start_worker(f"worker-{number}")
        yield cluster


@pytest.fixture
def settings(environment, monkeypatch) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


@pytest.fixture
def warehouse(settings) -> Iterator[Warehouse]:
    """The calls, of which nothing is built."""
    with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
        for table in ("etl.ledger", "etl.publications", "etl.runs", *(f"dwh.{job}" for job in JOBS)):
            warehouse.command(f"TRUNCATE TABLE {table}")
        yield warehouse


def calls_of(day: date, count: int, *, seed: int = 0) -> list[dict]:
    """A day's calls of a few visitors, of whom some are awake at midnight."""
    rng = random.Random(f"{day} {seed}")
    calls = []
    for number in range(count):
        minute = rng.choice([rng.randrange(1440), rng.randrange(1440), rng.randrange(20), 1439 - rng.randrange(20)])
        product = rng.randrange(9)
        method, endpoint, request, response = rng.choice(
            [
                ("GET", "/api/v1/catalog", {"query": {"section": "x"}}, {"total": 1, "items": [{"id": product}]}),
                ("GET", f"/api/v1/products/{product}", None, {"price": 9.99}),
                ("POST", "/api/v1/cart/items", {"body": {"product_id": str(product)}}, None),
                ("GET", "/api/v1/banners", None, None),
            ]
        )
        calls.append(
            {
                "ts": f"{day}T{minute // 60:02}:{minute % 60:02}:00.{number % 1000:03}Z",
                "call_id": f"{seed:08x}-0000-0000-{day.toordinal() % 65536:04x}-{number:012}",
                "method": method, "endpoint": endpoint, "visitor_id": f"v{rng.randrange(count // 6)}", "status": 200,
                "request": request, "response": response,
            }
        )  # fmt: skip
    return calls


def ingest_calls(warehouse: Warehouse, path: Path, calls: list[dict]) -> None:
    path.write_text("".join(json.dumps(call) + "\n" for call in calls))
    totals = ingest.LoadResult()
    ingest.ingest_source(
        warehouse, str(path), now=datetime(2026, 6, 1, tzinfo=UTC), totals=totals
    )  # fmt: skip
    assert totals.stored == len(calls)


def build_on(cluster: Cluster, settings: Settings, span=(FIRST, LAST), **options) -> Backfill:
    with open_runner(settings, cluster.address) as runner, open_warehouse(settings, purpose="carat etl") as writer:
        return build_stale(writer, settings, span=span, jobs=JOBS, runner=runner, **options)


def carat(*arguments: str, **settings: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, with this process's settings."""
    return subprocess.Popen(
        [sys.executable, "-m", "app", *arguments],
        cwd=CHECKOUT,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tables(warehouse: Warehouse, days: Sequence[date] = DAYS) -> dict[str, list]:
    span = f"BETWEEN '{days[0]}' AND '{days[-1]}'"
    of_day = {job: "event_date" if job == "events" else "session_date" for job in JOBS}
    return {
        job: warehouse.query(f"SELECT * FROM dwh.{job} WHERE {of_day[job]} {span} ORDER BY ALL").rows() for job in JOBS
    }


def require_built(warehouse: Warehouse, settings: Settings, days: Sequence[date] = DAYS) -> None:
    """The days are what their calls say, the ledger says so, and nothing else is left."""
    with open_warehouse(settings, purpose="carat verify") as writer:
        verification = verify_days(writer, settings, span=(days[0], days[-1]))
    assert {table.day for table in verification.tables} == set(days)
    assert [table for table in verification.tables if table.differing] == []
    assert not verification.stale
    require_nothing_left(warehouse)


def require_nothing_left(warehouse: Warehouse) -> None:
    left = warehouse.query(
        "SELECT name FROM system.tables WHERE database = 'etl' AND match(name, '^(staged|changed|unread|verified)_')"
    )
    assert left.rows() == []
    unfinished = warehouse.query(
        "SELECT publication_id FROM etl.publications GROUP BY publication_id HAVING countIf(state = 'published') = 0"
    )
    assert unfinished.rows() == []


# ---- what is built -----------------------------------------------------------------------------------------------


def test_days_built_by_three_workers_are_those_built_by_one_process(cluster, warehouse, settings):
    process = carat("etl", "--on", cluster.address, "--from", str(FIRST), "--to", str(LAST), "--json")
    out, err = process.communicate(timeout=START_S)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert [day["day"] for day in report["built"]] == [str(day) for day in DAYS]
    assert report["failed"] == []
    by_three = tables(warehouse)
    assert min(len(rows) for name, rows in by_three.items() if "order_calls" not in name) > 100
    runs = warehouse.query("SELECT started_at, ended_at FROM etl.runs WHERE job = 'etl' ORDER BY started_at").rows()
    assert len(runs) == len(DAYS)
    assert any(later[0] < earlier[1] for earlier, later in zip(runs, runs[1:], strict=False))  # a worker has one thread
    require_built(warehouse, settings)

    with open_warehouse(settings, purpose="carat etl") as writer:
        build_stale(writer, settings, span=(FIRST, LAST), jobs=JOBS, force=True)
    assert tables(warehouse) == by_three


def test_a_second_run_finds_nothing_to_do_and_force_builds_some_tables_anew(cluster, warehouse, settings):
    assert [day.day for day in build_on(cluster, settings, (FIRST, DAYS[1])).built] == DAYS[:2]
    assert build_on(cluster, settings, (FIRST, DAYS[1])).stale == []
    with open_runner(settings, cluster.address) as runner, open_warehouse(settings, purpose="carat etl") as writer:
        options = {"span": (FIRST, FIRST), "force": True, "runner": runner}
        built = build_stale(writer, settings, jobs=("events", "sessions"), **options).built
    assert [(day.day, sorted(day.rows)) for day in built] == [(FIRST, ["events", "order_calls", "sessions"])]


def test_a_day_that_fails_its_audit_does_not_keep_the_others_from_being_built(cluster, warehouse, settings):
    """What is believed is decided where the days are handed out: the workers have the default, ten times."""
    span = (SUNDAYS[0], ODD_DAY + timedelta(days=1))
    assert build_on(cluster, settings, (SUNDAYS[0], SUNDAYS[-1])).failures == []
    strict = settings.model_copy(update={"max_row_factor": 1.5})
    backfill = build_on(cluster, strict, span)
    assert [day.day for day in backfill.stale] == [ODD_DAY, ODD_DAY + timedelta(days=1)]
    assert [day.day for day in backfill.built] == [ODD_DAY + timedelta(days=1)]
    with pytest.raises(AuditError, match=r"^2026-04-26: audit failed: 2,200 rows of events"):
        backfill.require_done()
    require_nothing_left(warehouse)
    assert [day.day for day in build_on(cluster, strict, span, skip_row_count_check=True).built] == [ODD_DAY]


# ---- workers that die --------------------------------------------------------------------------------------------


def test_workers_killed_in_the_middle_of_a_day_cost_nothing(cluster, warehouse, settings, tmp_path):
    """The days had been built before, and then calls came: one killed while publishing leaves a mixture of both."""
    build_on(cluster, settings)
    with open_warehouse(settings, purpose="carat ingest") as writer:
        ingest_calls(writer, tmp_path / "late.ndjson", [call for day in DAYS for call in calls_of(day, 12, seed=1)])
    halted = {at: tmp_path / at for at in ("staged", "publishing")}
    victims = [cluster.start_worker(at, HALT_AT=at, HALT_FILE=str(file)) for at, file in halted.items()]
    with ThreadPoolExecutor(1) as thread:
        building = thread.submit(build_on, cluster, settings)
        for victim, file in zip(victims, halted.values(), strict=True):
            wait_for(file.exists, "the middle of a day")
            victim.kill()
            victim.wait()
        backfill = building.result(timeout=START_S)
    assert [int(file.read_text()) for file in halted.values()] == [victim.pid for victim in victims]
    assert [day.day for day in backfill.built] == DAYS
    require_built(warehouse, settings)
    assert warehouse.scalar("SELECT count() FROM dwh.events WHERE event_date <= '2026-03-05'") == warehouse.scalar(
        "SELECT count() FROM pd.api_calls WHERE toDate(ts) <= '2026-03-05'"
    )


def test_a_worker_that_was_only_thought_dead_changes_nothing(warehouse, settings, monkeypatch):
    """Its day is built by another meanwhile; then it goes on, first under the same lease, then after its end."""
    staged, go_on = Event(), Event()
    audit = app.jobs.build.day.audit

    def stand_still(*arguments, **options):
        monkeypatch.setattr(app.jobs.build.day, "audit", audit)
        staged.set()
        go_on.wait(START_S)
        audit(*arguments, **options)

    def attempt_late(task: DayTask, meanwhile: Callable[[], None]) -> CaratError | object:
        staged.clear()
        go_on.clear()
        monkeypatch.setattr(app.jobs.build.day, "audit", stand_still)
        with ThreadPoolExecutor(1) as thread:
            attempt = thread.submit(build_on_worker, task)
            staged.wait(START_S)
            meanwhile()
            go_on.set()
            return attempt.result(START_S)

    with ExitStack() as held:
        writer = held.enter_context(open_warehouse(settings, purpose="carat etl"))
        task = task_of(writer, settings)
        late = attempt_late(task, lambda: build_on_worker(task))
        assert late.rows == build_on_worker(task).rows
        assert len(tables(warehouse, [FIRST])["events"]) == late.rows["events"]
        before, entries = tables(warehouse), warehouse.scalar("SELECT count() FROM etl.ledger")

        swept = attempt_late(task, lambda: recover(writer))  # the run ended: what it staged is gone
        assert isinstance(swept, WarehouseError)
        late = attempt_late(task, held.close)  # and so is the lease
    assert isinstance(late, LockedError)
    assert tables(warehouse) == before
    assert warehouse.scalar("SELECT count() FROM etl.ledger") == entries
    assert isinstance(build_on_worker(task), LockedError)  # nor is one begun
    with open_warehouse(settings, purpose="carat etl"):
        assert isinstance(build_on_worker(task), LockedError)  # whoever holds it now did not hand this out
    require_nothing_left(warehouse)


def test_a_scheduler_without_workers_and_one_that_dies_are_told_in_one_line(
    environment, warehouse, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(fan_out, "_FIRST_WORKER_S", 0.5)
    with running_cluster(tmp_path, environment) as lonely, ThreadPoolExecutor(1) as thread:
        with pytest.raises(ClusterError, match=r"has no worker: start some with `dask worker tcp://127"):
            build_on(lonely, settings)
        with monkeypatch.context() as patched:  # as when the last worker goes
            patched.setattr(fan_out._Cluster, "require_worker", lambda _: None)
            with pytest.raises(ClusterError, match=r"has had no worker for 0.5 s\. What was built is kept"):
                build_on(lonely, settings.model_copy(update={"patience_s": 0.5}))
        lonely.start_worker("halting", HALT_AT="staged", HALT_FILE=str(tmp_path / "halted"))
        building = thread.submit(build_on, lonely, settings)
        wait_for((tmp_path / "halted").exists, "the middle of a day")
        lonely.scheduler.kill()
        with pytest.raises(ClusterError, match=r"^the scheduler at tcp://\S+ is gone\. What was built is kept; "):
            building.result(START_S)
    with open_warehouse(settings, purpose="carat etl"):  # as every command that writes begins
        pass
    require_nothing_left(warehouse)


def test_a_day_of_which_every_worker_dies_is_a_day_that_fails():
    class Killed:
        status = "error"

        def cancelled(self):
            return False

        def exception(self, timeout):
            return distributed.KilledWorker("key", None, 3)

    cluster = fan_out._Cluster(distributed, None, "tcp://scheduler:8786")
    (day,) = [fan_out.StaleDay(FIRST, JOBS, ("never built",))]
    assert re.match(r"2026-03-01: every worker .* died, 4 of them\. Do", str(cluster.outcome(Killed(), day)))


# ---- workers that are refused ------------------------------------------------------------------------------------


def task_of(writer: Warehouse, settings: Settings, day: date = FIRST, *, force: bool = True) -> DayTask:
    """What a worker is sent of a day."""
    rules = BuildRules.load(settings)
    inputs = read_inputs(writer, rules, keep=True)
    (stale,) = [stale for stale in compare(writer, inputs, jobs=JOBS, force=force)[0] if stale.day == day]
    return DayTask(
        stale, fan_out._inputs_of(inputs, stale), fan_out._raw_table(writer), lent_token(writer), 10.0, False
    )


def other_map(folder: Path) -> Path:
    path = folder / "tracking.toml"
    path.write_text(SHIPPED_TRACKING.read_text().replace("/cart/items", "/basket/items"))
    return path


def test_a_worker_with_another_endpoint_map_is_refused_by_name(cluster, warehouse, settings, tmp_path):
    stranger = cluster.start_worker("stranger", CARAT_TRACKING=str(other_map(tmp_path)))
    with pytest.raises(
        SettingsError, match=r"^worker stranger on \S+ has another endpoint map \(CARAT_TRACKING\) than"
    ):
        build_on(cluster, settings)
    cluster.stop_worker(stranger, "stranger")
    require_nothing_left(warehouse)
    built = warehouse.scalar("SELECT uniqExact(day) FROM etl.ledger")
    assert 0 < built < len(DAYS)  # what had begun was awaited, the rest was not begun


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("CARAT_TIMEZONE", "Europe/Berlin", "has another time zone (CARAT_TIMEZONE) than"),
        ("CARAT_SESSION_TIMEOUT", "45", "has another session timeout (CARAT_SESSION_TIMEOUT) than"),
        ("CARAT_SNAPSHOTS", str(CHECKOUT / "app/rules/snapshot_plans/opencart.toml"), "has another snapshot plan of products"),
        ("CARAT_WAREHOUSE", "chdb:///nowhere", "has no ClickHouse server in CARAT_WAREHOUSE"),
        ("CARAT_TRACKING", "/nowhere.toml", "CARAT_TRACKING: cannot read /nowhere.toml"),
    ],
)  # fmt: skip
def test_a_worker_that_would_build_something_else_is_refused(warehouse, settings, monkeypatch, name, value, problem):
    with open_warehouse(settings, purpose="carat etl") as writer:
        task = task_of(writer, settings)
        monkeypatch.setenv(name, value)
        refused = build_on_worker(task)
    assert isinstance(refused, SettingsError)
    assert problem in str(refused)
    assert tables(warehouse)["events"] == []


def test_a_worker_of_another_version_or_warehouse_is_refused(warehouse, settings):
    with open_warehouse(settings, purpose="carat etl") as writer:
        task = task_of(writer, settings)
        newer = replace(task, inputs=replace(task.inputs, rules=task.inputs.rules | {"transform_version": "9"}))
        assert "has another version of Carat than" in str(build_on_worker(newer))
        elsewhere = replace(task, raw_table="00000000-0000-0000-0000-000000000000")
        assert "has another warehouse (CARAT_WAREHOUSE) than" in str(build_on_worker(elsewhere))
    assert tables(warehouse)["events"] == []


def test_neither_secrets_nor_calls_go_over_the_wire(warehouse, settings, monkeypatch):
    with open_warehouse(settings, purpose="carat etl") as writer:
        sent = pickle.dumps(task_of(writer, settings))
        assert len(sent) < 8000
        assert PASSWORD.encode() not in sent
        assert b"visitor" not in sent
        task = task_of(writer, settings)
        monkeypatch.setenv("CARAT_WAREHOUSE", settings.warehouse.with_password().replace(PASSWORD, "wr0ng-pa55"))
        answered = build_on_worker(task)
    assert isinstance(answered, WarehouseError)
    assert b"wr0ng-pa55" not in pickle.dumps(answered)
    assert answered.__cause__ is None


# ---- wrong use ---------------------------------------------------------------------------------------------------


def said(capsys, monkeypatch, *arguments: str) -> tuple[int, str]:
    """The exit code of a command and the last line of what it says of its failure."""
    monkeypatch.setattr(sys, "argv", ["carat", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len(lines) < 2
    return exit_.value.code, "".join(lines)


def test_a_missing_scheduler_ends_the_command_with_its_address(settings, capsys, monkeypatch):
    with deadline():
        code, line = said(capsys, monkeypatch, "etl", "--on", "tcp://127.0.0.1:1")
    assert code == 1
    assert line.startswith("carat: no scheduler answers at tcp://127.0.0.1:1 (")


@pytest.mark.parametrize("address", ["scheduler", "scheduler:8786", "tcp://scheduler", "http://scheduler:8786", ""])
def test_what_is_no_address_is_refused(settings, capsys, monkeypatch, address):
    code, line = said(capsys, monkeypatch, "etl", "--on", address)
    assert (code, line) == (
        2,
        f"carat: --on {address!r} is not the address of a scheduler, such as tcp://scheduler:8786",
    )


def test_tls_without_a_certificate_is_refused(settings, capsys, monkeypatch):
    code, line = said(capsys, monkeypatch, "etl", "--on", "tls://127.0.0.1:1")
    assert code == 2
    assert line.startswith("carat: --on tls://… needs a certificate")


def test_an_embedded_warehouse_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CARAT_WAREHOUSE", f"chdb://{tmp_path}/warehouse")
    code, line = said(capsys, monkeypatch, "etl", "--on", "tcp://127.0.0.1:1")
    assert code == 2
    assert line.startswith("carat: --on needs a ClickHouse server that every worker reaches")
    assert not (tmp_path / "warehouse").exists()


def test_a_missing_package_is_told_with_how_to_install_it(settings, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, line = said(capsys, monkeypatch, "etl", "--on", "tcp://127.0.0.1:1")
    assert code == 2
    assert f"{sys.executable} -m pip install distributed" in line


def test_a_dry_run_needs_no_scheduler(warehouse, settings, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["carat", "etl", "--on", "tcp://127.0.0.1:1", "--dry-run", "--json"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    assert len(json.loads(capsys.readouterr().out)["stale"]) == len(DAYS) + len(SUNDAYS) + 2


# ---- the lease, lent ---------------------------------------------------------------------------------------------


def test_a_lease_that_is_nearly_over_is_lent_again_when_its_holder_renews_it(warehouse, settings):
    with hold_lease(warehouse, purpose="carat etl", lease_s=60) as held:
        token = lent_token(warehouse.with_guard(held.require))
        require_lent(warehouse, token=token)
        age(warehouse, seconds=40)
        with ThreadPoolExecutor(1) as thread, open_warehouse(settings, purpose="", writes=False) as own:
            asked = thread.submit(require_lent, own, token=token)
            time.sleep(0.5)
            assert not asked.done()
            held.require()
            asked.result(START_S)


def test_a_lease_whose_holder_died_is_not_lent_until_its_end(warehouse):
    with hold_lease(warehouse, purpose="carat etl", lease_s=60) as held:
        token = lent_token(warehouse.with_guard(held.require))
        renewed_ms = age(warehouse, seconds=58)
        with pytest.raises(LockedError, match="no longer holds it"):
            require_lent(warehouse, token=token)
        assert warehouse.scalar("SELECT toUnixTimestamp64Milli(now64(3))") >= renewed_ms + 60_000


def age(warehouse: Warehouse, *, seconds: int) -> int:
    """Make the lease look as if it had been renewed that long ago; returns when, in milliseconds since 1970."""
    (name, comment) = warehouse.query(
        "SELECT name, comment FROM system.tables WHERE database = 'etl' AND name LIKE 'writer\\_lease\\_%'"
    ).row(0)
    note = json.loads(comment)
    renewed_ms: int = note["renewed_ms"] - 1000 * seconds
    changed = json.dumps(note | {"renewed_ms": renewed_ms})
    warehouse.command(f"ALTER TABLE etl.{name} MODIFY COMMENT '{changed}'")
    return renewed_ms
