"""The snapshot plan: which tables of the shop's database are kept in `history`, read from TOML and checked."""

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.core.errors import SettingsError

# What a product's rows can say of it in dwh.product_sessions.
PRODUCT_ATTRIBUTES = ("title", "section", "material", "metal", "list_price", "stock_qty")

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OF_VIEWS = ("_current", "_versions", "_at")
_KEYS = ("source", "key", "columns", "exclude", "where", "max_deleted_share", "product", "person")


@dataclass(frozen=True)
class SnapshotTable:
    """One table of the shop's database, and how its versions are kept in `history`."""

    name: str
    source: str
    key: tuple[str, ...]
    columns: tuple[str, ...] = ()  # empty: all
    exclude: tuple[str, ...] = ()
    where: str = ""
    max_deleted_share: float | None = None
    product: dict[str, str] = field(default_factory=dict, hash=False)  # product_id or attribute -> column
    person: str = ""  # column that says whose a row is

    def keeps(self, column: str) -> bool:
        """Whether a column of the source is kept."""
        if column in self.key:
            return True
        return column in self.columns if self.columns else column not in self.exclude


@dataclass(frozen=True)
class SnapshotPlan:
    """The tables in the order of the file; `products_digest` changes when what they say of products does."""

    tables: tuple[SnapshotTable, ...]

    @property
    def of_products(self) -> tuple[SnapshotTable, ...]:
        return tuple(table for table in self.tables if table.product)

    @property
    def products_digest(self) -> str:
        meaning = [(table.name, sorted(table.product.items())) for table in self.of_products]
        return hashlib.sha256(repr(meaning).encode()).hexdigest()[:16]

    def select(self, names: Sequence[str]) -> "SnapshotPlan":
        """The named tables alone; SettingsError for a name that the plan does not have."""
        known = [table.name for table in self.tables]
        if unknown := [name for name in names if name not in known]:
            raise SettingsError(f"--tables {unknown[0]}: the snapshot plan has {', '.join(known)}")
        return SnapshotPlan(tuple(table for table in self.tables if table.name in names))


def load_snapshot_plan(path: Path) -> SnapshotPlan:
    """The plan in a TOML file; SettingsError names file, line and key of the first mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"CARAT_SNAPSHOTS: cannot read {path}: {error}") from None
    return parse_snapshot_plan(text, source=str(path))


def parse_snapshot_plan(text: str, *, source: str) -> SnapshotPlan:
    """The plan in a TOML text."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source}: {error}") from None
    if not content:
        raise SettingsError(f"{source}: no table; see the shipped app/rules/snapshot_plans/demo.toml for an example")
    entries = _Entries(text, source)
    plan = SnapshotPlan(tuple(_table(name, entry, entries) for name, entry in content.items()))
    said_by: dict[str, str] = {}
    for table in plan.of_products:
        for attribute in table.product.keys() - {"product_id"}:
            if (other := said_by.setdefault(attribute, table.name)) != table.name:
                raise entries.error(table.name, "product", f"{attribute} already comes from [{other}]")
    return plan


@dataclass(frozen=True)
class _Entries:
    """Finds the line of a key for an error; TOML readers do not keep it."""

    text: str
    source: str

    def error(self, table: str, key: str, problem: str) -> SettingsError:
        found = ""
        inside, at_top = False, True
        of_table = rf"""\s*["']?{re.escape(table)}["']?\s*"""
        of_key = rf"""["']?{re.escape(key)}["']?\s*[=.\]]"""
        for number, line in enumerate(self.text.splitlines(), start=1):
            if re.match(r"\s*\[", line):
                inside, at_top = bool(re.match(rf"\s*\[+{of_table}[\].]", line)), False
            begins = re.match(rf"{of_table}[.=]", line) if at_top else inside
            found = f", line {number}" if begins and not found else found
            if begins and re.match(rf"\s*(?:\[?{of_table}\.\s*)?{of_key}", line):
                found = f", line {number}"
                break
        return SettingsError(f"{self.source}{found}, {key}: {problem}")


def _table(name: str, entry: Any, entries: _Entries) -> SnapshotTable:  # noqa: C901  one check each
    if not isinstance(entry, dict):
        raise entries.error(name, name, "must be a table, such as [items]")
    if not _NAME.fullmatch(name):
        raise entries.error(name, name, "a history table is named by lower-case letters, digits and _")
    if ending := next((ending for ending in _OF_VIEWS if name.endswith(ending)), None):
        raise entries.error(name, name, f"the ending {ending} belongs to a view of history")
    for key in entry:
        if key not in _KEYS:
            raise entries.error(name, key, f"unknown key; a table has {', '.join(_KEYS)}")
    for key in ("source", "where", "person"):
        if not isinstance(entry.get(key, "-"), str) or not entry.get(key, "-").strip():
            raise entries.error(name, key, "must be text, and not empty")
    if "source" not in entry:
        raise entries.error(name, "source", "missing: which table of the shop's database is it?")
    columns = {key: _names(entry.get(key, []), name, key, entries) for key in ("key", "columns", "exclude")}
    if not columns["key"]:
        raise entries.error(name, "key", "missing: the columns that tell its rows apart")
    if columns["columns"] and columns["exclude"]:
        raise entries.error(name, "exclude", "goes without columns")
    person = _person(entry.get("person", ""), name, columns, entries)
    if both := set(columns["key"]) & set(columns["exclude"]):
        raise entries.error(name, "exclude", f"{min(both)} is part of the key")
    share = entry.get("max_deleted_share")
    if share is not None and (not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1):
        raise entries.error(name, "max_deleted_share", "must lie between 0 and 1")
    product = _product(entry.get("product", {}), name, columns["key"], entries)
    return SnapshotTable(
        name,
        entry["source"],
        **columns,
        where=entry.get("where", ""),
        max_deleted_share=share,
        product=product,
        person=person,
    )


def _names(value: Any, table: str, key: str, entries: _Entries) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise entries.error(table, key, 'must be a list of column names, such as ["id"]')
    if len(set(value)) < len(value):
        raise entries.error(table, key, "names a column twice")
    return tuple(value)


def _person(value: str, table: str, columns: dict[str, tuple[str, ...]], entries: _Entries) -> str:
    is_kept = value in columns["columns"] if columns["columns"] else value not in columns["exclude"]
    if value and not is_kept and value not in columns["key"]:
        raise entries.error(table, "person", f"{value} is not kept in history")
    return value


def _product(value: Any, table: str, key: tuple[str, ...], entries: _Entries) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(column, str) for column in value.values()):
        raise entries.error(table, "product", 'must be a table such as { product_id = "id", title = "title" }')
    known = ("product_id", *PRODUCT_ATTRIBUTES)
    if unknown := [name for name in value if name not in known]:
        raise entries.error(table, "product", f"unknown {unknown[0]}; choose from {', '.join(known)}")
    if value and (value.get("product_id"),) != key:
        raise entries.error(table, "product", "product_id must be the whole key: one row a product")
    return value
