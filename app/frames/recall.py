"""Values that other calls or the shop's tables say: what an earlier call of the session remembered, and lookups."""

from collections.abc import Callable, Mapping

import polars as pl

from app.frames.fields import relist, whole_id
from app.rules.endpoint_map import Lookup

MEMORY_SCHEMA: dict[str, pl.DataType] = {
    "session_number": pl.UInt32(),
    "row": pl.UInt32(),
    "name": pl.String(),
    "key": pl.String(),
    "value": pl.List(pl.String()),
}
LOOKUP_SCHEMA: dict[str, pl.DataType] = {
    "key": pl.String(),
    "value": pl.String(),
    "valid_from": pl.Datetime("ms", "UTC"),
}


def remembered(rows: pl.DataFrame, name: str, values: pl.Series, keys: pl.Series | None) -> pl.DataFrame:
    """What some calls remember under a name, one row a key: `session_number, row, name, key, value`.

    In: calls with `session_number, row`; values and keys as text or as lists of text. One value belongs to every key.
    Without keys the value is remembered as a whole, a list with its gaps.
    """
    said = rows.select("session_number", "row").with_columns(value=_as_lists(values))
    said = said.with_columns(key=pl.lit([""], pl.List(pl.String)) if keys is None else _as_lists(keys))
    if keys is None:
        said = said.with_columns(value=pl.concat_list(pl.struct("value")))
    else:
        is_one = pl.col("value").list.len() == 1
        each = pl.col("value").list.first().repeat_by(pl.col("key").list.len())
        said = said.with_columns(value=pl.when(is_one).then(each).otherwise("value"))
        said = said.filter(pl.col("key").list.len() == pl.col("value").list.len())
        said = said.with_columns(value=pl.col("value").list.eval(pl.struct(value=pl.concat_list(pl.element()))))
    value = pl.col("value").struct.field("value")
    return (
        said.explode("key", "value", empty_as_null=False, keep_nulls=False)
        .with_columns(value=value)
        .filter(
            pl.col("key").is_not_null(),
            pl.col("value").list.eval(pl.element().fill_null("") != "").list.any(),
        )
        .with_columns(whole_id(pl.col("key")), name=pl.lit(name))
        .select(pl.col(column).cast(dtype) for column, dtype in MEMORY_SCHEMA.items())
    )


def recalled(rows: pl.DataFrame, keys: pl.Series | None, memory: pl.DataFrame, name: str) -> pl.Series:
    """What an earlier call of each call's session last remembered under its key (or keys, in their lists).

    Where no earlier call says it, what the call itself says counts. Without keys: what was last remembered as a whole,
    as a list of text.
    """
    calls = rows.select("session_number", "row")
    if keys is None:
        return _last_said(calls.with_columns(key=pl.lit("")), memory, name)
    return _resolved(calls, keys, lambda asked: _last_said(asked, memory, name).list.first())


def _last_said(asked: pl.DataFrame, memory: pl.DataFrame, name: str) -> pl.Series:
    said = memory.filter(pl.col("name") == name).select("session_number", "key", "row", "value").sort("row")
    earlier, own = (
        asked.join_asof(
            said,
            on="row",
            by=["session_number", "key"],
            strategy="backward",
            allow_exact_matches=may_be_own,
            check_sortedness=False,
        )["value"]
        for may_be_own in (False, True)
    )
    return pl.select(pl.coalesce(earlier, own)).to_series()


def looked_up(rows: pl.DataFrame, keys: pl.Series, lookups: Mapping[Lookup, pl.DataFrame], lookup: Lookup) -> pl.Series:
    """What a table of `history` holds under each call's key (or keys, in their lists) as of the call.

    In: calls with `ts`. The table's versions as `key, value, valid_from`; a version without a value ends the row.
    """
    versions = lookups.get(lookup, pl.DataFrame(schema=LOOKUP_SCHEMA)).sort("valid_from")
    return _resolved(rows.select("ts"), keys, lambda asked: _as_of(asked, versions))


def _as_of(asked: pl.DataFrame, versions: pl.DataFrame) -> pl.Series:
    ordered = asked.with_row_index("place").sort("ts", maintain_order=True)
    found = ordered.join_asof(
        versions, left_on="ts", right_on="valid_from", by="key", strategy="backward", check_sortedness=False
    )
    return found.sort("place")["value"]


def _resolved(rows: pl.DataFrame, keys: pl.Series, resolve: Callable[[pl.DataFrame], pl.Series]) -> pl.Series:
    asked = rows.with_columns(key=keys)
    if isinstance(keys.dtype, pl.List):
        asked = asked.explode("key", empty_as_null=False, keep_nulls=False)
    found = resolve(asked.with_columns(whole_id(pl.col("key").cast(pl.String))))
    return relist(found, like=keys) if isinstance(keys.dtype, pl.List) else found


def _as_lists(values: pl.Series) -> pl.Series:
    if isinstance(values.dtype, pl.List):
        return values.cast(pl.List(pl.String))
    return values.cast(pl.String).reshape((-1, 1)).cast(pl.List(pl.String))
