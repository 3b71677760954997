"""Rows of `etl.runs`: what each run did, how long it took, how it ended."""

import time
import uuid
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from app.contracts import RUNS
from app.core import console
from app.core.errors import CaratError
from app.warehouse import Warehouse


class Run:
    """A row of `etl.runs` in the making."""

    def __init__(self, warehouse: Warehouse, job: str, *, day: date | None = None) -> None:
        self._warehouse = warehouse
        self._row: dict[str, Any] = {
            "run_id": uuid.uuid4().hex,
            "job": job,
            "day": day,
            "started_at": datetime.now(tz=UTC),
        }
        self._clock = time.perf_counter()

    def end(
        self, *, rows_in: int = 0, rows_out: int = 0, rejected: int = 0, error: BaseException | None = None
    ) -> None:
        """Write the row. Where the run failed and this fails as well, the first error is the one to tell."""
        self._row |= {
            "ended_at": datetime.now(tz=UTC),
            "state": "failed" if error else "done",
            "rows_in": rows_in,
            "rows_out": rows_out,
            "rows_rejected": rejected,
            "seconds": time.perf_counter() - self._clock,
            "error": str(error or ""),
        }
        try:
            self._warehouse.insert(RUNS, pl.DataFrame([self._row], schema=RUNS.schema))
        except CaratError:
            if error is None:
                raise
        console.log.info(self._row["job"], **{name: value for name, value in self._row.items() if name != "job"})
