"""How much space a disk has left."""

import shutil
from pathlib import Path


def existing_parent(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    while not path.exists():
        path = path.parent
    return path


def free_bytes(folder: Path) -> int:
    """The free bytes on the disk of an existing folder; OSError if it does not exist."""
    return shutil.disk_usage(folder).free
