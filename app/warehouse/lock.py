"""The lock of an embedded warehouse. The engine allows one process, and its own error does not say which."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from app.core.errors import LockedError, SettingsError
from app.core.file_lock import take_lock

_UNTIL_STOPPED = frozenset(
    {"carat serve", "carat dashboards preview --serve"}
)  # commands that hold the lock for as long as they run


@contextmanager
def hold_embedded(path: Path, *, purpose: str) -> Iterator[None]:
    """Lock the warehouse directory for this process; LockedError says who holds it and since when."""
    file = path / "carat.lock"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # it may contain the login of a linked shop
        handle = take_lock(file, mode=0o644)
    except OSError as error:
        raise SettingsError(f"CARAT_WAREHOUSE: cannot use the directory {path}: {error.strerror}") from None
    if handle is None:
        who, command = _holder(file)
        fix = "stop it first: it holds it until it ends" if command in _UNTIL_STOPPED else "try again later"
        raise LockedError(f"the warehouse {path} is held by {who}; {fix}", holder=command)
    try:
        since = datetime.now(tz=UTC).isoformat(timespec="seconds")
        with suppress(OSError):  # on a full disk the lock still works, only the holder's name is missing
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "command": purpose, "since": since}).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(file: Path) -> tuple[str, str]:
    """A description of the holder, and its command if known."""
    try:
        holder = json.loads(file.read_bytes())
        return f"`{holder['command']}` (process {holder['pid']}) since {holder['since']}", holder["command"]
    except (OSError, ValueError, KeyError):
        return "another process", ""
