"""What a service says to systemd, heard at the other end of a real socket."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from app.core.watchdog import _ping_interval_s, progress, status, watched
from tests.support.deadline import deadline

pytestmark = pytest.mark.slow


class Listener:
    """The end of $NOTIFY_SOCKET that systemd holds."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)

    def heard(self, within_s: float = 0.0) -> list[str]:
        messages = []
        until = time.monotonic() + within_s
        while True:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                messages.append(self._socket.recv(4096).decode())
            except TimeoutError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path, monkeypatch) -> Iterator[Listener]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@carat-test-{os.getpid()}"
    listener = Listener(name.replace("@", "\0"))
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield listener
    listener.close()


def watch_every(seconds: float, monkeypatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", str(int(seconds * 1e6)))


def test_readiness_is_reported_before_the_work_begins(systemd):
    with watched():
        assert systemd.heard() == ["READY=1"]


def test_what_is_being_done_is_told_on_one_line(systemd):
    with watched():
        status("building\n2026-03-01")
    assert systemd.heard() == ["READY=1", "STATUS=building 2026-03-01"]


def test_without_a_watchdog_nothing_is_pinged_and_no_thread_is_started(systemd):
    with watched():
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]
    assert systemd.heard(0.05) == ["READY=1"]


def test_pings_come_at_less_than_half_the_interval(systemd, monkeypatch):
    watch_every(0.6, monkeypatch)
    assert _ping_interval_s() < 0.3
    with watched():
        assert systemd.heard(1.0).count("WATCHDOG=1") >= 2
    systemd.heard()
    assert systemd.heard(0.5) == []


def test_a_run_without_progress_falls_silent_and_says_why(systemd, monkeypatch):
    watch_every(0.15, monkeypatch)
    with watched(patience_s=0.2):
        time.sleep(0.4)
        said = systemd.heard()
        assert "WATCHDOG=1" in said
        assert said[-1].startswith("STATUS=No progress for 0 s")
        assert systemd.heard(0.3) == []
        progress()
        assert "WATCHDOG=1" in systemd.heard(0.15)


def test_a_run_that_makes_progress_outlives_its_patience(systemd, monkeypatch):
    watch_every(0.15, monkeypatch)
    with watched(patience_s=0.3):
        for _ in range(12):
            progress()
            said = systemd.heard(0.1)
    assert "WATCHDOG=1" in said


def test_the_pings_end_with_a_run_that_fails(systemd, monkeypatch):
    watch_every(0.1, monkeypatch)
    with pytest.raises(RuntimeError, match="broken"), watched():
        raise RuntimeError("broken")
    systemd.heard()
    assert systemd.heard(0.2) == []


def test_a_watchdog_that_is_meant_for_another_process_is_left_to_it(systemd, monkeypatch):
    watch_every(0.1, monkeypatch)
    monkeypatch.setenv("WATCHDOG_PID", "1")
    with watched():
        assert systemd.heard(0.2) == ["READY=1"]


@pytest.mark.parametrize("interval", ["", "0", "-1", "soon"])
def test_an_interval_that_is_none_is_not_watched(systemd, monkeypatch, interval):
    monkeypatch.setenv("WATCHDOG_USEC", interval)
    with watched():
        assert systemd.heard(0.05) == ["READY=1"]


@pytest.mark.parametrize("name", [None, "", "/nowhere/at/all", "vsock:2:1234"])
def test_where_nobody_listens_the_work_goes_on(name, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.setenv("NOTIFY_SOCKET", name or "")
    if name is None:
        monkeypatch.delenv("NOTIFY_SOCKET")
    with watched():
        status("building")
        time.sleep(0.05)


def test_a_systemd_that_does_not_read_does_not_hold_up_the_work(systemd, monkeypatch):
    monkeypatch.setattr("app.core.watchdog._SEND_TIMEOUT_S", 0.001)
    with deadline():
        for step in range(1000):
            status(f"step {step}")
