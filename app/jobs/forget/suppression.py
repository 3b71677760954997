"""Remembers who was forgotten, so that late files, replays and snapshots of that person are rejected.

Only keyed hashes are stored. They are not secret: whoever has the warehouse can try short ids. They are the least that
is needed to reject later data.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from app.contracts import FORGOTTEN
from app.core.call_record import Line, RejectedRecordError
from app.intake.call_frames import reject_frame, reject_row
from app.warehouse import Warehouse

# CALL is for guests' calls on a shared device: no other id says whose they were.
USER, VISITOR, TOKEN, CALL = "user", "visitor", "token", "call"
_COLUMNS = {USER: "user_id", VISITOR: "visitor_id", TOKEN: "session_token"}
_NAMED = {
    kind: re.compile(rb'"%s"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|(-?\d+))' % column.encode())
    for kind, column in _COLUMNS.items()
}
_KEY_BYTES = 32
_REASON = "forgotten"


@dataclass(frozen=True)
class Forgotten:
    """The users whose data is rejected forever, and the devices whose calls are rejected up to a moment."""

    key: str = ""
    until: Mapping[tuple[str, str], datetime] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.until)

    def moment(self, kind: str, value: str) -> datetime | None:
        """When the owner of the id was forgotten; None for everybody else."""
        return self.until.get((kind, digest_of(self.key, kind, value))) if value else None

    @property
    def has_calls(self) -> bool:
        return any(kind == CALL for kind, _ in self.until)

    def is_user(self, value: object) -> bool:
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        return self.moment(USER, text) is not None

    def is_named_in(self, record: bytes) -> bool:
        """Whether a rejected record names a forgotten person, as far as it can be read."""
        found = (
            (kind, (text or number).decode(errors="replace"))
            for kind, pattern in _NAMED.items()
            for text, number in pattern.findall(record)
        )
        return any(self.moment(kind, value) for kind, value in found)


def digest_of(key: str, kind: str, value: str) -> str:
    return hashlib.blake2b(f"{kind}\0{value}".encode(), key=bytes.fromhex(key), digest_size=16).hexdigest()


def read_forgotten(warehouse: Warehouse) -> Forgotten:
    """Who was forgotten so far."""
    rows = warehouse.query(
        "SELECT key, kind, digest, max(forgotten_at) AS at FROM etl.forgotten GROUP BY key, kind, digest"
    )
    until = {(kind, digest): at for _, kind, digest, at in rows.iter_rows()}
    return Forgotten(rows["key"][0], until) if until else Forgotten()


def remember_forgotten(warehouse: Warehouse, ids: Iterable[tuple[str, str]], *, now: datetime) -> None:
    """Store that the owners of these ids (kind and value) are forgotten from now on."""
    known = read_forgotten(warehouse)
    key = known.key or secrets.token_hex(_KEY_BYTES)
    fresh = {(kind, digest_of(key, kind, value)) for kind, value in ids} - set(known.until)
    rows = [(now, kind, digest, key) for kind, digest in sorted(fresh)]
    warehouse.insert(FORGOTTEN, pl.DataFrame(rows, schema=FORGOTTEN.schema, orient="row"))


def without_forgotten(calls: pl.DataFrame, forgotten: Forgotten) -> pl.DataFrame:
    """The calls, in the shape of `pd.api_calls`, without those of forgotten people."""
    if not forgotten:
        return calls
    users = [value for value in calls["user_id"].unique() if forgotten.moment(USER, value)]
    is_theirs = pl.col("user_id").is_in(users)
    for kind in (VISITOR, TOKEN):
        column = _COLUMNS[kind]
        moments = {value: forgotten.moment(kind, value) for value in calls[column].unique()}
        known = {value: at for value, at in moments.items() if at}
        if known:
            until = pl.col(column).replace_strict(known, default=None, return_dtype=pl.Datetime("ms", "UTC"))
            is_theirs |= (pl.col("ts") <= until).fill_null(value=False)
    if forgotten.has_calls:
        single = [value for value in calls["call_id"] if forgotten.moment(CALL, value.hex())]
        is_theirs |= pl.col("call_id").is_in(single)
    return calls.filter(~is_theirs)


def suppressed_reject(count: int, *, source: str, now: datetime) -> pl.DataFrame:
    """One reject that stands for this number of records of forgotten people, with nothing of their content."""
    detail = f"{count:,} record(s) of people who were forgotten (carat forget): none of their content is stored"
    error = RejectedRecordError(_REASON, detail)
    return reject_frame([reject_row(Line(0, b"", 0), error, source=source, now=now)] if count else [])
