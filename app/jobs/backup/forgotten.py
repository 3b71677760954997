"""Erases from a restored warehouse whom the warehouse before it had forgotten since the backup was made."""

from collections.abc import Iterator
from datetime import date, datetime

import polars as pl

from app.contracts import API_CALLS, PersonKey, dwh_tables
from app.core.errors import BackupError
from app.frames.days import business_day
from app.jobs.backup.staged import NEWLY_FORGOTTEN
from app.jobs.build.backfill import build_stale
from app.jobs.forget.erase import forget_user
from app.jobs.forget.suppression import CALL, Forgotten, without_forgotten
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import Settings
from app.warehouse import Warehouse
from app.warehouse.hard_delete import Journal, delete_rows, inactive_parts, remove_masked, remove_old_parts

_KINDS = {PersonKey.USER: "user", PersonKey.VISITOR: "visitor"}
_DAY = "day"
_READ = ("call_id", "ts", "user_id", "visitor_id", "session_token", "ip", "user_agent")


def erase_again(warehouse: Warehouse, settings: Settings, *, now: datetime) -> int:
    """Erase them as `carat forget` does; returns how many users and calls were erased."""
    newly = _newly_forgotten(warehouse)
    if not newly:
        return 0
    users = sorted(value for value in _users(warehouse, settings) if newly.is_user(value))
    for user in users:
        erasure = forget_user(warehouse, settings, user, now=now)
        if not erasure.is_proven:
            raise BackupError(
                "somebody who was forgotten after the backup is still named in the restored warehouse: run the same "
                "command again"
            )
    return len(users) + _erase_guests(warehouse, settings, newly)


def _newly_forgotten(warehouse: Warehouse) -> Forgotten:
    rows = warehouse.query(
        f"SELECT key, kind, digest, max(forgotten_at) AS at FROM {NEWLY_FORGOTTEN} GROUP BY key, kind, digest",
        schema={"key": pl.String(), "kind": pl.String(), "digest": pl.String(), "at": pl.Datetime("ms", "UTC")},
    )
    until = {(kind, digest): at for _, kind, digest, at in rows.iter_rows()}
    return Forgotten(rows["key"][0], until) if until else Forgotten()


def _users(warehouse: Warehouse, settings: Settings) -> set[str]:
    """Every user id in raw calls, in `dwh` and in `history`."""
    columns = [(API_CALLS.full_name, "user_id"), *_person_columns(PersonKey.USER), *_of_history(warehouse, settings)]
    return {value for table, column in columns for value in _values(warehouse, table, column)}


def _person_columns(kind: PersonKey) -> Iterator[tuple[str, str]]:
    for table in dwh_tables():
        yield from ((table.full_name, column) for column, key in table.person_keys if key is kind)


def _of_history(warehouse: Warehouse, settings: Settings) -> list[tuple[str, str]]:
    there = warehouse.query(
        "SELECT table, name FROM system.columns WHERE database = 'history'",
        schema={"table": pl.String(), "name": pl.String()},
    )
    columns = set(there.iter_rows())
    return [
        (f"history.{table.name}", name)
        for table in load_snapshot_plan(settings.snapshots).tables
        for name in (table.person, f"source_{table.person}")
        if table.person and (table.name, name) in columns
    ]


def _values(warehouse: Warehouse, table: str, column: str) -> list[str]:
    found = warehouse.query(
        f"SELECT DISTINCT ifNull(toString(`{column}`), '') AS value FROM {table} SETTINGS log_queries = 0",
        schema={"value": pl.String()},
    )
    return [value for value in found["value"] if value]


def _erase_guests(warehouse: Warehouse, settings: Settings, newly: Forgotten) -> int:
    """Erase what no user id names: calls by visitor, session token or call, and what was built from them."""
    journal = Journal(warehouse, "forgetting_restored")
    journal.open()
    raw_days = warehouse.query("SELECT DISTINCT toDate(ts) AS day FROM pd.api_calls", schema={"day": pl.Date()})["day"]
    for raw_day in raw_days:
        theirs = _calls(warehouse, raw_day, newly)
        days = {business_day(round(at.timestamp() * 1000), settings.zone) for at in theirs["ts"]}
        journal.add([(CALL, call.hex()) for call in theirs["call_id"]] + [(_DAY, str(day)) for day in days])
    for kind, name in _KINDS.items():
        found = {value for place in _person_columns(kind) for value in _values(warehouse, *place)}
        journal.add((kind, value) for value in found if newly.moment(name, value))
    calls = len(journal.values(CALL))
    tables = [API_CALLS.full_name, *(table.full_name for table in dwh_tables() if table.person_keys)]
    if calls:
        delete_rows(
            warehouse, API_CALLS.full_name, f"call_id IN ({journal.select(CALL, as_type='UUID')})", days=list(raw_days)
        )
        remove_masked(warehouse, API_CALLS.full_name, list(raw_days))
    for day in map(date.fromisoformat, journal.values(_DAY)):
        build_stale(warehouse, settings, span=(day, day), skip_row_count_check=True).require_done()
    for kind in _KINDS:
        if journal.values(kind):
            for table, column in _person_columns(kind):
                delete_rows(warehouse, table, f"{column} IN ({journal.select(kind)})")
    remove_old_parts(warehouse, {table: inactive_parts(warehouse, table) for table in tables})
    journal.close()
    return calls


def _calls(warehouse: Warehouse, raw_day: date, newly: Forgotten) -> pl.DataFrame:
    """The calls of a day of `pd` that belong to forgotten people."""
    columns = pl.Schema({name: API_CALLS.schema[name] for name in _READ})
    calls = warehouse.query(
        f"SELECT {', '.join(_READ)} FROM pd.api_calls WHERE toDate(ts) = toDate('{raw_day}') SETTINGS log_queries = 0",
        schema=columns,
    )
    kept = without_forgotten(calls.with_row_index("row"), newly)["row"]
    return calls.with_row_index("row").filter(~pl.col("row").is_in(kept.implode()))
