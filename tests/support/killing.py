"""Commands of Carat in processes that can be killed at any moment, and a server that is killed and started again.

A worker has imported everything before it says that it is ready: what a kill hits is work, not the start of Python.
It runs one command of the command line after the other, as they would run in processes of their own.
"""

import io
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from app.contracts import DwhTable
from tests.support.clickhouse_http import USER
from tests.support.paths import CHECKOUT

PASSWORD = "secret"
BATCH_RECORDS = 200
STAGED_STATES = "staged-states.ndjson"  # in a worker's folder: a line per day that was about to be published
_START_LIMIT_S = 60
COMMAND_LIMIT_S = 120


DayState = tuple[str, str, int, str]  # table, day, rows, hash


def day_states_query(table: DwhTable, name: str) -> str:
    """The states of the days that the table called `name` holds, as rows of `DayState`."""
    return (
        f"SELECT '{table.name}' AS name, toString({table.day}) AS day, count() AS rows, "
        f"toString(sum(cityHash64(toString(tuple(*))))) AS content FROM {name} GROUP BY day"
    )


def day_states(rows: Iterable[dict[str, Any]]) -> set[DayState]:
    return {(row["name"], row["day"], row["rows"], row["content"]) for row in rows}


class Finished(NamedTuple):
    """What became of a command: its exit code, what it said, and how long it took.

    `publishing_s`: how much of that was left when it began to publish its first day.
    """

    code: int
    out: str
    err: str
    seconds: float
    publishing_s: float = 0

    @property
    def error_lines(self) -> list[str]:
        """What a person reads: stderr without the JSON lines of the log."""
        return [line for line in self.err.splitlines() if not line.startswith("{")]


class Worker:
    """A process that runs commands of Carat, each at an instant of its own choice, until it is killed."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CARAT_") or name == "CARAT_MAX_AGE_DAYS"
        }
        environment |= {"PYTHONPATH": str(CHECKOUT), "CARAT_LOG": str(folder / "carat.log")} | settings
        with (folder / "workers.err").open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.killing"],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                bufsize=0,  # what a selector does not see must not wait in a buffer
            )
        self._sent_at = 0.0

    def wait_until_ready(self) -> "Worker":
        assert self._answer(time.monotonic() + _START_LIMIT_S) == {"state": "ready"}, (
            f"a worker did not start, see {self._process.args}"
        )
        return self

    def send(self, *arguments: str, now: datetime) -> None:
        """Begin a command."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"arguments": arguments, "now": now.isoformat()}).encode() + b"\n")
        self._process.stdin.flush()
        self._sent_at = time.monotonic()

    def finished(self, limit_s: float = COMMAND_LIMIT_S, *, since: str = "begun") -> Finished | None:
        """What became of the command that was begun; None if it runs still so many seconds `since` one of its states.

        A command has begun, and then may be `publishing` the first day that it built.
        """
        at = {"begun": self._sent_at}
        while answer := self._answer(at.get(since, self._sent_at + COMMAND_LIMIT_S - limit_s) + limit_s):
            now = time.monotonic()
            if answer.pop("state") == "ended":
                return Finished(**answer, seconds=now - self._sent_at, publishing_s=now - at.get("publishing", now))
            at.setdefault("publishing", now)
        return None

    def run(self, *arguments: str, now: datetime) -> Finished:
        """A command, to its end; a bare traceback on stderr is never right."""
        self.send(*arguments, now=now)
        finished = self.finished()
        assert finished, f"carat {' '.join(arguments)} did not end within {COMMAND_LIMIT_S} s"
        assert "Traceback" not in finished.err
        return finished

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait() == -signal.SIGKILL

    def _answer(self, until: float) -> dict[str, Any] | None:
        """The next line that the worker says, None where it says none until then."""
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(until - time.monotonic(), 0)):
                return None
        line = self._process.stdout.readline()
        assert line, f"a worker ended with {self._process.wait()}"
        return json.loads(line)


@dataclass
class Server:
    """A server on a folder, at an address that stays the same when it is killed and started again."""

    folder: Path
    port: int = 0
    config: Path | None = None
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"clickhouse://{USER}:{PASSWORD}@127.0.0.1:{self.port}/"

    def start(self) -> None:
        command = ["-m", "tests.support.clickhouse_http", "--path", str(self.folder), "--password", PASSWORD]
        process = subprocess.Popen(
            [
                sys.executable,
                *command,
                "--port",
                str(self.port),
                *(["--config", str(self.config)] if self.config else []),
            ],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where it tells of every client that was killed
        )
        self._processes.append(process)
        assert process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            assert selector.select(_START_LIMIT_S), "the server did not start"
        line = process.stdout.readline().decode()
        assert line.startswith("listening on "), "the server did not start"
        self.port = int(line.rpartition(":")[2])

    @property
    def is_running(self) -> bool:
        return bool(self._processes)

    def kill(self) -> None:
        process = self._processes.pop()
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class _PinnedClock(datetime):
    """What the clock of snapshots and ingests shows: the same in a disturbed run as in the undisturbed one."""

    pinned: ClassVar[datetime] = datetime(2000, 1, 1, tzinfo=UTC)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.pinned


def main() -> None:
    import app.intake.files
    import app.jobs.ingest
    import app.jobs.snapshot.take
    import app.main
    import app.shop.sqlite
    import app.warehouse.opening
    from app.warehouse import Staging
    from app.warehouse.lease import hold_lease

    answers = sys.stdout
    publish = Staging.publish

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    def publish_and_tell(staging: Staging, **options: Any) -> None:
        answer(state="publishing")
        staged = " UNION ALL ".join(day_states_query(table, staging.name(table.name)) for table in staging.tables)
        with Path(STAGED_STATES).open("a") as states:
            states.write(json.dumps(sorted(day_states(staging._warehouse.query(staged).iter_rows(named=True)))) + "\n")
        publish(staging, **options)

    app.jobs.ingest.datetime = app.jobs.snapshot.take.datetime = _PinnedClock  # type: ignore[misc]
    app.intake.files._BATCH_RECORDS = BATCH_RECORDS
    app.warehouse.opening.hold_lease = partial(hold_lease, lease_s=float(os.environ["TEST_LEASE_S"]))
    Staging.publish = publish_and_tell  # type: ignore[method-assign]
    answer(state="ready")
    for line in sys.stdin:
        order = json.loads(line)
        _PinnedClock.pinned = datetime.fromisoformat(order["now"])
        sys.argv = ["carat", *order["arguments"]]
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        code = None
        with redirect_stdout(out), redirect_stderr(err):
            try:
                app.main.main()
            except SystemExit as ended:
                code = ended.code or 0
        out.flush()
        answer(state="ended", code=code, out=out.buffer.getvalue().decode(), err=err.getvalue())


if __name__ == "__main__":
    main()
