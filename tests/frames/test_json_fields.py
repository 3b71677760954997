"""A document has the same values whatever its neighbours are: whichever path reads it, good or bad."""

import json

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.frames import json_fields
from app.frames.json_fields import TEXT_AMONG_LISTS, extract
from app.rules.field_path import ITEMS, FieldPath, Kind
from tests.support.effort import repeated

LEAVES = (
    FieldPath("q", Kind.TEXT, ("query", "q")),
    FieldPath("section", Kind.TEXTS, ("query", "section")),
    FieldPath("page", Kind.NUMBER, ("query", "page")),
    FieldPath("total", Kind.NUMBER, ("total",)),
    FieldPath("ids", Kind.TEXT, ("items", ITEMS, "id")),
    FieldPath("prices", Kind.NUMBER, ("items", ITEMS, "price")),
)
GOOD = '{"query":{"q":"ring","section":["a","b"],"page":2},"total":3,"items":[{"id":1,"price":1.5},{"id":2,"price":2}]}'


def documents(*texts: str | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])


def as_text(values: pl.DataFrame, paths=LEAVES) -> list[tuple]:
    """Values whatever type a path gave them: bare numbers as floats, scalars of lists of text marked as such."""

    def plain(value):
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if value is None else str(value)

    types = {path.name: pl.List(pl.String) if path.is_list else pl.String for path in paths}
    values = json_fields._wrap_scalars(json_fields._numbers_as_text(values), types)
    columns = []
    for path in paths:
        column = values[path.name].cast(types[path.name])
        if path.kind is Kind.NUMBER:
            column = (
                column.list.eval(bare_as_decimal(pl.element()))
                if path.is_list
                else column.to_frame("n").select(bare_as_decimal(pl.col("n"))).to_series()
            )
        columns.append(plain(column.to_list()))
    return list(zip(*columns, strict=True))


def bare_as_decimal(number: pl.Expr) -> pl.Expr:
    """Bare numbers, which have an exponent, in one form; those that came as text as they are."""
    is_bare = number.str.contains("^-?[0-9.]+[eE][0-9+-]+$")
    value = number.str.strip_suffix("E0").cast(pl.Float64, strict=False)
    return pl.when(is_bare).then(pl.when(value.is_finite()).then(value.cast(pl.String))).otherwise(number)


def texts_of(value) -> list[str] | None:
    return None if value is None else [text for text in map(str, value) if text != TEXT_AMONG_LISTS]


def test_fields_of_a_good_document_are_taken_with_their_types():
    row = extract(documents(GOOD), LEAVES).values.row(0, named=True)
    assert (row["q"], row["section"], float(row["page"]), row["ids"]) == ("ring", ["a", "b"], 2.0, [1, 2])


def test_documents_without_a_field_have_null_and_absent_documents_too():
    result = extract(documents("{}", "", None, "null"), LEAVES)
    assert as_text(result.values) == [(None,) * 6] * 4
    assert result.unreadable == {}


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
        assert texts_of(found) == section
        assert result.unreadable == {}


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
    assert as_text(result.values)[0][:4] == ("gold ring", None, None, "7.0")


def test_what_cannot_be_read_is_known_by_path_and_document():
    result = extract(documents(GOOD, "nope", '{"items":{"id":1}}', GOOD, '{"query":{"page":{"x":1}}}', "[1]"), LEAVES)
    assert result.unreadable == {"": [1, 5], "ids": [2], "prices": [2], "page": [4]}


def test_pretty_printed_documents_are_read_on_the_fast_path(monkeypatch):
    def refuse(*_):
        raise AssertionError("the tolerant path was taken")

    texts = [json.dumps(json.loads(GOOD), indent=2)] * 50
    monkeypatch.setattr(
        json_fields,
        "_decode",
        lambda text, number, decode=json_fields._decode: decode(text, number) if text.endswith("\n") else refuse(),
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


@settings(max_examples=repeated(40, 300))
@given(st.lists(good, min_size=1, max_size=60), st.booleans())
def test_fast_and_tolerant_path_give_the_same_values_for_good_documents(contents, ascii_only):
    column = documents(*(json.dumps(content, ensure_ascii=ascii_only) for content in contents))
    fast, tolerant = extract(column, LEAVES), tolerantly(column, LEAVES)
    assert as_text(fast.values) == as_text(tolerant.values)
    assert fast.unreadable == tolerant.unreadable == {}


def tolerantly(column: pa.ChunkedArray, paths) -> json_fields.Extraction:
    """What the tolerant path alone gives."""
    rows = pa.array(range(len(column)), pa.uint64())
    values, unreadable = json_fields._read_tolerant(column, rows, paths)
    return json_fields.Extraction(json_fields._in_order([(rows, values)], paths), unreadable)


# ---- property: the neighbours of a document change nothing -------------------------------------------------------

MANY_WAYS = (
    *LEAVES,
    FieldPath("deep", Kind.TEXT, ("query", "filter", "stone")),
    FieldPath("any", Kind.ANY, ("total",)),
    FieldPath("any.section", Kind.ANY, ("query", "section")),
    FieldPath("any.items", Kind.ANY, ("items",)),
    FieldPath("body.id", Kind.TEXT, ("body", "id")),
)
numbers_as_written = st.sampled_from([
    "1.234", "1.230", "1.000", "12.500", "-1.234", "0", "-0", "-0.0", "7", "7.0", "1e2", "1E+2", "5e-30", "1e30", "1e400",
    "0.1234567890123456789", "0.014999999999999999999", "12345678901234567890", "9223372036854775808", "59.900000000000006",
    "123456789012345678901234567890", "0." + "1" * 70, "1.5e0003",
])  # fmt: skip
odd_texts = st.sampled_from([
    "", " ", "7", "007", "+7", ".5", "7.", " 7 ", "1.234", "1.230", "1,234", "1.234,56", "€ 7", "true", "false", "null", "a,b", "E0", "7E0",
    "NaN", "\u0000", "\ud800", "\n", 'x"y', "\u00e4", '{"id":1}', "id=5&stone=ruby", '[{"id":"5"}]', "eyJpZCI6IDV9", "314.0",
]).map(json.dumps)  # fmt: skip
scalars = numbers_as_written | odd_texts | st.sampled_from(["true", "false", "null"])
lists = st.lists(scalars, max_size=3).map(lambda items: f"[{','.join(items)}]")


def objects(*names: str, of: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    fields = st.lists(st.tuples(st.sampled_from(names), of), max_size=4)
    return fields.map(lambda pairs: "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in pairs) + "}")


small_objects = objects("id", "price", "stone", of=scalars | lists)
anything = scalars | lists | small_objects
in_text = small_objects.map(json.dumps)
item_lists = st.lists(small_objects | scalars | in_text, max_size=3).map(lambda items: f"[{','.join(items)}]")
queries = objects(
    "q",
    "section",
    "section[]",
    "section[0]",
    "page",
    "page[]",
    "filter[stone]",
    "filter",
    "filter[stone][]",
    of=anything,
)
any_document = (
    objects("query", "total", "items", "body", "other", of=queries | anything | item_lists | in_text)
    | anything
    | st.sampled_from(BAD)
    | st.sampled_from(["", GOOD])
)


# Next to them the first step, the second or the third reads most documents.
NEIGHBOURS = (
    [],
    [GOOD],
    [GOOD.replace("1.5", '"1.5"').replace('"total":3', '"total":"3"'), GOOD],
    [GOOD.replace('["a","b"]', '"a"').replace('"total":3', '"total":true'), GOOD],
    ["nope", GOOD, '{"total":[1]}', '{"query":{"section":7,"page":[1],"q":[1]},"items":7,"body":7}'],
)


@settings(max_examples=repeated(60, 600))
@given(any_document)
def test_every_step_gives_a_document_the_same_values(text):
    alone = tolerantly(documents(text), MANY_WAYS)
    for neighbours in NEIGHBOURS:
        found = extract(documents(*neighbours, text), MANY_WAYS)
        assert as_text(found.values, MANY_WAYS)[-1] == as_text(alone.values, MANY_WAYS)[0]
        lost = {name for name, rows in found.unreadable.items() if len(neighbours) in rows}
        assert lost == set(alone.unreadable)


@settings(max_examples=repeated(30, 200))
@given(st.lists(any_document, min_size=1, max_size=20))
def test_a_document_has_the_same_values_alone_and_among_any_others(texts):
    together = extract(documents(*texts), MANY_WAYS)
    alone = [extract(documents(text), MANY_WAYS) for text in texts]
    assert as_text(together.values, MANY_WAYS) == [as_text(one.values, MANY_WAYS)[0] for one in alone]
    for name in {*together.unreadable, *(name for one in alone for name in one.unreadable)}:
        assert together.unreadable.get(name, []) == [n for n, one in enumerate(alone) if name in one.unreadable]


@pytest.mark.parametrize("levels", [90, 1_000, 10_000, 200_000])
def test_a_document_is_read_however_deep_it_is_elsewhere(levels):
    deep = '{"total":7,"noise":' + "[" * levels + "]" * levels + ',"query":{"q":"ring"}}'
    for texts in ((deep,), (deep, GOOD), (deep, "nope")):
        assert as_text(extract(documents(*texts), LEAVES).values)[0][0] == "ring"


@pytest.mark.parametrize("first", ["12.5", '"12.5"', "true", "[1.5]"])
@pytest.mark.parametrize("text", ["1.234", "1.230", "1.000", "12.500"])
def test_a_number_that_is_doubtful_as_text_stays_text_next_to_bare_ones(first, text):
    texts = [f'{{"total":{first}}}', f'{{"total":"{text}"}}', f'{{"total":{text}}}']
    found = as_text(extract(documents(*texts), LEAVES).values)
    assert (found[1][3], found[2][3]) == (text, str(float(text)))
