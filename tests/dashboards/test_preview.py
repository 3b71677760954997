"""The page and what is in it, without a browser; the live page's application, without a network."""

import asyncio
import base64
import hashlib
import json
import re
import threading
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from app.core.errors import DashboardError, SettingsError, WarehouseError, WarehouseGoneError
from app.dashboards.card_results import card_results, parse_result, query_runner, stored_days
from app.dashboards.live import LivePage, asking
from app.dashboards.model import load_library
from app.dashboards.preview import chosen_filters, static_page, write_page
from app.warehouse import migrate
from app.warehouse.client import connect_embedded
from tests.dashboards.gallery import a_card, a_dashboard, a_library, literal
from tests.support.paths import CHECKOUT

PARTS = CHECKOUT / "app" / "dashboards" / "page"


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Reads of a warehouse that was just made: tables and views, no row."""
    from app.settings import Settings

    folder = tmp_path_factory.mktemp("page-engine")
    settings = Settings(_env_file=None, warehouse=f"chdb://{folder}")
    with connect_embedded(folder) as warehouse:
        migrate(warehouse, settings)
        yield query_runner(warehouse)


class Parts(HTMLParser):
    """The page as a browser takes it apart: tags in order, the text of scripts and styles."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.is_inside = False
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.is_inside = tag in {"script", "style"}
        if self.is_inside:
            self.inside.append("")

    def handle_endtag(self, tag):
        self.is_inside = False

    def handle_data(self, data):
        if self.is_inside:
            self.inside[-1] += data

    @property
    def content(self):
        return json.loads(self.inside[1])


def one_card(sql: str, display: str = "table", **settings):
    return a_library(a_dashboard("One", [a_card("The card", display, sql, **settings)]))


def rows_of(read, sql):
    return parse_result(read(sql))["rows"]


def test_values_come_with_the_kind_of_their_column(read):
    sql = (
        "SELECT 7::Nullable(UInt64) AS n, 1.25::Decimal(18, 2) AS d, nan AS f, '2026-03-01'::Date AS day, true AS b, "
        "'2026-03-01 10:20:30'::DateTime64(3) AS at, 'x'::LowCardinality(String) AS s, [1, 2] AS list, NULL AS nothing"
    )
    result = parse_result(read(sql))
    kinds = {column["name"]: column["type"] for column in result["columns"]}
    assert kinds == {
        "n": "number", "d": "number", "f": "number", "day": "date", "b": "boolean", "at": "datetime", "s": "text",
        "list": "text", "nothing": "text",
    }  # fmt: skip
    assert result["rows"] == [[7, 1.25, None, "2026-03-01", True, "2026-03-01 10:20:30.000", "x", "[1,2]", None]]


def test_bytes_that_are_no_text_and_long_texts_and_many_rows_stay_within_bounds(read):
    assert rows_of(read, "SELECT unhex('ff41')") == [["\ufffdA"]]
    [[text]] = rows_of(read, "SELECT repeat('ab', 1000)")
    assert len(text) == 300
    assert text.endswith("…")
    result = parse_result(read("SELECT number FROM numbers(5000)"))
    assert (len(result["rows"]), result["is_cut"]) == (2000, True)


def test_one_card_that_fails_says_so_and_spoils_no_other(read):
    cards = [a_card("Good", "scalar", "SELECT 1 AS one"), a_card("Bad", "scalar", "SELECT nothing FROM nowhere")]
    dashboard = a_dashboard("Two", cards)
    answers = card_results(read, dashboard, dashboard.dashcards, {})
    assert answers["Two-good"]["rows"] == [[1]]
    assert "nowhere" in answers["Two-bad"]["error"]


def test_the_same_question_is_asked_once():
    asked = []

    def read(sql: str) -> bytes:
        asked.append(sql)
        return b'{"meta": [], "data": []}'

    card = a_card("Twice", "scalar", "SELECT 1")
    dashboard = a_dashboard("Both", [card, card], tabs=2)
    card_results(read, dashboard, dashboard.dashcards, {})
    assert asked == ["SELECT 1"]


def test_a_warehouse_that_is_gone_is_not_a_bad_card():
    def read(sql: str) -> bytes:
        raise WarehouseGoneError("nobody answers")

    dashboard = a_dashboard("One", [a_card("The card", "scalar", "SELECT 1")])
    with pytest.raises(WarehouseGoneError):
        card_results(read, dashboard, dashboard.dashcards, {})


HOSTILE = [
    "</script><script>alert(1)</script>", "<!-- <script>", "]]>", "{{script}} {{content}}", "\u2028\u2029",
    "<img src=x onerror=alert(1)>", "\\u003c/script>", "'; DROP TABLE dwh.sessions; --", "&lt;b&gt;", "\x00\x01",
]  # fmt: skip


def test_what_shoppers_typed_cannot_end_the_data_or_fill_a_place(read):
    page = static_page(read, one_card(f'SELECT arrayJoin([{", ".join(map(literal, HOSTILE))}]) AS "Search"'), {})
    parts = Parts(page)
    assert [tag for tag, _ in parts.tags if tag == "script"] == ["script", "script"]
    [result] = parts.content["results"].values()
    assert [row[0] for row in result["rows"]] == HOSTILE


def test_the_page_may_run_its_own_script_and_load_nothing(read):
    page = static_page(read, one_card("SELECT 1 AS one"), {})
    parts = Parts(page)
    [policy] = [own["content"] for tag, own in parts.tags if own.get("http-equiv") == "Content-Security-Policy"]
    style, _, script = parts.inside
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "connect-src 'none'" in policy
    loading = {"src", "href", "action", "data", "poster", "srcset"}
    assert [own for _, own in parts.tags if loading & own.keys()] == [{"rel": "icon", "href": "data:,"}]
    assert set(re.findall(rb"https?://[\w./]+", page)) <= {
        b"http://www.w3.org/1999/xlink", b"http://www.w3.org/2000/svg", b"http://www.w3.org/2000/xmlns/",
        b"http://www.w3.org/XML/1998/namespace",
    }  # fmt: skip


def test_a_page_of_an_empty_warehouse_has_every_dashboard_and_says_what_is_missing(read, tmp_path):
    library = load_library()
    path = tmp_path / "new" / "page.html"
    assert write_page(read, library, path) == path.stat().st_size
    content = Parts(path.read_bytes()).content
    assert [dashboard["name"] for dashboard in content["dashboards"]] == [own.name for own in library.dashboards]
    errors = {own["error"] for own in content["results"].values() if "error" in own}
    assert errors == {"there is no history of the shop's database yet: run `carat snapshot`"}
    assert content["made"] == "no sessions are stored yet"
    assert "carat etl" in content["until_built"]
    assert [child.name for child in path.parent.iterdir()] == ["page.html"]


def test_no_day_is_stored_in_an_empty_warehouse(read):
    assert stored_days(read).first is None


def test_every_part_of_the_page_is_shipped_with_the_package():
    from importlib.resources import files

    shipped = {path.name for path in files("app.dashboards").joinpath("page").iterdir()}
    assert {"template.html", "page.css", "page.js", "charts.js", "echarts"} <= shipped
    vendored = {path.name for path in (PARTS / "echarts").iterdir()}
    assert {"echarts.min.js", "LICENSE", "NOTICE", "LICENSE-zrender", "LICENSE-tslib", "LICENSE-d3"} <= vendored


def test_no_script_of_the_page_makes_markup_out_of_text():
    own = list(PARTS.glob("*.js"))
    unsafe = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
    assert [path.name for path in own if unsafe.search(path.read_text(encoding="utf-8"))] == []
    assert len(own) >= 6


def test_filters_are_written_as_name_and_value():
    library = one_card("SELECT 1")
    chosen = chosen_filters(library, ["device=mobile", "device=tablet", "date=2026-03-01~2026-03-07"])
    assert chosen == {"device": ["mobile", "tablet"], "date": "2026-03-01~2026-03-07"}
    for wrong in ("colour=red", "device", "device="):
        with pytest.raises(SettingsError, match="NAME=VALUE"):
            chosen_filters(library, [wrong])
    with pytest.raises(DashboardError, match="yesterweek"):
        chosen_filters(library, ["date=yesterweek"])


def test_what_was_chosen_is_said_on_the_page_and_reaches_the_sql(read):
    library = one_card("SELECT 1 AS one WHERE 'mobile' = 'tv' OR {{device}}")
    chosen = chosen_filters(library, ["device=it's", "date=2026-03-01~2026-04-07"])
    content = Parts(static_page(read, library, chosen)).content
    assert {own["slug"]: own["said"] for own in content["filters"]} == {
        "date": "Mar 1 to Apr 7, 2026", "device": "it's",
    }  # fmt: skip


# ---- the live page ------------------------------------------------------------------------------------------------


def ask(
    page: LivePage, *targets: str, method: str = "GET", host: str = "127.0.0.1:8322"
) -> list[tuple[int, dict, bytes]]:
    """What the application answers to each target, all asked at once."""

    async def one(target: str) -> tuple[int, dict, bytes]:
        path, _, query = target.partition("?")
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": [(b"host", host.encode())],
        }  # fmt: skip
        sent = []

        async def send(message):
            sent.append(message)

        await page(scope, None, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, sent[1]["body"]

    async def every():
        return await asyncio.gather(*map(one, targets))

    return asyncio.run(every())


DEVICE_CARD = (
    "SELECT 'all' AS shown "
    "[[WHERE false UNION ALL SELECT 'chosen' WHERE (SELECT count() FROM dwh.sessions WHERE {{device}}) = 0]]"
)


def test_the_live_page_answers_a_dashboard_under_the_chosen_filters(read):
    page = LivePage(asking(read), one_card(DEVICE_CARD))
    [(status, headers, body)] = ask(page, "/api/cards?dashboard=one&device=mobile&device=tablet")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert json.loads(body)["results"]["One-the-card"]["rows"] == [["chosen"]]
    [(_, _, body)] = ask(page, "/api/cards?dashboard=one")
    assert json.loads(body)["results"]["One-the-card"]["rows"] == [["all"]]


def test_cards_of_hidden_tabs_are_not_computed():
    asked: list[str] = []
    cards = [a_card("Shown", "scalar", "SELECT 1"), a_card("Hidden", "scalar", "SELECT 2")]
    page = LivePage(asking(counting(asked)), a_library(a_dashboard("Both", cards, tabs=2)))
    [(status, _, body)] = ask(page, "/api/cards?dashboard=both&tab=0")
    assert (status, list(json.loads(body)["results"]), asked) == (200, ["Both-shown"], ["SELECT 1"])
    ask(page, "/api/cards?dashboard=both")
    assert asked == ["SELECT 1", "SELECT 1", "SELECT 2"]


def test_the_live_page_itself_holds_no_results(read):
    [(status, headers, body)] = ask(LivePage(asking(read), one_card("SELECT 1")), "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    content = Parts(body).content
    assert (content["results"], content["is_live"]) == ({}, True)


def test_the_live_page_says_what_its_server_knows_of_the_first_sessions(read):
    [(_, _, body)] = ask(LivePage(asking(read), one_card("SELECT 1"), until_built="They are built at noon"), "/")
    assert Parts(body).content["until_built"] == "They are built at noon"


@pytest.mark.parametrize(
    ("target", "status", "problem"),
    [
        ("/api/cards", 404, "one of one is expected"),
        ("/api/cards?dashboard=two", 404, "one of one is expected"),
        ("/api/cards?dashboard=one&dashboard=one", 404, "one of one is expected"),
        ("/api/cards?dashboard=one&colour=red", 400, "no such filter"),
        ("/api/cards?dashboard=one&tab=1", 404, "from 0 to 0"),
        ("/api/cards?dashboard=one&tab=-1", 404, "from 0 to 0"),
        ("/api/insights?colour=red", 400, "no such filter"),
        ("/api/cards?dashboard=one&date=yesterday", 400, "is expected"),
        ("/api/cards?dashboard=one&date=2026-03-01&date=2026-03-02", 400, "one period"),
        (f"/api/cards?dashboard=one&device={'a' * 201}", 400, "too long"),
        ("/api/cards?dashboard=one&device=%00", 400, "too long"),
        ("/api/cards?dashboard=one&device=%ff", 400, "not a query string"),
        ("/api/cards?dashboard", 400, "not a query string"),
        (f"/api/cards?dashboard=one{'&device=a' * 30}", 400, "not a query string"),
        (f"/api/cards?dashboard=one&device={'a' * 5000}", 414, "too long"),
        ("/etc/passwd", 404, "the page is at /"),
    ],
)  # fmt: skip
def test_a_question_that_means_nothing_is_refused_with_a_reason(read, target, status, problem):
    [(answered, headers, body)] = ask(LivePage(asking(read), one_card("SELECT 1")), target)
    assert answered == status
    assert headers["content-type"] == "application/json"
    assert problem in json.loads(body)["error"]


def test_only_this_machine_is_answered_and_only_when_it_asks(read):
    page = LivePage(asking(read), one_card("SELECT 1"))
    for host in ("evil.example", "127.0.0.1.evil.example", "", "10.0.0.7:8322"):
        [(status, _, _)] = ask(page, "/", host=host)
        assert status == 421, host
    for host in ("localhost:8322", "[::1]:8322", "127.0.0.1", "LOCALHOST"):
        [(status, _, _)] = ask(page, "/", host=host)
        assert status == 200, host
    [(status, _, _)] = ask(page, "/", method="POST")
    assert status == 405
    [(status, headers, body)] = ask(page, "/", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 100_000
    [(status, _, _)] = ask(LivePage(asking(read), one_card("SELECT 1"), hosts=None), "/", host="shop.example")
    assert status == 200


def test_hostile_values_of_filters_are_values_and_nothing_else(read):
    page = LivePage(asking(read), one_card("SELECT 1 AS one FROM dwh.sessions WHERE {{device}}"))
    for text in (*HOSTILE[:-1], "') OR 1 = 1 --", "\\", "\\'", "{{date}}", "[[", "]]"):
        [(status, _, body)] = ask(page, f"/api/cards?dashboard=one&device={quote(text)}")
        assert status == 200
        assert json.loads(body)["results"]["One-the-card"].get("rows") == [], text


def counting(asked: list[str]):
    def read(sql: str) -> bytes:
        if "dwh.days" not in sql:
            asked.append(sql)
        return b'{"meta": [{"name": "a", "type": "String"}], "data": []}'

    return read


def test_the_same_question_asked_by_many_at_once_and_again_soon_is_run_once():
    asked: list[str] = []
    page = LivePage(asking(counting(asked)), one_card("SELECT 1"))
    answers = ask(page, *["/api/cards?dashboard=one&device=a"] * 20)
    assert {status for status, _, _ in answers} == {200}
    assert len(asked) == 1
    ask(page, "/api/cards?dashboard=one&device=b")
    assert len(asked) == 2


def test_what_is_remembered_is_bounded_and_old_answers_are_asked_anew(monkeypatch):
    asked: list[str] = []
    page = LivePage(asking(counting(asked)), one_card("SELECT 1"))
    for number in range(80):
        ask(page, f"/api/cards?dashboard=one&device=d{number}")
    assert len(page._remembered) <= 64
    monkeypatch.setattr("app.dashboards.live._FRESH_S", 0.0)
    ask(page, "/api/cards?dashboard=one&device=d79")
    assert len(asked) == 81


def test_more_questions_than_can_wait_are_told_to_come_back():
    hold = threading.Event()

    def read(sql: str) -> bytes:
        hold.wait(timeout=5)
        return b'{"meta": [], "data": []}'

    threading.Timer(0.3, hold.set).start()
    targets = [f"/api/cards?dashboard=one&device={number}" for number in range(20)]
    statuses = [status for status, _, _ in ask(LivePage(asking(read), one_card("SELECT {{device}}")), *targets)]
    assert statuses.count(503) == 12
    assert statuses.count(200) == 8


def test_a_warehouse_that_went_away_is_said_and_the_next_question_is_asked_again():
    gone = [True]

    def read(sql: str) -> bytes:
        if gone[0]:
            raise WarehouseGoneError("clickhouse://host: nobody answers")
        return b'{"meta": [{"name": "a", "type": "String"}], "data": []}'

    page = LivePage(asking(read), one_card("SELECT 1"))
    [(status, _, body)] = ask(page, "/api/cards?dashboard=one")
    assert status == 503
    assert "nobody answers" in json.loads(body)["error"]
    gone[0] = False
    [(status, _, _)] = ask(page, "/api/cards?dashboard=one")
    assert status == 200


def test_a_card_that_the_warehouse_refuses_is_an_error_of_that_card():
    def read(sql: str) -> bytes:
        if "dwh.days" in sql:
            return b'{"meta": [{"name": "a", "type": "String"}], "data": []}'
        raise WarehouseError("no such table")

    [(status, _, body)] = ask(LivePage(asking(read), one_card("SELECT 1")), "/api/cards?dashboard=one")
    assert status == 200
    assert json.loads(body)["results"]["One-the-card"] == {"error": "no such table"}
