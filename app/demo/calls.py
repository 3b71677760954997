"""The demo shop's call records, day by day as they arrive.

A day's visits depend on the seed and the day alone, so days can be generated in any order and in parallel. A day's file
holds the lines that arrive on that day: its own calls and late ones of earlier days, some of them sent twice or broken.
"""

import gzip
from bisect import bisect
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from app.demo import crawlers
from app.demo.assortment import Assortment, assortment_of
from app.demo.chance import Weighted, between, seeded
from app.demo.plan import DAY_MS, HOUR_MS, MINUTE_MS, DemoPlan
from app.demo.request_log import Call
from app.demo.shoppers import newcomer, regular, regulars
from app.demo.visits import DailyIds, Visit

__all__ = ["DemoPlan", "day_arrivals", "day_records", "write_month"]

# A visit or a crawl ends within hours, a late call arrives within three days: no line is in transit for longer.
DAYS_IN_TRANSIT = 4

_LATE_RATE = 0.004
_OFFLINE_RATE = 0.02
_DUPLICATE_RATE = 0.005
_LATEST_HOURS = 72
_REGULAR_VISITS = 0.33
_LINES_A_WRITE = 256

# UTC hours: a slow morning, a lunch break, the evening on the sofa.
_HOURS = Weighted(
    enumerate((14, 7, 3, 2, 2, 4, 10, 20, 30, 38, 43, 48, 52, 48, 44, 45, 50, 60, 74, 90, 96, 82, 54, 30)),
)

_NOT_JSON = (
    b"2026/03/09 18:22:41 [error] 1207#1207: *88123 upstream timed out (110: Connection timed out)",
    b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
    b"\x00\x00\x00\x00\xff\xfe",
)
_BREAKAGES = ("truncated", "no ts", "not JSON", "impossible ts", "no endpoint", "list")


class Arrival(NamedTuple):
    """A line and the moment (epoch ms) at which it reaches the collector."""

    at_ms: int
    line: bytes


def day_records(plan: DemoPlan, day_index: int) -> Iterator[bytes]:
    """The NDJSON lines that arrive on the day, without line endings, in order of arrival."""
    return (arrival.line for arrival in day_arrivals(plan, day_index))


def day_arrivals(plan: DemoPlan, day_index: int) -> list[Arrival]:
    """The lines that arrive on the day, in order of arrival.

    Fastest when days are asked for in order: lines still in transit are cached.
    """
    if not 0 <= day_index < plan.days:
        msg = f"day {day_index} is outside the plan's {plan.days} days"
        raise ValueError(msg)
    return _delivery_queue(plan).deliver(day_index)


def write_month(plan: DemoPlan, folder: Path, progress: Callable[[int], None] | None = None) -> list[Path]:
    """Write one `calls-YYYY-MM-DD.ndjson.gz` per day of arrival and return the paths in order.

    `progress` receives the number of days done.
    """
    with writing_month(plan, folder) as days:
        for done, day in enumerate(as_completed(days), 1):
            day.result()
            if progress is not None:
                progress(done)
        return [day.result() for day in days]


@contextmanager
def writing_month(plan: DemoPlan, folder: Path) -> Iterator[list[Future[Path]]]:
    """Write the month's files in the background, one future per day in order; days not written at the end are canceled.

    Two spawned processes share the work, so the calling script needs the usual `if __name__ == "__main__"`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = get_context("spawn")
    # One pool per range of days, so that each process keeps the undelivered lines of its own days.
    pools = [(ProcessPoolExecutor(1, mp_context=context), days) for days in plan.halves() if days]
    try:
        yield [pool.submit(_write_day, plan, folder, day_index) for pool, days in pools for day_index in days]
    finally:
        for pool, _ in pools:
            pool.shutdown(cancel_futures=True)


def calls_path(plan: DemoPlan, folder: Path, day_index: int) -> Path:
    """The file of the lines that arrive on the day."""
    return folder / f"calls-{plan.day(day_index)}.ndjson.gz"


class DeliveryQueue:
    """Delivers a plan's lines on the day of their arrival."""

    def __init__(self, plan: DemoPlan) -> None:
        self._plan = plan
        self._assortment = assortment_of(plan)
        # Day of the visit -> its lines that arrive on a later day.
        self._in_transit: dict[int, list[Arrival]] = {}

    def deliver(self, day_index: int) -> list[Arrival]:
        """The lines of one day in order of arrival."""
        plan = self._plan
        starts, ends = plan.day_starts_ms(day_index), plan.day_starts_ms(day_index + 1)
        earlier = range(max(0, day_index - DAYS_IN_TRANSIT), day_index)
        for day in earlier:
            if day not in self._in_transit:
                self._send(day)
        arrivals = [arrival for day in earlier for arrival in self._in_transit[day] if starts <= arrival.at_ms < ends]
        arrivals += self._send(day_index)
        for day in [day for day in self._in_transit if day not in earlier and day != day_index]:
            del self._in_transit[day]
        arrivals.sort(key=_moment)
        return _with_broken_lines(plan, day_index, arrivals)

    def _send(self, day_index: int) -> list[Arrival]:
        """Generate the day's calls; return those that arrive on the same day and keep the others in transit."""
        ends = self._plan.day_starts_ms(day_index + 1)
        sent = _sent(self._plan, self._assortment, day_index)
        self._in_transit[day_index] = [arrival for arrival in sent if arrival.at_ms >= ends]
        return [arrival for arrival in sent if arrival.at_ms < ends]


@lru_cache(maxsize=1)
def _delivery_queue(plan: DemoPlan) -> DeliveryQueue:
    return DeliveryQueue(plan)


def _sent(plan: DemoPlan, assortment: Assortment, day_index: int) -> list[Arrival]:
    """All lines of the visits and crawls that begin on the day, with their moments of arrival."""
    arrivals: list[Arrival] = []
    rng = seeded(plan.seed, "post", day_index)
    for calls, is_cut_off in _visits_and_crawls(plan, assortment, day_index):
        # A phone without a network keeps its calls and sends them together.
        offline_from = int(rng.random() * len(calls)) if is_cut_off else len(calls)
        offline_ms = _lateness_ms(rng)
        for place, call in enumerate(calls):
            if call.ts_ms >= plan.ends_ms:
                break
            at_ms = call.ts_ms
            if place >= offline_from:
                at_ms = max(calls[-1].ts_ms, calls[offline_from].ts_ms + offline_ms)
            elif rng.random() < _LATE_RATE:
                at_ms += _lateness_ms(rng)
            if at_ms >= plan.ends_ms:
                # Nothing arrives after the end of the plan: what would is delivered earlier.
                at_ms = call.ts_ms + int(rng.random() * (plan.ends_ms - call.ts_ms))
            arrivals.append(Arrival(at_ms, call.line))
            if rng.random() < _DUPLICATE_RATE:
                again_ms = at_ms + between(rng, 200, HOUR_MS if rng.random() < 0.1 else MINUTE_MS)
                arrivals.append(Arrival(min(again_ms, plan.ends_ms - 1), call.line))
    return arrivals


def _lateness_ms(rng: Random) -> int:
    """A delay from one hour to three days, mostly hours."""
    return int(HOUR_MS * _LATEST_HOURS ** rng.random())


def _visits_and_crawls(plan: DemoPlan, assortment: Assortment, day_index: int) -> Iterator[tuple[list[Call], bool]]:
    """The calls of each visit and crawl that begins on the day, and whether its client goes offline."""
    share = plan.share_of_day(day_index)
    scheduled = crawlers.scheduled(plan)
    crawled = max(plan.calls * crawlers.SHARE - scheduled, plan.calls * 0.015)
    shopped = (plan.calls - scheduled - crawled) / (1 + _DUPLICATE_RATE)

    bots = seeded(plan.seed, "machines", day_index)
    yield crawlers.monitor_calls(plan, day_index, bots), False
    yield crawlers.tireless_calls(plan, assortment, day_index, bots), False
    yield from _take_calls(_crawls(plan, assortment, day_index, bots), crawled * share)
    yield from _take_calls(_visits(plan, assortment, day_index), shopped * share)


def _visits(plan: DemoPlan, assortment: Assortment, day_index: int) -> Iterator[tuple[list[Call], bool]]:
    """An endless stream of shoppers' visits."""
    rng = seeded(plan.seed, "visits", day_index)
    ids = DailyIds(plan, day_index)
    known = regulars(plan)
    is_campaign = plan.is_campaign(day_index)
    while True:
        # Skewed: some regulars come far more often than others.
        is_regular = rng.random() < _REGULAR_VISITS
        shopper = regular(plan.seed, int(known * rng.random() ** 1.7)) if is_regular else newcomer(rng)
        starts_ms = plan.day_starts_ms(day_index) + _HOURS.draw(rng) * HOUR_MS + int(rng.random() * HOUR_MS)
        visit = Visit(
            rng, assortment, shopper, ids, starts_ms, is_campaign=is_campaign, outage_ms=plan.checkout_outage_ms
        )
        yield visit.calls(), visit.device.client == "app" and rng.random() < _OFFLINE_RATE


def _crawls(plan: DemoPlan, assortment: Assortment, day_index: int, rng: Random) -> Iterator[tuple[list[Call], bool]]:
    """An endless stream of crawls."""
    while True:
        starts_ms = plan.day_starts_ms(day_index) + int(rng.random() * DAY_MS)
        yield crawlers.run(rng, assortment, crawlers.CRAWLERS.draw(rng), starts_ms), False


def _take_calls(visits: Iterator[tuple[list[Call], bool]], target: float) -> Iterator[tuple[list[Call], bool]]:
    """As many visits as come closest to the target number of calls."""
    taken = 0
    for visit in visits:
        if taken + len(visit[0]) / 2 > target:
            return
        taken += len(visit[0])
        yield visit


def _with_broken_lines(plan: DemoPlan, day_index: int, arrivals: list[Arrival]) -> list[Arrival]:
    """The arrivals with the day's unreadable lines among them: a handful in the whole period."""
    rng = seeded(plan.seed, "broken lines")
    for number in range(2 * len(_BREAKAGES) + plan.calls // 100_000):
        day, moment, how = int(rng.random() * plan.days), rng.random(), rng.random()
        if day == day_index and arrivals:
            at_ms = plan.day_starts_ms(day_index) + int(moment * DAY_MS)
            place = bisect(arrivals, at_ms, key=_moment)
            broken = _broken(_BREAKAGES[number % len(_BREAKAGES)], arrivals[max(0, place - 1)].line, how)
            arrivals.insert(place, Arrival(at_ms, broken))
    return arrivals


def _broken(breakage: str, line: bytes, how: float) -> bytes:
    """The line, broken in this way."""
    if breakage == "truncated":
        return line[: 20 + int((len(line) - 40) * how)]
    if breakage == "not JSON":
        return _NOT_JSON[int(how * len(_NOT_JSON))]
    try:
        record: dict[str, object] = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError:
        # The line is already broken.
        return line[:-1]
    match breakage:
        case "no ts":
            record.pop("ts", None)
        case "no endpoint":
            record.pop("endpoint", None)
        case "impossible ts":
            record["ts"] = "2026-02-30T25:61:00.000Z"
        case _:
            return msgspec.json.encode([record])
    return msgspec.json.encode(record)


def _moment(arrival: Arrival) -> int:
    return arrival.at_ms


def _write_day(plan: DemoPlan, folder: Path, day_index: int) -> Path:
    """Write one day's file, completely or not at all."""
    path = calls_path(plan, folder, day_index)
    unfinished = path.with_name(path.name + ".part")
    lines = [arrival.line for arrival in day_arrivals(plan, day_index)]
    with (
        unfinished.open("wb") as raw,
        # Without a name and time in its header the file has the same bytes every time.
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        for start in range(0, len(lines), _LINES_A_WRITE):
            packed.write(b"\n".join(lines[start : start + _LINES_A_WRITE]) + b"\n")
    unfinished.replace(path)
    return path
