"""Commands as a user types them, and settings as they are read."""

import json
import os
import re
import subprocess
import sys
from datetime import timedelta

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from app.core import console
from app.core.errors import SettingsError
from app.main import app, main
from app.settings import Settings, load_settings
from tests.support.mariadb import running_mariadb
from tests.support.paths import CHECKOUT

_TOP = get_command(app).commands
COMMANDS = _TOP | {
    f"{group} {name}": command
    for group, commands in _TOP.items()
    for name, command in getattr(commands, "commands", {}).items()
}
VERBS = sorted(COMMANDS)


def carat(*arguments: str, folder, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess:
    env = {
        "PATH": os.environ["PATH"],
        "CARAT_WAREHOUSE": f"chdb://{folder}/warehouse",
        "CARAT_LOG": f"{folder}/log",
        **environment,
    }
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(command, env=env, input=stdin, capture_output=True, check=False, timeout=120)


def help_at_80_columns(verb: str) -> str:
    arguments = [*verb.split(), "--help"]
    return CliRunner().invoke(app, arguments, terminal_width=80, prog_name="carat").output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb):
    assert f"Example: carat {verb}" in COMMANDS[verb].help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_short_help_of_at_most_45_characters(verb):
    assert 0 < len(COMMANDS[verb].short_help or "") <= 45


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_no_line_of_a_help_is_cut_at_80_columns(verb):
    usage, *lines = help_at_80_columns(verb).splitlines()
    assert usage.startswith("Usage: carat")
    assert [line for line in lines if line.endswith(("...", "…")) or len(line) > 80] == []


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_shows_the_type_of_a_programming_language(verb):
    assert re.findall(r"--\S+ <.*>", help_at_80_columns(verb)) == []


def test_the_help_of_rebuild_says_that_it_deletes_history():
    assert re.search(r"--rebuild\s+DELETE the history", help_at_80_columns("snapshot"))


def test_every_verb_is_documented():
    documents = [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")]
    text = "".join(document.read_text(encoding="utf-8") for document in documents)
    shown = [verb for verb in VERBS if not COMMANDS[verb].hidden]
    assert [verb for verb in shown if f"carat {verb}" not in text] == []


def test_doctor_lists_every_setting_with_what_it_means_and_no_value_of_this_machine(tmp_path):
    listed = json.loads(carat("doctor", "--settings", "--json", folder=tmp_path, CARAT_WRITE_KEYS="my-own-key").stdout)
    assert [row["setting"] for row in listed] == [f"CARAT_{name.upper()}" for name in Settings.model_fields]
    assert all(row["meaning"] for row in listed)
    assert not [row for row in listed if "my-own-key" in row["default"] or row["default"].startswith("/")]


@pytest.mark.slow
def test_from_records_to_a_query_by_the_command_line_alone(tmp_path):
    record = {"ts": "2026-03-01T10:00:00Z", "method": "GET", "endpoint": "/api/v1/products/5", "visitor_id": "v"}
    ingested = carat("ingest", "-", "--json", folder=tmp_path, stdin=json.dumps(record).encode())
    assert json.loads(ingested.stdout) == {"records": 1, "stored": 1, "duplicates": 0, "rejected": {}}
    planned = json.loads(carat("plan", "--json", folder=tmp_path).stdout)
    assert [(day["day"], day["reason"]) for day in planned] == [("2026-03-01", "never built")]
    built = json.loads(carat("etl", "--date", "2026-03-01", "--json", folder=tmp_path).stdout)
    assert built["built"][0]["rows"] == {
        "events": 1,
        "order_calls": 0,
        "sessions": 1,
        "catalog_sessions": 0,
        "product_sessions": 1,
    }
    assert b"nothing to do" in carat("etl", folder=tmp_path).stdout
    queried = carat("query", "SELECT furthest_step FROM dwh.sessions", "--format", "json", folder=tmp_path)
    assert json.loads(queried.stdout) == [{"furthest_step": "product"}]
    status = json.loads(carat("status", "--json", folder=tmp_path).stdout)
    assert {table["table"]: table["rows"] for table in status["tables"]}["dwh.sessions"] == 1
    findings = json.loads(carat("doctor", "--json", folder=tmp_path).stdout)
    assert {"settings", "endpoint map", "disk", "warehouse", "clock", "databases"} <= {f["check"] for f in findings}


@pytest.mark.slow
def test_from_a_shop_in_mysql_to_its_history_by_the_command_line_alone(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[goods]\nsource = "items"\nkey = ["id"]\n')
    with running_mariadb(tmp_path / "mariadb") as server:
        server.execute(
            "CREATE TABLE shop.items (id INT PRIMARY KEY, title TEXT)", "INSERT INTO shop.items VALUES (1, 'Ring')"
        )
        of_shop = {"CARAT_SHOP_DB": server.url(), "CARAT_SNAPSHOTS": str(plan), "CARAT_SCRATCH": f"{tmp_path}/scratch"}
        migrated = json.loads(carat("migrate", "--json", folder=tmp_path, **of_shop).stdout)["changes"]
        assert migrated[-1].startswith("linked database mysql to mysql://127.0.0.1:")
        taken = json.loads(carat("snapshot", "--json", folder=tmp_path, **of_shop).stdout)
        assert [(row["table"], row["inserts"], row["error"]) for row in taken] == [("goods", 1, "")]
        assert taken[0]["guarantee"].startswith("one instant for all tables")
        server.execute("UPDATE shop.items SET title = 'Gold ring'")
        assert "goods" in carat("snapshot", folder=tmp_path, **of_shop).stdout.decode()
        findings = json.loads(carat("doctor", "--json", folder=tmp_path, **of_shop).stdout)
        assert [f["detail"] for f in findings if f["check"] == "shop database"] == [
            f"mysql://127.0.0.1:{server.port}/shop: goods (2 columns kept)"
        ]
        wrong = carat("snapshot", folder=tmp_path, **of_shop | {"CARAT_SHOP_DB": server.url(password="wrong-geheim")})
        assert wrong.returncode == 1
        assert "Access denied" in wrong.stderr.decode()
        assert "wrong-geheim" not in wrong.stderr.decode() + (tmp_path / "log").read_text()
    versions = carat(
        "query", "SELECT title, version FROM history.goods ORDER BY version", "--format", "csv", folder=tmp_path
    )
    assert versions.stdout.decode().splitlines()[1:] == ['"Ring",1', '"Gold ring",2']
    status = json.loads(carat("status", "--json", folder=tmp_path).stdout)
    assert [(row["table"], row["state"], row["updates"]) for row in status["snapshots"]] == [("goods", "done", 1)]


@pytest.mark.parametrize(("arguments", "message"), [
    (("snapshot",), "CARAT_SHOP_DB is not set"), (("snapshot", "--at", "yesterday"), "'yesterday' is not a valid time"), (("snapshot", "--rebuild"), "name the --tables"),
    (("snapshot", "--tables", "coupons"), "--tables coupons: the snapshot plan has items, stock"), (("snapshot", "--at", "2999-01-01"), "lies in the future"),
    (("etl", "--date", "1.3.2026"), "'1.3.2026' is not a valid date"), (("etl", "--date", "2026-03-01", "--from", "2026-03-01"), "--date cannot be combined"),
    (("etl", "--from", "2026-03-02", "--to", "2026-03-01"), "is before"), (("etl", "--jobs", "session"), "--jobs session: choose from"),
    (("query", "SELECT 1", "--format", "xml"), "choose from table, csv, json, ndjson, parquet"), (("frobnicate",), "No such command"),
    (("ingest", "no-such-file"), "no-such-file does not exist"), (("ingest",), "Missing argument"), (("demo", "--calls", "5"), "greater than or equal to 1000"),
])  # fmt: skip
def test_wrong_usage_is_one_line_and_exits_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARAT_LOG", f"{tmp_path}/log")
    monkeypatch.setattr("sys.argv", ["carat", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_failure_is_one_line_and_the_whole_story_is_in_the_log(tmp_path):
    done = carat("query", "SELECT nonsense", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) == 1
    assert "Traceback" in json.loads((tmp_path / "log").read_text())["traceback"]


@pytest.mark.parametrize(("text", "expected"), [("30", 30), ("30min", 30), ("1800s", 30), ("0.5h", 30), ("PT45M", 45)])
def test_a_session_timeout_may_be_written_in_several_ways(monkeypatch, text, expected):
    monkeypatch.setenv("CARAT_SESSION_TIMEOUT", text)
    assert load_settings(_env_file=None).session_timeout == timedelta(minutes=expected)


@pytest.mark.parametrize(("name", "value"), [
    ("CARAT_TIMEZONE", "Mars/Olympus"), ("CARAT_SESSION_TIMEOUT", "13h"), ("CARAT_SESSION_TIMEOUT", "soon"), ("CARAT_WAREHOUSE", "mysql://u:hidden@h/x"),
    ("CARAT_SHOP_DB", "postgres://u:hidden@h/x"), ("CARAT_SHOP_DB", "mysql://u:hidden@h"), ("CARAT_SHOP_DB", "mysql://u:hid/den@h:x/shop"),
    ("CARAT_MAX_DELETED_SHARE", "2"), ("CARAT_SHARD_CALLS", "1"), ("CARAT_RAW_RETENTION_DAYS", "-1"),
])  # fmt: skip
def test_a_wrong_setting_is_named_and_its_value_is_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as error:
        load_settings(_env_file=None)
    assert "hidden" not in str(error.value)


def test_brackets_in_a_table_are_shown_as_they_are(capsys):
    console.say_table("runs [of today]", ["error [s]"], [["'carat[geo]' is [/missing]"]])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("runs [of today]", "error [s]", "'carat[geo]' is [/missing]"))


def test_a_secret_may_come_from_a_file(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("clickhouse://u:p@h:8123/\n")
    monkeypatch.delenv("CARAT_WAREHOUSE", raising=False)
    monkeypatch.setenv("CARAT_WAREHOUSE_FILE", str(tmp_path / "secret"))
    settings = load_settings(_env_file=None)
    assert (settings.warehouse.user, settings.warehouse.password.get_secret_value()) == ("u", "p")
    assert "u:p" not in repr(settings)
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"CARAT_WAREHOUSE_FILE: .* is not UTF-8 text"):
        load_settings(_env_file=None)
    monkeypatch.setenv("CARAT_WAREHOUSE_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="CARAT_WAREHOUSE_FILE: cannot read"):
        load_settings(_env_file=None)
