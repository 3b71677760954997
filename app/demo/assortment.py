"""How the demo shop's catalog changes through the month: one version a day, valid from 04:00 UTC.

A version sets prices, adds and corrects items, removes items from the listings, and says what is sold out.
The seed alone decides all of it, never what shoppers do, so that each day's calls can be generated independently.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from random import Random

from app.demo.catalog import MISSPELT_WORD, RIGHT_WORD, Catalog, Item, build_inventory
from app.demo.chance import between, seeded, shuffled
from app.demo.plan import HOUR_MS, MINUTE_MS, DemoPlan, shop_time
from app.demo.prices import PriceList

_VERSIONS_CACHED = 4
_ARRIVALS_WEEKDAY, _ARRIVALS = 3, 6
_CLEARANCE_WEEKDAY, _CLEARED = 0, 2
_TITLE_DAY, _MATERIAL_DAY = 5, 12
_SELL_OUTS_A_DAY = 0.8


@dataclass
class CatalogVersion:
    """What one version of the catalog changes, and what the shop's staff do while it is valid.

    `drafts` are entered during the day and listed in the next version. An item hidden in one version is deleted in the
    next one, at the moment (epoch ms) in `deleted`: a day later no visit can still refer to it.
    """

    prices: dict[int, Decimal] = field(default_factory=dict)
    titles: dict[int, str] = field(default_factory=dict)
    materials: dict[int, str] = field(default_factory=dict)
    listed: list[Item] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)
    sold_out: list[int] = field(default_factory=list)
    delivered: dict[int, int] = field(default_factory=dict)
    drafts: list[Item] = field(default_factory=list)
    deleted: dict[int, int] = field(default_factory=dict)


class Assortment:
    """The catalog at any moment of a plan's month."""

    def __init__(self, plan: DemoPlan) -> None:
        self._plan = plan
        self._inventory = build_inventory(plan.seed, plan.start)
        opening = self._inventory.catalog
        self.prices = PriceList(plan, opening.items)
        self.catalog_versions = [CatalogVersion(prices=self.prices.changes(version)) for version in range(plan.days)]
        # How popular the new items will be: the place at which they enter the ranking.
        self._ranks: dict[int, int] = {}
        rng = seeded(plan.seed, "assortment")
        self._schedule_arrivals(rng)
        busy = self._schedule_corrections(opening.ranked)
        # No item has more than one of these changes in the month.
        quiet = [item for item in opening.ranked if item.stock and item.id not in busy]
        busy = self._schedule_clearances(rng, quiet)
        self._schedule_sell_outs(rng, [item for item in quiet if item.id not in busy])
        self._schedule_returns(rng, opening.sold_out)
        self._catalogs: dict[int, Catalog] = {}
        self._in_force = opening
        self._from_ms, self._until_ms = plan.starts_ms, plan.starts_ms

    def at(self, moment_ms: int) -> Catalog:
        """The catalog at a moment."""
        if not self._from_ms <= moment_ms < self._until_ms:
            plan = self._plan
            version = plan.catalog_version_at(moment_ms)
            self._in_force = self.catalog(version)
            self._from_ms, self._until_ms = (
                plan.catalog_version_starts_ms(version),
                plan.catalog_version_starts_ms(version + 1),
            )
        return self._in_force

    def catalog(self, version: int) -> Catalog:
        """The catalog in one of its versions; fastest when asked for one after the other."""
        known = self._catalogs
        latest = max((number for number in known if number <= version), default=0)
        catalog = known.get(latest, self._inventory.catalog)
        for number in range(latest + 1, version + 1):
            known[number] = catalog = self._next(catalog, self.catalog_versions[number])
            if len(known) > _VERSIONS_CACHED:
                del known[next(iter(known))]
        return catalog

    def _next(self, before: Catalog, version: CatalogVersion) -> Catalog:
        listed = {item.id: item for item in before.ranked}
        for item_id, title in version.titles.items():
            listed[item_id] = replace(listed[item_id], title=title)
        for item_id, material in version.materials.items():
            listed[item_id] = replace(listed[item_id], material=material)
        for item_id, price in version.prices.items():
            if item_id in listed:
                listed[item_id] = replace(listed[item_id], price=price)
        hidden = [listed.pop(item_id) for item_id in version.hidden]
        ranked = list(listed.values())
        for item in version.listed:
            ranked.insert(self._ranks[item.id], item)
        sold_out = (before.sold_out | frozenset(version.sold_out)) - version.delivered.keys()
        return Catalog(ranked, sold_out=sold_out, hidden=hidden, before=before)

    def _schedule_arrivals(self, rng: Random) -> None:
        """Add some new items every week, entered the day before they are listed."""
        to_come = iter(self._inventory.to_come)
        for number in self._versions_on(_ARRIVALS_WEEKDAY):
            moments = sorted(int((8 + 8 * rng.random()) * HOUR_MS) for _ in range(_ARRIVALS))
            # A very long month runs out of new items.
            for moment, item in zip(moments, to_come, strict=False):
                created_at = shop_time(self._plan.day_starts_ms(number - 1) + moment)
                piece = replace(item, created_at=created_at)
                self.catalog_versions[number - 1].drafts.append(piece)
                self.catalog_versions[number].listed.append(piece)
                self._ranks[piece.id] = between(rng, 20, 600)

    def _schedule_corrections(self, items: Sequence[Item]) -> list[int]:
        """Correct the spelling of one title, and enter the missing material of one item."""
        misspelt = next(item for item in items if MISSPELT_WORD in item.title)
        bare = next(item for item in items[100:] if item.section == "earrings" and item.material is None)
        if self._plan.days > 1:
            last = self._plan.days - 1
            right_title = misspelt.title.replace(MISSPELT_WORD, RIGHT_WORD)
            self.catalog_versions[min(_TITLE_DAY, last)].titles[misspelt.id] = right_title
            self.catalog_versions[min(_MATERIAL_DAY, last)].materials[bare.id] = "cubic zirconia"
        return [misspelt.id, bare.id]

    def _schedule_clearances(self, rng: Random, items: list[Item]) -> list[int]:
        """Every week, hide some items and delete them a day later."""
        cleared = iter(shuffled(rng, (item.id for item in items[80:900])))
        gone: list[int] = []
        for number in self._versions_on(_CLEARANCE_WEEKDAY):
            for item_id in islice(cleared, _CLEARED):
                self.catalog_versions[number].hidden.append(item_id)
                gone.append(item_id)
                if number + 1 < self._plan.days:
                    office_ms = 9 * HOUR_MS + int(90 * MINUTE_MS * rng.random())
                    deleted_ms = self._plan.day_starts_ms(number + 1) + office_ms
                    self.catalog_versions[number + 1].deleted[item_id] = deleted_ms
        return gone

    def _schedule_sell_outs(self, rng: Random, items: list[Item]) -> None:
        """Sell out items with little stock; most are restocked some days later, the others never."""
        scarce = shuffled(rng, (item.id for item in items[20:500] if item.stock <= 12))
        days = self._plan.days
        for item_id in scarce[: round(_SELL_OUTS_A_DAY * (days - 1))]:
            number = between(rng, 1, days - 1)
            self.catalog_versions[number].sold_out.append(item_id)
            back = number + between(rng, 2, 6)
            if rng.random() < 0.65 and back < days:
                self.catalog_versions[back].delivered[item_id] = between(rng, 5, 20)

    def _schedule_returns(self, rng: Random, sold_out: Iterable[int]) -> None:
        """Restock some of the items that were sold out from the start."""
        for item_id in sorted(sold_out):
            number = between(rng, 1, max(1, 3 * self._plan.days))
            if number < self._plan.days:
                self.catalog_versions[number].delivered[item_id] = between(rng, 5, 20)

    def _versions_on(self, weekday: int) -> list[int]:
        return [number for number in range(1, self._plan.days) if self._plan.day(number).weekday() == weekday]


@lru_cache(maxsize=2)
def assortment_of(plan: DemoPlan) -> Assortment:
    """The plan's assortment, built once."""
    return Assortment(plan)
