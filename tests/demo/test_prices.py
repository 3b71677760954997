from collections import Counter
from decimal import Decimal
from itertools import pairwise

import pytest

from app.demo.assortment import assortment_of
from app.demo.catalog import build_catalog
from app.demo.plan import HOUR_MS, DemoPlan
from app.demo.prices import PriceList, gold_version, is_gold

PLAN = DemoPlan()
ITEMS = build_catalog(PLAN.seed, PLAN.start).items
CAMPAIGN = [day for day in range(PLAN.days) if PLAN.is_campaign(day)]


@pytest.fixture(scope="module")
def prices() -> PriceList:
    return PriceList(PLAN, ITEMS)


def rise(prices: PriceList, item_id: int, version: int) -> Decimal:
    return prices.price(item_id, version) / prices.price(item_id, version - 1)


def test_the_month_begins_with_the_catalogs_prices(prices: PriceList) -> None:
    assert all(prices.price(item.id, 0) == item.price for item in ITEMS)
    assert not prices.changes(0)


def test_a_price_changes_at_four_in_the_morning(prices: PriceList) -> None:
    item_id, price = next(iter(prices.changes(CAMPAIGN[0]).items()))
    four = PLAN.day_starts_ms(CAMPAIGN[0]) + 4 * HOUR_MS
    assert prices.price_at(item_id, four) == price
    assert prices.price_at(item_id, four - 1) == prices.price(item_id, CAMPAIGN[0] - 1) != price
    assert prices.price_at(item_id, PLAN.starts_ms) == prices.price(item_id, 0)
    assert prices.price_at(item_id, PLAN.ends_ms) == prices.price(item_id, PLAN.days - 1)


def test_the_campaign_lowers_two_sections_and_raises_them_again(prices: PriceList) -> None:
    begins, ends = CAMPAIGN[0], CAMPAIGN[-1] + 1
    sections = {item.id: item.section for item in ITEMS}
    lowered = Counter(sections[item_id] for item_id in prices.changes(begins))
    assert len(lowered) == 2
    assert all(count > 0.8 * sum(item.section == section for item in ITEMS) for section, count in lowered.items())
    discounts = sorted(1 - rise(prices, item_id, begins) for item_id in prices.changes(begins))
    # Cheap pieces land on the next price tag.
    assert Decimal("0.10") < discounts[0] < discounts[-1] < Decimal("0.25")
    assert Decimal("0.14") < discounts[len(discounts) // 2] < Decimal("0.21")
    repriced = {item_id for version in CAMPAIGN[1:] for item_id in prices.changes(version)}
    steady = prices.changes(begins).keys() - repriced
    assert len(steady) > 300
    assert all(prices.price(item_id, ends) == prices.price(item_id, begins - 1) for item_id in steady)


def test_every_week_some_dozens_of_items_are_repriced_by_a_few_percent(prices: PriceList) -> None:
    loud = {CAMPAIGN[0], CAMPAIGN[-1] + 1, gold_version(PLAN)}
    quiet = [version for version in range(1, PLAN.days) if version not in loud]
    weekly = [version for version in quiet if prices.changes(version)]
    assert {after - before for before, after in pairwise(weekly)} == {7}
    assert all(20 <= len(prices.changes(version)) <= 60 for version in weekly)
    rises = sorted(rise(prices, item_id, version) for version in weekly for item_id in prices.changes(version))
    assert rises[0] < 1 < rises[-1]
    assert sum(Decimal("0.9") < rise < Decimal("1.1") for rise in rises) > 0.95 * len(rises)


def test_gold_rises_once(prices: PriceList) -> None:
    gold = [item for item in ITEMS if is_gold(item)]
    risen = prices.changes(gold_version(PLAN)).keys()
    assert risen <= {item.id for item in gold}
    assert len(risen) > 0.9 * len(gold)
    rises = sorted(rise(prices, item_id, gold_version(PLAN)) for item_id in risen)
    assert Decimal("1.035") < rises[len(rises) // 2] < Decimal("1.045")
    assert not any("gilded" in (item.metal or "") for item in gold)


def test_prices_are_whole_cents_and_often_charming(prices: PriceList) -> None:
    new = [price for version in range(PLAN.days) for price in prices.changes(version).values()]
    assert all(price > 0 and price == price.quantize(Decimal("0.01")) for price in new)
    endings = Counter(int(price * 100) % 100 for price in new)
    assert sum(endings[cents] for cents in (0, 50, 90)) > len(new) / 2
    assert len(endings) > 20


def test_another_seed_sets_other_prices_and_the_same_seed_the_same(prices: PriceList) -> None:
    again, other = PriceList(PLAN, ITEMS), PriceList(DemoPlan(seed=8), ITEMS)
    assert all(again.changes(version) == prices.changes(version) for version in range(PLAN.days))
    assert any(other.changes(version) != prices.changes(version) for version in range(PLAN.days))


def test_a_single_day_has_no_changes() -> None:
    assortment = assortment_of(DemoPlan(calls=1_000, days=1))
    assert not assortment.prices.changes(0)
    assert assortment.at(PLAN.ends_ms) is assortment.catalog(0)
