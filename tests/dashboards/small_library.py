"""Two dashboards with tabs, filters, a heading and a link, and a Metabase that they are pushed to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.dashboards.model import Library, load_library
from app.dashboards.push import Pushed, push
from app.settings import Settings
from tests.support.metabase_server import State

WAREHOUSE = "clickhouse://reader:geheim%40@warehouse.example:8123/"
DATE, DEVICE = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
COLUMNS = {
    "dwh": {
        "sessions": {"session_date": "type/Date", "device_type": "type/Text", "orders": "type/Integer"},
        "events": {"event_date": "type/Date", "event": "type/Text"},
    },
    "etl": {"runs": {"job": "type/Text"}},
}


def key(name: str) -> str:
    """An entity id that says what it is."""
    return f"{name:x<21}"[:21]


def identity(model: str, name: str) -> list[dict[str, str]]:
    return [{"id": key(name), "model": model, "label": name}]


def collection(name: str, title: str, parent: str | None = None) -> dict[str, Any]:
    content = {"name": title, "entity_id": key(name), "description": f"What {title} holds."}
    return content | {"parent_id": key(parent) if parent else None, "serdes/meta": identity("Collection", name)}


def card(name: str, title: str, sql: str, *, display: str = "line", **settings: Any) -> dict[str, Any]:
    tags = [
        tag(DATE, "date", "date/range", ["Carat", "dwh", "sessions", "session_date"]),
        tag(DEVICE, "device", "string/=", ["Carat", "dwh", "sessions", "device_type"]),
    ]
    stage = {"lib/type": "mbql.stage/native", "native": sql, "template-tags": [t for t in tags if t["name"] in sql]}
    return {
        "name": title,
        "entity_id": key(name),
        "description": f"{title}, explained.",
        "display": display,
        "collection_id": key("cards"),
        "creator_id": "internal@metabase.com",
        "dataset_query": {"lib/type": "mbql/query", "database": "Carat", "stages": [stage]},
        "visualization_settings": settings,
        "serdes/meta": identity("Card", name),
    }


def tag(number: str, name: str, widget: str, column: list[str]) -> dict[str, Any]:
    content = {"type": "dimension", "name": name, "id": number, "display-name": name.title(), "widget-type": widget}
    return content | {"dimension": ["field", {"base-type": "type/Text"}, column]}


def place(dashboard: str, tab: str, card: str | None, row: int, col: int = 0, **settings: Any) -> dict[str, Any]:
    filters = (("date", DATE), ("device", DEVICE)) if card else ()
    return {
        "entity_id": key(f"{dashboard}{tab}{row}-{col}"),
        "card_id": key(card) if card else None,
        "dashboard_tab_id": [key(dashboard), key(tab)],
        "row": row, "col": col, "size_x": 12, "size_y": 4,
        "parameter_mappings": [
            {"card_id": key(card or ""), "parameter_id": number, "target": ["dimension", ["template-tag", name]]}
            for name, number in filters
        ],
        "series": [],
        "visualization_settings": settings,
    }  # fmt: skip


def dashboard(name: str, title: str, tabs: list[tuple[str, str]], places: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": title,
        "entity_id": key(name),
        "description": f"How is {title}?",
        "collection_id": key("carat"),
        "collection_position": 1,
        "creator_id": "internal@metabase.com",
        "width": "full",
        "auto_apply_filters": True,
        "parameters": [
            {"id": DATE, "name": "Date", "slug": "date", "type": "date/range", "sectionId": "date"},
            {"id": DEVICE, "name": "Device", "slug": "device", "type": "string/=", "sectionId": "string"},
        ],
        "tabs": [{"entity_id": key(tab), "name": label, "position": n} for n, (tab, label) in enumerate(tabs)],
        "dashcards": places,
        "serdes/meta": identity("Dashboard", name),
    }


FILTERS = "WHERE 1 = 1 [[AND {{date}}]] [[AND {{device}}]]"


def contents() -> dict[str, dict[str, Any]]:
    """The files, by name; a test changes them before they are written."""
    to_details = {"type": "link", "linkType": "dashboard", "targetId": key("details"), "parameterMapping": {}}
    heading = {"virtual_card": {"display": "heading"}, "text": "What they did"}
    return {
        "carat": collection("carat", "Carat"),
        "cards": collection("cards", "Cards", parent="carat"),
        "sessions": card(
            "sessions",
            "Sessions",
            f"SELECT session_date, count() AS n\nFROM dwh.sessions\n{FILTERS}\nGROUP BY 1\n",
            column_settings={'["name", "n"]': {"decimals": 0}},
        ),
        "orders": card("orders", "Orders", f"SELECT sum(orders) AS n FROM dwh.sessions {FILTERS}", display="scalar"),
        "overview": dashboard(
            "overview",
            "Overview",
            [("first", "First"), ("second", "Second")],
            [
                place("overview", "first", "sessions", 0, click_behavior=to_details),
                place("overview", "first", "orders", 0, 12),
                place("overview", "second", None, 0, **heading),
                place("overview", "second", "sessions", 4),
            ],
        ),
        "details": dashboard("details", "Details", [("only", "Only")], [place("details", "only", "orders", 0)]),
    }


def write_library(folder: Path, files: dict[str, dict[str, Any]]) -> Library:
    """The library that the files make."""
    home = folder / "collections"
    home.mkdir(parents=True, exist_ok=True)
    for old in home.glob("*.yaml"):
        old.unlink()
    for name, content in files.items():
        (home / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_library(folder)


@dataclass
class Shop:
    """A Metabase, and the files that are pushed to it."""

    state: State
    url: str
    folder: Path
    files: dict[str, dict[str, Any]]

    @property
    def settings(self) -> Settings:
        return Settings(_env_file=None, metabase_url=self.url, metabase_api_key=self.state.key, warehouse=WAREHOUSE)

    @property
    def library(self) -> Library:
        return write_library(self.folder, self.files)

    def push(self, **options: Any) -> Pushed:
        return push(self.settings, self.library, **options)

    def written_by(self, action: Callable[[], Any]) -> list[tuple[str, str]]:
        """The requests by which something was to be changed."""
        before = len(self.state.writes)
        action()
        return [(method, path) for method, path, _ in self.state.writes[before:]]
