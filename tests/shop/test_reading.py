"""The processes that read: each table's trouble is its own, none outlives its time or its parent, none fills memory."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

import app.shop.reading
from app.core.errors import ShopError
from app.shop import reader as reading_process
from app.shop.reading import ReaderProcess, Reading, ShopReading
from tests.shop.taking import opened, reading, table
from tests.support.mariadb import MariaDB
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.slow

COUNTING = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT {}) SELECT n FROM numbers"


@pytest.fixture
def url(tmp_path) -> str:
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE items (id INTEGER, title TEXT)")
        database.executemany("INSERT INTO items VALUES (?, ?)", [(number, f"ring {number}") for number in range(1000)])
    return f"sqlite://{path}"


def of(folder: Path, name: str, sql: str = "SELECT * FROM items", *, rows: int = 100) -> Reading:
    return Reading(name, sql, folder / f"{name}.arrow", rows)


def rows(reader: ReaderProcess, name: str) -> int:
    return sum(batch.num_rows for batch in reader.follow(name))


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_batches_come_in_their_order_and_whole(url, tmp_path):
    with ReaderProcess(url, [of(tmp_path, "a"), of(tmp_path, "b", rows=7)], limit_s=30).started() as reader:
        reader.go()
        for name in ("b", "a"):
            batches = list(reader.follow(name))
            assert pa.Table.from_batches(batches).column("id").to_pylist() == list(range(1000))
    assert reader.read.rows == {"a": 1000, "b": 1000}


def test_batches_can_be_followed_while_the_rest_is_read(url, tmp_path):
    with ReaderProcess(url, [of(tmp_path, "many", COUNTING.format(20_000_000), rows=1000)], limit_s=60).started() as reader:  # fmt: skip
        reader.go()
        batches = reader.follow("many")
        assert [next(batches).num_rows for _ in range(20)] == [1000] * 20
        assert not reader.read.has_ended("many")


def test_a_table_that_fails_leaves_the_others(url, tmp_path):
    readings = [of(tmp_path, "a"), of(tmp_path, "wrong", "SELECT nope FROM items"), of(tmp_path / "none", "b")]
    with ReaderProcess(url, readings, limit_s=30).started() as reader:
        reader.go()
        assert rows(reader, "a") == 1000
        with pytest.raises(ShopError, match="could not be read whole: no such column: nope"):
            rows(reader, "wrong")
        with pytest.raises(ShopError, match="No such file or directory"):
            rows(reader, "b")


def test_a_full_disk_is_named(url, tmp_path):
    (tmp_path / "items.arrow").symlink_to("/dev/full")
    with ReaderProcess(url, [of(tmp_path, "items")], limit_s=30).started() as reader:
        reader.go()
        with pytest.raises(ShopError, match="No space left on device"):
            rows(reader, "items")


def test_a_process_that_dies_is_its_tables_error(url, tmp_path):
    with ReaderProcess(url, [of(tmp_path, "a"), of(tmp_path, "b")], limit_s=30).started() as reader:
        reader._processes["a"].kill()
        reader.go()
        with pytest.raises(ShopError, match=r"its reading process died \(signal 9\)"):
            rows(reader, "a")
        assert rows(reader, "b") == 1000


def test_a_process_that_dies_in_the_middle_leaves_no_file_that_is_taken_for_whole(url, tmp_path):
    with ReaderProcess(url, [of(tmp_path, "many", COUNTING.format(20_000_000), rows=1000)], limit_s=60).started() as reader:  # fmt: skip
        reader.go()
        batches = reader.follow("many")
        next(batches)
        reader._processes["many"].kill()
        with pytest.raises(ShopError, match=r"could not be read whole: its reading process died \(signal 9\)"):
            list(batches)


def test_processes_that_do_not_start_are_told_with_what_they_said(url, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/cat")  # which does not know the options
    with ReaderProcess(url, [of(tmp_path, "a")], limit_s=30).started() as reader:
        reader.go()
        with pytest.raises(ShopError, match=r"its reading process died \(.*cat.*\)"):
            rows(reader, "a")


def test_processes_that_hang_when_they_start_are_not_waited_for(url, tmp_path, monkeypatch):
    script = tmp_path / "hangs"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(app.shop.reading, "_START_LIMIT_S", 0.2)
    monkeypatch.setattr(app.shop.reading, "_GRACE_S", 0)
    with ReaderProcess(url, [of(tmp_path, "a")], limit_s=30).started() as reader:
        pid = reader._processes["a"].pid
        reader.go()
        with pytest.raises(ShopError, match="its reading process did not start within 0.2 s"):
            rows(reader, "a")
    assert not is_running(pid)


def test_a_process_ends_at_its_limit_though_nobody_looks(url, tmp_path):
    """What reads waits for nobody: whoever follows may be busy with another table."""
    with ReaderProcess(url, [of(tmp_path, "many", COUNTING.format(10**9)), of(tmp_path, "a")], limit_s=1).started() as reader:  # fmt: skip
        reader.go()
        process = reader._processes["many"]
        process.wait(timeout=3)
        assert rows(reader, "a") == 1000
        with pytest.raises(
            ShopError, match=r"^could not be read whole: not read within 1 s \(CARAT_SNAPSHOT_TIMEOUT_S\)$"
        ):
            rows(reader, "many")


def test_a_process_that_ignores_its_limit_is_not_waited_for(url, tmp_path, monkeypatch):
    monkeypatch.setattr(app.shop.reading, "_GRACE_S", 0.2)
    with ReaderProcess(url, [of(tmp_path, "a")], limit_s=1).started() as reader:
        reader._processes["a"].send_signal(signal.SIGSTOP)
        reader.go()
        with pytest.raises(ShopError, match="not read within 1 s"):
            rows(reader, "a")
    assert not is_running(reader._processes["a"].pid)


def test_what_is_left_early_is_ended(url, tmp_path):
    endless = ReaderProcess(url, [of(tmp_path, "many", COUNTING.format(10**9))], limit_s=60)
    with contextlib.suppress(KeyboardInterrupt), endless.started() as reader:
        reader.go()
        raise KeyboardInterrupt
    assert not is_running(reader._processes["many"].pid)


def test_processes_end_with_a_parent_that_is_killed(server, tmp_path):
    """Also one that waits for the server, and holds Python's lock meanwhile."""
    program = """if True:
        import sys, time
        from pathlib import Path
        from app.shop.reading import ReaderProcess, Reading
        url, folder = sys.argv[1:]
        reading = Reading("a", "SELECT SLEEP(20) AS s", Path(folder, "a.arrow"), 10)
        with ReaderProcess(url, [reading], limit_s=60).started() as reader:
            reader.go()
            time.sleep(0.3)
            print(reader._processes["a"].pid, flush=True)
            time.sleep(60)
    """
    url = server.url(**{"prefer_socket": "false", "ssl-mode": "DISABLED"})
    with subprocess.Popen([sys.executable, "-c", program, url, str(tmp_path)], cwd=CHECKOUT, stdout=subprocess.PIPE) as parent:  # fmt: skip
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    ends = time.monotonic() + 2
    while is_running(pid):
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_the_environment_has_no_settings(url, tmp_path, monkeypatch):
    monkeypatch.setenv("CARAT_SHOP_DB", "mysql://x:geheim@y/z")
    with ReaderProcess(url, [of(tmp_path, "a")], limit_s=30).started() as reader:
        environment = Path(f"/proc/{reader._processes['a'].pid}/environ").read_bytes()
    assert b"CARAT_" not in environment
    assert b"PATH=" in environment


def test_a_folder_in_which_modules_have_other_meanings_is_none_of_their_business(url, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    with ReaderProcess(url, [of(tmp_path, "a")], limit_s=30).started() as reader:
        reader.go()
        assert rows(reader, "a") == 1000


def test_rows_that_come_faster_than_they_are_written_do_not_fill_memory(url, tmp_path, monkeypatch):
    monkeypatch.setattr(reading_process, "_MOST_HELD_BYTES", 1)
    request = {"url": url, "sql": "SELECT * FROM items", "path": str(tmp_path / "a.arrow"), "batch_rows": 10, "before": []}  # fmt: skip
    with pytest.raises(MemoryError, match="give CARAT_SCRATCH a faster disk"):
        reading_process._read(request)


@pytest.mark.parametrize(("error", "line"), [
    ("cx writer failed: Source(MySQLError(MySqlError { ERROR 1969 (70100): Query execution was interrupted (x) }))", "Query execution was interrupted (x)"),
    ("cx writer failed: Source(MySQLError(CodecError { IO error: `bytes remaining on stream' }))", "the connection broke (IO error: `bytes remaining on stream')"),
    ("timed out waiting for connection: MySqlError { ERROR 1040 (08004): Too many connections }", "Too many connections"), ("one\ntwo", "one"), ("", "ValueError"),
])  # fmt: skip
def test_an_error_is_one_line_without_its_wrapping(error, line):
    assert reading_process._problem(ValueError(error)) == line


def test_rows_that_are_not_as_many_as_were_counted_are_partial(url, tmp_path):
    with ReaderProcess(url, [of(tmp_path, "a")], limit_s=30).started() as reader:
        reader.go()
        short = ShopReading(reader, {}, {"a": lambda: 1001})
        with pytest.raises(
            ShopError, match="could not be read whole: partial, 1000 rows were read, the table had 1001"
        ):
            list(short.batches("a"))
        with pytest.raises(ShopError, match="could not be read: because"):
            list(ShopReading(reader, {}, errors={"b": "because"}).batches("b"))


def test_three_million_rows_are_read_in_little_memory(server: MariaDB, tmp_path):
    server.execute(
        "CREATE OR REPLACE VIEW shop.long AS SELECT seq AS id, seq * 7 AS a, CONCAT('n', seq) AS title, "
        "CAST(seq / 100 AS DECIMAL(10,2)) AS price, NOW() AS at FROM shop.seq_1_to_3000000"
    )
    most = 0
    with opened(server) as shop, reading(shop, tmp_path, table("long"), limit_s=60) as current:
        pid = current.reader._processes["long"].pid
        found = 0
        for batch in current.batches("long"):
            found += batch.num_rows
            with contextlib.suppress(OSError, IndexError):
                most = max(most, int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]))
    assert found == 3_000_000
    assert 20_000 < most < 400_000
