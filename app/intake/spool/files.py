"""Opens the spool's files without following what others may have put there: links, pipes, devices.

The spool belongs to one user. Nobody else may write to its folder: a link in it would have the collector truncate, or
the loader read, a file of somebody else's choice.
"""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from app.core.errors import SpoolError

_NOT_REGULAR = "is not a regular file and cannot be a segment: remove it"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def open_segment(path: Path) -> IO[bytes]:
    """Open a segment for reading; OSError if it is not a regular file, or a link to one."""
    return os.fdopen(_open(path, os.O_RDONLY), "rb")


def truncate_segment(path: Path, size: int) -> None:
    """Truncate a segment, durably; OSError if it is not a regular file.

    One that has a second name is left as it is: that may be somebody else's file, and a reader passes over its end.
    """
    handle = _open(path, os.O_WRONLY)
    try:
        if os.fstat(handle).st_nlink == 1:
            os.ftruncate(handle, size)
            os.fsync(handle)
    finally:
        os.close(handle)


def require_private(*folders: Path) -> None:
    """Raise SpoolError if others than the owner may write to one of these folders; one that is missing is private."""
    for folder in folders:
        try:
            found = folder.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SpoolError(f"the spool {folder} cannot be used: {error.strerror}. Check CARAT_SPOOL") from None
        if found.st_mode & _OTHERS_WRITE:
            raise SpoolError(
                f"others may write to the spool {folder} (mode {stat.S_IMODE(found.st_mode):o}): run `chmod go-w "
                f"{folder}`, then look for files in it that are not yours"
            )


def _open(path: Path, flags: int) -> int:
    try:
        # O_NONBLOCK: a pipe would wait for a writer.
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise OSError(error.errno, _NOT_REGULAR, str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, _NOT_REGULAR, str(path))
    return handle
