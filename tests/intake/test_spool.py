"""The collector's spool: acknowledged records are on disk, whatever happens to the process, the power or the disk."""

import asyncio
import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from app.core.errors import LockedError, SettingsError
from app.intake.spool import (
    Corruption,
    Received,
    RejectedRecord,
    Spool,
    SpoolError,
    SpoolFullError,
    SpoolLimits,
    acknowledge,
    delivery_lag_s,
    read_segment,
    remove_old_deliveries,
    seal_leftovers,
    sealed_segments,
    spool_backlog,
    writer,
)
from app.intake.spool.format import HEAD_BYTES
from app.intake.spool.segments import delivered_segments, segments
from tests.support.paths import CHECKOUT

LIMITS = SpoolLimits(segment_s=3600, min_free_bytes=0)
NOW_MS = 1_790_000_000_000


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "spool"


@asynccontextmanager
async def opened(folder: Path, limits: SpoolLimits = LIMITS, **options):
    spool = Spool(folder, limits, **options)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


def spooled(folder: Path, *batches: list[bytes], limits: SpoolLimits = LIMITS) -> list[int]:
    """Spools the batches one after the other; up to where the segments were on disk after each."""
    offsets = []

    async def run() -> None:
        async with opened(folder, limits, on_sync=lambda _, offset, __: offsets.append(offset)) as spool:
            for batch in batches:
                await spool.append(batch, received_at_ms=NOW_MS)

    asyncio.run(run())
    return offsets


def records_in(folder: Path) -> list[bytes]:
    frames = [frame for segment in sealed_segments(folder) for frame in read_segment(segment.path)]
    assert not [frame for frame in frames if isinstance(frame, Corruption)]
    return [record for frame in frames for record in frame.records]


def test_records_are_read_back_exactly_whatever_bytes_they_contain(folder):
    batches = [[b"{}", b"", b"\n\n", b"\x00\xff\xc4RT1\n"], [bytes(range(256)) * 100], [b"x"] * 5000]
    spooled(folder, *batches)
    (segment,) = sealed_segments(folder)
    assert list(read_segment(segment.path)) == [Received(NOW_MS, batch) for batch in batches]


def test_rejected_records_are_read_back_with_their_reason(folder):
    refused = RejectedRecord("too large", "300000 bytes", b"\xff\x00")

    async def run() -> None:
        async with opened(folder) as spool:
            await spool.append([b"good"], received_at_ms=NOW_MS, rejected=[refused])
            await spool.append([], received_at_ms=NOW_MS, rejected=[refused])
            await spool.append([], received_at_ms=NOW_MS)

    asyncio.run(run())
    assert records_in(folder) == [b"good", refused, refused]


def test_waiting_batches_share_a_sync(folder):
    syncs = []

    async def run() -> None:
        async with opened(folder, on_sync=lambda *sync: syncs.append(sync)) as spool:
            await asyncio.gather(*(spool.append([b"%d" % n], received_at_ms=NOW_MS) for n in range(1500)))
            assert spool.stats().records == 1500
            assert spool.stats().syncs == len(syncs)

    asyncio.run(run())
    assert len(syncs) < 10
    assert sorted(map(int, records_in(folder))) == list(range(1500))


def test_partial_writes_are_completed(folder, monkeypatch):
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda handle, buffers: real(handle, [memoryview(buffers[0])[:7]]))
    spooled(folder, *([b"record %d" % n] * 3 for n in range(20)))
    assert len(records_in(folder)) == 60


def test_segments_are_sealed_by_size_and_by_records(folder):
    spooled(folder, *[[b"x" * 1000]] * 6, limits=replace(LIMITS, segment_bytes=2500))
    assert len(sealed_segments(folder)) == 2
    spooled(folder / "other", *[[b"x"] * 4] * 4, limits=replace(LIMITS, segment_records=8))
    assert len(sealed_segments(folder / "other")) == 2


def test_an_idle_spool_seals_by_age(folder):
    async def run() -> None:
        async with opened(folder, replace(LIMITS, segment_s=0.1)) as spool:
            await spool.append([b"x"], received_at_ms=NOW_MS)
            assert not sealed_segments(folder)
            assert spool_backlog(folder).segments == 1
            await asyncio.sleep(0.3)
            assert [segment.bytes for segment in sealed_segments(folder)] == [HEAD_BYTES + 5]

    asyncio.run(run())


def test_a_segment_name_is_never_reused_even_if_the_folder_was_emptied(folder):
    names = set()
    for _ in range(5):
        spooled(folder, [b"x"])
        (segment,) = sealed_segments(folder)
        names.add(segment.name)
        shutil.rmtree(folder)
    assert len(names) == 5


@given(cut=st.integers(0, 400), garbage=st.binary(max_size=40))
@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_incomplete_end_is_truncated_to_the_last_complete_entry(tmp_path, cut, garbage):
    folder = tmp_path / "torn"
    shutil.rmtree(folder, ignore_errors=True)
    batches = [[b"batch %d" % n] * n for n in range(1, 8)]
    offsets = spooled(folder, *batches)
    (segment,) = sealed_segments(folder)
    data = segment.path.read_bytes()
    torn = segment.path.rename(segment.path.with_suffix(".open"))
    torn.write_bytes(data[:cut] + garbage)
    seal_leftovers(folder)
    whole = [batch for batch, offset in zip(batches, offsets, strict=True) if offset <= cut]
    assert records_in(folder) == [record for batch in whole for record in batch]
    assert not segments(folder, ".open")


def test_what_was_acknowledged_survives_a_power_cut(folder, tmp_path):
    """A power cut leaves of each segment at least what was synced: here, that and nothing else, at every sync."""
    acknowledged: list[bytes] = []
    moments: list[tuple[dict[str, int], list[bytes]]] = []
    durable: dict[str, int] = {}

    def on_sync(path: Path, offset: int, _: float) -> None:
        durable[path.stem] = offset

    async def send(spool: Spool, sender: int) -> None:
        for number in range(30):
            record = b"%d-%d" % (sender, number)
            await spool.append([record, b"x" * 100], received_at_ms=NOW_MS)
            acknowledged.append(record)
            moments.append((dict(durable), acknowledged[:]))

    async def run() -> None:
        async with opened(folder, replace(LIMITS, segment_bytes=4000), on_sync=on_sync) as spool:
            await asyncio.gather(*(send(spool, sender) for sender in range(10)))

    asyncio.run(run())
    whole = {segment.name: segment.path.read_bytes() for segment in sealed_segments(folder)}
    assert len(whole) > 5
    for number, (offsets, promised) in enumerate(moments[::7]):
        after = tmp_path / f"after-{number}"
        after.mkdir()
        for name, offset in offsets.items():
            (after / f"{name}.open").write_bytes(whole[name][:offset])
        seal_leftovers(after)
        assert set(promised) <= set(records_in(after))


def test_corruption_in_the_middle_is_reported_and_affects_no_other_entry(folder):
    batches = [[b"batch %d" % n] * 10 for n in range(5)]
    offsets = spooled(folder, *batches)
    (segment,) = sealed_segments(folder)
    data = bytearray(segment.path.read_bytes())
    data[offsets[1] + 2] ^= 0xFF  # the magic of the third
    data[offsets[3] + HEAD_BYTES + 20] ^= 0x01  # the lengths of the fifth
    segment.path.write_bytes(data)
    assert list(read_segment(segment.path)) == [
        Received(NOW_MS, batches[0]),
        Received(NOW_MS, batches[1]),
        Corruption(offsets[1], offsets[2] - offsets[1], bytes(data[offsets[1] : offsets[2]])),
        Received(NOW_MS, batches[3]),
        Corruption(offsets[3], offsets[4] - offsets[3], bytes(data[offsets[3] : offsets[4]])),
    ]


def test_corruption_in_an_open_segment_keeps_what_was_acknowledged_after_it(folder):
    offsets = spooled(folder, [b"first"], [b"second"], [b"third"])
    (segment,) = sealed_segments(folder)
    data = bytearray(segment.path.read_bytes())
    data[offsets[0] + HEAD_BYTES] ^= 0xFF
    left = segment.path.with_suffix(".open")
    segment.path.rename(left)
    left.write_bytes(data)
    spooled(folder, [b"fourth"])
    frames = [frame for sealed in sealed_segments(folder) for frame in read_segment(sealed.path)]
    assert [f.records for f in frames if isinstance(f, Received)] == [[b"first"], [b"third"], [b"fourth"]]
    assert [(f.offset, f.size) for f in frames if isinstance(f, Corruption)] == [(offsets[0], offsets[1] - offsets[0])]


@pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"\xc4RT1" * 500, os.urandom(3000)])
def test_a_file_that_is_not_a_segment_is_read_as_corruption(tmp_path, data):
    (tmp_path / "x.sealed").write_bytes(data)
    assert list(read_segment(tmp_path / "x.sealed")) == ([Corruption(0, len(data), data)] if data else [])


@contextmanager
def failing(monkeypatch, name: str, code: int) -> Iterator[None]:
    """os.fdatasync or os.writev that fails as a broken or full disk makes it fail."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        yield


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("fdatasync", errno.EIO, SpoolError),
        ("fdatasync", errno.ENOSPC, SpoolFullError),
        ("writev", errno.EIO, SpoolError),
    ],
)
def test_a_segment_that_failed_is_truncated_and_never_used_again(folder, monkeypatch, name, code, kind):
    async def run() -> None:
        async with opened(folder) as spool:
            await spool.append([b"before"], received_at_ms=NOW_MS)
            (first,) = segments(folder, ".open")
            with failing(monkeypatch, name, code):
                failures = await asyncio.gather(
                    *(spool.append([b"lost"], received_at_ms=NOW_MS) for _ in range(5)), return_exceptions=True
                )
                assert {type(failure) for failure in failures} == {kind}
            assert [segment.name for segment in sealed_segments(folder)] == [first.name]
            await spool.append([b"after"], received_at_ms=NOW_MS)
            (second,) = segments(folder, ".open")
            assert second.name != first.name

    asyncio.run(run())
    assert records_in(folder) == [b"before", b"after"]


def test_a_full_disk_refuses_records_until_there_is_space_again(folder):
    """The largest size of a file stands for the disk's: the kernel refuses to write beyond it."""

    async def run() -> None:
        async with opened(folder) as spool:
            await spool.append([b"before"], received_at_ms=NOW_MS)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
            try:
                for _ in range(3):
                    with pytest.raises(SpoolFullError, match="could not be written"):
                        await spool.append([b"x" * 50_000], received_at_ms=NOW_MS)
                await spool.append([b"small"], received_at_ms=NOW_MS)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            await spool.append([b"y" * 50_000], received_at_ms=NOW_MS)

    asyncio.run(run())
    assert records_in(folder) == [b"before", b"small", b"y" * 50_000]


def test_a_spool_at_its_limit_refuses_records_until_something_was_delivered(folder, monkeypatch):
    monkeypatch.setattr(writer, "_RESCAN_WHEN_FULL_S", 0)
    limits = replace(LIMITS, segment_bytes=4000, max_bytes=20_000)

    async def run() -> None:
        async with opened(folder, limits) as spool:
            for _ in range(4):
                await spool.append([b"x" * 4500], received_at_ms=NOW_MS)
            assert spool.problem() is None
            with pytest.raises(SpoolFullError, match="full"):
                await spool.append([b"x" * 4500], received_at_ms=NOW_MS)
            for segment in sealed_segments(folder):
                acknowledge(segment)
            for _ in range(3):  # what was delivered makes room
                await spool.append([b"y" * 4500], received_at_ms=NOW_MS)
            assert len(delivered_segments(folder)) < 4

    asyncio.run(run())


def test_a_disk_with_too_little_free_space_refuses_records(folder):
    async def run() -> None:
        async with opened(folder, replace(LIMITS, min_free_bytes=2**62)) as spool:
            assert "full" in (spool.problem() or "")
            with pytest.raises(SpoolFullError, match="full"):
                await spool.append([b"x"], received_at_ms=NOW_MS)

    asyncio.run(run())


def test_a_slow_disk_refuses_records_that_would_exceed_the_memory_limit(folder, monkeypatch):
    may_go_on = threading.Event()
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda handle: (may_go_on.wait(10), real(handle)))

    async def run() -> None:
        async with opened(folder, replace(LIMITS, max_waiting_bytes=10_000)) as spool:
            waiting = [asyncio.create_task(spool.append([b"x" * 3000], received_at_ms=NOW_MS)) for _ in range(3)]
            await asyncio.sleep(0.05)
            with pytest.raises(SpoolFullError, match="too slow"):
                await spool.append([b"x" * 3000], received_at_ms=NOW_MS)
            may_go_on.set()
            await asyncio.gather(*waiting)
            await spool.append([b"x" * 3000], received_at_ms=NOW_MS)

    asyncio.run(run())
    assert len(records_in(folder)) == 4


def test_a_cancelled_waiter_does_not_cancel_the_others(folder, monkeypatch):
    may_go_on = threading.Event()
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda handle: (may_go_on.wait(10), real(handle)))

    async def run() -> None:
        async with opened(folder) as spool:
            tasks = [asyncio.create_task(spool.append([b"%d" % n], received_at_ms=NOW_MS)) for n in range(3)]
            await asyncio.sleep(0.05)
            tasks[1].cancel()
            may_go_on.set()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in done] == [type(None), asyncio.CancelledError, type(None)]

    asyncio.run(run())
    assert records_in(folder) == [b"0", b"1", b"2"]


def test_a_spool_has_one_writer(folder, monkeypatch):
    monkeypatch.setattr(writer, "_LOCK_WAIT_S", 0.1)

    async def run() -> None:
        async with opened(folder) as spool:
            await spool.append([b"x"], received_at_ms=NOW_MS)
            with pytest.raises(LockedError, match="one writer"):
                await Spool(folder, LIMITS).open()
            assert seal_leftovers(folder) == 0
        with pytest.raises(SpoolError, match="closed"):
            await spool.append([b"x"], received_at_ms=NOW_MS)

    asyncio.run(run())


def test_a_folder_that_cannot_be_created_is_a_settings_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="CARAT_SPOOL"):
        asyncio.run(Spool(tmp_path / "file" / "spool", LIMITS).open())


def test_delivered_segments_are_kept_for_a_while(folder):
    spooled(folder, [b"old"])
    spooled(folder, [b"new"])
    old, new = sealed_segments(folder)
    os.utime(old.path, (time.time() - 7200, time.time() - 7200))
    for segment in (old, new):
        acknowledge(segment)
    assert spool_backlog(folder).segments == 0
    assert 0 <= delivery_lag_s(folder) < 60
    assert remove_old_deliveries(folder, keep_s=3600) == 1
    assert [segment.name for segment in delivered_segments(folder)] == [new.name]


def test_the_spool_imports_neither_polars_nor_an_engine():
    code = "import sys, app.intake.spool; print(sorted({'polars', 'chdb', 'clickhouse_connect', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == b"[]"
