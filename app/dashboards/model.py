"""The files in `metabase/` as dataclasses: collections, dashboards with tabs and filters, and cards with their SQL.

The files are in Metabase's representation format, one entity per file; the last model of `serdes/meta` says which kind.
Only the parts that Carat uses are parsed; `raw` keeps the whole file. Loading fails at the first mistake that makes a
file unusable, naming file and key; `carat dashboards validate` finds all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from app.core.errors import DashboardError
from app.dashboards import DEFAULT_FOLDER

FILES_CURRENCY = "EUR"  # in the files, it stands for the currency of the warehouse's amounts

Rectangle = tuple[int, int, int, int]
"""Cells of a dashboard's grid: column, row, width, height."""

_T = TypeVar("_T")
_KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    dict: "a mapping",
    list: "a list",
}


@dataclass(frozen=True)
class Collection:
    """A folder in Metabase."""

    entity_id: str
    name: str
    description: str
    parent_id: str | None
    path: Path
    raw: dict[str, Any] = field(hash=False, repr=False)


@dataclass(frozen=True)
class Tag:
    """A template tag `{{name}}` of a card's SQL; one of type `dimension` is a field filter on `column`."""

    name: str
    id: str
    display_name: str
    type: str
    widget_type: str
    column: tuple[str, ...]  # database, schema, table, column; empty unless a field filter
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class Parameter:
    """A filter of a dashboard, such as device; `type` determines its values."""

    id: str
    name: str
    slug: str
    type: str
    default: Any = None


@dataclass(frozen=True)
class Card:
    """A question in Metabase: SQL, and how its result is shown."""

    entity_id: str
    name: str
    description: str
    display: str
    database: str
    sql: str
    tags: tuple[Tag, ...]
    settings: dict[str, Any] = field(hash=False, repr=False)
    collection_id: str | None
    path: Path
    raw: dict[str, Any] = field(hash=False, repr=False)

    @cached_property
    def column_settings(self) -> dict[str, dict[str, Any]]:
        """The format of each output column, by name."""
        return columns_by_name(self.settings)

    def tag(self, name: str) -> Tag | None:
        return next((tag for tag in self.tags if tag.name == name), None)


@dataclass(frozen=True)
class Mapping:
    """The tag of a card that a dashboard's filter sets; `kind` is dimension, variable or text-tag."""

    parameter_id: str
    kind: str
    tag: str
    card_id: str | None


@dataclass(frozen=True)
class DashCard:
    """A place on a dashboard's grid of 24 columns, with its card; a heading or text has no card."""

    entity_id: str
    card_id: str | None
    card: Card | None
    tab_id: str | None
    col: int
    row: int
    size_x: int
    size_y: int
    mappings: tuple[Mapping, ...]
    settings: dict[str, Any] = field(hash=False, repr=False)
    raw: dict[str, Any] = field(hash=False, repr=False)

    @property
    def rectangle(self) -> Rectangle:
        """The cells of the grid that the card covers."""
        return self.col, self.row, self.size_x, self.size_y

    @property
    def text(self) -> str:
        """The text of a heading or text."""
        return str(self.settings.get("text", ""))

    @property
    def display(self) -> str:
        """The card's display, or heading, text, … if there is no card."""
        virtual = self.settings.get("virtual_card")
        return self.card.display if self.card else str((virtual or {}).get("display", "text"))


@dataclass(frozen=True)
class Tab:
    entity_id: str
    name: str
    position: int


@dataclass(frozen=True)
class Dashboard:
    """Cards on tabs, with the filters above them."""

    entity_id: str
    name: str
    description: str
    position: int
    parameters: tuple[Parameter, ...]
    tabs: tuple[Tab, ...]
    dashcards: tuple[DashCard, ...]
    collection_id: str | None
    path: Path
    raw: dict[str, Any] = field(hash=False, repr=False)

    @property
    def slug(self) -> str:
        return self.path.stem

    def on_tab(self, tab: Tab | None) -> tuple[DashCard, ...]:
        """The cards of a tab in reading order; None stands for a dashboard without tabs."""
        tab_id = tab.entity_id if tab else None
        return tuple(
            sorted((card for card in self.dashcards if card.tab_id == tab_id), key=lambda card: (card.row, card.col))
        )

    def parameter(self, parameter_id: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.id == parameter_id), None)


@dataclass(frozen=True)
class Exemption:
    """A filter that a dashboard, or one card on it, does not have, and the reason."""

    dashboard: str
    filter: str
    reason: str
    card: str | None = None


@dataclass(frozen=True)
class Library:
    """All files in the folder; dashboards are ordered by position."""

    folder: Path
    collections: tuple[Collection, ...]
    dashboards: tuple[Dashboard, ...]
    cards: tuple[Card, ...]
    exemptions: tuple[Exemption, ...]
    include_bots: frozenset[str] = frozenset()  # names of cards that count bots on purpose

    def dashboard(self, name: str) -> Dashboard:
        """The dashboard with this name or slug; DashboardError if there is none."""
        for dashboard in self.dashboards:
            if name in {dashboard.name, dashboard.slug}:
                return dashboard
        raise DashboardError(f"no dashboard {name!r}: there are {', '.join(d.name for d in self.dashboards)}")


def load_library(folder: Path = DEFAULT_FOLDER, *, currency: str = FILES_CURRENCY) -> Library:
    """Load all collections, dashboards and cards of the folder, with amounts shown in this currency.

    DashboardError names the file and key of a mistake.
    """
    files = sorted((folder / "collections").rglob("*.yaml"))
    if not files:
        raise DashboardError(f"{folder}: no dashboards found (collections/main/….yaml). Set --folder")
    nodes = [(node.model(), node) for node in (_read(path).in_currency(currency) for path in files)]
    cards = tuple(_card(node) for model, node in nodes if model == "Card")
    by_id = {card.entity_id: card for card in cards}
    dashboards = (_dashboard(node, by_id) for model, node in nodes if model == "Dashboard")
    return Library(
        folder,
        tuple(_collection(node) for model, node in nodes if model == "Collection"),
        tuple(sorted(dashboards, key=lambda dashboard: (dashboard.position, dashboard.name))),
        cards,
        *_exemptions(folder / "exemptions.yaml"),
    )


def columns_by_name(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`column_settings`, whose keys are JSON such as `["name","Sessions"]`, by column name."""
    found = {}
    for key, value in (settings.get("column_settings") or {}).items():
        try:
            kind, name = cast("list[str]", yaml.safe_load(key))
        except (yaml.YAMLError, ValueError, TypeError):
            continue
        if kind == "name":
            found[name] = value
    return found


# ---- reading one file ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Node:
    """A mapping in a file that knows its position, for error messages."""

    path: Path
    where: str
    content: dict[str, Any]

    def error(self, key: str, problem: str) -> DashboardError:
        return DashboardError(f"{self.path}: {self.where}{key}: {problem}")

    def get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        value = self.content.get(key)
        if value is None:
            if default is None:
                raise self.error(key, f"is missing; {_KINDS[kind]} is expected")
            return default
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(key, f"is {value!r}; {_KINDS[kind]} is expected")
        return value

    def text_or_none(self, key: str) -> str | None:
        return self.get(key, str) if self.content.get(key) is not None else None

    def node(self, key: str) -> "_Node":
        return _Node(self.path, f"{self.where}{key}.", self.get(key, dict))

    def nodes(self, key: str) -> "Iterator[_Node]":
        for index, item in enumerate(self.get(key, list, [])):
            if not isinstance(item, dict):
                raise self.error(f"{key}[{index}]", f"is {item!r}; a mapping is expected")
            yield _Node(self.path, f"{self.where}{key}[{index}].", item)

    def in_currency(self, currency: str) -> "_Node":
        """The same file with its amounts in this currency; a card that names another currency keeps it."""
        return self if currency == FILES_CURRENCY else replace(self, content=_in_currency(self.content, currency))

    def model(self) -> str:
        """The kind of entity: the last model of `serdes/meta`."""
        metas = list(self.nodes("serdes/meta"))
        if not metas:
            raise self.error("serdes/meta", "is missing or empty; it says what kind of entity the file holds")
        return metas[-1].get("model", str)


def _in_currency(content: Any, currency: str) -> Any:
    if isinstance(content, list):
        return [_in_currency(item, currency) for item in content]
    if not isinstance(content, dict):
        return content
    changed = {key: _in_currency(value, currency) for key, value in content.items()}
    return changed | {"currency": currency} if content.get("currency") == FILES_CURRENCY else changed


def _read(path: Path) -> _Node:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506  it is a safe loader
    except (OSError, UnicodeDecodeError) as error:
        raise DashboardError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise DashboardError(f"{path}:{line} not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise DashboardError(f"{path}: not a mapping of keys to values")
    return _Node(path, "", content)


class _StrictLoader(yaml.CSafeLoader):
    """A safe YAML loader that rejects duplicate keys and keeps dates as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key_node.value}", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _collection(node: _Node) -> Collection:
    return Collection(
        node.get("entity_id", str),
        node.get("name", str),
        node.get("description", str, ""),
        node.text_or_none("parent_id"),
        node.path,
        node.content,
    )


def _card(node: _Node) -> Card:
    query = node.node("dataset_query")
    stages = list(query.nodes("stages"))
    if len(stages) != 1 or "native" not in stages[0].content:
        raise query.error("stages", "one stage with native SQL is expected")
    stage = stages[0]
    return Card(
        node.get("entity_id", str),
        node.get("name", str),
        node.get("description", str, ""),
        node.get("display", str),
        query.get("database", str),
        stage.get("native", str),
        tuple(_tag(tag) for tag in stage.nodes("template-tags")),
        node.get("visualization_settings", dict),
        node.text_or_none("collection_id"),
        node.path,
        node.content,
    )


def _tag(node: _Node) -> Tag:
    kind = node.get("type", str)
    return Tag(
        node.get("name", str),
        node.get("id", str),
        node.get("display-name", str, ""),
        kind,
        node.get("widget-type", str, ""),
        _column(node) if kind == "dimension" else (),
        node.content.get("default"),
        bool(node.content.get("required")),
    )


def _column(node: _Node) -> tuple[str, ...]:
    """The last part of `[field, options, [database, schema, table, column]]`."""
    dimension = node.get("dimension", list)
    column = dimension[-1] if dimension else None
    if not isinstance(column, list) or not all(isinstance(part, str) for part in column) or len(column) != 4:  # noqa: PLR2004
        raise node.error("dimension", "[field, {}, [database, schema, table, column]] is expected")
    return tuple(column)


def _dashboard(node: _Node, cards: dict[str, Card]) -> Dashboard:
    return Dashboard(
        node.get("entity_id", str),
        node.get("name", str),
        node.get("description", str, ""),
        node.get("collection_position", int, 0),
        tuple(_parameter(parameter) for parameter in node.nodes("parameters")),
        tuple(
            sorted(
                (
                    Tab(tab.get("entity_id", str), tab.get("name", str), tab.get("position", int))
                    for tab in node.nodes("tabs")
                ),
                key=lambda tab: tab.position,
            )
        ),
        tuple(_dashcard(dashcard, cards) for dashcard in node.nodes("dashcards")),
        node.text_or_none("collection_id"),
        node.path,
        node.content,
    )


def _parameter(node: _Node) -> Parameter:
    return Parameter(
        node.get("id", str),
        node.get("name", str),
        node.get("slug", str),
        node.get("type", str),
        node.content.get("default"),
    )


def _dashcard(node: _Node, cards: dict[str, Card]) -> DashCard:
    card_id = node.text_or_none("card_id")
    tab = node.get("dashboard_tab_id", list, [])
    return DashCard(
        node.get("entity_id", str),
        card_id,
        cards.get(card_id) if card_id else None,
        str(tab[-1]) if tab else None,
        node.get("col", int),
        node.get("row", int),
        node.get("size_x", int),
        node.get("size_y", int),
        tuple(_mapping(mapping) for mapping in node.nodes("parameter_mappings")),
        node.get("visualization_settings", dict, {}),
        node.content,
    )


def _mapping(node: _Node) -> Mapping:
    match node.get("target", list):
        case [("dimension" | "variable") as kind, ["template-tag", str(tag)], *_]:
            return Mapping(node.get("parameter_id", str), kind, tag, node.text_or_none("card_id"))
        case ["text-tag", str(tag)]:
            return Mapping(node.get("parameter_id", str), "text-tag", tag, node.text_or_none("card_id"))
        case target:
            raise node.error("target", f"is {target!r}; [dimension, [template-tag, name]] is expected")


def _exemptions(path: Path) -> tuple[tuple[Exemption, ...], frozenset[str]]:
    """The exemptions from filters, and the names of the cards that count bots on purpose."""
    if not path.exists():
        return (), frozenset()
    node = _read(path)
    exemptions = tuple(
        Exemption(
            item.get("dashboard", str), item.get("filter", str), item.get("reason", str), item.text_or_none("card")
        )
        for item in node.nodes("exemptions")
    )
    return exemptions, frozenset(
        item.get("card", str) for item in node.nodes("include_bots") if item.get("reason", str)
    )
