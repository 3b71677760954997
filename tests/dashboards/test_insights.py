"""What the sentences say, of cards whose results are written here; and that the real cards can be asked for them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.dashboards.card_results import RunQuery, query_runner
from app.dashboards.insights import Insight, insights
from app.dashboards.model import Library, load_library
from app.warehouse import open_warehouse
from tests.dashboards.gallery import a_card, a_dashboard, a_library, column, literal

pytestmark = pytest.mark.slow

_EUR = {"number_style": "currency", "currency": "EUR", "decimals": 0}
_RATE = {"number_style": "percent", "decimals": 1}


@pytest.fixture(scope="module")
def read(demo_settings) -> Iterator[RunQuery]:
    """Reads of a demo shop, of which the newest 7 days are shown."""
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        yield query_runner(warehouse)


@pytest.fixture
def told(read) -> Callable[..., list[Insight]]:
    return lambda *cards: insights(read, a_library(a_dashboard("Board", cards)), {})


def rows(name: str, *of: dict[str, Any], **style: Any):
    """A card with these rows."""
    names = list(of[0])
    selects = [", ".join(f"{_sql(row[key])} AS `{key}`" for key in names) for row in of]
    sql = f"SELECT {', '.join(f'`{key}`' for key in names)} FROM ("
    sql += " UNION ALL ".join(f"SELECT {number} AS place, {select}" for number, select in enumerate(selects))
    settings = {
        "column_settings": {key: value for name, of in style.items() for key, value in column(name, **of).items()}
    }
    return a_card(name, "table", f"{sql}) ORDER BY place", **settings)


def _sql(value: Any) -> str:
    return literal(value) if isinstance(value, str) else str(value)


def number(name: str, before: float, now: float, verdict: str, **style: Any):
    return rows(
        name,
        {"Period starts": "1", "Value": float(before), "Verdict": ""},
        {"Period starts": "2", "Value": float(now), "Verdict": verdict},
        Value=style or {"number_style": "decimal", "decimals": 0},
    )


def gap(device: str, way: str, went: float, best: float, verdict: str, orders: float, revenue: float) -> dict[str, Any]:
    return {
        "Device": device, "On the way": way, "Went on": went, "Best device": "desktop", "Its rate": best, "Verdict": verdict,
        "Orders missing": orders, "Revenue missing": revenue,
    }  # fmt: skip


GAP = "What the gap to the best device costs"


def test_without_a_real_change_nothing_is_called_one(told):
    [said] = told(
        number("Sessions", 100, 102, "within noise"),
        number("Sessions that ended in an order", 0.026, 0.028, "within noise", **_RATE),
    )
    assert said.text == (
        "Nothing changed beyond chance against the 7 days before; all within noise: sessions +2.0%, conversion 2.6% to 2.8%."
    )
    assert (said.kind, said.card, said.dashboard, said.tab) == ("change", "Sessions", "board", 0)


def test_a_real_change_is_said_before_the_noise(told):
    [said] = told(
        number("Sessions", 100, 102, "within noise"),
        number("Revenue", 20000, 30000, "better", **_EUR),
        number("Sessions that ended in an order", 0.03, 0.02, "worse", **_RATE),
    )
    assert said.text == (
        "Against the 7 days before, revenue rose 50.0%, from €20,000 to €30,000 and conversion fell from 3.0% to 2.0%: "
        "chance alone does that in fewer than 1 of 20 periods. Within noise: sessions +2.0%."
    )


def test_a_number_that_is_compared_with_nothing_is_not_told(told):
    assert told(number("Sessions", 0, 7, "better")) == []


def test_the_gap_is_told_with_its_widest_step_and_a_rough_price(told):
    [said] = told(
        rows(
            GAP,
            gap("mobile", "Visit → Purchase", 0.0232, 0.0372, "worse", 179.86, 49172.3),
            gap("mobile", "Product → Cart", 0.2088, 0.2568, "worse", 68.8, 18805.6),
            gap("tablet", "Product → Cart", 0.21, 0.2568, "within noise", 6.2, 1139.9),
            **{"Revenue missing": _EUR},
        )
    )
    assert said.text == (
        "Mobile: 2.3% of sessions buy against 3.7% on desktop, most of it at Product → Cart (20.9% against 25.7%). "
        "At the most this costs about 180 orders, €49,000, in 7 days."
    )
    assert said.numbers["step"] == "Product → Cart"


def test_a_gap_within_noise_is_not_told(told):
    assert told(rows(GAP, gap("tablet", "Visit → Purchase", 0.032, 0.037, "within noise", 5, 900))) == []


def failure(step: str, calls: int, failed: int, against: str) -> dict[str, Any]:
    return {
        "Step": step, "Calls": calls, "Failed": failed, "Share": failed / calls, "Sessions that met one": failed,
        "Got through later": failed - 1, "Against the others": against,
    }  # fmt: skip


FAILURES = "Calls that failed, step by step"


def test_failures_that_cost_orders_come_before_those_that_are_more(told):
    some = failure("Cart", 1000, 100, "no loss seen")
    [said] = told(rows(FAILURES, some, failure("Checkout", 1000, 20, "worse"), failure("Elsewhere", 10, 10, "worse")))
    assert said.text == (
        "Checkout: 2.0% of the calls failed (20 of 1,000); 20 sessions met one, 19 got through later, "
        "and those sessions bought less often than others."
    )
    [said] = told(rows(FAILURES, some))
    assert said.text.endswith("and no loss of orders is seen.")
    assert (
        told(rows(FAILURES, failure("Cart", 100_000, 100, "no loss seen"), failure("Checkout", 20, 9, "worse"))) == []
    )


def test_shelves_and_searches_are_told_after_failures_and_five_sentences_are_the_most(told):
    shelf = {"Product": "Ring", "Sessions that wanted it": 1200, "Revenue at risk": 4612.0}
    cards = [
        number("Sessions", 100, 102, "within noise"),
        rows(GAP, gap("mobile", "Visit → Purchase", 0.02, 0.03, "worse", 10, 1000), **{"Revenue missing": _EUR}),
        rows(FAILURES, failure("Cart", 1000, 100, "no loss seen")),
        rows("Out of stock while wanted", shelf, **{"Revenue at risk": _EUR}),
        rows("Searches that found nothing", {"Found nothing": 0.166}),
        rows("Searches that found nothing, most frequent first", {"Search": "ringe", "Found nothing": 31}),
    ]
    said = told(*cards)
    assert [one.kind for one in said] == ["change", "gap", "broken", "broken", "broken"]
    assert said[3].text == "Wanted while out of stock: 1 product, in 1,200 sessions, about €4,600 at risk; first Ring."
    assert said[4].text == "16.6% of the search listings found nothing, most often “ringe” (31)."
    doubt = rows("Days that are not built because they failed", {"Failed days": 2})
    assert [one.kind for one in told(*cards, doubt)] == ["change", "gap", "broken", "broken", "unsure"]


def test_what_makes_numbers_unsure_is_told_in_one_sentence(told):
    [said] = told(
        rows("Days that are not built because they failed", {"Failed days": 2}),
        rows("What the endpoint map does not fit", {"What looks wrong": "empty in 3 of 3 calls"}),
        rows("Records that could not be stored, by reason", {"Records": 7}, {"Records": 8}),
    )
    assert said.text == (
        "Not sure: 2 days failed to build and show an older version, the endpoint map does not fit in 1 place "
        "(empty in 3 of 3 calls) and 15 records could not be stored."
    )


def test_a_card_that_fails_or_is_not_there_tells_nothing(told):
    assert told(a_card("Sessions", "smartscalar", "SELECT nothing FROM nowhere")) == []


def test_every_card_that_is_asked_for_exists():
    import app.dashboards.insights as module

    library: Library = load_library()
    names = {card.name for card in library.cards}
    asked = {
        *module._TOTALS, GAP, FAILURES, "Out of stock while wanted", "Searches that found nothing",
        "Searches that found nothing, most frequent first", "Days that are not built because they failed",
        "What the endpoint map does not fit", "Records that could not be stored, by reason",
    }  # fmt: skip
    assert asked <= names


def test_the_real_cards_tell_of_a_demo_shop_and_each_leads_to_a_tab(read):
    library = load_library()
    said = insights(read, library, {})
    assert 2 <= len(said) <= 5
    for one in said:
        dashboard = library.dashboard(one.dashboard)
        names = [own.card.name for own in dashboard.on_tab(dashboard.tabs[one.tab]) if own.card]
        assert one.card in names
    mobile = insights(read, library, {"device": ["mobile"], "date": "2026-03-02~2026-03-04"})
    assert "3 days before" in mobile[0].text or mobile[0].kind != "change"
