"""Notifies systemd that a long run is alive and what it is doing; does nothing without systemd.

A ping alone would only prove that the interpreter runs. Pings are therefore sent only while the work makes progress: a
hung run stops pinging, and systemd ends it after `WatchdogSec=`.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PATIENCE_S = 3600.0  # twice the longest time limit of a single step, which is that of reading a snapshot
_SEND_TIMEOUT_S = 2.0  # an unresponsive systemd must not delay the work


class _Work:
    """When this process last made progress."""

    moved_at = 0.0


_work = _Work()


def progress() -> None:
    """Record progress: a step started, or something was read, built or written. Cheap; callable from any thread."""
    _work.moved_at = time.monotonic()


def status(text: str) -> None:
    """Record progress, and set the text that `systemctl status` shows."""
    progress()
    _notify(f"STATUS={' '.join(text.split())}")  # a line break would start another message


@contextmanager
def watched(*, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Report readiness, then ping systemd as long as `progress` or `status` is called at least every `patience_s`.

    Enter it before anything that can hang: earlier work is not watched.
    """
    progress()
    _notify("READY=1")
    interval_s = _ping_interval_s()
    if interval_s is None:
        yield
        return
    ended = threading.Event()
    pinger = threading.Thread(target=_ping, args=(ended, interval_s, patience_s), name="watchdog", daemon=True)
    pinger.start()
    try:
        yield
    finally:
        ended.set()
        pinger.join()


def _ping(ended: threading.Event, interval_s: float, patience_s: float) -> None:
    is_moving = True
    while True:
        was_moving, is_moving = is_moving, time.monotonic() - _work.moved_at <= patience_s
        if is_moving:
            _notify("WATCHDOG=1")
        elif was_moving:
            _notify(f"STATUS=No progress for {patience_s:.0f} s: waiting for the watchdog to end this process")
        if ended.wait(interval_s):
            return


def _ping_interval_s() -> float | None:
    """A third of systemd's watchdog timeout; None if systemd does not watch this process."""
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", "")
    is_watched = limit_us.isdecimal() and int(limit_us) > 0 and meant_for in {"", str(os.getpid())}
    return int(limit_us) / 1e6 / 3 if is_watched and os.environ.get("NOTIFY_SOCKET") else None


def _notify(message: str) -> None:
    """Send a message to systemd if it provided a socket; errors are ignored."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path  # @ marks an abstract socket
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_SEND_TIMEOUT_S)
        sender.sendto(message.encode(), address)
