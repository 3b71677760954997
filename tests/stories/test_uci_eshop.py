"""A real shop's clicks (UCI data set 553, see tests/fixtures/README.md) arrive in the warehouse as they were made."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from app.core.call_record import RecordLimits
from app.jobs import ingest
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from examples import uci_eshop
from tests.support.corpora import write_uci_eshop
from tests.support.empty_warehouse import make_empty

pytestmark = pytest.mark.slow

CUT_BEGINS = date(2008, 8, 11)
NOW = datetime(2026, 6, 1, tzinfo=UTC)

COUNTS = """
SELECT count() AS sessions, uniqExact(visitor_id) AS visitors, sum(product_views) AS views, sum(calls) AS calls
FROM dwh.sessions"""
SESSIONS_BY_DAY = "SELECT session_date AS day, count() AS sessions FROM dwh.sessions GROUP BY day ORDER BY day"
VIEWS = """
SELECT visitor_id, product_id FROM dwh.events WHERE event = 'product_view' ORDER BY visitor_id, session_id, ts, call_id"""
# A view is credited to the page that showed the product: the latest earlier one of its session, 0 if there is none.
VIEWS_BY_PAGE = """
SELECT coalesce(shown.page, 0) AS page, count() AS views
FROM (SELECT session_id, product_id, ts FROM dwh.events WHERE event = 'product_view') AS viewed
ASOF LEFT JOIN (
    SELECT session_id, arrayJoin(shown_products) AS product_id, ts, page FROM dwh.events WHERE event = 'catalog'
) AS shown
ON viewed.session_id = shown.session_id AND viewed.product_id = shown.product_id AND viewed.ts > shown.ts
GROUP BY page ORDER BY page"""
# The source shows a page only through clicks on it, so each product shown is clicked, and each one viewed was listed.
UNCREDITED = """
SELECT (SELECT count() FROM dwh.catalog_sessions WHERE products_clicked != results_shown OR results_shown = 0)
    + (SELECT count() FROM dwh.product_sessions WHERE listing_id IS NULL OR views = 0) AS uncredited"""


@dataclass(frozen=True)
class Published:
    """What the warehouse says of the shop once its calls are built."""

    ingested: ingest.LoadResult
    counts: dict[str, int]
    sessions_by_day: dict[date, int]
    views: pl.DataFrame
    views_by_page: dict[int, int]
    uncredited: int


def publish(warehouse: Warehouse, settings: Settings, calls: Path) -> Published:
    ingested = ingest.LoadResult()
    ingest.ingest_source(
        warehouse, str(calls), now=NOW, totals=ingested, limits=RecordLimits(settings.max_record_bytes)
    )
    build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
    return Published(
        ingested,
        warehouse.query(COUNTS).row(0, named=True),
        dict(warehouse.query(SESSIONS_BY_DAY).iter_rows()),
        warehouse.query(VIEWS),
        dict(warehouse.query(VIEWS_BY_PAGE).iter_rows()),
        warehouse.scalar(UNCREDITED),
    )


# ---- the example itself --------------------------------------------------------------------------------------------

FEW_CLICKS = """\
year;month;day;order;country;session ID;page 1 (main category);page 2 (clothing model);colour;location;model photography;price;price 2;page
2008;4;1;1;29;7;1;A13;1;5;1;28;2;1
2008;4;1;2;29;7;1;A16;1;6;1;33;2;1
2008;4;1;3;29;7;1;A13;1;5;1;28;2;1
2008;4;1;4;29;7;2;B17;6;6;2;38;2;2
2008;4;1;5;29;7;1;A13;1;5;1;28;2;1
2008;4;1;1;9;8;4;P82;14;4;2;48;1;5
"""


@pytest.fixture
def few_clicks(tmp_path) -> pl.LazyFrame:
    path = tmp_path / "clicks.csv"
    path.write_text(FEW_CLICKS)
    return uci_eshop.read_clicks(path)


def test_listing_is_called_once_while_the_shopper_stays_on_it_and_again_on_coming_back(few_clicks):
    calls = pl.concat(uci_eshop.calls_in_parts(few_clicks))
    visits = [
        (
            endpoint.removeprefix("/api/v1/"),
            json.loads(request)["query"].get("page"),
            [item["id"] for item in json.loads(response).get("items", [])],
        )
        for endpoint, request, response in calls.select("endpoint", "request", "response").iter_rows()
    ]
    assert visits == [
        ("catalog", 1, ["A13", "A16"]), ("products/A13", None, []), ("products/A16", None, []), ("products/A13", None, []),
        ("catalog", 2, ["B17"]), ("products/B17", None, []),
        ("catalog", 1, ["A13"]), ("products/A13", None, []),
        ("catalog", 5, ["P82"]), ("products/P82", None, []),
    ]  # fmt: skip


@pytest.mark.parametrize("clicks_held", [1, 2, 5])
def test_calls_are_the_same_in_whatever_parts_the_file_is_read(few_clicks, monkeypatch, clicks_held):
    at_once = pl.concat(uci_eshop.calls_in_parts(few_clicks))
    monkeypatch.setattr(uci_eshop, "CLICKS_HELD", clicks_held)
    assert_frame_equal(pl.concat(uci_eshop.calls_in_parts(few_clicks)), at_once)


def test_a_file_of_another_kind_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        uci_eshop.main([__file__, str(tmp_path / "calls.csv")])
    assert "name it .ndjson.gz or .parquet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---- the last three days of the data set, over both engines --------------------------------------------------------


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> tuple[Path, pl.DataFrame]:
    """The data set's CSV file, and its clicks with the visitors that the example makes of its sessions."""
    path = tmp_path_factory.mktemp("uci-eshop") / "clicks.csv"
    return path, write_uci_eshop(path).with_columns(visitor_id=pl.format("uci-553-{}", "session ID"))


def test_the_fixture_joins_into_the_published_file(data_set):
    published = "63ce0c05b93d31837ce10b8734dae6d8e2e49aaef3beb8c5e8af391799d9b7e6"
    assert hashlib.sha256(data_set[0].read_bytes()).hexdigest() == published


@pytest.fixture(scope="module")
def clicks(data_set) -> pl.DataFrame:
    return data_set[1]


@pytest.fixture(scope="module")
def calls_of_the_cut(data_set, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("uci-eshop") / "cut.parquet"
    uci_eshop.main([str(data_set[0]), str(path), "--from", str(CUT_BEGINS)])
    return path


@pytest.fixture
def cut(warehouse, settings, calls_of_the_cut) -> Published:
    return publish(warehouse, settings, calls_of_the_cut)


def in_order_of_clicks(clicks: pl.DataFrame) -> pl.DataFrame:
    return (
        clicks.select("visitor_id", "order", product_id="page 2 (clothing model)")
        .sort("visitor_id", "order")
        .drop("order")
    )


def test_the_sessions_of_the_last_three_days_arrive_with_all_their_views_in_order_each_credited_to_its_page(
    cut, clicks
):
    assert cut.ingested == ingest.LoadResult(stored=5_095)
    assert cut.counts == {"sessions": 386, "visitors": 386, "views": 2_814, "calls": 5_095}
    assert cut.sessions_by_day == {date(2008, 8, 11): 178, date(2008, 8, 12): 187, date(2008, 8, 13): 21}
    assert_frame_equal(cut.views, in_order_of_clicks(clicks.filter(pl.date("year", "month", "day") >= CUT_BEGINS)))
    assert cut.views_by_page == {1: 1_538, 2: 560, 3: 404, 4: 239, 5: 73}
    assert cut.uncredited == 0


# ---- all of it, on the embedded engine -----------------------------------------------------------------------------

on_embedded_engine = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)


@pytest.fixture(scope="module")
def whole(data_set, engine_url, tmp_path_factory) -> Published:
    calls = tmp_path_factory.mktemp("uci-eshop") / "calls.ndjson.gz"
    uci_eshop.main([str(data_set[0]), str(calls)])
    settings = Settings(_env_file=None, warehouse=engine_url)
    with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
        make_empty(warehouse, settings)
        return publish(warehouse, settings, calls)


@pytest.mark.long
@on_embedded_engine
def test_all_sessions_of_the_shop_are_found_with_all_their_views_on_their_days(whole, clicks):
    assert whole.ingested == ingest.LoadResult(stored=302_106)
    assert whole.counts == {"sessions": 24_026, "visitors": 24_026, "views": 165_474, "calls": 302_106}
    days = clicks.group_by(day=pl.date("year", "month", "day")).agg(pl.col("session ID").n_unique())
    assert whole.sessions_by_day == dict(days.iter_rows())


@pytest.mark.long
@on_embedded_engine
def test_products_of_every_session_are_viewed_in_the_order_of_its_clicks(whole, clicks):
    assert_frame_equal(whole.views, in_order_of_clicks(clicks))


@pytest.mark.long
@on_embedded_engine
def test_views_credited_to_pages_one_to_five_are_the_clicks_counted_on_them(whole, clicks):
    assert whole.views_by_page == {1: 93_452, 2: 41_037, 3: 19_301, 4: 8_861, 5: 2_823}
    assert whole.uncredited == 0
