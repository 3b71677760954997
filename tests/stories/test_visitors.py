"""Whose a call is, where shops send ids that are none, or none at first: cases that real shops reported."""

from datetime import date

import pytest

from app.core.errors import SettingsError
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.forget import erase
from app.jobs.verify import verify_days
from app.warehouse import migrate
from tests.conftest import utc

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 "
    "Mobile/15E148 Safari/604.1"
)
NO_IDS = [
    "0", 0, "null", "undefined", "anonymous", "None", "NaN", "-1", "guest", "[object Object]",
    "00000000-0000-0000-0000-000000000000",
]  # fmt: skip


def call(at: str, endpoint: str = "/api/v1/products/17", *, method: str = "GET", **fields) -> dict:
    return {"ts": f"2026-03-{at}Z", "method": method, "endpoint": endpoint, "status": 200, "user_agent": CHROME, "ip": "203.0.113.9", **fields}  # fmt: skip


def built(warehouse, settings) -> None:
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    verification = verify_days(warehouse, settings)
    assert not verification.differing
    assert not verification.stale


def sessions(warehouse, columns: str) -> list[tuple]:
    return warehouse.query(f"SELECT {columns} FROM dwh.sessions ORDER BY started_at, session_id").rows()


@pytest.mark.parametrize("user", [NO_IDS[0], *(pytest.param(user, marks=pytest.mark.long) for user in NO_IDS[1:])])
def test_four_guests_with_a_user_that_is_none_are_four_guests(warehouse, settings, ingest_records, user):
    ingest_records(*(call(f"06T10:0{n}:00", visitor_id=f"v{n}", user_id=user, ip=f"198.51.100.{n}") for n in range(4)))
    built(warehouse, settings)
    assert sessions(warehouse, "visitor_id, user_id, user_type") == [(f"v{n}", "", "guest") for n in range(4)]
    people = warehouse.query("SELECT person_id, user_id FROM dwh.visitors ORDER BY person_id").rows()
    assert people == [(f"v{n}", "") for n in range(4)]
    assert warehouse.query("SELECT DISTINCT user_id FROM dwh.events").rows() == [("",)]
    assert warehouse.query("SELECT DISTINCT user_id FROM pd.api_calls").rows() == [(str(user),)]


@pytest.mark.parametrize("name", ["visitor_id", "session_token"])
def test_two_people_with_one_id_that_is_none_are_two_visitors(warehouse, settings, ingest_records, name):
    ingest_records(
        call("06T11:00:00", ip="192.0.2.0", page_url="https://shop.example/p/99?utm_source=s0", **{name: "undefined"}),
        call("06T11:01:00", ip="192.0.2.1", user_agent=IPHONE, **{name: "null"}),
        call("06T11:02:00", ip="192.0.2.2", user_agent=IPHONE, **{name: "undefined"}),
    )
    built(warehouse, settings)
    found = sessions(warehouse, "visitor_id, calls")
    assert [calls for _, calls in found] == [1, 1, 1]
    assert len({visitor for visitor, _ in found}) == 3
    assert all(visitor.startswith("anonymous-") for visitor, _ in found)


def test_a_session_token_names_the_visitor_whose_cookie_is_none(warehouse, settings, ingest_records):
    ingest_records(
        call("06T10:00:00", visitor_id="undefined", session_token="t1"),
        call("06T10:01:00", visitor_id="undefined", session_token="t2"),
        call("06T10:02:00", visitor_id="null", session_token="t1"),
    )
    built(warehouse, settings)
    assert sessions(warehouse, "visitor_id, calls") == [("t1", 2), ("t2", 1)]


def test_a_user_who_signs_in_is_known_despite_calls_that_name_nobody(warehouse, settings, ingest_records):
    ingest_records(
        call("06T10:00:00", visitor_id="v", user_id="0"),
        call("06T10:01:00", visitor_id="v", user_id="4711"),
        call("06T10:02:00", visitor_id="v", user_id="0"),
    )
    built(warehouse, settings)
    assert sessions(warehouse, "user_id, user_type") == [("4711", "registered")]


def test_other_ids_that_are_none_make_days_stale_and_give_calls_other_visitors(warehouse, settings, ingest_records):
    ingest_records(*(call(f"06T10:0{n}:00", visitor_id="test", user_id="test", ip=f"192.0.2.{n}") for n in range(2)))
    built(warehouse, settings)
    assert sessions(warehouse, "user_id, calls") == [("test", 2)]
    changed = settings.model_copy(update={"no_ids": "Test"})
    migrate(warehouse, changed)
    (stale,) = plan_days(warehouse, changed, jobs=JOBS)
    assert (stale.day, stale.report["reason"]) == (date(2026, 3, 6), "ids that count as none changed")
    assert stale.can_reuse_events
    built(warehouse, changed)
    assert sessions(warehouse, "user_id, calls") == [("", 1), ("", 1)]


def test_forgetting_a_user_does_not_forget_everybody_without_an_id(warehouse, settings, ingest_records):
    ingest_records(
        call("06T10:00:00", visitor_id="undefined", session_token="null", user_id="4711", ip="192.0.2.1"),
        call("06T10:01:00", visitor_id="v", user_id="0", ip="192.0.2.2"),
    )
    built(warehouse, settings)
    assert erase.forget_user(warehouse, settings, "4711", now=utc("2026-06-01")).is_proven
    ingest_records(call("06T12:00:00", visitor_id="undefined", session_token="null", ip="192.0.2.3"))
    built(warehouse, settings)
    assert sessions(warehouse, "visitor_id = 'v', calls") == [(True, 1), (False, 1)]


def test_nobody_can_be_forgotten_by_an_id_that_is_none(warehouse, settings):
    with pytest.raises(SettingsError, match="--user NULL: CARAT_NO_IDS says that this user_id is nobody's"):
        erase.forget_user(warehouse, settings, "NULL", now=utc("2026-06-01"))


def test_preflights_and_probes_are_nobodys_session(warehouse, settings, ingest_records):
    shoppers = [("d07-a", "203.0.113.71"), ("d07-b", "203.0.113.72")]
    steps = [
        ("00", "GET", "/api/v1/catalog"),
        ("01", "GET", "/api/v1/products/17"),
        ("02", "POST", "/api/v1/cart/items"),
    ]
    for visitor, ip in shoppers:
        for minute, method, endpoint in steps:
            ingest_records(
                call(f"08T10:{minute}:00.000", endpoint, method="OPTIONS", status=204, ip=ip),
                call(f"08T10:{minute}:00.120", endpoint, method=method, visitor_id=visitor, ip=ip),
            )
    ingest_records(call("08T10:05:00", method="HEAD", ip="203.0.113.73"))
    built(warehouse, settings)
    assert sorted(sessions(warehouse, "visitor_id, calls, furthest_step, is_bounce")) == [
        ("d07-a", 3, "cart", False),
        ("d07-b", 3, "cart", False),
    ]


# ---- first calls without an id -----------------------------------------------------------------------------------

AD = "https://shop.example/rings?utm_source=google&utm_medium=cpc"
ORDER = {"endpoint": "/api/v1/orders", "method": "POST", "response": {"order_id": "o", "total": 10, "currency": "EUR", "items": [{"product_id": 17, "quantity": 1, "price": 10}]}}  # fmt: skip
WHO = "visitor_id, calls, orders, channel, landing_page"


def journey(day: str, *identities: dict) -> list[dict]:
    """A catalog call by an ad, views and an order, a minute apart, each with what it says of who calls."""
    calls = [call(f"{day}T10:0{minute}:00", **who) for minute, who in enumerate(identities)]
    calls[0] |= {"endpoint": "/api/v1/catalog", "page_url": AD}
    calls[-1] |= ORDER
    return calls


@pytest.mark.parametrize(
    ("identities", "visitor"),
    [
        ([{}, *[{"visitor_id": "v"}] * 3], "v"),
        ([{"visitor_id": "null", "session_token": "0"}, *[{"visitor_id": "v"}] * 3], "v"),
        ([{}, {}, {"visitor_id": "v", "session_token": "t"}, {"visitor_id": "v", "session_token": "t"}], "v"),
        ([*[{"session_token": "guest"}] * 3, {"session_token": "member", "user_id": "u"}], "member"),
        ([{}, *[{"session_token": "guest"}] * 2, {"session_token": "member", "user_id": "u"}], "member"),
        ([{"session_token": "t"}, {"session_token": "t", "ip": "192.0.2.1"}, *[{"visitor_id": "v", "session_token": "t", "ip": "192.0.2.2"}] * 2], "v"),
        ([{}, {"session_token": "t"}, *[{"visitor_id": "v", "session_token": "t"}] * 2], "v"),
    ],
)  # fmt: skip
def test_first_calls_without_an_id_are_in_the_session_of_the_order(
    warehouse, settings, ingest_records, identities, visitor
):
    ingest_records(*journey("10", *identities))
    built(warehouse, settings)
    assert sessions(warehouse, WHO) == [(visitor, 4, 1, "Paid Search", AD.partition("?")[0])]


def test_who_is_one_of_several_stays_alone(warehouse, settings, ingest_records):
    ingest_records(
        call("10T10:00:00"),
        call("10T10:10:00", visitor_id="v", session_token="t"),
        call("10T10:20:00", visitor_id="w", session_token="t"),
        call("10T10:25:00", session_token="t"),
    )
    built(warehouse, settings)
    assert sorted(sessions(warehouse, "visitor_id, calls"))[1:] == [("t", 1), ("v", 1), ("w", 1)]


@pytest.mark.parametrize("missing", [{"ip": None}, {"user_agent": None}, {"ip": "", "user_agent": ""}])
def test_whoever_says_no_ip_or_no_user_agent_is_nobody_else(warehouse, settings, ingest_records, missing):
    ingest_records(call("10T10:00:00", **missing), call("10T10:01:00", visitor_id="v", **missing))
    built(warehouse, settings)
    assert [calls for (calls,) in sessions(warehouse, "calls")] == [1, 1]


def test_the_first_call_may_come_as_long_before_as_a_session_pauses(warehouse, settings, ingest_records):
    for minute, ip in enumerate(["192.0.2.1", "192.0.2.2"]):
        ingest_records(
            call("10T10:00:00", ip=ip),
            call(f"10T10:30:00.00{minute}", ip=ip, visitor_id=f"v{minute}"),
        )
    built(warehouse, settings)
    assert sorted(calls for (calls,) in sessions(warehouse, "calls")) == [1, 1, 2]


def test_forgetting_a_user_erases_the_first_calls_without_an_id(warehouse, settings, ingest_records):
    theirs = journey("10", {}, {"visitor_id": "v"}, {"visitor_id": "v"}, {"visitor_id": "v", "user_id": "4711"})
    ingest_records(*theirs, call("10T10:00:30", ip="192.0.2.9"))
    built(warehouse, settings)
    assert erase.forget_user(warehouse, settings, "4711", now=utc("2026-06-01")).is_proven
    built(warehouse, settings)
    assert warehouse.query("SELECT ip FROM pd.api_calls").rows() == [("192.0.2.9",)]
    assert sessions(warehouse, "calls") == [(1,)]
    assert ingest_records(*theirs).stored == 0
