"""The demo shop's own database, as a SQLite file in place of the shop's MySQL.

A `ShopState` holds the content of the tables; the file is one state written out. `shop_timeline` makes the states of a
month.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from app.demo.catalog import Item, build_catalog
from app.demo.chance import geometric, seeded
from app.demo.plan import DemoPlan
from app.demo.shoppers import regular, regulars, wanted_item

# Types are declared because readers take a column's type from here; decimals are TEXT because SQLite has only floats.
_TABLES = """
CREATE TABLE items (
    id INTEGER NOT NULL PRIMARY KEY, sku TEXT NOT NULL, title TEXT NOT NULL,
    section TEXT NOT NULL, material TEXT, metal TEXT, price TEXT NOT NULL, weight_g REAL NOT NULL,
    created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL
);
CREATE TABLE stock (product_id INTEGER NOT NULL PRIMARY KEY, quantity INTEGER NOT NULL, updated_at DATETIME NOT NULL);
CREATE TABLE cart (
    user_id INTEGER NOT NULL, product_id INTEGER NOT NULL, quantity INTEGER NOT NULL, added_at DATETIME NOT NULL,
    PRIMARY KEY (user_id, product_id)
);
CREATE TABLE favorites (
    user_id INTEGER NOT NULL, product_id INTEGER NOT NULL, added_at DATETIME NOT NULL, PRIMARY KEY (user_id, product_id)
);
"""


class ItemRow(NamedTuple):
    """A row of `items` without its key."""

    sku: str
    title: str
    section: str
    material: str | None
    metal: str | None
    price: Decimal
    weight_g: float
    created_at: datetime
    updated_at: datetime


class StockRow(NamedTuple):
    """A row of `stock` without its key."""

    quantity: int
    updated_at: datetime


class CartRow(NamedTuple):
    """A row of `cart` without its key."""

    quantity: int
    added_at: datetime


class FavoriteRow(NamedTuple):
    """A row of `favorites` without its key."""

    added_at: datetime


@dataclass
class ShopState:
    """The shop's rows at one moment, by key: items and stock by product, cart and favorites by (user, product)."""

    items: dict[int, ItemRow]
    stock: dict[int, StockRow]
    cart: dict[tuple[int, int], CartRow]
    favorites: dict[tuple[int, int], FavoriteRow]

    def copy(self) -> "ShopState":
        """A snapshot that later changes of this state do not affect."""
        return ShopState(dict(self.items), dict(self.stock), dict(self.cart), dict(self.favorites))


def item_row(item: Item, updated_at: datetime) -> ItemRow:
    """The row of `items` for an item."""
    return ItemRow(
        item.sku,
        item.title,
        item.section,
        item.material,
        item.metal,
        item.price,
        item.weight_g,
        item.created_at,
        updated_at,
    )


def opening_state(plan: DemoPlan) -> ShopState:
    """The shop's state at the start of the plan's first day."""
    catalog = build_catalog(plan.seed, plan.start)
    opens = datetime.combine(plan.start, time())
    state = ShopState({}, {}, {}, {})
    for item in catalog.items:
        rng = seeded(plan.seed, "row", item.id)
        age_s = (opens - item.created_at).total_seconds()
        changed_at = opens - timedelta(seconds=int(age_s * rng.random()))
        state.items[item.id] = item_row(item, changed_at)
        sold_at = opens - timedelta(seconds=int(age_s * rng.random() ** 4))
        state.stock[item.id] = StockRow(item.stock, sold_at)
    for number in range(regulars(plan)):
        shopper = regular(plan.seed, number)
        if shopper.user_id is None:
            continue
        rng, user_id = seeded(plan.seed, "shelf", number), int(shopper.user_id)
        for _ in range(geometric(rng, 0.8 + 2 * shopper.persona.favorites, 25)):
            added_at = opens - timedelta(seconds=int(400 * 86_400 * rng.random() ** 2))
            key = user_id, wanted_item(rng, shopper.persona, catalog)
            state.favorites.setdefault(key, FavoriteRow(added_at))
        for _ in range(geometric(rng, 0.35, 6)):
            added_at = opens - timedelta(seconds=int(20 * 86_400 * rng.random() ** 2))
            key = user_id, wanted_item(rng, shopper.persona, catalog)
            state.cart.setdefault(key, CartRow(1 + (rng.random() < 0.06), added_at))
    return state


def write_state(state: ShopState, path: Path) -> None:
    """Write the state as a SQLite file, replacing any old one atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(unfinished)) as database:
        database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")
        with database:
            _insert(database, "items", ((key, *row) for key, row in sorted(state.items.items())))
            _insert(database, "stock", ((key, *row) for key, row in sorted(state.stock.items())))
            _insert(database, "cart", ((*key, *row) for key, row in sorted(state.cart.items())))
            _insert(database, "favorites", ((*key, *row) for key, row in sorted(state.favorites.items())))
    unfinished.replace(path)


def _insert(database: sqlite3.Connection, table: str, rows: Iterable[tuple[object, ...]]) -> None:
    values = [tuple(map(_stored, row)) for row in rows]
    if values:
        places = ", ".join("?" * len(values[0]))
        database.executemany(f"INSERT INTO {table} VALUES ({places})", values)


def _stored(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    return str(value) if isinstance(value, Decimal) else value
