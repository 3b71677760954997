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
    """Raised anywhere in the main thread if work takes longer than the grace period after a signal."""


@contextmanager
def stopped_by_signal(*, grace_s: int = _GRACE_S) -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. Work that continues for `grace_s` after it is interrupted (0: never).

    After SIGTERM the process then exits 0, as if it had stopped in time: the next run does what it did not finish.
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
        console.log.warning("interrupted: the work did not stop within the grace period", after_s=grace_s)
        raise SystemExit(_INTERRUPTED if signal.SIGINT in received else 0) from None
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
