"""Warehouses that earlier versions of Carat wrote, from tests/fixtures/warehouses."""

import tarfile
from pathlib import Path

import zstandard

from tests.support.paths import FIXTURES

_FOLDER = FIXTURES / "warehouses"
VERSIONS = sorted(path.name.partition(".")[0] for path in _FOLDER.glob("transform-*.tar.zst"))


def unpack(version: str, folder: Path) -> None:
    """Write the `warehouse` and the `shop.sqlite` of a version into the folder."""
    with (
        (_FOLDER / f"{version}.tar.zst").open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as plain,
        tarfile.open(fileobj=plain, mode="r|") as archive,
    ):
        archive.extractall(folder, filter="data")
