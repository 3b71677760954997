"""Documents that stand as text inside a document."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rules.embedded_text import decoder, document_in, from_base64, from_form, from_json, with_nested_keys


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ('{"a": 1}', {"a": 1}),
        (" [1, 2] ", [1, 2]),
        ("eyJhIjogMX0=", {"a": 1}),
        ("eyJhIjogMX0", {"a": 1}),
        (base64.urlsafe_b64encode(b'{"a": "\xc3\xbf\xc3\xbe>"}').decode(), {"a": "ÿþ>"}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("?a=1&a=2", {"a": ["1", "2"]}),
        ("a=", {"a": ""}),
        ("q=gold+ring&x=%C3%96se", {"q": "gold ring", "x": "Öse"}),
    ],
)
def test_json_base64_and_forms_are_read(text, document):
    assert document_in(text) == document


@pytest.mark.parametrize(
    "text", ["", "ring", "gold ring", "{", "{a}", "a = b", "[", "1", "x" * 1_000_000, "goldring", "[" * 50_000]
)
def test_a_text_that_holds_no_document_is_none(text):
    assert document_in(text) is None


@pytest.mark.parametrize("text", ["!", "abc", "eyJhIjogMX0=="])
def test_what_is_not_base64_of_text_is_none(text):
    found = from_base64(text)
    assert found is None or found == '{"a": 1}'


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_json_does_not_have_is_null(constant):
    assert from_json(f"[{constant}]") == [None]


@pytest.mark.parametrize(
    ("fields", "nested"),
    [
        ({"metal[]": ["gold", "silver"]}, {"metal": ["gold", "silver"]}),
        ({"metal[]": "gold"}, {"metal": ["gold"]}),
        ({"metal[0]": "gold", "metal[1]": "silver"}, {"metal": ["gold", "silver"]}),
        ({"metal[1]": "silver", "metal[0]": "gold"}, {"metal": ["gold", "silver"]}),
        ({"filter[metal][]": ["gold"]}, {"filter": {"metal": ["gold"]}}),
        ({"filter[price][min]": 1, "filter[price][max]": 2}, {"filter": {"price": {"min": 1, "max": 2}}}),
        ({"a[0][slug]": "x", "a[0][value]": 1, "a[1][slug]": "y"}, {"a": [{"slug": "x", "value": 1}, {"slug": "y"}]}),
    ],
)
def test_keys_with_brackets_can_be_read_nested_and_as_they_are(fields, nested):
    assert with_nested_keys(fields) == nested | fields


@pytest.mark.parametrize(
    "fields",
    [
        {"a": 1},
        {"a[": 1},
        {"[a]": 1},
        {"a[b": 1},
        {"a[b]c": 1},
        {"a]": 1},
    ],
)
def test_other_keys_stay_as_they_are(fields):
    assert with_nested_keys(fields) == fields


def test_a_plain_key_goes_before_a_nested_one_and_a_number_is_no_reason_for_a_long_list():
    assert with_nested_keys({"a": 1, "a[b]": 2})["a"] == 1
    assert with_nested_keys({"a[99999999]": 1})["a"] == {"99999999": 1}
    assert with_nested_keys({"a[b]": 1, "a[b][c]": 2})["a"] == {"b": 1}


def test_a_form_of_too_many_fields_is_none():
    assert from_form("&".join("a=1" for _ in range(10_001))) is None


@pytest.mark.parametrize(
    ("names", "text", "value"),
    [
        (("base64", "json"), "eyJhIjogMX0=", {"a": 1}),
        (("json",), '"a=1"', "a=1"),
        (("json", "form"), '"a=1"', {"a": "1"}),
        (("base64",), "Z29sZA==", "gold"),
        (("json",), "x", None),
        (("form", "json"), "a=1", {"a": "1"}),
    ],
)
def test_decoders_follow_one_another(names, text, value):
    assert decoder(names)(text) == value


@given(st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_no_text_raises(text):
    document_in(text)
    for name in ("json", "base64", "form"):
        decoder([name])(text)


scalars = st.none() | st.booleans() | st.integers() | st.text()


@given(st.dictionaries(st.text(min_size=1), scalars | st.lists(scalars, max_size=3), max_size=4))
def test_json_and_base64_are_read_back(document):
    text = json.dumps(document)
    assert document_in(text) == document
    assert document_in(base64.b64encode(text.encode()).decode()) == document


@given(st.dictionaries(st.text("ab[]01", min_size=1, max_size=8), scalars | st.lists(scalars, max_size=3), max_size=5))
def test_keys_with_any_brackets_lose_nothing(fields):
    assert (
        with_nested_keys(fields).items() >= fields.items()
        if all(isinstance(v, str | int | None) for v in fields.values())
        else True
    )
