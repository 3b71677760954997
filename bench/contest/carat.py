"""Carat: `carat ingest` of the file, then what `carat hourly` builds."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from app.core.call_record import RecordLimits
from app.jobs.hourly import run_hour
from app.jobs.ingest import ingest_source
from app.jobs.raw_calls import LoadResult
from app.settings import SHIPPED_TRACKING, Settings, load_settings
from app.warehouse import open_warehouse
from bench.contest.contender import Running
from bench.engine_sql import read_outcome

_NOW = datetime(2026, 6, 1, tzinfo=UTC)


def settings_in(folder: Path) -> Settings:
    """The settings of this environment, save for what decides the result."""
    return load_settings(
        warehouse=f"chdb://{folder / 'warehouse'}", scratch=folder / "scratch", spool=folder / "spool",
        timezone="UTC", session_timeout="30min", tracking=SHIPPED_TRACKING,
    )  # fmt: skip


@contextmanager
def contender(folder: Path) -> Iterator[Running]:
    settings = settings_in(folder)
    limits = RecordLimits(settings.max_record_bytes)
    with open_warehouse(settings, purpose="bench") as warehouse:

        def take(_: int, file: Path) -> None:
            ingest_source(warehouse, str(file), now=_NOW, totals=LoadResult(), limits=limits)
            run_hour(warehouse, settings).require_done()

        yield Running(take, lambda sessions: read_outcome(warehouse, sessions, database="dwh"))
