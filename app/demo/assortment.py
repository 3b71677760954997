"""How the demo shop's catalogue changes through the month: one edition a day, in force from 04:00 UTC on.

Besides prices, an edition brings new pieces and corrections, takes pieces off the lists, and knows what is sold out.
All of it is decided by the seed and never by what shoppers do, so that every day's calls can be made on their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from random import Random

from app.demo.catalogue import MISSPELT_WORD, RIGHT_WORD, Catalogue, Item, build_collection
from app.demo.chance import between, seeded, shuffled
from app.demo.plan import HOUR_MS, MINUTE_MS, DemoPlan, shop_time
from app.demo.prices import PriceList

_EDITIONS_REMEMBERED = 4
_ARRIVALS_WEEKDAY, _ARRIVALS = 3, 6
_CLEARANCE_WEEKDAY, _CLEARED = 0, 2
_TITLE_DAY, _MATERIAL_DAY = 5, 12
_SELL_OUTS_A_DAY = 0.8


@dataclass
class Edition:
    """What one edition of the catalogue changes, and what happens in the office while it is in force.

    `drafts` are entered during the day and listed in the next edition; what is hidden in one edition is deleted, at the
    moment told, in the next one: a day later nobody's visit can still hold it.
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
    """The catalogue at any moment of a plan's month."""

    def __init__(self, plan: DemoPlan) -> None:
        self._plan = plan
        self._collection = build_collection(plan.seed, plan.start)
        opening = self._collection.catalogue
        self.prices = PriceList(plan, opening.items)
        self.editions = [Edition(prices=self.prices.changes(edition)) for edition in range(plan.days)]
        # How popular the new pieces will be.
        self._ranks: dict[int, int] = {}
        rng = seeded(plan.seed, "assortment")
        self._schedule_arrivals(rng)
        busy = self._schedule_corrections(opening.ranked)
        # No piece gets more than one part in the month's story.
        quiet = [item for item in opening.ranked if item.stock and item.id not in busy]
        busy = self._schedule_clearances(rng, quiet)
        self._schedule_sell_outs(rng, [item for item in quiet if item.id not in busy])
        self._schedule_returns(rng, opening.sold_out)
        self._catalogues: dict[int, Catalogue] = {}
        self._in_force = opening
        self._from_ms, self._until_ms = plan.starts_ms, plan.starts_ms

    def at(self, moment_ms: int) -> Catalogue:
        """The catalogue at a moment."""
        if not self._from_ms <= moment_ms < self._until_ms:
            plan = self._plan
            edition = plan.edition_at(moment_ms)
            self._in_force = self.catalogue(edition)
            self._from_ms, self._until_ms = plan.edition_starts_ms(edition), plan.edition_starts_ms(edition + 1)
        return self._in_force

    def catalogue(self, edition: int) -> Catalogue:
        """The catalogue in one of its editions; quickest when asked for one after the other."""
        known = self._catalogues
        latest = max((number for number in known if number <= edition), default=0)
        catalogue = known.get(latest, self._collection.catalogue)
        for number in range(latest + 1, edition + 1):
            known[number] = catalogue = self._next(catalogue, self.editions[number])
            if len(known) > _EDITIONS_REMEMBERED:
                del known[next(iter(known))]
        return catalogue

    def _next(self, before: Catalogue, edition: Edition) -> Catalogue:
        listed = {item.id: item for item in before.ranked}
        for item_id, title in edition.titles.items():
            listed[item_id] = replace(listed[item_id], title=title)
        for item_id, material in edition.materials.items():
            listed[item_id] = replace(listed[item_id], material=material)
        for item_id, price in edition.prices.items():
            if item_id in listed:
                listed[item_id] = replace(listed[item_id], price=price)
        hidden = [listed.pop(item_id) for item_id in edition.hidden]
        ranked = list(listed.values())
        for item in edition.listed:
            ranked.insert(self._ranks[item.id], item)
        sold_out = (before.sold_out | frozenset(edition.sold_out)) - edition.delivered.keys()
        return Catalogue(ranked, sold_out=sold_out, hidden=hidden, before=before)

    def _schedule_arrivals(self, rng: Random) -> None:
        """Every week some new pieces, written up the day before they are shown."""
        to_come = iter(self._collection.to_come)
        for number in self._editions_on(_ARRIVALS_WEEKDAY):
            moments = sorted(int((8 + 8 * rng.random()) * HOUR_MS) for _ in range(_ARRIVALS))
            # Cut short when a very long month runs out of pieces.
            for moment, item in zip(moments, to_come, strict=False):
                created_at = shop_time(self._plan.day_starts_ms(number - 1) + moment)
                piece = replace(item, created_at=created_at)
                self.editions[number - 1].drafts.append(piece)
                self.editions[number].listed.append(piece)
                self._ranks[piece.id] = between(rng, 20, 600)

    def _schedule_corrections(self, items: Sequence[Item]) -> list[int]:
        """One title loses its spelling mistake, one piece gets the material that somebody forgot to enter."""
        misspelt = next(item for item in items if MISSPELT_WORD in item.title)
        bare = next(item for item in items[100:] if item.section == "earrings" and item.material is None)
        if self._plan.days > 1:
            last = self._plan.days - 1
            right_title = misspelt.title.replace(MISSPELT_WORD, RIGHT_WORD)
            self.editions[min(_TITLE_DAY, last)].titles[misspelt.id] = right_title
            self.editions[min(_MATERIAL_DAY, last)].materials[bare.id] = "cubic zirconia"
        return [misspelt.id, bare.id]

    def _schedule_clearances(self, rng: Random, items: list[Item]) -> list[int]:
        """Every week some pieces are taken off the lists and, a day later, deleted."""
        cleared = iter(shuffled(rng, (item.id for item in items[80:900])))
        gone: list[int] = []
        for number in self._editions_on(_CLEARANCE_WEEKDAY):
            for item_id in islice(cleared, _CLEARED):
                self.editions[number].hidden.append(item_id)
                gone.append(item_id)
                if number + 1 < self._plan.days:
                    office_ms = 9 * HOUR_MS + int(90 * MINUTE_MS * rng.random())
                    deleted_ms = self._plan.day_starts_ms(number + 1) + office_ms
                    self.editions[number + 1].deleted[item_id] = deleted_ms
        return gone

    def _schedule_sell_outs(self, rng: Random, items: list[Item]) -> None:
        """Pieces of which few were left sell out; most come back some days later, the others never."""
        scarce = shuffled(rng, (item.id for item in items[20:500] if item.stock <= 12))
        days = self._plan.days
        for item_id in scarce[: round(_SELL_OUTS_A_DAY * (days - 1))]:
            number = between(rng, 1, days - 1)
            self.editions[number].sold_out.append(item_id)
            back = number + between(rng, 2, 6)
            if rng.random() < 0.65 and back < days:
                self.editions[back].delivered[item_id] = between(rng, 5, 20)

    def _schedule_returns(self, rng: Random, sold_out: Iterable[int]) -> None:
        """Some of what was sold out from the start comes back as well."""
        for item_id in sorted(sold_out):
            number = between(rng, 1, max(1, 3 * self._plan.days))
            if number < self._plan.days:
                self.editions[number].delivered[item_id] = between(rng, 5, 20)

    def _editions_on(self, weekday: int) -> list[int]:
        return [number for number in range(1, self._plan.days) if self._plan.day(number).weekday() == weekday]


@lru_cache(maxsize=2)
def assortment_of(plan: DemoPlan) -> Assortment:
    """The plan's assortment, made once."""
    return Assortment(plan)
