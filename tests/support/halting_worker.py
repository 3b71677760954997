"""Preloaded by a Dask worker that is to stop in the middle of a day: it writes a file where it stops, and waits.

HALT_AT: `staged` before its tables are checked, `publishing` when the first of them is published. HALT_FILE: the file.
"""

import os
import time
from pathlib import Path
from typing import Any

import app.jobs.build.day
from app.warehouse import publication

LONG_S = 120


def halt() -> None:
    Path(os.environ["HALT_FILE"]).write_text(str(os.getpid()))
    time.sleep(LONG_S)


def halt_staged(*_: Any, **__: Any) -> None:
    halt()


def dask_setup(_: Any) -> None:
    if os.environ["HALT_AT"] == "staged":
        app.jobs.build.day.audit = halt_staged
        return
    replace_partitions = publication._replace_partitions

    def replace_one(warehouse: Any, day: Any, tables: Any, build_id: str) -> None:
        replace_partitions(warehouse, day, tables[:1], build_id)
        halt()

    publication._replace_partitions = replace_one
