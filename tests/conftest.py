"""Engines, warehouses and what runs over which: the embedded engine, or one that a support server serves over HTTP."""

import json
import os
import resource
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import polars as pl
import pytest

from app.core.call_record import RecordLimits
from app.jobs import ingest
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from tests.support.clickhouse_http import running_server
from tests.support.empty_warehouse import OpenEngine, make_empty

# The embedded engine leaves some thirty files of /proc open each time it is started in a process, as tests do often.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

# The calls of tests have fixed dates, which grow old.
os.environ.setdefault("CARAT_MAX_AGE_DAYS", "0")


# A busy machine is no failure: no example has a deadline, and slow generation is allowed. `make test` draws the same
# examples on every machine, so that a commit passes or fails; `make test-long` draws others each time.
hypothesis.settings.register_profile(
    "carat",
    deadline=None,
    derandomize="CARAT_TEST_LONG" not in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("carat")


@pytest.fixture(scope="session")
def engine_url(request, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(f"{request.param}-engine")
    if request.param == "embedded":
        yield f"chdb://{folder}"
    else:
        with running_server(folder, password="secret") as server:
            yield server.url


@pytest.fixture
def settings(engine_url, monkeypatch) -> Settings:
    monkeypatch.setenv("CARAT_WAREHOUSE", engine_url)
    return Settings(_env_file=None)


@pytest.fixture
def warehouse(settings) -> Iterator[Warehouse]:
    """A warehouse that is as empty as a first migration leaves it."""
    _engine.keep(settings)
    with open_warehouse(settings, purpose="a test", writes=False) as warehouse:  # its lease would be dropped with etl
        make_empty(warehouse, settings)
        yield warehouse


@pytest.fixture
def ingest_records(warehouse, tmp_path) -> Callable[..., ingest.LoadResult]:
    """Ingests records given as dicts (or raw bytes), and returns what became of them."""

    def run(
        *records: dict | bytes, now: datetime = datetime(2026, 6, 1, tzinfo=UTC), max_record_bytes: int = 1024 * 1024
    ):
        path = tmp_path / f"records-{len(list(tmp_path.iterdir()))}.ndjson"
        path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in records))
        totals = ingest.LoadResult()
        ingest.ingest_source(warehouse, str(path), now=now, totals=totals, limits=RecordLimits(max_record_bytes))
        return totals

    return run


# Where the two engines are spoken to in different ways; elsewhere a second engine would prove nothing more.
_BOTH_ENGINES = {
    "warehouse/": "DDL, inserts and publishing go through a pipe to one and over HTTP to the other",
    "jobs/test_snapshot.py": "history is written by statements of its own",
    "jobs/forget/": "a server rewrites parts in the background",
    "jobs/test_hourly.py": "a server may go away and come back",
    "stories/test_sessions_end_to_end.py": "the whole way of a call, once for each",
    "stories/test_snapshot_faults.py": "statements are lost or sent twice on the way to a server",
    "stories/test_snapshots_on_mariadb.py": "as jobs/test_snapshot.py",
}

_engine = OpenEngine()
_engine_user: dict[str, object] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before a test or its module opens the embedded engine of another directory, ours is let go."""
    if "warehouse" not in item.fixturenames or item.path != _engine_user.get("path"):
        _engine.release()
    _engine_user["path"] = item.path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with a warehouse run over the embedded engine, those of _BOTH_ENGINES over a served one as well."""
    chosen = {name for mark in metafunc.definition.iter_markers("parametrize") for name in str(mark.args[0]).split(",")}
    if "engine_url" in metafunc.fixturenames and "engine_url" not in chosen:
        path = metafunc.definition.path.relative_to(Path(__file__).parent).as_posix()
        engines = ["embedded", "served"] if path.startswith(tuple(_BOTH_ENGINES)) else ["embedded"]
        metafunc.parametrize("engine_url", engines, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test over a served engine is left out of make test-fast, where it runs over the embedded one."""
    for item in items:
        if "served" in item.nodeid:
            item.add_marker(pytest.mark.slow)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rows(frame: pl.DataFrame) -> list[tuple]:
    return sorted(frame.rows())
