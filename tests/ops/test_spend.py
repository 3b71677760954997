"""`carat spend` as a user types it."""

import json
import sys

import pytest

from app.main import main
from tests.support.exports import EXPORTS


@pytest.fixture
def carat(tmp_path, monkeypatch, capsys):
    """Runs a command on a warehouse of its own: exit code, output, and the lines of errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARAT_WAREHOUSE", f"chdb://{tmp_path}/warehouse")
    monkeypatch.setenv("CARAT_LOG", f"{tmp_path}/log")

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["carat", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, [line for line in said.err.splitlines() if not line.startswith("{")]

    return run


def test_a_dry_run_shows_what_is_understood_and_makes_no_warehouse(carat, tmp_path):
    code, out, errors = carat("spend", "--dry-run", str(EXPORTS / "google_de.csv"), str(EXPORTS / "microsoft.csv"))
    assert (code, errors) == (0, [])
    for shown in (
        "google_de.csv",
        "understood",
        "1,235.00",
        "Gesamt: Kampagnen",
        "microsoft.csv",
        "1,027.25",
        "incomplete",
    ):
        assert shown in out
    assert not (tmp_path / "warehouse").exists()


def test_a_refused_file_is_one_line_with_the_question_and_exits_1(carat):
    code, _, errors = carat("spend", "--dry-run", str(EXPORTS / "meta_month.csv"))
    assert code == 1
    (line,) = errors
    assert line.startswith("carat: ")
    assert "meta_month.csv: line 3 is of several days, 2026-11-01 to 2026-11-30" in line
    assert line.endswith("or say --spread to divide such rows evenly")
    assert carat("spend", "--dry-run", "--spread", str(EXPORTS / "meta_month.csv"))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'FILE'"),
        (("no-such-file.csv",), "no-such-file.csv does not exist"),
        (("a.csv", "--from", "b.c"), "leave out the files"),
        (("a.csv", "--currency", "Euro"), "--currency 'Euro' is not a currency of ISO 4217"),
        (("a.csv", "--decimal", ";"), "--decimal ';': choose from . and ,"),
        (("a.csv", "--dates", "ymd"), "--dates 'ymd': choose from dmy"),
        (("a.csv", "--exported", "2999-01-01"), "--exported 2999-01-01 00:00 lies in the future"),
        (("--from", "a.b", "--exported", "2026-01-01"), "--exported is about files"),
        (("a.csv", "--exported", "yesterday"), "--exported 'yesterday' is not a valid time"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_2(carat, arguments, message):
    code, _, errors = carat("spend", *arguments)
    assert code == 2
    (line,) = errors
    assert message in line


@pytest.mark.slow
def test_a_dry_run_of_a_table_shows_what_is_understood_and_stores_nothing(carat):
    assert carat("migrate")[0] == 0
    code, out, _ = carat("spend", "--from", "system.one", "--dry-run", "--json")
    assert (code, json.loads(out)["files"]) == (1, [])
    assert "system.one: has no line of headers with a cost and a day" in json.loads(out)["refused"][0]
    code, out, _ = carat("spend", "--from", "etl.spend_files", "--dry-run", "--json")
    assert (code, json.loads(out)["files"][0]["notes"]) == (0, ["it holds no rows"])


@pytest.mark.slow
def test_files_are_read_into_the_warehouse_and_the_same_again_is_nothing(carat):
    files = [str(EXPORTS / name) for name in ("google.csv", "meta_de.csv", "awin.csv")]
    code, out, errors = carat("spend", "--json", *files)
    assert (code, errors) == (0, [])
    assert {report["file"]: report["state"] for report in json.loads(out)["files"]} == {
        "google.csv": "read", "meta_de.csv": "read", "awin.csv": "read",
    }  # fmt: skip
    assert [report["state"] for report in json.loads(carat("spend", "--json", *files)[1])["files"]] == ["same"] * 3
    sql = "SELECT platform, round(sum(amount_original), 2) AS cost FROM dwh.spend GROUP BY 1 ORDER BY 1"
    rows = json.loads(carat("query", sql, "--format", "json")[1])
    assert {row["platform"]: float(row["cost"]) for row in rows} == {"awin": 14.95, "google": 2414.75, "meta": 1300}
