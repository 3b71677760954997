"""Erases a person everywhere, raw calls included, and proves it.

A person's data is the calls that carry the user id, and guests' calls that are stitched to the user as in `dwh.visits`.
Other people's calls on a shared device stay. What is to be erased is written to a journal first and every step can be
repeated, so the same command finishes what a killed one began.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import polars as pl

from app.contracts import API_CALLS, REJECTS, DwhTable, PersonKey, dwh_tables
from app.core import console
from app.core.errors import SettingsError
from app.frames.days import business_day
from app.frames.identity import CALLS, exclusive_ids, resolve_identity
from app.intake.call_frames import content_hashes
from app.jobs.build.backfill import build_stale
from app.jobs.forget.search import Identifiers, Occurrence, data_tables, find_occurrences, redacted, rows_that_name
from app.jobs.forget.spool import occurrences_in_spool, redact_spool
from app.jobs.forget.suppression import CALL, TOKEN, USER, VISITOR, remember_forgotten
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import Settings
from app.warehouse import Warehouse
from app.warehouse.hard_delete import Journal, delete_rows, inactive_parts, remove_masked, remove_old_parts, update_rows

_TEXTS = ("request", "response", "page_url", "referrer")
_ERRORS = {"etl.runs": "run_id", "etl.snapshots": "snapshot_id"}
_SESSION, _DAY, _RAW_DAY, _REJECT, _RECORD, _RUN = PersonKey.SESSION, "day", "raw day", "reject", "record", "run"
_RAW_CALLS = """call_id, ts, visitor_key, valid_visitor_id AS visitor_id, valid_session_token AS session_token,
    valid_user_id AS user_id"""
_UNLOGGED = "SETTINGS log_queries = 0"


@dataclass(frozen=True)
class TableErased:
    """A table: its rows before and after, and those that named the person before and after."""

    table: str
    rows_before: int
    rows_after: int
    named_before: int
    named_after: int


@dataclass(frozen=True)
class Erasure:
    """What was erased, or with `is_dry` would be, and where the person is still named."""

    calls: int
    visitors: int
    tokens: int
    days: tuple[date, ...]
    tables: list[TableErased]
    files: dict[str, int]
    occurrences: list[Occurrence]
    old_parts: int
    is_dry: bool

    @property
    def is_proven(self) -> bool:
        return not self.is_dry and not self.occurrences and not self.old_parts

    @property
    def report(self) -> dict[str, Any]:
        content = {name: value for name, value in vars(self).items() if name != "occurrences"}
        return content | {
            "tables": [vars(table) for table in self.tables],
            "traces": [vars(occurrence) for occurrence in self.occurrences],
            "is_proven": self.is_proven,
        }


@dataclass(frozen=True)
class _Found:
    """The person's calls that are still stored, and the ids that only this person has used."""

    ids: Identifiers
    calls: list[str] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)  # calls that carry none of these ids
    sessions: list[str] = field(default_factory=list)
    days: list[date] = field(default_factory=list)
    raw_days: list[date] = field(default_factory=list)


def forget_user(
    warehouse: Warehouse, settings: Settings, user: str, *, now: datetime, dry_run: bool = False
) -> Erasure:
    """Erase the user and search for what is left; with `dry_run` only search."""
    if not user.strip():
        raise SettingsError("--user is empty: pass the user_id of the person to erase")
    if settings.is_no_id(user):
        raise SettingsError(f"--user {user}: CARAT_NO_IDS says that this user_id is nobody's")
    of_history = _people_of_history(warehouse, settings)
    people = _columns_of_users(of_history)
    journal = Journal(warehouse, f"forgetting_{hashlib.sha256(user.encode()).hexdigest()[:16]}")
    found = _find(warehouse, settings, user)
    if not dry_run:
        journal.open()
        found = _with_journal(journal, found)
    tables = data_tables(warehouse)
    before = _counts(warehouse, tables)
    named = find_occurrences(warehouse, found.ids, tables, people=people)
    if dry_run:
        files = _of_files(settings, found.ids, change=False)
        return _erasure(found, before, before, named, named, files=files, is_dry=True)

    remember_forgotten(
        warehouse,
        [
            (USER, user),
            *((VISITOR, visitor) for visitor in found.ids.visitors),
            *((TOKEN, token) for token in found.ids.tokens),
            *((CALL, call) for call in found.unmarked),
        ],
        now=now,
    )
    _erase_raw(warehouse, settings, journal, found)
    _erase_rejects_and_errors(warehouse, journal, found.ids)
    for table, column in of_history.items():
        delete_rows(warehouse, table, f"toString(`{column}`) IN ({journal.select(USER)})")
    _erase_days(warehouse, settings, journal)
    files = _of_files(settings, found.ids, change=True)
    old = {table: inactive_parts(warehouse, table) for table in tables}
    remove_old_parts(warehouse, old)

    left = find_occurrences(warehouse, found.ids, tables, people=people)
    left += occurrences_in_spool(settings, found.ids)
    old_parts = sum(len(names & inactive_parts(warehouse, table)) for table, names in old.items())
    erasure = _erasure(
        found, before, _counts(warehouse, tables), named, left, files=files, old_parts=old_parts, is_dry=False
    )
    if erasure.is_proven:
        journal.close()
    return erasure


# ---- what there is of a person -----------------------------------------------------------------------------------


def _find(warehouse: Warehouse, settings: Settings, user: str) -> _Found:
    """The person's calls and sessions in `pd` and `dwh`; raw calls may be past their retention."""
    of_user = "FROM pd.api_calls WHERE valid_user_id = {user:String}"
    of_events = (
        "FROM dwh.events WHERE visitor_id IN (SELECT visitor_id FROM dwh.events WHERE user_id = {user:String}) "
        f"OR visitor_id IN (SELECT visitor_key {of_user})"
    )
    raw = warehouse.query(
        f"SELECT {_RAW_CALLS} FROM pd.api_calls WHERE visitor_hash IN (SELECT visitor_hash {of_user}) "
        f"OR valid_session_token != '' AND valid_session_token IN (SELECT valid_session_token {of_user}) "
        f"OR {_linked_to(of_events)} {_UNLOGGED}",
        {"user": user},
        schema=CALLS,
    )
    events = warehouse.query(
        "SELECT call_id, ts, visitor_id AS visitor_key, visitor_id, '' AS session_token, user_id, session_id "
        f"{of_events} {_UNLOGGED}",
        {"user": user},
        schema=CALLS | {"session_id": pl.String()},
    )
    raw = _given_to_owners(raw, events)
    both = pl.concat([raw, events.select(CALLS.names()).join(raw, on="call_id", how="anti")])
    calls = resolve_identity(both, user=user, timeout_ms=settings.session_timeout_ms)
    own = calls.filter("belongs")
    sessions = (
        events.join(calls.select("call_id", "belongs"), on="call_id")
        .sort("ts")
        .group_by("session_id")
        .agg(pl.col("belongs").all(), last=pl.col("user_id").filter(pl.col("user_id") != "").last())
        .filter(pl.col("belongs") | (pl.col("last") == user))["session_id"]
    )
    moments = own["ts"].dt.epoch("ms").to_list()
    visitors = {*exclusive_ids(calls, "visitor_key"), *exclusive_ids(calls, "visitor_id")}
    visitors = {value for value in visitors if not settings.is_no_id(value)}  # days from before the setting have them
    tokens = set(exclusive_ids(calls, "session_token"))
    unmarked = own.filter(
        pl.col("user_id") == "",
        ~pl.col("visitor_id").is_in(list(visitors)),
        ~pl.col("session_token").is_in(list(tokens)),
    )
    return _Found(
        Identifiers(user, tuple(sorted(visitors - tokens)), tuple(sorted(tokens))),
        own["call_id"].bin.encode("hex").sort().to_list(),
        unmarked["call_id"].bin.encode("hex").to_list(),
        sessions.sort().to_list(),
        sorted({business_day(moment, settings.zone) for moment in moments}),
        sorted({at.date() for at in own["ts"]}),
    )


def _linked_to(of_events: str) -> str:
    """The SQL condition of calls without a visitor id that these events give to a visitor (`app.frames.visitors`)."""
    return f"visitor_hash != sipHash64(visitor_id) AND call_id IN (SELECT call_id {of_events})"


def _given_to_owners(raw: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """The raw calls with the visitors to whom their days gave them."""
    owners = events.select("call_id", owner="visitor_key").unique("call_id")
    return (
        raw.join(owners, on="call_id", how="left")
        .with_columns(visitor_key=pl.coalesce("owner", "visitor_key"))
        .drop("owner")
    )


def _with_journal(journal: Journal, found: _Found) -> _Found:
    """What was found now, and earlier by commands that were killed."""
    journal.add(
        [
            (USER, found.ids.user),
            *((VISITOR, value) for value in found.ids.visitors),
            *((TOKEN, value) for value in found.ids.tokens),
            *((CALL, value) for value in found.calls),
            *((_SESSION, value) for value in found.sessions),
            *((_DAY, day.isoformat()) for day in found.days),
            *((_RAW_DAY, day.isoformat()) for day in found.raw_days),
        ]
    )
    tokens = journal.values(TOKEN)
    visitors = [value for value in journal.values(VISITOR) if value not in tokens]
    return _Found(
        Identifiers(found.ids.user, tuple(visitors), tuple(tokens)),
        journal.values(CALL),
        found.unmarked,
        journal.values(_SESSION),
        _days(journal, _DAY),
        _days(journal, _RAW_DAY),
    )


def _columns_of_users(of_history: dict[str, str]) -> dict[str, list[str]]:
    """Per table the columns that hold users, by the contracts of `dwh` and by the snapshot plan."""
    people = {
        table.full_name: [column for column, key in table.person_keys if key is PersonKey.USER]
        for table in dwh_tables()
    }
    return people | {table: [column] for table, column in of_history.items()}


def _people_of_history(warehouse: Warehouse, settings: Settings) -> dict[str, str]:
    """Per table of `history` the column that says whose a row is, by the snapshot plan."""
    there = warehouse.query(
        "SELECT table, name FROM system.columns WHERE database = 'history'",
        schema={"table": pl.String(), "name": pl.String()},
    )
    columns = set(there.iter_rows())
    plan = load_snapshot_plan(settings.snapshots)
    return {
        f"history.{table.name}": name
        for table in plan.tables
        for name in (f"source_{table.person}", table.person)
        if table.person and (table.name, name) in columns
    }


def _days(journal: Journal, kind: str) -> list[date]:
    return [date.fromisoformat(value) for value in journal.values(kind)]


def _counts(warehouse: Warehouse, tables: Sequence[str]) -> dict[str, int]:
    return warehouse.counts({table: (table, "1") for table in tables})


# ---- removing ----------------------------------------------------------------------------------------------------


def _erase_raw(warehouse: Warehouse, settings: Settings, journal: Journal, found: _Found) -> None:
    """Delete the person's calls, and redact the person in the JSON of other people's calls."""
    theirs = f"call_id IN ({journal.select(CALL, as_type='UUID')})"
    delete_rows(warehouse, API_CALLS.full_name, theirs, days=found.raw_days)
    naming = rows_that_name(warehouse, found.ids, API_CALLS.full_name, _TEXTS, "call_id, content_hash, ts")
    for row in naming:
        call_id, content_hash = row["call_id"].hex(), row["content_hash"]
        _store_redacted(warehouse, found.ids, call_id, content_hash)
        day = business_day(round(row["ts"].timestamp() * 1000), settings.zone)
        journal.add(
            [
                (_RECORD, f"{call_id} {content_hash}"),
                (_DAY, day.isoformat()),
                (_RAW_DAY, row["ts"].date().isoformat()),
            ]
        )
    if naming:
        record = "concat(lower(hex(UUIDStringToNum(toString(call_id)))), ' ', toString(content_hash))"
        old = f"{record} IN ({journal.select(_RECORD)})"
        delete_rows(warehouse, API_CALLS.full_name, old, days=_days(journal, _RAW_DAY))
    remove_masked(warehouse, API_CALLS.full_name, _days(journal, _RAW_DAY))


def _store_redacted(warehouse: Warehouse, ids: Identifiers, call_id: str, content_hash: int) -> None:
    """Store another person's call again without the erased ids; the old row is deleted afterwards."""
    where = f"call_id = toUUID('{call_id}') AND content_hash"
    columns = ", ".join(API_CALLS.schema.names())
    call = warehouse.query(f"SELECT {columns} FROM pd.api_calls WHERE {where} = {content_hash} LIMIT 1")
    clean = call.with_columns(pl.Series(name, [redacted(text, ids) for text in call[name]]) for name in _TEXTS)
    new_hash = content_hashes(clean)[0]
    if not warehouse.scalar(f"SELECT count() FROM pd.api_calls WHERE {where} = {new_hash}"):
        warehouse.insert(API_CALLS, clean)


def _erase_rejects_and_errors(warehouse: Warehouse, journal: Journal, ids: Identifiers) -> None:
    rejects = rows_that_name(warehouse, ids, REJECTS.full_name, ("record", "detail"), "reject_id")
    journal.add((_REJECT, row["reject_id"]) for row in rejects)
    if rejects:
        delete_rows(warehouse, REJECTS.full_name, f"reject_id IN ({journal.select(_REJECT)})")
    for table, key in _ERRORS.items():
        runs = rows_that_name(warehouse, ids, table, ("error",), f"{key} AS run")
        journal.add((_RUN, row["run"]) for row in runs)
        if runs:
            update_rows(warehouse, table, "error = 'forgotten'", f"{key} IN ({journal.select(_RUN)})")


def _erase_days(warehouse: Warehouse, settings: Settings, journal: Journal) -> None:
    """Rebuild the person's days from the remaining calls; on days without raw calls, delete the rows."""
    days = _days(journal, _DAY)
    oldest = warehouse.query("SELECT min(ts) AS ts FROM pd.api_calls HAVING count() > 0")
    first = business_day(round(oldest.item().timestamp() * 1000), settings.zone) if oldest.height else None
    past = [day for day in days if first is None or day < first]
    with console.progress("forget", len(days)) as bar:
        for day in days:
            bar.label(f"forget {day}")
            if day not in past:
                build_stale(warehouse, settings, span=(day, day), skip_row_count_check=True).require_done()
            bar.advance(1)
    if past:
        for table in dwh_tables():
            if table.person_keys:
                delete_rows(warehouse, table.full_name, _is_theirs(journal, table), days=past)
    for table in dwh_tables():
        remove_masked(warehouse, table.full_name, days)


def _is_theirs(journal: Journal, table: DwhTable) -> str:
    """The SQL condition of the person's rows, by the columns that the table declares."""
    return " OR ".join(
        f"{column} IN ({journal.select(key, as_type='UUID' if key is PersonKey.CALL else 'String')})"
        for column, key in table.person_keys
    )


# ---- files outside the warehouse ----------------------------------------------------------------------------------


def redact_log(settings: Settings, ids: Identifiers, *, change: bool) -> dict[str, int]:
    """Redact the person in the log of errors (only with `change`); the number of lines that named the person."""
    path = settings.log
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    clean = [redacted(line, ids) for line in lines]
    named = sum(old != new for old, new in zip(lines, clean, strict=True))
    if named and change:
        temporary = path.with_name(f"{path.name}.forgetting")
        temporary.write_text("".join(clean), encoding="utf-8")
        temporary.replace(path)
    return {str(path): named} if named else {}


# Every place outside the warehouse where Carat stores personal data: a function for each.
FILE_STORES: tuple[Callable[..., dict[str, int]], ...] = (redact_log, redact_spool)


def _of_files(settings: Settings, ids: Identifiers, *, change: bool) -> dict[str, int]:
    found: dict[str, int] = {}
    for store in FILE_STORES:
        found |= store(settings, ids, change=change)
    return found


def _erasure(
    found: _Found,
    before: dict[str, int],
    after: dict[str, int],
    named_before: list[Occurrence],
    named_after: list[Occurrence],
    *,
    files: dict[str, int],
    is_dry: bool,
    old_parts: int = 0,
) -> Erasure:
    def most(occurrences: list[Occurrence], table: str) -> int:
        return max((found.rows for found in occurrences if found.table == table), default=0)

    tables = [
        TableErased(table, rows, after.get(table, 0), most(named_before, table), most(named_after, table))
        for table, rows in before.items()
    ]
    touched = [t for t in tables if t.named_before or t.named_after]
    ids = found.ids
    return Erasure(
        len(found.calls), len(ids.visitors), len(ids.tokens), tuple(found.days), touched, files, named_after, old_parts,
        is_dry,
    )  # fmt: skip
