"""Dashboards pushed to a Metabase: a server in miniature that takes what Metabase's own client would take."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import DashboardError, MetabaseError, SettingsError
from app.dashboards.metabase_mapping import CARD_MARK
from app.dashboards.metabase_state import MARK
from app.dashboards.model import Dashboard, DashCard, Library, load_library
from app.dashboards.push import Pushed, push
from app.dashboards.sql import render, values_of
from app.settings import Settings, load_settings
from app.warehouse import Warehouse, migrate, open_warehouse
from tests.dashboards.small_library import COLUMNS, DATE, DEVICE, WAREHOUSE, Shop, contents, key, write_library
from tests.support.metabase_server import State, column_of, run_card, stored_settings
from tests.support.metabase_tools import body_schemas, run_mb


def said(pushed: Pushed) -> list[str]:
    return [f"{change.action} {change.kind} {change.name}" for change in pushed.changes]


# ---- all of it, and nothing twice --------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["v0.58.1", "v1.63.4", "vLOCAL_DEV"])
def test_a_first_push_makes_everything_and_a_second_changes_nothing(metabase, tag):
    metabase.state.tag = tag
    assert said(metabase.push()) == [
        "create database Carat", "create collection Carat", "create collection Cards",
        "create card Orders", "create card Sessions", "create dashboard Details", "create dashboard Overview",
    ]  # fmt: skip
    assert metabase.written_by(lambda: said(metabase.push()) == []) == []


def test_what_is_pushed_is_what_the_files_say(pushed):
    state = pushed.state
    (database,) = state.databases.values()
    assert (database["engine"], database["description"]) == ("clickhouse", MARK)
    assert database["details"] == {
        "host": "warehouse.example", "port": 8123, "user": "reader", "password": "geheim@", "dbname": "dwh", "ssl": False,
        "enable-multiple-db": True, "db-filters-type": "inclusion", "db-filters-patterns": "dwh,history,etl,pd",
    }  # fmt: skip
    (parent,) = [row for row in state.collections.values() if row["name"] == "Carat"]
    (child,) = [row for row in state.collections.values() if row["name"] == "Cards"]
    assert child["location"] == f"/{parent['id']}/"
    assert_same_as_files(state, pushed.library, cards_in=child["id"], dashboards_in=parent["id"])
    overview = state.dashboard("Overview")
    (link,) = [
        place["visualization_settings"]["click_behavior"]
        for place in state.places.values()
        if place["dashboard_id"] == overview["id"] and "click_behavior" in place["visualization_settings"]
    ]
    assert link["targetId"] == state.dashboard("Details")["id"]


def assert_same_as_files(state: State, library: Library, *, cards_in: int, dashboards_in: int) -> None:
    """Compare what the server holds with the files, by the server's numbers."""
    titles = {number: found["name"] for number, found in state.cards.items()}
    for wanted in library.cards:
        found = state.card(wanted.name)
        (stage,) = found["dataset_query"]["stages"]
        assert (found["entity_id"], found["display"], found["collection_id"]) == (
            wanted.entity_id, wanted.display, cards_in,
        )  # fmt: skip
        assert stage["native"] == wanted.sql.strip()
        assert found["visualization_settings"] == stored_settings(wanted.settings) | {CARD_MARK: wanted.entity_id}
        columns = {name: column_of(state, tag["dimension"][2]) for name, tag in stage["template-tags"].items()}
        assert columns == {tag.name: tag.column[1:] for tag in wanted.tags}
        assert {name: tag["id"] for name, tag in stage["template-tags"].items()} == {t.name: t.id for t in wanted.tags}
        assert found["parameters"] == (wanted.raw.get("parameters") or [])
    for wanted in library.dashboards:
        found = state.dashboard(wanted.name)
        assert found["collection_id"] == dashboards_in
        assert found["description"].startswith(wanted.description)
        assert wanted.entity_id in found["description"]
        assert found["parameters"] == wanted.raw["parameters"]
        assert [tab["name"] for tab in found["tabs"]] == [tab.name for tab in wanted.tabs]
        tabs = {tab["id"]: tab["name"] for tab in found["tabs"]}
        assert sorted(
            (
                tabs.get(p["dashboard_tab_id"]), p["row"], p["col"], p["size_x"], p["size_y"],
                titles.get(p["card_id"]), [m["parameter_id"] for m in p["parameter_mappings"]],
            )
            for p in state.places.values() if p["dashboard_id"] == found["id"]
        ) == sorted(
            (
                tab.name if tab else None, p.row, p.col, p.size_x, p.size_y,
                p.card.name if p.card else None, sorted(m.parameter_id for m in p.mappings),
            )
            for tab in (wanted.tabs or (None,)) for p in wanted.on_tab(tab)
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["v0.58.0", "v0.63.0"])
def test_the_shipped_dashboards_are_taken_and_every_pushed_card_runs_on_the_warehouse(
    metabase, demo_settings, tmp_path, tag
):
    """What comes and goes passes the schemas of Metabase's own client; the server fills the tags in its own way."""
    state, library = metabase.state, load_library()
    state.tag, state.schemas = tag, body_schemas(tmp_path)
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        migrate(warehouse, demo_settings)
        state.columns = columns_of(warehouse)
        push(metabase.settings, library)
        homes = {row["name"]: row["id"] for row in state.collections.values()}
        assert_same_as_files(state, library, cards_in=homes["Cards"], dashboards_in=homes["Carat"])
        assert metabase.written_by(lambda: push(metabase.settings, library)) == []
        if tag == "v0.63.0":
            state.run = lambda sql: answer_of(warehouse, sql)
            days = warehouse.query("SELECT min(day) AS first, max(day) AS last FROM dwh.days")
            date = f"{days['first'][0]}~{days['last'][0]}"
            channels = warehouse.query("SELECT channel FROM dwh.sessions GROUP BY 1 ORDER BY count() DESC LIMIT 2")
            chosen = {"date": date, "device": ["mobile", "desktop"], "channel": channels["channel"].to_list()}
            for dashboard in library.dashboards:
                for place in dashboard.dashcards:
                    if place.card:
                        require_same_answer(state, warehouse, dashboard, place, chosen)


def rounded(rows: list[list[Any]]) -> list[list[Any]]:
    """Sorted rows whose fractions do not show in which order they were added up; some come as text."""
    return sorted([_rounded(value) for value in row] for row in rows)


def _rounded(value: Any) -> Any:
    is_fraction = isinstance(value, float) or (
        isinstance(value, str) and re.fullmatch(r"-?\d+\.\d{7,}(e-?\d+)?", value)
    )
    return f"{float(value):.9g}" if is_fraction else value


def require_same_answer(
    state: State, warehouse: Warehouse, dashboard: Dashboard, place: DashCard, chosen: dict[str, Any]
) -> None:
    """A pushed card answers what its file's SQL answers."""
    assert place.card
    found = state.card(place.card.name)
    values = {tag: value for tag, value in values_of(dashboard, place, chosen).items() if value is not None}
    body = {"parameters": [{"target": ["dimension", ["template-tag", tag]], "value": v} for tag, v in values.items()]}
    given = run_card(state, found, body)
    assert given["status"] == "completed", f"{place.card.name} with {chosen}: {given.get('error')}"
    columns, rows = answer_of(warehouse, render(place.card, values))
    assert [column["name"] for column in given["data"]["cols"]] == columns
    assert rounded(given["data"]["rows"]) == rounded(rows), f"{place.card.name} with {chosen}"


def answer_of(warehouse: Warehouse, sql: str) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns, and the rows as texts."""
    lines = warehouse.raw(sql, fmt="JSONCompactEachRowWithNames").decode().splitlines()
    return json.loads(lines[0]), [[str(value) for value in json.loads(line)] for line in lines[1:]]


def columns_of(warehouse: Warehouse) -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = {}
    columns = warehouse.query(
        "SELECT database, table, name, type FROM system.columns WHERE database IN ('dwh', 'history', 'etl', 'pd') "
        "ORDER BY database, table, position"
    )
    kinds = {"Date": "type/Date", "Date32": "type/Date", "UUID": "type/UUID", "Bool": "type/Boolean"}
    for database, table, name, kind in columns.iter_rows():
        base = kinds.get(
            kind, "type/DateTime" if "DateTime" in kind else "type/Text" if "String" in kind else "type/Number"
        )
        found.setdefault(database, {}).setdefault(table, {})[name] = base
    return found


@pytest.mark.slow
def test_metabases_own_client_reads_what_was_pushed(pushed, tmp_path):
    pushed.state.schemas = body_schemas(tmp_path)

    def mb(*arguments: str) -> Any:
        done = run_mb([*arguments, "--json"], url=pushed.url, key=pushed.state.key, home=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert [row["name"] for row in mb("card", "list")["data"]] == ["Orders", "Sessions"]
    overview = mb("dashboard", "get", str(pushed.state.dashboard("Overview")["id"]))
    assert ([tab["name"] for tab in overview["tabs"]], len(overview["dashcards"])) == (["First", "Second"], 4)
    assert [row["name"] for row in mb("database", "list")["data"]] == ["Carat"]
    carat = pushed.state.dashboard("Overview")["collection_id"]
    assert [row["name"] for row in mb("collection", "items", str(carat))["data"]] == ["Details", "Overview"]
    # A change that the client makes is found, and taken back.
    mb("card", "update", str(pushed.state.card("Orders")["id"]), "--body", '{"display": "gauge"}')
    assert said(pushed.push()) == ["update card Orders"]
    assert pushed.state.card("Orders")["display"] == "scalar"


# ---- what is shown, and what is made whole again -----------------------------------------------------------------


def test_a_dry_run_shows_what_would_be_made_and_makes_nothing(metabase):
    shown = metabase.push(dry_run=True)
    assert "create  card Sessions (line)" in [str(change) for change in shown.changes]
    assert (len(shown.changes), metabase.state.writes) == (7, [])
    details = {each["path"]: each["wanted"] for each in shown.report["changes"][0]["differences"]}
    assert (details["connection.host"], details["connection.dbname"]) == ("warehouse.example", "dwh")
    assert "geheim" not in json.dumps(shown.report)


def test_sql_that_somebody_changed_is_shown_line_by_line_and_restored(pushed):
    (stage,) = pushed.state.card("Sessions")["dataset_query"]["stages"]
    wanted = stage["native"]
    stage["native"] = wanted.replace("count() AS n", "count() * 2 AS n")
    shown = pushed.push(dry_run=True)
    assert str(shown.changes[0]).splitlines() == [
        "update  card Sessions",
        "          sql:",
        "            @@ -1,2 +1,2 @@",
        "            -SELECT session_date, count() * 2 AS n",
        "            +SELECT session_date, count() AS n",
        "             FROM dwh.sessions",
    ]
    assert len(shown.changes) == 1
    assert shown.report["changes"][0]["differences"] == [{"path": "sql", "found": stage["native"], "wanted": wanted}]
    assert len(pushed.written_by(pushed.push)) == 1
    assert pushed.state.card("Sessions")["dataset_query"]["stages"][0]["native"] == wanted
    assert pushed.push().changes == []


def test_what_people_changed_on_a_dashboard_is_named_and_made_whole_again(pushed):
    state, overview = pushed.state, pushed.state.dashboard("Overview")
    mine = state.make_card("Mine", None)
    first, second, _, last = sorted(
        (p for p in state.places.values() if p["dashboard_id"] == overview["id"]), key=lambda p: p["id"]
    )
    kept = first["id"]
    first["row"], second["parameter_mappings"] = 7, second["parameter_mappings"][:1]
    state.places[900] = first | {"id": 900, "card_id": mine, "row": 30, "parameter_mappings": []}
    del state.places[last["id"]]
    overview["tabs"][1]["name"] = "Renamed"
    overview["parameters"][0]["default"] = "past7days"
    (change,) = pushed.push(dry_run=True).changes
    shown = str(change)
    assert "cards.First / Sessions.row: 7 -> 0" in shown
    assert f"cards.First / Orders.filters.{DEVICE}: + [" in shown
    assert "cards.Second / Sessions: + {" in shown
    assert f"cards.First / card #{mine}: - {{" in shown
    assert 'tabs: ["First", "Renamed"] -> ["First", "Second"]' in shown
    assert f"parameters.{DATE}.default: - past7days" in shown
    assert said(pushed.push()) == ["update dashboard Overview"]
    assert pushed.push().changes == []
    assert state.places[kept]["row"] == 0  # the same place, not one made anew
    assert 900 not in state.places
    assert mine in state.cards


def test_what_was_renamed_moved_or_described_otherwise_is_found_again(pushed):
    state = pushed.state
    elsewhere = state.make_collection("Elsewhere")
    state.card("Orders").update(name="Old orders", collection_id=elsewhere, description="mine now")
    state.dashboard("Details").update(name="Old details")
    (carat,) = [row for row in state.collections.values() if row["name"] == "Carat"]
    carat.update(name="Renamed")
    assert said(pushed.push()) == ["update collection Carat", "update card Orders", "update dashboard Details"]
    assert (len(state.cards), len(state.dashboards)) == (2, 2)
    assert state.card("Orders")["description"] == "Orders, explained."
    assert pushed.push().changes == []


@pytest.mark.parametrize("kind", ["card", "dashboard", "collection"])
def test_what_was_archived_is_restored(pushed, kind):
    state = pushed.state
    number = {
        "card": state.card("Sessions")["id"],
        "dashboard": state.dashboard("Overview")["id"],
        "collection": state.dashboard("Overview")["collection_id"],
    }[kind]
    with_client(pushed, "PUT", f"/api/{kind}/{number}", {"archived": True})
    changes = said(pushed.push())
    assert (
        f"restore {kind} {'Sessions' if kind == 'card' else 'Overview' if kind == 'dashboard' else 'Carat'}" in changes
    )
    assert pushed.push().changes == []
    assert not any(row["archived"] for row in [*state.cards.values(), *state.dashboards.values()])
    assert (len(state.cards), len(state.dashboards), len(state.places)) == (2, 2, 5)


def with_client(shop: Shop, method: str, path: str, body: dict[str, Any]) -> None:
    """What a person does in Metabase's own pages."""
    from app.dashboards.metabase_api import Metabase

    assert shop.settings.metabase_api_key
    client = Metabase(shop.url, shop.settings.metabase_api_key)
    (client.put if method == "PUT" else client.post)(path, body)


def test_what_was_deleted_is_made_anew(pushed):
    state = pushed.state
    gone, overview = state.card("Sessions")["id"], state.dashboard("Overview")["id"]
    del state.cards[gone], state.dashboards[state.dashboard("Details")["id"]]
    state.places = {number: place for number, place in state.places.items() if place["card_id"] != gone}
    assert said(pushed.push()) == ["create card Sessions", "create dashboard Details", "update dashboard Overview"]
    assert state.dashboard("Overview")["id"] == overview
    assert pushed.push().changes == []


def test_what_no_file_describes_any_more_is_archived(pushed):
    pushed.files.pop("details")
    pushed.files["overview"]["dashcards"] = pushed.files["overview"]["dashcards"][1:2]
    pushed.files["overview"]["tabs"] = pushed.files["overview"]["tabs"][:1]
    pushed.files.pop("sessions")
    assert said(pushed.push()) == ["update dashboard Overview", "archive dashboard Details", "archive card Sessions"]
    assert (pushed.state.dashboard("Details")["archived"], pushed.state.card("Sessions")["archived"]) == (True, True)
    assert pushed.push().changes == []
    pushed.files = contents()
    assert said(pushed.push()) == ["restore card Sessions", "restore dashboard Details", "update dashboard Overview"]
    assert pushed.push().changes == []


def test_what_people_made_is_left_alone(pushed):
    state = pushed.state
    home = state.dashboard("Overview")["collection_id"]
    cards = state.card("Orders")["collection_id"]
    for number in range(120):  # more than a page
        state.make_card(f"A question {number}", cards)
    copied = state.make_card(
        "Orders - Duplicate", cards, visualization_settings=state.card("Orders")["visualization_settings"]
    )
    with_client(pushed, "POST", "/api/dashboard", {"name": "Overview", "description": "mine", "collection_id": home})
    copy = {
        "name": "A copy",
        "description": state.dashboards[min(state.dashboards)]["description"],
        "collection_id": home,
    }
    with_client(pushed, "POST", "/api/dashboard", copy)
    before = json.dumps([state.cards[copied], state.dashboards[max(state.dashboards)]])
    again = pushed.push()
    assert again.changes == []
    assert [note for note in again.notes if "Overview" in note] == [
        f"Carat did not make the dashboard Overview (id {max(state.dashboards) - 1}): it is not touched"
    ]
    assert json.dumps([state.cards[copied], state.dashboards[max(state.dashboards)]]) == before
    pushed.files.pop("details")
    pushed.files["overview"]["dashcards"][0]["visualization_settings"] = {}
    assert said(pushed.push()) == ["update dashboard Overview", "archive dashboard Details"]


def test_a_copy_of_a_dashboard_is_not_taken_for_it_when_it_is_gone(pushed):
    state, original = pushed.state, pushed.state.dashboard("Details")
    body = {"name": "Details", "description": original["description"], "collection_id": original["collection_id"]}
    with_client(pushed, "POST", "/api/dashboard", body)
    copy = dict(state.dashboards[max(state.dashboards)])
    del state.dashboards[original["id"]]
    assert said(pushed.push()) == ["create dashboard Details", "update dashboard Overview"]
    assert state.dashboards[copy["id"]] == copy
    assert pushed.push().changes == []


def test_a_collection_of_that_name_that_carat_did_not_make_is_left_alone(metabase):
    theirs = metabase.state.make_collection("Carat")
    before = dict(metabase.state.collections[theirs])
    first = metabase.push()
    assert f"Carat did not make the collection Carat (id {theirs})" in first.notes[0]
    assert metabase.state.collections[theirs] == before
    assert metabase.state.dashboard("Overview")["collection_id"] != theirs
    assert metabase.push().changes == []


# ---- the database ------------------------------------------------------------------------------------------------


def test_a_first_push_sends_each_thing_once(metabase):
    assert [path.rstrip("0123456789") for _, path in metabase.written_by(metabase.push)] == [
        "/api/database", "/api/database/", "/api/collection", "/api/collection", "/api/card", "/api/card",
        "/api/dashboard", "/api/dashboard", "/api/dashboard/", "/api/dashboard/",
    ]  # fmt: skip


def test_the_connection_follows_the_settings_and_what_else_is_set_there_is_kept(pushed):
    (database,) = pushed.state.databases.values()
    database["details"]["tunnel-enabled"] = True
    shown = pushed.push(database_host="clickhouse:9000", dry_run=True)
    assert str(shown.changes[0]).splitlines()[1:] == [
        "          connection.host: warehouse.example -> clickhouse",
        "          connection.port: 8123 -> 9000",
    ]
    pushed.push(database_host="clickhouse:9000")
    assert (database["details"]["host"], database["details"]["port"]) == ("clickhouse", 9000)
    assert (database["details"]["tunnel-enabled"], database["details"]["password"]) == (True, "geheim@")
    other = Settings(
        _env_file=None, metabase_url=pushed.url, metabase_api_key=pushed.state.key, warehouse="chdb:///nowhere",
        metabase_warehouse="clickhouse://bi@ch/?secure=true",
    )  # fmt: skip
    push(other, pushed.library)
    assert {key: database["details"][key] for key in ("host", "port", "user", "ssl")} == {
        "host": "ch", "port": 8443, "user": "bi", "ssl": True,
    }  # fmt: skip


def test_a_new_password_is_sent_when_metabase_cannot_connect_any_more(pushed):
    (database,) = pushed.state.databases.values()
    database["details"]["password"] = "old"
    pushed.state.can_connect = lambda details: "" if details["password"] == "geheim@" else "Authentication failed"
    shown = pushed.push(dry_run=True)
    assert (
        str(shown.changes[0]).splitlines()[1]
        == "          connection: fails: Authentication failed -> sent again, with its password"
    )
    assert said(pushed.push()) == ["update database Carat"]
    assert pushed.push().changes == []


def test_a_database_that_somebody_else_made_is_used_as_it_is(metabase):
    theirs = {"host": "theirs", "db-filters-patterns": "dwh"}
    with_client(metabase, "POST", "/api/database", {"name": "Carat", "engine": "clickhouse", "details": theirs})
    pushed = metabase.push()
    assert "create card Sessions" in said(pushed)
    assert "it is used unchanged" in pushed.notes[0]
    (database,) = metabase.state.databases.values()
    assert (database["details"], database["description"]) == (theirs, None)
    metabase.state.is_admin = False
    assert metabase.push().changes == []


def test_a_push_waits_until_metabase_has_read_the_warehouse(metabase):
    metabase.state.sync_polls = 1
    assert "create card Orders" in said(metabase.push())


def test_columns_that_come_later_are_read_again(pushed):
    pushed.state.columns = {"dwh": {"sessions": COLUMNS["dwh"]["sessions"] | {"channel": "type/Text"}}}
    sql = pushed.files["orders"]["dataset_query"]["stages"][0]
    sql["template-tags"][1]["dimension"][2] = ["Carat", "dwh", "sessions", "channel"]
    assert "has not scanned dwh.sessions.channel yet" in pushed.push(dry_run=True).notes[-1]
    assert said(pushed.push()) == ["update card Orders"]
    (stage,) = pushed.state.card("Orders")["dataset_query"]["stages"]
    assert column_of(pushed.state, stage["template-tags"]["device"]["dimension"][2])[2] == "channel"


def test_without_a_sync_in_time_it_says_so_and_the_next_push_goes_on(metabase):
    metabase.state.sync_polls = 1000
    with pytest.raises(
        MetabaseError,
        match=r"has not found dwh.sessions.device_type, dwh.sessions.session_date in Carat within 0 s.*3 of 7 changes are made",
    ):
        metabase.push(wait_s=0)
    (database,) = metabase.state.databases.values()
    database["polls"] = 0
    assert len(metabase.push().changes) == 4
    assert metabase.push().changes == []


@pytest.mark.parametrize("writes", range(10))
def test_a_push_that_was_stopped_is_finished_by_the_next(metabase, writes):
    metabase.state.writes_left = writes
    with pytest.raises(
        MetabaseError, match=r"application database was lost\. \d of 7 changes are made; push again to continue"
    ):
        metabase.push()
    metabase.state.writes_left = None
    assert len(metabase.push().changes) >= 1
    assert metabase.push().changes == []
    assert (len(metabase.state.databases), len(metabase.state.cards), len(metabase.state.dashboards)) == (1, 2, 2)
    assert len(metabase.state.places) == 5


def test_what_metabase_keeps_otherwise_than_it_was_sent_is_an_error(metabase, monkeypatch):
    import tests.support.metabase_server as server

    stored = server.stored_query
    monkeypatch.setattr(server, "stored_query", lambda query: stored(query) | {"database": 77})
    with pytest.raises(
        MetabaseError,
        match=r"stores 2 object\(s\) differently than sent, such as: update card Orders database: #77 -> Carat",
    ):
        metabase.push()


# ---- what can be wrong -------------------------------------------------------------------------------------------


def without_driver(state: State) -> None:
    state.engines = ("postgres",)


def too_old(state: State) -> None:
    state.tag = "v0.57.9"


def never_set_up(state: State) -> None:
    state.is_set_up = False


def wrong_key(state: State) -> None:
    state.key = "another"


def no_admin(state: State) -> None:
    state.is_admin = False


def unreachable_warehouse(state: State) -> None:
    state.can_connect = lambda details: f"Connection refused for {details['password']}"


def other_engine(state: State) -> None:
    state.databases[1] = {"id": 1, "name": "Carat", "engine": "postgres", "details": {}}


@pytest.mark.parametrize(("change", "kind", "message"), [
    (without_driver, MetabaseError, "has no ClickHouse driver"), (too_old, MetabaseError, r"is Metabase v0\.57\.9: at least 0\.58 is needed"),
    (never_set_up, MetabaseError, "has not been set up"), (no_admin, MetabaseError, "this API key may not add one. Use a key of the group Administrators"),
    (unreachable_warehouse, MetabaseError, r"Connection refused for \*\*\*.*reader@warehouse\.example:8123 \(http\).*--database-host"),
    (other_engine, MetabaseError, "its database Carat is a postgres, not a ClickHouse"),
])  # fmt: skip
def test_an_error_of_metabase_is_one_readable_line(metabase, change, kind, message):
    change(metabase.state)
    with pytest.raises(kind, match=message) as error:
        metabase.push()
    assert "geheim" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_key_is_a_wrong_setting(metabase):
    settings = metabase.settings
    metabase.state.key = "another"
    with pytest.raises(SettingsError, match="CARAT_METABASE_API_KEY: .* does not know this key") as error:
        push(settings, metabase.library)
    assert "mb_test-key" not in str(error.value)


@contextmanager
def stranger(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """A server that is no Metabase."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("status", "body", "headers", "kind", "message"), [
    (200, b"<html>Welcome</html>", {}, SettingsError, "responds, but is not a Metabase"), (200, b'{"version": "7"}', {}, SettingsError, "responds, but is not a Metabase"),
    (200, b"[]", {}, SettingsError, "responds, but is not a Metabase"), (404, b"<html>nothing</html>", {}, SettingsError, "responds, but is not a Metabase"),
    (301, b"", {"location": "https://metabase.example/api/session/properties"}, SettingsError, "redirects to https://metabase.example. Use that address"),
    (503, b'{"status":"initializing"}', {}, MetabaseError, r"is not ready \(503\)"), (500, b"<html>oops</html>", {}, MetabaseError, "Metabase returns 500$"),
])  # fmt: skip
def test_another_server_at_that_address_is_recognised(metabase, status, body, headers, kind, message):
    with stranger(status, body, **headers) as url:
        settings = metabase.settings.model_copy(update={"metabase_url": url})
        with pytest.raises(kind, match=message):
            push(settings, metabase.library)


def test_a_metabase_that_is_starting_is_asked_again(metabase):
    metabase.state.is_starting = 2
    assert len(metabase.push(dry_run=True).changes) == 7


@pytest.mark.parametrize(("url", "message"), [
    ("http://127.0.0.1:{closed}", "refuses the connection"), ("https://127.0.0.1:{open}", "no trusted TLS connection .*SSL_CERT_FILE"),
    ("http://no-such-host.invalid", "no such host"),
])  # fmt: skip
def test_an_address_at_which_no_metabase_can_be_reached_is_named(metabase, url, message):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and listened on by nobody
        ports = {"closed": taken.getsockname()[1], "open": metabase.url.rpartition(":")[2]}
        settings = metabase.settings.model_copy(update={"metabase_url": url.format(**ports)})
        with pytest.raises(MetabaseError, match=message):
            push(settings, metabase.library)


@pytest.mark.parametrize(("settings", "host", "message"), [
    ({"metabase_url": None}, None, "CARAT_METABASE_URL is not set"), ({"metabase_api_key": None}, None, "CARAT_METABASE_API_KEY is not set"),
    ({"warehouse": "chdb:///nowhere"}, None, "is the embedded engine, which Metabase cannot reach"), ({}, "http://ch:1", "--database-host http://ch:1: expected HOST"),
    ({}, "ch:port", "--database-host ch:port: expected HOST"), ({}, "u@ch", "such as clickhouse:8123"),
])  # fmt: skip
def test_invalid_settings_are_named(metabase, settings, host, message):
    given = {"metabase_url": metabase.url, "metabase_api_key": "k", "warehouse": WAREHOUSE} | settings
    with pytest.raises(SettingsError, match=message):
        push(Settings(_env_file=None, **given), metabase.library, database_host=host)


@pytest.mark.parametrize(("name", "value"), [
    ("CARAT_METABASE_URL", "metabase.example"), ("CARAT_METABASE_URL", "https://u:hidden@metabase.example"), ("CARAT_METABASE_URL", "http://metabase:x"),
    ("CARAT_METABASE_API_KEY", "mb_hidden\nhidden"), ("CARAT_METABASE_API_KEY", "mb_hïdden hidden"), ("CARAT_METABASE_WAREHOUSE", "chdb:///hidden"), ("CARAT_METABASE_WAREHOUSE", "clickhouse://u:hid/den@h:x/"),
])  # fmt: skip
def test_a_wrong_setting_is_refused_without_showing_it(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as error:
        load_settings(_env_file=None)
    assert "hidden" not in str(error.value)


def test_a_card_outside_the_collections_is_refused(metabase):
    metabase.files["orders"]["collection_id"] = key("nowhere")
    with pytest.raises(DashboardError, match="orders.yaml: collection_id: no such collection in "):
        metabase.push()
    assert metabase.state.writes == []


# ---- as a user types it ------------------------------------------------------------------------------------------


def carat(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "CARAT_LOG": f"{folder}/log", "CARAT_WAREHOUSE": WAREHOUSE, **environment}
    command = [sys.executable, "-m", "app", "dashboards", "push", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_the_command_pushes_shows_and_fails_in_words(metabase, tmp_path):
    write_library(metabase.folder, metabase.files)
    (tmp_path / "key").write_text(f"{metabase.state.key}\n")
    access = {"CARAT_METABASE_URL": metabase.url, "CARAT_METABASE_API_KEY_FILE": str(tmp_path / "key")}
    folder = ("--folder", str(metabase.folder))
    shown = carat(*folder, "--dry-run", folder=tmp_path, **access)
    assert shown.stdout.splitlines()[-1] == f"dry run: 7 change(s) to make in {metabase.url} (Metabase v0.63.2)"
    done = carat(*folder, "--json", folder=tmp_path, **access)
    assert (done.returncode, len(json.loads(done.stdout)["changes"]), done.stderr) == (0, 7, "")
    again = carat(*folder, folder=tmp_path, **access)
    assert again.stdout == f"nothing to do: {metabase.url} (Metabase v0.63.2) matches the files\n"
    (tmp_path / "key").write_text("mb_wrong-hidden")
    refused = carat(*folder, folder=tmp_path, **access)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    everything = (
        "".join(run.stdout + run.stderr for run in (shown, done, again, refused)) + (tmp_path / "log").read_text()
    )
    assert not [secret for secret in ("geheim", "mb_test-key", "mb_wrong-hidden") if secret in everything]
