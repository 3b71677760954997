"""Which entries a call can be, by its method and path."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.frames.routes import fits, normal_path, normal_path_sql, percent_decoded, placeholder_values, with_routes
from app.rules.endpoint_map import parse_endpoint_map


def normal(endpoint: str) -> str:
    return pl.DataFrame({"endpoint": [endpoint]}).select(normal_path()).item()


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("/c", "/c"), ("/c?x=1", "/c"), ("/c#top", "/c"), ("https://shop.example/c?u=https://x", "/c"), ("http://shop.example:8080//c", "/c"),
        ("//c///d", "/c/d"), ("/c;jsessionid=AB12/d;x=1?y", "/c/d"), ("https://shop.example", ""), ("", ""), ("/c/", "/c/"), ("app://host/c", "/c"),
        ("/c?next=http://x/y", "/c"), ("c", "c"),
    ],
)  # fmt: skip
def test_a_path_is_held_against_patterns_in_one_form(endpoint, path):
    assert normal(endpoint) == path


def test_the_engine_makes_the_same_path(warehouse_sql):
    endpoints = ["/c;x=1/d//e?q=1#t", "https://a.example//c", "c", "", "/c?u=http://x;y//z", "HTTP://A/b;c"]
    for endpoint in endpoints:
        assert warehouse_sql(f"SELECT {normal_path_sql('endpoint')} FROM (SELECT {endpoint!r} AS endpoint)") == normal(
            endpoint
        )


@pytest.fixture
def warehouse_sql():
    from chdb import query

    return lambda sql: query(sql, "TabSeparatedRaw").bytes().decode().removesuffix("\n")


def entry(path: str, method: str = '"GET"', when: str = "", event: str = "catalog") -> str:
    condition = f"when = '{when}'\n" if when else ""
    return f'[[call]]\nevent = "{event}"\nmethod = {method}\npath = "{path}"\n{condition}'


def candidates(toml: str, *calls: tuple[str, str]) -> list[tuple[int, ...]]:
    frame = pl.DataFrame(calls, schema=["method", "endpoint"], orient="row")
    routed, routes = with_routes(frame, parse_endpoint_map(toml, source="x"))
    assert routed["endpoint"].to_list() == [endpoint for _, endpoint in calls]
    return [routes[route] for route in routed["route"]]


def test_the_entries_of_a_call_are_in_the_order_of_the_map_up_to_one_without_condition():
    toml = entry("/c", when="request.a") + entry("/{x}", '"*"', "request.b") + entry("/c") + entry("/{y...}", '"*"')
    assert candidates(toml, ("GET", "/c"), ("POST", "/c"), ("GET", "/d/e"), ("get", "/C/"), ("GET", "/")) == [
        (0, 1, 2), (1, 3), (3,), (0, 1, 2), (),
    ]  # fmt: skip


def test_a_method_may_be_any_of_a_list():
    toml = entry("/c", '["PUT", "POST"]')
    assert candidates(toml, ("post", "/c"), ("PUT", "/c"), ("GET", "/c")) == [(0,), (0,), ()]


def test_ignored_calls_are_preflights_health_checks_and_what_the_map_names():
    ignored = parse_endpoint_map(
        entry("/c") + '[[ignore]]\nmethod = "*"\npath = "/internal/{rest...}"\n', source="x"
    ).ignored
    calls = [
        ("OPTIONS", "/c"),
        ("HEAD", "/c"),
        ("GET", "/healthz/"),
        ("GET", "/internal/x/y"),
        ("GET", "/internal"),
        ("GET", "/c"),
        ("GET", "/status/1"),
    ]
    frame = pl.DataFrame(calls, schema=["method", "path"], orient="row")
    found = frame.select(pl.any_horizontal(fits(pattern) for pattern in ignored)).to_series().to_list()
    assert found == [True, True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("/p/{a}/x/{b}", "/p/1/x/2", ("1", "2")), ("/p/{a}-{b}", "/p/1-2-3", ("1-2", "3")), ("/p/{a...}", "/p/x/y/", ("x/y/",)),
        (r"/p/{a:\\d+}{b:(\\.json)?}", "/p/17.json", ("17", ".json")), (r"/p/{a:\\d+}{b:(\\.json)?}", "/p/17", ("17", "")), ("/p/{a}", "/P/Ab", ("Ab",)),
        ("/p/{a:(x|y)+}/{b}", "/p/xyx/z", ("xyx", "z")), ("/p/{a}", "/q/1", (None,)),
    ],
)  # fmt: skip
def test_placeholders_hold_what_their_pattern_takes(pattern, path, values):
    call = parse_endpoint_map(entry(pattern), source="x").calls[0].pattern
    found = placeholder_values(pl.Series([path]), call, call.placeholders)
    assert tuple(series.item() for series in found.values()) == values


@pytest.mark.parametrize(
    ("text", "decoded"),
    [("a%2Fb", "a/b"), ("%C3%96", "Ö"), ("100%", "100%"), ("a+b", "a+b"), ("%FF", "\ufffd"), ("%zz", "%zz"), ("", ""), (None, None), ("%2541", "%41")],
)  # fmt: skip
def test_percent_signs_are_decoded_once(text, decoded):
    assert percent_decoded(pl.Series(["x", text], dtype=pl.String)).to_list() == ["x", decoded]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_no_endpoint_is_an_error(endpoints):
    toml = entry("/{a}", when="request.a") + entry("/{b...}", '"*"')
    assert len(candidates(toml, *(("GET", endpoint) for endpoint in endpoints))) == len(endpoints)
