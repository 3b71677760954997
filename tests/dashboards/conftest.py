from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.demo_month import demo_warehouse


@pytest.fixture(scope="session")
def demo_settings(tmp_path_factory) -> Settings:
    """Settings of a warehouse that holds a small demo shop; this process's own copy."""
    return demo_warehouse(
        Path(tmp_path_factory.getbasetemp()).parent / "demo-month", tmp_path_factory.mktemp("demo-month")
    )
