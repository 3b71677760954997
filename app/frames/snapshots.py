"""What changed between two states of a table: exact, null-safe, in pieces of equal key ranges.

Both states come sorted by key, so that only a piece of each is in memory however large the table is. A row is compared
column by column, never by a hash or by a column that claims to know when it changed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
from polars.datatypes import DataType

from app.errors import ShopError

# What DateTime64 and Date32 can hold. Shops write 9999-12-31 for "for ever".
_FIRST_DAY, _LAST_DAY = date(1900, 1, 1), date(2299, 12, 31)
_FIRST_MOMENT = datetime(1900, 1, 1, tzinfo=UTC)
_LAST_MOMENT = datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
_PIECE_ROWS = 131_072
_EXAMPLES = 5


@dataclass(frozen=True)
class Changes:
    """What a piece of a table changed.

    `versions`: the new versions, with `version, op, is_deleted, changed` beside the row's columns. `unchanged`, where
    columns are filled: key and `version` of the rows that stay as they are, with those columns.
    """

    versions: pl.DataFrame
    unchanged: pl.DataFrame
    was_live: int


# ---- as the warehouse keeps it -----------------------------------------------------------------------------------


def as_kept(rows: pl.DataFrame, kept: dict[str, DataType]) -> tuple[pl.DataFrame, int]:
    """The rows in the dtypes they are kept as, exactly; and how many dates had to be bounded or were none.

    Raises polars' InvalidOperationError where a value does not fit.
    """
    kept_as = {name: _kept(pl.col(name), rows.schema[name], dtype) for name, dtype in kept.items()}
    frame = rows.select(expression.alias(name) for name, expression in kept_as.items())
    changed = [
        pl.col(name).is_not_null() & _time(pl.col(name), rows.schema[name], dtype).ne_missing(kept_as[name])
        | pl.col(name).is_not_null() & kept_as[name].is_null()
        for name, dtype in kept.items()
        if dtype.is_temporal()
    ]
    return frame, int(rows.select(pl.sum_horizontal(pl.lit(0), *(is_so.sum() for is_so in changed))).item())


def _kept(column: pl.Expr, have: DataType, want: DataType) -> pl.Expr:
    if want.is_temporal():
        return _bounded(_time(column, have, want), want)
    if isinstance(want, pl.Float32 | pl.Float64):
        return column.cast(want).fill_nan(None)
    return column if have == want else column.cast(want)


def _time(column: pl.Expr, have: DataType, want: DataType) -> pl.Expr:
    if have == pl.String:  # SQLite, and columns that once were text
        text = column.str.replace("T", " ", literal=True).str.strip_suffix("Z")
        if want == pl.Date():
            return text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
        whole = text + pl.when(text.str.len_bytes() == 10).then(pl.lit(" 00:00:00")).otherwise(pl.lit(""))  # noqa: PLR2004
        return whole.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False).dt.replace_time_zone("UTC")
    if want == pl.Date():
        return column.cast(pl.Date())
    return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _bounded(column: pl.Expr, dtype: DataType) -> pl.Expr:
    first, last = _bounds(dtype)
    return column.clip(pl.lit(first, dtype), pl.lit(last, dtype))


def _bounds(dtype: DataType) -> tuple[Any, Any]:
    return (_FIRST_DAY, _LAST_DAY) if dtype == pl.Date() else (_FIRST_MOMENT, _LAST_MOMENT)


# ---- pieces of equal key ranges ----------------------------------------------------------------------------------


def in_pieces(batches: Iterator[pl.DataFrame], *, rows: int = _PIECE_ROWS) -> Iterator[pl.DataFrame]:
    """The batches joined to pieces of about so many rows: each piece costs some time of its own."""
    waiting: list[pl.DataFrame] = []
    for batch in batches:
        if not batch.height:
            continue
        waiting.append(batch)
        if sum(frame.height for frame in waiting) >= rows:
            yield pl.concat(waiting, rechunk=True)
            waiting = []
    if waiting:
        yield pl.concat(waiting, rechunk=True)


def require_keys(rows: pl.DataFrame, key: Sequence[str], after: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """The last key of rows whose keys are never null, never twice, and in order; ShopError shows those that are not.

    `after`: the last key before these rows.
    """
    if rows.is_empty():
        return after
    keys = rows.select(key)
    if (nulls := keys.filter(pl.any_horizontal(pl.all().is_null()))).height:
        raise ShopError(f"{nulls.height} row(s) without a key ({', '.join(key)}): {_examples(nulls)}")
    same = pl.all_horizontal(pl.all() == pl.all().shift(1))
    before = _later(key, lambda name: pl.col(name).shift(1))
    first = keys.row(0)
    if (twice := keys.filter(same)).height or first == after:
        found = twice if twice.height else keys[:1]
        raise ShopError(f"{found.height} key(s) stand twice ({', '.join(key)}): {_examples(found)}")
    if not keys.select(before.fill_null(value=True).all()).item() or (after is not None and first < after):
        raise ShopError(f"rows did not come in the order of their key ({', '.join(key)})")
    return keys.row(-1)


def latest(pieces: Iterator[pl.DataFrame], key: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The last version of each key, of versions that come in the order of key and version."""
    held: pl.DataFrame | None = None
    for piece in pieces:
        rows = piece if held is None else pl.concat([held, piece])
        is_last = rows.select(pl.any_horizontal(pl.col(name) != pl.col(name).shift(-1) for name in key)).to_series()
        held = rows[-1:]  # the next piece may go on with its key
        yield rows.filter(is_last.fill_null(value=False))
    if held is not None:
        yield held


def aligned(
    previous: Iterator[pl.DataFrame], rows: Iterator[pl.DataFrame], key: Sequence[str]
) -> Iterator[tuple[pl.DataFrame | None, pl.DataFrame | None]]:
    """Pieces of both states, both in key order, that hold the same range of keys; None where one has nothing left."""
    rest: pl.DataFrame | None = next(previous, None)
    for piece in rows:
        last = piece.select(key).row(-1)
        while rest is not None and (not rest.height or rest.select(key).row(-1) < last):
            more = next(previous, None)
            if more is None:
                break
            rest = pl.concat([rest, more])
        if rest is None:
            yield None, piece
            continue
        reached = rest.select((~_later(key, dict(zip(key, last, strict=True)).__getitem__)).sum()).item()
        yield rest[:reached], piece
        rest = rest[reached:]
    if rest is not None and rest.height:
        yield rest, None
    for piece in previous:
        yield piece, None


def _later(key: Sequence[str], bound: Callable[[str], Any]) -> pl.Expr:
    """Whether a row's key lies after a bound: by its first column, where equal by its second, and so on."""
    later = pl.lit(value=False)
    for name in reversed(key):
        later = (pl.col(name) > bound(name)) | ((pl.col(name) == bound(name)) & later)
    return later


def _examples(keys: pl.DataFrame) -> str:
    shown = [", ".join("null" if value is None else str(value) for value in row) for row in keys.head(_EXAMPLES).rows()]
    return "; ".join(shown) + ("; …" if keys.height > _EXAMPLES else "")


# ---- what changed ------------------------------------------------------------------------------------------------


def changes(
    previous: pl.DataFrame, rows: pl.DataFrame, *, key: Sequence[str], compared: Sequence[str], filled: Sequence[str]
) -> Changes:
    """What a piece of a table changed.

    `previous`: the latest version of each key, tombstones included, with `version, is_deleted`. `compared`: columns
    that both have beside the key. `filled`: columns of `rows` that unchanged rows get without a new version.
    """
    was_live = int((~previous["is_deleted"]).sum())
    if previous.height == rows.height == was_live and previous.select(key).equals(rows.select(key)):
        known = rows.hstack(previous.select(pl.col("version", *compared).name.prefix("_was_")))
        gone = previous.clear()
        came = rows.clear().with_columns(_was_version=pl.lit(None, pl.UInt32))
    else:
        was = previous.select(*key, pl.col("version", "is_deleted", *compared).name.prefix("_was_"))
        met = rows.join(was, on=key, how="left", maintain_order="left")
        is_known = pl.col("_was_version").is_not_null() & ~pl.col("_was_is_deleted")
        known, came = met.filter(is_known), met.filter(~is_known.fill_null(value=False))
        gone = previous.filter(~pl.col("is_deleted")).join(rows.select(key), on=key, how="anti", maintain_order="left")

    differs = {name: _differs(name, known.schema[name], previous.schema[name]) for name in compared}
    is_changed = known.select(pl.any_horizontal(pl.lit(value=False), *differs.values())).to_series()
    if is_changed.len() != known.height:  # a literal alone is one row
        is_changed = pl.repeat(value=False, n=known.height, eager=True)
    updated = known.filter(is_changed).with_columns(
        version=pl.col("_was_version") + 1,
        op=pl.lit("update"),
        changed=pl.concat_list(
            pl.lit([], pl.List(pl.String)),
            *(pl.when(differs[name]).then(pl.lit(name)) for name in compared),
        ).list.drop_nulls(),
    )
    inserted = came.with_columns(
        version=pl.col("_was_version").fill_null(0) + 1, op=pl.lit("insert"), changed=pl.lit([], pl.List(pl.String))
    )
    deleted = gone.with_columns(
        version=pl.col("version") + 1, op=pl.lit("delete"), changed=pl.lit([], pl.List(pl.String))
    )
    names = [*rows.columns, "version", "op", "changed"]
    schema = rows.schema | {"version": pl.UInt32(), "op": pl.String(), "changed": pl.List(pl.String)}
    versions = pl.concat(
        [
            _with_columns_of(frame, schema).select(pl.col(name).cast(schema[name], strict=False) for name in names)
            for frame in (inserted, updated, deleted)
        ]
    )
    unchanged = known.select(*key, pl.col("_was_version").alias("version"), *filled)
    return Changes(
        versions.with_columns(is_deleted=pl.col("op") == "delete"),
        unchanged.filter(~is_changed) if filled else unchanged.clear(),
        was_live,
    )


def _with_columns_of(frame: pl.DataFrame, schema: dict[str, DataType] | Any) -> pl.DataFrame:
    """The frame with null where it lacks a column: a deleted row never had what came with this snapshot."""
    return frame.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns
    )


def _differs(name: str, now: DataType, before: DataType) -> pl.Expr:
    """Whether a column differs, null equal to null; where its type has changed, in a type that holds both exactly."""
    value, was = pl.col(name), pl.col(f"_was_{name}")
    if now == before:
        return value.ne_missing(was)
    if now == pl.String() and before.is_temporal():
        as_before = _time(value, now, before)
    elif now == pl.String():
        as_before = value.cast(before, strict=False)
    else:
        return value.ne_missing(was.cast(now, strict=False))
    return as_before.ne_missing(was) | (as_before.is_null() & value.is_not_null())
