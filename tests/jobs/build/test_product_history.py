"""Product sessions carry what the shop's database said of the product at that moment."""

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

import app.shop.mysql
from app.core.service_url import ServiceUrl
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.snapshot import take_snapshot
from app.ops.status import products_met
from app.settings import Settings
from tests.shop.taking import InProcessReader
from tests.support.mariadb import running_mariadb

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

ALL = (None, None)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)


def at(hour: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hour)


def view(hour: float, product: int | str = 17, *, visitor: str = "v") -> dict:
    ts = at(hour).isoformat()
    return {"ts": ts, "method": "GET", "endpoint": f"/api/v1/products/{product}", "visitor_id": visitor, "status": 200}


@pytest.fixture
def shop(tmp_path) -> Path:
    path = tmp_path / "shop.sqlite"
    change(
        path,
        "CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, section TEXT, material TEXT, metal TEXT, price TEXT)",
        "CREATE TABLE stock (product_id INTEGER PRIMARY KEY, quantity INTEGER)",
        "CREATE TABLE cart (user_id INTEGER, product_id INTEGER, quantity INTEGER, PRIMARY KEY (user_id, product_id))",
        "CREATE TABLE favorites (user_id INTEGER, product_id INTEGER, PRIMARY KEY (user_id, product_id))",
        "INSERT INTO items VALUES (17, 'ring', 'rings', 'pearl', 'gold 585', '199.00'), (18, 'chain', 'chains', NULL, NULL, '20')",
        "INSERT INTO stock VALUES (17, 3), (18, 0)",
    )
    return path


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.fixture
def snapshot(shop, warehouse, settings, tmp_path):
    of_shop = settings.model_copy(update={"shop_db": Settings(_env_file=None, shop_db=f"sqlite://{shop}").shop_db, "scratch": tmp_path / "scratch"})  # fmt: skip

    def take(hour: float, *statements: str, **options) -> None:
        change(shop, *statements)
        assert [row["error"] for row in take_snapshot(warehouse, of_shop, at=at(hour), **options)] == [""] * 4

    return take


def known(warehouse, *columns: str, day: date = date(2026, 3, 2)) -> list[tuple]:
    selected = ", ".join(("visitor_id", "product_id", *columns))
    return warehouse.query(
        f"SELECT {selected} FROM dwh.product_sessions WHERE session_date = {{day:Date}} ORDER BY visitor_id, product_id", {"day": day}
    ).rows()  # fmt: skip


def build(warehouse, settings) -> dict[date, str]:
    return {day.day: "; ".join(day.reasons) for day in build_stale(warehouse, settings, span=ALL, jobs=JOBS).stale}


def test_each_session_sees_the_price_and_stock_of_its_moment(warehouse, settings, ingest_records, snapshot):
    snapshot(-30)
    snapshot(
        9, "UPDATE items SET price = '149.50' WHERE id = 17", "UPDATE stock SET quantity = 2 WHERE product_id = 17"
    )
    ingest_records(
        view(8, visitor="early"), view(9, visitor="just then"), view(10, visitor="late"), view(10, 18, visitor="late")
    )
    build(warehouse, settings)
    gold = ("ring", "rings", "pearl", "gold 585")
    columns = ("title", "section", "material", "metal", "list_price", "stock_qty")
    assert known(warehouse, *columns) == [
        ("early", "17", *gold, Decimal("199.00"), 3),
        ("just then", "17", *gold, Decimal("149.50"), 2),
        ("late", "17", *gold, Decimal("149.50"), 2),
        ("late", "18", "chain", "chains", None, None, Decimal("20.00"), 0),
    ]


def test_what_is_not_known_at_the_moment_is_null(warehouse, settings, ingest_records, snapshot):
    snapshot(5)
    snapshot(9, "DELETE FROM items WHERE id = 17", "DELETE FROM stock WHERE product_id = 17")
    snapshot(11, "INSERT INTO items VALUES (17, 'ring', 'rings', NULL, NULL, '1')")
    ingest_records(*(view(h, visitor=f"{h:02}") for h in (4, 6, 10, 12)), view(6, 999, visitor="unknown"))
    build(warehouse, settings)
    assert known(warehouse, "title", "list_price", "stock_qty") == [
        ("04", "17", None, None, None), ("06", "17", "ring", Decimal("199.00"), 3), ("10", "17", None, None, None),
        ("12", "17", "ring", Decimal("1.00"), None), ("unknown", "999", None, None, None),
    ]  # fmt: skip


def test_without_any_snapshot_the_day_is_built_with_nulls(warehouse, settings, ingest_records):
    ingest_records(view(4))
    build(warehouse, settings)
    assert known(warehouse, "title", "stock_qty") == [("v", "17", None, None)]


def test_a_session_that_crosses_midnight_sees_the_next_day(warehouse, settings, ingest_records, snapshot):
    snapshot(0)
    snapshot(24, "UPDATE items SET title = 'ring of tomorrow' WHERE id = 17")
    ingest_records(view(23.9, 18), view(24.1, 17))
    build(warehouse, settings)
    assert known(warehouse, "title") == [("v", "17", "ring of tomorrow"), ("v", "18", "chain")]


def test_a_snapshot_makes_stale_the_days_with_calls_since_and_their_product_sessions_alone(warehouse, settings, ingest_records, snapshot):  # fmt: skip
    ingest_records(view(-100), view(4), view(30), view(60))
    snapshot(-200)
    build(warehouse, settings)
    assert build(warehouse, settings) == {}
    snapshot(26)
    assert build(warehouse, settings) == {}, "nothing changed in the shop"
    snapshot(29, "UPDATE items SET title = 'renamed' WHERE id = 17")
    stale = build_stale(warehouse, settings, span=ALL, jobs=JOBS).stale
    assert [(day.day, day.jobs, day.reasons) for day in stale] == [
        (date(2026, 3, day), ("order_calls", "product_sessions"), ("history of its products changed",))
        for day in (3, 4)
    ]


def test_history_that_was_replayed_later_gives_the_same_rows(warehouse, settings, ingest_records, snapshot):
    ingest_records(view(4), view(10, visitor="w"))
    build(warehouse, settings)
    snapshot(-1)
    snapshot(9, "UPDATE items SET price = '1' WHERE id = 17")
    assert build(warehouse, settings) == {date(2026, 3, 2): "history of its products changed"}
    once = known(warehouse, "title", "list_price")
    build_stale(warehouse, settings, span=ALL, jobs=JOBS, force=True)
    assert known(warehouse, "title", "list_price") == once == [("v", "17", "ring", Decimal("199.00")), ("w", "17", "ring", Decimal("1.00"))]  # fmt: skip


def test_products_that_never_meet_the_shops_are_counted(warehouse, settings, ingest_records, snapshot):
    snapshot(-30)
    ingest_records(view(8), view(9, 99, visitor="w"))
    build(warehouse, settings)
    met = products_met(warehouse)
    assert met.select("products", "found", "examples").rows() == [(2, 1, ["99"])]


@pytest.mark.slow
def test_a_key_of_16_bytes_is_the_uuid_of_the_calls(warehouse, settings, ingest_records, tmp_path, monkeypatch):
    monkeypatch.setattr(app.shop.mysql, "ReaderProcess", InProcessReader)
    product = "0198f3a1-5b7c-7d2e-8f00-3344556677ff"
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[items]\nsource = "product"\nkey = ["id"]\n'
        'product = { product_id = "id", title = "title", list_price = "price" }\n'
    )
    with running_mariadb(tmp_path / "mariadb") as server:
        server.execute(
            "CREATE TABLE shop.product (id BINARY(16) PRIMARY KEY, title VARCHAR(40), price DECIMAL(10,2))",
            f"INSERT INTO shop.product VALUES (UNHEX('{product.replace('-', '')}'), 'ring', 9.5)",
        )
        of_shop = settings.model_copy(
            update={"shop_db": ServiceUrl.parse(server.url(), "mysql"), "scratch": tmp_path, "snapshots": plan}
        )
        assert [row["error"] for row in take_snapshot(warehouse, of_shop, at=at(-30))] == [""]
    ingest_records(view(8, product), view(9, product.replace("-", "").upper(), visitor="w"))
    assert build_stale(warehouse, of_shop, span=ALL, jobs=JOBS).failures == []
    assert {row[2:] for row in known(warehouse, "title", "list_price")} == {("ring", Decimal("9.50"))}
