"""Reads tables into Arrow files by processes of their own, within a limit of time, and follows them as they grow.

A process for each table, because connectorx holds Python's lock while it waits for rows: in one process, a table that
is long in coming would keep the others from being opened at the same instant, and from being written as they come.
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
from typing import Any

import pyarrow as pa

from app.core.errors import ShopError

_START_LIMIT_S = 60
_GRACE_S = 5  # in which a reading process ends by itself


@dataclass(frozen=True)
class Reading:
    """What is read of one table: SQL whose rows come in the order of the key, into an Arrow file."""

    table: str
    sql: str
    path: Path
    batch_rows: int
    before: tuple[str, ...] = ()  # statements of the same connection, before


@dataclass
class Read:
    """What became of the readings so far, by table: rows of those that are whole, errors of those that are not."""

    rows: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)  # that are in the file

    def has_begun(self, table: str) -> bool:
        return table in self.batches or self.has_ended(table)

    def has_ended(self, table: str) -> bool:
        return table in self.rows or table in self.errors


class ReaderProcess:
    """The reading processes, one a table: ready when entered, killed when left. A failure is its table's alone."""

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
        """Let the reading begin; its time counts from here."""
        self._ends_at = time.monotonic() + self._limit_s
        for process in self._processes.values():
            _tell(process, "go")

    def poll(self, wait_s: float) -> None:
        """Take in what was reported, for at most so long."""
        with suppress(Empty):
            self._take(*self._messages.get(timeout=wait_s))
            while True:
                self._take(*self._messages.get_nowait())

    def follow(self, table: str) -> Iterator[pa.RecordBatch]:
        """The batches of a table while they are being read; ShopError where it could not be read to its end."""
        while not self.read.has_begun(table):
            self._wait(self._too_late)
        if self.read.batches.get(table):
            with pa.OSFile(str(self._readings[table].path)) as file, pa.ipc.open_stream(file) as batches:
                done = 0
                while done < self.read.batches[table] or not self.read.has_ended(table):
                    if done < self.read.batches[table]:
                        yield batches.read_next_batch()
                        done += 1
                    else:
                        self._wait(self._too_late)
        if table in self.read.errors:
            raise ShopError(f"could not be read whole: {self.read.errors[table]}")

    def _wait(self, if_late: str) -> None:
        """Take in what is reported next; where nothing is, every table that has not ended has failed."""
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
        else:  # at the limit it ends without a word
            is_late = table in self._ready and message["at"] >= self._ends_at
            self.read.errors[table] = self._too_late if is_late else f"its reading process died ({message['how']})"

    @property
    def _too_late(self) -> str:
        return f"not read within {self._limit_s:g} s (CARAT_SNAPSHOT_TIMEOUT_S)"

    @contextmanager
    def _process(self, reading: Reading) -> Iterator[None]:
        # No settings, which can hold passwords; nor the work of tracing what led to a panic.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CARAT_")}
        environment["RUST_BACKTRACE"] = "0"
        with (
            tempfile.TemporaryFile() as said,  # what a panic prints need not be seen: its message is reported
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
                _tell(process, json.dumps(what))
                yield
            finally:
                process.kill()
                listener.join()
                with suppress(BrokenPipeError):  # of a line that it died before
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


@dataclass(frozen=True)
class ShopReading:
    """Tables of the shop that are being read, and what is guaranteed of the instant each is read at.

    `counts`: how many rows a table had at that instant, for those of which that is known. `errors`: why a table is not
    read at all.
    """

    reader: ReaderProcess
    guarantees: dict[str, str]
    counts: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        """The table's batches as they come, in the order of its key; ShopError after them if it was not read whole."""
        if table in self.errors:
            raise ShopError(f"could not be read: {self.errors[table]}")
        rows = 0
        for batch in self.reader.follow(table):
            rows += batch.num_rows
            yield batch
        if table in self.counts and (expected := self.counts[table]()) != rows:
            raise ShopError(f"could not be read whole: partial, {rows} rows were read, the table had {expected}")


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # that it died is told by the end of what it says
        process.stdin.write(line + "\n")
        process.stdin.flush()
