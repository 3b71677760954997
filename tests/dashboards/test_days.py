"""`dwh.days`: which business days there are, and which of them are shown where nobody chose any."""

from datetime import UTC, date, datetime, timedelta

import pytest
from pydantic import SecretStr

from app.settings import Settings
from app.warehouse import migrate, open_warehouse

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def berlin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    settings = Settings(_env_file=None, warehouse=SecretStr(f"chdb://{folder}"), timezone="Europe/Berlin")
    with open_warehouse(settings, purpose="a test") as warehouse:
        migrate(warehouse, settings)
        yield warehouse


@pytest.fixture
def days(berlin):
    """The rows of dwh.days while there are sessions on these days."""

    def run(*wanted: date):
        berlin.command("TRUNCATE TABLE dwh.sessions")
        for day in wanted:
            berlin.command(f"INSERT INTO dwh.sessions (session_date, session_id) SELECT '{day}', '{day}'")
        return berlin.query("SELECT day, is_recent, history_begins, time_zone FROM dwh.days ORDER BY day").rows()

    return run


def test_without_a_session_there_is_no_day(days):
    assert days() == []


def test_days_without_a_session_count_too(days):
    rows = days(date(2026, 3, 1), date(2026, 3, 4))
    assert [row[0] for row in rows] == [date(2026, 3, day) for day in (1, 2, 3, 4)]
    assert {(row[2], row[3]) for row in rows} == {(date(2026, 3, 1), "Europe/Berlin")}


@pytest.mark.parametrize(
    ("stored", "recent"), [(1, 1), (2, 1), (5, 2), (13, 6), (14, 7), (27, 7), (31, 14), (56, 28), (400, 28)]
)
def test_whole_weeks_are_shown_as_far_as_as_many_days_before_them_are_known(days, stored, recent):
    last = date(2026, 3, 31)
    rows = days(last - timedelta(days=stored - 1), last)
    assert [row[0] for row in rows if row[1]] == [last - timedelta(days=n) for n in reversed(range(recent))]


def test_day_that_is_not_over_is_not_shown(days):
    today = datetime.now(UTC).date()
    rows = days(today - timedelta(days=60), today + timedelta(days=1))
    shown = [row[0] for row in rows if row[1]]
    assert len(shown) == 28
    assert shown[-1] in {today - timedelta(days=1), today}  # it may be tomorrow in Berlin already


def test_only_day_is_shown_though_it_is_not_over(days):
    today = datetime.now(UTC).date() + timedelta(days=1)
    assert [row[:2] for row in days(today)] == [(today, 1)]
