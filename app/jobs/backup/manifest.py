"""What a backup says of itself: a directory with `manifest.json`, `spool/`, and of the embedded engine `warehouse/`.

The manifest is written last. A directory with the marker and without a manifest is a backup that was interrupted.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from app import TRANSFORM_VERSION, __version__
from app.contracts import DATABASES
from app.core.errors import BackupError, SettingsError
from app.intake.spool.segments import sync_folder

FORMAT = 1
SPOOL = "spool"
WAREHOUSE = "warehouse"
_MANIFEST = "manifest.json"
_INCOMPLETE = "INCOMPLETE"
_NEWEST_PART = f"{_MANIFEST}.new"
_OWN = frozenset({_INCOMPLETE, _NEWEST_PART, SPOOL, WAREHOUSE})
_CHUNK_BYTES = 1024**2
_NAME = re.compile(r"[\w-]+")
_TABLE = re.compile(rf"({'|'.join(DATABASES)})\.[^`/\\]+")


class TableCopy(msgspec.Struct, frozen=True):
    """One table: its rows and a sum of their hashes; of files in this directory also their number, bytes and digest."""

    name: str
    rows: int
    checksum: int
    files: int = 0
    bytes: int = 0
    digest: str = ""


class SegmentCopy(msgspec.Struct, frozen=True):
    """One segment of the spool."""

    name: str
    bytes: int
    digest: str


class Manifest(msgspec.Struct, frozen=True):
    """A backup: who made it, when, of what, and where a server stored its part (`disk` and `path`)."""

    id: str
    started_at: datetime
    ended_at: datetime
    engine: str
    disk: str
    path: str
    tables: list[TableCopy]
    views: dict[str, str]
    segments: list[SegmentCopy]
    carat: str = __version__
    transform_version: int = TRANSFORM_VERSION
    format: int = FORMAT

    @property
    def is_on_a_server(self) -> bool:
        return bool(self.disk)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    @property
    def bytes(self) -> int:
        """The bytes in the directory."""
        return sum(table.bytes for table in self.tables) + sum(segment.bytes for segment in self.segments)


@contextmanager
def new_folder(folder: Path) -> Iterator[Callable[[Manifest], None]]:
    """Begin a backup in an empty or an interrupted one's directory; yields what ends it."""
    marker = folder / _INCOMPLETE
    marker.write_text("This backup was not finished. Run `carat backup` with this directory again, or remove it.\n")

    def complete(manifest: Manifest) -> None:
        new = folder / _NEWEST_PART
        with new.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(folder / _MANIFEST)
        marker.unlink()
        sync_tree(folder)

    yield complete


def require_free_folder(folder: Path) -> None:
    """Raise SettingsError if the directory holds anything but a backup that was interrupted."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SettingsError(f"{folder} is not a directory: name one for the backup; it is created")
    names = {path.name for path in folder.iterdir()}
    if _MANIFEST in names:
        raise SettingsError(f"{folder} holds a backup: name a new directory for each backup")
    if names and (_INCOMPLETE not in names or names - _OWN):
        raise SettingsError(f"{folder} is not empty: name a new directory for the backup")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete backup; BackupError or SettingsError says why there is none."""
    path = folder / _MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        if (folder / _INCOMPLETE).exists():
            raise BackupError(
                f"the backup in {folder} is incomplete: it was interrupted. Use another one, or make it again"
            ) from None
        raise SettingsError(f"{folder} holds no backup: it has no {_MANIFEST}") from None
    except (msgspec.DecodeError, OSError) as error:
        raise BackupError(f"{path} cannot be read: {error}. The backup is damaged; use another one") from None
    _require_plain_names(manifest, path)
    if manifest.format > FORMAT or manifest.transform_version > TRANSFORM_VERSION:
        raise SettingsError(
            f"the backup in {folder} was made by a later Carat ({manifest.carat}, transform version "
            f"{manifest.transform_version}): upgrade Carat ({__version__}, {TRANSFORM_VERSION}) first"
        )
    return manifest


def _require_plain_names(manifest: Manifest, path: Path) -> None:
    """Names become parts of paths and statements: raise BackupError where one is not what a backup writes."""
    is_plain = (
        _NAME.fullmatch(manifest.path)
        and _NAME.fullmatch(manifest.disk or "none")
        and all(_TABLE.fullmatch(table.name) for table in manifest.tables)
        and all(statement.startswith("CREATE VIEW ") for statement in manifest.views.values())
    )
    if not is_plain:
        raise BackupError(
            f"{path} names something that is not a Carat table or view: the backup is damaged; use another one"
        )


def digest_of_files(paths: list[Path], *, root: Path) -> str:
    """One digest of the names and contents of files, which are on the disk when this returns."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root)}\0{digest_of_file(path)}\n".encode())
    return total.hexdigest()


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file, which is on the disk when this returns."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while chunk := file.read(_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def sync_tree(folder: Path) -> None:
    """Make the names of all files below, and of the directory itself, durable."""
    for path in (folder.parent, folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync_folder(path)
