"""A collector that really listens: in a thread of the test's process, or in a process of its own."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.intake.collector.server import Collector, listen
from app.intake.spool import Received, RejectedRecord, read_segment, sealed_segments
from app.settings import Settings, load_settings
from tests.support.paths import CHECKOUT

KEY = "a-key-that-only-these-tests-use"
AUTHORIZATION = f"Bearer {KEY}"
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def verdict(self) -> tuple[int, list[tuple[int, str]]]:
        """How many records were taken; index and reason of the others."""
        assert self.status == 200, self.content
        return self.json["accepted"], [(record["index"], record["reason"]) for record in self.json["rejected"]]


@dataclass
class Running:
    """A collector at an address; `process` is None where it runs in this one."""

    port: int
    settings: Settings
    process: subprocess.Popen[bytes] | None = None
    errors: Path = Path()

    def post(self, body: bytes | list[Any] = b"", *, path: str = "/v1/calls", **headers: str | None) -> Answered:
        """Send calls; a header given as None is left out."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, data, {"authorization": AUTHORIZATION} | named)

    def get(self, path: str) -> Answered:
        return self.request("GET", path)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str | None] | None = None
    ) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_S)
        try:
            given = {name: value for name, value in (headers or {}).items() if value is not None}
            connection.request(method, path, body, given, encode_chunked="transfer-encoding" in given)
            return _read_answer(connection)
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE_S)

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes until the other end closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_to_end(connection)

    def figure(self, name: str) -> float:
        """One of the figures of /metrics; 0 where it is not there."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").content.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def log(self) -> str:
        return self.errors.read_text()


def spooled(folder: Path) -> tuple[list[bytes], list[tuple[str, bytes]]]:
    """The records in a spool's sealed segments; reasons and bytes of those that were refused."""
    kept, refused = [], []
    for segment in sealed_segments(folder):
        for frame in read_segment(segment.path):
            assert isinstance(frame, Received)
            for record in frame.records:
                if isinstance(record, RejectedRecord):
                    refused.append((record.reason, record.data))
                else:
                    kept.append(record)
    return kept, refused


def read_to_end(connection: socket.socket) -> bytes:
    pieces = []
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


@contextmanager
def collecting_here(folder: Path, **settings: Any) -> Iterator[Running]:
    """A collector in a thread, with settings of its own; what it took is sealed when this ends."""
    made = load_settings(_env_file=None, **{"spool": folder, "write_keys": KEY, "spool_min_free_bytes": 0} | settings)
    sockets = listen("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    collector = Collector(made, sockets)
    thread = threading.Thread(target=collector.run, name="collector")
    thread.start()
    running = Running(port, made)
    try:
        _await_health(running)
        yield running
    finally:
        collector.stop()
        thread.join(_PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def collecting_apart(folder: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """`carat collect` as a process; it is killed where the test leaves it running."""
    folder.mkdir(parents=True, exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CARAT_", "LISTEN_", "NOTIFY_"))}
    clean |= {"CARAT_SPOOL": str(folder / "spool"), "CARAT_LOG": str(folder / "log"), "CARAT_SPOOL_MIN_FREE_BYTES": "0"}
    clean["CARAT_MAX_AGE_DAYS"] = "0"  # the calls of tests have fixed dates
    if "CARAT_WRITE_KEYS_FILE" not in environment:
        clean["CARAT_WRITE_KEYS"] = KEY
    clean["PYTHONPATH"] = str(CHECKOUT)
    errors = folder / "stderr"
    command = [sys.executable, "-m", "app", "collect", *(arguments or ("--port", "0"))]
    with errors.open("wb") as err:
        process = subprocess.Popen(command, cwd=folder, env=clean | environment, stderr=err)
    try:
        port = _await_port(process, errors)
        running = Running(port, load_settings(_env_file=None, spool=folder / "spool"), process, errors)
        _await_health(running)
        yield running
    finally:
        process.kill()
        process.wait()


def _await_port(process: subprocess.Popen[bytes], errors: Path) -> int:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        for line in errors.read_text().splitlines():
            with suppress(ValueError, KeyError):
                return int(json.loads(line)["at"][0].rpartition(":")[2])
        assert process.poll() is None, errors.read_text()
        time.sleep(0.02)
    raise AssertionError(f"it does not listen: {errors.read_text()}")


def _await_health(running: Running) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        with suppress(OSError):
            if running.get("/health").status == 200:
                return
        time.sleep(0.01)
    raise AssertionError("the collector does not answer")


def _read_answer(connection: http.client.HTTPConnection) -> Answered:
    response = connection.getresponse()
    return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
