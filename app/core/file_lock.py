"""Locks between processes: an exclusive flock on a file.

The kernel frees the lock when its holder ends, however it ends, so there is never a stale lock to remove. The file and
its content stay: a holder can write its name into it, and others can read that.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RETRY_S = 0.1


def take_lock(path: Path, *, mode: int = 0o600, wait_s: float = 0.0) -> int | None:
    """Lock the file and return its descriptor, which holds the lock until it is closed.

    None if another process still holds the lock after `wait_s` seconds. Raises OSError if the file cannot be opened, or
    is a link.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, mode)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(handle)
                return None
            time.sleep(_RETRY_S)
        except BaseException:
            os.close(handle)
            raise
        else:
            return handle


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of this file, however long it takes to get it."""
    handle = take_lock(path, wait_s=float("inf"))
    assert handle is not None
    try:
        yield
    finally:
        os.close(handle)
