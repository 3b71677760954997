"""Keeps the background thread from holding the interpreter lock (GIL) for long."""

import time

_LONGEST_S = 0.0003
_PAUSE_S = 0.00002  # with what the kernel adds, about 70 microseconds


class GilYield:
    """Sleeps for a moment if the thread has not slept recently; call it often from code that computes.

    A thread that waits for the GIL gets it as soon as its holder sleeps. From a holder that never sleeps it has to
    request the GIL, which takes 5 milliseconds each time: requests would wait while records are written.
    """

    def __init__(self) -> None:
        self._slept_at = time.perf_counter()

    def __call__(self) -> None:
        if time.perf_counter() - self._slept_at > _LONGEST_S:
            time.sleep(_PAUSE_S)
            self._slept_at = time.perf_counter()
