"""The contract of a table: its columns and keys, and for tables of `dwh` how they are built, audited and erased."""

from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cached_property

import polars as pl

from app.contracts.types import Column
from app.core.errors import ContractError
from app.core.sql import quote

# In a part with two files per column, rows are masked by adding a file; a part that has one file for all is rewritten.
# Up to this size that costs no more, and few files make writing a day and opening the warehouse cheaper.
CHEAP_TO_PATCH = "min_bytes_for_wide_part = 16777216"


@dataclass(frozen=True)
class Table:
    """One table: its columns in order, its sorting key, its partitioning, and the key that is unique in a day."""

    database: str
    name: str
    comment: str
    columns: tuple[Column, ...]
    order_by: str
    partition_by: str = ""
    unique_key: tuple[str, ...] = ()
    engine: str = "MergeTree"
    settings: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.database}.{self.name}"

    @property
    def remembers_inserts(self) -> bool:
        """Whether the engine drops an insert that carries the same token as a recent one."""
        return "deduplication_window" in self.settings

    @cached_property
    def written(self) -> tuple[Column, ...]:
        """The columns that a writer supplies."""
        return tuple(column for column in self.columns if not column.expression)

    @cached_property
    def schema(self) -> pl.Schema:
        return pl.Schema({column.name: column.dtype for column in self.written})

    def create_statement(self, *, name: str | None = None, ttl: str = "", settings: str = "") -> str:
        """The CREATE TABLE of this contract; `name` creates a table of the same shape elsewhere, such as staging."""
        lines = ",\n  ".join(column.ddl for column in self.columns)
        partition = f"\nPARTITION BY {self.partition_by}" if self.partition_by else ""
        ttl_clause = f"\nTTL {ttl}" if ttl else ""
        all_settings = ", ".join(text for text in (self.settings, settings) if text)
        settings_clause = f"\nSETTINGS {all_settings}" if all_settings else ""
        return (
            f"CREATE TABLE IF NOT EXISTS {name or self.full_name}\n(\n  {lines}\n)\nENGINE = {self.engine}{partition}"
            f"\nORDER BY {self.order_by}{ttl_clause}{settings_clause}\nCOMMENT {quote(self.comment)}"
        )

    def check_dtypes(self, frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
        """Return the frame if its columns have the contract's dtypes; ContractError names the first that differs."""
        for name, dtype in frame.schema.items():
            expected = self.schema.get(name)
            if expected is not None and dtype != expected and not (expected == pl.String() and dtype == pl.Enum):
                raise ContractError(f"{where}: column {self.full_name}.{name} is {dtype}, the contract says {expected}")
        return frame

    def validate(self, frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
        """Return the frame in the contract's column order; ContractError if it breaks the contract in any way.

        Checked: the same columns, exact types, and no null in a column that is not nullable, nor in an array.
        """
        if missing := [name for name in self.schema if name not in frame.columns]:
            raise ContractError(f"{where}: {self.full_name} lacks {', '.join(missing)}")
        if unknown := [name for name in frame.columns if name not in self.schema]:
            raise ContractError(f"{where}: {self.full_name} has no column {', '.join(unknown)}")
        self.check_dtypes(frame, where=where)
        for column in self.written:
            if column.is_nullable:
                continue
            values = frame[column.name]
            nulls = values.null_count() + (_nulls_within(values) if column.type.startswith("Array(") else 0)
            if nulls:
                raise ContractError(f"{where}: {nulls} null(s) in {self.full_name}.{column.name}, which has none")
        # Column by column: a select of the frame would copy a text of many megabytes several times.
        return pl.DataFrame([frame[name] for name in self.schema])

    def require_unique(self, frame: pl.DataFrame, *, where: str) -> None:
        """Raise ContractError unless the table's unique key is unique in the frame.

        For a key of several columns only neighbouring rows are compared, which suffices for a frame that is sorted by
        its key and spares hashing the largest tables.
        """
        if len(self.unique_key) == 1:
            is_unique = frame[self.unique_key[0]].n_unique() == frame.height
        else:
            repeats = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in self.unique_key)
            is_unique = not frame.select(repeats.any()).item()
        if not is_unique:
            raise ContractError(f"{where}: rows of {self.full_name} share a key ({', '.join(self.unique_key)})")


def _nulls_within(lists: pl.Series) -> int:
    has_items = len(lists) and lists.list.len().sum()
    return int(lists.list.eval(pl.element().null_count()).list.sum().sum()) if has_items else 0


class Input(Enum):
    """What a table's rows are built from; a day is stale when one of its table's inputs has changed.

    Every table also depends on the code (`TRANSFORM_VERSION`), the business time zone and the ids that count as none.
    """

    CALLS = "the raw calls of the day"
    SESSIONS = "how calls are split into sessions: the timeout, and neighbouring days' calls that sessions reach into"
    ENDPOINT_MAP = "the endpoint map"
    SESSION_RULES = "the rules for devices, bots, channels and countries"
    PRODUCT_HISTORY = "the products' history, and what the snapshot plan says of products"
    ORDERS = "which of the day's orders were placed on another day, where they count"
    ORDER_SOURCES = "the order calls, and the shop's orders, their items, refunds and costs in history"


class Control(Enum):
    """What the audit counts itself, independently of a table's rows."""

    DAY_CALLS = "raw calls of the day"
    CALLS = "calls of the sessions that begin on the day"
    ORDERS = "counted orders of these sessions"
    ORDER_CALLS = "purchase calls of these sessions"
    REVENUE = "revenue of these orders"
    PRODUCT_REVENUE = "revenue of those orders that name a product"


@dataclass(frozen=True)
class Total:
    """A sum over a table's day that must equal what the audit counts; without a column, the number of rows."""

    control: Control
    column: str = ""


class PersonKey(StrEnum):
    """What a column says of the person a row belongs to."""

    CALL = "call"
    SESSION = "session"
    USER = "user"
    VISITOR = "visitor"


@dataclass(frozen=True, kw_only=True)
class DwhTable(Table):
    """A table of `dwh`, built one business day at a time.

    Nothing that staleness, audit or erasure rely on has a default: a table that left it out would be built and never
    checked. Its builder is registered in `app.jobs.build.builders`.
    """

    day: str  # the column that holds the business day; the table is partitioned by it
    depends_on: frozenset[Input]
    session_column: str | None  # of the session a row belongs to; without one any change rebuilds the whole day
    never_empty: tuple[str, ...]  # text columns that the audit requires
    totals: tuple[Total, ...]
    person_keys: tuple[tuple[str, PersonKey], ...]  # by which columns `carat forget` finds a person's rows
    counts_keys: bool = True  # whether the audit counts distinct keys; else only each written frame is checked

    def __post_init__(self) -> None:
        object.__setattr__(self, "partition_by", self.day)
        named = {self.day, *self.unique_key, *self.never_empty, *(column for column, _ in self.person_keys)}
        named |= {self.session_column or "", *(total.column for total in self.totals)} - {""}
        if unknown := named - {column.name for column in self.columns}:
            raise ContractError(f"{self.full_name} declares {', '.join(sorted(unknown))}, which it lacks")
        if not self.unique_key or not self.depends_on:
            raise ContractError(f"{self.full_name} needs a unique key and at least one input")

    def sum_sql(self, total: Total) -> str:
        """The SQL of a total's sum, in the type of its column where that is a decimal."""
        (type_,) = (column.type for column in self.columns if column.name == total.column)
        return f"sum({total.column})::{type_}" if type_.startswith("Decimal") else f"sum({total.column})"

    def is_day(self, day: object) -> str:
        """The SQL condition of the rows of a day."""
        return f"{self.day} = toDate('{day}')"
