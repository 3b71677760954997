"""The log of runs, `etl.runs`: what each run did, how long it took, and how it ended."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from app.contracts import RUNS
from app.core import console
from app.core.errors import CaratError
from app.warehouse import Warehouse


@dataclass
class Run:
    """What a run reports while it works. Set `error` where the run failed without raising."""

    job: str
    day: date | None = None
    rows_in: int = 0
    rows_out: int = 0
    rejected: int = 0
    error: BaseException | None = None
    _run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _started_at: datetime = field(default_factory=lambda: datetime.now(tz=UTC))
    _clock: float = field(default_factory=time.perf_counter)

    def count(self, *, rows_in: int, rows_out: int, rejected: int = 0) -> None:
        """Set what was read, written and rejected so far."""
        self.rows_in, self.rows_out, self.rejected = rows_in, rows_out, rejected

    @property
    def row(self) -> dict[str, Any]:
        """The run as a row of `etl.runs`, as if it ended now."""
        return {
            "run_id": self._run_id,
            "job": self.job,
            "day": self.day,
            "started_at": self._started_at,
            "ended_at": datetime.now(tz=UTC),
            "state": "failed" if self.error else "done",
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "rows_rejected": self.rejected,
            "seconds": time.perf_counter() - self._clock,
            "error": str(self.error or ""),
        }


@contextmanager
def recorded(warehouse: Warehouse, job: str, *, day: date | None = None) -> Iterator[Run]:
    """Record what happens inside as one run, failed if it raises."""
    run = Run(job, day)
    try:
        yield run
    except BaseException as error:
        run.error = error
        _record(warehouse, run)
        raise
    _record(warehouse, run)


def _record(warehouse: Warehouse, run: Run) -> None:
    row = run.row
    try:
        warehouse.insert(RUNS, pl.DataFrame([row], schema=RUNS.schema))
    except CaratError:
        if run.error is None:  # else the error of the run itself is the one to report
            raise
    console.log.info(run.job, **{name: value for name, value in row.items() if name != "job"})
