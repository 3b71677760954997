"""What is wrong with cards that only their answers show: each is run without filters, with each, and with all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from app.core.errors import CaratError, WarehouseGoneError
from app.dashboards.answers import Read, result_of
from app.dashboards.findings import Finding
from app.dashboards.model import Card
from app.dashboards.sql import render
from app.warehouse import Warehouse

_ALL_ROWS = 2_000  # more are cut by Metabase
_NAMING = (
    "scalar.field", "funnel.dimension", "funnel.metric", "pie.dimension", "pie.metric", "table.pivot_column",
    "table.cell_column",
)  # fmt: skip
_CHARTS = {"line", "bar", "area", "combo", "row", "scatter"}


@dataclass(frozen=True)
class Answer:
    """Columns by name with their kind (number, date, datetime, boolean or text), and how many rows came."""

    columns: dict[str, str]
    rows: list[list[Any]]
    is_cut: bool


def run_cards(cards: Sequence[Card], warehouse: Warehouse, read: Read) -> list[Finding]:
    """Everything that running the cards shows."""
    columns = _columns_of_tables(warehouse)
    values = _values(warehouse)
    return [finding for card in cards for finding in _run_card(card, read, values, columns)]


def _values(warehouse: Warehouse) -> dict[str, Any]:
    """A value of each filter that the warehouse has: the newest week, the most used device and channel."""
    newest = warehouse.query("SELECT toString(max(day)) AS last, toString(max(day) - 6) AS first FROM dwh.days").row(0)
    most_used = "SELECT topK(1)({0}) AS most FROM dwh.sessions WHERE NOT is_bot"
    device, channel = (list(warehouse.scalar(most_used.format(name))) for name in ("device_type", "channel"))
    return {"date": f"{newest[1]}~{newest[0]}", "device": device or ["mobile"], "channel": channel or ["Direct"]}


def _columns_of_tables(warehouse: Warehouse) -> dict[str, dict[str, str]]:
    """The columns of every table of ours, with their types, by `database.table`."""
    found: dict[str, dict[str, str]] = {}
    columns = warehouse.query(
        "SELECT database || '.' || table, name, type FROM system.columns "
        "WHERE database IN ('dwh', 'history', 'etl', 'pd')"
    )
    for table, name, kind in columns.iter_rows():
        found.setdefault(table, {})[name] = kind
    return found


def _run_card(card: Card, read: Read, values: dict[str, Any], tables: dict[str, dict[str, str]]) -> Iterator[Finding]:
    yield from _filtered_columns(card, tables)
    names = [tag.name for tag in card.tags if tag.name in values]
    together = [{name: values[name] for name in names}] if len(names) > 1 else []
    first: Answer | None = None
    for chosen in ({}, *({name: values[name]} for name in names), *together):
        told = " and ".join(chosen) or "no filter"
        try:
            answer = _answer(read, render(card, chosen))
        except WarehouseGoneError:
            raise
        except CaratError as error:
            yield Finding("runs", card.path, f"with {told}", str(error)[:400])
            if first is None:
                return
            continue
        if first is None:
            first = answer
        elif answer.columns != first.columns:
            problem = f"answers with columns {list(answer.columns)}, else with {list(first.columns)}"
            yield Finding("runs", card.path, f"with {told}", problem)
    assert first is not None
    if first.is_cut:
        yield Finding("runs", card.path, "native", f"answers with more than {_ALL_ROWS} rows: add a LIMIT")
    yield from _named_alike(card, first, tables)
    yield from _settings(card, first)


def _answer(read: Read, sql: str) -> Answer:
    result = result_of(read(sql))
    return Answer({column["name"]: column["type"] for column in result["columns"]}, result["rows"], result["is_cut"])


def _filtered_columns(card: Card, tables: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Field filters on columns that there are, of a type that the widget can filter."""
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
            yield Finding("tags", card.path, where, f"filters texts by {column}, which is {kind}")


def _named_alike(card: Card, answer: Answer, tables: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Output columns that are called as a column of the filtered tables: an alias hides the column from its filter."""
    for name in answer.columns:
        for tag in card.tags:
            if tag.column and name in tables.get(".".join(tag.column[1:3]), {}):
                yield Finding(
                    "columns",
                    card.path,
                    name,
                    "is called as a column of a filtered table: name it for people",
                )
                break


# ---- settings --------------------------------------------------------------------------------------------------


def _settings(card: Card, answer: Answer) -> Iterator[Finding]:
    for where, name in _names(card):
        if name not in answer.columns:
            yield Finding("columns", card.path, where, f"{name!r} is no column of the answer: {list(answer.columns)}")
    yield from _kinds(card, answer)
    if card.display == "table" and not card.settings.get("table.pivot"):
        shown = {column.get("name") for column in card.settings.get("table.columns", [])}
        for name in answer.columns:
            if name not in shown:
                yield Finding("columns", card.path, "table.columns", f"leaves out {name!r}: list it, enabled or not")
    for name, kind in answer.columns.items():
        if kind == "number" and name not in card.column_settings and name not in _dimensions(card):
            yield Finding("columns", card.path, f"column_settings.{name}", "is a number without a format")


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
    if len(_dimensions(card)) == 1:  # else series are called as the values of the second one
        yield from (("series_settings", name) for name in settings.get("series_settings", {}))


def _kinds(card: Card, answer: Answer) -> Iterator[Finding]:
    """Columns whose kind does not suit what they are shown as."""
    settings, columns = card.settings, answer.columns
    numbers = {
        *settings.get("graph.metrics", []),
        *(settings[key] for key in ("funnel.metric", "pie.metric", "table.cell_column") if settings.get(key)),
        *([settings["scalar.field"]] if card.display == "smartscalar" and settings.get("scalar.field") else []),
        *(name for name, formats in card.column_settings.items() if "number_style" in formats),
    }
    for name in sorted(numbers & columns.keys()):
        if columns[name] != "number":
            yield Finding("columns", card.path, name, f"is shown as a number, but is {columns[name]}")
    for name, formats in card.column_settings.items():
        if "date_style" in formats and columns.get(name) not in {"date", "datetime", None}:
            yield Finding("columns", card.path, name, f"is shown as a date, but is {columns[name]}")
    if card.display == "smartscalar" and "date" not in columns.values():
        yield Finding("columns", card.path, "smartscalar", "needs a column of dates: which value is the one before?")
    if settings.get("graph.x_axis.scale") == "timeseries" and columns.get(_dimensions(card)[0]) not in {
        "date",
        "datetime",
        None,
    }:
        yield Finding("columns", card.path, _dimensions(card)[0], "is the axis of time, but is no date")
    if card.display in {"funnel", "scalar"} | _CHARTS and len(columns) < (1 if card.display == "scalar" else 2):
        yield Finding("columns", card.path, "native", f"a {card.display} needs more than {len(columns)} column")
