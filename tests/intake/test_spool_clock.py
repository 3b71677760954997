"""The ages that the spool reports, whatever the machine's clock did since."""

import os
from pathlib import Path

import pytest

from app.intake.spool import acknowledge, delivery_lag_s, sealed_segments, spool_backlog
from app.intake.spool.segments import new_name

AHEAD_MS = 1_790_000_000_000 + 3 * 86_400_000
CORRECTED_MS = 1_790_000_000_000


def written(folder: Path, begun_ms: int, written_ms: int) -> Path:
    path = folder / f"{new_name([], begun_ms)}.sealed"
    path.write_bytes(b"x")
    os.utime(path, ns=(written_ms * 10**6, written_ms * 10**6))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


def test_a_segment_named_while_the_clock_was_ahead_is_as_old_as_its_file(folder):
    written(folder, AHEAD_MS, CORRECTED_MS)
    assert spool_backlog(folder).oldest_at_ms == CORRECTED_MS


def test_otherwise_it_is_as_old_as_its_name_says(folder):
    written(folder, CORRECTED_MS, CORRECTED_MS + 9_000)
    assert spool_backlog(folder).oldest_at_ms == CORRECTED_MS


def test_the_lag_of_a_delivery_counts_from_the_file_as_well(folder):
    written(folder, AHEAD_MS * 2, CORRECTED_MS)
    (segment,) = sealed_segments(folder)
    acknowledge(segment)
    assert delivery_lag_s(folder) > 0
