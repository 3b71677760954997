"""An embedded warehouse can be queried, and only queried, while another process holds it."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from app.contracts import DWH_TABLES
from app.core.errors import LockedError, WarehouseError
from app.settings import Settings
from app.warehouse import Warehouse, migrate, open_warehouse, query_socket
from app.warehouse.lock import hold_embedded
from app.warehouse.query_socket import accepts_queries, serve_queries
from app.warehouse.reading import parse_statement, restrict
from tests.jobs.test_load import call
from tests.support.collecting import KEY
from tests.support.deadline import deadline
from tests.support.paths import CHECKOUT
from tests.test_main import carat

PATIENCE_S = 60.0
FORMATS = ("PrettyCompactNoEscapes", "CSVWithNames", "JSONEachRow", "Parquet")
ENDLESS = "SELECT sum(sipHash64(number)) FROM numbers(10000000000000)"


def until(is_so: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.05)


# ---- within one process: a real engine and real sockets ------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the path of a socket would be too long for its address."""
    return tmp_path_factory.mktemp("query-socket") / ("a-long-name" * 12) / "warehouse"


@pytest.fixture(scope="module")
def settings_here(folder) -> Settings:
    return Settings(_env_file=None, warehouse=f"chdb://{folder}")


@pytest.fixture(scope="module")
def held(settings_here, folder) -> Iterator[Warehouse]:
    """A warehouse that is held and answered for."""
    with open_warehouse(settings_here, purpose="carat serve") as warehouse:
        migrate(warehouse, settings_here)

        def read(question: Callable[[Warehouse], bytes]) -> bytes:
            with warehouse.new_connection() as own:
                return question(own)

        with serve_queries(folder, read):
            yield warehouse


@pytest.fixture
def asking(held, settings_here) -> Iterator[Warehouse]:
    """Whoever opens the held warehouse to read."""
    with open_warehouse(settings_here, purpose="a test", writes=False) as warehouse:
        yield warehouse


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_answer_equals_the_answer_of_the_engine_byte_for_byte(held, asking, fmt):
    sql = "SELECT number, toString(number) AS text, if(number = 2, NULL, today()) AS day FROM numbers(3) -- all"
    assert asking.raw(sql, fmt=fmt) == held.raw(sql, fmt=fmt)


def test_frames_parameters_and_empty_results_are_passed_on(held, asking):
    text = "tab\t, line\n, 'quote', back\\slash, ring 💍"
    assert asking.scalar("SELECT {text:String}", {"text": text}) == text
    assert asking.scalar("SELECT length({names:Array(String)})", {"names": ["a", "b"]}) == 2
    assert asking.query("SELECT name FROM system.databases ORDER BY name").equals(
        held.query("SELECT name FROM system.databases ORDER BY name")
    )
    assert asking.query("SELECT 1 AS one WHERE false").height == 0
    assert asking.version == held.version


@pytest.mark.parametrize("sql", [
    "INSERT INTO etl.runs SELECT * FROM etl.runs", "INSERT INTO FUNCTION file('{folder}/out', 'CSV') SELECT 1", "drop table etl.runs", "TRUNCATE TABLE etl.runs",
    "SELECT 1 INTO OUTFILE '{folder}/out'", "select 1 /* a */ into /* b */ outfile '{folder}/out'", "WITH 1 AS a SELECT a INTO OUTFILE '{folder}/out'",
    "EXPLAIN INSERT INTO FUNCTION file('{folder}/out', 'CSV') SELECT 1", "KILL QUERY WHERE 1", "SYSTEM FLUSH LOGS", "SET readonly = 0", "OPTIMIZE TABLE etl.runs",
    "SELECT 1 PARALLEL WITH KILL QUERY WHERE 1", "CREATE TEMPORARY TABLE t (a Int8)", "USE etl", "ALTER TABLE etl.runs DELETE WHERE 1",
])  # fmt: skip
def test_anything_but_a_query_is_refused(held, asking, folder, sql):
    before = held.scalar("SELECT count() FROM system.tables WHERE database IN ('etl', 'pd', 'dwh')")
    with pytest.raises(LockedError, match="`carat serve` holds the warehouse and answers only queries"):
        asking.raw(sql.format(folder=folder.parent), fmt="CSV")
    assert not (folder.parent / "out").exists()
    assert held.scalar("SELECT count() FROM system.tables WHERE database IN ('etl', 'pd', 'dwh')") == before


def test_the_engine_enforces_read_only_as_well(held, asking):
    with held.new_connection() as limited:
        restrict(limited, [parse_statement(limited, "SELECT 1")], {"max_memory_usage": 10**9})
        for sql in ("DROP TABLE etl.runs", "SET max_memory_usage = 0", "SET readonly = 0"):
            with pytest.raises(WarehouseError, match="READONLY"):
                limited.command(sql)
        for sql in ("SELECT 1 SETTINGS max_memory_usage = 0", "SELECT * FROM file('/etc/hostname', 'LineAsString')"):
            with pytest.raises(WarehouseError, match="READONLY"):
                limited.raw(sql, fmt="CSV")
    held.command("CREATE TABLE etl.of_a_test (a Int8) ENGINE = Memory")  # the others go on writing
    held.command("DROP TABLE etl.of_a_test")


@pytest.mark.parametrize("sql", [
    "SELECT 'INTO OUTFILE ''x''' AS `INSERT INTO`", "(SELECT 1) UNION ALL (SELECT 2)", "FROM numbers(2) SELECT number", "-- a\nSELECT 1 -- b", "SHOW TABLES FROM etl",
    "DESCRIBE TABLE etl.runs", "EXISTS TABLE etl.runs", "EXPLAIN SELECT 1", "WITH 1 AS a SELECT a", "SELECT 1 SETTINGS max_threads = 1",
])  # fmt: skip
def test_a_query_is_answered_however_it_is_written(held, asking, sql):
    assert asking.raw(sql, fmt="TSV") == held.raw(sql, fmt="TSV")


@pytest.mark.parametrize("setting", [
    "max_memory_usage = 0", "max_execution_time = 0", "max_execution_time = 3600", "max_threads = 64", "max_threads = 0", "max_threads = '64'", "readonly = 0",
    "max_result_bytes = 0", "result_overflow_mode = 'break'", "timeout_overflow_mode = 'break'", "max_memory_usage = 1e12", "max_memory_usage = DEFAULT", "profile = 'default'",
    "max_temporary_data_on_disk_size_for_query = 0", "compatibility = '21.8'", "format_schema = '/etc/hostname'", "output_format_schema = '/tmp/out'", "join_use_nulls = 1, max_memory_usage = 0",
    "allow_experimental_eval_table_function = 1", "additional_result_filter = '0'",
])  # fmt: skip
@pytest.mark.parametrize(
    "sql", ["SELECT 1 SETTINGS {}", "SELECT * FROM (SELECT 1 SETTINGS {})", "SELECT 1 UNION ALL SELECT 2 settings {}"]
)
def test_settings_of_a_query_cannot_lift_its_limits(asking, sql, setting):
    with pytest.raises(WarehouseError, match=r"SETTINGS \w+ = .* is not available|READONLY|Syntax error"):
        asking.raw(sql.format(setting), fmt="CSV")


def test_memory_stays_limited_whatever_a_subquery_says(asking, monkeypatch):
    monkeypatch.setitem(query_socket._LIMITS, "max_memory_usage", 50_000_000)
    monkeypatch.setattr(query_socket, "require_own_tables", lambda *_: None)  # the engine alone
    many = "SELECT length(groupArray(number)) FROM (SELECT number FROM numbers(50000000) SETTINGS {})"
    for setting in ("join_use_nulls = 0", "max_block_size = 1000"):
        with pytest.raises(WarehouseError, match="MiB of memory"):
            asking.raw(many.format(setting), fmt="CSV")


def test_a_query_may_choose_what_its_result_means(held, asking):
    joined = "SELECT t.b FROM (SELECT 1 AS a) AS s LEFT JOIN (SELECT 2 AS a, 3 AS b) AS t USING (a)"
    for setting in ("join_use_nulls = 1", "join_use_nulls = '1', max_threads = 1", "join_use_nulls = 0"):
        sql = f"{joined} SETTINGS {setting}"
        assert asking.raw(sql, fmt="TSV") == held.raw(sql, fmt="TSV")
    assert asking.raw(f"{joined} SETTINGS join_use_nulls = 1", fmt="TSV") == b"\\N\n"
    assert asking.raw(joined, fmt="TSV") == b"0\n"  # the next query has its own settings


@pytest.mark.parametrize("sql", [
    "SELECT file('/etc/hostname')", "SELECT * FROM file('/etc/hostname', 'LineAsString')", "DESCRIBE TABLE file('/etc/hostname', 'LineAsString')", "SELECT /* a */ `file` /* b */ ('/etc/hostname')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "DESCRIBE TABLE url('http://127.0.0.1:1/a.csv')", "SELECT * FROM remote('127.0.0.1:1', 'system.one')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')", "SELECT * FROM s3('http://127.0.0.1:1/b/c.csv')", "SELECT * FROM executable('x', 'TSV', 'a Int8')",
    "DESCRIBE executable('x', 'TSV', 'a Int8', (SELECT 1))", "SELECT * FROM sqlite('/tmp/s.db', 't')", "SELECT * FROM postgresql('a:1', 'b', 'c', 'd', 'e')",
    "SELECT * FROM merge('system', 'users')", "SELECT * FROM python('x')", "SELECT * FROM cluster('default', system.one)", "SELECT * FROM eval('SELECT 1')",
    "SELECT COLUMNS('a') APPLY(file) FROM (SELECT '/etc/hostname' AS a)", "SELECT * APPLY file FROM (SELECT '/etc/hostname' AS a)", "SELECT * REPLACE (file(a) AS a) FROM (SELECT '/etc/hostname' AS a)",
    "SHOW TABLES WHERE file('/etc/hostname') != ''", "SELECT arrayMap(x -> file(x), ['/etc/hostname'])", "SELECT 1 LIMIT length(file('/etc/hostname'))", "WITH file('/etc/hostname') AS f SELECT f",
    "SELECT 1 WHERE '' != (SELECT file('/etc/hostname'))", "EXPLAIN SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT aiGenerate('x', 'y')",
    "SELECT * FROM system.named_collections", "SELECT * FROM `system`.`users`", "SELECT 1 IN system.certificates", "SELECT * FROM system . server_settings", "SELECT * FROM system.user_directories",
    "SELECT * FROM '/etc/hostname'", "SELECT * FROM `/etc/hostname`", "DESCRIBE TABLE `/etc/hostname`", "SELECT * FROM filesystem('/etc')", "SELECT * FROM icebergLocal('/etc')",
])  # fmt: skip
def test_a_query_reaches_no_file_no_other_server_and_no_secret(asking, sql):
    with pytest.raises(WarehouseError, match=r"is not available|READONLY|Unknown table"):
        asking.raw(sql, fmt="CSV")


@pytest.mark.parametrize("sql", [
    "SELECT 'file(x) INTO OUTFILE' AS url, 1 AS file, 2 AS s3", "SELECT url IN ('a') FROM (SELECT 'a' AS url)", "WITH remote AS (SELECT 1 AS merge) SELECT merge FROM remote", "SELECT format('{}', 'a')",
    "SELECT count() FROM system.tables", "SELECT count() FROM information_schema.tables", "SELECT * FROM values('a Int8', 1)", "SELECT * FROM generate_series(1, 3)", "SELECT domain('http://a.example/')",
])  # fmt: skip
def test_names_that_only_look_like_functions_for_files_are_left_alone(held, asking, sql):
    assert asking.raw(sql, fmt="TSV") == held.raw(sql, fmt="TSV")


@pytest.mark.parametrize(("sql", "value"), [
    ("SELECT '%(x)s '", " INTO OUTFILE $$/tmp/carat-a-test$$ -- "), ("SELECT %(x)s", "' INTO OUTFILE '/tmp/carat-a-test"), ("SELECT '%(x)s'", " , file('/etc/hostname') , "),
    ("SELECT '%(x)s' FROM numbers(1)", " FROM file('/etc/hostname', 'LineAsString') -- "), ("SELECT * FROM {x:Identifier}", "system.users"), ("SELECT {x:String} INTO OUTFILE '/tmp/carat-a-test'", "a"),
    ("SELECT '%(x)s'", "; DROP TABLE etl.runs -- "),
])  # fmt: skip
def test_what_is_checked_is_the_query_with_its_parameters(held, asking, sql, value):
    with suppress(WarehouseError, LockedError):
        answer = asking.raw(sql, fmt="TSV", parameters={"x": value})
        assert value.strip().split("'")[0][:5].encode() in answer  # as a plain text
    assert not Path("/tmp/carat-a-test").exists()
    assert held.scalar("EXISTS etl.runs") == 1


def test_an_invalid_query_gets_the_error_of_the_engine_and_multiple_statements_are_refused(held, asking):
    with pytest.raises(WarehouseError, match="Unknown expression identifier `nonsense`") as failed:
        asking.raw("SELECT nonsense", fmt="CSV")
    with pytest.raises(WarehouseError) as alone:
        held.raw("SELECT nonsense", fmt="CSV")
    assert str(failed.value) == str(alone.value)
    with pytest.raises(WarehouseError, match="Multi-statements are not allowed"):
        asking.raw("SELECT 1; DROP TABLE etl.runs", fmt="CSV")
    with pytest.raises(WarehouseError, match="Syntax error") as failed:
        asking.raw("SELEC 1", fmt="CSV")
    assert "formatQuery" not in str(failed.value)
    with pytest.raises(LockedError, match="answers only queries"):
        asking.raw("SELECT 1", fmt="CSV; DROP TABLE etl.runs")


@pytest.mark.slow
def test_a_too_large_result_and_a_too_slow_query_are_cancelled_with_a_hint(held, asking, monkeypatch):
    with pytest.raises(WarehouseError, match="128 MiB of results: ask for less, or stop it first"):
        asking.raw("SELECT toString(number) FROM numbers(100000000)", fmt="CSV")
    monkeypatch.setattr(query_socket, "_MAX_QUERY_S", 1)
    with pytest.raises(WarehouseError, match="ask for less, or stop it first"):
        asking.raw(ENDLESS, fmt="CSV")


def running(warehouse: Warehouse, text: str) -> int:
    sql = (
        "SELECT count() FROM system.processes WHERE position(query, {text:String}) > 0 AND query NOT LIKE '%processes%'"
    )
    return warehouse.scalar(sql, {"text": text})


def test_a_query_is_cancelled_when_its_client_disconnects(held, asking, folder):
    with query_socket._connect(folder) as connection:
        question = query_socket.msgspec.json.encode(query_socket._Query(f"{ENDLESS} /* left */", "CSV", {}))
        connection.sendall(query_socket._QUERY_HEAD.pack(len(question)) + question)
        until(lambda: running(held, "/* left */"), "it does not run")
    until(lambda: not running(held, "/* left */"), "it runs for nobody")


def test_queries_beyond_the_limit_wait_and_hanging_or_invalid_clients_are_dropped(held, asking, folder, monkeypatch):
    monkeypatch.setattr(query_socket, "_RECEIVE_TIMEOUT_S", 0.5)
    with ThreadPoolExecutor(10) as pool:
        answers = pool.map(lambda n: asking.scalar(f"SELECT {n} + sleep(0.1)"), range(10))
        assert list(answers) == list(range(10))
    hanging = [socket.socket(socket.AF_UNIX) for _ in range(6)]
    try:
        for number, connection in enumerate(hanging):
            with query_socket._address(folder) as address:
                connection.connect(address)
            connection.sendall((b"", b"GET / HTTP/1.1\r\n\r\n", bytes(8), b"\x00" * 7 + b"\x02{]")[number % 4])
        assert asking.scalar("SELECT 1") == 1
    finally:
        for connection in hanging:
            connection.close()


def test_many_silent_clients_keep_nobody_out(asking, folder, monkeypatch):
    monkeypatch.setattr(query_socket, "_RECEIVE_TIMEOUT_S", 600.0)  # none of them is dropped for its silence
    silent = [socket.socket(socket.AF_UNIX) for _ in range(3 * query_socket._MAX_CLIENTS)]
    try:
        for connection in silent:
            connection.settimeout(PATIENCE_S)
            query_socket._connect_in_turn(connection, folder)
        with deadline():
            assert [asking.scalar(f"SELECT {number}") for number in range(3)] == [0, 1, 2]
    finally:
        for connection in silent:
            connection.close()


def test_a_too_long_query_is_not_sent(asking):
    with pytest.raises(WarehouseError, match="is too long for `carat serve`"):
        asking.raw(f"SELECT '{'a' * 17_000_000}'", fmt="CSV")


def test_another_user_is_not_answered(asking, folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)  # of whoever answers: the other side is what the kernel says
    assert not accepts_queries(folder)
    with pytest.raises(WarehouseError, match="ended before it answered"):
        asking.scalar("SELECT 1")


def test_a_holder_that_does_not_answer_queries_is_named_as_usual(tmp_path):
    settings = Settings(_env_file=None, warehouse=f"chdb://{tmp_path}/warehouse")
    with hold_embedded(tmp_path / "warehouse", purpose="carat etl"):
        left = socket.socket(socket.AF_UNIX)  # as after a kill: the file is there, and nobody behind it
        with query_socket._address(tmp_path / "warehouse") as address:
            left.bind(address)
        left.close()
        assert not accepts_queries(tmp_path / "warehouse")
        with (
            pytest.raises(LockedError, match="held by `carat etl`"),
            open_warehouse(settings, purpose="a test", writes=False),
        ):
            pass
        with serve_queries(tmp_path / "warehouse", lambda _: b""):  # replaces what was left
            assert accepts_queries(tmp_path / "warehouse")
            with (
                pytest.raises(LockedError, match="held by `carat etl`"),
                open_warehouse(settings, purpose="a test"),  # who writes is not helped by it
            ):
                pass
            mode = (tmp_path / "warehouse" / "carat.socket").stat().st_mode
            assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        assert not (tmp_path / "warehouse" / "carat.socket").exists()


def test_running_queries_are_cancelled_when_the_server_stops(held, settings_here, tmp_path):
    failed: list[Exception] = []

    def read(question: Callable[[Warehouse], bytes]) -> bytes:
        with held.new_connection() as own:
            return question(own)

    def ask() -> None:
        try:
            query_socket.connect_via_holder(tmp_path, LockedError("held")).raw(f"{ENDLESS} /* stopped */", fmt="CSV")
        except WarehouseError as error:
            failed.append(error)
        except LockedError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    with deadline(), serve_queries(tmp_path, read):
        thread.start()
        until(lambda: running(held, "/* stopped */"), "it does not run")
    thread.join(30)  # a query that nobody cancels runs for a minute
    assert [str(error) for error in failed] == ["`carat serve` is being stopped; run the same command again"]
    assert not running(held, "/* stopped */")


# ---- carat serve, as a process -------------------------------------------------------------------------------------


@dataclass
class Serving:
    process: subprocess.Popen[bytes]
    folder: Path
    collector: str
    page: str

    @property
    def settings(self) -> Settings:
        return Settings(_env_file=None, warehouse=f"chdb://{self.folder}/warehouse", spool=self.folder / "spool")

    def post(self, *numbers: int) -> None:
        body = json.dumps([call(number) for number in numbers]).encode()
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = Request(f"{self.collector}/v1/calls", body, headers)
        with urlopen(request, timeout=30) as answer:
            assert answer.status == 200

    def count(self, table: str) -> int:
        """Rows, once somebody answers."""
        counted: list[int] = []

        def is_counted() -> bool:
            with suppress(LockedError), open_warehouse(self.settings, purpose="a test", writes=False) as warehouse:
                assert self.process.poll() is None
                counted.append(warehouse.scalar(f"SELECT count() FROM {table}"))
            return bool(counted)

        until(is_counted, "nobody answers")
        return counted[0]


@contextmanager
def serving(folder: Path) -> Iterator[Serving]:
    environment = {
        "PATH": os.environ["PATH"], "CARAT_SPOOL": f"{folder}/spool", "CARAT_WRITE_KEYS": KEY, "CARAT_SPOOL_SEGMENT_S": "0.3",
        "CARAT_WAREHOUSE": f"chdb://{folder}/warehouse", "CARAT_LOG": f"{folder}/log", "CARAT_SPOOL_MIN_FREE_BYTES": "0",
        "PYTHONPATH": str(CHECKOUT),
    }  # fmt: skip
    command = [sys.executable, "-m", "app", "serve", "--port", "0", "--page-port", "0"]
    said = folder / "said"
    with said.open("wb") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            until(lambda: re.search(r"dashboards are at \S+/", said.read_text()), "there is no page")
            until(lambda: '"collecting"' in said.read_text(), "there is no collector")
            text = said.read_text()
            port = re.search(r'"at": \["[\d.]+:(\d+)"\]', text)[1]
            yield Serving(process, folder, f"http://127.0.0.1:{port}", re.search(r"at (http://\S+/) until", text)[1])
        finally:
            process.kill()


@pytest.mark.slow
def test_carat_serve_answers_queries_and_builds_the_first_calls_immediately(tmp_path):
    def page() -> str:
        with suppress(URLError), urlopen(own.page, timeout=30) as answer:
            return answer.read().decode()
        return ""

    with serving(tmp_path) as own:
        assert own.count("pd.api_calls") == 0
        until(lambda: "The first calls are built as soon as" in page(), "the page says nothing")
        hour = time.gmtime().tm_hour
        own.post(*range(5))
        until(lambda: own.count("dwh.sessions"), "the first calls are not built")
        built_in_time = time.gmtime().tm_hour == hour
        own.post(*range(5, 9))
        until(lambda: own.count("pd.api_calls") == 9, "what follows is not delivered")
        assert own.count("etl.ledger") == len(DWH_TABLES) or not built_in_time  # once: what follows waits for the hour

        asked = carat("query", "SELECT count() FROM pd.api_calls", "--format", "csv", folder=tmp_path)
        assert (asked.returncode, asked.stdout) == (0, b'"count()"\n9\n')
        refused = carat("query", "INSERT INTO pd.api_calls SELECT * FROM pd.api_calls", folder=tmp_path)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (75, 1)
        status = carat("status", "--json", folder=tmp_path, CARAT_SPOOL=f"{tmp_path}/spool")
        assert (status.returncode, b'"dwh.sessions"' in status.stdout) == (0, True)
        assert carat("etl", folder=tmp_path).returncode == 75

        (scheduler,) = [int(p) for p in _children(own.process.pid) if b"schedule" in _command_of(int(p))]
        os.kill(scheduler, signal.SIGKILL)  # its socket stays and is replaced
        until(lambda: scheduler not in map(int, _children(own.process.pid)), "it lives")
        until(lambda: accepts_queries(tmp_path / "warehouse"), "nobody answers again")
        assert own.count("pd.api_calls") == 9
        own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(60) == 0
    assert not (tmp_path / "warehouse" / "carat.socket").exists()
    alone = carat("query", "SELECT count() FROM pd.api_calls", "--format", "csv", folder=tmp_path)
    assert alone.stdout == asked.stdout


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
