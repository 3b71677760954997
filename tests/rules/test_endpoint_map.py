"""The endpoint map, and where it is wrong."""

import pytest

from app.core.errors import SettingsError
from app.rules.endpoint_map import EVENTS, load_endpoint_map, parse_endpoint_map
from app.settings import SHIPPED_TRACKING

CALL = '[[call]]\nevent = "catalog"\nmethod = "GET"\npath = "/c"\n'


def test_the_shipped_map_has_every_event():
    assert {call.event for call in load_endpoint_map(SHIPPED_TRACKING).calls} == set(EVENTS)


@pytest.mark.parametrize(("text", "message"), [
    ("[[call]\n", "map.toml: .*line 1"), ("", r"map.toml: no \[\[call\]\] table"), ("[calls]\n", "map.toml, line 1, calls: unknown"),
    (CALL + "evnt = 1\n", "map.toml, line 5, evnt: unknown key"), ('[[call]]\nevent = "catalogue"\nmethod = "GET"\npath = "/"\n', "line 2, event: 'catalogue' is no event"),
    ('[[call]]\nevent = "catalog"\npath = "/"\n', "line 1, method: missing"), (CALL.replace("/c", "c"), "line 4, path: must begin with /"),
    (CALL.replace("/c", "/c?x=1"), "line 4, path: must begin with / and hold no query"), (CALL.replace("/c", "/{c"), "line 4, path: stray '{'"),
    (CALL + 'fields.secton = "request.query.s"', "line 5, fields.secton: unknown field; choose from"),
    (CALL + 'fields.section = "requests.query.s"', "line 5, fields.section: 'requests.query.s' is no path"),
    (CALL + 'fields.section = "request"', "line 5, fields.section: 'request' is no path"),
    (CALL + "fields.section = 7", "line 5, fields.section: a path is text"),
    (CALL + 'fields.shown_products = "response.items.id"', r"line 5, fields.shown_products: .* needs one \[\]"),
    (CALL + 'fields.section = "request.a[].b"', r"line 5, fields.section: .* takes no \[\]"),
    (CALL + 'fields.section = "request.a"\nfields.metal = "request.a"', "this path is already another field's"),
    (CALL + 'fields.section = "request.a"\nfields.metal = "request.a.b"', "line 6, fields.metal: its path goes through the value of section"),
    (CALL + '[call.fields]\nsection = "x.y"', "line 6, section: 'x.y' is no path"),
    (CALL + CALL + 'fields.section = "x.y"', "line 9, fields.section"),
])  # fmt: skip
def test_a_mistake_is_named_with_file_line_and_key(text, message):
    with pytest.raises(SettingsError, match=message):
        parse_endpoint_map(text, source="map.toml")


def test_a_map_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match="CARAT_TRACKING: cannot read .*none.toml"):
        load_endpoint_map(tmp_path / "none.toml")


def test_the_digest_follows_the_meaning_and_not_the_layout():
    plain, spaced = (
        parse_endpoint_map(CALL, source="a"),
        parse_endpoint_map("# a comment\n\n" + CALL.replace(" = ", "="), source="b"),
    )
    other = parse_endpoint_map(CALL.replace("/c", "/d"), source="a")
    assert plain.digest == spaced.digest != other.digest


def test_patterns_match_paths_and_nothing_else():
    call = parse_endpoint_map(
        '[[call]]\nevent="product_view"\nmethod="get"\npath="/a.b/{product_id}/x/{shop}"', source="a"
    ).calls[0]
    assert (call.method, call.path_fields) == ("GET", ("product_id", ""))
    assert call.path_pattern == r"^/a\.b/([^/]+)/x/([^/]+)/?$"


def test_a_key_with_brackets_or_dots_is_quoted():
    call = parse_endpoint_map(CALL + "fields.section = 'request.query.\"a.b[]\"'", source="a").calls[0]
    assert call.request[0].keys == ("query", "a.b[]")


def test_the_shipped_map_is_where_the_settings_say():
    assert load_endpoint_map(SHIPPED_TRACKING).calls
