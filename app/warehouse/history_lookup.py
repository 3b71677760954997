"""Looks up the latest versions of some rows of `history`, and says whether a history is as it was."""

from collections.abc import Sequence

import polars as pl

from app.contracts import Table
from app.warehouse.client import Warehouse
from app.warehouse.history import key_of


def latest_of_keys(warehouse: Warehouse, table: Table, columns: Sequence[str], keys: pl.DataFrame) -> pl.DataFrame:
    """These columns of the latest version of each of these keys that history has, in the order of the key."""
    of_key = [column for column in table.columns if column.name in key_of(table)]
    names = ", ".join(f"`{column.name}`" for column in of_key)
    asked = Table("etl", f"unread_keys_{table.name}", "", tuple(of_key), order_by="tuple()")
    listed = ", ".join(column.ddl for column in of_key)
    warehouse.command(f"CREATE OR REPLACE TABLE {asked.full_name} ({listed}) ENGINE = Memory")
    try:
        warehouse.insert(asked, keys.select(column.name for column in of_key))
        return warehouse.query(
            f"SELECT {', '.join(f'`{name}`' for name in columns)} FROM {table.full_name} "
            f"WHERE ({names}) IN (SELECT {names} FROM {asked.full_name}) "
            f"ORDER BY {names}, version DESC LIMIT 1 BY {names} SETTINGS output_format_arrow_string_as_string = 0",
            schema={name: table.schema[name] for name in columns},
        )
    finally:
        warehouse.drop_tables([asked.full_name])


def state_of_history(warehouse: Warehouse, table: str) -> str:
    """What says that a history holds the same versions: it changes with each that is added, changed or removed.

    It is the table's UUID, its rows, its last insert and mutation, which merges of parts leave as they are, and the
    snapshot that changed it last.
    """
    found = warehouse.query(
        "SELECT toString(any(t.uuid)) AS uuid, sum(p.rows) AS rows, max(p.max_block_number) AS block, "
        "max(toUInt64OrZero(splitByChar('_', p.name)[5])) AS mutation, "
        "(SELECT argMax(snapshot_id, recorded_at) FROM etl.snapshots WHERE table = {table:String} AND state = 'done' "
        "AND (mode != 'append' OR inserts + updates + deletes > 0)) AS snapshot_id "
        "FROM system.tables AS t LEFT JOIN (SELECT * FROM system.parts WHERE active AND database = 'history') AS p "
        "ON p.table = t.name WHERE t.database = 'history' AND t.name = {table:String}",
        {"table": table},
    )
    return " ".join(str(value) for value in found.row(0))
