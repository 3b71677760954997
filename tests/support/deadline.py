"""A deadline for work that must end: a test asserts no duration, it fails where it would otherwise wait on and on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deadline(limit_s: float = 60) -> Iterator[None]:
    """Raise TimeoutError in the main thread if the block still runs after `limit_s`.

    The limit is generous: it tells an end from no end, or work that grows with its input from work that grows with the
    square of it, also on a busy machine. How long something takes is measured by `make bench`.
    """

    def give_up(*_: object) -> None:
        raise TimeoutError(f"still running after {limit_s} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
