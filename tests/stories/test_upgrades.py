"""A warehouse that an earlier version wrote is opened by this one: its calls and history stay, its days become new."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.contracts import all_tables
from app.jobs.backup import back_up, restore
from app.jobs.build.backfill import plan_days
from app.jobs.hourly import run_hour
from app.jobs.verify import verify_days
from app.settings import Settings
from app.warehouse import Warehouse, migrate, open_warehouse
from tests.support.old_warehouses import VERSIONS, unpack

pytestmark = pytest.mark.slow

HISTORY = ("items", "stock", "cart", "favorites")


def settings_of(folder: Path) -> Settings:
    return Settings(
        _env_file=None, warehouse=f"chdb://{folder / 'warehouse'}", shop_db=f"sqlite:///{folder / 'shop.sqlite'}",
        spool=folder / "spool", scratch=folder / "scratch", log=folder / "log",
    )  # fmt: skip


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path) -> Settings:
    unpack(request.param, tmp_path)
    return settings_of(tmp_path)


def stored(warehouse: Warehouse) -> dict[str, int]:
    """The number of raw calls and of versions in history."""
    tables = {"pd.api_calls": ("pd.api_calls", "1")} | {f"history.{name}": (f"history.{name}", "1") for name in HISTORY}
    return warehouse.counts(tables)


def require_true(warehouse: Warehouse, settings: Settings) -> None:
    verification = verify_days(warehouse, settings)
    assert {table.day.isoformat() for table in verification.tables} == {"2026-03-01", "2026-03-02"}
    assert (verification.differing, verification.stale) == ([], {})


def test_there_is_a_warehouse_of_several_versions():
    assert len(VERSIONS) >= 4


def test_migrate_brings_it_up_to_date_and_has_nothing_to_do_after_that(old):
    with open_warehouse(old, purpose="a test", prepare=False) as warehouse:
        before = stored(warehouse)
        assert before["pd.api_calls"] > 50
        assert before["history.stock"] > 100
        migrate(warehouse, old)
        assert migrate(warehouse, old) == []
        assert stored(warehouse) == before
        columns = set(warehouse.query("SELECT database || '.' || table, name FROM system.columns").iter_rows())
        assert {(table.full_name, column.name) for table in all_tables() for column in table.columns} <= columns
        of_sessions = {name for table, name in columns if table == "dwh.sessions"}
        assert of_sessions - {"visitor_hash", "user_hash"} <= {name for table, name in columns if table == "dwh.visits"}


def test_the_hour_builds_every_day_again_and_each_is_what_its_raw_calls_say(old):
    with open_warehouse(old, purpose="a test") as warehouse:
        before = stored(warehouse)
        stale = {day.day.isoformat() for day in plan_days(warehouse, old)}
        assert stale <= {"2026-03-01", "2026-03-02"}
        run_hour(warehouse, old).require_done()
        require_true(warehouse, old)
        assert plan_days(warehouse, old) == []
        assert stored(warehouse) == before  # the snapshot of an unchanged shop versions no row
        assert warehouse.scalar("SELECT count() FROM dwh.sessions") > 5
        assert warehouse.scalar("SELECT count() FROM dwh.product_sessions WHERE title != ''") > 5


def test_a_backup_of_it_is_restored_and_true(old, tmp_path):
    back_up(old, tmp_path / "backup")
    new = settings_of(tmp_path / "new").model_copy(update={"shop_db": old.shop_db})
    restore(new, tmp_path / "backup", replace=False, now=datetime(2026, 6, 1, tzinfo=UTC))
    with open_warehouse(new, purpose="a test") as warehouse:
        run_hour(warehouse, new).require_done()
        require_true(warehouse, new)
