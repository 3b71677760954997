"""A Metabase in miniature: the part of its REST API that keeps databases, collections, cards and dashboards.

It holds state and answers as Metabase does where that matters to a client: numbers and entity ids, texts of 401, 403 and
404, errors by key, paged listings, a trash, hidden passwords, temporary negative numbers, columns that are there only
after a sync, tags of a query as a mapping (before 0.63) or a list, and bodies with unknown keys refused (from 0.63).
What comes and goes is checked with the JSON Schemas of Metabase's own client where they are given. A card's query runs
on a real warehouse, its tags filled in by the numbers of their columns.

Not imitated: users, sessions and permissions beyond one key, query builder questions, drivers, caches, search.
"""

import json
import re
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

HIDDEN = "**MetabasePass**"
TRASH = 1
CARD_KEYS = {
    *("name", "type", "dataset_query", "entity_id", "parameters", "parameter_mappings", "description", "display"),
    *("visualization_settings", "collection_id", "collection_position", "result_metadata", "cache_ttl"),
    *("dashboard_id", "dashboard_tab_id"),
}
CARD_UPDATE_KEYS = (CARD_KEYS - {"entity_id"}) | {"archived", "enable_embedding", "collection_preview"}
DASHBOARD_KEYS = {"name", "description", "parameters", "cache_ttl", "collection_id", "collection_position"}
DASHBOARD_UPDATE_KEYS = DASHBOARD_KEYS | {
    *("caveats", "points_of_interest", "position", "width", "archived", "auto_apply_filters", "dashcards", "tabs"),
}
PLACE_KEYS = {
    *("id", "size_x", "size_y", "row", "col", "card_id", "action_id", "dashboard_tab_id", "parameter_mappings"),
    *("visualization_settings", "inline_parameters", "series"),
}
DATABASE_KEYS = {
    "name",
    "engine",
    "details",
    "is_full_sync",
    "is_on_demand",
    "schedules",
    "auto_run_queries",
    "cache_ttl",
}
DATABASE_UPDATE_KEYS = DATABASE_KEYS | {"description", "caveats", "points_of_interest", "refingerprint", "settings"}
TOKEN = re.compile(r"\[\[|\]\]|\{\{\s*([^{}]+?)\s*\}\}")

Row = dict[str, Any]
Columns = dict[str, dict[str, dict[str, str]]]  # schema, table, column: type


class RefusalError(Exception):
    """An answer that is no success: a status, and a text or an object."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body


def refuse(status: int, body: Any) -> NoReturn:
    raise RefusalError(status, body)


@dataclass
class State:
    """What this Metabase is, and what it holds."""

    key: str = "mb_test-key"
    tag: str = "v0.63.2"
    is_admin: bool = True
    is_set_up: bool = True
    engines: tuple[str, ...] = ("clickhouse", "postgres")
    columns: Columns = field(default_factory=dict)
    sync_polls: int = 0
    can_connect: Callable[[Row], str] = lambda details: ""
    run: Callable[[str], tuple[list[str], list[list[Any]]]] | None = None
    schemas: dict[str, Row] = field(default_factory=dict)
    writes_left: int | None = None
    is_starting: int = 0

    databases: dict[int, Row] = field(default_factory=dict)
    tables: dict[int, list[Row]] = field(default_factory=dict)
    collections: dict[int, Row] = field(default_factory=dict)
    cards: dict[int, Row] = field(default_factory=dict)
    dashboards: dict[int, Row] = field(default_factory=dict)
    places: dict[int, Row] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    last_id: int = 10
    lock: threading.RLock = field(default_factory=threading.RLock)
    validators: dict[tuple[str, str], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.collections[TRASH] = self.collection_row(TRASH, "Trash", None) | {"type": "trash"}

    @property
    def major(self) -> int:
        parts = self.tag.split(".")
        return int(parts[1]) if len(parts) > 1 else 99  # built from a branch

    @property
    def writes(self) -> list[tuple[str, str, Any]]:
        """The requests that were to change something."""
        asked = [one for one in self.requests if one[0] != "GET" and "eid-translation" not in one[1]]
        return [one for one in asked if not one[1].endswith("/query")]

    def number(self) -> int:
        self.last_id += 1
        return self.last_id

    def collection_row(self, number: int, name: str, description: str | None, parent: int | None = None) -> Row:
        location = f"{self.collections[parent]['location']}{parent}/" if parent else "/"
        return {
            "id": number, "name": name, "description": description, "archived": False, "location": location,
            "personal_owner_id": None, "namespace": None, "type": None, "authority_level": None, "slug": name.lower(),
            "entity_id": uuid.uuid4().hex[:21], "parent_id": parent, "is_personal": False, "can_write": True,
        }  # fmt: skip

    # ---- what a person does in the browser ----

    def make_collection(self, name: str) -> int:
        number = self.number()
        self.collections[number] = self.collection_row(number, name, None)
        return number

    def make_card(self, name: str, collection: int | None, **more: Any) -> int:
        query = {
            "lib/type": "mbql/query",
            "database": 1,
            "stages": [{"lib/type": "mbql.stage/native", "native": "SELECT 1"}],
        }
        body = {"name": name, "display": "table", "dataset_query": query, "visualization_settings": {}}
        return int(create_card(self, body | {"collection_id": collection} | more)["id"])

    def card(self, name: str) -> Row:
        (found,) = [card for card in self.cards.values() if card["name"] == name]
        return found

    def dashboard(self, name: str) -> Row:
        (found,) = [one for one in self.dashboards.values() if one["name"] == name]
        return found


# ---- databases ---------------------------------------------------------------------------------------------------


def show_database(state: State, database: Row) -> Row:
    shown = {key: value for key, value in database.items() if key != "polls"}
    details = database["details"]
    shown["details"] = details | ({"password": HIDDEN} if details.get("password") else {})
    return shown if state.is_admin else {key: value for key, value in shown.items() if key != "details"}


def require_connection(state: State, details: Row) -> None:
    if problem := state.can_connect(details):
        refuse(
            400,
            {"message": problem, "errors": {"host": "check your host settings", "port": "check your port settings"}},
        )


def create_database(state: State, body: Row) -> Row:
    require_admin(state)
    require_keys(state, body, DATABASE_KEYS)
    if body.get("engine") not in state.engines:
        refuse(400, {"errors": {"engine": "value must be a valid database engine."}})
    require_connection(state, body["details"])
    number = state.number()
    state.databases[number] = {
        "id": number, "name": body["name"], "engine": body["engine"], "details": body["details"], "description": None,
        "is_full_sync": True, "is_sample": False, "initial_sync_status": "incomplete", "polls": state.sync_polls,
    }  # fmt: skip
    sync(state, number)
    return show_database(state, state.databases[number])


def update_database(state: State, database: Row, body: Row) -> Row:
    require_admin(state)
    require_keys(state, body, DATABASE_UPDATE_KEYS)
    if body.get("details"):
        hidden = {"password": database["details"].get("password")} if body["details"].get("password") == HIDDEN else {}
        details = database["details"] | body["details"] | hidden
        if details != database["details"]:
            require_connection(state, details)
        database["details"] = details
    database.update({key: body[key] for key in ("name", "description") if body.get(key) is not None})
    return show_database(state, database)


def sync(state: State, number: int) -> None:
    """Read the columns, once as many questions were asked as a sync takes."""
    database = state.databases[number]
    if database["polls"] > 0:
        database["polls"] -= 1
        return
    database["initial_sync_status"] = "complete"
    known = {(table["schema"], table["name"]): table for table in state.tables.get(number, [])}
    wanted = (database["details"].get("db-filters-patterns") or "").split(",")
    for schema, tables in state.columns.items():
        for name, columns in tables.items() if schema in wanted else ():
            table = known.setdefault(
                (schema, name),
                {
                    "id": state.number(), "db_id": number, "schema": schema, "name": name, "display_name": name,
                    "description": None, "entity_type": None, "active": True, "visibility_type": None, "fields": [],
                },
            )  # fmt: skip
            there = {column["name"] for column in table["fields"]}
            table["fields"] += [
                {
                    "id": state.number(), "table_id": table["id"], "name": column, "display_name": column,
                    "description": None, "base_type": kind, "semantic_type": None, "fk_target_field_id": None,
                }
                for column, kind in columns.items()
                if column not in there
            ]  # fmt: skip
    state.tables[number] = list(known.values())


def column_of(state: State, number: int) -> tuple[str, str, str]:
    for tables in state.tables.values():
        for table in tables:
            for column in table["fields"]:
                if column["id"] == number:
                    return table["schema"], table["name"], column["name"]
    refuse(400, {"message": f"Field {number} does not exist."})


# ---- collections -------------------------------------------------------------------------------------------------


def create_collection(state: State, body: Row) -> Row:
    check(state, "collection create", "inputSchema", body)
    if not str(body.get("name") or "").strip():
        refuse(400, {"errors": {"name": "value must be a non-blank string."}})
    parent = body.get("parent_id")
    if parent is not None:
        find(state.collections, parent)
    number = state.number()
    state.collections[number] = state.collection_row(number, body["name"], body.get("description"), parent)
    return state.collections[number]


def update_collection(state: State, collection: Row, body: Row) -> Row:
    check(state, "collection update", "inputSchema", body)
    collection.update({key: body[key] for key in ("name", "description") if key in body})
    if bool(body.get("archived")) != collection["archived"]:  # what is not said is no
        set_archived(state, collection, archived=bool(body.get("archived")))
    return collection


def set_archived(state: State, collection: Row, *, archived: bool) -> None:
    """Archive a collection with all that lies within, or bring back what was archived with it."""
    below = [
        c
        for c in state.collections.values()
        if c["location"].startswith(f"{collection['location']}{collection['id']}/")
    ]
    numbers = {collection["id"], *(child["id"] for child in below)}
    for row in [collection, *below]:
        row["archived"] = archived
    for item in [*state.cards.values(), *state.dashboards.values()]:
        if item["collection_id"] in numbers and not item["archived_directly"]:
            item["archived"] = archived


def items(state: State, number: int | None, query: dict[str, list[str]]) -> Row:
    """What lies in a collection; all that is archived in the trash, and in a collection that is archived itself."""
    models = query.get("models", ["card", "dashboard", "collection"])
    is_archived = number is not None and (find(state.collections, number)["archived"] or number == TRASH)
    archived = is_archived or query.get("archived", ["false"])[0] == "true"
    found = []
    for model, rows in (("dashboard", state.dashboards), ("card", state.cards)):
        for row in rows.values() if model in models else ():
            lies_here = row["collection_id"] == number and not row["archived_directly"]
            if number == TRASH:
                lies_here = row["archived_directly"]
            if lies_here and row["archived"] == archived:
                keys = ("id", "name", "description", "entity_id", "archived", "collection_position")
                found.append({key: row.get(key) for key in keys} | {"model": model, "collection_id": number})
    found.sort(key=lambda item: (item["model"] == "card", item["name"].lower()))
    offset, limit = int(query.get("offset", ["0"])[0]), query.get("limit")
    shown = found[offset : offset + int(limit[0])] if limit else found
    page = {"limit": int(limit[0]), "offset": offset} if limit else {}
    return {"total": len(found) if shown else None, "data": shown, "models": models} | page


# ---- cards -------------------------------------------------------------------------------------------------------


def create_card(state: State, body: Row) -> Row:
    check(state, "card create", "inputSchema", body)
    check(state, "query", "inputSchema", body["dataset_query"])
    require_keys(state, body, CARD_KEYS)
    if body.get("collection_id") is not None:
        find(state.collections, body["collection_id"])
    if body.get("description") == "":
        refuse(400, {"errors": {"description": "nullable value must be a non-blank string."}})
    key = body.get("entity_id") or uuid.uuid4().hex[:21]
    if any(card["entity_id"] == key for card in state.cards.values()):
        refuse(500, {"message": "Unique index or primary key violation: IDX_REPORT_CARD_ENTITY_ID"})
    number = state.number()
    state.cards[number] = {
        "id": number, "type": "question", "description": None, "archived": False, "archived_directly": False,
        "query_type": "native", "table_id": None, "collection_id": None, "dashboard_id": None, "parameters": [],
        "collection_position": None, "cache_ttl": None, "creator_id": 1, "enable_embedding": False, **body,
        "entity_id": key, "dataset_query": stored_query(body["dataset_query"]),
        "database_id": body["dataset_query"]["database"],
    }  # fmt: skip
    return show_card(state, state.cards[number])


def update_card(state: State, card: Row, body: Row) -> Row:
    check(state, "card update", "inputSchema", body)
    require_keys(state, body, CARD_UPDATE_KEYS)
    if "dataset_query" in body:
        check(state, "query", "inputSchema", body["dataset_query"])
        card["dataset_query"] = stored_query(body["dataset_query"])
        card["database_id"] = body["dataset_query"]["database"]
    if body.get("archived") is not None:
        card["archived"] = card["archived_directly"] = body["archived"]
    card.update({key: value for key, value in body.items() if key not in {"dataset_query", "archived"}})
    return show_card(state, card)


def stored_query(query: Row) -> Row:
    """A query as Metabase keeps it: its references get an identity and types of their own."""
    query = deepcopy(query)
    for stage in query["stages"]:
        for name, tag in stage.get("template-tags", {}).items():
            if tag["name"] != name or ("{{" + name) not in stage["native"].replace("{{ ", "{{"):
                refuse(400, {"message": f"the tag {name} is not used"})
            if "dimension" in tag:
                kind, options, number = tag["dimension"]
                tag["dimension"] = [kind, {"lib/uuid": str(uuid.uuid4()), "base-type": "type/*"} | options, number]
            tag.setdefault("default", None)
    return query


def stored_settings(settings: Row) -> Row:
    """Settings as Metabase keeps them: the keys of columns, which are JSON, are written anew."""
    columns = {
        json.dumps(json.loads(key), ensure_ascii=False, separators=(",", ":")): value
        for key, value in settings.get("column_settings", {}).items()
    }
    return deepcopy(settings) | ({"column_settings": columns} if columns else {})


def show_card(state: State, card: Row) -> Row:
    shown = deepcopy(card) | {"visualization_settings": stored_settings(card["visualization_settings"])}
    for stage in shown["dataset_query"].get("stages", []):
        if state.major >= 63 and "template-tags" in stage:
            stage["template-tags"] = list(stage["template-tags"].values())
    if card["archived_directly"]:
        shown["collection_id"] = TRASH
    del shown["archived_directly"]
    return shown


def run_card(state: State, card: Row, body: Row) -> Row:
    """The answer of a card's query, with the values that were given."""
    (stage,) = card["dataset_query"]["stages"]
    values = {given["target"][1][1]: given["value"] for given in body.get("parameters") or []}
    sql = expand(state, stage["native"], stage.get("template-tags") or {}, values)
    assert state.run is not None
    try:
        names, rows = state.run(sql)
    except Exception as error:  # noqa: BLE001  whatever the warehouse says becomes the answer
        return {"status": "failed", "error": str(error), "data": {"rows": [], "cols": []}, "row_count": 0}
    columns = [{"name": name, "display_name": name} for name in names]
    return {"status": "completed", "row_count": len(rows), "data": {"rows": rows, "cols": columns}}


def expand(state: State, sql: str, tags: Row, values: Row) -> str:
    """The SQL with its tags filled in; an optional clause with an empty tag is left out."""
    stack: list[tuple[list[str], bool]] = [([], True)]
    position = 0
    for match in TOKEN.finditer(sql):
        stack[-1][0].append(sql[position : match.start()])
        position = match.end()
        if match[0] == "[[":
            stack.append(([], True))
        elif match[0] == "]]":
            text, is_whole = stack.pop()
            stack[-1][0].extend(text if is_whole else [])
        else:
            condition = condition_of(state, tags[match[1]], values.get(match[1]))
            if condition is None and len(stack) > 1:
                stack[-1] = (stack[-1][0], False)
            stack[-1][0].append(condition or "1 = 1")
    assert len(stack) == 1
    return "".join(stack[0][0]) + sql[position:]


def condition_of(state: State, tag: Row, value: Any) -> str | None:
    if value is None:
        return None
    assert tag["type"] == "dimension", "only field filters are imitated"
    column = ".".join(f"`{part}`" for part in column_of(state, tag["dimension"][2]))
    if tag["widget-type"].startswith("date/"):
        first, _, last = value.partition("~")
        return f"{column} BETWEEN toDate('{first}') AND toDate('{last or first}')"
    return f"{column} IN ({', '.join(repr(str(one)) for one in value)})"


# ---- dashboards --------------------------------------------------------------------------------------------------


def create_dashboard(state: State, body: Row) -> Row:
    check(state, "dashboard create", "inputSchema", body)
    require_keys(state, body, DASHBOARD_KEYS)
    find(state.collections, body["collection_id"])
    number = state.number()
    state.dashboards[number] = {
        "id": number, "description": None, "archived": False, "archived_directly": False, "parameters": [],
        "creator_id": 1, "entity_id": uuid.uuid4().hex[:21], "width": "fixed", "auto_apply_filters": True,
        "enable_embedding": False, "public_uuid": None, "cache_ttl": None, "tabs": [], "collection_position": None, **body,
    }  # fmt: skip
    return show_dashboard(state, state.dashboards[number])


def update_dashboard(state: State, dashboard: Row, body: Row) -> Row:
    check(state, "dashboard update", "inputSchema", body)
    require_keys(state, body, DASHBOARD_UPDATE_KEYS)
    was_archived = dashboard["archived"]
    if body.get("archived") is not None:
        dashboard["archived"] = dashboard["archived_directly"] = body["archived"]
    nested = {"dashcards", "tabs", "archived"}
    dashboard.update({key: value for key, value in body.items() if key not in nested})
    if "dashcards" in body:
        if was_archived:
            refuse(404, {"message": "The object has been archived.", "error_code": "archived"})
        replace_places(state, dashboard, body)
    return show_dashboard(state, dashboard)


def replace_places(state: State, dashboard: Row, body: Row) -> None:
    """Make the tabs and cards those that are sent: negative numbers are new, what is left out is gone."""
    tabs, places = body.get("tabs") or [], body["dashcards"]
    for name, rows in (("tabs", tabs), ("dashcards", places)):
        if len({row["id"] for row in rows}) != len(rows):
            refuse(400, {"errors": {name: "value must be seq of maps in which ids are unique"}})
    for place in places:
        require_keys(state, place, PLACE_KEYS)
        for card in filter(None, [place.get("card_id"), *(one["id"] for one in place.get("series") or [])]):
            if find(state.cards, card)["archived"]:
                refuse(404, {"message": "The object has been archived.", "error_code": "archived"})
        if tabs and place.get("dashboard_tab_id") is None and len(tabs) > 1:
            refuse(400, {"message": "This dashboard has tab, makes sure every card has a tab"})
        for mapping in place.get("parameter_mappings") or []:
            require_tag(state, mapping)
    known = {tab["id"] for tab in dashboard["tabs"]}
    numbers = {tab["id"]: tab["id"] if tab["id"] in known else state.number() for tab in tabs}
    dashboard["tabs"] = [
        {
            "id": numbers[tab["id"]], "name": tab["name"], "position": index, "dashboard_id": dashboard["id"],
            "entity_id": uuid.uuid4().hex[:21],
        }
        for index, tab in enumerate(tabs)
    ]  # fmt: skip
    before = {number for number, place in state.places.items() if place["dashboard_id"] == dashboard["id"]}
    hidden = {number for number in before if is_hidden(state, state.places[number])}
    kept = set()
    for place in places:
        number = place["id"] if place["id"] in before else state.number()
        kept.add(number)
        tab = place.get("dashboard_tab_id")
        old = state.places.get(number, {"entity_id": uuid.uuid4().hex[:21], "dashboard_id": dashboard["id"]})
        state.places[number] = {
            "card_id": None, "action_id": None, "parameter_mappings": [], "visualization_settings": {}, "series": [],
            "inline_parameters": None, **old, **deepcopy(place), "id": number,
            "dashboard_tab_id": None if tab is None else numbers.get(tab, tab),
        }  # fmt: skip
    for number in before - kept - hidden:
        del state.places[number]


def require_tag(state: State, mapping: Row) -> None:
    """A filter is mapped to a tag that its card has."""
    if mapping.get("card_id") is None:
        return
    (stage,) = find(state.cards, mapping["card_id"])["dataset_query"]["stages"]
    match mapping["target"]:
        case ["dimension" | "variable", ["template-tag", name], *_] if name in stage.get("template-tags", {}):
            return
    refuse(400, {"message": f"the card has no such tag: {mapping['target']}"})


def is_hidden(state: State, place: Row) -> bool:
    """The place of an archived card is there, but not shown."""
    return place["card_id"] is not None and state.cards[place["card_id"]]["archived"]


def show_dashboard(state: State, dashboard: Row) -> Row:
    shown = deepcopy(dashboard)
    if dashboard["archived_directly"]:
        shown["collection_id"] = TRASH
    del shown["archived_directly"]
    places = [place for place in state.places.values() if place["dashboard_id"] == dashboard["id"]]
    shown["dashcards"] = [
        deepcopy(place)
        | {"card": show_card(state, state.cards[place["card_id"]]) if place["card_id"] else None}
        | {"series": [show_card(state, state.cards[one["id"]]) for one in place["series"]]}
        for place in places
        if not is_hidden(state, place)
    ]
    return shown


# ---- what all requests have in common ----------------------------------------------------------------------------


def find(rows: dict[int, Row], number: int) -> Row:
    if number not in rows:
        refuse(404, "Not found.")
    return rows[number]


def require_admin(state: State) -> None:
    if not state.is_admin:
        refuse(403, "You don't have permissions to do that.")


def require_keys(state: State, body: Row, known: set[str]) -> None:
    """Newer versions take no key that they do not know."""
    if state.major >= 63 and (unknown := sorted(body.keys() - known)):
        refuse(400, {"errors": {}, "specific-errors": {name: ["disallowed key"] for name in unknown}})


def check(state: State, command: str, schema: str, content: Any) -> None:
    """Check what came (a wrong body is a 400) or is to go (a wrong answer is a defect of this server)."""
    if command not in state.schemas:
        return
    validator = state.validators.get((command, schema))
    if validator is None:
        others = state.schemas[command].get("defs", {})
        registry = Registry().with_resources(
            (name, Resource.from_contents(content, default_specification=DRAFT202012))
            for name, content in others.items()
        )
        validator = jsonschema.Draft202012Validator(state.schemas[command][schema], registry=registry)
        state.validators[command, schema] = validator
    problems = list(validator.iter_errors(content))
    if problems and schema == "inputSchema":
        refuse(400, {"errors": {problem.json_path: problem.message[:200] for problem in problems}})
    assert not problems, f"{command}: {problems[0].json_path}: {problems[0].message[:500]}"


def properties(state: State) -> Row:
    engines = {name: {"driver-name": name.title()} for name in state.engines}
    return {"version": {"tag": state.tag, "date": "2026-01-01"}, "engines": engines, "has-user-setup": state.is_set_up}


@dataclass
class Ask:
    """One request; `number` is what its path names."""

    state: State
    body: Any
    query: dict[str, list[str]]
    place: str = ""

    @property
    def number(self) -> int:
        if not self.place.isdecimal():
            refuse(400, {"errors": {"id": "value must be an integer greater than zero."}})
        return int(self.place)

    @property
    def archived(self) -> bool:
        return self.query.get("archived", ["false"])[0] == "true"


ROUTES: list[tuple[str, re.Pattern[str], Callable[[Ask], Any]]] = []


def route(method: str, path: str) -> Callable[[Callable[[Ask], Any]], Callable[[Ask], Any]]:
    """Answer a method and path, in which N stands for a number or a name."""

    def add(function: Callable[[Ask], Any]) -> Callable[[Ask], Any]:
        ROUTES.append((method, re.compile("/api/" + path.replace("N", r"(?P<place>\w+)")), function))
        return function

    return add


@route("GET", "user/current")
def get_user(ask: Ask) -> Row:
    return {"id": 1, "common_name": "Carat", "is_superuser": ask.state.is_admin, "is_active": True}


@route("POST", "eid-translation/translate")
def translate(ask: Ask) -> Row:
    numbers = {card["entity_id"]: card["id"] for card in ask.state.cards.values()}
    found = {"type": "card", "status": "ok"}
    missing = {"type": "card", "status": "not-found"}
    keys = ask.body["entity_ids"].get("card", [])
    return {"entity_ids": {key: found | {"id": numbers[key]} if key in numbers else missing for key in keys}}


@route("GET", "database")
def list_databases(ask: Ask) -> Row:
    found = [show_database(ask.state, row) for row in ask.state.databases.values()]
    return {"data": found, "total": len(found)}


@route("GET", "database/N")
def get_database(ask: Ask) -> Row:
    shown = show_database(ask.state, find(ask.state.databases, ask.number))
    if "include" in ask.query:
        shown |= {"tables": ask.state.tables.get(ask.number, [])}
    check(ask.state, "database get", "outputSchema", shown)
    return shown


@route("GET", "database/N/metadata")
def get_metadata(ask: Ask) -> Row:
    database = find(ask.state.databases, ask.number)
    if database["initial_sync_status"] != "complete":
        sync(ask.state, ask.number)
    return show_database(ask.state, database) | {"tables": ask.state.tables.get(ask.number, [])}


@route("GET", "database/N/healthcheck")
def get_health(ask: Ask) -> Row:
    require_admin(ask.state)
    problem = ask.state.can_connect(find(ask.state.databases, ask.number)["details"])
    return {"status": "error", "message": problem} if problem else {"status": "ok"}


@route("POST", "database/N/sync_schema")
def start_sync(ask: Ask) -> Row:
    require_admin(ask.state)
    sync(ask.state, find(ask.state.databases, ask.number)["id"])
    return {"status": "ok"}


@route("GET", "collection")
def list_collections(ask: Ask) -> list[Row]:
    rows = [row for row in ask.state.collections.values() if (row["archived"] or row["id"] == TRASH) == ask.archived]
    return rows if ask.archived else [{"id": "root", "name": "Our analytics"}, *rows]


route("GET", "collection/root/items")(lambda ask: items(ask.state, None, ask.query))
route("GET", "collection/trash")(lambda ask: ask.state.collections[TRASH])


@route("GET", "collection/N")
def get_collection(ask: Ask) -> Row:
    shown = find(ask.state.collections, ask.number)
    check(ask.state, "collection get", "outputSchema", shown)
    return shown


@route("GET", "card")
def list_cards(ask: Ask) -> list[Row]:
    only = ask.query.get("f", ["all"])[0] == "archived"
    return [show_card(ask.state, card) for card in ask.state.cards.values() if card["archived"] == only]


@route("GET", "card/N")
def get_card(ask: Ask) -> Row:
    shown = show_card(ask.state, find(ask.state.cards, ask.number))
    check(ask.state, "card get", "outputSchema", shown)
    return shown


@route("GET", "dashboard")
def list_dashboards(ask: Ask) -> list[Row]:
    return [show_dashboard(ask.state, row) for row in ask.state.dashboards.values() if not row["archived"]]


@route("GET", "dashboard/N")
def get_dashboard(ask: Ask) -> Row:
    shown = show_dashboard(ask.state, find(ask.state.dashboards, ask.number))
    check(ask.state, "dashboard get", "outputSchema", shown)
    return shown


route("POST", "database")(lambda ask: create_database(ask.state, ask.body))
route("PUT", "database/N")(lambda ask: update_database(ask.state, find(ask.state.databases, ask.number), ask.body))
route("POST", "collection")(lambda ask: create_collection(ask.state, ask.body))
route("PUT", "collection/N")(
    lambda ask: update_collection(ask.state, find(ask.state.collections, ask.number), ask.body)
)
route("GET", "collection/N/items")(lambda ask: items(ask.state, ask.number, ask.query))
route("POST", "card")(lambda ask: create_card(ask.state, ask.body))
route("PUT", "card/N")(lambda ask: update_card(ask.state, find(ask.state.cards, ask.number), ask.body))
route("POST", "card/N/query")(lambda ask: run_card(ask.state, find(ask.state.cards, ask.number), ask.body))
route("POST", "dashboard")(lambda ask: create_dashboard(ask.state, ask.body))
route("PUT", "dashboard/N")(lambda ask: update_dashboard(ask.state, find(ask.state.dashboards, ask.number), ask.body))


def answer(state: State, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
    """The answer to one request; RefusalError where it is none."""
    for verb, pattern, function in ROUTES:
        if verb == method and (match := pattern.fullmatch(path)):
            return function(Ask(state, body, query, match.groupdict().get("place", "")))
    refuse(404, "API endpoint does not exist.")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: State

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  the name is the base class's
        pass

    def reply(self) -> None:
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            with self.state.lock:
                found = self.found(parts.path, parse_qs(parts.query), json.loads(content) if content else None)
                body, status = json.dumps(found).encode(), 200
        except RefusalError as refusal:
            status = refusal.status
            is_text = isinstance(refusal.body, str)
            body = refusal.body.encode() if is_text else json.dumps(refusal.body).encode()
        except Exception:  # noqa: BLE001  shown by the test, not by a thread
            self.state.defects.append(traceback.format_exc())
            status, body = 500, b'{"message": "a defect of the test server"}'
        self.send_response(status)
        self.send_header("content-type", "application/json" if body[:1] in b"{[" else "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = reply

    def found(self, path: str, query: dict[str, list[str]], body: Any) -> Any:
        state = self.state
        if state.is_starting > 0:
            state.is_starting -= 1
            refuse(503, {"status": "initializing"})
        if (self.command, path) == ("GET", "/api/session/properties"):
            return properties(state)
        if self.headers.get("x-api-key") != state.key:
            refuse(401, "Unauthenticated")
        state.requests.append((self.command, path, deepcopy(body)))
        if self.command != "GET" and "eid-translation" not in path and state.writes_left is not None:
            state.writes_left -= 1
            if state.writes_left < 0:
                refuse(500, {"message": "Connection to the application database was lost"})
        return answer(state, self.command, path, query, body)


@contextmanager
def running_metabase(state: State) -> Iterator[str]:
    """Serve the state on a port of this machine alone; the URL of it."""
    handler = type("BoundHandler", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
