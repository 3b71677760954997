"""Ends long-running commands in good order when they are told to."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from app.core import console

_GRACE_S = 20
_INTERRUPTED = 130


class _OverdueError(BaseException):
    """The process was told to stop and what it did then took too long: it can be interrupted anywhere."""


@contextmanager
def stopped_by_signal(*, grace_s: int = _GRACE_S) -> Iterator[threading.Event]:
    """An event that is set by SIGTERM or SIGINT; work that goes on for `grace_s` after it is interrupted (0: never).

    Then the process ends, after SIGTERM as if it had ended in time: what it did not finish is done the next time.
    """
    stopped = threading.Event()
    told: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        told.append(number)
        stopped.set()
        signal.alarm(grace_s)

    def interrupt(_: int, __: FrameType | None) -> None:
        raise _OverdueError

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield stopped
    except _OverdueError:
        console.log.warning("told to stop, and interrupted in what took longer", after_s=grace_s)
        raise SystemExit(_INTERRUPTED if signal.SIGINT in told else 0) from None
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
