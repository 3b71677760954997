import os
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.demo_month import demo_warehouse


@pytest.fixture(scope="session")
def demo_settings(tmp_path_factory) -> Settings:
    """Settings of a warehouse that holds a small demo shop; this process's own copy."""
    base = Path(tmp_path_factory.getbasetemp())
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return demo_warehouse(shared / "demo-month", tmp_path_factory.mktemp("own-demo-month"))
