"""Reads tables into Arrow files in separate processes, within a time limit, and follows the files as they grow.

One process per table, because connectorx holds the GIL while it waits for rows: in one process, a slow table would keep
the others from being opened at the same instant and from being written as they arrive.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

import pyarrow as pa

from app.core.errors import ShopError

_START_LIMIT_S = 60
ONE_INSTANT = "one instant for all tables"
_GRACE_S = 5  # a reading process ends by itself within it


@dataclass(frozen=True)
class Reading:
    """One table to read: SQL that returns its rows in the order of the key, and the Arrow file to write."""

    table: str
    sql: str
    path: Path
    batch_rows: int
    before: tuple[str, ...] = ()  # statements to run first, on the same connection


@dataclass
class Read:
    """The state of the readings, by table: rows of those that are complete, errors of those that failed."""

    rows: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)  # written to the file so far

    def has_begun(self, table: str) -> bool:
        return table in self.batches or self.has_ended(table)

    def has_ended(self, table: str) -> bool:
        return table in self.rows or table in self.errors


class ReaderProcess:
    """The reading processes, one per table: ready when entered, killed when left. A failure affects only its table."""

    def __init__(self, url: str, readings: list[Reading], *, limit_s: float) -> None:
        self._url = url
        self._readings = {reading.table: reading for reading in readings}
        self._limit_s = limit_s
        self._processes = dict[str, subprocess.Popen[str]]()
        self._messages = SimpleQueue[tuple[str, dict[str, Any]]]()
        self._ready = set[str]()
        self._ends_at = time.monotonic() + _START_LIMIT_S
        self.read = Read()

    @contextmanager
    def started(self) -> Iterator["ReaderProcess"]:
        with ExitStack() as stack:
            for reading in self._readings.values():
                stack.enter_context(self._process(reading))
            self._ends_at = time.monotonic() + _START_LIMIT_S
            while any(table not in self._ready and not self.read.has_ended(table) for table in self._readings):
                self._wait(f"its reading process did not start within {_START_LIMIT_S} s")
            yield self

    def go(self) -> None:
        """Start reading; the time limit counts from here."""
        self._ends_at = time.monotonic() + self._limit_s
        for process in self._processes.values():
            _send(process, "go")

    def poll(self, wait_s: float) -> None:
        """Process what was reported; wait for at most `wait_s`."""
        with suppress(Empty):
            self._take(*self._messages.get(timeout=wait_s))
            while True:
                self._take(*self._messages.get_nowait())

    def follow(self, table: str) -> Iterator[pa.RecordBatch]:
        """The batches of a table while it is being read; ShopError if it could not be read completely."""
        while not self.read.has_begun(table):
            self._wait(self._too_late)
        try:
            yield from self._batches_of(table)
        except (pa.ArrowInvalid, FileNotFoundError) as error:  # a full disk
            raise ShopError(
                f"could not be read whole: {self._readings[table].path.parent}: {str(error).splitlines()[0]}. Free "
                "some space, or move CARAT_SCRATCH"
            ) from None
        if table in self.read.errors:
            raise ShopError(f"could not be read whole: {self.read.errors[table]}")

    def _batches_of(self, table: str) -> Iterator[pa.RecordBatch]:
        if self.read.batches.get(table):
            with pa.OSFile(str(self._readings[table].path)) as file, pa.ipc.open_stream(file) as batches:
                done = 0
                while done < self.read.batches[table] or not self.read.has_ended(table):
                    if done < self.read.batches[table]:
                        yield batches.read_next_batch()
                        done += 1
                    else:
                        self._wait(self._too_late)

    def _wait(self, if_late: str) -> None:
        """Process the next report; if there is none, every table that has not ended has failed."""
        try:
            self._take(*self._messages.get(timeout=max(self._ends_at + _GRACE_S - time.monotonic(), 0)))
        except Empty:
            for table in self._readings:
                if not self.read.has_ended(table):
                    self.read.errors[table] = if_late

    def _take(self, table: str, message: dict[str, Any]) -> None:
        if message["state"] == "ready":
            self._ready.add(table)
        elif self.read.has_ended(table):
            return
        elif message["state"] == "batch":
            self.read.batches[table] = message["batches"]
        elif message["state"] == "done":
            self.read.rows[table] = message["rows"]
        elif message["state"] == "failed":
            self.read.errors[table] = message["error"]
        else:  # at the limit it ends without a report
            is_late = table in self._ready and message["at"] >= self._ends_at
            self.read.errors[table] = self._too_late if is_late else f"its reading process died ({message['how']})"

    @property
    def _too_late(self) -> str:
        return f"not read within {self._limit_s:g} s (CARAT_SNAPSHOT_TIMEOUT_S)"

    @contextmanager
    def _process(self, reading: Reading) -> Iterator[None]:
        # Without settings, which can hold passwords, and without the cost of backtraces of panics.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CARAT_")}
        environment["RUST_BACKTRACE"] = "0"
        with (
            tempfile.TemporaryFile() as said,  # hides what a panic prints: its message is reported
            subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("reader.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=environment,
                text=True,
            ) as process,
        ):
            listener = Thread(target=self._listen, args=(reading.table, process, said), daemon=True)
            try:
                listener.start()
                self._processes[reading.table] = process
                what = {**vars(reading), "path": str(reading.path), "url": self._url, "limit_s": self._limit_s}
                _send(process, json.dumps(what))
                yield
            finally:
                process.kill()
                listener.join()
                with suppress(BrokenPipeError):  # it may have died before it read a line
                    assert process.stdin is not None
                    process.stdin.close()

    def _listen(self, table: str, process: subprocess.Popen[str], said: Any) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._messages.put((table, json.loads(line)))
        code, at = process.wait(), time.monotonic()
        said.seek(0)
        last = (said.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        how = f"signal {-code}" if code < 0 else last or f"code {code}"
        self._messages.put((table, {"state": "died", "how": how, "at": at}))


class TableReader(Protocol):
    """Reads tables of the shop, each once."""

    def follow(self, table: str) -> Iterator[pa.RecordBatch]:
        """The batches of a table while it is being read; ShopError if it could not be read completely."""


@dataclass(frozen=True)
class ShopReading:
    """Tables of the shop that are being read, and what is guaranteed about the instant of each.

    `counts`: how many rows a table had at that instant, where known. `errors`: why a table is not read at all.
    """

    reader: TableReader
    guarantees: dict[str, str]
    counts: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        """The table's batches as they arrive, in the order of its key; then ShopError if it was not read completely."""
        if table in self.errors:
            raise ShopError(f"could not be read: {self.errors[table]}")
        rows = 0
        for batch in self.reader.follow(table):
            rows += batch.num_rows
            yield batch
        if table in self.counts and (expected := self.counts[table]()) != rows:
            raise ShopError(f"could not be read whole: partial, {rows} rows were read, the table had {expected}")


def _send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # that it died is noticed at the end of its output
        process.stdin.write(line + "\n")
        process.stdin.flush()
