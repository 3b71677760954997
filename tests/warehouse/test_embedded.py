"""How values travel to the embedded engine: a parameter comes back as it was given."""

from datetime import UTC, date, datetime

import pytest

from app.core.errors import WarehouseError
from app.warehouse.embedded import parameter_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        ("it's\ta\\b", "it\\'s\\\ta\\\\b"),
        (date(2026, 3, 1), "2026-03-01"),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), "2026-03-01 12:00:00"),
        ([1, 2], "[1, 2]"),
        (["a'b", None], "['a\\'b', NULL]"),
        ([date(2026, 3, 1)], "['2026-03-01']"),
        ((1, "x"), "(1, 'x')"),
        (None, "\\N"),
    ],
)
def test_a_parameter_is_written_as_the_engine_reads_it(value, text):
    assert parameter_text(value) == text


@pytest.mark.parametrize("text", ["it's", "a\tb\nc", "back\\slash", "`{x:String}`", "%(x)s", "", "50 %"])
def test_text_comes_back_as_it_was_given(warehouse, text):
    query = "SELECT {value:String} AS value, {list:Array(String)} AS list"
    assert warehouse.query(query, {"value": text, "list": [text]}).row(0) == (text, [text])


def test_an_error_is_one_line_that_begins_with_its_code(warehouse):
    with pytest.raises(WarehouseError, match=r"^[^\n]*Code: 60[^\n]*$"):
        warehouse.command("SELECT 1 FROM etl.nothing")
