"""Reads tables into Arrow files by a process of its own, within a limit of time."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

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
    opened: set[str] = field(default_factory=set)

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
            try:
                self._receive(max(self._deadline - time.monotonic(), 0))
            except TimeoutError:
                self._fail_rest(f"not read within {self._limit_s:.0f} s (CARAT_SNAPSHOT_TIMEOUT_S)")
        return self.read

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
        if message["state"] == "open":
            self.read.opened.add(table)
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
