"""The rows of `history` that are people's, by the snapshot plan."""

import polars as pl

from app.core.errors import SettingsError
from app.core.suggestions import did_you_mean
from app.jobs.forget.patterns import is_name_of_users
from app.jobs.forget.search import UNLOGGED
from app.jobs.forget.suppression import USER
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import Settings
from app.warehouse import Warehouse
from app.warehouse.hard_delete import Journal, delete_rows
from app.warehouse.history import columns_of_shop, existing_histories, key_of, last_snapshots


def people_of_history(warehouse: Warehouse, settings: Settings) -> dict[str, list[str]]:
    """Per table of `history` that holds people's rows: the column with the user id, then columns that once held it.

    Raises SettingsError where the plan names a column that the table does not have, or has no longer: its rows could
    not be told apart.
    """
    plan = load_snapshot_plan(settings.snapshots)
    histories = existing_histories(warehouse)
    last = last_snapshots(warehouse, [histories[table.name] for table in plan.tables if table.name in histories])
    found = {}
    for table in plan.tables:
        if not table.person or table.name not in histories:
            continue
        stored = list(columns_of_shop(histories[table.name]))
        kept = list(last[table.name].columns) if table.name in last else stored
        column = next((name for name in (f"source_{table.person}", table.person) if name in kept), "")
        if not column:
            raise SettingsError(
                f"{settings.snapshots}, [{table.name}]: person = {table.person!r}, but history.{table.name} "
                f"has no such column. {did_you_mean(table.person, kept)} Name the column that holds the user id, take a "
                "snapshot, and run the same command again"
            )
        dropped = [name for name in stored if name not in kept and is_name_of_users(name)]
        found[f"history.{table.name}"] = [column, *dropped]
    return found


def delete_people(warehouse: Warehouse, journal: Journal, of_history: dict[str, list[str]]) -> None:
    """Delete the person's rows from `history`: all versions of a row of which one was the person's."""
    histories = existing_histories(warehouse)
    for table, columns in of_history.items():
        key = ", ".join(f"`{name}`" for name in key_of(histories[table.removeprefix("history.")]))
        row = f"toString(({key},))"
        theirs = " OR ".join(f"toString(`{column}`) IN ({journal.select(USER)})" for column in columns)
        found = warehouse.query(
            f"SELECT DISTINCT {row} AS row FROM {table} WHERE {theirs} {UNLOGGED}", schema={"row": pl.String()}
        )
        journal.add((f"row of {table}", value) for value in found["row"])
        if journal.values(f"row of {table}"):
            delete_rows(warehouse, table, f"{row} IN ({journal.select(f'row of {table}')})")
