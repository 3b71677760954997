"""The results of cards: runs each card's SQL with the chosen filters and prepares the result for the page."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec

from app.core.errors import CaratError, WarehouseGoneError
from app.core.sql import quote
from app.dashboards.model import Dashboard, DashCard, Parameter
from app.dashboards.sql import render, values_of
from app.warehouse import Warehouse
from app.warehouse.shop_views import EMPTY, NEVER_READ

RunQuery = Callable[[str], bytes]
"""Runs a query and returns ClickHouse's JSONCompact, which preserves types, dates and invalid UTF-8."""

_MOST_ROWS = 2_000  # the limit of Metabase
_LONGEST_TEXT = 300
_MOST_OPTIONS = 50
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)")
_NUMBER = re.compile(r"U?Int\d+|B?Float\d+|Decimal\b.*")
_SHOP_VIEW = re.compile(r"\bhistory\.shop_\w+_versions\b")
_NO_HISTORY = re.compile(r"(?:Uncached|Unknown) table [^.]{0,60}history\.")  # the engine has two messages for it


@dataclass(frozen=True)
class StoredDays:
    """The stored business days, and the days that cards show when no date is chosen; None if there are none."""

    first: date | None
    last: date | None
    recent_first: date | None
    recent_last: date | None


def query_runner(warehouse: Warehouse) -> RunQuery:
    """Run queries over this connection, from one thread at a time."""
    return lambda sql: warehouse.raw(sql, fmt="JSONCompact")


def card_key(dashcard: DashCard) -> str:
    """The key of a card in the page's data."""
    return dashcard.entity_id


def card_results(
    run_query: RunQuery, dashboard: Dashboard, dashcards: Iterable[DashCard], chosen: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The results of these cards by key: `columns`, `rows` and `is_cut`, or `error` for a card that fails.

    Raises WarehouseGoneError if the warehouse stops responding.
    """
    cached: dict[str, dict[str, Any]] = {}  # a query that two tabs share runs once
    results = {}
    for dashcard in dashcards:
        if dashcard.card_id is None:
            continue
        if dashcard.card is None:
            results[card_key(dashcard)] = {"error": f"there is no card {dashcard.card_id}"}
            continue
        try:
            sql = render(dashcard.card, values_of(dashboard, dashcard, chosen))
            if sql not in cached:
                cached[sql] = _explained(run_query, sql, parse_result(run_query(sql)))
            results[card_key(dashcard)] = cached[sql]
        except WarehouseGoneError:
            raise
        except CaratError as error:
            results[card_key(dashcard)] = {"error": _short_error(str(error))}
    return results


def _explained(run_query: RunQuery, sql: str, result: dict[str, Any]) -> dict[str, Any]:
    """The result or, if its numbers are missing because a view of the shop's tables is empty, the reason as `error`.

    Without any row, the first view is the reason: the others add to its rows.
    """
    views = list(dict.fromkeys(_SHOP_VIEW.findall(sql)))
    if not views or _has_numbers(result):
        return result
    decisive = views if result["rows"] else views[:1]
    names = ", ".join(quote(view) for view in decisive)
    comments = parse_result(
        run_query(
            "SELECT database || '.' || name AS view, comment FROM system.tables "
            f"WHERE database = 'history' AND view IN ({names})"
        )
    )
    reasons = {view: said.removeprefix(EMPTY) for view, said in comments["rows"] if said.startswith(EMPTY)}
    return next(({"error": reasons[view]} for view in decisive if view in reasons), result)


def _has_numbers(result: dict[str, Any]) -> bool:
    numbers = [index for index, column in enumerate(result["columns"]) if column["type"] == "number"]
    return any(row[index] is not None for row in result["rows"] for index in numbers)


def parse_result(response: bytes) -> dict[str, Any]:
    """A result in JSONCompact as `columns` (name, and number, date, datetime, boolean or text), `rows` and `is_cut`."""
    content = msgspec.json.decode(response)
    kinds = [_kind(column["type"]) for column in content["meta"]]
    rows = content["data"]
    return {
        "columns": [{"name": c["name"], "type": kind} for c, kind in zip(content["meta"], kinds, strict=True)],
        "rows": [[_value(v, kind) for v, kind in zip(row, kinds, strict=True)] for row in rows[:_MOST_ROWS]],
        "is_cut": len(rows) > _MOST_ROWS,
    }


def stored_days(run_query: RunQuery) -> StoredDays:
    """The days for which the warehouse has sessions."""
    result = parse_result(
        run_query("SELECT min(day), max(day), minIf(day, is_recent), maxIf(day, is_recent), count() FROM dwh.days")
    )
    *days, count = result["rows"][0] if result["rows"] else [0]
    return StoredDays(*map(date.fromisoformat, days)) if count else StoredDays(None, None, None, None)


def options_of(run_query: RunQuery, dashboards: Iterable[Dashboard], parameter: Parameter) -> list[str]:
    """The values of a filter: those in its column, most frequent first."""
    column = _column_of(dashboards, parameter)
    if not column:
        return []
    _, database, table, name = column
    without_bots = "WHERE NOT is_bot" if (database, table) == ("dwh", "sessions") else ""
    result = parse_result(
        run_query(
            f"SELECT toString(`{name}`) AS value FROM `{database}`.`{table}` {without_bots} "
            f"GROUP BY value HAVING value != '' ORDER BY count() DESC, value LIMIT {_MOST_OPTIONS}"
        )
    )
    return [row[0] for row in result["rows"]]


def _column_of(dashboards: Iterable[Dashboard], parameter: Parameter) -> tuple[str, ...]:
    """The column that this filter filters on the first card that has it."""
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


def _short_error(problem: str) -> str:
    """The error message, shortened to fit on a card."""
    if _NO_HISTORY.search(problem):
        return NEVER_READ
    return problem if len(problem) <= _LONGEST_TEXT else f"{problem[: _LONGEST_TEXT - 1]}…"
