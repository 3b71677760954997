"""Reads from `history` the versions of products that a day's product sessions can meet."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl
from polars.datatypes import DataType

from app.contracts import PRODUCT_SESSIONS, Table
from app.core.sql import quote
from app.frames.days import DayBounds
from app.jobs.build.call_sql import instant
from app.rules.snapshot_plan import PRODUCT_ATTRIBUTES, SnapshotPlan, SnapshotTable
from app.warehouse import FingerprintSource, Warehouse, fingerprints
from app.warehouse.history import existing_histories

_OF_SESSIONS = {name: PRODUCT_SESSIONS.schema[name] for name in PRODUCT_ATTRIBUTES}
UUID_BYTES = ", binary(16) there"  # the end of the comment of such a column (`app.shop.columns`)


@dataclass(frozen=True)
class _Source:
    """A history table with product attributes: the SQL of the product's id and of each attribute."""

    table: str
    product_id: str
    attributes: dict[str, str]
    holds_uuid: bool = False

    @property
    def product_text(self) -> str:
        """The product's id as text; a UUID in 16 bytes as its digits, in the order of the bytes."""
        return f"lower(hex({self.product_id}))" if self.holds_uuid else f"toString({self.product_id})"

    @property
    def selected(self) -> str:
        attributes = ", ".join(f"if(is_deleted, NULL, {sql}) AS `{name}`" for name, sql in self.attributes.items())
        return f"{self.product_text} AS product_id, valid_from, {attributes}"


def read_product_versions(
    warehouse: Warehouse,
    plan: SnapshotPlan,
    bounds: DayBounds,
    *,
    attributes: Mapping[str, DataType] = _OF_SESSIONS,
) -> list[pl.DataFrame]:
    """Per history table `product_id, valid_from` and the attributes, in the order of a product's versions.

    Only attributes that are named, in these types, and versions that a session of the day can meet: the last one
    before the day, and those of the day and the next.
    """
    parameters = {"start": bounds.start, "end": bounds.next_end}
    frames = []
    for source in _sources(warehouse, plan, attributes):
        history = f"history.{source.table}"
        frame = warehouse.query(
            f"""
SELECT product_id, valid_from, {", ".join(f"`{name}`" for name in source.attributes)} FROM (
    SELECT {source.selected}, version FROM (
        SELECT * FROM {history} WHERE valid_from < {instant("start")}
        ORDER BY {source.product_id}, version DESC LIMIT 1 BY {source.product_id})
    UNION ALL
    SELECT {source.selected}, version FROM {history}
    WHERE valid_from >= {instant("start")} AND valid_from < {instant("end")}
) ORDER BY product_id, version""",
            parameters,
        )
        if frame.width:
            wanted = {name: attributes[name] for name in source.attributes}
            frames.append(frame.with_columns(pl.col(name).cast(dtype, strict=False) for name, dtype in wanted.items()))
    return frames


def history_sums(
    warehouse: Warehouse, plan: SnapshotPlan, *, attributes: Collection[str] = PRODUCT_ATTRIBUTES, keep: bool
) -> pl.DataFrame:
    """`at, fingerprint` of the versions of products, by the instant from which they are valid."""
    sums = [pl.DataFrame(schema={"at": PRODUCT_SESSIONS.schema["first_seen_at"], "fingerprint": pl.UInt64()})]
    for source in _sources(warehouse, plan, attributes):
        content = ", ".join(f"toString({sql})" for sql in (source.product_id, *source.attributes.values()))
        hashed = FingerprintSource(
            f"history.{source.table}",
            at="valid_from",
            content=f"cityHash64({quote(source.table)}, valid_from, version, is_deleted, [{content}])",
        )
        sums.append(fingerprints(warehouse, hashed, keep=keep).select("at", "fingerprint"))
    return pl.concat(sums).group_by("at").agg(pl.col("fingerprint").sum()).sort("at")


def _sources(warehouse: Warehouse, plan: SnapshotPlan, attributes: Collection[str]) -> list[_Source]:
    """The plan's tables and columns of products that exist in history."""
    tables = [table for table in plan.of_products if not table.product.keys().isdisjoint(attributes)]
    if not tables:
        return []
    histories = existing_histories(warehouse)
    sources = [_source(histories[table.name], table, attributes) for table in tables if table.name in histories]
    return [source for source in sources if source is not None]


def _source(history: Table, table: SnapshotTable, wanted: Collection[str]) -> _Source | None:
    columns = {column.name for column in history.columns}
    known = {name: f"`{column}`" for name, column in table.product.items() if column in columns}
    attributes = {name: sql for name, sql in known.items() if name in wanted}
    product_id = known.get("product_id")
    holds_uuid = any(
        column.name == table.product["product_id"] and column.comment.lower().endswith(UUID_BYTES)
        for column in history.columns
    )
    return _Source(table.name, product_id, attributes, holds_uuid) if product_id and attributes else None
