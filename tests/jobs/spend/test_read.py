"""Readings of advertising costs: what a newer file replaces, what stays, and what an interruption leaves."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.contracts import ORDER_COST_READINGS, SPEND_FILES, SPEND_READINGS
from app.core.errors import SettingsError, SpendError, WarehouseError
from app.frames.spend.understand import Answers
from app.jobs.spend import store
from app.jobs.spend.read import look_at_files, read_files, read_table
from app.settings import Settings
from app.warehouse import migrate
from tests.support.effort import repeated
from tests.support.exports import EXPORTS, NOW

EXAMPLES = repeated(10, 200)
NO_ANSWERS = Answers()


@pytest.fixture
def export(tmp_path):
    """Writes a plain export of rows `date,campaign,cost` and returns its path."""

    def write(*rows: str, name: str = "costs.csv", platform: str = "podcast") -> Path:
        lines = [f"{day},{platform},{campaign},{cost},EUR" for day, campaign, cost in (row.split(",") for row in rows)]
        (tmp_path / name).write_text("\n".join(["date,platform,campaign,cost,currency", *lines]) + "\n")
        return tmp_path / name

    return write


@pytest.fixture
def read(warehouse, settings):
    """Reads files as on the day NOW; each reading is a minute later than the one before."""
    moments = iter(NOW + timedelta(minutes=number) for number in range(1000))

    def run(*paths: Path, answers: Answers = NO_ANSWERS, exported_at: datetime | None = None):
        return read_files(warehouse, settings, paths, answers, exported_at=exported_at, now=next(moments))

    return run


def costs(warehouse, view: str = "dwh.spend") -> list[tuple]:
    sql = (
        f"SELECT toString(spend_date) AS day, campaign, toFloat64(amount) AS amount FROM {view} ORDER BY day, campaign"
    )
    return list(warehouse.query(sql).iter_rows())


def test_a_newer_file_replaces_whole_days_of_an_account_and_leaves_the_others(warehouse, read, export):
    read(export("2026-11-01,a,1", "2026-11-01,b,2", "2026-11-02,a,3"))
    read(export("2026-11-02,a,30", "2026-11-03,a,4"))
    assert costs(warehouse) == [
        ("2026-11-01", "a", 1), ("2026-11-01", "b", 2), ("2026-11-02", "a", 30), ("2026-11-03", "a", 4),
    ]  # fmt: skip


def test_a_campaign_that_a_newer_file_no_longer_has_is_gone_that_day(warehouse, read, export):
    read(export("2026-11-01,a,1", "2026-11-01,b,2"))
    read(export("2026-11-01,b,2.5"))
    assert costs(warehouse) == [("2026-11-01", "b", 2.5)]


def test_another_platform_or_account_is_not_replaced(warehouse, read, export):
    read(export("2026-11-01,a,1"), export("2026-11-01,a,2", name="b.csv", platform="radio"))
    read(export("2026-11-01,a,3", name="c.csv"), answers=Answers(account="second"))
    assert sorted(amount for *_, amount in costs(warehouse)) == [1, 2, 3]


def test_the_same_file_twice_is_nothing(warehouse, read, export):
    path = export("2026-11-01,a,1")
    assert [report.state for report in read(path).reports] == ["read"]
    again = read(path)
    assert [report.state for report in again.reports] == ["same"]
    assert "the same file was read at 2026-12-01 12:00" in again.reports[0].notes[0]
    assert warehouse.scalar("SELECT count() FROM etl.spend_readings") == 1


def test_the_same_file_does_not_come_back_over_a_newer_one(warehouse, read, export):
    old = export("2026-11-01,a,1")
    read(old)
    read(export("2026-11-01,a,2", name="new.csv"))
    read(old)
    assert costs(warehouse) == [("2026-11-01", "a", 2)]


def test_the_same_file_with_another_answer_is_another_reading(warehouse, read, export, tmp_path):
    path = tmp_path / "c.csv"
    path.write_text('date,platform,campaign,cost,currency\n2026-11-01,podcast,a,"1,234",EUR\n')
    read(path, answers=Answers(decimal="."))
    read(path, answers=Answers(decimal=","))
    assert costs(warehouse) == [("2026-11-01", "a", 1.23)]


def test_an_older_export_that_is_read_later_does_not_count(warehouse, read, export):
    read(export("2026-11-01,a,2", name="new.csv"), exported_at=datetime(2026, 11, 9, tzinfo=UTC))
    late = read(export("2026-11-01,a,1", "2026-11-02,a,5"), exported_at=datetime(2026, 11, 8, tzinfo=UTC))
    assert costs(warehouse) == [("2026-11-01", "a", 2), ("2026-11-02", "a", 5)]
    assert "of 1 days a newer file was read before, which still counts" in late.reports[0].notes


def test_microsoft_says_itself_how_old_a_file_is(warehouse, read, tmp_path):
    text = (EXPORTS / "microsoft.csv").read_text(encoding="utf-8")
    (tmp_path / "later.csv").write_text(
        text.replace("Day: 11/2/2026 11:59:00 PM", "Day: 11/9/2026 11:59:00 PM").replace("1,012.50", "1,020.00"),
        encoding="utf-8",
    )
    read(tmp_path / "later.csv")
    read(EXPORTS / "microsoft.csv")
    assert [amount for *_, amount in costs(warehouse)] == [1020, 12.5, 2.25]
    assert warehouse.scalar("SELECT toString(max(exported_at)) FROM dwh.spend") == "2026-11-09 23:59:00.000"


def test_files_of_one_command_are_read_in_the_order_in_which_they_were_written(warehouse, read, export):
    new = export("2026-11-01,a,2", name="a.csv")
    old = export("2026-11-01,a,1", name="z.csv")
    import os

    os.utime(old, (1, 1))
    read(new, old)
    assert costs(warehouse) == [("2026-11-01", "a", 2)]


def test_costs_can_be_asked_as_of_a_moment(warehouse, read, export):
    read(export("2026-11-01,a,1"))
    read(export("2026-11-01,a,2"))
    at = "dwh.spend_at(ts = '2026-12-01 12:00:30')"
    assert (costs(warehouse, at), costs(warehouse)) == ([("2026-11-01", "a", 1)], [("2026-11-01", "a", 2)])
    assert costs(warehouse, "dwh.spend_at(ts = '2026-01-01 00:00:00')") == []


def test_days_that_were_replaced_by_other_campaigns_are_pointed_out(read, export):
    read(export("2026-11-01,a,1"))
    noted = read(export("2026-11-01,b,1")).reports[0].notes
    assert any("if this is another account, read both files again with --account NAME" in note for note in noted)


def test_a_refused_file_keeps_no_other_from_being_read(warehouse, read, export, tmp_path):
    (tmp_path / "empty.csv").write_text("")
    result = read(tmp_path / "empty.csv", export("2026-11-01,a,1"))
    assert costs(warehouse) == [("2026-11-01", "a", 1)]
    with pytest.raises(SpendError, match=r"empty\.csv: is empty") as refused:
        result.require_done()
    assert refused.value.exit_code == 1
    assert warehouse.query("SELECT state, rows_out, rows_rejected FROM etl.runs WHERE job = 'spend'").rows() == [
        ("failed", 1, 1)
    ]


def test_a_file_without_data_changes_nothing(warehouse, read, export):
    read(export("2026-11-01,a,1"))
    result = read(EXPORTS / "meta_no_data.csv")
    result.require_done()
    assert [report.state for report in result.reports] == ["nothing"]
    assert costs(warehouse) == [("2026-11-01", "a", 1)]


def test_a_look_at_files_needs_no_warehouse(settings):
    result = look_at_files(settings, [EXPORTS / "google.csv", EXPORTS / "google_range.csv"], Answers(), now=NOW)
    (report,) = result.reports
    assert (report.platform, report.rows, report.amount) == ("google", 3, Decimal("2414.75"))
    assert "say --spread" in str(result.refused[0])


# ---- money -------------------------------------------------------------------------------------------------------


def test_amounts_are_converted_at_the_rate_of_their_day_and_the_original_stays(warehouse, read, tmp_path):
    path = tmp_path / "usd.csv"
    path.write_text(
        "date,platform,campaign,cost,currency,conversion_value\n2026-03-02,podcast,a,117.00,USD,234.00\n2026-03-02,podcast,b,5,EUR,\n"
    )
    read(path)
    rate = warehouse.scalar("SELECT rate FROM dwh.spend WHERE currency = 'USD'")
    assert warehouse.query(
        "SELECT amount_original, currency, amount, platform_value FROM dwh.spend ORDER BY campaign"
    ).rows() == [
        (Decimal(117), "USD", (117 * rate).quantize(Decimal("0.01")), (234 * rate).quantize(Decimal("0.01"))),
        (Decimal(5), "EUR", Decimal(5), None),
    ]


def test_the_cents_of_many_small_rows_are_not_lost(warehouse, read, tmp_path):
    rows = "\n".join(f"2026-11-01,podcast,c{number},0.004,EUR" for number in range(100))
    (tmp_path / "small.csv").write_text(f"date,platform,campaign,cost,currency\n{rows}\n")
    read(tmp_path / "small.csv")
    assert warehouse.query("SELECT sum(amount_original) AS o, sum(amount) AS a FROM dwh.spend").row(0) == (
        Decimal("0.4"),
        Decimal("0.4"),
    )


def test_an_amount_without_a_rate_is_null_and_said(warehouse, read, tmp_path):
    (tmp_path / "clp.csv").write_text("date,platform,campaign,cost,currency\n2026-11-01,podcast,a,10000,CLP\n")
    report = read(tmp_path / "clp.csv").reports[0]
    assert "the ECB has no rate of CLP: these amounts count nowhere" in report.notes
    assert warehouse.query("SELECT amount_original, amount, rate FROM dwh.spend").row(0) == (Decimal(10000), None, None)


def test_amounts_of_another_currency_than_the_warehouse_has_now_count_nowhere_until_they_are_read_again(
    warehouse, settings, read, export
):
    path = export("2026-11-01,a,1")
    read(path)
    in_dollars = settings.model_copy(update={"currency": "USD"})
    migrate(warehouse, in_dollars)
    assert warehouse.scalar("SELECT count(amount) FROM dwh.spend") == 0
    read_files(warehouse, in_dollars, [path], Answers(), now=NOW + timedelta(hours=1))
    assert warehouse.query("SELECT amount > 1 AS is_more FROM dwh.spend").rows() == [(True,)]
    migrate(warehouse, settings)


# ---- orders ------------------------------------------------------------------------------------------------------


def test_costs_by_order_change_until_they_are_validated_and_declined_ones_cost_nothing(warehouse, read):
    read(EXPORTS / "awin.csv")
    read(EXPORTS / "awin_validated.csv")
    orders = warehouse.query("SELECT order_id, status, toFloat64(cost) AS cost FROM dwh.order_costs ORDER BY order_id")
    assert orders.rows() == [("o-1001", "approved", 5.2), ("o-1002", "approved", 3.25), ("o-1003", "declined", 5.2)]
    assert costs(warehouse) == [("2026-11-01", "Ring blog", 8.45)]
    assert costs(warehouse, "dwh.spend_at(ts = '2026-12-01 12:00:30')") == [
        ("2026-11-01", "Ring blog", 9.75),
        ("2026-11-02", "Coupons", 5.2),
    ]


# ---- a table that another tool fills -----------------------------------------------------------------------------


@pytest.fixture
def connector(warehouse):
    warehouse.command("CREATE DATABASE IF NOT EXISTS connector")
    warehouse.command("DROP TABLE IF EXISTS connector.ads")
    warehouse.command(
        "CREATE TABLE connector.ads (date Date, customer_id Int64, campaign_id Int64, campaign_name String, cost_micros Int64, "
        "clicks Nullable(Int64), currency_code String, `segments.device` String) ENGINE = Memory"
    )
    yield lambda values: warehouse.command(f"INSERT INTO connector.ads VALUES {values}")
    warehouse.command("DROP DATABASE connector")


def test_a_table_is_read_again_and_again_and_only_what_changed_is_stored(warehouse, settings, connector):
    connector(
        "('2026-11-01', 1, 10, 'a', 1234567, 5, 'EUR', 'MOBILE'), ('2026-11-01', 1, 10, 'a', 433, NULL, 'EUR', 'DESKTOP')"
    )
    first = read_table(warehouse, settings, "connector.ads", Answers(), dry_run=False, now=NOW)
    assert (first.reports[0].state, first.reports[0].amount) == ("read", Decimal("1.235"))
    again = read_table(warehouse, settings, "connector.ads", Answers(), dry_run=False, now=NOW)
    assert (again.reports[0].state, again.reports[0].notes) == ("nothing", ("nothing changed",))
    connector("('2026-11-02', 1, 10, 'a', 2000000, 5, 'EUR', 'MOBILE')")
    third = read_table(warehouse, settings, "connector.ads", Answers(), dry_run=False, now=NOW)
    assert third.reports[0].rows == 1
    assert costs(warehouse) == [("2026-11-01", "a", 1.24), ("2026-11-02", "a", 2)]


def test_a_table_that_does_not_say_its_currency_is_refused(warehouse, settings, connector):
    warehouse.command("ALTER TABLE connector.ads DROP COLUMN currency_code")
    warehouse.command("INSERT INTO connector.ads VALUES ('2026-11-01', 1, 10, 'a', 1234567, 5, 'MOBILE')")
    result = read_table(warehouse, settings, "connector.ads", Answers(), dry_run=True, now=NOW)
    assert "connector.ads: does not say its currency" in str(result.refused[0])


@pytest.mark.parametrize("name", ["ads", "a.b; DROP TABLE c", "file('x')", "a.b.c"])
def test_a_table_is_named_with_its_database(warehouse, settings, name):
    with pytest.raises(SettingsError, match="name a table of the warehouse with its database"):
        read_table(warehouse, settings, name, Answers(), dry_run=True, now=NOW)


# ---- interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops_at", [SPEND_FILES, SPEND_READINGS])
def test_an_interrupted_reading_leaves_the_old_days_and_is_repeated_whole(
    warehouse, read, export, monkeypatch, stops_at
):
    read(export("2026-11-01,a,1"))
    insert = type(warehouse).insert

    def stop(self, table, frame, **options):
        if table is stops_at:
            raise WarehouseError("killed")
        return insert(self, table, frame, **options)

    newer = export("2026-11-01,a,2", "2026-11-02,a,3", name="newer.csv")
    monkeypatch.setattr(type(warehouse), "insert", stop)
    with pytest.raises(WarehouseError, match="killed"):
        read(newer)
    monkeypatch.undo()
    assert costs(warehouse) == [("2026-11-01", "a", 1)]
    assert [report.state for report in read(newer).reports] == ["read"]
    assert costs(warehouse) == [("2026-11-01", "a", 2), ("2026-11-02", "a", 3)]
    assert warehouse.scalar("SELECT count() FROM etl.spend_readings") == 3


def test_a_reading_that_did_not_arrive_whole_is_not_published(warehouse, read, export, monkeypatch):
    insert = type(warehouse).insert

    def lose_rows(self, table, frame, **options):
        return insert(self, table, frame.head(1) if table is SPEND_READINGS else frame, **options)

    monkeypatch.setattr(type(warehouse), "insert", lose_rows)
    with pytest.raises(WarehouseError, match="not published"):
        read(export("2026-11-01,a,1", "2026-11-02,a,3"))
    assert costs(warehouse) == []


# ---- any order ---------------------------------------------------------------------------------------------------

_EXPORTS = st.lists(
    st.tuples(
        st.integers(0, 5),  # when it was exported
        st.dictionaries(
            st.tuples(st.integers(1, 4), st.sampled_from("ab")), st.integers(0, 99), min_size=1, max_size=6
        ),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda export: export[0],
).flatmap(lambda exports: st.tuples(st.just(exports), st.permutations(range(len(exports)))))


@hypothesis_settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_EXPORTS)
def test_whatever_order_exports_are_read_in_the_newest_of_each_day_counts(warehouse, settings, tmp_path, drawn):
    exports, order = drawn
    for table in (SPEND_READINGS, ORDER_COST_READINGS, SPEND_FILES):
        warehouse.command(f"TRUNCATE TABLE {table.full_name}")
    for number, place in enumerate(order):
        hour, rows = exports[place]
        path = tmp_path / f"{place}.csv"
        lines = [f"2026-11-0{day},podcast,{campaign},{cost},EUR" for (day, campaign), cost in rows.items()]
        path.write_text("\n".join(["date,platform,campaign,cost,currency", *lines]))
        exported_at = datetime(2026, 11, 9, hour, tzinfo=UTC)
        now = NOW + timedelta(minutes=number)
        read_files(warehouse, settings, [path], Answers(), exported_at=exported_at, now=now).require_done()
    expected = {}
    for _, rows in sorted(exports, key=lambda export: export[0]):
        days = {day for day, _ in rows}
        expected = {key: cost for key, cost in expected.items() if key[0] not in days} | rows
    assert costs(warehouse) == sorted((f"2026-11-0{day}", campaign, cost) for (day, campaign), cost in expected.items())


def test_the_days_of_a_reading_are_those_of_its_rows(warehouse, read, export):
    read(export("2026-11-01,a,1", "2026-11-05,a,1"))
    found = warehouse.query("SELECT first_day, last_day, rows, platforms, currencies, source FROM etl.spend_files").row(
        0
    )
    assert found == (date(2026, 11, 1), date(2026, 11, 5), 2, ["podcast"], ["EUR"], "file")
    assert store.last_read_at(warehouse) == NOW


def test_settings_name_no_aliases_by_default():
    assert Settings(_env_file=None).campaigns is None
