"""`history.shop_…_versions`: what the snapshot plan says of products, carts and favorites, in views of fixed names.

Dashboards read these, whatever the shop's tables and columns are called. A view without a table is empty and says why.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.contracts import TIME, Table
from app.core.sql import quote
from app.rules.snapshot_plan import SHOP_VIEW_NAMES, SnapshotPlan, SnapshotTable
from app.warehouse.client import Warehouse
from app.warehouse.history import existing_histories
from app.warehouse.views import View, replace_views

EMPTY = "Empty: "  # begins the comment of a view without a table; the reason follows
NEVER_READ = "there is no history of the shop's database yet: run `carat snapshot`"
_TEXT, _KEY, _NUMBER = "Nullable(String)", "String", "Nullable(Float64)"
_TYPES = {"product_id": _KEY, "owner": _KEY, "title": _TEXT, "price": _NUMBER, "quantity": _NUMBER}
_VERSION = {
    "version": "UInt32", "valid_from": TIME, "valid_to": f"Nullable({TIME})", "from_day": "Date",
    "to_day": "Nullable(Date)", "op": "String", "is_deleted": "Bool", "changed": "Array(String)",
}  # fmt: skip
_COMMENTS = {
    "product_id": "the product's id, as text",
    "owner": "whose it is: a user's id, or the cart's or list's where the shop's table has no user",
    "title": "what the product is called",
    "price": "what it costs, as the shop's table says",
    "quantity": "how many",
    "version": "1, 2, … per key of the shop's table",
    "valid_from": "instant of the snapshot that observed this version",
    "valid_to": "when this version ceased to hold; null for the latest",
    "from_day": "business day on which the version began",
    "to_day": "business day on which it ceased to hold; null for the latest",
    "op": "insert (also when a key comes back), update or delete",
    "is_deleted": "whether the row was gone",
    "changed": "columns that an update changed, by their names here",
}


@dataclass(frozen=True)
class _Role:
    """A role and the table that plays it, with its columns by their names here; no table if the plan has none."""

    name: str
    view: str
    table: str
    columns: Mapping[str, str]

    @property
    def full_name(self) -> str:
        return f"history.shop_{self.view}_versions"


SHOP_VIEWS = tuple(f"history.shop_{name}_versions" for name in SHOP_VIEW_NAMES)


def refresh_shop_views(warehouse: Warehouse, plan: SnapshotPlan, time_zone: str) -> list[str]:
    """Create the views, or replace those that differ; returns a line for each change."""
    histories = existing_histories(warehouse)
    return replace_views(warehouse, [_view(role, histories.get(role.table), time_zone) for role in _roles(plan)])


def _roles(plan: SnapshotPlan) -> list[_Role]:
    return [
        _attribute(plan, "titles", "title", "title"),
        _attribute(plan, "prices", "list_price", "price"),
        _attribute(plan, "stock", "stock_qty", "quantity"),
        *(
            _of_shoppers(name, [(table, columns) for table in plan.tables if (columns := getattr(table, name))])
            for name in ("cart", "favorites")
        ),
    ]


def _attribute(plan: SnapshotPlan, view: str, attribute: str, column: str) -> _Role:
    """The role of the table that supplies an attribute of products."""
    name = "stock" if view == "stock" else f"items ({attribute})"
    for table in plan.of_products:
        if attribute in table.product:
            columns = {"product_id": table.product["product_id"], column: table.product[attribute]}
            return _Role(name, view, table.name, columns)
    return _Role(name, view, "", {"product_id": "", column: ""})


def _of_shoppers(name: str, played: Sequence[tuple[SnapshotTable, Mapping[str, str]]]) -> _Role:
    wanted = ("owner", "product_id", "quantity") if name == "cart" else ("owner", "product_id")
    table, columns = (played[0][0].name, played[0][1]) if played else ("", {})
    return _Role(name, name, table, {column: columns.get(column, "") for column in wanted})


def _view(role: _Role, history: Table | None, time_zone: str) -> View:
    comments = {name: text for name, text in _COMMENTS.items() if name in {*role.columns, *_VERSION}}
    kept = {name: _as_kept(column, history) for name, column in role.columns.items() if column}
    if why := _why_empty(role, history, kept):
        columns = {name: _TYPES[name] for name in role.columns} | _VERSION
        nothing = ", ".join(f"CAST({_default(kind)} AS {kind}) AS {name}" for name, kind in columns.items())
        # The reason is a part of the query, so that another one replaces the view.
        return View(role.full_name, EMPTY + why, f"SELECT {nothing} WHERE {quote(why)} = ''", comments)
    zone = quote(time_zone)
    selected = ", ".join(f"{_value(name, kept.get(name, ''))} AS {name}" for name in role.columns)
    renamed = f"arrayMap(name -> transform(name, {_array(kept.values())}, {_array(kept)}), changed) AS changed"
    return View(
        role.full_name,
        f"Versions of the table with the role {role.name} in the snapshot plan: history.{role.table}.",
        f"SELECT {selected}, version, valid_from, valid_to, toDate(valid_from, {zone}) AS from_day, "
        f"toDate(valid_to, {zone}) AS to_day, toString(op) AS op, is_deleted, {renamed} "
        f"FROM history.{role.table}_versions",
        comments,
    )


def _as_kept(column: str, history: Table | None) -> str:
    """What history calls a column of the shop: one that is named like a version's own has a prefix. Empty if none."""
    known = {kept.name for kept in history.columns} if history else set()
    return next((name for name in (f"source_{column}", column) if name in known), "")


def _why_empty(role: _Role, history: Table | None, kept: Mapping[str, str]) -> str:
    if not role.table:
        return f"the snapshot plan has no table with the role {role.name}"
    if history is None:
        return NEVER_READ
    missing = [role.columns[name] for name, column in kept.items() if not column]
    return f"history.{role.table} has no column {missing[0]}, which the snapshot plan names" if missing else ""


def _value(name: str, column: str) -> str:
    """The SQL of a column in the type that it has here, whatever the shop's type; a quantity that is not told is 1."""
    if not column:
        return "CAST(1 AS Nullable(Float64))"
    if _TYPES[name] == _NUMBER:
        return f"toFloat64OrNull(toString(`{column}`))"
    text = f"toString(`{column}`)"
    return f"ifNull({text}, '')" if _TYPES[name] == _KEY else f"CAST({text} AS {_TEXT})"


def _default(kind: str) -> str:
    return "NULL" if kind.startswith("Nullable") else f"defaultValueOfTypeName({quote(kind)})"


def _array(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(quote, texts))}]"
