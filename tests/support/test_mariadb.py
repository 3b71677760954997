"""The MariaDB that other tests believe: what they lean on is proved here."""

import os
import select
import signal
import ssl
import subprocess
import sys
from contextlib import closing, suppress
from urllib.parse import unquote, urlsplit

import pymysql
import pytest

from tests.support import hostile_tables, mariadb
from tests.support.mariadb import MariaDB, running_mariadb
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        server.execute(
            "CREATE TABLE shop.orders (id INT PRIMARY KEY, name VARCHAR(20))",
            "INSERT INTO shop.orders VALUES (1, '💍')",
        )
        yield server


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory):
    with running_mariadb(tmp_path_factory.mktemp("tls"), tls=True, options=["--require-secure-transport"]) as server:
        yield server


def refusal(server: MariaDB, user: str, sql: str) -> int | None:
    """The number of the error that the user's statement gets, if any."""
    with closing(server.connect(user)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(sql)
        except pymysql.OperationalError as error:
            return error.args[0]
    return None


def test_it_starts_and_answers(server):
    assert server.rows("SELECT id, name FROM shop.orders") == [(1, "💍")]
    assert "MariaDB" in server.rows("SELECT version()")[0][0]


def test_a_database_is_utf8mb4_and_time_is_utc(server):
    assert server.rows(
        "SELECT default_character_set_name, @@character_set_server, @@time_zone"
        " FROM information_schema.schemata WHERE schema_name = 'shop'"
    ) == [("utf8mb4", "utf8mb4", "+00:00")]


def test_its_url_leads_to_the_shop(server):
    url = urlsplit(server.url())
    with closing(
        pymysql.connect(
            host=url.hostname, port=url.port, user=url.username, password=url.password, database=url.path[1:]
        )
    ) as connection:
        assert connection.db == b"shop"
        assert connection.user == b"carat"


def test_every_part_of_a_url_is_quoted(server):
    text = server.url("a@b", "p:/?#%ä ", "c/d", ssl_ca="/e f&g", timeout=5)
    url = urlsplit(text)
    assert text.isascii()
    assert (url.hostname, url.port, unquote(url.path)) == ("127.0.0.1", server.port, "/c/d")
    assert (unquote(url.username), unquote(url.password)) == ("a@b", "p:/?#%ä ")
    assert url.query == "ssl_ca=%2Fe%20f%26g&timeout=5"


@pytest.mark.parametrize(
    ("user", "may", "may_not"),
    [
        ("carat", ["SELECT * FROM shop.orders", "LOCK TABLES shop.orders READ", "SHOW SLAVE STATUS"], ["FLUSH TABLES"]),
        (
            "reader",
            ["SELECT * FROM shop.orders"],
            ["LOCK TABLES shop.orders READ", "FLUSH TABLES", "SHOW SLAVE STATUS"],
        ),
        (
            "flusher",
            ["SELECT * FROM shop.orders", "FLUSH TABLES WITH READ LOCK"],
            ["LOCK TABLES shop.orders READ", "SHOW SLAVE STATUS"],
        ),
    ],
)
def test_a_user_may_do_what_it_should_and_not_more(server, user, may, may_not):
    writes = ["INSERT INTO shop.orders VALUES (2, '')", "CREATE TABLE shop.own (id INT)", "DROP TABLE shop.orders"]
    assert [refusal(server, user, sql) for sql in may] == [None] * len(may)
    for sql in (*may_not, *writes):
        assert refusal(server, user, sql) in {1044, 1142, 1227}, sql  # no access to the database, table or server


def test_a_reader_sees_no_other_database(server):
    with closing(server.connect("reader")) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        assert [name for (name,) in cursor] == ["information_schema", "shop"]
    assert refusal(server, "reader", "SELECT * FROM mysql.global_priv") == 1142


@pytest.mark.parametrize("login", [{"password": "wrong"}, {"password": ""}, {"user": "nobody"}])
def test_a_wrong_login_is_refused(server, login):
    with pytest.raises(pymysql.OperationalError) as caught:
        server.connect(**login)
    assert caught.value.args[0] == 1045


def test_all_users_without_password_are_root_on_loopback(server):
    users = server.rows(
        "SELECT user, host FROM mysql.user WHERE user NOT IN ('carat', 'reader', 'flusher', 'mariadb.sys')"
    )
    assert sorted(users) == [("root", "127.0.0.1"), ("root", "::1"), ("root", "localhost")]


def test_killed_and_started_again_it_keeps_what_was_committed(tmp_path):
    with running_mariadb(tmp_path) as server:
        port = server.port
        server.execute("CREATE TABLE shop.orders (id INT PRIMARY KEY)")
        with closing(server.connect("root", autocommit=False)) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop.orders VALUES (1)")
            connection.commit()
            cursor.execute("INSERT INTO shop.orders VALUES (2)")
            server.kill()
            with pytest.raises(pymysql.OperationalError):
                cursor.execute("SELECT 1")
        with pytest.raises(pymysql.OperationalError):
            server.connect()
        server.start()
        assert server.port == port
        assert server.rows("SELECT id FROM shop.orders") == [(1,)]

        server.stop()
        assert not server.running
        server.start()
        assert server.rows("SELECT id FROM shop.orders") == [(1,)]
    assert not server.running
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mariadbd.log"]


def test_tls_connects_with_its_ca(tls_server):
    context = ssl.create_default_context(cafile=tls_server.ca)
    for host in ("127.0.0.1", "localhost"):
        with closing(tls_server.connect(host=host, ssl=context)) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_version'")
            assert cursor.fetchone()[1].startswith("TLSv1.")


def test_tls_is_refused_with_another_ca(tls_server):
    with pytest.raises(pymysql.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        tls_server.connect(ssl=ssl.create_default_context(cafile=tls_server.other_ca))


def test_a_server_that_requires_tls_refuses_plain_text(tls_server):
    with pytest.raises(pymysql.OperationalError) as caught:
        tls_server.connect(ssl_disabled=True)
    assert caught.value.args[0] == 1045  # as if the password were wrong: MariaDB names no other reason


def test_a_long_folder_path_works(tmp_path):
    deep = tmp_path / ("größe-" * 20) / ("x" * 60)
    with running_mariadb(deep) as server:
        assert len(os.fsencode(server.data)) > 200
        assert server.rows("SELECT 1") == [(1,)]
        with closing(server.connect("root", unix_socket=str(server.socket))) as connection:
            assert connection.host_info == "Localhost via UNIX socket"
    assert not server.socket.parent.exists()


def test_options_win_over_the_defaults(tmp_path):
    with running_mariadb(tmp_path, options=["--default-time-zone=+02:00", "--max-connections=17"]) as server:
        assert server.rows("SELECT @@time_zone, @@max_connections") == [("+02:00", 17)]


def test_a_server_that_does_not_start_shows_its_log(tmp_path):
    with (
        pytest.raises(mariadb.DidNotStartError, match="unknown option '--no-such-option'"),
        running_mariadb(tmp_path, options=["--no-such-option"]),
    ):
        pass


def test_a_taken_port_is_left_to_its_owner(server, tmp_path, monkeypatch):
    ports = iter([server.port, mariadb.free_port()])
    monkeypatch.setattr(mariadb, "free_port", lambda: next(ports))
    with running_mariadb(tmp_path) as second:
        assert second.port != server.port
        assert second.rows("SHOW TABLES FROM shop") == []


def test_without_mariadb_one_line_tells_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mariadb, "PLACES", ())
    assert mariadb.find_server() is None
    with pytest.raises(RuntimeError, match="apt-get install mariadb-server"), running_mariadb(tmp_path):
        pass
    assert "\n" not in mariadb.MISSING


def test_it_does_not_outlive_a_killed_test_run(tmp_path):
    program = """if True:
        import sys
        from pathlib import Path
        from tests.support.mariadb import running_mariadb
        with running_mariadb(Path(sys.argv[1])) as server:
            print(server.process.pid, flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "folder")],
        cwd=CHECKOUT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as run:
        pid = int(run.stdout.readline())
        descriptor = os.pidfd_open(pid)
        run.kill()
    try:
        assert select.select([descriptor], [], [], 10)[0], "the server still runs"
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)


def test_the_table_of_every_type_holds_every_hostile_value(server):
    hostile_tables.create(server)
    shown = hostile_tables.expected_rows(server)
    ids = sorted(hostile_tables.IDS.values())
    assert shown["id"] == [str(number) for number in ids]
    values = {
        (name, column): shown[column][ids.index(number)]
        for name, number in hostile_tables.IDS.items()
        for column in hostile_tables.COLUMNS
    }
    assert {name for name, _ in values} == set(hostile_tables.HOSTILE_ROWS)
    assert all(values["all NULL", column] is None for column in hostile_tables.COLUMNS)
    assert all(values["an ordinary row", column] is not None for column in hostile_tables.COLUMNS)
    assert shown["id"][-1] == "18446744073709551615"
    for key, value in {
        ("decimals: widest", "decimal_65_30"): "9" * 35 + "." + "9" * 30,
        ("floats: highest", "double"): "1.7976931348623157e308",
        ("floats: no exact binary", "float"): "0.10000000149011612",
        ("times: zero", "datetime"): "0000-00-00 00:00:00",
        ("times: days that no month has", "date"): "2024-02-31",
        ("times: earliest", "time_6"): "-838:59:59.999999",
        ("times: zero", "year"): "0000",
        ("texts: a NUL byte", "varchar_latin1"): "a\0b",
        ("texts: empty", "enum"): "",
        ("texts: emoji", "set"): "größe,😀",
        ("bits: all ones", "bit_64"): "18446744073709551615",
        ("bytes: padded", "binary_4"): "61000000",
        ("bytes: not UTF-8", "blob"): "FFFE80C328EDA080",
    }.items():
        assert values[key] == value, key
    assert len(values["texts: 1 MB", "longtext"].encode()) > 1_000_000
    assert len(values["bytes: 1 MB", "longblob"]) == 2 * 1024 * 1024
