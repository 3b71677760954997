"""Digests of rows: they tell rows apart as a comparison of all values does."""

from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from app.frames.row_digests import DIGEST, gathered, unlike, with_digests
from tests.support.effort import repeated

SEEDS = (7, 11)
SCHEMA = {"id": pl.UInt32(), "n": pl.Int64(), "title": pl.Binary()}
states = st.dictionaries(
    st.integers(0, 12), st.tuples(st.none() | st.integers(0, 2), st.none() | st.sampled_from([b"", b"a", b"b"]))
)


def rows_of(state: dict) -> pl.DataFrame:
    return pl.DataFrame([(key, *values) for key, values in sorted(state.items())], schema=SCHEMA, orient="row")


@profile(max_examples=repeated(60, 2000))
@given(states, states)
def test_what_is_unlike_is_what_came_went_or_has_another_value(was, now):
    digests = with_digests(rows_of(was), SEEDS).select("id", *DIGEST)
    differing, gone = unlike(digests, with_digests(rows_of(now), SEEDS), ["id"])
    found = {} if differing is None else {key: tuple(values) for key, *values in differing.drop(DIGEST).rows()}
    assert found == {key: values for key, values in now.items() if was.get(key) != values}
    assert ([] if gone is None else gone["id"].to_list()) == sorted(was.keys() - now.keys())


@pytest.mark.parametrize(("value", "other", "dtype"), [
    (None, 0, pl.Int64()), (None, b"", pl.Binary()), (b"a", b"a\0", pl.Binary()), (1, 2, pl.UInt8()),
    (Decimal("1.10"), Decimal("1.11"), pl.Decimal(10, 2)), (0.1, 0.2, pl.Float64()),
    (datetime(2026, 3, 1, tzinfo=UTC), None, pl.Datetime("us", "UTC")),
])  # fmt: skip
def test_each_half_tells_values_apart(value, other, dtype):
    rows = with_digests(pl.DataFrame({"id": [1, 1], "v": pl.Series([value, other], dtype=dtype)}), SEEDS)
    assert all(rows[half].n_unique() == 2 for half in DIGEST)


def test_a_value_in_another_column_or_row_is_another_digest():
    rows = pl.DataFrame({"id": [1, 1, 1, 2], "a": ["x", "", None, "x"], "b": ["", "x", "x", ""]})
    assert all(with_digests(rows, SEEDS)[half].n_unique() == 4 for half in DIGEST)


def test_a_million_rows_of_one_kind_have_a_million_digests_in_each_half():
    rows = pl.DataFrame({"id": pl.int_range(1_000_000, eager=True) // 1000}).with_columns(
        n=pl.int_range(pl.len()) % 1000
    )
    assert all(with_digests(rows, SEEDS)[half].n_unique() == 1_000_000 for half in DIGEST)


def test_equal_halves_of_unequal_rows_do_not_make_them_one():
    was = pl.DataFrame({"id": [1, 2], DIGEST[0]: [5, 6], DIGEST[1]: [5, 6]}, schema_overrides={"id": pl.UInt32()})
    now = with_digests(rows_of({1: (0, None), 3: (0, None)}), SEEDS).with_columns(
        pl.Series(DIGEST[0], [5, 6]), pl.Series(DIGEST[1], [5, 6])
    )
    differing, gone = unlike(was, now, ["id"])
    assert differing is not None
    assert 3 in differing["id"]
    assert gone is not None
    assert gone["id"].to_list() == [2]


def test_what_differs_is_gathered_to_so_many_keys():
    rows = with_digests(rows_of(dict.fromkeys(range(9), (0, b"a"))), SEEDS)
    gone = pl.DataFrame({"id": [20, 21]}, schema={"id": pl.UInt32()})
    pieces = [(rows[:3], None), (None, None), (rows[3:4], gone), (rows[4:], None), (None, gone)]
    found = [(None if frame is None else frame.columns, keys.height) for frame, keys in gathered(iter(pieces), ["id"], at_least=6)]  # fmt: skip
    assert found == [(list(SCHEMA), 6), (list(SCHEMA), 7)]
    assert next(gathered(iter([(None, gone)]), ["id"], at_least=6))[0] is None
    assert list(gathered(iter([(None, None)]), ["id"], at_least=6)) == []
