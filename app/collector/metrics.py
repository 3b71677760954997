"""What the collector counts, as Prometheus reads it."""

import time
from collections import Counter as Tally
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.spool import SpoolStats

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The figures of one collector, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._accepted = self._counter("carat_collect_calls_accepted", "Call records that are on disk.")
        self._rejected = self._counter("carat_collect_calls_rejected", "Call records that cannot be stored.", "reason")
        self._requests = self._counter("carat_collect_requests", "Requests that were answered.", "status")
        self._bytes = self._counter("carat_collect_body_bytes", "Bytes of bodies, as they were sent.")
        self._answered = self._histogram("carat_collect_answer_seconds", "From a batch's headers to its answer.")
        self._synced = self._histogram("carat_spool_fsync_seconds", "Writing batches to disk and syncing them.")
        self._held = self._gauge("carat_collect_held_bytes", "Bytes of requests that are being taken in.")
        self._connections = self._gauge("carat_collect_connections", "Open connections.")
        self._spool_bytes = self._gauge("carat_spool_bytes", "Bytes that wait for delivery.")
        self._spool_segments = self._gauge("carat_spool_segments", "Segments that wait for delivery.")
        self._oldest = self._gauge("carat_spool_oldest_age_seconds", "Age of the oldest call that waits for delivery.")
        self._lag = self._gauge(
            "carat_delivery_lag_seconds",
            "From the receipt of calls to their delivery, of the last that were delivered.",
        )
        self._by_status: dict[int, Counter] = {}
        self._recent: Tally[str] = Tally()

    def answered(self, status: int) -> None:
        """Count a request by the status of its answer."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._requests.labels(str(status))
        counter.inc()
        self._recent["requests"] += 1
        self._recent["refused"] += status >= HTTPStatus.BAD_REQUEST

    def took(self, accepted: int, rejected: Mapping[str, int], *, body_bytes: int, seconds: float) -> None:
        """Count a batch that is on disk."""
        self._accepted.inc(accepted)
        self._bytes.inc(body_bytes)
        self._answered.observe(seconds)
        for reason, count in rejected.items():
            self._rejected.labels(reason).inc(count)
        self._recent["accepted"] += accepted
        self._recent["rejected"] += sum(rejected.values())

    def since_last(self) -> dict[str, int]:
        """What was counted since this was asked before, for the log; nothing where nothing was."""
        recent, self._recent = self._recent, Tally()
        names = ("requests", "refused", "accepted", "rejected")
        return {name: recent[name] for name in names} if recent else {}

    def synced(self, _: Path, __: int, seconds: float) -> None:
        """Count a sync of the spool."""
        self._synced.observe(seconds)

    def report(self, stats: SpoolStats, *, lag_s: float | None, connections: int, held_bytes: int) -> bytes:
        """All figures in Prometheus' text format."""
        self._spool_bytes.set(stats.bytes)
        self._spool_segments.set(stats.segments)
        self._oldest.set(max(time.time() - stats.oldest_at_ms / 1000, 0) if stats.oldest_at_ms else 0)
        self._lag.set(lag_s or 0)
        self._connections.set(connections)
        self._held.set(held_bytes)
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(name, meaning, registry=self._registry)

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(name, meaning, buckets=_SECONDS, registry=self._registry)
