"""A condition that is read column by column holds for the calls for which the library says that it does."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.frames.conditions import holds
from app.rules.expressions import Expression, Search, is_true, leaves_of, parse_condition, search
from tests.support.effort import repeated
from tests.support.typed_calls import typed

MAP = '[[call]]\nevent = "checkout"\nmethod = "GET"\npath = "/{{id}}"\nwhen = {}\n'


def by_columns(condition: str, *records: dict) -> list[bool]:
    """Whether the calls are those of an entry with this condition."""
    calls = typed(*records, endpoint_map=MAP.format(json.dumps(condition))).calls
    return (calls["event"] == "checkout").to_list()


def by_library(condition: str, record: dict) -> bool:
    whole = {"method": "GET", "status": 200, **record, "path": {"id": record["endpoint"].removeprefix("/")}}
    return is_true(search(Expression(condition, ()), whole))


PATHS = ("request.a", "response.b", "request.a.x", "response.b.y", "request.query.a", "path.id", "method", "status")
LITERALS = (
    "'1'",
    "'2'",
    "`2`",
    "`2.0`",
    "'2.0'",
    "`true`",
    "'true'",
    "`false`",
    "''",
    "`null`",
    "'ring'",
    "'GET'",
    "`200`",
    "`[]`",
    "'007'",
)
paths, literals = st.sampled_from(PATHS), st.sampled_from(LITERALS)
tests = st.one_of(
    paths,
    st.builds("{} {} {}".format, paths, st.sampled_from(["==", "!="]), literals),
    st.builds("{} {} {}".format, literals, st.sampled_from(["==", "!="]), paths),
    st.builds("contains([{}, {}], {})".format, literals, literals, paths),
    st.builds('contains(`["1", 2, null]`, {})'.format, paths),
    st.builds("{} == {}".format, paths, paths),
    st.builds("length({} || '') > `1`".format, st.sampled_from(["request.a", "response.b"])),
)
conditions = st.recursive(
    tests,
    lambda inner: st.one_of(
        st.builds("!({})".format, inner),
        st.builds("!{}".format, paths),
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
    ),
    max_leaves=5,
)
scalars = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        2,
        2.0,
        2.5,
        1e21,
        10**20,
        "",
        "1",
        "2",
        "2.0",
        "007",
        "true",
        "false",
        "ring",
        "x=1&y=2",
        '{"x": 2}',
    ]
)
values = scalars | st.lists(scalars, max_size=2) | st.fixed_dictionaries({}, optional={"x": scalars, "y": scalars})
sides = st.fixed_dictionaries(
    {}, optional={"a": values, "b": values, "query": st.fixed_dictionaries({}, optional={"a": values})}
)
records = st.fixed_dictionaries({
    "endpoint": st.sampled_from(["/1", "/2.0", "/ring"]), "request": sides | values, "response": sides | values,
})  # fmt: skip


@settings(max_examples=repeated(40, 500))
@given(conditions, st.lists(records, min_size=1, max_size=6))
def test_columns_and_library_agree_on_every_condition(condition, calls):
    assert by_columns(condition, *calls) == [by_library(condition, call) for call in calls]


@pytest.mark.parametrize(
    ("condition", "response", "is_met"),
    [
        ("response.page == '2'", {"page": 2}, True), ("response.page == '2'", {"page": "2"}, True), ("response.page == '2'", {"page": 2.0}, True),
        ("response.page == `2`", {"page": "2"}, True), ("response.page != '2'", {}, True), ("response.page != '2'", {"page": [2]}, True),
        ("response.a", {"a": {}}, True), ("response.a", {"a": []}, False), ("response.a", {"a": [None]}, True), ("response.a", {"a": "false"}, False),
        ("response.a == `[]`", {"a": []}, True), ("response.a == `[]`", {}, False), ('response.a == `["x", "y"]`', {"a": "y"}, False),
        ('response.a == `["x", "y"]`', {"a": ["x", "y"]}, True), ("response.a != `[]`", {"a": ["x"]}, True), ("response.a", {"a": 0}, True), ("response.a", {"a": ""}, False), ("!response.a.b", {"a": {"c": 1}}, True), ("!response.a.b", {"a": {"b": 1}}, False),
        ("response.a == `null`", {}, True), ("response.a != `null`", {"a": 1}, True), ("contains(['x', 'y'], response.a)", {"a": "y"}, True),
        ("contains(['x', `7`], response.a)", {"a": "7"}, True), ("!contains(['x', 'y'], response.a)", {}, True),
        ("response.id == '12345678901234567891'", {"id": 12345678901234567892}, False),
        ("response.errors[0].code == 'X'", {"errors": [{"code": "X"}]}, True), ("length(response.errors || `[]`) == `0`", {}, True),
        ("response.a && (response.b || response.c == '1')", {"a": 1, "c": 1}, True), ("response.a.b.c", {"a": '{"b": "c=1"}'}, True),
    ],
)  # fmt: skip
def test_a_condition_is_met_as_documented(condition, response, is_met):
    record = {"endpoint": "/1", "response": response}
    assert by_columns(condition, record) == [is_met] == [by_library(condition, record)]


@pytest.mark.parametrize(
    ("condition", "searched"),
    [
        ("response.a == 'x' && !response.b.c || contains(['x'], request.query.d)", 0),
        ("status == `200` && method == 'GET' && path.id", 0),
        ("response.a && response.items[0].id", 1),
        ("response.items[].id", 1),
    ],
)
def test_conditions_of_plain_paths_need_no_library(condition, searched):
    assert sum(isinstance(leaf, Search) for leaf in leaves_of(parse_condition(condition))) == searched


def test_what_is_missing_is_neither_true_nor_an_error():
    condition = parse_condition("!(response.a == 'x') && !response.b")
    columns = {leaf: str(number) for number, leaf in enumerate(leaves_of(condition))}
    frame = pl.DataFrame({"0": [None, "x"], "1": [None, None]}, schema={"0": pl.String, "1": pl.String})
    assert frame.select(holds(condition, columns)).to_series().to_list() == [True, False]
