"""Measures snapshots (read, compare, append) of a table of the shop: Carat, DuckDB, ClickHouse SQL and pandas.

python -m bench.snapshots [--rows 5000000] [--only carat,duckdb,sql,pandas] [--repeat 1] [--growth 500000,50000000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from bench.snapshots import shop
from bench.snapshots.contender import STAGES
from tests.support.mariadb import MariaDB, running_mariadb

_TITLES = {"read": "the read alone", "carat": "Carat", "duckdb": "DuckDB", "sql": "ClickHouse SQL", "pandas": "pandas"}
_STAGES = {"first": "The first snapshot", "changed": "1 % of the rows changed", "unchanged": "Nothing changed"}
_PAUSE_S = 0.02
_MB = 1e6

console = Console()


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu_seconds: float  # of the process, its children and the shop's server
    peak_bytes: int  # of the process and its children together, as seen every 20 ms
    appended: dict[str, list[int]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.snapshots", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--only", default="carat,duckdb,sql,pandas", help="contenders, in the order of the run")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; what is shown is the median")
    parser.add_argument("--growth", default="", help="sizes for Carat alone, such as 500000,5000000,50000000")
    options = parser.parse_args()
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    names = [name for name in options.only.split(",") if name]
    ok = not names or _compare(names, options.rows, rounds=options.repeat)
    for rows in [int(size) for size in options.growth.split(",") if size]:
        _compare(["carat"], rows, rounds=1)
    return 0 if ok else 1


def _compare(names: list[str], rows: int, *, rounds: int) -> bool:
    """Run every contender through the stages and print them; whether all appended the same."""
    runs = defaultdict[tuple[str, str], list[Measured]](list)
    for number in range(rounds):
        Path("var").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir="var") as path, _server(Path(path)) as server:
            with console.status(f"making a table of {rows:,} rows"):
                shop.make(server, rows)
            for stage in STAGES:
                if stage == "changed":
                    shop.change(server, rows)
                for name in ("read", *names):
                    with console.status(f"{_TITLES[name]}, {stage}, round {number + 1} of {rounds}"):
                        runs[name, stage].append(_measure(name, stage, Path(path), server))
    _print(names, runs, rows)
    first = names[0]
    same = True
    for stage, name in product(STAGES, names[1:]):
        mine, theirs = runs[first, stage][-1].appended, runs[name, stage][-1].appended
        if mine != theirs:
            same = False
            console.print(f"[red]differs[/red] {stage}: {first} {mine}, {name} {theirs}")
    if same:
        console.print(f"All appended the same: {runs[first, 'changed'][-1].appended} (rows, ids, quantities, versions)")
    return same


def _print(names: list[str], runs: dict[tuple[str, str], list[Measured]], rows: int) -> None:
    console.print(f"\nOne table of {rows:,} rows x {len(shop.COLUMNS)} columns: read, compare, append")
    for stage in STAGES:
        table = Table(title=_STAGES[stage], title_justify="left", box=box.SIMPLE)
        table.add_column("", min_width=15)
        for heading in ("CPU s", "x read", "wall s", "x read", "peak MB"):
            table.add_column(heading, justify="right", min_width=7)
        for name in ("read", *names):
            cpu, cpu_read = (median(run.cpu_seconds for run in runs[who, stage]) for who in (name, "read"))
            wall, wall_read = (median(run.seconds for run in runs[who, stage]) for who in (name, "read"))
            peak = max(run.peak_bytes for run in runs[name, stage]) / _MB
            table.add_row(
                _TITLES[name], f"{cpu:.2f}", f"{cpu / cpu_read:.2f}", f"{wall:.2f}", f"{wall / wall_read:.2f}",
                f"{peak:,.0f}",
            )  # fmt: skip
        console.print(table)


def _server(folder: Path) -> AbstractContextManager[MariaDB]:
    return running_mariadb(
        folder / "mariadb", options=("--innodb-buffer-pool-size=2G", "--innodb-flush-log-at-trx-commit=0")
    )


def _measure(name: str, stage: str, folder: Path, server: MariaDB) -> Measured:
    os.sync()  # nobody waits for what another wrote
    command = [sys.executable, "-m", "bench.snapshots.contender", name, stage, str(folder), server.url()]
    peaks, of_server = [0], _cpu_of_server(server)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, done))
        watcher.start()
        out, err = process.communicate()
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{name}, {stage}: {err}")
    result = json.loads(out.splitlines()[-1])
    cpu_seconds = result["cpu_seconds"] + _cpu_of_server(server) - of_server
    return Measured(result["seconds"], cpu_seconds, peaks[0], result["appended"])


def _cpu_of_server(server: MariaDB) -> float:
    assert server.process
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _watch(pid: int, peaks: list[int], done: threading.Event) -> None:
    while not done.wait(_PAUSE_S):
        peaks[0] = max(peaks[0], _resident(pid))


def _resident(pid: int) -> int:
    """Resident bytes of a process and all its children."""
    total = 0
    with suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        total = pages * os.sysconf("SC_PAGE_SIZE")
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(_resident(int(child)) for child in (task / "children").read_text().split())
    return total


if __name__ == "__main__":
    sys.exit(main())
