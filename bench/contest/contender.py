"""Runs one contender in its own process: `python -m bench.contest.contender NAME FOLDER CALLS ARRIVALS`.

It takes in the day's files one after the other, publishes the day after each, and writes what that cost, as JSON.
"""

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from bench.contest.files import arrivals_of
from bench.day import Dataset
from bench.measure import Outcome, high_water_mark, sessions_file

MODULES = {
    "carat": ("carat", "contender"),
    "sql_touched": ("engine_sql", "touched"),
    "sql_day": ("engine_sql", "whole_day"),
    "duckdb_touched": ("duckdb_sql", "touched"),
    "duckdb_day": ("duckdb_sql", "whole_day"),
}


@dataclass(frozen=True)
class Running:
    """A contender with an empty warehouse: `take` takes in a file, the number so many, and publishes the day."""

    take: Callable[[int, Path], None]
    outcome: Callable[[Path], Outcome]


class Contender(Protocol):
    def __call__(self, folder: Path) -> AbstractContextManager[Running]: ...


@dataclass(frozen=True)
class Contest:
    """What each arrival took, until all it says was published; memory is the most that the process had."""

    cpu_s: list[float]
    wall_s: list[float]
    peak_bytes: int
    rows: dict[str, int]
    sums: dict[str, int]


def result_file(name: str, day: Dataset, arrivals: int) -> Path:
    return day.folder / f"arrivals-{arrivals}-{name}.json"


def main() -> None:
    name, parent, calls, arrivals = sys.argv[1:]
    day = Dataset.under(Path(parent), int(calls))
    files = arrivals_of(day, int(arrivals))
    folder = day.folder / f"contest-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    module, function = MODULES[name]
    contender: Contender = getattr(import_module(f"bench.contest.{module}"), function)
    cpu_s, wall_s = list[float](), list[float]()
    with contender(folder) as running:
        for number, file in enumerate(files):
            started, cpu_started = time.perf_counter(), _cpu_s()
            running.take(number, file)
            wall_s.append(time.perf_counter() - started)
            cpu_s.append(_cpu_s() - cpu_started)
        peak = high_water_mark()
        outcome = running.outcome(sessions_file(name, day))
    shutil.rmtree(folder)
    contest = Contest(cpu_s, wall_s, peak, outcome.rows, outcome.sums)
    result_file(name, day, len(files)).write_text(json.dumps(asdict(contest)))


def _cpu_s() -> float:
    """CPU seconds of this process with all its threads, and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
