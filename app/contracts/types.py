"""ClickHouse column types, and the Polars dtypes in which frames hold them."""

import re
from dataclasses import dataclass

import polars as pl
from polars.datatypes import DataType

from app.core.sql import quote

MONEY = "Decimal(18, 2)"
NULLABLE_MONEY = f"Nullable({MONEY})"
ORIGINAL_MONEY = "Decimal(18, 4)"
MICRO_MONEY = "Decimal(18, 6)"  # as advertising platforms count
TIME = "DateTime64(3, 'UTC')"
PRECISE_TIME = "DateTime64(6, 'UTC')"
FILTERS = "Map(String, Array(String))"
LABEL = "LowCardinality(String)"
NULLABLE_LABEL = "LowCardinality(Nullable(String))"

_DTYPES: dict[str, DataType] = {
    "Bool": pl.Boolean(),
    "Date": pl.Date(),
    "Date32": pl.Date(),
    "Float32": pl.Float32(),
    "Float64": pl.Float64(),
    "Int8": pl.Int8(),
    "Int16": pl.Int16(),
    "Int32": pl.Int32(),
    "Int64": pl.Int64(),
    "String": pl.String(),
    "UInt8": pl.UInt8(),
    "UInt16": pl.UInt16(),
    "UInt32": pl.UInt32(),
    "UInt64": pl.UInt64(),
    "UUID": pl.Binary(),  # 16 bytes, in the order in which the text form reads
    TIME: pl.Datetime("ms", "UTC"),
    PRECISE_TIME: pl.Datetime("us", "UTC"),
}
_WRAPPED = re.compile(r"(Nullable|Array|LowCardinality)\((.*)\)")
_MAP = re.compile(r"Map\((\w+), (.*)\)")
_DECIMAL = re.compile(r"Decimal\((\d+), (\d+)\)")
_TUPLE = re.compile(r"Tuple\((.*)\)")
_FIELD = re.compile(r"(\w+) (\w+(?:\((?:[^()]|\([^()]*\))*\))?)")


def dtype_of(clickhouse_type: str) -> DataType:
    """The dtype in which a frame holds a column of this ClickHouse type."""
    if match := _WRAPPED.fullmatch(clickhouse_type):
        inner = dtype_of(match[2])
        return pl.List(inner) if match[1] == "Array" else inner
    if match := _MAP.fullmatch(clickhouse_type):
        return pl.Map(dtype_of(match[1]), dtype_of(match[2]))
    if match := _DECIMAL.fullmatch(clickhouse_type):
        return pl.Decimal(int(match[1]), int(match[2]))
    if match := _TUPLE.fullmatch(clickhouse_type):
        return pl.Struct({name: dtype_of(type_) for name, type_ in _FIELD.findall(match[1])})
    return _DTYPES[clickhouse_type]


@dataclass(frozen=True)
class Column:
    """One column: its name, its ClickHouse type, its meaning, and how it is stored."""

    name: str
    type: str
    comment: str
    expression: str = ""  # "MATERIALIZED …" or "ALIAS …": computed by the warehouse, never written by Carat
    codec: str = ""
    holds_bytes: bool = False  # a String that need not be UTF-8

    @property
    def is_nullable(self) -> bool:
        return "Nullable(" in self.type and not self.type.startswith(("Array(", "Map("))

    @property
    def dtype(self) -> DataType:
        return pl.Binary() if self.holds_bytes else dtype_of(self.type)

    @property
    def ddl(self) -> str:
        codec = f" CODEC({self.codec})" if self.codec else ""
        expression = f" {self.expression}" if self.expression else ""
        return f"`{self.name}` {self.type}{expression} COMMENT {quote(self.comment)}{codec}"
