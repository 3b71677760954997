"""Erases from a restored warehouse whom the warehouse before it had forgotten since the backup was made."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import polars as pl

from app.contracts import API_CALLS, EVENTS, REJECTS, SESSIONS
from app.core.errors import BackupError
from app.frames.days import business_day
from app.jobs.backup.staged import NEWLY_FORGOTTEN
from app.jobs.forget.erase import Found, erase_found
from app.jobs.forget.identifiers import Identifiers, merged
from app.jobs.forget.plan import people_of_history
from app.jobs.forget.search import UNLOGGED, sql_text
from app.jobs.forget.suppression import (
    TOKEN,
    VISITOR,
    Forgotten,
    are_forgotten,
    identifiers_of,
    named_in_calls,
    read_forgotten,
)
from app.settings import Settings
from app.warehouse import Warehouse
from app.warehouse.hard_delete import Journal

_DEVICES = (VISITOR, TOKEN)
_CALLS = {"call_id": API_CALLS.schema["call_id"], "ts": API_CALLS.schema["ts"]}


def erase_again(warehouse: Warehouse, settings: Settings, *, now: datetime) -> int:
    """Erase them as `carat forget` does; returns how many of their calls and identifiers were erased.

    Nothing of those who were forgotten before the backup is in it, so that all who are forgotten are searched for.
    """
    if not warehouse.scalar(f"SELECT count() FROM {NEWLY_FORGOTTEN}"):
        return 0
    found = _find(warehouse, settings, read_forgotten(warehouse))
    if not found.ids and not found.calls:
        return 0
    erasure = erase_found(warehouse, settings, Journal(warehouse, "forgetting_restored"), found, now=now)
    if not erasure.is_proven:
        raise BackupError(
            "somebody who was forgotten after the backup is still named in the restored warehouse: run the same "
            "command again"
        )
    return len(found.calls) + sum(map(len, (*found.ids.ids, *found.ids.texts, *found.ids.phones)))


def _find(warehouse: Warehouse, settings: Settings, forgotten: Forgotten) -> Found:
    """The calls of forgotten people, and by what else they are named."""
    identifiers, theirs = [_users(warehouse, settings, forgotten), _in_texts(warehouse, forgotten)], []
    for calls in _raw_calls(warehouse):
        own = calls.filter(are_forgotten(calls, forgotten))
        # Devices that are named elsewhere may have another owner by now.
        named = replace(named_in_calls(calls, forgotten), visitors=(), tokens=())
        identifiers += [identifiers_of(own, forgotten), named]
        theirs.append(own.select(*_CALLS))
    raw = pl.concat([pl.DataFrame(schema=_CALLS), *theirs])
    built, sessions = _built(warehouse, forgotten, raw["call_id"])
    every = pl.concat([raw, built]).unique("call_id")
    moments = every["ts"].dt.epoch("ms")
    return Found(
        merged(identifiers),
        every["call_id"].bin.encode("hex").sort().to_list(),
        sessions=sessions,
        days=sorted({business_day(moment, settings.zone) for moment in moments}),
        raw_days=sorted(set(raw["ts"].dt.date())),
    )


def _users(warehouse: Warehouse, settings: Settings, forgotten: Forgotten) -> Identifiers:
    """The forgotten users of raw calls, `dwh` and `history`."""
    columns = [(table, "user_id") for table in (API_CALLS.full_name, EVENTS.full_name, SESSIONS.full_name)]
    columns += [(table, name) for table, names in people_of_history(warehouse, settings).items() for name in names]
    values = {value for table, column in columns for value in _values(warehouse, table, column)}
    return Identifiers(users=tuple(sorted(value for value in values if forgotten.is_user(value))))


def _in_texts(warehouse: Warehouse, forgotten: Forgotten) -> Identifiers:
    """By what rejects and texts of `history` name forgotten people."""
    columns = warehouse.query(
        "SELECT 'history.' || table AS table, name FROM system.columns "
        "WHERE database = 'history' AND type LIKE '%String%' AND NOT match(type, 'Array|Map') "
        "AND table IN (SELECT name FROM system.tables WHERE database = 'history' AND engine LIKE '%MergeTree')",
        schema={"table": pl.String(), "name": pl.String()},
    )
    places = [*columns.iter_rows(), (REJECTS.full_name, "detail")]
    named = [forgotten.named_in(pl.Series(_values(warehouse, *place), dtype=pl.String)) for place in places]
    records = warehouse.query(
        f"SELECT DISTINCT record FROM {REJECTS.full_name} {UNLOGGED}", schema={"record": REJECTS.schema["record"]}
    )
    named.append(forgotten.named_in_records(records["record"].to_list()))
    return replace(merged(named), visitors=(), tokens=())


def _values(warehouse: Warehouse, table: str, column: str) -> list[str]:
    found = warehouse.query(
        f"SELECT DISTINCT {sql_text(column)} AS value FROM {table} {UNLOGGED}",
        schema={"value": pl.String()},
    )
    return [value for value in found["value"] if value]


def _raw_calls(warehouse: Warehouse) -> Iterator[pl.DataFrame]:
    """The raw calls, an hour at a time."""
    hours = warehouse.query(
        "SELECT DISTINCT toUnixTimestamp(toStartOfHour(ts)) AS hour FROM pd.api_calls", schema={"hour": pl.UInt32()}
    )
    columns = ", ".join(API_CALLS.schema.names())
    for hour in hours["hour"].sort():
        yield warehouse.query(
            f"SELECT {columns} FROM pd.api_calls WHERE ts >= toDateTime64({hour}, 3) "
            f"AND ts < toDateTime64({hour + 3600}, 3) {UNLOGGED}",
            schema=API_CALLS.schema,
        )


def _built(warehouse: Warehouse, forgotten: Forgotten, raw: pl.Series) -> tuple[pl.DataFrame, list[str]]:
    """Calls of `dwh` whose raw calls may be gone, and sessions that consist of forgotten people's calls alone."""
    columns = ("call_id", "ts", "session_id", "visitor_id")
    calls, sessions = [pl.DataFrame(schema=_CALLS)], set()
    days = warehouse.query(f"SELECT DISTINCT event_date AS day FROM {EVENTS.full_name}", schema={"day": pl.Date()})
    for day in days["day"]:
        events = warehouse.query(
            f"SELECT {', '.join(columns)} FROM {EVENTS.full_name} WHERE event_date = toDate('{day}') {UNLOGGED}",
            schema={name: EVENTS.schema[name] for name in columns},
        )
        moments = {
            visitor: max((at for kind in _DEVICES if (at := forgotten.moment(kind, visitor))), default=None)
            for visitor in events["visitor_id"].unique()
        }
        until = pl.col("visitor_id").replace_strict(moments, default=None, return_dtype=_CALLS["ts"])
        is_theirs = (pl.col("ts") <= until).fill_null(value=False) | pl.col("call_id").is_in(raw.implode())
        events = events.with_columns(is_theirs=is_theirs)
        calls.append(events.filter("is_theirs").select(*_CALLS))
        whole = events.group_by("session_id").agg(pl.col("is_theirs").all()).filter("is_theirs")
        sessions |= set(whole["session_id"])
    return pl.concat(calls), sorted(sessions)
