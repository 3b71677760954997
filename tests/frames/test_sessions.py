"""Who a session is, where its calls disagree: the first call by a person's browser or app decides."""

import polars as pl
import pytest

from app.frames.sessions import build_sessions
from tests.frames.test_browsing import RULES, events, session, user_agents

BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
)
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1"
PRERENDERER = "Mozilla/5.0 (Linux; Android 13) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/119.0 Safari/537.36 Prerender"
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
APP = "okhttp/4.12.0"
SERVER_IP, SHOPPER_IP, OTHER_IP = "10.0.0.5", "203.0.113.9", "203.0.113.10"
NAMES = ("is_bot", "device_type", "browser", "country")


def call(user_agent: str, ip: str = SHOPPER_IP, **fields) -> dict:
    return {"user_agent": user_agent, "ip": ip, **fields}


def who(*calls: dict) -> tuple:
    """`is_bot, device_type, browser, country` of a session, its country the address itself."""
    frame = events(*calls)
    agents = user_agents(*frame["user_agent"].unique().sort())
    ips = frame.select("ip", country="ip").unique()
    row = build_sessions(frame, agents, RULES, ips).row(0, named=True)
    return tuple(row[name] for name in NAMES)


@pytest.mark.parametrize(
    "first",
    ["node", "undici", "axios/1.7.2", PRERENDERER, "Mozilla/5.0 Node/v20.11.0", "python-requests/2.32.3", CRAWLER, ""],
)
def test_a_storefronts_own_server_decides_nothing_while_a_browser_is_there(first):
    assert who(call(first, SERVER_IP), call(BROWSER)) == (False, "desktop", "Chrome", SHOPPER_IP)
    assert who(call(first, SERVER_IP), call(first, SERVER_IP), call(APP)) == (False, "mobile", "app", SHOPPER_IP)
    assert who(call(BROWSER), call(first, SERVER_IP)) == (False, "desktop", "Chrome", SHOPPER_IP)


def test_the_shoppers_order_counts_whatever_called_first():
    order = {"event": "purchase", "order_id": "d08", "revenue": 10}
    found = session(
        call("node", SERVER_IP, event="catalog"), call(BROWSER, event="product_view"), call(BROWSER, **order)
    )
    assert (found["is_bot"], found["bot_reason"], found["calls"], found["orders"]) == (False, "", 3, 1)


def test_the_first_of_several_browsers_decides():
    assert who(call("node", SERVER_IP), call(PHONE), call(BROWSER, OTHER_IP)) == (
        False, "mobile", "Safari", SHOPPER_IP,
    )  # fmt: skip


def test_a_browsers_later_address_counts_where_its_first_call_says_none():
    assert who(call("node", SERVER_IP), call(BROWSER, ""), call(BROWSER, OTHER_IP))[-1] == OTHER_IP
    assert who(call("node", SERVER_IP), call(BROWSER, ""))[-1] == SERVER_IP


def test_a_session_of_libraries_and_crawlers_alone_is_a_bots():
    assert who(call("node", SERVER_IP), call(PRERENDERER, OTHER_IP)) == (True, "bot", "", SERVER_IP)
    assert who(call(CRAWLER), call("curl/8.5.0")) == (True, "bot", "", SHOPPER_IP)
    assert who(call("node", SERVER_IP), call("", SHOPPER_IP)) == (True, "bot", "", SERVER_IP)


def test_sessions_do_not_lend_each_other_their_browsers():
    other = {"session_number": 1, "session_id": "s2", "visitor_id": "v2"}
    frame = events(call("node", SERVER_IP), call(BROWSER, **other), call("node", SERVER_IP, **other))
    agents = user_agents(*frame["user_agent"].unique().sort())
    found = build_sessions(frame, agents, RULES, RULES.countries.of(frame["ip"].unique()))
    assert found.select("session_id", "is_bot").rows() == [("s1", True), ("s2", False)]


def test_a_person_who_calls_too_fast_is_still_a_bot():
    frame = events(call("node", SERVER_IP), *[call(BROWSER)] * (RULES.max_calls_per_minute + 2))
    crowded = frame.with_columns(ts=pl.col("ts").first())
    found = build_sessions(crowded, user_agents(BROWSER, "node"), RULES, RULES.countries.of(frame["ip"].unique()))
    assert found["bot_reason"].to_list() == [f"more than {RULES.max_calls_per_minute} calls a minute"]
