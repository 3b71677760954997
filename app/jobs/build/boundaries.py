"""Fingerprints of the calls beyond a day's two midnights that its sessions depend on."""

from dataclasses import dataclass

import polars as pl

from app.frames.days import DayBounds
from app.frames.sessionize import reached_calls
from app.jobs.build.call_sql import CALL_HASH, MOMENT_SCHEMA, crossing_visitors, instant
from app.warehouse import Warehouse

_QUARTER_HOUR_MS = 15 * 60 * 1000


@dataclass(frozen=True)
class BoundaryFingerprints:
    """Fingerprints of the neighbouring days' calls that can change this day's sessions, as sums of hashes.

    `earlier_fingerprint` covers the calls of the day before by visitors who continued past midnight;
    `later_fingerprint` the calls of the day after that continue sessions of this day without a pause.
    """

    earlier_fingerprint: int
    later_fingerprint: int


def read_boundary_fingerprints(
    warehouse: Warehouse, bounds: DayBounds, *, quarter_hours: pl.DataFrame, timeout_ms: int
) -> BoundaryFingerprints:
    """The fingerprints of the raw calls; `quarter_hours` says, in `at`, in which quarters of an hour there are any."""
    parameters = {
        "previous_start": bounds.previous_start - timeout_ms,
        "start": bounds.start,
        "end": bounds.end,
        "next_end": bounds.next_end,
        "timeout_ms": timeout_ms,
    }
    called = quarter_hours["at"].dt.epoch("ms")
    earlier = later = 0
    if _may_be_crossed(called, bounds.start, timeout_ms):
        sql = (
            "SELECT sum(cityHash64(visitor_hash, ts, call_id, content_hash)) FROM pd.api_calls "
            f"WHERE ts >= {instant('previous_start')} AND ts < {instant('start')} "
            f"AND visitor_hash IN ({crossing_visitors('start')})"
        )
        earlier = sum(int(node.scalar(sql, parameters)) for node in warehouse.nodes)
    if _may_be_crossed(called, bounds.end, timeout_ms):
        sql = (
            f"SELECT visitor_hash, ts, call_id, {CALL_HASH} AS hash FROM pd.api_calls "
            "WHERE ts >= fromUnixTimestamp64Milli({end:Int64} - {timeout_ms:Int64}, 'UTC') "
            f"AND ts < {instant('next_end')} AND visitor_hash IN ({crossing_visitors('end')})"
        )
        schema = MOMENT_SCHEMA | {"hash": pl.UInt64()}
        around = pl.concat([node.query(sql, parameters, schema=schema) for node in warehouse.nodes])
        later = int(reached_calls(around, midnight=bounds.end, timeout_ms=timeout_ms)["hash"].sum())
    return BoundaryFingerprints(earlier % 2**64, later)


def _may_be_crossed(called: pl.Series, midnight: int, timeout_ms: int) -> bool:
    """Whether any of these quarters of an hour, in epoch ms, are within the timeout before and after a midnight."""
    before = called.is_between(midnight - timeout_ms - _QUARTER_HOUR_MS, midnight, closed="left")
    after = called.is_between(midnight, midnight + timeout_ms)
    return bool(before.any() and after.any())
