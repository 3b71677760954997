"""Ends long-running commands in good order when they are told to."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE_S = 20


class StoppedError(BaseException):
    """The process was told to stop and what it did then took too long: it can be interrupted anywhere."""


@contextmanager
def stopped_by_signal() -> Iterator[threading.Event]:
    """An event that is set by SIGTERM or SIGINT; work that does not end within 20 s after it is interrupted."""
    stopped = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopped.set()
        signal.alarm(_GRACE_S)

    def interrupt(_: int, __: FrameType | None) -> None:
        raise StoppedError

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield stopped
    except StoppedError:
        if not stopped.is_set():
            raise
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
