"""The days of a file of advertising costs, whichever way it writes them; which way is settled for the whole file."""

import re
from collections.abc import Collection, Sequence
from datetime import date, timedelta
from functools import lru_cache

from app.core.errors import SpendError

DAY_FIRST, MONTH_FIRST = "dmy", "mdy"
_ORDERS = (DAY_FIRST, MONTH_FIRST)
_MONTH_NAMES = (
    "january jan januar jänner janvier janv enero ene gennaio gen",
    "february feb februar février févr fevrier febrero febbraio febr",
    "march mar märz mrz maerz mars marzo mär",
    "april apr avril avr abril abr aprile",
    "may mai mayo maggio mag",
    "june jun juni juin junio giugno giu",
    "july jul juli juillet juil julio luglio lug",
    "august aug août aout agosto ago",
    "september sep sept septembre septiembre settembre set",
    "october oct oktober okt octobre octubre ottobre ott",
    "november nov novembre noviembre",
    "december dec dezember dez décembre déc decembre diciembre dic dicembre",
)
_MONTHS = {name: number for number, names in enumerate(_MONTH_NAMES, start=1) for name in names.split()}
_TIME = r"(?:[T,\s]+\d{1,2}(?::\d{2}){0,2}(?:\.\d+)?.*)?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})([-/.])(\d{{1,2}})\2(\d{{1,2}}){_TIME}")
_DIGITS = re.compile(r"(\d{4})(\d{2})(\d{2})")
_YEAR_LAST = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}|\d{{2}}){_TIME}")
_NAMED = re.compile(rf"(\d{{1,2}})\.?[\s-]+(?:de )?([^\W\d_]+)\.?,?[\s-]+(?:de )?(\d{{4}}){_TIME}")
_NAMED_FIRST = re.compile(rf"([^\W\d_]+)\.? (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}}){_TIME}")
_WEEKDAY = re.compile(r"^[^\W\d_]{2,}\.?,\s+")
_BETWEEN = re.compile(r"\s+(?:-|–|—|to|bis|au|al)\s+|(?<=\d{4}),(?=\d)")  # noqa: RUF001
_IN_A_LINE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}\.? (?:de )?[^\W\d_]+\.? (?:de )?\d{4}|[^\W\d_]+\.? \d{1,2}, \d{4}")
_CENTURY = 2000
_FEWEST_IN_A_ROW = 3


@lru_cache(maxsize=65_536)
def parse_day(text: str, order: str = "") -> date | None:
    """The day in a text, maybe with a time after it; None if there is none, or if the order must be known."""
    text = _WEEKDAY.sub("", text.strip())
    if match := _YEAR_FIRST.fullmatch(text):
        return _day(match[1], match[3], match[4])
    if match := _DIGITS.fullmatch(text):
        return _day(*match.groups())
    if match := _YEAR_LAST.fullmatch(text):
        is_day_first = match[2] == "." or order == DAY_FIRST  # nobody writes a month first before a point
        month, day = (match[3], match[1]) if is_day_first else (match[1], match[3])
        return _day(match[4], month, day) if is_day_first or order else None
    if match := _NAMED.fullmatch(text):
        year, month, day = match[3], match[2], match[1]
    elif match := _NAMED_FIRST.fullmatch(text):
        year, month, day = match[3], match[1], match[2]
    return _day(year, _MONTHS.get(month.lower(), 0), day) if match else None


def _day(year: str, month: str | int, day: str) -> date | None:
    full = int(year) + (_CENTURY if len(year) < len("2000") else 0)
    try:
        return date(full, int(month), int(day))
    except ValueError:
        return None


def is_day(text: str) -> bool:
    """Whether a text can be a day at all."""
    return any(parse_day(text, order) for order in _ORDERS)


def settle_order(
    texts: Collection[str],
    *,
    others: Sequence[str] = (),
    asked: str = "",
    language: str = "en",
    is_daily: bool = False,
    today: date,
) -> str:
    """Whether day or month comes first in `03/04/2026`, for the whole file.

    Only what leaves no doubt counts: an order by which every day exists and none lies in the future, or by which all
    lie within a range that the file writes out; headers of a language that puts the day first; or, in a report
    that says to be daily, three days or more that follow each other. `others`: what the file says before its table.
    SpendError where there is doubt.
    """
    if asked:
        return asked
    last = today + timedelta(days=1)  # it may be tomorrow where the platform is
    written = sorted({*texts, *(text for text in others if is_day(text))})
    possible = [order for order in _ORDERS if all(_is_past(parse_day(text, order), last) for text in written)]
    if not possible:
        wrong = next((t for t in written if not any(_is_past(parse_day(t, o), last) for o in _ORDERS)), written[0])
        raise SpendError(
            f"{wrong!r} is not a valid day up to today in the format of the others: write days as 2026-03-31"
        )
    days = {order: {day for text in texts if (day := parse_day(text, order))} for order in possible}
    range_of_file = _written_out(others)
    if range_of_file:
        begin, end = min(range_of_file), max(range_of_file)
        within = [order for order in possible if all(begin <= day <= end for day in days[order])]
        possible = within or possible
    if len(possible) == 1 or days[possible[0]] == days[possible[-1]] or language != "en":
        return possible[0]
    if following := [order for order in possible if is_daily and _follow_each_other(days[order])]:
        return following[0]
    doubtful = next(text for text in written if parse_day(text, DAY_FIRST) != parse_day(text, MONTH_FIRST))
    raise SpendError(
        f"is {doubtful} {parse_day(doubtful, DAY_FIRST):%d %B} or {parse_day(doubtful, MONTH_FIRST):%d %B}? "
        "Say --dates dmy or --dates mdy"
    )


def _written_out(lines: Sequence[str]) -> list[date]:
    """The days in lines such as `Report Start: November 1, 2026`, if there are two or more."""
    found = [day for line in lines for match in _IN_A_LINE.finditer(line) if (day := parse_day(match[0]))]
    return found if len(found) > 1 else []


def _follow_each_other(days: Collection[date]) -> bool:
    return len(days) >= _FEWEST_IN_A_ROW and (max(days) - min(days)).days == len(days) - 1


def _is_past(day: date | None, last: date) -> bool:
    return day is not None and day <= last


def find_days(texts: Sequence[str]) -> list[str]:
    """The texts of days in lines such as `July 8, 2025 - July 31, 2025`, each line a day or a range of days."""
    return [
        part for text in texts if all(is_day(part) for part in _BETWEEN.split(text)) for part in _BETWEEN.split(text)
    ]
