"""A real MariaDB, and tables of it read as a snapshot does."""

from collections.abc import Iterator

import pytest

import app.shop.mysql
from tests.shop.taking import InProcessReader
from tests.support.mariadb import MariaDB, running_mariadb


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests against a real server belong to the slow ones."""
    for item in items:
        if {"server", "tls_server"} & set(getattr(item, "fixturenames", ())) and __package__ == item.module.__package__:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[MariaDB]:
    with running_mariadb(tmp_path_factory.mktemp("mariadb"), options=["--log-bin", "--server-id=1"]) as server:
        yield server


@pytest.fixture
def in_process(monkeypatch) -> None:
    """For what is the server's to answer: without the fifth of a second that a reading process takes to start."""
    monkeypatch.setattr(app.shop.mysql, "ReaderProcess", InProcessReader)
