"""Reads tables into Arrow files by a process of its own, within a limit of time."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import pyarrow as pa

from app.errors import ShopError

_START_LIMIT_S = 60


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

    def has_ended(self, table: str) -> bool:
        return table in self.rows or table in self.errors


class ReaderProcess:
    """The reading process: started and ready when entered, killed when left."""

    def __init__(self, url: str, readings: list[Reading], *, limit_s: float) -> None:
        self._readings = readings
        self._url = url
        self._limit_s = limit_s
        self._messages = SimpleQueue[dict[str, Any] | None]()
        self.read = Read()

    @contextmanager
    def started(self) -> Iterator["ReaderProcess"]:
        command = [sys.executable, "-m", "app.shop.reader"]
        pipe = subprocess.PIPE
        # What a panic prints goes nowhere: its message comes as a report, too.
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                self._process = process
                Thread(target=self._listen, daemon=True).start()
                readings = [{**vars(reading), "path": str(reading.path)} for reading in self._readings]
                self._tell(json.dumps({"url": self._url, "readings": readings}))
                self._receive(_START_LIMIT_S)
                yield self
            finally:
                process.kill()

    def go(self) -> None:
        """Let the reading begin; its time counts from here."""
        self._deadline = time.monotonic() + self._limit_s
        self._tell("go")

    def poll(self, wait_s: float) -> None:
        """Take in what was reported, for at most so long."""
        with suppress(TimeoutError):
            self._receive(wait_s)

    def finish(self) -> Read:
        """What was read, once every table has ended, or its time is up."""
        while not all(self.read.has_ended(reading.table) for reading in self._readings):
            self._wait()
        return self.read

    def follow(self, table: str) -> Iterator[pa.RecordBatch]:
        """The batches of a table while they are being read; ShopError where it could not be read to its end."""
        while table not in self.read.batches and not self.read.has_ended(table):
            self._wait()
        if self.read.batches.get(table):
            path = next(reading.path for reading in self._readings if reading.table == table)
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as batches:
                done = 0
                while done < self.read.batches[table] or not self.read.has_ended(table):
                    if done == self.read.batches[table]:
                        self._wait()
                        continue
                    yield batches.read_next_batch()
                    done += 1
        if table in self.read.errors:
            raise ShopError(f"could not be read whole: {self.read.errors[table]}")

    def _wait(self) -> None:
        try:
            self._receive(max(self._deadline - time.monotonic(), 0))
        except TimeoutError:
            self._fail_rest(f"not read within {self._limit_s:.0f} s (CARAT_SNAPSHOT_TIMEOUT_S)")

    def _receive(self, wait_s: float) -> None:
        try:
            message = self._messages.get(timeout=wait_s)
        except Empty:
            raise TimeoutError from None
        if message is None:
            if not self._readings or not hasattr(self, "_deadline"):
                raise ShopError("the reading process did not start; see `carat doctor`")
            self._fail_rest("the reading process died")
            return
        table = message.get("table", "")
        if message["state"] == "batch":
            self.read.batches[table] = message["batches"]
        elif message["state"] == "done":
            self.read.rows[table] = message["rows"]
        elif message["state"] == "failed":
            self.read.errors[table] = message["error"]

    def _fail_rest(self, problem: str) -> None:
        for reading in self._readings:
            if not self.read.has_ended(reading.table):
                self.read.errors[reading.table] = problem

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its end is told by what it says, or no longer says
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._messages.put(json.loads(line))
        self._messages.put(None)


@dataclass(frozen=True)
class ShopReading:
    """Tables of the shop that are being read, and what is guaranteed of the instant each is read at."""

    reader: ReaderProcess
    guarantees: dict[str, str]
    counts: Future[dict[str, int]] | None = None  # rows that tables had at that instant, where that is known

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        """The table's batches as they come, in the order of its key; ShopError after them if it was not read whole."""
        rows = 0
        for batch in self.reader.follow(table):
            rows += batch.num_rows
            yield batch
        expected = self.counts.result().get(table, rows) if self.counts else rows
        if rows != expected:
            raise ShopError(f"could not be read whole: partial, {rows} rows were read, the table had {expected}")
