"""URLs of databases and services: parsed once, and never shown with their password."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.service_url import ServiceUrl

ALL = ("chdb", "clickhouse", "mysql", "sqlite", "http", "https")


def parsed(text: str) -> ServiceUrl:
    return ServiceUrl.parse(text, *ALL)


@pytest.mark.parametrize(("text", "host", "port", "user", "password", "database", "is_secure"), [
    ("clickhouse://ch", "ch", 8123, "default", "", "", False), ("clickhouse://ch/?secure=true", "ch", 8443, "default", "", "", True),
    ("clickhouse://me:pw@CH:9000/db?secure=Yes&verify=0", "ch", 9000, "me", "pw", "db", True), ("clickhouse://me@[::1]:1", "::1", 1, "me", "", "", False),
    ("clickhouse://ch?secure=false", "ch", 8123, "default", "", "", False), ("mysql://db/shop", "db", 3306, "root", "", "shop", False),
    ("mysql://u:p%40%3A@db:1/l%C3%A4den?ssl-mode=VERIFY-CA&ssl-ca=/x.pem", "db", 1, "u", "p@:", "läden", True), ("clickhouse://u:a@b@h", "h", 8123, "u", "a@b", "", False),
    ("https://metabase.example/bi/", "metabase.example", 443, "", "", "bi", True), ("http://localhost:3000", "localhost", 3000, "", "", "", False),
])  # fmt: skip
def test_a_url_has_its_parts_and_the_defaults_of_its_scheme(text, host, port, user, password, database, is_secure):
    url = parsed(text)
    assert (url.host, url.port, url.user, url.password.get_secret_value(), url.database, url.is_secure) == (host, port, user, password, database, is_secure)  # fmt: skip
    assert parsed(url.with_password()) == url


def test_a_certificate_is_verified_unless_the_url_says_otherwise():
    assert parsed("clickhouse://ch/?secure=true").is_verified
    assert not parsed("clickhouse://ch/?secure=true&verify=false").is_verified


def test_an_embedded_database_has_a_path_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/carat")
    assert parsed("chdb://./var/a b#%41?").local_path == tmp_path / "var/a b#%41?"
    assert str(parsed("sqlite:///var/shop.db").local_path) == "/var/shop.db"
    assert str(parsed("chdb://~/warehouse").local_path) == "/home/carat/warehouse"


@pytest.mark.parametrize(("text", "shown"), [
    ("clickhouse://me:s3cr:et@host:1/?secure=true", "clickhouse://me:***@host:1/?secure=true"), ("clickhouse://me@host", "clickhouse://me@host"), ("clickhouse://host:1/", "clickhouse://host:1/"),
    ("chdb://./var", "chdb://./var"), ("mysql://u:p@h/shop?ssl-mode=required", "mysql://u:***@h/shop?ssl-mode=required"), ("https://m.example/bi", "https://m.example/bi"),
])  # fmt: skip
def test_a_url_is_shown_as_it_was_written_without_its_password(text, shown):
    assert (str(parsed(text)), repr(parsed(text))) == (shown, f"ServiceUrl({shown!r})")


@pytest.mark.parametrize(("text", "message"), [
    ("clickhouse://ch/?secur=true", "^unknown option secur. Did you mean secure[?] Choose from secure, verify$"), ("clickhouse://ch/?secure=ture", "^secure=ture is not valid. Did you mean true[?]"),
    ("clickhouse://ch/?secure=1&secure=0", "^option secure is given twice$"), ("clickhouse://ch/?secure", "^secure= is not valid"),
    ("mysql://db/shop?sslmode=required", "^unknown option sslmode. Did you mean ssl-mode[?]"), ("mysql://db/shop?ssl-mode=maybe", "^ssl-mode=maybe is not valid. Choose from disabled, required, verify_ca"),
    ("mysql://db", "names no database"), ("mysql://db/", "names no database"), ("clickhouse://", "is not a valid URL such as clickhouse://user:password@host:8123/"),
    ("clickhouse://h:0", "is not a valid URL"), ("clickhouse://h:99999", "is not a valid URL"), ("clickhouse://h:http", "is not a valid URL"), ("clickhouse://h/#x", "must not contain #"),
    ("clickhouse://u:p\tq@h", "is not a valid URL"), ("clickhouse://u:%ff@h", "is not a valid URL .*write @ as %40"), ("clickhouse:/h", "^must begin with chdb:// or clickhouse:// or"),
    ("warehouse", "^must begin with"), ("", "^must begin with"), ("chdb://", "^chdb:// needs a path, such as chdb://./var/warehouse$"), ("chdb:///", "needs a path"), ("sqlite://shop.db", "needs a path"),
    ("https://u@m.example", "without user"), ("https://m.example?x", "without user"), ("https://m.example#x", "without user"),
])  # fmt: skip
def test_a_wrong_url_is_refused_with_what_to_write(text, message):
    with pytest.raises(ValueError, match=message):
        parsed(text)


PASSWORDS = st.text(st.characters(codec="utf-8"), max_size=30)
SCHEMES = st.sampled_from(["clickhouse", "mysql"])


@given(SCHEMES, PASSWORDS, PASSWORDS)
def test_any_user_and_password_round_trip(scheme, user, password):
    url = parsed(f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@host/db")
    assert (url.user, url.password.get_secret_value()) == (
        user or {"clickhouse": "default", "mysql": "root"}[scheme],
        password,
    )
    assert parsed(url.with_password()) == url


@given(SCHEMES, PASSWORDS, st.booleans())
def test_no_password_is_ever_shown_even_if_it_is_not_escaped(scheme, password, is_escaped):
    secret = f"Geheim{password}Wort"
    text = f"{scheme}://user:{quote(secret, safe='') if is_escaped else secret}@host/db"
    try:
        url = parsed(text)
    except ValueError as error:
        shown = str(error)
    else:
        shown = f"{url} {url!r} {[url]}"
    assert "Geheim" not in shown
    assert "Wort" not in shown
