"""What `carat query` prints: each format is what its name says, and no text of a shopper drives the terminal."""

import json

from app.ops.reports import query_output

ROWS = b'{"a":1,"b":"x\\ny"}\n{"a":2,"b":"\xc3\xa9"}\n'


def test_json_is_one_array_and_ndjson_is_one_object_a_line():
    assert json.loads(query_output(ROWS, "json")) == [{"a": 1, "b": "x\ny"}, {"a": 2, "b": "é"}]
    assert query_output(ROWS, "ndjson") == ROWS


def test_an_empty_result_is_an_empty_array():
    assert json.loads(query_output(b"", "json")) == []


def test_a_table_shows_control_characters_instead_of_obeying_them():
    table = "│ \x1b[2J\x1b]0;owned\x07 │ \x9b31m │ ring\x7f │\n".encode()
    shown = query_output(table, "table").decode()
    assert shown == "│ ␛[2J␛]0;owned␇ │ \ufffd31m │ ring␡ │\n"


def test_bytes_that_are_no_text_leave_json_valid():
    assert json.loads(query_output(b'{"record":"\xff\xfe"}\n', "json")) == [{"record": "\ufffd\ufffd"}]


def test_csv_in_a_file_is_left_as_the_engine_wrote_it():
    assert query_output(b'"a\x1b\xff"\n', "csv") == b'"a\x1b\xff"\n'
    assert query_output(b'"a\x1b"\n', "csv", is_terminal=True).decode() == '"a␛"\n'
