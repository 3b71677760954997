"""A cluster of shards gives the rows that a single server gives, whatever order calls came in and whatever failed.

Each shard is a chDB process behind a front that speaks ClickHouse's HTTP. Replication and reads across shards are not
tested here: docs/cluster.md says how to prove them on real servers.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.contracts import API_CALLS, DWH_TABLES, Table
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.jobs.ingest import ingest_paths
from app.jobs.verify import verify_days
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from tests.stories.test_promise import VISITORS, call
from tests.support.clickhouse_cluster import ServedCluster, serving_cluster, settings_of
from tests.support.effort import repeated

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)]

SEEDS = range(repeated(2, 40))
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
        for name in ("ledger", "fingerprints", "rejects", "publications", "user_agents"):
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
