"""Erases from a restored warehouse whom the warehouse before it had forgotten since the backup was made."""

from datetime import date, datetime

import polars as pl

from app.contracts import API_CALLS, EVENTS, SESSIONS, PersonKey, dwh_tables
from app.core.errors import BackupError
from app.frames.days import business_day
from app.jobs.backup.staged import NEWLY_FORGOTTEN
from app.jobs.forget.erase import erase_days, forget_user
from app.jobs.forget.suppression import CALL, TOKEN, VISITOR, Forgotten, without_forgotten
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import Settings
from app.warehouse import Warehouse
from app.warehouse.hard_delete import Journal, delete_rows, inactive_parts, remove_masked, remove_old_parts

_DEVICES = (VISITOR, TOKEN)
_DAY = "day"
_READ = ("call_id", "ts", "user_id", "visitor_id", "session_token", "ip", "user_agent")
_UNLOGGED = "SETTINGS log_queries = 0"


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
    columns = [(table, "user_id") for table in (API_CALLS.full_name, EVENTS.full_name, SESSIONS.full_name)]
    columns += _of_history(warehouse, settings)
    return {value for table, column in columns for value in _values(warehouse, table, column)}


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
        f"SELECT DISTINCT ifNull(toString(`{column}`), '') AS value FROM {table} {_UNLOGGED}",
        schema={"value": pl.String()},
    )
    return [value for value in found["value"] if value]


def _erase_guests(warehouse: Warehouse, settings: Settings, newly: Forgotten) -> int:
    """Erase what no user id names: calls by visitor, session token or call, and what was built from them."""
    journal = Journal(warehouse, "forgetting_restored")
    journal.open()
    raw_days = _days(warehouse, "toDate(ts)", API_CALLS.full_name)
    for raw_day in raw_days:
        _note_calls(journal, settings, _raw_calls(warehouse, raw_day, newly))
    for day in _days(warehouse, "event_date", EVENTS.full_name):
        _note_built(warehouse, journal, settings, day, newly)
    calls = len(journal.values(CALL))
    tables = [API_CALLS.full_name, *(table.full_name for table in dwh_tables())]
    if calls:
        theirs = f"call_id IN ({journal.select(CALL, as_type='UUID')})"
        delete_rows(warehouse, API_CALLS.full_name, theirs, days=raw_days)
        remove_masked(warehouse, API_CALLS.full_name, raw_days)
        erase_days(warehouse, settings, journal)
        remove_old_parts(warehouse, {table: inactive_parts(warehouse, table) for table in tables})
    journal.close()
    return calls


def _days(warehouse: Warehouse, day: str, table: str) -> list[date]:
    found = warehouse.query(f"SELECT DISTINCT {day} AS day FROM {table} ORDER BY day", schema={"day": pl.Date()})
    return found["day"].to_list()


def _raw_calls(warehouse: Warehouse, raw_day: date, newly: Forgotten) -> pl.DataFrame:
    """The calls of a day of `pd` that belong to forgotten people."""
    calls = warehouse.query(
        f"SELECT {', '.join(_READ)} FROM pd.api_calls WHERE toDate(ts) = toDate('{raw_day}') {_UNLOGGED}",
        schema=pl.Schema({name: API_CALLS.schema[name] for name in _READ}),
    ).with_row_index("row")
    kept = without_forgotten(calls, newly)["row"]
    return calls.filter(~pl.col("row").is_in(kept.implode()))


def _note_calls(journal: Journal, settings: Settings, calls: pl.DataFrame) -> None:
    days = {business_day(round(at.timestamp() * 1000), settings.zone) for at in calls["ts"]}
    journal.add([(CALL, call.hex()) for call in calls["call_id"]] + [(_DAY, day.isoformat()) for day in days])


def _note_built(warehouse: Warehouse, journal: Journal, settings: Settings, day: date, newly: Forgotten) -> None:
    """Note calls of a day of `dwh` whose raw calls may be gone, and sessions that consist of such calls alone."""
    events = warehouse.query(
        f"SELECT call_id, ts, session_id, visitor_id FROM {EVENTS.full_name} "
        f"WHERE event_date = toDate('{day}') {_UNLOGGED}",
        schema={name: EVENTS.schema[name] for name in ("call_id", "ts", "session_id", "visitor_id")},
    )
    visitors = [
        visitor for visitor in events["visitor_id"].unique() if any(newly.moment(kind, visitor) for kind in _DEVICES)
    ]
    noted = [bytes.fromhex(call) for call in journal.values(CALL)]
    is_theirs = pl.col("visitor_id").is_in(visitors) | pl.col("call_id").is_in(noted)
    events = events.with_columns(is_theirs=is_theirs)
    _note_calls(journal, settings, events.filter("is_theirs"))
    sessions = events.group_by("session_id").agg(pl.col("is_theirs").all()).filter("is_theirs")["session_id"]
    journal.add((PersonKey.SESSION, session) for session in sessions)
