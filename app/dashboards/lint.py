"""Checks of the files beyond Metabase's own validator; they need no warehouse."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import UUID

from app.dashboards import sql_lint
from app.dashboards.findings import Finding
from app.dashboards.model import (
    Card,
    Collection,
    Dashboard,
    DashCard,
    Exemption,
    Library,
    Mapping,
    Parameter,
    Rectangle,
    Tag,
)
from app.dashboards.sql import tags_used

# The filters that every dashboard has, and the columns that each may filter on.
FILTERS = {"date": {"day"}, "device": {"device_type"}, "channel": {"channel"}}
_WIDGETS = {"date": "date/range", "device": "string/=", "channel": "string/="}
# Offers choices that are not one span of days, such as "exclude weekends"; a card's meaning is a period.
_ANY_DATES = "date/all-options"

_NANO_ID = re.compile(r"[A-Za-z0-9_-]{21}")
GRID_COLUMNS = 24
_NEEDED = {
    "funnel": ("funnel.dimension", "funnel.metric"),
    "smartscalar": ("scalar.field", "scalar.comparisons"),
    "scalar": ("scalar.field",),
    "pie": ("pie.dimension", "pie.metric"),
    "table": ("table.columns",),
    **dict.fromkeys(("line", "bar", "area", "combo", "row", "scatter"), ("graph.dimensions", "graph.metrics")),
}
_SMALLEST = {"scalar": (2, 2), "smartscalar": (2, 2), "heading": (1, 1), "text": (1, 1)}
_SETTINGS = re.compile(
    r"card\.(title|description|hide_empty)|column_settings|series_settings|scalar\.(field|comparisons|"
    r"switch_positive_negative|compact_primary_number)|funnel\.(dimension|metric|type|rows)|pie\.(dimension|metric|"
    r"show_legend|show_total|percent_visibility|slice_threshold|colors)|table\.(columns|pivot|pivot_column|cell_column|"
    r"column_formatting)|stackable\.stack_type|graph\.(dimensions|metrics|show_values|label_values_frequency|"
    r"show_stack_values|series_order|show_goal|goal_value|goal_label|show_trendline|max_categories_enabled|"
    r"max_categories|other_category_aggregation_fn|[xy]_axis\.(title_text|scale|axis_enabled|auto_range|min|max|"
    r"labels_enabled))"
)
_FORMATS: dict[str, set[str] | type | tuple[type, ...]] = {
    "number_style": {"decimal", "percent", "currency", "scientific"},
    "currency": str,
    "currency_style": {"symbol", "code", "name"},
    "number_separators": str,
    "decimals": int,
    "scale": (int, float),
    "prefix": str,
    "suffix": str,
    "column_title": str,
    "date_style": str,
    "date_separator": str,
    "date_abbreviate": bool,
    "time_enabled": {"minutes", "seconds", "milliseconds"},
    "time_style": str,
    "view_as": {"link", "image", "email", "auto"},
}


def lint(library: Library) -> list[Finding]:
    """All findings in the files themselves."""
    return [
        *_ids(library),
        *_names(library),
        *_references(library),
        *_exemptions(library),
        *(finding for card in library.cards for finding in _card(library, card)),
        *(finding for dashboard in library.dashboards for finding in _dashboard(library, dashboard)),
    ]


def exempts(exemptions: Iterable[Exemption], dashboard: Dashboard, slug: str, card: Card | None = None) -> bool:
    """Whether the dashboard, or this card on it, is exempt from the filter."""
    return any(
        exemption.dashboard == dashboard.name
        and exemption.filter == slug
        and (exemption.card is None or (card is not None and exemption.card == card.name))
        for exemption in exemptions
    )


def file_stem(name: str) -> str:
    """The name of the file, without its suffix, in which an entity of this name belongs."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def is_overlapping(one: Rectangle, other: Rectangle) -> bool:
    """Whether two rectangles on the grid share a cell."""
    (col, row, width, height), (other_col, other_row, other_width, other_height) = one, other
    return (
        col < other_col + other_width
        and other_col < col + width
        and row < other_row + other_height
        and other_row < row + height
    )


# ---- ids, names, references ------------------------------------------------------------------------------------


def _ids(library: Library) -> Iterator[Finding]:
    boards = library.dashboards
    kinds: dict[str, list[tuple[str, Path]]] = {
        "collection": [(item.entity_id, item.path) for item in library.collections],
        "card": [(item.entity_id, item.path) for item in library.cards],
        "dashboard": [(item.entity_id, item.path) for item in boards],
        "tab": [(tab.entity_id, board.path) for board in boards for tab in board.tabs],
        "card on a dashboard": [(item.entity_id, board.path) for board in boards for item in board.dashcards],
    }
    for kind, items in kinds.items():
        for entity_id, path in items:
            if not _NANO_ID.fullmatch(entity_id):
                yield Finding("ids", path, entity_id, f"a {kind}'s id has 21 characters of A-Za-z0-9_-")
        yield from _twice(items, kind)
    entities: list[Collection | Card | Dashboard] = [*library.collections, *library.cards, *boards]
    for entity in entities:
        if entity.raw["serdes/meta"][-1].get("id") != entity.entity_id:
            yield Finding("ids", entity.path, "serdes/meta", f"differs from entity_id, {entity.entity_id}")
    tags = [(tag.id, card.path) for card in library.cards for tag in card.tags]
    yield from _twice(tags, "tag")
    yield from (
        Finding("ids", path, "template-tags", f"{text!r} is not a valid UUID")
        for text, path in tags
        if not _is_uuid(text)
    )
    yield from _twice([(filter_.id, board.path) for board in boards for filter_ in board.parameters], "filter")


def _twice(ids: Sequence[tuple[str, Path]], kind: str) -> Iterator[Finding]:
    counts = Counter(text for text, _ in ids)
    for text, path in ids:
        if counts[text] > 1:
            yield Finding("ids", path, text, f"is used by {counts[text]} {kind}s: ids must be unique")


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _names(library: Library) -> Iterator[Finding]:
    kinds: tuple[Sequence[Collection | Card | Dashboard], ...] = (
        library.collections,
        library.cards,
        library.dashboards,
    )
    for items in kinds:
        counts = Counter(item.name for item in items)
        for item in items:
            if counts[item.name] > 1:
                yield Finding(
                    "names", item.path, "name", f"{counts[item.name]} have the name {item.name!r}: names must be unique"
                )
            if not item.description.strip():
                yield Finding("names", item.path, "description", "is missing: say what the numbers mean")
            expected = file_stem(item.name)
            if item.path.stem != expected:
                yield Finding("names", item.path, "name", f"{item.name!r} belongs in a file named {expected}.yaml")


def _references(library: Library) -> Iterator[Finding]:
    known = {collection.entity_id for collection in library.collections}
    for collection in library.collections:
        if collection.parent_id is not None and collection.parent_id not in known:
            yield Finding(
                "references", collection.path, "parent_id", f"{collection.parent_id} is not a collection in these files"
            )
    placed: list[Card | Dashboard] = [*library.cards, *library.dashboards]
    for item in placed:
        if item.collection_id not in known:
            yield Finding(
                "references", item.path, "collection_id", f"{item.collection_id} is not a collection in these files"
            )
    shown = {dashcard.card_id for dashboard in library.dashboards for dashcard in dashboard.dashcards}
    for card in library.cards:
        if card.entity_id not in shown:
            yield Finding(
                "references", card.path, "entity_id", "no dashboard shows this card: remove it, or add it to one"
            )


def _exemptions(library: Library) -> Iterator[Finding]:
    path = library.folder / "exemptions.yaml"
    cards = {card.name for card in library.cards}
    boards = {dashboard.name: dashboard for dashboard in library.dashboards}
    for exemption in library.exemptions:
        dashboard = boards.get(exemption.dashboard)
        where = f"{exemption.dashboard} / {exemption.card or 'all cards'} / {exemption.filter}"
        if dashboard is None:
            yield Finding("exemptions", path, where, "no such dashboard")
        elif exemption.filter not in FILTERS:
            yield Finding("exemptions", path, where, f"no such filter: use {', '.join(FILTERS)}")
        elif exemption.card is not None and exemption.card not in {d.card.name for d in dashboard.dashcards if d.card}:
            yield Finding("exemptions", path, where, "the dashboard shows no such card")
    for name in library.include_bots:
        if name not in cards:
            yield Finding("exemptions", path, f"include_bots / {name}", "no such card")


# ---- cards -----------------------------------------------------------------------------------------------------


def _card(library: Library, card: Card) -> Iterator[Finding]:
    for check, problem in sql_lint.problems(card.sql, include_bots=card.name in library.include_bots):
        yield Finding(check, card.path, "native", problem)
    yield from _tags(card)
    yield from _card_parameters(card)
    yield from _settings(card)


def _tags(card: Card) -> Iterator[Finding]:
    used, declared = tags_used(card.sql), [tag.name for tag in card.tags]
    for name in used:
        if name not in declared:
            yield Finding(
                "tags", card.path, f"template-tags.{name}", f"the SQL uses {{{{{name}}}}}, which is not declared"
            )
    if card.sql.count("[[") != card.sql.count("]]"):
        yield Finding("tags", card.path, "native", "[[ and ]] do not match")
    for clause in re.findall(r"\[\[(.*?)\]\]", card.sql, re.DOTALL):
        if "{{" not in clause:
            yield Finding(
                "tags",
                card.path,
                "native",
                f"[[{clause.strip()}]] has no tag, so it is never left out: remove the brackets",
            )
    tables = sql_lint.tables_read(card.sql)
    for tag in card.tags:
        where = f"template-tags.{tag.name}"
        if declared.count(tag.name) > 1:
            yield Finding("tags", card.path, where, "is declared more than once")
        if tag.name not in used:
            yield Finding("tags", card.path, where, "is declared, but the SQL does not use it")
        if tag.type != "dimension":
            yield Finding("tags", card.path, where, f"has the type {tag.type}: use a field filter (dimension)")
            continue
        yield from _field_filter(card, tag, tables, where)


def _field_filter(card: Card, tag: Tag, tables: set[str], where: str) -> Iterator[Finding]:
    database, schema, table, column = tag.column
    if database != card.database:
        yield Finding(
            "tags", card.path, where, f"filters a column of database {database!r}, but the card uses {card.database!r}"
        )
    if f"{schema}.{table}".lower() not in tables:
        yield Finding(
            "tags", card.path, where, f"filters {schema}.{table}, which the SQL does not read under that name: "
            f"a field filter needs FROM {schema}.{table}"
        )  # fmt: skip
    if tag.name in FILTERS and column not in FILTERS[tag.name]:
        yield Finding(
            "tags",
            card.path,
            where,
            f"filters {tag.name} by the column {column}: use {', '.join(sorted(FILTERS[tag.name]))}",
        )
    if tag.name in _WIDGETS and tag.widget_type != _WIDGETS[tag.name]:
        yield Finding(
            "tags", card.path, where, f"has the widget {tag.widget_type!r}, {_WIDGETS[tag.name]!r} is expected"
        )
    elif tag.widget_type == _ANY_DATES:
        yield Finding("tags", card.path, where, f"{_ANY_DATES} offers days that do not form a period: use date/range")


def _card_parameters(card: Card) -> Iterator[Finding]:
    parameters = {parameter.get("slug"): parameter for parameter in card.raw.get("parameters", [])}
    for tag in card.tags:
        parameter = parameters.get(tag.name, {})
        target = ["dimension", ["template-tag", tag.name]]
        if (
            parameter.get("id") != tag.id
            or parameter.get("type") != tag.widget_type
            or parameter.get("target") != target
        ):
            yield Finding(
                "tags",
                card.path,
                f"parameters.{tag.name}",
                "does not match the template tag: id, type and target must be equal",
            )
    for slug in parameters:
        if card.tag(str(slug)) is None:
            yield Finding("tags", card.path, f"parameters.{slug}", "has no template tag")


def _settings(card: Card) -> Iterator[Finding]:
    needed = (
        ("table.pivot_column", "table.cell_column")
        if card.settings.get("table.pivot")
        else _NEEDED.get(card.display, ())
    )
    for key in needed:
        if not card.settings.get(key):
            yield Finding(
                "settings", card.path, f"visualization_settings.{key}", f"is missing: a {card.display} needs it"
            )
    for key in card.settings:
        if not _SETTINGS.fullmatch(key):
            yield Finding("settings", card.path, f"visualization_settings.{key}", "is not a setting of Metabase")
    if len(card.column_settings) != len(card.settings.get("column_settings") or {}):
        yield Finding("settings", card.path, "column_settings", 'every key must have the form ["name","column"]')
    for column, formats in card.column_settings.items():
        yield from _formats(card, column, formats)


def _formats(card: Card, column: str, formats: dict[str, Any]) -> Iterator[Finding]:
    where = f"column_settings.{column}"
    for key, value in formats.items():
        allowed = _FORMATS.get(key)
        if allowed is None:
            yield Finding("settings", card.path, f"{where}.{key}", "is not a format of Metabase")
        elif value not in allowed if isinstance(allowed, set) else not isinstance(value, allowed):
            yield Finding("settings", card.path, f"{where}.{key}", f"{value!r} is not a valid value")
    if formats.get("number_style") == "currency" and not re.fullmatch(r"[A-Z]{3}", str(formats.get("currency"))):
        yield Finding("settings", card.path, f"{where}.currency", "needs a currency code such as EUR")


# ---- dashboards ------------------------------------------------------------------------------------------------


def _dashboard(library: Library, dashboard: Dashboard) -> Iterator[Finding]:
    yield from _filters(library, dashboard)
    yield from _tabs(dashboard)
    yield from _grid(dashboard)
    for dashcard in dashboard.dashcards:
        if dashcard.card_id is not None and dashcard.card is None:
            yield Finding(
                "references", dashboard.path, dashcard.entity_id, f"shows card {dashcard.card_id}, which does not exist"
            )
        yield from _mappings(library, dashboard, dashcard)


def _filters(library: Library, dashboard: Dashboard) -> Iterator[Finding]:
    slugs = [parameter.slug for parameter in dashboard.parameters]
    for slug, widget in _WIDGETS.items():
        parameter = next((parameter for parameter in dashboard.parameters if parameter.slug == slug), None)
        if parameter is None and not exempts(library.exemptions, dashboard, slug):
            yield Finding("filters", dashboard.path, f"parameters.{slug}", "the filter is missing")
        if parameter is not None and parameter.type != widget:
            yield Finding(
                "filters", dashboard.path, f"parameters.{slug}.type", f"is {parameter.type!r}, not {widget!r}"
            )
    for slug in set(slugs):
        if slugs.count(slug) > 1:
            yield Finding("filters", dashboard.path, f"parameters.{slug}", "is defined twice")
    for parameter in dashboard.parameters:
        if parameter.type == _ANY_DATES and parameter.slug not in _WIDGETS:
            where = f"parameters.{parameter.slug}.type"
            yield Finding(
                "filters", dashboard.path, where, f"{_ANY_DATES} offers days that do not form a period: use date/range"
            )
    mapped = {mapping.parameter_id for dashcard in dashboard.dashcards for mapping in dashcard.mappings}
    for parameter in dashboard.parameters:
        if parameter.id not in mapped:
            yield Finding("filters", dashboard.path, f"parameters.{parameter.slug}", "is not mapped on any card")


def _tabs(dashboard: Dashboard) -> Iterator[Finding]:
    known = {tab.entity_id for tab in dashboard.tabs}
    positions = Counter(tab.position for tab in dashboard.tabs)
    names = Counter(tab.name for tab in dashboard.tabs)
    for tab in dashboard.tabs:
        if positions[tab.position] > 1:
            yield Finding(
                "tabs", dashboard.path, f"tabs.{tab.name}.position", f"two tabs have the position {tab.position}"
            )
        if names[tab.name] > 1:
            yield Finding("tabs", dashboard.path, f"tabs.{tab.name}", "two tabs have this name")
        if not dashboard.on_tab(tab):
            yield Finding("tabs", dashboard.path, f"tabs.{tab.name}", "is empty")
    for dashcard in dashboard.dashcards:
        tab_of = dashcard.raw.get("dashboard_tab_id")
        if known and dashcard.tab_id not in known:
            yield Finding(
                "tabs", dashboard.path, dashcard.entity_id, f"is on tab {dashcard.tab_id}, which does not exist"
            )
        elif tab_of and tab_of[0] != dashboard.entity_id:
            yield Finding("tabs", dashboard.path, dashcard.entity_id, f"is on a tab of dashboard {tab_of[0]}")


def _grid(dashboard: Dashboard) -> Iterator[Finding]:
    for dashcard in dashboard.dashcards:
        where = _place(dashcard)
        if dashcard.col < 0 or dashcard.row < 0 or dashcard.col + dashcard.size_x > GRID_COLUMNS:
            yield Finding("grid", dashboard.path, where, f"is outside the {GRID_COLUMNS} columns")
        width, height = _SMALLEST.get(dashcard.display, (4, 3))
        if dashcard.size_x < width or dashcard.size_y < height:
            yield Finding("grid", dashboard.path, where, f"is smaller than {width} x {height}")
    for tab in dashboard.tabs or (None,):
        for one, other in combinations(dashboard.on_tab(tab), 2):
            if is_overlapping(one.rectangle, other.rectangle):
                yield Finding("grid", dashboard.path, _place(other), f"overlaps {_place(one)}")


def _place(dashcard: DashCard) -> str:
    name = dashcard.card.name if dashcard.card else dashcard.display
    return f"{name} at column {dashcard.col}, row {dashcard.row}"


def _mappings(library: Library, dashboard: Dashboard, dashcard: DashCard) -> Iterator[Finding]:
    card = dashcard.card
    if card is None:
        return
    slugs = []
    for mapping in dashcard.mappings:
        parameter = dashboard.parameter(mapping.parameter_id)
        if parameter is None:
            problem = "maps a filter that does not exist on the dashboard"
            yield Finding("mappings", dashboard.path, f"{card.name} / {mapping.parameter_id}", problem)
            continue
        slugs.append(parameter.slug)
        if problem := _mapping_problem(card, parameter, mapping):
            yield Finding("mappings", dashboard.path, f"{card.name} / {parameter.slug}", problem)
    for slug in FILTERS:
        where, is_exempt = f"{card.name} / {slug}", exempts(library.exemptions, dashboard, slug, card)
        if slugs.count(slug) > 1:
            yield Finding("mappings", dashboard.path, where, "is mapped twice")
        if slug not in slugs and not is_exempt:
            yield Finding("mappings", dashboard.path, where, "the filter is not mapped on this card")
        if slug in slugs and is_exempt:
            yield Finding("exemptions", dashboard.path, where, "is both mapped and exempt: remove one")


def _mapping_problem(card: Card, parameter: Parameter, mapping: Mapping) -> str:
    tag = card.tag(mapping.tag)
    if mapping.card_id != card.entity_id:
        return f"maps card {mapping.card_id}, but shows another one"
    if tag is None:
        return f"maps {{{{{mapping.tag}}}}}, a tag that the card does not have"
    if tag.widget_type != parameter.type or mapping.kind != "dimension":
        return f"a {parameter.type} filter cannot set a {tag.widget_type or tag.type} tag as {mapping.kind}"
    if parameter.slug in FILTERS and tag.column[-1:] not in {(column,) for column in FILTERS[parameter.slug]}:
        return f"filters the wrong column: {'.'.join(tag.column[1:])}"
    return ""
