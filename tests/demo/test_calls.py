import gzip
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.demo import calls
from app.demo.assortment import assortment_of
from app.demo.calls import DemoPlan, day_arrivals, day_records, write_month

from .conftest import Month, moment_ms, readable

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SHORT = DemoPlan(calls=1_000, days=5)


def delivered(plan: DemoPlan) -> list[bytes]:
    return [line for day_index in range(plan.days) for line in day_records(plan, day_index)]


def is_machine(record: dict[str, Any]) -> bool:
    return record.get("visitor_id") is None and record.get("session_token") is None


def visits(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The shoppers' calls, cut where somebody pauses longer than 30 minutes."""
    by_visitor: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if not is_machine(record):
            by_visitor[record.get("visitor_id") or record["session_token"]].append(record)
    found = []
    for own in by_visitor.values():
        own.sort(key=moment_ms)
        found.append([own[0]])
        for earlier, later in pairwise(own):
            if moment_ms(later) - moment_ms(earlier) > HOUR_MS // 2:
                found.append([])
            found[-1].append(later)
    return found


def steps(visit: list[dict[str, Any]]) -> set[str]:
    return {
        f"{record['method']} {re.sub(r'/[0-9]+$', '/N', record['endpoint'])}"
        for record in visit
        if (record.get("status") or 200) < 400
    }


def share_reaching(visited: list[list[dict[str, Any]]], step: str) -> float:
    return sum(step in steps(visit) for visit in visited) / len(visited)


def by_user_agent(visited: list[list[dict[str, Any]]], pattern: str) -> list[list[dict[str, Any]]]:
    return [visit for visit in visited if re.search(pattern, visit[0]["user_agent"])]


# -- the same bytes ---------------------------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_bytes_in_any_order_of_days(tmp_path: Path) -> None:
    done: list[int] = []
    paths = write_month(SHORT, tmp_path, done.append)
    assert [path.name for path in paths] == [f"calls-2026-03-0{day}.ndjson.gz" for day in range(1, 6)]
    assert done == [1, 2, 3, 4, 5]
    assert sorted(tmp_path.iterdir()) == paths
    for day_index in reversed(range(SHORT.days)):
        written = gzip.decompress(paths[day_index].read_bytes())
        assert written == b"".join(line + b"\n" for line in day_records(SHORT, day_index))
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_month(SHORT, tmp_path)] == before


def test_another_seed_gives_another_month() -> None:
    other = DemoPlan(calls=SHORT.calls, days=SHORT.days, seed=8)
    assert not set(delivered(SHORT)) & set(delivered(other)) - set(calls._NOT_JSON)


@pytest.mark.parametrize("plan", [DemoPlan(calls=5_000), DemoPlan(calls=6_000, days=7), DemoPlan(calls=3_000, days=1)])
def test_number_of_calls_is_close_to_the_target(plan: DemoPlan) -> None:
    assert len(delivered(plan)) == pytest.approx(plan.calls, rel=0.03)


def test_days_outside_the_plan_are_rejected() -> None:
    with pytest.raises(ValueError, match="day 5"):
        day_arrivals(SHORT, 5)
    with pytest.raises(ValueError, match="at least one call"):
        DemoPlan(calls=0)


# -- records ----------------------------------------------------------------------------------------------------------


def test_records_have_the_contracts_fields(month: Month) -> None:
    texts = {"visitor_id", "session_token", "user_id", "ip", "user_agent", "referrer", "page_url"}
    known = texts | {"ts", "call_id", "method", "endpoint", "status", "duration_ms", "request", "response"}
    for record in month.records:
        assert not set(record) - known
        assert all(isinstance(record[name], str) for name in texts & set(record) if record[name] is not None)
        assert record["method"] in {"GET", "POST", "DELETE"}
        assert record["endpoint"].startswith("/")
        assert "?" not in record["endpoint"]
        assert record.get("call_id") is None or UUID(record["call_id"]).version == 4
        assert record.get("status") is None or 200 <= record["status"] < 600
        assert record["duration_ms"] >= 0


def test_clients_disagree_on_how_to_write_times_and_values(month: Month) -> None:
    queries = [
        record["request"]["query"]
        for record in month.records
        if record["endpoint"] == "/api/v1/catalog" and not is_machine(record)
    ]
    sections = Counter(type(query.get("section")).__name__ for query in queries if "section" in query)
    assert set(sections) == {"list", "str", "NoneType"}
    assert sections["list"] > sections["str"] > 0
    assert any("," in query["section"] for query in queries if isinstance(query.get("section"), str))
    assert {type(query.get("page")).__name__ for query in queries} == {"int", "str", "NoneType"}
    assert {type(record["ts"]) for record in month.records} == {int, str}
    assert any("page" not in query for query in queries)


def test_some_records_lack_identity_or_call_id(month: Month) -> None:
    total = len(month.records)
    with_token_only = [r for r in month.records if r.get("visitor_id") is None and r.get("session_token")]
    shoppers_with_neither = [r for r in month.records if is_machine(r) and "/en/" in (r.get("page_url") or "")]
    assert 0.02 < len(with_token_only) / total < 0.1
    assert shoppers_with_neither
    assert 0.01 < sum(r.get("call_id") is None for r in month.records) / total < 0.05
    assert 0.15 < sum(r.get("user_id") is not None for r in month.records) / total < 0.3


def test_different_visitors_share_an_ip(month: Month) -> None:
    visitors = defaultdict(set)
    for record in month.records:
        if record.get("visitor_id"):
            visitors[record["ip"]].add(record["visitor_id"])
    assert any(len(sharing) > 1 for sharing in visitors.values())


def test_first_page_carries_the_campaign_tags_only(month: Month) -> None:
    tagged = [visit for visit in visits(month.records) if "utm_" in (visit[0].get("page_url") or "")]
    assert len(tagged) > 200
    assert not any("utm_" in (visit[-1].get("page_url") or "") for visit in tagged if len(visit) > 12)
    landing_pages = " ".join(visit[0].get("page_url") or "" for visit in visits(month.records))
    assert all(tag in landing_pages for tag in ("gclid=", "fbclid=", "msclkid=", "utm_campaign=spring-sparkle"))


# -- arrival ----------------------------------------------------------------------------------------------------------


def test_nothing_arrives_before_its_time_or_outside_its_day(month: Month) -> None:
    for day_index, arrivals in enumerate(month.days):
        moments = [arrival.at_ms for arrival in arrivals]
        assert moments == sorted(moments)
        assert month.plan.day_starts_ms(day_index) <= moments[0]
        assert moments[-1] < month.plan.day_starts_ms(day_index + 1)
        for arrival in arrivals:
            record = readable(arrival.line)
            assert record is None or moment_ms(record) <= arrival.at_ms
            assert b"\n" not in arrival.line


def test_every_call_within_the_month_arrives(month: Month) -> None:
    assortment = assortment_of(month.plan)
    sent = Counter(
        arrival.line for day in range(month.plan.days) for arrival in calls._sent(month.plan, assortment, day)
    )
    arrived = Counter(arrival.line for day in month.days for arrival in day)
    assert not sent - arrived
    assert all(readable(line) is None for line in arrived - sent)


def test_some_calls_come_late_but_never_later_than_three_days(month: Month) -> None:
    first_arrival: dict[bytes, int] = {}
    for day in month.days:
        for arrival in day:
            first_arrival.setdefault(arrival.line, arrival.at_ms)
    delays = [at_ms - moment_ms(record) for line, at_ms in first_arrival.items() if (record := readable(line))]
    assert 0.002 < sum(delay > HOUR_MS // 2 for delay in delays) / len(delays) < 0.01
    assert max(delays) > DAY_MS
    assert max(delays) < 4 * DAY_MS


def test_some_calls_arrive_twice_unchanged(month: Month) -> None:
    seen = Counter(arrival.line for day in month.days for arrival in day)
    again = sum(count - 1 for count in seen.values())
    assert 0.003 < again / sum(seen.values()) < 0.008


def test_a_handful_of_lines_cannot_be_read(month: Month) -> None:
    broken = [arrival.line for day in month.days for arrival in day if readable(arrival.line) is None]
    assert 8 <= len(broken) <= 20
    assert any(line.startswith(b"{") and not line.endswith(b"}") for line in broken)
    assert any(b'"endpoint"' in line and b'"ts"' not in line for line in broken)
    assert any(line in calls._NOT_JSON for line in broken)


# -- behaviour --------------------------------------------------------------------------------------------------------


def test_fewer_shoppers_reach_each_next_step(month: Month) -> None:
    visited = visits(month.records)
    assert 0.50 < share_reaching(visited, "GET /api/v1/products/N") < 0.65
    assert 0.09 < share_reaching(visited, "POST /api/v1/cart/items") < 0.16
    assert 0.035 < share_reaching(visited, "POST /api/v1/checkout") < 0.07
    assert 0.015 < share_reaching(visited, "POST /api/v1/orders") < 0.04
    assert share_reaching(visited, "POST /api/v1/favorites") > 0.05
    assert share_reaching(visited, "DELETE /api/v1/cart/items/N") > 0.005


def test_most_shoppers_hold_a_phone_and_buy_less_with_it(month: Month) -> None:
    visited = visits(month.records)
    phones = by_user_agent(visited, r"iPhone|Android.*Mobile|CaratShop")
    desktops = by_user_agent(visited, r"Windows|Macintosh|X11")
    assert 0.6 < len(phones) / len(visited) < 0.72
    assert 0.25 < len(desktops) / len(visited) < 0.35
    assert share_reaching(phones, "POST /api/v1/orders") < share_reaching(desktops, "POST /api/v1/orders")


def test_evenings_weekends_and_the_campaign_are_busier(month: Month) -> None:
    hours = Counter(moment_ms(record) // HOUR_MS % 24 for record in month.records)
    assert hours.most_common(1)[0][0] in {19, 20, 21}
    days = Counter((moment_ms(record) - month.plan.starts_ms) // DAY_MS for record in month.records)
    assert days[7] > 1.15 * days[9]
    assert sum(days[day] for day in range(14, 21)) > 1.3 * sum(days[day] for day in range(21, 28))


def test_visitors_return_on_other_days(month: Month) -> None:
    days = defaultdict(set)
    for record in month.records:
        if record.get("visitor_id"):
            days[record["visitor_id"]].add(moment_ms(record) // DAY_MS)
    assert sum(len(visited) > 1 for visited in days.values()) / len(days) > 0.05


def test_visits_run_past_midnight(month: Month) -> None:
    assert any(moment_ms(visit[0]) // DAY_MS != moment_ms(visit[-1]) // DAY_MS for visit in visits(month.records))


def test_some_calls_fail_with_an_error_body(month: Month) -> None:
    failed = [record for record in month.records if (record.get("status") or 200) >= 400]
    assert 0.01 < len(failed) / len(month.records) < 0.025
    assert {record["status"] // 100 for record in failed} == {4, 5}
    assert all(set(record["response"]) == {"error"} for record in failed)


def test_nobody_checks_out_during_the_outage() -> None:
    plan = DemoPlan(calls=60_000)
    begins, ends = plan.checkout_outage_ms
    day_index = (begins - plan.starts_ms) // DAY_MS
    tills = [
        record
        for line in day_records(plan, day_index)
        if (record := readable(line)) and record["endpoint"] in {"/api/v1/checkout", "/api/v1/orders"}
    ]
    during = [record for record in tills if begins <= moment_ms(record) < ends]
    assert any(record["status"] == 503 for record in during)
    assert not any((record.get("status") or 200) < 400 for record in during)
    assert any((record.get("status") or 200) < 400 for record in tills if record not in during)


def test_an_order_sent_again_keeps_its_number_and_content(month: Month) -> None:
    orders: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in month.records:
        if record["endpoint"] == "/api/v1/orders" and (record.get("status") or 200) < 400:
            orders[record["response"]["order_id"]].append(record)
    assert any(len(same) > 1 for same in orders.values())
    for same in orders.values():
        assert len({str(record["response"]) for record in same}) == 1
        assert len({record.get("session_token") for record in same}) == 1


def test_order_totals_add_up_to_the_cent(month: Month) -> None:
    assortment = assortment_of(month.plan)
    for record in sorted(month.records, key=moment_ms):
        if record["endpoint"] == "/api/v1/orders" and (record.get("status") or 200) < 400:
            order, items = record["response"], assortment.at(moment_ms(record)).by_id
            worth = sum(items[line["product_id"]].price * line.get("quantity", 1) for line in order["items"])
            assert order["currency"] == "EUR"
            assert f"{float(worth) + order['shipping']:.2f}" == f"{order['total']:.2f}"


def test_bots_make_a_small_part_of_the_calls(month: Month) -> None:
    machines = [
        r
        for r in month.records
        if re.search(r"[bB]ot|python|Scrapy|Headless|curl|Go-http|facebookext|WhatsApp|spider", r["user_agent"])
    ]
    assert 0.045 < len(machines) / len(month.records) < 0.08
    assert len({record["user_agent"] for record in machines}) > 10


def test_one_crawler_never_pauses_for_over_two_days(month: Month) -> None:
    by_machine = defaultdict(list)
    for record in month.records:
        if is_machine(record):
            by_machine[record["ip"], record["user_agent"]].append(moment_ms(record))
    longest = 0
    for moments in by_machine.values():
        moments.sort()
        started = moments[0]
        for earlier, later in pairwise(moments):
            started = later if later - earlier > HOUR_MS // 2 else started
            longest = max(longest, later - started)
    assert 2 * DAY_MS < longest < 3 * DAY_MS
