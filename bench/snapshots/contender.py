"""Runs one contender in its own process: `python -m bench.snapshots.contender NAME STAGE FOLDER URL`.

It takes one snapshot and prints, as JSON, seconds of its work and what it appended.
"""

import json
import resource
import sys
import time
from importlib import import_module
from pathlib import Path

MODULES = {
    "carat": "carat",
    "duckdb": "duckdb_sql",
    "sql": "engine_sql",
    "pandas": "pandas_frames",
    "read": "read_only",
}
STAGES = ("first", "changed", "unchanged")


def main() -> None:
    name, stage, folder, url = sys.argv[1:]
    with import_module(f"bench.snapshots.{MODULES[name]}").contender(Path(folder), url) as work:
        started, cpu_started = time.perf_counter(), _cpu_seconds()
        appended = work(stage)
        seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - cpu_started
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "appended": appended}))


def _cpu_seconds() -> float:
    """Of this process and of the children that it started and that ended: Carat reads in one."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
