"""The lock on an embedded warehouse: the engine allows one process, and its own error does not say which holds it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from app.core.errors import LockedError, SettingsError

_UNTIL_STOPPED = frozenset(
    {"carat serve", "carat dashboards preview --serve"}
)  # commands that hold it as long as they run


@contextmanager
def hold_embedded(path: Path, *, purpose: str) -> Iterator[None]:
    """Hold the warehouse directory for this process; LockedError says which process holds it and since when.

    The kernel releases the lock with the process, however it ends, so there is never a stale one.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # it may hold the login of a linked shop
        handle = os.open(path / "carat.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SettingsError(f"CARAT_WAREHOUSE: cannot use the directory {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who, command = _holder(handle)
            advice = (
                "stop it first: it holds the warehouse until it ends"
                if command in _UNTIL_STOPPED
                else "try again later"
            )
            raise LockedError(f"the warehouse {path} is held by {who}; {advice}", holder=command) from None
        since = datetime.now(tz=UTC).isoformat(timespec="seconds")
        with suppress(OSError):  # on a full disk the lock works, only its holder has no name
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "command": purpose, "since": since}).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> tuple[str, str]:
    """The holder in words, and its command, if known."""
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
        return f"`{holder['command']}` (process {holder['pid']}) since {holder['since']}", holder["command"]
    except (OSError, ValueError, KeyError):
        return "another process", ""
