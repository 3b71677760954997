"""Fingerprints of a table's content: sums of row hashes by time, stored per part, so that no part is read twice.

Parts are immutable: any change of a table's rows, whoever makes it, creates parts with other checksums. So stored
fingerprints are valid as long as a part with the same checksum exists.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from app.contracts import FINGERPRINTS
from app.warehouse.client import Warehouse

_TRIES = 3
_PARTS_A_READ = 500
_MAX_STORED_PER_PART = 4  # with more stored parts per existing one, those that are gone are deleted
_SUMS = {name: FINGERPRINTS.schema[name] for name in ("at", "rows", "fingerprint")}
_BY_PART = pl.Schema({"part": FINGERPRINTS.schema["part"], **_SUMS})
_PARTS = {"name": pl.String(), "part": pl.String(), "rows": pl.UInt64()}
_NEVER = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True)
class FingerprintSource:
    """A table to fingerprint: the SQL of the instant by which hashes are summed, and of a row's hash (UInt64)."""

    full_name: str
    at: str
    content: str

    @property
    def source(self) -> str:
        digest = hashlib.sha256(f"{self.at}\0{self.content}".encode()).hexdigest()[:12]
        return f"{self.full_name} {digest}"

    @property
    def sums(self) -> str:
        return f"{self.at} AS at, toUInt64(count()) AS rows, sum({self.content}) AS fingerprint"


def fingerprints(warehouse: Warehouse, table: FingerprintSource, *, keep: bool) -> pl.DataFrame:
    """`at, rows, fingerprint` of a table, by instant; with `keep` new fingerprints are stored.

    Sums wrap around at 2**64; `rows` distinguishes equal sums of different numbers of rows.
    """
    for _ in range(_TRIES):
        parts = active_parts(warehouse, table.full_name).drop("rows")
        known = _known(warehouse, table)
        unknown = parts.join(known, on="part", how="anti")
        computed = _computed(warehouse, table, unknown)
        without_rows = unknown.join(computed.filter(pl.col("rows") > 0), on="part", how="anti")
        if (
            without_rows.is_empty()
            or without_rows.join(active_parts(warehouse, table.full_name), on="name", how="anti").is_empty()
        ):
            break  # else a part was merged before it could be read
    else:
        return warehouse.query(f"SELECT {table.sums} FROM {table.full_name} GROUP BY at", schema=_SUMS).sort("at")
    if keep:
        warehouse.insert(FINGERPRINTS, computed.with_columns(source=pl.lit(table.source)))
        if known["part"].n_unique() > _MAX_STORED_PER_PART * (parts.height + 10):
            _delete_outdated(warehouse, table, parts)
    return (
        parts.join(pl.concat([known, computed]), on="part")  # two parts of the same content both count
        .filter(pl.col("rows") > 0)
        .group_by("at")
        .agg(pl.col("rows", "fingerprint").sum())
        .sort("at")
    )


def active_parts(warehouse: Warehouse, full_name: str) -> pl.DataFrame:
    """`name, part, rows` of the table's parts: a part by the checksum of its files."""
    database, _, name = full_name.partition(".")
    return warehouse.query(
        "SELECT name, hash_of_all_files AS part, rows FROM system.parts "
        "WHERE active AND rows > 0 AND database = {database:String} AND table = {name:String}",
        {"database": warehouse.database(database), "name": name},
        schema=_PARTS,
    )


def _known(warehouse: Warehouse, table: FingerprintSource) -> pl.DataFrame:
    return warehouse.query(
        "SELECT part, at, any(rows) AS rows, any(fingerprint) AS fingerprint FROM etl.fingerprints "
        "WHERE source = {source:String} GROUP BY part, at",
        {"source": table.source},
        schema=_BY_PART,
    )


def _computed(warehouse: Warehouse, table: FingerprintSource, parts: pl.DataFrame) -> pl.DataFrame:
    """The sums of these parts; a part whose rows are all deleted gets an empty sum, so that it counts as known."""
    found = [pl.DataFrame(schema=_BY_PART)]
    for some in parts.iter_slices(_PARTS_A_READ):
        sums = warehouse.query(
            f"SELECT _part AS name, {table.sums} FROM {table.full_name} "
            "WHERE _part IN {names:Array(String)} GROUP BY name, at",
            {"names": some["name"].to_list()},
            schema={"name": pl.String(), **_SUMS},
        )
        of_parts = some.join(sums, on="name", how="left").with_columns(
            pl.col("at").fill_null(_NEVER), pl.col("rows", "fingerprint").fill_null(0)
        )
        found.append(of_parts.select(_BY_PART.names()).cast(_BY_PART))
    return pl.concat(found).unique(["part", "at"])


def _delete_outdated(warehouse: Warehouse, table: FingerprintSource, parts: pl.DataFrame) -> None:
    warehouse.command(
        "DELETE FROM etl.fingerprints WHERE source = {source:String} AND part NOT IN {parts:Array(String)}",
        {"source": table.source, "parts": parts["part"].to_list()},
    )
