"""`carat serve`: collector, loader, hourly schedule and live dashboards on one machine, by one command.

Two child processes: the collector, which answers within milliseconds because no engine runs in it, and the scheduler
(`app/ops/scheduler.py`), which owns the warehouse and serves the dashboards. The supervisor starts them, restarts one
that exits, and stops them in order: the collector first, so that what it sealed last is still delivered.

The socket is opened here and stays open while a collector is started again: who sends meanwhile waits a little.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.core import console, watchdog
from app.core.errors import CaratError, LockedError, SettingsError

_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_HEALTHY_S = 30.0  # who ran for so long and ends is started again at once
_MOST_FAILURES = 5
_STOP_S = 40.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Part:
    """One of the processes. Where a vital one cannot be started, there is no point in going on."""

    name: str
    arguments: Sequence[str]
    is_vital: bool
    handles: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    failures: int = field(default=0, init=False)  # in a row
    has_run: bool = field(default=False, init=False)
    _changed_at: float = field(default=0.0, init=False)

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app", *self.arguments],  # a folder called app beside it is not Carat
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=self.handles,
            process_group=0,  # Ctrl-C comes here alone
            preexec_fn=_end_with_parent,  # noqa: PLW1509  no thread of this process holds a lock that it could need
        )
        self._changed_at = time.monotonic()

    def tend(self) -> None:
        """Start it again where it ended, after a while where it does so often."""
        if self.process is None:
            if time.monotonic() - self._changed_at >= self._pause_s:
                self.start()
            return
        code = self.process.poll()
        ran_s = time.monotonic() - self._changed_at
        self.has_run = self.has_run or ran_s >= _HEALTHY_S
        if code is None:
            return
        self.process = None
        self._changed_at = time.monotonic()
        self.failures = 1 if ran_s >= _HEALTHY_S else self.failures + 1
        self._require_hope(code)
        console.log.warning(f"{self.name} ended, it is started again", code=code, in_s=self._pause_s)

    def stop(self) -> None:
        """End it in order, or after a while without."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            console.log.warning(f"{self.name} did not end in time, it is killed; nothing is lost by that")
            self.process.kill()
            self.process.wait()
        self.process = None

    @property
    def _pause_s(self) -> float:
        return min(_FIRST_PAUSE_S * 2.0 ** max(self.failures - 1, 0), _LONGEST_PAUSE_S)

    def _require_hope(self, code: int) -> None:
        if self.has_run:
            return
        if code == SettingsError.exit_code:
            raise SettingsError(f"{self.name} cannot be started, see its message above")
        if self.is_vital and self.failures >= _MOST_FAILURES:
            kind = LockedError if code == LockedError.exit_code else CaratError
            raise kind(f"{self.name} ended {self.failures} times in a row, with {code}; see its messages above")


_OF_SYSTEMD = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
)


def serve(sockets: Sequence[socket.socket], *, page_port: int, stopped: threading.Event) -> None:
    """Run collector and keeper until told to stop; CaratError where one of them cannot be started."""
    handles = tuple(listener.fileno() for listener in sockets)
    collector = Part("the collector", ("collect", "--fd", str(handles[0])), is_vital=True, handles=handles)
    parts = (collector, Part("the keeper of the warehouse", ("keep", "--page-port", str(page_port)), is_vital=False))
    try:
        for part in parts:
            part.start()
        while not stopped.wait(_LOOK_S):
            watchdog.progress()
            for part in parts:
                part.tend()
    finally:
        for part in parts:
            part.stop()


def _end_with_parent() -> None:
    """Let the kernel end this child when its parent dies, however it does."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
