"""Expressions of the endpoint map: which are plain, what deviates from JMESPath, and that their cost is bounded."""

import jmespath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.frames.json_fields import decode_document
from app.rules import expressions
from app.rules.expressions import (
    Expression,
    ExpressionError,
    TooCostlyError,
    comparable,
    is_true,
    parse_condition,
    parse_expression,
    search,
)
from tests.support.effort import repeated


def result(text: str, **record):
    return search(parse_expression(text), record)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("request.query.page", ("request", "query", "page")), ("response.items[].id", ("response", "items", "[]", "id")),
        ('request.query."metal[]"', ("request", "query", "metal[]")), ('response."a.b"[].c-d', ("response", "a.b", "[]", "c-d")),
        ("path.line", ("path", "line")), ("method", ("method",)), ("status", ("status",)), (" response.a ", ("response", "a")), ("response.$id", ("response", "$id")),
    ],
)  # fmt: skip
def test_plain_paths_are_read_for_many_calls_at_once(text, keys):
    assert parse_expression(text).keys == keys


@pytest.mark.parametrize(
    "text",
    ["response[].id", "response.items[]", "response.a[].b[].c", "response.items[0].id", "response.items[?a].id", "a.b", "request.a || response.b", "response.*.a", "path.a.b", "response", "length(response.a)", "response.a[*].b"],
)  # fmt: skip
def test_everything_else_is_for_the_library(text):
    assert not parse_expression(text).is_plain


@pytest.mark.parametrize(
    "text", ["request..a", "request.a[", "request.", "'x", "request.a = 'x'", "foo(", "[", "request.a b", "@.", "!"]
)
def test_what_is_not_jmespath_is_refused_in_one_line(text):
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("!" * 200 + "request.a", "is nested more than 50 deep"), ("request." + "a" * 1000, "is longer than 1000 characters"), ("(" * 600 + "a" + ")" * 300, "is n"),
        ("lenght(request.a)", "names no function of JMESPath: lenght. Did you mean length?"), ("length(request.a, request.b)", "gives length 2 arguments; it takes 1"),
        ("join(',')", "gives join 1 arguments; it takes 2"), ("merge()", "gives merge 0 arguments; it takes 1 or more"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_when_it_is_read(text, problem):
    with pytest.raises(ExpressionError, match=problem):
        parse_expression(text)


@pytest.mark.parametrize(
    ("text", "roots", "placeholders"),
    [
        ("request.a || response.b[0]", {"request", "response"}, set()), ("response.items[?id == request.a]", {"response"}, set()),
        ("join('-', [path.a, path.b])", {"path"}, {"a", "b"}), ("path.line", {"path"}, {"line"}), ("[path][0].x || body", {"path", "body"}, set()),
        ("@", set(expressions.ROOTS), set()), ("request | response.a", {"request"}, set()),
    ],
)  # fmt: skip
def test_an_expression_knows_what_it_reads(text, roots, placeholders):
    expression = parse_expression(text)
    assert (expression.roots, expression.placeholders) == (roots, placeholders)


# ---- deviations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "record", "value"),
    [
        ("response.items[?type=='product'].id", {"items": [{"type": "product", "id": 1}, {"type": "tax", "id": 2}]}, [1]),
        ("response.items[?n=='2'].id", {"items": [{"n": 2, "id": 1}, {"n": "2.0", "id": 2}, {"n": 3, "id": 3}]}, [1, 2]),
        ("response.items[].id", {"items": [{"id": 1}, {}, {"id": 3}]}, [1, None, 3]),
        ("response.items[?a].id", {"items": [{"a": "false", "id": 1}, {"a": {}, "id": 2}, {"a": True}]}, [2, None]),
        ("response.lines[].offers[].id", {"lines": [{"offers": [{"id": 1}, {}]}, {"offers": [{"id": 3}]}]}, [1, None, 3]),
        ("response.a.b", {"a": '{"b": 1}'}, 1),
        ("response.a.b", {"a": "b=1&c=2"}, "1"),
        ("response.a[].b", {"a": '[{"b": 1}, {"b": 2}]'}, [1, 2]),
        ("response.a[0].b", {"a": [{"b": 1}]}, 1),
        ("response.* | [0].x", {"q": {"x": 5}}, 5),
        ("contains(response.tags, '7')", {"tags": [7, "x"]}, True),
        ("contains(response.name, 'old')", {"name": "gold"}, True),
        ("length(response.missing)", {}, None),
        ("length(response.missing || `[]`)", {}, 0),
        ("to_number(response.n) || `1`", {"n": "x"}, 1),
        ("sum(response.lines[].price)", {"lines": [{"price": 1.5}, {"price": 2}]}, 3.5),
        ("sum(response.lines[].price)", {"lines": [{"price": "1.5"}]}, None),
        ("max_by(response.lines, &price).id", {"lines": [{"price": 1, "id": "a"}, {"price": 2, "id": "b"}]}, "b"),
        ("!response.a.b && 'x'", {"a": {"c": 1}}, "x"),
        ("response.a > `1`", {"a": "x"}, None),
    ],
)  # fmt: skip
def test_the_library_is_used_with_the_deviations_of_the_manual(text, record, value):
    assert result(text, response=record) == value


@pytest.mark.parametrize(
    ("value", "truth"),
    [(None, False), (False, False), ("false", False), ("", False), ([], False), ({}, True), (0, True), ("0", True), ([None], True), ("False", True), (True, True)],
)  # fmt: skip
def test_what_counts_as_true(value, truth):
    assert is_true(value) is truth


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), (True, "true"), (2, "2"), (2.0, "2"), ("2.0", "2"), ("2e2", "200"), ("007", "7"), ("-0", "0"), (1e21, "1" + "0" * 21), ("x", "x"), ("2.", "2"), ("+5", "5"), ([], ""), ([1], "\0"), ({}, "\0"), ("1e999999", "1e999999"), (10**30, "1" + "0" * 30), ("٣", "٣")],
)  # fmt: skip
def test_values_are_compared_by_their_shortest_text(value, text):
    assert comparable(value) == text


documents = st.recursive(
    st.none() | st.booleans() | st.integers(0, 5) | st.sampled_from(["", "x", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=repeated(100, 1000))
@given(
    documents,
    st.sampled_from(
        [
            "a.b",
            "a[0]",
            "a[].b | [0]",
            "a[].b[].c | [-1]",
            "[a, b.c]",
            "{x: a, y: b.a}",
            "a.*.b | [0]",
            "length(keys(a || `{}`))",
            "a[?b > `1`] | [0].b",
            "not_null(a, b, c)",
            "type(a)",
            "sort(keys(a || `{}`))",
            "reverse(a || `[]`)",
        ]
    ),
)
def test_without_deviation_the_results_are_those_of_the_library(document, text):
    try:
        expected = jmespath.search(
            text, {"response": document, "a": None} if not isinstance(document, dict) else document
        )
    except (jmespath.exceptions.JMESPathError, TypeError):  # TypeError: the library compares a text with a number
        expected = None
    found = search(Expression(text, ()), document if isinstance(document, dict) else {"response": document, "a": None})
    assert found == expected or "?" in text or "[]" in text or ".*" in text  # these keep gaps, which JMESPath drops


# ---- bounds ------------------------------------------------------------------------------------------------------

SLOW = (
    "response.a[].b[].c[].d[].e", "response.a[?b[?c[?d]]]", "join('', response.a[].b[].c)", "sort_by(response.a[].b[], &c)",
    "response.a[].[@, @, @, @][].[@, @, @, @][].[@, @, @, @][].[@, @, @, @][].[@, @, @, @][].[@, @, @, @][].[@, @, @, @]",
    "map(&map(&map(&length(@), @), @), response.a[].[@, @])",
)  # fmt: skip


@pytest.mark.parametrize("text", SLOW)
def test_the_work_on_one_document_is_bounded(text):
    leaf = {"c": [{"d": [1] * 10}] * 10}
    with pytest.raises(TooCostlyError):
        search(parse_expression(text), {"response": {"a": [{"b": [leaf] * 10}] * 20_000}})


def test_a_costly_expression_is_refused_for_that_document_alone():
    expression = parse_expression("response.a[].[@, @, @, @][].[@, @, @, @][].[@, @, @, @][].[@, @, @, @]")
    with pytest.raises(TooCostlyError):
        search(expression, {"response": {"a": [1] * 10_000}})
    assert len(search(expression, {"response": {"a": [1]}})) == 64


@pytest.mark.parametrize(
    "text", ["response.a.b", "response.a[].b", "response.*", "length(to_string(response))", "response.a == response.a"]
)
def test_a_deep_document_is_no_error(text):
    record = {"response": decode_document('{"a":' * 5_000 + "1" + "}" * 5_000)}
    search(parse_expression(text), record)


@settings(max_examples=repeated(80, 1000))
@given(st.text("abc.[]*?!&|()'\"`<>=@,{}: request0123", max_size=30))
def test_any_text_is_an_expression_or_refused(text):
    try:
        expression = parse_expression(text)
        parse_condition(text)
    except ExpressionError:
        return
    search(expression, {"request": {"a": [1, {"b": 2}]}})
