"""What the demo shop's pieces cost from day to day: weekly repricing, a campaign, and gold that becomes dearer."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

from app.demo.catalogue import Item
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
    """The price of every item in every edition of the catalogue; the same plan gives the same prices."""

    def __init__(self, plan: DemoPlan, items: Sequence[Item]) -> None:
        self._plan = plan
        self._history: dict[int, list[tuple[int, Decimal]]] = {item.id: [(0, item.price)] for item in items}
        by_edition: defaultdict[int, dict[int, Decimal]] = defaultdict(dict)
        # A campaign lowers what is asked today, not the regular price that comes back afterwards.
        regular = {item.id: item.price for item in items}
        asked = dict(regular)
        discounts = _campaign_discounts(plan, items)
        for edition in range(1, plan.days):
            regular |= _repriced(plan, edition, items, regular)
            is_campaign = plan.is_campaign(edition)
            for item_id, price in regular.items():
                now = _charming(price * discounts[item_id]) if is_campaign and item_id in discounts else price
                if now != asked[item_id]:
                    asked[item_id] = by_edition[edition][item_id] = now
                    self._history[item_id].append((edition, now))
        self._by_edition = dict(by_edition)

    def changes(self, edition: int) -> dict[int, Decimal]:
        """The prices that are new in an edition."""
        return self._by_edition.get(edition, {})

    def price(self, item_id: int, edition: int) -> Decimal:
        """What an item costs in an edition."""
        history = self._history[item_id]
        return history[bisect(history, edition, key=_edition) - 1][1]

    def price_at(self, item_id: int, moment_ms: int) -> Decimal:
        """What an item costs at a moment."""
        return self.price(item_id, self._plan.edition_at(moment_ms))


def gold_edition(plan: DemoPlan) -> int:
    """The edition in which gold becomes dearer."""
    return min(_GOLD_DAY, plan.days - 1)


def is_gold(item: Item) -> bool:
    """Whether the price of gold decides on the item's; gilding is too thin for that."""
    return item.metal is not None and "gold" in item.metal.split()


def _campaign_discounts(plan: DemoPlan, items: Sequence[Item]) -> dict[int, Decimal]:
    """What is asked in the campaign, as a part of the regular price: for most pieces of two sections."""
    rng = seeded(plan.seed, "campaign prices")
    sections = {section: pick(rng, _CAMPAIGN_DISCOUNTS) for section in shuffled(rng, CAMPAIGN_SECTIONS)[:2]}
    return {
        item.id: Decimal(100 - sections[item.section]) / 100
        for item in items
        if item.section in sections and rng.random() < 0.9
    }


def _repriced(plan: DemoPlan, edition: int, items: Sequence[Item], prices: dict[int, Decimal]) -> dict[int, Decimal]:
    """The regular prices that are new in an edition."""
    rng = seeded(plan.seed, "repricing", edition)
    changed: dict[int, Decimal] = {}
    if edition == gold_edition(plan):
        changed |= {item.id: _charming(prices[item.id] * _GOLD_RISE) for item in items if is_gold(item)}
    if plan.day(edition).weekday() == _REPRICING_WEEKDAY:
        for item_id in shuffled(rng, prices)[: between(rng, 30, 60)]:
            percent = between(rng, 2, 8)
            price = prices[item_id] * Decimal(100 + (percent if rng.random() < 0.6 else -percent)) / 100
            changed[item_id] = _charming(price) if rng.random() < 0.7 else price.quantize(_CENT)
    return changed


def _charming(price: Decimal) -> Decimal:
    """The nearest price that looks well on a tag: 7.50, 24.90, 119.00, 1240.00."""
    if price >= 1_000:
        return Decimal(round(price / 10) * 10).quantize(_CENT)
    euros = int(price)
    near = [whole + charm for whole in (Decimal(euros - 1), Decimal(euros), Decimal(euros + 1)) for charm in _CHARMS]
    return min(near, key=lambda charming: abs(charming - price)).quantize(_CENT)


def _edition(entry: tuple[int, Decimal]) -> int:
    return entry[0]
