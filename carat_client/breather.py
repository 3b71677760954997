"""Keeps the background thread from holding the interpreter for long."""

import time

_LONGEST_S = 0.0003
_REST_S = 0.00002  # with what the kernel adds, about 70 microseconds


class Breather:
    """Called now and then by work that computes, it rests a moment where there was none for too long.

    A thread that waits for the interpreter gets it at once then. Of one that computes on and on it would have to ask
    for it, and that takes 5 milliseconds each time: requests would wait for the writing of records.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __call__(self) -> None:
        if time.perf_counter() - self._since > _LONGEST_S:
            time.sleep(_REST_S)
            self._since = time.perf_counter()
