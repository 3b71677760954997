"""What calls and the shop's database say of an order becomes one row, and what was given back a row each."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.contracts import ORDERS, REFUNDS
from app.frames.order_book import (
    CALLS_SCHEMA,
    ITEMS_SCHEMA,
    REFUNDS_SCHEMA,
    VERSIONS_SCHEMA,
    OrderRules,
    OrderSourceRows,
    build_order_book,
)
from app.rules.currencies import RATES_SCHEMA
from tests.support.effort import repeated

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
STATES = {"pending": "open", "paid": "paid", "gone": "cancelled", "back": "refunded"}
RATES = {"USD": {2: "1.25", 5: "1.00"}}  # units per euro, by the day of March from which they hold


def rates(codes, days) -> pl.DataFrame:
    found = []
    for day in days:
        found.append((day, "EUR", Decimal(1)))
        for code in codes & RATES.keys():
            known = [rate for first, rate in RATES[code].items() if date(2026, 3, first) <= day]
            found += [(day, code, Decimal(known[-1]))] if known else []
    return pl.DataFrame(found, schema=RATES_SCHEMA, orient="row")


RULES = OrderRules(ZoneInfo("UTC"), ZoneInfo("UTC"), "EUR", "EUR", rates, STATES)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def call(hours: float = 0, order: str = "1", total: str | None = "100", *, number: int = 1, **fields) -> dict:
    moment = at(hours)
    return {
        "order_key": order, "session_date": moment.date(), "ts": moment, "call_id": bytes([number]) * 16,
        "session_id": f"s{number}", "visitor_id": "v", "user_id": "", "channel": "Direct", "order_id": order,
        "revenue": total and Decimal(total), "revenue_original": total and Decimal(total), "currency": "EUR",
        "order_products": ["17"], "order_quantities": [1], "order_prices": [Decimal(100)], "is_counted": number == 1,
    } | fields  # fmt: skip


def version(state: str = "paid", order: str = "1", total: str | None = "100", *, seen: float = 1, **fields) -> dict:
    return {
        "order_key": order, "order_id": order, "version": 1, "valid_from": at(seen), "is_deleted": False,
        "created": NOON, "state": state, "total": total and Decimal(total), "currency": "EUR", "refunded": None,
        "user_id": "", "is_test": False,
    } | fields  # fmt: skip


def refund(amount: str, hours: float = 24, *, order: str = "1", **fields) -> dict:
    return {
        "order_key": order, "order_id": order, "refund_id": f"r{amount}", "valid_from": at(hours + 1),
        "is_deleted": False, "at": at(hours), "amount": Decimal(amount), "currency": "",
    } | fields  # fmt: skip


def item(product: str = "17", units: int = 1, price: str = "100", cost: str | None = None, **fields) -> dict:
    return {
        "order_key": "1", "row": product, "valid_from": at(1), "is_deleted": False, "product_id": product,
        "units": units, "price": Decimal(price), "cost": cost and Decimal(cost),
    } | fields  # fmt: skip


def book(calls=(), versions=(), refunds=(), items=(), rules=RULES, costs=()):
    return build_order_book(
        OrderSourceRows(
            pl.DataFrame(list(calls), schema=CALLS_SCHEMA),
            pl.DataFrame(list(versions), schema=VERSIONS_SCHEMA),
            pl.DataFrame(list(items), schema=ITEMS_SCHEMA),
            pl.DataFrame(list(refunds), schema=REFUNDS_SCHEMA),
        ),
        rules,
        costs,
    )


def order(*columns: str, **rows) -> tuple:
    """These columns of the only order."""
    return book(**rows).orders.select(columns).row(0)


def money(*amounts: str) -> tuple[Decimal, ...]:
    return tuple(map(Decimal, amounts))


# ---- both sides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "versions", "match"), [
    ([call()], [version()], "equal"), ([call(total="100.01")], [version()], "amount_differs"),
    ([call(total="100.004")], [version()], "equal"), ([call()], [], "only_called"), ([], [version()], "only_in_database"),
    ([call(), call(2, number=2)], [version()], "called_twice"), ([call(total=None)], [version()], "equal"),
    ([call(total="90"), call(2, number=2)], [version()], "amount_differs"), ([call(), call(number=2)], [], "only_called"),
    ([call(currency="USD", revenue=Decimal(79))], [version(total="80")], "equal"),  # the shop has rates of its own
    ([call(currency="USD", revenue=Decimal(70))], [version(total="80")], "amount_differs"),
])  # fmt: skip
def test_how_the_two_sides_agree(calls, versions, match):
    assert order("match", calls=calls, versions=versions) == (match,)


def test_the_database_says_the_total_and_the_call_where_the_database_is_silent():
    totals = ("total", "called_total", "database_total")
    assert order(*totals, calls=[call(total="90")], versions=[version()]) == money("100", "90", "100")
    assert order(*totals, calls=[call()], versions=[version(total=None)]) == (Decimal(100), Decimal(100), None)
    assert order(*totals, calls=[call()]) == (Decimal(100), Decimal(100), None)


def test_an_order_is_of_the_day_on_which_either_side_first_saw_it():
    before_midnight, after = call(11.9), version(created=at(12.1), seen=13)
    assert order("order_date", calls=[before_midnight], versions=[after]) == (date(2026, 3, 2),)
    assert order("order_date", calls=[call(12.1)], versions=[version(created=at(11.9), seen=13)]) == (date(2026, 3, 2),)
    assert order("order_date", "created_at", versions=[version(created=None, seen=13)]) == (date(2026, 3, 3), at(13))
    assert order("created_at", versions=[version(created=at(99), seen=13)]) == (at(13),)  # not before it was read


def test_the_first_time_that_was_read_stays_whatever_the_shop_writes_later():
    versions = [version(), version(version=2, seen=50, created=at(40))]
    assert order("created_at", versions=versions) == (NOON,)


def test_local_times_of_the_shop_are_instants_of_its_zone():
    local = OrderRules(ZoneInfo("UTC"), ZoneInfo("Europe/Berlin"), "EUR", "EUR", rates, STATES)
    assert order("created_at", versions=[version()], rules=local) == (at(-1),)


def test_the_first_call_says_whose_the_order_is_and_the_database_where_the_session_knows_no_user():
    columns = ("session_id", "channel", "user_id", "calls")
    calls = [call(2, number=2, channel="Email"), call(user_id="u")]
    assert order(*columns, calls=calls, versions=[version(user_id="7")]) == ("s1", "Direct", "u", 2)
    assert order(*columns, calls=[call()], versions=[version(user_id="7")]) == ("s1", "Direct", "7", 1)
    assert order(*columns, versions=[version(user_id="7")]) == ("", "", "7", 0)


# ---- states and refunds ----------------------------------------------------------------------------------------------

RESULT = ("state", "refunded", "net_revenue")


def test_an_order_is_refunded_in_part_then_in_full_and_counted_once():
    versions = [version(), version("back", version=2, seen=60)]
    partly = book([call()], versions[:1], [refund("30")])
    assert partly.orders.select(RESULT).row(0) == ("partly_refunded", *money("30", "70"))
    whole = book([call()], versions, [refund("30")])  # the state says that all was given back
    assert whole.orders.select(RESULT).row(0) == ("refunded", *money("100", "0"))
    assert whole.refunds.select("refund_id", "amount", "said_by", "refunded_at").rows() == [
        ("1:2", Decimal(70), "order", at(60)), ("r30", Decimal(30), "refunds", at(24)),
    ]  # fmt: skip
    rest = book([call()], versions, [refund("30"), refund("70", 59)])  # and so does a refund of the rest
    assert rest.orders.select(RESULT).row(0) == ("refunded", *money("100", "0"))
    assert rest.refunds["amount"].sort().to_list() == [Decimal(30), Decimal(70)]


def test_a_refund_larger_than_the_order_makes_its_net_revenue_negative():
    assert order(*RESULT, versions=[version()], refunds=[refund("120")]) == ("refunded", *money("120", "-20"))


def test_a_negative_amount_gives_back_as_much():
    assert order(*RESULT, versions=[version()], refunds=[refund("-30")]) == ("partly_refunded", *money("30", "70"))


def test_a_refund_is_converted_by_the_rate_of_its_day_and_compared_in_the_currency_of_the_order():
    versions = [version(currency="USD")]
    one = book(versions=versions, refunds=[refund("100", 3 * 24, currency="USD")])
    assert one.orders.select(*RESULT, "total").row(0) == ("refunded", *money("100", "-20", "80"))
    assert one.refunds.select("amount", "amount_original", "currency").row(0) == (*money("100", "100"), "USD")
    other = book(versions=[version()], refunds=[refund("50", 24, currency="USD")])
    assert other.orders.select(RESULT).row(0) == ("partly_refunded", *money("40", "60"))
    blank = book(versions=versions, refunds=[refund("50", 24)])  # in the currency of the order
    assert blank.orders.select(RESULT).row(0) == ("partly_refunded", *money("40", "40"))


def test_where_only_the_order_tells_of_refunds_each_rise_is_one_on_its_own_date():
    versions = [
        version(), version(version=2, seen=24, refunded=Decimal(20)), version(version=3, seen=48, refunded=Decimal(20)),
        version(version=4, seen=72, refunded=Decimal(50)),
    ]  # fmt: skip
    found = book(versions=versions)
    assert found.refunds.select("refund_date", "amount").rows() == [
        (date(2026, 3, 3), Decimal(20)),
        (date(2026, 3, 5), Decimal(30)),
    ]
    assert found.orders.select(RESULT).row(0) == ("partly_refunded", *money("50", "50"))


def test_a_state_that_flips_back_takes_the_refund_back():
    versions = [version(), version("back", version=2, seen=24), version("paid", version=3, seen=48)]
    found = book(versions=versions)
    assert found.refunds["amount"].to_list() == [Decimal(100), Decimal(-100)]
    assert found.orders.select(RESULT).row(0) == ("paid", *money("0", "100"))


def test_a_refund_that_was_there_when_the_order_was_first_read_is_dated_like_the_order():
    found = book(versions=[version("back", seen=500)])
    assert found.refunds.select("refunded_at", "order_date").row(0) == (NOON, NOON.date())


@pytest.mark.parametrize(
    ("row", "state"),
    [(version("gone"), "cancelled"), (version(is_test=True), "test"), (version("GONE "), "cancelled")],
)
def test_cancelled_and_test_orders_count_nothing_whatever_was_given_back(row, state):
    found = book([call()], [row], [refund("30")])
    assert found.orders.select("state", "net_revenue", "contribution").row(0) == (state, Decimal(0), Decimal(0))
    assert found.refunds.select("is_counted", "order_state").row(0) == (False, state)


def test_a_state_that_the_plan_does_not_name_is_unknown_and_counts():
    assert order(*RESULT, versions=[version("picked")]) == ("unknown", *money("0", "100"))
    assert order(*RESULT, calls=[call()]) == ("unknown", *money("0", "100"))


def test_an_order_that_the_shop_deletes_keeps_what_was_last_known_of_it():
    versions = [version(), version(version=2, seen=99, is_deleted=True)]
    gone = {"valid_from": at(99), "is_deleted": True}
    found = book(
        [call()],
        versions,
        [refund("30", **gone)],
        [item(cost="40", **gone), item("18", **gone | {"valid_from": at(50)})],
    )
    assert found.orders.select("is_deleted", "match", *RESULT).row(0) == (True, "equal", "partly_refunded", *money("30", "70"))  # fmt: skip
    assert [line["product"] for line in found.orders["items"][0]] == ["17"]  # 18 was taken out before


def test_a_refund_of_an_order_that_nobody_knows_stands_by_itself():
    found = book(refunds=[refund("30", order="9")])
    assert found.orders.is_empty()
    assert found.refunds.select("order_id", "order_date", "amount", "is_counted").row(0) == (
        "9",
        None,
        Decimal(30),
        True,
    )


# ---- costs -------------------------------------------------------------------------------------------------------------

COSTS = [
    pl.DataFrame(
        {"product_id": ["17", "17"], "valid_from": [at(-100), at(10)], "cost": money("40", "55")},
        schema={"product_id": pl.String, "valid_from": pl.Datetime("ms", "UTC"), "cost": pl.Decimal(18, 2)},
    )
]
COST = ("cost", "cost_coverage", "contribution")


def test_a_product_costs_what_it_cost_at_the_moment_of_the_order():
    assert order(*COST, versions=[version()], items=[item(units=2)], costs=COSTS) == (Decimal(80), 1.0, Decimal(20))
    assert order(*COST, calls=[call()], costs=COSTS) == (Decimal(40), 1.0, Decimal(60))  # by the lines of the call


def test_what_the_shop_kept_with_the_order_comes_first():
    assert order(*COST, versions=[version()], items=[item(cost="33")], costs=COSTS) == (Decimal(33), 1.0, Decimal(67))


def test_where_a_cost_is_unknown_the_contribution_is_unknown():
    items = [item(units=3), item("18", price="10")]
    assert order(*COST, versions=[version()], items=items, costs=COSTS) == (Decimal(120), 0.75, None)
    assert order(*COST, versions=[version()], items=items) == (None, 0.0, None)
    assert order(*COST, versions=[version()]) == (None, 0.0, None)


# ---- invariants ----------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from([*STATES, "odd"]), st.none() | st.integers(0, 150), st.booleans()), min_size=1, max_size=5
)
given_back = st.lists(
    st.tuples(st.integers(1, 150), st.integers(-24, 200), st.sampled_from(["", "EUR", "USD"])), max_size=3
)


@given(steps, given_back, st.sampled_from(["EUR", "USD"]), st.permutations(range(8)))
@hypothesis_settings(max_examples=repeated(20, 500))
def test_refunds_add_up_to_the_order_and_no_order_of_arrival_matters(steps, given_back, currency, shuffle):
    versions = [
        version(state, version=n, seen=1 + 24 * n, refunded=None if back is None else Decimal(back), is_test=test, currency=currency)
        for n, (state, back, test) in enumerate(steps, 1)
    ]  # fmt: skip
    refunds = [
        refund(str(amount), hours, refund_id=f"r{n}", currency=code)
        for n, (amount, hours, code) in enumerate(given_back)
    ]
    calls = [call(), call(3, number=2)]
    one = book(calls, versions, refunds)

    def mixed(rows: list) -> list:
        return [rows[n] for n in shuffle if n < len(rows)]

    other = book(mixed(calls), mixed(versions), mixed(refunds))
    assert one.orders.equals(other.orders)
    assert one.refunds.equals(other.refunds)
    (row,) = one.orders.to_dicts()
    assert row["refunded"] == one.refunds["amount"].sum()
    counts = row["state"] not in {"cancelled", "test"}
    assert row["net_revenue"] == (row["total"] - row["refunded"] if counts else 0)
    assert row["state"] != "partly_refunded" or row["refunded"] > 0
    ORDERS.validate(one.orders, where="a test")
    REFUNDS.validate(one.refunds, where="a test")
