"""Snapshots: read + compare + append of a table of the shop, Carat beside DuckDB, ClickHouse SQL and pandas.

python -m bench.snapshots [--rows 5000000] [--only carat,duckdb,sql,pandas] [--growth 500000,5000000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.snapshots import shop
from bench.snapshots.contender import MODULES, STAGES
from tests.support.mariadb import MariaDB, running_mariadb

_TITLES = {"read": "the read alone", "carat": "Carat", "duckdb": "DuckDB", "sql": "ClickHouse SQL", "pandas": "pandas"}
_PAUSE_S = 0.02
_MB = 1e6

console = Console()


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu_seconds: float
    peak_bytes: int  # of the process and its children together, as seen every 20 ms
    appended: dict[str, list[int]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.snapshots", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--only", default="carat,duckdb,sql,pandas")
    parser.add_argument("--growth", default="", help="sizes for Carat alone, such as 500000,5000000,50000000")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name]
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    ok = not names or _compare(names, options.rows)
    for rows in [int(size) for size in options.growth.split(",") if size]:
        _compare(["carat"], rows)
    return 0 if ok else 1


def _compare(names: list[str], rows: int) -> bool:
    with tempfile.TemporaryDirectory(dir=Path("var")) as path, _server(Path(path)) as server:
        folder = Path(path)
        with console.status(f"making a table of {rows:,} rows"):
            shop.make(server, rows)
        measured = dict[tuple[str, str], Measured]()
        for stage in STAGES:
            if stage == "changed":
                shop.change(server, rows)
            for name in ("read", *names):
                with console.status(f"{_TITLES[name]}, {stage}"):
                    measured[name, stage] = _measure(name, stage, folder, server)
    table = Table(title=f"One table of {rows:,} rows x {len(shop.COLUMNS)} columns: read, compare, append")
    table.add_column("")
    for stage in STAGES:
        for heading in (f"{stage}, s", "x read", "peak"):
            table.add_column(heading, justify="right")
    for name in ("read", *names):
        cells = []
        for stage in STAGES:
            run = measured[name, stage]
            cells += [
                f"{run.seconds:.1f}",
                f"{run.seconds / measured['read', stage].seconds:.2f}",
                f"{run.peak_bytes / _MB:,.0f} MB",
            ]
        table.add_row(_TITLES[name], *cells)
    console.print(table)
    first = names[0]
    same = True
    for stage in STAGES:
        for name in names[1:]:
            if measured[name, stage].appended != measured[first, stage].appended:
                same = False
                console.print(
                    f"[red]differs[/red] {stage}: {first} {measured[first, stage].appended}, {name} {measured[name, stage].appended}"
                )
    if same:
        console.print(f"All appended the same: {measured[first, 'changed'].appended} (rows, ids, quantities, versions)")
    return same


def _server(folder: Path):
    return running_mariadb(
        folder / "mariadb", options=("--innodb-buffer-pool-size=2G", "--innodb-flush-log-at-trx-commit=0")
    )


def _measure(name: str, stage: str, folder: Path, server: MariaDB) -> Measured:
    os.sync()  # nobody waits for what another wrote
    command = [sys.executable, "-m", "bench.snapshots.contender", name, stage, str(folder), server.url()]
    peaks = [0]
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
    return Measured(result["seconds"], result["cpu_seconds"], peaks[0], result["appended"])


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
