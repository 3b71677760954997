import sqlite3
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import connectorx
import polars as pl
import pytest

from app.demo.catalog import build_catalog
from app.demo.database import opening_state, write_state
from app.demo.plan import DemoPlan

from .conftest import Month

PLAN = DemoPlan(calls=20_000)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "shop.sqlite"
    write_state(opening_state(PLAN), path)
    return path


def table(shop: Path, name: str) -> pl.DataFrame:
    return connectorx.read_sql(f"sqlite://{shop}", f"SELECT * FROM {name}", return_type="polars")


def test_tables_are_read_with_their_types(shop: Path) -> None:
    moment = pl.Datetime("us")
    assert dict(table(shop, "items").schema) == {
        "id": pl.Int64, "sku": pl.String, "title": pl.String, "section": pl.String, "material": pl.String,
        "metal": pl.String, "price": pl.String, "weight_g": pl.Float64, "created_at": moment, "updated_at": moment,
    }  # fmt: skip
    assert dict(table(shop, "stock").schema) == {"product_id": pl.Int64, "quantity": pl.Int64, "updated_at": moment}
    assert dict(table(shop, "cart").schema) == {
        "user_id": pl.Int64, "product_id": pl.Int64, "quantity": pl.Int64, "added_at": moment,
    }  # fmt: skip
    assert dict(table(shop, "favorites").schema) == {"user_id": pl.Int64, "product_id": pl.Int64, "added_at": moment}


def test_items_and_stock_are_the_catalog(shop: Path) -> None:
    catalog = build_catalog(PLAN.seed, PLAN.start)
    items = table(shop, "items").rows_by_key("id", named=True, unique=True)
    stock = dict(table(shop, "stock").select("product_id", "quantity").iter_rows())
    assert set(items) == set(stock) == set(catalog.by_id)
    for item in catalog.items:
        assert Decimal(items[item.id]["price"]) == item.price
        assert items[item.id]["title"] == item.title
        assert stock[item.id] == item.stock


def test_carts_and_favorites_belong_to_shoppers_who_visit(shop: Path, month: Month) -> None:
    owners = set(table(shop, "cart")["user_id"]) | set(table(shop, "favorites")["user_id"])
    signed_in = {int(record["user_id"]) for record in month.records if record.get("user_id")}
    assert len(owners & signed_in) > 20
    assert table(shop, "favorites")["added_at"].max() < datetime(2026, 3, 1)


def test_keys_are_declared(shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as database:
        keys = {
            name: {column[1] for column in database.execute(f"PRAGMA table_info({name})") if column[5]}
            for name in ("items", "stock", "cart", "favorites")
        }
    shared = {"user_id", "product_id"}
    assert keys == {"items": {"id"}, "stock": {"product_id"}, "cart": shared, "favorites": shared}


def test_same_plan_writes_the_same_rows_over_any_old_file(shop: Path, tmp_path: Path) -> None:
    again = tmp_path / "shop.sqlite"
    again.write_bytes(b"something else")
    write_state(opening_state(PLAN), again)
    assert again.read_bytes() == shop.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["shop.sqlite"]


def test_a_changed_state_is_written_as_it_is(tmp_path: Path) -> None:
    state = opening_state(PLAN)
    gone = next(iter(state.items))
    del state.items[gone]
    state.favorites.clear()
    write_state(state, tmp_path / "later.sqlite")
    assert gone not in set(table(tmp_path / "later.sqlite", "items")["id"])
    with closing(sqlite3.connect(tmp_path / "later.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM favorites").fetchone() == (0,)
