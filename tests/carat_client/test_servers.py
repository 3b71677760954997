"""Real servers, ended as a service manager ends them: what was captured is delivered before they are gone."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.paths import CHECKOUT
from tests.support.receivers import await_that, receiving

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def running(*command: str, collector: str) -> Iterator[subprocess.Popen]:
    environment = os.environ | {"COLLECTOR": collector, "PYTHONPATH": f"{CHECKOUT}:{HERE}"}
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=HERE, env=environment, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(port: int, path: str) -> int:
    """The process id of the worker that answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["pid"]


def is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


SERVERS = {
    "uvicorn": ["uvicorn", "servers:asgi", "--port", "{port}", "--log-level", "warning"],
    "gunicorn": [
        "gunicorn",
        "servers:wsgi",
        "-b",
        "127.0.0.1:{port}",
        "-w",
        "2",
        "--preload",
        "--log-level",
        "warning",
    ],
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_is_told_to_end_delivers_first(server):
    port = free_port()
    command = [part.format(port=port) for part in SERVERS[server]]
    with receiving() as collector, running(*command, collector=collector.url) as process:
        await_that(lambda: is_up(port), timeout_s=20)
        workers = {ask(port, f"/{number}") for number in range(30)}
        assert (process.pid in workers) == (server == "uvicorn")  # gunicorn forks its workers after the import
        assert collector.records == []
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert sorted(record["endpoint"] for record in collector.records) == sorted(
            f"/{number}" for number in range(30)
        )
        assert {record["response"]["pid"] for record in collector.records} == workers
