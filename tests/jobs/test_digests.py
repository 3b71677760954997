"""The digests that a snapshot leaves: only a cache, which may be lost, be of another state, or be damaged."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

import app.jobs.snapshot.tables
from app.jobs.digests import drop_digests
from app.jobs.snapshot import take_snapshot
from app.settings import load_settings

pytestmark = pytest.mark.slow

FIRST = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def take(warehouse, tmp_path, monkeypatch):
    """Takes a snapshot of these rows; says whether their former versions were all read, and what changed."""
    plan, shop, scratch = tmp_path / "plan.toml", tmp_path / "shop.sqlite", tmp_path / "scratch"
    plan.write_text('[items]\nsource = "items"\nkey = ["shop", "id"]\n')
    settings = load_settings(_env_file=None, shop_db=f"sqlite://{shop}", snapshots=plan, scratch=scratch)
    with closing(sqlite3.connect(shop)) as database:
        database.execute("CREATE TABLE items (shop TEXT, id INTEGER, price INTEGER, PRIMARY KEY (shop, id))")
    read, write = [], app.jobs.snapshot.tables.write_versions
    monkeypatch.setattr(
        app.jobs.snapshot.tables, "write_versions", lambda *args, **more: read.append(args) or write(*args, **more)
    )
    hours = iter(range(1, 100))

    def run(rows: dict[tuple[str, int], int | None], *, problem: str = "") -> tuple[bool, list[int]]:
        with closing(sqlite3.connect(shop)) as database, database:
            database.execute("DELETE FROM items")
            database.executemany("INSERT INTO items VALUES (?, ?, ?)", [(*key, price) for key, price in rows.items()])
        read.clear()
        at = FIRST + timedelta(hours=next(hours))
        (taken,) = take_snapshot(warehouse, settings, at=at, accept_deletes=True)
        assert bool(taken["error"]) == bool(problem)
        assert problem in taken["error"]
        return bool(read), [taken[name] for name in ("inserts", "updates", "deletes")]

    run.scratch = scratch
    return run


def current(warehouse):
    return warehouse.query("SELECT shop, id, price, version FROM history.items_current ORDER BY ALL").rows()


def test_a_snapshot_after_another_reads_the_versions_of_what_differs_alone(take, warehouse):
    take({("a", 1): 10, ("a", 2): 20, ("b", 1): None})
    assert take({("a", 1): 10, ("a", 2): 20, ("b", 1): None}) == (False, [0, 0, 0])
    assert take({("a", 1): 11, ("b", 1): 0, ("c", 1): 5}) == (False, [1, 2, 1])
    assert current(warehouse) == [("a", 1, 11, 2), ("b", 1, 0, 2), ("c", 1, 5, 1)]
    assert take({("a", 1): 11, ("a", 2): 20, ("b", 1): 0}) == (False, [1, 0, 1])
    assert current(warehouse) == [("a", 1, 11, 2), ("a", 2, 20, 3), ("b", 1, 0, 2)]
    assert take({}) == (False, [0, 0, 3])
    assert take({("a", 1): 11}) == (True, [1, 0, 0])  # of no rows there are no digests


def test_lost_or_damaged_digests_cost_one_comparison_with_history(take, warehouse):
    take({("a", 1): 10, ("a", 2): 20})
    drop_digests(take.scratch)
    assert take({("a", 1): 10, ("a", 2): 21}) == (True, [0, 1, 0])
    (file,) = (take.scratch / "digests").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert take({("a", 1): 12, ("a", 2): 21}) == (True, [0, 1, 0])
    assert take({("a", 1): 12, ("a", 2): 22}) == (False, [0, 1, 0])


def test_digests_that_are_damaged_inside_fail_once_and_are_removed(take, warehouse):
    take({("a", 1): 10, ("b", 2): 20})
    (file,) = (take.scratch / "digests").iterdir()
    data = bytearray(file.read_bytes())
    half = len(data) // 2
    data[8:half] = bytes(half - 8)  # the footer, by which the file is opened, is whole
    file.write_bytes(data)
    take({("a", 1): 11, ("b", 2): 20}, problem="is damaged")
    assert current(warehouse) == [("a", 1, 10, 1), ("b", 2, 20, 1)]
    assert take({("a", 1): 11, ("b", 2): 20}) == (True, [0, 1, 0])


def test_merged_parts_leave_digests_valid_and_any_change_of_history_does_not(take, warehouse):
    take({("a", 1): 10, ("a", 2): 20})
    take({("a", 1): 11, ("a", 2): 20})
    warehouse.command("OPTIMIZE TABLE history.items FINAL")
    assert take({("a", 1): 11, ("a", 2): 20}) == (False, [0, 0, 0])
    warehouse.command("ALTER TABLE history.items DELETE WHERE id = 2 SETTINGS mutations_sync = 2")
    assert take({("a", 1): 11, ("a", 2): 20}) == (True, [1, 0, 0])
    warehouse.command("ALTER TABLE history.items UPDATE price = 7 WHERE id = 1 SETTINGS mutations_sync = 2")
    assert take({("a", 1): 11, ("a", 2): 20}) == (True, [0, 1, 0])


def test_only_the_digests_of_the_last_state_are_kept(take):
    for price in range(4):
        take({("a", 1): price})
        assert len(list((take.scratch / "digests").iterdir())) == 1
