"""Checks that need the results of cards: each card is run without filters, with each filter, and with all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from app.core.errors import CaratError, WarehouseGoneError
from app.dashboards.card_results import RunQuery, parse_result
from app.dashboards.findings import Finding
from app.dashboards.model import Card
from app.dashboards.sql import render
from app.warehouse import Warehouse

_BEFORE_ANY_DAY = "1980-01-01~1980-01-31"
_ALL_ROWS = 2_000  # more are cut by Metabase
_NAMING = (
    "scalar.field", "funnel.dimension", "funnel.metric", "pie.dimension", "pie.metric", "table.pivot_column",
    "table.cell_column",
)  # fmt: skip
_CHARTS = {"line", "bar", "area", "combo", "row", "scatter"}


@dataclass(frozen=True)
class QueryResult:
    """A card's result: its columns with their kinds (number, date, datetime, boolean or text), and its rows."""

    columns: dict[str, str]
    rows: list[list[Any]]
    is_cut: bool


def check_cards(cards: Sequence[Card], warehouse: Warehouse, run_query: RunQuery) -> list[Finding]:
    """Run the cards and return what is wrong with their results."""
    columns = _columns_of_tables(warehouse)
    values = _values(warehouse)
    return [finding for card in cards for finding in _check_card(card, run_query, values, columns)]


def _values(warehouse: Warehouse) -> dict[str, Any]:
    """A value that exists in the warehouse for each filter: the newest week, the most used device and channel."""
    newest = warehouse.query("SELECT toString(max(day)) AS last, toString(max(day) - 6) AS first FROM dwh.days").row(0)
    most_used = "SELECT topK(1)({0}) AS most FROM dwh.sessions WHERE NOT is_bot"
    device, channel = (list(warehouse.scalar(most_used.format(name))) for name in ("device_type", "channel"))
    return {"date": f"{newest[1]}~{newest[0]}", "device": device or ["mobile"], "channel": channel or ["Direct"]}


def _columns_of_tables(warehouse: Warehouse) -> dict[str, dict[str, str]]:
    """The columns of Carat's tables with their types, by `database.table`."""
    found: dict[str, dict[str, str]] = {}
    columns = warehouse.query(
        "SELECT database || '.' || table, name, type FROM system.columns "
        "WHERE database IN ('dwh', 'history', 'etl', 'pd')"
    )
    for table, name, kind in columns.iter_rows():
        found.setdefault(table, {})[name] = kind
    return found


def _check_card(
    card: Card, run_query: RunQuery, values: dict[str, Any], tables: dict[str, dict[str, str]]
) -> Iterator[Finding]:
    yield from _filtered_columns(card, tables)
    names = [tag.name for tag in card.tags if tag.name in values]
    together = [{name: values[name] for name in names}] if len(names) > 1 else []
    first: QueryResult | None = None
    for chosen in ({}, *({name: values[name]} for name in names), *together):
        filters = " and ".join(chosen) or "no filter"
        try:
            result = _run(run_query, render(card, chosen))
        except WarehouseGoneError:
            raise
        except CaratError as error:
            yield Finding("runs", card.path, f"with {filters}", str(error)[:400])
            if first is None:
                return
            continue
        if first is None:
            first = result
        elif result.columns != first.columns:
            problem = f"returns the columns {list(result.columns)}, without filters {list(first.columns)}"
            yield Finding("runs", card.path, f"with {filters}", problem)
    assert first is not None
    yield from _empty_period(card, run_query)
    if first.is_cut:
        yield Finding("runs", card.path, "native", f"returns more than {_ALL_ROWS} rows: add a LIMIT")
    yield from _hidden_columns(card, first, tables)
    yield from _settings(card, first)


def _empty_period(card: Card, run_query: RunQuery) -> Iterator[Finding]:
    """Cards that show zeros or a day of 1970 for a period without built days, as if that were known."""
    if card.tag("date") is None:
        return
    try:
        result = _run(run_query, render(card, {"date": _BEFORE_ANY_DAY}))
    except WarehouseGoneError:
        raise
    except CaratError as error:
        yield Finding("periods", card.path, "native", f"fails for a period without built days: {str(error)[:300]}")
        return
    for number, (name, kind) in enumerate(result.columns.items()):
        if kind in {"number", "date", "datetime"} and any(row[number] is not None for row in result.rows):
            yield Finding(
                "periods", card.path, name, "has values for a period without built days: return no rows, "
                "by HAVING period.first <= period.last where there is no GROUP BY",
            )  # fmt: skip


def _run(run_query: RunQuery, sql: str) -> QueryResult:
    result = parse_result(run_query(sql))
    return QueryResult(
        {column["name"]: column["type"] for column in result["columns"]}, result["rows"], result["is_cut"]
    )


def _filtered_columns(card: Card, tables: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Field filters on columns that do not exist, or whose type the widget cannot filter."""
    for tag in card.tags:
        if not tag.column:
            continue
        _, database, table, column = tag.column
        where = f"template-tags.{tag.name}"
        kind = tables.get(f"{database}.{table}", {}).get(column)
        if kind is None:
            yield Finding("tags", card.path, where, f"{database}.{table} has no column {column}")
        elif tag.widget_type.startswith("date/") and kind not in {"Date", "Date32", "Nullable(Date)"}:
            yield Finding("tags", card.path, where, f"filters dates by {column}, a {kind}: use a stored Date")
        elif tag.widget_type.startswith("string/") and "String" not in kind:
            yield Finding("tags", card.path, where, f"filters text by {column}, a {kind}: use a String column")


def _hidden_columns(card: Card, result: QueryResult, tables: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Output columns named like a column of a filtered table: the alias hides the column from its filter."""
    for name in result.columns:
        for tag in card.tags:
            if tag.column and name in tables.get(".".join(tag.column[1:3]), {}):
                yield Finding(
                    "columns",
                    card.path,
                    name,
                    "has the name of a column of a filtered table: give it a readable name",
                )
                break


# ---- settings --------------------------------------------------------------------------------------------------


def _settings(card: Card, result: QueryResult) -> Iterator[Finding]:
    for where, name in _names(card):
        if name not in result.columns:
            yield Finding(
                "columns", card.path, where, f"{name!r} is not a column of the result: {list(result.columns)}"
            )
    yield from _kinds(card, result)
    if card.display == "table" and not card.settings.get("table.pivot"):
        shown = {column.get("name") for column in card.settings.get("table.columns", [])}
        for name in result.columns:
            if name not in shown:
                yield Finding("columns", card.path, "table.columns", f"leaves out {name!r}: list it, enabled or not")
    for name, kind in result.columns.items():
        if kind == "number" and name not in card.column_settings and name not in _dimensions(card):
            yield Finding("columns", card.path, f"column_settings.{name}", "has no format: every number needs one")


def _dimensions(card: Card) -> list[str]:
    return [str(name) for name in card.settings.get("graph.dimensions", [])]


def _names(card: Card) -> Iterator[tuple[str, str]]:
    """Each setting that names an output column, and the name."""
    settings = card.settings
    yield from ((key, settings[key]) for key in _NAMING if settings.get(key))
    for key in ("graph.dimensions", "graph.metrics"):
        yield from ((key, name) for name in settings.get(key, []))
    yield from (("table.columns", column.get("name")) for column in settings.get("table.columns", []))
    yield from (("column_settings", name) for name in card.column_settings)
    rules = settings.get("table.column_formatting", [])
    yield from (
        ("table.column_formatting", name) for name in chain.from_iterable(rule.get("columns", []) for rule in rules)
    )
    if len(_dimensions(card)) == 1:  # otherwise series are named after the values of the second one
        yield from (("series_settings", name) for name in settings.get("series_settings", {}))


def _kinds(card: Card, result: QueryResult) -> Iterator[Finding]:
    """Columns whose kind does not fit how they are shown."""
    settings, columns = card.settings, result.columns
    numbers = {
        *settings.get("graph.metrics", []),
        *(settings[key] for key in ("funnel.metric", "pie.metric", "table.cell_column") if settings.get(key)),
        *([settings["scalar.field"]] if card.display == "smartscalar" and settings.get("scalar.field") else []),
        *(name for name, formats in card.column_settings.items() if "number_style" in formats),
    }
    for name in sorted(numbers & columns.keys()):
        if columns[name] != "number":
            yield Finding("columns", card.path, name, f"is shown as a number, but its type is {columns[name]}")
    for name, formats in card.column_settings.items():
        if "date_style" in formats and columns.get(name) not in {"date", "datetime", None}:
            yield Finding("columns", card.path, name, f"is shown as a date, but its type is {columns[name]}")
    if card.display == "smartscalar" and "date" not in columns.values():
        yield Finding("columns", card.path, "smartscalar", "needs a date column to find the previous value")
    if settings.get("graph.x_axis.scale") == "timeseries" and columns.get(_dimensions(card)[0]) not in {
        "date",
        "datetime",
        None,
    }:
        yield Finding("columns", card.path, _dimensions(card)[0], "is the time axis, but not a date")
    if card.display in {"funnel", "scalar"} | _CHARTS and len(columns) < (1 if card.display == "scalar" else 2):
        yield Finding("columns", card.path, "native", f"a {card.display} needs more columns than {len(columns)}")
