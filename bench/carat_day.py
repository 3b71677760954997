"""Carat itself: builds one day, all four tables, from `pd.api_calls` to the published `dwh`."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.contracts import DWH_TABLES, USER_AGENTS
from app.jobs.build.day import build_day
from app.jobs.build.user_agents import UserAgents
from app.rules.endpoint_map import load_endpoint_map
from app.rules.session_rules import load_session_rules
from app.rules.snapshot_plan import load_snapshot_plan
from app.warehouse import migrate, open_warehouse, recover
from bench.day import DAY, Dataset
from bench.engine_sql import bench_settings, read_outcome
from bench.measure import Contender


@contextmanager
def contender(day: Dataset) -> Iterator[Contender]:
    settings = bench_settings(day)
    endpoint_map = load_endpoint_map(settings.tracking)
    plan = load_snapshot_plan(settings.snapshots)
    session_rules = load_session_rules(settings)
    with open_warehouse(settings, purpose="bench") as warehouse:
        migrate(warehouse, settings)
        recover(warehouse)
        for table in (*DWH_TABLES, USER_AGENTS):  # each run reads its user agents for the first time
            warehouse.command(f"TRUNCATE TABLE {table.full_name} SYNC")
        yield Contender(
            lambda: build_day(
                warehouse,
                DAY,
                settings=settings,
                endpoint_map=endpoint_map,
                plan=plan,
                session_rules=session_rules,
                user_agents=UserAgents(session_rules.devices),
            ),
            lambda sessions: read_outcome(warehouse, sessions, database="dwh"),
        )
