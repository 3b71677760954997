"""The rows of `history` that are people's, by the snapshot plan."""

import polars as pl

from app.core.errors import SettingsError
from app.core.suggestions import did_you_mean
from app.jobs.forget.patterns import is_name_of_users
from app.jobs.forget.search import UNLOGGED, hex_of_uuid, sql_text
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
        if table.name not in histories:
            continue
        stored = list(columns_of_shop(histories[table.name]))
        kept = list(last[table.name].columns) if table.name in last else stored
        for column in filter(None, (table.person, *table.product.values())):
            if column not in kept and f"source_{column}" not in kept:
                raise SettingsError(
                    f"{settings.snapshots}, [{table.name}] names the column {column}, which history.{table.name} does "
                    f"not have. {did_you_mean(column, kept)} Correct the plan, take a snapshot, and run the same "
                    "command again"
                )
        if table.person:
            dropped = [name for name in stored if name not in kept and is_name_of_users(name)]
            renamed = f"source_{table.person}"
            found[f"history.{table.name}"] = [renamed if renamed in kept else table.person, *dropped]
    return found


def without_owner(warehouse: Warehouse, settings: Settings) -> list[str]:
    """The tables of `history` for which the plan does not say whose a row is."""
    owned = {table.name for table in load_snapshot_plan(settings.snapshots).tables if table.person}
    return sorted(f"history.{name}" for name in existing_histories(warehouse).keys() - owned)


def delete_people(warehouse: Warehouse, journal: Journal, of_history: dict[str, list[str]]) -> None:
    """Delete the person's rows from `history`: all versions of a row of which one was the person's."""
    histories = existing_histories(warehouse)
    for table, columns in of_history.items():
        key = ", ".join(f"`{name}`" for name in key_of(histories[table.removeprefix("history.")]))
        row = f"toString(({key},))"
        uuids = f"SELECT lower(replaceAll(value, '-', '')) FROM ({journal.select(USER)})"
        theirs = " OR ".join(
            f"{text} IN ({journal.select(USER)}) OR {hex_of_uuid(text)} IN ({uuids})" for text in map(sql_text, columns)
        )
        found = warehouse.query(
            f"SELECT DISTINCT {row} AS row FROM {table} WHERE {theirs} {UNLOGGED}", schema={"row": pl.String()}
        )
        journal.add((f"row of {table}", value) for value in found["row"])
        if journal.values(f"row of {table}"):
            delete_rows(warehouse, table, f"{row} IN ({journal.select(f'row of {table}')})")
