"""`history` says at every instant what the shop's tables held then, whatever states they went through."""

import json
import random
import re
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given
from hypothesis import settings as profile
from hypothesis import strategies as st

import app.frames.snapshots
import app.jobs.snapshot.take
import app.main
import app.shop.mysql
import app.shop.sqlite
import app.warehouse.history
from app.core.errors import SettingsError, ShopError
from app.core.service_url import ServiceUrl
from app.jobs.digests import drop_digests
from app.jobs.snapshot import take_snapshot
from app.rules.snapshot_plan import SHOP_VIEW_NAMES
from app.settings import Settings
from app.warehouse import Warehouse, migrate
from tests.shop.taking import InProcessReader
from tests.support.effort import repeated
from tests.support.mariadb import running_mariadb

pytestmark = pytest.mark.slow

START = datetime(2026, 3, 1, tzinfo=UTC)
VERSION_COLUMNS = ("version", "valid_from", "op", "is_deleted", "changed", "snapshot_id")
EXAMPLES = repeated(6, 500)
thorough = profile(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
# What is decided before anything is written needs no second engine.
embedded_only = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)
Row = tuple[Any, ...]
numbers = count()


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass
class Shop:
    """A shop's database in an SQLite file, and the snapshots that are taken of it."""

    warehouse: Warehouse
    settings: Settings
    path: Path
    at: datetime = START
    key: dict[str, Sequence[str]] = field(default_factory=lambda: {"items": ["id"]})

    def put(self, columns: dict[str, str], rows: Sequence[Row] = (), *, table: str = "items") -> None:
        """Make the table anew, with columns as declared."""
        declared = ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns.items())
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
            database.execute(f"CREATE TABLE {quoted(table)} ({declared})")
            database.executemany(f"INSERT INTO {quoted(table)} VALUES ({', '.join('?' * len(columns))})", rows)

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            for statement in statements:
                database.execute(statement)

    def plan(self, **more: str) -> None:
        """The plan of the tables; `more` is TOML of each."""
        text = "".join(
            f"[{name}]\nsource = '{name}'\nkey = {list(key)}\n{more.get(name, '')}\n" for name, key in self.key.items()
        )
        self.settings.snapshots.write_text(text)

    def take(self, *, hours: float = 1, **options: Any) -> dict[str, dict[str, Any]]:
        """Take a snapshot so many hours after the last one; its records by table."""
        self.at += timedelta(hours=hours)
        if not self.warehouse.is_embedded:  # so that both ways to compare are tested, at the price of one
            drop_digests(self.settings.scratch)
        done = take_snapshot(self.warehouse, self.settings, at=options.pop("at", self.at), **options)
        return {record["table"]: record for record in done}

    def taken(self, **options: Any) -> dict[str, Any]:
        """Take a snapshot of the one table, which must not be refused."""
        (record,) = self.take(**options).values()
        assert record["error"] == ""
        return record

    def refused(self, **options: Any) -> str:
        """Take a snapshot of the one table that must be refused without a change to its history; the reason."""
        before = self.everything()
        (record,) = self.take(**options).values()
        assert record["error"]
        assert "\n" not in record["error"]
        assert self.everything() == before
        return record["error"]

    def rows(self, sql: str) -> list[Row]:
        """What a query answers; text as bytes, since not all of it need be text."""
        return self.warehouse.query(f"{sql} SETTINGS output_format_arrow_string_as_string = 0").rows()

    def history(self, columns: str = "*", table: str = "items") -> list[Row]:
        return self.rows(f"SELECT {columns} FROM history.{table} ORDER BY ALL")

    def everything(self) -> dict[str, list[Row]]:
        """Each history table and view as it is, but for the views by role, which follow the plan."""
        tables = self.warehouse.query(
            "SELECT name, create_table_query FROM system.tables "
            "WHERE database = 'history' AND NOT startsWith(name, 'shop_') ORDER BY name"
        ).rows()
        contents = {name: self.rows(f"SELECT * FROM history.{name}") for name, _ in tables if not name.endswith("_at")}
        return {"": tables} | {name: sorted(rows, key=repr) for name, rows in contents.items()}

    def as_of(self, at: datetime, columns: Sequence[str], table: str = "items") -> list[Row]:
        selected = ", ".join(f"`{name}`" for name in columns)
        return self.rows(f"SELECT {selected} FROM history.{table}_at(ts = '{at:%Y-%m-%d %H:%M:%S.%f}') ORDER BY ALL")

    def forget(self, table: str) -> None:
        """Drop a history table of which nothing may be left in staging."""
        assert self.staged() == []
        for name in ("", "_current", "_versions", "_at"):
            self.warehouse.command(f"DROP TABLE history.{table}{name} SYNC")

    def staged(self) -> list[str]:
        found = self.warehouse.query("SELECT name FROM system.tables WHERE database = 'etl' AND name LIKE 'staged%'")
        return found["name"].to_list() if found.height else []


@pytest.fixture
def shop(warehouse, settings, tmp_path, monkeypatch) -> Shop:
    path = tmp_path / "shop.sqlite"
    of_shop = Settings(
        _env_file=None, shop_db=f"sqlite://{path}", snapshots=tmp_path / "plan.toml", scratch=tmp_path / "scratch"
    )
    shop = Shop(warehouse, of_shop, path)
    shop.plan()
    return shop


# ---- values as they were fed -------------------------------------------------------------------------------------


def as_fed(value: Any, declared: str) -> Any:  # noqa: PLR0911  one case each
    """A value of history, in whatever type it is by now, as one of the type that was declared when it was fed."""
    if value is None or declared.startswith("BLOB"):
        return value
    value = value.decode() if isinstance(value, bytes) else value
    if declared.startswith(("TEXT", "VARCHAR")):
        assert isinstance(value, str)
        return value
    if declared.startswith("INTEGER"):
        number = Decimal(str(value))
        assert number == int(number)
        return int(number)
    if declared.startswith("DECIMAL"):
        return Decimal(str(value))
    if declared == "REAL":
        return float(value)
    if isinstance(value, str):
        value = datetime.fromisoformat(value).replace(tzinfo=UTC)
    if declared == "DATE":
        day = value.date() if isinstance(value, datetime) else value
        assert not isinstance(value, datetime) or value == datetime(day.year, day.month, day.day, tzinfo=UTC)
        return day
    assert declared == "DATETIME"
    return value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)


def ordered(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=repr)


# ---- any sequence of states --------------------------------------------------------------------------------------

COLUMNS = {
    "k": "TEXT", "n": "INTEGER NOT NULL", "count": "INTEGER", "title": "TEXT", "price": "DECIMAL(10,2)",
    "weight": "REAL", "seen": "DATETIME", "day": "DATE", "image": "BLOB",
}  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "count": [None, 0, -1, 2**63 - 1, -(2**63)],
    "title": [None, "", " ", "a", "A", "a ", "e\u0301", "\u00e9", "a\0b", "\U0001f48d", "null", "1"],
    "price": [None, "0.00", "-0.01", "1.50", "99999999.99", "-99999999.99"],
    "weight": [None, 0.0, -0.0, 0.1, -1e300, 5e-324, float("inf")],
    "seen": [None, "2026-02-28 23:59:59.999999", "2026-03-01 00:00:00", "1969-12-31T23:59:59.5Z", "1900-01-01 00:00:00"],
    "day": [None, "1900-01-01", "2024-02-29", "2299-12-31"],
    "image": [None, b"", b"a", b"\xff\x00", b"A"],
}  # fmt: skip
KEYS = st.tuples(st.sampled_from(["", "a", "A", "a ", "a\0", "B", "\u00e9", "e\u0301"]), st.sampled_from([-1, 0, 1, 2]))
ROWS = st.tuples(*(st.sampled_from(values) for values in VALUES.values()))
# Some states, and the order in which they come: each may come again, and one may be mixed with another.
STATES = st.tuples(
    st.lists(st.dictionaries(KEYS, ROWS, max_size=6), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 10**9)), min_size=3, max_size=6),
)


def fed(value: Any, declared: str) -> Any:
    """What SQLite was given, as what it means."""
    if value is None:
        return None
    if declared.startswith("DECIMAL"):
        return Decimal(value)
    if declared == "DATETIME":
        return datetime.fromisoformat(value.removesuffix("Z")).replace(tzinfo=UTC)
    return date.fromisoformat(value) if declared == "DATE" else value


def all_fed(values: Row, types: Sequence[str]) -> Row:
    return tuple(fed(value, declared) for value, declared in zip(values, types, strict=True))


def all_told(values: Row, types: Sequence[str]) -> Row:
    return tuple(as_fed(value, declared) for value, declared in zip(values, types, strict=True))


@thorough
@given(drawn=STATES)
def test_any_sequence_of_states_is_told_back_exactly_at_every_instant(shop, drawn):
    table = f"t{next(numbers)}"
    shop.key = {table: ["k", "n"]}
    shop.plan()
    at = START
    names, types = list(COLUMNS), list(COLUMNS.values())
    expected: dict[tuple[str, int], list[Row]] = {}
    states: list[tuple[datetime, dict[tuple[str, int], Row]]] = []
    pool, order = drawn
    for one, other, pause_ms in order:
        state = pool[one % len(pool)] | pool[other % len(pool)]
        at += timedelta(milliseconds=pause_ms)
        shop.put(COLUMNS, [(*key, *values) for key, values in state.items()], table=table)
        now = {k: all_fed(values, types[2:]) for k, values in state.items()}
        was = states[-1][1] if states else {}
        new = expect_versions(expected, was, now, at)
        record = shop.taken(at=at, accept_deletes=True)
        counts = [record[name] for name in ("rows", "inserts", "updates", "deletes")]
        assert counts == [len(now), *(new.count(op) for op in ("insert", "update", "delete"))]
        states.append((at, now))
    event(f"{len(states)} snapshots, {max(map(len, expected.values()), default=0)} versions of a key")

    found = shop.rows(f"SELECT * EXCEPT snapshot_id FROM history.{table} ORDER BY k, n, version")
    assert [decoded(row, types) for row in found] == [row for _, rows in sorted(
        expected.items(), key=lambda item: (item[0][0].encode(), item[0][1])) for row in rows
    ]  # fmt: skip

    instants = [(START - timedelta(days=1), {}), *states]
    for (moment, state), (following, _) in pairwise([*instants, (at + timedelta(days=400), {})]):
        for instant in {moment, moment + (following - moment) / 2, following - timedelta(milliseconds=1)}:
            told = [all_told(row, types) for row in shop.as_of(instant, names, table)]
            assert ordered(told) == ordered([(*key, *values) for key, values in state.items()]), instant
    current = shop.rows(f"SELECT {', '.join(names)} FROM history.{table}_current")
    told = [all_told(row, types) for row in current]
    assert ordered(told) == ordered([(*key, *values) for key, values in states[-1][1].items()])

    assert no_two_overlap(shop, table, "k, n")
    shop.forget(table)


def expect_versions(
    versions: dict[Any, list[Row]], was: dict[Any, Row], now: dict[Any, Row], at: datetime
) -> list[str]:
    """Add the versions that a state makes after another one: row, version, valid_from, op, is_deleted, changed."""
    names = list(COLUMNS)[2:]
    made = []
    for key in was.keys() | now.keys():
        changed = [name for name, a, b in zip(names, was.get(key, ()), now.get(key, ()), strict=False) if a != b]
        op = "insert" if key not in was else "delete" if key not in now else "update" if changed else ""
        if op:
            values = now.get(key, was.get(key))
            of_key = versions.setdefault(key, [])
            of_key.append((*key, *values, len(of_key) + 1, at, op, op == "delete", changed))
            made.append(op)
    return made


def decoded(row: Row, types: Sequence[str]) -> Row:
    values = all_told(row[: len(types)], types)
    version, valid_from, op, is_deleted, changed = row[len(types) :]
    return (*values, version, valid_from, op.decode(), is_deleted, [name.decode() for name in changed])


def no_two_overlap(shop: Shop, table: str, key: str) -> bool:
    """Whether the spans of every key's versions follow each other: each ends where the next begins."""
    spans = shop.rows(
        f"SELECT {key}, version, valid_from, valid_to FROM history.{table}_versions ORDER BY {key}, version"
    )
    for (*one, version, begins, ends), (*other, next_version, next_begins, _) in pairwise(spans):
        if one == other and (next_version != version + 1 or ends != next_begins or begins > next_begins):
            return False
        if one != other and (next_version != 1 or ends is not None):
            return False
    return not spans or (spans[0][-3] == 1 and spans[-1][-1] is None)


# ---- any sequence of states of a table whose columns come, go and change their type --------------------------------

# The types that a column goes through, each holding what the one before it does.
LADDERS = {
    "whole": ("INTEGER", "DECIMAL(12,2)", "DECIMAL(14,4)", "REAL", "TEXT"),
    "price": ("DECIMAL(10,2)", "DECIMAL(12,4)", "TEXT"),
    "share": ("DECIMAL(6,3)", "REAL", "TEXT"),
    "weight": ("REAL", "TEXT"),
    "day": ("DATE", "DATETIME", "TEXT"),
    "title": ("VARCHAR(10)", "TEXT"),
    "note": ("BLOB", "TEXT"),
}
MEANINGS: dict[str, list[Any]] = {
    "whole": [None, 0, -1, 7, 2**31],
    "price": [None, Decimal("0.00"), Decimal("-0.01"), Decimal("1.50")],
    "share": [None, Decimal("0.125"), Decimal("1.13"), Decimal("8.290")],
    "weight": [None, 0.1, 3.0, -1e300],
    "day": [None, date(2024, 2, 29), date(1970, 1, 1), date(1900, 1, 1)],
    "title": [None, "", "A", "a"],
    "note": [None, "", "A", "a"],
}
EVOLVED_ROWS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in MEANINGS.items()})
# Of each column: how far along its ladder it has come, None where the shop does not have it.
STEPS = st.fixed_dictionaries(
    {name: st.one_of(st.none(), *(st.just(step) for step in range(len(types)))) for name, types in LADDERS.items()}
)
EVOLUTION = st.tuples(
    st.lists(st.dictionaries(st.integers(1, 4), EVOLVED_ROWS, max_size=4), min_size=2, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), STEPS), min_size=3, max_size=6),
)


def rendered(meaning: Any, declared: str, via: str) -> Any:
    """What SQLite is given for a value; text as a database makes it from the type `via` that the column had before."""
    if meaning is None:
        return None
    type_ = via or declared
    if type_ == "BLOB":
        return meaning if declared == "TEXT" else meaning.encode()
    if type_ == "REAL":
        return repr(float(meaning)) if declared == "TEXT" else float(meaning)
    if type_.startswith("DECIMAL"):
        scale = int(type_.rstrip(")").partition(",")[2])
        return str(Decimal(meaning).quantize(Decimal(1).scaleb(-scale)))
    if type_ == "DATETIME":
        return f"{meaning} 00:00:00"
    return meaning if declared == "INTEGER" else str(meaning)


@dataclass
class Evolving:
    """What a table of changing columns should have become: the types it has come to, and what its versions know."""

    reached: dict[str, int] = field(default_factory=dict)
    via: dict[str, str] = field(default_factory=dict)  # the type that text was made from
    known: dict[int, Row] = field(default_factory=dict)  # of each live row, what its latest version knows
    versions: dict[int, int] = field(default_factory=dict)

    def columns(self, steps: dict[str, int | None], *, is_widening: bool) -> dict[str, str]:
        """The columns that the shop has now, as declared."""
        columns = {}
        for name, step in steps.items():
            if step is None:
                continue
            before = self.reached.get(name)
            self.reached[name] = step if before is None or not is_widening else max(step, before)
            columns[name] = LADDERS[name][self.reached[name]]
            if columns[name] == "TEXT" and name not in self.via:
                self.via[name] = "" if before is None else LADDERS[name][before]
        return columns

    def given(self, row: dict[str, Any], columns: dict[str, str]) -> Row:
        """A row as SQLite gets it."""
        return tuple(
            rendered(row[name], declared, self.via[name] if declared == "TEXT" else "")
            for name, declared in columns.items()
        )

    def feed(self, state: dict[int, dict[str, Any]], columns: dict[str, str]) -> int:
        """Go on to the next state; how many versions it makes."""
        made = [key for key in self.known if key not in state]
        for key in made:
            del self.known[key]
        for key, row in state.items():
            now, was = {name: row[name] for name in columns}, self.known.get(key)
            # A column makes a version where it differs from what the latest version knows of it.
            if was is None or any(was[name] != now[name] for name in now.keys() & was.keys()):
                self.known[key] = now
                made.append(key)
            else:
                self.known[key] = was | now
        for key in made:
            self.versions[key] = self.versions.get(key, 0) + 1
        return len(made)


@thorough
@given(drawn=EVOLUTION, is_widening=st.booleans())
def test_columns_that_come_go_and_change_their_type_lose_nothing_and_make_no_versions(shop, drawn, is_widening):
    table = f"t{next(numbers)}"
    shop.key = {table: ["id"]}
    shop.plan()
    pool, order = drawn
    at = START
    expected = Evolving()
    states: list[tuple[datetime, dict[str, str], list[Row]]] = []
    for number, steps in order:
        at += timedelta(hours=1)
        state = pool[number % len(pool)]
        columns = {"id": "INTEGER", **expected.columns(steps, is_widening=is_widening)}
        of_shop = {name: declared for name, declared in columns.items() if name != "id"}
        rows = [(key, *expected.given(row, of_shop)) for key, row in state.items()]
        shop.put(columns, rows, table=table)
        made = expected.feed(state, of_shop)
        record = shop.taken(at=at, accept_deletes=True)
        if is_widening:  # text that becomes a number again is another text
            assert made == record["inserts"] + record["updates"] + record["deletes"]
        if states:
            assert set(record["added"]) == columns.keys() - states[-1][1].keys()
            assert set(record["dropped"]) == states[-1][1].keys() - columns.keys()
        states.append((at, columns, [all_fed(row, list(columns.values())) for row in rows]))
        event(record["mode"])

    for (moment, columns, rows), (following, _, _) in pairwise([*states, (at + timedelta(days=1), {}, [])]):
        types = list(columns.values())
        for instant in (moment, following - timedelta(milliseconds=1)):
            told = [all_told(row, types) for row in shop.as_of(instant, list(columns), table)]
            assert ordered(told) == ordered(rows), instant
    _, columns, rows = states[-1]
    current = shop.rows(f"SELECT {', '.join(columns)} FROM history.{table}_current")
    assert ordered([all_told(row, list(columns.values())) for row in current]) == ordered(rows)
    for name in expected.reached.keys() - columns.keys():
        for view in (f"{table}_current", f"{table}_at(ts = '2027-01-01')"):
            assert shop.rows(f"SELECT countIf(`{name}` IS NOT NULL) FROM history.{view}") == [(0,)]
    if is_widening:
        assert dict(shop.rows(f"SELECT id, max(version) FROM history.{table} GROUP BY id")) == expected.versions
    assert no_two_overlap(shop, table, "id")
    shop.forget(table)


@pytest.mark.parametrize(("text", "number"), [("1.13", "1.130"), ("8.1", "8.100"), ("0.5", "0.500")])
def test_text_that_goes_and_comes_back_as_a_number_stays_as_it_was_written(shop, text, number):
    shop.put({"id": "INTEGER", "share": "TEXT"}, [(1, text), (2, None)])
    shop.taken()
    shop.put({"id": "INTEGER"}, [(1,), (2,), (3,)])
    shop.taken(accept_deletes=True)
    shop.put({"id": "INTEGER", "share": "DECIMAL(6,3)"}, [(1, number), (2, None), (3, number)])
    record = shop.taken()
    assert [record[name] for name in ("inserts", "updates", "deletes")] == [0, 0, 0]
    assert shop.as_of(START + timedelta(hours=1), ["id", "share"]) == [(1, text.encode()), (2, None)]
    assert shop.as_of(shop.at, ["id", "share"]) == [(1, text.encode()), (2, None), (3, number.encode())]


# ---- values, keys and columns by hand ----------------------------------------------------------------------------

ITEMS = {"id": "INTEGER", "title": "TEXT", "price": "DECIMAL(10,2)"}


@embedded_only
def test_keys_that_come_and_go_around_the_borders_of_pieces_are_told_apart(shop, monkeypatch):
    monkeypatch.setattr(app.frames.snapshots, "_PIECE_ROWS", 16)
    monkeypatch.setattr(app.shop.sqlite, "_BATCH_ROWS", 10)
    chance = random.Random(7)
    state = {key: chance.randrange(3) for key in range(0, 3000, 3)}
    states = []
    for _ in range(4):  # a key gets up to four versions, some of which lie across a border
        shop.put({"id": "INTEGER", "n": "INTEGER"}, list(state.items()))
        was = states[-1][1] if states else {}
        record = shop.taken()
        assert record["inserts"] == len(state.keys() - was.keys())
        assert record["deletes"] == len(was.keys() - state.keys())
        assert record["updates"] == sum(was[key] != state[key] for key in was.keys() & state.keys())
        states.append((shop.at, state))
        for gone in chance.sample(sorted(state), 150):
            state = {key: value for key, value in state.items() if key != gone}
        state |= {chance.randrange(3000): chance.randrange(3) for _ in range(300)}
    for at, rows in states:
        assert shop.as_of(at, ["id", "n"]) == sorted(rows.items())
    assert no_two_overlap(shop, "items", "id")


def test_rows_all_come_all_go_and_come_back(shop):
    shop.put(ITEMS)
    assert shop.taken()["rows"] == 0
    assert shop.history() == []
    shop.put(ITEMS, [(1, "ring", "5.00"), (2, None, None)])
    assert shop.taken()["inserts"] == 2
    shop.put(ITEMS)
    assert shop.taken(accept_deletes=True)["deletes"] == 2
    assert shop.taken()["deletes"] == 0  # what is gone goes once
    shop.put(ITEMS, [(1, "ring", "5.00")])
    assert shop.taken()["inserts"] == 1
    told = shop.rows("SELECT id, version, op, title, price, is_deleted FROM history.items ORDER BY id, version")
    assert told == [
        (1, 1, b"insert", b"ring", Decimal("5.00"), False),
        (1, 2, b"delete", b"ring", Decimal("5.00"), True),
        (1, 3, b"insert", b"ring", Decimal("5.00"), False),
        (2, 1, b"insert", None, None, False),
        (2, 2, b"delete", None, None, True),
    ]


@embedded_only
def test_a_table_of_nothing_but_its_key_has_a_history(shop):
    shop.key = {"likes": ["user_id", "product_id"]}
    shop.plan()
    columns = {"product_id": "INTEGER", "user_id": "INTEGER"}  # in another order than the key's
    shop.put(columns, [(1, 9), (2, 9), (1, 8)], table="likes")
    assert shop.taken()["inserts"] == 3
    shop.put(columns, [(1, 9), (3, 9), (1, 8)], table="likes")
    record = shop.taken()
    assert [record[name] for name in ("inserts", "updates", "deletes")] == [1, 0, 1]
    assert shop.rows("SELECT product_id, user_id FROM history.likes_current ORDER BY ALL") == [(1, 8), (1, 9), (3, 9)]
    assert shop.rows("SELECT sorting_key FROM system.tables WHERE database = 'history' AND name = 'likes'") == [
        (b"user_id, product_id, version",)
    ]


def test_bytes_may_be_a_key_and_text_may_turn_to_bytes_and_back(shop):
    one, other = b"\x00\xff", b"\xff\x00"
    shop.put({"id": "BLOB", "x": "TEXT"}, [(one, "a"), (other, "b"), (b"a", None)])
    shop.taken()
    shop.put({"id": "BLOB", "x": "BLOB"}, [(one, b"a"), (other, b"\xff"), (b"a", None)])
    assert shop.taken()["updates"] == 1
    shop.put({"id": "BLOB", "x": "TEXT"}, [(one, "a"), (other, None), (b"b", None)])
    record = shop.taken()
    assert [record[name] for name in ("inserts", "updates", "deletes")] == [1, 1, 1]
    assert shop.as_of(shop.at, ["id", "x"]) == [(one, b"a"), (b"b", None), (other, None)]
    assert shop.as_of(shop.at - timedelta(hours=1), ["id", "x"]) == [(one, b"a"), (b"a", None), (other, b"\xff")]


def test_columns_of_the_shop_may_be_called_as_those_of_versions_or_by_any_other_name(shop):
    columns = {"id": "INTEGER", "version": "INTEGER", "op": "TEXT", "is_deleted": "INTEGER", "valid_from": "DATETIME"}
    odd = {
        "two words": "TEXT",
        "a, b": "TEXT",
        "it's": "TEXT",
        'say "so"': "TEXT",
        "Größe": "TEXT",
        "f.x": "DECIMAL(4,1)",
    }
    shop.key = {"items": ["id", "a, b"]}
    shop.plan()
    shop.put({**columns, **odd}, [(1, 7, "x", 0, "2026-01-01", "a", "k", "c", "d", "e", "1.5")])
    shop.taken()
    more = {**columns, **odd, "is_filled": "INTEGER", "f": "INTEGER", "h": "INTEGER"}
    shop.put(more, [(1, 8, "x", 0, "2026-01-01", "a", "k", "c", "d", "e", "1.5", 1, 2, 3)])
    record = shop.taken()
    assert (record["updates"], record["added"], record["dropped"]) == (1, ["is_filled", "f", "h"], [])
    shop.put(odd | {"id": "INTEGER", "version": "INTEGER"}, [("a", "k", "c", "d", "e", "1.5", 1, 8)])
    assert set(shop.taken()["dropped"]) == {
        "source_op",
        "source_is_deleted",
        "source_valid_from",
        "is_filled",
        "f",
        "h",
    }
    told = shop.rows(
        "SELECT source_version, version, changed, `two words`, `it's`, `f.x`, is_filled FROM history.items ORDER BY version"
    )
    assert told == [
        (7, 1, [], b"a", b"c", Decimal("1.5"), None),
        (8, 2, [b"source_version"], b"a", b"c", Decimal("1.5"), 1),
    ]
    shop.put({"id": "INTEGER", "a, b": "TEXT", "`": "TEXT"}, [(1, "k", "x")])
    assert "has a column '`', which history cannot store: exclude it" in shop.refused(accept_deletes=True)
    shop.put({"id": "INTEGER", "a, b": "TEXT", "version": "TEXT", "source_version": "TEXT"})
    assert "two columns would be stored under one name" in shop.refused(accept_deletes=True)


def test_a_wider_type_reaches_the_views_and_loses_nothing(shop):
    shop.put({"id": "INTEGER", "n": "DECIMAL(4,2)"}, [(1, "1.50"), (2, "2.50")])
    shop.taken()
    shop.put({"id": "INTEGER", "n": "DECIMAL(18,4)"}, [(1, "1.50"), (2, "98765432109.1234")])
    record = shop.taken()
    assert (record["mode"], record["updates"]) == ("rewrite", 1)
    assert record["retyped"] == ["n: Nullable(Decimal(4, 2)) -> Nullable(Decimal(18, 4))"]
    for view in ("items_current", f"items_at(ts = '{shop.at:%Y-%m-%d %H:%M:%S}')", "items_versions"):
        told = shop.rows(f"SELECT n FROM history.{view} WHERE id = 2 ORDER BY version DESC LIMIT 1")
        assert told == [(Decimal("98765432109.1234"),)]
    assert shop.as_of(shop.at - timedelta(minutes=1), ["id", "n"]) == [(1, Decimal("1.50")), (2, Decimal("2.50"))]


def test_a_dropped_column_is_null_from_then_on_and_remembered_before(shop):
    shop.put(ITEMS, [(1, "ring", "5.00"), (2, "chain", "6.00")])
    shop.taken()
    before = shop.at
    shop.put({"id": "INTEGER", "price": "DECIMAL(10,2)"}, [(1, "5.00"), (2, "7.00")])
    record = shop.taken()
    assert (record["dropped"], record["updates"], record["mode"]) == (["title"], 1, "append")
    for at in (shop.at, shop.at + timedelta(days=9)):
        assert shop.as_of(at, ["id", "title"]) == [(1, None), (2, None)]
    assert shop.rows("SELECT id, title FROM history.items_current ORDER BY id") == [(1, None), (2, None)]
    for at in (before, shop.at - timedelta(milliseconds=1)):
        assert shop.as_of(at, ["id", "title"]) == [(1, b"ring"), (2, b"chain")]
    assert migrate(shop.warehouse, shop.settings) == []
    shop.put(ITEMS, [(1, "ring", "5.00"), (2, "necklace", "7.00")])
    record = shop.taken()  # the second row's version of that time never knew a title
    assert (record["added"], record["inserts"] + record["updates"]) == (["title"], 0)
    assert shop.rows("SELECT id, title FROM history.items_current ORDER BY id") == [(1, b"ring"), (2, b"necklace")]
    assert shop.as_of(before, ["id", "title"]) == [(1, b"ring"), (2, b"chain")]


@embedded_only
def test_a_column_that_comes_back_with_another_value_does_not_change_the_past(shop):
    shop.put({"id": "INTEGER", "x": "INTEGER", "y": "INTEGER"}, [(1, 5, 1), (2, 5, 1)])
    shop.taken()
    before = shop.at
    shop.put({"id": "INTEGER", "y": "INTEGER"}, [(1, 1), (2, 1)])
    shop.taken()
    shop.put({"id": "INTEGER", "x": "INTEGER", "y": "INTEGER"}, [(1, 6, 1), (2, 5, 1)])
    assert shop.taken()["updates"] == 1
    assert shop.as_of(before, ["id", "x"]) == [(1, 5), (2, 5)]
    assert shop.as_of(shop.at, ["id", "x"]) == [(1, 6), (2, 5)]


def test_tables_columns_and_views_say_what_they_are(shop):
    shop.put(ITEMS, [(1, "ring", "5.00")])
    shop.taken()
    tables = dict(shop.rows("SELECT name, comment FROM system.tables WHERE database = 'history'"))
    by_role = {f"shop_{name}_versions".encode() for name in SHOP_VIEW_NAMES}
    assert tables.keys() == {b"items", b"items_current", b"items_versions", b"items_at", *by_role}
    assert all(tables.values())
    described = shop.rows("SELECT table, name, comment FROM system.columns WHERE database = 'history'")
    assert {table for table, *_ in described} == {b"items", b"items_current", b"items_versions", *by_role}
    assert [row for row in described if not row[2]] == []
    assert (b"items_current", b"title", b"title of the shop's table, TEXT there") in described
    shop.put({**ITEMS, "title": "VARCHAR(80)"}, [(1, "ring", "5.00")])
    assert shop.taken()["mode"] == "append"
    of_title = "database = 'history' AND table LIKE 'items%' AND name = 'title'"
    described = shop.rows(f"SELECT table, comment FROM system.columns WHERE {of_title}")
    assert {comment for _, comment in described} == {b"title of the shop's table, VARCHAR(80) there"}


WIDER = {
    # column: its type and values, what its type becomes, and the values that its versions then have
    "tiny": ("TINYINT", (-128, None), "BIGINT", (-128, None)),
    "whole": ("INT UNSIGNED", (2**32 - 1, 0), "DECIMAL(12,2)", (Decimal(2**32 - 1), Decimal(0))),
    "big": ("BIGINT", (2**63 - 1, -(2**63)), "BIGINT UNSIGNED NULL", (2**63 - 1, 0)),
    "real_of": ("INT", (7, -1), "DOUBLE", (7.0, -1.0)),
    "text_of": ("BIGINT", (7, None), "VARCHAR(40)", (b"7", None)),
    "price": ("DECIMAL(10,2)", ("1.50", "-99999999.99"), "DECIMAL(12,4)", (Decimal("1.50"), Decimal("-99999999.99"))),
    "price_text": ("DECIMAL(10,2)", ("1.50", None), "VARCHAR(40)", (b"1.50", None)),
    "ratio": ("FLOAT", (0.1, None), "DOUBLE", (0.10000000149011612, None)),
    "share": ("DOUBLE", (0.1, 1e300), "VARCHAR(40)", (b"0.1", b"1e300")),
    "day": ("DATE", ("2024-02-29", "9999-12-31"), "DATETIME(3)", (datetime(2024, 2, 29, tzinfo=UTC), datetime(2299, 12, 31, 23, 59, 59, 999999, tzinfo=UTC))),
    "moment": ("DATETIME", ("2024-02-29 01:02:03", None), "VARCHAR(40)", (b"2024-02-29 01:02:03", None)),
    "title": ("VARCHAR(20)", ("\u00e9 ", ""), "LONGTEXT", ("\u00e9 ".encode(), b"")),
    "code": ("BINARY(2)", (b"\xff\0", b"ab"), "VARBINARY(9)", (b"\xff\0", b"ab")),
}  # fmt: skip


@embedded_only
def test_wider_types_of_a_real_database_make_no_versions_and_lose_nothing(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(app.shop.mysql, "ReaderProcess", InProcessReader)
    keys = (b"\x00\xff", b"\xff\x00")
    with running_mariadb(tmp_path / "mariadb") as server:
        shop.settings = shop.settings.model_copy(update={"shop_db": ServiceUrl.parse(server.url(), "mysql")})
        declared = ", ".join(f"{name} {type_}" for name, (type_, *_) in WIDER.items())
        with closing(server.connect("root", database="shop")) as database, database.cursor() as cursor:
            cursor.execute(f"CREATE TABLE items (id BINARY(2) PRIMARY KEY, {declared})")
            marks = ", ".join(["%s"] * (len(WIDER) + 1))
            for number, key in enumerate(keys):
                values = [values[number] for _, values, *_ in WIDER.values()]
                cursor.execute(f"INSERT INTO items VALUES ({marks})", (key, *values))
            assert shop.taken()["inserts"] == 2
            first = shop.at
            fed_first = shop.as_of(first, list(WIDER))
            cursor.execute("UPDATE items SET big = 0 WHERE big < 0")
            cursor.execute("ALTER TABLE items " + ", ".join(f"MODIFY {n} {w}" for n, (_, _, w, _) in WIDER.items()))
            record = shop.taken()
            assert [record[name] for name in ("mode", "inserts", "updates", "deletes")] == ["rewrite", 0, 1, 0]
            assert shop.rows("SELECT changed FROM history.items WHERE op = 'update'") == [([b"big"],)]
            unchanged = shop.taken()
            assert [unchanged[name] for name in ("mode", "inserts", "updates", "deletes")] == ["append", 0, 0, 0]
    told = shop.rows(f"SELECT {', '.join(WIDER)} FROM history.items_current ORDER BY id")
    for number in (0, 1):
        assert dict(zip(WIDER, told[number], strict=True)) == {
            name: now[number] for name, (_, _, _, now) in WIDER.items()
        }
    for was, now in zip(fed_first, shop.as_of(first, list(WIDER)), strict=True):
        assert list(map(in_short, now)) == list(map(in_short, was))


NUMBERS = {  # declared, values, declared later, values in history then
    "price": ("VARCHAR(10)", ("149.9", "007"), "DECIMAL(10,2)", (b"149.90", b"7.00")),
    "share": ("VARCHAR(10)", ("3.50", "100"), "DOUBLE", (b"3.5", b"100")),
    "stock": ("VARCHAR(10)", ("12", "-03"), "INT", (b"12", b"-3")),
    "weight": ("DECIMAL(65,30)", ("1.5", "-0.25"), "DECIMAL(10,2)", (b"1.50", b"-0.25")),
}


@embedded_only
def test_text_that_becomes_a_number_makes_no_version(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(app.shop.mysql, "ReaderProcess", InProcessReader)
    with running_mariadb(tmp_path / "mariadb") as server:
        shop.settings = shop.settings.model_copy(update={"shop_db": ServiceUrl.parse(server.url(), "mysql")})
        declared = ", ".join(f"{name} {type_}" for name, (type_, *_) in NUMBERS.items())
        with closing(server.connect("root", database="shop")) as database, database.cursor() as cursor:
            cursor.execute(f"CREATE TABLE items (id INT PRIMARY KEY, {declared})")
            for number in (0, 1):
                values = [values[number] for _, values, *_ in NUMBERS.values()]
                cursor.execute("INSERT INTO items VALUES (%s, %s, %s, %s, %s)", (number, *values))
            assert shop.taken()["inserts"] == 2
            cursor.execute("ALTER TABLE items " + ", ".join(f"MODIFY {n} {w}" for n, (_, _, w, _) in NUMBERS.items()))
            record = shop.taken()
            assert [record[name] for name in ("inserts", "updates", "deletes")] == [0, 0, 0]
            cursor.execute("UPDATE items SET price = price + 0.01, share = share + 1, weight = 2, stock = 4")
            assert shop.taken()["updates"] == 2
            cursor.execute(
                "UPDATE items SET price = price - 0.01, share = share - 1, weight = 1.5, stock = 12 WHERE id = 0"
            )
            cursor.execute("UPDATE items SET price = 7, share = 100, weight = -0.25, stock = -3 WHERE id = 1")
            assert shop.taken()["updates"] == 2
    for number, row in enumerate(shop.rows(f"SELECT {', '.join(NUMBERS)} FROM history.items_current ORDER BY id")):
        assert dict(zip(NUMBERS, row, strict=True)) == {name: now[number] for name, (*_, now) in NUMBERS.items()}


def in_short(value: Any) -> Any:
    """A value without what its type adds to it."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    try:
        return float(text)
    except ValueError:
        return text[:10]


# ---- what is refused ---------------------------------------------------------------------------------------------


@embedded_only
@pytest.mark.parametrize(("rows", "problem"), [
    ([(1, "a"), (None, "b"), (None, "c")], r"2 row\(s\) without a key \(id\): null; null"),
    ([(5, "a"), (5, "b"), (6, None), (6, None), (7, None)], r"2 key\(s\) stand twice \(id\): 5; 6"),
    ([(n // 2, "") for n in range(1, 40)], r"stand twice \(id\): "),
])  # fmt: skip
@pytest.mark.parametrize("piece_rows", [2, 131_072])
def test_a_table_whose_keys_tell_no_rows_apart_is_refused_and_the_others_go_on(shop, monkeypatch, rows, problem, piece_rows):  # fmt: skip
    monkeypatch.setattr(app.frames.snapshots, "_PIECE_ROWS", piece_rows)
    monkeypatch.setattr(app.shop.sqlite, "_BATCH_ROWS", 2)
    shop.key = {"items": ["id"], "stock": ["id"]}
    shop.plan()
    columns = {"id": "INT", "title": "TEXT"}
    shop.put(columns, [(4, "a"), (5, "b")])
    shop.put(columns, [(4, "a")], table="stock")
    shop.take()
    before = shop.history()
    shop.put(columns, rows)
    shop.put(columns, [(4, "b")], table="stock")
    taken = shop.take()
    assert re.search(problem, taken["items"]["error"]) or piece_rows == 2
    assert taken["items"]["error"]
    assert taken["stock"]["error"] == ""
    assert shop.history() == before
    assert shop.rows("SELECT id, title FROM history.stock_current") == [(4, b"b")]
    assert shop.rows("SELECT table, state, error != '' FROM etl.snapshots ORDER BY recorded_at DESC LIMIT 1 BY table") == [
        (b"items", b"failed", 1), (b"stock", b"done", 0),
    ]  # fmt: skip
    ended = shop.rows("SELECT state, error FROM etl.runs WHERE job = 'snapshot' ORDER BY started_at DESC LIMIT 1")
    assert ended == [(b"failed", f"items: {taken['items']['error']}".encode())]
    assert shop.staged() == []


def a_shop_of(shop: Shop, rows: int) -> None:
    shop.put(ITEMS, [(n, f"item {n}", "1.00") for n in range(rows)])


@embedded_only
def test_an_empty_table_is_refused_until_that_is_accepted(shop):
    a_shop_of(shop, 3)
    shop.taken()
    a_shop_of(shop, 0)
    assert shop.refused() == "items is empty, its history has 3 rows. If that is right, use --accept-deletes"
    assert shop.taken(accept_deletes=True)["deletes"] == 3


@embedded_only
def test_a_table_that_may_lose_all_its_rows_may_be_empty(shop):
    a_shop_of(shop, 3)
    shop.plan(items="max_deleted_share = 1")
    shop.taken()
    a_shop_of(shop, 0)
    assert shop.taken()["deletes"] == 3


@embedded_only
def test_a_table_of_which_more_than_the_allowed_share_is_gone_is_refused_until_that_is_accepted(shop):
    a_shop_of(shop, 10)
    shop.taken()
    a_shop_of(shop, 4)
    assert shop.refused().startswith("6 of 10 rows of items are gone, more than 50% (CARAT_MAX_DELETED_SHARE). If that")
    a_shop_of(shop, 5)
    assert shop.taken()["deletes"] == 5  # half is not more than half
    a_shop_of(shop, 3)
    shop.plan(items="max_deleted_share = 0.2")
    assert "2 of 5 rows of items are gone, more than 20%" in shop.refused()
    shop.plan(items="max_deleted_share = 0.4")
    assert shop.taken()["deletes"] == 2
    shop.plan()
    shop.settings = shop.settings.model_copy(update={"max_deleted_share": 0.0})
    a_shop_of(shop, 2)
    assert "1 of 3 rows" in shop.refused()
    assert shop.taken(accept_deletes=True)["deletes"] == 1


OTHER_SCHEMAS = {
    "no table": ({}, "has no table items"),
    "no key": ({"title": "TEXT", "price": "DECIMAL(10,2)"}, "items has no column id: another schema"),
    "most columns gone": ({"id": "INTEGER"}, r"2 of 2 columns are gone \(title, price\). If that is right, use --accept-deletes"),
    "key is text": ({**ITEMS, "id": "TEXT"}, "its key id is now String, it was Int64. If that is right, start it over: `carat snapshot --rebuild --tables items`"),
}  # fmt: skip


@embedded_only
@pytest.mark.parametrize(("columns", "problem"), OTHER_SCHEMAS.values(), ids=OTHER_SCHEMAS)
def test_a_shop_that_answers_with_another_schema_changes_nothing(shop, columns, problem):
    a_shop_of(shop, 3)
    shop.taken()
    if columns:
        shop.put(columns, [tuple(range(len(columns)))] * 3)
    else:
        shop.run("DROP TABLE items")
    assert re.search(problem, shop.refused())


@embedded_only
def test_a_text_key_that_turned_into_numbers_is_refused(shop):
    shop.put({"id": "TEXT", "n": "INTEGER"}, [("9", 1), ("10", 1)])
    shop.taken()
    shop.put({"id": "INTEGER", "n": "INTEGER"}, [(9, 1), (10, 1)])
    assert "its key id is now Int64, it was String" in shop.refused()


def test_a_key_may_get_a_wider_type(shop):
    shop.put({"id": "DATE", "n": "INTEGER"}, [("2024-02-29", 1), ("2024-03-01", 1)])
    shop.taken()
    rows = [("2024-02-29 00:00:00", 1), ("2024-03-01 00:00:00", 2), ("2024-03-01 00:00:01", 3)]
    shop.put({"id": "DATETIME", "n": "INTEGER"}, rows)
    record = shop.taken()
    assert [record[name] for name in ("mode", "inserts", "updates", "deletes")] == ["rewrite", 1, 1, 0]
    assert len(shop.as_of(shop.at, ["id"])) == 3


@embedded_only
def test_another_key_and_a_wanted_column_that_is_missing_are_refused(shop):
    a_shop_of(shop, 3)
    shop.taken()
    shop.key = {"items": ["title"]}
    shop.plan()
    assert "has the key id, the plan now says title: start it over with" in shop.refused()
    shop.key = {"items": ["id"]}
    shop.plan(items='columns = ["title", "colour"]')
    assert "items has no column colour" in shop.refused()


@embedded_only
def test_a_value_that_cannot_be_kept_exactly_is_refused_and_shown(shop):
    shop.put(ITEMS, [(1, "ring", "5.00")])
    shop.taken()
    shop.put(ITEMS, [(1, "ring", 1 / 3)])
    assert "price" in shop.refused()
    shop.put(ITEMS, [(1, "ring", "cheap")])
    assert "price" in shop.refused()


@embedded_only
def test_most_columns_may_go_where_that_is_accepted(shop):
    a_shop_of(shop, 3)
    shop.taken()
    shop.put({"id": "INTEGER"}, [(n,) for n in range(3)])
    record = shop.taken(accept_deletes=True)
    assert (record["dropped"], record["updates"]) == (["title", "price"], 0)


@embedded_only
def test_only_the_named_tables_are_taken(shop):
    shop.key = {"items": ["id"], "stock": ["id"]}
    shop.plan()
    a_shop_of(shop, 3)
    shop.put({"id": "INTEGER"}, [(1,)], table="stock")
    assert shop.take(names=["stock"]).keys() == {"stock"}
    assert shop.rows("SELECT DISTINCT table FROM etl.snapshots") == [(b"stock",)]
    with pytest.raises(SettingsError, match="--tables cart: the snapshot plan has items, stock"):
        shop.take(names=["cart"])


# ---- when --------------------------------------------------------------------------------------------------------


@embedded_only
def test_a_snapshot_may_not_lie_before_the_last_one_nor_in_the_future(shop):
    a_shop_of(shop, 2)
    shop.taken()
    at = shop.at
    a_shop_of(shop, 3)
    told = shop.refused(at=at - timedelta(milliseconds=1))
    assert told.startswith(
        "history.items already has a snapshot of 2026-03-01T01:00:00.000Z, which is later than 2026-03-01T00:59:59"
    )
    assert "--rebuild --tables items" in told
    assert shop.taken(at=at)["inserts"] == 1
    a_shop_of(shop, 4)
    assert shop.taken(at=at + timedelta(microseconds=999))["inserts"] == 1  # of the same millisecond
    assert len(shop.as_of(at, ["id"])) == 4
    with pytest.raises(SettingsError, match="lies in the future"):
        shop.take(at=datetime.now(tz=UTC) + timedelta(minutes=1))


@embedded_only
def test_an_unchanged_snapshot_moves_the_instant_before_which_none_may_lie(shop):
    a_shop_of(shop, 2)
    shop.taken()
    shop.taken()
    assert "already has a snapshot of 2026-03-01T02:00:00.000Z" in shop.refused(at=shop.at - timedelta(minutes=1))


def test_a_rebuild_forgets_the_table_and_may_begin_at_any_instant_with_any_key(shop):
    a_shop_of(shop, 3)
    shop.taken()
    a_shop_of(shop, 2)
    shop.taken()
    shop.key = {"items": ["title"]}
    shop.plan()
    early = START - timedelta(days=30)
    record = shop.taken(at=early, rebuild=True)
    assert (record["mode"], record["inserts"]) == ("rebuild", 2)
    assert shop.rows("SELECT title, version, valid_from, op FROM history.items ORDER BY title") == [
        (b"item 0", 1, early, b"insert"), (b"item 1", 1, early, b"insert"),
    ]  # fmt: skip
    assert shop.as_of(early, ["id"]) == [(0,), (1,)]
    a_shop_of(shop, 3)
    assert shop.taken(at=early + timedelta(hours=1))["inserts"] == 1


# ---- the journal -------------------------------------------------------------------------------------------------


def test_snapshots_in_which_nothing_changed_write_nothing_but_that_they_were_taken(shop):
    a_shop_of(shop, 3)
    shop.taken()

    def written() -> tuple[dict[str, int], list[Row]]:
        counts = {
            name: shop.rows(f"SELECT count() FROM {name}")[0][0]
            for (name,) in shop.warehouse.query("SELECT database || '.' || name FROM system.tables WHERE database IN ('etl', 'history') AND engine = 'MergeTree' AND name NOT LIKE 'writer%'").rows()
        }  # fmt: skip
        objects = "SELECT database, name, uuid, metadata_modification_time FROM system.tables WHERE database IN ('etl', 'history') AND name NOT LIKE 'writer%' ORDER BY ALL"
        return counts, shop.rows(objects)

    counts, objects = written()
    parts = shop.rows("SELECT name FROM system.parts WHERE database = 'history' ORDER BY ALL")
    for _ in range(2):
        record = shop.taken()
        assert [record[name] for name in ("rows", "inserts", "updates", "deletes")] == [3, 0, 0, 0]
    after, objects_after = written()
    assert {name: after[name] - counts[name] for name in counts if after[name] != counts[name]} == {"etl.runs": 2, "etl.snapshots": 2}  # fmt: skip
    assert objects_after == objects
    assert shop.rows("SELECT name FROM system.parts WHERE database = 'history' ORDER BY ALL") == parts


def test_the_last_snapshot_is_known_even_where_the_clock_went_back(shop, monkeypatch):
    class Back(datetime):
        @classmethod
        def now(cls, tz=None) -> datetime:
            return datetime(2020, 1, 1, tzinfo=tz)

    a_shop_of(shop, 3)
    shop.taken()
    monkeypatch.setattr(app.warehouse.history, "datetime", Back)
    shop.put({"id": "INTEGER", "title": "TEXT"}, [(n, f"item {n}") for n in range(3)])
    assert shop.taken()["dropped"] == ["price"]
    assert shop.taken()["dropped"] == []
    assert "already has a snapshot of 2026-03-01T03:00:00.000Z" in shop.refused(at=shop.at - timedelta(minutes=1))


@embedded_only
def test_versions_that_the_journal_knows_nothing_of_are_never_forgotten(shop):
    a_shop_of(shop, 3)
    shop.taken()
    shop.warehouse.command("TRUNCATE TABLE etl.snapshots")
    assert "already has a snapshot of 2026-03-01T01:00:00.000Z" in shop.refused(at=START)
    a_shop_of(shop, 2)
    record = shop.taken()
    assert [record[name] for name in ("mode", "inserts", "updates", "deletes")] == ["append", 0, 0, 1]


@embedded_only
def test_an_empty_table_that_the_journal_knows_nothing_of_is_begun(shop):
    shop.put({"id": "TEXT", "colour": "TEXT"})
    shop.taken()
    shop.warehouse.command("TRUNCATE TABLE etl.snapshots")
    a_shop_of(shop, 3)
    assert shop.taken()["inserts"] == 3
    assert len(shop.rows("SELECT * FROM history.items_current")) == 3


# ---- from the command line ---------------------------------------------------------------------------------------


@dataclass
class Command:
    """`carat` with the shop's settings, in this process and so without the second that it takes to start one."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def carat(self, *arguments: str) -> tuple[int, str, list[str]]:
        """Exit code, what it said, and the lines that a person reads on stderr."""
        self.monkeypatch.setattr(sys, "argv", ["carat", *arguments])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main.main()
        out, err = self.capsys.readouterr()
        return int(ended.value.code or 0), out, [line for line in err.splitlines() if not line.startswith("{")]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys) -> Command:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as database, database:
        database.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT)")
        database.execute("CREATE TABLE stock (id INTEGER, title TEXT)")
        database.execute("INSERT INTO items VALUES (1, 'ring'), (2, 'chain')")
        database.execute("INSERT INTO stock VALUES (1, 'ring'), (1, 'chain')")
    (tmp_path / "plan.toml").write_text('[items]\nsource = "items"\nkey = ["id"]\n[stock]\nsource = "stock"\nkey = ["id"]\n')  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARAT_WAREHOUSE", "chdb://./warehouse")
    monkeypatch.setenv("CARAT_SHOP_DB", f"sqlite://{tmp_path}/shop.sqlite")
    monkeypatch.setenv("CARAT_SNAPSHOTS", str(tmp_path / "plan.toml"))
    return Command(monkeypatch, capsys)


def test_the_command_reports_each_table_as_json_and_goes_on_past_a_refused_one(command):
    code, out, told = command.carat("snapshot", "--json")
    assert code == 1
    assert told == ["carat: stock: 1 key(s) stand twice (id): 1. The history of these tables is unchanged"]
    items, stock = json.loads(out)
    assert (items["table"], items["rows"], items["inserts"], items["error"]) == ("items", 2, 2, "")
    assert items["guarantee"] == "one instant for all tables"
    assert (stock["table"], stock["error"]) == ("stock", "1 key(s) stand twice (id): 1")
    code, out, told = command.carat("snapshot", "--tables", "items", "--json")
    assert (code, json.loads(out)[0]["inserts"], told) == (0, 0, [])


def test_the_command_shows_a_table_of_what_it_did(command):
    code, out, told = command.carat("snapshot", "--tables", "items", "--at", "2026-03-01T12:00:00+01:00")
    assert (code, told) == (0, [])
    assert out.startswith("snapshot of 2026-03-01 11:00:00")
    assert re.search(r"items\W+2\W+2\W+0\W+0\W+one instant for all tables", out)
    code, out, told = command.carat("snapshot", "--tables", "items", "--at", "2026-03-01")
    assert code == 1
    assert "not changed" in out
    assert len(told) == 1
    assert "which is later than" in told[0]
    code, out, _ = command.carat("snapshot", "--tables", "items", "--at", "2026-03-01", "--rebuild")
    assert code == 0
    code, out, _ = command.carat("query", "SELECT title FROM history.items_at(ts = '2026-03-01 00:00:00') ORDER BY 1", "--format", "csv")  # fmt: skip
    assert (code, out) == (0, '"title"\n"chain"\n"ring"\n')


def test_snapshots_go_on_after_the_clock_was_set_back(command, monkeypatch):
    code, _, told = command.carat("snapshot", "--tables", "items", "--at", "2026-03-04T12:00:00Z")
    assert (code, told) == (0, [])

    class ClockSetBack(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, 1, 12, tzinfo=tz)

    monkeypatch.setattr(app.jobs.snapshot.take, "datetime", ClockSetBack)
    for number in (1, 2):
        code, out, _ = command.carat("snapshot", "--tables", "items", "--json")
        (items,) = json.loads(out)
        assert (code, items["error"]) == (0, "")
        assert items["at"].startswith(f"2026-03-04 12:00:00.00{number}")


@pytest.mark.parametrize(("arguments", "message"), [
    (("--at", "yesterday"), "--at 'yesterday' is not a valid time; write it as 2026-03-01T12:00:00Z"),
    (("--at", "2999-01-01"), "lies in the future"), (("--rebuild",), "name the --tables to delete it of"),
    (("--tables", "cart"), "--tables cart: the snapshot plan has items, stock"),
])  # fmt: skip
def test_wrong_arguments_are_one_line_and_exit_2(command, arguments, message):
    code, out, told = command.carat("snapshot", *arguments)
    assert (code, out, len(told)) == (2, "", 1)
    assert message in told[0]


def test_a_shop_that_is_not_there_is_one_line_and_exit_1(command, monkeypatch):
    monkeypatch.setenv("CARAT_SHOP_DB", "sqlite:///nowhere/shop.sqlite")
    code, _, told = command.carat("snapshot")
    assert code == 1
    assert told == ["carat: sqlite:///nowhere/shop.sqlite: no such file. Check CARAT_SHOP_DB; nothing was changed"]


@embedded_only
def test_a_column_without_a_name_is_refused_with_its_fix(shop):
    shop.run("DROP TABLE IF EXISTS items", 'CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, "" TEXT)')
    assert (
        'items has a column without a name, which history cannot store: set columns = ["id", "title"]' in shop.refused()
    )


@embedded_only
def test_a_full_disk_while_history_is_read_is_said_and_changes_nothing(shop, monkeypatch):
    a_shop_of(shop, 3)
    shop.taken()
    write = app.jobs.snapshot.tables.write_versions

    def to_a_full_disk(*arguments, **more) -> None:
        write(*arguments, **more)
        arguments[3].write_bytes(b"")

    monkeypatch.setattr(app.jobs.snapshot.tables, "write_versions", to_a_full_disk)
    a_shop_of(shop, 4)
    drop_digests(shop.settings.scratch)  # else history is not read
    assert re.search(r"could not be written or read whole .*Free some space, or move CARAT_SCRATCH", shop.refused())


@embedded_only
def test_a_scratch_directory_that_cannot_be_written_is_a_fault_of_the_snapshot_alone(shop, tmp_path):
    a_shop_of(shop, 3)
    (tmp_path / "no folder").write_bytes(b"")
    shop.settings = shop.settings.model_copy(update={"scratch": tmp_path / "no folder" / "scratch"})
    with pytest.raises(ShopError, match="CARAT_SCRATCH"):
        take_snapshot(shop.warehouse, shop.settings)
