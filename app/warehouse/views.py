"""Views: created, and replaced where their meaning changed."""

from dataclasses import dataclass

from app.core.sql import quote
from app.warehouse.client import Warehouse


@dataclass(frozen=True)
class View:
    """A view: its query, and comments for it and its columns."""

    full_name: str
    comment: str
    select: str
    columns: dict[str, str]

    @property
    def create_statement(self) -> str:
        return f"CREATE OR REPLACE VIEW {self.full_name} AS\n{self.select}\nCOMMENT {quote(self.comment)}"


def replace_view(warehouse: Warehouse, view: View) -> list[str]:
    """Create the view, or replace it where its query differs; returns a line for each change."""
    database, _, name = view.full_name.partition(".")
    wanted = warehouse.scalar("SELECT formatQuerySingleLine({select:String})", {"select": view.select})
    found = warehouse.query(
        "SELECT as_select FROM system.tables WHERE database = {database:String} AND name = {name:String}",
        {"database": database, "name": name},
    )
    if not found.is_empty() and found.item() == wanted:
        return []
    warehouse.require_free_space()
    warehouse.command(view.create_statement)
    if view.columns:  # in one statement, since each analyses the whole view
        comments = (f"COMMENT COLUMN IF EXISTS `{name}` {quote(text)}" for name, text in view.columns.items())
        warehouse.command(f"ALTER TABLE {view.full_name} {', '.join(comments)}")
    return [f"{'created' if found.is_empty() else 'replaced'} view {view.full_name}"]
