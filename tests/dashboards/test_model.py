"""The files in `metabase/` as dataclasses; a mistake that makes one unusable is reported with its file and key."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import DashboardError
from app.dashboards.model import DEFAULT_FOLDER, load_library

SESSIONS = "collections/main/carat/cards/sessions.yaml"
BOARD = "collections/main/carat/store_overview.yaml"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """One dashboard's file and one card's."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("collections/main/carat.yaml", BOARD, SESSIONS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEFAULT_FOLDER / name, folder / name)
    return folder


@pytest.fixture
def broken(small, tmp_path):
    """Replaces text in one of the files, and returns the error of loading them."""

    def run(file: str, old: str, new: str) -> str:
        shutil.copytree(small, tmp_path / "files", dirs_exist_ok=True)
        path = tmp_path / "files" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(DashboardError) as error:
            load_library(tmp_path / "files")
        return str(error.value)

    return run


def test_the_product_officers_dashboards_are_complete_and_in_order():
    library = load_library()
    assert [dashboard.name for dashboard in library.dashboards] == [
        "Store overview",
        "Shopper journey",
        "Traffic channels",
        "Catalog and search",
        "Products",
        "Stock, carts, favorites over time",
        "Warehouse health",
    ]
    assert {collection.name for collection in library.collections} == {"Carat", "Cards"}
    assert all(dashcard.card for dashboard in library.dashboards for dashcard in dashboard.dashcards)


def test_a_card_has_its_sql_filters_and_formats():
    card = next(card for card in load_library().cards if card.name == "Revenue per visit")
    assert (card.display, card.database) == ("smartscalar", "Carat")
    assert "FROM dwh.sessions" in card.sql
    assert {tag.name: tag.column[-1] for tag in card.tags} == {
        "date": "day",
        "device": "device_type",
        "channel": "channel",
    }
    assert card.column_settings["Revenue per visit"]["currency"] == "EUR"
    assert card.tag("nobody") is None


def test_amounts_are_shown_in_the_currency_of_the_warehouse_and_other_texts_stay():
    in_euros, in_zloty = load_library(), load_library(currency="PLN")
    assert {card.name: currencies(card.raw) for card in in_zloty.cards} == {
        card.name: ["PLN" for _ in currencies(card.raw)] for card in in_euros.cards
    }
    assert any(currencies(card.settings) for card in in_zloty.cards)
    assert [card.sql for card in in_zloty.cards] == [card.sql for card in in_euros.cards]


def test_a_card_that_names_another_currency_keeps_it(small, tmp_path):
    path = shutil.copytree(small, tmp_path / "files") / SESSIONS
    path.write_text(path.read_text().replace("number_style: decimal", "number_style: currency\n      currency: USD", 1))
    assert [currencies(card.raw) for card in load_library(tmp_path / "files", currency="PLN").cards] == [["USD"]]


def currencies(content: Any) -> list[str]:
    """The values of all keys `currency`, at any depth."""
    if isinstance(content, list):
        return [code for item in content for code in currencies(item)]
    if not isinstance(content, dict):
        return []
    return [value for key, value in content.items() if key == "currency"] + currencies(list(content.values()))


def test_a_dashboard_lists_its_cards_by_tab_in_reading_order():
    dashboard = load_library().dashboard("store_overview")
    first, second = dashboard.tabs
    places = [(card.row, card.col) for card in dashboard.on_tab(first)]
    assert places == sorted(places)
    assert len(dashboard.on_tab(first)) + len(dashboard.on_tab(second)) == len(dashboard.dashcards)
    assert dashboard.on_tab(None) == ()


def test_an_unknown_dashboard_lists_the_known_ones(small):
    with pytest.raises(DashboardError, match="there are Store overview"):
        load_library(small).dashboard("Sales")


def test_a_folder_without_dashboards_names_the_option(tmp_path):
    with pytest.raises(DashboardError, match="--folder"):
        load_library(tmp_path)


@pytest.mark.parametrize(("file", "old", "new", "message"), [
    (SESSIONS, "name: Sessions", "nome: Sessions", "sessions.yaml: name: is missing; text is expected"),
    (SESSIONS, "name: Sessions", "name: 5", "sessions.yaml: name: is 5; text is expected"),
    (SESSIONS, "native: |", "sql: |", "sessions.yaml: dataset_query.stages: one stage with native SQL is expected"),
    (SESSIONS, "[Carat, dwh, days, day]", "[dwh, days, day]", "dataset_query.stages[0].template-tags[0].dimension"),
    (SESSIONS, "model: Card", "form: Card", "serdes/meta[0].model: is missing"),
    (SESSIONS, "display: smartscalar", "display: smartscalar\ndisplay: table", "line 6: not valid YAML: duplicate key display"),
    (SESSIONS, "type: question", "type: [question", "not valid YAML"),
    (BOARD, "    row: 0", "    row: top", "store_overview.yaml: dashcards[0].row: is 'top'; a whole number is expected"),
    (BOARD, "          - [template-tag, date]", "          - [tag, date]", "dashcards[0].parameter_mappings[0].target"),
    (BOARD, "parameters:", "parameters:\n  - date", "store_overview.yaml: parameters[0]: is 'date'; a mapping is expected"),
])  # fmt: skip
def test_a_mistake_is_reported_with_file_and_key(broken, file, old, new, message):
    assert message in broken(file, old, new)


def test_a_file_that_is_not_a_mapping_is_rejected(small, tmp_path):
    shutil.copytree(small, tmp_path / "files")
    (tmp_path / "files" / SESSIONS).write_text("- a list")
    with pytest.raises(DashboardError, match=r"sessions.yaml: not a mapping"):
        load_library(tmp_path / "files")


@pytest.mark.slow
def test_the_installed_package_contains_its_dashboards(tmp_path):
    """As deploy/systemd/install.sh builds it: away from the checkout, without the network."""
    source, site = tmp_path / "source", tmp_path / "site"
    checkout = DEFAULT_FOLDER.parent
    for name in ("app", "metabase"):
        shutil.copytree(checkout / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(checkout / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    zipfile.ZipFile(next(tmp_path.glob("carat-*.whl"))).extractall(site)
    ask = "from app.dashboards.model import load_library; library = load_library(); print(library.folder, len(library.cards))"
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {ask}"],
        cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60,
    ).stdout.split()  # fmt: skip
    assert printed == [str(site / "metabase"), str(len(load_library().cards))]
