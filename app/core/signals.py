"""Stops long-running commands gracefully on SIGTERM and SIGINT."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from app.core import console

_GRACE_S = 20
_INTERRUPTED = 130


class _OverdueError(BaseException):
    """The grace period after a signal is over. Can be raised anywhere."""


@contextmanager
def stopped_by_signal(*, grace_s: int = _GRACE_S) -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. Work that continues for more than `grace_s` is interrupted (0: never).

    After SIGTERM, an interrupted process exits with 0: the next run finishes the work.
    """
    stopped = threading.Event()
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        stopped.set()
        signal.alarm(grace_s)

    def interrupt(_: int, __: FrameType | None) -> None:
        raise _OverdueError

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield stopped
    except _OverdueError:
        console.log.warning("interrupted: the work did not stop in time after a signal", after_s=grace_s)
        raise SystemExit(_INTERRUPTED if signal.SIGINT in received else 0) from None
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
