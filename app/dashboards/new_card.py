"""Writes the files of a new card: ids, filters and a placeholder query, so that the author only writes the SQL."""

import secrets
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import yaml

from app.core.errors import DashboardError, SettingsError
from app.dashboards.lint import GRID_COLUMNS, file_stem, is_overlapping
from app.dashboards.model import Card, Dashboard, DashCard, Library, Parameter, Tab

DESCRIPTION: Final = "To do: say what the numbers mean."

_ID_CHARACTERS = string.ascii_letters + string.digits + "_-"
_CREATOR = "internal@metabase.com"
_SMALL, _LARGE = (6, 3), (12, 6)  # columns, rows
_COUNT_FORMAT = {"number_style": "decimal", "decimals": 0}
_DAY_FORMAT = {"date_style": "MMM D", "date_abbreviate": True}

# What each filter stands for: its base type and column.
_COLUMNS = {
    "date": ("type/Date", ("dwh", "days", "day")),
    "device": ("type/Text", ("dwh", "sessions", "device_type")),
    "channel": ("type/Text", ("dwh", "sessions", "channel")),
}
_CONDITIONS = {"device": "[[AND {{device}}]]", "channel": "[[AND {{channel}}]]"}

# Display -> the placeholder query's dimension: its expression, the name of its column, and whether it is a date.
_BY_DAY, _BY_STEP, _BY_DEVICE = (
    ("session_date", "Day", True),
    ("furthest_step", "Step", False),
    ("device_type", "Device", False),
)
_DIMENSIONS = {
    **dict.fromkeys(("line", "bar", "area", "combo", "scatter", "smartscalar"), _BY_DAY),
    **dict.fromkeys(("row", "pie", "table"), _BY_DEVICE),
    "funnel": _BY_STEP,
    "scalar": None,
}
_METRIC = "Sessions"


@dataclass(frozen=True)
class NewCard:
    """The files that were written, and the card's place on its tab's grid."""

    card_path: Path
    dashboard_path: Path
    col: int
    row: int


def add_card(
    library: Library,
    name: str,
    *,
    dashboard: Dashboard,
    tab: Tab | None,
    title: str | None = None,
    display: str = "line",
    description: str = DESCRIPTION,
) -> NewCard:
    """Write a card's file with a placeholder query, and add the card to a free place on the tab.

    `title` replaces the card's name on this dashboard. Raises SettingsError if the name is taken or is not valid.
    """
    stem = file_stem(name)
    home = _home(library)
    path = home.path.parent / f"{stem}.yaml"
    if not stem:
        raise SettingsError(f"{name!r}: a card's name needs letters or digits")
    if path.exists() or any(card.name == name for card in library.cards):
        raise SettingsError(f"there is already a card {name!r} ({path.name}): choose another name")
    filters = [parameter for parameter in dashboard.parameters if parameter.slug in _COLUMNS]
    card_id = _entity_id()
    slugs = [parameter.slug for parameter in filters]
    card = _card(card_id, name, slugs, home, description=description, display=display)
    size = _SMALL if display in {"scalar", "smartscalar"} else _LARGE
    col, row = _free_place(dashboard.on_tab(tab), *size)
    place = _place(card_id, dashboard, tab, filters, col=col, row=row, size=size, title=title)
    dashboard_text = _with_place(dashboard, place)
    path.write_text(_yaml(card), encoding="utf-8")
    dashboard.path.write_text(dashboard_text, encoding="utf-8")
    return NewCard(path, dashboard.path, col, row)


def tab_of(dashboard: Dashboard, name: str | None) -> Tab | None:
    """The tab with this name; without a name the only one, or None for a dashboard without tabs."""
    found = [tab for tab in dashboard.tabs if name in {None, tab.name}]
    if len(found) == 1:
        return found[0]
    if not dashboard.tabs and name is None:
        return None
    names = ", ".join(tab.name for tab in dashboard.tabs) or "none"
    raise SettingsError(f"--tab {name or ''}: choose one of the tabs of {dashboard.name}: {names}")


def _home(library: Library) -> Card:
    """A card in the collection that holds most cards: a new card goes there, and uses the same database."""
    if not library.cards:
        raise DashboardError(
            f"{library.folder}: needs at least one card, whose collection and database the new one uses"
        )
    collection, _ = Counter(card.collection_id for card in library.cards).most_common(1)[0]
    return next(card for card in library.cards if card.collection_id == collection)


def _entity_id() -> str:
    """A NanoID, the form of Metabase's entity ids."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(21))


# ---- the card's file -------------------------------------------------------------------------------------------


def _card(
    entity_id: str, name: str, filters: list[str], home: Card, *, description: str, display: str
) -> dict[str, Any]:
    tags = [_tag(slug, home.database) for slug in filters]
    stage = {"lib/type": "mbql.stage/native", "native": _placeholder(display, filters), "template-tags": tags}
    return {
        "name": name,
        "entity_id": entity_id,
        "description": description,
        "display": str(display),
        "type": "question",
        "collection_id": home.collection_id,
        "creator_id": _CREATOR,
        "database_id": home.database,
        "query_type": "native",
        "dataset_query": {"lib/type": "mbql/query", "database": home.database, "stages": [stage]},
        "parameters": [_parameter(tag) for tag in tags],
        "parameter_mappings": [],
        "visualization_settings": _settings(display),
        "serdes/meta": [{"id": entity_id, "label": file_stem(name), "model": "Card"}],
    }


def _placeholder(display: str, filters: list[str]) -> str:
    """A query that runs, uses every filter, and counts sessions by the display's dimension."""
    chosen = " [[AND false OR {{date}}]]" if "date" in filters else ""
    conditions = " ".join(_CONDITIONS[slug] for slug in filters if slug in _CONDITIONS)
    dimension = _DIMENSIONS[display]
    return "\n".join(
        [
            "WITH",
            "  (SELECT (if(count() > max(day) - min(day), min(day), max(day) + 1), max(day))",
            f"   FROM dwh.days WHERE is_recent{chosen})",
            "  ::Tuple(first Date, last Date) AS period",
            "SELECT",
            *([f'  {dimension[0]} AS "{dimension[1]}",'] if dimension else []),
            f'  count() AS "{_METRIC}"',
            "FROM dwh.sessions",
            "WHERE session_date BETWEEN period.first AND period.last AND NOT is_bot",
            *([f"  {conditions}"] if conditions else []),
            "GROUP BY 1 ORDER BY 1" if dimension else "HAVING period.first <= period.last",
            "",
        ]
    )


def _tag(slug: str, database: str) -> dict[str, Any]:
    base_type, column = _COLUMNS[slug]
    return {
        "type": "dimension",
        "name": slug,
        "id": str(uuid4()),
        "display-name": slug.capitalize(),
        "dimension": ["field", {"base-type": base_type}, [database, *column]],
        "widget-type": "date/range" if slug == "date" else "string/=",
    }


def _parameter(tag: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": tag["id"],
        "name": tag["display-name"],
        "slug": tag["name"],
        "type": tag["widget-type"],
        "target": _target(tag["name"]),
    }


def _target(slug: str) -> list[Any]:
    return ["dimension", ["template-tag", slug]]


def _settings(display: str) -> dict[str, Any]:
    dimension = _DIMENSIONS[display]
    _, name, is_date = dimension or ("", "", False)
    formats = {_column_key(_METRIC): _COUNT_FORMAT} | ({_column_key(name): _DAY_FORMAT} if is_date else {})
    match display:
        case "scalar":
            settings: dict[str, Any] = {"scalar.field": _METRIC}
        case "smartscalar":
            settings = {"scalar.field": _METRIC, "scalar.comparisons": [{"id": "previous", "type": "previousValue"}]}
        case "table":
            settings = {"table.columns": [{"name": column, "enabled": True} for column in (name, _METRIC)]}
        case "pie" | "funnel":
            settings = {f"{display}.dimension": name, f"{display}.metric": _METRIC}
        case _:
            settings = {"graph.dimensions": [name], "graph.metrics": [_METRIC]}
            settings |= {"graph.x_axis.scale": "timeseries"} if is_date else {}
    return settings | {"column_settings": formats}


def _column_key(name: str) -> str:
    return f'["name","{name}"]'


# ---- the place on the dashboard --------------------------------------------------------------------------------


def _free_place(taken: tuple[DashCard, ...], width: int, height: int) -> tuple[int, int]:
    """The first place, in reading order, at which a card of this size overlaps no other."""
    below_all = max((card.row + card.size_y for card in taken), default=0)
    return next(
        (col, row)
        for row in range(below_all + 1)
        for col in range(GRID_COLUMNS - width + 1)
        if not any(is_overlapping((col, row, width, height), card.rectangle) for card in taken)
    )


def _place(
    card_id: str,
    dashboard: Dashboard,
    tab: Tab | None,
    filters: list[Parameter],
    *,
    col: int,
    row: int,
    size: tuple[int, int],
    title: str | None,
) -> dict[str, Any]:
    entity_id = _entity_id()
    return {
        "entity_id": entity_id,
        "card_id": card_id,
        **({"dashboard_tab_id": [dashboard.entity_id, tab.entity_id]} if tab else {}),
        "row": row,
        "col": col,
        "size_x": size[0],
        "size_y": size[1],
        "parameter_mappings": [
            {"card_id": card_id, "parameter_id": parameter.id, "target": _target(parameter.slug)}
            for parameter in filters
        ],
        "series": [],
        "visualization_settings": {"card.title": title} if title else {},
        "serdes/meta": [
            {"id": dashboard.entity_id, "model": "Dashboard"},
            {"id": entity_id, "model": "DashboardCard"},
        ],
    }


def _with_place(dashboard: Dashboard, place: dict[str, Any]) -> str:
    """The dashboard's file with one more card at the end of `dashcards`; every other line stays as it is."""
    text = dashboard.path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    cards = next((value for key, value in root.value if key.value == "dashcards"), None)
    if cards is None:
        lines += ["dashcards:\n", *_indented(place, 2)]
    elif not cards.value:
        lines[cards.start_mark.line : cards.end_mark.line + 1] = ["dashcards:\n", *_indented(place, 2)]
    else:
        end = cards.value[-1].end_mark  # at the start of the next line, unless the file ends there without one
        after = end.line if end.column == 0 else end.line + 1
        lines[after:after] = _indented(place, cards.start_mark.column)
    added = "".join(lines)
    if yaml.safe_load(added)["dashcards"][-1] != place:
        raise DashboardError(f"{dashboard.path}: dashcards: write it as a block list, one card per item")
    return added


def _indented(place: dict[str, Any], columns: int) -> list[str]:
    return [" " * columns + line for line in _yaml([place]).splitlines(keepends=True)]


# ---- YAML as in the other files --------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Indents sequences, and writes lists of names in one line and SQL as a literal block."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.SequenceNode:
    is_flat = all(isinstance(item, str) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=is_flat)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)


def _yaml(content: Any) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=116)
