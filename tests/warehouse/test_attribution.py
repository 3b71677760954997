"""Orders and the sessions that led to them: who is credited, by which model, and that not a cent is lost."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.contracts import ORDERS, SESSIONS
from app.warehouse import migrate
from app.warehouse.attribution_views import MODELS
from app.warehouse.client import WarehouseError, connect_embedded
from tests.support.effort import repeated

EXAMPLES = repeated(8, 300)
ORDERED_AT = datetime(2026, 3, 31, 12, tzinfo=UTC)
TAKE_ANY_TOUCH = ("first", "last")


@dataclass(frozen=True)
class Touch:
    """A session that began so many days before ORDERED_AT."""

    days_before: float
    channel: str
    visitor: str = "c1"
    user: str = ""
    is_bot: bool = False

    @property
    def started_at(self) -> datetime:
        return ORDERED_AT - timedelta(days=self.days_before)

    @property
    def session_id(self) -> str:
        hashed = sum(ord(letter) << (8 * place) for place, letter in enumerate(self.visitor))
        return f"{hashed:016x}-{round(self.started_at.timestamp() * 1000)}"


@dataclass(frozen=True)
class Order:
    """An order that was placed in the session, or, without one, that only the database knows."""

    order_id: str = "1"
    placed_in: Touch | None = None
    user: str = ""
    net: str | None = "100.00"
    state: str = "paid"
    refunded: str = "0.00"
    ordered_at: datetime = ORDERED_AT


def rows_of(table, rows: list[dict]) -> pl.DataFrame:
    """Rows of a contract in which what is not said is null, or empty."""
    nullable = {column.name for column in table.written if column.is_nullable}
    unsaid = {pl.String(): "", pl.Boolean(): False}
    filled = [
        {
            name: row.get(
                name,
                None if name in nullable else [] if isinstance(dtype, pl.List) else unsaid.get(dtype, 0),
            )
            for name, dtype in table.schema.items()
        }
        for row in rows
    ]
    return pl.DataFrame(filled, schema=table.schema, orient="row")


def insert(warehouse, touches: list[Touch], orders: list[Order]) -> None:
    sessions = [
        {
            "session_date": touch.started_at.date(),
            "session_id": touch.session_id,
            "visitor_id": touch.visitor,
            "user_id": touch.user,
            "is_bot": touch.is_bot,
            "started_at": touch.started_at,
            "ended_at": touch.started_at,
            "channel": touch.channel,
            "source": f"{touch.channel} source",
            "medium": f"{touch.channel} medium",
            "utm_campaign": f"{touch.channel} campaign",
            "utm_id": f"{touch.channel} id",
        }
        for touch in touches
    ]
    placed = [
        {
            "order_date": order.ordered_at.date(),
            "order_id": order.order_id,
            "order_key": order.order_id,
            "called_at": order.ordered_at if order.placed_in else None,
            "created_at": None if order.placed_in else order.ordered_at,
            "session_id": order.placed_in.session_id if order.placed_in else "",
            "visitor_id": order.placed_in.visitor if order.placed_in else "",
            "user_id": order.user or (order.placed_in.user if order.placed_in else ""),
            "state": order.state,
            "total": Decimal(order.net) + Decimal(order.refunded) if order.net else None,
            "refunded": Decimal(order.refunded),
            "net_revenue": Decimal(order.net) if order.net else None,
        }
        for order in orders
    ]
    for table, rows in ((SESSIONS, sessions), (ORDERS, placed)):
        if rows:
            warehouse.insert(table, rows_of(table, rows))


def attribution(warehouse, model: str, window_days: int = 30) -> list[dict]:
    rows = warehouse.query(f"SELECT * FROM dwh.attribution(model = '{model}', window_days = {window_days})").to_dicts()
    return sorted(rows, key=lambda row: (row["order_id"], -(row["age_days"] or 0), row["session_id"]))


def shares(warehouse, model: str, window_days: int = 30) -> dict[str, float]:
    """The shares of each channel, added up, without those that earn nothing."""
    found = defaultdict(float)
    for row in attribution(warehouse, model, window_days):
        found[row["channel"]] += row["share"]
    return {channel: pytest.approx(share) for channel, share in found.items() if share}


def credits_of(warehouse, model: str) -> list[tuple[str, str, Decimal | None]]:
    return [(row["order_id"], row["channel"], row["credit"]) for row in attribution(warehouse, model)]


EMAIL, SEARCH, SOCIAL = Touch(21, "Email"), Touch(14, "Paid Search"), Touch(7, "Paid Social")
THREE = [EMAIL, SEARCH, SOCIAL]


# ---- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("first", {"Email": 1}),
        ("last", {"Paid Social": 1}),
        ("last_non_direct", {"Paid Social": 1}),
        ("linear", {"Email": 1 / 3, "Paid Search": 1 / 3, "Paid Social": 1 / 3}),
        ("position", {"Email": 0.4, "Paid Search": 0.2, "Paid Social": 0.4}),
        ("time_decay", {"Email": 1 / 7, "Paid Search": 2 / 7, "Paid Social": 4 / 7}),  # each half-life is a week
    ],
)
def test_each_model_shares_an_order_in_its_own_way(warehouse, model, expected):
    insert(warehouse, THREE, [Order(placed_in=SOCIAL)])
    assert shares(warehouse, model) == expected


def test_the_middle_of_a_long_path_shares_a_fifth_and_two_touches_take_half_each(warehouse):
    middle = [Touch(9, "Referral"), Touch(8, "Referral")]
    insert(warehouse, [EMAIL, *middle, SOCIAL], [Order(placed_in=SOCIAL)])
    assert [row["share"] for row in attribution(warehouse, "position")] == [0.4, 0.1, 0.1, 0.4]
    assert [row["share"] for row in attribution(warehouse, "position", 8)] == [0.5, 0.5]
    assert [row["share"] for row in attribution(warehouse, "position", 7)] == [1]


def test_a_channel_that_comes_again_earns_each_time(warehouse):
    again = [Touch(days, "Paid Search") for days in (20, 10, 1)]
    insert(warehouse, [*again, Touch(5, "Email")], [Order(placed_in=again[-1])])
    assert shares(warehouse, "linear") == {"Paid Search": 0.75, "Email": 0.25}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("first", {"Direct": 1}),
        ("last", {"Direct": 1}),
        ("last_non_direct", {"Paid Search": 1}),
        ("linear", {"Email": 0.5, "Paid Search": 0.5}),
        ("position", {"Email": 0.5, "Paid Search": 0.5}),
        ("time_decay", {"Email": 1 / 3, "Paid Search": 2 / 3}),
    ],
)
def test_what_direct_would_earn_goes_to_the_others_before_anything_is_weighed(warehouse, model, expected):
    direct = [Touch(days, "Direct") for days in (25, 16, 1)]
    insert(warehouse, [direct[0], EMAIL, direct[1], SEARCH, direct[2]], [Order(placed_in=direct[2])])
    assert shares(warehouse, model) == expected
    assert len(attribution(warehouse, model)) == 5  # what earns nothing is still a touch


@pytest.mark.parametrize("model", MODELS)
def test_direct_earns_where_there_is_nothing_else(warehouse, model):
    touches = [Touch(5, "Direct"), Touch(1, "Direct")]
    insert(warehouse, touches, [Order(placed_in=touches[1])])
    assert shares(warehouse, model) == {"Direct": 1}


def test_an_unknown_model_and_an_impossible_window_are_errors_even_where_there_is_no_order(warehouse):
    with pytest.raises(WarehouseError, match="model must be one of: first, last, last_non_direct, linear, position"):
        attribution(warehouse, "U-shape")
    for days in (0, 3651):
        with pytest.raises(WarehouseError, match="window_days must be 1 to 3650"):
            attribution(warehouse, "linear", days)


# ---- the window, and whose touches -------------------------------------------------------------------------------


def test_touches_outside_the_window_and_after_the_order_earn_nothing(warehouse):
    touches = [Touch(30.0001, "Email"), Touch(30, "Referral"), SOCIAL, Touch(-0.0001, "Paid Search")]
    insert(warehouse, touches, [Order(placed_in=SOCIAL)])
    found = attribution(warehouse, "linear")
    assert [(row["channel"], row["age_days"]) for row in found] == [("Referral", 30), ("Paid Social", 7)]
    assert shares(warehouse, "first", 31) == {"Email": 1}


def test_a_row_says_which_session_it_was(warehouse):
    insert(warehouse, [SOCIAL], [Order(placed_in=SOCIAL)])
    assert attribution(warehouse, "linear") == [
        {
            "order_id": "1", "order_date": date(2026, 3, 31), "session_id": SOCIAL.session_id, "channel": "Paid Social",
            "source": "Paid Social source", "medium": "Paid Social medium", "campaign": "Paid Social campaign",
            "utm_id": "Paid Social id", "age_days": 7, "share": 1, "credit": Decimal("100.00"),
        }
    ]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_an_order_without_a_touch_is_a_row_with_an_empty_session(warehouse, model):
    insert(warehouse, [Touch(40, "Email", user="17")], [Order("phone"), Order("late", user="17", net="5.00")])
    found = attribution(warehouse, model)
    assert [(row["order_id"], row["session_id"], row["channel"], row["age_days"]) for row in found] == [
        ("late", "", "", None), ("phone", "", "", None),
    ]  # fmt: skip
    assert [(row["share"], row["credit"]) for row in found] == [(1, Decimal("5.00")), (1, Decimal("100.00"))]


def test_touches_are_those_of_the_person_on_all_devices(warehouse):
    phone_as_guest = Touch(9, "Email", visitor="c2")
    signed_in_on_the_phone = Touch(8, "Direct", visitor="c2", user="17")
    somebody_else = Touch(6, "Referral", visitor="c3")
    placing = Touch(1, "Paid Search", user="17")
    insert(warehouse, [phone_as_guest, signed_in_on_the_phone, somebody_else, placing], [Order(placed_in=placing)])
    assert shares(warehouse, "linear") == {"Email": 0.5, "Paid Search": 0.5}


def test_an_order_that_only_the_database_knows_has_the_touches_of_its_user(warehouse):
    insert(warehouse, [Touch(9, "Email", user="17")], [Order(user="17")])
    assert shares(warehouse, "last") == {"Email": 1}


def test_an_order_of_a_guest_whom_the_database_knows_has_the_touches_of_both(warehouse):
    as_guest, as_user = Touch(2, "Paid Search", visitor="c2"), Touch(9, "Email", user="17")
    insert(warehouse, [as_guest, as_user], [Order(placed_in=as_guest, user="17")])
    assert shares(warehouse, "linear") == {"Email": 0.5, "Paid Search": 0.5}


def test_on_a_device_of_several_users_an_order_is_of_the_one_who_placed_it(warehouse):
    before, of_17, between, of_18 = (
        Touch(9, "Email"), Touch(8, "Referral", user="17"), Touch(7, "Paid Search"), Touch(6, "Paid Social", user="18"),
    )  # fmt: skip
    orders = [Order("1", placed_in=of_17), Order("2", placed_in=between), Order("3", placed_in=of_18)]
    insert(warehouse, [before, of_17, between, of_18], orders)
    found = [(row["order_id"], row["channel"]) for row in attribution(warehouse, "linear")]
    assert found == [
        ("1", "Email"), ("1", "Referral"),
        ("2", "Paid Search"), ("2", "Paid Social"),
        ("3", "Paid Search"), ("3", "Paid Social"),
    ]  # fmt: skip


def test_bots_are_no_touches(warehouse):
    bot = Touch(3, "Referral", is_bot=True)
    insert(warehouse, [EMAIL, bot], [Order(placed_in=bot)])
    assert shares(warehouse, "last") == {"Email": 1}


def test_orders_of_the_same_second_stay_two(warehouse):
    insert(warehouse, [SOCIAL], [Order("1", placed_in=SOCIAL), Order("2", placed_in=SOCIAL, net="50.00")])
    assert credits_of(warehouse, "last") == [
        ("1", "Paid Social", Decimal("100.00")), ("2", "Paid Social", Decimal("50.00")),
    ]  # fmt: skip


def test_orders_of_a_span_of_days_have_the_same_rows_as_among_all(warehouse):
    days = [ORDERED_AT - timedelta(days=days) for days in (20, 10, 0)]
    touches = [Touch(45, "Email"), Touch(22, "Direct"), *THREE]
    insert(warehouse, touches, [Order(str(n), touches[1], ordered_at=at) for n, at in enumerate(days)])
    found = warehouse.query(
        "SELECT * FROM dwh.attribution_between(model = 'linear', window_days = 30, first = {day:Date}, last = {day:Date})",
        {"day": days[1].date()},
    )
    among_all = [row for row in attribution(warehouse, "linear") if row["order_id"] == "1"]
    assert sorted(found.to_dicts(), key=lambda row: -row["age_days"]) == among_all
    assert [row["channel"] for row in among_all] == ["Direct", "Email", "Paid Search"]


def test_touches_are_numbered_and_reach_back_ninety_days(warehouse):
    insert(warehouse, [Touch(91, "Referral"), Touch(60, "Direct"), SOCIAL], [Order(placed_in=SOCIAL), Order("phone")])
    columns = "order_id, order_date, ordered_at, touch, touches, channel, campaign, age_days"
    found = warehouse.query(f"SELECT {columns} FROM dwh.touches ORDER BY touch").rows()
    of_order = ("1", date(2026, 3, 31), ORDERED_AT)
    assert found == [
        (*of_order, 1, 2, "Direct", "Direct campaign", 60),
        (*of_order, 2, 2, "Paid Social", "Paid Social campaign", 7),
    ]
    described = warehouse.query(
        "SELECT name, comment FROM system.columns WHERE database = 'dwh' AND table = 'touches' ORDER BY position"
    )
    assert "" not in described["comment"].to_list()


# ---- money -------------------------------------------------------------------------------------------------------


def test_what_rounding_leaves_goes_to_the_last_touch_that_counts(warehouse):
    direct = Touch(1, "Direct")
    insert(warehouse, [*THREE, direct], [Order(str(n), direct, net=net) for n, net in enumerate(["100.00", "200.00"])])
    assert [credit for *_, credit in credits_of(warehouse, "linear")] == [
        Decimal(text) for text in ("33.33", "33.33", "33.34", "0.00", "66.67", "66.67", "66.66", "0.00")
    ]


@pytest.mark.parametrize(("net", "rest"), [("0.05", "0.05"), ("-0.05", "-0.05"), ("0.01", "0.01")])
def test_rounding_up_many_small_credits_does_not_turn_the_last_against_the_others(warehouse, net, rest):
    touches = [Touch(days, "Email") for days in range(7, 0, -1)]
    insert(warehouse, touches, [Order(placed_in=touches[-1], net=net)])
    assert [credit for *_, credit in credits_of(warehouse, "linear")] == [Decimal("0.00")] * 6 + [Decimal(rest)]


def test_a_share_of_whole_cents_is_not_rounded_at_all(warehouse):
    insert(warehouse, THREE, [Order(placed_in=SOCIAL, net="64.15")])
    assert [credit for *_, credit in credits_of(warehouse, "position")] == [
        Decimal(text) for text in ("25.66", "12.83", "25.66")
    ]


@pytest.mark.parametrize("model", MODELS)
def test_what_was_given_back_is_not_credited_and_a_cancelled_order_earns_nothing(warehouse, model):
    insert(
        warehouse,
        [EMAIL, SOCIAL],
        [
            Order("1", SOCIAL, net="60.00", state="partly_refunded", refunded="40.00"),
            Order("2", SOCIAL, net="0.00", state="cancelled"),
            Order("3", SOCIAL, net="-3.33", state="refunded", refunded="100.00"),
            Order("4", SOCIAL, net=None, state="unknown"),
        ],
    )
    found = defaultdict(list)
    for order_id, _channel, credit in credits_of(warehouse, model):
        found[order_id].append(credit)
    assert (sum(found["1"]), sum(found["3"])) == (Decimal("60.00"), Decimal("-3.33"))
    assert max(found["3"]) <= 0
    assert (found["2"], found["4"]) == ([Decimal("0.00")] * 2, [None, None])


# ---- the same in plain Python ------------------------------------------------------------------------------------


def expected_shares(model: str, path: list[Touch]) -> list[float]:
    counting = [touch for touch in path if touch.channel != "Direct"]
    if model in TAKE_ANY_TOUCH or not counting:
        counting = path
    last = len(counting) - 1
    by_place = {
        "first": lambda place: Fraction(place == 0),
        "last": lambda place: Fraction(place == last),
        "last_non_direct": lambda place: Fraction(place == last),
        "linear": lambda _place: Fraction(1),
        "position": lambda place: (
            Fraction(1) if last < 2 else Fraction(2, 5) if place in (0, last) else Fraction(1, 5 * (last - 1))
        ),
        "time_decay": lambda place: 2 ** (-counting[place].days_before / 7),
    }[model]
    weights = {touch: by_place(place) for place, touch in enumerate(counting)}
    return [float(weights.get(touch, 0) / sum(weights.values())) for touch in path]


@st.composite
def journeys(draw) -> tuple[list[Touch], list[str]]:
    """The touches of one person, oldest first, and the net revenues of their orders."""
    hours = draw(st.lists(st.integers(0, 45 * 24), unique=True, min_size=1, max_size=9))
    channels = st.sampled_from(["Direct", "Email", "Paid Search"])
    touches = [Touch(hour / 24, draw(channels)) for hour in sorted(hours, reverse=True)]
    nets = draw(st.lists(st.decimals("-50", "100000", places=2).map(str), min_size=1, max_size=4))
    return touches, nets


@pytest.fixture
def own_warehouse(tmp_path, monkeypatch):
    """An engine that is open for all examples of a test."""
    monkeypatch.setenv("CARAT_WAREHOUSE", f"chdb://{tmp_path}")
    from app.settings import Settings

    with connect_embedded(tmp_path) as warehouse:
        migrate(warehouse, Settings(_env_file=None))
        yield warehouse


def replace(warehouse, touches: list[Touch], orders: list[Order]) -> None:
    for table in ("sessions", "orders"):
        warehouse.command(f"TRUNCATE TABLE dwh.{table}")
    insert(warehouse, touches, orders)


@pytest.mark.slow
def test_credits_of_any_journey_add_up_to_the_cent_and_are_what_plain_python_says(own_warehouse):
    @hypothesis_settings(max_examples=EXAMPLES)
    @given(journeys(), st.integers(1, 40))
    def credit(journey: tuple[list[Touch], list[str]], window_days: int) -> None:
        touches, nets = journey
        replace(own_warehouse, touches, [Order(str(n), touches[-1], net=net) for n, net in enumerate(nets)])
        path = [touch for touch in touches if touch.days_before <= window_days]
        for model in MODELS:
            rows = attribution(own_warehouse, model, window_days)
            for n, net in enumerate(nets):
                of_order = [row for row in rows if row["order_id"] == str(n)]
                assert sum(row["credit"] for row in of_order) == Decimal(net)
                assert all(row["credit"] * Decimal(net) >= 0 for row in of_order)
                assert [row["session_id"] for row in of_order] == ([touch.session_id for touch in path] or [""])
                wanted = expected_shares(model, path) if path else [1]
                assert [row["share"] for row in of_order] == pytest.approx(wanted)
                for row in of_order:
                    assert abs(float(row["credit"]) - float(net) * row["share"]) <= 0.01 * len(of_order) + 1e-6

    credit()


@st.composite
def crowds(draw) -> list[Touch]:
    """Sessions of several devices and users."""
    drawn = draw(
        st.lists(
            st.builds(
                Touch,
                days_before=st.integers(0, 45 * 24).map(lambda hour: hour / 24),
                channel=st.sampled_from(["Direct", "Email"]),
                visitor=st.sampled_from(["c1", "c2", "c3"]),
                user=st.sampled_from(["", "", "17", "18"]),
                is_bot=st.sampled_from([False, False, False, True]),
            ),
            min_size=1,
            max_size=12,
            unique_by=lambda touch: (touch.days_before, touch.visitor),
        )
    )
    return sorted(drawn, key=lambda touch: -touch.days_before)


@pytest.mark.slow
def test_touches_of_any_crowd_are_the_sessions_of_the_person_in_visits(own_warehouse):
    same_person = """SELECT placing.session_id AS order_id, led.session_id AS session_id
        FROM dwh.visits AS placing JOIN dwh.visits AS led
        ON placing.person_id = led.person_id
        WHERE led.started_at BETWEEN placing.started_at - INTERVAL 30 DAY AND placing.started_at"""

    @hypothesis_settings(max_examples=EXAMPLES)
    @given(crowds())
    def tell(touches: list[Touch]) -> None:
        people = [touch for touch in touches if not touch.is_bot]
        replace(own_warehouse, touches, [Order(t.session_id, t, ordered_at=t.started_at) for t in people])
        found = {(row["order_id"], row["session_id"]) for row in attribution(own_warehouse, "linear")}
        assert found == set(own_warehouse.query(same_person).iter_rows())

    tell()
