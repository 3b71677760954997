"""The endpoint map: what it says, and every mistake in it with file, line, key and the way to fix it."""

import re

import pytest

from app.core.errors import SettingsError
from app.rules import expressions
from app.rules.endpoint_map import EVENTS, FIELDS, CallPattern, EndpointMap, load_endpoint_map, parse_endpoint_map
from app.settings import SHIPPED_ENDPOINT_MAPS

CALL = '[[call]]\nevent = "catalog"\nmethod = "GET"\npath = "/c"\n'
ORDER = '[[call]]\nevent = "purchase"\nmethod = "POST"\npath = "/o"\n'


def parsed(text: str) -> EndpointMap:
    return parse_endpoint_map(text, source="map.toml")


def field(reading: str, name: str = "section", call: str = CALL) -> str:
    return f"{call}fields.{name} = {reading}"


MISTAKES = {
    "TOML syntax": ("[[call]\n", "map.toml:1: not valid TOML"),
    "empty": ("", "map.toml: call: missing: the [[call]] tables"),
    "no call": ("[calls]\n", "map.toml:1: calls: unknown key. "),
    "call is a table": ("[call]\n", "map.toml:1: call: must be [[call]] tables"),
    "call is a number": ("call = 3", "map.toml:1: call: must be [[call]] tables"),
    "call is a list of text": ('call = ["checkout"]', "map.toml:1: call: must be a table such as [[call]]"),
    "unknown key": (CALL + "evnt = 1\n", "map.toml:5: call.evnt: unknown key. Did you mean event?"),
    "unknown event": (CALL.replace("catalog", "catalogue"), "map.toml:2: call.event: 'catalogue' is not valid. Did you mean catalog?"),
    "event not text": (CALL.replace('"catalog"', "17"), "map.toml:2: call.event: 17 is not valid. "),
    "no event": (CALL.replace('event = "catalog"\n', ""), "map.toml:1: call.event: missing: what the calls are, such as product_view"),
    "no method": (CALL.replace('method = "GET"\n', ""), "map.toml:1: call.method: missing: the HTTP method"),
    "no path": (CALL.replace('path = "/c"\n', ""), "map.toml:1: call.path: missing: the path, such as /api/products/{product_id}"),
    "method not text": (CALL.replace('"GET"', "7"), 'map.toml:3: call.method: must be a method such as "GET", a list of them, or "*"'),
    "empty methods": (CALL.replace('"GET"', "[]"), 'map.toml:3: call.method: must be a method such as "GET", a list of them, or "*"'),
    "two methods in one": (CALL.replace('"GET"', '"GET, POST"'), "map.toml:3: call.method: 'GET, POST' is not a method such as GET or POST"),
    "all methods and one": (CALL.replace('"GET"', '["*", "GET"]'), 'map.toml:3: call.method: "*" stands for every method; leave the others out'),
    "path without slash": (CALL.replace("/c", "c"), "map.toml:4: call.path: must be text that begins with /, such as /api/products/{product_id}"),
    "path with host": (CALL.replace("/c", "https://shop.example/c"), "map.toml:4: call.path: must be text that begins with /"),
    "path with query": (CALL.replace("/c", "/c?x=1"), "map.toml:4: call.path: must not hold a query string; test request.query in `when`"),
    "open placeholder": (CALL.replace("/c", "/{c"), "map.toml:4: call.path: stray '{'; a placeholder is {name}, {name:pattern} or {name...}"),
    "empty placeholder": (CALL.replace("/c", "/{}"), "map.toml:4: call.path: stray '{'"),
    "placeholder of odd name": (CALL.replace("/c", "/{a-b}"), "map.toml:4: call.path: stray '{'"),
    "placeholder twice": (CALL.replace("/c", "/{a}/{a}"), "map.toml:4: call.path: {a} stands twice; give each placeholder a name of its own"),
    "rest in the middle": (CALL.replace("/c", "/{a...}/c"), "map.toml:4: call.path: {a...} takes the rest of the path, so it must be last"),
    "wrong pattern": (CALL.replace("/c", "/{a:[0-9}"), "map.toml:4: call.path: {a} is not a valid pattern: "),
    "pattern with look-ahead": (CALL.replace("/c", "/{a:(?=x)}"), "map.toml:4: call.path: {a}: '(?' cannot be used in a pattern here"),
    "wrong condition": (CALL + 'when = "request.body.a =="', "map.toml:5: call.when: 'request.body.a ==' is not a valid JMESPath expression: "),
    "condition on nothing of a call": (CALL + "when = \"body.a == 'x'\"", "map.toml:5: call.when: \"body.a == 'x'\": 'body' is not part of a call. Choose from request, response, path"),
    "condition not text": (CALL + "when = true", "map.toml:5: call.when: must be an expression such as response.items[].id"),
    "deep condition": (CALL + f"when = '{'!' * 200}request.a'", "is nested more than 50 deep"),
    "long condition": (CALL + f"when = \"request.{'a' * 1000}\"", "is longer than 1000 characters"),
    "unknown field": (field('"request.query.s"', "secton"), "map.toml:5: call.fields.secton: unknown field. Did you mean section?"),
    "field not of a call": (field('"requests.query.s"'), "map.toml:5: call.fields.section: 'requests.query.s': 'requests' is not part of a call. Did you mean request?"),
    "whole document": (field('"request"'), "map.toml:5: call.fields.section: 'request' is a whole document; name a value in it, such as request.id"),
    "field is a number": (field("7"), "map.toml:5: call.fields.section: must be an expression such as response.id, a table such as { path = … }, or a list of these"),
    "empty list": (field("[]"), "map.toml:5: call.fields.section: must be an expression"),
    "empty expression": (field('""'), "map.toml:5: call.fields.section: must be an expression such as response.items[].id"),
    "empty key": (field('"request.body..quantity"'), "map.toml:5: call.fields.section: 'request.body..quantity' is not a valid JMESPath expression: "),
    "bad expression": (field('"response.items[?"', "shown_products"), "map.toml:5: call.fields.shown_products: 'response.items[?' is not a valid JMESPath expression: "),
    "unknown function": (field('"lenght(response.a)"', "results_total"), "map.toml:5: call.fields.results_total: 'lenght(response.a)' names no function of JMESPath: lenght. Did you mean length?"),
    "fields no table": (CALL + 'fields = "response.price"', "map.toml:5: call.fields: must be a table"),
    "no such placeholder": (field('"path.sectoin"').replace("/c", "/{sec}"), "map.toml:5: call.fields.section: 'path.sectoin': the path has no placeholder {sectoin}. "),
    "no such placeholder in a function": (field('"join(\'-\', [path.x, path.sec])"').replace("/c", "/{sec}"), "map.toml:5: call.fields.section: \"join('-', [path.x, path.sec])\": the path has no placeholder {x}. "),
    "no such placeholder in a condition": (CALL.replace("/c", "/{sec}") + "when = \"path.x == '1'\"", "map.toml:5: call.when: \"path.x == '1'\": the path has no placeholder {x}. "),
    "unknown way to read": (field('{ path = "response.a", minor = 2 }', "price_min"), "map.toml:5: call.fields.price_min.minor: unknown key. "),
    "table without source": (field("{ split = false }"), "map.toml:5: call.fields.section.path: missing: the expression of the value, or const or recall"),
    "path and const": (field('{ path = "response.a", const = "x" }'), "map.toml:5: call.fields.section.const: path and const are two values; keep one, or make a list of two"),
    "const a list": (field("{ const = [1] }"), "map.toml:5: call.fields.section.const: must be text or a number"),
    "minor units of text": (field('{ path = "response.a", minor_units = 2 }'), "map.toml:5: call.fields.section.minor_units: minor_units is for money"),
    "minor units too many": (field('{ path = "response.a", minor_units = 20 }', "price_min"), "map.toml:5: call.fields.price_min.minor_units: must be from 0 to 8"),
    "minor units a fraction": (field('{ path = "response.a", minor_units = 0.5 }', "price_min"), "map.toml:5: call.fields.price_min.minor_units: must be the number of decimals, such as 2, or an expression of it"),
    "minor units true": (field('{ path = "response.a", minor_units = true }', "price_min"), "map.toml:5: call.fields.price_min.minor_units: must be the number of decimals"),
    "decimal of text": (field('{ path = "response.a", decimal = "," }'), "map.toml:5: call.fields.section.decimal: decimal is for numbers"),
    "odd decimal": (field('{ path = "response.a", decimal = ";" }', "page"), "map.toml:5: call.fields.page.decimal: ';' is not valid. Choose from ,, ."),
    "split of an id": (field('{ path = "response.a", split = "|" }', "shown_products"), "map.toml:5: call.fields.shown_products.split: split is for section, material, metal and filters"),
    "split true": (field('{ path = "response.a", split = true }'), 'map.toml:5: call.fields.section.split: must be what separates the values, such as "|", or false'),
    "range of a page": (field('{ path = "response.a", range = "-" }', "page"), "map.toml:5: call.fields.page.range: range is for price_min and price_max"),
    "empty range": (field('{ path = "response.a", range = "" }', "price_min"), "map.toml:5: call.fields.price_min.range: must not be empty"),
    "offset of a price": (field('{ path = "response.a", offset = true }', "price_min"), "map.toml:5: call.fields.price_min.offset: offset is for page"),
    "offset zero": (field('{ path = "response.a", offset = 0 }', "page"), "map.toml:5: call.fields.page.offset: must be true, or the page size where the call has none, such as 20"),
    "unknown decoder": (field('{ path = "response.a", decode = "jsn" }'), "map.toml:5: call.fields.section.decode: 'jsn' is not valid. Did you mean json?"),
    "decode without path": (field('{ const = "a", decode = "json" }'), "map.toml:5: call.fields.section.path: missing: decode and lookup need the expression of a value"),
    "wrong match": (field('{ path = "response.a", match = "(" }'), "map.toml:5: call.fields.section.match: is not a valid pattern: "),
    "match with look-ahead": (field('{ path = "response.a", match = "(?=x)" }'), "map.toml:5: call.fields.section.match: '(?' cannot be used in a pattern here"),
    "lookup without key": (field('{ path = "response.a", lookup = { table = "variants", value = "product_id" } }'), "map.toml:5: call.fields.section.lookup.key: missing: the table's column that holds the value"),
    "lookup text": (field('{ path = "response.a", lookup = "variants" }'), "map.toml:5: call.fields.section.lookup: must be a table"),
    "recall of nothing": (field('{ recall = "lines" }'), "map.toml:5: call.fields.section: recall: no entry remembers 'lines'. "),
    "recall misspelt": (CALL + 'remember.lines = { value = "response.a" }\nfields.sort = { recall = "linse" }', "map.toml:6: call.fields.sort: recall: no entry remembers 'linse'. Did you mean lines?"),
    "remember text": (CALL + 'remember.lines = "response.a"', "map.toml:5: call.remember.lines: must be a table such as [call.remember.lines]"),
    "remember without value": (CALL + 'remember.lines = { key = "response.a" }', "map.toml:5: call.remember.lines.value: missing: the expression of what is remembered"),
    "remember under a field": (CALL + 'remember.price = { value = "response.a" }', "map.toml:5: call.remember.price: price is a field: write fields.price"),
    "filter with a field's name": (CALL + 'filters.metal = "request.query.metal"', "map.toml:5: call.filters.metal: metal is a field: write fields.metal"),
    "filter of odd name": (CALL + 'filters."a b" = "request.query.metal"', 'map.toml:5: call.filters."a b": must be a name of letters, digits and _'),
    "money way of a filter": (CALL + 'filters.stone = { path = "request.query.stone", minor_units = 2 }', "map.toml:5: call.filters.stone.minor_units: minor_units is for money"),
    "a call twice": (CALL + CALL, "map.toml:8: call.path: call number 1 takes every call of this method and path; give that one a `when`"),
    "a call twice with a list": (ORDER + CALL.replace('"GET"', '["GET", "POST"]') + CALL.replace('"GET"', '["POST", "GET"]').replace("/c", "/c/"), "map.toml:12: call.path: call number 2 takes every call"),
    "ignore of nothing": (CALL + "[[ignore]]\n", "map.toml:5: ignore: names neither a method nor a path, so every call would be ignored"),
    "ignore of everything": (CALL + '[[ignore]]\nmethod = "*"\n', "map.toml:5: ignore: names neither a method nor a path, so every call would be ignored"),
    "ignore with an event": (CALL + '[[ignore]]\nevent = "other"\npath = "/x"\n', "map.toml:6: ignore.event: unknown key. "),
    "ignore a table": (CALL + '[ignore]\npath = "/x"\n', "map.toml:5: ignore: must be [[ignore]] tables"),
    "ignore defaults text": ('ignore_defaults = "no"\n' + CALL, "map.toml:1: ignore_defaults: must be true or false"),
    "currency sign": ('currency = "€"\n' + CALL, "map.toml:1: currency: must be a code of three letters, such as EUR"),
    "odd decimal separator": ('decimal_separator = "."\n' + "currency = 3\n" + CALL, "map.toml:2: currency: must be a code of three letters, such as EUR"),
    "second call": (CALL + ORDER + 'fields.section = "x.y"', "map.toml:9: call.fields.section: 'x.y': 'x' is not part of a call. "),
    "fields table": (CALL + '[call.fields]\nsection = "x.y"', "map.toml:6: call.fields.section: 'x.y': 'x' is not part of a call. "),
    "one of a list": (field('["request.query.s", "x.y"]'), "map.toml:5: call.fields.section: 'x.y': 'x' is not part of a call. "),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_file_line_key_and_the_way_to_fix_it(text, message):
    with pytest.raises(SettingsError) as caught:
        parsed(text)
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    assert said.startswith("map.toml")


def test_a_map_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match="CARAT_TRACKING: cannot read .*none.toml"):
        load_endpoint_map(tmp_path / "none.toml")


def test_the_shipped_demo_map_has_every_event_of_a_shopper():
    events = {call.event for call in load_endpoint_map(SHIPPED_ENDPOINT_MAPS / "demo.toml").calls}
    assert events >= set(EVENTS) - {"cart_update", "order_cancel", "refund", "other"}


def test_the_digest_follows_the_meaning_and_not_the_layout():
    plain = parsed(CALL)
    spaced = parse_endpoint_map("# a comment\n\n" + CALL.replace(" = ", "="), source="b")
    assert plain.digest == spaced.digest
    others = [CALL.replace("/c", "/d"), CALL + "when = 'response.a'", field('"response.a"'), 'currency = "EUR"\n' + CALL, "ignore_defaults = false\n" + CALL]  # fmt: skip
    assert len({plain.digest, *(parsed(other).digest for other in others)}) == 6


def test_patterns_take_paths_and_nothing_else():
    call = parsed('[[call]]\nevent="product_view"\nmethod="get"\npath="/a.b//{product_id}/x/{shop}/"').calls[0]
    assert call.pattern == CallPattern(("GET",), r"(?i)^/a\.b/([^/]+)/x/([^/]+)/?$", ("product_id", "shop"))


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", r"(?i)^/?$"),
        ("/p/{a...}", r"(?i)^/p/(.+)/?$"),
        (r"/p/{a:\\d+}", r"(?i)^/p/(\d+)/?$"),
        (r"/p/{a:(x|y)z[(]}", r"(?i)^/p/((?:x|y)z[(])/?$"),
        (r"/p/{a:[a-z]{2}}", r"(?i)^/p/([a-z]{2})/?$"),
    ],
)
def test_a_placeholder_is_one_group_of_the_pattern(path, pattern):
    assert parsed(CALL.replace("/c", path)).calls[0].pattern.path_pattern == pattern


def test_methods_are_one_a_list_or_all():
    methods = [
        parsed(CALL.replace('"GET"', one)).calls[0].pattern.methods for one in ('"post"', '["PUT", "post"]', '"*"')
    ]
    assert methods == [("POST",), ("POST", "PUT"), ()]


def test_a_placeholder_with_a_fields_name_comes_after_what_fields_say():
    call = parsed(field('"response.id"', "product_id").replace("/c", "/p/{product_id}")).calls[0]
    assert [reading.expression.text for reading in call.fields["product_id"]] == ["response.id", "path.product_id"]


def test_a_key_with_brackets_or_dots_is_quoted():
    call = parsed(field("'request.query.\"a.b[]\"'")).calls[0]
    assert call.fields["section"][0].expression.keys == ("request", "query", "a.b[]")


def test_a_condition_has_parts_that_are_read_by_columns_and_parts_for_the_library():
    when = parsed(CALL + "when = \"request.body.a == 'x' && !response.b && response.items[0].id\"").calls[0].when
    kinds = [type(part) for part in when.conditions]
    assert (type(when), kinds) == (expressions.AllOf, [expressions.Test, expressions.Not, expressions.Search])


def test_what_a_field_says_goes_before_what_the_map_says():
    text = (
        'decimal_separator = ","\n' + ORDER + 'fields.revenue = ["response.a", { path = "response.b", decimal = "." }]'
    )
    assert [reading.decimal for reading in parsed(text).calls[0].fields["revenue"]] == [",", "."]


def test_maps_that_recall_or_look_up_say_so():
    lookup = field('{ path = "response.id", lookup = { table = "variants", key = "id", value = "product" } }')
    recall = CALL + 'remember.lines = { value = "response.a" }\nfields.sort = { recall = "lines" }'
    assert [parsed(text).reads_calls_alone for text in (CALL, lookup, recall)] == [True, False, False]
    assert [(one.table, one.key, one.value) for one in parsed(lookup).lookups] == [("variants", "id", "product")]


def test_preflights_and_health_checks_are_ignored_unless_the_map_says_no():
    assert len(parsed(CALL).ignored) == 2
    assert parsed("ignore_defaults = false\n" + CALL).ignored == ()
    ignored = parsed(
        "ignore_defaults = false\n" + CALL + '[[ignore]]\nmethod = "*"\npath = "/internal/{rest...}"\n'
    ).ignored
    assert ignored == (CallPattern((), r"(?i)^/internal/(.+)/?$", ("rest",)),)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_placed_and_is_documented(name, request):
    assert name in parsed(field('"response.a"', name, ORDER)).calls[0].fields
    manual = (request.config.rootpath / "docs" / "endpoint-map.md").read_text(encoding="utf-8")
    assert re.search(rf"^\|.*`{name}`", manual, re.MULTILINE)


def test_the_maps_of_the_manual_are_valid(request):
    manual = (request.config.rootpath / "docs" / "endpoint-map.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", manual, re.DOTALL)
    whole = [text for text in examples if "[[call]]" in text]
    assert len(whole) >= 2
    for text in whole:
        assert parsed(text).calls
