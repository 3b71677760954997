"""Makes a running Metabase have the dashboards of the files: what differs is planned, shown, changed, and read back.

Whose something is, is told by its entity id or by a mark in its description, never by its name alone. What people made
is left alone, in Carat's collection, too. What Carat made is made whole again: a card that somebody changed
becomes what its file says, an archived one is restored, one that no file describes any more is archived, from where
people can restore it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.core import console
from app.core.errors import CaratError, DashboardError, MetabaseError, SettingsError
from app.dashboards.differences import Difference, differences
from app.dashboards.metabase_api import Metabase, RejectedError, whole
from app.dashboards.metabase_shapes import (
    Content,
    Numbers,
    card_body,
    dashboard_body,
    found_card,
    found_dashboard,
    found_places,
    found_tabs,
    wanted_card,
    wanted_dashboard,
    with_mark,
)
from app.dashboards.metabase_state import (
    MARK,
    Connection,
    Found,
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
_REACH = "it must reach the warehouse by that name and user; --database-host or CARAT_METABASE_WAREHOUSE say another"
_KINDS = ("database", "collection", "card", "dashboard")
_CARD_KEYS = ("name", "description", "display", "type", "collection", "sql", "visualization_settings")


@dataclass(frozen=True)
class Change:
    """Something that is to be made, changed or archived, and in what it differs from what is there."""

    action: str  # create, update, restore, archive
    kind: str  # database, collection, card, dashboard
    key: str
    name: str
    differences: tuple[Difference, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        lines = [f"{self.action:8}{self.kind} {self.name}{f' ({self.note})' if self.note else ''}"]
        shown = () if self.action == "create" else self.differences  # all of what is new is new
        lines += [f"          {line}" for each in shown for line in str(each).splitlines()]
        return "\n".join(lines)

    @property
    def report(self) -> dict[str, Any]:
        found = {"action": self.action, "kind": self.kind, "key": self.key, "name": self.name, "note": self.note}
        return found | {"differences": [each.report for each in self.differences]}


@dataclass(frozen=True)
class Pushed:
    """What a push changed, or, of a dry run, would change."""

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
    """Make the Metabase of the settings have the library's dashboards; `wait_s` is how long it may read the warehouse.

    The same again changes nothing. Raises MetabaseError when it cannot be done, or when what Metabase has afterwards is
    not what was sent; what is done by then is kept, and the next push goes on from there.
    """
    if not settings.metabase_url or not settings.metabase_api_key:
        missing = "CARAT_METABASE_API_KEY" if settings.metabase_url else "CARAT_METABASE_URL"
        raise SettingsError(
            f"{missing} is not set: push needs Metabase's address, and a key made there under Admin > Settings > "
            "Authentication > API keys"
        )
    wanted = connection(settings, library, host=database_host)
    metabase = Metabase(str(settings.metabase_url), settings.metabase_api_key, secrets=(wanted.password,))
    properties = metabase.properties()
    engines = properties.get("engines")
    if isinstance(engines, dict) and "clickhouse" not in engines:
        raise MetabaseError(
            f"{metabase.url} has no driver for ClickHouse: use an image that has Metabase's own drivers"
        )
    found = read_state(metabase, library, wanted)
    changes = list(plan(library, wanted, found))
    unknown = needed_columns(library.cards) - found.numbers.fields.keys()
    if found.database and unknown:
        found.notes.append(f"Metabase has not read {_listed(unknown)} yet: a push waits until it has")
    pushed = Pushed(metabase.url, properties["version"]["tag"], changes, found.notes, dry_run)
    if changes and not dry_run:
        _Work(metabase, library, wanted, found, wait_s).run(changes)
        _require_same(metabase, library, wanted)
    return pushed


def plan(library: Library, wanted: Connection, found: Found) -> Iterator[Change]:
    """What must be changed, in the order in which it can be."""
    yield from _plan_database(wanted, found)
    for collection in _parents_first(library.collections):
        key = collection.entity_id
        there = _found_collection(found.collections[key]) if key in found.collections else None
        yield from _compare("collection", key, _wanted_collection(collection), there)
    for card in library.cards:
        key = card.entity_id
        content = wanted_card(card, _home(card, library))
        there = None
        if key in found.cards:
            there = found_card(found.cards[key], found.numbers, database=wanted.name)
            there["parameters"] = _said(there["parameters"], content.get("parameters", {}))
        yield from _compare("card", key, content, there, note=card.display)
    titles = {card.entity_id: card.name for card in library.cards}
    for dashboard in library.dashboards:
        key = dashboard.entity_id
        there = found_dashboard(found.dashboards[key], found.numbers, titles) if key in found.dashboards else None
        content = wanted_dashboard(dashboard, _home(dashboard, library), found.numbers.dashboards.get(key))
        yield from _compare("dashboard", key, content, there, note=f"{len(dashboard.dashcards)} cards")
    for kind, rows in (("dashboard", found.removed_dashboards), ("card", found.removed_cards)):
        for row in rows:
            yield Change("archive", kind, str(row["id"]), row["name"], note="no file describes it any more")


def _said(found: Content, wanted: Content) -> Content:
    """Of what is found of each filter what its file says, too: a Metabase may derive more from a card's tags."""
    return {
        key: {name: said for name, said in value.items() if key not in wanted or name in wanted[key]}
        for key, value in found.items()
    }


def _compare(kind: str, key: str, wanted: Content, found: Content | None, *, note: str = "") -> Iterator[Change]:
    if found is None:
        yield Change("create", kind, key, wanted["name"], tuple(differences({}, wanted)), note)
        return
    differing = tuple(differences({name: found[name] for name in wanted}, wanted))
    if differing:
        is_archived = any(each.path == "archived" for each in differing)
        yield Change("restore" if is_archived else "update", kind, key, wanted["name"], differing)


def _plan_database(wanted: Connection, found: Found) -> Iterator[Change]:
    database = found.database
    if database is None:
        if not found.is_admin:
            raise MetabaseError(
                f"Metabase has no database {wanted.name}, and this API key may not add one. "
                "Use a key of the group Administrators, at least for the first push"
            )
        details = tuple(differences({}, wanted.details, "connection"))
        yield Change("create", "database", wanted.name, wanted.name, details, f"clickhouse, {wanted}")
        return
    there = details_of(database)
    if found.owns_database:
        if not found.is_admin:
            return  # its details are shown to administrators alone
        differing = list(differences(there, wanted.details, "connection"))
        if found.health:
            differing.append(Difference("connection", f"fails: {found.health}", "sent again, with its password"))
    elif found.is_admin and there == wanted.details:  # what a push made that was stopped before it could say so
        differing = [Difference("description", database.get("description"), MARK)]
    else:
        found.notes.append(
            f"the database {wanted.name} (number {database['id']}) is used as it is: Carat did not make it"
        )
        return
    if differing:
        yield Change("update", "database", wanted.name, wanted.name, tuple(differing))


def _parents_first(collections: tuple[Collection, ...]) -> list[Collection]:
    parents = {collection.entity_id: collection.parent_id for collection in collections}

    def depth(collection: Collection) -> int:
        above, steps = collection.parent_id, 0
        while above and steps <= len(parents):
            above, steps = parents.get(above), steps + 1
        if steps > len(parents):
            raise DashboardError(f"{collection.path}: parent_id: the collection lies within itself")
        return steps

    return sorted(collections, key=depth)


def _wanted_collection(collection: Collection) -> Content:
    description = with_mark(collection.description, collection.entity_id)
    return {"name": collection.name, "description": description, "archived": False}


def _found_collection(found: Mapping[str, Any]) -> Content:
    """Where it stands is not in it: people may put it where they like."""
    return {
        "name": found.get("name"),
        "description": found.get("description"),
        "archived": bool(found.get("archived")),
    }


def _home(item: Card | Dashboard, library: Library) -> str:
    if item.collection_id is None or item.collection_id not in {one.entity_id for one in library.collections}:
        raise DashboardError(f"{item.path}: collection_id: a collection of {library.folder} is expected")
    return item.collection_id


class _Work:
    """The changes of one push, done in an order in which everything that is named has its number already."""

    def __init__(
        self, metabase: Metabase, library: Library, connection: Connection, found: Found, wait_s: float
    ) -> None:
        self._metabase = metabase
        self._library = library
        self._connection = connection
        self._found = found
        self._numbers = found.numbers
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
            raise whole(error, f"{done} of {len(changes)} changes are made; push again to go on") from error

    def _steps(self, changes: list[Change]) -> Iterator[tuple[Callable[[Change], None], Change]]:
        of_kind = {kind: [one for one in changes if one.kind == kind and one.action != "archive"] for kind in _KINDS}
        yield from ((self._put_database, change) for change in of_kind["database"])
        yield from ((self._put_collection, change) for change in of_kind["collection"])
        if of_kind["card"]:
            self._know_columns()
        yield from ((self._put_card, change) for change in of_kind["card"])
        for change in of_kind["dashboard"]:
            if change.action == "create":  # all of them before the first is filled: a click may lead to any
                self._make_dashboard(self._dashboards[change.key])
        yield from ((self._fill_dashboard, change) for change in of_kind["dashboard"])
        yield from ((self._archive, change) for change in changes if change.action == "archive")

    def _put_database(self, change: Change) -> None:
        wanted = self._connection
        details = wanted.details | {"password": wanted.password}
        try:
            if self._found.database is None:
                body = {"name": wanted.name, "engine": "clickhouse", "details": details, "is_full_sync": True}
                self._found.database = self._metabase.post("/api/database", body)
            number = self._found.database["id"]
            body = {"description": MARK}
            if change.action != "create" and any(each.path.startswith("connection") for each in change.differences):
                body["details"] = (self._found.database.get("details") or {}) | details
            self._metabase.put(f"/api/database/{number}", body)
        except RejectedError as error:
            raise whole(error, f"That is what Metabase says of {wanted}: {_REACH}") from None
        self._numbers.database = number
        health = self._metabase.get(f"/api/database/{number}/healthcheck")
        if health.get("status") != "ok":
            said = self._metabase.clean(str(health.get("message") or "no answer"))
            raise MetabaseError(f"Metabase cannot reach the warehouse at {wanted}: {said}. It{_REACH[2:]}")

    def _put_collection(self, change: Change) -> None:
        collection = self._collections[change.key]
        content = _wanted_collection(collection)
        parent = self._numbers.of("collections", collection.parent_id) if collection.parent_id else None
        if change.action == "create":
            body = {"name": content["name"], "description": content["description"]}
            made = self._metabase.post("/api/collection", body | ({"parent_id": parent} if parent else {}))
            self._numbers.collections[change.key] = made["id"]
            return
        number = self._numbers.of("collections", change.key)
        if change.action == "restore":
            self._metabase.put(f"/api/collection/{number}", {"archived": False, "parent_id": parent})
        if keys := _keys(change) - {"archived"}:
            self._metabase.put(f"/api/collection/{number}", {key: content[key] for key in keys})

    def _know_columns(self) -> None:
        """Wait until Metabase has read the columns that filters stand for; make it read them if it does not."""
        database = self._numbers.database
        assert database is not None
        needed = needed_columns(self._library.cards)
        deadline = time.monotonic() + self._wait_s
        is_asked, pause_s = False, _FIRST_PAUSE_S
        while missing := needed - self._numbers.fields.keys():
            self._numbers.fields = read_fields(self._metabase, database)
            if not (missing := needed - self._numbers.fields.keys()):
                break
            if (
                not is_asked
                and self._metabase.get(f"/api/database/{database}").get("initial_sync_status") != "incomplete"
            ):
                self._metabase.post(f"/api/database/{database}/sync_schema")
                is_asked = True
            if time.monotonic() + pause_s > deadline:
                raise MetabaseError(
                    f"Metabase has not found {_listed(missing)} in {self._connection.name} within {self._wait_s:g} s. "
                    "Run `carat migrate` if the warehouse lacks it; else give Metabase time to read it: --wait"
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _put_card(self, change: Change) -> None:
        card = self._cards[change.key]
        content = wanted_card(card, _home(card, self._library))
        if change.action == "create":
            keys = [*_CARD_KEYS, *(["parameters"] if "parameters" in content else [])]
            made = self._metabase.post("/api/card", card_body(content, self._numbers, keys) | {"entity_id": change.key})
            self._numbers.cards[change.key] = made["id"]
            return
        path = f"/api/card/{self._numbers.of('cards', change.key)}"
        keys_left = _keys(change)
        if change.action == "restore":
            self._metabase.put(path, card_body(content, self._numbers, ("archived", "collection")))
            keys_left -= {"archived", "collection"}
        if keys_left:
            self._metabase.put(path, card_body(content, self._numbers, sorted(keys_left)))

    def _make_dashboard(self, dashboard: Dashboard) -> None:
        """An empty dashboard with its mark. Where it is pinned is said here only: later, people may pin otherwise."""
        home = self._numbers.of("collections", _home(dashboard, self._library))
        body = {
            "name": dashboard.name,
            "description": with_mark(dashboard.description, dashboard.entity_id),
            "collection_id": home,
        }
        pin = {"collection_position": dashboard.position} if dashboard.position > 0 else {}
        made = self._metabase.post("/api/dashboard", body | pin)
        self._numbers.dashboards[dashboard.entity_id] = made["id"]

    def _fill_dashboard(self, change: Change) -> None:
        dashboard = self._dashboards[change.key]
        number = self._numbers.of("dashboards", change.key)
        content = wanted_dashboard(dashboard, _home(dashboard, self._library), number)
        path = f"/api/dashboard/{number}"
        if change.action != "create" and _keys(change) & {"archived", "collection"}:
            self._metabase.put(path, _placed(content, self._numbers))
        there = self._metabase.get(path)  # a card that was restored by now is back in its place, too
        found = found_dashboard(there, self._numbers, self._titles)
        if not list(differences(found, content)):
            return
        tabs = {tab["name"]: tab["id"] for tab in found_tabs(there)}
        places = {label: place["id"] for label, place in found_places(there, self._numbers, self._titles).items()}
        self._metabase.put(path, dashboard_body(content, self._numbers, tabs=tabs, places=places))

    def _archive(self, change: Change) -> None:
        self._metabase.put(f"/api/{change.kind}/{change.key}", {"archived": True})


def _require_same(metabase: Metabase, library: Library, wanted: Connection) -> None:
    """Read everything back: what Metabase has now is what the files say."""
    left = list(plan(library, wanted, read_state(metabase, library, wanted)))
    if left:
        first = " ".join(str(left[0]).split())
        raise MetabaseError(
            f"{metabase.url} has kept {len(left)} thing(s) otherwise than they were sent, such as: {first[:300]}. "
            "See `carat dashboards push --dry-run`"
        )


def _placed(content: Content, numbers: Numbers) -> Content:
    return {"archived": False, "collection_id": numbers.of("collections", content["collection"])}


def _keys(change: Change) -> set[str]:
    """The parts of the content that differ."""
    return {each.path.partition(".")[0] for each in change.differences}


def _listed(columns: set[tuple[str, ...]]) -> str:
    names = sorted(".".join(column) for column in columns)
    more = len(names) - _SHOWN_COLUMNS
    return ", ".join(names[:_SHOWN_COLUMNS]) + (f" and {more} more" if more > 0 else "")
