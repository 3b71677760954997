"""A long history: what a snapshot costs follows the shop's table, and what it finds stays exact."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from app.jobs.digests import drop_digests
from app.jobs.snapshot import take_snapshot
from app.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

FIRST = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def take(warehouse, settings, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[items]\nsource = "items"\nkey = ["shop", "id"]\n')
    shop = tmp_path / "shop.sqlite"
    of_shop = load_settings(_env_file=None, shop_db=f"sqlite://{shop}", snapshots=plan, scratch=tmp_path / "scratch")
    with closing(sqlite3.connect(shop)) as database:
        database.execute("CREATE TABLE items (shop TEXT, id INTEGER, price INTEGER, PRIMARY KEY (shop, id))")

    def run(hour: int, rows: dict[tuple[str, int], int]) -> dict:
        with closing(sqlite3.connect(shop)) as database, database:
            database.execute("DELETE FROM items")
            database.executemany("INSERT INTO items VALUES (?, ?, ?)", [(*key, price) for key, price in rows.items()])
        (taken,) = take_snapshot(warehouse, of_shop, at=FIRST + timedelta(hours=hour), accept_deletes=True)
        assert taken["error"] == ""
        return taken

    return run


def test_rows_with_many_versions_are_compared_with_their_last(warehouse, take, monkeypatch, tmp_path):
    asked = []
    write = warehouse.__class__.write_arrow_file
    monkeypatch.setattr(
        warehouse.__class__, "write_arrow_file", lambda self, sql, path: asked.append(sql) or write(self, sql, path)
    )
    keys = [("a", 1), ("a", 2), ("b", 1)]
    states = [{key: hour * 10 for key in keys if hour % 4 or key != keys[hour % 3]} for hour in range(9)]
    for hour, state in enumerate(states):
        take(hour, state)
        drop_digests(tmp_path / "scratch")
        assert take(hour, state)["updates"] == 0, "nothing changed since"
    assert any("LIMIT 1 BY" in sql for sql in asked)
    assert not all("LIMIT 1 BY" in sql for sql in asked)
    for hour, state in enumerate(states):
        at = f"{FIRST + timedelta(hours=hour):%Y-%m-%d %H:%M:%S}"
        found = warehouse.query("SELECT shop, id, price FROM history.items_at(ts = {at:String})", {"at": at}).rows()
        assert {(shop, number): price for shop, number, price in found} == state
