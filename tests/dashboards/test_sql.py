"""A card's SQL with its filters filled in: the rules of Metabase's template tags, and nothing that a value can break."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import DashboardError
from app.dashboards.model import Card, Tag, load_library
from app.dashboards.sql import Period, parse_period, render, tags_used, values_of

DAY = Tag("date", "1", "Date", "dimension", "date/range", ("Carat", "dwh", "days", "day"))
DEVICE = Tag("device", "2", "Device", "dimension", "string/=", ("Carat", "dwh", "sessions", "device_type"))
PRICE = Tag("price", "3", "Price", "number", "", ())
NAME = Tag("name", "4", "Name", "text", "", ())
ON = Tag("on", "5", "On", "date", "", ())
ANY = Tag("any", "6", "Any", "boolean", "", ())
NOT_DEVICE = replace(DEVICE, widget_type="string/!=")
TODAY = date(2026, 3, 19)  # a Thursday


def _card(sql: str, *tags: Tag) -> Card:
    return Card("x", "Card", "", "table", "Carat", sql, tags, {}, None, Path("card.yaml"), {})


def _filled(sql: str, *tags: Tag, **values) -> str:
    return render(_card(sql, *tags), values, today=TODAY)


# ---- clauses -----------------------------------------------------------------------------------------------------


def test_a_clause_without_a_value_is_left_out():
    assert _filled("SELECT 1 [[WHERE {{device}}]] LIMIT 1", DEVICE) == "SELECT 1  LIMIT 1"


def test_clause_with_a_value_is_kept_without_its_brackets():
    sql = _filled("SELECT 1 [[WHERE {{device}}]]", DEVICE, device=["mobile", "tablet"])
    assert sql == "SELECT 1 WHERE `dwh`.`sessions`.`device_type` IN ('mobile', 'tablet')"


def test_clause_needs_every_one_of_its_tags():
    sql = "SELECT 1 [[WHERE {{device}} AND {{price}} > 0]]"
    assert _filled(sql, DEVICE, PRICE, device="mobile") == "SELECT 1 "
    assert "3 > 0" in _filled(sql, DEVICE, PRICE, device="mobile", price=3)


def test_field_filter_outside_of_clauses_is_true_without_a_value():
    assert _filled("SELECT 1 WHERE {{ device }}", DEVICE) == "SELECT 1 WHERE 1 = 1"


def test_either_default_days_or_chosen_ones():
    sql = "WHERE is_recent [[AND false OR {{date}}]]"
    assert _filled(sql, DAY) == "WHERE is_recent "
    assert _filled(sql, DAY, date="2026-03-05").endswith(
        "AND false OR (`dwh`.`days`.`day` >= toDate('2026-03-05') AND `dwh`.`days`.`day` <= toDate('2026-03-05'))"
    )


@pytest.mark.parametrize("nothing", [None, "", []])
def test_nothing_chosen_is_no_value(nothing):
    assert _filled("SELECT 1 [[WHERE {{device}}]]", DEVICE, device=nothing) == "SELECT 1 "


def test_a_default_is_used_if_nothing_is_chosen():
    tag = replace(DEVICE, default=["desktop"])
    assert "'desktop'" in _filled("SELECT 1 [[WHERE {{device}}]]", tag)
    assert "'desktop'" not in _filled("SELECT 1 [[WHERE {{device}}]]", tag, device="tv")


@pytest.mark.parametrize(("sql", "problem"), [
    ("SELECT {{nobody}}", "not declared"),
    ("SELECT 1 [[WHERE {{device}}", "no matching ]]"),
    ("SELECT 1 WHERE {{device}}]]", "no matching [["),
    ("SELECT {{price}}", "needs a value"),
])  # fmt: skip
def test_an_invalid_template_is_rejected_with_its_file(sql, problem):
    with pytest.raises(DashboardError, match="card.yaml") as error:
        _filled(sql, DEVICE, PRICE)
    assert problem in str(error.value)


def test_tags_are_told_once_each_in_their_order():
    assert tags_used("{{b}} [[{{ a }}]] {{b}}") == ["b", "a"]


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "value", "sql"), [
    (PRICE, "12.50", "12.50"),
    (PRICE, 1e3, "1000.0"),
    (NAME, "O'Hara \\", "'O\\'Hara \\\\'"),
    (ON, "2026-03-05", "toDate('2026-03-05')"),
    (ANY, True, "1 = 1"),
    (ANY, "false", "1 <> 1"),
    (NOT_DEVICE, "tv", "`dwh`.`sessions`.`device_type` NOT IN ('tv')"),
])  # fmt: skip
def test_value_is_quoted_by_its_type(tag, value, sql):
    assert _filled(f"{{{{{tag.name}}}}}", tag, **{tag.name: value}) == sql


@pytest.mark.parametrize(("tag", "value"), [
    (PRICE, "1; DROP TABLE x"), (PRICE, "nan"), (PRICE, "1e999 OR 1"), (ON, "2026-03-05' OR 1"), (ON, "tomorrow"),
    (NAME, {"a": 1}), (DEVICE, [["mobile"]]), (DAY, "2026-03-05' OR '1"), (DAY, "2026-13-05"), (DAY, ["a", "b"]), (DAY, 5),
])  # fmt: skip
def test_value_of_another_type_is_refused(tag, value):
    with pytest.raises(DashboardError):
        _filled(f"{{{{{tag.name}}}}}", tag, **{tag.name: value})


def test_widget_that_is_not_supported_says_so():
    with pytest.raises(DashboardError, match="string/contains"):
        _filled("{{device}}", replace(DEVICE, widget_type="string/contains"), device="x")


@given(st.text())
def test_any_text_is_one_literal(text):
    """No quote within it is left alone, and it ends where the literal ends."""
    literal = _filled("{{name}}", NAME, name=text or "x")
    inner = literal[1:-1].replace("\\\\", "").replace("\\'", "")
    assert literal[0] == literal[-1] == "'"
    assert "'" not in inner
    assert not inner.endswith("\\")


@given(st.text())
def test_any_text_is_a_period_or_is_refused(text):
    try:
        period = parse_period(text, today=TODAY)
    except DashboardError:
        return
    assert period.first is not None or period.last is not None


# ---- dates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "first", "last"), [
    ("2026-03-01~2026-03-31", (2026, 3, 1), (2026, 3, 31)),
    ("2026-03-01~", (2026, 3, 1), None),
    ("~2026-03-31", None, (2026, 3, 31)),
    ("2026-03-05", (2026, 3, 5), (2026, 3, 5)),
    ("2026-02", (2026, 2, 1), (2026, 2, 28)),
    ("2024-02", (2024, 2, 1), (2024, 2, 29)),
    ("Q4-2025", (2025, 10, 1), (2025, 12, 31)),
    ("today", (2026, 3, 19), (2026, 3, 19)),
    ("yesterday", (2026, 3, 18), (2026, 3, 18)),
    ("past7days", (2026, 3, 12), (2026, 3, 18)),
    ("past7days~", (2026, 3, 12), (2026, 3, 19)),
    ("past2weeks", (2026, 3, 2), (2026, 3, 15)),
    ("past1months", (2026, 2, 1), (2026, 2, 28)),
    ("past2quarters", (2025, 7, 1), (2025, 12, 31)),
    ("past1years", (2025, 1, 1), (2025, 12, 31)),
    ("thisweek", (2026, 3, 16), (2026, 3, 22)),
    ("thismonth", (2026, 3, 1), (2026, 3, 31)),
    ("lastmonth", (2026, 2, 1), (2026, 2, 28)),
    ("lastquarter", (2025, 10, 1), (2025, 12, 31)),
    ("thisyear", (2026, 1, 1), (2026, 12, 31)),
])  # fmt: skip
def test_date_filter_means_these_days(text, first, last):
    assert parse_period(text, today=TODAY) == Period(first and date(*first), last and date(*last))


@pytest.mark.parametrize("text", ["", "~", "soon", "past9999years", "2026-00", "Q5-2026", "2026-02-30", "past3days"])
def test_text_that_means_no_days_is_refused(text):
    with pytest.raises(DashboardError, match="is expected"):
        parse_period(text, today=None if text == "past3days" else TODAY)


# ---- dashboards --------------------------------------------------------------------------------------------------


def test_filters_of_a_dashboard_reach_each_card_by_its_mappings():
    library = load_library()
    dashboard = library.dashboard("Shopper journey")
    chosen = {"date": "2026-03", "device": ["mobile"], "channel": None}
    for dashcard in dashboard.dashcards:
        values = values_of(dashboard, dashcard, chosen)
        assert values == {"date": "2026-03", "device": ["mobile"], "channel": None}
        assert dashcard.card is not None
        sql = render(dashcard.card, values)
        assert "toDate('2026-03-01')" in sql
        assert "'mobile'" in sql
        assert "[[" not in sql
        assert "{{" not in sql
