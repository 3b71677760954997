"""A shop in an SQLite file: read as it is, whatever is in it, and never touched."""

import hashlib
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest

import app.shop.sqlite
from app.core.errors import ShopError
from app.shop.sqlite import SQLiteShop
from tests.shop.taking import Taken, reading, table, take
from tests.support.deadline import deadline

Run = Callable[..., None]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "shop" / "shop.sqlite"


@pytest.fixture
def run(path) -> Run:
    """Runs statements in the file, each with its values."""
    path.parent.mkdir()

    def run(*statements: str | tuple) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            for statement in statements:
                database.execute(*(statement if isinstance(statement, tuple) else (statement,)))

    return run


@pytest.fixture
def taken(path, tmp_path) -> Callable[..., Taken]:
    numbers = count()

    def taken(*tables, file: Path | None = None) -> Taken:
        with closing(SQLiteShop(file or path)) as shop:
            return take(shop, tmp_path / f"read-{next(numbers)}", *(tables or (table("items"),)))

    return taken


def column(taken: Taken, name: str) -> list:
    assert taken.errors == {}
    return taken.frames["items"][name].to_list()


def everything(folder: Path) -> dict[str, tuple]:
    return {
        file.name: (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.iterdir()
    }  # fmt: skip


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("declared", "values", "kept"), [
    ("INTEGER", [None, -(2**63), 2**63 - 1, 0, "42", 7.0], [None, -(2**63), 2**63 - 1, 0, 42, 7]),
    ("BOOLEAN", [True, False, None, 2], [1, 0, None, 2]),
    ("REAL", [None, 1.5, -0.0, 1e308, 5e-324, 3, "2.5"], [None, 1.5, 0.0, 1e308, 5e-324, 3.0, 2.5]),
    ("DOUBLE", [0.1 + 0.2, 2**53 + 1], [0.1 + 0.2, float(2**53)]),
    ("TEXT", [None, "", "größe 💍", "a\0b", "a\r\nb", 5, 1.5], [None, b"", "größe 💍".encode(), b"a\0b", b"a\r\nb", b"5", b"1.5"]),
    ("", [None, "text", 5, 1.5, b"bytes"[:0].decode()], [None, b"text", b"5", b"1.5", b""]),
    ("BLOB", [None, b"", b"\xff\x00", "text"], [None, b"", b"\xff\x00", b"text"]),
    ("DECIMAL(10,2)", [None, "19.90", 19.9, 0.1 + 0.2, -5, 1e3, 99999999.99, "1e2"], [None, *map(Decimal, ["19.90", "19.90", "0.30", "-5", "1000", "99999999.99", "100"])]),
    ("DECIMAL(18,3)", [123456789012.567, -0.001, 1e-3, 450359962737049.5, 0.1 + 0.2 - 0.3], [Decimal("123456789012.567"), Decimal("-0.001"), Decimal("0.001"), Decimal("450359962737049.5"), Decimal(0)]),
    ("NUMERIC", [12345678901.5, "7"], [Decimal("12345678901.5"), Decimal(7)]),
    ("DECIMAL(40,2)", ["1.5"], [b"1.5"]),
    ("DATE", [None, "2026-03-01", "2024-02-31", "", "2026-03-01 12:00:00", 20260301, "0000-00-00", "1850-01-01", "9999-12-31"],
     [None, date(2026, 3, 1), None, None, date(2026, 3, 1), None, None, date(1900, 1, 1), date(2299, 12, 31)]),
    ("DATETIME", [None, "2026-03-01", "2026-03-01 12:00:00", "2026-03-01T12:00:00", "2026-03-01T12:00:00Z", "2026-03-01 12:00:00.123456", "2026-03-01 12:00:00.5", "nonsense", 1772366400, "9999-12-31 00:00:00"],
     [None, datetime(2026, 3, 1, tzinfo=UTC), *[datetime(2026, 3, 1, 12, tzinfo=UTC)] * 3, datetime(2026, 3, 1, 12, 0, 0, 123456, UTC), datetime(2026, 3, 1, 12, 0, 0, 500000, UTC), None, None, datetime(2299, 12, 31, 23, 59, 59, 999999, UTC)]),
])  # fmt: skip
def test_every_value_is_kept_as_declared_whichever_comes_first(run, taken, declared, values, kept):
    run(f"CREATE TABLE items (id INTEGER PRIMARY KEY, c {declared})")
    run(*(("INSERT INTO items VALUES (?, ?)", (number, value)) for number, value in enumerate(values)))
    assert column(taken(), "c") == kept


@pytest.mark.parametrize(("declared", "value"), [
    ("INTEGER", "abc"), ("INTEGER", 1.5), ("INTEGER", 2**63), ("INTEGER", b"1"), ("BOOLEAN", "true"), ("REAL", "abc"), ("REAL", b"1"), ("TEXT", b"\xff"), ("VARCHAR(9)", b"a"),
    ("", b"a"), ("DATE", b"2026-03-01"), ("DECIMAL(10,2)", 19.999), ("DECIMAL(10,2)", 33.3333333), ("DECIMAL(5)", 0.5), ("DECIMAL(10,2)", b"5"),
])  # fmt: skip
def test_a_value_of_another_type_is_refused_with_its_column(run, taken, declared, value):
    run("CREATE TABLE others (id INTEGER PRIMARY KEY)", "INSERT INTO others VALUES (1)")
    run(f"CREATE TABLE items (id INTEGER PRIMARY KEY, price {declared})", "INSERT INTO items VALUES (1, NULL)")
    run(("INSERT INTO items VALUES (2, ?)", (float(value) if value == 2**63 else value,)))
    found = taken(table("items"), table("others"))
    assert found.errors == {
        "items": f"could not be read: price ({declared or 'untyped'}) holds a value of another type: fix it there, or exclude the column"
    }
    assert found.frames["others"].height == 1


def test_text_that_is_not_utf_8_is_refused(run, taken):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT)", "INSERT INTO items VALUES (1, CAST(x'ff41' AS TEXT))")  # fmt: skip
    assert taken().errors == {
        "items": "could not be read whole: title holds text that is not UTF-8: fix it there, or exclude the column"
    }


def test_dates_that_are_none_are_counted(run, taken):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY, d DATE)")
    run("INSERT INTO items VALUES (1, '2026-01-01'), (2, 'nonsense'), (3, '9999-12-31'), (4, NULL)")
    assert taken().bounded == {"items": 2}


@pytest.mark.parametrize(("declared", "keys"), [
    ("TEXT COLLATE NOCASE", ["b", "B2", "a", "A1", "ä", "Z", "", "💍", "\uffff", "a b"]), ("INTEGER", [-5, 10, 9, -(2**63)]), ("DECIMAL(10,2)", [-5, 10, 9.5, 100, -0.01]),
    ("REAL", [-1e300, 10, 9.5, 0]), ("BLOB", [b"\xff", b"a", b"", b"a\0"]), ("DATE", ["2026-01-02", "1999-12-31"]), ("", ["b", 10, 9, "a", 1.5, "1"]),
])  # fmt: skip
def test_rows_come_in_the_order_of_their_key(run, taken, declared, keys):
    run(f"CREATE TABLE items (k {declared} PRIMARY KEY, n INTEGER)")
    run(*(("INSERT INTO items (k) VALUES (?)", (key,)) for key in keys))
    found = taken(table("items", "k"))  # which checks the order
    assert found.errors == {}
    assert found.frames["items"].height == len(keys)


def test_tables_and_columns_are_those_of_the_plan(run, taken):
    run(
        'CREATE TABLE "or""der -- ?" (id INTEGER PRIMARY KEY, "größe ""x""" TEXT, version INTEGER, secret TEXT, '
        "twice INTEGER GENERATED ALWAYS AS (id * 2) VIRTUAL)",
        """INSERT INTO "or""der -- ?" VALUES (1, 'a', 7, 's'), (2, 'b', 8, 's')""",
        'CREATE VIEW "a view" AS SELECT * FROM "or""der -- ?" WHERE id = 1',
    )
    found = taken(
        table("items", source='or"der -- ?', exclude=("secret",), where="id = 2 OR id = 3 -- as agreed"),
        table("seen", source="a view", columns=("version",)),
    )
    assert found.errors == {}
    assert found.frames["items"].to_dicts() == [{"id": 2, 'größe "x"': b"b", "source_version": 8, "twice": 4}]
    assert found.frames["seen"].to_dicts() == [{"id": 1, "source_version": 7}]
    assert set(found.guarantees.values()) == {"one instant for all tables"}


def test_an_empty_table_is_empty(run, taken):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY)")
    assert column(taken(), "id") == []


def test_wide_rows_are_read_a_few_at_a_time(run, path, tmp_path):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY, story TEXT)")
    run(*(("INSERT INTO items VALUES (?, ?)", (number, str(number) * 500_000)) for number in range(60)))
    with closing(SQLiteShop(path)) as shop, reading(shop, tmp_path / "read", table("items")) as current:
        batches = list(current.batches("items"))
    assert sum(batch.num_rows for batch in batches) == 60
    assert len(batches) > 1


# ---- files -------------------------------------------------------------------------------------------------------


def test_a_file_that_is_missing_is_not_made(tmp_path):
    path = tmp_path / "none.sqlite"
    with pytest.raises(ShopError, match=rf"^sqlite://{path}: no such file\. Check CARAT_SHOP_DB; nothing was changed$"):
        SQLiteShop(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "message"), [(b"no database, but long enough to be one" * 30, "file is not a database"), (None, "no such file")])  # fmt: skip
def test_what_is_no_database_is_named(tmp_path, content, message):
    path = tmp_path / "shop.sqlite"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ShopError, match=message):
        SQLiteShop(path)


def test_a_file_that_may_not_be_read_is_named(run, path, monkeypatch):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY)")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
    with pytest.raises(ShopError, match=r"Permission denied\. Check CARAT_SHOP_DB"):
        SQLiteShop(path)


@pytest.mark.parametrize("size", [0, 5000])
def test_a_file_that_is_cut_off_has_no_table_or_is_malformed(run, path, taken, size):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT)")
    run(*(("INSERT INTO items VALUES (?, ?)", (number, "x" * 100)) for number in range(1000)))
    os.truncate(path, size)
    with pytest.raises(ShopError, match="has no table items" if not size else "malformed"):
        taken()


@pytest.mark.parametrize(("plan", "message"), [
    (table("orders"), "has no table orders"), (table("items", where="id = = 1"), 'items: near "=": syntax error'), (table("items", where="nope = 1"), "items: no such column: nope"),
    (table("items", where="id = 1 LIMIT 1"), 'items: near "LIMIT": syntax error'),
])  # fmt: skip
def test_a_mistake_in_the_plan_is_one_line(run, taken, plan, message):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY)")
    with pytest.raises(ShopError, match=message) as caught:
        taken(plan)
    assert "\n" not in str(caught.value)


def test_columns_that_the_plan_names_and_the_table_lacks_are_refused_by_name(run, path):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, owner TEXT)")
    with closing(SQLiteShop(path)) as shop:
        for part, mistake in {"columns": ("titel",), "exclude": ("titel",), "person": "titel"}.items():
            with pytest.raises(ShopError, match=r"items has no column titel: .* Did you mean title\?"):
                shop.describe(table("items", **{part: mistake}))
        assert len(shop.describe(table("items", exclude=("title", "sold?")))) == 2


@pytest.mark.parametrize("name", ["a shop.sqlite", "größe?mode=rwc#x%20%.sqlite", "a&b=c;d'e\"f.sqlite"])
def test_odd_names_of_files_and_folders_are_names(run, path, tmp_path, name):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    odd = tmp_path / "fol?der #1 %41" / name
    odd.parent.mkdir()
    shutil.copy(path, odd)
    with closing(SQLiteShop(odd)) as shop:
        assert take(shop, tmp_path / "größe ?#%20 x", table("items")).frames["items"].height == 1
    assert [file.name for file in odd.parent.iterdir()] == [name]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_file_is_never_touched(run, path, taken, mode):
    run(f"PRAGMA journal_mode = {mode}", "CREATE TABLE items (id INTEGER PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    before = everything(path.parent)
    assert list(before) == ["shop.sqlite"]
    assert column(taken(), "id") == [1]
    assert everything(path.parent) == before


def test_a_writer_in_wal_mode_goes_on_and_what_it_has_not_committed_is_not_read(run, path, taken):
    run("PRAGMA journal_mode = wal", "CREATE TABLE items (id INTEGER PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("INSERT INTO items VALUES (2)")  # which is in the write-ahead log alone
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO items VALUES (3)")
        before = everything(path.parent)
        assert column(taken(), "id") == [1, 2]
        after = everything(path.parent)
        assert {name: after[name] for name in ("shop.sqlite", "shop.sqlite-wal")} == {name: before[name] for name in ("shop.sqlite", "shop.sqlite-wal")}  # fmt: skip
        assert after.keys() == before.keys()
        writer.execute("COMMIT")
    assert column(taken(), "id") == [1, 2, 3]
    assert list(everything(path.parent)) == ["shop.sqlite"]


def test_a_file_that_is_written_to_although_nobody_had_it_open_is_read_again(run, path, taken, monkeypatch):
    run("PRAGMA journal_mode = wal", "CREATE TABLE items (id INTEGER PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    with closing(SQLiteShop(path)) as shop:
        run("INSERT INTO items VALUES (2)")
        with pytest.raises(ShopError, match="written to while it was read; try again"):
            take(shop, path.parent.parent / "read", table("items"))
    assert column(taken(), "id") == [1, 2]


def test_a_file_that_stays_locked_is_named(run, path, taken, monkeypatch):
    monkeypatch.setattr(app.shop.sqlite, "_WAIT_FOR_WRITERS_S", 0.5)
    run("CREATE TABLE items (id INTEGER PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with deadline(), pytest.raises(ShopError, match="database is locked"):
            taken()
        writer.execute("ROLLBACK")
        with closing(SQLiteShop(path)) as shop:
            columns = shop.describe(table("items"))
            writer.execute("BEGIN EXCLUSIVE")
            with pytest.raises(ShopError, match="database is locked; nothing was changed"), shop.reading({table("items"): columns}, path.parent, limit_s=9):  # fmt: skip
                pass
            writer.execute("ROLLBACK")
            assert take(shop, path.parent / "read", table("items")).errors == {}  # and the same shop can be read then


def test_a_writer_who_died_in_the_middle_is_named(run, path, taken):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT)")
    run(*(("INSERT INTO items VALUES (?, ?)", (number, "x" * 500)) for number in range(2000)))
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 5")
        writer.execute("BEGIN")
        writer.execute("UPDATE items SET title = title || 'y'")
        dead = path.with_name("dead.sqlite")
        shutil.copy(path, dead)
        shutil.copy(f"{path}-journal", f"{dead}-journal")
    with pytest.raises(ShopError, match="whoever wrote to it died in the middle; open it once with the shop"):
        taken(file=dead)


# ---- one instant, within a time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_all_tables_are_of_one_instant_while_a_writer_writes(run, path, tmp_path, mode):
    run(f"PRAGMA journal_mode = {mode}")
    for name in ("purses", "safes"):
        run(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, amount INTEGER)")
        run(*((f"INSERT INTO {name} VALUES (?, 1000)", (number,)) for number in range(20)))
    stopping, moved = threading.Event(), []

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as database:
            while not stopping.is_set():
                database.execute("BEGIN IMMEDIATE")
                database.execute("UPDATE purses SET amount = amount - 1 WHERE id = ?", (len(moved) % 20,))
                database.execute("UPDATE safes SET amount = amount + 1 WHERE id = ?", (len(moved) % 7,))
                database.execute("COMMIT")
                moved.append(1)
                time.sleep(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            while len(moved) <= number:
                time.sleep(0.001)
            with closing(SQLiteShop(path)) as shop:
                taken = take(shop, tmp_path / str(number), table("purses"), table("safes"))
            assert taken.errors == {}
            assert sum(frame["amount"].sum() for frame in taken.frames.values()) == 40_000
    finally:
        stopping.set()
        writer.join()


def test_a_table_that_takes_too_long_ends_at_the_limit(run, path, tmp_path):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    endless = "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n) = 0"
    with closing(SQLiteShop(path)) as shop:
        with deadline(), pytest.raises(ShopError, match=r"not read within 1 s \(CARAT_SNAPSHOT_TIMEOUT_S\)"):
            take(shop, tmp_path / "read", table("items", where=endless), limit_s=1)
        assert take(shop, tmp_path / "again", table("items")).frames["items"].height == 1


def test_rows_that_are_missing_are_noticed(run, taken, monkeypatch):
    run("CREATE TABLE items (id INTEGER PRIMARY KEY)", "INSERT INTO items VALUES (1), (2)")
    follow = app.shop.sqlite._CopyReader.follow
    monkeypatch.setattr(app.shop.sqlite._CopyReader, "follow", lambda reader, name: (batch.slice(0, 1) for batch in follow(reader, name)))  # fmt: skip
    assert taken().errors == {"items": "could not be read whole: partial, 1 rows were read, the table had 2"}
