"""What the timer runs: snapshot, build, audit; and what becomes of it when something is away."""

import json
import os
import sqlite3
import subprocess
import threading
from contextlib import closing
from datetime import date

import pytest

from app.core.errors import WarehouseGoneError
from app.core.service_url import ServiceUrl
from app.jobs.build import day as build
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.hourly import run_hour
from app.jobs.snapshot.take import _scratch
from app.jobs.verify import verify_days
from app.settings import Settings
from app.warehouse import open_warehouse
from tests.support.statements import counted_statements
from tests.test_main import carat

pytestmark = pytest.mark.slow


def view(at: str, visitor: str = "v") -> dict:
    return {"ts": f"2026-03-{at}Z", "method": "GET", "endpoint": "/api/v1/products/1", "visitor_id": visitor, "status": 200}  # fmt: skip


@pytest.fixture
def shop(tmp_path) -> str:
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript("""
            CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, section TEXT, material TEXT, metal TEXT, price TEXT);
            CREATE TABLE stock (product_id INTEGER PRIMARY KEY, quantity INTEGER);
            CREATE TABLE cart (user_id INTEGER, product_id INTEGER, quantity INTEGER, PRIMARY KEY (user_id, product_id));
            CREATE TABLE favorites (user_id INTEGER, product_id INTEGER, PRIMARY KEY (user_id, product_id));
            INSERT INTO items (id, title) VALUES (1, 'ring');
            INSERT INTO stock VALUES (1, 4);
        """)
    return f"sqlite://{path}"


def test_an_hour_snapshots_and_builds_and_is_recorded(warehouse, settings, ingest_records, shop, tmp_path):
    of_shop = settings.model_copy(update={"shop_db": Settings(_env_file=None, shop_db=shop).shop_db, "scratch": tmp_path / "scratch"})  # fmt: skip
    ingest_records(view("02T10:00:00"))
    hour = run_hour(warehouse, of_shop)
    hour.require_done()
    assert [(row["table"], row["inserts"]) for row in hour.snapshots] == [("items", 1), ("stock", 1), ("cart", 0), ("favorites", 0)]  # fmt: skip
    assert [day.day for day in hour.backfill.built] == [date(2026, 3, 2)]
    assert run_hour(warehouse, of_shop).backfill.stale == []
    assert warehouse.query("SELECT state, count() FROM etl.runs WHERE job = 'hourly' GROUP BY state").rows() == [("done", 2)]  # fmt: skip


def test_what_a_killed_snapshot_left_in_the_scratch_directory_is_removed(tmp_path):
    killed = subprocess.Popen(["true"])
    killed.wait()
    left, of_a_living = tmp_path / f"snapshot-{killed.pid}-abc", tmp_path / f"snapshot-{os.getpid()}-abc"
    for folder in (left, of_a_living):
        folder.mkdir()
        (folder / "items.arrow").write_bytes(b"x")
    with _scratch(tmp_path) as own:
        assert own.is_dir()
    assert list(tmp_path.iterdir()) == [of_a_living]


def test_missed_hours_are_caught_up_in_one_run(warehouse, settings, ingest_records):
    ingest_records(*(view(f"{day:02}T{hour:02}:30:00", f"v{hour}") for day in (1, 2, 3) for hour in range(24)))
    assert [day.day.day for day in run_hour(warehouse, settings).backfill.built] == [1, 2, 3]
    assert warehouse.scalar("SELECT sum(calls) FROM dwh.sessions") == 72


def test_days_are_built_though_the_shop_database_is_away_and_the_hour_fails(tmp_path):
    away = {"CARAT_SHOP_DB": f"sqlite://{tmp_path}/none.sqlite", "CARAT_SCRATCH": f"{tmp_path}/scratch"}
    carat("ingest", "-", folder=tmp_path, stdin=json.dumps(view("02T10:00:00")).encode())
    done = carat("hourly", "--json", folder=tmp_path, **away)
    assert done.returncode == 1
    assert len([line for line in done.stderr.decode().splitlines() if line.startswith("carat: ")]) == 1
    assert [day["day"] for day in json.loads(done.stdout)["built"]] == ["2026-03-02"]
    assert carat("hourly", folder=tmp_path).returncode == 0
    assert b"every one is what the raw calls say" in carat("verify", folder=tmp_path).stdout


def test_verify_exits_1_and_says_what_to_do(tmp_path):
    carat("ingest", "-", folder=tmp_path, stdin=json.dumps(view("02T10:00:00")).encode())
    unbuilt = carat("verify", folder=tmp_path)
    assert unbuilt.returncode == 1
    assert b"run `carat etl` first: these days are stale" in unbuilt.stderr
    assert carat("etl", folder=tmp_path).returncode == 0
    assert carat("verify", "--json", folder=tmp_path).returncode == 0
    tampering = "ALTER TABLE dwh.sessions UPDATE calls = 2 WHERE 1"
    assert carat("query", tampering, folder=tmp_path).returncode == 0
    tampered = carat("verify", folder=tmp_path)
    assert tampered.returncode == 1
    assert b"calls: published '2', is '1'" in tampered.stdout
    assert b"run `carat etl --force --from 2026-03-02 --to 2026-03-02`" in tampered.stderr


@pytest.mark.parametrize("engine_url", ["served"], indirect=True)
def test_a_server_that_is_gone_for_a_moment_is_waited_for(warehouse, settings, ingest_records, monkeypatch):
    ingest_records(view("02T10:00:00"), view("02T10:01:00"))
    stage, failures = build.stage_day, [3]

    def flaky(*arguments, **options):
        if failures[0]:
            failures[0] -= 1
            raise WarehouseGoneError("connection refused")
        return stage(*arguments, **options)

    monkeypatch.setattr(build, "stage_day", flaky)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert (failures, warehouse.scalar("SELECT sum(calls) FROM dwh.sessions")) == ([0], 2)


@pytest.mark.parametrize("engine_url", ["served"], indirect=True)
def test_a_server_that_stays_away_ends_the_run_with_nothing_half_done(warehouse, settings, ingest_records, monkeypatch):
    ingest_records(view("02T10:00:00"))
    impatient = settings.model_copy(update={"patience_s": 1.0})

    def gone(*_, **__):
        raise WarehouseGoneError("connection refused")

    with monkeypatch.context() as away:
        away.setattr(build, "stage_day", gone)
        with pytest.raises(WarehouseGoneError):
            build_stale(warehouse, impatient, jobs=JOBS)
    assert warehouse.scalar("SELECT count() FROM dwh.events") == 0
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    assert verify_days(warehouse, settings).differing == []


def test_a_server_that_nobody_answers_for_is_told_apart_from_one_that_refuses(settings, warehouse):
    gone = settings.model_copy(update={"warehouse": ServiceUrl.parse("clickhouse://u:p@127.0.0.1:1/", "clickhouse")})
    with pytest.raises(WarehouseGoneError), open_warehouse(gone, purpose="a test"):
        pass


@pytest.mark.parametrize("engine_url", ["served"], indirect=True)
def test_one_writer_at_a_time_and_the_other_is_told_who(warehouse, settings, engine_url, tmp_path):
    held = threading.Event()
    release = threading.Event()

    def hold():
        with open_warehouse(settings, purpose="carat hourly"):
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(30)
        refused = carat("etl", folder=tmp_path, CARAT_WAREHOUSE=engine_url)
        assert refused.returncode == 75
        assert "is held by `carat hourly`" in refused.stderr.decode()
        assert carat("plan", folder=tmp_path, CARAT_WAREHOUSE=engine_url).returncode == 0, "reading needs no lease"
    finally:
        release.set()
        holder.join()
    assert carat("etl", folder=tmp_path, CARAT_WAREHOUSE=engine_url).returncode == 0


def test_an_endpoint_map_that_changes_under_a_running_build_is_found_the_next_time(
    warehouse, settings, ingest_records, tmp_path, monkeypatch
):
    path = tmp_path / "tracking.toml"
    path.write_text(settings.tracking.read_text(encoding="utf-8"))
    changing = settings.model_copy(update={"tracking": path})
    ingest_records(view("01T10:00:00"), view("02T10:00:00"))
    stage = build.stage_day

    def change_meanwhile(*arguments, **options):
        path.write_text(settings.tracking.read_text(encoding="utf-8").replace("/api/v1/products/", "/api/v2/products/"))
        return stage(*arguments, **options)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(build, "stage_day", change_meanwhile)
        build_stale(warehouse, changing, jobs=JOBS).require_done()
    assert warehouse.query("SELECT DISTINCT event FROM dwh.events").rows() == [("product_view",)]
    backfill = build_stale(warehouse, changing, jobs=JOBS).require_done()
    assert [day.reasons for day in backfill.stale] == [("endpoint map changed",)] * 2
    assert warehouse.query("SELECT DISTINCT event FROM dwh.events").rows() == [("other",)]


def test_an_hour_with_nothing_new_runs_the_same_statements_however_many_days_there_are(
    warehouse, settings, ingest_records
):
    def of_an_idle_hour() -> int:
        run_hour(warehouse, settings).require_done()
        with counted_statements() as statements:
            assert run_hour(warehouse, settings).backfill.built == []
        return len(statements)

    ingest_records(*(view(f"02T{hour:02}:00:00", f"v{hour}") for hour in range(24)))
    of_one_day = of_an_idle_hour()
    ingest_records(*(view(f"{day:02}T10:00:00", f"v{day}") for day in range(3, 9)))
    assert of_an_idle_hour() == of_one_day
