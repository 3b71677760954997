"""Sends requests and times the answers: as fast as they arrive (closed), or at a fixed rate (open).

Runs in its own process, on bare sockets:
python -m bench.collector.load PID PORT BATCH CONNECTIONS SECONDS [RATE]
prints one JSON object. At a rate, an answer's time counts from when its request was due, not from when it was sent.
"""

import asyncio
import json
import os
import sys
import time
from collections import deque
from pathlib import Path

import uvloop

from bench.collector.calls import requests

_OK = b"HTTP/1.1 200"
_WARM_S = 0.7


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._due = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._load.free(self)

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP") and not data.startswith(_OK):
            print(f"answered: {data[:500]!r}", file=sys.stderr)
            os._exit(1)
        if data.endswith(b"}"):  # head and body may come apart, but neither is cut
            self._load.answered(time.perf_counter() - self._due)
            self._load.free(self)


class Load:
    """What is sent, and when."""

    def __init__(self, batch: int, rate: float) -> None:
        self._requests = requests(batch)
        self._rate = rate / batch
        self._sent = 0
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self.seconds: list[float] = []
        self.is_over = False

    def free(self, connection: Connection) -> None:
        if self.is_over:
            return
        if not self._rate:
            self._send(connection, time.perf_counter())
        elif self._due:
            self._send(connection, self._due.popleft())
        else:
            self._idle.append(connection)

    async def keep_pace(self) -> None:
        begun = time.perf_counter()
        made = 0
        while not self.is_over:
            while begun + made / self._rate <= time.perf_counter():
                due = begun + made / self._rate
                made += 1
                if self._idle:
                    self._send(self._idle.popleft(), due)
                else:
                    self._due.append(due)
            await asyncio.sleep(max(begun + made / self._rate - time.perf_counter(), 0))

    def answered(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def _send(self, connection: Connection, due: float) -> None:
        self._sent += 1
        connection.send(self._requests[self._sent % len(self._requests)], due)


async def run(pid: int, port: int, *, batch: int, connections: int, seconds: float, rate: float) -> dict[str, float]:
    load = Load(batch, rate)
    loop = asyncio.get_running_loop()
    pace = loop.create_task(load.keep_pace()) if rate else None
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
    await asyncio.sleep(_WARM_S)
    load.seconds.clear()
    begun, cpu_begun = time.perf_counter(), _cpu_seconds(pid)
    await asyncio.sleep(seconds)
    taken, cpu_s = time.perf_counter() - begun, _cpu_seconds(pid) - cpu_begun
    load.is_over = True
    if pace:
        await pace
    times = sorted(load.seconds)
    if not times:
        raise SystemExit("no answer came")
    return {
        "calls_per_s": len(times) * batch / taken,
        "calls": len(times) * batch,
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[len(times) * 99 // 100] * 1000,
        "cpu_s": cpu_s,
        "load_cpu_s": time.process_time(),
    }


def _cpu_seconds(pid: int) -> float:
    """What all threads of a process have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    pid, port, batch, connections = map(int, sys.argv[1:5])
    rate = float(sys.argv[6]) if len(sys.argv) > 6 else 0.0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = run(pid, port, batch=batch, connections=connections, seconds=float(sys.argv[5]), rate=rate)
        print(json.dumps(runner.run(figures)))
