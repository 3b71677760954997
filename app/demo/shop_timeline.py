"""The demo shop's database through the month: changed by shoppers' calls and by the shop itself.

A call takes effect when it happened, not when it arrived, and only if it succeeded.
"""

import gzip
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

import msgspec

from app.demo.assortment import CatalogVersion, assortment_of
from app.demo.calls import DAYS_IN_TRANSIT, calls_path
from app.demo.catalog import Item
from app.demo.chance import between, seeded, shuffled
from app.demo.database import CartRow, FavoriteRow, ShopState, StockRow, item_row, opening_state
from app.demo.plan import HOUR_MS, SECOND_MS, DemoPlan, shop_time
from app.demo.request_log import API

_FORGETTING_RATE = 0.03
_DELIVERY_WEEKDAY, _LOW_STOCK = 2, 3

_ENDPOINT = f'"endpoint":"{API}/'.encode()
_ENDPOINTS_OF_EFFECTS = (b"favorites", b"cart", b"orders")

EffectKind = Literal["favorite", "unfavorite", "cart", "uncart", "order"]

# Method, first part of the endpoint's path, number of its parts. Every response about a cart holds the whole cart,
# including what was in it before its owner signed in.
_EFFECTS: dict[tuple[str, str, int], EffectKind] = {
    ("POST", "favorites", 1): "favorite",
    ("DELETE", "favorites", 2): "unfavorite",
    ("GET", "cart", 1): "cart",
    ("POST", "cart", 2): "cart",
    ("DELETE", "cart", 3): "uncart",
    ("POST", "orders", 1): "order",
}


class Effect(NamedTuple):
    """What a call changed in the shop's database."""

    at_ms: int
    kind: EffectKind
    user_id: int | None
    quantities: tuple[tuple[int, int], ...]  # product id, quantity
    order_id: str = ""


class _ResponseItem(msgspec.Struct):
    product_id: int
    quantity: int = 1


class _Response(msgspec.Struct):
    items: list[_ResponseItem] = []
    order_id: str = ""


class _Body(msgspec.Struct):
    product_id: int | str = 0


class _Request(msgspec.Struct):
    body: _Body | None = None


class _Record(msgspec.Struct):
    ts: int | str
    method: str
    endpoint: str
    user_id: str | None = None
    status: int | None = None
    request: _Request | None = None
    response: _Response | None = None


_decode = msgspec.json.Decoder(_Record).decode


class ShopTimeline:
    """The shop's database from the plan's first day to its last, derived from the lines that arrive on each day."""

    def __init__(self, plan: DemoPlan, lines_of_day: Callable[[int], Iterable[bytes]]) -> None:
        self._plan = plan
        self._lines_of_day = lines_of_day
        self._versions = assortment_of(plan).catalog_versions

    def states(self, hours: Sequence[int] = (12, 24)) -> Iterator[tuple[datetime, ShopState]]:
        """The state at these hours (UTC, 1 to 24) of every day, in order, with everything that happened before."""
        plan, now = self._plan, _CurrentState(self._plan)
        steps = self._steps(now)
        ahead = next(steps, None)
        for moment in sorted(plan.day_starts_ms(day) + hour * HOUR_MS for day in range(plan.days) for hour in hours):
            while ahead is not None and ahead.at_ms < moment:
                ahead.run()
                ahead = next(steps, None)
            yield datetime.fromtimestamp(moment // SECOND_MS, tz=UTC), now.state.copy()

    def _steps(self, now: "_CurrentState") -> Iterator["_Step"]:
        """The steps that change the state, in order."""
        for number, effects in enumerate(self._effects_by_version()):
            version, starts_ms = self._versions[number], self._plan.catalog_version_starts_ms(number)
            steps = [_Step(starts_ms, partial(now.update, number, version, effects))]
            steps += [_Step(effect.at_ms, partial(now.apply, effect)) for effect in effects]
            steps += [_Step(_epoch_ms(item.created_at), partial(now.add, item)) for item in version.drafts]
            steps += [_Step(at_ms, partial(now.delete, key)) for key, at_ms in version.deleted.items()]
            # Stable: the version precedes the effects in its first millisecond.
            yield from sorted(steps, key=lambda step: step.at_ms)

    def _effects_by_version(self) -> Iterator[list[Effect]]:
        """The effects of calls during each catalog version, in order, each purchase once."""
        plan = self._plan
        pending: list[Effect] = []
        orders: set[str] = set()
        for version in range(plan.days):
            # By then everything that happened during the version has arrived, however late.
            through = version + DAYS_IN_TRANSIT
            for day in range(through if version else 0, min(through + 1, plan.days)):
                pending.extend(effect for line in self._lines_of_day(day) if (effect := effect_of(line)) is not None)
            pending.sort(key=lambda effect: effect.at_ms)
            ends_ms = plan.catalog_version_starts_ms(version + 1)
            done = [effect for effect in pending if effect.at_ms < ends_ms]
            del pending[: len(done)]
            effects: list[Effect] = []
            for effect in done:
                if effect.kind == "order":
                    if effect.order_id in orders:
                        continue
                    orders.add(effect.order_id)
                effects.append(effect)
            yield effects


class _Step(NamedTuple):
    at_ms: int
    run: Callable[[], None]


class _CurrentState:
    """The current state and the operations that change it."""

    def __init__(self, plan: DemoPlan) -> None:
        self._plan = plan
        self.state = opening_state(plan)
        self._carts: defaultdict[int, set[int]] = defaultdict(set)
        for user_id, product_id in self.state.cart:
            self._carts[user_id].add(product_id)

    def update(self, number: int, version: CatalogVersion, effects: Iterable[Effect]) -> None:
        """Apply a version of the catalog, and restock what will be bought while it is valid."""
        rng, at = seeded(self._plan.seed, "update", number), shop_time(self._plan.catalog_version_starts_ms(number))
        self._update_items(version, at, rng)
        # The shop's boutiques took the last ones.
        for item_id in version.sold_out:
            self._set_stock(item_id, 0, at, rng)
        for item_id, quantity in version.delivered.items():
            self._deliver(item_id, quantity, at, rng)
        # What the catalog lists as in stock must not run out: restock it in time.
        orders = (Counter(dict(effect.quantities)) for effect in effects if effect.kind == "order")
        for item_id, quantity in sorted(sum(orders, Counter[int]()).items()):
            if self.state.stock[item_id].quantity <= quantity:
                self._deliver(item_id, quantity + between(rng, 4, 20), at, rng)
        if self._plan.day(number).weekday() == _DELIVERY_WEEKDAY:
            low = [item_id for item_id, row in sorted(self.state.stock.items()) if 0 < row.quantity <= _LOW_STOCK]
            for item_id in shuffled(rng, low)[: between(rng, 20, 40)]:
                self._deliver(item_id, between(rng, 5, 25), at, rng)

    def _update_items(self, version: CatalogVersion, at: datetime, rng: Random) -> None:
        items = self.state.items
        for item_id in sorted(version.prices.keys() | version.titles.keys() | version.materials.keys()):
            # Some of the repriced items have been deleted since.
            if (row := items.get(item_id)) is not None:
                items[item_id] = row._replace(
                    title=version.titles.get(item_id, row.title),
                    material=version.materials.get(item_id, row.material),
                    price=version.prices.get(item_id, row.price),
                    updated_at=row.updated_at if _forgets(rng) else at,
                )

    def _deliver(self, item_id: int, quantity: int, at: datetime, rng: Random) -> None:
        self._set_stock(item_id, self.state.stock[item_id].quantity + quantity, at, rng)

    def add(self, item: Item) -> None:
        """Insert a new item."""
        self.state.items[item.id] = item_row(item, item.created_at)
        self.state.stock[item.id] = StockRow(item.stock, item.created_at)

    def delete(self, item_id: int) -> None:
        """Delete an item and the rows that refer to it."""
        state = self.state
        del state.items[item_id], state.stock[item_id]
        state.cart = {key: row for key, row in state.cart.items() if key[1] != item_id}
        state.favorites = {key: row for key, row in state.favorites.items() if key[1] != item_id}
        for in_cart in self._carts.values():
            in_cart.discard(item_id)

    def apply(self, effect: Effect) -> None:
        """Apply the effect of a call."""
        at = shop_time(effect.at_ms)
        if effect.kind == "order":
            self._order(effect, at)
        elif effect.user_id is not None:
            for item_id, quantity in effect.quantities:
                self._change_shelf(effect.kind, (effect.user_id, item_id), quantity, at)

    def _order(self, effect: Effect, at: datetime) -> None:
        rng = seeded(self._plan.seed, "order", effect.order_id)
        for item_id, quantity in effect.quantities:
            self._set_stock(item_id, self.state.stock[item_id].quantity - quantity, at, rng)
        if effect.user_id is not None:
            for item_id in self._carts.pop(effect.user_id, ()):
                del self.state.cart[effect.user_id, item_id]

    def _change_shelf(self, kind: EffectKind, key: tuple[int, int], quantity: int, at: datetime) -> None:
        """Change a user's cart or favorites."""
        cart, favorites = self.state.cart, self.state.favorites
        match kind:
            case "favorite":
                favorites.setdefault(key, FavoriteRow(at))
            case "unfavorite":
                favorites.pop(key, None)
            case "cart":
                cart[key] = CartRow(quantity, cart[key].added_at if key in cart else at)
                self._carts[key[0]].add(key[1])
            case "uncart":
                cart.pop(key, None)
                self._carts[key[0]].discard(key[1])

    def _set_stock(self, item_id: int, quantity: int, at: datetime, rng: Random) -> None:
        was = self.state.stock[item_id]
        self.state.stock[item_id] = StockRow(quantity, was.updated_at if _forgets(rng) else at)


def written_states(
    plan: DemoPlan,
    folder: Path,
    hours: Sequence[int] = (12, 24),
    *,
    wait_for: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[datetime, ShopState]]:
    """The states of a month whose calls are in the folder; `wait_for` returns when the file of that day is written."""

    def lines(day_index: int) -> Iterator[bytes]:
        wait_for(day_index)
        with gzip.open(calls_path(plan, folder, day_index)) as file:
            yield from file

    return ShopTimeline(plan, lines).states(hours)


def effect_of(line: bytes) -> Effect | None:
    """What a line's call changed in the shop's database; None if nothing."""
    endpoint = line.find(_ENDPOINT)
    if endpoint < 0 or not line.startswith(_ENDPOINTS_OF_EFFECTS, endpoint + len(_ENDPOINT)):
        return None
    try:
        record = _decode(line)
        at_ms = record.ts if isinstance(record.ts, int) else _epoch_ms(datetime.fromisoformat(record.ts))
    except (msgspec.DecodeError, ValueError):
        return None
    if (record.status or 200) >= 400:
        return None
    path = record.endpoint.removeprefix(f"{API}/").split("/")
    kind = _EFFECTS.get((record.method, path[0], len(path)))
    if kind is None:
        return None
    response = record.response or _Response()
    if kind in {"cart", "order"}:
        quantities = tuple((item.product_id, item.quantity) for item in response.items)
    else:
        body = record.request.body if record.request is not None else None
        quantities = ((int(path[-1] if body is None else body.product_id), 1),)
    return Effect(at_ms, kind, None if record.user_id is None else int(record.user_id), quantities, response.order_id)


def _forgets(rng: Random) -> bool:
    """Whether a change leaves a row's `updated_at` as it was, as some of a shop's scripts do."""
    return rng.random() < _FORGETTING_RATE


def _epoch_ms(moment: datetime) -> int:
    """The moment in epoch ms; a naive one is UTC."""
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)
