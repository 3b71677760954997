"""Retries what fails for a reason that may pass."""

import random
import time
from collections.abc import Iterator
from types import TracebackType

from app.core.backoff import Backoff
from app.core.log import Log

_log = Log()


class Attempt:
    """One of several attempts, as a context: it swallows the error that is retried, and remembers it."""

    def __init__(self, on: type[Exception], *, is_last: bool) -> None:
        self._on = on
        self._is_last = is_last
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._is_last or not isinstance(error, self._on):
            return False
        self.error = error
        return True


def attempts(
    on: type[Exception], *, timeout_s: float, first_pause_s: float = 0.5, longest_pause_s: float = 20.0
) -> Iterator[Attempt]:
    """Attempts until one does not raise `on`, with growing pauses; none begins after `timeout_s`. With 0 there is one.

    for attempt in attempts(WarehouseGoneError, timeout_s=60):
        with attempt:
            ...
    """
    until = time.monotonic() + timeout_s
    backoff = Backoff(first_pause_s, longest_pause_s)
    pause_s = backoff.next_s()
    while True:
        attempt = Attempt(on, is_last=time.monotonic() + pause_s >= until)
        yield attempt
        if attempt.error is None:
            return
        _log.warning("failed and is retried", error=str(attempt.error), in_s=round(pause_s, 1))
        time.sleep(pause_s)
        pause_s = backoff.next_s() * random.uniform(0.5, 1)  # noqa: S311  so that several processes do not return at once
