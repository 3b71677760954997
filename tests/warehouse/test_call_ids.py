"""What counts as an id changes, and so do the visitors of stored calls: no call is lost, none is doubled."""

import json
from datetime import UTC, datetime

import pytest

from app.contracts import API_CALLS, raw_calls
from app.core.no_ids import DEFAULT_NO_IDS, parse_no_ids
from app.settings import Settings
from app.warehouse import Warehouse, migrate
from app.warehouse.call_ids import existing_columns, upgrade_call_ids
from tests.support.killing import Worker

pytestmark = pytest.mark.slow

IDS = "SELECT visitor_key, valid_visitor_id, valid_session_token, valid_user_id FROM pd.api_calls ORDER BY ts"
CALLS = "SELECT call_id, ts, visitor_id, session_token, user_id, content_hash FROM pd.api_calls ORDER BY ts, call_id"
STALE = "SELECT count() FROM pd.api_calls WHERE visitor_hash != sipHash64(visitor_key)"
LEFT_OVER = "SELECT count() FROM system.tables WHERE database = 'etl' AND match(name, '^regroup')"
# The columns as the version before wrote them.
PREVIOUS_KEY = (
    "multiIf(visitor_id != '', visitor_id, session_token != '', session_token, "
    "concat('anonymous-', lower(hex(sipHash64(ip, user_agent)))))"
)


def call(day: int, minute: int = 0, **fields) -> dict:
    return {
        "ts": f"2026-03-{day:02d}T10:{minute:02d}:00Z",
        "method": "GET",
        "endpoint": "/",
        "ip": "203.0.113.9",
        **fields,
    }


STORED = [
    call(1, visitor_id="a"),
    call(2, visitor_id="undefined"),
    call(2, 1, visitor_id="b", session_token="null"),
    call(3, session_token=" None "),
    call(3, 1, visitor_id="0", session_token="token"),
    call(4, visitor_id="c"),
]


def as_the_version_before(warehouse: Warehouse) -> None:
    warehouse.command(
        "ALTER TABLE pd.api_calls DROP COLUMN valid_visitor_id, DROP COLUMN valid_session_token, "
        f"DROP COLUMN valid_user_id, MODIFY COLUMN visitor_key String ALIAS {PREVIOUS_KEY}, "
        f"MODIFY COLUMN visitor_hash UInt64 MATERIALIZED sipHash64({PREVIOUS_KEY})"
    )


def with_no_ids(settings: Settings, no_ids: str) -> Settings:
    return settings.model_copy(update={"no_ids": no_ids})


def upgrade(warehouse: Warehouse, no_ids: str = DEFAULT_NO_IDS) -> None:
    """The part of a migration that is about ids."""
    upgrade_call_ids(warehouse, raw_calls(parse_no_ids(no_ids)), existing_columns(warehouse))


def parts(warehouse: Warehouse) -> dict[str, str]:
    rows = warehouse.query("SELECT partition_id, name FROM system.parts WHERE active AND table = 'api_calls'").rows()
    return dict(rows)


@pytest.mark.parametrize("value", ["", " ", *DEFAULT_NO_IDS.split(","), "Undefined", "NULL", " NaN "])
def test_an_id_that_is_none_names_nobody_and_stays_in_the_raw_call(warehouse, ingest_records, value):
    ids = ("visitor_id", "session_token", "user_id")
    ingest_records(call(1, **dict.fromkeys(ids, value)))
    key, *valid = warehouse.query(IDS).row(0)
    assert key.startswith("anonymous-")
    assert valid == ["", "", ""]
    assert warehouse.query(f"SELECT {', '.join(ids)} FROM pd.api_calls").row(0) == (value,) * 3


@pytest.mark.parametrize("value", ["00", "nullius", "a guest", "1", " a ", "ünknown"])
def test_any_other_id_is_an_id_as_it_was_sent(warehouse, ingest_records, value):
    ingest_records(call(1, visitor_id=value, user_id=value))
    assert warehouse.query(IDS).row(0) == (value, value, "", value)


def test_calls_stored_by_the_version_before_get_the_visitors_of_today(warehouse, settings, ingest_records):
    as_the_version_before(warehouse)
    ingest_records(*STORED)
    before, untouched = warehouse.query(CALLS).rows(), parts(warehouse)
    changes = migrate(warehouse, settings)
    assert [line for line in changes if "partition" in line] == [
        "gave the calls of pd.api_calls in partition 20260302 their visitors",
        "gave the calls of pd.api_calls in partition 20260303 their visitors",
    ]
    assert warehouse.query(CALLS).rows() == before
    assert warehouse.scalar(STALE) == warehouse.scalar(LEFT_OVER) == 0
    assert [key.partition("-")[0] for key in warehouse.query(IDS)["visitor_key"]] == [
        "a", "anonymous", "b", "anonymous", "token", "c",
    ]  # fmt: skip
    now = parts(warehouse)
    assert [day for day in now if now[day] == untouched[day]] == ["20260301", "20260304"], "only these days are written"
    assert migrate(warehouse, settings) == []


def test_another_list_of_ids_that_are_none_changes_the_visitors_and_back(warehouse, settings, ingest_records):
    ingest_records(call(1, visitor_id="test"), call(1, 1, visitor_id="undefined"))
    anonymous = warehouse.query(IDS)["visitor_key"][1]
    migrate(warehouse, with_no_ids(settings, " TEST ,x'y\\"))
    assert warehouse.query(IDS)["visitor_key"].to_list() == [anonymous, "undefined"]
    assert migrate(warehouse, with_no_ids(settings, "x'y\\,test")) == [], "neither order nor case matters"
    migrate(warehouse, settings)
    assert warehouse.query(IDS)["visitor_key"].to_list() == ["test", anonymous]
    migrate(warehouse, with_no_ids(settings, ""))
    assert warehouse.query(IDS)["visitor_key"].to_list() == ["test", "undefined"]
    assert warehouse.scalar(STALE) == 0


def test_with_nothing_to_do_no_call_is_read(warehouse, settings, ingest_records, monkeypatch):
    ingest_records(*STORED)
    asked = []
    real = Warehouse.query_arrow
    monkeypatch.setattr(Warehouse, "query_arrow", lambda self, sql, *rest: asked.append(sql) or real(self, sql, *rest))
    assert migrate(warehouse, settings) == []
    assert asked
    assert not [sql for sql in asked if "pd.api_calls" in sql]


class _KilledError(BaseException):
    pass


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, *, is_done: bool) -> None:
    """Let the migration end at its nth statement that changes something, before or after it has been executed.

    A replacement that is interrupted leaves old and new calls together.
    """
    steps = iter(range(1000))
    command, insert = Warehouse.command, Warehouse.insert

    def stopping(real):
        def run(self, *given, **named):
            if next(steps) != step:
                return real(self, *given, **named)
            if is_done:
                real(self, *given, **named)
            elif "REPLACE PARTITION" in str(given[0]):
                real(self, given[0].replace("REPLACE PARTITION", "ATTACH PARTITION"))
            raise _KilledError

        return run

    monkeypatch.setattr(Warehouse, "command", stopping(command))
    monkeypatch.setattr(Warehouse, "insert", stopping(insert))


@pytest.mark.parametrize("is_done", [False, True])
def test_an_upgrade_that_ends_at_any_statement_is_finished_by_the_next(warehouse, ingest_records, monkeypatch, is_done):
    upgrade(warehouse, "")
    ingest_records(*STORED)
    before = warehouse.query(CALLS).rows()
    for step in range(100):
        upgrade(warehouse, "")
        with monkeypatch.context() as patched:
            killed_at(step, patched, is_done=is_done)
            try:
                upgrade(warehouse)
            except _KilledError:
                pass
            else:
                break
        upgrade(warehouse)
        assert warehouse.query(CALLS).rows() == before
        assert warehouse.scalar(STALE) == warehouse.scalar(LEFT_OVER) == 0
    assert step >= 10, "each statement was the last one once"


def test_a_setting_that_changes_while_an_upgrade_is_unfinished_leaves_no_call_behind(
    warehouse, ingest_records, monkeypatch
):
    ingest_records(*STORED, call(5, visitor_id="test"))
    before = warehouse.query(CALLS).rows()
    for step in range(12):
        with monkeypatch.context() as patched:
            killed_at(step, patched, is_done=step % 2 == 1)
            with pytest.raises(_KilledError):
                upgrade(warehouse, "test,null")
        upgrade(warehouse)
        assert warehouse.query(CALLS).rows() == before
        assert warehouse.scalar(STALE) == warehouse.scalar(LEFT_OVER) == 0


def test_equal_calls_that_are_stored_twice_stay_two(warehouse, settings, ingest_records):
    migrate(warehouse, with_no_ids(settings, ""))
    ingest_records(call(1, visitor_id="undefined"))
    row = warehouse.query(f"SELECT {', '.join(API_CALLS.schema)} FROM pd.api_calls", schema=API_CALLS.schema)
    warehouse.insert(API_CALLS, row)
    migrate(warehouse, settings)
    assert warehouse.scalar("SELECT count() FROM pd.api_calls") == 2


@pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)
def test_an_upgrade_that_is_killed_again_and_again_loses_and_doubles_no_call(tmp_path, monkeypatch, engine_url):
    now = datetime(2026, 6, 1, tzinfo=UTC)
    lines = [
        json.dumps(call(1 + n % 28, n // 28, visitor_id="undefined" if n % 7 == 0 else f"v{n}")) for n in range(1000)
    ]
    (tmp_path / "calls.ndjson").write_text("\n".join(lines), encoding="utf-8")
    names = {"CARAT_WAREHOUSE": f"chdb://{tmp_path / 'warehouse'}", "TEST_LEASE_S": "5"}

    def worker(no_ids: str) -> Worker:
        return Worker(tmp_path, names | {"CARAT_NO_IDS": no_ids}).wait_until_ready()

    def read(worker: Worker, sql: str) -> str:
        finished = worker.run("query", sql, "--format", "csv", now=now)
        assert finished.code == 0, finished.err
        return finished.out

    first = worker("nothing")
    assert first.run("ingest", "calls.ndjson", now=now).code == 0
    calls = read(first, CALLS)
    assert calls.count("\n") > len(lines)
    started = first.run("migrate", now=now).seconds
    first.kill()
    for kill in range(4):
        killed = worker("undefined")
        killed.send("migrate", now=now)
        killed.finished(started + 0.15 * kill)
        killed.kill()
    last = worker("undefined")
    assert last.run("migrate", now=now).code == 0
    assert read(last, CALLS) == calls
    assert read(last, STALE).split()[-1] == read(last, LEFT_OVER).split()[-1] == "0"
    last.kill()
