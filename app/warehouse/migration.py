"""Creates and upgrades databases, tables and views from the contracts; safe to repeat."""

from collections.abc import Sequence

from app.contracts import API_CALLS, Column, Table, all_tables, raw_calls
from app.core.errors import WarehouseError
from app.core.sql import quote
from app.rules.snapshot_plan import SnapshotPlan, load_snapshot_plan
from app.settings import Settings
from app.warehouse.call_ids import existing_columns, upgrade_call_ids
from app.warehouse.client import Warehouse
from app.warehouse.dwh_views import dwh_views
from app.warehouse.history import existing_histories, refresh_history_views
from app.warehouse.prepared import read_state, remember
from app.warehouse.shop_views import refresh_shop_views
from app.warehouse.views import View, replace_views

_ADDED_COLUMN = "added column"
_FIXED_SETTINGS = ("index_granularity",)  # as the table was created


def migrate(warehouse: Warehouse, settings: Settings, *, every_replica: bool = False) -> list[str]:
    """Create and upgrade what differs from the contracts; returns a line for each change.

    With `every_replica` also on the replicas of a cluster on which Carat does not work.
    """
    warehouse.require_free_space()
    calls = raw_calls(settings.no_id_values)
    views, plan = dwh_views(settings), load_snapshot_plan(settings.snapshots)
    # What one server remembers says nothing of the other shards.
    state = None if warehouse.is_cluster else read_state(warehouse, calls, views, plan, settings)
    if state and state.is_prepared:
        return []
    changes = _migrate(warehouse, settings, calls, views, plan, every_replica=every_replica)
    if state and not changes:
        remember(warehouse, state)
    return changes


def _migrate(
    warehouse: Warehouse,
    settings: Settings,
    calls: Table,
    views: Sequence[View],
    plan: SnapshotPlan,
    *,
    every_replica: bool,
) -> list[str]:
    changes = [f"{node.prefix}{line}" for node in warehouse.nodes for line in _migrate_tables(node, settings, calls)]
    for replica in warehouse.other_replicas() if every_replica else ():
        with replica:
            changes += (f"{replica.prefix}{line}" for line in _migrate_tables(replica, settings, calls))
    changes += warehouse.show_nodes()
    have_new_columns = any(f"{_ADDED_COLUMN} " in change for change in changes)
    changes += replace_views(warehouse, views, have_new_columns=have_new_columns)
    changes += refresh_history_views(warehouse, existing_histories(warehouse).values())
    return changes + refresh_shop_views(warehouse, plan, settings.timezone)


def _migrate_tables(warehouse: Warehouse, settings: Settings, all_calls: Table) -> list[str]:
    """Create and upgrade the databases and tables of one server; returns a line for each change."""
    changes = []
    known = set(warehouse.query("SELECT name FROM system.databases")["name"])
    warehouse.require_fitting(known)
    for name, comment in warehouse.databases.items():
        if name not in known:
            warehouse.command(f"CREATE DATABASE IF NOT EXISTS {name} COMMENT {quote(comment)}")
            changes.append(f"created database {name}")
    existing = existing_columns(warehouse)
    tables = {(database, table) for database, table, _ in existing}
    calls = warehouse.as_stored(all_calls)
    for table in [calls if table is API_CALLS else warehouse.as_stored(table) for table in all_tables()]:
        if (table.database, table.name) not in tables:
            ttl = f"toDateTime(ts) + INTERVAL {settings.raw_retention_days} DAY"
            is_kept_for_a_time = table is calls and settings.raw_retention_days
            warehouse.command(table.create_statement(ttl=ttl if is_kept_for_a_time else ""))
            changes.append(f"created table {table.full_name}")
            continue
        for column in table.columns:
            found = existing.get((table.database, table.name, column.name))
            changes += _upgrade_column(warehouse, table, column, found)
    changes += upgrade_call_ids(warehouse, calls, existing)
    return changes + _upgrade_settings(warehouse)


def _upgrade_column(warehouse: Warehouse, table: Table, column: Column, found: dict[str, str] | None) -> list[str]:
    if found is None:
        previous = table.columns[table.columns.index(column) - 1].name
        warehouse.command(f"ALTER TABLE {table.full_name} ADD COLUMN IF NOT EXISTS {column.ddl} AFTER `{previous}`")
        return [f"{_ADDED_COLUMN} {table.full_name}.{column.name}"]
    if found["type"].replace(" ", "") != column.type.replace(" ", ""):
        raise WarehouseError(
            f"{table.full_name}.{column.name} is {found['type']}, this version of Carat writes {column.type}: "
            f"convert it with ALTER TABLE {table.full_name} MODIFY COLUMN `{column.name}` {column.type}, or move the "
            "table away and run `carat migrate` again"
        )
    if found["comment"] != column.comment:
        warehouse.command(f"ALTER TABLE {table.full_name} COMMENT COLUMN `{column.name}` {quote(column.comment)}")
        return [f"updated the comment of {table.full_name}.{column.name}"]
    return []


def _upgrade_settings(warehouse: Warehouse) -> list[str]:
    """Give existing tables the settings of their contracts that can be changed."""
    changes = []
    engines = warehouse.query(
        "SELECT database || '.' || name AS name, engine_full FROM system.tables "
        "WHERE database IN {databases:Array(String)}",
        {"databases": list(warehouse.databases)},
    )
    found = dict(engines.iter_rows())
    for table in map(warehouse.as_stored, all_tables()):
        wanted = [text for text in table.settings.split(", ") if text and not text.startswith(_FIXED_SETTINGS)]
        missing = [text for text in wanted if text not in found[table.full_name]]
        if missing:
            warehouse.command(f"ALTER TABLE {table.full_name} MODIFY SETTING {', '.join(missing)}")
            changes.append(f"set {', '.join(missing)} of {table.full_name}")
    return changes
