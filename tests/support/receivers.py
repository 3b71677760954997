"""Collectors in every state that a shop may meet: one that takes calls, and ones that are slow, deaf or gone."""

import gzip
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "write-key-of-the-tests"


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    after_s: float = 0.0
    closes: bool = False  # hangs up without a word


class Receiver:
    """A real HTTP server that keeps what it was sent; the next answers may be laid out beforehand."""

    def __init__(self, *, largest_batch: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.raw = b""
        self.batches: list[int] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.connections = 0
        self.answers: deque[Answer] = deque()
        self.answer = Answer()
        self.largest_batch = largest_batch
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def await_records(self, count: int, *, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        await_that(lambda: len(self.records) >= count, timeout_s=timeout_s)
        return self.records

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                receiver.connections += 1

            def do_POST(self) -> None:
                content = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
                records = [json.loads(line) for line in content.split(b"\n")]
                receiver.headers.append(dict(self.headers))
                receiver.times.append(time.monotonic())
                answer = receiver.answers.popleft() if receiver.answers else receiver.answer
                if receiver.largest_batch is not None and len(records) > receiver.largest_batch:
                    answer = Answer(413)
                time.sleep(answer.after_s)
                if answer.closes:
                    self.close_connection = True
                    return
                if answer.status == 200:
                    receiver.raw += content + b"\n"
                    receiver.batches.append(len(records))
                    receiver.records += records
                said = answer.body if answer.body is not None else {"accepted": len(records), "rejected": []}
                body = json.dumps(said).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@contextmanager
def receiving(**options: Any) -> Iterator[Receiver]:
    receiver = Receiver(**options)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()


@contextmanager
def refused() -> Iterator[str]:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def black_holed() -> Iterator[str]:
    """A port that takes connections and what is sent on them, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def unreachable() -> Iterator[str]:
    """A port whose queue of connections is full: whoever connects waits, as for a host that is not there."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = []
        for _ in range(8):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            waiting.append(client)
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for client in waiting:
                client.close()


@contextmanager
def slow() -> Iterator[str]:
    with receiving() as receiver:
        receiver.answer = Answer(after_s=1.0)
        yield receiver.url


def await_that(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("it did not happen in time")
        time.sleep(0.005)
