"""What the collector counts, and how Prometheus reads it: counted as plain numbers, put into words when asked for."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import accumulate
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.intake.spool import SpoolStats

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Durations:
    """How many of some events took how long."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one of them."""
        self._counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def family(self, name: str, meaning: str) -> HistogramMetricFamily:
        """Them as Prometheus' histogram."""
        bounds = [*map(str, _BOUNDS_S), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        return HistogramMetricFamily(name, meaning, buckets=buckets, sum_value=self._sum_s)


class Metrics:
    """The figures of one collector."""

    def __init__(self) -> None:
        self._accepted = self._body_bytes = 0
        self._rejected: Counter[str] = Counter()
        self._answered: Counter[int] = Counter()
        self._took = Durations()
        self._synced = Durations()
        self._told = (0, 0, 0, 0)

    def answered(self, status: int) -> None:
        """Count a request by the status of its answer."""
        self._answered[int(status)] += 1

    def took(self, accepted: int, rejected: Mapping[str, int], *, body_bytes: int, seconds: float) -> None:
        """Count a batch that is on disk."""
        self._accepted += accepted
        self._body_bytes += body_bytes
        self._took.add(seconds)
        if rejected:
            self._rejected.update(rejected)

    def synced(self, _: Path, __: int, seconds: float) -> None:
        """Count a sync of the spool."""
        self._synced.add(seconds)

    def since_last(self) -> dict[str, int]:
        """What was counted since this was asked before, for the log; nothing where nothing was."""
        refused = sum(count for status, count in self._answered.items() if status >= HTTPStatus.BAD_REQUEST)
        counted = (self._answered.total(), refused, self._accepted, self._rejected.total())
        new = [now - before for now, before in zip(counted, self._told, strict=True)]
        self._told = counted
        return dict(zip(("requests", "refused", "accepted", "rejected"), new, strict=True)) if any(new) else {}

    def report(self, stats: SpoolStats, *, lag_s: float | None, connections: int, held_bytes: int) -> bytes:
        """All figures in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(_Report([*self._counted(), *_gauges(stats, lag_s, connections, held_bytes)]))
        return generate_latest(registry)

    def _counted(self) -> Iterator[Metric]:
        yield CounterMetricFamily("carat_collect_calls_accepted", "Call records that are on disk.", self._accepted)
        yield CounterMetricFamily("carat_collect_body_bytes", "Bytes of bodies, as they were sent.", self._body_bytes)
        rejected = CounterMetricFamily(
            "carat_collect_calls_rejected", "Call records that cannot be stored.", labels=["reason"]
        )
        for reason, count in self._rejected.items():
            rejected.add_metric([reason], count)
        yield rejected
        requests = CounterMetricFamily("carat_collect_requests", "Requests that were answered.", labels=["status"])
        for status, count in self._answered.items():
            requests.add_metric([str(status)], count)
        yield requests
        yield self._took.family("carat_collect_answer_seconds", "From the head of a batch to its acknowledgement.")
        yield self._synced.family("carat_spool_fsync_seconds", "Writing batches to disk and syncing them.")


class _Report(Collector):
    """Figures that are known already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _gauges(stats: SpoolStats, lag_s: float | None, connections: int, held_bytes: int) -> Iterator[Metric]:
    age_s = max(time.time() - stats.oldest_at_ms / 1000, 0) if stats.oldest_at_ms else 0
    yield GaugeMetricFamily("carat_collect_connections", "Open connections.", connections)
    yield GaugeMetricFamily("carat_collect_held_bytes", "Bytes of requests that are being taken in.", held_bytes)
    yield GaugeMetricFamily("carat_spool_bytes", "Bytes that wait for delivery.", stats.bytes)
    yield GaugeMetricFamily("carat_spool_segments", "Segments that wait for delivery.", stats.segments)
    yield GaugeMetricFamily("carat_spool_oldest_age_seconds", "Age of the oldest call that waits for delivery.", age_s)
    yield GaugeMetricFamily(
        "carat_delivery_lag_seconds", "From receipt to delivery, of the calls that were delivered last.", lag_s or 0
    )
