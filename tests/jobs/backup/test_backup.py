"""A restored backup is what was backed up; a damaged or unfinished one changes nothing; nobody forgotten comes back."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from app.core.errors import BackupError, CaratError, LockedError, SettingsError, WarehouseError
from app.intake.spool.segments import delivered_segments, segments
from app.jobs.backup import Manifest, back_up, read_manifest, restore
from app.jobs.backup.staged import DATABASE
from app.jobs.backup.tables import checksum, embedded_config, quoted, stored_tables
from app.jobs.build.backfill import build_stale
from app.jobs.forget.erase import forget_user
from app.jobs.ingest import ingest_paths
from app.jobs.load.delivery import load_spool
from app.jobs.snapshot import take_snapshot
from app.jobs.verify import verify_days
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.lock import hold_embedded
from tests.jobs.test_load import collect
from tests.support.clickhouse_http import running_server
from tests.support.effort import repeated
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.slow

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SECRET = "a-write-key-that-nobody-may-find"


def call(at: str, visitor: str = "", user: str = "", product: int = 17) -> dict:
    return {
        "ts": f"2026-03-{at}:00Z", "method": "GET", "endpoint": f"/api/v1/products/{product}", "status": 200,
        "visitor_id": visitor, "user_id": user, "ip": "203.0.113.9", "user_agent": "Firefox/140.0",
        "response": {"id": product, "price": 17},
    }  # fmt: skip


CALLS = [
    call("01T10:00", "c-guest-of-4711"),  # before its owner signs in, on another day
    call("02T10:00", "c-owned-by-4711", "4711"),
    call("02T10:05", "c-owned-by-4711", "4711", 5),
    call("02T11:00", "c-others-000018", "18"),
    call("03T11:00", "c-others-000018", "18", 5),
]
CALLS[-1]["page_url"] = "https://shop.example/search?q=anna.b%40example.com"  # said by somebody else
WAITING = call("04T09:00", "c-others-000019", "19")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A small installation: calls of three days, two snapshots of a shop, and a call that waits in the spool."""
    folder = tmp_path_factory.mktemp("original")
    with closing(sqlite3.connect(folder / "shop.db")) as shop, shop:
        shop.executescript(
            "CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, section TEXT, material TEXT, metal TEXT, price TEXT);"
            "CREATE TABLE stock (product_id INTEGER PRIMARY KEY, quantity INTEGER);"
            "CREATE TABLE cart (user_id TEXT, product_id INTEGER, PRIMARY KEY (user_id, product_id));"
            "CREATE TABLE favorites (user_id TEXT, product_id INTEGER, PRIMARY KEY (user_id, product_id));"
            "INSERT INTO items VALUES (5, 'Ring', 'rings', 'gold', 'gold', '10'), (17, 'Pin', 'pins', '', '', '17');"
            "INSERT INTO stock VALUES (5, 1), (17, 2);"
            "INSERT INTO favorites VALUES ('4711', 5), ('18', 17);"
        )
    (folder / "calls.ndjson").write_text("\n".join(map(json.dumps, CALLS)))
    settings = settings_of(folder)
    with open_warehouse(settings, purpose="a test") as warehouse:
        take_snapshot(warehouse, settings, at=datetime(2026, 2, 28, tzinfo=UTC))
        ingest_paths(warehouse, settings, [str(folder / "calls.ndjson")])
        with closing(sqlite3.connect(folder / "shop.db")) as shop, shop:
            shop.execute("UPDATE stock SET quantity = 9 WHERE product_id = 5")
        take_snapshot(warehouse, settings, at=datetime(2026, 3, 2, 10, 2, tzinfo=UTC))
        build_stale(warehouse, settings).require_done()
        warehouse.command("CREATE VIEW dwh.of_an_analyst AS SELECT count() AS sessions FROM dwh.sessions")
    collect(settings.spool, [WAITING], received_at=datetime(2026, 3, 5, tzinfo=UTC))
    return folder


@pytest.fixture
def installed(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "installed", symlinks=True))


def settings_of(folder: Path, **more: object) -> Settings:
    warehouse = {"warehouse": f"chdb://{folder / 'warehouse'}"} | more
    return Settings(
        _env_file=None, spool=folder / "spool", scratch=folder / "scratch", shop_db=f"sqlite:///{folder / 'shop.db'}",
        write_keys=SECRET, spool_min_free_bytes=0, **warehouse,
    )  # fmt: skip


def contents(
    settings: Settings, *, without: tuple[str, ...] = ("etl.runs", "etl.prepared")
) -> dict[str, tuple[int, int]]:
    """Per table its rows and their hash."""
    with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
        tables = [table.name for table in stored_tables(warehouse) if table.name not in without]
        return {name: checksum(warehouse, name) for name in tables}


def require_true(settings: Settings) -> None:
    """Every published day is what its raw calls say, and none is stale."""
    with open_warehouse(settings, purpose="a test") as warehouse:
        verification = verify_days(warehouse, settings)
    assert verification.tables
    assert (verification.differing, verification.stale) == ([], {})


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, is_it: Callable[[str], bool], after: int = 0) -> Iterator[None]:
    """The warehouse dies at a statement: the one after so many others of its kind."""
    run, seen = Warehouse.command, [0]

    def command(self: Warehouse, sql: str, *arguments: object) -> None:
        if is_it(sql):
            seen[0] += 1
            if seen[0] > after:
                raise WarehouseError("killed")
        run(self, sql, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "command", command)
        yield


def test_a_restored_backup_is_what_was_backed_up_and_its_days_are_true(installed, tmp_path):
    before = contents(settings_of(installed))
    manifest = back_up(settings_of(installed), tmp_path / "backup")
    new = settings_of(tmp_path / "new")
    restored = restore(new, tmp_path / "backup", replace=False, now=NOW)
    assert contents(new) == before
    assert {table.name: (table.rows, table.checksum) for table in manifest.tables if table.name in before} == before
    require_true(new)
    assert (restored.segments, load_spool(new).totals.stored) == (1, 1)
    with open_warehouse(new, purpose="a test", writes=False) as warehouse:
        assert warehouse.scalar("SELECT sessions FROM dwh.of_an_analyst") == 4
        assert warehouse.scalar("SELECT count() FROM history.stock_versions WHERE product_id = 5") == 2
        assert not warehouse.scalar(f"SELECT count() FROM system.databases WHERE name = '{DATABASE}'")


def test_a_backup_holds_no_secret(installed, tmp_path):
    back_up(settings_of(installed), tmp_path / "backup")
    assert not any(SECRET.encode() in path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file())
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0


def test_the_link_to_the_shop_with_its_password_is_not_in_a_backup(installed, tmp_path):
    with open_warehouse(settings_of(installed), purpose="a test") as warehouse:
        warehouse.command("CREATE DATABASE reports")
        engine = "MySQL('127.0.0.1:1', 'shop', 'items', 'carat', 'geheim-geheim')"
        warehouse.command(f"CREATE TABLE reports.items (id UInt64) ENGINE = {engine}")
    back_up(settings_of(installed), tmp_path / "backup")
    files = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
    assert not any(b"geheim-geheim" in path.read_bytes() for path in files)


def test_a_warehouse_that_is_not_empty_is_only_replaced_on_request(installed, tmp_path):
    settings = settings_of(installed)
    before = contents(settings)
    back_up(settings, tmp_path / "backup")
    with open_warehouse(settings, purpose="a test") as warehouse:
        (tmp_path / "more.ndjson").write_text(json.dumps(call("05T10:00", "c-later-000001")))
        ingest_paths(warehouse, settings, [str(tmp_path / "more.ndjson")])
        build_stale(warehouse, settings).require_done()
        warehouse.command("CREATE TABLE history.later (id UInt64) ENGINE = MergeTree ORDER BY id")
    later = contents(settings)
    with pytest.raises(SettingsError, match=r"is not empty: it holds \d+ rows. --replace"):
        restore(settings, tmp_path / "backup", replace=False, now=NOW)
    assert contents(settings) == later
    restore(settings, tmp_path / "backup", replace=True, now=NOW)
    assert contents(settings) == before
    require_true(settings)


def test_what_was_delivered_after_the_backup_is_delivered_again(installed, tmp_path):
    settings = settings_of(installed)
    back_up(settings, tmp_path / "backup")
    assert load_spool(settings).totals.stored == 1
    restored = restore(settings, tmp_path / "backup", replace=True, now=NOW)
    assert (restored.segments, restored.delivered_again) == (0, 1)
    assert load_spool(settings).totals.stored == 1
    assert not segments(settings.spool)
    assert len(delivered_segments(settings.spool)) == 1


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a column": lambda backup: flip_a_byte(next((backup / "warehouse/pd.api_calls").rglob("data.bin"))),
    "a definition": lambda backup: flip_a_byte(next((backup / "warehouse/dwh.sessions").rglob("*.sql"))),
    "a missing file": lambda backup: next((backup / "warehouse/history.items").rglob("checksums.txt")).unlink(),
    "a missing table": lambda backup: shutil.rmtree(backup / "warehouse/etl.ledger"),
    "a segment": lambda backup: flip_a_byte(next((backup / "spool").iterdir())),
    "the manifest": lambda backup: (backup / "manifest.json").write_bytes(b'{"id": "'),
}


def test_a_damaged_backup_changes_nothing(installed, tmp_path):
    settings = settings_of(installed)
    back_up(settings, tmp_path / "backup")
    before = contents(settings)
    for number, damage in enumerate(DAMAGE):
        damaged = Path(shutil.copytree(tmp_path / "backup", tmp_path / f"damaged-{number}"))
        DAMAGE[damage](damaged)
        with pytest.raises(BackupError, match="damaged"):
            restore(settings, damaged, replace=True, now=NOW)
    assert contents(settings) == before


def test_rows_that_differ_from_the_manifest_change_nothing(installed, tmp_path):
    settings = settings_of(installed)
    back_up(settings, tmp_path / "backup")
    path = tmp_path / "backup/manifest.json"
    said = json.loads(path.read_text())
    said["tables"][-1]["rows"] += 1
    path.write_text(json.dumps(said))
    before = contents(settings)
    with pytest.raises(BackupError, match="is not as it was when the backup was made"):
        restore(settings, tmp_path / "backup", replace=True, now=NOW)
    assert contents(settings) == before


def test_an_interrupted_backup_is_known_as_incomplete_and_can_be_made_again(installed, tmp_path, monkeypatch):
    settings = settings_of(installed)
    with (
        failing(monkeypatch, lambda sql: sql.startswith("BACKUP"), after=3),
        pytest.raises(WarehouseError, match="killed"),
    ):
        back_up(settings, tmp_path / "backup")
    with pytest.raises(BackupError, match="is incomplete: it was interrupted"):
        restore(settings_of(tmp_path / "new"), tmp_path / "backup", replace=False, now=NOW)
    back_up(settings, tmp_path / "backup")
    restore(settings_of(tmp_path / "new"), tmp_path / "backup", replace=False, now=NOW)
    assert contents(settings_of(tmp_path / "new")) == contents(settings)


@pytest.mark.parametrize(
    ("statement", "after"),
    [("RESTORE", 4), ("RENAME TABLE", 0), ("EXCHANGE", 0), ("EXCHANGE", 7), ("DROP DATABASE", 1)],
)
def test_an_interrupted_restore_is_finished_by_the_same_command(statement, after, installed, tmp_path, monkeypatch):
    settings = settings_of(installed)
    expected = contents(settings)
    back_up(settings, tmp_path / "backup")
    with open_warehouse(settings, purpose="a test") as warehouse:
        warehouse.command("TRUNCATE TABLE dwh.sessions")
        warehouse.command("INSERT INTO history.stock SELECT * FROM history.stock")
    changed = contents(settings)
    with failing(monkeypatch, lambda sql: sql.startswith(statement), after), pytest.raises(CaratError, match="killed"):
        restore(settings, tmp_path / "backup", replace=True, now=NOW)
    if statement in {"RESTORE", "RENAME TABLE"}:
        assert contents(settings) == changed
    restore(settings, tmp_path / "backup", replace=True, now=NOW)
    assert contents(settings) == expected
    require_true(settings)


def command(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    settings = settings_of(folder)
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "CARAT_LOG": str(folder / "log"),
        "CARAT_WAREHOUSE": f"chdb://{folder / 'warehouse'}", "CARAT_SPOOL": str(settings.spool),
        "CARAT_SHOP_DB": f"sqlite:///{folder / 'shop.db'}", "CARAT_SCRATCH": str(settings.scratch),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "app", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_whenever_it_is_killed_the_same_command_finishes_it(verb, installed, tmp_path):
    settings = settings_of(installed)
    expected = contents(settings)
    back_up(settings, tmp_path / "first")
    arguments = {
        "backup": ("backup", str(tmp_path / "second")),
        "restore": ("restore", str(tmp_path / "first"), "--replace"),
    }
    began = time.monotonic()
    with command(installed, "restore", str(tmp_path / "first"), "--replace") as whole:
        assert whole.wait() == 0, whole.stderr.read()
    whole_s = time.monotonic() - began
    for kill in range(repeated(3, 40)):
        with command(installed, *arguments[verb]) as process:
            time.sleep(random.Random(kill).uniform(0.1, 1) * whole_s)
            process.kill()
        if (tmp_path / "second/manifest.json").exists():  # it was done before it was killed
            shutil.rmtree(tmp_path / "second")
    with command(installed, *arguments[verb]) as last:
        assert last.wait() == 0, last.stderr.read()
    assert contents(settings) == expected
    require_true(settings)


def test_a_restore_that_was_given_up_does_not_disturb_that_of_another_backup(installed, tmp_path, monkeypatch):
    settings = settings_of(installed)
    expected = contents(settings)
    back_up(settings, tmp_path / "first")
    back_up(settings, tmp_path / "second")
    with failing(monkeypatch, lambda sql: sql.startswith("RESTORE"), 4), pytest.raises(CaratError, match="killed"):
        restore(settings, tmp_path / "first", replace=True, now=NOW)
    restore(settings, tmp_path / "second", replace=True, now=NOW)
    assert contents(settings) == expected


def test_people_who_were_forgotten_after_the_backup_do_not_come_back(installed, tmp_path):
    settings = settings_of(installed)
    (tmp_path / "more.ndjson").write_text(json.dumps(call("05T10:00", "c-guest-of-4711", "4711")))  # signs in later
    back_up(settings, tmp_path / "backup")
    with open_warehouse(settings, purpose="a test") as warehouse:
        ingest_paths(warehouse, settings, [str(tmp_path / "more.ndjson")])
        build_stale(warehouse, settings).require_done()
        assert forget_user(warehouse, settings, "4711", also=["anna.b@example.com"], now=NOW).is_proven
    restored = restore(settings, tmp_path / "backup", replace=True, now=NOW)
    assert restored.erased_again
    with open_warehouse(settings, purpose="a test") as warehouse:
        for table in ("pd.api_calls", "dwh.events", "dwh.sessions"):
            left = warehouse.query(f"SELECT visitor_id FROM {table} ORDER BY 1")["visitor_id"].to_list()
            assert set(left) == {"c-others-000018"}, table
        assert warehouse.query("SELECT user_id FROM history.favorites")["user_id"].to_list() == ["18"]
        assert "anna" not in "".join(warehouse.query("SELECT page_url FROM pd.api_calls")["page_url"])
        again = ingest_paths(warehouse, settings, [str(installed / "calls.ndjson")])
        assert again.stored == 0
    require_true(settings)


def test_a_backup_with_another_key_of_forgotten_people_is_refused(installed, tmp_path):
    first, second = settings_of(installed), settings_of(tmp_path / "second")
    for settings in (first, second):
        with open_warehouse(settings, purpose="a test") as warehouse:
            forget_user(warehouse, settings, "4711", now=NOW)
    back_up(first, tmp_path / "backup")
    with pytest.raises(BackupError, match="by different keys"):
        restore(second, tmp_path / "backup", replace=False, now=NOW)


def test_another_writer_keeps_both_out(installed, tmp_path):
    settings = settings_of(installed)
    back_up(settings, tmp_path / "backup")
    with hold_embedded(settings.warehouse.local_path, purpose="carat etl"):
        with pytest.raises(LockedError, match="`carat etl`"):
            back_up(settings, tmp_path / "another")
        with pytest.raises(LockedError, match="`carat etl`"):
            restore(settings, tmp_path / "backup", replace=True, now=NOW)
    back_up(settings, tmp_path / "another")


def test_a_directory_in_use_is_refused(installed, tmp_path):
    settings = settings_of(installed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").touch()
    for folder, reason in (
        (tmp_path / "full", "is not empty"),
        (tmp_path / "full/letter.txt", "is not a directory"),
        (settings.spool / "backup", "is in the directory of CARAT_SPOOL"),
        (settings.warehouse.local_path / "backup", "is in the directory of CARAT_WAREHOUSE"),
    ):
        with pytest.raises(SettingsError, match=reason):
            back_up(settings, folder)
    with pytest.raises(SettingsError, match="holds no backup"):
        restore(settings, tmp_path / "full", replace=True, now=NOW)


def test_a_backup_of_a_later_version_is_refused(installed, tmp_path):
    back_up(settings_of(installed), tmp_path / "backup")
    path = tmp_path / "backup/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transform_version": 9999, "carat": "9.9"}))
    with pytest.raises(SettingsError, match=r"made by a later Carat \(9.9, transform version 9999\)"):
        read_manifest(tmp_path / "backup")


@pytest.mark.parametrize(
    "changed",
    [
        {"path": "../elsewhere"},
        {"disk": "x', 'y"},
        {"views": {"dwh.sessions": "DROP TABLE dwh.sessions"}},
        {"tables": [{"name": "pd.x` AS y", "rows": 0, "checksum": 0}]},
        {"tables": [{"name": "system.users", "rows": 0, "checksum": 0}]},
    ],
)
def test_a_manifest_that_names_something_else_is_refused(changed, tmp_path):
    manifest = Manifest(
        id="1", started_at=NOW, ended_at=NOW, engine="26.9", disk="", path="warehouse", tables=[], views={}, segments=[]
    )
    said = json.loads(msgspec.json.encode(manifest))
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    assert read_manifest(tmp_path) == manifest
    (tmp_path / "manifest.json").write_text(json.dumps(said | changed))
    with pytest.raises(BackupError, match="is damaged"):
        read_manifest(tmp_path)


def test_a_server_backs_up_to_its_own_disk_and_another_one_restores_it(installed, tmp_path):
    disk = tmp_path / "disk of the server"
    with embedded_config(disk) as template:
        config = tmp_path / "backups.xml"
        config.write_text(template.read_text().replace("carat_backup", "backups"))
    spool = settings_of(installed).spool
    before = contents(settings_of(installed))
    with running_server(installed / "warehouse", config=config) as server:
        settings = settings_of(installed, warehouse=server.url)
        manifest = back_up(settings, tmp_path / "backup")
    assert manifest.disk == "backups"
    assert not (tmp_path / "backup/warehouse").exists()
    assert segments(spool)
    with running_server(tmp_path / "another", config=config) as server:
        settings = settings_of(tmp_path / "new", warehouse=server.url)
        restore(settings, tmp_path / "backup", replace=False, now=NOW)
        assert contents(settings) == before
        require_true(settings)
        back_up(settings_of(tmp_path / "embedded"), tmp_path / "of the embedded")
        with pytest.raises(SettingsError, match="are of an embedded engine"):
            restore(settings, tmp_path / "of the embedded", replace=True, now=NOW)
    with pytest.raises(SettingsError, match="of a server: name that in CARAT_WAREHOUSE"):
        restore(settings_of(tmp_path / "embedded"), tmp_path / "backup", replace=False, now=NOW)


def test_a_server_without_a_disk_for_backups_says_what_to_configure(tmp_path):
    with running_server(tmp_path / "engine") as server:
        settings = settings_of(tmp_path, warehouse=server.url)
        with pytest.raises(BackupError, match=r"has no disk 'backups'.*carat-backups.xml.*<allowed_disk>backups<"):
            back_up(settings, tmp_path / "backup")


def test_names_are_quoted():
    assert quoted("history.items") == "`history`.`items`"
