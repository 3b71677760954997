"""What others put into the spool is left alone, and forged heads cost no more than their bytes."""

import asyncio
import os
import random
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import SettingsError
from app.intake.spool import (
    Corruption,
    Received,
    RejectedRecord,
    Spool,
    SpoolError,
    SpoolLimits,
    foreign_files,
    read_segment,
    seal_leftovers,
    sealed_segments,
)
from app.intake.spool import reader as spool_reader
from app.intake.spool.checksums import FileChecksums
from app.intake.spool.files import open_segment
from app.intake.spool.format import HEAD_BYTES, parse_head, records_entry, rejected_entry
from app.intake.spool.reader import end_of_entries
from tests.support.effort import repeated

LIMITS = SpoolLimits(segment_s=3600, min_free_bytes=0)
NAME = "001790000000000-abcdef01"


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


def written(*entries) -> bytes:
    return b"".join(entry.head + entry.checksum + entry.payload for entry in entries)


def open_once(folder: Path) -> None:
    async def run() -> None:
        spool = Spool(folder, LIMITS)
        await spool.open()
        await spool.close()

    asyncio.run(run())


# ---- links, pipes, folders of others -----------------------------------------------------------------------------


def test_a_link_in_place_of_an_open_segment_is_not_followed(folder, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / f"{NAME}.open").symlink_to(victim)
    open_once(folder)
    assert seal_leftovers(folder) == 0
    assert victim.read_text() == "precious"


def test_a_link_in_place_of_a_sealed_segment_is_not_read(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root:x:0")
    (folder / f"{NAME}.sealed").symlink_to(secret)
    with pytest.raises(OSError, match="not a regular file"):
        list(read_segment(folder / f"{NAME}.sealed"))


def test_a_pipe_and_a_folder_are_no_segments(folder):
    os.mkfifo(folder / f"{NAME}.sealed")
    (folder / f"{NAME}.open").mkdir()
    assert seal_leftovers(folder) == 0
    with pytest.raises(OSError, match="not a regular file"):  # and does not wait for a writer
        open_segment(folder / f"{NAME}.sealed")
    assert [path.suffix for path in foreign_files(folder)] == [".open", ".sealed"]


def test_a_second_name_of_another_file_is_not_truncated(folder, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(written(records_entry([b"{}"], 5)) + b"not ours")
    os.link(victim, folder / f"{NAME}.open")
    assert seal_leftovers(folder) == 1
    assert victim.read_bytes().endswith(b"not ours")


def test_a_link_in_place_of_the_lock_is_refused(folder, tmp_path):
    (folder / "spool.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="cannot use the directory"):
        open_once(folder)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o720, 0o702])
@pytest.mark.parametrize("place", [".", "delivered"])
def test_a_folder_that_others_may_write_to_is_refused(folder, mode, place):
    (folder / "delivered").mkdir(mode=0o700)
    (folder / place).chmod(mode)
    with pytest.raises(SettingsError, match="chmod go-w"):
        open_once(folder)
    for use in (sealed_segments, seal_leftovers):
        with pytest.raises(SpoolError, match="chmod go-w"):
            use(folder)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_a_folder_that_others_may_only_read_is_used(folder, mode):
    folder.chmod(mode)
    open_once(folder)
    assert sealed_segments(folder) == []


# ---- forged heads ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=20_000), st.data())
@settings(max_examples=repeated(50, 2000), deadline=None)
def test_the_checksum_of_a_range_is_that_of_its_bytes(content, data):
    end = data.draw(st.integers(0, len(content)))
    start = data.draw(st.integers(0, end))
    before = data.draw(st.integers(0, 2**32 - 1))
    found = FileChecksums(BytesIO(content)).crc32(start, end, after=before)
    assert found == zlib.crc32(content[start:end], before)


class CountingFile(BytesIO):
    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def test_forged_heads_cost_no_more_than_their_number(folder):
    whole = written(records_entry([b'{"a":1}'], 7))
    forged = records_entry([b"x" * 4000], 9).head + b"\0\0\0\0"
    content = whole + forged * 2000 + whole
    file = CountingFile(content)
    ends = [end for _, end, entry in spool_reader._parts(file) if entry]
    assert ends == [len(whole), len(content)]
    assert file.bytes_read < 2000 * 2 * 4096 + 10 * len(content)  # as read from each head on: half a gigabyte


def test_what_follows_forged_heads_is_kept_and_what_they_end_is_truncated(folder):
    entry = written(records_entry([b'{"a":1}'], 7))
    forged = records_entry([b"x" * 100], 9).head + b"\0\0\0\0"
    torn = written(rejected_entry([RejectedRecord("not UTF-8", "byte 0", forged * 400)], 8))[:-1]
    path = folder / f"{NAME}.open"
    path.write_bytes(entry + forged * 100 + entry + torn)
    assert end_of_entries(path) == len(entry) * 2 + len(forged) * 100
    assert seal_leftovers(folder) == 1
    (segment,) = sealed_segments(folder)
    assert [type(part) for part in read_segment(segment.path)] == [Received, Corruption, Received]


# ---- any bytes ---------------------------------------------------------------------------------------------------

RECORDS = st.lists(st.binary(max_size=60), min_size=1, max_size=4)
REJECTED = st.lists(st.builds(RejectedRecord, st.text(max_size=9), st.text(max_size=9), st.binary(max_size=60), st.just(0)), min_size=1, max_size=3)  # fmt: skip
ENTRIES = st.lists(
    RECORDS.map(lambda records: records_entry(records, 5)) | REJECTED.map(lambda records: rejected_entry(records, 6)),
    max_size=5,
)


@given(ENTRIES, st.integers(0, 2**32))
@settings(max_examples=repeated(150, 20_000), deadline=None)
def test_damage_costs_only_the_entries_that_it_touches(tmp_path_factory, entries, seed):
    """Each entry that no changed byte lies in is read, and every other byte is reported once."""
    chance = random.Random(seed)
    content = bytearray(written(*entries))
    bounds, start = [], 0
    for entry in entries:
        bounds.append((start, start + entry.size))
        start += entry.size
    touched = sorted(chance.sample(range(len(content)), min(len(content), chance.randrange(4))))
    for at in touched:
        content[at] ^= 1 << chance.randrange(8)
    path = tmp_path_factory.getbasetemp() / "damaged.sealed"
    path.write_bytes(content)
    parts = list(read_segment(path))
    untouched = sum(not any(first <= at < end for at in touched) for first, end in bounds)
    assert sum(isinstance(part, Received) for part in parts) == untouched
    damaged = sum(part.size for part in parts if isinstance(part, Corruption))
    assert damaged == sum(end - first for first, end in bounds if any(first <= at < end for at in touched))


@given(st.binary(max_size=300))
@settings(max_examples=repeated(150, 20_000), deadline=None)
def test_any_file_is_read_to_its_end(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "anything.sealed"
    path.write_bytes(content)
    assert sum(part.size for part in read_segment(path) if isinstance(part, Corruption)) == len(content)
    assert parse_head(content[:HEAD_BYTES]) is None or len(content) >= HEAD_BYTES
