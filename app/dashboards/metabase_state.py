"""What a Metabase has of the dashboards: found by entity id or by Carat's mark, never by its name alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import DashboardError, MetabaseError, SettingsError
from app.core.service_url import ServiceUrl
from app.dashboards.metabase_api import ForbiddenError, Metabase, NotFoundError, rows
from app.dashboards.metabase_shapes import CARD_MARK, Numbers, marked_key
from app.dashboards.model import Card, Library
from app.settings import Settings

SCHEMAS = ("dwh", "history", "etl", "pd")
MARK = "Carat's warehouse. Its address is set by `carat dashboards push`; what else is set here is kept."

Row = dict[str, Any]


@dataclass(frozen=True)
class Connection:
    """How a Metabase reaches the warehouse."""

    name: str
    details: Row
    password: str = field(repr=False)

    def __str__(self) -> str:
        scheme = "https" if self.details["ssl"] else "http"
        return f"{self.details['user']}@{self.details['host']}:{self.details['port']} ({scheme})"


@dataclass
class Found:
    """What there is, by the entity ids of the files; `removed` is what Carat made and no file describes any more."""

    is_admin: bool
    database: Row | None = None
    health: str = ""
    collections: dict[str, Row] = field(default_factory=dict)
    cards: dict[str, Row] = field(default_factory=dict)
    dashboards: dict[str, Row] = field(default_factory=dict)
    removed_cards: list[Row] = field(default_factory=list)
    removed_dashboards: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: Numbers = field(default_factory=Numbers)

    @property
    def owns_database(self) -> bool:
        return self.database is not None and self.database.get("description") == MARK


def connection(settings: Settings, library: Library, *, host: str | None) -> Connection:
    """The connection that the cards need; SettingsError where no Metabase can reach the warehouse."""
    names = {card.database for card in library.cards}
    if len(names) != 1:
        raise DashboardError(f"{library.folder}: all cards belong to one database, not to {', '.join(sorted(names))}")
    url = settings.metabase_warehouse or settings.warehouse
    if url.scheme != "clickhouse":
        raise SettingsError(
            "CARAT_WAREHOUSE is the embedded engine, which no Metabase can reach: push needs a ClickHouse server, "
            "clickhouse://user:password@host:8123/. `carat dashboards preview` shows the dashboards without one"
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
        raise SettingsError(f"--database-host {text}: write it as clickhouse or clickhouse:8123")
    return url.host, url.port or None


def read_state(metabase: Metabase, library: Library, wanted: Connection) -> Found:
    """What this Metabase has of the library."""
    found = Found(is_admin=bool(metabase.get("/api/user/current").get("is_superuser")))
    _read_database(metabase, wanted, found)
    _read_collections(metabase, library, found)
    _read_cards(metabase, library, found)
    _read_dashboards(metabase, library, found)
    return found


def needed_columns(cards: tuple[Card, ...]) -> set[tuple[str, ...]]:
    """The columns that filters stand for: schema, table, name."""
    return {tag.column[1:] for card in cards for tag in card.tags if tag.column}


def read_fields(metabase: Metabase, database: int) -> dict[tuple[str, ...], int]:
    """The columns that this Metabase knows of a database, with their numbers."""
    content = metabase.get(f"/api/database/{database}/metadata", include_hidden=True)
    return {
        (table.get("schema") or "", table["name"], column["name"]): column["id"]
        for table in content.get("tables", [])
        if table.get("active", True)
        for column in table.get("fields", [])
    }


def _read_database(metabase: Metabase, wanted: Connection, found: Found) -> None:
    named = [row for row in rows(metabase.get("/api/database")) if row.get("name") == wanted.name]
    if not named:
        return
    if named[0].get("engine") != "clickhouse":
        raise MetabaseError(
            f"{metabase.url}: its database {wanted.name} is a {named[0].get('engine')}, not a ClickHouse. "
            "Rename it there, then push again"
        )
    number = named[0]["id"]
    found.database = metabase.get(f"/api/database/{number}")
    found.numbers.database = number
    found.numbers.fields = read_fields(metabase, number)
    if found.is_admin and found.owns_database:
        health = metabase.get(f"/api/database/{number}/healthcheck")
        found.health = "" if health.get("status") == "ok" else metabase.clean(str(health.get("message") or "no answer"))


def _read_collections(metabase: Metabase, library: Library, found: Found) -> None:
    listed = [*rows(metabase.get("/api/collection")), *rows(metabase.get("/api/collection", archived=True))]
    mine = [row for row in listed if isinstance(row["id"], int) and not row.get("personal_owner_id")]
    for collection in library.collections:
        key = collection.entity_id
        for row in mine:
            if key in {row.get("entity_id"), marked_key(row)}:
                found.collections[key] = row
                found.numbers.collections[key] = row["id"]
                break
        else:
            namesake = next((row for row in mine if (row["name"], row.get("location")) == (collection.name, "/")), None)
            if namesake and not collection.parent_id and not namesake.get("archived"):
                found.notes.append(
                    f"a collection {collection.name} (number {namesake['id']}) is there that Carat did not make: "
                    "it is left alone, and Carat's own stands beside it"
                )


def _read_cards(metabase: Metabase, library: Library, found: Found) -> None:
    keys = [card.entity_id for card in library.cards]
    answer = metabase.post("/api/eid-translation/translate", {"entity_ids": {"card": keys}}) if keys else {}
    for key, entry in answer.get("entity_ids", {}).items():
        if entry.get("status") == "ok":
            found.numbers.cards[key] = entry["id"]
    for key, number in found.numbers.cards.items():
        found.cards[key] = metabase.get(f"/api/card/{number}")
    for item in _items(metabase, found, "card", archived=False):
        if item.get("entity_id") not in found.cards:
            card = metabase.get(f"/api/card/{item['id']}")
            mark = (card.get("visualization_settings") or {}).get(CARD_MARK)
            if mark is not None and mark == card.get("entity_id"):
                found.removed_cards.append(item)


def _read_dashboards(metabase: Metabase, library: Library, found: Found) -> None:
    known = {dashboard.entity_id: dashboard for dashboard in library.dashboards}
    listed = [item for archived in (False, True) for item in _items(metabase, found, "dashboard", archived=archived)]
    seen: set[str] = set()
    for item in sorted(listed, key=lambda item: int(item["id"])):
        own = str(item.get("entity_id") or "")
        key = own if own in known else marked_key(item)
        if key and key not in seen:
            seen.add(key)
            if key in known:
                found.numbers.dashboards[key] = item["id"]
                found.dashboards[key] = metabase.get(f"/api/dashboard/{item['id']}")
            elif not item["archived"]:
                found.removed_dashboards.append(item)
        elif not item["archived"] and item.get("name") in {dashboard.name for dashboard in known.values()}:
            found.notes.append(
                f"a dashboard {item['name']} (number {item['id']}) lies in the collection that Carat did not make: "
                "it is left alone"
            )


def _items(metabase: Metabase, found: Found, model: str, *, archived: bool) -> list[Row]:
    """What lies in Carat's collections, or was archived out of them.

    All items of an archived collection come either way: those that lie in it come back with it.
    """
    places = list(found.numbers.collections.values())
    if archived:
        try:
            places.append(metabase.get("/api/collection/trash")["id"])
        except (ForbiddenError, NotFoundError):  # what this key may not restore, it makes anew
            found.notes.append("the trash cannot be read with this key: what was archived is made anew")
    listed = [
        item
        for place in places
        for item in metabase.pages(f"/api/collection/{place}/items", models=model, archived=archived)
    ]
    return [item | {"archived": archived} for item in listed if item.get("model", model) == model]


def details_of(found: Mapping[str, Any] | None) -> Row:
    """Of a database's details those that Carat sets."""
    details = (found or {}).get("details") or {}
    return {key: details.get(key) for key in ("host", "port", "user", "dbname", "ssl")} | {
        key: details.get(key) for key in ("enable-multiple-db", "db-filters-type", "db-filters-patterns")
    }
