"""What cards answer: each card's SQL run under the chosen filters, its result made ready for the page."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec

from app.core.errors import CaratError, WarehouseGoneError
from app.dashboards.model import Dashboard, DashCard, Parameter
from app.dashboards.sql import render, values_of
from app.warehouse import Warehouse

Read = Callable[[str], bytes]
"""Runs a query and answers in ClickHouse's format JSONCompact, in which types, days and odd bytes come out right."""

_MOST_ROWS = 2_000  # as many as Metabase draws
_LONGEST_TEXT = 300
_MOST_OPTIONS = 50
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)")
_NUMBER = re.compile(r"U?Int\d+|B?Float\d+|Decimal\b.*")


@dataclass(frozen=True)
class Days:
    """The business days that are stored, and those that a card shows where no date is chosen; None without any."""

    first: date | None
    last: date | None
    recent_first: date | None
    recent_last: date | None


def reader_of(warehouse: Warehouse) -> Read:
    """Reads over this connection; for one thread at a time."""
    return lambda sql: warehouse.raw(sql, fmt="JSONCompact")


def card_key(dashcard: DashCard) -> str:
    """The name of a card's place in the page's data."""
    return dashcard.entity_id


def answer_cards(
    read: Read, dashboard: Dashboard, dashcards: Iterable[DashCard], chosen: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The results of these cards by their keys: `columns`, `rows`, `is_cut`, or `error`; one bad card spoils no other.

    Raises WarehouseGoneError where nobody answers any more.
    """
    known: dict[str, dict[str, Any]] = {}  # the same question on two tabs is asked once
    answers = {}
    for dashcard in dashcards:
        if dashcard.card_id is None:
            continue
        if dashcard.card is None:
            answers[card_key(dashcard)] = {"error": f"there is no card {dashcard.card_id}"}
            continue
        try:
            sql = render(dashcard.card, values_of(dashboard, dashcard, chosen))
            if sql not in known:
                known[sql] = result_of(read(sql))
            answers[card_key(dashcard)] = known[sql]
        except WarehouseGoneError:
            raise
        except CaratError as error:
            answers[card_key(dashcard)] = {"error": _told(str(error))}
    return answers


def result_of(answer: bytes) -> dict[str, Any]:
    """A result in JSONCompact as `columns` (name, and number, date, datetime, boolean or text), `rows` and `is_cut`."""
    content = msgspec.json.decode(answer)
    kinds = [_kind(column["type"]) for column in content["meta"]]
    rows = content["data"]
    return {
        "columns": [{"name": c["name"], "type": kind} for c, kind in zip(content["meta"], kinds, strict=True)],
        "rows": [[_value(v, kind) for v, kind in zip(row, kinds, strict=True)] for row in rows[:_MOST_ROWS]],
        "is_cut": len(rows) > _MOST_ROWS,
    }


def stored_days(read: Read) -> Days:
    """The days of the warehouse's sessions."""
    answer = result_of(
        read("SELECT min(day), max(day), minIf(day, is_recent), maxIf(day, is_recent), count() FROM dwh.days")
    )
    *days, count = answer["rows"][0] if answer["rows"] else [0]
    return Days(*map(date.fromisoformat, days)) if count else Days(None, None, None, None)


def options_of(read: Read, dashboards: Iterable[Dashboard], parameter: Parameter) -> list[str]:
    """The values that a filter can take: those that its column holds, the most frequent first."""
    column = _column_of(dashboards, parameter)
    if not column:
        return []
    _, database, table, name = column
    people = "WHERE NOT is_bot" if (database, table) == ("dwh", "sessions") else ""
    answer = result_of(
        read(
            f"SELECT toString(`{name}`) AS value FROM `{database}`.`{table}` {people} "
            f"GROUP BY value HAVING value != '' ORDER BY count() DESC, value LIMIT {_MOST_OPTIONS}"
        )
    )
    return [row[0] for row in answer["rows"]]


def _column_of(dashboards: Iterable[Dashboard], parameter: Parameter) -> tuple[str, ...]:
    """The column of the first card that this filter is mapped on."""
    for dashboard in dashboards:
        ids = {own.id for own in dashboard.parameters if own.slug == parameter.slug}
        for dashcard in dashboard.dashcards:
            for mapping in dashcard.mappings:
                tag = dashcard.card.tag(mapping.tag) if dashcard.card and mapping.parameter_id in ids else None
                if tag and tag.column:
                    return tag.column
    return ()


def _kind(column_type: str) -> str:
    while match := _WRAPPED.fullmatch(column_type):
        column_type = match[1]
    if _NUMBER.fullmatch(column_type):
        return "number"
    if column_type.startswith("DateTime"):
        return "datetime"
    if column_type.startswith("Date"):
        return "date"
    return "boolean" if column_type == "Bool" else "text"


def _value(value: Any, kind: str) -> Any:
    if value is None or (kind == "boolean"):
        return value
    if kind == "number":
        return float(value) if isinstance(value, str) else value  # servers may quote large numbers
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


def _told(problem: str) -> str:
    """An error in words that fit on a card."""
    if "Unknown table" in problem and "history." in problem:
        return "the shop's database was never read: run `carat snapshot`, its history begins with that"
    return problem if len(problem) <= _LONGEST_TEXT else f"{problem[: _LONGEST_TEXT - 1]}…"
