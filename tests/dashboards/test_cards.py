"""The numbers of the cards on a shop small enough to count by hand: 28 days, of which the last 14 are shown."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from hashlib import sha256
from typing import Any

import pytest
from pydantic import SecretStr

from app.core.sql import quote
from app.dashboards.model import Library, load_library
from app.dashboards.sql import render, values_of
from app.jobs.snapshot import take_snapshot
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from tests.conftest import utc

pytestmark = pytest.mark.slow

# session: day of March, visitor, device, channel, furthest, and more
_SESSIONS = [
    # the 14 days before
    {
        "name": "p1",
        "day": 1,
        "visitor": "ann",
        "device": "desktop",
        "channel": "Email",
        "reached": 5,
        "revenue": 50,
        "units": 1,
    },
    {"name": "p2", "day": 14, "visitor": "bob", "device": "mobile", "channel": "Direct", "reached": 0},
    # the 14 days that are shown
    {
        "name": "s1",
        "day": 15,
        "visitor": "ann",
        "device": "desktop",
        "channel": "Email",
        "reached": 5,
        "revenue": 100,
        "units": 2,
        "hour": 9,
    },
    {"name": "s2", "day": 16, "visitor": "cy", "device": "mobile", "channel": "Direct", "reached": 3, "hour": 9},
    {"name": "s3", "day": 17, "visitor": "di", "device": "mobile", "channel": "Direct", "reached": 2},
    {"name": "s4", "day": 18, "visitor": "ed", "device": "desktop", "channel": "Email", "reached": 1},
    {"name": "s5", "day": 28, "visitor": "flo", "device": "mobile", "channel": "Direct", "reached": 0},
    {
        "name": "s6",
        "day": 20,
        "visitor": "gus",
        "device": "tablet",
        "channel": "Direct",
        "reached": 3,
        "only_favorite": True,
    },
    {"name": "s7", "day": 21, "visitor": "hal", "device": "desktop", "channel": "Email", "reached": 4},
    {
        "name": "b1",
        "day": 16,
        "visitor": "bot",
        "device": "desktop",
        "channel": "Direct",
        "reached": 5,
        "revenue": 9999,
        "units": 9,
        "bot": True,
    },
]
_STEPS = ["Visit", "Catalog", "Product", "Cart", "Checkout", "Purchase"]
_ITEMS = "CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, section TEXT, material TEXT, metal TEXT, price TEXT)"
_STOCK = "CREATE TABLE stock (product_id INTEGER PRIMARY KEY, quantity INTEGER)"
_KEPT = "CREATE TABLE {0} (user_id INTEGER, product_id INTEGER, quantity INTEGER, PRIMARY KEY (user_id, product_id))"


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library()


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("cards")
    settings = Settings(
        _env_file=None,
        warehouse=SecretStr(f"chdb://{folder / 'warehouse'}"),
        shop_db=SecretStr(f"sqlite://{folder / 'shop.sqlite'}"),
        scratch=folder / "scratch",
    )
    with open_warehouse(settings, purpose="a test") as warehouse:
        for session in _SESSIONS:
            _insert(warehouse, "dwh.sessions", _session(**session))
        _products(warehouse)
        _pages(warehouse)
        _events(warehouse)
        _history(warehouse, settings, folder)
        _operations(warehouse)
        yield warehouse


@pytest.fixture
def ask(shop, library) -> Callable[..., list[tuple]]:
    """The rows of a card, its columns in their order."""

    def run(name: str, **chosen: Any) -> list[tuple]:
        for dashboard in library.dashboards:
            for dashcard in dashboard.dashcards:
                if dashcard.card and dashcard.card.name == name:
                    return shop.query(render(dashcard.card, values_of(dashboard, dashcard, chosen))).rows()
        raise AssertionError(f"no card {name}")

    return run


@pytest.fixture
def figures(ask) -> Callable[..., list[tuple]]:
    """The rows of a number: the day on which its period begins, and the number."""
    return lambda name, **chosen: [row[:2] for row in ask(name, **chosen)]


def _insert(warehouse: Warehouse, table: str, row: dict[str, Any]) -> None:
    names, values = ", ".join(row), ", ".join(map(_literal, row.values()))
    warehouse.command(f"INSERT INTO {table} ({names}) SELECT {values}")


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"map({', '.join(map(_literal, (part for pair in value.items() for part in pair)))})"
    return quote(str(value)) if isinstance(value, str | date) else ("NULL" if value is None else str(value))


def _session(
    *, name: str, day: int, visitor: str, device: str, channel: str, reached: int, revenue: int = 0, units: int = 0,
    hour: int = 12, only_favorite: bool = False, bot: bool = False,
) -> dict[str, Any]:  # fmt: skip
    return {
        "session_date": date(2026, 3, day), "session_id": _session_id(visitor, name), "visitor_id": visitor, "is_bot": bot,
        "started_at": f"2026-03-{day:02} {hour:02}:00:00", "ended_at": f"2026-03-{day:02} {hour:02}:05:00", "duration_s": 300.0,
        "catalog_views": int(reached >= 1), "product_views": int(reached >= 2),
        "favorites_added": int(only_favorite), "cart_adds": int(reached >= 3 and not only_favorite),
        "checkouts": int(reached >= 4), "orders": int(reached == 5), "revenue": revenue, "units": units,
        "device_type": device, "channel": channel, "source": channel.lower(), "medium": "(none)",
        "landing_page": "https://shop.example/en/rings", "is_bounce": reached == 0,
        "furthest_step": "product" if only_favorite else _STEPS[reached].lower(),
    }  # fmt: skip


def _session_id(visitor: str, name: str) -> str:
    """As in life, it begins with a hash of the visitor."""
    return f"{sha256(visitor.encode()).hexdigest()[:16]}-{name}"


def _products(warehouse: Warehouse) -> None:
    of_session = {session["name"]: _session(**session) for session in _SESSIONS}
    for session, product, values in [
        (
            "s1",
            "10",
            {
                "impressions": 3,
                "views": 1,
                "cart_adds": 1,
                "units_added": 2,
                "orders": 1,
                "units_bought": 2,
                "revenue": 100,
                "price": 50,
            },
        ),
        (
            "s1",
            "12",
            {"impressions": 1, "cart_adds": 1, "units_added": 1, "price": 70},
        ),  # left, but the session did order
        ("s2", "10", {"impressions": 1, "views": 1, "cart_adds": 1, "units_added": 2, "price": 30}),
        (
            "s2",
            "11",
            {"impressions": 1, "views": 1, "cart_adds": 1, "cart_removes": 1, "units_added": 1, "price": 500},
        ),  # taken out again
        ("s3", "12", {"impressions": 1, "views": 2, "price": 70, "stock_qty": 0}),
        ("s7", "10", {"views": 1, "cart_adds": 1, "units_added": 1, "price": 25}),
        (
            "b1",
            "10",
            {
                "impressions": 99,
                "views": 99,
                "cart_adds": 9,
                "units_added": 9,
                "orders": 1,
                "revenue": 9999,
                "price": 1,
            },
        ),
    ]:
        kept = ("session_date", "session_id", "visitor_id", "is_bot", "device_type", "channel")
        row = {name: of_session[session][name] for name in kept}
        row |= {"product_id": product, "first_seen_at": of_session[session]["started_at"], "title": f"Ring {product}"}
        _insert(warehouse, "dwh.product_sessions", row | {"section": "rings", "stock_qty": 4} | values)


def _pages(warehouse: Warehouse) -> None:
    of_session = {session["name"]: _session(**session) for session in _SESSIONS}
    for seq, (session, page, query, shown, clicked, values) in enumerate([
        ("s1", 1, "Gold Ring", 4, [3], {"section": ["rings"], "filters_used": 1, "products_carted": 1, "products_bought": 1}),
        ("s1", 2, "Gold Ring", 4, [], {"section": ["rings"], "filters_used": 1}),
        ("s2", 1, " gold ring", 0, [], {"is_zero_result": True}),
        ("s3", 1, "pearl", 3, [], {"material": ["pearl"], "price_max": 100, "filters_used": 2, "filters": {"stone": ["ruby", "pearl"]}}),
        ("s4", 1, "", 2, [1], {"section": ["rings"], "sort": "newest", "filters_used": 1}),
        ("b1", 1, "gold ring", 4, [1, 2], {}),
    ], start=1):  # fmt: skip
        kept = ("session_date", "session_id", "visitor_id", "is_bot", "device_type", "channel")
        row = {name: of_session[session][name] for name in kept} | {
            "call_id": f"00000000-0000-0000-0000-{seq:012}", "ts": of_session[session]["started_at"], "seq": seq, "listing_id": 1,
            "search_query": query, "page": page, "results_shown": shown, "is_search": bool(query.strip()),
            "products_clicked": len(clicked),
        }  # fmt: skip
        cast = f"CAST({clicked}, 'Array(UInt16)')"
        names, values_sql = ", ".join(row | values), ", ".join(map(_literal, (row | values).values()))
        warehouse.command(f"INSERT INTO dwh.catalog_sessions ({names}, clicked_positions) SELECT {values_sql}, {cast}")


def _events(warehouse: Warehouse) -> None:
    ids = {session["name"]: _session(**session)["session_id"] for session in _SESSIONS}
    for number, (session, day, second, event) in enumerate([
        ("s1", 15, 0, "other"), ("s1", 15, 10, "catalog"), ("s1", 15, 30, "product_view"), ("s1", 15, 90, "cart_add"),
        ("s1", 15, 100, "checkout"), ("s1", 15, 140, "purchase"),
        ("s3", 17, 0, "catalog"), ("s3", 17, 40, "product_view"),
        ("s7", 21, 0, "product_view"), ("s7", 21, 20, "catalog"),  # the other way round is no way from catalog to product
        ("b1", 16, 0, "catalog"), ("b1", 16, 1, "product_view"),
        ("s3", 17, 30, "/api/v1/products/7"), ("s1", 15, 5, "/api/v1/nowhere"),  # calls that failed
    ]):  # fmt: skip
        is_error = event.startswith("/")
        row = {
            "event_date": date(2026, 3, day), "ts": f"2026-03-{day} 09:{second // 60:02}:{second % 60:02}",
            "call_id": f"00000000-0000-0000-0001-{number:012}", "session_id": ids[session],
            "event": "other" if is_error else event, "status": 500 if is_error else 200, "is_error": is_error,
            "endpoint": event if is_error else "/api/v1/products/12",
            "map_entry": "2: GET /api/v1/products/{product_id}" if event == "product_view" else "",
        }  # fmt: skip
        _insert(warehouse, "dwh.events", row)


def _history(warehouse: Warehouse, settings: Settings, folder) -> None:
    shop = sqlite3.connect(folder / "shop.sqlite")
    for statement in (_ITEMS, _STOCK, _KEPT.format("cart"), _KEPT.format("favorites")):
        shop.execute(statement)
    shop.executemany(
        "INSERT INTO items VALUES (?, ?, 'rings', 'none', 'gold', ?)",
        [(10, "Ring 10", "50.00"), (12, "Ring 12", "70.00")],
    )
    shop.executemany("INSERT INTO stock VALUES (?, ?)", [(10, 5), (12, 0)])
    shop.executemany("INSERT INTO cart VALUES (?, ?, ?)", [(1, 10, 2), (2, 10, 1)])
    shop.execute("INSERT INTO favorites VALUES (1, 12, 1)")
    shop.commit()
    take_snapshot(warehouse, settings, at=utc("2026-03-10 08:00"), accept_deletes=True)
    shop.execute("UPDATE items SET price = '60.00' WHERE id = 10")
    shop.execute("UPDATE stock SET quantity = 7 WHERE product_id = 12")
    shop.execute("UPDATE stock SET quantity = 0 WHERE product_id = 10")
    shop.execute("DELETE FROM cart WHERE user_id = 2")
    shop.execute("INSERT INTO favorites VALUES (2, 10, 1)")
    shop.commit()
    shop.close()
    take_snapshot(warehouse, settings, at=utc("2026-03-20 08:00"), accept_deletes=True)


def _operations(warehouse: Warehouse) -> None:
    for number, (day, state, error) in enumerate(
        [(15, "failed", "orders differ"), (15, "done", ""), (16, "done", ""), (16, "failed", "no rows")]
    ):
        at = f"2026-03-29 0{number}:00:00"
        _insert(warehouse, "etl.runs", {
            "run_id": str(number), "job": "etl", "day": date(2026, 3, day), "started_at": at, "ended_at": at, "state": state,
            "seconds": 1.5, "error": error,
        })  # fmt: skip
    for day, built_at, entry, field, problem in (
        (15, "10:00", "GET /products", "product_id", "empty in 3 of 3 calls"),
        (16, "10:00", "GET /products", "product_id", "empty in 4 of 4 calls"),
        (16, "10:00", "", "", "2 of 3 successful calls fit no entry"),
        (17, "10:00", "POST /orders", "revenue", "empty in 1 of 1 calls"),
        (17, "11:00", "POST /orders", "revenue", ""),  # built again by a corrected map
    ):
        _insert(warehouse, "etl.coverage", {
            "day": date(2026, 3, day), "built_at": f"2026-03-29 {built_at}:00", "map_entry": entry, "field": field, "calls": day,
            "problem": problem, "fix": "point it elsewhere" if problem else "",
        })  # fmt: skip
    for number, hours in enumerate((1, 30, 100)):
        _insert(warehouse, "pd.api_calls", {
            "call_id": f"00000000-0000-0000-0002-{number:012}", "ts": "2026-03-16 12:00:00",
            "received_at": f"{utc('2026-03-16 12:00') + timedelta(hours=hours):%Y-%m-%d %H:%M:%S}",
        })  # fmt: skip


# ---- Store overview ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("card", "before", "now"), [
    ("Sessions", 2, 7),
    ("Visitors", 2, 7),
    ("Orders", 1, 1),
    ("Revenue", 50, 100),
    ("Sessions that ended in an order", 1 / 2, 1 / 7),
    ("Average order value", 50, 100),
    ("Median order value", 50, 100),
    ("Revenue per visit", 25, 100 / 7),
])  # fmt: skip
def test_number_stands_beside_that_of_as_many_days_before(ask, card, before, now):
    """Bots count nowhere; the last 14 whole days are shown where no date is chosen."""
    rows = ask(card)
    assert [row[0] for row in rows] == [date(2026, 3, 1), date(2026, 3, 15)]
    assert [float(row[1]) for row in rows] == pytest.approx([before, now])


def test_chosen_days_are_compared_with_as_many_right_before(figures):
    assert figures("Sessions", date="2026-03-15~2026-03-16") == [(date(2026, 3, 13), 1), (date(2026, 3, 15), 2)]


def test_nothing_is_compared_where_the_days_before_are_not_all_known(ask):
    assert ask("Sessions", date="2026-03-05~2026-03-28") == [(date(2026, 3, 5), 8, "")]
    assert [row[2] for row in ask("Sessions by day", date="2026-03-05~2026-03-28")] == [None] * 8


def test_filters_narrow_numbers_down(figures):
    assert figures("Sessions", device=["mobile"]) == [(date(2026, 3, 1), 1), (date(2026, 3, 15), 3)]
    assert figures("Revenue", channel=["Email"], device=["desktop", "tablet"])[-1][1] == 100


def test_a_filter_that_nothing_fits_gives_zeros_and_no_verdict(ask):
    rows = ask("Sessions", channel=["Email'; DROP TABLE dwh.sessions --"])
    assert [row[1:] for row in rows] == [(0, ""), (0, "too few to tell")]


def test_average_order_without_orders_is_no_number(figures):
    rows = figures("Average order value", date="2026-03-16~2026-03-21")
    assert rows == [(date(2026, 3, 10), 100.0), (date(2026, 3, 16), None)]


def test_a_change_of_a_few_is_never_called_real(ask):
    for card in ("Sessions", "Orders", "Revenue", "Sessions that ended in an order", "Average order value"):
        assert ask(card)[-1][2] in {"within noise", "too few to tell"}, card


def test_day_stands_beside_the_same_day_of_the_period_before(ask):
    by_day = {row[0]: row[1:] for row in ask("Sessions by day")}
    assert by_day[date(2026, 3, 15)] == (1, 1)
    assert by_day[date(2026, 3, 28)] == (1, 1)
    assert by_day[date(2026, 3, 16)] == (1, 0)


def test_hours_of_the_week_are_averages_of_the_weekdays_in_the_period(ask):
    hours = {row[:2]: row[2] for row in ask("Sessions by hour of the week")}
    assert hours["Mon", "09"] == 0.5  # one session on two Mondays
    assert hours["Sun", "09"] == 0.5
    assert sum(hours.values()) == pytest.approx(7 / 2)


def test_returning_are_those_whose_person_came_before(ask):
    rows = {row[0]: row[1:3] for row in ask("New and returning visitors")}
    assert rows["New"][0] == 6
    assert rows["Returning"] == (1, 1.0)
    assert {row[0]: row[1] for row in ask("New and returning visitors", device=["desktop"])} == {
        "New": 2,
        "Returning": 1,
    }


# ---- Shopper journey ---------------------------------------------------------------------------------------------


def test_funnel_counts_sessions_that_reached_a_step_or_a_later_one(ask):
    """A favorite without anything in the cart is no step."""
    assert ask("From visit to purchase") == list(zip(_STEPS, [7, 6, 5, 3, 2, 1], strict=True))
    assert [row[1] for row in ask("From visit to purchase", device=["mobile"])] == [3, 2, 2, 1, 0, 0]


def test_favorites_stand_beside_the_steps(ask):
    assert [row[:4] for row in ask("Favorites, a branch beside the way")] == [
        ("With a favorite", 1, 0.0, 0.0),
        ("Without one", 4, 3 / 4, 1 / 4),
    ]


def test_loss_that_costs_most_money_comes_first(ask):
    """Of 2 sessions in the checkout 1 bought, before all did: 1 order of 100 less."""
    rows = ask("Where losses changed most")
    assert [row[0] for row in rows] == [
        "Checkout → Purchase", "Product → Cart", "Cart → Checkout", "Visit → Catalog", "Catalog → Product",
    ]  # fmt: skip
    assert rows[0] == ("Checkout → Purchase", 0.5, 1.0, -0.5, "too few to tell", -1.0, -100.0)
    assert rows[1][1:] == (0.6, 1.0, -0.4, "too few to tell", pytest.approx(-2 / 3), pytest.approx(-200 / 3))


def test_failed_calls_belong_to_the_step_of_the_calls_that_succeed_at_the_same_address(ask):
    rows = {row[0]: row[1:] for row in ask("Calls that failed, step by step")}
    assert rows["Product"] == (4, 1, 0.25, 1, 1, 0.0, 0.5, None, "too few to tell")
    assert rows["Checkout"] == (1, 0, 0.0, 0, 0, None, 1.0, None, "")
    assert rows["Elsewhere"][:2] == (2, 1)


def test_ratio_without_a_denominator_is_no_number(ask):
    rows = {row[0]: row for row in ask("Step by step on each device")}
    assert rows["tablet"][3:5] == pytest.approx((6 / 7, 5 / 6))
    assert rows["tablet"][6:8] == (None, None)


def test_rates_of_few_sessions_are_those_of_all(ask):
    """Devices differ less than chance makes them differ: each has the common rate."""
    rows = ask("Step by step on each device")
    assert [row[8] for row in rows] == pytest.approx([1 / 7] * 3)
    assert {row[-1] for row in rows} == {"too few to tell"}


def test_time_between_steps_counts_only_steps_in_their_order(ask):
    pace = {row[0]: row[1:] for row in ask("How long the way to each step takes")}
    assert pace["Catalog → Product"][0] == 2
    assert pace["Cart → Checkout"] == (1, "10 s", "10 s")
    assert pace["Product → Cart"] == (1, "1 min 0 s", "1 min 0 s")


def test_carts_left_behind_are_those_of_sessions_without_an_order(ask, figures):
    assert figures("Carts left behind") == [(date(2026, 3, 1), 0), (date(2026, 3, 15), 2)]
    assert ask("Carts that were left behind, of all carts")[-1][1] == pytest.approx(2 / 3)
    assert dict(ask("How far carts came before they were left")) == {"Left in the cart": 1, "Left in the checkout": 1}


def test_parts_of_the_carts_left_behind_add_up_to_them(ask, figures):
    for chosen in ({}, {"device": ["mobile"]}, {"channel": ["Email"]}):
        parts = [row[1] for row in ask("How far carts came before they were left", **chosen)]
        assert sum(parts) == figures("Carts left behind", **chosen)[-1][1]


def test_value_left_in_carts_is_of_carts_left_behind_and_not_taken_out_again(ask, figures):
    assert [float(row[1]) for row in figures("Value left in carts")] == [0, 2 * 30 + 25]
    assert [float(row[1]) for row in figures("Value left in carts", channel=["Email"])] == [0, 25]
    assert {row[0]: float(row[1]) for row in ask("Value left in carts by day")}[date(2026, 3, 16)] == 60
    left = [(row[0], row[1], row[2], float(row[3])) for row in ask("What is left in carts")]
    assert left == [("Ring 10", 2, 3, 85.0)]


# ---- Traffic, catalog, products ----------------------------------------------------------------------------------


def test_channels_say_what_they_bring_and_how_that_changed(ask):
    rows = {row[0]: row[1:] for row in ask("What each channel brings")}
    assert list(rows) == ["Email", "Direct"]  # by revenue
    assert rows["Direct"][:2] == (4, 3.0)
    assert rows["Direct"][3] == 0.25
    assert rows["Email"][:2] == (3, 2.0)
    assert (rows["Email"][5], float(rows["Email"][6])) == (1, 100.0)


def test_parts_add_up_to_the_whole_where_a_list_is_cut(ask, figures, shop):
    for name, whole in (("Where visits come from", "Sessions"), ("Where revenue comes from", "Revenue")):
        assert sum(float(row[1]) for row in ask(name)) == float(figures(whole)[-1][1])
    for number in range(20):
        _insert(shop, "dwh.sessions", _session(
            name=f"x{number}", day=1, visitor=f"x{number}", device="tv", channel=f"Channel {number:02}", reached=0,
        ))  # fmt: skip
    rows = ask("Where visits come from", device=["tv"], date="2026-03-01")
    shop.command("ALTER TABLE dwh.sessions DELETE WHERE device_type = 'tv' SETTINGS mutations_sync = 1")
    assert len(rows) == 13
    assert rows[-1] == ("All others", 8)


def test_sources_and_pages_say_what_they_bring_by_revenue(ask):
    assert [(row[0], row[3], row[6], float(row[7])) for row in ask("Which sources visits come from")] == [
        ("email", 3, 1, 100.0), ("direct", 4, 0, 0.0),
    ]  # fmt: skip
    (page,) = ask("Which pages visits begin on")
    assert page[:3] == ("/en/rings", 7, pytest.approx(1 / 7))
    assert page[3] == pytest.approx(1 / 7)


def test_query_counts_once_a_session_however_many_pages_are_turned(ask, figures):
    assert figures("Search listings") == [(date(2026, 3, 1), 0), (date(2026, 3, 15), 3)]
    assert ask("Searches that found nothing")[-1][1] == pytest.approx(1 / 3)
    assert ask("Searches without a click")[-1][1] == pytest.approx(1 / 2)
    assert ask("What people search for most")[0] == ("gold ring", 2, 0.5, 0.5, 0.5, 0.5)
    assert ask("Searches that found nothing, most frequent first") == [("gold ring", 1, 2, 0.5)]
    assert ask("Searches whose results nobody opened") == [("pearl", 1, 1, 1.0)]


def test_click_through_of_a_place_is_of_the_first_pages_that_showed_it(ask):
    places = dict(ask("How often the product at each place is opened"))
    assert places == pytest.approx({1: 1 / 3, 2: 0.0, 3: 1 / 2, 4: 0.0})


def test_listing_counts_for_every_kind_of_filter_it_used(ask):
    rows = {row[0]: row[1] for row in ask("Which filters people use, and what they lead to")}
    assert rows == {"Section": 2, "None": 1, "Material": 1, "Price": 1}
    assert ask("How many pages people turn") == [("1", 3, None), ("2", 1, None)]  # too few for a share
    assert ask("Which price bands people choose")[0][:2] == ("up to 100", 1)


def test_products_count_on_their_way_to_a_purchase(ask):
    rows = {row[0]: row[1:] for row in ask("What each product does on its way to a purchase")}
    shown, opened, rate, _, carts, orders, ordered, units, revenue = rows["Ring 10"]
    assert (shown, opened, carts, orders, units, float(revenue)) == (2, 3, 3, 1, 2, 100.0)
    assert (rate, ordered) == (1.0, pytest.approx(1 / 3))
    assert rows["Ring 12"][:3] == (2, 1, 0.5)
    assert dict(ask("From shown to bought")) == {"Shown": 6, "Opened": 6, "Cart": 5, "Bought": 1}


def test_sections_and_products_count_the_same_things(ask):
    (section,) = ask("Which sections sell")
    products = [row[1:] for row in ask("What each product does on its way to a purchase")]
    counted = [sum(column) for column in zip(*((p[0], p[1], p[4], p[5]) for p in products), strict=True)]
    assert list(section[1:5]) == counted


def test_product_that_sells_like_its_section_misses_no_orders(ask):
    """Three rings with 3, 1 and 1 openings and one order: chance explains that easily."""
    rows = {row[0]: row for row in ask("Much seen, little bought")}
    assert set(rows) == {"Ring 11", "Ring 12"}
    opened, placed, rate, expected, chance, verdict, missing, revenue = rows["Ring 12"][2:10]
    assert (opened, placed, rate, expected) == (1, 0, pytest.approx(1 / 5), pytest.approx(1 / 5))
    assert (chance, verdict) == (pytest.approx(0.8187, abs=1e-4), "within noise")  # exp(-1/5)
    assert (missing, revenue) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


def test_product_that_was_out_of_stock_when_it_was_opened_was_wanted(ask):
    (row,) = ask("Out of stock while wanted")
    assert (row[0], row[1], row[2], row[-1]) == ("Ring 12", 1, 2, 7)
    assert row[7:9] == (pytest.approx(1 / 5), pytest.approx(70 / 5))  # of 5 products wanted in stock 1 was ordered


def test_price_change_is_compared_over_as_many_days_before_as_after_without_the_day_itself(ask):
    (row,) = ask("What price changes did")
    assert row[:5] == (date(2026, 3, 20), "Ring 10", "up", pytest.approx(0.2), 7)
    assert row[5:9] == (2, 1, 0.5, 0.0)
    assert row[9:] == (0.0, None, "too few to tell")  # two other products were opened before, none after


# ---- history, health ---------------------------------------------------------------------------------------------


def test_history_is_as_of_the_end_of_the_last_day(ask):
    assert ask("Units in stock") == [(7,)]
    assert ask("Units in stock", date="2026-03-11~2026-03-19") == [(5,)]
    assert ask("Value of the stock", date="2026-03-19") == [(250.0,)]
    assert ask("Value of all carts") == [(120.0,)]
    assert ask("Value of all carts", date="2026-03-15") == [(150.0,)]
    assert ask("Products out of stock", date="2026-03-09") == [(0,)]


def test_history_by_day_is_the_state_at_the_end_of_each(ask):
    units = dict(ask("Units in stock, day by day"))
    assert len(units) == 14
    assert (units[date(2026, 3, 19)], units[date(2026, 3, 20)], units[date(2026, 3, 28)]) == (5, 7, 7)
    early = dict(ask("Units in stock, day by day", date="2026-03-08~2026-03-11"))
    assert list(early.values()) == [0, 0, 5, 5]
    assert dict(ask("Favorites, day by day"))[date(2026, 3, 20)] == 2


def test_day_is_refused_when_its_last_build_failed(ask):
    rows = [(row[0], row[1], row[3], row[4], row[5]) for row in ask("Did each day pass its checks")]
    assert rows == [
        (date(2026, 3, 16), "refused", 2, 1, "no rows"),
        (date(2026, 3, 15), "passed", 2, 1, "orders differ"),
    ]
    assert ask("Days that are not built because they failed") == [(1,)]


def test_each_value_of_a_filter_of_the_shop_counts(ask):
    assert ask("Filters used") == [("stone", "pearl", 1, 0.0, 0.0, 0.0), ("stone", "ruby", 1, 0.0, 0.0, 0.0)]
    assert ask("Filters used", device=["desktop"]) == []


def test_place_where_the_map_does_not_fit_stands_once_as_its_last_day_says(ask):
    """Of a day that was built again only the last build counts."""
    assert ask("What the endpoint map does not fit") == [
        ("the map", "", "2 of 3 successful calls fit no entry", "point it elsewhere", 1, date(2026, 3, 16)),
        ("GET /products", "product_id", "empty in 4 of 4 calls", "point it elsewhere", 2, date(2026, 3, 16)),
    ]
    (first,) = ask("What the endpoint map does not fit", date="2026-03-15~2026-03-15")
    assert (first[2], first[4]) == ("empty in 3 of 3 calls", 1)


def test_late_calls_are_counted_by_the_day_they_happened_on(ask):
    assert ask("Calls that came more than a day late") == [(date(2026, 3, 16), 1, 1)]
