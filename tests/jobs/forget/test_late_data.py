"""Whoever was forgotten stays forgotten: neither late calls nor what others say of the person bring them back."""

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.core.errors import SettingsError
from app.intake.spool import Spool, SpoolLimits, read_segment
from app.intake.spool.segments import delivered_segments
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.forget.erase import forget_user
from app.jobs.load.delivery import deliver_spool
from app.jobs.snapshot import take_snapshot
from app.jobs.verify import verify_days
from app.settings import Settings

pytestmark = pytest.mark.slow

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ALSO = ("Anna.B@example.com", "+49 170 1234567", "Anna Müller")
USER = "cust-778899-zed"
DEVICE = "c-device-of-anna-1"
embedded_only = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)


def call(minute: int, *, by: str = "agent1", endpoint: str = "/api/v1/cart", **more) -> dict:
    said = {"visitor_id": f"v-{by}", "user_id": by, "method": "GET", "status": 200, "user_agent": "Firefox/140.0"}
    return {"ts": f"2026-03-02T10:{minute:02}:00Z", "endpoint": endpoint} | said | more


OWN = [call(0, by=USER, visitor_id=DEVICE), call(1, by=USER, visitor_id=DEVICE)]
OF_OTHERS = [
    call(2, endpoint=f"/api/v1/users/{USER}/orders"),
    call(3, response={"customer_id": USER, "email": "anna.b@EXAMPLE.com", "phone": "0170/1234567"}),
    call(4, page_url="https://shop.example/?mail=anna.b%40example.com"),
    call(5, referrer="https://shop.example/q?name=Anna+M%C3%BCller"),
    call(6, user_agent=f"Support/1.0 (for {USER})"),
    call(7, method=f"GET-{USER}"),
    call(8, request={"body": {"note": "call Anna M\u00fcller back", "tel": "+49 (0)170-123 45 67"}}),
    call(9, response={"device": DEVICE}),
    call(10, call_id="11111111-2222-3333-4444-555555555555", response={"user": {"name": "x", "ref": USER}}),
    call(11, by="anna.b@example.com"),  # another account of the same person
    call(12, response={"id": 17, "price": "12.34567", "title": "Ring for Hanna"}),
]
UNTOUCHED = OF_OTHERS[-1]
BROKEN = [b'{"ts": "never", "note": "from anna.b@example.com"}', b'{"broken ' + USER.encode()]
TRACES = (USER, DEVICE, "anna", "Anna", "üller", "fcller", "BCller", "1234567", "123 45 67", "EXAMPLE.com")


def texts(warehouse) -> str:
    found = warehouse.query(
        "SELECT visitor_id, session_token, user_id, method, endpoint, user_agent, referrer, page_url, request, response "
        "FROM pd.api_calls ORDER BY ALL"
    )
    rejects = warehouse.query("SELECT source, detail, toString(record) AS r FROM etl.rejects ORDER BY ALL")
    return "\n".join(map(str, [*found.rows(), *rejects.rows()])).replace("Hanna", "")


def assert_nobody_is_named(warehouse) -> None:
    stored = texts(warehouse)
    assert [trace for trace in TRACES if trace in stored] == []


@pytest.fixture
def erased(warehouse, ingest_records, tmp_path, monkeypatch) -> Settings:
    monkeypatch.setenv("CARAT_LOG", str(tmp_path / "carat.log"))
    monkeypatch.setenv("CARAT_SPOOL", str(tmp_path / "spool"))
    (tmp_path / "carat.log").write_text('{"error": "no mail to Anna.B@example.com"}\nnothing of anybody\n')
    (tmp_path / "carat.log.1").write_text(f"older: {USER}\n")
    settings = Settings(_env_file=None)
    ingest_records(*OWN, *OF_OTHERS, *BROKEN, now=NOW)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    erasure = forget_user(warehouse, settings, USER, also=ALSO, now=NOW)
    assert erasure.occurrences == []
    assert erasure.is_proven
    assert erasure.calls == len(OWN) + 1
    return settings


@embedded_only
def test_late_originals_are_the_calls_that_were_cleaned(erased, warehouse, ingest_records, tmp_path):
    assert_nobody_is_named(warehouse)
    assert (tmp_path / "carat.log").read_text() == '{"error": "no mail to forgotten"}\nnothing of anybody\n'
    assert (tmp_path / "carat.log.1").read_text() == "older: forgotten\n"

    late = ingest_records(*OWN, *OF_OTHERS, *BROKEN, now=NOW)

    assert late.stored == 0
    assert late.rejected == {"forgotten": len(OWN) + 1 + len(BROKEN)}
    assert late.duplicates == len(OF_OTHERS) - 1
    assert_nobody_is_named(warehouse)
    assert verify_days(warehouse, erased).differing == []


@embedded_only
def test_late_calls_that_were_never_seen_are_cleaned_as_well(erased, warehouse, ingest_records):
    late = ingest_records(
        call(20, endpoint=f"/api/v1/users/{USER}/addresses?mail=anna.b%40example.com"),
        call(21, response={"tel": "0170 123 4567", "who": "ANNA MÜLLER"}),
        # Two records with one call_id: the one that loses becomes a reject, the one that was stored first, too.
        call(22, call_id="99999999-2222-3333-4444-555555555555", response={"a": USER}),
        call(23, call_id="99999999-2222-3333-4444-555555555555", response={"b": USER}),
        now=NOW,
    )
    assert late.rejected == {"call_id taken": 1}
    moved = ingest_records(call(19, call_id="99999999-2222-3333-4444-555555555555", response={"c": USER}), now=NOW)
    assert moved.rejected == {"call_id taken": 1}
    assert_nobody_is_named(warehouse)


@embedded_only
def test_a_device_that_goes_on_belongs_to_whoever_uses_it_now(erased, warehouse, ingest_records):
    later = call(0, by="bea", visitor_id=DEVICE, request={"body": {"device": DEVICE}}) | {"ts": "2026-06-01T09:00:00Z"}
    assert ingest_records(later, now=datetime(2026, 6, 2, tzinfo=UTC)).stored == 1
    assert DEVICE in texts(warehouse)


@embedded_only
def test_a_short_id_is_removed_by_its_place_and_no_product_with_it(warehouse, ingest_records, tmp_path, monkeypatch):
    monkeypatch.setenv("CARAT_LOG", str(tmp_path / "carat.log"))
    monkeypatch.setenv("CARAT_SPOOL", str(tmp_path / "spool"))
    settings = Settings(_env_file=None)
    named = [
        call(1, endpoint="/api/v1/users/17/orders"),
        call(2, response={"user": {"name": "x", "id": 17}, "product": {"id": 17}}),
        call(3, response={"uid": 17, "owner_id": "17", "customer": 17, "n": 17}),
        call(4, endpoint="/api/v1/users/17", response={"id": 17, "orders": [{"id": 17}]}),
    ]
    kept = [call(5, endpoint="/api/v1/products/17", response={"id": 17, "guid": 17, "items": [17]})]
    ingest_records(call(0, by="17", visitor_id="c-of-seventeen"), *named, *kept, now=NOW)
    erasure = forget_user(warehouse, settings, "17", now=NOW)
    assert erasure.is_proven, erasure.occurrences

    def stored() -> list[tuple[str, object]]:
        found = warehouse.query("SELECT endpoint, response FROM pd.api_calls ORDER BY ts")
        return [(endpoint, json.loads(response) if response else None) for endpoint, response in found.rows()]

    expected = [
        ("/api/v1/users/0/orders", None),
        ("/api/v1/cart", {"user": {"name": "x", "id": 0}, "product": {"id": 17}}),
        ("/api/v1/cart", {"uid": 0, "owner_id": "0", "customer": 0, "n": 17}),
        ("/api/v1/users/0", {"id": 0, "orders": [{"id": 17}]}),
        ("/api/v1/products/17", {"id": 17, "guid": 17, "items": [17]}),
    ]
    assert stored() == expected
    assert ingest_records(*named, *kept, now=NOW).stored == 0
    assert stored() == expected


def in_shop(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    """A shop with wishes (whose is said by the plan), reviews and a list of newsletters (whose is not)."""
    path = tmp_path / "shop.db"
    in_shop(
        path,
        "CREATE TABLE wishes (id INT PRIMARY KEY, customer_id TEXT, note TEXT)",
        "INSERT INTO wishes VALUES (1, '4711', 'for my wife'), (2, '4712', 'red')",
        "CREATE TABLE reviews (id INT PRIMARY KEY, said TEXT)",
        "INSERT INTO reviews VALUES (1, 'fine, says anna.b@example.com'), (2, 'fine')",
        "CREATE TABLE letters (email TEXT PRIMARY KEY, since TEXT)",
        "INSERT INTO letters VALUES ('Anna.B@Example.com', '2026'), ('bea@example.com', '2025')",
    )
    (tmp_path / "plan.toml").write_text(PLAN)
    for name, value in {
        "SHOP_DB": f"sqlite:///{path}", "SNAPSHOTS": tmp_path / "plan.toml", "SCRATCH": tmp_path / "scratch",
        "LOG": tmp_path / "carat.log", "SPOOL": tmp_path / "spool", "MAX_DELETED_SHARE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CARAT_{name}", str(value))
    return path


PLAN = """
[wishes]
source = "wishes"
key = ["id"]
person = "customer_id"
[reviews]
source = "reviews"
key = ["id"]
[letters]
source = "letters"
key = ["email"]
"""


def taken(warehouse) -> list[str]:
    return [row["error"] for row in take_snapshot(warehouse, Settings(_env_file=None))]


def rows(warehouse, table: str, columns: str) -> list[tuple]:
    return warehouse.query(f"SELECT {columns} FROM history.{table} ORDER BY ALL").rows()


@embedded_only
def test_no_snapshot_brings_the_person_back(shop, warehouse, tmp_path):
    settings = Settings(_env_file=None)
    assert taken(warehouse) == ["", "", ""]
    erasure = forget_user(warehouse, settings, "4711", also=["anna.b@example.com"], now=NOW)
    assert erasure.is_proven, erasure.occurrences
    assert any("history.letters, history.reviews" in place for place in erasure.not_searched)

    assert taken(warehouse) == ["", "", ""]
    assert rows(warehouse, "wishes", "id, version, toString(note)") == [(2, 1, "red")]
    assert rows(warehouse, "reviews", "id, version, toString(said)") == [(1, 1, "fine, says forgotten"), (2, 1, "fine")]
    assert rows(warehouse, "letters", "toString(email), version") == [("bea@example.com", 1)]

    # A column that was renamed no longer says whose a row is: nothing of the table is taken in until the plan does.
    in_shop(shop, "ALTER TABLE wishes RENAME COLUMN customer_id TO client_id", "UPDATE wishes SET note = 'blue'")
    refused, *others = taken(warehouse)
    assert others == ["", ""]
    assert refused.startswith("wishes has no column customer_id: another schema?")
    assert "names customer_id as person" in refused
    assert rows(warehouse, "wishes", "id, version, toString(note)") == [(2, 1, "red")]

    (tmp_path / "plan.toml").write_text(PLAN.replace("customer_id", "client_id"))
    assert taken(warehouse) == ["", "", ""]
    assert rows(warehouse, "wishes", "id, version, toString(note)") == [(2, 1, "red"), (2, 2, "blue")]
    # Versions of before the column had its new name are the person's as well.
    assert forget_user(warehouse, settings, "4712", now=NOW).is_proven
    assert rows(warehouse, "wishes", "id") == []


@embedded_only
def test_a_plan_that_names_columns_which_are_not_there_is_refused_by_name(shop, warehouse, tmp_path):
    assert taken(warehouse) == ["", "", ""]
    (tmp_path / "plan.toml").write_text(PLAN.replace("customer_id", "custommer_id"))
    with pytest.raises(SettingsError, match=r"\[wishes\] names the column custommer_id.* Did you mean customer_id\?"):
        forget_user(warehouse, Settings(_env_file=None), "4711", now=NOW)
    assert "Did you mean customer_id?" in taken(warehouse)[0]
    for mistake in ('exclude = ["notes"]', 'columns = ["customer_id", "notes"]', 'product = { product_id = "id", title = "notes" }'):  # fmt: skip
        (tmp_path / "plan.toml").write_text(PLAN.replace('person = "customer_id"', mistake))
        refused = taken(warehouse)[0]
        assert refused.startswith("wishes has no column notes: another schema?")
        assert refused.endswith("Did you mean note?")


@embedded_only
def test_a_late_first_call_without_an_id_comes_from_where_the_person_was(erased, warehouse, ingest_records):
    first = {"ts": "2026-03-02T09:58:00Z", "method": "GET", "endpoint": "/", "user_agent": "Firefox/140.0", "ip": "::9"}
    assert ingest_records(first, now=NOW).stored == 1  # another address
    assert ingest_records(first | {"ip": ""}, now=NOW).rejected == {"forgotten": 1}
    assert ingest_records(first | {"ip": "", "ts": "2026-03-02T09:00:00Z"}, now=NOW).stored == 1  # long before
    assert ingest_records(first | {"ip": "", "visitor_id": "v-bea"}, now=NOW).stored == 1


@embedded_only
def test_a_delivered_segment_keeps_nothing_of_the_person(erased, warehouse, tmp_path):
    spooled = [OWN[0], OF_OTHERS[1], call(40, response={"note": "anna.b@example.com"}), UNTOUCHED]

    async def collect() -> None:
        spool = Spool(erased.spool, SpoolLimits(segment_s=3600, min_free_bytes=0))
        await spool.open()
        await spool.append(
            [json.dumps(record).encode() for record in spooled], received_at_ms=int(NOW.timestamp() * 1000)
        )
        await spool.close()

    asyncio.run(collect())
    done = deliver_spool(warehouse, erased).require_done()
    assert (done.totals.stored, done.totals.duplicates, done.totals.rejected) == (1, 2, {"forgotten": 1})
    (segment,) = delivered_segments(erased.spool)
    records = [record for frame in read_segment(segment.path) for record in frame.records]
    assert [json.loads(record) for record in records[-1:]] == [UNTOUCHED]
    kept = b"\n".join(records).decode().replace("Hanna", "")
    assert [trace for trace in TRACES if trace in kept] == []
    assert_nobody_is_named(warehouse)


@embedded_only
def test_on_days_without_raw_calls_other_peoples_rows_are_cleaned(warehouse, ingest_records, tmp_path, monkeypatch):
    monkeypatch.setenv("CARAT_LOG", str(tmp_path / "carat.log"))
    monkeypatch.setenv("CARAT_SPOOL", str(tmp_path / "spool"))
    settings = Settings(_env_file=None)
    search = call(1, by="bea", endpoint="/api/v1/catalog", request={"query": {"q": "Anna Müller", "section[]": ["anna müller"]}})  # fmt: skip
    ingest_records(OWN[0], search | {"page_url": "https://shop.example/?utm_term=Anna+M%C3%BCller"}, now=NOW)
    build_stale(warehouse, settings, jobs=JOBS).require_done()
    warehouse.command("TRUNCATE TABLE pd.api_calls")

    erasure = forget_user(warehouse, settings, USER, also=["Anna Müller"], now=NOW)

    assert erasure.is_proven, erasure.occurrences
    assert warehouse.query("SELECT search_query, section FROM dwh.catalog_sessions").rows() == [
        ("forgotten", ["forgotten"])
    ]
    assert warehouse.query("SELECT visitor_id, utm_term FROM dwh.sessions").rows() == [("v-bea", "forgotten")]
