"""Runs one contender in its own process: seconds of its work, and the peak memory of the process."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from app.core.log import Log
from bench.day import Dataset

_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """What a contender made: rows a table, and sums that show it did the same work."""

    rows: dict[str, int]
    sums: dict[str, int]


@dataclass(frozen=True)
class Contender:
    """A contender that is connected, its output empty: `work` is measured, `outcome` asked afterwards.

    `outcome` also writes the sessions to a Parquet file: `visitor_id, started_at` (epoch ms), `calls, product_views,
    orders, revenue_cents`.
    """

    work: Callable[[], object]
    outcome: Callable[[Path], Outcome]


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu_seconds: float  # of all its threads: what a busy machine distorts least
    peak_bytes: int  # VmHWM where there is one, else ru_maxrss
    max_rss_bytes: int  # ru_maxrss; Linux counts in it what the parent held when it started the process
    rows: dict[str, int]
    sums: dict[str, int]


def measure(name: str, day: Dataset) -> Measured:
    """Run a contender on the day, alone, in a fresh process; its sessions are left in `sessions_file`."""
    result = _result_file(name, day)
    result.unlink(missing_ok=True)
    _read_once(day)
    run_quietly("bench.measure", name, str(day.folder.parent), str(day.calls))
    return Measured(**json.loads(result.read_text()))


def run_quietly(module: str, *arguments: str) -> None:
    """Run a module in a process of its own; what it logs is shown only where it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: {module} {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def log_only_warnings() -> None:
    """For a benchmark that does Carat's work in its own process: its tables shall not drown in log lines."""
    Log.shows_info = False


def sessions_file(name: str, day: Dataset) -> Path:
    return day.folder / f"{name}_sessions.parquet"


def _result_file(name: str, day: Dataset) -> Path:
    return day.folder / f"{name}.json"


def _read_once(day: Dataset) -> None:
    """Put the input into the page cache: nobody pays for being the first to read it."""
    for path in (day.parquet, *day.warehouse.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(_MIB):
                    pass


def _run_here(name: str, day: Dataset) -> None:
    with import_module(f"bench.{MODULES[name]}").contender(day) as contender:
        os.sync()  # nobody waits for what another wrote
        started, cpu_started = time.perf_counter(), time.process_time()
        contender.work()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else _KIB)
        peak = high_water_mark() or max_rss
        outcome = contender.outcome(sessions_file(name, day))
    measured = Measured(seconds, cpu_seconds, peak, max_rss, outcome.rows, outcome.sums)
    _result_file(name, day).write_text(json.dumps(asdict(measured)))


def high_water_mark() -> int:
    """The most resident memory this process had since it began; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith("VmHWM:")), 0)


MODULES = {"carat": "carat_day", "sql": "engine_sql", "duckdb": "duckdb_sql", "pandas": "pandas_day"}

if __name__ == "__main__":
    _run_here(sys.argv[1], Dataset.under(Path(sys.argv[2]), int(sys.argv[3])))
