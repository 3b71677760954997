"""`carat map check`, `try` and `draft` as a user runs them, without a warehouse."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from app.core.errors import SettingsError
from app.main import app
from app.ops.maps import trial as trial_module
from tests.support.paths import CHECKOUT

JOURNEYS = CHECKOUT / "tests" / "fixtures" / "journeys"
DEMO = JOURNEYS / "demo.ndjson"


def run(*arguments: object, stdin: bytes | None = None) -> str:
    result = CliRunner().invoke(app, ["map", *map(str, arguments)], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def error(*arguments: object) -> str:
    with pytest.raises(SettingsError) as raised:
        run(*arguments)
    return str(raised.value)


def tried(*arguments: object) -> dict:
    return json.loads(run("try", *arguments, "--json"))


def ndjson(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def call(endpoint: str, minute: int = 0, *, method: str = "GET", visitor: str = "v", **fields: object) -> dict:
    at = {"ts": f"2026-03-01T10:{minute:02}:00Z", "method": method, "endpoint": endpoint, "visitor_id": visitor}
    return at | fields


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CARAT_TRACKING", raising=False)


# ---- check -------------------------------------------------------------------------------------------------------


def test_check_lists_the_entries_of_a_map():
    shown = run("check", "demo")
    assert "product_view" in shown
    assert "/api/v1/products/{product_id}" in shown
    assert "demo.toml is valid: 9 entries" in shown


def test_check_takes_the_configured_map(monkeypatch):
    monkeypatch.setenv("CARAT_TRACKING", "medusa")
    assert json.loads(run("check", "--json"))["map"].endswith("medusa.toml")


def test_check_names_file_line_and_key_of_the_first_mistake(tmp_path):
    (tmp_path / "shop.toml").write_text('[[call]]\nevent = "view"\nmethod = "GET"\npath = "/p"\n')
    assert error("check", "shop.toml").startswith("shop.toml:2: call.event: 'view' is not valid.")


def test_check_of_a_file_that_is_not_there_names_the_shipped_maps():
    assert "shop.toml does not exist; name a map's file, or a shipped map: demo, magento" in error("check", "shop.toml")


def test_check_of_a_binary_file_is_one_line(tmp_path):
    (tmp_path / "shop.toml").write_bytes(b"\x00\xff\xfe")
    assert "is not UTF-8 text" in error("check", "shop.toml")


def test_check_says_which_history_tables_lookups_need(tmp_path, monkeypatch):
    (tmp_path / "shop.toml").write_text(
        '[[call]]\nevent = "cart_add"\nmethod = "POST"\npath = "/cart"\n'
        'fields.product_id = { path = "request.body.v", lookup = { table = "variants", key = "id", value = "product_id" } }\n'
    )
    assert "history.variants: not in the snapshot plan, so the value is empty. Add [variants]" in run(
        "check", "shop.toml"
    )
    assert json.loads(run("check", "shop.toml", "--json"))["history_tables_not_in_snapshot_plan"] == ["variants"]
    (tmp_path / "plan.toml").write_text('[variants]\nsource = "variants"\nkey = ["id"]\n')
    monkeypatch.setenv("CARAT_SNAPSHOTS", "plan.toml")
    assert "history.variants: in the snapshot plan" in run("check", "shop.toml")
    (tmp_path / "plan.toml").write_text('[variants]\nsource = "variants"\nkey = ["id"]\nexclude = ["product_id"]\n')
    assert "does not keep column product_id" in run("check", "shop.toml")


# ---- try ---------------------------------------------------------------------------------------------------------


def test_try_counts_entries_fields_and_examples():
    report = tried(DEMO)
    entries = {entry["event"]: entry for entry in report["entries"]}
    assert {event: entry["calls"] for event, entry in entries.items()} == {
        "catalog": 2, "product_view": 1, "favorite_add": 1, "favorite_remove": 1, "cart_view": 1, "cart_add": 2, "cart_remove": 1,
        "checkout": 1, "purchase": 2,
    }  # fmt: skip
    (quantity,) = [field for field in entries["cart_add"]["fields"] if field["field"] == "quantity"]
    assert quantity == {"field": "quantity", "filled": 2, "share": 1.0, "unreadable": 0, "examples": ["2", "1"]}
    assert report["unmatched"] == [{"method": "GET", "path": "/api/v1/products/{id}/reviews", "calls": 1}]
    assert report["repeated_orders"] == {"o-1": 2}
    assert (report["calls"], report["failed"], report["other"]) == (14, 1, 2)
    assert report["looks_wrong"] == []


def test_try_on_a_terminal_shows_tables_and_that_nothing_looks_wrong():
    shown = run("try", DEMO)
    assert "purchase: 2 calls" in shown
    assert "bought, never viewed: 0 of 1 products" in shown
    assert shown.rstrip().endswith("Nothing looks wrong.")


def test_try_names_what_looks_wrong_and_exits_0(tmp_path):
    (tmp_path / "shop.toml").write_text(
        '[[call]]\nevent = "purchase"\nmethod = "POST"\npath = "/orders"\nfields.order_id = "response.number"\n'
    )
    calls = ndjson(tmp_path / "calls.ndjson", call("/orders", method="POST", response={"id": 1}))
    shown = run("try", calls, "--map", "shop.toml")
    assert (
        "Looks wrong: 1: POST /orders order_id: empty in 1 of 1 calls (purchase). Point it at the order's id" in shown
    )
    assert "Looks wrong: 1: POST /orders currency: empty in 1 of 1 calls" in shown


def test_try_shows_ids_that_never_meet(tmp_path):
    views = [call(f"/api/v1/products/{number}", number) for number in (1, 2, 3)]
    lines = [{"product_id": f"v{number}", "quantity": 1, "price": 5} for number in (1, 2, 3)]
    answer = {"order_id": "o", "total": 15, "currency": "EUR", "items": lines}
    calls = ndjson(tmp_path / "calls.ndjson", *views, call("/api/v1/orders", 9, method="POST", response=answer))
    shown = run("try", calls, "--map", "demo")
    assert "Looks wrong: bought: never viewed: 3 of 3 products, e.g. v1, v2, v3; viewed were 1, 2, 3" in shown


def test_try_counts_ignored_calls_and_unmatched_operations(tmp_path):
    graphql = {"query": "mutation addLine { addLine { id } }", "operationName": "addLine"}
    calls = ndjson(
        tmp_path / "calls.ndjson",
        call("/health"),
        call("/api/v1/catalog", method="OPTIONS"),
        call("/graphql", method="POST", request={"body": graphql}),
        call("/graphql", 1, method="POST", request={"body": graphql}),
    )
    report = tried(calls, "--map", "demo")
    assert report["ignored"] == 2
    assert report["unmatched"] == [{"method": "POST", "path": "/graphql mutation addLine", "calls": 2}]
    assert [finding["entry"] for finding in report["looks_wrong"]] == ["the map"]


RECALLING = """
[[call]]
event = "cart_add"
method = "POST"
path = "/cart"
fields.product_id = "request.body.product"
remember.lines = { key = "response.line", value = "request.body.product" }

[[call]]
event = "cart_remove"
method = "DELETE"
path = "/cart/{line}"
fields.product_id = { path = "path.line", recall = "lines" }
"""


def test_try_recalls_within_a_visitor_across_batches(tmp_path, monkeypatch):
    (tmp_path / "shop.toml").write_text(RECALLING)
    adds = [
        call("/cart", 1, method="POST", visitor=f"v{n}", request={"body": {"product": f"p{n}"}}, response={"line": 1})
        for n in range(30)
    ]
    removals = [call("/cart/1", 2, method="DELETE", visitor=f"v{n}") for n in range(30)]
    ndjson(tmp_path / "calls.ndjson", *adds, *removals)
    monkeypatch.setattr("app.intake.files._BATCH_RECORDS", 7)
    report = tried("calls.ndjson", "--map", "shop.toml")
    removed = report["entries"][1]
    assert removed["event"] == "cart_remove"
    assert removed["fields"][0]["filled"] == 30
    assert report["looks_wrong"] == []


def test_try_keeps_a_bounded_number_of_endpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "_MAX_ENDPOINTS", 2)
    ndjson(tmp_path / "calls.ndjson", *(call(f"/x/{name}") for name in ("a", "b", "c", "d")))
    report = tried("calls.ndjson", "--map", "demo")
    assert sum(one["calls"] for one in report["unmatched"]) == 4
    assert {"method": "", "path": "…", "calls": 2} in report["unmatched"]


def test_try_says_that_lookups_need_a_warehouse():
    (note,) = tried(JOURNEYS / "woocommerce.ndjson", "--map", "woocommerce")["notes"]
    assert note.startswith("Values that are looked up in history (variations) need a warehouse")


def test_try_reads_gzip_parquet_and_stdin_alike(tmp_path):
    data = DEMO.read_bytes()
    (tmp_path / "calls.ndjson.gz").write_bytes(gzip.compress(data))
    records = [json.loads(line) for line in data.splitlines()]
    sides = [
        record | {side: json.dumps(record[side]) if side in record else "" for side in ("request", "response")}
        for record in records
    ]
    pl.DataFrame(sides, infer_schema_length=None).write_parquet(tmp_path / "calls.parquet")
    expected = tried(DEMO)
    assert tried("calls.ndjson.gz") == expected
    assert tried("calls.parquet") == expected
    done = subprocess.run(
        [sys.executable, "-m", "app", "map", "try", "-", "--json"],
        cwd=CHECKOUT, input=data, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("verb", ["try", "draft"])
def test_a_file_without_calls_is_refused_with_the_reason(verb, tmp_path):
    (tmp_path / "empty.ndjson").touch()
    assert error(verb, "empty.ndjson").startswith("empty.ndjson: no calls. A call is one JSON object a line")
    (tmp_path / "binary").write_bytes(b"\x00\x01\xfe\xff\n" * 3)
    assert "no calls: 3 rejected records (not UTF-8: 3)" in error(verb, "binary")
    ndjson(tmp_path / "other.ndjson", {"a": 1})
    assert "no calls: 1 rejected records (no time: 1)" in error(verb, "other.ndjson")


@pytest.mark.parametrize("verb", ["try", "draft"])
def test_a_file_that_is_not_there_is_refused(verb):
    assert error(verb, "calls.ndjson") == "calls.ndjson does not exist"


def test_records_that_cannot_be_read_are_counted_and_the_others_tried(tmp_path):
    (tmp_path / "calls.ndjson").write_bytes(b"nonsense\n" + json.dumps(call("/api/v1/cart")).encode())
    report = tried("calls.ndjson")
    assert (report["calls"], report["rejected"]) == (1, {"not JSON": 1})
    assert "1 record could not be read (not JSON: 1)" in run("try", "calls.ndjson")


def test_try_with_a_wrong_map_names_the_mistake_before_it_reads_calls(tmp_path):
    (tmp_path / "shop.toml").write_text("[[call]\n")
    assert error("try", DEMO, "--map", "shop.toml").startswith("shop.toml:1: not valid TOML")


# ---- draft -------------------------------------------------------------------------------------------------------


def test_a_draft_is_a_map_that_check_accepts(tmp_path):
    assert run("draft", DEMO, "--out", "shop.toml").startswith("wrote shop.toml: edit it")
    assert "shop.toml is valid: 9 entries" in run("check", "shop.toml")
    assert tried(DEMO, "--map", "shop.toml")["looks_wrong"] == []


def test_a_draft_is_printed_without_out():
    assert run("draft", DEMO).startswith("# Endpoint map drafted from 14 calls.")


def test_a_draft_never_replaces_a_file(tmp_path):
    (tmp_path / "shop.toml").write_text("mine")
    assert error("draft", DEMO, "--out", "shop.toml") == "--out shop.toml exists; name a new file"
    assert (tmp_path / "shop.toml").read_text() == "mine"
