"""`history.shop_…_versions`: a shop's tables by role, whatever it calls them, and why a view is empty."""

import sqlite3
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.dashboards.card_results import card_results, query_runner
from app.dashboards.model import load_library
from app.jobs.snapshot import take_snapshot
from app.settings import SHIPPED_SNAPSHOTS, Settings
from app.warehouse import Warehouse, migrate, open_warehouse
from app.warehouse.shop_views import EMPTY, NEVER_READ, SHOP_VIEWS
from tests.conftest import utc

pytestmark = pytest.mark.slow

# One shop under two schemas: the demo's, and one whose tables, columns and types are others, with titles of their own.
_DEMO = (
    "CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, price TEXT, section TEXT, material TEXT, metal TEXT)",
    "CREATE TABLE stock (product_id INTEGER PRIMARY KEY, quantity INTEGER)",
    "CREATE TABLE cart (user_id INTEGER, product_id INTEGER, quantity INTEGER, PRIMARY KEY (user_id, product_id))",
    "CREATE TABLE favorites (user_id INTEGER, product_id INTEGER, PRIMARY KEY (user_id, product_id))",
    "INSERT INTO items (id, title, price) VALUES (10, 'Ring', '50.00'), (12, 'Pearl', '70.00')",
    "INSERT INTO stock VALUES (10, 5), (12, 0)",
    "INSERT INTO cart VALUES (1, 10, 2), (2, 12, 1)",
    "INSERT INTO favorites VALUES (1, 12)",
)
_DEMO_CHANGE = (
    "UPDATE items SET price = '60.00' WHERE id = 10",
    "UPDATE stock SET quantity = 7 WHERE product_id = 12",
    "UPDATE stock SET quantity = 0 WHERE product_id = 10",
    "DELETE FROM cart WHERE user_id = 2",
)
_OTHER = (
    "CREATE TABLE products (sku TEXT PRIMARY KEY, amount REAL)",
    "CREATE TABLE names (sku TEXT PRIMARY KEY, name TEXT)",
    "CREATE TABLE shelf (sku TEXT PRIMARY KEY, pieces REAL)",
    "CREATE TABLE baskets (line INTEGER PRIMARY KEY, customer TEXT, sku TEXT, pieces TEXT)",
    "CREATE TABLE wishes (line INTEGER PRIMARY KEY, customer TEXT, sku TEXT)",
    "INSERT INTO products VALUES ('10', 50.0), ('12', 70.0)",
    "INSERT INTO names VALUES ('10', 'Ring'), ('12', 'Pearl')",
    "INSERT INTO shelf VALUES ('10', 5), ('12', 0)",
    "INSERT INTO baskets VALUES (1, 'a', '10', '2'), (2, 'b', '12', '1')",
    "INSERT INTO wishes VALUES (1, 'a', '12')",
)
_OTHER_CHANGE = (
    "UPDATE products SET amount = 60.0 WHERE sku = '10'",
    "UPDATE shelf SET pieces = 7 WHERE sku = '12'",
    "UPDATE shelf SET pieces = 0 WHERE sku = '10'",
    "DELETE FROM baskets WHERE line = 2",
)
_OTHER_PLAN = """
[goods]
source = "products"
key = ["sku"]
product = { product_id = "sku", list_price = "amount" }
[names]
source = "names"
key = ["sku"]
product = { product_id = "sku", title = "name" }
[shelf]
source = "shelf"
key = ["sku"]
product = { product_id = "sku", stock_qty = "pieces" }
[baskets]
source = "baskets"
key = ["line"]
cart = { owner = "customer", product_id = "sku", quantity = "pieces" }
max_deleted_share = 1
"""
_WISHES = """
[wishes]
source = "wishes"
key = ["line"]
favorites = { owner = "customer", product_id = "sku" }
"""


def shop_settings(folder: Path, plan: str = "") -> Settings:
    path = folder / "plan.toml"
    path.write_text(plan)
    return Settings(
        _env_file=None,
        warehouse=SecretStr(f"chdb://{folder / 'warehouse'}"),
        shop_db=SecretStr(f"sqlite://{folder / 'shop.sqlite'}"),
        scratch=folder / "scratch",
        snapshots=path if plan else SHIPPED_SNAPSHOTS,
    )


def shop(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / "shop.sqlite") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def cards_of_the_shop(warehouse: Warehouse) -> dict[str, dict]:
    """The results of all cards that read the shop's tables, over five days in March, of seven, by name."""
    for day in range(9, 16):
        warehouse.command(f"INSERT INTO dwh.sessions (session_date, session_id) SELECT '2026-03-{day:02}', '{day}'")
    warehouse.command(
        "INSERT INTO dwh.product_sessions (session_date, session_id, product_id, views, stock_qty) "
        "SELECT '2026-03-11', '11', '10', 1, 0"
    )
    found = {}
    for dashboard in load_library().dashboards:
        shown = [d for d in dashboard.dashcards if d.card and "history.shop_" in d.card.sql]
        chosen = {"date": "2026-03-09~2026-03-13"}
        results = card_results(query_runner(warehouse), dashboard, shown, chosen)
        found |= {d.card.name: results[d.entity_id] for d in shown if d.card}
    return found


def two_snapshots(folder: Path, settings: Settings, before: tuple[str, ...], after: tuple[str, ...]) -> dict[str, dict]:
    shop(folder, *before)
    with open_warehouse(settings, purpose="a test") as warehouse:
        take_snapshot(warehouse, settings, at=utc("2026-03-10 08:00"))
        shop(folder, *after)
        take_snapshot(warehouse, settings, at=utc("2026-03-12 08:00"), accept_deletes=True)
        return cards_of_the_shop(warehouse)


def test_cards_say_the_same_of_a_shop_whose_tables_are_called_otherwise(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "other").mkdir()
    demo = two_snapshots(tmp_path / "demo", shop_settings(tmp_path / "demo"), _DEMO, _DEMO_CHANGE)
    plan = shop_settings(tmp_path / "other", _OTHER_PLAN + _WISHES)
    other = two_snapshots(tmp_path / "other", plan, _OTHER, _OTHER_CHANGE)
    assert len(demo) == 18
    assert other == demo
    assert demo["Products in stock"]["rows"] == [[1]]
    assert demo["Value of all carts"]["rows"] == [[120.0]]
    assert [row[:5] for row in demo["What price changes did"]["rows"]] == [
        ["2026-03-12", "Ring", "up", pytest.approx(0.2), 3]
    ]
    assert all(result["rows"] for result in demo.values())


def test_a_card_says_which_role_the_plan_does_not_have(tmp_path):
    found = two_snapshots(tmp_path, shop_settings(tmp_path, _OTHER_PLAN), _OTHER, _OTHER_CHANGE)
    for name in ("Favorites kept", "Favorites, day by day", "What people kept as favorites at the end of the period"):
        assert found[name] == {"error": "the snapshot plan has no table with the role favorites"}
    assert found["Products in stock"]["rows"] == [[1]]


def test_a_shop_that_was_never_read_is_told_how(tmp_path):
    settings = shop_settings(tmp_path)
    with open_warehouse(settings, purpose="a test") as warehouse:
        migrate(warehouse, settings)
        found = cards_of_the_shop(warehouse)
        empty = warehouse.query("SELECT comment FROM system.tables WHERE database = 'history'")["comment"].to_list()
    assert {name for name, result in found.items() if result != {"error": NEVER_READ}} == {"Out of stock while wanted"}
    assert empty == [EMPTY + NEVER_READ] * len(SHOP_VIEWS)


def test_a_column_that_history_does_not_have_is_named(tmp_path):
    shop(tmp_path, *_OTHER)
    settings = shop_settings(tmp_path, _OTHER_PLAN)
    with open_warehouse(settings, purpose="a test") as warehouse:
        take_snapshot(warehouse, settings, at=utc("2026-03-10 08:00"))
        renamed = shop_settings(tmp_path, _OTHER_PLAN.replace('quantity = "pieces"', 'quantity = "units"'))
        migrate(warehouse, renamed)
        found = cards_of_the_shop(warehouse)
    assert found["Units in carts"] == {"error": "history.baskets has no column units, which the snapshot plan names"}
    assert found["Products in stock"]["rows"] == [[1]]


def test_views_change_when_the_plan_does_and_not_otherwise(tmp_path):
    shop(tmp_path, *_OTHER)
    settings = shop_settings(tmp_path, _OTHER_PLAN)
    with open_warehouse(settings, purpose="a test") as warehouse:
        take_snapshot(warehouse, settings, at=utc("2026-03-10 08:00"))
        assert migrate(warehouse, settings) == []
        with_wishes = shop_settings(tmp_path, _OTHER_PLAN + _WISHES)
        assert migrate(warehouse, with_wishes) == ["replaced view history.shop_favorites_versions"]


def test_a_column_that_is_called_like_a_versions_own_is_found(tmp_path):
    shop(tmp_path, "CREATE TABLE shelf (sku TEXT PRIMARY KEY, version REAL)", "INSERT INTO shelf VALUES ('10', 5)")
    plan = '[shelf]\nsource = "shelf"\nkey = ["sku"]\nproduct = { product_id = "sku", stock_qty = "version" }\n'
    settings = shop_settings(tmp_path, plan)
    with open_warehouse(settings, purpose="a test") as warehouse:
        take_snapshot(warehouse, settings, at=utc("2026-03-10 08:00"))
        shop(tmp_path, "UPDATE shelf SET version = 4")
        take_snapshot(warehouse, settings, at=utc("2026-03-11 08:00"))
        rows = warehouse.query("SELECT quantity, version, changed FROM history.shop_stock_versions ORDER BY version")
    assert rows.rows() == [(5.0, 1, []), (4.0, 2, ["quantity"])]
