"""Orders and refunds follow the calls and the shop's tables, day by day, whatever came first."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import app.shop.mysql
from app.contracts import BOOK_TABLES
from app.core.service_url import ServiceUrl
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.forget.erase import forget_user
from app.jobs.snapshot import take_snapshot
from app.jobs.verify import verify_days
from app.settings import Settings
from tests.shop.taking import InProcessReader
from tests.support.effort import repeated
from tests.support.empty_warehouse import make_empty
from tests.support.mariadb import running_mariadb

# The SQL is the same on a server, where the tests of the promise run.
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
TABLES = (
    "CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, cost DECIMAL(10,2))",
    "CREATE TABLE orders (id {id} PRIMARY KEY, created_at DATETIME, status TEXT, total INTEGER, currency TEXT, user_id INTEGER)",
    "CREATE TABLE order_items (id INTEGER PRIMARY KEY, order_id {id}, product_id INTEGER, quantity INTEGER, price INTEGER)",
    "CREATE TABLE refunds (id INTEGER PRIMARY KEY, order_id {id}, amount INTEGER, currency TEXT, at DATETIME)",
    "INSERT INTO items VALUES (17, 'ring', '40.00')",
)
PLAN = """
[items]
source = "items"
key = ["id"]
product = { product_id = "id", title = "title", cost = "cost" }

[orders]
source = "orders"
key = ["id"]
person = "user_id"

[orders.meaning]
order_id = "id"
created = "created_at"
state = "status"
total = "total"
currency = "currency"
user = "user_id"
minor_units = 2
states = { paid = ["paid"], refunded = ["refunded"], cancelled = ["void"], test = ["test"] }

[order_items]
source = "order_items"
key = ["id"]
meaning = { order_id = "order_id", product_id = "product_id", quantity = "quantity", price = "price", minor_units = 2 }

[refunds]
source = "refunds"
key = ["id"]
meaning = { order_id = "order_id", amount = "amount", at = "at", currency = "currency", minor_units = 2 }
"""


def at(hour: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hour)


def order_call(hour: float, order: object = 1, total: object = 100, *, visitor: str = "a", **fields) -> dict:
    answer = {"total": total, "currency": "EUR", "items": [{"product_id": 17, "quantity": 1, "price": total}]}
    answer |= {} if order is None else {"order_id": order}
    return {"ts": at(hour).isoformat(), "method": "POST", "endpoint": "/api/v1/orders", "status": 201, "visitor_id": visitor, "response": answer} | fields  # fmt: skip


def placed(order: object = 1, hour: float = 10, total: int = 10_000, *, state: str = "paid", currency: str = "EUR", user: int = 7) -> str:  # fmt: skip
    return f"INSERT INTO orders VALUES ({order!r}, '{at(hour):%F %T}', '{state}', {total}, '{currency}', {user})"


def given_back(number: int, order: object = 1, amount: int = 3_000, hour: float = 34, currency: str = "") -> str:
    return f"INSERT INTO refunds VALUES ({number}, {order!r}, {amount}, '{currency}', '{at(hour):%F %T}')"


def state(state: str, order: object = 1) -> str:
    return f"UPDATE orders SET status = '{state}' WHERE id = {order!r}"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


class Shop:
    """A shop with a database, whose orders are built after each change."""

    def __init__(
        self, warehouse, settings: Settings, folder: Path, ingest_records, *, id_type: str = "INTEGER"
    ) -> None:
        self.warehouse, self.ingest = warehouse, ingest_records
        self.path = folder / "shop.sqlite"
        self.path.unlink(missing_ok=True)
        change(self.path, *(sql.format(id=id_type) for sql in TABLES))
        plan = folder / "plan.toml"
        plan.write_text(PLAN)
        url = Settings(_env_file=None, shop_db=f"sqlite://{self.path}").shop_db
        self.settings = settings.model_copy(
            update={"shop_db": url, "snapshots": plan, "scratch": folder / "scratch", "spool": folder / "spool"}
        )

    def snapshot(self, hour: float, *statements: str, **options) -> list[str]:
        change(self.path, *statements)
        errors = [row["error"] for row in take_snapshot(self.warehouse, self.settings, at=at(hour), **options)]
        return [error for error in errors if error]

    def build(self, **options) -> list[int]:
        """Build what is stale; returns the days of March of which orders were built."""
        built = build_stale(self.warehouse, self.settings, **options).require_done()
        return sorted(day.day.day for day in built.orders)

    def orders(self, *columns: str) -> list[tuple]:
        selected = ", ".join(columns)
        return self.warehouse.query(f"SELECT {selected} FROM dwh.orders ORDER BY order_date, order_key").rows()

    def refunds(self, *columns: str) -> list[tuple]:
        return self.warehouse.query(
            f"SELECT {', '.join(columns)} FROM dwh.refunds ORDER BY refunded_at, refund_id"
        ).rows()

    def stale(self) -> list[int]:
        """The days of March of which orders are stale."""
        return [day.day.day for day in plan_days(self.warehouse, self.settings) if "orders" in day.jobs]

    def prove(self) -> None:
        assert self.stale() == []
        verification = verify_days(self.warehouse, self.settings)
        assert (verification.differing, verification.stale) == ([], {})


@pytest.fixture
def shop(warehouse, settings, tmp_path, ingest_records) -> Iterator[Shop]:
    """A shop whose orders are proven at the end of the test."""
    shop = Shop(warehouse, settings, tmp_path, ingest_records)
    yield shop
    shop.prove()


def day(number: int) -> date:
    return date(2026, 3, number)


def test_calls_and_the_database_are_set_side_by_side(shop):
    shop.ingest(order_call(10), order_call(11, 2, 90), order_call(12, 3), order_call(12.1, 3), order_call(13, 4), order_call(14, None, 5))  # fmt: skip
    shop.snapshot(20, placed(1), placed(2, 11), placed(3, 12), placed(5, 15, 7_000), placed(6, 16, state="test"))
    shop.build()
    assert shop.orders("order_id", "match", "state", "total", "called_total", "net_revenue")[:6] == [
        ("1", "equal", "paid", Decimal(100), Decimal(100), Decimal(100)),
        ("2", "amount_differs", "paid", Decimal(100), Decimal(90), Decimal(100)),
        ("3", "called_twice", "paid", Decimal(100), Decimal(100), Decimal(100)),
        ("4", "only_called", "unknown", Decimal(100), Decimal(100), Decimal(100)),
        ("5", "only_in_database", "paid", Decimal(70), None, Decimal(70)),
        ("6", "only_in_database", "test", Decimal(100), None, Decimal(0)),
    ]
    (without_id,) = shop.orders("order_id", "match", "total")[6:]
    assert (without_id[0][:5], *without_id[1:]) == ("call-", "only_called", Decimal(5))


def test_what_was_called_adds_up_to_the_revenue_of_the_sessions(shop):
    shop.ingest(order_call(10), order_call(23.9, 2, 90), order_call(24.1, 3, visitor="a"), order_call(30, 2, 90), order_call(31, None, 5))  # fmt: skip
    shop.snapshot(40, placed(1), placed(9))
    shop.build()
    called = shop.warehouse.scalar("SELECT sum(called_total) FROM dwh.orders")
    assert called == shop.warehouse.scalar("SELECT sum(revenue) FROM dwh.sessions") == Decimal("295.00")


def test_without_a_table_of_orders_they_come_from_calls_alone(shop):
    shop.ingest(order_call(10), order_call(12))
    assert shop.build() == [2]
    assert shop.orders("order_date", "order_id", "match", "state", "calls", "net_revenue", "items") == [
        (day(2), "1", "only_called", "unknown", 2, Decimal(100), [{"product": "17", "units": 1, "price": Decimal(100), "cost": None}])
    ]  # fmt: skip


def test_an_order_that_the_database_knows_before_its_call_is_of_its_first_day(shop):
    shop.snapshot(20, placed(1, 12))
    assert shop.build() == [2]
    shop.ingest(order_call(30))
    assert shop.build() == [2]
    assert shop.orders("order_date", "match", "session_id != ''") == [(day(2), "equal", 1)]


def test_an_order_moves_to_the_earlier_day_when_a_late_call_comes_in(shop):
    shop.snapshot(50, placed(1, 30))
    assert shop.build() == [3]
    shop.ingest(order_call(23))
    assert shop.build() == [2, 3]
    assert shop.orders("order_date", "match") == [(day(2), "equal")]


def test_a_state_that_changes_weeks_later_makes_the_day_of_the_order_stale_and_nothing_else(shop):
    shop.ingest(*(order_call(24 * n + 10, n + 1) for n in range(5)))
    shop.snapshot(150, *(placed(n + 1, 24 * n + 10) for n in range(5)))
    shop.build()
    shop.snapshot(24 * 20, state("void", 3))
    assert shop.stale() == [4]
    assert shop.build() == [4]
    assert shop.orders("order_id", "state", "net_revenue")[2] == ("3", "cancelled", Decimal(0))
    shop.snapshot(24 * 21, state("paid", 3))  # and back
    assert shop.build() == [4]
    assert shop.orders("order_id", "state", "net_revenue")[2] == ("3", "paid", Decimal(100))
    shop.snapshot(24 * 22)
    assert shop.build() == []


def test_refunds_are_rows_of_their_own_dates_with_the_day_of_the_order(shop):
    shop.ingest(order_call(10))
    shop.snapshot(20, placed(1))
    shop.build()
    shop.snapshot(40, given_back(1))
    assert shop.build() == [2, 3]
    columns = ("refund_date", "order_date", "amount", "order_state", "said_by")
    assert shop.refunds(*columns) == [(day(3), day(2), Decimal(30), "partly_refunded", "refunds")]
    shop.snapshot(60, state("refunded"), given_back(2, amount=7_000, hour=58))
    assert shop.build() == [2, 3, 4]
    assert shop.orders("state", "refunded", "net_revenue") == [("refunded", Decimal(100), Decimal(0))]
    assert [row[2:4] for row in shop.refunds(*columns)] == [(Decimal(30), "refunded"), (Decimal(70), "refunded")]


def test_a_refund_in_another_currency_has_the_rate_of_its_day(shop):
    shop.snapshot(40, placed(1, currency="USD"), given_back(1, amount=5_000, hour=34, currency="USD"))
    shop.build()
    ((amount,),), ((total,),) = shop.refunds("amount"), shop.orders("total")
    assert total not in {2 * amount, Decimal(100)}  # half of it, by another rate
    assert shop.orders("state", "net_revenue = total - refunded") == [("partly_refunded", 1)]


def test_rates_that_change_make_stale_the_days_of_refunds_and_of_their_orders(shop, tmp_path):
    def rated(usd: str) -> None:
        (tmp_path / "rates.csv").write_text(f"Date,USD\n2026-03-03,{usd}\n2026-03-02,1.25\n")

    rated("1.25")
    shop.settings = shop.settings.model_copy(update={"rates": tmp_path / "rates.csv"})
    shop.snapshot(80, placed(1), given_back(1, amount=5_000, hour=34, currency="USD"), placed(2, 60))
    shop.build()
    rated("1.00")
    assert shop.build() == [2, 3]
    assert shop.orders("refunded") == [(Decimal(50),), (Decimal(0),)]


def test_an_order_that_is_deleted_in_the_shop_keeps_what_was_known(shop):
    shop.snapshot(20, placed(1), placed(2), placed(3), "INSERT INTO order_items VALUES (1, 1, 17, 2, 5000)")
    shop.build()
    before = shop.orders("order_id", "total", "state", "items")
    shop.snapshot(30, "DELETE FROM orders WHERE id = 1", "DELETE FROM order_items", accept_deletes=True)
    assert shop.build() == [2]
    assert shop.orders("order_id", "total", "state", "items") == before
    assert shop.orders("order_id", "is_deleted") == [("1", True), ("2", False), ("3", False)]


def test_a_mass_delete_is_refused_and_changes_nothing(shop):
    shop.snapshot(20, *(placed(n) for n in range(1, 5)))
    shop.build()
    (refusal,) = shop.snapshot(30, "DELETE FROM orders WHERE id > 1")
    assert "--accept-deletes" in refusal
    assert shop.build() == []
    assert shop.orders("is_deleted") == [(False,)] * 4


def test_costs_are_those_of_the_moment_of_the_order(shop):
    shop.snapshot(5)
    shop.snapshot(11, "UPDATE items SET cost = '55' WHERE id = 17")
    shop.ingest(order_call(10), order_call(12, 2))
    shop.build()
    assert shop.orders("order_id", "cost", "contribution", "cost_coverage") == [
        ("1", Decimal(40), Decimal(60), 1.0),
        ("2", Decimal(55), Decimal(45), 1.0),
    ]
    shop.snapshot(80, "UPDATE items SET cost = '60' WHERE id = 17")
    assert shop.build() == []


@pytest.mark.parametrize(
    ("id_type", "stored", "called"),
    [
        ("INTEGER", 42, "0042"),
        ("TEXT", "0000042", 42),
        ("TEXT", "ab-42", "AB-42"),
        ("TEXT", "0198f3a1-5b7c-7d2e-8f00-3344556677ff", "0198f3a15b7c7d2e8f003344556677ff"),
    ],
)
def test_orders_meet_however_their_ids_are_written(
    warehouse, settings, tmp_path, ingest_records, id_type, stored, called
):
    shop = Shop(warehouse, settings, tmp_path, ingest_records, id_type=id_type)
    literal = repr(stored)
    shop.ingest(order_call(10, called))
    shop.snapshot(
        20,
        f"INSERT INTO orders VALUES ({literal}, '2026-03-02 10:00:00', 'paid', 10000, 'EUR', 0)",
        f"INSERT INTO order_items VALUES (1, {literal}, 18, 2, 5000)",
        f"INSERT INTO refunds VALUES (1, {literal}, 1000, '', '2026-03-02 11:00:00')",
    )
    shop.build()
    assert shop.orders("order_id", "match", "user_id", "refunded", "items.product") == [
        (str(called), "equal", "", Decimal(10), ["18"])
    ]
    shop.prove()


def test_orders_whose_ids_are_16_bytes_are_the_uuids_of_the_calls(warehouse, settings, tmp_path, ingest_records, monkeypatch):  # fmt: skip
    monkeypatch.setattr(app.shop.mysql, "ReaderProcess", InProcessReader)
    order, plan = "0198f3a1-5b7c-7d2e-8f00-3344556677ff", tmp_path / "plan.toml"
    plan.write_text("\n\n".join(part for part in PLAN.split("\n\n") if part.startswith(("[orders", "[refunds"))))
    row = f"UNHEX('{order.replace('-', '')}')"
    with running_mariadb(tmp_path / "mariadb") as server:
        server.execute(
            "CREATE TABLE shop.orders (id BINARY(16) PRIMARY KEY, created_at DATETIME, status VARCHAR(20), total INT, currency CHAR(3), user_id BINARY(16))",
            "CREATE TABLE shop.refunds (id INT PRIMARY KEY, order_id BINARY(16), amount INT, currency CHAR(3), at DATETIME)",
            f"INSERT INTO shop.orders VALUES ({row}, '2026-03-02 10:00:00', 'paid', 10000, 'EUR', {row})",
            f"INSERT INTO shop.refunds VALUES (1, {row}, 3000, 'EUR', '2026-03-03 10:00:00')",
        )
        of_shop = settings.model_copy(
            update={"shop_db": ServiceUrl.parse(server.url(), "mysql"), "scratch": tmp_path, "snapshots": plan}
        )
        assert [row["error"] for row in take_snapshot(warehouse, of_shop, at=at(40))] == ["", ""]
    ingest_records(order_call(10, order.upper()))
    build_stale(warehouse, of_shop).require_done()
    found = warehouse.query("SELECT order_id, match, refunded, user_id FROM dwh.orders").rows()
    assert found == [(order.upper(), "equal", Decimal(30), order.replace("-", ""))]


def test_calls_may_name_orders_by_a_number_of_their_own(shop):
    plan = PLAN.replace('created = "created_at"', 'created = "created_at"\nnumber = "status"').replace(
        'state = "status"\n', ""
    )
    shop.settings.snapshots.write_text("\n".join(line for line in plan.splitlines() if not line.startswith("states")))
    shop.ingest(order_call(10, "R-1"))
    shop.snapshot(20, placed(1, state="R-1"), given_back(1, hour=12))
    shop.build()
    assert shop.orders("order_id", "match", "refunded") == [("R-1", "equal", Decimal(30))]


def test_forgetting_a_person_clears_their_orders_from_both_sides(shop):
    shop.ingest(order_call(10, user_id="7"), order_call(11, 2, visitor="b"))
    shop.snapshot(60, placed(1), placed(2, 11, user=8), placed(3, 50, user=7), given_back(1, 3, hour=55))
    shop.build()
    assert forget_user(shop.warehouse, shop.settings, "7", now=at(99)).is_proven
    assert shop.orders("order_id") == [("2",)]
    assert shop.refunds("order_id") == [] or shop.refunds("user_id") == [("",)]
    shop.build()
    assert shop.orders("order_id") == [("2",)]


def test_history_that_starts_over_is_compared_from_the_beginning(shop):
    shop.snapshot(20, placed(1), placed(2, 34))
    shop.build()
    shop.snapshot(60, "DELETE FROM orders WHERE id = 2", rebuild=True)
    assert shop.build()
    assert shop.orders("order_id") == [("1",)]


def test_another_meaning_of_a_state_builds_the_orders_again(shop):
    shop.snapshot(20, placed(1, state="sent"))
    shop.build()
    shop.settings.snapshots.write_text(PLAN.replace('paid = ["paid"]', 'paid = ["paid", "sent"]'))
    assert shop.build() == [2]
    assert shop.orders("state") == [("paid",)]


def test_a_day_is_built_alone_and_the_others_stay_stale(shop):
    shop.snapshot(60, placed(1), placed(2, 34))
    build_stale(shop.warehouse, shop.settings, span=(day(3), day(3)))
    assert shop.orders("order_id") == [("2",)]
    assert shop.stale() == [2]
    assert shop.build() == [2]


# ---- the promise -------------------------------------------------------------------------------------------------------

ORDERS = [placed(n, 8 + 6 * n, 1_000 * n) for n in range(1, 6)]
CHANGES = [
    [ORDERS[0], ORDERS[1], given_back(1, 1, 500, 20)],
    [ORDERS[2], state("refunded", 1), "UPDATE items SET cost = '50' WHERE id = 17"],
    [ORDERS[3], ORDERS[4], state("void", 2), given_back(2, 3, 100, 40)],
    ["DELETE FROM orders WHERE id = 4", state("paid", 1), "DELETE FROM refunds WHERE id = 2"],
]
CALLS = [order_call(8 + 6 * n, n, 10 * n, visitor=f"v{n % 2}") for n in (1, 2, 3, 6)] + [order_call(40, 1, 10), order_call(23.95, 7), order_call(24.05, 8)]  # fmt: skip


@hypothesis_settings(max_examples=repeated(3, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_rows_are_the_same_whatever_order_the_data_came_in(shop, settings, seed):
    chance = random.Random(seed)

    def rows() -> list[list[tuple]]:
        return [shop.warehouse.query(f"SELECT * FROM {table.full_name} ORDER BY ALL").rows() for table in BOOK_TABLES]

    def run(steps: list) -> None:
        make_empty(shop.warehouse, settings)
        shop.path.unlink()
        change(shop.path, *(sql.format(id="INTEGER") for sql in TABLES))
        for step in steps:
            if callable(step):
                step()
            elif isinstance(step, dict):
                shop.ingest(step)
            else:
                hour, statements = step
                assert shop.snapshot(hour, *statements, accept_deletes=True) == []
        build_stale(shop.warehouse, shop.settings).require_done()

    snapshots = [(30 * n + 1, statements) for n, statements in enumerate(CHANGES, 1)]
    run([*CALLS, *snapshots])
    once = rows()
    mixed: list = list(snapshots)
    for step in [*CALLS, *[lambda: build_stale(shop.warehouse, shop.settings).require_done()] * 3]:
        mixed.insert(chance.randint(0, len(mixed)), step)
    run(mixed)
    assert rows() == once
