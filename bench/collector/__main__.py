"""Measures the collector under load: calls per second, response times, and CPU per call.

python -m bench.collector [--seconds 5] [--batches 1,10,100] [--folder var/bench]

Three servers take the same requests, one after the other: Carat, which answers once the calls are on disk; Carat with a
spool that writes nothing, so that the difference is the cost of durability; and Starlette with orjson, which checks and
discards. Server and load share the machine's cores, each in one process. A busy machine distorts CPU seconds of the
server per hundred thousand calls the least.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.collector.calls import KEY

_CONNECTIONS = {1: 256, 10: 96, 100: 24}
_BATCH = 100  # the size of batch that is held against what is promised
_RATE = 100_000.0
_P99_MS = 25.0
_HALF = _RATE / 2

console = Console(width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Server:
    """A contender: how it is called, and how it is started on a port."""

    name: str
    command: tuple[str, ...]


SERVERS = (
    Server("carat", ("-m", "app", "collect", "--port")),
    Server("carat, no disk", ("-m", "bench.collector.no_disk")),
    Server("starlette + orjson", ("-m", "bench.collector.starlette_orjson")),
)


@dataclass(frozen=True)
class Measured:
    """One server at one size of batch: as fast as it goes, then at half of that."""

    server: str
    batch: int
    calls_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s: float  # of the server, a hundred thousand calls
    half_calls_per_s: float
    half_p50_ms: float
    half_p99_ms: float
    rss_mib: float


def main() -> int:
    options = _options()
    batches = [int(batch) for batch in options.batches.split(",")]
    folder = options.folder.resolve() / "collector"
    measured = [_measure(server, batch, folder, options.seconds) for batch in batches for server in SERVERS]
    _show(measured)
    shutil.rmtree(folder, ignore_errors=True)
    return _judge(measured)


def _measure(server: Server, batch: int, folder: Path, seconds: float) -> Measured:
    shutil.rmtree(folder, ignore_errors=True)
    with _running(server, folder) as (pid, port):
        fastest = _load(pid, port, batch, seconds)
        half = _load(pid, port, batch, seconds, min(fastest["calls_per_s"] / 2, _HALF))
        rss_mib = _rss_mib(pid)
    cpu_s = fastest["cpu_s"] / fastest["calls"] * 100_000
    console.print(f"{server.name}, batches of {batch}: {fastest}, {half}", style="dim")
    return Measured(
        server.name, batch, fastest["calls_per_s"], fastest["p50_ms"], fastest["p99_ms"], cpu_s,
        half["calls_per_s"], half["p50_ms"], half["p99_ms"], rss_mib,
    )  # fmt: skip


@contextmanager
def _running(server: Server, folder: Path) -> Iterator[tuple[int, int]]:
    """The server's process id and port, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "CARAT_SPOOL": str(folder / "spool"), "CARAT_WRITE_KEYS": KEY, "CARAT_LOG": str(folder / "log"),
        "CARAT_MAX_AGE_DAYS": "0",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, *server.command, str(port)], env=environment, stderr=subprocess.DEVNULL)
    try:
        _await(process, port)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(60)


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit("the server did not start")


def _load(pid: int, port: int, batch: int, seconds: float, rate: float = 0.0) -> dict[str, float]:
    arguments = [pid, port, batch, _CONNECTIONS.get(batch, 24), seconds, rate]
    command = [sys.executable, "-m", "bench.collector.load", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60 + 3 * seconds)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def _show(measured: list[Measured]) -> None:
    table = Table(title="taking calls of about 1 KB in", title_justify="left")
    columns = (
        "batch", "server", "calls/s", "p50 ms", "p99 ms", "CPU s / 100k", "at calls/s", "p50 ms", "p99 ms", "MiB",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "server" else "right")
    for m in measured:
        rates = (f"{m.calls_per_s:,.0f}", f"{m.p50_ms:.1f}", f"{m.p99_ms:.1f}", f"{m.cpu_s:.2f}")
        table.add_row(
            str(m.batch), m.server, *rates, f"{m.half_calls_per_s:,.0f}", f"{m.half_p50_ms:.1f}",
            f"{m.half_p99_ms:.1f}", f"{m.rss_mib:.0f}",
        )  # fmt: skip
    console.print(table)


def _judge(measured: list[Measured]) -> int:
    """Whether Carat reaches what it promises; 1 where it does not."""
    by_name = {(m.server, m.batch): m for m in measured}
    for batch in sorted({m.batch for m in measured}):
        carat, no_disk, other = (by_name[server.name, batch] for server in SERVERS)
        console.print(
            f"batches of {batch}: {carat.calls_per_s / no_disk.calls_per_s:.2f} of the rate without a disk, "
            f"{carat.calls_per_s / other.calls_per_s:.2f} times that of {other.server}; "
            f"CPU a call {carat.cpu_s / no_disk.cpu_s:.2f} and {carat.cpu_s / other.cpu_s:.2f} times theirs"
        )
    carat = by_name.get((SERVERS[0].name, _BATCH))
    if not carat:
        return 0
    misses = []
    if carat.calls_per_s < _RATE:
        misses.append(f"{carat.calls_per_s:,.0f} calls/s in batches of {carat.batch}, wanted are {_RATE:,.0f}")
    if carat.half_p99_ms > _P99_MS:
        misses.append(f"p99 {carat.half_p99_ms:.1f} ms at {carat.half_calls_per_s:,.0f} calls/s, wanted is {_P99_MS}")
    for miss in misses:
        console.print(f"missed: {miss}", style="red")
    return 1 if misses else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each load lasts")
    parser.add_argument("--batches", default="1,10,100", help="calls a request")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
