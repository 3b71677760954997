"""The collector's metrics, for Prometheus and for its own log."""

import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from app.intake.spool import SpoolStats

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series


class Metrics:
    """The metrics of one collector."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._accepted = Counter("carat_collect_calls_accepted", "Call records that are on disk.", registry=registry)
        self._body_bytes = Counter("carat_collect_body_bytes", "Bytes of request bodies, as sent.", registry=registry)
        self._unread_bodies = Counter(
            "carat_collect_unread_bodies",
            "Request and response bodies that the middleware could not read, so that their size alone was sent.",
            registry=registry,
        )
        self._rejected = Counter(
            "carat_collect_calls_rejected", "Call records that cannot be stored.", ["reason"], registry=registry
        )
        self._requests = Counter("carat_collect_requests", "Answered requests.", ["status"], registry=registry)
        self._answer_s = Histogram(
            "carat_collect_answer_seconds",
            "From the head of a batch to its acknowledgement.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._fsync_s = Histogram(
            "carat_spool_fsync_seconds", "Writing and syncing batches.", buckets=_BUCKETS_S, registry=registry
        )
        self._gauges = {
            name: Gauge(name, meaning, registry=registry)
            for name, meaning in {
                "carat_collect_connections": "Open connections.",
                "carat_collect_held_bytes": "Bytes of requests in progress.",
                "carat_spool_bytes": "Bytes that wait for delivery.",
                "carat_spool_segments": "Segments that wait for delivery.",
                "carat_spool_oldest_age_seconds": "Age of the oldest call that waits for delivery.",
                "carat_delivery_lag_seconds": "From receipt to delivery, for the most recently delivered calls.",
            }.items()
        }
        self._reported = (0, 0, 0, 0)

    def count_answer(self, status: int) -> None:
        """Count a request by the status of its answer."""
        self._requests.labels(int(status)).inc()

    def count_batch(
        self, accepted: int, rejected: Mapping[str, int], *, body_bytes: int, unread_bodies: int, seconds: float
    ) -> None:
        """Count a batch that is on disk; `rejected` is by reason."""
        self._accepted.inc(accepted)
        self._unread_bodies.inc(unread_bodies)
        self._body_bytes.inc(body_bytes)
        self._answer_s.observe(seconds)
        for reason, count in rejected.items():
            self._rejected.labels(reason).inc(count)

    def count_sync(self, _: Path, __: int, seconds: float) -> None:
        """Count a sync of the spool."""
        self._fsync_s.observe(seconds)

    def since_last(self) -> dict[str, int]:
        """What was counted since the previous call, for the log; empty if nothing was."""
        by_status = _by_label(self._requests)
        refused = sum(count for status, count in by_status.items() if int(status) >= HTTPStatus.BAD_REQUEST)
        accepted = int(self._registry.get_sample_value("carat_collect_calls_accepted_total") or 0)
        counted = (sum(by_status.values()), refused, accepted, sum(_by_label(self._rejected).values()))
        new = [now - before for now, before in zip(counted, self._reported, strict=True)]
        self._reported = counted
        return dict(zip(("requests", "refused", "accepted", "rejected"), new, strict=True)) if any(new) else {}

    def report(self, stats: SpoolStats, *, lag_s: float | None, connections: int, held_bytes: int) -> bytes:
        """All metrics in Prometheus' text format."""
        age_s = max(time.time() - stats.oldest_at_ms / 1000, 0) if stats.oldest_at_ms else 0
        values = (connections, held_bytes, stats.bytes, stats.segments, age_s, lag_s or 0)
        for gauge, value in zip(self._gauges.values(), values, strict=True):
            gauge.set(value)
        return generate_latest(self._registry)


def _by_label(counter: Counter) -> dict[str, int]:
    """The counts by the value of the only label."""
    (family,) = counter.collect()
    return {next(iter(sample.labels.values())): int(sample.value) for sample in family.samples}
