"""A person is removed everywhere, down to the bytes on the disk, and nobody else loses a row."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import app.jobs.forget.erase
from app.core.errors import WarehouseError
from app.frames.identity import CALLS, exclusive_ids, resolve_identity
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.forget.erase import forget_user
from app.jobs.forget.identifiers import Identifiers, is_distinctive
from app.jobs.forget.redaction import redacted
from app.jobs.forget.search import find_occurrences
from app.jobs.snapshot import take_snapshot
from app.jobs.verify import verify_days
from app.settings import Settings
from tests.support.effort import repeated

pytestmark = pytest.mark.slow

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OWN, SHARED, OTHERS = "c-own-81aaaaaaaa", "c-shared-77bbbbbb", "c-others-17"
TOKEN = "token-of-seventeen"
embedded_only = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)


def call(at: str, visitor: str = "", user: str = "", *, endpoint="/api/v1/products/17", method="GET", **more) -> dict:
    said = {"visitor_id": visitor, "user_id": user, "ip": "203.0.113.9", "user_agent": "Firefox/140.0"}
    response = {"response": {"id": 17, "price": 17}} if method == "GET" else {}
    return {"ts": f"2026-{at}:00Z", "method": method, "endpoint": endpoint, "status": 200} | said | response | more


THEIRS = [
    call("02-26T10:00", OWN),  # a day of which nobody else has a call
    call("03-01T10:00", OWN),
    call("03-02T10:00", OWN, "17", session_token=TOKEN),
    call("03-02T10:01", OWN, "17", method="POST", endpoint="/api/v1/cart/items", request={"body": {"product_id": 5}}),
    call("03-02T11:00", session_token=TOKEN),  # before the cookie was set
    call("03-03T23:58", OWN),
    call("03-04T00:05", OWN),
    call("03-05T10:00", SHARED, "17"),
    call("03-05T12:00", SHARED),
]
OF_OTHERS = [
    call("03-01T09:00", OTHERS, "117"),
    call("03-02T09:00", OTHERS, "117", request={"query": {"q": "17"}}),
    call("03-02T10:00", "c-guest-000001"),
    call("03-03T10:00", OTHERS, "170"),
    call("03-05T09:00", SHARED, "18"),
    call("03-06T09:00", OTHERS, "117"),
]
STAFF = call("03-06T10:00", "c-staff-00001", "1", method="POST", endpoint="/admin", request={"body": {"user_id": 17}})
BROKEN = [b'{"ts": "never", "method": "GET", "endpoint": "/", "user_id": "17"}', b'{"user_id": 17, broken']
BROKEN_OF_OTHERS = [b'{"ts": "never", "method": "GET", "endpoint": "/17", "user_id": "170", "n": 17}']
TABLES = ("pd.api_calls", "dwh.events", "dwh.sessions", "dwh.catalog_sessions", "dwh.product_sessions")


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE favorites (user_id INT, product_id INT, PRIMARY KEY (user_id, product_id))")
        database.executemany("INSERT INTO favorites VALUES (?, ?)", [(17, 5), (17, 6), (18, 17), (117, 17)])
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[favorites]\nsource = "favorites"\nkey = ["user_id", "product_id"]\nperson = "user_id"\n', encoding="utf-8"
    )
    monkeypatch.setenv("CARAT_SHOP_DB", f"sqlite:///{path}")
    monkeypatch.setenv("CARAT_SNAPSHOTS", str(plan))
    monkeypatch.setenv("CARAT_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("CARAT_LOG", str(tmp_path / "carat.log"))
    return path


def filled(warehouse, ingest_records, tmp_path) -> Settings:
    settings = Settings(_env_file=None)
    ingest_records(*THEIRS, *OF_OTHERS, STAFF, *BROKEN, *BROKEN_OF_OTHERS, now=NOW)
    take_snapshot(warehouse, settings)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    log = '{"error": "user_id: bad", "user_id": "17"}\nan error of ' + OWN + "\nthe number 17, and user_id: 117\n"
    (tmp_path / "carat.log").write_text(log, encoding="utf-8")
    return settings


def of_others(warehouse) -> dict[str, pl.DataFrame]:
    """The rows that must not change: what is there without the person's, whose sessions are known by hand."""
    mine = "visitor_id IN ({own:String}) OR user_id = '17'"
    with_user = {"dwh.events", "dwh.sessions", "pd.api_calls"}
    found = {}
    for table in TABLES:
        if table in with_user:
            where = f"NOT ({mine}) AND NOT (visitor_id = {{shared:String}} AND user_id = '')"
            where += " AND visitor_id != {token:String}" if table != "pd.api_calls" else " AND session_token = ''"
        else:
            where = "session_id IN (SELECT session_id FROM dwh.sessions WHERE visitor_id NOT IN ({own:String}, {token:String}) "
            where += "AND NOT (visitor_id = {shared:String} AND user_id IN ('', '17')))"
        columns = "* EXCEPT (received_at, request)" if table == "pd.api_calls" else "*"
        columns = "* EXCEPT content_hash" if table == "dwh.events" else columns  # the staff's call is written over
        found[table] = warehouse.query(
            f"SELECT {columns} FROM {table} WHERE {where} ORDER BY ALL", {"own": OWN, "shared": SHARED, "token": TOKEN}
        )
    return found


def bytes_on_disk(folder: Path, text: str) -> list[str]:
    return subprocess.run(["grep", "-rl", text, folder], capture_output=True, text=True, check=False).stdout.split()


def test_person_is_removed_everywhere_and_nobody_else_loses_a_row(warehouse, shop, ingest_records, tmp_path):
    settings = filled(warehouse, ingest_records, tmp_path)
    before = of_others(warehouse)
    rejects = warehouse.scalar("SELECT count() FROM etl.rejects")
    assert rejects == 3
    dry = forget_user(warehouse, settings, "17", now=NOW, dry_run=True)
    assert (dry.calls, dry.visitors, dry.tokens, dry.is_proven) == (len(THEIRS), 1, 1, False)
    assert {found.table for found in dry.occurrences} >= {*TABLES[:3], "etl.rejects", "history.favorites"}
    assert of_others(warehouse)["dwh.events"].equals(before["dwh.events"])
    if warehouse.is_embedded:
        assert bytes_on_disk(Path(warehouse.url.removeprefix("chdb://")), OWN)

    assert list((tmp_path / "scratch" / "digests").iterdir())
    erasure = forget_user(warehouse, settings, "17", now=NOW)
    assert erasure.is_proven
    assert not (tmp_path / "scratch" / "digests").exists()  # whose keys name users
    assert (erasure.calls, erasure.occurrences, erasure.old_parts) == (len(THEIRS), [], 0)
    assert date(2026, 2, 26) in erasure.days
    assert warehouse.scalar("SELECT count() FROM pd.api_calls") == len(OF_OTHERS) + 1
    assert warehouse.scalar("SELECT count() FROM dwh.events") == len(OF_OTHERS) + 1
    assert {name: frame.rows() for name, frame in of_others(warehouse).items()} == {
        name: frame.rows() for name, frame in before.items()
    }
    assert warehouse.query("SELECT toString(record) AS r FROM etl.rejects")["r"].to_list() == [
        BROKEN_OF_OTHERS[0].decode()
    ]
    assert warehouse.query("SELECT user_id, product_id FROM history.favorites ORDER BY ALL").rows() == [
        (18, 17), (117, 17),
    ]  # fmt: skip
    staff = warehouse.query("SELECT request FROM pd.api_calls WHERE endpoint = '/admin'")["request"].to_list()
    assert [json.loads(request) for request in staff] == [{"body": {"user_id": 0}}]
    log = (tmp_path / "carat.log").read_text()
    assert OWN not in log
    assert '"user_id": "17"' not in log
    assert "the number 17, and user_id: 117" in log
    if warehouse.is_embedded:
        folder = Path(warehouse.url.removeprefix("chdb://"))
        assert [bytes_on_disk(folder, text) for text in (OWN, TOKEN)] == [[], []]

    # What is published is what the calls say, a snapshot and a late file bring nobody back, and a second time is none.
    verification = verify_days(warehouse, settings)
    assert (verification.differing, verification.stale) == ([], {})
    take_snapshot(warehouse, settings)
    assert warehouse.scalar("SELECT count() FROM history.favorites") == 2
    again = ingest_records(*THEIRS, *OF_OTHERS, *BROKEN, now=NOW)
    assert again.stored == 0
    assert again.rejected["forgotten"] == len(THEIRS) + len(BROKEN)
    assert forget_user(warehouse, settings, "17", now=NOW).calls == 0
    left = {row[0] for row in warehouse.query("SELECT name FROM system.tables WHERE database = 'etl'").iter_rows()}
    assert not any(name.startswith("forgetting") for name in left)


@embedded_only
def test_killed_at_one_step_after_the_other_the_same_command_finishes(
    warehouse, shop, ingest_records, tmp_path, monkeypatch
):
    settings = filled(warehouse, ingest_records, tmp_path)
    for step in ("remember_forgotten", "_erase_days", "redact_columns", "remove_old_parts"):

        def killed(*arguments, step=step, **named):
            raise WarehouseError(f"killed at {step}")

        with monkeypatch.context() as patch:
            patch.setattr(app.jobs.forget.erase, step, killed)
            with pytest.raises(WarehouseError, match=f"killed at {step}"):
                forget_user(warehouse, settings, "17", now=NOW)
    erasure = forget_user(warehouse, settings, "17", now=NOW)
    assert erasure.is_proven
    assert warehouse.scalar("SELECT count() FROM dwh.events") == len(OF_OTHERS) + 1
    assert find_occurrences(warehouse, Identifiers(("17",), (OWN,), (TOKEN,)), list(TABLES), people={}) == []
    assert verify_days(warehouse, settings).differing == []


@embedded_only
def test_days_whose_raw_calls_are_gone_lose_the_person_too(warehouse, shop, ingest_records, tmp_path):
    settings = filled(warehouse, ingest_records, tmp_path)
    warehouse.command("ALTER TABLE pd.api_calls DELETE WHERE ts < '2026-03-05' SETTINGS mutations_sync = 2")
    erasure = forget_user(warehouse, settings, "17", now=NOW)
    assert erasure.is_proven
    kept = warehouse.query("SELECT DISTINCT visitor_id FROM dwh.sessions WHERE session_date < '2026-03-05'")
    # The calls of the person's session token were built as those of the visitor whose first calls they are.
    assert sorted(kept["visitor_id"]) == ["c-guest-000001", OTHERS]


def test_what_a_column_means_decides_what_a_short_id_is():
    ids = Identifiers(("17",), ("c-81aaaaaaaa",), ())
    assert [is_distinctive(value) for value in ("17", "10004711", "alexandra", "c-81aaaa", "123456789012")] == [
        False, False, False, True, True,
    ]  # fmt: skip
    for text, wanted in {
        '{"user_id": "17"}': '{"user_id": "0"}',
        '{"user_id":17,"n":17}': '{"user_id":0,"n":17}',
        '{"userId" : 17}': '{"userId" : 0}',
        '{"a": "{\\"user_id\\": \\"17\\"}"}': '{"a": "{\\"user_id\\": \\"0\\"}"}',
        "https://x/?user_id=17&b=17": "https://x/?user_id=0&b=17",
        '{"user_id": 170}': '{"user_id": 170}',
        '{"user_id": "117", "price": 17}': '{"user_id": "117", "price": 17}',
        "https://x/?user_id=170": "https://x/?user_id=170",
        "cookie c-81aaaaaaaa of nobody": "cookie forgotten of nobody",
    }.items():
        assert redacted(text, ids) == wanted


# ---- whose calls, against the same rule in plain Python ----------------------------------------------------------


def expected(calls: list[tuple[int, str, str]]) -> set[int]:
    """The positions of the calls (minute, visitor, user) that are of user 17."""
    found = set()
    for visitor in {v for _, v, _ in calls}:
        own = sorted((at, position, user) for position, (at, v, user) in enumerate(calls) if v == visitor)
        sessions: list[list[tuple[int, int, str]]] = []
        for entry in own:
            if not sessions or entry[0] - sessions[-1][-1][0] > 30:
                sessions.append([])
            sessions[-1].append(entry)
        users = [next((u for _, _, u in reversed(session) if u), "") for session in sessions]
        for number, session in enumerate(sessions):
            person = next((u for u in users[number:] if u), next((u for u in reversed(users[:number]) if u), ""))
            found |= {position for _, position, user in session if (user or person) == "17"}
    return found


@hypothesis_settings(max_examples=repeated(60, 2000))
@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from(["a", "b"]), st.sampled_from(["", "", "17", "18"])),
        min_size=1,
        max_size=12,
        unique_by=lambda c: (c[0], c[1]),
    )
)
def test_calls_belong_to_whom_their_sessions_are_stitched(calls):
    frame = pl.DataFrame(
        {
            "call_id": [position.to_bytes(16) for position in range(len(calls))],
            "ts": [datetime.fromtimestamp(60 * at, tz=UTC) for at, _, _ in calls],
            "visitor_key": [visitor for _, visitor, _ in calls],
            "visitor_id": [visitor for _, visitor, _ in calls],
            "session_token": [""] * len(calls),
            "user_id": [user for _, _, user in calls],
        },
        schema=CALLS,
    )
    found = resolve_identity(frame, user="17", timeout_ms=1_800_000)
    theirs = {int.from_bytes(call_id) for call_id in found.filter("belongs")["call_id"]}
    assert theirs == expected(calls)
    visitors = {visitor for _, visitor, _ in calls}
    assert exclusive_ids(found, "visitor_key") == sorted(
        visitor for visitor in visitors if all(n in theirs for n, (_, v, _) in enumerate(calls) if v == visitor)
    )


def test_the_command_asks_or_is_told_and_reports(tmp_path):
    environment = {
        "PATH": os.environ["PATH"],
        "CARAT_WAREHOUSE": f"chdb://{tmp_path}/warehouse",
        "CARAT_LOG": f"{tmp_path}/log",
        "CARAT_SPOOL": f"{tmp_path}/spool",
    }

    def carat(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "app", *arguments]
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=120
        )

    carat("ingest", "-", stdin=json.dumps(THEIRS[2]))
    unasked = carat("forget", "--user", "17")
    assert unasked.returncode == 2
    assert "--dry-run" in unasked.stderr
    dry = json.loads(carat("forget", "--user", "17", "--dry-run", "--json").stdout)
    assert (dry["calls"], dry["is_proven"]) == (1, False)
    done = carat("forget", "--user", "17", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["calls"], report["is_proven"], report["traces"]) == (1, True, [])
    late = json.loads(
        carat("ingest", "-", "--json", stdin=json.dumps(THEIRS[2] | {"ts": "2026-03-09T00:00:00Z"})).stdout
    )
    assert late["rejected"] == {"forgotten": 1}
