import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from tests.dashboards.small_library import COLUMNS, Shop, contents
from tests.support.demo_month import demo_warehouse
from tests.support.metabase_server import State, running_metabase


@pytest.fixture(scope="session")
def demo_settings(tmp_path_factory) -> Settings:
    """Settings of a warehouse that holds a small demo shop; this process's own copy."""
    base = Path(tmp_path_factory.getbasetemp())
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo-month"
    kept = os.environ.get("CARAT_TEST_DEMO_FOLDER")  # while one works on dashboards, the same shop serves many runs
    return demo_warehouse(Path(kept) if kept else shared, tmp_path_factory.mktemp("own-demo-month"))


@pytest.fixture
def metabase(tmp_path) -> Iterator[Shop]:
    """A Metabase in miniature, and two small dashboards that have not been pushed to it yet."""
    state = State(columns=COLUMNS)
    with running_metabase(state) as url:
        yield Shop(state, url, tmp_path / "metabase", contents())
    assert state.defects == []


@pytest.fixture
def pushed(metabase) -> Shop:
    """A Metabase that has been pushed to once."""
    metabase.push()
    return metabase
