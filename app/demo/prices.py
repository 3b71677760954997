"""Prices in the demo shop from day to day: weekly repricing, a campaign, and one rise of the gold price."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

from app.demo.catalog import Item
from app.demo.chance import between, pick, seeded, shuffled
from app.demo.plan import DemoPlan

CAMPAIGN_SECTIONS = ("earrings", "necklaces", "bracelets", "pendants")

_GOLD_DAY = 24
_GOLD_RISE = Decimal("1.04")
_REPRICING_WEEKDAY = 1
_CAMPAIGN_DISCOUNTS = (15, 18, 20)
_CENT = Decimal("0.01")
_CHARMS = (Decimal("0.00"), Decimal("0.50"), Decimal("0.90"))


class PriceList:
    """The price of every item in every version of the catalog; the same plan gives the same prices."""

    def __init__(self, plan: DemoPlan, items: Sequence[Item]) -> None:
        self._plan = plan
        self._history: dict[int, list[tuple[int, Decimal]]] = {item.id: [(0, item.price)] for item in items}
        by_version: defaultdict[int, dict[int, Decimal]] = defaultdict(dict)
        # A campaign lowers the asking price, not the regular price that returns afterwards.
        regular = {item.id: item.price for item in items}
        asked = dict(regular)
        discounts = _campaign_discounts(plan, items)
        for version in range(1, plan.days):
            regular |= _repriced(plan, version, items, regular)
            is_campaign = plan.is_campaign(version)
            for item_id, price in regular.items():
                now = _charming(price * discounts[item_id]) if is_campaign and item_id in discounts else price
                if now != asked[item_id]:
                    asked[item_id] = by_version[version][item_id] = now
                    self._history[item_id].append((version, now))
        self._by_version = dict(by_version)

    def changes(self, version: int) -> dict[int, Decimal]:
        """The prices that change in a version."""
        return self._by_version.get(version, {})

    def price(self, item_id: int, version: int) -> Decimal:
        """What an item costs in a version."""
        history = self._history[item_id]
        return history[bisect(history, version, key=_version) - 1][1]

    def price_at(self, item_id: int, moment_ms: int) -> Decimal:
        """What an item costs at a moment."""
        return self.price(item_id, self._plan.catalog_version_at(moment_ms))


def gold_version(plan: DemoPlan) -> int:
    """The version in which the gold price rises."""
    return min(_GOLD_DAY, plan.days - 1)


def is_gold(item: Item) -> bool:
    """Whether the item's price follows the gold price; gilding is too thin for that."""
    return item.metal is not None and "gold" in item.metal.split()


def _campaign_discounts(plan: DemoPlan, items: Sequence[Item]) -> dict[int, Decimal]:
    """The campaign price as a share of the regular price, for most items of two sections."""
    rng = seeded(plan.seed, "campaign prices")
    sections = {section: pick(rng, _CAMPAIGN_DISCOUNTS) for section in shuffled(rng, CAMPAIGN_SECTIONS)[:2]}
    return {
        item.id: Decimal(100 - sections[item.section]) / 100
        for item in items
        if item.section in sections and rng.random() < 0.9
    }


def _repriced(plan: DemoPlan, version: int, items: Sequence[Item], prices: dict[int, Decimal]) -> dict[int, Decimal]:
    """The regular prices that change in a version."""
    rng = seeded(plan.seed, "repricing", version)
    changed: dict[int, Decimal] = {}
    if version == gold_version(plan):
        changed |= {item.id: _charming(prices[item.id] * _GOLD_RISE) for item in items if is_gold(item)}
    if plan.day(version).weekday() == _REPRICING_WEEKDAY:
        for item_id in shuffled(rng, prices)[: between(rng, 30, 60)]:
            percent = between(rng, 2, 8)
            price = prices[item_id] * Decimal(100 + (percent if rng.random() < 0.6 else -percent)) / 100
            changed[item_id] = _charming(price) if rng.random() < 0.7 else price.quantize(_CENT)
    return changed


def _charming(price: Decimal) -> Decimal:
    """The nearest price that looks good on a tag: 7.50, 24.90, 119.00, 1240.00."""
    if price >= 1_000:
        return Decimal(round(price / 10) * 10).quantize(_CENT)
    euros = int(price)
    near = [whole + charm for whole in (Decimal(euros - 1), Decimal(euros), Decimal(euros + 1)) for charm in _CHARMS]
    return min(near, key=lambda charming: abs(charming - price)).quantize(_CENT)


def _version(entry: tuple[int, Decimal]) -> int:
    return entry[0]
