"""The snapshot plan: which tables of the shop's database are kept in `history`, read from TOML and checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from app.core.errors import SettingsError
from app.core.suggestions import choose_from
from app.rules.order_meaning import ItemsMeaning, OrderMeanings, OrdersMeaning, RefundsMeaning, columns_named
from app.rules.toml_file import DistinctTexts, RuleModel, Text, TomlFile, digest_of, mistake

# What a product's rows can supply to dwh.product_sessions.
PRODUCT_ATTRIBUTES = ("title", "section", "material", "metal", "list_price", "stock_qty")
# What they can supply to dwh.orders: what one unit costs the shop.
COST = "cost"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OPTIONAL = "?"  # after the name of an excluded column that not every version of a shop has
_VIEW_ENDINGS = ("_current", "_versions", "_at")
# history.shop_stock_versions and others are views of tables by role, see app/warehouse/shop_views.py.
SHOP_VIEW_NAMES = ("titles", "prices", "stock", "cart", "favorites")


def _require_product_column(name: str) -> str:
    known = ("product_id", *PRODUCT_ATTRIBUTES, COST)
    if name not in known:
        raise mistake(f"{name!r} is not valid. {choose_from(name, known)}")
    return name


class TableRules(RuleModel):
    """What the plan says about one table of the shop's database."""

    source: Text = Field(description="the name of the table in the shop's database")
    key: DistinctTexts = Field(min_length=1, description='the columns that identify a row, such as ["id"]')
    columns: DistinctTexts = ()  # empty: all
    exclude: DistinctTexts = ()
    where: Text = ""
    max_deleted_share: Annotated[float, Field(ge=0, le=1)] | None = None
    product: dict[Annotated[str, AfterValidator(_require_product_column)], Text] = Field(
        default_factory=dict
    )  # -> column
    cart: dict[Literal["owner", "product_id", "quantity"], Text] = Field(default_factory=dict)  # -> column
    favorites: dict[Literal["owner", "product_id"], Text] = Field(default_factory=dict)  # -> column
    meaning: dict[Text, Any] = Field(default_factory=dict)  # checked as `OrderMeanings`
    optional: bool = False  # a shop that lacks the table is read without it
    person: Text = ""  # the column that holds the user id of the row's owner

    def keeps(self, column: str) -> bool:
        """Whether a column of the source is kept."""
        if column in self.key:
            return True
        return column in self.columns if self.columns else not {column, f"{column}{_OPTIONAL}"} & set(self.exclude)

    def missing(self, columns: Sequence[str]) -> dict[str, str]:
        """The columns that the plan names although the source, which has these, does not: each with its part there.

        A column that was renamed would be null for ever, no longer be left out, or no longer say whose a row is.
        """
        named = {"key": self.key, "columns": self.columns, "exclude": self.exclude, "person": (self.person,)}
        named |= {role: tuple(getattr(self, role).values()) for role in ("product", "cart", "favorites")}
        named |= {"meaning": columns_named(self.meaning)}
        return {
            column: part
            for part, names in named.items()
            for column in filter(None, names)
            if column not in columns and not (part == "exclude" and column.endswith(_OPTIONAL))
        }

    @model_validator(mode="after")
    def _require_consistent_columns(self) -> Self:
        if self.columns and self.exclude:
            raise mistake("cannot be combined with columns: keep one of the two", "exclude")
        if both := set(self.key) & set(self.exclude):
            raise mistake(f"{min(both)} is part of the key", "exclude")
        if self.person and not self.keeps(self.person):
            raise mistake(f"{self.person} is not kept in history", "person")
        if self.product and (self.product.get("product_id"),) != self.key:
            raise mistake("product_id must be the whole key: one row per product", "product")
        for role, columns in (("cart", self.cart), ("favorites", self.favorites)):
            if columns and (missing := {"owner", "product_id"} - columns.keys()):
                raise mistake(f"must also say which column is {min(missing)}", role)
            if lost := [column for column in columns.values() if not self.keeps(column)]:
                raise mistake(f"{lost[0]} is not kept in history", role)
        if lost := [column for column in columns_named(self.meaning) if not self.keeps(column)]:
            raise mistake(f"{lost[0]} is not kept in history", "meaning")
        return self


class SnapshotTable(TableRules):
    """One table of the shop's database, and how its versions are kept in `history`."""

    name: str

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class SnapshotPlan:
    """The tables in the order of the file, and what the columns of orders mean.

    `products_digest` changes when what they say of products does.
    """

    tables: tuple[SnapshotTable, ...]
    orders: OrderMeanings = field(default_factory=OrderMeanings)

    @property
    def of_products(self) -> tuple[SnapshotTable, ...]:
        return tuple(table for table in self.tables if table.product)

    @property
    def products_digest(self) -> str:
        meaning = [
            (table.name, sorted((name, column) for name, column in table.product.items() if name != COST))
            for table in self.of_products
            if table.product.keys() != {"product_id", COST}
        ]
        return digest_of(meaning)

    @property
    def costs_digest(self) -> str:
        """Changes when what the tables say of products' costs does."""
        return digest_of(
            [(table.name, sorted(table.product.items())) for table in self.of_products if COST in table.product]
        )

    def select(self, names: Sequence[str]) -> "SnapshotPlan":
        """The named tables alone; SettingsError for a name that the plan does not have."""
        known = [table.name for table in self.tables]
        if unknown := [name for name in names if name not in known]:
            raise SettingsError(f"--tables {unknown[0]}: the snapshot plan has {', '.join(known)}")
        return replace(self, tables=tuple(table for table in self.tables if table.name in names))


def load_snapshot_plan(path: Path) -> SnapshotPlan:
    """The plan in a TOML file; SettingsError names file, line and key of the first mistake."""
    return parse_snapshot_plan(TomlFile.read(path, setting="CARAT_SNAPSHOTS"))


def parse_snapshot_plan(file: TomlFile) -> SnapshotPlan:
    """The plan in a rule file."""
    if not file.content:
        raise file.error((), "has no table; see the shipped app/rules/snapshot_plans/demo.toml for an example")
    entries = file.parse(dict[Annotated[str, AfterValidator(_history_name)], TableRules])
    plan = SnapshotPlan(
        tuple(SnapshotTable(name=name, **rules.model_dump(exclude_unset=True)) for name, rules in entries.items()),
        _order_meanings(file, entries),
    )
    supplied_by: dict[str, str] = {}
    for table in plan.of_products:
        for attribute in table.product.keys() - {"product_id"}:
            if (other := supplied_by.setdefault(attribute, table.name)) != table.name:
                raise file.error((table.name, "product", attribute), f"already comes from [{other}]")
    for role in ("cart", "favorites"):
        played = [table.name for table in plan.tables if getattr(table, role)]
        if len(played) > 1:
            raise file.error((played[1], role), f"[{played[0]}] already has this role")
    return plan


class _Orders(BaseModel):
    meaning: OrdersMeaning | None = None


class _Items(BaseModel):
    meaning: ItemsMeaning | None = None


class _Refunds(BaseModel):
    meaning: RefundsMeaning | None = None


class _WithMeanings(BaseModel):
    orders: _Orders = _Orders()
    order_items: _Items = _Items()
    refunds: _Refunds = _Refunds()


def _order_meanings(file: TomlFile, entries: Mapping[str, TableRules]) -> OrderMeanings:
    """What the tables orders, order_items and refunds say of their columns."""
    for name, rules in entries.items():
        if rules.meaning and name not in _WithMeanings.model_fields:
            raise file.error((name, "meaning"), "only the tables [orders], [order_items] and [refunds] have a meaning")
    found = file.parse(_WithMeanings)
    meanings = OrderMeanings(found.orders.meaning, found.order_items.meaning, found.refunds.meaning)
    for name in ("order_items", "refunds"):
        if meanings.orders is None and name in entries and entries[name].meaning:
            raise file.error((name, "meaning"), "needs [orders.meaning], which says what an order is")
    user = meanings.orders.user if meanings.orders else ""
    if user and entries["orders"].person != user:
        raise file.error(("orders", "meaning", "user"), f'needs person = "{user}" in [orders], for `carat forget`')
    return meanings


def _history_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise mistake("the name of a history table has lower-case letters, digits and _, and begins with a letter")
    if ending := next((ending for ending in _VIEW_ENDINGS if name.endswith(ending)), None):
        raise mistake(f"the ending {ending} is reserved for the views of history")
    if name.removeprefix("shop_") in SHOP_VIEW_NAMES and name.startswith("shop_"):
        raise mistake(f"the name {name} is reserved for a view of history")
    return name
