"""The one writer and its checks, publishing and its recovery, and migration, over both engines."""

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest

from app.contracts import CATALOG_SESSIONS, EVENTS, RUNS, SESSIONS, Table, published_tables
from app.core.errors import ContractError, LockedError, WarehouseError
from app.warehouse import Staging, migrate, publication, recover
from app.warehouse.lock import hold_embedded

DAY = date(2026, 3, 1)
NOW = datetime(2026, 3, 2, tzinfo=UTC)


def sessions(*ids: str, day: date = DAY) -> pl.DataFrame:
    zero = {
        pl.String: "",
        pl.Boolean: False,
        pl.Date: day,
        pl.Float64: 0.0,
        pl.UInt32: 0,
        pl.Decimal(18, 2): Decimal(0),
        pl.Datetime("ms", "UTC"): NOW,
    }
    rows = [
        {name: next(v for d, v in zero.items() if dtype == d) for name, dtype in SESSIONS.schema.items()}
        | {"session_id": i}
        for i in ids
    ]
    return pl.DataFrame(rows, schema=SESSIONS.schema)


def ids_of(warehouse) -> list[str]:
    return sorted(warehouse.query("SELECT session_id FROM dwh.sessions")["session_id"])


def stage(warehouse, frame, day=DAY) -> Staging:
    staging = Staging(warehouse, day, [SESSIONS])
    staging.append(SESSIONS, frame, through=warehouse)
    return staging


@pytest.mark.parametrize(("change", "problem"), [
    ({"user_id": pl.lit(None, pl.String)}, "1 null.* dwh.sessions.user_id"), ({"calls": pl.lit(1, pl.Int64)}, "dwh.sessions.calls is Int64"),
    ({"extra": pl.lit(1)}, "has no column extra"), ({"revenue": pl.lit(1.5)}, "dwh.sessions.revenue is Float64"),
])  # fmt: skip
def test_the_writer_refuses_a_frame_that_breaks_its_contract(warehouse, change, problem):
    with pytest.raises(ContractError, match=problem):
        warehouse.insert(SESSIONS, sessions("a").with_columns(**change))
    with pytest.raises(ContractError, match="lacks user_id"):
        warehouse.insert(SESSIONS, sessions("a").drop("user_id"))
    assert ids_of(warehouse) == []


def test_a_null_inside_a_list_is_refused():
    frame = pl.DataFrame({"section": [["a", None]]}, schema={"section": pl.List(pl.String)})
    only = Table("x", "y", "", tuple(c for c in CATALOG_SESSIONS.columns if c.name == "section"), "section")
    with pytest.raises(ContractError, match="1 null"):
        only.validate(frame, where="a test")


def test_rows_that_share_a_key_are_refused(warehouse):
    with pytest.raises(ContractError, match=r"share a key \(session_id\)"):
        stage(warehouse, sessions("a", "a"))


def test_publishing_replaces_the_day_and_no_other(warehouse):
    warehouse.insert(SESSIONS, sessions("old"))
    warehouse.insert(SESSIONS, sessions("other", day=date(2026, 3, 2)))
    stage(warehouse, sessions("new")).publish(now=NOW)
    assert ids_of(warehouse) == ["new", "other"]


def test_publishing_nothing_empties_the_day(warehouse):
    warehouse.insert(SESSIONS, sessions("old"))
    Staging(warehouse, DAY, [SESSIONS]).publish(now=NOW)
    assert ids_of(warehouse) == []


def test_an_interrupted_publication_is_finished_on_the_next_start(warehouse, monkeypatch):
    warehouse.insert(SESSIONS, sessions("old"))
    staging = stage(warehouse, sessions("new"))
    monkeypatch.setattr(publication, "_replace_partitions", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        staging.publish(now=NOW)
    assert ids_of(warehouse) == ["old"]
    monkeypatch.undo()
    assert recover(warehouse) == [DAY]
    assert ids_of(warehouse) == ["new"]
    assert recover(warehouse) == []


def test_what_was_staged_but_not_published_is_cleared_away(warehouse):
    stage(warehouse, sessions("half"))
    assert recover(warehouse) == []
    assert ids_of(warehouse) == []
    assert warehouse.scalar("SELECT count() FROM system.tables WHERE database = 'etl' AND name LIKE 'staged%'") == 0


def test_a_staged_day_that_does_not_hold_what_was_written_is_not_published(warehouse):
    staging = stage(warehouse, sessions("a", "b"))
    warehouse.insert(SESSIONS, sessions("stray"), into=staging.name("sessions"))
    with pytest.raises(ContractError, match="holds 3 rows of 2026-03-01, 2 were written"):
        staging.require_complete()


def test_migrating_again_changes_nothing_and_a_missing_column_is_added(warehouse, settings):
    assert migrate(warehouse, settings) == []
    warehouse.command("ALTER TABLE dwh.sessions DROP COLUMN channel, COMMENT COLUMN units 'old words'")
    tables, views = (changes := migrate(warehouse, settings))[:2], changes[2:]
    assert tables == ["updated the comment of dwh.sessions.units", "added column dwh.sessions.channel"]
    assert all(change.startswith("replaced view dwh.") for change in views), "views with a * show the new column"
    columns = warehouse.query(
        "SELECT name FROM system.columns WHERE database = 'dwh' AND table = 'sessions' ORDER BY position"
    )
    assert columns["name"].to_list() == [column.name for column in SESSIONS.columns]


def test_a_column_of_another_type_is_named_with_what_to_do(warehouse, settings):
    warehouse.command("ALTER TABLE etl.runs MODIFY COLUMN seconds Float32")
    with pytest.raises(
        WarehouseError, match="etl.runs.seconds is Float32, this version of Carat writes Float64.*MODIFY COLUMN"
    ):
        migrate(warehouse, settings)


def test_every_dwh_table_is_partitioned_by_its_business_day(warehouse):
    keys = dict(
        warehouse.query(
            "SELECT name, partition_key FROM system.tables WHERE database = 'dwh' AND engine = 'MergeTree'"
        ).rows()
    )
    assert keys == {table.name: table.day for table in published_tables()}


FILTERS = pl.Map(pl.String, pl.List(pl.String))


def test_values_come_back_as_they_were_written(warehouse):
    row = {
        "event_date": DAY, "ts": NOW, "call_id": bytes(range(16)), "session_id": "é\u0000😀", "shown_products": ["1", ""], "order_quantities": [2**32 - 1],
        "order_prices": [Decimal("-0.01")], "price": Decimal("9999999999999999.99"), "price_min": None,
    }  # fmt: skip
    blank = {
        pl.String: "",
        pl.Boolean: False,
        pl.UInt16: 0,
        pl.UInt32: 0,
        pl.UInt64: 2**64 - 1,
        FILTERS: {"stone": ["ruby"]},
    }
    filled = {
        n: row.get(n, [] if isinstance(d, pl.List) else next((v for k, v in blank.items() if d == k), None))
        for n, d in EVENTS.schema.items()
    }
    written = pl.DataFrame([filled], schema=EVENTS.schema)
    warehouse.insert(EVENTS, written)
    assert warehouse.query(f"SELECT {', '.join(EVENTS.schema.names())} FROM dwh.events").equals(written)


def test_visits_know_the_past_of_their_visitor(warehouse):
    first, second = (
        sessions("0123456789abcdef-1"),
        sessions("0123456789abcdef-2", day=date(2026, 3, 3)).with_columns(
            started_at=pl.lit(datetime(2026, 3, 3, 12, tzinfo=UTC)).cast(pl.Datetime("ms", "UTC"))
        ),
    )
    for frame, orders in ((first, 1), (second, 0)):
        warehouse.insert(SESSIONS, frame.with_columns(visitor_id=pl.lit("v"), orders=pl.lit(orders, pl.UInt32)))
    columns = "is_new_visitor, is_customer, visit_number, days_since_last_visit, is_open"
    assert warehouse.query(f"SELECT {columns} FROM dwh.visits ORDER BY started_at").rows() == [
        (1, 0, 1, None, 0),
        (0, 1, 2, 1.5, 0),
    ]
    assert warehouse.query("SELECT visitor_id, sessions, orders FROM dwh.visitors").rows() == [("v", 2, 1)]


def test_a_run_that_fails_is_recorded_with_its_error(warehouse):
    row = {
        "run_id": "r",
        "job": "etl",
        "day": None,
        "started_at": NOW,
        "ended_at": NOW,
        "state": "failed",
        "rows_in": 0,
        "rows_out": 0,
        "rows_rejected": 0,
        "seconds": 0.5,
        "error": "no",
    }
    warehouse.insert(RUNS, pl.DataFrame([row], schema=RUNS.schema))
    assert warehouse.query("SELECT state, error FROM etl.runs").rows() == [("failed", "no")]


@pytest.mark.parametrize(("holder", "mend"), [("carat serve", "stop it first"), ("carat etl", "try again later")])
def test_whoever_finds_the_warehouse_held_is_told_whether_to_wait(tmp_path, holder, mend):
    with (
        hold_embedded(tmp_path, purpose=holder),
        pytest.raises(LockedError, match=mend),
        hold_embedded(tmp_path, purpose="carat query"),
    ):
        pass
