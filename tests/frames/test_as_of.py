"""What was known of a product at a moment."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from app.frames.as_of import attributes_as_of, matched

PRODUCTS = pl.Enum(["1", "2", "3"])
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = pl.Datetime("ms", "UTC")


def hours(number: float) -> datetime:
    return NOON + timedelta(hours=number)


def versions(*rows: tuple, name: str = "title", dtype: type[pl.DataType] = pl.String) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"product_id": pl.String, "valid_from": MOMENT, name: dtype}, orient="row")


def as_of(asked: list[tuple[str, datetime]], *tables: pl.DataFrame) -> list[dict]:
    codes = pl.Series([product for product, _ in asked], dtype=PRODUCTS).to_physical().cast(pl.UInt32)
    moments = pl.Series([moment for _, moment in asked], dtype=MOMENT)
    return attributes_as_of(codes, moments, PRODUCTS, tables).to_dicts()


def titles(asked: list[tuple[str, datetime]], *rows: tuple) -> list[str | None]:
    return [row["title"] for row in as_of(asked, versions(*rows))]


def test_a_moment_sees_the_version_that_held_then():
    ring = [("1", hours(0), "ring"), ("1", hours(2), "gold ring")]
    assert titles([("1", hours(3)), ("1", hours(0)), ("1", hours(1.9)), ("1", hours(2))], *ring) == ["gold ring", "ring", "ring", "gold ring"]  # fmt: skip


def test_before_the_first_version_and_of_other_products_nothing_is_known():
    assert titles([("1", hours(-1)), ("2", hours(5)), ("3", hours(5))], ("1", hours(0), "ring"), ("2", hours(0), "chain")) == [None, "chain", None]  # fmt: skip


def test_a_row_that_was_gone_says_nothing_until_it_comes_back():
    rows = [("1", hours(0), "ring"), ("1", hours(1), None), ("1", hours(3), "ring again")]
    assert titles([("1", hours(h)) for h in (0, 1, 2, 3)], *rows) == ["ring", None, None, "ring again"]


def test_of_two_versions_of_one_instant_the_later_holds():
    assert titles([("1", hours(0))], ("1", hours(0), "first"), ("1", hours(0), "second")) == ["second"]


def test_versions_of_products_that_no_session_met_are_ignored():
    assert titles([("1", hours(1))], ("999", hours(0), "unseen"), ("1", hours(0), "ring")) == ["ring"]


def test_each_table_answers_for_itself():
    stock = versions(("1", hours(0), 7), ("1", hours(2), 0), name="stock_qty", dtype=pl.Int64)
    title = versions(("1", hours(1), "ring"))
    assert as_of([("1", hours(0)), ("1", hours(1)), ("1", hours(2))], title, stock) == [
        {"title": None, "stock_qty": 7}, {"title": "ring", "stock_qty": 7}, {"title": "ring", "stock_qty": 0},
    ]  # fmt: skip


def test_without_rows_or_versions_the_columns_are_there():
    assert as_of([], versions(("1", hours(0), "ring"))) == []
    assert titles([("1", hours(0))]) == [None]


some_versions = st.lists(
    st.tuples(st.sampled_from("123"), st.integers(0, 9), st.none() | st.sampled_from(["a", "b", "c"])), max_size=12
)


@given(some_versions, st.lists(st.tuples(st.sampled_from("123"), st.integers(-1, 10)), max_size=12))
def test_any_versions_are_what_a_search_by_hand_finds(known, asked):
    known = sorted(known, key=lambda version: version[1])
    found = titles([(product, hours(h)) for product, h in asked], *((p, hours(h), title) for p, h, title in known))
    assert found == [
        next((title for p, at, title in reversed(known) if p == product and at <= moment), None)
        for product, moment in asked
    ]


# ---- ids that are the same to the shop -----------------------------------------------------------------------------

UUID = "0198f3a1-5b7c-7d2e-8f00-3344556677ff"


def met(called: list[str], *known: str) -> dict[str, str]:
    found = matched(pl.Series(called), pl.Series(known, dtype=pl.String))
    return dict(found.select("called", "product_id").iter_rows())


def test_an_id_is_found_however_the_shop_writes_it():
    in_bytes = UUID.replace("-", "")
    assert met([UUID, in_bytes, UUID.upper()], in_bytes) == dict.fromkeys([UUID, in_bytes, UUID.upper()], in_bytes)
    assert met([in_bytes], UUID) == {in_bytes: UUID}
    assert met(["00001042", "1042"], "1042") == {"00001042": "1042", "1042": "1042"}
    assert met(["ring-7", "Ring-7 "], "RING-7") == {"ring-7": "RING-7", "Ring-7 ": "RING-7"}


def test_the_same_text_wins_and_what_could_be_two_is_none():
    assert met(["ring", "RING", "Ring"], "ring", "RING") == {"ring": "ring", "RING": "RING"}
    assert met(["007", "7"], "007", "7") == {"007": "007", "7": "7"}
    assert met(["0", "00", "-7", "a-7", "0a"], "0", "7", "a7") == {"0": "0", "00": "0"}
    assert met(["1"]) == {}


def test_a_version_answers_for_every_spelling_of_its_product():
    spelled = pl.Enum(["00017", "17"])
    codes = pl.Series(["00017", "17"], dtype=spelled).to_physical().cast(pl.UInt32)
    moments = pl.Series([hours(1), hours(3)], dtype=MOMENT)
    ring = versions(("17", hours(0), "ring"), ("17", hours(2), "gold ring"))
    assert attributes_as_of(codes, moments, spelled, [ring])["title"].to_list() == ["ring", "gold ring"]
