"""A cluster of shards gives the rows that a single server gives, whatever order calls came in and whatever failed.

Each shard is a chDB process behind a front that speaks ClickHouse's HTTP. Replication and reads across shards are not
tested here: docs/cluster.md says how to prove them on real servers.
"""

import json
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from app.contracts import API_CALLS, DWH_TABLES, Table, published_tables
from app.core.errors import SettingsError
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.fill import fill
from app.jobs.hourly import run_hour
from app.jobs.ingest import ingest_paths
from app.jobs.verify import verify_days
from app.main import main
from app.ops.cluster_checks import check_cluster
from app.ops.status import freshness, products_met
from app.settings import Settings
from app.warehouse import Warehouse, call_id_filters, migrate, open_warehouse
from tests.stories.test_promise import VISITORS, call
from tests.support.clickhouse_cluster import ServedCluster, serving_cluster, settings_of
from tests.support.effort import repeated

pytestmark = pytest.mark.slow

SEEDS = range(repeated(1, 40))
SHARDS = 3
DAY_MS = 86_400_000
FIRST_MS = int(datetime(2026, 3, 10, tzinfo=UTC).timestamp() * 1000)
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[ServedCluster]:
    with serving_cluster(tmp_path_factory.mktemp("cluster"), SHARDS) as cluster:
        yield cluster


@pytest.fixture
def shards(cluster) -> Iterator[Warehouse]:
    """The cluster without calls and builds."""
    with open_warehouse(settings_of(cluster), purpose="a test") as warehouse:
        emptied(warehouse)
        yield warehouse


def emptied(warehouse: Warehouse) -> None:
    """Without calls and builds, and as if nothing had been inserted before."""
    for node in warehouse.nodes:
        for table in (API_CALLS, *DWH_TABLES):
            node.command(f"DROP TABLE IF EXISTS {table.full_name} SYNC")
            node.command(node.as_stored(table).create_statement())
        for name in ("ledger", "fingerprints", "rejects", "publications", "user_agents", "call_id_filters"):
            node.command(f"TRUNCATE TABLE etl.{name}")


def shopping(seed: int) -> list[dict]:
    """Two days of calls: with and without ids, of one order by several visitors, and records that share a call_id."""
    chance = random.Random(seed)
    calls = []
    for _ in range(40):
        visitor, taste = visitor_of(chance), chance.randrange(7)
        if chance.random() < 0.5:
            visitor = visitor | {"ip": f"198.51.100.{chance.randrange(6)}", "user_agent": "curl/8"}
        ts = FIRST_MS + chance.randrange(2 * DAY_MS)
        for _ in range(chance.randrange(1, 7)):
            calls.append(call(len(calls), ts, visitor, taste))
            ts += chance.choice([0, 60_000, 29 * 60_000, 30 * 60_000, 31 * 60_000])
    for other in chance.sample(calls, 6):  # another record with the same id, most often of another visitor
        ts = other["ts"] + chance.choice([0, -60_000, 60_000])
        calls.append(call(len(calls), ts, visitor_of(chance)) | {"call_id": other["call_id"]})
    return calls


def visitor_of(chance: random.Random) -> dict:
    """One of the visitors that know how to be mistaken for each other, of one of four families of ids."""
    family = chance.randrange(4)
    ids = {"visitor_id": ("v1", "v2", "v3", "v4", "v5"), "session_token": ("t0", "t1", "t2", "t3")}
    visitor = chance.choice(VISITORS)
    return visitor | {name: f"{visitor[name]}-{family}" for name in ids if visitor.get(name) in ids[name]}


def tell(warehouse: Warehouse, settings: Settings, batches: list[list[dict]], folder: Path) -> None:
    """Ingest the batches and build after each."""
    for number, batch in enumerate(batches):
        path = folder / f"batch-{number}.ndjson"
        path.write_text("\n".join(map(json.dumps, batch)))
        ingest_paths(warehouse, settings, [str(path)], now=NOW).require_done()
        build_stale(warehouse, settings, jobs=JOBS).require_done()


def batches_of(calls: list[dict], seed: int, number: int) -> list[list[dict]]:
    """The calls in another order, a few of them twice, in so many batches."""
    chance = random.Random(seed)
    shuffled = chance.sample(calls, len(calls)) + chance.sample(calls, 10)
    return [shuffled[start::number] for start in range(number)]


def rows_of(warehouse: Warehouse, table: Table) -> list[tuple]:
    """The rows of all nodes, in a fixed order."""
    columns = ", ".join(name for name in table.schema.names() if name != "received_at")
    sql = f"SELECT toString(tuple({columns})) AS line FROM {table.full_name}"
    return sorted(row for node in warehouse.nodes for row in node.query(sql).iter_rows())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_calls_give_the_same_rows_on_one_server_and_on_three_shards(
    warehouse, settings, shards, cluster, tmp_path, seed
):
    calls = shopping(seed)
    tell(warehouse, settings, [calls], tmp_path)
    tell(shards, settings_of(cluster), batches_of(calls, seed, number=3), tmp_path)

    for table in (API_CALLS, *DWH_TABLES):
        assert rows_of(shards, table) == rows_of(warehouse, table), table.full_name
    held = [node.scalar("SELECT count() FROM dwh.events") for node in shards.nodes]
    assert all(held), "some shard has nothing: the test compares too little"
    assert plan_days(shards, settings_of(cluster), jobs=JOBS) == []
    verification = verify_days(shards, settings_of(cluster))
    assert verification.differing == []
    assert verification.stale == {}


def test_late_calls_rebuild_the_sessions_that_they_change_on_each_shard(warehouse, settings, shards, cluster, tmp_path):
    calls = [call(n, FIRST_MS + n * 600_000, {"visitor_id": f"w{n % 17}"}, taste=n // 17) for n in range(140)]
    late = calls[20:100:16]
    tell(warehouse, settings, [calls], tmp_path)
    tell(shards, settings_of(cluster), [[one for one in calls if one not in late]], tmp_path)
    path = tmp_path / "late.ndjson"
    path.write_text("\n".join(map(json.dumps, late)))
    ingest_paths(shards, settings_of(cluster), [str(path)], now=NOW).require_done()
    backfill = build_stale(shards, settings_of(cluster), jobs=JOBS)

    assert [day.is_patch for day in backfill.built] == [True]
    assert len({number for one in late for number, node in enumerate(shards.nodes) if holds(node, one)}) > 1
    for table in (API_CALLS, *DWH_TABLES):
        assert rows_of(shards, table) == rows_of(warehouse, table), table.full_name


def holds(node: Warehouse, one: dict) -> bool:
    return bool(node.scalar(f"SELECT count() FROM pd.api_calls WHERE call_id = '{one['call_id']}'"))


def test_a_single_server_fills_a_cluster_which_then_has_the_same_rows(warehouse, settings, shards, cluster, tmp_path):
    calls = shopping(seed=21)
    tell(warehouse, settings, [calls], tmp_path)
    settings_there = settings_of(cluster)
    fill(shards, warehouse, settings_there)
    assert fill(shards, warehouse, settings_there) == {}
    build_stale(shards, settings_there, jobs=JOBS).require_done()

    for table in (API_CALLS, *DWH_TABLES):
        assert rows_of(shards, table) == rows_of(warehouse, table), table.full_name
    rejects = "SELECT count() FROM etl.rejects"
    assert shards.scalar(rejects) == warehouse.scalar(rejects) > 0
    assert verify_days(shards, settings_there).differing == []


def test_days_past_the_retention_of_their_calls_move_to_the_cluster_as_they_are(
    warehouse, settings, shards, cluster, tmp_path
):
    tell(warehouse, settings, [shopping(seed=22)], tmp_path)
    warehouse.command("ALTER TABLE pd.api_calls DELETE WHERE ts < '2026-03-11' SETTINGS mutations_sync = 2")
    fill(shards, warehouse, settings_of(cluster))
    before = "session_date <= '2026-03-10'"
    sql = f"SELECT toString(tuple(*)) AS line FROM dwh.sessions WHERE {before}"
    moved = sorted(row for node in shards.nodes for row in node.query(sql).iter_rows())
    assert moved == sorted(warehouse.query(sql).iter_rows())
    assert moved


def test_a_cluster_that_holds_other_calls_is_not_filled(warehouse, settings, shards, cluster, tmp_path):
    tell(warehouse, settings, [shopping(seed=23)], tmp_path)
    path = tmp_path / "others.ndjson"
    path.write_text(json.dumps(call(999, FIRST_MS, {"visitor_id": "another shop's"})))
    ingest_paths(shards, settings_of(cluster), [str(path)], now=NOW).require_done()
    with pytest.raises(SettingsError, match="needs a new warehouse"):
        fill(shards, warehouse, settings_of(cluster))


def test_shards_in_another_order_are_refused(cluster, shards):
    swapped = ServedCluster([cluster.servers[1], cluster.servers[0], cluster.servers[2]])
    with (
        open_warehouse(settings_of(swapped), purpose="a test", writes=False) as wrong,
        pytest.raises(SettingsError, match="is shard 2 of 3 of cluster shop and is used as shard 1 of 3"),
    ):
        migrate(wrong, settings_of(swapped))


def test_a_shard_is_refused_as_a_single_server(cluster, shards):
    single = Settings(_env_file=None, warehouse=cluster.servers[0].url)
    with (
        open_warehouse(single, purpose="a test", writes=False) as alone,
        pytest.raises(SettingsError, match=r"is a shard of a cluster that holds a warehouse: add \?cluster=NAME"),
    ):
        migrate(alone, single)


def test_ids_that_count_as_none_cannot_change_on_a_cluster(cluster, shards):
    other = settings_of(cluster, no_ids="nobody")
    with pytest.raises(SettingsError, match="CARAT_NO_IDS: not on a cluster yet"):
        migrate(shards, other)


def test_an_unknown_cluster_is_named_with_those_that_the_server_knows(cluster):
    unknown = Settings(_env_file=None, warehouse=f"{cluster.servers[0].url}?cluster=sohp")
    with (
        pytest.raises(SettingsError, match=r"knows no cluster 'sohp' \(it knows: .*shop"),
        open_warehouse(unknown, purpose="a test"),
    ):
        pass


def test_migrating_a_cluster_twice_changes_nothing(cluster, shards):
    assert migrate(shards, settings_of(cluster)) == []
    public = dict(
        shards.query(
            "SELECT name, engine_full FROM system.tables WHERE database = 'dwh' AND engine != 'View'"
        ).iter_rows()
    )
    assert public["sessions"] == "Distributed('shop', 'dwh_local', 'sessions')"
    assert set(public) == {table.name for table in published_tables()}


def test_status_counts_the_rows_of_all_shards(warehouse, settings, shards, cluster, tmp_path):
    calls = shopping(seed=24)
    tell(warehouse, settings, [calls], tmp_path)
    tell(shards, settings_of(cluster), [calls], tmp_path)
    found, single = (
        of.filter(~pl.col("table").is_in(["dwh.orders", "dwh.refunds"])) for of in map(freshness, (shards, warehouse))
    )
    assert found.select("table", "rows", "newest_day").equals(single.select("table", "rows", "newest_day"))
    assert found["built_at"].null_count() == 0
    (there,), (here,) = products_met(shards).rows(named=True), products_met(warehouse).rows(named=True)
    assert (there["last_day"], there["products"], there["found"]) == (here["last_day"], here["products"], here["found"])


def test_an_hour_builds_all_but_orders_and_says_so(shards, cluster, tmp_path, capsys):
    settings = settings_of(cluster, spool=tmp_path / "spool")
    path = tmp_path / "calls.ndjson"
    path.write_text("\n".join(map(json.dumps, shopping(seed=25)[:40])))
    ingest_paths(shards, settings, [str(path)], now=NOW).require_done()
    hour = run_hour(shards, settings)
    hour.require_done()

    assert sum(day.rows["order_calls"] for day in hour.backfill.built) > 0
    assert hour.backfill.orders == []
    assert "dwh.orders and dwh.refunds are not built on a cluster yet" in capsys.readouterr().err
    assert [node.scalar("SELECT count() FROM dwh.orders") for node in shards.nodes] == [0] * SHARDS
    assert plan_days(shards, settings) == []
    verification = verify_days(shards, settings)
    assert (verification.differing, verification.stale) == ([], {})


@pytest.mark.parametrize(
    "arguments", [["etl", "--jobs", "orders"], ["etl", "--jobs", "sessions,refunds"], ["spend", "costs.csv"]]
)
def test_what_a_cluster_does_not_have_yet_exits_with_2(arguments, cluster, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "costs.csv").write_text("day,campaign,cost\n")
    monkeypatch.setenv("CARAT_WAREHOUSE", cluster.url)
    monkeypatch.setattr(sys, "argv", ["carat", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert f"not on a cluster yet: `carat {arguments[0]}" in capsys.readouterr().err


def test_known_calls_are_found_on_each_shard_by_its_own_filters(shards, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(call_id_filters, "_STORED_IDS", 1)
    path = tmp_path / "calls.ndjson"
    path.write_text("\n".join(map(json.dumps, shopping(seed=27))))
    stored = [ingest_paths(shards, settings_of(cluster), [str(path)], now=NOW).stored for _ in range(2)]
    assert stored[0] > 0
    assert stored[1] == 0
    parts = "SELECT hash_of_all_files AS part FROM system.parts WHERE active AND database = 'pd_local'"
    for node in shards.nodes:
        filters = set(node.query("SELECT part FROM etl.call_id_filters")["part"])
        assert filters & set(node.query(parts)["part"])
        assert filters & {*call_id_filters._in_memory[node.url]}


def test_doctor_finds_every_shard(cluster, shards):
    findings = list(check_cluster(shards))
    assert [finding.check for finding in findings if finding.is_ok and "shard " in finding.check] == [
        f"shard {number}" for number in range(1, SHARDS + 1)
    ]
    assert [finding for finding in findings if not finding.is_ok] == []
