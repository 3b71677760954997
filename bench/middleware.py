"""Measures what the middleware adds to a request: ASGI and WSGI apps that return JSON, called with and without it.

python -m bench.middleware [--requests 4000] [--rounds 25]

The apps are called directly, without a server, so that only the middleware makes a difference. Short runs with and
without it alternate in random order, and the median of the differences counts: a busy machine affects both. The
background work is measured separately, as CPU of the sender's thread per call: it serializes, redacts and compresses
what was captured and sends it to a collector in another process, which discards it.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from carat_client import CallSender, CaratASGI, CaratWSGI, ClientSettings

_TARGET_US = 20.0
_PATH = "/api/v1/products/17"
_SMALL = json.dumps({"id": 17, "title": "Ring, 585 gold", "price": 149.0}).encode()
_CATALOG = json.dumps(
    {
        "total": 60,
        "items": [
            {"id": n, "title": f"Ring {n}, 585 gold", "price": 149.0 + n, "image": f"https://img.example/{n}.jpg"}
            for n in range(60)
        ],
    }
).encode()
_HEADERS = {
    "host": "shop.example",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    "accept": "application/json",
    "accept-language": "de-DE,de;q=0.9,en;q=0.8",
    "accept-encoding": "gzip, deflate, br, zstd",
    "referer": "https://shop.example/p/17?utm_source=newsletter&utm_medium=email",
    "cookie": "visitor_id=c-81d2f0c3a7; session_token=0b8f4e21c6d84f0f; consent=all",
    "x-forwarded-for": "203.0.113.9",
    "sec-fetch-mode": "cors",
    "connection": "keep-alive",
}

console = Console(width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True)
class Kind:
    """One way of calling: runs so many requests, with the middleware or without."""

    name: str
    run: Callable[[int, bool], None]


@dataclass(frozen=True)
class Cost:
    """Microseconds a request, median over the rounds."""

    bare_us: float
    added_us: float
    added_cpu_us: float


def main() -> int:
    options = _options()
    console.print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; Python {sys.version.split()[0]}"
    )
    table = Table(title="microseconds a request", title_justify="left")
    for column in ("app", "answer", "without", "added", "added, CPU", "in the background, CPU"):
        table.add_column(column, justify="left" if column in {"app", "answer"} else "right")
    worst = 0.0
    for content in (_SMALL, _CATALOG):
        sender = _idle_sender()
        for kind in (_asgi(sender, content), _wsgi(sender, content)):
            cost = _measure(kind, sender, options)
            background_us = _background_us(kind.name, content, options.requests)
            figures = (cost.bare_us, cost.added_us, cost.added_cpu_us, background_us)
            table.add_row(kind.name, f"{len(content):,} B", *(f"{figure:.1f}" for figure in figures))
            worst = max(worst, cost.added_cpu_us)
    console.print(table)
    console.print(f"added by the middleware: at most {worst:.1f} us of CPU a request (at most {_TARGET_US:g} asked)")
    return 0 if worst <= _TARGET_US else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000, help="requests of a run")
    parser.add_argument("--rounds", type=int, default=25, help="pairs of runs")
    options = parser.parse_args()
    if options.requests < 1 or options.rounds < 1:
        parser.error("requests and rounds begin at 1")
    return options


def _measure(kind: Kind, sender: CallSender, options: argparse.Namespace) -> Cost:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    for number in range(options.rounds):
        for with_it in ((False, True), (True, False))[number % 2]:
            _empty(sender)
            gc.collect()
            began, cpu_began = time.perf_counter(), time.thread_time()
            kind.run(options.requests, with_it)
            cpu[with_it].append((time.thread_time() - cpu_began) / options.requests * 1e6)
            seconds[with_it].append((time.perf_counter() - began) / options.requests * 1e6)
    captured = sender.stats
    assert not captured.failures
    assert not captured.dropped, captured.dropped
    return Cost(statistics.median(seconds[False]), _median_difference(seconds), _median_difference(cpu))


def _median_difference(measured: dict[bool, list[float]]) -> float:
    return statistics.median(after - before for before, after in zip(measured[False], measured[True], strict=True))


# ---- the apps ----------------------------------------------------------------------------------------------------


def _asgi(sender: CallSender, content: bytes) -> Kind:
    head = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())],
    }
    headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
    request = {"type": "http.request", "body": b"", "more_body": False}

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(head)
        await send({"type": "http.response.body", "body": content})

    async def receive() -> Any:
        return request

    async def send(message: Any) -> None:
        pass

    async def repeat(called: Any, count: int) -> None:
        for _ in range(count):
            scope = {
                "type": "http", "method": "GET", "path": _PATH, "query_string": b"ref=mail", "headers": headers,
                "client": ("203.0.113.9", 4711),
            }  # fmt: skip
            await called(scope, receive, send)

    wrapped = CaratASGI(app, sender)
    return Kind("ASGI", lambda count, with_it: asyncio.run(repeat(wrapped if with_it else app, count)))


def _wsgi(sender: CallSender, content: bytes) -> Kind:
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    fixed = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in _HEADERS.items()} | {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": _PATH, "QUERY_STRING": "ref=mail",
        "REMOTE_ADDR": "203.0.113.9",
    }  # fmt: skip

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", head)
        return [content]

    def start_response(_status: str, _headers: Any) -> Any:
        return None

    def run(count: int, with_it: bool) -> None:
        called = wrapped if with_it else app
        for _ in range(count):
            for _chunk in called(dict(fixed), start_response):
                pass

    wrapped = CaratWSGI(app, sender)
    return Kind("WSGI", run)


# ---- the sender --------------------------------------------------------------------------------------------------


def _idle_sender() -> CallSender:
    """A sender that queues and sends nothing: what the request path costs by itself."""
    settings = ClientSettings(
        url="http://127.0.0.1:9", write_key="key", hash_key="key", max_queued_calls=10**9, max_queued_bytes=10**12
    )
    sender = CallSender(settings)
    sender._start_thread = lambda: None  # type: ignore[method-assign]  # noqa: SLF001
    return sender


def _empty(sender: CallSender) -> None:
    sender._queue.clear()  # noqa: SLF001
    sender._queued_bytes = 0  # noqa: SLF001


def _background_us(kind: str, content: bytes, count: int) -> float:
    """CPU of the sender's thread a call, when everything is sent to a collector in another process."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.middleware", "--receive"], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as receiver:
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        sender = CallSender(ClientSettings(url=f"http://127.0.0.1:{port}", write_key="key", hash_key="key"))
        called = (_asgi if kind == "ASGI" else _wsgi)(sender, content)
        sent = 0
        before = time.process_time()
        while sent < count:
            called.run(min(1000, count - sent), True)
            sent += 1000
            assert sender.flush(60)
        spent = time.process_time() - before
        before = time.process_time()
        idle = _idle_sender()
        (_asgi if kind == "ASGI" else _wsgi)(idle, content).run(count, True)
        spent -= time.process_time() - before
        assert sender.stats.delivered == count
        sender.close()
        receiver.terminate()
    return spent / count * 1e6


class _Forgetful(BaseHTTPRequestHandler):
    """Takes whatever comes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


def _receive() -> None:
    with HTTPServer(("127.0.0.1", 0), _Forgetful) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["--receive"]:
        _receive()
    raise SystemExit(main())
