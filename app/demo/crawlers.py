"""The bots among the demo shop's callers: crawlers, link previews, scrapers, probes and the uptime monitor."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from app.demo import user_agents
from app.demo.assortment import Assortment
from app.demo.catalog import PER_PAGE, SECTIONS, Listing
from app.demo.chance import Weighted, between, pick
from app.demo.plan import HOUR_MS, MINUTE_MS, SECOND_MS, DemoPlan
from app.demo.request_log import API, Call, RequestLog, error_response
from app.demo.user_agents import Habit

# The share of all calls that bots make.
SHARE = 0.06

_HEALTHY = b'{"status":"ok"}'
_NOTHING_HERE = error_response("not_found", "There is nothing at this address.")
_PROBED = ("/wp-login.php", "/.env", "/api/v1/admin", "/actuator/health", "/.git/config", "/api/v2/catalog")


class Crawler(NamedTuple):
    """A bot: its user agent, network and behavior."""

    user_agent: str
    network: str
    habit: Habit


CRAWLERS = Weighted((Crawler(agent, network, habit), weight) for agent, network, habit, weight in user_agents.CRAWLERS)
MONITOR = Crawler(user_agents.MONITOR, "192.0.2", "probes")
TIRELESS = Crawler(user_agents.TIRELESS, "198.51.100", "crawls")


def run(rng: Random, assortment: Assortment, crawler: Crawler, starts_ms: int) -> list[Call]:
    """The calls of one run of a crawler."""
    log = _request_log(rng, crawler, starts_ms, between(rng, 1, 250))
    match crawler.habit:
        case "crawls":
            page = 0
            section = pick(rng, SECTIONS).slug
            for _ in range(between(rng, 4, 40)):
                if rng.random() < 0.12:
                    page += 1
                    _list(log, assortment, Listing(section=(section,)), page)
                elif rng.random() < 0.03:
                    log.send("GET", f"{API}/products/{between(rng, 400, 999)}", _NOTHING_HERE, status=404)
                else:
                    _view(log, assortment)
                log.now_ms += between(rng, SECOND_MS, 40 * SECOND_MS)
        case "previews":
            _view(log, assortment)
        case "scrapes":
            listing = Listing(section=(pick(rng, SECTIONS).slug,), sort="price_asc")
            # The scraper stops at the empty page after the last one.
            for page in range(1, 2 + -(-len(assortment.at(starts_ms).found(listing)) // PER_PAGE)):
                _list(log, assortment, listing, page)
                log.now_ms += between(rng, 150, 2 * SECOND_MS)
        case "probes":
            for _ in range(between(rng, 1, 5)):
                log.send("GET", pick(rng, _PROBED), _NOTHING_HERE, status=404, typical_ms=8)
                log.now_ms += between(rng, 200, 3_000)
    return log.calls


def monitor_calls(plan: DemoPlan, day_index: int, rng: Random) -> list[Call]:
    """The uptime monitor's checks of that day."""
    every_ms = _monitor_every_ms(plan)
    log = _request_log(rng, MONITOR, 0, 9)
    for slot in range(24 * HOUR_MS // every_ms):
        log.now_ms = plan.day_starts_ms(day_index) + slot * every_ms + between(rng, 0, 40 * SECOND_MS)
        log.send("GET", f"{API}/health", _HEALTHY, typical_ms=4)
    return log.calls


def tireless_calls(plan: DemoPlan, assortment: Assortment, day_index: int, rng: Random) -> list[Call]:
    """That day's part of a crawl of more than two days that never pauses for as long as the session timeout."""
    every_ms = _tireless_every_ms(plan)
    log = _request_log(rng, TIRELESS, 0, 77)
    for moment_ms in _tireless_moments(plan, day_index, every_ms):
        log.now_ms = moment_ms + int(rng.random() * every_ms / 3)
        _view(log, assortment)
    return log.calls


def scheduled(plan: DemoPlan) -> int:
    """How many calls the monitor and the tireless crawler make in the whole period."""
    checks = plan.days * (24 * HOUR_MS // _monitor_every_ms(plan))
    every_ms = _tireless_every_ms(plan)
    return checks + sum(1 for day_index in range(plan.days) for _ in _tireless_moments(plan, day_index, every_ms))


def _tireless_moments(plan: DemoPlan, day_index: int, every_ms: int) -> Iterator[int]:
    begins, ends = plan.tireless_ms
    day_starts, day_ends = plan.day_starts_ms(day_index), plan.day_starts_ms(day_index + 1)
    first = -(-(max(begins, day_starts) - begins) // every_ms)
    return iter(range(begins + first * every_ms, min(ends, day_ends), every_ms))


def _tireless_every_ms(plan: DemoPlan) -> int:
    """About 2 % of the daily calls, but never so slow that a pause could reach half an hour."""
    calls_a_day = max(1, plan.calls // plan.days)
    return max(10 * SECOND_MS, min(20 * MINUTE_MS, 50 * 24 * HOUR_MS // calls_a_day))


def _monitor_every_ms(plan: DemoPlan) -> int:
    """Hourly, less often in a shop so small that checks would dominate its calls."""
    return HOUR_MS if plan.calls // plan.days > 2_000 else 6 * HOUR_MS


def _request_log(rng: Random, crawler: Crawler, starts_ms: int, host: int) -> RequestLog:
    return RequestLog(rng, starts_ms, {"ip": f"{crawler.network}.{host}", "user_agent": crawler.user_agent})


def _list(log: RequestLog, assortment: Assortment, listing: Listing, page: int) -> None:
    _, response = assortment.at(log.now_ms).listing_response(listing, page, PER_PAGE)
    query: dict[str, object] = {"section": listing.section[0], "page": str(page)}
    if listing.sort != "popular":
        query["sort"] = listing.sort
    log.send("GET", f"{API}/catalog", response, query=query, typical_ms=110)


def _view(log: RequestLog, assortment: Assortment) -> None:
    catalog = assortment.at(log.now_ms)
    item = pick(log.rng, catalog.items)
    log.send("GET", f"{API}/products/{item.id}", catalog.product_response(item.id), typical_ms=70)
