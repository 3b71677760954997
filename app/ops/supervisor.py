"""`carat serve`: collector, loader, hourly schedule and live dashboards on one machine, started by one command.

There are two child processes: the collector, which answers within milliseconds because no engine runs in it, and the
scheduler (`app/ops/scheduler.py`), which holds the warehouse and serves the dashboards. The supervisor starts them,
restarts one that exits, and stops the collector first, so that the scheduler still delivers what it sealed last.

The collector's socket is opened here and stays open during a restart: senders wait for a moment instead of failing.
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

from app.core import console, watchdog
from app.core.backoff import Backoff
from app.core.errors import CaratError, LockedError, SettingsError

_POLL_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_HEALTHY_S = 30.0  # a process that ran this long restarts after the shortest pause
_MAX_FAILURES = 5
_STOP_S = 40.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_OF_SYSTEMD = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
)


class ChildProcess:
    """A `carat` command that is kept running. If an essential one cannot be started, the supervisor gives up."""

    def __init__(
        self, name: str, arguments: Sequence[str], *, is_essential: bool, inherited_fds: tuple[int, ...] = ()
    ) -> None:
        self._name = name
        self._arguments = arguments
        self._is_essential = is_essential
        self._inherited_fds = inherited_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._failures_in_a_row = 0
        self._was_healthy = False
        self._started_at = 0.0
        self._restart_at = 0.0

    def start(self) -> None:
        """Start the command, without the variables by which systemd addresses the supervisor."""
        environment = {name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app", *self._arguments],  # -P: do not import a folder `app` of the user's
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=self._inherited_fds,
            process_group=0,  # Ctrl-C reaches only the supervisor
            preexec_fn=_end_with_parent,  # noqa: PLW1509  no other thread holds a lock that it could need
        )
        self._started_at = time.monotonic()

    def poll(self) -> None:
        """Restart the command if it exited, after a pause that grows while it keeps failing."""
        if self._process is None:
            if time.monotonic() >= self._restart_at:
                self.start()
            return
        code = self._process.poll()
        is_healthy = time.monotonic() - self._started_at >= _HEALTHY_S
        self._was_healthy = self._was_healthy or is_healthy
        if code is None:
            return
        self._process = None
        if is_healthy:
            self._failures_in_a_row = 0
            self._backoff.reset()
        self._failures_in_a_row += 1
        self._give_up_if_hopeless(code)
        pause_s = self._backoff.next_s()
        self._restart_at = time.monotonic() + pause_s
        console.log.warning(f"{self._name} exited and is restarted", code=code, in_s=pause_s)

    def stop(self) -> None:
        """Terminate the command, and kill it if it does not exit in time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            console.log.warning(f"{self._name} did not exit in time and is killed; no data is lost")
            self._process.kill()
            self._process.wait()
        self._process = None

    def _give_up_if_hopeless(self, code: int) -> None:
        if self._was_healthy:
            return
        if code == SettingsError.exit_code:
            raise SettingsError(f"{self._name} cannot be started, see its message above")
        if self._is_essential and self._failures_in_a_row >= _MAX_FAILURES:
            kind = LockedError if code == LockedError.exit_code else CaratError
            raise kind(
                f"{self._name} exited {self._failures_in_a_row} times in a row, last with code {code}; "
                "see its messages above"
            )


def serve(sockets: Sequence[socket.socket], *, page_port: int, stopped: threading.Event) -> None:
    """Run collector and scheduler until `stopped` is set; CaratError if one of them cannot be started."""
    fds = tuple(listener.fileno() for listener in sockets)
    children = (
        ChildProcess("the collector", ("collect", "--fd", str(fds[0])), is_essential=True, inherited_fds=fds),
        ChildProcess("the scheduler", ("schedule", "--page-port", str(page_port)), is_essential=False),
    )
    try:
        for child in children:
            child.start()
        while not stopped.wait(_POLL_S):
            watchdog.progress()
            for child in children:
                child.poll()
    finally:
        for child in children:
            child.stop()


def _end_with_parent() -> None:
    """Have the kernel end this child when the thread that started it ends, however that happens.

    That is the main thread here. The readers of the shop's database are started by any thread, so they watch their
    stdin instead (`app/shop/reader.py`).
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
