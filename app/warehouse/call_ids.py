"""Brings `pd.api_calls` up to date where what counts as an id has changed.

`visitor_hash` is stored and part of the sorting key, so a call whose hash changes has to be written again. Partitions
that hold such calls are copied, and replaced by their copy, which readers see as one change. A process killed inside a
replacement can leave old and new calls together, so a copy that is complete is written to a journal first (a table of
`etl`), and the next migration repeats the replacement. The journal exists from before the first change until the last
call is moved; without it, and with the expressions of the contract, there is nothing to do.
"""

import time
import uuid
from collections.abc import Mapping

import polars as pl

from app.contracts import LABEL, Column, Table
from app.core import console
from app.core.errors import SettingsError, WarehouseError
from app.warehouse.client import Warehouse

_JOURNAL = Table(
    "etl", "regrouping_calls",
    "Copies of partitions of raw calls that are complete: a migration in progress replaces the partitions by them.",
    (Column("partition", LABEL, "partition of pd.api_calls"), Column("copy", "String", "table that holds the copy")),
    order_by="(partition, copy)",
    settings="fsync_after_insert = 1, fsync_part_directory = 1",
)  # fmt: skip
_COPY_PREFIX = "regrouped_calls_"
_INSERTS_LIMIT_S = 600
_POLL_S = 0.5

# `type, comment, default_kind, default_expression` per database, table and column.
ExistingColumns = Mapping[tuple[str, str, str], dict[str, str]]


def existing_columns(warehouse: Warehouse) -> ExistingColumns:
    """The columns of Carat's databases as they are now."""
    columns = warehouse.query(
        "SELECT database, table, name, type, comment, default_kind, default_expression FROM system.columns "
        "WHERE database IN {databases:Array(String)}",
        {"databases": list(warehouse.databases)},
    )
    return {(row["database"], row["table"], row["name"]): row for row in columns.iter_rows(named=True)}


def upgrade_call_ids(warehouse: Warehouse, calls: Table, existing: ExistingColumns) -> list[str]:
    """Give the computed columns of `pd.api_calls` the expressions of the contract, and stored calls their values.

    In: the contract, and the columns that exist. Returns a line for each change. Finishes what a killed process began.
    """
    changed = [
        column
        for column in calls.columns
        if (found := existing.get((calls.database, calls.name, column.name)))
        and _differs(warehouse, column, found["default_kind"], found["default_expression"])
    ]
    is_unfinished = any((database, table) == (_JOURNAL.database, _JOURNAL.name) for database, table, _ in existing)
    if not changed and not is_unfinished:
        return []
    if warehouse.is_node:  # calls would have to move to other shards
        raise SettingsError(
            "CARAT_NO_IDS: not on a cluster yet: the ids that count as none cannot be changed while calls are stored. "
            "Set it back, or fill a new cluster with `carat fill`; see docs/cluster.md"
        )
    warehouse.require_lease()
    warehouse.require_free_space()
    warehouse.command(_JOURNAL.create_statement())
    if changed:
        modified = ", ".join(f"MODIFY COLUMN `{c.name}` {c.type} {c.expression}" for c in changed)
        warehouse.command(f"ALTER TABLE {calls.full_name} {modified}")
    _await_inserts(warehouse, calls)
    partitions = _regroup(warehouse, calls)
    warehouse.command(f"DROP TABLE {_JOURNAL.full_name} SYNC")
    lines = [f"updated the expression of {calls.full_name}.{column.name}" for column in changed]
    return lines + [f"gave the calls of {calls.full_name} in partition {name} their visitors" for name in partitions]


def _differs(warehouse: Warehouse, column: Column, kind: str, expression: str) -> bool:
    """Whether an existing column is computed in another way; the engine prints expressions in its own format."""
    wanted_kind, _, wanted = column.expression.partition(" ")
    if kind != wanted_kind:
        return bool(wanted_kind or kind)
    if expression == wanted:
        return False
    return bool(
        warehouse.scalar(
            "SELECT formatQuerySingleLine({wanted:String}) != formatQuerySingleLine({found:String})",
            {"wanted": f"SELECT {wanted}", "found": f"SELECT {expression}"},
        )
    )


def _await_inserts(warehouse: Warehouse, calls: Table) -> None:
    """Wait for inserts whose client is gone: a call that arrived between copying and replacing would be lost.

    No other client begins one, because writers hold the lease.
    """
    running = (
        "SELECT count() FROM system.processes WHERE query_kind = 'Insert' "
        "AND position(replaceAll(query, '`', ''), {table:String}) > 0"
    )
    deadline = time.monotonic() + _INSERTS_LIMIT_S
    while warehouse.scalar(running, {"table": calls.full_name}):
        if time.monotonic() > deadline:
            raise WarehouseError(
                f"an insert into {calls.full_name} has been running for more than {_INSERTS_LIMIT_S} s: wait until it "
                "ends (see system.processes), then run `carat migrate` again"
            )
        time.sleep(_POLL_S)


def _regroup(warehouse: Warehouse, calls: Table) -> list[str]:
    """Write the calls again whose stored hash is not that of their visitor; returns the partitions."""
    partitions = []
    complete = warehouse.query(
        f"SELECT partition, copy FROM {_JOURNAL.full_name}", schema={"partition": pl.String(), "copy": pl.String()}
    )
    copies = warehouse.query(
        "SELECT name FROM system.tables WHERE database = 'etl' AND startsWith(name, {prefix:String})",
        {"prefix": _COPY_PREFIX},
        schema={"name": pl.String()},
    )["name"].to_list()
    for partition, copy in complete.filter(pl.col("copy").is_in(copies)).iter_rows():
        _replace(warehouse, calls, partition, copy)
        partitions.append(partition)
    for copy in copies:
        warehouse.command(f"DROP TABLE IF EXISTS etl.{copy} SYNC")
    outdated = warehouse.query(
        f"SELECT DISTINCT _partition_id AS partition FROM {calls.full_name} "
        "WHERE visitor_hash != sipHash64(visitor_key) ORDER BY partition",
        schema={"partition": pl.String()},
    )["partition"].to_list()
    with console.progress("migrate", len(outdated)) as bar:
        for partition in outdated:
            bar.label(f"migrate {partition}")
            _regroup_partition(warehouse, calls, partition)
            bar.advance(1)
    return sorted({*partitions, *outdated})


def _regroup_partition(warehouse: Warehouse, calls: Table, partition: str) -> None:
    warehouse.require_free_space()
    copy = f"{_COPY_PREFIX}{partition}_{uuid.uuid4().hex[:12]}"
    columns = ", ".join(column.name for column in calls.written)
    warehouse.command(f"CREATE TABLE etl.{copy} AS {calls.full_name}")
    warehouse.command(
        f"INSERT INTO etl.{copy} ({columns}) SELECT {columns} FROM {calls.full_name} "
        f"WHERE _partition_id = '{partition}' SETTINGS insert_deduplicate = 0"
    )
    warehouse.insert(_JOURNAL, pl.DataFrame([(partition, copy)], schema=_JOURNAL.schema, orient="row"))
    _replace(warehouse, calls, partition, copy)


def _replace(warehouse: Warehouse, calls: Table, partition: str, copy: str) -> None:
    """Replace the partition by its copy; repeating this is harmless."""
    warehouse.require_lease()
    warehouse.command(f"ALTER TABLE {calls.full_name} REPLACE PARTITION ID '{partition}' FROM etl.{copy}")
    warehouse.command(f"DROP TABLE etl.{copy} SYNC")
