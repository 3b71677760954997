"""`carat query` on an embedded warehouse that nobody else holds."""

import pytest

from app.core import console
from app.core.errors import WarehouseError
from app.ops.query import run_query, split_statements


@pytest.mark.parametrize("sql", [
    "SELECT * FROM file('/etc/hostname', 'LineAsString')", "SELECT file('/etc/hostname')", "SELECT * FROM '/etc/hostname'", "SELECT 1 INTO OUTFILE '{folder}/out'",
    "INSERT INTO FUNCTION file('{folder}/out', 'CSV') SELECT 1", "INSERT INTO etl.runs FROM INFILE '/etc/hostname' FORMAT CSV", "SELECT * FROM remote('127.0.0.1:1', 'system.one')",
    "INSERT INTO etl.runs SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')", "SELECT 1; SELECT file('/etc/hostname')",
])  # fmt: skip
def test_a_statement_reaches_no_file_and_no_other_server(warehouse, tmp_path, sql):
    with pytest.raises(WarehouseError, match=r"not available|READONLY|not allowed"):
        run_query(warehouse, sql.format(folder=tmp_path), fmt="CSV")
    assert not (tmp_path / "out").exists()


def test_the_owner_may_change_data_and_settings_of_a_query(warehouse):
    run_query(warehouse, "ALTER TABLE etl.runs DELETE WHERE run_id = 'a'", fmt="CSV")
    assert run_query(warehouse, "SELECT 1 AS a SETTINGS max_memory_usage = 1000000000", fmt="CSV") == [b"1\n"]


@pytest.mark.parametrize(("sql", "statements"), [
    ("SELECT 1", ["SELECT 1"]), ("SELECT 1;", ["SELECT 1"]), ("SELECT 1; SELECT 2 ;;\n", ["SELECT 1", " SELECT 2 "]), ("SELECT ';', \"a;b\", `c;d`", ["SELECT ';', \"a;b\", `c;d`"]),
    ("SELECT 'it''s; \\'; ', 4 -- not; here\n; SELECT 5 /* nor; here */", ["SELECT 'it''s; \\'; ', 4 -- not; here\n", " SELECT 5 /* nor; here */"]),
    ("SELECT $$a;b$$, $x$;$y$;$x$; -- end;", ["SELECT $$a;b$$, $x$;$y$;$x$"]), ("SELECT 8 - -1 / 2;SELECT 1", ["SELECT 8 - -1 / 2", "SELECT 1"]), ("SELECT 'open; ", ["SELECT 'open"]), ("", [""]), (" -- nothing", [" -- nothing"]),
])  # fmt: skip
def test_semicolons_part_statements_but_not_inside_texts_names_and_comments(sql, statements):
    assert split_statements(sql) == statements


def test_several_statements_give_their_results_in_order(warehouse):
    assert run_query(warehouse, "SELECT 1; SELECT 'a;b' SETTINGS final = 0; SELECT 3;", fmt="CSV") == [
        b"1\n",
        b'"a;b"\n',
        b"3\n",
    ]


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[31mred\x1b]8;;http://evil.example\x07", "␛[31mred␛]8;;http://evil.example␇"), ("\x9b31m", "�31m"), ("a\rb\x7f", "a␍b␡"), ("\u202egnp.exe", "�gnp.exe"),
    ("a\nb\tc", "a\nb c"), ("Ringe für Ü 💍 שלום", "Ringe für Ü 💍 שלום"),
])  # fmt: skip
def test_what_would_control_a_terminal_is_shown_as_signs(text, shown):
    assert console.harmless(text) == shown
