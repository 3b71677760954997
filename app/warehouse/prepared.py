"""Remembers of which tables and views a migration found that nothing differs, so that the next one need not look again.

What a migration does follows from what it wants (contracts, settings, snapshot plan, its code) and from what is there.
The digest of both is stored after a migration that changed nothing. Equal digests: it would change nothing again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import polars as pl

from app.contracts import DATABASES, PREPARED, Table, all_tables
from app.core.sql import quote
from app.rules.snapshot_plan import SnapshotPlan
from app.settings import Settings
from app.warehouse.client import Warehouse
from app.warehouse.views import View

_CODE = ("call_ids.py", "history.py", "migration.py", "shop_views.py", "views.py")
_MOST_KEPT = 100  # digests, such as those of installations that take turns
# Temporary tables come and go; the comment of a lease says when it was renewed.
_OF_CARAT = (
    f"database IN ({', '.join(map(quote, DATABASES))}) AND NOT (database = 'etl' AND "
    "match(name, '^(staged|changed|unread|writer_lease|incoming_ids)'))"
)
_FOUND = f"""
    SELECT sum(cityHash64(database, name, engine, engine_full, as_select, comment)) AS tables,
        countIf(database = 'etl' AND name IN ('prepared', 'snapshots')) = 2 AS can_be_known,
        (SELECT sum(cityHash64(database, table, name, position, type, comment, default_kind, default_expression))
            FROM system.columns WHERE {_OF_CARAT.replace("name,", "table,")}) AS columns
    FROM system.tables WHERE {_OF_CARAT}"""
# Views of history also follow from which columns the shop had, and since when it has not.
_KNOWN = """
    SELECT groupArray(digest) AS known,
        (SELECT sum(cityHash64(table, columns)) FROM (
            SELECT DISTINCT table, columns FROM etl.snapshots WHERE state = 'done')) AS shop_columns,
        (SELECT sum(cityHash64(table, at, columns, mode)) FROM etl.snapshots WHERE state = 'done'
            AND (notEmpty(added) OR notEmpty(dropped) OR notEmpty(retyped) OR mode != 'append')) AS shop_changes
    FROM etl.prepared"""


@dataclass(frozen=True)
class State:
    """The digest of what a migration wants and of what is there, and whether one found nothing to change there."""

    digest: str
    known: Sequence[str]

    @property
    def is_prepared(self) -> bool:
        return self.digest in self.known


def read_state(
    warehouse: Warehouse, calls: Table, views: Sequence[View], plan: SnapshotPlan, settings: Settings
) -> State | None:
    """The state before a migration that wants these; None where none can be remembered yet."""
    tables, can_be_known, columns = warehouse.query(_FOUND).row(0)
    if not can_be_known:
        return None
    known, *shop = warehouse.query(_KNOWN).row(0)
    contracts = [table.create_statement() for table in (calls, *all_tables())]
    wanted = (_code_digest(), DATABASES, contracts, views, plan, settings.timezone)
    found = (tables, columns, *shop)
    return State(hashlib.sha256(repr((wanted, found)).encode()).hexdigest(), known)


def remember(warehouse: Warehouse, state: State) -> None:
    """Store that a migration from this state changed nothing."""
    if len(state.known) >= _MOST_KEPT:
        warehouse.command("TRUNCATE TABLE etl.prepared")
    row = {"digest": state.digest, "at": datetime.now(tz=UTC)}
    warehouse.insert(PREPARED, pl.DataFrame([row], schema=PREPARED.schema))


@cache
def _code_digest() -> str:
    folder = Path(__file__).parent
    return hashlib.sha256(b"\0".join((folder / name).read_bytes() for name in _CODE)).hexdigest()
