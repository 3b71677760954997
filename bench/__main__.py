"""Compares Carat with plain SQL in the same engine, DuckDB and pandas: one day of calls, one process each.

python -m bench [--calls 1000000] [--growth 100000,1000000,5000000] [--only carat,sql,duckdb,pandas] [--repeat 1]
"""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.compare import differences
from bench.day import Dataset
from bench.measure import MODULES, Measured, measure, run_quietly

_TITLES = {
    "carat": "Carat", "sql": "SQL, same engine", "duckdb": "DuckDB", "pandas": "pandas",
}  # fmt: skip
_FLAT = 1.25  # up to this ratio of the largest size to the best one it counts as flat
_MB = 1e6

console = Console(width=min(80, Console().width))


def main() -> int:
    options = _options()
    named = ", ".join(f"{name} {version(name)}" for name in ("polars", "chdb", "duckdb", "pandas"))
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; {named}")
    ok = True
    runs: dict[str, list[Measured]] = {name: [] for name in options.only}
    if options.only:
        day = _built(options.folder, options.calls)
        for number in range(options.repeat):
            for name in options.only:  # one after the other in each round, so that a noisy minute hits them alike
                runs[name].append(_measured(name, day, number=number, of=options.repeat))
        console.print(_contenders_table(runs, calls=options.calls))
        ok = _report_differences({name: measured[-1] for name, measured in runs.items()}, day)
    if options.growth:
        measured = {calls: runs["carat"] for calls in [options.calls] if runs.get("carat")}
        for calls in sorted({*options.growth} - {*measured}):
            measured[calls] = [_measured("carat", _built(options.folder, calls), number=0, of=1)]
        _print_growth({calls: measured[calls] for calls in sorted({*options.growth})})
    return 0 if ok else 1


def _options() -> argparse.Namespace:
    def sizes(text: str) -> list[int]:
        return [int(size) for size in text.split(",") if size]

    def names(text: str) -> list[str]:
        chosen = [name for name in text.split(",") if name]
        if unknown := sorted(set(chosen) - set(MODULES)):
            raise argparse.ArgumentTypeError(
                f"no contender is called {', '.join(unknown)}: choose from {', '.join(MODULES)}"
            )
        return chosen

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls of the day that all contenders build")
    parser.add_argument(
        "--growth", type=sizes, default="100000,1000000,5000000", help="sizes for Carat alone; '' for none"
    )
    parser.add_argument("--only", type=names, default=",".join(MODULES), help="contenders, in the order of the run")
    parser.add_argument(
        "--folder", type=Path, default=Path("var/bench"), help="where generated days are kept for later runs"
    )
    parser.add_argument("--repeat", type=int, default=1, help="rounds; what is shown is the median")
    options = parser.parse_args()
    if options.repeat < 1 or min([options.calls, *options.growth]) < 1:
        parser.error("calls, sizes and rounds begin at 1")
    return options


def _built(folder: Path, calls: int) -> Dataset:
    day = Dataset.under(folder, calls)
    if not day.is_built:
        with console.status(f"making a day of {calls:,} calls"):
            run_quietly("bench.data", str(folder), str(calls))
    return day


def _measured(name: str, day: Dataset, *, number: int, of: int) -> Measured:
    with console.status(f"{_TITLES[name]}, {day.calls:,} calls, run {number + 1} of {of}"):
        return measure(name, day)


# ---- what is printed ---------------------------------------------------------------------------------------------


def _contenders_table(runs: dict[str, list[Measured]], *, calls: int) -> Table:
    table = Table(
        title=f"One day of {calls:,} calls: events, sessions, catalog_sessions, product_sessions",
        caption="Raw calls to stored tables. Carat also handles days that reach into each other, duplicates and odd "
        "JSON, checks every contract and publishes atomically; SQL and DuckDB write tables, pandas Parquet files. "
        "Carat alone tells devices, bots and channels by maintained rules, and repeats them on pages and products.",
    )
    first = next(iter(runs))
    for heading in ("", "seconds", f"x {_TITLES[first]}", "CPU s", "calls/s", "peak MB"):
        table.add_column(heading, justify="right" if heading else "left")
    base = _seconds(runs[first])
    for name, measured in runs.items():
        seconds = _seconds(measured)
        table.add_row(
            _TITLES[name],
            f"{seconds:.1f}",
            f"{seconds / base:.2f}",
            f"{median(run.cpu_seconds for run in measured):.1f}",
            f"{calls / seconds:,.0f}",
            f"{_peak(measured):,.0f}",
        )
    return table


def _report_differences(measured: dict[str, Measured], day: Dataset) -> bool:
    found = differences(measured, day)
    for line in found:
        console.print(f"[red]differs[/red] {line}", highlight=False)
    if not found and len(measured) > 1:
        rows = ", ".join(f"{count:,} {name}" for name, count in next(iter(measured.values())).rows.items())
        console.print(f"All {len(measured)} made the same: {rows}; the same sessions, impressions, clicks and revenue.")
    return not found


def _print_growth(measured: dict[int, list[Measured]]) -> None:
    table = Table(title="Carat as the day grows, each size in a fresh process")
    for heading in ("calls", "seconds", "CPU s", "µs a call", "peak memory"):
        table.add_column(heading, justify="right")
    per_call = {calls: _seconds(runs) / calls * 1e6 for calls, runs in measured.items()}
    for calls, runs in measured.items():
        table.add_row(
            f"{calls:,}",
            f"{_seconds(runs):.1f}",
            f"{median(run.cpu_seconds for run in runs):.1f}",
            f"{per_call[calls]:.1f}",
            f"{_peak(runs):,.0f} MB",
        )
    console.print(table)
    if len(measured) == 1:
        return
    peaks = {calls: _peak(runs) for calls, runs in measured.items()}
    for name, by_size in (("time a call", per_call), ("peak memory", peaks)):
        least, largest = min(by_size, key=by_size.__getitem__), max(by_size)
        ratio = by_size[largest] / by_size[least]
        verdict = "flat" if ratio <= _FLAT else "[red]not flat[/red]"
        console.print(f"{name}: {ratio:.2f} x the least (at {least:,} calls) with {largest:,} calls, {verdict}")


def _seconds(runs: list[Measured]) -> float:
    return median(run.seconds for run in runs)


def _peak(runs: list[Measured]) -> float:
    return median(run.peak_bytes for run in runs) / _MB


if __name__ == "__main__":
    sys.exit(main())
