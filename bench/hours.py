"""Measures a day that arrives hour by hour: what each hour costs, with the same number of new calls in every one.

python -m bench.hours [--calls 1000000]

Each hour's calls are ingested, then `carat hourly` does its work (without a shop's database). Between hours the
engine has time to merge parts, as it has in production; that time is reported separately. Finally it measures `carat
plan` of a year of days.
"""

import argparse
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from app.contracts import API_CALLS
from app.core.call_record import RecordLimits
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.hourly import run_hour
from app.jobs.ingest import ingest_source as ingest
from app.jobs.raw_calls import LoadResult
from app.jobs.verify import verify_days
from app.settings import Settings, load_settings
from app.warehouse import Warehouse, open_warehouse
from bench.data import build
from bench.day import DAY, Dataset
from bench.measure import log_only_warnings

_NOW = datetime(2026, 6, 1, tzinfo=UTC)
_FLAT = 2.0
_PLAN_S = 1.0
_YEAR_BEGINS_MS = 1_735_689_600_000  # 2025-01-01
_FEW_COLUMNS = "call_id, ts, received_at, visitor_id, method, endpoint, status"

console = Console(width=min(80, Console().width))


@dataclass(frozen=True)
class Hour:
    """Seconds of an hour's parts; `cpu_s` is that of the hourly run alone, `merging_cpu_s` of the engine after it."""

    ingest_s: float
    hourly_s: float
    cpu_s: float
    merging_cpu_s: float
    calls_read: int


def main() -> int:
    options = _options()
    log_only_warnings()
    folder = options.folder.resolve() / "hours"
    shutil.rmtree(folder, ignore_errors=True)
    settings = load_settings(warehouse=f"chdb://{folder / 'warehouse'}", scratch=folder / "scratch")
    ok = True
    if options.calls:
        ok = _bench_hours(options, folder, settings)
    for calls in options.plan:
        ok &= _bench_plan(folder / f"year-{calls}", days=options.days, calls=calls)
    return 0 if ok else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls of the day; 0 leaves it out")
    parser.add_argument("--plan", type=lambda text: [int(n) for n in text.split(",") if n], default=[1000, 10_000])
    parser.add_argument("--days", type=int, default=365, help="days of which `carat plan` is asked")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"))
    return parser.parse_args()


# ---- hours -------------------------------------------------------------------------------------------------------


def _bench_hours(options: argparse.Namespace, folder: Path, settings: Settings) -> bool:
    day = Dataset.under(options.folder, options.calls)
    if not day.is_built:
        console.print(f"making a day of {day.calls:,} calls in {day.folder}")
        build(day)
    calls = pl.scan_parquet(day.parquet).select(API_CALLS.schema.names()).sort("ts")
    hour_of = pl.col("ts").dt.hour()
    fewest = calls.group_by(hour_of).len().collect()["len"].min()
    assert isinstance(fewest, int)
    hours = []
    with open_warehouse(settings, purpose="bench") as warehouse:
        for number in range(24):
            path = folder / "hour.parquet"
            calls.filter(hour_of == number).head(fewest).collect().write_parquet(path)
            hours.append(_hour(warehouse, settings, path))
        verification = verify_days(warehouse, settings)
    table = Table(title=f"{fewest:,} new calls each hour of {DAY}", title_justify="left")
    for column in ("hour", "ingest s", "hourly s", "its CPU s", "merging s", "calls read"):
        table.add_column(column, justify="right")
    for number, hour in enumerate(hours, start=1):
        seconds = (hour.ingest_s, hour.hourly_s, hour.cpu_s, hour.merging_cpu_s)
        table.add_row(str(number), *(f"{value:.2f}" for value in seconds), f"{hour.calls_read:,}")
    console.print(table)
    ratios = {what: getattr(hours[-1], what) / getattr(hours[0], what) for what in ("hourly_s", "cpu_s")}
    told = ", ".join(f"{what} {ratio:.2f} times" for what, ratio in ratios.items())
    is_equal = not verification.differing
    console.print(f"the 24th hour costs, relative to the first: {told} (the limit is {_FLAT:g})")
    console.print("verified: the day built hour by hour is what its calls say" if is_equal else "[red]DIFFERENT")
    return is_equal and ratios["hourly_s"] <= _FLAT


def _hour(warehouse: Warehouse, settings: Settings, path: Path) -> Hour:
    started = time.perf_counter()
    ingest(warehouse, str(path), now=_NOW, totals=LoadResult(), limits=RecordLimits(settings.max_record_bytes))
    ingested = time.perf_counter()
    _await_merges(warehouse)
    before, cpu = time.perf_counter(), time.process_time()
    hour = run_hour(warehouse, settings)
    hour.require_done()
    hourly_s, cpu_s = time.perf_counter() - before, time.process_time() - cpu
    cpu = time.process_time()
    _await_merges(warehouse)
    merging = time.process_time() - cpu
    return Hour(ingested - started, hourly_s, cpu_s, merging, sum(built.calls for built in hour.backfill.built))


def _await_merges(warehouse: Warehouse) -> None:
    """Until the engine has had nothing to merge for a second."""
    idle_since = time.perf_counter()
    while time.perf_counter() - idle_since < 1:
        if warehouse.scalar("SELECT count() FROM system.merges"):
            idle_since = time.perf_counter()
        time.sleep(0.05)


# ---- plan --------------------------------------------------------------------------------------------------------


def _bench_plan(folder: Path, *, days: int, calls: int) -> bool:
    """What plan takes for so many days of so many calls each: it depends on the days alone."""
    settings = load_settings(warehouse=f"chdb://{folder}")
    with open_warehouse(settings, purpose="bench") as warehouse:
        in_day = f"number % {calls} * {86_400_000 // calls}"
        at = f"toInt64({_YEAR_BEGINS_MS}) + intDiv(number, {calls}) * 86400000 + {in_day}"
        warehouse.command(
            f"INSERT INTO pd.api_calls ({_FEW_COLUMNS}) SELECT generateUUIDv4(number), "
            f"fromUnixTimestamp64Milli({at}) AS at, at, toString(intDiv(number, 8)), 'GET', '/api/v1/cart', 200 "
            f"FROM numbers({days * calls})"
        )
        began = time.perf_counter()
        build_stale(warehouse, settings, jobs=JOBS).require_done()
        built_s = time.perf_counter() - began
        fresh_s, stale = _timed_plan(warehouse, settings)
        assert not stale
        late = "2025-03-09 12:00:00", "2025-07-01 12:00:00"
        for at in late:
            warehouse.command(
                f"INSERT INTO pd.api_calls ({_FEW_COLUMNS}) "
                f"SELECT generateUUIDv4(), '{at}', now(), 'late', 'GET', '/late', 200"
            )
        stale_s, stale = _timed_plan(warehouse, settings)
        assert len(stale) == len(late)
    console.print(
        f"plan of {days} days of {calls:,} calls: {fresh_s:.2f} s, nothing stale; {stale_s:.2f} s, late calls in "
        f"{len(late)} of them (at most {_PLAN_S:g} asked; built before in {built_s:.0f} s)"
    )
    return max(fresh_s, stale_s) <= _PLAN_S


def _timed_plan(warehouse: Warehouse, settings: Settings) -> tuple[float, list[object]]:
    began = time.perf_counter()
    stale = plan_days(warehouse, settings, jobs=JOBS)
    return time.perf_counter() - began, list(stale)


if __name__ == "__main__":
    raise SystemExit(main())
