"""What is understood of each platform's export, and what is refused with the question to answer."""

from datetime import date, timedelta
from decimal import Decimal

import polars as pl
import pytest

from app.core.errors import SpendError
from tests.support.exports import EXPORTS, understand_file, write_excel

FIRST, SECOND = date(2026, 11, 1), date(2026, 11, 2)
GOOGLE = "Campaign report\n{range}\n{headers}\n{rows}\n"

# File, platform, language, decimal sign, compared with, then cost per day, level, currencies, clicks in all.
UNDERSTOOD = [
    ("google.csv", "google", "en", ".", "Total: Campaigns", {FIRST: "1314.75", SECOND: "1100"}, "campaign", "EUR", 1981),
    ("google_excel.csv", "google", "en", ".", "Total: Campaigns", {FIRST: "1314.75", SECOND: "1100"}, "campaign", "EUR", 1981),
    ("google_de.csv", "google", "de", ",", "Gesamt: Kampagnen", {FIRST: "1234.56", SECOND: "0.44"}, "campaign", "EUR", 1003),
    ("google_fr.csv", "google", "fr", ",", "Total : Campagnes", {FIRST: "1234.50", SECOND: "12"}, "campaign", "EUR", 1009),
    ("google_es.csv", "google", "es", ",", "Total: campañas", {FIRST: "12.30", SECOND: "8.70"}, "campaign", "EUR", 14),
    ("google_it.csv", "google", "it", ",", "Totale: campagne", {FIRST: "5.25", SECOND: "4.75"}, "campaign", "EUR", 7),
    ("meta.csv", "meta", "en", ".", "the row without a campaign", {FIRST: "20.25", SECOND: "40.25"}, "campaign", "EUR", 121),
    ("meta_de.csv", "meta", "de", ".", "", {FIRST: "1300"}, "ad_group", "CHF", 335),
    ("microsoft.csv", "microsoft", "en", ".", "", {FIRST: "1012.50", SECOND: "12.50", date(2026, 11, 3): "2.25"}, "campaign", "EUR", 304),
    ("tiktok_hours.csv", "tiktok", "en", ".", "Total of 3 results", {FIRST: "3.30", SECOND: "0.70"}, "campaign", "EUR", 20),
    ("pinterest.csv", "pinterest", "en", ".", "", {FIRST: "12.35", SECOND: "7.65"}, "campaign", "EUR", 53),
    ("criteo.csv", "criteo", "en", ".", "", {FIRST: "33.333333", SECOND: "31.666667"}, "campaign", "EUR", 80),
    ("amazon.csv", "amazon", "en", ".", "", {FIRST: "9.10", SECOND: "7.90"}, "ad_group", "EUR", 25),
    ("linkedin.csv", "linkedin", "en", ".", "", {FIRST: "10.50", SECOND: "11"}, "campaign", "EUR", 11),
    ("plain_fr.csv", "plain", "fr", ",", "", {FIRST: "1234.50"}, "campaign", "EUR", 12),
]  # fmt: skip


@pytest.mark.parametrize("case", UNDERSTOOD, ids=lambda case: case[0])
def test_each_export_is_understood(case):
    file, platform, language, decimal, checked, costs, level, currency, clicks = case
    found = understand_file(EXPORTS / file)
    assert (found.platform.name, found.language, found.decimal, found.checked) == (platform, language, decimal, checked)
    by_day = dict(found.rows.group_by("spend_date").agg(pl.col("amount").sum()).iter_rows())
    assert by_day == {day: Decimal(cost) for day, cost in costs.items()}
    assert (set(found.rows["level"]), set(found.rows["currency"])) == ({level}, {currency})
    assert found.rows["clicks"].sum() == clicks
    assert not found.rows["is_spread"].any()


def test_both_flavours_of_googles_csv_say_the_same():
    assert understand_file(EXPORTS / "google_excel.csv").rows.equals(understand_file(EXPORTS / "google.csv").rows)


def test_campaigns_that_are_called_like_totals_are_no_totals():
    assert "Total Rewards Brand" in understand_file(EXPORTS / "google.csv").rows["campaign"].to_list()
    assert "Gesamtpaket" in understand_file(EXPORTS / "google_de.csv").rows["campaign"].to_list()


def test_a_cost_per_conversion_is_no_cost():
    assert understand_file(EXPORTS / "google_de.csv").rows["amount"].sum() == Decimal("1235.00")


def test_ids_lose_their_brackets_and_the_zone_of_the_account_is_recorded():
    found = understand_file(EXPORTS / "microsoft.csv")
    assert set(found.rows["campaign_id"]) == {"351"}
    assert set(found.rows["time_zone"]) == {"(GMT+01:00) Amsterdam, Berlin, Bern, Rome, Stockholm, Vienna"}
    assert found.exported_at == "11/2/2026 11:59:00 PM (GMT)"
    assert any("incomplete" in note for note in found.notes)


@pytest.mark.parametrize(
    ("file", "zone"),
    [("tiktok_hours.csv", "UTC"), ("pinterest.csv", "UTC"), ("linkedin.csv", "UTC"), ("google.csv", "")],
)
def test_the_zone_is_that_of_the_platform_or_unknown(file, zone):
    assert set(understand_file(EXPORTS / file).rows["time_zone"]) == {zone}
    assert set(understand_file(EXPORTS / "google.csv", time_zone="Europe/Berlin").rows["time_zone"]) == {
        "Europe/Berlin"
    }


def test_hours_are_added_up_to_days_and_masked_numbers_stay_unknown():
    rows = understand_file(EXPORTS / "tiktok_hours.csv").rows
    assert rows.select("spend_date", "clicks", "impressions", "conversions").rows() == [
        (FIRST, 20, 1200, None),
        (SECOND, None, 90, None),
    ]


def test_words_for_nothing_are_null_and_not_zero():
    rows = understand_file(EXPORTS / "google.csv").rows
    assert rows.filter(pl.col("campaign_id") == "902", pl.col("spend_date") == SECOND).is_empty()
    assert rows.filter(pl.col("campaign_id") == "902")["amount"].to_list() == [Decimal("80.25")]


def test_a_plain_table_names_its_platforms_however_they_are_called():
    rows = understand_file(EXPORTS / "plain.csv").rows
    assert set(rows.select("platform", "account", "currency").iter_rows()) == {
        ("podcast", "", "EUR"),
        ("meta", "act_1", "USD"),
    }


def test_an_excel_file_is_read_with_its_days_and_numbers(tmp_path):
    rows = [
        ["Campaign name", "By Day", "Cost", "Clicks (destination)", "Currency"],
        ["Rings", FIRST, 1.234, 1000, "EUR"],  # a point, whatever a person would have written
        ["Rings", "2026-11-02", 2.5, "<5", "EUR"],
        ["Total of 2 results", "-", 3.734, "-", ""],
    ]
    found = understand_file(write_excel(tmp_path / "tiktok.xlsx", rows))
    assert found.rows.select("spend_date", "amount", "clicks").rows() == [
        (FIRST, Decimal("1.234"), 1000),
        (SECOND, Decimal("2.5"), None),
    ]
    assert found.checked == "Total of 2 results"


def test_orders_of_an_affiliate_network_keep_their_own_grain():
    rows = understand_file(EXPORTS / "awin.csv").rows
    assert rows.select("order_id", "status", "cost", "publisher").rows() == [
        ("o-1001", "pending", Decimal("6.50"), "Ring blog"),
        ("o-1002", "approved", Decimal("3.25"), "Ring blog"),
        ("o-1003", "pending", Decimal("5.20"), "Coupons"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "No data available.\n",
        GOOGLE.format(range="x", headers="Day,Campaign,Currency code,Cost", rows="Total: Campaigns, --,EUR,0.00"),
        (EXPORTS / "meta_no_data.csv").read_text(encoding="utf-8"),
    ],
)
def test_a_file_without_data_is_understood_as_nothing(text, tmp_path):
    (tmp_path / "meta.csv").write_text(text)
    assert understand_file(tmp_path / "meta.csv").rows.is_empty()


# ---- what is refused ---------------------------------------------------------------------------------------------

REFUSED = [
    ("", {}, "is empty. Was the download complete? Export it again"),
    ("  \n\n", {}, "is empty"),
    ("<html>log in</html>", {}, "has no line of headers with a cost and a day"),
    ("Name,Value\na,1\n", {}, "has no line of headers with a cost and a day"),
    ("date,campaign,cost,currency\n2026-11-01,a,1.50,EUR\n", {}, "which platform is this from?"),
    ("Day,Campaign name,Amount spent (EUR)\n2026-11-01,a,1.50\n", {"platform": "tiktok"}, "has no line of headers as TikTok Ads writes them"),
    ("Day,Campaign name,Amount spent\n2026-11-01,a,1.50\n", {"platform": "meta"}, "does not say its currency. Which one is it in? Say --currency EUR"),
    ("date,platform,cost,currency\n2026-11-01,podcast,5.50,Euro\n", {}, "'EURO' is not a currency code such as EUR"),
    ("date,platform,cost,currency\n2026-11-01,podcast,5.50,\n", {}, "does not say its currency"),
    ("date,platform,cost,currency\n2026-11-01,podcast,5.50,EUR\n", {"currency": "USD"}, "--currency USD: the file itself says EUR"),
    ('date,platform,cost,currency\n2026-11-01,podcast,"1,234",EUR\n', {}, "is 1,234 more than a thousand, or a number with three decimals?"),
    ('date,platform,cost,currency\n2026-11-01,podcast,"1,234.50",EUR\n2026-11-02,podcast,"1,5",EUR\n', {}, "Which one is it? Say --decimal . or --decimal ,"),
    ('date,platform,cost,currency\n2026-11-01,podcast,"1,5",EUR\n', {"decimal": "."}, "--decimal . cannot be: the file holds 1,5"),
    ("date,platform,cost,currency\n2026-11-01,podcast,free,EUR\n", {}, "line 2: 'free' is not a number"),
    ("date,platform,cost,currency\n2026-11-01,podcast,1234567890123.00,EUR\n", {}, "line 2: '1234567890123.00' cannot be amount"),
    ("date,platform,cost,currency,clicks\n2026-11-01,podcast,1.00,EUR,-4\n", {}, "line 2: '-4' cannot be clicks"),
    ("date,platform,cost,currency\n2026-11-01,podcast,1.234,56,EUR\n", {}, "line 2 has more cells than there are headers"),
    ("date,platform,cost,currency\n03/04/2026,podcast,5.50,EUR\n", {}, "is 03/04/2026 03 April or 04 March? Say --dates dmy or --dates mdy"),
    ("date,platform,cost,currency\n01/05/2026,podcast,5,EUR\n02/05/2026,podcast,5,EUR\n03/05/2026,podcast,5,EUR\n", {}, "is 01/05/2026 01 May or 05 January?"),  # each month, or each day
    ("date,platform,cost,currency\n31/31/2026,podcast,5.50,EUR\n", {}, "'31/31/2026' is not a valid day up to today"),
    ("date,platform,cost,currency\n2027-01-05,podcast,5.50,EUR\n", {}, "'2027-01-05' is not a valid day up to today"),
    ("date,platform,cost,currency\n,podcast,5.50,EUR\n", {}, "line 2 has no day. Which day is it of?"),
    ("date,platform,cost,currency\n2026-11-01,,5.50,EUR\n", {}, "line 2 names no platform"),
    ("start_date,end_date,platform,cost,currency\n2026-11-05,2026-11-01,podcast,5.50,EUR\n", {}, "line 2 ends on 2026-11-01, before it starts"),
    ("month,platform,cost,currency\n2026-11,podcast,5.50,EUR\n", {"platform": "podcast"}, "has no column of days"),
    ("date,account_id,campaign,cost,currency\n2026-11-01,1,a,5.50,EUR\n2026-11-01,2,a,5.50,EUR\n", {"platform": "google", "account": "x"}, "the file itself names several accounts"),
    (GOOGLE.format(range="All time", headers="Campaign,Currency code,Cost", rows="a,EUR,1.50"), {}, "has no column of days"),
    (GOOGLE.format(range='"November 1, 2026 - November 2, 2026"', headers="Campaign,Currency code,Cost", rows="a,EUR,1.50"), {}, "line 4 is of several days, 2026-11-01 to 2026-11-02. Which day is its cost of?"),
    (GOOGLE.format(range='"November 1, 2026 - November 2, 2026"', headers="Week,Campaign,Currency code,Cost", rows="2026-11-01,a,EUR,1.50"), {"spreads": True}, "has no column of days"),
    (GOOGLE.format(range="x", headers="Day,Campaign,Currency code,Cost", rows="2026-11-01,a,EUR,1.50\nTotal: Campaigns, --,EUR,2.50"), {}, "its total, 'Total: Campaigns', is 2.50 and its rows are 1.50 in sum"),
    (GOOGLE.format(range="x", headers="Day,Campaign,Currency code,Cost", rows="2026-11-01,a,EUR,1.50\nTotal: Account, --,EUR,0.50"), {}, "its total, 'Total: Account', is 0.50"),
    ((EXPORTS / "microsoft.csv").read_text(encoding="utf-8").replace("Rows: 3", "Rows: 4"), {}, "says Rows: 4 and holds 3: is it cut off, or was it edited?"),
    (GOOGLE.format(range="x", headers="Day,Campaign,Currency code,Cost", rows="Total: Campaigns, --,EUR,2.50"), {}, "has a total, 'Total: Campaigns', and no rows"),
    ('"Rows: 5"\n"Gregorian date","Campaign","Spend","Currency code"\n', {}, "says Rows: 5 and holds 0"),
    ("Transaction ID,Transaction date,Order reference,Commission,Currency\n1,2026-11-01,o,5.50,EUR\n1,2026-11-01,o,6.50,EUR\n", {}, "line 3: the transaction 1 stands there twice"),
    ("Day,Campaign name,Ad set name,Amount spent (EUR)\n2026-11-01,a,,9.00\n2026-11-01,a,x,2.00\n2026-11-01,a,y,3.00\n", {}, "a has a row of 9.00 and finer rows of 5.00 in sum"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answers", "question"), REFUSED, ids=[case[2][:60] for case in REFUSED])
def test_what_cannot_be_known_is_refused_with_the_question_to_answer(text, answers, question, tmp_path):
    (tmp_path / "export.csv").write_text(text, encoding="utf-8")
    with pytest.raises(SpendError) as refused:
        understand_file(tmp_path / "export.csv", **answers)
    assert question in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_cut_off_is_refused_by_its_own_total(tmp_path):
    lines = (EXPORTS / "google.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "cut.csv").write_text("\n".join([*lines[:4], *lines[5:]]))
    with pytest.raises(SpendError, match="'Total: Campaigns', is 2,414.75"):
        understand_file(tmp_path / "cut.csv")


# ---- answers -----------------------------------------------------------------------------------------------------


def plain(folder, rows: str, **answers) -> pl.DataFrame:
    (folder / "plain.csv").write_text(f"date,platform,campaign,cost,clicks,currency\n{rows}", encoding="utf-8")
    return understand_file(folder / "plain.csv", **answers).rows


@pytest.mark.parametrize(("sign", "cost"), [(".", "1234"), (",", "1.234")])
def test_a_doubtful_number_is_read_as_it_is_answered(sign, cost, tmp_path):
    rows = plain(tmp_path, '2026-11-01,podcast,a,"1,234",,EUR', decimal=sign)
    assert rows["amount"].to_list() == [Decimal(cost)]


def test_another_number_of_the_file_settles_a_doubtful_one(tmp_path):
    assert plain(tmp_path, '2026-11-01,podcast,a,"1,234",,EUR\n2026-11-01,podcast,b,0.5,,EUR')[
        "amount"
    ].sum() == Decimal("1234.5")
    assert plain(tmp_path, '2026-11-01,podcast,a,"1,234",,EUR\n2026-11-01,podcast,b,"0,5",,EUR')[
        "amount"
    ].sum() == Decimal("1.734")


def test_a_count_settles_a_doubtful_cost(tmp_path):
    assert plain(tmp_path, '2026-11-01,podcast,a,"1,234","5,678",EUR')["amount"].to_list() == [Decimal(1234)]


def test_the_files_own_total_settles_a_doubtful_cost(tmp_path):
    rows = plain(tmp_path, '2026-11-01,podcast,a,"1,234",,EUR\n2026-11-01,podcast,b,12,,EUR\nTotal,,,"1,246",,')
    assert rows["amount"].sum() == Decimal(1246)


@pytest.mark.parametrize(("order", "day"), [("dmy", date(2026, 4, 3)), ("mdy", date(2026, 3, 4))])
def test_a_doubtful_day_is_read_as_it_is_answered(order, day, tmp_path):
    assert plain(tmp_path, "03/04/2026,podcast,a,1,,EUR", dates=order)["spend_date"].to_list() == [day]


@pytest.mark.parametrize(
    ("days", "first"),
    [
        (("03/04/2026", "13/04/2026"), date(2026, 4, 3)),  # no month is the 13th
        (("03/04/2026", "04/13/2026"), date(2026, 3, 4)),
        (("09/12/2026",), date(2026, 9, 12)),  # not in the future
        (("05/05/2026",), date(2026, 5, 5)),  # the same either way
    ],
)
def test_the_days_of_a_file_settle_which_comes_first(days, first, tmp_path):
    rows = plain(tmp_path, "\n".join(f"{day},podcast,a,1,,EUR" for day in days))
    assert rows["spend_date"].min() == first


@pytest.mark.parametrize(
    "day",
    ["2026-11-30", "20261130", "30.11.2026", "2026/11/30", "Nov 30, 2026", "November 30, 2026", "30 Nov 2026", "30. November 2026",
     "30 de noviembre de 2026", "30 novembre 2026", "2026-11-30 14:00:00", "2026-11-30T23:00:00Z", '"Mon, Nov 30, 2026"'],
)  # fmt: skip
def test_a_day_is_read_however_it_is_written(day, tmp_path):
    written = day if day.startswith('"') else f'"{day}"'
    assert plain(tmp_path, f"{written},podcast,a,1,,EUR")["spend_date"].to_list() == [date(2026, 11, 30)]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1'234.50", "1234.50"), ("1 234.50", "1234.50"), ("1\u202f234.50", "1234.50"), ("1,234,567.50", "1234567.50"), ("1,23,456.50", "123456.50"),
     ("€ 12.50", "12.50"), ("12.50 €", "12.50"), ("EUR 12.50", "12.50"), ("$12.50", "12.50"), ("-3.50", "-3.50"), ("\u22123.50", "-3.50"), ("(3.50)", "-3.50"),
     ("1.5e1", "15"), (".5", "0.5"), ("12.", "12")],
)  # fmt: skip
def test_an_amount_is_read_however_it_is_written(text, value, tmp_path):
    assert plain(tmp_path, f'2026-11-01,podcast,a,"{text}",,EUR', decimal=".")["amount"].to_list() == [Decimal(value)]


def test_rows_of_several_days_are_divided_to_the_cent_and_marked():
    rows = understand_file(EXPORTS / "meta_month.csv", spreads=True).rows
    sums = rows.group_by("campaign").agg(
        pl.col("amount").sum(), pl.col("conversions").sum(), pl.col("impressions").sum(), pl.len()
    )
    assert set(sums.iter_rows()) == {
        ("Spring rings", Decimal(100), Decimal(3), 1000, 30),
        ("Autumn rings", Decimal(200), Decimal(4), 2000, 30),
    }
    assert rows["is_spread"].all()
    of_spring = rows.filter(pl.col("campaign") == "Spring rings")
    assert set(of_spring["amount"]) == {Decimal("3.33"), Decimal("3.34")}
    assert of_spring["spend_date"].to_list() == [FIRST + timedelta(days=number) for number in range(30)]


def test_a_report_of_one_range_is_divided_over_it():
    rows = understand_file(EXPORTS / "google_range.csv", spreads=True).rows
    assert (rows["spend_date"].min(), rows["spend_date"].max()) == (date(2026, 1, 27), date(2026, 2, 23))
    assert rows["amount"].sum() == Decimal("42.10")


def test_a_total_of_campaigns_may_exceed_the_ads_that_a_report_of_ads_has(tmp_path):
    report = "Ad report\nx\nDay,Campaign,Ad ID,Currency code,Cost\n2026-11-01,a,1,EUR,2.00\nTotal: Ads,,,EUR,{}\nTotal: Campaigns,,,EUR,3.00\n"
    (tmp_path / "ads.csv").write_text(report.format("2.00"))
    assert understand_file(tmp_path / "ads.csv").checked == "Total: Ads"
    (tmp_path / "ads.csv").write_text(report.format("2.50"))
    with pytest.raises(SpendError, match="'Total: Ads', is 2.50"):
        understand_file(tmp_path / "ads.csv")


def test_any_amount_may_have_its_currency_in_its_header(tmp_path):
    (tmp_path / "g.csv").write_text("Campaign report\nx\nDay,Campaign,Cost (SEK)\n2026-11-01,a,kr 2.00\n")
    assert understand_file(tmp_path / "g.csv").rows.select("currency", "amount").rows() == [("SEK", Decimal(2))]


def test_rows_that_sum_up_finer_ones_are_not_counted_twice(tmp_path):
    (tmp_path / "meta.csv").write_text(
        "Day,Campaign name,Ad set name,Ad name,Amount spent (EUR)\n2026-11-01,,,,10.00\n2026-11-01,a,,,10.00\n"
        "2026-11-01,a,x,,4.00\n2026-11-01,a,x,one,4.00\n2026-11-01,a,y,,6.00\n2026-11-02,a,,,3.00\n"
    )
    found = understand_file(tmp_path / "meta.csv")
    assert found.rows.select("spend_date", "level", "ad_group", "amount").rows() == [
        (FIRST, "ad", "x", Decimal(4)),
        (FIRST, "ad_group", "y", Decimal(6)),
        (SECOND, "campaign", "", Decimal(3)),
    ]
    assert found.notes == ("3 rows that sum up finer ones are not counted",)


def test_a_windows_file_with_semicolons_is_read(tmp_path):
    (tmp_path / "excel.csv").write_bytes(
        "sep=;\r\nTag;Plattform;Kampagne;Kosten (EUR)\r\n01.11.2026;Zürich;Größe;1,50\r\n".encode("cp1252")
    )
    rows = understand_file(tmp_path / "excel.csv").rows
    assert rows.select("platform", "campaign", "amount").rows() == [("zürich", "Größe", Decimal("1.5"))]
