"""Sends captured calls from a background thread. The request path only appends to a bounded queue."""

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
_LOG_INTERVAL_S = 60.0  # between two log lines about the same problem
_LONGEST_SLEEP_S = 0.05
_LONGEST_SET_COOKIE = 4096  # the longest that browsers keep

_senders: "weakref.WeakSet[CallSender]" = weakref.WeakSet()
_random = SystemRandom()


@dataclass
class Stats:
    """What happened to the calls of this process since it started."""

    captured: int = 0
    delivered: int = 0
    rejected: int = 0
    """Records that the collector found invalid."""
    sampled_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Lost calls by reason."""
    unread_bodies: dict[str, int] = field(default_factory=dict)
    """Bodies that were sent as their size alone, by reason: nothing in them is seen in the warehouse."""
    failures: int = 0
    """Errors of the middleware and of extractors. None of them reached the shop."""
    retries: int = 0
    queued: int = 0
    queued_bytes: int = 0


class CallSender:
    """Queues calls and sends them. One serves all middleware of a process, and it may be created before a fork."""

    _queued_bytes: int
    _flush_until: float
    _is_closed: bool

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._captured_endpoints = EndpointFilter(settings.endpoints)
        self._ignored = EndpointFilter(settings.ignored_endpoints)
        self._bodiless = EndpointFilter(settings.bodiless_endpoints)
        self._machines = EndpointFilter(settings.machine_endpoints)
        self._filters_calls = bool(settings.ignored_endpoints) or "*" not in settings.endpoints
        self._id_cookies = settings.id_cookies()
        self._filters_bodies = bool(settings.bodiless_endpoints)
        self._maker = RecordMaker(settings)
        self._extractors = tuple(settings.extractors().items())
        self._reset()
        _senders.add(self)

    # ---- the request path: does not wait, and leaves all work that can wait to the background thread ----

    def should_capture(self, method: str, path: str) -> bool:
        """Whether the settings select this call."""
        if not self.settings.is_on:
            return False
        if self._machines.matches(method, path):
            return False
        if not self._filters_calls:
            return True
        return self._captured_endpoints.matches(method, path) and not self._ignored.matches(method, path)

    def should_capture_bodies(self, method: str, path: str) -> bool:
        return not (self._filters_bodies and self._bodiless.matches(method, path))

    def is_id_cookie(self, set_cookie: bytes | str) -> bool:
        """Whether a `Set-Cookie` header sets a cookie that identifies the visitor or the session."""
        if not self._id_cookies or len(set_cookie) > _LONGEST_SET_COOKIE:
            return False
        text = set_cookie.decode("latin-1") if isinstance(set_cookie, bytes) else set_cookie
        return text.partition("=")[0].strip() in self._id_cookies

    def extract(self, context: Any) -> dict[tuple[str, int], str] | None:
        """Run the shop's own extractors. One that raises gives no value and is counted as a failure."""
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

    def enqueue(self, call: Captured) -> None:
        """Queue a call. If the queue is full, the call is dropped and counted."""
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
                is_batch_ready = count == settings.batch_calls or held - size < self._batch_ready_bytes <= held
        if reason:
            self._drop(1, reason)
            return
        if is_first:
            self._not_empty.set()
        if is_batch_ready:
            self._batch_ready.set()
        if self._thread is None:
            self._start_thread()

    def note_failure(self, problem: str = "a call could not be captured") -> None:
        with self._lock:
            self._stats.failures += 1
        self._warn(problem)

    # ---- for the shop ----

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
                unread_bodies=dict(self._unread_bodies),
                failures=counted.failures,
                retries=counted.retries,
                queued=len(self._queue) + self._in_flight,
                queued_bytes=self._queued_bytes,
            )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Send what is queued now and wait up to `timeout_s`. Returns whether everything was sent."""
        deadline = time.monotonic() + (self.settings.flush_timeout_s if timeout_s is None else timeout_s)
        with self._lock:
            self._flush_until = max(self._flush_until, deadline)
        while self._is_busy():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._not_empty.set()
            self._batch_ready.set()
            self._flush_requested.set()
            time.sleep(min(left_s, _LONGEST_SLEEP_S if left_s > 1 else _LONGEST_SLEEP_S / 10))
        return True

    def close(self, timeout_s: float | None = None) -> None:
        """Flush, then accept no more calls. What could not be sent is counted as lost."""
        if self._is_closed or self._pid != os.getpid():
            return
        self.flush(timeout_s)
        with self._lock:
            self._is_closed = True
            lost = len(self._queue) + self._in_flight
            self._queue.clear()
            self._queued_bytes = 0
        self._not_empty.set()
        self._batch_ready.set()
        self._flush_requested.set()
        if lost:
            self._drop(lost, "not sent before the end")
        self._log_warnings()

    # ---- the background thread ----

    def _reset(self) -> None:
        """Start with an empty queue: in a new process, and in a child after a fork."""
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may re-enter
        self._queue: deque[tuple[Captured, int]] = deque()
        self._queued_bytes = 0
        self._in_flight = 0
        self._stats = Stats()
        self._dropped: Counter[str] = Counter()
        self._unread_bodies: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}
        self._unlogged: Counter[str] = Counter()
        self._not_empty = threading.Event()
        self._batch_ready = threading.Event()  # the queue holds a full batch
        self._flush_requested = threading.Event()  # `flush` waits for an empty queue
        self._flush_until = 0.0
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._batch_ready_bytes = min(4 * self.settings.batch_bytes, self.settings.max_queued_bytes // 4)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="carat-client", daemon=True)
        with self._lock:
            if self._thread is not None:
                return
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # no threads left, or interpreter shutdown: the next call retries
            self._thread = None
            self.note_failure("the background thread could not be started")

    def _run(self) -> None:
        transport = Transport(self.settings)
        while not self._is_closed:
            self._not_empty.wait()
            self._batch_ready.wait(self.settings.flush_interval_s)
            self._not_empty.clear()
            self._batch_ready.clear()
            while self._queue and not self._is_closed:
                try:
                    self._send_some(transport)
                except Exception as error:  # noqa: BLE001  if the thread died, nothing would be sent any more
                    self._settle(self._in_flight, "failed")
                    self._warn(f"a batch could not be sent: {type(error).__name__}")
                self._log_warnings()
        transport.close()

    def _send_some(self, transport: Transport) -> None:
        """Send one batch from the queue."""
        lines: list[bytes] = []
        size = held = 0
        while self._queue and len(lines) < self.settings.batch_calls and size < self.settings.batch_bytes:
            with self._lock:
                if not self._queue:
                    break
                call, call_bytes = self._queue.popleft()
                self._in_flight += 1
            held += call_bytes  # freed after the batch was sent: until then it occupies memory
            try:
                line = self._maker.line(call)
            except Exception as error:  # noqa: BLE001
                self._settle(1, "could not be written")
                self._warn(f"a call could not be written: {type(error).__name__}")
                continue
            finally:
                self._note_unread_bodies()
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

    def _note_unread_bodies(self) -> None:
        unread = self._maker.unread_bodies
        if not unread:
            return
        with self._lock:
            self._unread_bodies.update(unread)
        for reason, count in unread.items():
            self._warn(f"bodies are sent as their size alone, see Unread bodies in docs/middleware.md: {reason}", count)
        unread.clear()

    def _deliver(self, lines: Sequence[bytes], transport: Transport) -> None:
        """Send lines until the collector accepts or refuses them."""
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
            if outcome.kind != "retry":
                self._settle(len(lines), f"refused with {outcome.reason}")
                return
            with self._lock:
                self._stats.retries += 1
            self._warn(f"the collector cannot be reached ({outcome.reason}); calls stay queued and are sent again")
            self._log_warnings()
            self._wait_before_retry(attempt, outcome.retry_after_s)
            attempt += 1

    def _wait_before_retry(self, attempt: int, asked_s: float | None) -> None:
        """Wait with exponential backoff, or as long as the collector asked. Jitter spreads the clients' retries."""
        longest = min(self.settings.first_backoff_s * 2 ** min(attempt, 30), self.settings.longest_backoff_s)
        pause = longest * _random.uniform(0.5, 1.0) if asked_s is None else asked_s + _random.uniform(0, longest / 2)
        if self._time_limit() is None:
            self._flush_requested.clear()
            self._flush_requested.wait(pause)
        else:
            time.sleep(min(pause, _LONGEST_SLEEP_S * 2))

    def _time_limit(self) -> float | None:
        """How long `flush` still waits; None if nobody is flushing."""
        left_s = self._flush_until - time.monotonic()
        return max(left_s, 0.01) if left_s > 0 else None

    def _is_busy(self) -> bool:
        with self._lock:
            return bool(self._queue or self._in_flight)

    def _settle(self, count: int, outcome: str, *, rejected: int = 0) -> None:
        """Count finished calls: `delivered`, sampled out (empty outcome), or lost for a reason."""
        with self._lock:
            if self._is_closed:  # `close` has counted them as lost
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
        self._warn(f"calls are lost: {reason}", count)

    def _warn(self, problem: str, count: int = 1) -> None:
        with self._lock:
            self._unlogged[problem] += count

    def _log_warnings(self) -> None:
        """Log each problem at most once a minute. Never called from the request path: logging may be slow."""
        now = time.monotonic()
        with self._lock:
            due = [
                problem
                for problem in self._unlogged
                if now - self._logged_at.get(problem, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S
            ]
            counts = {problem: self._unlogged.pop(problem) for problem in due}
            self._logged_at.update(dict.fromkeys(due, now))
        for problem, count in counts.items():
            with suppress(Exception):
                _LOG.warning("carat: %s (%d times since the last message)", problem, count)


def _close_all() -> None:
    for sender in list(_senders):
        sender.close()


def _reset_all() -> None:
    for sender in list(_senders):
        sender._reset()  # noqa: SLF001


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
