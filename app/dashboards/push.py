"""Pushes the dashboards of the files into a running Metabase: plans the differences, applies them, and reads them back.

Carat's own objects are recognized by entity id or by a mark in their description, never by name alone. What people
made is not touched, even in Carat's collection. What Carat made follows the files: a changed card is reset, an archived
one is restored, and one without a file is archived, from where people can restore it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.core import console
from app.core.backoff import Backoff
from app.core.errors import CaratError, DashboardError, MetabaseError, SettingsError
from app.dashboards.differences import Difference, differences
from app.dashboards.metabase_api import Metabase, RejectedError, with_note
from app.dashboards.metabase_mapping import (
    Content,
    IdMap,
    actual_card,
    actual_dashboard,
    actual_places,
    actual_tabs,
    card_body,
    dashboard_body,
    desired_card,
    desired_dashboard,
    with_mark,
)
from app.dashboards.metabase_state import (
    MARK,
    Connection,
    RemoteState,
    connection,
    details_of,
    needed_columns,
    read_fields,
    read_state,
)
from app.dashboards.model import Card, Collection, Dashboard, Library
from app.settings import Settings

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_SHOWN_COLUMNS = 5
_REACH = "it connects with that host and user; change them with --database-host or CARAT_METABASE_WAREHOUSE"
_KINDS = ("database", "collection", "card", "dashboard")
_CARD_KEYS = ("name", "description", "display", "type", "collection", "sql", "visualization_settings")


@dataclass(frozen=True)
class Change:
    """An object to create, update, restore or archive, and its differences from the current state."""

    action: str  # create, update, restore, archive
    kind: str  # database, collection, card, dashboard
    key: str
    name: str
    differences: tuple[Difference, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        lines = [f"{self.action:8}{self.kind} {self.name}{f' ({self.note})' if self.note else ''}"]
        shown = () if self.action == "create" else self.differences  # everything differs
        lines += [f"          {line}" for each in shown for line in str(each).splitlines()]
        return "\n".join(lines)

    @property
    def report(self) -> dict[str, Any]:
        report = {"action": self.action, "kind": self.kind, "key": self.key, "name": self.name, "note": self.note}
        return report | {"differences": [each.report for each in self.differences]}


@dataclass(frozen=True)
class Pushed:
    """What a push changed, or a dry run would change."""

    url: str
    version: str
    changes: list[Change]
    notes: list[str]
    dry_run: bool

    @property
    def report(self) -> dict[str, Any]:
        changes = [change.report for change in self.changes]
        return {"url": self.url, "version": self.version, "dry_run": self.dry_run, "changes": changes} | {
            "notes": self.notes
        }


def push(
    settings: Settings,
    library: Library,
    *,
    dry_run: bool = False,
    database_host: str | None = None,
    wait_s: float = 300,
) -> Pushed:
    """Create or update the library's dashboards in Metabase, waiting up to `wait_s` for it to scan the warehouse.

    Pushing again changes nothing. Raises MetabaseError if a change fails, or if Metabase stores something else than
    was sent; changes made until then stay, and the next push continues from there.
    """
    if not settings.metabase_url or not settings.metabase_api_key:
        missing = "CARAT_METABASE_API_KEY" if settings.metabase_url else "CARAT_METABASE_URL"
        raise SettingsError(
            f"{missing} is not set: push needs Metabase's address and an API key, created in Metabase under Admin > "
            "Settings > Authentication > API keys"
        )
    desired = connection(settings, library, host=database_host)
    metabase = Metabase(str(settings.metabase_url), settings.metabase_api_key, secrets=(desired.password,))
    properties = metabase.properties()
    engines = properties.get("engines")
    if isinstance(engines, dict) and "clickhouse" not in engines:
        raise MetabaseError(f"{metabase.url} has no ClickHouse driver: use an image with Metabase's own drivers")
    state = read_state(metabase, library, desired)
    changes = list(plan(library, desired, state))
    unknown = needed_columns(library.cards) - state.ids.fields.keys()
    if state.database and unknown:
        state.notes.append(f"Metabase has not scanned {_listed(unknown)} yet: a push waits for it")
    pushed = Pushed(metabase.url, properties["version"]["tag"], changes, state.notes, dry_run)
    if changes and not dry_run:
        _Push(metabase, library, desired, state, wait_s).run(changes)
        _require_same(metabase, library, desired)
    return pushed


def plan(library: Library, desired: Connection, state: RemoteState) -> Iterator[Change]:
    """The changes needed, in the order in which they can be made."""
    yield from _plan_database(desired, state)
    for collection in _parents_first(library.collections):
        key = collection.entity_id
        there = _actual_collection(state.collections[key]) if key in state.collections else None
        yield from _compare("collection", key, _desired_collection(collection), there)
    for card in library.cards:
        key = card.entity_id
        content = desired_card(card, _home(card, library))
        there = None
        if key in state.cards:
            there = actual_card(state.cards[key], state.ids, database=desired.name)
            there["parameters"] = _only_desired_keys(there["parameters"], content.get("parameters", {}))
        yield from _compare("card", key, content, there, note=card.display)
    titles = {card.entity_id: card.name for card in library.cards}
    for dashboard in library.dashboards:
        key = dashboard.entity_id
        there = actual_dashboard(state.dashboards[key], state.ids, titles) if key in state.dashboards else None
        content = desired_dashboard(dashboard, _home(dashboard, library), state.ids.dashboards.get(key))
        yield from _compare("dashboard", key, content, there, note=f"{len(dashboard.dashcards)} cards")
    for kind, rows in (("dashboard", state.removed_dashboards), ("card", state.removed_cards)):
        for row in rows:
            yield Change("archive", kind, str(row["id"]), row["name"], note="it has no file any more")


def _only_desired_keys(actual: Content, desired: Content) -> Content:
    """The actual filters without the keys their files do not mention: a Metabase derives more from a card's tags."""
    return {
        key: {name: part for name, part in value.items() if key not in desired or name in desired[key]}
        for key, value in actual.items()
    }


def _compare(kind: str, key: str, desired: Content, actual: Content | None, *, note: str = "") -> Iterator[Change]:
    if actual is None:
        yield Change("create", kind, key, desired["name"], tuple(differences({}, desired)), note)
        return
    differing = tuple(differences({name: actual[name] for name in desired}, desired))
    if differing:
        is_archived = any(each.path == "archived" for each in differing)
        yield Change("restore" if is_archived else "update", kind, key, desired["name"], differing)


def _plan_database(desired: Connection, state: RemoteState) -> Iterator[Change]:
    database = state.database
    if database is None:
        if not state.is_admin:
            raise MetabaseError(
                f"Metabase has no database {desired.name}, and this API key may not add one. "
                "Use a key of the group Administrators for the first push"
            )
        details = tuple(differences({}, desired.details, "connection"))
        yield Change("create", "database", desired.name, desired.name, details, f"clickhouse, {desired}")
        return
    there = details_of(database)
    if state.owns_database:
        if not state.is_admin:
            return  # only administrators see its details
        differing = list(differences(there, desired.details, "connection"))
        if state.health:
            differing.append(Difference("connection", f"fails: {state.health}", "sent again, with its password"))
    elif state.is_admin and there == desired.details:  # left by a push that stopped before it could mark it
        differing = [Difference("description", database.get("description"), MARK)]
    else:
        state.notes.append(
            f"Carat did not make the database {desired.name} (id {database['id']}): it is used unchanged"
        )
        return
    if differing:
        yield Change("update", "database", desired.name, desired.name, tuple(differing))


def _parents_first(collections: tuple[Collection, ...]) -> list[Collection]:
    parents = {collection.entity_id: collection.parent_id for collection in collections}

    def depth(collection: Collection) -> int:
        above, steps = collection.parent_id, 0
        while above and steps <= len(parents):
            above, steps = parents.get(above), steps + 1
        if steps > len(parents):
            raise DashboardError(f"{collection.path}: parent_id: the collection contains itself")
        return steps

    return sorted(collections, key=depth)


def _desired_collection(collection: Collection) -> Content:
    description = with_mark(collection.description, collection.entity_id)
    return {"name": collection.name, "description": description, "archived": False}


def _actual_collection(row: Mapping[str, Any]) -> Content:
    """Without its place: people may move it."""
    return {
        "name": row.get("name"),
        "description": row.get("description"),
        "archived": bool(row.get("archived")),
    }


def _home(item: Card | Dashboard, library: Library) -> str:
    if item.collection_id is None or item.collection_id not in {one.entity_id for one in library.collections}:
        raise DashboardError(f"{item.path}: collection_id: no such collection in {library.folder}")
    return item.collection_id


class _Push:
    """Applies the changes of one push, in an order in which everything referred to has its id."""

    def __init__(
        self, metabase: Metabase, library: Library, connection: Connection, state: RemoteState, wait_s: float
    ) -> None:
        self._metabase = metabase
        self._library = library
        self._connection = connection
        self._state = state
        self._ids = state.ids
        self._wait_s = wait_s
        self._cards = {card.entity_id: card for card in library.cards}
        self._collections = {collection.entity_id: collection for collection in library.collections}
        self._dashboards = {dashboard.entity_id: dashboard for dashboard in library.dashboards}
        self._titles = {card.entity_id: card.name for card in library.cards}

    def run(self, changes: list[Change]) -> None:
        done = 0
        try:
            with console.progress("pushing", total=len(changes)) as bar:
                for step, change in self._steps(changes):
                    bar.label(f"{change.kind} {change.name}")
                    step(change)
                    done += 1
                    bar.advance(1)
        except CaratError as error:
            raise with_note(error, f"{done} of {len(changes)} changes are made; push again to continue") from error

    def _steps(self, changes: list[Change]) -> Iterator[tuple[Callable[[Change], None], Change]]:
        of_kind = {kind: [one for one in changes if one.kind == kind and one.action != "archive"] for kind in _KINDS}
        yield from ((self._put_database, change) for change in of_kind["database"])
        yield from ((self._put_collection, change) for change in of_kind["collection"])
        if of_kind["card"]:
            self._wait_for_columns()
        yield from ((self._put_card, change) for change in of_kind["card"])
        for change in of_kind["dashboard"]:
            if change.action == "create":  # create all before filling the first: a click may lead to any
                self._make_dashboard(self._dashboards[change.key])
        yield from ((self._fill_dashboard, change) for change in of_kind["dashboard"])
        yield from ((self._archive, change) for change in changes if change.action == "archive")

    def _put_database(self, change: Change) -> None:
        desired = self._connection
        details = desired.details | {"password": desired.password}
        try:
            if self._state.database is None:
                body = {"name": desired.name, "engine": "clickhouse", "details": details, "is_full_sync": True}
                self._state.database = self._metabase.post("/api/database", body)
            number = self._state.database["id"]
            body = {"description": MARK}
            if change.action != "create" and any(each.path.startswith("connection") for each in change.differences):
                body["details"] = (self._state.database.get("details") or {}) | details
            self._metabase.put(f"/api/database/{number}", body)
        except RejectedError as error:
            raise with_note(error, f"Metabase said this about {desired}: {_REACH}") from None
        self._ids.database = number
        health = self._metabase.get(f"/api/database/{number}/healthcheck")
        if health.get("status") != "ok":
            message = self._metabase.clean(str(health.get("message") or "no answer"))
            raise MetabaseError(f"Metabase cannot reach the warehouse at {desired}: {message}. It{_REACH[2:]}")

    def _put_collection(self, change: Change) -> None:
        collection = self._collections[change.key]
        content = _desired_collection(collection)
        parent = self._ids.of("collections", collection.parent_id) if collection.parent_id else None
        if change.action == "create":
            body = {"name": content["name"], "description": content["description"]}
            made = self._metabase.post("/api/collection", body | ({"parent_id": parent} if parent else {}))
            self._ids.collections[change.key] = made["id"]
            return
        number = self._ids.of("collections", change.key)
        if change.action == "restore":
            self._metabase.put(f"/api/collection/{number}", {"archived": False, "parent_id": parent})
        if keys := _keys(change) - {"archived"}:
            self._metabase.put(f"/api/collection/{number}", {key: content[key] for key in keys})

    def _wait_for_columns(self) -> None:
        """Wait until Metabase has scanned the columns of field filters; start a scan if none is running."""
        database = self._ids.database
        assert database is not None
        needed = needed_columns(self._library.cards)
        deadline = time.monotonic() + self._wait_s
        has_asked, backoff = False, Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while missing := needed - self._ids.fields.keys():
            self._ids.fields = read_fields(self._metabase, database)
            if not (missing := needed - self._ids.fields.keys()):
                break
            if (
                not has_asked
                and self._metabase.get(f"/api/database/{database}").get("initial_sync_status") != "incomplete"
            ):
                self._metabase.post(f"/api/database/{database}/sync_schema")
                has_asked = True
            pause_s = backoff.next_s()
            if time.monotonic() + pause_s > deadline:
                raise MetabaseError(
                    f"Metabase has not found {_listed(missing)} in {self._connection.name} within {self._wait_s:g} s. "
                    "Run `carat migrate` if the warehouse lacks it, else give Metabase more time with --wait"
                )
            time.sleep(pause_s)

    def _put_card(self, change: Change) -> None:
        card = self._cards[change.key]
        content = desired_card(card, _home(card, self._library))
        if change.action == "create":
            keys = [*_CARD_KEYS, *(["parameters"] if "parameters" in content else [])]
            made = self._metabase.post("/api/card", card_body(content, self._ids, keys) | {"entity_id": change.key})
            self._ids.cards[change.key] = made["id"]
            return
        path = f"/api/card/{self._ids.of('cards', change.key)}"
        keys_left = _keys(change)
        if change.action == "restore":
            self._metabase.put(path, card_body(content, self._ids, ("archived", "collection")))
            keys_left -= {"archived", "collection"}
        if keys_left:
            self._metabase.put(path, card_body(content, self._ids, sorted(keys_left)))

    def _make_dashboard(self, dashboard: Dashboard) -> None:
        """Create an empty dashboard with its mark. It is pinned only now: people may change that later."""
        home = self._ids.of("collections", _home(dashboard, self._library))
        body = {
            "name": dashboard.name,
            "description": with_mark(dashboard.description, dashboard.entity_id),
            "collection_id": home,
        }
        pin = {"collection_position": dashboard.position} if dashboard.position > 0 else {}
        made = self._metabase.post("/api/dashboard", body | pin)
        self._ids.dashboards[dashboard.entity_id] = made["id"]

    def _fill_dashboard(self, change: Change) -> None:
        dashboard = self._dashboards[change.key]
        number = self._ids.of("dashboards", change.key)
        content = desired_dashboard(dashboard, _home(dashboard, self._library), number)
        path = f"/api/dashboard/{number}"
        if change.action != "create" and _keys(change) & {"archived", "collection"}:
            self._metabase.put(path, _placed(content, self._ids))
        there = self._metabase.get(path)  # a restored card is back in its place by now
        actual = actual_dashboard(there, self._ids, self._titles)
        if not list(differences(actual, content)):
            return
        tabs = {tab["name"]: tab["id"] for tab in actual_tabs(there)}
        places = {label: place["id"] for label, place in actual_places(there, self._ids, self._titles).items()}
        self._metabase.put(path, dashboard_body(content, self._ids, tabs=tabs, places=places))

    def _archive(self, change: Change) -> None:
        self._metabase.put(f"/api/{change.kind}/{change.key}", {"archived": True})


def _require_same(metabase: Metabase, library: Library, desired: Connection) -> None:
    """RunQuery everything back: what Metabase has now is what the files say."""
    left = list(plan(library, desired, read_state(metabase, library, desired)))
    if left:
        first = " ".join(str(left[0]).split())
        raise MetabaseError(
            f"{metabase.url} stores {len(left)} object(s) differently than sent, such as: {first[:300]}. "
            "See `carat dashboards push --dry-run`"
        )


def _placed(content: Content, ids: IdMap) -> Content:
    return {"archived": False, "collection_id": ids.of("collections", content["collection"])}


def _keys(change: Change) -> set[str]:
    """The keys of the content that differ."""
    return {each.path.partition(".")[0] for each in change.differences}


def _listed(columns: set[tuple[str, ...]]) -> str:
    names = sorted(".".join(column) for column in columns)
    more = len(names) - _SHOWN_COLUMNS
    return ", ".join(names[:_SHOWN_COLUMNS]) + (f" and {more} more" if more > 0 else "")
