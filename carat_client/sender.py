"""Sends captured calls from a background thread. The request path only appends to a queue of bounded size."""

import atexit
import logging
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any

from carat_client.captured import Captured
from carat_client.records import RecordMaker
from carat_client.settings import ClientSettings, EndpointFilter
from carat_client.transport import Transport

_LOG = logging.getLogger("carat.client")
_QUIET_S = 60.0  # between two lines on the same trouble
_LONGEST_NAP_S = 0.05

_senders: "weakref.WeakSet[CallSender]" = weakref.WeakSet()
_random = SystemRandom()


@dataclass
class Stats:
    """What became of the calls of this process since it began."""

    captured: int = 0
    delivered: int = 0
    rejected: int = 0
    """Records that the collector took in its batch but found bad."""
    sampled_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Calls that are lost, by reason."""
    failures: int = 0
    """Errors of the capture and of extractors; the shop saw none of them."""
    retries: int = 0
    queued: int = 0
    queued_bytes: int = 0


class CallSender:
    """One of a process, shared by its middlewares. Safe to make before a fork: each process has its own thread."""

    _queued_bytes: int
    _hurry_until: float
    _is_closed: bool

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._wanted = EndpointFilter(settings.endpoints)
        self._ignored = EndpointFilter(settings.ignored_endpoints)
        self._bodiless = EndpointFilter(settings.bodiless_endpoints)
        self._filters_calls = bool(settings.ignored_endpoints) or "*" not in settings.endpoints
        self._filters_bodies = bool(settings.bodiless_endpoints)
        self._maker = RecordMaker(settings)
        self._extractors = tuple(settings.extractors().items())
        self._start_anew()
        _senders.add(self)

    # ---- the request path: nothing here waits, and nothing here does work that can be done later ----

    def wants(self, method: str, path: str) -> bool:
        """Whether a call is to be captured at all."""
        if not self.settings.is_on:
            return False
        if not self._filters_calls:
            return True
        return self._wanted.matches(method, path) and not self._ignored.matches(method, path)

    def wants_bodies(self, method: str, path: str) -> bool:
        return not (self._filters_bodies and self._bodiless.matches(method, path))

    def extract(self, context: Any) -> dict[tuple[str, int], str] | None:
        """What the shop's own extractors say on a call; one that fails says nothing, and is counted."""
        if not self._extractors:
            return None
        found = {}
        for place, extractor in self._extractors:
            try:
                value = extractor(context)
                if value is not None:
                    found[place] = str(value)
            except Exception as error:  # noqa: BLE001
                self.note_failure(f"the extractor of {place[0]} failed: {type(error).__name__}")
        return found

    def offer(self, call: Captured) -> None:
        """Queue a call; where the queue is full the call is dropped and counted."""
        size = call.held_bytes()
        settings = self.settings
        with self._lock:
            count = len(self._queue) + 1
            held = self._queued_bytes + size
            self._stats.captured += 1
            if count > settings.max_queued_calls or held > settings.max_queued_bytes:
                reason = "queue full"
            elif self._is_closed:
                reason = "closed"
            else:
                reason = ""
                self._queued_bytes = held
                self._queue.append((call, size))
                is_first = count == 1
                is_enough = count == settings.batch_calls or held - size < self._enough_bytes <= held
        if reason:
            self._drop(1, reason)
            return
        if is_first:
            self._something.set()
        if is_enough:
            self._enough.set()
        if self._thread is None:
            self._start_thread()

    def note_failure(self, problem: str = "a call could not be captured") -> None:
        with self._lock:
            self._stats.failures += 1
        self._complain(problem)

    # ---- for whoever runs the shop ----

    @property
    def stats(self) -> Stats:
        with self._lock:
            counted = self._stats
            return Stats(
                captured=counted.captured,
                delivered=counted.delivered,
                rejected=counted.rejected,
                sampled_out=counted.sampled_out,
                dropped=dict(self._dropped),
                failures=counted.failures,
                retries=counted.retries,
                queued=len(self._queue) + self._in_flight,
                queued_bytes=self._queued_bytes,
            )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Send what is queued now rather than soon, and wait for it at most so long. Whether all of it went out."""
        deadline = time.monotonic() + (self.settings.flush_timeout_s if timeout_s is None else timeout_s)
        with self._lock:
            self._hurry_until = max(self._hurry_until, deadline)
        while self._is_busy():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._something.set()
            self._enough.set()
            self._hurried.set()
            time.sleep(min(left_s, _LONGEST_NAP_S if left_s > 1 else _LONGEST_NAP_S / 10))
        return True

    def close(self, timeout_s: float | None = None) -> None:
        """Flush, then take no more calls; what could not be sent is counted as lost."""
        if self._is_closed or self._pid != os.getpid():
            return
        self.flush(timeout_s)
        with self._lock:
            self._is_closed = True
            lost = len(self._queue) + self._in_flight
            self._queue.clear()
            self._queued_bytes = 0
        self._something.set()
        self._enough.set()
        self._hurried.set()
        if lost:
            self._drop(lost, "not sent before the end")
        self._say_complaints()

    # ---- the background thread ----

    def _start_anew(self) -> None:
        """The state of a process that has captured nothing, also that of a child right after its fork."""
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal's handler may come back in here
        self._queue: deque[tuple[Captured, int]] = deque()
        self._queued_bytes = 0
        self._in_flight = 0
        self._stats = Stats()
        self._dropped: Counter[str] = Counter()
        self._said_at: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()
        self._something = threading.Event()  # the queue is no longer empty
        self._enough = threading.Event()  # there is a batch in it
        self._hurried = threading.Event()  # somebody waits for it to be empty
        self._hurry_until = 0.0
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._enough_bytes = min(4 * self.settings.batch_bytes, self.settings.max_queued_bytes // 4)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="carat-client", daemon=True)
        with self._lock:
            if self._thread is not None:
                return
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # no threads left, or the interpreter is ending: the next call tries again
            self._thread = None
            self.note_failure("the background thread could not be started")

    def _run(self) -> None:
        transport = Transport(self.settings)
        while not self._is_closed:
            self._something.wait()
            self._enough.wait(self.settings.flush_interval_s)
            self._something.clear()
            self._enough.clear()
            while self._queue and not self._is_closed:
                try:
                    self._send_some(transport)
                except Exception as error:  # noqa: BLE001  a thread that ended would be silence for ever
                    self._settle(self._in_flight, "failed")
                    self._complain(f"a batch could not be sent: {type(error).__name__}")
                self._say_complaints()
        transport.close()

    def _send_some(self, transport: Transport) -> None:
        """Take a batch from the queue and see it through."""
        lines: list[bytes] = []
        size = held = 0
        while self._queue and len(lines) < self.settings.batch_calls and size < self.settings.batch_bytes:
            with self._lock:
                if not self._queue:
                    break
                call, call_bytes = self._queue.popleft()
                self._in_flight += 1
            held += call_bytes  # given back when the batch is gone: until then it does take memory
            try:
                line = self._maker.line(call)
            except Exception as error:  # noqa: BLE001
                self._settle(1, "could not be written")
                self._complain(f"a call could not be written: {type(error).__name__}")
                continue
            if line is None:
                self._settle(1, "")
            elif len(line) > self.settings.max_record_bytes:
                self._settle(1, "too large")
            else:
                lines.append(line)
                size += len(line)
        try:
            if lines:
                self._deliver(lines, transport)
        finally:
            with self._lock:
                self._queued_bytes = max(self._queued_bytes - held, 0)

    def _deliver(self, lines: Sequence[bytes], transport: Transport) -> None:
        """Send lines until the collector took or refused them."""
        attempt = 0
        while not self._is_closed:
            outcome = transport.post(lines, timeout_s=self._time_limit())
            if outcome.kind == "delivered":
                self._settle(len(lines), "delivered", rejected=outcome.rejected)
                return
            if outcome.kind == "split" and len(lines) > 1:
                middle = len(lines) // 2
                self._deliver(lines[:middle], transport)
                self._deliver(lines[middle:], transport)
                return
            if outcome.kind != "again":
                self._settle(len(lines), f"refused with {outcome.reason}")
                return
            with self._lock:
                self._stats.retries += 1
            self._complain(f"the collector cannot be reached ({outcome.reason}); calls wait and are tried again")
            self._say_complaints()
            self._wait_before_retry(attempt, outcome.retry_after_s)
            attempt += 1

    def _wait_before_retry(self, attempt: int, asked_s: float | None) -> None:
        """A pause that grows, or the one the collector asked for; of uneven length, so that not all come at once."""
        longest = min(self.settings.first_backoff_s * 2 ** min(attempt, 30), self.settings.longest_backoff_s)
        pause = longest * _random.uniform(0.5, 1.0) if asked_s is None else asked_s + _random.uniform(0, longest / 2)
        if self._time_limit() is None:
            self._hurried.clear()
            self._hurried.wait(pause)
        else:
            time.sleep(min(pause, _LONGEST_NAP_S * 2))

    def _time_limit(self) -> float | None:
        """How long somebody still waits for the queue to be empty; None where nobody does."""
        left_s = self._hurry_until - time.monotonic()
        return max(left_s, 0.01) if left_s > 0 else None

    def _is_busy(self) -> bool:
        with self._lock:
            return bool(self._queue or self._in_flight)

    def _settle(self, count: int, outcome: str, *, rejected: int = 0) -> None:
        """Calls that are done with: `delivered`, sampled out (no outcome), or lost for a reason."""
        with self._lock:
            if self._is_closed:  # they were counted as lost
                return
            self._in_flight -= count
            if outcome == "delivered":
                self._stats.delivered += count - rejected
                self._stats.rejected += rejected
            elif not outcome:
                self._stats.sampled_out += count
        if outcome not in {"", "delivered"}:
            self._drop(count, outcome)

    def _drop(self, count: int, reason: str) -> None:
        with self._lock:
            self._dropped[reason] += count
        self._complain(f"calls are lost: {reason}", count)

    def _complain(self, problem: str, count: int = 1) -> None:
        with self._lock:
            self._unsaid[problem] += count

    def _say_complaints(self) -> None:
        """A line in the shop's log, once a minute on each trouble; never from the request path: a log may be slow."""
        now = time.monotonic()
        with self._lock:
            due = [problem for problem in self._unsaid if now - self._said_at.get(problem, -_QUIET_S) >= _QUIET_S]
            counts = {problem: self._unsaid.pop(problem) for problem in due}
            self._said_at.update(dict.fromkeys(due, now))
        for problem, count in counts.items():
            with suppress(Exception):
                _LOG.warning("carat: %s (%d times since the last such line)", problem, count)


def _close_all() -> None:
    for sender in list(_senders):
        sender.close()


def _start_all_anew() -> None:
    for sender in list(_senders):
        sender._start_anew()  # noqa: SLF001


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_anew)
