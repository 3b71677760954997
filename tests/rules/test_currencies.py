"""The ECB's rates: known values, days without rates, a shop's newer file, and which days a newer file changes."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from zipfile import ZipFile

import pytest

from app.core.errors import SettingsError
from app.rules.currencies import Currencies, load_currencies
from app.settings import Settings, load_settings

CARRIED = Currencies()
FILE = """Date,USD,JPY,RUB,
2026-03-09,1.1555,183.15,N/A,
2026-03-06,1.1561,182.57,N/A,
2026-03-05,1.1618,183.03,90,
"""


def rates(currencies: Currencies, code: str, *days: date) -> list[Decimal | None]:
    found = {day: rate for day, currency, rate in currencies.rates({code}, days).rows() if currency == code}
    return [found.get(day) for day in days]


def of_file(text: str, folder: Path) -> Currencies:
    path = folder / "eurofxref-hist.csv"
    path.write_text(text)
    return Currencies(path=path)


@pytest.mark.parametrize(
    ("code", "day", "rate"),
    [
        ("USD", date(1999, 1, 4), "1.1789"),
        ("USD", date(2008, 7, 15), "1.599"),
        ("JPY", date(2026, 3, 5), "183.03"),
        ("GBP", date(2026, 3, 5), "0.8695"),
        ("TRY", date(2026, 10, 30), "55.8015"),
        ("EUR", date(2026, 3, 5), "1"),
    ],
)
def test_the_carried_rates_are_those_that_the_ecb_published(code, day, rate):
    found = {currency: found for _, currency, found in CARRIED.rates({code, "CHF"}, [day]).rows()}
    assert found[code] == Decimal(rate)


def test_a_weekend_and_a_holiday_have_the_rate_published_last_before_them():
    assert rates(CARRIED, "USD", date(2026, 3, 6), date(2026, 3, 7), date(2026, 3, 8)) == [Decimal("1.1561")] * 3
    assert rates(CARRIED, "USD", date(2024, 12, 25)) == rates(CARRIED, "USD", date(2024, 12, 24))


def test_days_after_the_end_of_the_file_have_its_last_rates(tmp_path):
    currencies = of_file(FILE, tmp_path)
    assert currencies.last_day == date(2026, 3, 9)
    assert rates(currencies, "USD", date(2027, 1, 1)) == [Decimal("1.1555")]


def test_there_is_no_rate_of_an_unknown_currency_or_before_1999():
    assert CARRIED.rates({"KWD"}, [date(2026, 3, 5)])["currency"].to_list() == ["EUR"]
    assert CARRIED.rates({"USD"}, [date(1998, 12, 31)]).is_empty()


def test_a_currency_that_the_ecb_no_longer_publishes_has_no_rate():
    assert rates(CARRIED, "RUB", date(2022, 3, 1), date(2022, 3, 2), date(2026, 3, 5)) == [
        Decimal("117.201"), Decimal("117.201"), None,
    ]  # fmt: skip
    assert rates(CARRIED, "HRK", date(2022, 12, 31), date(2023, 6, 1)) == [Decimal("7.5365"), None]
    assert rates(CARRIED, "ISK", date(2012, 1, 2)) == [None]


def test_the_file_is_not_read_while_every_amount_is_in_the_target_currency(tmp_path):
    missing = Currencies("EUR", tmp_path / "none.csv")
    assert missing.rates({"EUR"}, [date(2026, 3, 5)]).is_empty()
    with pytest.raises(SettingsError, match="CARAT_RATES: cannot read"):
        missing.rates({"USD"}, [date(2026, 3, 5)])


def test_a_newer_file_changes_the_digest_of_the_days_whose_rates_it_changes_and_of_no_others(tmp_path):
    older = of_file(FILE, tmp_path)
    days = [date(2026, 3, day) for day in range(4, 12)]
    before = [older.rates_digest(day) for day in days]
    newer = FILE.replace("Date,USD,JPY,RUB,\n", "Date,USD,JPY,RUB,\n2026-03-10,1.1641,183.67,N/A,\n")
    after = [of_file(newer, tmp_path).rates_digest(day) for day in days]
    assert [day.day for day, old, new in zip(days, before, after, strict=True) if old != new] == [10, 11]
    corrected = of_file(newer.replace("1.1561", "1.1562"), tmp_path)
    digests = [corrected.rates_digest(day) for day in days]
    assert [day.day for day, old, new in zip(days, after, digests, strict=True) if old != new] == [6, 7, 8]
    assert digests[2] == digests[3] == digests[4]  # Friday and its weekend


def test_the_digest_depends_on_the_target_and_not_on_how_a_rate_is_written(tmp_path):
    day = date(2026, 3, 5)
    currencies = of_file(FILE, tmp_path)
    digest = currencies.rates_digest(day)
    assert Currencies("USD", currencies.path).rates_digest(day) != digest
    assert of_file(FILE.replace(",90,", ",90.00,"), tmp_path).rates_digest(day) == digest


def test_a_zip_is_read_like_the_file_in_it(tmp_path):
    path = tmp_path / "eurofxref-hist.zip"
    with ZipFile(path, "w") as archive:
        archive.writestr("eurofxref-hist.csv", FILE)
    day = date(2026, 3, 6)
    assert Currencies(path=path).rates_digest(day) == of_file(FILE, tmp_path).rates_digest(day)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "no column Date"),
        ("Date,USD\n", "has no day"),
        ("Date,USD\n05.03.2026,1\n", "line 2: Date: '05.03.2026' is not a date such as 2026-03-31"),
        ("Date,USD\n2026-03-05,1\n2026-03-04,1,1\n2026-03-05,1\n", "a day twice"),
        ("Date,USD\n2026-03-05,1\n2026-03-04,-1\n", "line 3: USD: '-1' is not a rate"),
        ('Date,USD\n2026-03-05,"1,1"\n', "line 2: USD: '1,1' is not a rate"),
        ("Date,USD\n2026-03-05,0\n", "line 2: USD: '0' is not a rate"),
        ("PK\x03\x04", "zip"),
    ],
)
def test_a_file_that_holds_no_rates_is_refused_with_the_place(text, problem, tmp_path):
    path = tmp_path / "rates.csv"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_currencies(Settings(_env_file=None, rates=path))
    message = str(refused.value)
    assert message.startswith(f"CARAT_RATES: {path}: ")
    assert problem in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_named_when_the_settings_are_read(tmp_path):
    with pytest.raises(SettingsError, match=r"CARAT_RATES: cannot read .*none\.csv: No such file"):
        load_currencies(Settings(_env_file=None, rates=tmp_path / "none.csv"))


def test_the_currency_is_a_code_of_iso_4217_in_any_case():
    assert load_settings(_env_file=None, currency=" chf").currency == "CHF"
    assert load_currencies(Settings(_env_file=None)).target == "EUR"
    with pytest.raises(
        SettingsError, match=r"CARAT_CURRENCY: 'EURO' is not a currency of ISO 4217\. Did you mean EUR\?"
    ):
        load_settings(_env_file=None, currency="EURO")
