"""Reads from `history` what the endpoint map looks up: variants to products, for instance."""

from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl

from app.contracts import API_CALLS
from app.core.sql import quote
from app.frames.days import DayBounds
from app.jobs.build.call_sql import instant
from app.rules.endpoint_map import EndpointMap, Lookup
from app.warehouse import FingerprintSource, Warehouse, fingerprints
from app.warehouse.history import existing_histories

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SUMS = {"at": API_CALLS.schema["ts"], "fingerprint": pl.UInt64()}


def read_lookups(warehouse: Warehouse, endpoint_map: EndpointMap, bounds: DayBounds) -> dict[Lookup, pl.DataFrame]:
    """Per lookup whose table is in history `key, value, valid_from`, the value null where the row was deleted.

    Only versions that a call of the day's sessions can meet: a key's last one before the day, and those of the day and
    the next. Rows of the table's first snapshot are valid for all time before it.
    """
    from app.frames.recall import LOOKUP_SCHEMA  # noqa: PLC0415  with what types calls, which finding stale days does without

    parameters = {"start": bounds.start, "end": bounds.next_end}
    found = {}
    for lookup in _existing(warehouse, endpoint_map):
        table = f"history.{lookup.table}"
        key, first = f"toString(`{lookup.key}`)", f"(SELECT min(valid_from) FROM {table})"
        columns = f"{key} AS key, if(is_deleted, NULL, toString(`{lookup.value}`)) AS value"
        # Where a snapshot deletes one row of a key and inserts another, the one that is there counts.
        found[lookup] = warehouse.query(
            f"""
SELECT key, value, if(valid_from = {first}, toDateTime64(0, 3, 'UTC'), valid_from) AS valid_from FROM (
    SELECT {columns}, valid_from FROM {table}
    WHERE `{lookup.key}` IS NOT NULL AND (valid_from < {instant("start")} OR valid_from = {first})
    ORDER BY key, valid_from DESC, is_deleted LIMIT 1 BY key
    UNION ALL
    SELECT {columns}, valid_from FROM {table}
    WHERE `{lookup.key}` IS NOT NULL AND valid_from >= {instant("start")} AND valid_from < {instant("end")}
        AND valid_from != {first}
    ORDER BY key, valid_from, is_deleted LIMIT 1 BY key, valid_from)""",
            parameters,
            schema=LOOKUP_SCHEMA,
        )
    return found


def lookup_sums(warehouse: Warehouse, endpoint_map: EndpointMap, *, keep: bool) -> pl.DataFrame:
    """`at, fingerprint` of the versions that lookups can meet, by the instant from which they are valid."""
    sums = [pl.DataFrame(schema=_SUMS)]
    for lookup in _existing(warehouse, endpoint_map):
        name = quote(f"{lookup.table} {lookup.key} {lookup.value}")
        row = f"ifNull(toString(`{lookup.key}`), ''), ifNull(toString(`{lookup.value}`), '')"
        hashed = FingerprintSource(
            f"history.{lookup.table}",
            at="valid_from",
            content=f"cityHash64({name}, valid_from, is_deleted, {row})",
        )
        of_table = fingerprints(warehouse, hashed, keep=keep).select("at", "fingerprint")
        is_first = pl.col("at") == pl.col("at").min()
        sums.append(of_table.with_columns(at=pl.when(is_first).then(_EPOCH).otherwise("at").cast(_SUMS["at"])))
    return pl.concat(sums).group_by("at").agg(pl.col("fingerprint").sum()).sort("at")


def _existing(warehouse: Warehouse, endpoint_map: EndpointMap) -> Iterator[Lookup]:
    """The lookups whose table and columns history has."""
    histories = existing_histories(warehouse) if endpoint_map.lookups else {}
    for lookup in endpoint_map.lookups:
        history = histories.get(lookup.table)
        if history is not None and {lookup.key, lookup.value} <= {column.name for column in history.columns}:
            yield lookup
