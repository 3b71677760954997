"""Measures a day whose calls arrive in files: until each file is published, by Carat, SQL in the same engine, DuckDB.

python -m bench.contest [--calls 200000] [--arrivals 24,1] [--only carat,sql_touched,…] [--repeat 1]

24 arrivals are the hours of a day; one is from file to published. No two responses are equal. The contenders run one
after the other, in a process each; that they made the same rows is checked.
"""

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from bench.compare import differences
from bench.contest.contender import MODULES, Contest, result_file
from bench.contest.files import arrivals_of
from bench.day import Dataset
from bench.measure import Measured, run_quietly

_TITLES = {
    "carat": "Carat",
    "sql_touched": "SQL, touched visitors",
    "sql_day": "SQL, the day again",
    "duckdb_touched": "DuckDB, touched visitors",
    "duckdb_day": "DuckDB, the day again",
}
_MB = 1e6

console = Console(width=min(80, Console().width))


def main() -> int:
    options = _options()
    load = os.getloadavg()[0]
    named = ", ".join(f"{name} {version(name)}" for name in ("polars", "chdb", "duckdb"))
    quiet = "quiet" if load < 1 else "busy: trust CPU seconds alone"
    console.print(f"{os.cpu_count()} cores, load {load:.1f} ({quiet}); {named}", highlight=False)
    day = Dataset.under(options.folder, options.calls)
    if not day.is_built:
        run_quietly("bench.data", str(options.folder), str(options.calls))
    ok = True
    for arrivals in options.arrivals:
        ok &= _compare(day, arrivals, options.only, rounds=options.repeat)
    return 0 if ok else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.contest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200_000, help="calls of the day")
    parser.add_argument("--arrivals", type=lambda text: [int(n) for n in text.split(",")], default=[24, 1])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(MODULES), help="contenders, in order")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; what is shown is the median")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where generated days are kept")
    options = parser.parse_args()
    if unknown := sorted(set(options.only) - set(MODULES)):
        parser.error(f"no contender is called {', '.join(unknown)}: choose from {', '.join(MODULES)}")
    return options


def _compare(day: Dataset, arrivals: int, names: list[str], *, rounds: int) -> bool:
    """Run the contenders and print what they took; whether all made the same rows."""
    arrivals_of(day, arrivals)
    # With one arrival, the touched visitors are all.
    names = [name for name in names if arrivals > 1 or not name.endswith("_touched")]
    runs: dict[str, list[Contest]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            with console.status(f"{_TITLES[name]}, {arrivals} arrivals, round {number + 1} of {rounds}"):
                run_quietly("bench.contest.contender", name, str(day.folder.parent), str(day.calls), str(arrivals))
            runs[name].append(Contest(**json.loads(result_file(name, day, arrivals).read_text())))
    console.print(_table(runs, day, arrivals))
    found = differences({name: _as_measured(contests[-1]) for name, contests in runs.items()}, day)
    for line in found:
        console.print(f"[red]differs[/red] {line}", highlight=False)
    if not found and len(names) > 1:
        rows = ", ".join(f"{count:,} {name}" for name, count in runs[names[0]][-1].rows.items())
        console.print(f"All made the same rows: {rows}.\n", highlight=False)
    return not found


def _table(runs: dict[str, list[Contest]], day: Dataset, arrivals: int) -> Table:
    title = f"{day.calls:,} calls of a day in {arrivals} files, each to published"
    if arrivals == 1:
        title = f"{day.calls:,} calls of a day, from one file to published"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("")
    first = next(iter(runs))
    for heading in ("CPU s", f"x {_TITLES[first]}", "wall s", "last CPU s", "peak MB"):
        table.add_column(heading, justify="right")
    base = _cpu_s(runs[first])
    for name, contests in runs.items():
        table.add_row(
            _TITLES[name],
            f"{_cpu_s(contests):.1f}",
            f"{_cpu_s(contests) / base:.2f}",
            f"{median(sum(contest.wall_s) for contest in contests):.1f}",
            f"{median(contest.cpu_s[-1] for contest in contests):.2f}",
            f"{max(contest.peak_bytes for contest in contests) / _MB:,.0f}",
        )
    return table


def _cpu_s(contests: list[Contest]) -> float:
    return median(sum(contest.cpu_s) for contest in contests)


def _as_measured(contest: Contest) -> Measured:
    return Measured(
        sum(contest.wall_s), sum(contest.cpu_s), contest.peak_bytes, contest.peak_bytes, contest.rows, contest.sums
    )


if __name__ == "__main__":
    sys.exit(main())
