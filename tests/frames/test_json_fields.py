"""The fast and the tolerant path give the same values for good documents; bad ones cost no neighbour anything."""

import json

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.frames import json_fields
from app.frames.json_fields import Extraction, extract
from app.rules.field_path import ITEMS, FieldPath, Kind

LEAVES = (
    FieldPath("q", Kind.TEXT, ("query", "q")),
    FieldPath("section", Kind.TEXTS, ("query", "section")),
    FieldPath("page", Kind.NUMBER, ("query", "page")),
    FieldPath("total", Kind.NUMBER, ("total",)),
    FieldPath("ids", Kind.TEXT, ("items", ITEMS, "id")),
    FieldPath("prices", Kind.NUMBER, ("items", ITEMS, "price")),
)
GOOD = '{"query":{"q":"ring","section":["a","b"],"page":2},"total":3,"items":[{"id":1,"price":1.5},{"id":2,"price":2}]}'


def extract_tolerant(documents: pa.ChunkedArray, paths: tuple[FieldPath, ...]) -> Extraction:
    """The same as `extract`, one document at a time."""
    every = pl.int_range(len(documents), dtype=pl.UInt64, eager=True).to_arrow()
    values, unreadable = json_fields._read_tolerant(documents, every, paths)
    return Extraction(json_fields._in_order([(every, values)], paths), unreadable)


def documents(*texts: str | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])


def as_text(values: pl.DataFrame) -> list[tuple]:
    """Values whatever type a path gave them: numbers as exact decimals without trailing zeros."""

    def plain(value):
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if value is None else str(value)

    types = {leaf.name: pl.List(pl.String) if leaf.is_list else pl.String for leaf in LEAVES}
    numbers = [leaf.name for leaf in LEAVES if leaf.kind is Kind.NUMBER]
    values = json_fields._wrap_scalars(values, types)
    exact = pl.Decimal(38, 18)
    return [
        tuple(plain(item) for item in row)
        for row in values.with_columns(
            pl.col(name).cast(pl.List(exact) if isinstance(types[name], pl.List) else exact, strict=False)
            for name in numbers
        )
        .with_columns(pl.col(name).cast(types[name]) for name in types if name not in numbers)
        .rows()
    ]


def test_fields_of_a_good_document_are_taken_with_their_types():
    row = extract(documents(GOOD), LEAVES).values.row(0, named=True)
    assert (row["q"], row["section"], float(row["page"]), row["ids"]) == ("ring", ["a", "b"], 2.0, [1, 2])


def test_documents_without_a_field_have_null_and_absent_documents_too():
    result = extract(documents("{}", "", None, "null"), LEAVES)
    assert as_text(result.values) == [(None,) * 6] * 4
    assert result.unreadable == 0


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ('{"query":{"section":"a"}}', ["a"]), ('{"query":{"section":["a","b"]}}', ["a", "b"]),
        ('{"query":{"section":"a,b"}}', ["a,b"]), ('{"query":{"section":7}}', ["7"]), ('{"query":{"section":[7,"b"]}}', ["7", "b"]),
        ('{"query":{"section":null}}', None), ('{"query":{"section":"a \\"section\\":\\"x\\""}}', ['a "section":"x"']),
    ],
)  # fmt: skip
def test_a_list_may_come_as_scalar_list_or_number_beside_documents_that_write_it_otherwise(text, section):
    for texts in ((text,), (GOOD, text), (text, GOOD)):
        result = extract(documents(*texts), LEAVES)
        found = json_fields._wrap_scalars(result.values, {"section": pl.List(pl.String)})["section"][texts.index(text)]
        assert (None if found is None else list(map(str, found))) == section
        assert result.unreadable == 0


BAD = [
    '{"query":{"q":"cut o', "nope", "[1,2]", '"text"', '{"a":1}{"b":2}', '{"total":1,"total":2}', '{"query":{"q":"raw\nnewline"}}',
    '{"query":{"q":"\\ud800"}}', '{"query":"no object"}', '{"items":{"id":1}}', '{"items":[1,2]}', '{"total":{"x":1}}', "{}}", "{",
    '{"total":1e400}', '{"total":NaN}', '{"x":' + "[" * 10_000 + "]" * 10_000 + "}", "\x00", '{"query":{"q":"\x01"}}', "}{", "{} {}",
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_document_leaves_its_neighbours_as_they_are(bad):
    expected = as_text(extract(documents(GOOD), LEAVES).values)[0]
    for texts in ((bad, GOOD), (GOOD, bad), (*[GOOD] * 40, bad, *[GOOD] * 40)):
        found = as_text(extract(documents(*texts), LEAVES).values)
        assert len(found) == len(texts)
        assert [row for row, text in zip(found, texts, strict=True) if text == GOOD] == [expected] * texts.count(GOOD)


def test_of_a_document_that_is_cut_off_what_came_before_the_cut_is_taken():
    result = extract(documents('{"total":7,"query":{"q":"gold ring","page":12'), LEAVES)
    assert as_text(result.values)[0][:4] == ("gold ring", None, None, "7.000000000000000000")


def test_what_cannot_be_read_is_counted():
    assert (
        extract(documents("nope", '{"items":{"id":1}}', GOOD), LEAVES).unreadable == 3
    )  # no JSON; ids and prices of no list


def test_pretty_printed_documents_are_read_on_the_fast_path(monkeypatch):
    def refuse(*_):
        raise AssertionError("the tolerant path was taken")

    texts = [json.dumps(json.loads(GOOD), indent=2)] * 50
    monkeypatch.setattr(
        json_fields,
        "_decode",
        lambda text, decode=json_fields._decode: decode(text) if text.endswith("\n") else refuse(),
    )
    assert as_text(extract(documents(*texts), LEAVES).values) == as_text(
        extract(documents(*[GOOD] * 50), LEAVES).values
    )


# ---- property: both paths agree on good documents ----------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=12)
whole = st.integers(-(10**12), 10**12)
number = whole | st.decimals(-(10**9), 10**9, places=4).map(float)
numeric = number | number.map(lambda n: format(n, "f") if isinstance(n, float) else str(n))
good = st.fixed_dictionaries(
    {},
    optional={
        "query": st.fixed_dictionaries(
            {},
            optional={
                "q": texts | st.none() | whole,
                "section": texts | st.lists(texts, max_size=3) | whole,
                "page": numeric | st.none(),
                "other": texts,
            },
        ),
        "total": numeric,
        "items": st.lists(
            st.fixed_dictionaries({}, optional={"id": texts | whole, "price": numeric, "title": texts}), max_size=4
        ),
        "noise": st.recursive(
            texts | number | st.booleans() | st.none(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
            max_leaves=6,
        ),
    },
)


@settings(max_examples=150, deadline=None)
@given(st.lists(good, min_size=1, max_size=60), st.booleans())
def test_fast_and_tolerant_path_give_the_same_values_for_good_documents(contents, ascii_only):
    column = documents(*(json.dumps(content, ensure_ascii=ascii_only) for content in contents))
    fast, tolerant = extract(column, LEAVES), extract_tolerant(column, LEAVES)
    assert as_text(fast.values) == as_text(tolerant.values)
    assert fast.unreadable == tolerant.unreadable == 0
