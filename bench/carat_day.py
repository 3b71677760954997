"""Carat itself: builds one day, all four tables, from `pd.api_calls` to the published `dwh`."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.contracts import DWH_TABLES, USER_AGENTS
from app.jobs.build.day import build_day
from app.jobs.build.rules import BuildRules
from app.warehouse import open_warehouse
from bench.day import DAY, Dataset
from bench.engine_sql import bench_settings, read_outcome
from bench.measure import Contender


@contextmanager
def contender(day: Dataset) -> Iterator[Contender]:
    settings = bench_settings(day)
    with open_warehouse(settings, purpose="bench") as warehouse:
        for table in (*DWH_TABLES, USER_AGENTS):  # each run reads its user agents for the first time
            warehouse.command(f"TRUNCATE TABLE {table.full_name} SYNC")
        yield Contender(
            lambda: build_day(warehouse, DAY, BuildRules.load(settings)),
            lambda sessions: read_outcome(warehouse, sessions, database="dwh"),
        )
