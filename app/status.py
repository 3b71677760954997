"""How the warehouse is doing: freshness and rows of each table, last snapshots and runs, what was rejected lately."""

import polars as pl

from app.contracts import API_CALLS, DWH_TABLES
from app.warehouse import Warehouse

_NEWEST = {"api_calls": "max(toDate(ts))"}


def freshness(warehouse: Warehouse) -> pl.DataFrame:
    """`table, rows, newest_day, built_at` of the raw calls and of each table of dwh."""
    parts = []
    for table in (API_CALLS, *DWH_TABLES):
        newest = _NEWEST.get(table.name, f"max({table.partition_by})")
        built = f"(SELECT max(built_at) FROM etl.ledger WHERE job = '{table.name}')"
        built = "max(received_at)" if table is API_CALLS else built
        parts.append(
            f"SELECT '{table.full_name}' AS table, count() AS rows, if(rows = 0, NULL, {newest}) AS newest_day, "
            f"if(rows = 0, NULL, {built}) AS built_at FROM {table.full_name}"
        )
    return warehouse.query(" UNION ALL ".join(f"SELECT * FROM ({part})" for part in parts)).sort("table")


def last_snapshots(warehouse: Warehouse) -> pl.DataFrame:
    """What became of each history table last, refused and interrupted snapshots included."""
    return warehouse.query(
        "SELECT table, at, state, rows, inserts, updates, deletes, guarantee, error FROM etl.snapshots "
        "ORDER BY recorded_at DESC LIMIT 1 BY table"
    ).sort("table")


def last_runs(warehouse: Warehouse, *, limit: int = 10) -> pl.DataFrame:
    """The newest runs first."""
    return warehouse.query(
        "SELECT started_at, job, day, state, rows_in, rows_out, rows_rejected AS rejected, seconds, error "
        "FROM etl.runs "
        f"ORDER BY started_at DESC LIMIT {limit}"
    )


def recent_rejects(warehouse: Warehouse) -> pl.DataFrame:
    """Rejects by reason, the most frequent first."""
    return warehouse.query(
        "SELECT reason, count() AS records, max(rejected_at) AS last_at, any(detail) AS example FROM etl.rejects "
        "GROUP BY reason ORDER BY records DESC, reason"
    )
