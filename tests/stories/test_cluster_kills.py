"""A shard that is killed at any statement of an ingest, a build or a publication leaves nothing half done.

After it is back, the same command brings all shards to the rows of an undisturbed run. `make test-long` kills at every
statement, `make test` at a few.
"""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from threading import Lock
from unittest.mock import patch

import pytest

from app.contracts import API_CALLS, DWH_TABLES, ORDER_CALLS, SESSIONS
from app.core.call_record import Line, RecordLimits
from app.core.errors import CaratError
from app.intake.call_frames import read_lines
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.ingest import ingest_paths
from app.jobs.raw_calls import store
from app.jobs.verify import verify_days
from app.warehouse import Staging, Warehouse, open_warehouse, recover
from app.warehouse.opening import prepare_warehouse
from tests.stories.test_cluster import NOW, emptied, rows_of, shopping
from tests.support.clickhouse_cluster import ServedCluster, serving_cluster, settings_of
from tests.support.effort import repeated

pytestmark = pytest.mark.slow

DAY = date(2026, 3, 10)
CHANCE = random.Random(5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[ServedCluster]:
    with serving_cluster(tmp_path_factory.mktemp("cluster"), 2) as cluster:
        with opened(cluster) as warehouse:
            prepare_warehouse(warehouse, settings_of(cluster))
        yield cluster


@contextmanager
def opened(cluster: ServedCluster) -> Iterator[Warehouse]:
    """The cluster without the lease, which a killed server would keep for its time."""
    with open_warehouse(settings_of(cluster), purpose="a test", writes=False) as warehouse:
        yield warehouse


class Killer:
    """Counts the statements that a cluster is asked, and kills the shard that is asked the one of a number.

    `answers_first`: whether the statement is run before the kill, so that its effect is there and its answer is lost.
    """

    def __init__(self, cluster: ServedCluster, at: int = 0, *, answers_first: bool = False) -> None:
        self.cluster, self.at, self.answers_first = cluster, at, answers_first
        self.statements = 0
        self._counting = Lock()

    @contextmanager
    def watching(self) -> Iterator["Killer"]:
        names = ("command", "query_arrow", "insert_arrow")
        with patch.multiple(Warehouse, **{name: self._watched(getattr(Warehouse, name)) for name in names}):
            yield self

    def _watched(self, run: Callable) -> Callable:
        def watched(warehouse: Warehouse, *arguments: object, **named: object) -> object:
            with self._counting:
                self.statements += 1
                is_hit = self.statements == self.at
            if not is_hit:
                return run(warehouse, *arguments, **named)
            if self.answers_first:
                run(warehouse, *arguments, **named)
            (server,) = (server for server in self.cluster.servers if f":{server.port}/" in warehouse.url)
            server.kill()
            return run(warehouse, *arguments, **named)

        return watched

    def restart(self) -> None:
        for server in self.cluster.servers:
            if not server.is_running:
                server.start()


def moments_to_kill(statements: int, usual: int) -> list[tuple[int, bool]]:
    """Numbers of statements to kill at, each before or after its effect."""
    every = [(number, answers_first) for number in range(1, statements + 1) for answers_first in (False, True)]
    return CHANCE.sample(every, min(repeated(usual, len(every)), len(every)))


def stage(warehouse: Warehouse, mark: str) -> Staging:
    """A day of which the sessions and the order calls on each shard bear a mark."""
    staging = Staging(warehouse, DAY, [SESSIONS, ORDER_CALLS])
    for node in warehouse.nodes:
        for table in staging.tables:
            node.command(
                f"INSERT INTO {staging.name(table.name)} (session_date, session_id) VALUES ('{DAY}', '{mark}')"
            )
    return staging


def published_marks(warehouse: Warehouse) -> list[str]:
    """The mark of each table's rows on each shard."""
    tables = (SESSIONS.full_name, ORDER_CALLS.full_name)
    return [
        node.scalar(f"SELECT arrayStringConcat(groupArray(session_id), '+') FROM {table}")
        for node in warehouse.nodes
        for table in tables
    ]


def test_a_shard_killed_at_any_statement_of_a_publication_shows_the_old_day_or_the_new_one(cluster):
    with opened(cluster) as warehouse:
        emptied(warehouse)
        staging = stage(warehouse, "first")
        with Killer(cluster).watching() as counted:
            staging.publish(now=datetime.now(tz=UTC))
        assert published_marks(warehouse) == ["first"] * 4
    old = "first"
    for number, answers_first in moments_to_kill(counted.statements, usual=4):
        new = f"killed at {number}{' after its effect' if answers_first else ''}"
        killer = Killer(cluster, number, answers_first=answers_first)
        with opened(cluster) as warehouse:
            staging = stage(warehouse, new)
            with killer.watching(), suppress(CaratError):
                staging.publish(now=datetime.now(tz=UTC))
        killer.restart()
        with opened(cluster) as warehouse:
            is_in_journal = warehouse.scalar(
                "SELECT count() FROM etl.publications WHERE publication_id = {id:String}", {"id": staging.build_id}
            )
            recover(warehouse)
            expected = new if is_in_journal else old
            assert published_marks(warehouse) == [expected] * 4, new
            left = [
                name
                for node in warehouse.nodes
                for name in node.query("SELECT name FROM system.tables WHERE name LIKE 'staged%'").iter_rows()
            ]
            assert left == []
        old = expected


def test_a_shard_killed_at_any_statement_of_an_ingest_or_a_build_changes_no_row(cluster, tmp_path):
    calls = shopping(seed=11)[:60]
    path = tmp_path / "calls.ndjson"
    path.write_text("\n".join(map(json.dumps, calls)))
    settings = settings_of(cluster, patience_s=0.1)

    def work(warehouse: Warehouse) -> None:
        ingest_paths(warehouse, settings, [str(path)], now=NOW).require_done()
        build_stale(warehouse, settings, jobs=JOBS).require_done()

    def found(warehouse: Warehouse) -> dict[str, list[tuple]]:
        return {table.full_name: rows_of(warehouse, table) for table in (API_CALLS, *DWH_TABLES)}

    with opened(cluster) as warehouse:
        emptied(warehouse)
        with Killer(cluster).watching() as counted:
            work(warehouse)
        undisturbed = found(warehouse)
    assert all(undisturbed[table.full_name] for table in (API_CALLS, *DWH_TABLES))
    for number, answers_first in moments_to_kill(counted.statements, usual=1):
        killer = Killer(cluster, number, answers_first=answers_first)
        with opened(cluster) as warehouse:
            emptied(warehouse)
            with killer.watching(), suppress(CaratError):
                work(warehouse)
        killer.restart()
        with opened(cluster) as warehouse:
            prepare_warehouse(warehouse, settings)
            work(warehouse)
            assert found(warehouse) == undisturbed, f"killed at statement {number} of {counted.statements}"
            assert verify_days(warehouse, settings).differing == []


def test_a_chunk_of_the_spool_whose_answer_was_lost_is_stored_once_on_every_shard(cluster):
    records = [json.dumps(call).encode() for call in shopping(seed=12)[:80]]
    lines = [Line(number, record, len(record)) for number, record in enumerate(records)]
    batch = read_lines(lines, source="spool", now=NOW, limits=RecordLimits())

    with opened(cluster) as warehouse:
        emptied(warehouse)
        with Killer(cluster).watching() as counted:
            store(warehouse, batch, source="spool", now=NOW, token="chunk")
        undisturbed = rows_of(warehouse, API_CALLS)
    for number, answers_first in moments_to_kill(counted.statements, usual=2):
        killer = Killer(cluster, number, answers_first=answers_first)
        with opened(cluster) as warehouse:
            emptied(warehouse)
            with killer.watching(), suppress(CaratError):
                store(warehouse, batch, source="spool", now=NOW, token="chunk")
        killer.restart()
        with opened(cluster) as warehouse:
            store(warehouse, batch, source="spool", now=NOW, token="chunk")
            assert rows_of(warehouse, API_CALLS) == undisturbed, f"killed at statement {number}"
