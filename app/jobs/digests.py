"""The digests of the rows that a table's last snapshot read, kept on this machine as a cache.

A row with the digest of then is as it was, so that its version need not be read from history. The file is named after
the state of history that it belongs to: with any other, and where it is lost, all rows are compared with history.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa
from polars.datatypes import DataType

from app.core.errors import ShopError
from app.frames.row_digests import DIGEST

_FOLDER = "digests"
_LAYOUT = 1  # of the files
_SEED_BITS = 63


def drop_digests(scratch: Path) -> None:
    """Remove the digests of all tables: the keys beside them may name a person who is forgotten."""
    shutil.rmtree(scratch / _FOLDER, ignore_errors=True)


def frame_of(batch: pa.RecordBatch) -> pl.DataFrame:
    """One batch as a frame."""
    frame = pl.from_arrow(pa.Table.from_batches([batch]))
    assert isinstance(frame, pl.DataFrame)
    return frame


class Digests:
    """The digests of one table: those that are known, and those of the rows that are being read.

    What cannot be opened or written, as on a full disk, is not there the next time. A file that turns out to be damaged
    fails the table once.
    """

    def __init__(self, scratch: Path, table: str, *, key: Sequence[str], kept: Mapping[str, DataType]) -> None:
        self._folder = scratch / _FOLDER
        self._table = table
        self._names = [*key, *DIGEST]
        # Another release of Polars may hash in another way.
        self._rows = f"{_LAYOUT} {pl.__version__} {list(key)} {dict(kept)}"
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._new_file: IO[bytes] | None = None
        self._is_lost = False
        self.seeds = (secrets.randbits(_SEED_BITS), secrets.randbits(_SEED_BITS))
        self.known_rows = 0

    def open(self, state: str) -> bool:
        """Open the digests of the rows as history has them in this state; false if there are none."""
        try:
            self._open_path = self._path(state)
            self._reader = pa.ipc.open_file(pa.OSFile(str(self._open_path)))
        except (OSError, pa.ArrowInvalid):
            return False
        said = self._reader.schema.metadata
        self.seeds = (int(said[b"seed 1"]), int(said[b"seed 2"]))
        return True

    @property
    def are_known(self) -> bool:
        return self._reader is not None

    def known(self) -> Iterator[pl.DataFrame]:
        """The keys of the rows in their order, with their digests; `known_rows` counts them."""
        assert self._reader is not None
        for number in range(self._reader.num_record_batches):
            try:
                piece = frame_of(self._reader.get_batch(number))
            except (OSError, pa.ArrowInvalid) as error:
                self._open_path.unlink(missing_ok=True)
                raise ShopError(
                    f"{self._table}: {self._open_path} is damaged ({error}) and was removed. Run the same command again"
                ) from None
            self.known_rows += piece.height
            yield piece.rename(dict(zip(piece.columns, self._names, strict=True)))

    def add(self, rows: pl.DataFrame) -> None:
        """Write the digests of rows that were read, which have them as columns."""
        if self._is_lost or rows.is_empty():
            return
        keys = rows.select(pl.col(name).alias(str(number)) for number, name in enumerate(self._names))
        table = keys.to_arrow(compat_level=pl.CompatLevel.oldest())
        try:
            if self._writer is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._new_file = self._new_path.open("wb")
                said = {f"seed {number}": str(seed) for number, seed in enumerate(self.seeds, start=1)}
                self._writer = pa.ipc.new_file(self._new_file, table.schema.with_metadata(said))
            self._writer.write_table(table)
        except OSError:
            self._is_lost = True

    def keep(self, state: str) -> None:
        """Make what was written the digests of this state, whole even after a power cut, in place of all others."""
        kept = self._path(state)
        try:
            if self._writer is not None and self._new_file is not None and not self._is_lost:
                self._writer.close()
                self._new_file.flush()
                os.fsync(self._new_file.fileno())
                self._new_path.replace(kept)
            for other in self._folder.glob(f"{self._table}.*.arrow"):
                if other != kept:
                    other.unlink(missing_ok=True)
        except OSError:
            pass

    def close(self) -> None:
        """Close the files, and remove what was written and not kept."""
        with suppress(OSError):
            if self._new_file is not None:
                self._new_file.close()
            self._new_path.unlink(missing_ok=True)

    @property
    def _new_path(self) -> Path:
        return self._folder / f"{self._table}.new"

    def _path(self, state: str) -> Path:
        said = hashlib.sha256(f"{self._rows} {state}".encode()).hexdigest()[:32]
        return self._folder / f"{self._table}.{said}.arrow"
