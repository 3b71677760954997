"""What changed between two states of a table: exact, null-safe, in pieces of equal key ranges.

Both states come sorted by key, so that only a piece of each is in memory however large the table is. Rows are compared
column by column, never by a column that claims to know when it changed; `row_digests` spares those of the same digest.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
from polars.datatypes import DataType

from app.core.errors import ShopError

# What DateTime64 and Date32 can hold. Shops write 9999-12-31 for "for ever".
_FIRST_DAY, _LAST_DAY = date(1900, 1, 1), date(2299, 12, 31)
_FIRST_MOMENT = datetime(1900, 1, 1, tzinfo=UTC)
_LAST_MOMENT = datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
_MOMENT = pl.Datetime("us", "UTC")
_WRITTEN = "%Y-%m-%d %H:%M:%S%.f"
_MOST_DIGITS = 38
_PIECE_ROWS = 131_072
_PIECE_BYTES = 64 * 1024**2
_EXAMPLES = 5
# Before the name of a column, what the latest version says of it; no column of a database has a name like this.
_WAS = "\0was "
_VERSION = {"version": pl.UInt32(), "op": pl.String(), "changed": pl.List(pl.String)}


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


def as_kept(rows: pl.DataFrame, kept: Mapping[str, DataType]) -> tuple[pl.DataFrame, int]:
    """The rows in the dtypes they are kept as, exactly; and how many dates had to be bounded or were none.

    Text is kept as its bytes. Raises ShopError or polars' InvalidOperationError where a value does not fit.
    """
    times = _times(rows, {name: dtype for name, dtype in kept.items() if dtype.is_temporal()})
    read = rows.with_columns(times)
    frame = read.select(_kept(pl.col(name), read.schema[name], dtype).alias(name) for name, dtype in kept.items())
    for name, dtype in kept.items():
        if isinstance(dtype, pl.Decimal) and rows.schema[name] == pl.String:
            rounded = rows[name].filter(rows.select(_is_rounded(pl.col(name), dtype.scale)).to_series())
            if rounded.len():
                raise ShopError(
                    f"{rounded.len()} value(s) of {name} have more than {dtype.scale} decimals: {rounded[0]}"
                )
    bounded = (int((times[name] != frame[name]).sum()) for name in times.columns)
    none = (times[name].null_count() - rows[name].null_count() for name in times.columns)
    return frame, sum(bounded) + sum(none)


def _times(rows: pl.DataFrame, wanted: Mapping[str, DataType]) -> pl.DataFrame:
    """The columns that are dates or times, as such; null where text is none."""
    times = rows.select(_time(pl.col(name), rows.schema[name], dtype).alias(name) for name, dtype in wanted.items())
    odd = [name for name in times.columns if times[name].null_count() > rows[name].null_count()]
    return times.with_columns(rows.select(_oddly_written(pl.col(name), wanted[name]).alias(name) for name in odd))


def _kept(column: pl.Expr, have: DataType, want: DataType) -> pl.Expr:
    if want.is_temporal():
        return _bounded(_time(column, have, want), want)
    if isinstance(want, pl.Float32 | pl.Float64):
        return column.cast(want).fill_nan(None)
    if have == want:
        return column
    if want == pl.Binary():
        # A column that once was text stays so: as a database would write it, without a fraction that is zero.
        text = column.dt.strftime(_WRITTEN) if isinstance(have, pl.Datetime) else column.cast(pl.String)
        if isinstance(have, pl.Float32 | pl.Float64):
            text = text.str.strip_suffix(".0")
        return text.cast(pl.Binary)
    return column.cast(want)


def _time(column: pl.Expr, have: DataType, want: DataType) -> pl.Expr:
    if have == pl.String:  # SQLite, and columns that once were text
        if want == pl.Date():
            return column.str.to_date("%Y-%m-%d", strict=False)
        return column.str.to_datetime(_WRITTEN, time_unit="us", strict=False).dt.replace_time_zone("UTC")
    if want == pl.Date():
        return column.cast(pl.Date())
    return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _oddly_written(text: pl.Expr, want: DataType) -> pl.Expr:
    """Text that may say a time in any of the ways that SQLite itself reads."""
    if want == pl.Date():
        return text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    moment = text.str.replace("T", " ", literal=True).str.strip_suffix("Z")
    shorter = {10: " 00:00:00", 16: ":00"}  # how long it is, and what it lacks
    for length, rest in shorter.items():
        moment = pl.when(moment.str.len_bytes() == length).then(moment + pl.lit(rest)).otherwise(moment)
    return pl.coalesce(
        moment.str.to_datetime(_WRITTEN, time_unit="us", strict=False).dt.replace_time_zone("UTC"),
        moment.str.to_datetime(f"{_WRITTEN}%:z", time_unit="us", strict=False).cast(_MOMENT),
    )


def _bounded(column: pl.Expr, dtype: DataType) -> pl.Expr:
    first, last = (_FIRST_DAY, _LAST_DAY) if dtype == pl.Date() else (_FIRST_MOMENT, _LAST_MOMENT)
    return column.clip(pl.lit(first, dtype), pl.lit(last, dtype))


def _is_rounded(text: pl.Expr, scale: int) -> pl.Expr:
    """Whether a number as text loses by so many decimals: a cast would round it without a word."""
    may_lose = text.str.contains(rf"[eE]|\.\d{{{scale}}}\d*[1-9]")
    exactly = text.cast(pl.Float64, strict=False) == text.cast(pl.Decimal(_MOST_DIGITS, scale), strict=False).cast(
        pl.Float64
    )
    return may_lose & ~exactly


# ---- pieces of equal key ranges ----------------------------------------------------------------------------------


def in_pieces(batches: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The batches cut and joined to pieces of so many rows, as each costs some time of its own; fewer of wide ones."""
    waiting = list[pl.DataFrame]()
    rows, size = 0, 0.0
    for batch in batches:
        waiting.append(batch)
        rows += batch.height
        size += batch.estimated_size()
        if size >= _PIECE_BYTES and 0 < rows < _PIECE_ROWS:
            yield pl.concat(waiting, rechunk=True)
            waiting, rows, size = [], 0, 0.0
        elif rows >= _PIECE_ROWS:
            joined = pl.concat(waiting, rechunk=True)
            rows %= _PIECE_ROWS
            yield from joined[: joined.height - rows].iter_slices(_PIECE_ROWS)
            waiting = [joined[joined.height - rows :]]
            size = waiting[0].estimated_size()
    if rows:
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
    """Pieces of both states, both in key order, that hold the same range of keys; None where one has nothing left.

    Each is cut where the other ends, so that neither grows, however many keys of one fall between two of the other.
    """
    was: pl.DataFrame | None = None
    now: pl.DataFrame | None = None
    while True:
        was, now = _topped_up(was, previous), _topped_up(now, rows)
        if was is None or now is None:
            if was is None and now is None:
                return
            yield was, now
            was = now = None
            continue
        bound = min(was.select(key).row(-1), now.select(key).row(-1))
        is_later = _later(key, dict(zip(key, bound, strict=True)).__getitem__)
        old, new = (frame.height - int(frame.select(is_later.sum()).item()) for frame in (was, now))
        yield was[:old], now[:new]
        was, now = was[old:], now[new:]


def _topped_up(rest: pl.DataFrame | None, pieces: Iterator[pl.DataFrame]) -> pl.DataFrame | None:
    """What is left of a state with its next pieces, of half a piece at least; None at its end."""
    while rest is None or rest.height < (_PIECE_ROWS + 1) // 2:
        piece = next(pieces, None)
        if piece is None:
            return rest if rest is not None and rest.height else None
        rest = piece if rest is None or not rest.height else pl.concat([rest, piece], rechunk=True)
    return rest


def _later(key: Sequence[str], bound: Callable[[str], Any]) -> pl.Expr:
    """Whether a row's key lies after a bound: by its first column, where equal by its second, and so on."""
    later = pl.lit(value=False)
    for name in reversed(key):
        later = (pl.col(name) > bound(name)) | ((pl.col(name) == bound(name)) & later)
    return later


def _examples(keys: pl.DataFrame) -> str:
    shown = [", ".join(_shown(value) for value in row) for row in keys.head(_EXAMPLES).rows()]
    return "; ".join(shown) + ("; …" if keys.height > _EXAMPLES else "")


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return f"0x{value.hex()}"
    return "null" if value is None else str(value)


# ---- what changed ------------------------------------------------------------------------------------------------


def changes(
    previous: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    key: Sequence[str],
    compared: Sequence[str],
    filled: Sequence[str],
    returned: Mapping[str, datetime],
    numbers: Collection[str] = (),
) -> Changes:
    """What a piece of a table changed.

    `previous`: the latest version of each key, tombstones included, with `version, is_deleted`. `compared`: columns
    that both have beside the key. `filled`: columns of `rows` that unchanged rows get without a new version.
    `returned`: compared columns that had gone, and when they were last seen: a version of later (`valid_from`) never
    knew them. `numbers`: compared columns that are kept as text, and are numbers in the shop.
    """
    was_live = int((~previous["is_deleted"]).sum())
    was = previous.select(*key, pl.exclude(key).name.prefix(_WAS))
    if previous.height == rows.height == was_live and previous.select(key).equals(rows.select(key)):
        known = rows.hstack(was.drop(key))
        came, gone = known.clear(), previous.clear()
    else:
        met = rows.join(was, on=key, how="left", maintain_order="left")
        was_there = met[f"{_WAS}is_deleted"].eq_missing(other=False)
        known, came = met.filter(was_there), met.filter(~was_there)
        gone = previous.filter(~pl.col("is_deleted")).join(rows.select(key), on=key, how="anti", maintain_order="left")

    if compared:
        differences = known.select(
            _differs(name, rows.schema[name], previous.schema[name], returned.get(name)).alias(name)
            for name in compared
        )
        if numbers_as_text := [name for name in compared if name in numbers and previous.schema[name] == pl.Binary()]:
            same = known.select(_is_same_number(name).alias(name) for name in numbers_as_text)
            differences = differences.with_columns(differences[name] & ~same[name] for name in numbers_as_text)
        is_changed = differences.select(pl.any_horizontal(pl.all())).to_series()
    else:  # nothing but keys
        is_changed = pl.Series([False], dtype=pl.Boolean).new_from_index(0, known.height)
        differences = is_changed.to_frame("")
    new = [
        _versions(came, pl.col(f"{_WAS}version").fill_null(0), "insert", rows.schema),
        _versions(
            known.filter(is_changed), pl.col(f"{_WAS}version"), "update", rows.schema, differences.filter(is_changed)
        ),
        _versions(gone, pl.col("version"), "delete", rows.schema),
    ]
    fills = [
        _unknown_until_now(name, returned[name])
        if name in returned and rows.schema[name] == previous.schema[name]
        else pl.col(name)
        for name in filled
    ]
    unchanged = known.select(*key, pl.col(f"{_WAS}version").alias("version"), *fills)
    return Changes(
        pl.concat(new).with_columns(is_deleted=pl.col("op") == "delete"),
        unchanged.filter(~is_changed) if filled else unchanged.clear(),
        was_live,
    )


def _versions(
    rows: pl.DataFrame,
    before: pl.Expr,
    op: str,
    schema: Mapping[str, DataType],
    differences: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The version after `before` of each row; a deleted one has no value of what came with this snapshot."""
    changed = pl.Series("changed", [[]], dtype=_VERSION["changed"]).new_from_index(0, rows.height)
    if differences is not None:
        named = [pl.when(pl.col(name)).then(pl.lit(name)) for name in differences.columns]
        changed = differences.select(changed=pl.concat_list(named).list.drop_nulls()).to_series()
    # A deleted row's values come from history, in the dtypes that they had there.
    values = [
        (_kept(pl.col(name), rows.schema[name], dtype) if name in rows.columns else pl.lit(None, dtype)).alias(name)
        for name, dtype in schema.items()
    ]
    return rows.select(
        *values, (before + 1).cast(_VERSION["version"]).alias("version"), pl.lit(op).alias("op"), changed
    )


def _differs(name: str, now: DataType, before: DataType, seen: datetime | None) -> pl.Expr:
    """Whether a column differs, null equal to null; where its type changed, as what both types can say exactly."""
    value, was = pl.col(name), pl.col(_WAS + name)
    if seen is not None:
        return _differs(name, now, before, None) & _knew_column(seen)
    if now == before:
        return value.ne_missing(was)
    if now != pl.Binary():
        if before == pl.Float32():  # 0.1 of so few digits is another 0.1 than that of a wider type
            return value.cast(before, strict=False).ne_missing(was)
        return value.ne_missing(_moment(was, before) if before == pl.Date() else was.cast(now, strict=False))
    # It was a number or a time, and is text from now on: the text must say the same number or time.
    text = _ascii_text(value)
    if before.is_temporal():
        said, meant = _bounded(_oddly_written(text, _MOMENT), _MOMENT), _moment(was, before)
    elif isinstance(before, pl.Float32 | pl.Float64):
        said, meant = text.cast(before, strict=False), was
    else:
        scale = before.scale if isinstance(before, pl.Decimal) else 0
        exact = pl.Decimal(_MOST_DIGITS, scale)
        said = pl.when(~_is_rounded(text, scale)).then(text.cast(exact, strict=False))
        meant = was.cast(exact, strict=False)
    return said.ne_missing(meant) | (said.is_null() & value.is_not_null())


def _knew_column(seen: datetime) -> pl.Expr:
    """Whether a version is as old as the last sight of a column that was gone since."""
    return pl.col(f"{_WAS}valid_from") <= pl.lit(seen).cast(_MOMENT)


def _unknown_until_now(name: str, seen: datetime) -> pl.Expr:
    """What a returned column fills an unchanged version with; a version that knew the column keeps its own text.

    The two may differ although nothing changed: 1.13 and 1.130 are one number.
    """
    return pl.when(_knew_column(seen)).then(pl.col(_WAS + name)).otherwise(pl.col(name)).alias(name)


def _is_same_number(name: str) -> pl.Expr:
    """Whether two texts say one number: 149.9 and 149.90 do, and 1e3 and 1000."""
    now, was = (_ascii_text(pl.col(column)) for column in (name, _WAS + name))
    equal = _plain_number(now) == _plain_number(was)
    has_exponent = pl.any_horizontal(text.str.contains(r"\d[eE]") for text in (now, was))
    equal |= has_exponent & (now.cast(pl.Float64, strict=False) == was.cast(pl.Float64, strict=False))
    return equal.fill_null(value=False)


def _plain_number(text: pl.Expr) -> pl.Expr:
    """A decimal number as text without what adds nothing to it; null for other texts."""
    digits = text.str.strip_chars(" ").str.strip_prefix("+")
    fraction = digits.str.replace(r"(\.\d*?)0+$", "$1").str.strip_suffix(".")
    number = fraction.str.replace(r"^(-?)0+", "$1").str.replace(r"^-?$", "0").str.replace(r"^(-?)\.", "${1}0.")
    return pl.when(digits.str.contains(r"^-?(\d+\.?\d*|\.\d+)$")).then(number)


def _ascii_text(value: pl.Expr) -> pl.Expr:
    """Bytes as text where they are ASCII, as numbers and times are; other bytes may be an error to polars."""
    return pl.when(value.bin.encode("hex").str.contains("^(?:[0-7].)*$")).then(value).cast(pl.String)


def _moment(column: pl.Expr, dtype: DataType) -> pl.Expr:
    """A date as the moment it begins; the last that can be kept stands for all after it, as the last moment does."""
    if dtype != pl.Date():
        return column
    is_last = column == pl.lit(_LAST_DAY)
    return pl.when(is_last).then(pl.lit(_LAST_MOMENT, _MOMENT)).otherwise(column.cast(_MOMENT))
