"""`carat dashboards new-card`: a card that passes every check before its author has written a line of SQL."""

import re
import shutil
import sys
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from app import main
from app.core.errors import SettingsError
from app.dashboards.card_checks import check_cards
from app.dashboards.card_results import query_runner
from app.dashboards.commands import Display
from app.dashboards.lint import lint
from app.dashboards.metabase_schema import schema_findings, validator
from app.dashboards.model import DEFAULT_FOLDER, Library, load_library
from app.dashboards.new_card import add_card, tab_of
from app.warehouse import open_warehouse
from tests.support.metabase_tools import tools_path

DAY_ONLY, DAY_DEVICE_CHANNEL = "Warehouse health", "Store overview"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the real files."""
    return Path(shutil.copytree(DEFAULT_FOLDER, tmp_path / "metabase"))


def added(folder: Path, name: str, dashboard: str, tab: str | None = None, **options) -> Library:
    library = load_library(folder)
    target = library.dashboard(dashboard)
    add_card(library, name, dashboard=target, tab=tab_of(target, tab), **options)
    return load_library(folder)


def card_named(library: Library, name: str):
    return next(card for card in library.cards if card.name == name)


@pytest.mark.parametrize("display", list(Display))
def test_the_files_are_clean_right_after(folder, display):
    library = added(folder, "Orders by weekday", DAY_DEVICE_CHANNEL, "Overview", display=display)
    assert [str(finding) for finding in lint(library)] == []
    assert card_named(library, "Orders by weekday").display == display


@pytest.mark.slow
def test_the_placeholder_queries_run_with_and_without_filters(folder, demo_settings):
    for display in Display:
        added(folder, f"New {display}", DAY_DEVICE_CHANNEL, "Overview", display=display)
    library = added(folder, "New runs", DAY_ONLY, load_library(folder).dashboard(DAY_ONLY).tabs[0].name)
    cards = [card for card in library.cards if card.name.startswith("New ") and card.path.stem.startswith("new_")]
    cards = [card for card in cards if not (DEFAULT_FOLDER / card.path.relative_to(folder)).exists()]
    assert len(cards) == len(Display) + 1
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        assert [str(finding) for finding in check_cards(cards, warehouse, query_runner(warehouse))] == []


def test_the_card_has_the_filters_of_its_dashboard(folder):
    with_all = card_named(added(folder, "Everything", DAY_DEVICE_CHANNEL, "Overview"), "Everything")
    assert [tag.name for tag in with_all.tags] == ["date", "device", "channel"]
    library = load_library(folder)
    tab = library.dashboard(DAY_ONLY).tabs[0].name
    day_only = card_named(added(folder, "Only days", DAY_ONLY, tab), "Only days")
    assert [tag.name for tag in day_only.tags] == ["date"]
    assert lint(load_library(folder)) == []


def test_ids_have_metabases_form_and_are_new(folder):
    before = load_library(folder)
    after = added(folder, "Everything", DAY_DEVICE_CHANNEL, "Overview")
    card = card_named(after, "Everything")
    place = next(one for one in after.dashboard(DAY_DEVICE_CHANNEL).dashcards if one.card == card)
    for entity_id in (card.entity_id, place.entity_id):
        assert re.fullmatch(r"[A-Za-z0-9_-]{21}", entity_id)
    assert card.entity_id not in {one.entity_id for one in before.cards}
    assert all(UUID(tag.id).version == 4 for tag in card.tags)


def test_only_lines_of_the_new_card_are_added_to_the_dashboard(folder):
    path = load_library(folder).dashboard(DAY_DEVICE_CHANNEL).path
    before = path.read_text().splitlines()
    added(folder, "Everything", DAY_DEVICE_CHANNEL, "Who and when", title="All of it")
    after = path.read_text().splitlines()
    first = next(number for number, line in enumerate(after) if line != before[number])
    count = len(after) - len(before)
    assert after[:first] + after[first + count :] == before
    assert "      card.title: All of it" in after[first : first + count]


def test_a_card_goes_to_the_first_gap_that_is_large_enough(folder):
    path = load_library(folder).dashboard(DAY_DEVICE_CHANNEL).path
    content = yaml.safe_load(path.read_text())
    tab = content["tabs"][0]["entity_id"]
    content["dashcards"] = [
        own | {"row": 0, "col": col, "size_x": 6, "size_y": 3}
        for own, col in zip(
            [card for card in content["dashcards"] if card["dashboard_tab_id"][1] == tab][:2], (0, 18), strict=True
        )
    ]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    library = added(folder, "Fits between", DAY_DEVICE_CHANNEL, "Overview", display="line")
    library = added(folder, "Goes below", DAY_DEVICE_CHANNEL, "Overview", display="scalar")
    places = {own.card.name: own.rectangle for own in library.dashboard(DAY_DEVICE_CHANNEL).dashcards if own.card}
    assert places["Fits between"] == (6, 0, 12, 6)
    assert places["Goes below"] == (0, 3, 6, 3)


def test_a_card_can_be_the_first_on_its_dashboard(folder):
    path = load_library(folder).dashboard(DAY_ONLY).path
    content = yaml.safe_load(path.read_text())
    for emptied in ({**content, "dashcards": []}, {key: value for key, value in content.items() if key != "dashcards"}):
        path.write_text(yaml.safe_dump(emptied, sort_keys=False))
        name = f"First of {'an empty list' if 'dashcards' in emptied else 'none'}"
        library = added(folder, name, DAY_ONLY, content["tabs"][0]["name"])
        assert [place.card.name for place in library.dashboard(DAY_ONLY).dashcards] == [name]


@pytest.mark.parametrize(("name", "tab", "message"), [
    ("Revenue", "Overview", "already a card 'Revenue'"),
    ("revenue!", "Overview", "already a card"),
    ("…", "Overview", "needs letters or digits"),
    ("New", "Elsewhere", "--tab Elsewhere: choose one of .*: Overview, Who and when"),
    ("New", None, "--tab : choose one of"),
])  # fmt: skip
def test_a_wrong_name_or_tab_changes_nothing(folder, name, tab, message):
    before = {path: path.read_bytes() for path in folder.rglob("*.yaml")}
    with pytest.raises(SettingsError, match=message):
        added(folder, name, DAY_DEVICE_CHANNEL, tab)
    assert {path: path.read_bytes() for path in folder.rglob("*.yaml")} == before


def test_the_verb_says_what_to_do_next(folder, monkeypatch, capsys):
    arguments = ["Orders by weekday", "--dashboard", "store_overview", "--tab", "Overview", "--folder", str(folder)]
    monkeypatch.setattr(sys, "argv", ["carat", "dashboards", "new-card", *arguments])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code in {0, None}
    assert "orders_by_weekday.yaml: replace its SQL" in capsys.readouterr().out
    assert card_named(load_library(folder), "Orders by weekday").display == "line"


@pytest.mark.slow
def test_new_cards_pass_metabases_own_validator(folder, monkeypatch):
    monkeypatch.setenv("PATH", tools_path())
    for display in Display:
        added(folder, f"New {display}", DAY_DEVICE_CHANNEL, "Overview", display=display)
    program = validator()
    assert program is not None
    assert [str(finding) for finding in schema_findings(folder, program)] == []
