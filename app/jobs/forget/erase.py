"""Erases a person everywhere, raw calls included, and proves it.

A person's data is the calls that carry the user id, and guests' calls that are stitched to the user as in `dwh.visits`.
Other people's calls on a shared device stay. What is to be erased is written to a journal first and every step can be
repeated, so the same command finishes what a killed one began.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import polars as pl

from app.contracts import API_CALLS, BOOK_TABLES, REJECTS, DwhTable, PersonKey, dwh_tables, published_tables
from app.core import console
from app.core.errors import SettingsError, require_none
from app.frames.days import business_day
from app.frames.identity import CALLS, exclusive_ids, resolve_identity
from app.intake.call_frames import content_hashes
from app.jobs.build.backfill import build_stale
from app.jobs.build.order_book import build_orders
from app.jobs.build.rules import BuildRules
from app.jobs.digests import drop_digests
from app.jobs.forget.files import occurrences_in_files, redact_files, unsearched_files
from app.jobs.forget.identifiers import Identifiers, is_searchable, merged, of_texts
from app.jobs.forget.plan import delete_people, people_of_history, without_owner
from app.jobs.forget.redaction import clean_calls
from app.jobs.forget.search import (
    UNLOGGED,
    Occurrence,
    calls_that_name,
    data_tables,
    find_occurrences,
    rejects_that_name,
)
from app.jobs.forget.suppression import CALL, PHONE, TEXT, TOKEN, USER, VISITOR, origins, remember_forgotten
from app.jobs.forget.texts import redact_columns
from app.settings import Settings
from app.warehouse import Warehouse
from app.warehouse.cluster import refuse_on_cluster
from app.warehouse.hard_delete import Journal, delete_rows, inactive_parts, remove_masked, remove_old_parts

_SESSION, _DAY, _RAW_DAY, _REJECT, _RECORD = PersonKey.SESSION, "day", "raw day", "reject", "record"
_RAW_CALLS = """call_id, ts, visitor_key, valid_visitor_id AS visitor_id, valid_session_token AS session_token,
    valid_user_id AS user_id"""
# Where nothing searches, whatever is configured; `Erasure.not_searched` adds what there is here.
_NEVER_SEARCHED = (
    "the shop's own database (delete the person there; snapshots now leave such rows out)",
    "files that were ingested, and exports",
    "backups of the warehouse, of the spool and of this machine",
    "logs of the warehouse's server, of the shop, of a proxy",
    "results that Metabase or a saved page keeps",
    "text that is compressed, encrypted or base64",
    "ids that are a part of a longer word; short ids without a name that says whose they are",
)


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
    """What was erased, or with `is_dry` would be, and where the person is still named.

    `searched_for` says how many identifiers of each kind were looked for, `not_searched` where nobody looked.
    """

    calls: int
    visitors: int
    tokens: int
    days: tuple[date, ...]
    tables: list[TableErased]
    files: dict[str, int]
    occurrences: list[Occurrence]
    old_parts: int
    is_dry: bool
    searched_for: dict[str, int] = field(default_factory=dict)
    not_searched: tuple[str, ...] = ()

    @property
    def is_proven(self) -> bool:
        return not self.is_dry and not self.occurrences and not self.old_parts

    @property
    def is_found(self) -> bool:
        """Whether anything named the person before: if not, the id may be misspelt."""
        return bool(self.calls or self.files or any(table.named_before for table in self.tables))

    @property
    def report(self) -> dict[str, Any]:
        content = {name: value for name, value in vars(self).items() if name != "occurrences"}
        return content | {
            "tables": [vars(table) for table in self.tables],
            "traces": [vars(occurrence) for occurrence in self.occurrences],
            "is_found": self.is_found,
            "is_proven": self.is_proven,
        }


@dataclass(frozen=True)
class Found:
    """The person's calls that are still stored, as hexadecimal call ids, and the ids that only this person has used."""

    ids: Identifiers
    calls: list[str] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)  # calls that carry none of these ids
    sessions: list[str] = field(default_factory=list)
    days: list[date] = field(default_factory=list)
    raw_days: list[date] = field(default_factory=list)


def forget_user(
    warehouse: Warehouse,
    settings: Settings,
    user: str,
    *,
    also: Sequence[str] = (),
    now: datetime,
    dry_run: bool = False,
) -> Erasure:
    """Erase the user and search for what is left; with `dry_run` only search.

    `also`: what else the person is known by, such as an e-mail address, a phone number or a name.
    """
    refuse_on_cluster(settings, "`carat forget`", "Erase the person on a single server, and fill the cluster from it")
    if not user.strip():
        raise SettingsError("--user is empty: pass the user_id of the person to erase")
    if settings.is_no_id(user):
        raise SettingsError(f"--user {user}: CARAT_NO_IDS says that this user_id is nobody's")
    if short := [text for text in also if not is_searchable(text)]:
        raise SettingsError(
            f"--also {short[0]!r} is too short to search for: pass 3 letters or more, of a number 7 digits or more"
        )
    journal = Journal(warehouse, f"forgetting_{hashlib.sha256(user.encode()).hexdigest()[:16]}")
    found = _find_all(warehouse, settings, user, of_texts(tuple(also)))
    return erase_found(warehouse, settings, journal, found, now=now, dry_run=dry_run)


def erase_found(
    warehouse: Warehouse, settings: Settings, journal: Journal, found: Found, *, now: datetime, dry_run: bool = False
) -> Erasure:
    """Erase what was found, and what the journal says was found by commands that were killed; search for what is left.

    With `dry_run` only search.
    """
    of_history = people_of_history(warehouse, settings)
    people = _columns_of_users(of_history)
    if not dry_run:
        journal.open()
        found = _with_journal(journal, found)
    tables = data_tables(warehouse)
    before = _counts(warehouse, tables)
    named = find_occurrences(warehouse, found.ids, tables, people=people)
    not_searched = [*_NEVER_SEARCHED, *unsearched_files(settings)]
    if ownerless := without_owner(warehouse, settings):
        not_searched.append(f"whose the rows of {', '.join(ownerless)} are: the snapshot plan names no `person` there")
    if dry_run:
        files = redact_files(settings, found.ids, change=False)
        return _erasure(found, before, before, named, named, files=files, not_searched=not_searched, is_dry=True)

    came_from = _origins(warehouse, settings, journal)
    remember_forgotten(warehouse, found.ids, calls=found.unmarked, came_from=came_from, now=now)
    _erase_raw(warehouse, settings, journal, found)
    _erase_rejects(warehouse, journal, found.ids)
    delete_people(warehouse, journal, of_history)
    drop_digests(settings.scratch)
    _erase_days(warehouse, settings, journal)
    redact_columns(warehouse, journal, found.ids, [name for name in tables if not name.startswith("pd.")])
    files = redact_files(settings, found.ids, change=True)
    old = {table: inactive_parts(warehouse, table) for table in tables}
    remove_old_parts(warehouse, old)

    left = find_occurrences(warehouse, found.ids, tables, people=people)
    left += occurrences_in_files(settings, found.ids)
    old_parts = sum(len(names & inactive_parts(warehouse, table)) for table, names in old.items())
    erasure = _erasure(
        found, before, _counts(warehouse, tables), named, left, files=files, not_searched=not_searched,
        old_parts=old_parts, is_dry=False,
    )  # fmt: skip
    if erasure.is_proven:
        journal.close()
    return erasure


# ---- what there is of a person -----------------------------------------------------------------------------------


def _find_all(warehouse: Warehouse, settings: Settings, user: str, texts: Identifiers) -> Found:
    """What there is of the user, and of users whose id is one of the texts, such as an e-mail address, in any case."""
    same = warehouse.query(
        "SELECT DISTINCT user FROM (SELECT valid_user_id AS user FROM pd.api_calls UNION ALL SELECT user_id AS user "
        f"FROM dwh.events) WHERE lowerUTF8(user) IN {{texts:Array(String)}} {UNLOGGED}",
        {"texts": [text.strip().lower() for text in texts.texts]},
        schema={"user": pl.String()},
    )
    found = [_find(warehouse, settings, one) for one in (user, *sorted({*same["user"]} - {user, ""}))]

    def union(name: str) -> list[Any]:
        return sorted({value for one in found for value in getattr(one, name)})

    ids = merged([*(one.ids for one in found), texts])
    return Found(ids, *map(union, ("calls", "unmarked", "sessions", "days", "raw_days")))


def _find(warehouse: Warehouse, settings: Settings, user: str) -> Found:
    """The person's calls and sessions in `pd` and `dwh`; raw calls may be past their retention."""
    of_user = "FROM pd.api_calls WHERE valid_user_id = {user:String}"
    of_events = (
        "FROM dwh.events WHERE visitor_id IN (SELECT visitor_id FROM dwh.events WHERE user_id = {user:String}) "
        f"OR visitor_id IN (SELECT visitor_key {of_user})"
    )
    raw = warehouse.query(
        f"SELECT {_RAW_CALLS} FROM pd.api_calls WHERE visitor_hash IN (SELECT visitor_hash {of_user}) "
        f"OR valid_session_token != '' AND valid_session_token IN (SELECT valid_session_token {of_user}) "
        f"OR {_linked_to(of_events)} {UNLOGGED}",
        {"user": user},
        schema=CALLS,
    )
    events = warehouse.query(
        "SELECT call_id, ts, visitor_id AS visitor_key, visitor_id, '' AS session_token, user_id, session_id "
        f"{of_events} {UNLOGGED}",
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
    return Found(
        Identifiers((user,), tuple(sorted(visitors - tokens)), tuple(sorted(tokens))),
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


def _with_journal(journal: Journal, found: Found) -> Found:
    """What was found now, and earlier by commands that were killed."""
    ids = found.ids
    said = {
        USER: (*ids.users, *ids.texts), VISITOR: ids.visitors, TOKEN: ids.tokens, TEXT: ids.texts, PHONE: ids.phones,
        CALL: found.calls, _SESSION: found.sessions, _DAY: [day.isoformat() for day in found.days],
        _RAW_DAY: [day.isoformat() for day in found.raw_days],
    }  # fmt: skip
    journal.add((kind, value) for kind, values in said.items() for value in values)
    tokens, texts = journal.values(TOKEN), journal.values(TEXT)
    return Found(
        Identifiers(
            tuple(value for value in journal.values(USER) if value not in texts or value in ids.users),
            tuple(value for value in journal.values(VISITOR) if value not in tokens),
            tuple(tokens),
            tuple(texts),
            tuple(journal.values(PHONE)),
        ),
        journal.values(CALL),
        found.unmarked,
        journal.values(_SESSION),
        _days(journal, _DAY),
        _days(journal, _RAW_DAY),
    )


def _origins(warehouse: Warehouse, settings: Settings, journal: Journal) -> list[str]:
    """Where the person's first calls of each day came from: late calls of just before, without an id, are theirs."""
    first = warehouse.query(
        "SELECT ip, user_agent, min(ts) AS first_ts FROM pd.api_calls WHERE (ip, user_agent) != ('', '') "
        f"AND valid_visitor_id != '' AND call_id IN ({journal.select(CALL, as_type='UUID')}) "
        f"GROUP BY ip, user_agent, toDate(ts, {{zone:String}}) {UNLOGGED}",
        {"zone": settings.timezone},
        schema={"ip": pl.String(), "user_agent": pl.String(), "first_ts": pl.Datetime("ms", "UTC")},
    )
    timeout_ms = settings.session_timeout_ms
    moments = first["first_ts"].dt.epoch("ms")
    return [
        origin
        for ip, user_agent, at in zip(first["ip"], first["user_agent"], moments, strict=True)
        for origin in origins(ip, user_agent, at, timeout_ms)
    ]


def _columns_of_users(of_history: dict[str, list[str]]) -> dict[str, list[str]]:
    """Per table the columns that hold users, by the contracts of `dwh` and by the snapshot plan."""
    people = {
        table.full_name: [column for column, key in table.person_keys if key is PersonKey.USER]
        for table in published_tables()
    }
    return people | of_history


def _days(journal: Journal, kind: str) -> list[date]:
    return [date.fromisoformat(value) for value in journal.values(kind)]


def _counts(warehouse: Warehouse, tables: Sequence[str]) -> dict[str, int]:
    return warehouse.counts({table: (table, "1") for table in tables})


# ---- removing ----------------------------------------------------------------------------------------------------


def _erase_raw(warehouse: Warehouse, settings: Settings, journal: Journal, found: Found) -> None:
    """Delete the person's calls, and redact the person in other people's calls."""
    theirs = f"call_id IN ({journal.select(CALL, as_type='UUID')})"
    delete_rows(warehouse, API_CALLS.full_name, theirs, days=found.raw_days)
    naming = calls_that_name(warehouse, found.ids)
    if naming.height:
        _store_redacted(warehouse, found.ids, naming)
        days = {business_day(moment, settings.zone) for moment in naming["ts"].dt.epoch("ms")}
        records = zip(naming["call_id"].bin.encode("hex"), naming["content_hash"], strict=True)
        journal.add((_RECORD, f"{call_id} {content_hash}") for call_id, content_hash in records)
        journal.add((_DAY, day.isoformat()) for day in days)
        journal.add((_RAW_DAY, day.isoformat()) for day in naming["ts"].dt.date().unique())
    record = "concat(lower(hex(UUIDStringToNum(toString(call_id)))), ' ', toString(content_hash))"
    old = f"{record} IN ({journal.select(_RECORD)})"
    delete_rows(warehouse, API_CALLS.full_name, old, days=_days(journal, _RAW_DAY))
    remove_masked(warehouse, API_CALLS.full_name, _days(journal, _RAW_DAY))


def _store_redacted(warehouse: Warehouse, ids: Identifiers, naming: pl.DataFrame) -> None:
    """Store other people's calls again without the erased ids; the old rows are deleted afterwards."""
    clean = clean_calls(naming.drop("content_hash"), ids)
    clean = clean.with_columns(content_hashes(clean))
    with warehouse.held_ids(clean["call_id"], table="etl.incoming_ids") as held:
        known = warehouse.query(
            f"SELECT call_id, content_hash FROM {API_CALLS.full_name} WHERE call_id IN ({held})",
            schema={"call_id": pl.Binary(), "content_hash": pl.UInt64()},
        )
    fresh = clean.join(known, on=["call_id", "content_hash"], how="anti")
    warehouse.insert(API_CALLS, fresh.drop("content_hash"))


def _erase_rejects(warehouse: Warehouse, journal: Journal, ids: Identifiers) -> None:
    journal.add((_REJECT, reject_id) for reject_id in rejects_that_name(warehouse, ids))
    delete_rows(warehouse, REJECTS.full_name, f"reject_id IN ({journal.select(_REJECT)})")


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
    _erase_orders(warehouse, settings, journal)
    for table in published_tables():
        remove_masked(warehouse, table.full_name, days)


def _erase_orders(warehouse: Warehouse, settings: Settings, journal: Journal) -> None:
    """Build the days of the person's orders and refunds again: neither calls nor history know of them any more."""
    days = warehouse.query(
        " UNION DISTINCT ".join(
            f"SELECT {table.day} AS day FROM {table.full_name} WHERE {_is_theirs(journal, table)}"
            for table in BOOK_TABLES
        ),
        schema={"day": pl.Date()},
    )
    require_none(build_orders(warehouse, BuildRules.load(settings), also=days["day"].to_list()).failures)


def _is_theirs(journal: Journal, table: DwhTable) -> str:
    """The SQL condition of the person's rows, by the columns that the table declares."""
    return " OR ".join(
        f"{column} IN ({journal.select(key, as_type='UUID' if key is PersonKey.CALL else 'String')})"
        for column, key in table.person_keys
    )


def _erasure(
    found: Found,
    before: dict[str, int],
    after: dict[str, int],
    named_before: list[Occurrence],
    named_after: list[Occurrence],
    *,
    files: dict[str, int],
    not_searched: Sequence[str],
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
    searched_for = {
        "user ids": len(ids.users), "visitor ids": len(ids.visitors), "session tokens": len(ids.tokens),
        "further texts": len(ids.texts) + len(ids.phones),
    }  # fmt: skip
    return Erasure(
        len(found.calls), len(ids.visitors), len(ids.tokens), tuple(found.days), touched, files, named_after, old_parts,
        is_dry, searched_for, tuple(not_searched),
    )  # fmt: skip
