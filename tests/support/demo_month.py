"""A small demo shop's days in an embedded warehouse, made once a test run and shared by its processes; read it only.

`CARAT_TEST_DEMO_CALLS` and `CARAT_TEST_DEMO_DAYS` make it larger.
"""

import fcntl
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from app.demo.calls import write_month
from app.demo.database import opening_state, write_state
from app.demo.plan import DemoPlan
from app.demo.shop_timeline import written_states
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.ingest import ingest_paths
from app.jobs.snapshot import take_snapshot
from app.settings import Settings
from app.warehouse import open_warehouse

_CALLS = int(os.environ.get("CARAT_TEST_DEMO_CALLS", "9000"))
_DAYS = int(os.environ.get("CARAT_TEST_DEMO_DAYS", "15"))
_SNAPSHOTS = 4


def demo_warehouse(shared: Path, own: Path) -> Settings:
    """Settings of a copy, in the folder `own`, of the warehouse that is made in `shared` by the first who asks."""
    shared.mkdir(parents=True, exist_ok=True)
    with (shared / "making.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "made").exists():
            _make(shared)
            (shared / "made").touch()
    shutil.copytree(shared / "warehouse", own / "warehouse", symlinks=True)
    return _settings(own)


def _settings(folder: Path) -> Settings:
    return Settings(
        _env_file=None,
        warehouse=SecretStr(f"chdb://{folder / 'warehouse'}"),
        shop_db=SecretStr(f"sqlite://{folder / 'shop.sqlite'}"),
    )


def _make(folder: Path) -> None:
    plan = DemoPlan(calls=_CALLS, days=_DAYS)
    settings = _settings(folder)
    paths = [str(path) for path in write_month(plan, folder, lambda _: None)]
    with open_warehouse(settings, purpose="a test") as warehouse:
        ingest_paths(warehouse, settings, paths, now=datetime.fromtimestamp(plan.ends_ms / 1000, tz=UTC))
        first = datetime.fromtimestamp(plan.starts_ms / 1000, tz=UTC)
        evenings = [(first, opening_state(plan)), *written_states(plan, folder, hours=(24,))]
        wanted = {round(index * (len(evenings) - 1) / (_SNAPSHOTS - 1)) for index in range(_SNAPSHOTS)}
        for index in sorted(wanted):
            at, state = evenings[index]
            write_state(state, folder / "shop.sqlite")
            take_snapshot(warehouse, settings, at=at, accept_deletes=True)
        build_stale(warehouse, settings, jobs=JOBS).require_done()
