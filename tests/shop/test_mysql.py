"""A real MariaDB: all tables at one instant, and every way in which it can be unreadable, partial, busy or gone."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pymysql
import pytest

import app.shop.mysql
from app.core.errors import SettingsError, ShopError
from app.core.service_url import ServiceUrl
from app.settings import load_settings
from app.shop import open_shop
from app.shop.mysql import MySQLShop
from app.shop.reading import ReaderProcess, Reading
from tests.shop.taking import opened, reading, table, take
from tests.support import mariadb
from tests.support.deadline import deadline
from tests.support.mariadb import MariaDB, running_mariadb

pytestmark = pytest.mark.slow

ONE_INSTANT = re.compile(r"one instant for all tables \(writers were held for (\d+) ms\)")
BY_ITSELF = "each table by itself, not all at one instant"
HARD = 3  # writers
LONGEST_LOCK_S = 20


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory) -> Iterator[MariaDB]:
    with running_mariadb(tmp_path_factory.mktemp("tls"), tls=True, options=["--require-secure-transport"]) as server:
        server.execute("CREATE TABLE shop.items (id INT PRIMARY KEY)", "INSERT INTO shop.items VALUES (1), (2)")
        yield server


@pytest.fixture
def items(server) -> str:
    server.execute(
        "CREATE OR REPLACE TABLE shop.items (id INT PRIMARY KEY, title VARCHAR(20)) ENGINE=InnoDB",
        "INSERT INTO shop.items VALUES (1, 'ring'), (2, NULL), (3, '💍')",
    )
    return "items"


@dataclass
class Writers:
    """Threads that move amounts between two tables, each in one transaction: the sum stays as it is.

    One that waits for a lock longer than LONGEST_LOCK_S gives up, and the test fails.
    """

    server: MariaDB
    moved: int = 0
    problems: list[BaseException] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        with closing(self.server.connect("root", database="shop")) as connection, connection.cursor() as cursor:
            cursor.execute(f"SET lock_wait_timeout = {LONGEST_LOCK_S}, innodb_lock_wait_timeout = {LONGEST_LOCK_S}")
            turn = number
            while not self._stopping.is_set():
                turn += 7
                giver, taker = ("purses", "safes") if turn % 2 else ("safes", "purses")
                try:
                    cursor.execute("BEGIN")
                    cursor.execute(f"UPDATE {giver} SET amount = amount - 1 WHERE id = {turn % 50 + 1}")
                    cursor.execute(f"UPDATE {taker} SET amount = amount + 1 WHERE id = {turn % 31 + 1}")
                    cursor.execute("COMMIT")
                except pymysql.OperationalError as error:
                    if error.args[0] != 1213:  # a deadlock is rolled back
                        self.problems.append(error)
                        return
                self.moved += 1

    @contextmanager
    def writing(self) -> Iterator["Writers"]:
        threads = [threading.Thread(target=self.run, args=(number,)) for number in range(HARD)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        assert self.problems == []


@pytest.fixture
def purses(server) -> list:
    for name in ("purses", "safes"):
        server.execute(
            f"CREATE OR REPLACE TABLE shop.{name} (id INT PRIMARY KEY, amount BIGINT) ENGINE=InnoDB",
            f"INSERT INTO shop.{name} SELECT seq, 1000 FROM shop.seq_1_to_50",
        )
    return [table("purses"), table("safes")]


BIG = table("big", "seq", source="seq_1_to_20000000")


def sum_of(taken) -> int:
    assert taken.errors == {}
    return sum(frame["amount"].sum() for frame in taken.frames.values())


def our_queries(server: MariaDB) -> list:
    """What the server does for anybody but its own threads and this question."""
    return [
        row
        for row in server.rows("SELECT user, command, state, info FROM information_schema.processlist WHERE id <> CONNECTION_ID()")
        if row[0] not in ("system user", "event_scheduler") and row[1] not in ("Sleep", "Daemon", "Binlog Dump", "Slave_IO")
    ]  # fmt: skip


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 20) -> None:
    ends = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(what)
        time.sleep(0.02)


# ---- one instant -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["carat", "flusher"])
def test_all_tables_are_of_one_instant_while_writers_write(server, purses, tmp_path, user):
    with opened(server, user) as shop, Writers(server).writing() as writers:
        for number in range(10):
            taken = take(shop, tmp_path / str(number), *purses)
            assert sum_of(taken) == 100_000
            assert ONE_INSTANT.fullmatch(taken.guarantees["purses"])
            assert taken.guarantees["purses"] == taken.guarantees["safes"]
    assert writers.moved > 100


def test_a_transaction_that_commits_while_tables_are_opened_is_in_all_of_them_or_in_none(server, purses, tmp_path, monkeypatch):  # fmt: skip
    """A commit between two snapshots is what a lock must keep out, also of a transaction that had written before it."""
    wait, commits = app.shop.mysql._wait_until_open, []

    def commit_in_between(*arguments):
        commits.append(threading.Thread(target=writer.commit))
        commits[0].start()
        time.sleep(0.2)
        return wait(*arguments)

    monkeypatch.setattr(app.shop.mysql, "_wait_until_open", commit_in_between)
    with (
        closing(server.connect("root", database="shop", autocommit=False)) as writer,
        opened(server, "flusher") as shop,
    ):
        with writer.cursor() as cursor:
            cursor.execute("UPDATE purses SET amount = amount - 500 WHERE id = 1")
            cursor.execute("UPDATE safes SET amount = amount + 500 WHERE id = 1")
        taken = take(shop, tmp_path, *purses)
        commits[0].join()
    assert ONE_INSTANT.fullmatch(taken.guarantees["purses"])
    assert sum_of(taken) == 100_000


def test_a_user_who_may_not_lock_reads_and_is_told_what_is_not_guaranteed(server, purses, tmp_path):
    with opened(server, "reader") as shop:
        taken = take(shop, tmp_path, *purses)
    assert sum_of(taken) == 100_000
    assert set(taken.guarantees.values()) == {
        f"{BY_ITSELF}: reader may not lock them; GRANT LOCK TABLES ON `shop`.* TO reader"
    }


def test_a_long_transaction_neither_stops_the_reading_nor_the_writers(server, purses, tmp_path, monkeypatch):
    monkeypatch.setattr(app.shop.mysql, "_LOCK_TRIES", 2)
    with (
        closing(server.connect("root", database="shop", autocommit=False)) as holder,
        opened(server) as shop,
        Writers(server).writing() as writers,
    ):
        holder.cursor().execute("UPDATE safes SET amount = amount WHERE id = 50")
        time.sleep(0.1)
        with deadline():
            taken = take(shop, tmp_path, *purses)
        moved = writers.moved
        wait_for(lambda: writers.moved > moved, "writers are still held")
        holder.rollback()
    assert taken.guarantees["purses"] == f"{BY_ITSELF}: transactions held them in 2 tries to lock them"
    assert taken.errors == {}
    assert taken.frames["safes"].height == 50


def test_writers_go_on_when_a_reading_process_cannot_open_its_table(server, purses, tmp_path, monkeypatch):
    """Such as one that has stopped, or that waits for a lock of its own."""
    monkeypatch.setattr(app.shop.mysql, "_OPEN_LIMIT_S", 1)
    server.execute("CREATE OR REPLACE TABLE shop.slow (id INT PRIMARY KEY)", "INSERT INTO shop.slow VALUES (1)")
    go = ReaderProcess.go

    def go_but_one(reader):
        os.kill(reader._processes["slow"].pid, 19)  # SIGSTOP
        go(reader)

    monkeypatch.setattr(ReaderProcess, "go", go_but_one)
    with opened(server) as shop, Writers(server).writing() as writers, reading(shop, tmp_path, table("slow"), *purses) as current:  # fmt: skip
        assert current.guarantees["purses"] == f"{BY_ITSELF}: slow could not be opened within 1 s"
        moved = writers.moved
        wait_for(lambda: writers.moved > moved, "writers are still held")
        assert sum(batch.num_rows for batch in current.batches("purses")) == 50


def test_writers_go_on_when_the_reading_dies(server, purses, tmp_path, monkeypatch):
    monkeypatch.setattr(ReaderProcess, "go", lambda reader: [process.kill() for process in reader._processes.values()])
    with opened(server) as shop:
        taken = take(shop, tmp_path, *purses)
        server.execute("UPDATE shop.purses SET amount = 0 WHERE id = 1")
    assert set(taken.errors.values()) == {"could not be read whole: its reading process died (signal 9)"}


def test_writers_go_on_when_whoever_locks_dies(server, purses, tmp_path, monkeypatch):
    def die(reader):
        raise KeyboardInterrupt

    monkeypatch.setattr(ReaderProcess, "go", die)
    with opened(server) as shop, pytest.raises(KeyboardInterrupt):
        take(shop, tmp_path, *purses)
    with closing(server.connect("root", database="shop", read_timeout=2)) as connection:
        connection.cursor().execute("UPDATE purses SET amount = 0 WHERE id = 1")


def test_a_lock_that_is_lost_is_no_guarantee(server, purses, tmp_path, monkeypatch):
    """Such as one that an administrator ended, because writers waited for it."""
    wait = app.shop.mysql._wait_until_open

    def lose(reader, lock, signs):
        server.execute(f"KILL {lock.thread_id()}")
        return wait(reader, lock, signs)

    monkeypatch.setattr(app.shop.mysql, "_wait_until_open", lose)
    with opened(server) as shop:
        taken = take(shop, tmp_path, *purses)
    assert taken.guarantees["safes"].startswith(f"{BY_ITSELF}: the lock was lost (")
    assert sum_of(taken) == 100_000


def test_a_slow_table_does_not_keep_the_others_from_being_opened(server, purses, tmp_path):
    """Sorting, say, for as long as it takes: its first row comes later than the tables may be locked."""
    server.execute("CREATE OR REPLACE TABLE shop.slow (id INT PRIMARY KEY)", "INSERT INTO shop.slow VALUES (1)")
    with opened(server) as shop:
        late = app.shop.mysql._OPEN_LIMIT_S + 1
        taken = take(shop, tmp_path, table("slow", where=f"SLEEP({late}) = 0"), *purses)
    assert ONE_INSTANT.fullmatch(taken.guarantees["slow"])
    assert sum(frame.height for frame in taken.frames.values()) == 101


@pytest.mark.parametrize("engine", ["MyISAM", "Aria"])
def test_a_table_without_transactions_is_stated(server, items, tmp_path, engine):
    server.execute(f"CREATE OR REPLACE TABLE shop.old (id INT PRIMARY KEY) ENGINE={engine}", "INSERT INTO shop.old VALUES (1)")  # fmt: skip
    with opened(server) as shop:
        taken = take(shop, tmp_path, table("old"), table("items"))
    assert taken.guarantees["old"].startswith(f"none: old is {engine}, ")
    assert "ALTER TABLE old ENGINE = InnoDB" in taken.guarantees["old"]
    assert ONE_INSTANT.fullmatch(taken.guarantees["items"])
    assert taken.frames["old"].height == 1


def test_one_table_can_be_kept_twice(server, items, tmp_path):
    with opened(server) as shop:
        taken = take(shop, tmp_path, table("rings", source="items", where="title = 'ring'"), table("items"))
    assert {name: frame.height for name, frame in taken.frames.items()} == {"rings": 1, "items": 3}


def test_a_view_is_read_as_a_table_is(server, items, tmp_path):
    server.execute("CREATE OR REPLACE VIEW shop.titled AS SELECT id, title FROM shop.items WHERE title IS NOT NULL")
    with opened(server) as shop:
        taken = take(shop, tmp_path, table("titled"))
    assert ONE_INSTANT.fullmatch(taken.guarantees["titled"])
    assert taken.frames["titled"]["id"].to_list() == [1, 3]


# ---- what is read ------------------------------------------------------------------------------------------------


def test_an_empty_table_is_empty(server, tmp_path):
    server.execute("CREATE OR REPLACE TABLE shop.nothing (id INT PRIMARY KEY, title TEXT)")
    with opened(server) as shop:
        taken = take(shop, tmp_path, table("nothing"))
    assert taken.errors == {}
    assert taken.frames["nothing"].height == 0


def test_columns_rows_and_conditions_are_those_of_the_plan(server, items, tmp_path):
    server.execute("ALTER TABLE shop.items ADD secret TEXT")
    plans = {
        "one": table("one", source="items", columns=("title",)),
        "two": table("two", source="items", exclude=("secret", "title")),
        "three": table("three", source="items", where="id = 1 OR id = 3 -- as agreed"),
    }
    with opened(server) as shop:
        taken = take(shop, tmp_path, *plans.values())
    assert taken.errors == {}
    assert {name: frame.columns for name, frame in taken.frames.items()} == {
        "one": ["id", "title"],
        "two": ["id"],
        "three": ["id", "title", "secret"],
    }
    assert taken.frames["three"]["id"].to_list() == [1, 3]


def test_rows_of_a_megabyte_are_read_a_few_at_a_time(server, tmp_path):
    server.execute(
        "SET sql_log_bin = 0",
        "CREATE OR REPLACE TABLE shop.wide (id INT PRIMARY KEY, story LONGTEXT)",
        "INSERT INTO shop.wide SELECT seq, REPEAT(CHAR(64 + seq % 64), 1048576) FROM shop.seq_1_to_200",
        "ANALYZE TABLE shop.wide",
    )
    with opened(server) as shop, reading(shop, tmp_path, table("wide")) as current:
        batches = list(current.batches("wide"))
    server.execute("DROP TABLE shop.wide")
    assert sum(batch.num_rows for batch in batches) == 200
    assert max(batch.num_rows for batch in batches) <= 40
    story = batches[-1].column("story")[-1].as_py()
    assert story == chr(64 + 200 % 64) * 1048576


def test_another_schema_is_seen_when_it_is_described(server, items):
    with opened(server) as shop:
        before = [column.kept_as for column in shop.describe(table("items"))]
        server.execute("ALTER TABLE shop.items CHANGE title name VARCHAR(20), ADD price DECIMAL(10,2)")
        after = [f"{column.kept_as} {column.type}" for column in shop.describe(table("items"))]
    assert before == ["id", "title"]
    assert after == ["id Int32", "name String", "price Decimal(10, 2)"]


# ---- partial, late, gone -----------------------------------------------------------------------------------------


def test_rows_that_are_missing_are_noticed(server, items, tmp_path, monkeypatch):
    read = Reading.__init__

    def read_less(self, name, sql, *arguments, **more):
        read(self, name, sql.replace(" ORDER BY", " WHERE t.id < 3 ORDER BY"), *arguments, **more)

    monkeypatch.setattr(Reading, "__init__", read_less)
    with opened(server) as shop:
        taken = take(shop, tmp_path, table("items"))
    assert taken.errors == {"items": "could not be read whole: partial, 2 rows were read, the table had 3"}


def test_rows_that_cannot_be_counted_are_not_trusted(server, items, tmp_path, monkeypatch):
    def count(*_):
        raise ShopError("could not be counted")

    monkeypatch.setattr(MySQLShop, "_count", count)
    with opened(server) as shop:
        assert take(shop, tmp_path, table("items")).errors == {"items": "could not be counted"}


def test_a_server_that_is_killed_while_it_is_read_is_a_clear_error(tmp_path):
    with running_mariadb(tmp_path / "server") as server:
        server.execute("CREATE TABLE shop.items (id INT PRIMARY KEY)", "INSERT INTO shop.items VALUES (1)")
        with opened(server) as shop, reading(shop, tmp_path / "read", BIG, table("items")) as current:  # fmt: skip
            batches = current.batches("big")
            first = next(batches)
            server.kill()
            with (
                deadline(),
                pytest.raises(ShopError, match=r"^could not be read whole: the connection broke \(.*\)$") as caught,
            ):
                list(batches)
            assert first.num_rows > 0
            assert "\n" not in str(caught.value)
        with deadline(), pytest.raises(ShopError, match="Can't connect to MySQL server"), opened(server):
            pass


def test_a_connection_that_is_killed_is_its_tables_error_alone(server, items, tmp_path):
    with opened(server) as shop, reading(shop, tmp_path, BIG, table("items")) as current:
        batches = current.batches("big")
        next(batches)
        ((number,),) = server.rows(
            "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT t.%' AND id <> CONNECTION_ID()"
        )
        server.execute(f"KILL {number}")
        with pytest.raises(ShopError, match="could not be read whole: "):
            list(batches)
        assert sum(batch.num_rows for batch in current.batches("items")) == 3


def test_a_query_that_is_killed_says_so(server, tmp_path):
    with opened(server, "reader") as shop, reading(shop, tmp_path, BIG) as current:  # nothing is counted
        batches = current.batches("big")
        next(batches)
        ((number,),) = server.rows(
            "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT t.%' AND id <> CONNECTION_ID()"
        )
        server.execute(f"KILL QUERY {number}")
        with pytest.raises(ShopError, match="could not be read whole: Query execution was interrupted"):
            list(batches)


def test_a_table_that_takes_too_long_ends_at_the_limit_and_nothing_is_left(server, items, tmp_path):
    with opened(server) as shop:
        endless = BIG.model_copy(update={"where": "SLEEP(0.01) = 0"})
        with deadline(), reading(shop, tmp_path, endless, table("items"), limit_s=2) as current:
            processes = [process.pid for process in current.reader._processes.values()]
            with pytest.raises(
                ShopError, match=r"^could not be read whole: not read within 2 s \(CARAT_SNAPSHOT_TIMEOUT_S\)$"
            ):
                list(current.batches("big"))
            assert sum(batch.num_rows for batch in current.batches("items")) == 3
        for pid in processes:
            assert not Path(f"/proc/{pid}").exists()
        wait_for(lambda: our_queries(server) == [], "the server still reads for us", limit_s=20)


def test_whoever_gives_up_leaves_nothing_behind(server, tmp_path):
    slow = BIG.model_copy(update={"where": "SLEEP(0.01) = 0"})
    with opened(server) as shop:
        with deadline(), suppress(KeyboardInterrupt), reading(shop, tmp_path, slow) as current:
            processes = [process.pid for process in current.reader._processes.values()]
            raise KeyboardInterrupt
        for pid in processes:
            assert not Path(f"/proc/{pid}").exists()
        wait_for(lambda: our_queries(server) == [], "the server still reads for us")


# ---- who may not, and what is not there --------------------------------------------------------------------------


@pytest.fixture
def limited(server, items) -> Iterator[str]:
    """A user who may read one table of two, and nothing else."""
    server.execute(
        "CREATE OR REPLACE TABLE shop.secrets (id INT PRIMARY KEY)",
        "CREATE OR REPLACE USER limited@'%' IDENTIFIED BY 'limited-geheim'",
        "GRANT SELECT (id) ON shop.items TO limited@'%'",
    )
    yield "limited"
    server.execute("DROP USER limited@'%'")


@pytest.mark.parametrize(("login", "message"), [
    ({"password": "falsch-geheim"}, r"Access denied for user 'carat'@.* \(using password: YES\)\. Check CARAT_SHOP_DB, and whether the server demands TLS"),
    ({"user": "nobody", "password": "falsch-geheim"}, "Access denied for user 'nobody'"), ({"database": "nowhere"}, "Unknown database 'nowhere'"),
    ({"user": "reader", "database": "mysql"}, "Access denied for user 'reader'@.* to database 'mysql'"),
])  # fmt: skip
def test_a_login_that_is_refused_is_one_line(server, login, message):
    with deadline(), pytest.raises(ShopError, match=message) as caught, opened(server, **login):
        pass
    text = str(caught.value)
    assert "\n" not in text
    assert "geheim" not in text
    assert text.startswith(f"mysql://127.0.0.1:{server.port}/")
    assert text.endswith("; nothing was changed")


@pytest.mark.parametrize(("address", "message"), [
    ("127.0.0.1:{closed}", "Connection refused"), ("no-such-host.invalid:3306", "Can't connect to MySQL server on 'no-such-host.invalid'"),
    ("[::1]:{closed}", r"mysql://\[::1\]:"),
])  # fmt: skip
def test_a_server_that_is_not_there_is_one_line(address, message):
    url = f"mysql://carat:falsch-geheim@{address.format(closed=mariadb.free_port())}/shop"
    with deadline(), pytest.raises(ShopError, match=message) as caught:
        MySQLShop(ServiceUrl.parse(url, "mysql"), max_replica_lag_s=300)
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(("user", "plan", "message"), [
    ("carat", table("orders"), "has no table orders that carat may read"), ("limited", table("secrets"), "has no table secrets that limited may read"),
    ("carat", table("items", where="id = = 1"), "items: You have an error in your SQL syntax.* near '= 1"), ("carat", table("items", where="nope = 1"), "items: Unknown column 'nope' in 'WHERE'"),
    ("carat", table("items", where="id = 1 ORDER BY id LIMIT 1"), "items: You have an error in your SQL syntax"), ("limited", table("items", where="title = 'ring'"), "items: .*denied.*'title'"),
])  # fmt: skip
def test_a_table_that_cannot_be_read_is_one_line_before_anybody_is_held_up(server, limited, user, plan, message):
    with opened(server, user) as shop, deadline(), pytest.raises(ShopError, match=message) as caught:
        shop.describe(plan)
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_columns_that_may_not_be_read_are_not_there(server, limited, tmp_path):
    with opened(server, limited) as shop:
        assert take(shop, tmp_path, table("items")).frames["items"].to_dicts() == [{"id": 1}, {"id": 2}, {"id": 3}]


def test_a_plan_that_names_columns_which_are_not_there_is_refused_by_their_names(server, items):
    with (
        opened(server) as shop,
        pytest.raises(
            ShopError,
            match=r"items has no column sku, titel: .* names sku as key, titel as columns\. Did you mean title\?",
        ),
    ):
        shop.describe(table("items", "sku", columns=("titel",)))


def test_a_table_that_is_being_altered_is_not_waited_for_all_day(server, items, monkeypatch):
    monkeypatch.setattr(app.shop.mysql, "_ANSWER_LIMIT_S", 1)
    with closing(server.connect("root", database="shop")) as alters, opened(server) as shop:
        alters.cursor().execute("LOCK TABLES items WRITE")
        with pytest.raises(ShopError, match=r"items: Lost connection to MySQL server during query \(timed out"):
            shop.describe(table("items"))


@pytest.mark.parametrize(("query", "message"), [
    ("sslmode=required", "unknown option sslmode. Did you mean ssl-mode[?] Choose from ssl-mode, ssl-ca"), ("ssl-mode=maybe", "ssl-mode=maybe is not valid. Choose from disabled, required, verify_ca, verify_identity"),
    ("ssl-mode=verify_ca", "ssl-mode=verify_ca needs ssl-ca="), ("ssl-mode=verify_ca&ssl-ca=/nowhere.pem", "cannot read ssl-ca=/nowhere.pem: No such file"), ("ssl-ca=/x.pem", "ssl-ca= has no effect with ssl-mode=disabled"),
    ("ssl-mode=required&ssl-cert=/x.pem&ssl-key=/x.key", "option ssl-cert: client certificates are not supported"),
])  # fmt: skip
def test_a_mistake_in_the_url_is_named(query, message):
    url = f"mysql://carat:falsch-geheim@127.0.0.1:1/shop?{query}"
    with (
        pytest.raises(SettingsError, match=f"^CARAT_SHOP_DB: {message}"),
        open_shop(load_settings(_env_file=None, shop_db=url)),
    ):
        pass


# ---- passwords and TLS -------------------------------------------------------------------------------------------

ODD = "@/:%+# ?&=ä💍'\"\\$!"


def test_a_login_of_special_characters_works_and_is_seen_nowhere(server, items, tmp_path, monkeypatch):
    """Both drivers take it; while it reads, no process shows it in its command line or environment."""
    user, password, database = "ä @/:%+#", f"geheim{ODD}", "läden @/:%+#?"
    monkeypatch.setenv("CARAT_SHOP_DB", f"mysql://x:{password}@127.0.0.1/shop")
    with closing(server.connect("root")) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE OR REPLACE DATABASE `{database}`")
        cursor.execute("CREATE OR REPLACE USER %s@'%%' IDENTIFIED BY %s", (user, password))
        cursor.execute(f"GRANT SELECT, LOCK TABLES ON `{database.replace('%', '%%')}`.* TO %s@'%%'", (user,))
        cursor.execute(f"CREATE TABLE `{database}`.slow (id INT PRIMARY KEY)")
        cursor.execute(f"INSERT INTO `{database}`.slow VALUES (1), (2)")
    try:
        with opened(server, user, password=password, database=database) as shop, reading(shop, tmp_path, table("slow", where="SLEEP(0.3) = 0")) as current:  # fmt: skip
            for process in current.reader._processes.values():
                shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()  # fmt: skip
                assert b"reader.py" in shown
                assert b"geheim" not in shown
            assert sum(batch.num_rows for batch in current.batches("slow")) == 2
    finally:
        with closing(server.connect("root")) as connection, connection.cursor() as cursor:
            cursor.execute("DROP USER %s@'%%'", (user,))
            cursor.execute(f"DROP DATABASE `{database}`")


# Rows come only where the connection that reads them is encrypted.
ENCRYPTED = "EXISTS (SELECT 1 FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher' AND variable_value <> '')"  # fmt: skip


@pytest.mark.parametrize(("mode", "host"), [
    ("required", "127.0.0.1"), ("verify_ca", "127.0.0.1"), ("verify_identity", "127.0.0.1"), ("VERIFY-IDENTITY", "localhost")
])  # fmt: skip
def test_tls_is_encrypted_and_verified(tls_server, tmp_path, mode, host):
    authority = tmp_path / "the authority's ä & b?.pem"
    authority.write_bytes(tls_server.ca.read_bytes())
    query = {"ssl-mode": mode} | ({} if mode == "required" else {"ssl-ca": str(authority)})
    url = tls_server.url(**query).replace("127.0.0.1", host)
    with closing(MySQLShop(ServiceUrl.parse(url, "mysql"), max_replica_lag_s=300)) as shop:
        taken = take(shop, tmp_path, table("items", where=ENCRYPTED))
    assert taken.errors == {}
    assert taken.frames["items"].height == 2


def test_the_test_of_encryption_tells_plain_text(server, items, tmp_path):
    with opened(server) as shop:
        assert take(shop, tmp_path, table("items", where=ENCRYPTED)).frames["items"].height == 0


@pytest.mark.parametrize("mode", ["verify_ca", "verify_identity"])
def test_tls_of_another_authority_is_refused(tls_server, mode):
    with deadline(), pytest.raises(ShopError, match="CERTIFICATE_VERIFY_FAILED"), opened(tls_server, **{"ssl-mode": mode, "ssl-ca": str(tls_server.other_ca)}):  # fmt: skip
        pass


def test_a_server_of_another_name_is_refused_where_its_identity_is_to_be_verified(tmp_path):
    (tmp_path / "tls").mkdir()
    ca, _, options = mariadb.make_certificates(tmp_path / "tls", "elsewhere.example")
    with running_mariadb(tmp_path / "server", options=options) as server:
        server.execute("CREATE TABLE shop.items (id INT PRIMARY KEY)", "INSERT INTO shop.items VALUES (1)")
        with opened(server, **{"ssl-mode": "verify_ca", "ssl-ca": str(ca)}) as shop:
            assert take(shop, tmp_path / "read", table("items", where=ENCRYPTED)).frames["items"].height == 1
        with pytest.raises(ShopError, match="certificate is not valid for '127.0.0.1'"), opened(server, **{"ssl-mode": "verify_identity", "ssl-ca": str(ca)}):  # fmt: skip
            pass
        url = server.url(**{"prefer_socket": "false", "ssl-mode": "VERIFY_IDENTITY", "ssl-ca": str(ca)})
        with ReaderProcess(url, [Reading("items", "SELECT id FROM items", tmp_path / "x.arrow", 10)], limit_s=1).started() as reader:  # fmt: skip
            reader.go()
            with pytest.raises(ShopError):
                list(reader.follow("items"))


def test_a_file_that_is_no_authority_is_refused(tls_server, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ShopError, match="Check CARAT_SHOP_DB"), opened(tls_server, **{"ssl-mode": "verify_ca", "ssl-ca": str(tmp_path / "ca.pem")}):  # fmt: skip
        pass


def test_the_connection_that_reads_verifies_too(tls_server, tmp_path):
    """Not only the one that asks first: each names itself."""
    for mode in ("VERIFY_CA", "VERIFY_IDENTITY"):
        url = tls_server.url(**{"prefer_socket": "false", "ssl-mode": mode, "ssl-ca": str(tls_server.other_ca)})
        with ReaderProcess(url, [Reading("items", "SELECT id FROM items", tmp_path / "x.arrow", 10)], limit_s=1).started() as reader:  # fmt: skip
            reader.go()
            with pytest.raises(ShopError):
                list(reader.follow("items"))


def test_plain_text_is_refused_by_a_server_that_demands_tls(tls_server):
    with pytest.raises(ShopError, match=r"whether the server demands TLS \(\?ssl-mode=required\)"), opened(tls_server):
        pass


def test_tls_is_refused_by_a_server_that_has_none(server):
    with pytest.raises(ShopError, match="SSL"), opened(server, **{"ssl-mode": "required"}):
        pass


# ---- replicas ----------------------------------------------------------------------------------------------------


def test_a_replica_that_has_stopped_is_refused(server, items, tmp_path):
    server.execute("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='x'")
    try:
        with pytest.raises(ShopError, match="is a replica that has stopped following its source: start it again"), opened(server):  # fmt: skip
            pass
        with opened(server, "reader") as shop:  # who may not ask, goes on
            assert take(shop, tmp_path, table("items")).frames["items"].height == 3
    finally:
        server.execute("RESET SLAVE ALL")


def test_a_replica_of_several_sources_is_asked_for_each(server):
    server.execute("CHANGE MASTER 'other' TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='x'")
    try:
        with pytest.raises(ShopError, match="is a replica that has stopped"), opened(server):
            pass
    finally:
        server.execute("RESET SLAVE 'other' ALL")


def test_a_replica_that_is_behind_is_refused_until_it_has_caught_up(server, tmp_path):
    server.execute("CREATE OR REPLACE TABLE shop.followed (id INT PRIMARY KEY)")
    server.execute("CREATE OR REPLACE USER replica@'%' IDENTIFIED BY 'x'", "GRANT REPLICATION SLAVE ON *.* TO replica@'%'")  # fmt: skip
    ((file, position, *_),) = server.rows("SHOW MASTER STATUS")
    with running_mariadb(tmp_path / "replica", options=["--server-id=2"]) as replica:
        replica.execute(
            "CREATE TABLE shop.followed (id INT PRIMARY KEY)",
            f"CHANGE MASTER TO MASTER_HOST='{server.host}', MASTER_PORT={server.port}, MASTER_USER='replica', MASTER_PASSWORD='x', "
            f"MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}, MASTER_DELAY=60",
            "START SLAVE",
        )
        server.execute("INSERT INTO shop.followed VALUES (1)")
        wait_for(lambda: replica.rows("SHOW SLAVE STATUS")[0][32] not in (None, 0), "the replica is not behind", 10)
        with pytest.raises(ShopError, match=r"is a replica \d+ s behind its source \(limit 0 s, CARAT_MAX_REPLICA_LAG_S\): try again later"), opened(replica, max_replica_lag_s=0):  # fmt: skip
            pass
        with opened(replica, max_replica_lag_s=300) as shop:
            assert take(shop, tmp_path / "a", table("followed")).frames["followed"].height == 0
        replica.execute("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=0", "START SLAVE")
        wait_for(lambda: replica.rows("SELECT COUNT(*) FROM shop.followed") == [(1,)], "the replica does not follow", 10)  # fmt: skip
        with opened(replica, max_replica_lag_s=0) as shop:
            assert take(shop, tmp_path / "b", table("followed")).frames["followed"].height == 1
    server.execute("DROP USER replica@'%'")


@pytest.mark.parametrize("name", ["Seconds_Behind_Source", "Seconds_Behind_Master"])
def test_a_lag_is_known_by_either_name(server, monkeypatch, name):
    rows = MySQLShop._rows

    def behind(self, sql, *values):
        if sql == "SHOW ALL SLAVES STATUS":
            raise ShopError("You have an error in your SQL syntax")  # as MySQL says
        return [{name: 301}] if sql == "SHOW REPLICA STATUS" else rows(self, sql, *values)

    monkeypatch.setattr(MySQLShop, "_rows", behind)
    with pytest.raises(ShopError, match="is a replica 301 s behind its source"), opened(server):
        pass
    with opened(server, max_replica_lag_s=301):
        pass


# ---- servers on which not all tables can be read at one instant ----------------------------------------------------

STRICT = "Percona-XtraDB-Cluster prohibits use of GET_LOCK with pxc_strict_mode = ENFORCING"


@pytest.mark.parametrize("code", [1105, 1235, 1047])
def test_a_server_without_locks_of_a_name_is_read_table_by_table_and_says_so(
    server, purses, tmp_path, monkeypatch, code
):
    run = app.shop.mysql._run

    def refusing(connection, sql, *values):
        if "GET_LOCK" in sql:
            raise pymysql.err.OperationalError(code, STRICT)
        return run(connection, sql, *values)

    monkeypatch.setattr(app.shop.mysql, "_run", refusing)
    with opened(server) as shop:
        assert shop.why_apart(2) == STRICT
        taken = take(shop, tmp_path, *purses)
    assert taken.errors == {}
    assert {name: frame.height for name, frame in taken.frames.items()} == {"purses": 50, "safes": 50}
    assert set(taken.guarantees.values()) == {f"{BY_ITSELF}: {STRICT}"}


def test_a_user_of_few_connections_holds_no_writer_up(server, purses, tmp_path):
    server.execute(
        "CREATE OR REPLACE USER few@'%' IDENTIFIED BY 'few-geheim' WITH MAX_USER_CONNECTIONS 4",
        "GRANT SELECT, LOCK TABLES ON shop.* TO few@'%'",
    )
    with opened(server, "few") as shop:
        assert shop.why_apart(2).startswith("few may have 4 connections (MAX_USER_CONNECTIONS), 5 are needed")
        taken = take(shop, tmp_path, *purses)
    assert taken.errors == {}
    assert taken.guarantees["purses"].startswith(f"{BY_ITSELF}: few may have 4 connections")
    with opened(server) as shop:
        assert shop.why_apart(2) == ""
