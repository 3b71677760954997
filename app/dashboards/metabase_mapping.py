"""Maps cards and dashboards between the files and Metabase's API: entity ids on one side, numeric ids on the other.

The files (desired) and Metabase's state (actual) are both converted to the same content, which is compared and shown;
request bodies are made from it. It leaves out what Metabase adds (uuids in a query, nulls, column types) and the order
of a query's tags, which some versions return as a list and others as a mapping.
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
"""The setting in which a card made by Carat stores its entity id; a copy of the card has another entity id."""

_MARKED = re.compile(r"Kept as code by Carat \((?P<key>[A-Za-z0-9_-]{21})(?:, (?P<number>\d+))?\)")
_LABEL = 40
_TAG_KEYS = ("id", "display-name", "type", "widget-type", "default", "required", "options", "alias")


@dataclass
class IdMap:
    """Metabase's numeric ids: of columns by (schema, table, name), of everything else by entity id."""

    database: int | None = None
    fields: dict[tuple[str, ...], int] = field(default_factory=dict)
    collections: dict[str, int] = field(default_factory=dict)
    cards: dict[str, int] = field(default_factory=dict)
    dashboards: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str, key: str) -> int:
        number: int | None = getattr(self, kind).get(key)
        if number is None:
            raise DashboardError(f"{kind.removesuffix('s')} {key} is used, but no file in metabase/ defines it")
        return number

    def name(self, kind: str, number: Any) -> Any:
        """The key of a numeric id; `#7` for one that is not Carat's."""
        if number is None:
            return None
        names: Mapping[Any, int] = getattr(self, kind)
        name = next((key for key, value in names.items() if value == number), None)
        if name is None:
            return f"#{number}"
        return ".".join(name) if isinstance(name, tuple) else name


def with_mark(description: str, key: str, number: int | None = None) -> str:
    """The description with a mark that tells people, and the next push, that Carat owns the object.

    A dashboard's mark also holds its numeric id, which distinguishes it from copies of it.
    """
    mark = _MARK.format(key=key if number is None else f"{key}, {number}")
    return "\n\n".join(filter(None, (description.strip(), mark)))


def marked_key(row: Mapping[str, Any]) -> str | None:
    """The entity id in the mark of a collection or dashboard; None if it is not Carat's, or a copy."""
    match = _MARKED.search(row.get("description") or "")
    return match["key"] if match and match["number"] in {None, str(row["id"])} else None


# ---- cards -----------------------------------------------------------------------------------------------------


def desired_card(card: Card, collection: str) -> Content:
    """A card's content in its file."""
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


def actual_card(row: Mapping[str, Any], ids: IdMap, *, database: str) -> Content:
    """A card's content in Metabase."""
    query = row.get("dataset_query") or {}
    stages = query.get("stages") or []
    stage = stages[0] if len(stages) == 1 else {}
    tags = stage.get("template-tags") or []
    if isinstance(tags, Mapping):
        tags = list(tags.values())
    return {
        "name": row.get("name"),
        "description": (row.get("description") or "").strip() or None,
        "display": row.get("display"),
        "type": row.get("type") or "question",
        "collection": ids.name("collections", row.get("collection_id")),
        "archived": bool(row.get("archived")),
        "database": database if query.get("database") == ids.database else f"#{query.get('database')}",
        "sql": str(stage.get("native") or "").strip(),
        "tags": {tag["name"]: _tag(tag, _column(tag.get("dimension"), ids)) for tag in tags},
        "visualization_settings": named_targets(row.get("visualization_settings") or {}, ids),
        "parameters": _parameters(row.get("parameters") or []),
    }


def card_body(desired: Content, ids: IdMap, keys: Iterable[str]) -> Content:
    """The part of a card's request body for these keys of its content."""
    body: Content = {}
    for key in keys:
        match key:
            case "database" | "sql" | "tags":
                body["dataset_query"] = _query(desired, ids)
            case "collection":
                body["collection_id"] = ids.of("collections", desired["collection"])
            case "visualization_settings":
                body[key] = numbered_targets(desired[key], ids)
            case "parameters":
                body[key] = _parameter_bodies(desired[key], ids)
            case _:
                body[key] = desired[key]
    return body


def _query(desired: Content, ids: IdMap) -> Content:
    tags = {name: {"name": name} | tag for name, tag in desired["tags"].items()}
    for tag in tags.values():
        if "dimension" in tag:
            tag["dimension"] = ["field", {}, ids.of("fields", tuple(tag["dimension"].split(".", 2)))]  # type: ignore[arg-type]
    stage = {"lib/type": "mbql.stage/native", "native": desired["sql"], "template-tags": tags}
    return {"lib/type": "mbql/query", "database": ids.database, "stages": [stage]}


def _tags(card: Card, stage: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    return zip(stage.get("template-tags") or [], card.tags, strict=True)


def _tag(tag: Mapping[str, Any], column: str) -> Content:
    kept = {key: tag[key] for key in _TAG_KEYS if tag.get(key) not in (None, False, {}, [])}
    return kept | ({"dimension": column} if column else {})


def _column(dimension: Any, ids: IdMap) -> str:
    """The column of a reference `[field, options, id]`, or `[field, id, options]` in old queries."""
    if not isinstance(dimension, list):
        return ""
    number = next((part for part in dimension[1:] if isinstance(part, int)), None)
    return str(ids.name("fields", number)) if number is not None else str(dimension)


# ---- dashboards ------------------------------------------------------------------------------------------------


def desired_dashboard(dashboard: Dashboard, collection: str, number: int | None) -> Content:
    """A dashboard's content in its file, with its cards by tab and title; `number` is its numeric id if it exists."""
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


def actual_dashboard(row: Mapping[str, Any], ids: IdMap, titles: Mapping[str, str]) -> Content:
    """A dashboard's content in Metabase; `titles` are the cards' names in the files."""
    tabs = {tab["id"]: tab["name"] for tab in actual_tabs(row)}
    parameters = row.get("parameters") or []
    return {
        "name": row.get("name"),
        "description": row.get("description"),
        "archived": bool(row.get("archived")),
        "collection": ids.name("collections", row.get("collection_id")),
        "width": row.get("width") or "fixed",
        "auto_apply_filters": row.get("auto_apply_filters", True),
        "parameters": {key: _named_source(value, ids) for key, value in _parameters(parameters).items()},
        "order of parameters": [parameter["id"] for parameter in parameters],
        "tabs": list(tabs.values()),
        "cards": {
            label: {
                **{key: place[key] for key in ("row", "col", "size_x", "size_y")},
                "tab": tabs.get(place.get("dashboard_tab_id")),
                "card": ids.name("cards", place.get("card_id")),
                "series": [ids.name("cards", card.get("id")) for card in place.get("series") or []],
                "filters": _filters(place.get("parameter_mappings") or [], ids, place.get("card_id")),
                "inline_parameters": place.get("inline_parameters") or [],
                "visualization_settings": named_targets(place.get("visualization_settings") or {}, ids),
            }
            for label, place in actual_places(row, ids, titles).items()
        },
    }


def actual_tabs(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(row.get("tabs") or [], key=lambda tab: tab.get("position") or 0)


def actual_places(row: Mapping[str, Any], ids: IdMap, titles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The cards on a dashboard in Metabase, by the labels that they have in the files."""
    tabs = {tab["id"]: tab["name"] for tab in actual_tabs(row)}
    labels = _Labels()
    places = sorted(
        row.get("dashcards") or [],
        key=lambda place: (_order_of_tab(tabs, place.get("dashboard_tab_id")), place["row"], place["col"]),
    )
    named = {}
    for place in places:
        key = ids.name("cards", place.get("card_id"))
        title = None if key is None else titles.get(key, f"card {key}")
        label = labels.of(tabs.get(place.get("dashboard_tab_id")), title, place.get("visualization_settings") or {})
        named[label] = place
    return named


def dashboard_body(desired: Content, ids: IdMap, *, tabs: Mapping[str, int], places: Mapping[str, int]) -> Content:
    """The request body for a dashboard; its tabs and cards without an id in `tabs` and `places` are new."""
    tab_ids = {name: tabs.get(name, -index) for index, name in enumerate(desired["tabs"], 1)}
    return {
        **{key: desired[key] for key in ("name", "description", "width", "auto_apply_filters")},
        "parameters": _parameter_bodies(
            {key: desired["parameters"][key] for key in desired["order of parameters"]}, ids
        ),
        "tabs": [{"id": number, "name": name} for name, number in tab_ids.items()],
        "dashcards": [
            _place_body(place, ids, number=places.get(label, -index), tab=tab_ids.get(place["tab"]))
            for index, (label, place) in enumerate(desired["cards"].items(), 1)
        ],
    }


class _Labels:
    """Unique labels for the cards on a dashboard: the second of the same name on a tab gets a (2)."""

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


def _filters(mappings: Iterable[Mapping[str, Any]], ids: IdMap | None, card: Any) -> Content:
    """The tag that each filter sets, by the filter's id, with the card if it is another one of a series."""
    tags = {}
    for mapping in mappings:
        own = mapping.get("card_id")
        key = mapping["parameter_id"]
        if own is not None and own != card:
            key += f" of {ids.name('cards', own) if ids else own}"
        tags[key] = _target(mapping.get("target"))
    return dict(sorted(tags.items()))


def _target(target: Any) -> list[Any]:
    """A filter's target, without the stage number that Metabase may add."""
    plain = list(target or [])
    if plain and isinstance(plain[-1], Mapping) and plain[-1].get("stage-number", 0) == 0:
        plain.pop()
    return plain


def _place_body(place: Content, ids: IdMap, *, number: int, tab: int | None) -> Content:
    card = None if place["card"] is None else ids.of("cards", place["card"])
    mappings = []
    for key, target in place["filters"].items():
        parameter, _, other = key.partition(" of ")
        of_card = ids.of("cards", other) if other else card
        mappings.append({"parameter_id": parameter, "target": target} | ({"card_id": of_card} if of_card else {}))
    return {
        "id": number,
        "card_id": card,
        **{key: place[key] for key in ("row", "col", "size_x", "size_y")},
        "dashboard_tab_id": tab,
        "series": [{"id": ids.of("cards", key)} for key in place["series"]],
        "parameter_mappings": mappings,
        "visualization_settings": numbered_targets(place["visualization_settings"], ids),
    } | ({"inline_parameters": place["inline_parameters"]} if place["inline_parameters"] else {})


# ---- filters and click targets ---------------------------------------------------------------------------------


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> dict[str, Content]:
    """Filters by id, without empty values."""
    return {
        parameter["id"]: {
            key: _target(value) if key == "target" else value
            for key, value in parameter.items()
            if key != "id" and value not in (None, [], {}, False)
        }
        for parameter in parameters
    }


def _parameter_bodies(parameters: Mapping[str, Content], ids: IdMap) -> list[Content]:
    bodies = []
    for key, value in parameters.items():
        source = value.get("values_source_config") or {}
        if isinstance(source.get("card_id"), str):
            source = source | {"card_id": ids.of("cards", source["card_id"])}
        bodies.append({"id": key} | value | ({"values_source_config": source} if source else {}))
    return bodies


def _named_source(parameter: Content, ids: IdMap) -> Content:
    source = parameter.get("values_source_config") or {}
    if isinstance(source.get("card_id"), int):
        return parameter | {"values_source_config": source | {"card_id": ids.name("cards", source["card_id"])}}
    return parameter


def named_targets(settings: Any, ids: IdMap) -> Any:
    """Settings with entity ids as click targets."""
    return _retargeted(settings, lambda kind, target: ids.name(kind, target) if isinstance(target, int) else target)


def numbered_targets(settings: Any, ids: IdMap) -> Any:
    """Settings with this Metabase's numeric ids as click targets."""
    return _retargeted(settings, lambda kind, target: ids.of(kind, target) if isinstance(target, str) else target)


def _plain(settings: Content) -> Content:
    """A file's settings in the form in which Metabase returns them."""
    plain: Content = _retargeted(settings, lambda _, target: target)
    return plain


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
    """The JSON key of a column's settings as Metabase writes it: without spaces."""
    if not key.startswith("["):
        return key
    try:
        return json.dumps(json.loads(key), ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        return key
