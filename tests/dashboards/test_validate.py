"""`carat dashboards validate`: the real files are clean, and each of many planted mistakes is found."""

import copy
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import main
from app.core.errors import DashboardError
from app.dashboards.card_checks import check_cards
from app.dashboards.card_results import parse_result, query_runner
from app.dashboards.findings import Finding
from app.dashboards.lint import lint
from app.dashboards.metabase_schema import schema_findings, validator
from app.dashboards.model import DEFAULT_FOLDER, load_library
from app.dashboards.sql_lint import problems
from app.dashboards.validate import validate
from app.warehouse import Warehouse, open_warehouse
from tests.support.metabase_tools import tools_path

Document = dict[str, Any]
Change = Callable[[Document], object]

_BOARDS = ("shopper_journey", "warehouse_health")  # enough for every kind of mistake, and quickly read
BOARD = "carat/shopper_journey.yaml"
KPI = "carat/cards/carts_left_behind.yaml"
FUNNEL = "carat/cards/from_visit_to_purchase.yaml"
TABLE = "carat/cards/favorites_a_branch_beside_the_way.yaml"
DEVICES = "carat/cards/step_by_step_on_each_device.yaml"
LINE = "carat/cards/people_and_machines_by_day.yaml"
BARS = "carat/cards/value_left_in_carts_by_day.yaml"
CARDS = "carat/cards.yaml"


@dataclass(frozen=True)
class Mistake:
    """A change to one of the real files, and the check that must find it; `answers` if only running the card can."""

    name: str
    file: str
    change: Change
    check: str
    answers: bool = False


def _stage(card: Document) -> Document:
    return card["dataset_query"]["stages"][0]


def _tag(card: Document, name: str) -> Document:
    return next(tag for tag in _stage(card)["template-tags"] if tag["name"] == name)


def _sql(old: str, new: str) -> Change:
    """A change of the card's SQL, which must hold the old text."""

    def change(card: Document) -> None:
        assert old in _stage(card)["native"], old
        _stage(card)["native"] = _stage(card)["native"].replace(old, new)

    return change


def _set(*path: Any, to: Any) -> Change:
    """Another value at this path of keys and indexes."""

    def change(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


def _without(*path: Any) -> Change:
    def change(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def _settings(key: str, to: Any) -> Change:
    return _set("visualization_settings", key, to=to)


def _format(column: str, **formats: Any) -> Change:
    return lambda card: card["visualization_settings"]["column_settings"][f'["name","{column}"]'].update(formats)


def _swap_device_and_channel(board: Document) -> None:
    mappings = board["dashcards"][0]["parameter_mappings"]
    mappings[1]["parameter_id"], mappings[2]["parameter_id"] = mappings[2]["parameter_id"], mappings[1]["parameter_id"]


MISTAKES = [
    # ids and references
    Mistake("id of 20 characters", FUNNEL, lambda card: card.update(entity_id=card["entity_id"][:-1]), "ids"),
    Mistake("id with a character that NanoIDs do not have", BOARD, lambda board: board["tabs"][0].update(entity_id="!" * 21), "ids"),
    Mistake("same id of two dashcards", BOARD, lambda b: b["dashcards"][1].update(entity_id=b["dashcards"][0]["entity_id"]), "ids"),
    Mistake("same id of two tabs", BOARD, lambda b: b["tabs"][1].update(entity_id=b["tabs"][0]["entity_id"]), "ids"),
    Mistake("identity of another card", TABLE, _set("serdes/meta", 0, "id", to="A" * 21), "ids"),
    Mistake("tag id that is no UUID", FUNNEL, lambda card: _tag(card, "date").update(id="date"), "ids"),
    Mistake("same id of two tags", FUNNEL, lambda card: _tag(card, "date").update(id=_tag(card, "device")["id"]), "ids"),
    Mistake("same id of two filters", BOARD, lambda b: b["parameters"][1].update(id=b["parameters"][0]["id"]), "ids"),
    Mistake("card that is not there", BOARD, _set("dashcards", 0, "card_id", to="B" * 21), "references"),
    Mistake("collection that is not there", FUNNEL, _set("collection_id", to="C" * 21), "references"),
    Mistake("parent collection that is not there", CARDS, _set("parent_id", to="D" * 21), "references"),
    Mistake("card that no dashboard shows", BOARD, lambda board: board["dashcards"].pop(), "references"),
    Mistake("two cards of one name", TABLE, _set("name", to="From visit to purchase"), "names"),
    Mistake("card without a description", TABLE, _without("description"), "names"),
    Mistake("file called otherwise than its card", TABLE, _set("name", to="Steps"), "names"),
    # tabs and grid
    Mistake("dashcard on a tab that is not there", BOARD, lambda b: b["dashcards"][0]["dashboard_tab_id"].__setitem__(1, "E" * 21), "tabs"),
    Mistake("dashcard on no tab", BOARD, _without("dashcards", 0, "dashboard_tab_id"), "tabs"),
    Mistake("dashcard on a tab of another dashboard", BOARD, lambda b: b["dashcards"][0]["dashboard_tab_id"].__setitem__(0, "F" * 21), "tabs"),
    Mistake("two tabs at one position", BOARD, _set("tabs", 1, "position", to=0), "tabs"),
    Mistake("tab without a card", BOARD, lambda b: b["tabs"].append({"entity_id": "G" * 21, "name": "Empty", "position": 9}), "tabs"),
    Mistake("dashcard past the 24th column", BOARD, _set("dashcards", 0, "col", to=15), "grid"),
    Mistake("dashcard over another", BOARD, _set("dashcards", 1, "col", to=9), "grid"),
    Mistake("dashcard too small to be read", BOARD, _set("dashcards", 0, "size_y", to=2), "grid"),
    # tags and filters
    Mistake("tag that is not declared", FUNNEL, lambda card: _stage(card)["template-tags"].pop(), "tags"),
    Mistake("tag that is not used", FUNNEL, _sql(" [[AND {{channel}}]]", ""), "tags"),
    Mistake("tag that is declared twice", FUNNEL, lambda c: _stage(c)["template-tags"].append(dict(_tag(c, "date"), id="0" * 8 + "-0000-4000-8000-" + "0" * 12)), "tags"),
    Mistake("optional clause that is not closed", FUNNEL, _sql("[[AND {{channel}}]]", "[[AND {{channel}}"), "tags"),
    Mistake("optional clause without a tag", FUNNEL, _sql("[[AND {{channel}}]]", "[[AND {{channel}}]] [[AND 1 = 1]]"), "tags"),
    Mistake("tag that is text, no field filter", FUNNEL, lambda card: _tag(card, "device").update(type="text"), "tags"),
    Mistake("field filter on a table that is not read", FUNNEL, lambda card: _tag(card, "device")["dimension"][2].__setitem__(2, "product_sessions"), "tags"),
    Mistake("field filter behind a CTE", FUNNEL, _sql("FROM dwh.sessions\n", "FROM visits\n"), "tags"),
    Mistake("field filter of another database", FUNNEL, lambda card: _tag(card, "device")["dimension"][2].__setitem__(0, "Sample"), "tags"),
    Mistake("device filter on the channel", FUNNEL, lambda card: _tag(card, "device")["dimension"][2].__setitem__(3, "channel"), "tags"),
    Mistake("date filter with a widget for texts", FUNNEL, lambda card: _tag(card, "date").update({"widget-type": "string/="}), "tags"),
    Mistake("card parameter of another tag", FUNNEL, _set("parameters", 0, "target", to=["dimension", ["template-tag", "device"]]), "tags"),
    Mistake("dashboard without the device filter", BOARD, lambda board: board["parameters"].pop(1), "filters"),
    Mistake("date filter that offers days with gaps", FUNNEL, lambda card: _tag(card, "date").update({"widget-type": "date/all-options"}), "tags"),
    Mistake("second date filter that offers days with gaps", BOARD, lambda b: b["parameters"].append({"id": "more", "name": "More", "slug": "more", "type": "date/all-options"}), "filters"),
    Mistake("zeros for a period without built days", FUNNEL, _sql("HAVING period.first <= period.last", ""), "periods", answers=True),
    Mistake("day of 1970 for a period without built days", KPI, _sql("HAVING period.first <= period.last", ""), "periods", answers=True),
    Mistake("date filter of another type", BOARD, _set("parameters", 0, "type", to="date/single"), "filters"),
    Mistake("filter that is not mapped on a card", BOARD, lambda b: b["dashcards"][3]["parameter_mappings"].pop(2), "mappings"),
    Mistake("filter that is mapped twice", BOARD, lambda b: b["dashcards"][0]["parameter_mappings"].append(b["dashcards"][0]["parameter_mappings"][0]), "mappings"),
    Mistake("filter that is mapped on a tag that is not there", BOARD, _set("dashcards", 0, "parameter_mappings", 0, "target", to=["dimension", ["template-tag", "day"]]), "mappings"),
    Mistake("filter that is mapped as a variable", BOARD, _set("dashcards", 0, "parameter_mappings", 0, "target", to=["variable", ["template-tag", "date"]]), "mappings"),
    Mistake("mapping of another card", BOARD, _set("dashcards", 0, "parameter_mappings", 0, "card_id", to="H" * 21), "mappings"),
    Mistake("mapping of a filter that is not there", BOARD, _set("dashcards", 0, "parameter_mappings", 0, "parameter_id", to="nobody"), "mappings"),
    Mistake("device and channel swapped", BOARD, _swap_device_and_channel, "mappings"),
    # SQL
    Mistake("ratio that may divide by zero", TABLE, _sql("/ nullIf(count(), 0)", "/ count()"), "ratios"),
    Mistake("nullIf of something else than zero", TABLE, _sql("/ nullIf(count(), 0)", "/ nullIf(count(), 1)"), "ratios"),
    Mistake("bots counted as people", FUNNEL, _sql(" AND NOT is_bot", ""), "bots"),
    Mistake("day cut at midnight UTC", FUNNEL, _sql("WHERE session_date BETWEEN", "WHERE toDate(started_at) BETWEEN"), "days"),
    Mistake("fixed day", FUNNEL, _sql("BETWEEN period.first AND period.last", "BETWEEN '2026-03-01' AND period.last"), "days"),
    Mistake("two statements", FUNNEL, _sql("ORDER BY step", "ORDER BY step; SELECT 1"), "statement"),
    Mistake("statement that writes", FUNNEL, _set("dataset_query", "stages", 0, "native", to="INSERT INTO dwh.sessions SELECT 1"), "statement"),
    Mistake("whichever row comes first", BARS, _sql("sum(units_added * coalesce", "any(units_added * coalesce"), "order"),
    Mistake("the clock asked", BARS, _sql("session_date BETWEEN period.first", "session_date BETWEEN today() - 30"), "clock"),
    # settings
    Mistake("display that there is not", FUNNEL, _set("display", to="funel"), "schema"),
    Mistake("funnel without its steps", FUNNEL, lambda card: card["visualization_settings"].pop("funnel.dimension"), "settings"),
    Mistake("setting that Metabase does not know", BARS, _settings("graph.dimension", ["Day"]), "settings"),
    Mistake("format that Metabase does not know", BARS, _format("Value left", number_format="currency"), "settings"),
    Mistake("number style that there is not", BARS, _format("Value left", number_style="euro"), "settings"),
    Mistake("money without a currency", BARS, _format("Value left", currency=None), "settings"),
    # what only answers show
    Mistake("SQL that does not run", FUNNEL, _sql("SELECT\n", "SELECT nothing(),\n"), "runs", answers=True),
    Mistake("SQL that does not run with a filter", FUNNEL, _sql("[[AND {{channel}}]]", "[[AND channel_name != '' AND {{channel}}]]"), "runs", answers=True),
    Mistake("column that the table does not have", FUNNEL, lambda card: _tag(card, "channel")["dimension"][2].__setitem__(3, "canal"), "tags", answers=True),
    Mistake("date filter on a text", FUNNEL, lambda card: _tag(card, "date")["dimension"][2].__setitem__(3, "time_zone"), "tags", answers=True),
    Mistake("metric that is not answered", BARS, _settings("graph.metrics", ["Value"]), "columns", answers=True),
    Mistake("dimension that is not answered", BARS, _settings("graph.dimensions", ["day"]), "columns", answers=True),
    Mistake("funnel step that is not answered", FUNNEL, _settings("funnel.dimension", "Steps"), "columns", answers=True),
    Mistake("number that is not answered", KPI, _settings("scalar.field", "Cart"), "columns", answers=True),
    Mistake("formatted column that is not answered", KPI, lambda c: c["visualization_settings"]["column_settings"].update({'["name","Cats"]': {"decimals": 0}}), "columns", answers=True),
    Mistake("table that leaves a column out", DEVICES, lambda card: card["visualization_settings"]["table.columns"].pop(), "columns", answers=True),
    Mistake("text shown as a number", FUNNEL, _settings("funnel.metric", "Step"), "columns", answers=True),
    Mistake("number without a format", KPI, lambda c: c["visualization_settings"]["column_settings"].pop('["name","Carts"]'), "columns", answers=True),
    Mistake("output called as a filtered column", DEVICES, _sql('segment AS "Device"', "segment AS device_type"), "columns", answers=True),
    Mistake("series that is not answered", LINE, lambda c: c["visualization_settings"]["series_settings"].update(Bots={"axis": "right"}), "columns", answers=True),
    Mistake("axis of time that is no date", BARS, _sql('session_date AS "Day"', 'toString(session_date) AS "Day"'), "columns", answers=True),
]  # fmt: skip


@pytest.fixture(scope="module")
def real() -> dict[str, Document]:
    """The files of two dashboards, by their path below collections/main."""
    folder = DEFAULT_FOLDER / "collections" / "main"
    shown = set()
    documents = {}
    for path in sorted(folder.rglob("*.yaml")):
        document = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        documents[str(path.relative_to(folder))] = document
        if path.stem in _BOARDS:
            shown |= {dashcard["card_id"] for dashcard in document["dashcards"]}
    return {
        name: document
        for name, document in documents.items()
        if document["serdes/meta"][-1]["model"] == "Collection"
        or Path(name).stem in _BOARDS
        or document["entity_id"] in shown
    }


@pytest.fixture(scope="module")
def base(real, tmp_path_factory) -> Path:
    """A folder with these files as they are."""
    folder = tmp_path_factory.mktemp("real")
    source = DEFAULT_FOLDER / "collections" / "main"
    for name in real:
        target = folder / "collections" / "main" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target)
    exemptions = yaml.safe_load((DEFAULT_FOLDER / "exemptions.yaml").read_text())
    exemptions["exemptions"] = [one for one in exemptions["exemptions"] if one["dashboard"] == "Warehouse health"]
    (folder / "exemptions.yaml").write_text(yaml.safe_dump(exemptions))
    return folder


@pytest.fixture(scope="module")
def demo(demo_settings) -> Iterator[Warehouse]:
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        yield warehouse


@pytest.fixture
def nodes(monkeypatch) -> Path:
    """Metabase's validator, as `carat dashboards validate` finds it."""
    monkeypatch.setenv("PATH", tools_path())
    program = validator()
    assert program is not None
    return program


def _changed(mistake: Mistake, real: dict[str, Document]) -> Document:
    document = copy.deepcopy(real[mistake.file])
    mistake.change(document)
    assert document != real[mistake.file], "the mistake changed nothing"
    return document


def _planted(mistake: Mistake, real: dict[str, Document], base: Path, folder: Path) -> Path:
    """The files with the mistake in its own."""
    shutil.copytree(base, folder, copy_function=shutil.copyfile)
    text = yaml.safe_dump(_changed(mistake, real), sort_keys=False, allow_unicode=True)
    (folder / "collections" / "main" / mistake.file).write_text(text)
    return folder


def _found(folder: Path, file: str, warehouse: Warehouse | None) -> list[Finding]:
    try:
        library = load_library(folder)
    except DashboardError as error:
        return [Finding("files", folder, "", str(error))]
    cards = [card for card in library.cards if str(card.path).endswith(file)]
    findings = lint(library)
    return findings + (check_cards(cards, warehouse, query_runner(warehouse)) if warehouse else [])


def test_real_files_are_clean_in_the_lint():
    assert [str(finding) for finding in lint(load_library())] == []


@pytest.mark.slow
def test_every_card_answers_with_and_without_its_filters(demo):
    library = load_library()
    assert [str(finding) for finding in check_cards(library.cards, demo, query_runner(demo))] == []


@pytest.mark.slow
def test_no_card_makes_a_period_of_days_with_gaps(demo):
    """As Metabase's "exclude weekends" in an address would ask for; the filter itself does not offer it."""
    run_query, shown = query_runner(demo), []
    for card in load_library().cards:
        if "{{date}}" not in card.sql:
            continue
        sql = re.sub(
            r"\[\[[^\]]*\]\]", "", card.sql.replace("[[AND false OR {{date}}]]", "AND false OR toDayOfWeek(day) < 6")
        )
        result = parse_result(run_query(sql))
        numbers = [index for index, column in enumerate(result["columns"]) if column["type"] in {"number", "date"}]
        if any(row[index] is not None for row in result["rows"] for index in numbers):
            shown.append(card.name)
    assert shown == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake", [m for m in MISTAKES if not m.answers and m.check != "schema"], ids=lambda m: m.name
)
def test_lint_finds(mistake, real, base, tmp_path):
    found = _found(_planted(mistake, real, base, tmp_path / "planted"), mistake.file, None)
    assert mistake.check in {finding.check for finding in found}, [str(finding) for finding in found]


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [m for m in MISTAKES if m.answers], ids=lambda m: m.name)
def test_running_the_card_finds(mistake, real, base, tmp_path, demo):
    folder = _planted(mistake, real, base, tmp_path / "planted")
    of_files = {finding.check for finding in _found(folder, mistake.file, None)} if mistake.check != "tags" else set()
    assert mistake.check not in of_files
    found = _found(folder, mistake.file, demo)
    assert mistake.check in {finding.check for finding in found}, [str(finding) for finding in found]


@pytest.mark.slow
def test_metabases_validator_finds_only_some_of_them(real, nodes, tmp_path, record_property):
    """One run over all changed files, each below a folder of its own: it looks at each file alone."""
    for number, mistake in enumerate(MISTAKES):
        path = tmp_path / "collections" / f"{number:03}" / "file.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(_changed(mistake, real), sort_keys=False, allow_unicode=True))
    seen = {int(finding.path.parent.name) for finding in schema_findings(tmp_path, nodes)}
    record_property("planted", len(MISTAKES))
    record_property("found by Metabase's validator", len(seen))
    by_schema = {MISTAKES[number].name for number in seen}
    assert by_schema == _BY_SCHEMA


_BY_SCHEMA = {
    "id of 20 characters",
    "id with a character that NanoIDs do not have",
    "tag id that is no UUID",
    "display that there is not",
}


def test_so_many_mistakes_are_planted():
    assert len(MISTAKES) >= 70
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES)


@pytest.mark.slow
def test_real_files_pass_metabases_own_validator(nodes):
    assert [str(finding) for finding in schema_findings(DEFAULT_FOLDER, nodes)] == []


def test_file_that_is_no_yaml_is_one_finding(base, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "files"
    shutil.copytree(base, folder)
    (folder / "collections/main/carat.yaml").write_text("name: [")
    validation = validate(folder, None)
    assert [finding.check for finding in validation.findings] == ["files"]
    assert "carat.yaml" in validation.findings[0].problem
    assert any("Node.js" in note for note in validation.notes)


@pytest.mark.parametrize("sql", [
    "SELECT a / nullIf(b, 0), c / 60 FROM t",
    "SELECT 'toDate(ts); a / b' -- / x\n FROM t",
    "SELECT toDate('2100-01-01'), toDate(ts, 'UTC') FROM t".replace("'2100-01-01'", "x, 'UTC'"),
    "SELECT count() FROM dwh.sessions WHERE x IN (SELECT y FROM t) AND NOT is_bot",
    "SELECT intDiv(a, 5), modulo(b, nullIf(c, 0)) FROM t",
    """SELECT x AS "Section's a / b" FROM t""",
])  # fmt: skip
def test_harmless_sql_is_no_finding(sql):
    assert list(problems(sql)) == []


@pytest.mark.parametrize(("sql", "check"), [
    ("SELECT a / (b - c) FROM t", "ratios"),
    ("SELECT a / 0 FROM t", "ratios"),
    ("SELECT intDiv(a, b) FROM t", "ratios"),
    ("SELECT toStartOfDay(ts) FROM t", "days"),
    ("SELECT date_trunc('day', ts) FROM t", "days"),
    ("SELECT count() FROM dwh.sessions WHERE session_id IN (SELECT s FROM t WHERE NOT is_bot)", "bots"),
    ("SELECT count() FROM dwh.events", "bots"),
    ("SELECT * FROM dwh.days", "statement"),
    ("DROP TABLE dwh.sessions", "statement"),
    ("SELECT (1 FROM t", "statement"),
    ("SELECT 1 FORMAT CSV", "statement"),
])  # fmt: skip
def test_harmful_sql_is_found(sql, check):
    assert check in {found for found, _ in problems(sql)}


def test_verb_reports_findings_and_exits_1(base, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "files"
    shutil.copytree(base, folder)
    board = folder / "collections/main" / BOARD
    board.write_text(board.read_text().replace("col: 12", "col: 20", 1))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(
        sys, "argv", ["carat", "dashboards", "validate", "--no-warehouse", "--json", "--folder", str(folder)]
    )
    with pytest.raises(SystemExit) as left:
        main.main()
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert left.value.code == 1
    assert {finding["check"] for finding in report["findings"]} == {"grid"}
    assert report["dashboards"] == len(_BOARDS)
    assert "finding(s) in 1 file(s)" in said.err
