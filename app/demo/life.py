"""The demo shop's database as its month passes: what shoppers do in the calls, and what the shop does by itself.

What counts of a call is when it happened, not when it arrived, and only if it succeeded.
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

from app.demo.assortment import Edition, assortment_of
from app.demo.calls import DAYS_UNDER_WAY, calls_path
from app.demo.catalogue import Item
from app.demo.chance import between, seeded, shuffled
from app.demo.database import CartRow, FavoriteRow, ShopState, StockRow, item_row, opening_state
from app.demo.plan import HOUR_MS, SECOND_MS, DemoPlan, shop_time
from app.demo.records import API

_FORGETTING_RATE = 0.03
_DELIVERY_WEEKDAY, _LOW_STOCK = 2, 3

_ENDPOINT = f'"endpoint":"{API}/'.encode()
_ENDPOINTS_OF_DEEDS = (b"favorites", b"cart", b"orders")

What = Literal["favorite", "unfavorite", "cart", "uncart", "order"]

# Method, first part of the endpoint's path, number of its parts. Every answer about a cart tells the whole cart, with
# what was in it before its owner signed in.
_DEEDS: dict[tuple[str, str, int], What] = {
    ("POST", "favorites", 1): "favorite",
    ("DELETE", "favorites", 2): "unfavorite",
    ("GET", "cart", 1): "cart",
    ("POST", "cart", 2): "cart",
    ("DELETE", "cart", 3): "uncart",
    ("POST", "orders", 1): "order",
}


class Deed(NamedTuple):
    """What a call changed in the shop's database: `pieces` are product ids with quantities."""

    at_ms: int
    what: What
    user_id: int | None
    pieces: tuple[tuple[int, int], ...]
    order_id: str = ""


class _Piece(msgspec.Struct):
    product_id: int
    quantity: int = 1


class _Answer(msgspec.Struct):
    items: list[_Piece] = []
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
    response: _Answer | None = None


_decode = msgspec.json.Decoder(_Record).decode


class ShopLife:
    """The shop's database from the plan's first day to its last, as told by the lines that arrive on each day."""

    def __init__(self, plan: DemoPlan, lines_of_day: Callable[[int], Iterable[bytes]]) -> None:
        self._plan = plan
        self._lines_of_day = lines_of_day
        self._editions = assortment_of(plan).editions

    def states(self, hours: Sequence[int] = (12, 24)) -> Iterator[tuple[datetime, ShopState]]:
        """The state at these hours (UTC, 1 to 24) of every day, in order, with whatever happened before the moment."""
        plan, now = self._plan, _Now(self._plan)
        happenings = self._happenings(now)
        ahead = next(happenings, None)
        for moment in sorted(plan.day_starts_ms(day) + hour * HOUR_MS for day in range(plan.days) for hour in hours):
            while ahead is not None and ahead.at_ms < moment:
                ahead.happen()
                ahead = next(happenings, None)
            yield datetime.fromtimestamp(moment // SECOND_MS, tz=UTC), now.state.copy()

    def _happenings(self, now: "_Now") -> Iterator["_Happening"]:
        """What changes the state, in the order it happens."""
        for number, deeds in enumerate(self._deeds_by_edition()):
            edition, starts_ms = self._editions[number], self._plan.edition_starts_ms(number)
            happenings = [_Happening(starts_ms, partial(now.update, number, edition, deeds))]
            happenings += [_Happening(deed.at_ms, partial(now.apply, deed)) for deed in deeds]
            happenings += [_Happening(_epoch_ms(item.created_at), partial(now.add, item)) for item in edition.drafts]
            happenings += [_Happening(at_ms, partial(now.delete, key)) for key, at_ms in edition.deleted.items()]
            # Stable: the edition comes before what is done in its very first millisecond.
            yield from sorted(happenings, key=lambda happening: happening.at_ms)

    def _deeds_by_edition(self) -> Iterator[list[Deed]]:
        """What was done while each edition was in force, in order and each order once."""
        plan = self._plan
        pending: list[Deed] = []
        orders: set[str] = set()
        for edition in range(plan.days):
            # By then all that happened while the edition was in force has arrived, however late.
            through = edition + DAYS_UNDER_WAY
            for day in range(through if edition else 0, min(through + 1, plan.days)):
                pending.extend(deed for line in self._lines_of_day(day) if (deed := deed_of(line)) is not None)
            pending.sort(key=lambda deed: deed.at_ms)
            ends_ms = plan.edition_starts_ms(edition + 1)
            done = [deed for deed in pending if deed.at_ms < ends_ms]
            del pending[: len(done)]
            deeds: list[Deed] = []
            for deed in done:
                if deed.what == "order":
                    if deed.order_id in orders:
                        continue
                    orders.add(deed.order_id)
                deeds.append(deed)
            yield deeds


class _Happening(NamedTuple):
    at_ms: int
    happen: Callable[[], None]


class _Now:
    """The state at the moment, and how it moves on."""

    def __init__(self, plan: DemoPlan) -> None:
        self._plan = plan
        self.state = opening_state(plan)
        self._carts: defaultdict[int, set[int]] = defaultdict(set)
        for user_id, product_id in self.state.cart:
            self._carts[user_id].add(product_id)

    def update(self, number: int, edition: Edition, deeds: Iterable[Deed]) -> None:
        """Brings in an edition of the catalogue, and deliveries for what will be bought while it is in force."""
        rng, at = seeded(self._plan.seed, "update", number), shop_time(self._plan.edition_starts_ms(number))
        self._update_items(edition, at, rng)
        # The shop's boutiques took the last pieces.
        for item_id in edition.sold_out:
            self._set_stock(item_id, 0, at, rng)
        for item_id, pieces in edition.delivered.items():
            self._deliver(item_id, pieces, at, rng)
        # Nothing that the catalogue has in stock may run out: what will be short comes in time.
        orders = (Counter(dict(deed.pieces)) for deed in deeds if deed.what == "order")
        for item_id, pieces in sorted(sum(orders, Counter[int]()).items()):
            if self.state.stock[item_id].quantity <= pieces:
                self._deliver(item_id, pieces + between(rng, 4, 20), at, rng)
        if self._plan.day(number).weekday() == _DELIVERY_WEEKDAY:
            low = [item_id for item_id, row in sorted(self.state.stock.items()) if 0 < row.quantity <= _LOW_STOCK]
            for item_id in shuffled(rng, low)[: between(rng, 20, 40)]:
                self._deliver(item_id, between(rng, 5, 25), at, rng)

    def _update_items(self, edition: Edition, at: datetime, rng: Random) -> None:
        items = self.state.items
        for item_id in sorted(edition.prices.keys() | edition.titles.keys() | edition.materials.keys()):
            # Some of what is repriced has been deleted meanwhile.
            if (row := items.get(item_id)) is not None:
                items[item_id] = row._replace(
                    title=edition.titles.get(item_id, row.title),
                    material=edition.materials.get(item_id, row.material),
                    price=edition.prices.get(item_id, row.price),
                    updated_at=row.updated_at if _forgets(rng) else at,
                )

    def _deliver(self, item_id: int, pieces: int, at: datetime, rng: Random) -> None:
        self._set_stock(item_id, self.state.stock[item_id].quantity + pieces, at, rng)

    def add(self, item: Item) -> None:
        """Enters a new piece."""
        self.state.items[item.id] = item_row(item, item.created_at)
        self.state.stock[item.id] = StockRow(item.stock, item.created_at)

    def delete(self, item_id: int) -> None:
        """Deletes a piece and all that refers to it."""
        state = self.state
        del state.items[item_id], state.stock[item_id]
        state.cart = {key: row for key, row in state.cart.items() if key[1] != item_id}
        state.favorites = {key: row for key, row in state.favorites.items() if key[1] != item_id}
        for in_cart in self._carts.values():
            in_cart.discard(item_id)

    def apply(self, deed: Deed) -> None:
        """Does what a call did."""
        at = shop_time(deed.at_ms)
        if deed.what == "order":
            self._order(deed, at)
        elif deed.user_id is not None:
            for item_id, quantity in deed.pieces:
                self._change_shelf(deed.what, (deed.user_id, item_id), quantity, at)

    def _order(self, deed: Deed, at: datetime) -> None:
        rng = seeded(self._plan.seed, "order", deed.order_id)
        for item_id, quantity in deed.pieces:
            self._set_stock(item_id, self.state.stock[item_id].quantity - quantity, at, rng)
        if deed.user_id is not None:
            for item_id in self._carts.pop(deed.user_id, ()):
                del self.state.cart[deed.user_id, item_id]

    def _change_shelf(self, what: What, key: tuple[int, int], quantity: int, at: datetime) -> None:
        """Changes what a user keeps: cart and favorites."""
        cart, favorites = self.state.cart, self.state.favorites
        match what:
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
) -> Iterator[tuple[datetime, ShopState]]:
    """The states of a month whose calls `write_month` has written to the folder."""
    return ShopLife(plan, partial(_written_lines, plan, folder)).states(hours)


def deed_of(line: bytes) -> Deed | None:
    """What a line's call changed in the shop's database, if anything."""
    endpoint = line.find(_ENDPOINT)
    if endpoint < 0 or not line.startswith(_ENDPOINTS_OF_DEEDS, endpoint + len(_ENDPOINT)):
        return None
    try:
        record = _decode(line)
        at_ms = record.ts if isinstance(record.ts, int) else _epoch_ms(datetime.fromisoformat(record.ts))
    except (msgspec.DecodeError, ValueError):
        return None
    if (record.status or 200) >= 400:
        return None
    path = record.endpoint.removeprefix(f"{API}/").split("/")
    what = _DEEDS.get((record.method, path[0], len(path)))
    if what is None:
        return None
    answer = record.response or _Answer()
    if what in {"cart", "order"}:
        pieces = tuple((piece.product_id, piece.quantity) for piece in answer.items)
    else:
        body = record.request.body if record.request is not None else None
        pieces = ((int(path[-1] if body is None else body.product_id), 1),)
    return Deed(at_ms, what, None if record.user_id is None else int(record.user_id), pieces, answer.order_id)


def _written_lines(plan: DemoPlan, folder: Path, day_index: int) -> Iterator[bytes]:
    with gzip.open(calls_path(plan, folder, day_index)) as lines:
        yield from lines


def _forgets(rng: Random) -> bool:
    """Whether a change leaves a row's `updated_at` as it was: not every script of the shop thinks of it."""
    return rng.random() < _FORGETTING_RATE


def _epoch_ms(moment: datetime) -> int:
    """The moment, UTC unless it says otherwise."""
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)
