"""The state of the warehouse: freshness and rows, the spool, last snapshots and runs, rejects, how the map fits."""

from datetime import UTC, datetime

import polars as pl

from app.contracts import API_CALLS, published_tables
from app.intake.spool import delivery_lag_s, spool_backlog
from app.rules.snapshot_plan import PRODUCT_ATTRIBUTES
from app.settings import Settings
from app.warehouse import Warehouse

_RECENT_DAYS = 7
_PRODUCT_DAYS = 30
_EPOCH_YEAR = 1970  # what the engine gives as the greatest of no times


def freshness(warehouse: Warehouse) -> pl.DataFrame:
    """`table, rows, newest_day, built_at` of the raw calls and of each table of dwh."""
    newest = {API_CALLS.full_name: ("toDate(max(ts))", "max(received_at)")} | {
        table.full_name: (f"max({table.day})", f"(SELECT max(built_at) FROM etl.ledger WHERE job = '{table.name}')")
        for table in published_tables()
    }
    parts = [
        f"SELECT '{name}' AS table, count() AS rows, if(rows = 0, NULL, {day}) AS newest_day, "
        f"if(rows = 0, NULL, {built_at}) AS built_at FROM {name}"
        for name, (day, built_at) in newest.items()
    ]
    sql = " UNION ALL ".join(f"SELECT * FROM ({part})" for part in parts)
    if len(warehouse.nodes) == 1:
        return warehouse.query(sql).sort("table")
    of_nodes = pl.concat([node.query(sql) for node in warehouse.nodes], how="vertical_relaxed")
    of_tables = of_nodes.group_by("table").agg(pl.col("rows").sum(), pl.col("newest_day", "built_at").max())
    is_known = pl.col("built_at").dt.year() > _EPOCH_YEAR  # the ledger is on the first shard
    return of_tables.with_columns(pl.when(is_known).then("built_at").alias("built_at")).sort("table")


def spool_state(settings: Settings) -> pl.DataFrame:
    """`segments, bytes` that wait for delivery, since when the oldest does, and how long the last one delivered did."""
    depth = spool_backlog(settings.spool)
    oldest_at = datetime.fromtimestamp(depth.oldest_at_ms / 1000, tz=UTC) if depth.oldest_at_ms else None
    row = {
        "segments": depth.segments,
        "bytes": depth.bytes,
        "oldest_at": oldest_at,
        "delivery_lag_s": delivery_lag_s(settings.spool),
    }
    schema = {"segments": pl.Int64(), "bytes": pl.Int64(), "oldest_at": API_CALLS.schema["ts"]}
    return pl.DataFrame([row], schema=schema | {"delivery_lag_s": pl.Float64()})


def last_snapshots(warehouse: Warehouse) -> pl.DataFrame:
    """The last snapshot of each history table, including failed and interrupted ones."""
    return warehouse.query(
        "SELECT table, at, state, rows, inserts, updates, deletes, guarantee, error FROM etl.snapshots "
        "ORDER BY recorded_at DESC LIMIT 1 BY table"
    ).sort("table")


def last_runs(warehouse: Warehouse, *, limit: int = 10) -> pl.DataFrame:
    """The newest runs first; only the last two loads, because there may be one every few seconds."""
    return warehouse.query(
        "SELECT started_at, job, day, state, rows_in, rows_out, rows_rejected AS rejected, seconds, error "
        "FROM etl.runs ORDER BY started_at DESC "
        f"LIMIT 2 BY if(job = 'load', job, run_id) LIMIT {limit}"
    )


def map_misfits(warehouse: Warehouse) -> pl.DataFrame:
    """Where the endpoint map does not fit the calls of the last seven days built: each place as its last day says."""
    return warehouse.query(
        "SELECT max(day) AS last_day, count() AS days, if(map_entry = '', 'the map', map_entry) AS entry, field, "
        "argMax(found.problem, day) AS problem, argMax(found.fix, day) AS fix FROM dwh.map_fit AS found "
        f"WHERE found.problem != '' AND day > (SELECT max(day) FROM etl.coverage) - {_RECENT_DAYS} "
        "GROUP BY map_entry, field ORDER BY map_entry != '', max(calls) DESC, map_entry, field"
    )


def products_met(warehouse: Warehouse) -> pl.DataFrame:
    """Of the products that were viewed or bought in the last 30 days built, how many the shop's database knows.

    One row: `last_day, products, found, examples` of those that no snapshot has; no row before the first build.
    """
    known = " OR ".join(f"{name} IS NOT NULL" for name in PRODUCT_ATTRIBUTES)
    if len(warehouse.nodes) > 1:
        return _products_met_on(warehouse, known)
    return warehouse.query(
        "SELECT max(last_day) AS last_day, count() AS products, countIf(is_known) AS found, "
        "arraySort(groupArrayIf(3)(product_id, NOT is_known)) AS examples FROM ("
        f"SELECT product_id, max(session_date) AS last_day, max({known}) AS is_known FROM dwh.product_sessions "
        f"WHERE session_date > (SELECT max(session_date) FROM dwh.product_sessions) - {_PRODUCT_DAYS} "
        "AND (views > 0 OR orders > 0) GROUP BY product_id) HAVING products > 0"
    )


def _products_met_on(cluster: Warehouse, known: str) -> pl.DataFrame:
    """The same of a cluster, whose nodes may each hold visits to one product."""
    newest = [node.scalar("SELECT max(session_date) FROM dwh.product_sessions") for node in cluster.nodes]
    sql = (
        f"SELECT product_id, max(session_date) AS last_day, max({known}) AS is_known FROM dwh.product_sessions "
        f"WHERE session_date > {{newest:Date}} - {_PRODUCT_DAYS} AND (views > 0 OR orders > 0) GROUP BY product_id"
    )
    schema = {"product_id": pl.String(), "last_day": pl.Date(), "is_known": pl.UInt8()}
    of_nodes = pl.concat([node.query(sql, {"newest": max(newest)}, schema=schema) for node in cluster.nodes])
    products = of_nodes.group_by("product_id").agg(pl.col("last_day", "is_known").max())
    is_known = pl.col("is_known") > 0
    unknown = pl.col("product_id").filter(~is_known).sort().head(3)
    found = products.select(
        pl.col("last_day").max(), products=pl.len(), found=is_known.sum(), examples=unknown.implode()
    )
    return found.filter(pl.col("products") > 0)


def recent_rejects(warehouse: Warehouse) -> pl.DataFrame:
    """Rejects by reason, the most frequent first."""
    return warehouse.query(
        "SELECT reason, count() AS records, max(rejected_at) AS last_at, any(detail) AS example FROM etl.rejects "
        "GROUP BY reason ORDER BY records DESC, reason"
    )
