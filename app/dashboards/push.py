"""Makes a running Metabase have the dashboards of the files: what differs is planned, shown, changed, and read back.

Whose something is, is told by its entity id or by a mark in its description, never by its name alone. What people made
is left alone, in Carat's collection, too. What Carat made is made whole again: a card or dashboard that somebody changed
becomes what its file says, an archived one is restored, and one that no file describes any more is archived, from where
people can restore it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app import console
from app.dashboards.differences import Difference, differences
from app.dashboards.metabase_api import ForbiddenError, Metabase, whole
from app.dashboards.metabase_shapes import (
    Content,
    card_body,
    dashboard_body,
    found_card,
    found_dashboard,
    found_places,
    found_tabs,
    marked_key,
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
from app.errors import CaratError, MetabaseError, SettingsError
from app.settings import Settings

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_SHOWN_COLUMNS = 5
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
        lines += [f"          {line}" for each in self.differences for line in str(each).splitlines()]
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
    settings: Settings, library: Library, *, dry_run: bool = False, database_host: str | None = None, wait_s: float = 300
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
    metabase = Metabase(settings.metabase_url, settings.metabase_api_key, secrets=(wanted.password,))
    properties = metabase.properties()
    engines = properties.get("engines")
    if isinstance(engines, dict) and "clickhouse" not in engines:
        raise MetabaseError(f"{metabase.url} has no driver for ClickHouse: use an image that has Metabase's own drivers")
    found = read_state(metabase, library, wanted)
    changes = list(plan(library, wanted, found))
    pushed = Pushed(metabase.url, properties["version"]["tag"], changes, found.notes, dry_run)
    if changes and not dry_run:
        _Work(metabase, library, wanted, found, wait_s).run(changes)
        _require_same(metabase, library, wanted)
    return pushed


def plan(library: Library, wanted: Connection, found: Found) -> Iterator[Change]:
    """What must be changed, in the order in which it can be."""
    yield from _plan_database(wanted, found)
    for collection in _parents_first(library.collections):
        yield from _plan_one("collection", collection, _collection_content(collection), _found_collections(found))
    collection_keys = {collection.entity_id for collection in library.collections}
    for card in library.cards:
        content = wanted_card(card, _home(card, collection_keys, library))
        there = {k: found_card(row, found.numbers, database=wanted.name) for k, row in found.cards.items()}
        if "parameters" not in content:
            there = {key: {name: row[name] for name in row if name != "parameters"} for key, row in there.items()}
        yield from _plan_one("card", card, content, there)
    titles = {card.entity_id: card.name for card in library.cards}
    dashboards = {key: found_dashboard(row, found.numbers, titles) for key, row in found.dashboards.items()}
    for dashboard in library.dashboards:
        content = wanted_dashboard(dashboard, _home(dashboard, collection_keys, library))
        yield from _plan_one("dashboard", dashboard, content, dashboards)
    for kind, rows in (("dashboard", found.removed_dashboards), ("card", found.removed_cards)):
        for row in rows:
            yield Change("archive", kind, str(row["id"]), row["name"], note="no file describes it any more")
