"""Runs one contender in its own process: `python -m bench.snapshots.contender NAME STAGE FOLDER URL`.

It takes one snapshot and prints, as JSON, seconds of its work and what it appended.
"""

import json
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
        started, cpu_started = time.perf_counter(), time.process_time()
        appended = work(stage)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "appended": appended}))


if __name__ == "__main__":
    main()
