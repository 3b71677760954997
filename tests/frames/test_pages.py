"""Addresses: whole, relative, broken, international and percent-encoded ones never fail a row."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.frames.channels import arrivals
from app.frames.pages import host_of, page_of, url_parameter
from app.rules.channels import load_channel_rules
from app.settings import SHIPPED_CHANNELS
from tests.support.corpora import naughty_strings

RULES = load_channel_rules(SHIPPED_CHANNELS)
_PARTS = ["", "http://", "https://", "//", "HTTPS://", "android-app://", "/", "?", "#", "&", "=", "%", "%2", "%zz", "%00", "utm_source=",
          "gclid=", "utm_medium=cpc", ";jsessionid=1", "@", ":", "[::1]", "www.", "google.com", "пример.рф", "xn--e1afmkfd", "\\", " ", "\x00"]  # fmt: skip
_ADDRESSES = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(_PARTS), max_size=9).map("".join))


def of(expression: pl.Expr, address: str) -> str:
    return pl.DataFrame({"a": [address]}).select(expression).item()


@pytest.mark.parametrize(
    ("address", "page", "host"),
    [
        ("https://shop.example/p/17?utm_source=x#top", "https://shop.example/p/17", "shop.example"),
        ("HTTPS://WWW.Shop.Example/P/17", "https://www.shop.example/P/17", "shop.example"),
        ("https://shop.example", "https://shop.example/", "shop.example"),
        ("https://shop.example?utm_source=x", "https://shop.example/", "shop.example"),
        ("https://anna:secret@shop.example:8443/p", "https://shop.example:8443/p", "shop.example"),
        ("//shop.example/p?x", "//shop.example/p", "shop.example"),
        ("/p/17?gclid=1", "/p/17", ""),
        ("p/17#reviews", "p/17", ""),
        ("shop.example/p?x=1", "shop.example/p", "shop.example"),
        ("index.html", "index.html", "index.html"),
        ("https://shop.example/p;jsessionid=AB12?x=1", "https://shop.example/p", "shop.example"),
        ("https://пример.рф/кольца?x", "https://пример.рф/кольца", "пример.рф"),
        ("https://xn--e1afmkfd.xn--p1ai/%D0%BA", "https://xn--e1afmkfd.xn--p1ai/%D0%BA", "xn--e1afmkfd.xn--p1ai"),
        ("https://[2001:db8::1]:8080/p", "https://[2001:db8::1]:8080/p", "[2001:db8::1]"),
        ("https://shop.example./p", "https://shop.example./p", "shop.example"),
        ("  https://shop.example/p\n", "https://shop.example/p", "shop.example"),
        ("https://shop.example/a\nb?c\nd", "https://shop.example/a\nb", "shop.example"),
        ("https:///p", "https:///p", ""),
        ("%%%", "%%%", ""),
        ("", "", ""),
    ],
)
def test_a_page_has_no_query_and_a_host_no_port(address, page, host):
    assert (of(page_of("a"), address), of(host_of("a"), address)) == (page, host)


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("https://s.example/?utm_source=a%20b+c", "a b c"),
        ("https://s.example/?x=1&UTM_Source=A", "A"),
        ("https://s.example/#utm_source=a", "a"),
        ("https://s.example/?x=1&amp;utm_source=a", "a"),
        ("https://s.example/?utm_source=%D0%BA", "к"),
        ("https://s.example/?utm_source=%ff%zz", "\ufffd%zz"),
        ("https://s.example/?utm_source=", ""),
        ("https://s.example/?my_utm_source=a", ""),
        ("https://s.example/utm_source=a", ""),
    ],
)
def test_a_parameter_is_decoded_whatever_its_case(address, value):
    assert of(url_parameter("a", "utm_source"), address) == value


def require_whole_rows(addresses: list[str]) -> None:
    """Every address has a page and a host, and as a page and as a referrer it gives each session one arrival."""
    frame = pl.DataFrame({"a": addresses}, schema={"a": pl.String})
    parts = frame.select(page=page_of("a"), host=host_of("a"))
    assert parts.null_count().row(0) == (0, 0)
    assert not parts["page"].str.contains(r"[?#]").any()
    sessions = pl.Series(range(len(addresses)), dtype=pl.UInt32)
    for page, referrer in (("a", "none"), ("none", "a"), ("a", "a")):
        calls = frame.with_columns(none=pl.lit("")).select(session_number=sessions, page_url=page, referrer=referrer)
        found = arrivals(calls, RULES)
        assert found.height == len(addresses)
        assert sum(found.null_count().row(0)) == 0
        assert found.filter(pl.col("channel") == "").is_empty()


@given(st.lists(_ADDRESSES, min_size=1, max_size=30))
@hypothesis_settings(max_examples=25)
def test_no_address_fails_a_row(addresses):
    require_whole_rows(addresses)


def test_no_naughty_string_fails_a_row():
    naughty = naughty_strings()
    around = [f"https://{text}/p?utm_source={text}" for text in naughty] + [
        f"https://s.example/{text}?gclid={text}" for text in naughty
    ]
    require_whole_rows([*naughty, *around])
