"""Listings, clicks and products of a session, from literal events."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache

import polars as pl

from app.contracts import EVENTS
from app.frames.browsing import browse
from app.frames.carts import with_cart_changes
from app.frames.catalog_sessions import build_catalog_sessions
from app.frames.devices import read_user_agents
from app.frames.orders import counts_as_order, first_order_calls
from app.frames.product_sessions import build_product_sessions
from app.frames.sessions import build_sessions
from app.rules.session_rules import load_session_rules
from app.settings import Settings

_DEFAULTS = {
    "event_date": date(2026, 3, 1), "session_id": "s1", "visitor_id": "v1", "user_id": "", "event": "other", "product_id": "", "quantity": None,
    "price": None, "order_id": "", "revenue": None, "currency": "", "search_query": "", "section": [], "material": [], "metal": [],
    "price_min": None, "price_max": None, "page": None, "per_page": None, "sort": "", "results_total": None, "shown_products": [],
    "map_entry": "", "is_error": False, "amount": None, "filters": {},
    "order_products": [], "order_quantities": [], "order_prices": [], "status": 200, "duration_ms": 1, "endpoint": "/",
}  # fmt: skip
_SESSION = {"session_number": 0, "ip": "", "user_agent": "", "referrer": "", "page_url": ""}


def events(*rows: dict) -> pl.DataFrame:
    """Events a minute apart; what is not said is as if the call did not carry it."""
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    filled = [
        {**_DEFAULTS, **_SESSION, "ts": start + timedelta(minutes=n), "call_id": n.to_bytes(16), **row}
        for n, row in enumerate(rows)
    ]
    schema = dict(EVENTS.schema) | {
        "session_number": pl.UInt32,
        "ip": pl.String,
        "user_agent": pl.String,
        "referrer": pl.String,
        "page_url": pl.String,
    }
    events = pl.DataFrame(filled, schema=schema)
    is_counted = counts_as_order(first_order_calls(events)["call_id"])
    return events.with_columns(session_date=pl.lit(date(2026, 3, 1)), is_counted_order=is_counted).pipe(
        with_cart_changes
    )


def listing(*products: str, **fields) -> dict:
    return {"event": "catalog", "shown_products": list(products), "results_total": len(products), **fields}


def view(product: str, **fields) -> dict:
    return {"event": "product_view", "product_id": product, **fields}


RULES = load_session_rules(Settings(_env_file=None))


@cache
def user_agents(*agents: str) -> pl.DataFrame:
    return read_user_agents(pl.Series(agents), RULES.devices)


def sessions_of(frame: pl.DataFrame) -> pl.DataFrame:
    agents, countries = user_agents(*frame["user_agent"].unique().sort()), RULES.countries.of(frame["ip"].unique())
    return build_sessions(frame, agents, RULES, countries)


def pages(*rows: dict, columns: tuple[str, ...] = ("listing_id", "products_clicked")) -> list[tuple]:
    frame = events(*rows)
    return build_catalog_sessions(browse(frame), sessions_of(frame)).sort("seq").select(columns).rows()


def products(*rows: dict) -> dict[str, dict]:
    frame = events(*rows)
    sessions = sessions_of(frame)
    return {row["product_id"]: row for row in pl.concat(build_product_sessions(browse(frame), sessions, [])).to_dicts()}


def session(*rows: dict) -> dict:
    return sessions_of(events(*rows)).row(0, named=True)


def test_turning_pages_keeps_the_listing_and_another_filter_opens_one():
    assert pages(
        listing(section=["a"]),
        listing(section=["a"], page=2),
        listing(section=["b"]),
        listing(section=["a"], sort="price"),
    ) == [(1, 0), (1, 0), (2, 0), (3, 0)]


def test_a_listing_that_is_come_back_to_is_the_same_and_the_order_of_filters_does_not_matter():
    assert [i for i, _ in pages(listing(section=["a", "b"]), listing(), listing(section=["b", "a"]))] == [1, 2, 1]


def test_a_click_counts_for_the_latest_earlier_page_that_showed_the_product():
    assert pages(listing("1", "2"), listing("2", "3"), view("2"), view("1"), view("9"), listing("3")) == [
        (1, 1),
        (1, 1),
        (1, 0),
    ]


def test_a_product_viewed_before_it_was_shown_is_no_click():
    assert pages(view("1"), listing("1")) == [(1, 0)]


def test_two_views_of_one_product_are_one_product_clicked():
    assert pages(listing("1"), view("1"), view("1")) == [(1, 1)]


def test_sessions_do_not_click_on_each_others_pages():
    other = {"session_number": 1, "session_id": "s2", "visitor_id": "v2"}
    assert pages(listing("1"), view("1", **other)) == [(1, 0)]


def test_outcomes_of_a_page_are_counted_by_product():
    cart = {"event": "cart_add", "product_id": "2"}
    buy = {
        "event": "purchase",
        "order_id": "o",
        "order_products": ["2", "1"],
        "order_quantities": [1, 1],
        "order_prices": [Decimal(5), Decimal(5)],
        "revenue": Decimal(10),
    }
    columns = (
        "products_clicked",
        "products_carted",
        "products_bought",
        "filters_used",
        "is_search",
        "is_zero_result",
        "page",
    )
    row = listing("1", "2", search_query="ring", section=["a"], price_min=Decimal(1), price_max=Decimal(9))
    assert pages(row, view("2"), cart, buy, columns=columns) == [(1, 1, 2, 2, True, False, 1)]
    assert pages(listing(search_query="zzz"), columns=columns)[0][-2] is True


def test_impressions_views_and_carts_meet_in_one_row_a_product():
    found = products(
        listing("1", "2"),
        listing("1"),
        view("1", price=Decimal("9.50")),
        {"event": "cart_add", "product_id": "1"},
        {"event": "favorite_add", "product_id": "7"},
    )
    assert {p: (r["impressions"], r["views"], r["cart_adds"], r["units_added"], r["favorites_added"]) for p, r in found.items()} == {
        "1": (2, 1, 1, 1, 0), "2": (1, 0, 0, 0, 0), "7": (0, 0, 0, 0, 1),
    }  # fmt: skip
    assert found["1"]["price"] == Decimal("9.50")
    assert (found["1"]["listing_id"], found["7"]["listing_id"]) == (1, None)


def order(order_id: str, total: str, *items: tuple[str, int, str]) -> dict:
    names, units, prices = zip(*items, strict=True)
    lists = {
        "order_products": list(names),
        "order_quantities": list(units),
        "order_prices": [Decimal(p) for p in prices],
    }
    return {"event": "purchase", "order_id": order_id, "revenue": Decimal(total), "quantity": sum(units), **lists}


def test_an_order_repeated_in_a_session_counts_once():
    rows = (
        order("o1", "10.00", ("1", 2, "5")),
        order("o1", "10.00", ("1", 2, "5")),
        order("o2", "3.00", ("1", 1, "3")),
    )
    assert (session(*rows)["orders"], session(*rows)["units"], session(*rows)["revenue"]) == (2, 3, Decimal("13.00"))
    assert (products(*rows)["1"]["orders"], products(*rows)["1"]["units_bought"], products(*rows)["1"]["revenue"]) == (
        2,
        3,
        Decimal("13.00"),
    )


def test_orders_without_an_id_all_count():
    assert session(order("", "1", ("1", 1, "1")), order("", "1", ("1", 1, "1")))["orders"] == 2


def test_shares_of_an_order_add_up_to_its_total_to_the_cent():
    found = products(order("o", "10.00", ("1", 1, "1.10"), ("2", 2, "2.20"), ("3", 1, "3.30")))
    assert sum(row["revenue"] for row in found.values()) == Decimal("10.00")
    unpriced = products(order("o", "10.00", ("1", 1, "0"), ("2", 2, "0")))
    assert [unpriced[p]["revenue"] for p in "12"] == [Decimal("3.33"), Decimal("6.67")]
    exact = products(order("o", "7.70", ("1", 1, "1.10"), ("2", 3, "2.20")))
    assert [exact[p]["revenue"] for p in "12"] == [Decimal("1.10"), Decimal("6.60")]


def test_a_bounce_has_at_most_one_call_that_is_something():
    assert session(listing(), {}, {"status": 500})["is_bounce"] is True
    assert session(listing(), view("1"))["is_bounce"] is False


def test_the_furthest_step_is_the_furthest_whatever_was_skipped():
    assert session({})["furthest_step"] == "visit"
    assert session({"event": "favorite_add", "product_id": "1"})["furthest_step"] == "visit"
    assert session(view("1"), listing())["furthest_step"] == "product"
    assert session({"event": "checkout"}, listing())["furthest_step"] == "checkout"


def test_the_last_user_is_the_sessions_and_makes_it_registered():
    found = session({"user_id": "a"}, {"user_id": "b"}, {})
    assert (found["user_id"], found["user_type"]) == ("b", "registered")
    assert (session({})["user_id"], session({})["user_type"]) == ("", "guest")


def test_a_session_comes_from_where_its_first_call_that_says_so_came():
    first = {"page_url": "https://shop.example/rings?x=1"}
    second = {
        "page_url": "https://shop.example/?utm_source=news%20letter&utm_medium=email&gclid=AbC",
        "referrer": "https://www.Mail.example/x",
    }
    found = session(first, second)
    columns = ("landing_page", "referrer_host", "utm_source", "utm_medium", "click_id")
    assert tuple(found[c] for c in columns) == (
        "https://shop.example/rings",
        "mail.example",
        "news letter",
        "email",
        "AbC",
    )


def test_the_places_of_what_was_clicked_are_told_from_one_each_once():
    rows = (listing("1", "2", "3"), view("3"), view("1"), view("3"), listing("3", "4"), view("3"))
    assert pages(*rows, columns=("clicked_positions",)) == [([1, 3],), ([1],)]


def test_a_product_that_a_page_shows_twice_was_clicked_at_its_first_place():
    assert pages(listing("1", "2", "1"), view("1"), columns=("clicked_positions",)) == [([1],)]


def test_a_place_beyond_the_largest_that_fits_is_the_largest():
    shown = [str(number) for number in range(66_000)]
    assert pages(listing(*shown), view("65999"), view("2"), columns=("clicked_positions",)) == [([3, 65535],)]


def test_pages_and_products_say_of_what_session_they_are():
    agent = {"user_agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_3 like Mac OS X) Mobile/15E148 Safari/604.1"}
    rows = (listing("1", referrer="https://www.google.com/", **agent), view("1", **agent))
    expected = (False, "mobile", "Organic Search")
    assert pages(*rows, columns=("is_bot", "device_type", "channel")) == [expected]
    assert [products(*rows)["1"][name] for name in ("is_bot", "device_type", "channel")] == list(expected)
