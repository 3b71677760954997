"""URLs of databases and services: parsed once, and never shown with their password."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.service_url import ServiceUrl, url_options

ALL = ("chdb", "clickhouse", "mysql", "sqlite", "http", "https")


def parsed(text: str) -> ServiceUrl:
    return ServiceUrl.parse(text, *ALL)


@pytest.mark.parametrize(("text", "host", "port", "user", "password", "database", "is_secure"), [
    ("clickhouse://ch", "ch", 8123, "default", "", "", False), ("clickhouse://ch/?secure=true", "ch", 8443, "default", "", "", True),
    ("clickhouse://me:pw@CH:9000/db?secure=true&verify=false", "ch", 9000, "me", "pw", "db", True), ("clickhouse://me@[::1]:1", "::1", 1, "me", "", "", False),
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
    ("clickhouse://ch/?secur=true", "^unknown option secur. Did you mean secure[?] Choose from secure, verify, ca, cert, key, cluster, hosts$"), ("clickhouse://ch/?secure=ture", "^secure=ture is not valid. Did you mean true[?]"),
    ("clickhouse://ch/?secure=true&secure=false", "^option secure is given twice$"), ("clickhouse://ch/?secure", "^secure= is not valid"),
    ("mysql://db/shop?sslmode=required", "^unknown option sslmode. Did you mean ssl-mode[?]"), ("mysql://db/shop?ssl-mode=maybe", "^ssl-mode=maybe is not valid. Choose from disabled, required, verify_ca"),
    ("mysql://db", "names no database"), ("mysql://db/", "names no database"), ("clickhouse://", "is not a valid URL such as clickhouse://user:password@host:8123/"),
    ("clickhouse://h:0", "is not a valid URL"), ("clickhouse://h:99999", "is not a valid URL"), ("clickhouse://h:http", "is not a valid URL"), ("clickhouse://h/#x", "must not contain #"),
    ("clickhouse://u:p\tq@h", "is not a valid URL"), ("clickhouse://u:%ff@h", "is not a valid URL .*write % as %25, @ as %40"), ("clickhouse:/h", "^must begin with chdb:// or clickhouse:// or"),
    ("warehouse", "^must begin with"), ("", "^must begin with"), ("chdb://", "^chdb:// needs a path, such as chdb://./var/warehouse$"), ("chdb:///", "needs a path"), ("sqlite://shop.db", "needs a path"),
    ("https://u@m.example", "without user"), ("https://m.example?x", "without user"), ("https://m.example#x", "without user"),
])  # fmt: skip
def test_a_wrong_url_is_refused_with_what_to_write(text, message):
    with pytest.raises(ValueError, match=message):
        parsed(text)


@pytest.mark.parametrize(("query", "message"), [
    ("secure=on", "^secure=on is not valid. Did you mean true[?] Choose from true, false$"), ("secure=True", "^secure=True is not valid. Did you mean true[?]"), ("secure=1", "^secure=1 is not valid"),
    ("secure=yes", "^secure=yes is not valid"), ("secure=", "^secure= is not valid"), ("secure=true&verify=on", "^verify=on is not valid"), ("secure=true&verify=full", "^verify=full is not valid"),
    ("secure=true&verify=False", "^verify=False is not valid. Did you mean false[?]"), ("secure=true&verify=0", "^verify=0 is not valid. Did you mean false[?]"), ("ssl=true", "^unknown option ssl. Did you mean secure[?]"),
    ("tls=1", "^unknown option tls. Did you mean secure[?]"), ("protocol=https", "^unknown option protocol. Did you mean secure[?]"), ("Secure=true", "^unknown option Secure. Did you mean secure[?]"),
    ("secure=true&ca_cert=/x", "^unknown option ca_cert. Did you mean ca[?]"), ("secure=true&ssl-ca=/x", "^unknown option ssl-ca. Did you mean ca[?]"), ("secure=true&client_cert=/x", "Did you mean cert[?]"),
    ("secure=true&ssl_key=/x", "Did you mean key[?]"), ("secure=true&insecure=true", "Did you mean verify[?]"), ("database=x", "^unknown option database. Choose from"),
    ("verify=false", "^verify= has no effect without TLS: add secure=true$"), ("secure=false&ca=/x", "^ca= has no effect without TLS"), ("ca=/x", "^ca= has no effect without TLS"),
    ("secure=true&ca=", "^ca= needs a path"), ("secure=true&cert=/x", "needs both cert= and key="), ("secure=true&key=/x", "needs both"), ("secure=true&verify=false&ca=/x", "^ca= has no effect with verify=false"),
])  # fmt: skip
def test_tls_of_clickhouse_is_never_silently_off(query, message):
    with pytest.raises(ValueError, match=message):
        parsed(f"clickhouse://u:geheim@ch/?{query}")


def test_the_port_of_tls_needs_tls():
    with pytest.raises(
        ValueError, match="^port 8443 is ClickHouse's port for TLS, and TLS is off: add [?]secure=true$"
    ):
        parsed("clickhouse://u:geheim@ch:8443/")
    assert parsed("clickhouse://ch:8443/?secure=true").is_secure
    assert not parsed("clickhouse://ch:8443/?secure=false").is_secure


@pytest.mark.parametrize(("query", "message"), [
    ("ssl-ca=/x", "^ssl-ca= has no effect with ssl-mode=disabled: write ssl-mode=verify_identity"), ("ssl-mode=required&ssl-ca=/x", "^ssl-ca= has no effect with ssl-mode=required"),
    ("ssl-mode=verify_ca", "^ssl-mode=verify_ca needs ssl-ca="), ("secure=true", "^unknown option secure. Did you mean ssl-mode[?]"), ("tls=true", "Did you mean ssl-mode[?]"),
    ("ca=/x", "^unknown option ca. Did you mean ssl-ca[?] Choose from ssl-mode, ssl-ca$"), ("verify=false", "Did you mean ssl-mode[?]"), ("ssl-mode=true", "^ssl-mode=true is not valid"),
    ("ssl-mode=preferred", "^ssl-mode=preferred is not valid"), ("ssl-cert=/x", "^option ssl-cert: client certificates are not supported"), ("cert=/x", "^option cert: client certificates are not supported"),
    ("key=/x", "client certificates are not supported"), ("ssl-key=/x", "client certificates are not supported"),
])  # fmt: skip
def test_tls_of_mysql_is_never_silently_off(query, message):
    with pytest.raises(ValueError, match=message):
        parsed(f"mysql://u:geheim@db/shop?{query}")


@pytest.mark.parametrize("name", ["user", "username", "password", "PASSWORD", "passwd", "pwd", "token"])
@pytest.mark.parametrize("scheme", ["clickhouse", "mysql"])
def test_a_login_among_the_options_is_refused_and_not_shown(scheme, name):
    with pytest.raises(ValueError, match="user and password stand before the host, as in") as refused:
        parsed(f"{scheme}://db/shop?{name}=geheim")
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("text", [
    "clickhouse://carat:12#geheim@ch.example:8123/", "clickhouse://carat:12/geheim@ch.example:8123/", "clickhouse://carat:12?geheim@ch.example:8123/", "mysql://carat:12/geheim@db/shop",
    "clickhouse://carat:12#geheim", "clickhouse://carat:ge[heim@ch", "clickhouse://carat:%ffgeheim@ch", "clickhouse://carat:geheim@ch:port/", "clickhouse://ch/?secure=geheim geheim", "clickhouse://ch/?geheim@x=1",
    "mysql://carat:12?geheim@db/shop", "clickhouse://carat:geheim@/", "clickhouse://ch/?secure=true&verify=geheim!", "clickhouse://ch/?geheim!=1",
])  # fmt: skip
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(text):
    with pytest.raises(ValueError, match=".") as refused:
        parsed(text)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(("text", "security"), [
    ("clickhouse://ch", "not encrypted"), ("clickhouse://ch/?secure=true", "encrypted, certificate verified"), ("clickhouse://ch/?secure=true&verify=false", "encrypted, certificate NOT verified"),
    ("mysql://db/shop", "not encrypted"), ("mysql://db/shop?ssl-mode=required", "encrypted, certificate NOT verified"), ("mysql://db/shop?ssl-mode=verify_ca&ssl-ca=/x", "encrypted, certificate verified"),
])  # fmt: skip
def test_a_url_says_how_its_connection_is_protected(text, security):
    assert parsed(text).security == security


def test_every_option_has_a_meaning_and_one_place():
    for scheme in ("clickhouse", "mysql"):
        names = [option.name for option in url_options(scheme)]
        assert len(set(names)) == len(names)
        assert all(option.meaning for option in url_options(scheme))


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
