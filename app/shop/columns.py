"""How a column of the shop's database is read, and as which type it is stored.

The SQL that reads it guards against what connectorx would lose, round or panic on: impossible dates, times beyond a
day, wide decimals, BIT, JSON and geometries.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.contracts import PRECISE_TIME, Column
from app.core.errors import ShopError
from app.core.suggestions import did_you_mean
from app.rules.snapshot_plan import SnapshotTable

# Names that are reserved for the columns of a version.
VERSION_COLUMNS = ("version", "valid_from", "op", "is_deleted", "changed", "snapshot_id", "valid_to")

_MOST_DIGITS = 38  # of a decimal that Arrow can hold in 128 bits
_MOST_READ_SCALE = 10  # connectorx reads every decimal as Decimal(38, 10), through a type of 28 digits
_MOST_READ_INTEGER_DIGITS = 18


@dataclass(frozen=True)
class ShopColumn:
    """A column of the shop: its name there, the ClickHouse type it is stored as, and the SQL that reads it.

    `order_by` sorts as the warehouse does: by value, text by its UTF-8 bytes.
    """

    name: str
    type: str
    select: str
    order_by: str
    declared: str
    holds_bytes: bool = False

    @property
    def kept_as(self) -> str:
        """The name in history; a reserved name gets a prefix."""
        return f"source_{self.name}" if self.name in VERSION_COLUMNS else self.name

    def in_history(self, *, is_key: bool) -> Column:
        """The column of the history table."""
        comment = f"{self.name} of the shop's table, {self.declared} there"
        return Column(
            self.kept_as,
            self.type if is_key else f"Nullable({self.type})",
            comment,
            holds_bytes=self.holds_bytes,
        )


def require_planned(table: SnapshotTable, columns: Sequence[str]) -> None:
    """Raise ShopError where the plan names columns that the table, which has these, does not have."""
    missing = table.missing(columns) if columns else {}
    if missing:
        named = ", ".join(f"{column} as {part}" for column, part in missing.items())
        fixes = " ".join(filter(None, (did_you_mean(column, columns) for column in missing)))
        raise ShopError(
            f"{table.source} has no column {', '.join(missing)}: another schema? The snapshot plan (CARAT_SNAPSHOTS) "
            + ". ".join(filter(None, (f"names {named}", fixes)))
        )


# ---- MySQL -------------------------------------------------------------------------------------------------------

_INTEGERS = {"tinyint": 8, "smallint": 16, "mediumint": 32, "int": 32, "bigint": 64}
_TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
_BYTES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_GEOMETRIES = {
    "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
    "geometrycollection", "geomcollection",
}  # fmt: skip


def mysql_column(  # noqa: C901, PLR0911  one case each
    name: str, data_type: str, column_type: str, precision: int | None, scale: int | None
) -> ShopColumn:
    """A column as the information schema describes it."""
    field = f"t.`{name.replace('`', '``')}`"
    data_type = data_type.lower()

    def column(kept: str, select: str = field, *, as_text: bool = False, holds_bytes: bool = False) -> ShopColumn:
        order_by = f"CAST(CONVERT({select} USING utf8mb4) AS BINARY)" if as_text else select
        return ShopColumn(name, kept, select, order_by, column_type, holds_bytes)

    if data_type in _INTEGERS:
        return column(f"{'U' if 'unsigned' in column_type.lower() else ''}Int{_INTEGERS[data_type]}")
    if data_type == "decimal":
        digits, scale = precision or 10, scale or 0
        if digits > _MOST_DIGITS:
            return column("String", f"CAST({field} AS CHAR)", as_text=True)
        if scale > _MOST_READ_SCALE or digits - scale > _MOST_READ_INTEGER_DIGITS:
            text = f"CAST({field} AS CHAR)"
            return ShopColumn(name, f"Decimal({digits}, {scale})", text, field, column_type)
        return column(f"Decimal({digits}, {scale})")
    if data_type in {"float", "double"}:
        return column("Float32" if data_type == "float" else "Float64")
    if data_type in {"date", "datetime", "timestamp"}:
        # The reader would panic on a zero date, or on a day that its month does not have.
        possible = f"IF(DAY({field}) BETWEEN 1 AND DAY(LAST_DAY({field})), {field}, NULL)"
        return column("Date32" if data_type == "date" else PRECISE_TIME, possible)
    if data_type == "year":
        return column("UInt16", f"CAST({field} AS UNSIGNED)")
    if data_type == "bit":
        return column("UInt64", f"CAST({field} AS UNSIGNED)")
    if data_type in _BYTES:
        return column("String", holds_bytes=True)
    if data_type in _GEOMETRIES:
        return column("String", f"ST_AsText({field})", as_text=True)
    if data_type in _TEXTS - {"enum", "set"}:
        return column("String", as_text=True)
    return column("String", f"CAST({field} AS CHAR)", as_text=True)  # time, json, enum, set, uuid, inet6, …


# ---- SQLite ------------------------------------------------------------------------------------------------------

_SQLITE_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?", re.IGNORECASE)
_SQLITE_TIMES = ("DATETIME", "TIMESTAMP")


def sqlite_column(name: str, declared: str) -> ShopColumn:  # noqa: C901, PLR0911  one case each
    """A column as its table declares it; SQLite itself accepts any value in it."""
    field = f't."{name.replace(chr(34), chr(34) * 2)}"'
    upper = declared.upper().strip()

    def column(kept: str, select: str = field, *, order_by: str = field, holds_bytes: bool = False) -> ShopColumn:
        return ShopColumn(name, kept, select, order_by, declared or "untyped", holds_bytes)

    def text(kept: str = "String") -> ShopColumn:
        return column(kept, order_by=f"CAST({field} AS TEXT) COLLATE BINARY")

    if upper == "DATE":
        return text("Date32")
    if upper.startswith(_SQLITE_TIMES):
        return text(PRECISE_TIME)
    if match := _SQLITE_DECIMAL.match(upper):
        digits, scale = int(match[1] or _MOST_DIGITS), int(match[2] or (0 if match[1] else _MOST_READ_SCALE))
        if digits > _MOST_DIGITS:
            return text()
        return column(f"Decimal({digits}, {scale})", f"decimal_of({field}, {scale})")
    # SQLite's own rules of affinity, in their order.
    if "INT" in upper or upper.startswith("BOOL"):
        return column("Int64")
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return text()
    if "BLOB" in upper:
        return column("String", f"CAST({field} AS BLOB)", order_by=f"CAST({field} AS BLOB)", holds_bytes=True)
    if any(word in upper for word in ("REAL", "FLOA", "DOUB")):
        return column("Float64")
    return text()
