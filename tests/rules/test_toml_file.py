"""Rule files: every mistake is named with its file, line and key, in whatever layout the TOML is written."""

import tomllib
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from app.core.errors import SettingsError
from app.rules.toml_file import DistinctTexts, LowerTexts, Pattern, RuleModel, Text, TomlFile, digest_of, mistake
from app.rules.toml_lines import find_lines

NASTY = '''# comment with [brackets] = "and an equals sign"
title = "a # in a string" # [not.a.table]
"quoted \\u00e9.key" = 1
'literal # key' = { inner = [1, { deep = "x" }], other.dotted = 2 }

text = """
[not_a_table]
not_a_key = 1 \\"""
even with quotes at the end"""""
raw = \'\'\'
[[call]]
\\\'\'\'
dates = [
  1979-05-27 07:32:00,  # the first
  [ 1, 2,

    3 ],
  "]", \'#\',
]

 [ table . "with.dots" ]
a.b . c = true
[[call]] # first
path = "/a"
[call.fields]
revenue = ["response.total",
           "response.sum"]
[[call]]
[[call.step]]
name = "x"
[[call.step]]
  name = "y"
  [call.step.more]
  z = 1
[later.parent.child]
x = 1
[later.parent]
y = 2
'''


@pytest.mark.parametrize(("path", "line"), [
    (("title",), 2), (("quoted é.key",), 3), (("literal # key", "inner", 1, "deep"), 4), (("literal # key", "other", "dotted"), 4),
    (("text",), 6), (("raw",), 10), (("dates",), 13), (("dates", 0), 14), (("dates", 1), 15), (("dates", 1, 2), 17), (("dates", 2), 18),
    (("dates", 3), 18), (("table",), 21), (("table", "with.dots"), 21), (("table", "with.dots", "a", "b", "c"), 22),
    (("call",), 23), (("call", 0), 23), (("call", 0, "path"), 24), (("call", 0, "fields"), 25), (("call", 0, "fields", "revenue"), 26),
    (("call", 0, "fields", "revenue", 1), 27), (("call", 1), 28), (("call", 1, "step"), 29), (("call", 1, "step", 0, "name"), 30),
    (("call", 1, "step", 1), 31), (("call", 1, "step", 1, "name"), 32), (("call", 1, "step", 1, "more", "z"), 34),
    (("later", "parent", "child", "x"), 36), (("later", "parent"), 37), (("later", "parent", "y"), 38),
    (("call", 1, "path"), 28), (("call", 0, "fields", "currency"), 25), (("not_a_key",), None), (("not_a_table",), None), ((), None),
])  # fmt: skip
def test_a_key_is_found_in_any_layout(path, line):
    assert find_lines(NASTY).of(path) == line
    assert find_lines(NASTY.replace("\n", "\r\n")).of(path) == line


def test_line_separators_of_other_kinds_within_a_line_are_not_counted():
    assert find_lines('a = "\u2028\u0085"  # \u2029\nb = 1').of(("b",)) == 2


NAMES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=5),
    st.from_regex(r"[a-z]{1,3}", fullmatch=True),
)
SCALARS = st.one_of(st.integers(-99, 99), st.booleans(), st.sampled_from(["", "#", "]", "[x]", "a = 1", "}", ","]))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))


def written(value) -> str:
    """A value as TOML: lists over several lines, tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[\n" + "".join(f"  {written(item)},\n" for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(name)} = {written(item)}" for name, item in value.items()) + "}"
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def paths_of(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths_of(item, (*path, key))


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_key_of_any_valid_file_has_a_line_on_which_it_stands(content):
    text = "".join(f"{quoted(name)} = {written(value)}\n" for name, value in content.items())
    assert tomllib.loads(text) == content
    lines = find_lines(text)
    for path in paths_of(content):
        line = lines._lines[path]
        if isinstance(path[-1], str):
            assert quoted(path[-1]) in text.split("\n")[line - 1]


class Step(RuleModel):
    name: Text = Field(description="what the step is called")
    kind: Literal["view", "purchase"] = "view"
    pattern: Pattern | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 1
    is_last: bool = False


class Shop(RuleModel):
    step: Annotated[tuple[Step, ...], Field(strict=False)] = ()
    hosts: LowerTexts = ()
    columns: DistinctTexts = ()
    names: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_more_hosts_than_columns(self):
        if len(self.hosts) > len(self.columns) > 0:
            raise mistake("more hosts than columns", "hosts", len(self.columns))
        return self


def parsed(text: str) -> Shop:
    return TomlFile(text, "shop.toml").parse(Shop)


def test_a_valid_file_becomes_the_model():
    shop = parsed('hosts = ["A.example"]\n[[step]]\nname = "x"\nshare = 1\n[names]\na = "b"\n')
    assert shop == Shop(hosts=("a.example",), step=(Step(name="x"),), names={"a": "b"})


@pytest.mark.parametrize(("text", "message"), [
    ("hosts = [\n", "shop.toml:2: not valid TOML: Invalid value"), ("a\n", "shop.toml:1: not valid TOML: Expected '=' after a key in a key/value pair (column 2)"),
    ("a = 1\n\na = 2\n", "shop.toml:3: not valid TOML: Cannot overwrite a value (column 6)"), (f"a = {'[' * 9999}", "shop.toml: lists or tables are nested too deeply"),
    (f"a = {'9' * 9999}", "shop.toml: not valid TOML: Exceeds the limit"), ("hsts = []\n", "shop.toml:1: hsts: unknown key. Did you mean hosts? Choose from step, hosts, columns, names"),
    ("zzzzz = 1\n", "shop.toml:1: zzzzz: unknown key. Choose from step, hosts"), ('"a b" = 1', 'shop.toml:1: "a b": unknown key'),
    ("[[step]]\n[[step]]\nname = 'x'\n", "shop.toml:1: step.name: missing: what the step is called"), ("[[step]]\nname = ' '\n", "shop.toml:2: step.name: must not be empty"),
    ("[[step]]\nname = 7\n", "shop.toml:2: step.name: must be text"), ("[step]\nname = 'x'\n", "shop.toml:1: step: must be a list"), ("step = [1]\n", "shop.toml:1: step: must be a table"),
    ("[[step]]\nname = 'x'\nkind = 'purchse'\n", "shop.toml:3: step.kind: 'purchse' is not valid. Did you mean purchase? Choose from view, purchase"),
    ("[[step]]\nname = 'x'\npattern = '('\n", "shop.toml:3: step.pattern: is not a valid regular expression: error: unclosed group"),
    *[(f"[[step]]\nname = 'x'\nshare = {share}\n", "shop.toml:3: step.share: must be ") for share in ("1.1", "-0.1", "nan", "inf", "'0.5'", "true")],
    ("[[step]]\nname = 'x'\nis_last = 1\n", "shop.toml:3: step.is_last: must be true or false"), ("hosts = [\n 'a',\n 1]\n", "shop.toml:3: hosts: must be text"),
    ("hosts = 'a'\n", "shop.toml:1: hosts: must be a list"), ("columns = ['a',\n'b',\n'a']\n", "shop.toml:3: columns: names a twice"),
    ("hosts = ['a',\n'b']\ncolumns = ['c']\n", "shop.toml:2: hosts: more hosts than columns"), ("[names]\na = 'b'\nc = 1\n", "shop.toml:3: names.c: must be text"),
    ("names = 1\n", "shop.toml:1: names: must be a table"), ("names.x = 1\nhosts = 2\n", "shop.toml:1: names.x: must be text"),
])  # fmt: skip
def test_a_mistake_is_named_with_file_line_and_key(text, message):
    with pytest.raises(SettingsError) as caught:
        parsed(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named_with_its_setting(tmp_path):
    with pytest.raises(SettingsError, match="^CARAT_SHOP: cannot read .*none.toml: No such file or directory$"):
        TomlFile.read(tmp_path / "none.toml", setting="CARAT_SHOP")
    path = tmp_path / "latin.toml"
    path.write_bytes("a = 1\nb = 'é'".encode("latin-1"))
    with pytest.raises(SettingsError, match="^CARAT_SHOP: cannot read .*latin.toml: line 2 is not UTF-8 text$"):
        TomlFile.read(path, setting="CARAT_SHOP")


def test_a_byte_order_mark_is_not_a_mistake(tmp_path):
    path = tmp_path / "windows.toml"
    path.write_bytes('\ufeffhosts = ["a"]\r\n'.encode())
    assert TomlFile.read(path, setting="CARAT_SHOP").parse(Shop).hosts == ("a",)


def test_a_mistake_that_only_the_reader_sees_has_its_line():
    file = TomlFile("[[step]]\nname = 'x'\n", "shop.toml")
    assert str(file.error(("step", 0, "name"), "is taken")) == "shop.toml:2: step.name: is taken"
    assert str(file.error((), "is taken")) == "shop.toml: is taken"


def test_equal_rules_have_an_equal_digest():
    assert digest_of(("a", 1)) == digest_of(("a", 1)) != digest_of(("a", 2))
    assert len(digest_of(())) == 16
