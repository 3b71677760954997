"""A snapshot that is killed or fails anywhere is finished or forgotten by the next start: each version exactly once.

With `CARAT_TEST_EVERY` it fails before each single statement, else before some of those that change nothing readers see.
"""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import app.frames.snapshots
import app.shop.sqlite
import app.warehouse.history
from app.core.errors import CaratError, ContractError
from app.jobs.snapshot import take_snapshot
from app.settings import Settings
from app.warehouse import Warehouse, recover, recover_snapshots
from app.warehouse.opening import prepare_warehouse
from tests.stories.test_faults import GATED, Shop, kill_all
from tests.support.effort import repeated

pytestmark = pytest.mark.slow

BEFORE = datetime(2026, 3, 1, tzinfo=UTC)
AFTER = datetime(2026, 3, 2, tzinfo=UTC)
# How the table of the shop is declared before and after; a rebuild forgets what was before.
MODES = {
    "append": (("id INTEGER", "n INTEGER", "x TEXT"), ("id INTEGER", "n INTEGER", "x TEXT")),
    "rewrite": (("id INTEGER", "n DECIMAL(4,1)", "x TEXT"), ("id INTEGER", "n DECIMAL(8,2)", "x TEXT", "y INTEGER")),
    "rebuild": (("id INTEGER", "n INTEGER", "x TEXT"), ("id INTEGER", "n INTEGER", "x TEXT")),
}
ROWS = 60
MADE = 53  # versions by what changes


def fill(path: Path, declared: Sequence[str], *, is_later: bool, rows: int = ROWS) -> None:
    """Make the shop's table anew; later some rows are gone, some came and some are others."""
    first = rows // 4 if is_later else 0
    values = [(key, key % 9 + (is_later and key % 2), f"item {key}", key) for key in range(first, first + rows)]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE IF EXISTS items")
        database.execute(f"CREATE TABLE items ({', '.join(declared)})")
        database.executemany(
            f"INSERT INTO items VALUES ({', '.join('?' * len(declared))})", [row[: len(declared)] for row in values]
        )


def everything(warehouse: Warehouse, table: str = "items") -> pl.DataFrame:
    """Every version that there is, but for the name of its snapshot."""
    return warehouse.query(f"SELECT * EXCEPT snapshot_id FROM history.{table} ORDER BY ALL")


def leftover(warehouse: Warehouse) -> list[str]:
    found = warehouse.query(
        "SELECT database || '.' || name FROM system.tables WHERE database IN ('etl', 'history') "
        "AND (name LIKE 'staged%' OR name LIKE '%tmp%')"
    )
    return found.to_series().to_list() if found.height else []


# ---- a statement fails, or the process with it -------------------------------------------------------------------


class StoppedError(CaratError):
    """What a statement that is not run raises."""


@contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, *, before: int, dies: bool) -> Iterator[list[str]]:
    """Fail before so many statements that write; where the process dies, none comes after it."""
    statements: list[str] = []

    def stops(run: Callable[..., None]) -> Callable[..., None]:
        def statement(self: Warehouse, *arguments: Any, **options: Any) -> None:
            statements.append(str(arguments[0])[:60])
            if len(statements) > before and (dies or len(statements) == before + 1):
                raise StoppedError("stopped")
            run(self, *arguments, **options)

        return statement

    with monkeypatch.context() as patched:
        for name in ("command", "insert"):
            patched.setattr(Warehouse, name, stops(getattr(Warehouse, name)))
        yield statements


@dataclass
class Tried:
    """A shop of one table and a warehouse, in which a snapshot is tried."""

    warehouse: Warehouse
    settings: Settings
    path: Path
    mode: str = "append"

    def begin(self, table: str) -> pl.DataFrame:
        """Take the first snapshot of a history of its own, and change the shop; the history until then."""
        self.settings.snapshots.write_text(f"[{table}]\nsource = 'items'\nkey = ['id']\n")
        fill(self.path, MODES[self.mode][0], is_later=False)
        take_snapshot(self.warehouse, self.settings, at=BEFORE)
        fill(self.path, MODES[self.mode][1], is_later=True)
        return everything(self.warehouse, table)

    def take(self, *, at: datetime = AFTER) -> dict[str, Any]:
        (record,) = take_snapshot(self.warehouse, self.settings, at=at, rebuild=self.mode == "rebuild")
        assert record["error"] == ""
        return record


@pytest.fixture
def tried(warehouse, tmp_path, monkeypatch) -> Tried:
    monkeypatch.setattr(app.frames.snapshots, "_PIECE_ROWS", 16)
    monkeypatch.setattr(app.warehouse.history, "_INSERTED_ROWS", 24)  # several parts
    path = tmp_path / "shop.sqlite"
    settings = Settings(
        _env_file=None, shop_db=f"sqlite://{path}", snapshots=tmp_path / "plan.toml", scratch=tmp_path / "scratch"
    )
    return Tried(warehouse, settings, path)


@pytest.mark.parametrize("mode", MODES)
def test_a_snapshot_that_fails_before_any_statement_is_whole_or_not_there_and_then_exactly_once(
    tried, monkeypatch, mode
):
    tried.mode = mode
    warehouse = tried.warehouse
    old = tried.begin("undisturbed")
    with stopping(monkeypatch, before=1000, dies=False) as statements:
        tried.take()
    new = everything(warehouse, "undisturbed")
    assert not new.equals(old)
    announced = next(n for n, statement in enumerate(statements) if "name='snapshots'" in statement)
    # The statements by which history becomes another one, and some of the others, in make test-long all of them.
    numbers = set(range(announced - 1, announced + 4))
    if warehouse.is_embedded:
        numbers |= set(random.sample(range(len(statements)), repeated(2, len(statements))))
    finished = []
    for number in sorted(numbers):
        table = f"t{number}"
        tried.begin(table)
        with stopping(monkeypatch, before=number, dies=number % 2 == 0), pytest.raises(StoppedError):
            tried.take()
        seen = everything(warehouse, table)
        assert seen.equals(old) or seen.equals(new), f"a reader sees a part, before {statements[number]}"
        if recover_snapshots(warehouse):
            finished.append(number)
            assert everything(warehouse, table).equals(new)
        recover(warehouse)
        assert leftover(warehouse) == []
        tried.take()
        assert everything(warehouse, table).equals(new), statements[number]
        live = warehouse.query(f"SELECT id, n FROM history.{table}_current ORDER BY id")
        assert live.equals(warehouse.query("SELECT id, n FROM history.undisturbed_current ORDER BY id"))
        assert live.height == ROWS
        before = warehouse.scalar(f"SELECT count() FROM history.{table}_at(ts = '2026-03-01 12:00:00')")
        assert before == (0 if mode == "rebuild" else ROWS)
    assert len(finished) == 2  # announced, and not yet swapped; and swapped, but not yet recorded as done


def test_versions_that_were_attached_in_part_are_attached_whole(tried, monkeypatch):
    tried.begin("items")

    def attach_some(self: Warehouse, sql: str, *arguments: Any) -> None:
        if "ATTACH PARTITION" in sql:
            command(self, "INSERT INTO history.items SELECT * FROM etl.staged_history_items WHERE id % 2")
            raise StoppedError("killed")
        command(self, sql, *arguments)

    command = Warehouse.command
    with monkeypatch.context() as patched:
        patched.setattr(Warehouse, "command", attach_some)
        with pytest.raises(StoppedError):
            tried.take()
    assert_recovered_exactly_once(tried)


def test_a_statement_that_a_client_sends_twice_is_noticed_and_mended(tried, monkeypatch):
    tried.begin("items")

    def attach_twice(self: Warehouse, sql: str, *arguments: Any) -> None:
        command(self, sql, *arguments)
        if "ATTACH PARTITION" in sql:
            command(self, sql, *arguments)

    command = Warehouse.command
    with monkeypatch.context() as patched:
        patched.setattr(Warehouse, "command", attach_twice)
        with pytest.raises(ContractError, match="history.items got 106 versions of 53"):
            tried.take()
    assert_recovered_exactly_once(tried)


@pytest.mark.parametrize("mode", ["append", "rewrite"])
def test_versions_that_were_sent_twice_are_not_published(tried, monkeypatch, mode):
    tried.mode = mode
    old = tried.begin("items")

    def insert_twice(self: Warehouse, *arguments: Any, **options: Any) -> None:
        insert(self, *arguments, **options)
        if "staged" in str(options.get("into")):
            insert(self, *arguments, **options)

    insert = Warehouse.insert
    with monkeypatch.context() as patched:
        patched.setattr(Warehouse, "insert", insert_twice)
        with pytest.raises(ContractError, match=r"holds \d+ versions, \d+ were written"):
            tried.take()
    assert everything(tried.warehouse).equals(old)
    assert leftover(tried.warehouse) == []


def assert_recovered_exactly_once(tried: Tried) -> None:
    assert recover_snapshots(tried.warehouse) == ["items"]
    found = everything(tried.warehouse)
    assert found.select("id", "version").is_unique().all()
    assert found.filter(pl.col("valid_from") == AFTER).height == MADE
    assert [tried.take()[name] for name in ("inserts", "updates", "deletes")] == [0, 0, 0]
    assert recover_snapshots(tried.warehouse) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lost", ["etl.staged_history_items", "history.items"])
def test_a_snapshot_whose_tables_are_gone_is_forgotten_and_the_next_one_finds_it_again(tried, monkeypatch, mode, lost):
    tried.mode = mode
    old = tried.begin("items")

    def stop(*_: Any, **__: Any) -> bool:
        raise StoppedError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(app.warehouse.history, "_swap", stop)
        with pytest.raises(StoppedError):
            tried.take()
    tried.warehouse.command(f"DROP TABLE {lost} SYNC")
    assert recover_snapshots(tried.warehouse) == []
    recover(tried.warehouse)
    assert leftover(tried.warehouse) == []
    assert recover_snapshots(tried.warehouse) == []  # that it failed is written down
    (told,) = tried.warehouse.query("SELECT error FROM etl.snapshots WHERE state = 'failed'")["error"]
    assert "the staged rows are gone" in told
    if lost != "history.items":
        assert everything(tried.warehouse).equals(old)
    tried.take()
    live = tried.warehouse.query("SELECT id FROM history.items_current ORDER BY id")["id"].to_list()
    assert live == list(range(ROWS // 4, ROWS // 4 + ROWS))


def test_readers_see_all_of_a_snapshot_or_nothing_of_it(tried):
    tried.begin("items")
    seen = set[int]()
    done = threading.Event()

    def watch() -> None:
        with tried.warehouse.new_connection() as reader:
            while not done.is_set():
                seen.add(reader.scalar("SELECT count() FROM history.items"))

    watching = threading.Thread(target=watch)
    watching.start()
    wanted = {ROWS}
    try:
        for day in range(1, 7):
            fill(tried.path, MODES["append"][0], is_later=day % 2 == 1)
            record = tried.take(at=BEFORE + timedelta(days=day))
            wanted.add(max(wanted) + record["inserts"] + record["updates"] + record["deletes"])
    finally:
        done.set()
        watching.join()
    assert len(seen) > 2
    assert seen <= wanted


# ---- kill -9 -----------------------------------------------------------------------------------------------------

KILLS = repeated(2, 20)
MANY_PARTS = (
    "import app.frames.snapshots, app.warehouse.history; app.frames.snapshots._PIECE_ROWS = 500; "
    "app.warehouse.history._INSERTED_ROWS = 500; "
)


@pytest.mark.parametrize("mode", MODES)
def test_a_snapshot_killed_at_any_moment_is_finished_or_forgotten_and_then_exactly_once(tmp_path, mode):
    path, plan = tmp_path / "shop.sqlite", tmp_path / "plan.toml"
    plan.write_text("[items]\nsource = 'items'\nkey = ['id']\n")
    begun = Shop(tmp_path / "begun")
    of_shop = {"shop_db": f"sqlite://{path}", "snapshots": plan, "scratch": tmp_path / "scratch"}

    def settings(shop: Shop) -> Settings:
        return Settings(_env_file=None, warehouse=f"chdb://{shop.warehouse_folder}", **of_shop)

    with begun.opened() as warehouse:
        prepare_warehouse(warehouse, settings(begun))
        fill(path, MODES[mode][0], is_later=False, rows=4000)
        take_snapshot(warehouse, settings(begun), at=BEFORE)
        old = everything(warehouse)
    fill(path, MODES[mode][1], is_later=True, rows=4000)
    shops = [begun.copy(tmp_path / str(number)) for number in range(KILLS + 1)]
    for shop in shops:
        shop.environment = {f"CARAT_{name.upper()}": str(value) for name, value in of_shop.items()}
    options = ("--tables", "items", "--rebuild") if mode == "rebuild" else ()
    moments = kill_all(shops, ("snapshot", "--at", AFTER.isoformat(), *options), MANY_PARTS + GATED)
    with shops[-1].opened() as warehouse:
        new = everything(warehouse)
    for shop, moment in zip(shops[:-1], moments, strict=True):
        with shop.opened() as warehouse:
            seen = everything(warehouse)
            assert seen.equals(old) or seen.equals(new), moment
            prepare_warehouse(warehouse, settings(shop))
            seen = everything(warehouse)
            assert seen.equals(old) or seen.equals(new), moment
            assert leftover(warehouse) == [], moment
            (record,) = take_snapshot(warehouse, settings(shop), at=AFTER, rebuild=mode == "rebuild")
            assert record["error"] == ""
            assert everything(warehouse).equals(new), moment
            assert leftover(warehouse) == []
            assert warehouse.scalar("SELECT count() FROM history.items_current") == 4000
