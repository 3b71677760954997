"""Reads the current state of a Metabase: objects are matched by entity id or by Carat's mark, never by name alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import DashboardError, MetabaseError, SettingsError
from app.core.service_url import ServiceUrl
from app.dashboards.metabase_api import ForbiddenError, Metabase, NotFoundError, rows
from app.dashboards.metabase_mapping import CARD_MARK, IdMap, marked_key
from app.dashboards.model import Card, Library
from app.settings import Settings

SCHEMAS = ("dwh", "history", "etl", "pd")
MARK = "Carat's warehouse. Its address is set by `carat dashboards push`; what else is set here is kept."

Row = dict[str, Any]


@dataclass(frozen=True)
class Connection:
    """How Metabase connects to the warehouse."""

    name: str
    details: Row
    password: str = field(repr=False)

    def __str__(self) -> str:
        scheme = "https" if self.details["ssl"] else "http"
        return f"{self.details['user']}@{self.details['host']}:{self.details['port']} ({scheme})"


@dataclass
class RemoteState:
    """What Metabase has, by the entity ids of the files; `removed_…` were made by Carat and no longer have a file."""

    is_admin: bool
    database: Row | None = None
    health: str = ""
    collections: dict[str, Row] = field(default_factory=dict)
    cards: dict[str, Row] = field(default_factory=dict)
    dashboards: dict[str, Row] = field(default_factory=dict)
    removed_cards: list[Row] = field(default_factory=list)
    removed_dashboards: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ids: IdMap = field(default_factory=IdMap)

    @property
    def owns_database(self) -> bool:
        return self.database is not None and self.database.get("description") == MARK


def connection(settings: Settings, library: Library, *, host: str | None) -> Connection:
    """The connection that the cards need; SettingsError if Metabase cannot use the configured warehouse."""
    names = {card.database for card in library.cards}
    if len(names) != 1:
        raise DashboardError(f"{library.folder}: all cards must use one database, not {', '.join(sorted(names))}")
    url = settings.metabase_warehouse or settings.warehouse
    if url.scheme != "clickhouse":
        raise SettingsError(
            "CARAT_WAREHOUSE is the embedded engine, which Metabase cannot reach. Set it to a ClickHouse server, "
            "clickhouse://user:password@host:8123/, or use `carat dashboards preview`, which needs no server"
        )
    own_host, own_port = _host_and_port(host) if host else (None, None)
    details = {
        "host": own_host or url.host,
        "port": own_port or url.port,
        "user": url.user,
        "dbname": SCHEMAS[0],
        "ssl": url.is_secure,
        "enable-multiple-db": True,
        "db-filters-type": "inclusion",
        "db-filters-patterns": ",".join(SCHEMAS),
    }
    return Connection(names.pop(), details, url.password.get_secret_value())


def _host_and_port(text: str) -> tuple[str, int | None]:
    try:
        url = ServiceUrl.parse(f"tcp://{text}", "tcp")
    except ValueError:
        url = None
    if url is None or url.path:
        raise SettingsError(f"--database-host {text}: expected HOST or HOST:PORT, such as clickhouse:8123")
    return url.host, url.port or None


def read_state(metabase: Metabase, library: Library, desired: Connection) -> RemoteState:
    """Read what this Metabase has of the library."""
    state = RemoteState(is_admin=bool(metabase.get("/api/user/current").get("is_superuser")))
    _read_database(metabase, desired, state)
    _read_collections(metabase, library, state)
    _read_cards(metabase, library, state)
    _read_dashboards(metabase, library, state)
    return state


def needed_columns(cards: tuple[Card, ...]) -> set[tuple[str, ...]]:
    """The columns of field filters: (schema, table, name)."""
    return {tag.column[1:] for card in cards for tag in card.tags if tag.column}


def read_fields(metabase: Metabase, database: int) -> dict[tuple[str, ...], int]:
    """The columns of a database that Metabase has scanned, with their ids."""
    content = metabase.get(f"/api/database/{database}/metadata", include_hidden=True)
    return {
        (table.get("schema") or "", table["name"], column["name"]): column["id"]
        for table in content.get("tables", [])
        if table.get("active", True)
        for column in table.get("fields", [])
    }


def _read_database(metabase: Metabase, desired: Connection, state: RemoteState) -> None:
    named = [row for row in rows(metabase.get("/api/database")) if row.get("name") == desired.name]
    if not named:
        return
    if named[0].get("engine") != "clickhouse":
        raise MetabaseError(
            f"{metabase.url}: its database {desired.name} is a {named[0].get('engine')}, not a ClickHouse. "
            "Rename it there, then push again"
        )
    number = named[0]["id"]
    state.database = metabase.get(f"/api/database/{number}")
    state.ids.database = number
    state.ids.fields = read_fields(metabase, number)
    if state.is_admin and state.owns_database:
        health = metabase.get(f"/api/database/{number}/healthcheck")
        state.health = "" if health.get("status") == "ok" else metabase.clean(str(health.get("message") or "no answer"))


def _read_collections(metabase: Metabase, library: Library, state: RemoteState) -> None:
    listed = [*rows(metabase.get("/api/collection")), *rows(metabase.get("/api/collection", archived=True))]
    mine = [row for row in listed if isinstance(row["id"], int) and not row.get("personal_owner_id")]
    for collection in library.collections:
        key = collection.entity_id
        for row in mine:
            if key in {row.get("entity_id"), marked_key(row)}:
                state.collections[key] = row
                state.ids.collections[key] = row["id"]
                break
        else:
            namesake = next((row for row in mine if (row["name"], row.get("location")) == (collection.name, "/")), None)
            if namesake and not collection.parent_id and not namesake.get("archived"):
                state.notes.append(
                    f"Carat did not make the collection {collection.name} (id {namesake['id']}): it is not touched, "
                    "and Carat makes its own with the same name"
                )


def _read_cards(metabase: Metabase, library: Library, state: RemoteState) -> None:
    keys = [card.entity_id for card in library.cards]
    answer = metabase.post("/api/eid-translation/translate", {"entity_ids": {"card": keys}}) if keys else {}
    for key, entry in answer.get("entity_ids", {}).items():
        if entry.get("status") == "ok":
            state.ids.cards[key] = entry["id"]
    for key, number in state.ids.cards.items():
        state.cards[key] = metabase.get(f"/api/card/{number}")
    for item in _items(metabase, state, "card", archived=False):
        if item.get("entity_id") not in state.cards:
            card = metabase.get(f"/api/card/{item['id']}")
            mark = (card.get("visualization_settings") or {}).get(CARD_MARK)
            if mark is not None and mark == card.get("entity_id"):
                state.removed_cards.append(item)


def _read_dashboards(metabase: Metabase, library: Library, state: RemoteState) -> None:
    known = {dashboard.entity_id: dashboard for dashboard in library.dashboards}
    listed = [item for archived in (False, True) for item in _items(metabase, state, "dashboard", archived=archived)]
    seen: set[str] = set()
    for item in sorted(listed, key=lambda item: int(item["id"])):
        own = str(item.get("entity_id") or "")
        key = own if own in known else marked_key(item)
        if key and key not in seen:
            seen.add(key)
            if key in known:
                state.ids.dashboards[key] = item["id"]
                state.dashboards[key] = metabase.get(f"/api/dashboard/{item['id']}")
            elif not item["archived"]:
                state.removed_dashboards.append(item)
        elif not item["archived"] and item.get("name") in {dashboard.name for dashboard in known.values()}:
            state.notes.append(f"Carat did not make the dashboard {item['name']} (id {item['id']}): it is not touched")


def _items(metabase: Metabase, state: RemoteState, model: str, *, archived: bool) -> list[Row]:
    """The items in Carat's collections, or those archived from them.

    Items of an archived collection are in both lists: they are restored with it.
    """
    places = list(state.ids.collections.values())
    if archived:
        try:
            places.append(metabase.get("/api/collection/trash")["id"])
        except (ForbiddenError, NotFoundError):  # what this key may not restore is created again
            state.notes.append("this key cannot read the trash: archived items are created again")
    listed = [
        item
        for place in places
        for item in metabase.pages(f"/api/collection/{place}/items", models=model, archived=archived)
    ]
    return [item | {"archived": archived} for item in listed if item.get("model", model) == model]


def details_of(database: Mapping[str, Any] | None) -> Row:
    """The connection details of a database that Carat sets."""
    details = (database or {}).get("details") or {}
    return {key: details.get(key) for key in ("host", "port", "user", "dbname", "ssl")} | {
        key: details.get(key) for key in ("enable-multiple-db", "db-filters-type", "db-filters-patterns")
    }
