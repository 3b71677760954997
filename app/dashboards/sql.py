"""Renders a card's SQL: fills its template tags and optional clauses with the filters' values.

The rules are Metabase's: `[[ … ]]` is left out unless every tag in it has a value; a field filter without a value is
true; a value is quoted by its type and never becomes SQL.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from app.core.errors import DashboardError
from app.core.sql import quote
from app.dashboards.model import Card, Dashboard, DashCard, Tag

_TOKEN = re.compile(r"\[\[|\]\]|\{\{\s*([^{}]*?)\s*\}\}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MONTH = re.compile(r"(\d{4})-(\d{2})")
_QUARTER = re.compile(r"Q([1-4])-(\d{4})")
_RELATIVE = re.compile(r"past(\d{1,4})(day|week|month|quarter|year)s(~?)")
_UNITS = ("day", "week", "month", "quarter", "year")


@dataclass(frozen=True)
class Period:
    """Days from `first` to `last`, both included; None if that side is open."""

    first: date | None
    last: date | None


def tags_used(sql: str) -> list[str]:
    """The names of the tags in the SQL, without duplicates, in order."""
    return list(dict.fromkeys(match[1] for match in _TOKEN.finditer(sql) if match[1] is not None))


def render(card: Card, values: Mapping[str, Any], *, today: date | None = None) -> str:
    """The card's SQL with these values for its tags; a tag without a value gets its default, if any.

    A field filter's value is a string or a list of strings; a date's is in Metabase's form (`2026-03-01~2026-03-31`,
    `2026-03-05`, `2026-03`, `Q1-2026`, `~2026-03-05`, and, if `today` is given, `past30days`, `thismonth`, …).
    """
    known = {tag.name: tag for tag in card.tags}
    levels = [_Clause()]
    position = 0
    for match in _TOKEN.finditer(card.sql):
        levels[-1].sql += card.sql[position : match.start()]
        position = match.end()
        if match[0] == "[[":
            levels.append(_Clause())
        elif match[0] == "]]":
            _close(card, levels)
        elif (tag := known.get(match[1])) is None:
            raise DashboardError(f"{card.path}: template-tags: the SQL uses {{{{{match[1]}}}}}, which is not declared")
        else:
            condition = _condition(card, tag, _filled(tag, values.get(tag.name)), today=today)
            if condition is None and len(levels) == 1:
                condition = _true(card, tag)
            levels[-1].is_whole &= condition is not None
            levels[-1].sql += condition or ""
    if len(levels) > 1:
        raise DashboardError(f"{card.path}: native: [[ has no matching ]]")
    return levels[0].sql + card.sql[position:]


@dataclass
class _Clause:
    """An optional clause, or the SQL outside of all: its SQL so far, and whether each of its tags has a value."""

    sql: str = ""
    is_whole: bool = True


def _close(card: Card, levels: list[_Clause]) -> None:
    """Close the innermost clause and keep its SQL if each of its tags has a value."""
    if len(levels) == 1:
        raise DashboardError(f"{card.path}: native: ]] has no matching [[")
    clause = levels.pop()
    levels[-1].sql += clause.sql if clause.is_whole else ""


def _true(card: Card, tag: Tag) -> str:
    """The SQL of a tag without a value outside of optional clauses: a field filter becomes true."""
    if tag.type != "dimension":
        raise DashboardError(f"{card.path}: native: {{{{{tag.name}}}}} needs a value, or a clause in [[ ]]")
    return "1 = 1"


def values_of(dashboard: Dashboard, dashcard: DashCard, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a card's tags, from the dashboard's chosen filters (by slug)."""
    found = {}
    for mapping in dashcard.mappings:
        parameter = dashboard.parameter(mapping.parameter_id)
        if parameter is not None:
            found[mapping.tag] = chosen.get(parameter.slug, parameter.default)
    return found


def parse_period(text: str, *, today: date | None = None) -> Period:
    """Parse the value of a date filter; DashboardError if it is invalid."""
    try:
        period = _absolute(text) or (_relative(text, today) if today else None)
    except (ValueError, OverflowError):
        period = None
    if period is None:
        raise DashboardError(f"date {text!r}: 2026-03-01~2026-03-31, 2026-03-05, 2026-03 or past30days is expected")
    return period


def _filled(tag: Tag, value: Any) -> Any:
    """The value, or the tag's default; None if nothing is chosen."""
    value = tag.default if value is None else value
    if isinstance(value, str) or not isinstance(value, Sequence):
        return None if value == "" else value
    return list(value) or None


def _condition(card: Card, tag: Tag, value: Any, *, today: date | None) -> str | None:
    """The SQL of a tag; None if it has no value."""
    if value is None:
        return None
    where = f"{card.path}: {{{{{tag.name}}}}}"
    if tag.type != "dimension":
        return _literal(tag.type, value, where=where)
    column = ".".join(f"`{part}`" for part in tag.column[1:])
    if tag.widget_type.startswith("date/"):
        return _between(column, parse_period(_one(value, where=where), today=today))
    values = value if isinstance(value, list) else [value]
    texts = ", ".join(_literal(tag.widget_type.partition("/")[0], item, where=where) for item in values)
    match tag.widget_type:
        case "string/=" | "number/=" | "boolean/=":
            return f"{column} IN ({texts})"
        case "string/!=" | "number/!=":
            return f"{column} NOT IN ({texts})"
        case kind:
            raise DashboardError(f"{where}: filters of type {kind!r} are not supported; use string/= or date/range")


def _one(value: Any, *, where: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str | date):
        raise DashboardError(f"{where}: {value!r} is not a date")
    return str(value)


def _literal(kind: str, value: Any, *, where: str) -> str:
    """The value as an SQL literal of its kind: number, boolean, date or text."""
    if kind == "number":
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            raise DashboardError(f"{where}: {value!r} is not a number") from None
        if not number.is_finite():
            raise DashboardError(f"{where}: {value!r} is not a number")
        return format(number, "f")
    if kind == "boolean":
        return "1 = 1" if str(value).lower() in {"1", "true"} else "1 <> 1"
    if kind == "date":
        if not _DATE.fullmatch(str(value)):
            raise DashboardError(f"{where}: {value!r} is not a date such as 2026-03-05")
        return f"toDate({quote(str(value))})"
    if not isinstance(value, str | int | float):
        raise DashboardError(f"{where}: {value!r} is not text")
    return quote(str(value))


def _between(column: str, period: Period) -> str:
    bounds = [f"{column} >= toDate({quote(str(period.first))})"] if period.first else []
    bounds += [f"{column} <= toDate({quote(str(period.last))})"] if period.last else []
    return f"({' AND '.join(bounds)})"


def _absolute(text: str) -> Period | None:
    if "~" in text and not text.startswith("past"):
        first, _, last = text.partition("~")
        bounds = [date.fromisoformat(side[:10]) if side else None for side in (first, last)]
        return Period(*bounds) if any(bounds) else None
    if _DATE.fullmatch(text):
        return Period(date.fromisoformat(text), date.fromisoformat(text))
    if match := _MONTH.fullmatch(text):
        return _whole("month", date(int(match[1]), int(match[2]), 1))
    if match := _QUARTER.fullmatch(text):
        return _whole("quarter", date(int(match[2]), 3 * int(match[1]) - 2, 1))
    return None


def _relative(text: str, today: date) -> Period | None:
    """`today`, `yesterday`, `thismonth`, `lastweek`, `past30days` (without today) and `past30days~` (with today)."""
    if text in {"today", "thisday"}:
        return Period(today, today)
    if text in {"yesterday", "lastday"}:
        return Period(today - timedelta(days=1), today - timedelta(days=1))
    for unit in _UNITS:
        if text == f"this{unit}":
            return _whole(unit, today)
        if text == f"last{unit}":
            return _whole(unit, _start(unit, today) - timedelta(days=1))
    if not (match := _RELATIVE.fullmatch(text)):
        return None
    unit, first = match[2], _start(match[2], today)
    last = first - timedelta(days=1)
    for _ in range(int(match[1])):
        first = _start(unit, first - timedelta(days=1))
    return Period(first, today if match[3] else last)


def _whole(unit: str, day: date) -> Period:
    """The week (from Monday), month, … that contains the day."""
    first = _start(unit, day)
    longest = {"day": 1, "week": 7, "month": 31, "quarter": 92, "year": 366}[unit]
    following = _start(unit, first + timedelta(days=longest))
    return Period(first, following - timedelta(days=1))


def _start(unit: str, day: date) -> date:
    match unit:
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "quarter":
            return day.replace(month=day.month - (day.month - 1) % 3, day=1)
        case "year":
            return day.replace(month=1, day=1)
    return day
