"""What changed between two states of a table, told in pieces."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import ShopError
from app.frames import snapshots
from app.frames.snapshots import aligned, as_kept, changes, in_pieces, latest, require_keys

TIME = pl.Datetime("us", "UTC")
LAST = datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# ---- as the warehouse keeps it -----------------------------------------------------------------------------------


def kept(values: Sequence[Any], have: Any, want: Any) -> tuple[list[Any], int]:
    frame, bounded = as_kept(pl.DataFrame({"x": pl.Series(values, dtype=have)}), {"x": want})
    assert frame.schema == {"x": want}
    return frame["x"].to_list(), bounded


@pytest.mark.parametrize(("text", "expected"), [
    ("2024-02-29 23:59:59", "2024-02-29 23:59:59"), ("2024-02-29T23:59:59Z", "2024-02-29 23:59:59"),
    ("2024-02-29 23:59:59.5", "2024-02-29 23:59:59.5"), ("2024-02-29 23:59:59.999999", "2024-02-29 23:59:59.999999"),
    ("2024-02-29", "2024-02-29 00:00:00"), ("2024-02-29 23:59", "2024-02-29 23:59:00"),
    ("2024-02-29T23:59:59+02:00", "2024-02-29 21:59:59"), ("2024-02-29 23:59:59.25-01:00", "2024-03-01 00:59:59.25"),
])  # fmt: skip
def test_a_time_as_sqlite_may_write_it_is_that_time(text, expected):
    assert kept([text, None], pl.String(), TIME) == ([time(expected), None], 0)


def test_dates_that_the_warehouse_cannot_hold_are_bounded_and_counted():
    days = [date(9999, 12, 31), date(1, 1, 1), date(2024, 1, 1), None]
    assert kept(days, pl.Date(), pl.Date()) == ([date(2299, 12, 31), date(1900, 1, 1), date(2024, 1, 1), None], 2)
    moments = [datetime(9999, 12, 31), datetime(1899, 12, 31, 23), datetime(1900, 1, 1), None]
    first = time("1900-01-01")
    assert kept(moments, pl.Datetime("us"), TIME) == ([LAST, first, first, None], 2)
    assert kept(["2024-02-31", "soon", "0000-00-00", None], pl.String(), pl.Date()) == ([None] * 4, 3)
    assert kept(["2024-02-31 10:00:00", "", None], pl.String(), TIME) == ([None] * 3, 2)


def test_nan_is_null_and_infinity_stays():
    assert kept([float("nan"), float("inf"), -0.0], pl.Float64(), pl.Float64()) == ([None, float("inf"), 0.0], 0)


def test_text_is_kept_as_its_bytes_whatever_they_are():
    assert kept(["é", "e\u0301", "a\0", "a ", None], pl.String(), pl.Binary())[0] == [
        "é".encode(), "e\u0301".encode(), b"a\0", b"a ", None,
    ]  # fmt: skip
    assert kept([b"\xff", b"", None], pl.Binary(), pl.Binary())[0] == [b"\xff", b"", None]


@pytest.mark.parametrize(("value", "have", "expected"), [
    (5, pl.Int64(), b"5"), (Decimal("1.50"), pl.Decimal(10, 2), b"1.50"), (date(2024, 2, 29), pl.Date(), b"2024-02-29"),
    (datetime(2024, 2, 29, 1), pl.Datetime("us"), b"2024-02-29 01:00:00"), (0.1, pl.Float64(), b"0.1"),
])  # fmt: skip
def test_what_once_was_text_is_kept_as_text(value, have, expected):
    assert kept([value, None], have, pl.Binary())[0] == [expected, None]


@pytest.mark.parametrize("text", ["1.505", "1e-3", "0.333333333333333", "-0.001"])
def test_a_decimal_is_never_rounded_in_silence(text):
    with pytest.raises(ShopError, match=r"1 value\(s\) of x have more than 2 decimals: " + text):
        kept(["1.50", text], pl.String(), pl.Decimal(10, 2))


@pytest.mark.parametrize(("text", "expected"), [("1.5", "1.50"), ("1.500", "1.50"), ("-1", "-1.00"), ("1.0e+5", "100000.00"), ("150e-2", "1.50")])  # fmt: skip
def test_a_decimal_may_be_written_in_several_ways(text, expected):
    assert kept([text], pl.String(), pl.Decimal(10, 2))[0] == [Decimal(expected)]


@pytest.mark.parametrize(("values", "have", "want"), [(["1234567890.00"], pl.String(), pl.Decimal(10, 2)), ([300], pl.Int64(), pl.Int8())])  # fmt: skip
def test_a_value_that_does_not_fit_is_an_error(values, have, want):
    with pytest.raises(pl.exceptions.InvalidOperationError):
        kept(values, have, want)


# ---- pieces ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch) -> int:
    monkeypatch.setattr(snapshots, "_PIECE_ROWS", 4)
    return 4


def cut(frame: pl.DataFrame, sizes: Sequence[int]) -> Iterator[pl.DataFrame]:
    """The frame in batches of these sizes, over and over; some may be empty."""
    at = 0
    while at < frame.height:
        for size in sizes:
            yield frame[at : at + size]
            at += size


SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any)


@given(rows=st.integers(0, 40), sizes=SIZES)
def test_pieces_are_of_equal_size_whatever_the_batches_are(rows, sizes):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(snapshots, "_PIECE_ROWS", 4)
        pieces = list(in_pieces(cut(pl.DataFrame({"x": range(rows)}, schema={"x": pl.Int64}), sizes)))
    assert [value for piece in pieces for value in piece["x"]] == list(range(rows))
    assert all(piece.height == 4 for piece in pieces[:-1])
    assert all(0 < piece.height <= 4 for piece in pieces)


@pytest.mark.parametrize(("keys", "after", "problem"), [
    ([(1, "a"), (None, "b"), (2, None)], None, r"2 row\(s\) without a key \(k, n\): null, b; 2, null"),
    ([(1, "a"), (1, "a"), (1, "b"), (1, "b")], None, r"2 key\(s\) stand twice \(k, n\): 1, a; 1, b"),
    ([(1, "b"), (2, "a")], (1, b"b"), r"1 key\(s\) stand twice \(k, n\): 1, b"),
    ([(1, "b"), (1, "a")], None, r"rows did not come in the order of their key \(k, n\)"),
    ([(1, "a"), (2, "a")], (1, b"b"), "rows did not come in the order of their key"),
    ([(n, None) for n in range(9)], None, r"9 row\(s\) without a key \(k, n\): 0, null; 1, null; 2, null; 3, null; 4, null; …"),
    ([(1, b"\xff\x00")] * 2, None, "stand twice.*: 1, 0xff00"),
])  # fmt: skip
def test_keys_that_tell_no_rows_apart_are_shown(keys, after, problem):
    rows = [(k, n.encode() if isinstance(n, str) else n) for k, n in keys]
    with pytest.raises(ShopError, match=problem):
        require_keys(pl.DataFrame(rows, schema={"k": pl.Int64, "n": pl.Binary}, orient="row"), ["k", "n"], after)


def test_keys_that_are_in_order_give_the_last_of_them():
    frame = pl.DataFrame({"k": [1, 1, 2], "n": [b"A", b"a", b"A"]})
    assert require_keys(frame, ["k", "n"], (0, b"z")) == (2, b"A")
    assert require_keys(frame.clear(), ["k", "n"], (0, b"z")) == (0, b"z")


@given(versions=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 9)), max_size=30), sizes=SIZES)
def test_the_latest_version_of_each_key_is_found_wherever_pieces_end(versions, sizes):
    rows = sorted(set(versions))
    frame = pl.DataFrame(rows, schema={"k": pl.Int64, "n": pl.Int64, "version": pl.Int64}, orient="row")
    found = [row for piece in latest(cut(frame, sizes), ["k", "n"]) for row in piece.rows()]
    assert found == [(*key, version) for key, version in {(k, n): version for k, n, version in rows}.items()]


KEYS = st.sets(st.tuples(st.integers(0, 9), st.sampled_from(["", "A", "a", "é"])), max_size=40)


@given(was=KEYS, now=KEYS, sizes=SIZES, other_sizes=SIZES)
def test_aligned_pieces_hold_the_same_range_of_keys_and_stay_small(was, now, sizes, other_sizes):
    def frame(keys: set[tuple[int, str]]) -> pl.DataFrame:
        rows = sorted((k, n.encode()) for k, n in keys)
        return pl.DataFrame(rows, schema={"k": pl.Int64, "n": pl.Binary}, orient="row")

    one, other = frame(was), frame(now)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(snapshots, "_PIECE_ROWS", 4)
        pairs = list(aligned(in_pieces(cut(one, sizes)), in_pieces(cut(other, other_sizes)), ["k", "n"]))
    assert [row for piece, _ in pairs if piece is not None for row in piece.rows()] == one.rows()
    assert [row for _, piece in pairs if piece is not None for row in piece.rows()] == other.rows()
    done: tuple[Any, ...] = (-1, b"")
    for pair in pairs:
        keys = [row for piece in pair if piece is not None for row in piece.rows()]
        assert keys
        assert min(keys) > done
        done = max(keys)
        assert all(piece is None or piece.height < 4 * 2 for piece in pair)


# ---- what changed ------------------------------------------------------------------------------------------------

SCHEMA = {"k": pl.Int64(), "n": pl.Binary(), "a": pl.Int64(), "b": pl.Binary(), "c": pl.Float64()}
CONTENTS = st.tuples(
    st.sampled_from([None, 0, 1]), st.sampled_from([None, b"", b"a", b"A"]), st.sampled_from([None, 0.0, -0.0, 1.5])
)
STATE = st.dictionaries(st.tuples(st.integers(0, 2), st.sampled_from([b"A", b"a"])), CONTENTS)
PREVIOUS = st.dictionaries(
    st.tuples(st.integers(0, 2), st.sampled_from([b"A", b"a"])), st.tuples(CONTENTS, st.integers(1, 3), st.booleans())
)


def rows_of(state: dict[tuple[int, bytes], Any]) -> pl.DataFrame:
    return pl.DataFrame([(*key, *state[key]) for key in sorted(state)], schema=SCHEMA, orient="row")


def previous_of(state: dict[tuple[int, bytes], Any]) -> pl.DataFrame:
    rows = [(*key, *contents, version, is_deleted) for key, (contents, version, is_deleted) in sorted(state.items())]
    return pl.DataFrame(rows, schema=SCHEMA | {"version": pl.UInt32(), "is_deleted": pl.Boolean()}, orient="row")


def expected_changes(was: dict[Any, Any], now: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    made, unchanged = [], []
    for key in was.keys() | now.keys():
        contents, version, is_deleted = was.get(key, ((None,) * 3, 0, True))
        changed = [name for name, a, b in zip("abc", contents, now.get(key, contents), strict=True) if a != b]
        if key in now and is_deleted:
            made.append((*key, *now[key], version + 1, "insert", [], False))
        elif key not in now and not is_deleted:
            made.append((*key, *contents, version + 1, "delete", [], True))
        elif key in now and changed:
            made.append((*key, *now[key], version + 1, "update", changed, False))
        elif key in now:
            unchanged.append((*key, version, now[key][0]))
    return sorted(made, key=repr), sorted(unchanged, key=repr)


@given(was=PREVIOUS, now=STATE)
def test_changes_are_those_that_comparing_row_by_row_finds(was, now):
    found = changes(previous_of(was), rows_of(now), key=["k", "n"], compared=["a", "b", "c"], filled=["a"], returned={})
    made, unchanged = expected_changes(was, now)
    assert sorted(found.versions.rows(), key=repr) == made
    assert sorted(found.unchanged.rows(), key=repr) == unchanged
    assert found.was_live == sum(not is_deleted for _, _, is_deleted in was.values())


def test_states_with_the_same_keys_are_compared_without_a_join(monkeypatch):
    now = {(k, b"a"): (k, b"a", None) for k in range(5)}
    was = {key: (contents, 7, False) for key, contents in now.items()}
    monkeypatch.setattr(pl.DataFrame, "join", None)
    now[3, b"a"] = (3, b"A", None)
    found = changes(previous_of(was), rows_of(now), key=["k", "n"], compared=["a", "b", "c"], filled=[], returned={})
    assert found.versions.rows() == [(3, b"a", 3, b"A", None, 8, "update", ["b"], False)]
    assert found.unchanged.is_empty()


def test_a_table_of_nothing_but_its_key_only_comes_and_goes():
    was = pl.DataFrame({"k": [1, 2, 3], "version": [1, 2, 1], "is_deleted": [False, True, False]}, schema_overrides={"version": pl.UInt32})  # fmt: skip
    found = changes(was, pl.DataFrame({"k": [2, 3]}), key=["k"], compared=[], filled=[], returned={})
    assert sorted(found.versions.select("k", "op", "version").rows()) == [(1, "delete", 2), (2, "insert", 3)]
    same = changes(was, pl.DataFrame({"k": [1, 3]}), key=["k"], compared=[], filled=[], returned={})
    assert same.versions.is_empty()


FLOAT32 = 0.10000000149011612
CHANGED_TYPES = [
    # was, its dtype, is, its dtype, whether that is another value
    (5, pl.Int32(), 5, pl.Int64(), False), (5, pl.Int32(), 6, pl.Int64(), True), (None, pl.Int32(), 0, pl.Int64(), True),
    (0, pl.Int32(), None, pl.Int64(), True), (None, pl.Int32(), None, pl.Int64(), False),
    (2**64 - 1, pl.UInt64(), Decimal(2**64 - 1), pl.Decimal(20, 0), False),
    (5, pl.Int64(), Decimal("5.00"), pl.Decimal(22, 2), False), (5, pl.Int64(), Decimal("5.01"), pl.Decimal(22, 2), True),
    (Decimal("1.50"), pl.Decimal(10, 2), Decimal("1.5000"), pl.Decimal(12, 4), False),
    (Decimal("1.50"), pl.Decimal(10, 2), Decimal("1.5001"), pl.Decimal(12, 4), True),
    (Decimal("1.13"), pl.Decimal(10, 2), 1.13, pl.Float64(), False),
    (FLOAT32, pl.Float32(), FLOAT32, pl.Float64(), False), (0.1, pl.Float32(), 0.1, pl.Float64(), False),
    (0.1, pl.Float32(), 0.2, pl.Float64(), True),
    (date(2024, 2, 29), pl.Date(), time("2024-02-29"), TIME, False), (date(2024, 2, 29), pl.Date(), time("2024-02-29 00:00:01"), TIME, True),
    (date(2299, 12, 31), pl.Date(), LAST, TIME, False),  # both stand for 9999-12-31
    # Text from now on.
    (5, pl.Int64(), b"5", pl.Binary(), False), (5, pl.Int64(), b"05", pl.Binary(), False), (5, pl.Int64(), b"5.0", pl.Binary(), False),
    (5, pl.Int64(), b"5.1", pl.Binary(), True), (5, pl.Int64(), b"five", pl.Binary(), True), (None, pl.Int64(), b"", pl.Binary(), True),
    (5, pl.Int64(), None, pl.Binary(), True), (None, pl.Int64(), None, pl.Binary(), False), (10**16, pl.Int64(), b"1e+16", pl.Binary(), False),
    (2**63 - 1, pl.Int64(), b"9223372036854775807", pl.Binary(), False), (2**63 - 1, pl.Int64(), b"9223372036854775806", pl.Binary(), True),
    (Decimal("1.50"), pl.Decimal(10, 2), b"1.50", pl.Binary(), False), (Decimal("1.50"), pl.Decimal(10, 2), b"1.5", pl.Binary(), False),
    (Decimal("1.50"), pl.Decimal(10, 2), b"1.505", pl.Binary(), True), (Decimal("1.50"), pl.Decimal(10, 2), b"\xff", pl.Binary(), True),
    (0.1, pl.Float32(), b"0.1", pl.Binary(), False), (0.1, pl.Float64(), b"0.1", pl.Binary(), False), (0.1, pl.Float64(), b"0.2", pl.Binary(), True),
    (date(2024, 2, 29), pl.Date(), b"2024-02-29", pl.Binary(), False), (date(2024, 2, 29), pl.Date(), b"2024-02-29 00:00:00", pl.Binary(), False),
    (date(2024, 2, 29), pl.Date(), b"2024-02-29 01:00:00", pl.Binary(), True), (date(2024, 2, 29), pl.Date(), b"2024-02-29 or so", pl.Binary(), True),
    (date(2299, 12, 31), pl.Date(), b"9999-12-31", pl.Binary(), False),
    (time("2024-02-29 01:00"), TIME, b"2024-02-29 01:00:00", pl.Binary(), False), (time("2024-02-29 01:00"), TIME, b"2024-02-29", pl.Binary(), True),
    (b"\xff", pl.Binary(), b"\xff", pl.Binary(), False), (b"\xff", pl.Binary(), None, pl.Binary(), True),
]  # fmt: skip


@pytest.mark.parametrize(("before", "had", "now", "has", "differs"), CHANGED_TYPES)
@pytest.mark.parametrize("other_keys", [[], [2]], ids=["same keys", "other keys"])
def test_a_value_whose_type_changed_is_compared_by_what_it_says(before, had, now, has, differs, other_keys):
    previous = pl.DataFrame({"k": [1], "x": pl.Series([before], dtype=had), "version": pl.Series([4], dtype=pl.UInt32), "is_deleted": [False]})  # fmt: skip
    keys = [1, *other_keys]
    rows = pl.DataFrame({"k": keys, "x": pl.Series([now] * len(keys), dtype=has)})
    found = changes(previous, rows, key=["k"], compared=["x"], filled=["x"], returned={})
    updated = found.versions.filter(pl.col("op") == "update")
    assert updated.select("x", "version", "changed").rows() == ([(now, 5, ["x"])] if differs else [])
    assert found.unchanged.rows() == ([] if differs else [(1, 4, now)])


def test_a_deleted_row_keeps_its_last_values_in_the_types_of_now_and_none_of_what_came():
    previous = pl.DataFrame(
        {"k": [1], "a": [Decimal("1.50")], "b": [date(2024, 2, 29)], "c": [time("2024-02-29")], "version": [1], "is_deleted": [False]},
        schema_overrides={"a": pl.Decimal(10, 2), "c": TIME, "version": pl.UInt32},
    )  # fmt: skip
    rows = pl.DataFrame(schema={"k": pl.Int64, "a": pl.Decimal(12, 4), "b": TIME, "c": pl.Binary, "new": pl.Int64})
    found = changes(previous, rows, key=["k"], compared=["a", "b", "c"], filled=["a", "b", "c", "new"], returned={})
    assert found.versions.schema["a"] == pl.Decimal(12, 4)
    assert found.versions.select("a", "b", "c", "new", "op").rows() == [
        (Decimal("1.5000"), time("2024-02-29"), b"2024-02-29 00:00:00", None, "delete")
    ]


def test_a_column_that_comes_back_is_compared_with_versions_of_its_time_and_fills_later_ones():
    seen = time("2026-03-01 12:00")
    previous = pl.DataFrame(
        {
            "k": [1, 2, 3, 4],
            "x": [5, 5, None, None],
            "version": [1, 1, 1, 2],
            "is_deleted": [False] * 4,
            "valid_from": [seen, seen, seen, time("2026-03-01 12:00:00.001")],
        },
        schema_overrides={"version": pl.UInt32, "valid_from": pl.Datetime("ms", "UTC")},
    )
    rows = pl.DataFrame({"k": [1, 2, 3, 4], "x": [5, 6, 7, 8]})
    found = changes(previous, rows, key=["k"], compared=["x"], filled=["x"], returned={"x": seen})
    assert found.versions.select("k", "x", "version").rows() == [(2, 6, 2), (3, 7, 2)]
    assert found.unchanged.rows() == [(1, 1, 5), (4, 2, 8)]


def test_columns_of_the_shop_may_have_any_name():
    names = ["_was_version", "was ", "_was_is_deleted", "is_filled", "f.x", "source_version"]
    rows = pl.DataFrame({"k": [1, 2]} | {name: [1, 2] for name in names})
    previous = rows.with_columns(version=pl.lit(1, pl.UInt32), is_deleted=pl.lit(value=False))
    for now in (rows, rows[:1]):
        changed = now.with_columns(pl.lit(9).cast(pl.Int64).alias("was "))
        found = changes(previous, changed, key=["k"], compared=names, filled=[], returned={})
        updated = found.versions.filter(pl.col("op") == "update")
        assert updated["changed"].to_list() == [["was "]] * now.height
