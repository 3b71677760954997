"""Stored calls are found by their ids, whatever became of the parts that hold them, and few parts are searched."""

import uuid

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contracts import API_CALLS
from app.warehouse import Warehouse, call_id_filters
from app.warehouse.call_id_filters import CallIdFilter, IdHashes, stored_calls
from tests.support.effort import repeated
from tests.support.statements import counted_statements

SCHEMA = {"call_id": API_CALLS.schema["call_id"]}
DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")


def ids_of(numbers: range) -> pl.Series:
    return pl.Series([uuid.uuid5(uuid.NAMESPACE_OID, str(number)).bytes for number in numbers], dtype=pl.Binary)


def insert(warehouse: Warehouse, numbers: range, *, day: str = DAYS[0]) -> None:
    columns = (
        "visitor_id",
        "session_token",
        "user_id",
        "method",
        "endpoint",
        "ip",
        "user_agent",
        "referrer",
        "page_url",
    )
    at = pl.lit(f"{day}T10:00:00").str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="ms", time_zone="UTC")
    frame = pl.DataFrame({"call_id": ids_of(numbers)}).with_columns(
        ts=at, received_at=at, status=pl.lit(200, pl.UInt16), duration_ms=pl.lit(0, pl.UInt32), request=pl.lit(""),
        response=pl.lit(""), **dict.fromkeys(columns, pl.lit("x")),
    )  # fmt: skip
    warehouse.insert(API_CALLS, frame.select(API_CALLS.schema.names()))


def known(warehouse: Warehouse, numbers: range) -> set[bytes]:
    return set(stored_calls(warehouse, ids_of(numbers), SCHEMA)["call_id"])


def stored_parts(warehouse: Warehouse) -> set[str]:
    return set(warehouse.query("SELECT part FROM etl.call_id_filters", schema={"part": pl.String()})["part"])


@pytest.fixture(autouse=True)
def _nothing_in_memory(monkeypatch):
    """Each test begins as a process does, and stores the filters of small parts, too."""
    monkeypatch.setattr(call_id_filters, "_STORED_IDS", 1)
    call_id_filters.forget()


def test_calls_are_known_and_others_are_not(warehouse):
    assert known(warehouse, range(10)) == set()
    insert(warehouse, range(100))
    insert(warehouse, range(100, 200), day=DAYS[1])
    assert known(warehouse, range(50, 250)) == set(ids_of(range(50, 200)))
    assert known(warehouse, range(0)) == set()


def test_filters_are_kept_by_part_and_only_new_parts_are_read(warehouse):
    insert(warehouse, range(100))
    known(warehouse, range(5))
    insert(warehouse, range(100, 200))
    call_id_filters.forget()  # another process
    with counted_statements() as statements:
        known(warehouse, range(300, 310))
    reads = [sql for sql in statements if "FROM pd.api_calls" in sql]
    assert len(reads) == 1
    assert len(stored_parts(warehouse)) == 2


def test_lost_filters_are_made_again(warehouse):
    insert(warehouse, range(100))
    known(warehouse, range(5))
    warehouse.command("TRUNCATE TABLE etl.call_id_filters")
    call_id_filters.forget()
    assert known(warehouse, range(90, 110)) == set(ids_of(range(90, 100)))
    assert len(stored_parts(warehouse)) == 1


def test_filters_of_another_form_are_not_believed(warehouse, monkeypatch):
    insert(warehouse, range(100))
    monkeypatch.setattr(call_id_filters, "_FORM", "an older one")
    monkeypatch.setattr(call_id_filters, "_STEP", np.uint64(17))
    known(warehouse, range(5))
    monkeypatch.undo()
    call_id_filters.forget()
    assert known(warehouse, range(90, 110)) == set(ids_of(range(90, 100)))


def test_a_part_that_was_gone_before_it_was_read_leaves_no_filter(warehouse, monkeypatch):
    """Its checksum may come again: two parts of equal content have the same."""
    insert(warehouse, range(20))
    real = call_id_filters._made

    def late(warehouse, parts):
        warehouse.command("TRUNCATE TABLE pd.api_calls")
        return real(warehouse, parts)

    with monkeypatch.context() as context:
        context.setattr(call_id_filters, "_made", late)
        assert known(warehouse, range(30)) == set()
    insert(warehouse, range(20))
    assert known(warehouse, range(30)) == set(ids_of(range(20)))


def test_calls_are_known_after_merges_deletes_and_inserts(warehouse):
    for start in range(0, 60, 20):
        insert(warehouse, range(start, start + 20))
        assert known(warehouse, range(100)) == set(ids_of(range(start + 20)))
    warehouse.command("OPTIMIZE TABLE pd.api_calls FINAL")
    assert known(warehouse, range(100)) == set(ids_of(range(60)))
    warehouse.command(
        "DELETE FROM pd.api_calls WHERE call_id = toUUID({id:String})", {"id": str(uuid.uuid5(uuid.NAMESPACE_OID, "7"))}
    )
    assert known(warehouse, range(100)) == set(ids_of(range(60))) - set(ids_of(range(7, 8)))
    insert(warehouse, range(7, 8), day=DAYS[2])
    assert known(warehouse, range(100)) == set(ids_of(range(60)))


def test_a_part_that_is_merged_between_the_questions_hides_no_call(warehouse, monkeypatch):
    """Whatever was listed, read or suspected before: the look-up is repeated, and at last nothing is left out."""
    insert(warehouse, range(20))
    insert(warehouse, range(20, 40))
    real, numbers = call_id_filters._select, iter(range(1000, 2000))

    def merging(warehouse, *given, parts=()):
        insert(warehouse, range(number := next(numbers), number + 1))
        warehouse.command("OPTIMIZE TABLE pd.api_calls FINAL")
        return real(warehouse, *given, parts=parts)

    monkeypatch.setattr(call_id_filters, "_select", merging)
    assert known(warehouse, range(30, 50)) == set(ids_of(range(30, 40)))


def test_filters_of_parts_that_are_gone_are_deleted(warehouse):
    for number in range(14):
        insert(warehouse, range(number, number + 1), day=DAYS[number % 3])
        known(warehouse, range(5))
        warehouse.command("OPTIMIZE TABLE pd.api_calls FINAL")
        known(warehouse, range(5))
    assert len(stored_parts(warehouse)) <= 3 + 3 + 10


@pytest.mark.parametrize("limit", ["_IDS_A_READ", "_IDS_A_LOAD", "_KEPT_BYTES"])
def test_filters_are_made_loaded_and_kept_in_pieces(warehouse, monkeypatch, limit):
    monkeypatch.setattr(call_id_filters, limit, 30)
    for number, day in enumerate(DAYS):
        insert(warehouse, range(number * 100, number * 100 + 70), day=day)
    for _ in range(2):
        assert known(warehouse, range(300)) == {
            call_id for n in range(3) for call_id in ids_of(range(n * 100, n * 100 + 70))
        }
        call_id_filters.forget()


ID = st.binary(min_size=16, max_size=16) | st.integers(0, 1000).map(lambda number: number.to_bytes(16, "big"))


def hashes(ids: list[bytes]) -> IdHashes:
    return IdHashes.of(pa.array(ids, pa.binary(16)))


@given(st.lists(ID, max_size=60), st.lists(ID, max_size=60), st.integers(1, 4))
@settings(max_examples=repeated(200, 10_000), deadline=None)
def test_an_id_that_was_added_is_never_unknown(added, others, room):
    found = CallIdFilter.for_ids(len(added) // room)  # filters of parts whose rows were counted too low, too
    found.add(hashes(added))
    asked = others + added
    assert set(range(len(others), len(asked))) <= set(found.suspects(hashes(asked)).tolist())


def test_few_unknown_ids_are_suspected_even_if_ids_are_numbered():
    count = 200_000
    numbered = np.zeros((2 * count, 16), np.uint8)
    numbered[:, 12:] = np.arange(2 * count, dtype=">u4").view(np.uint8).reshape(-1, 4)
    ids = [row.tobytes() for row in numbered]
    found = CallIdFilter.for_ids(count)
    found.add(hashes(ids[:count]))
    assert len(found.suspects(hashes(ids[count:]))) < 5
