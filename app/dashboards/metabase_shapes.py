"""Cards and dashboards in a form that calls things by their names, where a Metabase numbers them.

In this form what the files want and what a Metabase has are compared, and shown; from it the bodies of requests are
made. What a Metabase adds of its own (uuids within a query, nulls, types of columns) is not in it, nor is the order in
which it lists a query's tags: some versions answer a list of them, others a mapping.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import DashboardError
from app.dashboards.model import Card, Dashboard, DashCard

Content = dict[str, Any]

_MARK = "Kept as code by Carat ({key}): changes made here are replaced by the next push."
CARD_MARK = "carat.card"
"""The setting in which a card that Carat made holds its own entity id; a copy of it has another entity id."""

_MARKED = re.compile(r"Kept as code by Carat \((?P<key>[A-Za-z0-9_-]{21})(?:, (?P<number>\d+))?\)")
_LABEL = 40
_TAG_KEYS = ("id", "display-name", "type", "widget-type", "default", "required", "options", "alias")


@dataclass
class Numbers:
    """Which number a Metabase gave to what Carat calls by name: columns by schema, table, name; else by entity id."""

    database: int | None = None
    fields: dict[tuple[str, ...], int] = field(default_factory=dict)
    collections: dict[str, int] = field(default_factory=dict)
    cards: dict[str, int] = field(default_factory=dict)
    dashboards: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str, key: str) -> int:
        found: int | None = getattr(self, kind).get(key)
        if found is None:
            raise DashboardError(f"{kind.removesuffix('s')} {key} is used, but no file in metabase/ describes it")
        return found

    def name(self, kind: str, number: Any) -> Any:
        """The name of a number; `#7` for one that is not Carat's."""
        if number is None:
            return None
        names: Mapping[Any, int] = getattr(self, kind)
        found = next((key for key, value in names.items() if value == number), None)
        if found is None:
            return f"#{number}"
        return ".".join(found) if isinstance(found, tuple) else found


def with_mark(description: str, key: str, number: int | None = None) -> str:
    """A description that says to people, and to the next push, whose it is.

    A dashboard's has its number, too, once it has one: by that it is told from a copy that somebody made of it.
    """
    mark = _MARK.format(key=key if number is None else f"{key}, {number}")
    return "\n\n".join(filter(None, (description.strip(), mark)))


def marked_key(found: Mapping[str, Any]) -> str | None:
    """The entity id that Carat knows a collection or dashboard by; None if it is not Carat's, or only a copy."""
    match = _MARKED.search(found.get("description") or "")
    return match["key"] if match and match["number"] in {None, str(found["id"])} else None


# ---- cards -----------------------------------------------------------------------------------------------------


def wanted_card(card: Card, collection: str) -> Content:
    """What the file of a card says."""
    (stage,) = card.raw["dataset_query"]["stages"]
    content = {
        "name": card.name,
        "description": card.description.strip() or None,
        "display": card.display,
        "type": card.raw.get("type") or "question",
        "collection": collection,
        "archived": False,
        "database": card.database,
        "sql": card.sql.strip(),
        "tags": {tag["name"]: _tag(tag, ".".join(card_tag.column[1:])) for tag, card_tag in _tags(card, stage)},
        "visualization_settings": _plain(card.settings) | {CARD_MARK: card.entity_id},
    }
    return content | ({"parameters": _parameters(card.raw["parameters"])} if card.raw.get("parameters") else {})


def found_card(found: Mapping[str, Any], numbers: Numbers, *, database: str) -> Content:
    """What a Metabase has of a card."""
    query = found.get("dataset_query") or {}
    stages = query.get("stages") or []
    stage = stages[0] if len(stages) == 1 else {}
    tags = stage.get("template-tags") or []
    if isinstance(tags, Mapping):
        tags = list(tags.values())
    return {
        "name": found.get("name"),
        "description": (found.get("description") or "").strip() or None,
        "display": found.get("display"),
        "type": found.get("type") or "question",
        "collection": numbers.name("collections", found.get("collection_id")),
        "archived": bool(found.get("archived")),
        "database": database if query.get("database") == numbers.database else f"#{query.get('database')}",
        "sql": str(stage.get("native") or "").strip(),
        "tags": {tag["name"]: _tag(tag, _column(tag.get("dimension"), numbers)) for tag in tags},
        "visualization_settings": named_targets(found.get("visualization_settings") or {}, numbers),
        "parameters": _parameters(found.get("parameters") or []),
    }


def card_body(wanted: Content, numbers: Numbers, keys: Iterable[str]) -> Content:
    """The part of a card's request that says these keys of its content."""
    body: Content = {}
    for key in keys:
        match key:
            case "database" | "sql" | "tags":
                body["dataset_query"] = _query(wanted, numbers)
            case "collection":
                body["collection_id"] = numbers.of("collections", wanted["collection"])
            case "visualization_settings":
                body[key] = numbered_targets(wanted[key], numbers)
            case "parameters":
                body[key] = _parameter_bodies(wanted[key], numbers)
            case _:
                body[key] = wanted[key]
    return body


def _query(wanted: Content, numbers: Numbers) -> Content:
    tags = {name: {"name": name} | tag for name, tag in wanted["tags"].items()}
    for tag in tags.values():
        if "dimension" in tag:
            tag["dimension"] = ["field", {}, numbers.of("fields", tuple(tag["dimension"].split(".", 2)))]  # type: ignore[arg-type]
    stage = {"lib/type": "mbql.stage/native", "native": wanted["sql"], "template-tags": tags}
    return {"lib/type": "mbql/query", "database": numbers.database, "stages": [stage]}


def _tags(card: Card, stage: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    return zip(stage.get("template-tags") or [], card.tags, strict=True)


def _tag(tag: Mapping[str, Any], column: str) -> Content:
    kept = {key: tag[key] for key in _TAG_KEYS if tag.get(key) not in (None, False, {}, [])}
    return kept | ({"dimension": column} if column else {})


def _column(dimension: Any, numbers: Numbers) -> str:
    """The column of a reference `[field, options, number]`, or `[field, number, options]` in old queries."""
    if not isinstance(dimension, list):
        return ""
    number = next((part for part in dimension[1:] if isinstance(part, int)), None)
    return str(numbers.name("fields", number)) if number is not None else str(dimension)


# ---- dashboards ------------------------------------------------------------------------------------------------


def wanted_dashboard(dashboard: Dashboard, collection: str, number: int | None) -> Content:
    """What the file of a dashboard says, which has this number if it is there; its cards by tab and title."""
    tabs = {tab.entity_id: tab.name for tab in dashboard.tabs}
    labels = _Labels()
    cards = {
        labels.of(tabs.get(place.tab_id or ""), place.card.name if place.card else None, place.settings): _place(
            place, tabs.get(place.tab_id or "")
        )
        for place in sorted(dashboard.dashcards, key=_order_of_places)
    }
    raw = dashboard.raw
    return {
        "name": dashboard.name,
        "description": with_mark(dashboard.description, dashboard.entity_id, number),
        "archived": False,
        "collection": collection,
        "width": raw.get("width") or "fixed",
        "auto_apply_filters": raw.get("auto_apply_filters", True),
        "parameters": _parameters(raw.get("parameters") or []),
        "order of parameters": [parameter["id"] for parameter in raw.get("parameters") or []],
        "tabs": list(tabs.values()),
        "cards": cards,
    }


def found_dashboard(found: Mapping[str, Any], numbers: Numbers, titles: Mapping[str, str]) -> Content:
    """What a Metabase has of a dashboard; `titles` are the cards' names in the files."""
    tabs = {tab["id"]: tab["name"] for tab in found_tabs(found)}
    parameters = found.get("parameters") or []
    return {
        "name": found.get("name"),
        "description": found.get("description"),
        "archived": bool(found.get("archived")),
        "collection": numbers.name("collections", found.get("collection_id")),
        "width": found.get("width") or "fixed",
        "auto_apply_filters": found.get("auto_apply_filters", True),
        "parameters": {key: _named_source(value, numbers) for key, value in _parameters(parameters).items()},
        "order of parameters": [parameter["id"] for parameter in parameters],
        "tabs": list(tabs.values()),
        "cards": {
            label: {
                **{key: place[key] for key in ("row", "col", "size_x", "size_y")},
                "tab": tabs.get(place.get("dashboard_tab_id")),
                "card": numbers.name("cards", place.get("card_id")),
                "series": [numbers.name("cards", card.get("id")) for card in place.get("series") or []],
                "filters": _filters(place.get("parameter_mappings") or [], numbers, place.get("card_id")),
                "inline_parameters": place.get("inline_parameters") or [],
                "visualization_settings": named_targets(place.get("visualization_settings") or {}, numbers),
            }
            for label, place in found_places(found, numbers, titles).items()
        },
    }


def found_tabs(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(found.get("tabs") or [], key=lambda tab: tab.get("position") or 0)


def found_places(found: Mapping[str, Any], numbers: Numbers, titles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The cards on a dashboard, by the labels that the files' cards have, too."""
    tabs = {tab["id"]: tab["name"] for tab in found_tabs(found)}
    labels = _Labels()
    places = sorted(
        found.get("dashcards") or [],
        key=lambda place: (_order_of_tab(tabs, place.get("dashboard_tab_id")), place["row"], place["col"]),
    )
    named = {}
    for place in places:
        key = numbers.name("cards", place.get("card_id"))
        title = None if key is None else titles.get(key, f"card {key}")
        label = labels.of(tabs.get(place.get("dashboard_tab_id")), title, place.get("visualization_settings") or {})
        named[label] = place
    return named


def dashboard_body(wanted: Content, numbers: Numbers, *, tabs: Mapping[str, int], places: Mapping[str, int]) -> Content:
    """The request that makes a dashboard what is wanted; what has no number yet of `tabs` and `places` is new."""
    tab_ids = {name: tabs.get(name, -index) for index, name in enumerate(wanted["tabs"], 1)}
    return {
        **{key: wanted[key] for key in ("name", "description", "width", "auto_apply_filters")},
        "parameters": _parameter_bodies(
            {key: wanted["parameters"][key] for key in wanted["order of parameters"]}, numbers
        ),
        "tabs": [{"id": number, "name": name} for name, number in tab_ids.items()],
        "dashcards": [
            _place_body(place, numbers, number=places.get(label, -index), tab=tab_ids.get(place["tab"]))
            for index, (label, place) in enumerate(wanted["cards"].items(), 1)
        ],
    }


class _Labels:
    """Titles of cards on a dashboard, each once: the second of the same name on a tab gets a (2)."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def of(self, tab: str | None, title: str | None, settings: Mapping[str, Any]) -> str:
        if title is None:
            virtual = settings.get("virtual_card") or {}
            text = " ".join(str(settings.get("text") or "").split())
            title = f"{virtual.get('display', 'text')} {text[:_LABEL]!r}"
        label = f"{tab} / {title}" if tab else title
        self._seen[label] = self._seen.get(label, 0) + 1
        return label if self._seen[label] == 1 else f"{label} ({self._seen[label]})"


def _order_of_places(place: DashCard) -> tuple[str, int, int]:
    return (place.tab_id or "", place.row, place.col)


def _order_of_tab(tabs: Mapping[int, str], tab: Any) -> int:
    return list(tabs).index(tab) if tab in tabs else -1


def _place(place: DashCard, tab: str | None) -> Content:
    mappings = place.raw.get("parameter_mappings") or []
    return {
        "row": place.row,
        "col": place.col,
        "size_x": place.size_x,
        "size_y": place.size_y,
        "tab": tab,
        "card": place.card_id,
        "series": [card["card_id"] for card in place.raw.get("series") or []],
        "filters": _filters(mappings, None, place.card_id),
        "inline_parameters": place.raw.get("inline_parameters") or [],
        "visualization_settings": _plain(place.settings),
    }


def _filters(mappings: Iterable[Mapping[str, Any]], numbers: Numbers | None, card: Any) -> Content:
    """Which tag each filter sets, by the filter's id; of another card of a series with that card."""
    found = {}
    for mapping in mappings:
        own = mapping.get("card_id")
        key = mapping["parameter_id"]
        if own is not None and own != card:
            key += f" of {numbers.name('cards', own) if numbers else own}"
        found[key] = _target(mapping.get("target"))
    return dict(sorted(found.items()))


def _target(target: Any) -> list[Any]:
    """What a filter is set to, without what a Metabase may add to it in a query of one stage."""
    found = list(target or [])
    if found and isinstance(found[-1], Mapping) and found[-1].get("stage-number", 0) == 0:
        found.pop()
    return found


def _place_body(place: Content, numbers: Numbers, *, number: int, tab: int | None) -> Content:
    card = None if place["card"] is None else numbers.of("cards", place["card"])
    mappings = []
    for key, target in place["filters"].items():
        parameter, _, other = key.partition(" of ")
        of_card = numbers.of("cards", other) if other else card
        mappings.append({"parameter_id": parameter, "target": target} | ({"card_id": of_card} if of_card else {}))
    return {
        "id": number,
        "card_id": card,
        **{key: place[key] for key in ("row", "col", "size_x", "size_y")},
        "dashboard_tab_id": tab,
        "series": [{"id": numbers.of("cards", key)} for key in place["series"]],
        "parameter_mappings": mappings,
        "visualization_settings": numbered_targets(place["visualization_settings"], numbers),
    } | ({"inline_parameters": place["inline_parameters"]} if place["inline_parameters"] else {})


# ---- filters, and what a click leads to -------------------------------------------------------------------------


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> dict[str, Content]:
    """Filters by their ids, without what says nothing."""
    return {
        parameter["id"]: {
            key: _target(value) if key == "target" else value
            for key, value in parameter.items()
            if key != "id" and value not in (None, [], {}, False)
        }
        for parameter in parameters
    }


def _parameter_bodies(parameters: Mapping[str, Content], numbers: Numbers) -> list[Content]:
    bodies = []
    for key, value in parameters.items():
        source = value.get("values_source_config") or {}
        if isinstance(source.get("card_id"), str):
            source = source | {"card_id": numbers.of("cards", source["card_id"])}
        bodies.append({"id": key} | value | ({"values_source_config": source} if source else {}))
    return bodies


def _named_source(parameter: Content, numbers: Numbers) -> Content:
    source = parameter.get("values_source_config") or {}
    if isinstance(source.get("card_id"), int):
        return parameter | {"values_source_config": source | {"card_id": numbers.name("cards", source["card_id"])}}
    return parameter


def named_targets(settings: Any, numbers: Numbers) -> Any:
    """Settings in which the dashboards and cards that a click leads to are called by their entity ids."""
    return _retargeted(settings, lambda kind, target: numbers.name(kind, target) if isinstance(target, int) else target)


def numbered_targets(settings: Any, numbers: Numbers) -> Any:
    """Settings in which the dashboards and cards that a click leads to have this Metabase's numbers."""
    return _retargeted(settings, lambda kind, target: numbers.of(kind, target) if isinstance(target, str) else target)


def _plain(settings: Content) -> Content:
    """A file's settings as they come back from a Metabase."""
    found: Content = _retargeted(settings, lambda _, target: target)
    return found


def _retargeted(settings: Any, rename: Any) -> Any:
    if isinstance(settings, list):
        return [_retargeted(value, rename) for value in settings]
    if not isinstance(settings, dict):
        return settings
    kind = {"dashboard": "dashboards", "question": "cards"}.get(str(settings.get("linkType")))
    return {
        _compact(key): rename(kind, value) if key == "targetId" and kind else _retargeted(value, rename)
        for key, value in settings.items()
    }


def _compact(key: str) -> str:
    """The key of a column's settings, which is a JSON text, as a Metabase writes it: without spaces."""
    if not key.startswith("["):
        return key
    try:
        return json.dumps(json.loads(key), ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        return key
