import os
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.demo_month import demo_warehouse


@pytest.fixture(scope="session")
def demo_settings(tmp_path_factory) -> Settings:
    """Settings of a warehouse that holds a small demo shop; this process's own copy."""
    base = Path(tmp_path_factory.getbasetemp())
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo-month"
    kept = os.environ.get("CARAT_TEST_DEMO_FOLDER")  # while one works on dashboards, the same shop serves many runs
    return demo_warehouse(Path(kept) if kept else shared, tmp_path_factory.mktemp("own-demo-month"))
