"""What a table of dwh declares is all that it takes: it is built, audited, stale, verified and erased by that."""

from dataclasses import replace
from datetime import UTC, date, datetime

import polars as pl
import pytest

import app.contracts.dwh
from app.contracts import DWH_TABLES, Column, Control, DwhTable, Input, PersonKey, Total, dwh_tables
from app.core.errors import AuditError, ContractError
from app.jobs.build import builders
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.forget.erase import forget_user
from app.jobs.snapshot import take_snapshot
from app.jobs.verify import verify_days
from app.settings import Settings
from app.warehouse import migrate
from tests.jobs.build.test_product_history import change

pytestmark = pytest.mark.slow

# The SQL is the same on a server, where the tests of the promise run.
embedded = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)
NOW = datetime(2026, 6, 1, tzinfo=UTC)

TOYS = DwhTable(
    database="dwh", name="toys",
    comment="A table of the tests: the calls of a session by kind of event.",
    columns=(
        Column("toy_day", "Date", "business day on which the session began"),
        Column("session_id", "String", "the session"),
        Column("shopper", "String", "the signed-in user; empty if none"),
        Column("kind", "String", "what the calls were"),
        Column("calls", "UInt32", "how many calls of this kind"),
    ),
    order_by="(session_id, kind)",
    day="toy_day",
    unique_key=("session_id", "kind"),
    depends_on=frozenset({Input.CALLS, Input.SESSIONS, Input.ENDPOINT_MAP}),
    session_column="session_id",
    never_empty=("session_id", "kind"),
    totals=(Total(Control.CALLS, "calls"),),
    person_keys=(("session_id", PersonKey.SESSION), ("shopper", PersonKey.USER)),
)  # fmt: skip


def build_toys(shard):
    yield (
        shard.events.group_by("session_id", kind=pl.col("event"))
        .agg(
            toy_day=pl.col("session_date").first(),
            shopper=pl.col("user_id").max().fill_null(""),
            calls=pl.len().cast(pl.UInt32),
        )
        .select(TOYS.schema.names())
        .sort("session_id", "kind")
    )


@pytest.fixture
def declare(monkeypatch, warehouse, settings):
    """Adds tables to dwh, each with its builder, as a change of app.contracts.dwh and of the builders would."""

    def declare(tables: dict[DwhTable, object]) -> None:
        for table in tables:
            warehouse.command(f"DROP TABLE IF EXISTS {table.full_name} SYNC")
        monkeypatch.setattr(app.contracts.dwh, "DWH_TABLES", (*DWH_TABLES, *tables))
        for table, build in tables.items():
            monkeypatch.setitem(builders.BUILDERS, table.name, build)
        assert {f"created table {table.full_name}" for table in tables} <= set(migrate(warehouse, settings))

    return declare


def call(at: str, visitor: str = "v", *, user: str = "", endpoint: str = "/api/v1/products/1") -> dict:
    return {"ts": f"2026-03-{at}:00Z", "method": "GET", "endpoint": endpoint, "visitor_id": visitor, "user_id": user, "status": 200}  # fmt: skip


def order(at: str) -> dict:
    return call(at, "buyer", endpoint="/api/v1/orders") | {"method": "POST", "response": {"order_id": 7, "total": 9}}


def toys(warehouse) -> list[tuple]:
    return warehouse.query("SELECT toy_day, shopper, kind, calls FROM dwh.toys ORDER BY ALL").rows()


def test_every_table_of_dwh_has_a_builder():
    assert list(builders.BUILDERS) == [table.name for table in dwh_tables()]


def test_a_declaration_that_names_a_column_the_table_lacks_is_refused():
    with pytest.raises(ContractError, match=r"dwh\.toys declares color, which it lacks"):
        replace(TOYS, never_empty=("color",))
    with pytest.raises(ContractError, match=r"dwh\.toys needs a unique key and at least one input"):
        replace(TOYS, depends_on=frozenset())


@embedded
def test_a_declared_table_is_built_patched_and_verified(warehouse, settings, ingest_records, declare):
    declare({TOYS: build_toys})
    ingest_records(*(call(f"01T{hour:02}:00", f"v{hour}") for hour in range(9)), call("01T10:01", endpoint="/x"))
    build_stale(warehouse, settings).require_done()
    assert toys(warehouse) == [(FIRST, "", "other", 1), *[(FIRST, "", "product_view", 1)] * 9]
    ingest_records(call("01T10:02"))
    (built,) = build_stale(warehouse, settings).require_done().built
    assert (built.calls, built.rows["toys"]) == (2, 11), "only the session with the new call was rebuilt"
    assert plan_days(warehouse, settings) == []
    assert verify_days(warehouse, settings).differing == []
    warehouse.command("ALTER TABLE dwh.toys UPDATE calls = 7 WHERE kind = 'other'")
    (found,) = verify_days(warehouse, settings).differing
    assert (found.table, found.differing) == ("toys", 1)
    assert "calls: published '7', is '1'" in str(found.examples[0])


def spoilt(change_rows):
    def build(shard):
        for rows in build_toys(shard):
            yield change_rows(rows)

    return build


@embedded
@pytest.mark.parametrize(
    ("change_rows", "finding"),
    [
        (lambda rows: pl.concat([rows, rows]), "2 rows of toys repeat a session_id, kind"),
        (lambda rows: rows.with_columns(kind=pl.lit("")).unique("session_id"), "1 rows of toys have no session_id or kind"),
        (lambda rows: rows.with_columns(calls=pl.lit(9, pl.UInt32)), "toys.calls: 18 instead of 3"),
    ],
    ids=["a key twice", "an empty key", "a wrong total"],
)  # fmt: skip
def test_a_declared_table_is_audited(warehouse, settings, ingest_records, declare, change_rows, finding):
    declare({TOYS: spoilt(change_rows)})
    ingest_records(call("01T10:00"), call("01T10:01"), call("01T10:02", endpoint="/x"))
    with pytest.raises(AuditError) as caught:
        build_stale(warehouse, settings).require_done()
    assert finding in str(caught.value)
    assert toys(warehouse) == []


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.sqlite"
    plan = tmp_path / "plan.toml"
    plan.write_text('[items]\nsource = "items"\nkey = ["id"]\nproduct = { product_id = "id", title = "title" }\n')
    change(path, "CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT)", "INSERT INTO items VALUES (1, 'ring')")
    return Settings(_env_file=None, shop_db=f"sqlite://{path}").shop_db, plan, tmp_path / "scratch"


@embedded
def test_a_table_is_stale_by_what_it_declares_and_by_nothing_else(
    warehouse, settings, ingest_records, declare, shop, tmp_path
):
    """One table per input, each of which depends on that alone."""
    of_input = {
        input_: replace(TOYS, name=f"toys_{n}", depends_on=frozenset({input_})) for n, input_ in enumerate(Input)
    }
    declare(dict.fromkeys(of_input.values(), build_toys))
    shop_db, plan, scratch = shop
    settings = settings.model_copy(update={"shop_db": shop_db, "snapshots": plan, "scratch": scratch})
    ingest_records(call("01T10:00"), call("01T23:50", "crossing"), call("02T12:00"))
    build_stale(warehouse, settings).require_done()

    def stale(**changed) -> dict[date, set[Input]]:
        plans = plan_days(warehouse, settings.model_copy(update=changed))
        jobs = {day.day: {i for i, table in of_input.items() if table.name in day.jobs} for day in plans}
        return {day: found for day, found in jobs.items() if found}  # without days of orders alone

    def both(input_: Input) -> dict[date, set[Input]]:
        return {FIRST: {input_}, SECOND: {input_}}

    assert stale() == {}
    other_map, other_plan = tmp_path / "map.toml", tmp_path / "other.toml"
    other_map.write_text(settings.tracking.read_text(encoding="utf-8").replace("/cart/items", "/basket/items"))
    other_plan.write_text(plan.read_text().replace('title = "title"', 'section = "title"'))
    assert stale(tracking=other_map) == both(Input.ENDPOINT_MAP)
    assert stale(session_timeout=settings.session_timeout * 2) == both(Input.SESSIONS)
    assert stale(max_calls_per_minute=7) == both(Input.SESSION_RULES)
    assert stale(snapshots=other_plan) == both(Input.PRODUCT_HISTORY)
    take_snapshot(warehouse, settings, at=datetime(2026, 2, 1, tzinfo=UTC))
    assert stale() == both(Input.PRODUCT_HISTORY)
    build_stale(warehouse, settings).require_done()
    ingest_records(order("01T12:00"), order("02T12:30"))
    build_stale(warehouse, settings, span=(SECOND, SECOND)).require_done()
    build_stale(warehouse, settings, span=(FIRST, FIRST)).require_done()
    assert stale() == {SECOND: {Input.ORDERS}}, "its order was placed on the first day"
    build_stale(warehouse, settings).require_done()
    ingest_records(call("02T00:10", "crossing"))
    assert stale() == {FIRST: {Input.SESSIONS}, SECOND: {Input.CALLS}}, "the first day's session reaches the new call"


@embedded
def test_a_declared_table_forgets_a_person_on_days_whose_calls_are_gone(
    warehouse, ingest_records, declare, tmp_path, monkeypatch
):
    monkeypatch.setenv("CARAT_LOG", str(tmp_path / "carat.log"))
    monkeypatch.setenv("CARAT_SPOOL", str(tmp_path / "spool"))
    settings = Settings(_env_file=None)
    declare({TOYS: build_toys})
    ingest_records(*(call(f"{day}T10:00", visitor, user=user) for day in ("01", "02") for visitor, user in (("mine", "17"), ("theirs", "18"))))  # fmt: skip
    build_stale(warehouse, settings).require_done()
    warehouse.command("ALTER TABLE pd.api_calls DELETE WHERE ts < '2026-03-02' SETTINGS mutations_sync = 2")
    dry = forget_user(warehouse, settings, "17", now=NOW, dry_run=True)
    assert {(found.column, found.rows) for found in dry.occurrences if found.table == "dwh.toys"} == {("shopper", 2)}
    assert forget_user(warehouse, settings, "17", now=NOW).is_proven
    assert toys(warehouse) == [(day, "18", "product_view", 1) for day in (FIRST, SECOND)]
