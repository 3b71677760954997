"""Views: created, and replaced where their meaning changed."""

from collections.abc import Iterator, Sequence
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


def replace_views(warehouse: Warehouse, views: Sequence[View], *, have_new_columns: bool = False) -> list[str]:
    """Create the views that do not exist, replace those whose query differs; returns a line for each change.

    `have_new_columns`: a table that they read has more columns, which a view with a `*` shows once it is replaced.
    """
    differing = list(differing_views(warehouse, views))
    if have_new_columns:
        new = {view.full_name for view, exists in differing if not exists}
        differing = [(view, view.full_name not in new) for view in views]
    return [_replace(warehouse, view, exists=exists) for view, exists in differing]


def differing_views(warehouse: Warehouse, views: Sequence[View]) -> Iterator[tuple[View, bool]]:
    """The views that do not exist or have another query, and whether each exists."""
    if not views:
        return
    wanted = warehouse.query(
        "SELECT arrayMap(sql -> formatQuerySingleLine(sql), {selects:Array(String)}) AS selects",
        {"selects": [view.select for view in views]},
    ).item()
    found = warehouse.query(  # by database, as the link to the shop may be down
        "SELECT database || '.' || name AS full_name, as_select FROM system.tables "
        "WHERE engine = 'View' AND database IN {databases:Array(String)}",
        {"databases": sorted({view.full_name.partition(".")[0] for view in views})},
    )
    stored = dict(found.iter_rows())
    for view, select in zip(views, wanted, strict=True):
        if stored.get(view.full_name) != select:
            yield view, view.full_name in stored


def _replace(warehouse: Warehouse, view: View, *, exists: bool) -> str:
    warehouse.require_free_space()
    warehouse.command(view.create_statement)
    if view.columns:  # in one statement, since each analyses the whole view
        comments = (f"COMMENT COLUMN IF EXISTS `{name}` {quote(text)}" for name, text in view.columns.items())
        warehouse.command(f"ALTER TABLE {view.full_name} {', '.join(comments)}")
    return f"{'replaced' if exists else 'created'} view {view.full_name}"
