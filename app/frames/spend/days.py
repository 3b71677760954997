"""The days of a file of advertising costs, whichever way it writes them; which way is settled for the whole file."""

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import date, timedelta

from app.core.errors import SpendError

DAY_FIRST, MONTH_FIRST = "dmy", "mdy"
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
_CENTURY = 2000


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
    return any(parse_day(text, order) for order in (DAY_FIRST, MONTH_FIRST))


def settle_order(
    texts: Collection[str], *, others: Iterable[str] = (), asked: str = "", language: str = "en", today: date
) -> str:
    """Whether day or month comes first in `03/04/2026`, for the whole file.

    Only what leaves no doubt counts: an order by which every day exists and none lies in the future, or headers of a
    language that puts the day first. `others`: days that the file names elsewhere. SpendError where there is doubt.
    """
    if asked:
        return asked
    written = [*texts, *(text for text in others if is_day(text))]
    last = today + timedelta(days=1)  # it may be tomorrow where the platform is
    read = {order: [parse_day(text, order) for text in written] for order in (DAY_FIRST, MONTH_FIRST)}
    possible = [order for order, days in read.items() if all(day is not None and day <= last for day in days)]
    if len(possible) == 1:
        return possible[0]
    if not possible:
        wrong = next(text for text in written if not any(_is_past(parse_day(text, o), last) for o in read))
        raise SpendError(f"{wrong!r} is no day up to today: write days as 2026-03-31")
    if read[DAY_FIRST] == read[MONTH_FIRST]:
        return DAY_FIRST
    if language != "en":
        return DAY_FIRST
    doubtful = next(text for text in written if parse_day(text, DAY_FIRST) != parse_day(text, MONTH_FIRST))
    raise SpendError(
        f"is {doubtful} {parse_day(doubtful, DAY_FIRST):%d %B} or {parse_day(doubtful, MONTH_FIRST):%d %B}? "
        "Say --dates dmy or --dates mdy"
    )


def _is_past(day: date | None, last: date) -> bool:
    return day is not None and day <= last


def find_days(texts: Sequence[str]) -> list[str]:
    """The texts of days in lines such as `July 8, 2025 - July 31, 2025`, each line a day or a range of days."""
    return [
        part for text in texts if all(is_day(part) for part in _BETWEEN.split(text)) for part in _BETWEEN.split(text)
    ]
