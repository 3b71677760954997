"""The collector as it is run: started and refused to start, watched, given other keys, stopped, and out of room."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.core.errors import CaratError, SettingsError
from app.intake.collector.keys import WriteKeys
from app.intake.collector.server import Collector, inherited_sockets, listen
from app.settings import load_settings
from tests.intake.collector.conftest import GOOD, call
from tests.support.collecting import KEY, Running, collecting_apart, collecting_here, spooled
from tests.support.deadline import deadline
from tests.support.paths import CHECKOUT

OTHER = "another-key-that-comes-later"


def post_with(running: Running, key: str) -> int:
    return running.post(b"[" + GOOD + b"]", authorization=f"Bearer {key}").status


# ---- what operates it --------------------------------------------------------------------------------------------


def test_health_and_ready_answer_200(collector):
    for path in ("/health", "/ready"):
        assert collector.get(path).status == 200
        assert collector.request("HEAD", path).content == b""


def test_metrics_count_accepted_and_rejected_calls_requests_and_writes(tmp_path):
    with collecting_here(tmp_path / "spool") as running:
        running.post([call(), call(), {"ts": 5}, {}])
        running.post(b"[", content_type="application/json")
        running.post([call()], authorization="Bearer no-such-key")
        text = running.get("/metrics").content.decode()
        figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        expected = {
            "carat_collect_calls_accepted_total": 2, 'carat_collect_calls_rejected_total{reason="no time"}': 2,
            'carat_collect_requests_total{status="200"}': figures['carat_collect_requests_total{status="200"}'],
            'carat_collect_requests_total{status="400"}': 1, 'carat_collect_requests_total{status="401"}': 1,
            "carat_collect_answer_seconds_count": 1, "carat_collect_held_bytes": 0, "carat_spool_segments": 1,
        }  # fmt: skip
        assert {name: float(figures[name]) for name in expected} == {
            name: float(value) for name, value in expected.items()
        }
        assert float(figures["carat_spool_fsync_seconds_count"]) >= 1
        assert float(figures["carat_spool_bytes"]) > 2 * len(GOOD)
        assert float(figures["carat_spool_oldest_age_seconds"]) >= 0
        assert float(figures["carat_collect_connections"]) >= 1
        assert "carat_delivery_lag_seconds" in figures


def test_metrics_count_bodies_that_the_middleware_could_not_read(tmp_path):
    with collecting_here(tmp_path / "spool") as running:
        calls = [call(response={"_unreadable": 5}), call(request={"query": {}, "body": {"_truncated": 5}}), call()]
        running.post(json.dumps(calls, separators=(",", ":")).encode())  # as the middleware writes it
        assert running.figure("carat_collect_unread_bodies_total") == 2


# ---- keys --------------------------------------------------------------------------------------------------------


def test_several_keys_are_valid_at_once(tmp_path):
    with collecting_here(tmp_path / "spool", write_keys=f"{KEY}, {OTHER}") as running:
        assert [post_with(running, key) for key in (KEY, OTHER, f"{KEY}, {OTHER}", OTHER[:-1])] == [200, 200, 401, 401]


@pytest.fixture
def key_file(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{KEY}\n")
    monkeypatch.setenv("CARAT_WRITE_KEYS_FILE", str(path))
    monkeypatch.delenv("CARAT_WRITE_KEYS", raising=False)
    return path


def test_keys_follow_their_file_but_never_become_empty(key_file):
    keys = WriteKeys(load_settings(_env_file=None))
    old, new = (f"Bearer {key}".encode() for key in (KEY, OTHER))
    assert [keys.admits(old), keys.admits(new), keys.admits(old.replace(b"B", b"b", 1))] == [True, False, True]
    key_file.write_text(f"{KEY}\n{OTHER}")
    keys.reload_if_changed()
    assert [keys.admits(old), keys.admits(new)] == [True, True]
    replacement = key_file.with_name("keys.new")
    replacement.write_text(OTHER)
    replacement.rename(key_file)
    keys.reload_if_changed()
    assert [keys.admits(old), keys.admits(new)] == [False, True]
    for damage in (lambda: key_file.write_text(" \n"), key_file.unlink):
        damage()
        keys.reload_if_changed()
        keys.reload()
        assert [keys.admits(old), keys.admits(new)] == [False, True]


# ---- as a process ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A process of its own that the tests below leave running; its keys are in a file."""
    folder = tmp_path_factory.mktemp("apart")
    (folder / "keys").write_text(KEY)
    with collecting_apart(folder, CARAT_WRITE_KEYS_FILE=str(folder / "keys")) as running:
        yield running


@pytest.mark.slow
def test_the_process_is_small_and_imports_neither_the_engine_nor_polars(apart):
    for _ in range(20):
        assert apart.post([call(response=["x" * 500])] * 300).verdict == (300, [])
    status = Path(f"/proc/{apart.process.pid}/status").read_text()
    rss_mib = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    assert rss_mib < 90
    maps = Path(f"/proc/{apart.process.pid}/maps").read_text()
    assert [name for name in ("polars", "pyarrow", "chdb", "numpy") if f"/{name}" in maps] == []


@pytest.mark.slow
def test_sighup_reloads_the_keys(apart):
    folder = apart.settings.spool.parent
    (folder / "keys").write_text(f"{KEY},{OTHER}")
    apart.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 10
    while post_with(apart, OTHER) != 200 and time.monotonic() < until:
        time.sleep(0.05)
    assert [post_with(apart, KEY), post_with(apart, OTHER)] == [200, 200]


@pytest.mark.slow
def test_the_log_contains_neither_bodies_nor_keys(apart):
    secret = "only-in-the-body-4711"
    apart.post([call(user_id=secret), {"ts": secret}])
    apart.post(f'[{{"x": "{secret}'.encode())
    post_with(apart, f"wrong-{secret}")
    apart.raw(f"{secret}\r\n\r\n".encode())
    apart.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    log = apart.log()
    assert next(json.loads(line)["event"] for line in log.splitlines()) == "collecting"
    assert secret not in log
    assert KEY not in log
    assert not (apart.settings.spool.parent / "log").exists()


def test_a_full_disk_answers_503_until_there_is_space_again(tmp_path):
    with collecting_here(tmp_path / "spool") as running:
        assert running.post([call()]).status == 200
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
        try:
            answer = running.post([call(response="x" * 5_000)])
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert answer.json == {"reason": "there is no space for more calls now"}
            ready = running.get("/ready")
            assert ready.status == 503
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert running.post([call(response="y" * 5_000)]).status == 200
        assert running.get("/ready").status == 200
    kept, _ = spooled(tmp_path / "spool")
    assert [len(json.loads(record).get("response", "")) for record in kept] == [0, 5_000]


def test_a_failed_fsync_answers_503_and_the_next_batch_is_accepted(tmp_path, monkeypatch):
    with collecting_here(tmp_path / "spool") as running:
        assert running.post([call(endpoint="/before")]).status == 200
        with monkeypatch.context() as broken:
            broken.setattr("app.intake.spool.writer.os.fdatasync", _fail)
            answer = running.post([call(endpoint="/lost")])
        assert (answer.status, answer.json) == (503, {"reason": "the disk failed"})
        assert running.get("/ready").json["reason"].endswith("Input/output error")
        assert running.post([call(endpoint="/after")]).status == 200
        assert running.get("/ready").status == 200
    kept, _ = spooled(tmp_path / "spool")
    assert [json.loads(record)["endpoint"] for record in kept] == ["/before", "/after"]


def _fail(_: int) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.slow
def test_a_full_spool_answers_503_until_there_is_space(tmp_path):
    with collecting_here(tmp_path / "spool", spool_max_bytes=20_000, spool_segment_bytes=4096) as running:
        statuses = []
        while (status := running.post([call(response="x" * 3_000)]).status) == 200:
            statuses.append(status)
        assert (status, 4 <= len(statuses) <= 6) == (503, True)
        assert running.get("/ready").status == 503
        for segment in (tmp_path / "spool").glob("*.sealed"):  # as a loader does when they are delivered
            segment.unlink()
        until = time.monotonic() + 10
        while running.get("/ready").status != 200 and time.monotonic() < until:
            time.sleep(0.1)
        assert running.post([call()]).status == 200


@pytest.mark.slow
def test_a_stop_finishes_requests_in_progress_and_loses_nothing_acknowledged(tmp_path):
    acknowledged: list[str] = []
    answers: list[int] = []
    with collecting_apart(tmp_path) as running:
        senders = [
            threading.Thread(target=_send_on, args=(running, number, acknowledged, answers)) for number in range(8)
        ]
        for sender in senders:
            sender.start()
        while len(answers) < 100:
            time.sleep(0.01)
        with running.connect() as slow:  # its body is on the way when the signal comes
            body = b"[" + json.dumps(call(endpoint="/on-the-way")).encode() + b"]"
            head = f"POST /v1/calls HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:20])
            time.sleep(0.1)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            slow.sendall(body[20:])
            assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert running.process.wait(30) == 0
        for sender in senders:
            sender.join(30)
        last = json.loads(running.log().splitlines()[-1])
    assert last["event"] == "stopped"
    kept, _ = spooled(tmp_path / "spool")
    endpoints = {json.loads(record)["endpoint"] for record in kept}
    assert set(acknowledged) | {"/on-the-way"} <= endpoints
    assert len(acknowledged) > 100
    assert not list((tmp_path / "spool").glob("*.open"))


def test_an_incomplete_body_does_not_delay_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr("app.intake.collector.protocol._LAST_BODY_S", 0.2)
    with deadline(), collecting_here(tmp_path / "spool") as running:
        slow = running.connect()
        slow.sendall(
            f"POST /v1/calls HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9\r\n\r\n[".encode()
        )
        idle = running.connect()
        assert running.get("/ready").status == 200
    assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert idle.recv(65536) == b""
    slow.close()
    idle.close()


def _send_on(running: Running, sender: int, acknowledged: list[str], answers: list[int]) -> None:
    number = 0
    while True:
        endpoints = [f"/{sender}/{number}/{index}" for index in range(3)]
        try:
            answer = running.post([call(endpoint=endpoint) for endpoint in endpoints])
        except OSError:
            return  # it no longer listens
        answers.append(answer.status)
        if answer.status == 200:
            acknowledged += endpoints
        number += 1


@pytest.mark.slow
def test_it_uses_an_inherited_socket_notifies_systemd_and_serves_earlier_connections(tmp_path):
    address = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        systemd.bind(address)
        systemd.settimeout(30)
        port = listener.getsockname()[1]
        early = socket.create_connection(("127.0.0.1", port))
        early.sendall(b"GET /health HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")
        shim = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
            "os.execv(sys.executable, [sys.executable, '-m', 'app', 'collect'])"
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CARAT_")} | {
            "LISTEN_FDS": "1", "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000", "CARAT_WRITE_KEYS": KEY,
            "CARAT_SPOOL": str(tmp_path / "spool"), "CARAT_SPOOL_MIN_FREE_BYTES": "0", "PYTHONPATH": str(CHECKOUT),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", shim, str(listener.fileno())], env=environment, pass_fds=(listener.fileno(), 3),
            stderr=subprocess.PIPE, cwd=tmp_path,
        )  # fmt: skip
        try:
            assert systemd.recv(4096) == b"READY=1"
            assert early.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert Running(port, load_settings(_env_file=None)).post([call()]).status == 200
            assert [systemd.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()
            early.close()
    assert len(spooled(tmp_path / "spool")[0]) == 1


def test_settings_that_prevent_a_start_are_named():
    for keys in (None, "", " , "):
        with pytest.raises(SettingsError, match="CARAT_WRITE_KEYS is not set"):
            Collector(load_settings(_env_file=None, write_keys=keys), [])
    with pytest.raises(CaratError, match=r"cannot listen on 192\.0\.2\.1:8787: .*--host and --port"):
        listen("192.0.2.1", 8787)
    with pytest.raises(SettingsError, match="file descriptor 777 is not an inherited socket"):
        inherited_sockets(777)
    with (
        listen("127.0.0.1", 0)[0] as listening,
        socket.create_connection(listening.getsockname()) as connected,
        pytest.raises(SettingsError, match="is not listening"),
    ):
        inherited_sockets(connected.detach())
    settings = load_settings(_env_file=None, write_keys=KEY, spool="/proc/1/spool")
    with pytest.raises(SettingsError, match="CARAT_SPOOL: cannot use the directory"):
        Collector(settings, listen("127.0.0.1", 0)).run()


@pytest.mark.slow
def test_without_keys_the_command_prints_one_line_and_exits_2(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CARAT_")}
    environment |= {"CARAT_LOG": f"{tmp_path}/log", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "app", "collect", "--port", "0"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    said = done.stderr.decode().splitlines()
    assert (done.returncode, len(said)) == (2, 1)
    assert "CARAT_WRITE_KEYS is not set: set it to the write keys" in said[0]


def test_the_documentation_names_every_metric_and_every_limit_with_its_default(collector):
    text = (CHECKOUT / "docs" / "collector.md").read_text()
    families = re.findall(r"^# TYPE (\S+) ", collector.get("/metrics").content.decode(), re.MULTILINE)
    assert len(families) > 10
    assert [name for name in families if f"`{name}" not in text] == []
    documented = dict(re.findall(r"\| `CARAT_(\w+)` \| `(\d+)` \|", text))
    fields = type(collector.settings).model_fields
    limits = [name for name in fields if name.startswith("collect_")] + ["max_age_days", "max_nesting"]
    assert documented == {name.upper(): str(fields[name].default) for name in limits}
