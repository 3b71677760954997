"""The supervisor of `carat serve`: restarts what exits, and gives up where a restart is hopeless."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.core.errors import CaratError, LockedError, SettingsError
from app.intake.collector.server import listen
from app.ops import supervisor
from app.ops.supervisor import ChildProcess
from tests.support.paths import CHECKOUT


@pytest.fixture
def children(tmp_path, monkeypatch):
    """Children that run a program instead of a `carat` command."""

    def child(program: str, *, is_essential: bool = True) -> ChildProcess:
        (tmp_path / "app").mkdir(exist_ok=True)
        (tmp_path / "app" / "__init__.py").touch()
        (tmp_path / "app" / "__main__.py").write_text(program)
        return ChildProcess("the child", ("verb",), is_essential=is_essential)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE_S", 0.02)
    return child


def keep_polling(child: ChildProcess, *, until=lambda: False) -> None:
    child.start()
    end = time.monotonic() + 60
    try:
        while not until():
            assert time.monotonic() < end, "nothing happened"
            child.poll()
            time.sleep(0.01)
    finally:
        child.stop()


def test_a_child_that_exits_is_restarted(children, tmp_path):
    starts = tmp_path / "starts"
    program = f"open({str(starts)!r}, 'a').write('.'); raise SystemExit(1)"
    keep_polling(children(program, is_essential=False), until=lambda: starts.exists() and len(starts.read_text()) >= 3)


def test_wrong_settings_end_the_supervisor_immediately(children):
    with pytest.raises(SettingsError, match="the child cannot be started, see its message above"):
        keep_polling(children("raise SystemExit(2)", is_essential=False))


@pytest.mark.parametrize(("code", "kind"), [(1, CaratError), (75, LockedError)])
def test_an_essential_child_that_never_starts_ends_the_supervisor_with_its_kind_of_error(children, code, kind):
    with pytest.raises(CaratError, match=f"exited 5 times in a row, last with code {code}") as raised:
        keep_polling(children(f"raise SystemExit({code})"))
    assert type(raised.value) is kind


def test_a_child_that_was_healthy_once_is_restarted_whatever_it_exits_with(children, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_HEALTHY_S", 0.0)
    starts = tmp_path / "starts"
    program = f"open({str(starts)!r}, 'a').write('.'); raise SystemExit(2)"
    keep_polling(children(program), until=lambda: starts.exists() and len(starts.read_text()) >= 7)


def test_a_child_that_ignores_sigterm_is_killed(children, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_STOP_S", 0.2)
    ready = tmp_path / "pid"
    program = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(ready)!r}, 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(600)"
    )
    keep_polling(children(program), until=lambda: ready.exists() and ready.read_text().endswith("\n"))
    assert not Path(f"/proc/{int(ready.read_text())}").exists()


def test_a_child_ends_when_its_supervisor_is_killed(tmp_path):
    pid_file = tmp_path / "pid"
    program = (
        "import sys, subprocess, time\nfrom app.ops.supervisor import _end_with_parent\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], preexec_fn=_end_with_parent)\n"
        f"open({str(pid_file)!r}, 'w').write(f'{{child.pid}}\\n'); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT)
    end = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.02)
    child = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    while _runs(child):
        assert time.monotonic() < end, "the child outlived its supervisor"
        time.sleep(0.02)


def test_children_do_not_see_the_variables_of_systemd(children, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("LISTEN_FDS", "1")
    seen = tmp_path / "seen"
    program = f"import os, time; open({str(seen)!r}, 'w').write(repr(sorted(os.environ)) + '.'); time.sleep(600)"
    keep_polling(children(program), until=lambda: seen.exists() and seen.read_text().endswith("."))
    assert "NOTIFY_SOCKET" not in seen.read_text()
    assert "LISTEN_FDS" not in seen.read_text()
    assert "PATH" in seen.read_text()


def test_stopping_stops_every_child(children, monkeypatch, tmp_path):
    children("import time; time.sleep(600)")
    stopped = threading.Event()
    threading.Timer(0.5, stopped.set).start()
    before = _children()
    with listen("127.0.0.1", 0)[0] as listener:
        supervisor.serve([listener], page_port=0, stopped=stopped)
    assert _children() <= before


def _children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
