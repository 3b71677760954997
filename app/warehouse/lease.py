"""The lease of the one writer on a ClickHouse server: renewed while it is held, free soon after its holder dies.

ClickHouse has no compare-and-set, but of several processes that create the same table only one succeeds. So the lease
is the table `etl.writer_lease_<n>` with the highest n. Its comment says who holds it and until when, by the server's
clock; no other clock matters. A process that finds the lease free creates the next table, and holds the lease if that
is still the highest. A process drops only tables lower than one it has seen. So numbers are never reused, and a process
that acts on an old observation creates a table that exists already, or one that is not the highest.

A holder renews before its time is over, or never again. What it does right after `require` has a whole lease's time.
This holds for a single server: replicas that learn of a table later could each name a holder.
"""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

import msgspec

from app.contracts import DATABASES
from app.core.errors import CaratError, LockedError, WarehouseError
from app.core.sql import quote
from app.warehouse.client import Warehouse

LEASE_S = 60.0
_TABLE = "etl.writer_lease_{}"
_ATTEMPTS = 5
# A comment may be newer than `now` by as long as the query was paused: an hour at most, then its client has given up.
# One that is further ahead was written before the server's clock was set back, and does not hold the lease.
_AHEAD_MS = 3_600_000
_LOOK = """
    SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms, max(n) AS number, groupArray(n) AS numbers,
        argMax(toValidUTF8(comment), n) AS note, toInt64(argMax(toUnixTimestamp(changed), n)) AS changed_s
    FROM (SELECT toUInt64(substring(name, 14)) AS n, comment, metadata_modification_time AS changed
        FROM system.tables WHERE database = 'etl' AND match(name, '^writer_lease_[1-9][0-9]{0,17}$'))
"""


class _Note(msgspec.Struct, frozen=True):
    """The comment of a lease's table."""

    holder: str
    host: str
    pid: int
    token: str
    since: str
    renewed_ms: int
    lease_ms: int  # the holder's own: another process may use another duration
    released: bool = False


@dataclass(frozen=True)
class _Seen:
    """The lease at one moment of the server's clock; number 0 if there has never been one."""

    now_ms: int
    number: int
    numbers: list[int]
    note: _Note

    @property
    def is_held(self) -> bool:
        return bool(self.number) and not self.note.released and -_AHEAD_MS < self.age_ms < self.note.lease_ms

    @property
    def age_ms(self) -> int:
        return self.now_ms - self.note.renewed_ms

    @property
    def who(self) -> str:
        process = f" (process {self.note.pid} on {self.note.host})" if self.note.pid else ""
        return f"{self.note.holder}{process} since {self.note.since}"


class Lease:
    """The right to write, for as long as `require` does not raise."""

    def __init__(self, warehouse: Warehouse, number: int, note: _Note) -> None:
        self._warehouse = warehouse
        self._number = number
        self._note = note
        self.token = note.token

    def require(self, through: Warehouse | None = None) -> None:
        """Renew the lease, or raise LockedError if it is lost; call it right before whatever must not happen twice.

        Uses the connection that the lease was taken with, or one that belongs to the calling thread.
        """
        self._renew(through or self._warehouse)

    def keep_renewed(self, stop: Event) -> None:
        """Renew until `stop` is set or the lease is lost, through connections of its own."""
        lease_s = pause_s = self._note.lease_ms / 1000
        while not stop.wait(pause_s / 4):
            try:
                with self._warehouse.new_connection() as own:
                    self._renew(own)
                pause_s = lease_s
            except LockedError:
                return
            except Exception:  # noqa: BLE001  the next attempt may succeed; if none does in time, `require` raises
                pause_s = lease_s / 5

    def release(self) -> None:
        """Free the lease at once. If that fails, it expires."""
        with suppress(CaratError):
            self._write(self._warehouse, self._held(self._warehouse), released=True)

    def _renew(self, through: Warehouse) -> None:
        before = self._held(through)
        try:
            self._write(through, before)
        finally:
            after = self._held(through)
        if after.now_ms - before.note.renewed_ms >= before.note.lease_ms:  # in between, others may have seen it free
            raise self._lost(f"it was renewed only after {self._note.lease_ms / 1000:g} s")

    def _held(self, through: Warehouse) -> _Seen:
        seen = _look(through, self._note.lease_ms)
        if seen.number > self._number:
            raise self._lost(f"taken over by {seen.who}")
        if seen.note.token != self.token:
            raise self._lost(f"the table {_TABLE.format(self._number)} is gone or is not this process's")
        if not seen.is_held:
            raise self._lost(f"not renewed for {abs(seen.age_ms) / 1000:g} s")
        return seen

    def _write(self, through: Warehouse, seen: _Seen, *, released: bool = False) -> None:
        comment = _comment(msgspec.structs.replace(self._note, renewed_ms=seen.now_ms, released=released))
        through.command(f"ALTER TABLE {_TABLE.format(self._number)} MODIFY COMMENT {comment}")

    def _lost(self, why: str) -> LockedError:
        return LockedError(
            f"lost the lease on the warehouse {self._warehouse.url}: {why}. Readers see no partial data; run the same "
            "command again"
        )


@contextmanager
def hold_lease(warehouse: Warehouse, *, purpose: str, lease_s: float = LEASE_S) -> Iterator[Lease]:
    """Hold the server's warehouse for this process; LockedError says which process holds it and since when."""
    lease = _acquire(warehouse, purpose, round(lease_s * 1000))
    stop = Event()
    keeper = Thread(target=lease.keep_renewed, args=(stop,), name="writer-lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        stop.set()
        keeper.join(timeout=lease_s)  # a hanging renewal must not delay the end
        lease.release()


def lent_token(warehouse: Warehouse) -> str:
    """The token with which other processes write under this connection's lease: see `require_lent`."""
    warehouse.require_lease()
    return _look(warehouse, 0).note.token


def require_lent(warehouse: Warehouse, *, token: str) -> None:
    """Raise LockedError unless another process holds the lease with this token for at least half of its time.

    Only the holder renews it, every quarter of that time, so that a dead holder's lease is not kept alive by the
    processes it was lent to. If less time is left, waits for the next renewal or the end of the lease.
    """
    while True:
        seen = _look(warehouse, 0)
        if seen.note.token != token or not seen.is_held:
            by = f": held by {seen.who}" if seen.is_held else ""
            raise LockedError(f"the process that lent its lease on {warehouse.url} no longer holds it{by}")
        if 2 * seen.age_ms < seen.note.lease_ms:
            return
        time.sleep(min(1.0, seen.note.lease_ms / 20_000))


def _acquire(warehouse: Warehouse, purpose: str, lease_ms: int) -> Lease:
    token = str(uuid.uuid4())
    seen = _look(warehouse, lease_ms)
    for _ in range(_ATTEMPTS):  # whenever an attempt fails, another process has succeeded
        if seen.is_held:
            break
        number, since = seen.number + 1, _text(seen.now_ms)
        note = _Note(f"`{purpose}`", socket.gethostname(), os.getpid(), token, since, seen.now_ms, lease_ms)
        is_mine = _create(warehouse, number, note)
        seen = _look(warehouse, lease_ms)
        if is_mine and seen.number == number and seen.is_held:
            with suppress(WarehouseError):  # tables that remain are ignored; the next holder drops them
                _drop(warehouse, *(lower for lower in seen.numbers if lower < number))
            return Lease(warehouse, number, note)
        if is_mine and seen.number > number:
            _drop(warehouse, number)
    raise LockedError(
        f"the warehouse {warehouse.url} is held by {seen.who}; try again later: it frees itself "
        f"{seen.note.lease_ms / 1000:g} s after its holder has died",
        holder=seen.note.holder.strip("`"),
    )


def _create(warehouse: Warehouse, number: int, note: _Note) -> bool:
    """Create the lease's table; false if it exists already."""
    if number == 1 and not warehouse.scalar("SELECT count() FROM system.databases WHERE name = 'etl'"):
        warehouse.command(f"CREATE DATABASE IF NOT EXISTS etl COMMENT {quote(DATABASES['etl'])}")
    try:
        warehouse.command(
            f"CREATE TABLE {_TABLE.format(number)} (nothing UInt8 COMMENT 'the lease is the comment of its table') "
            f"ENGINE = MergeTree ORDER BY tuple() COMMENT {_comment(note)}"
        )
    except WarehouseError as error:
        if "TABLE_ALREADY_EXISTS" not in str(error):
            raise
        return False
    return True


def _drop(warehouse: Warehouse, *numbers: int) -> None:
    for number in numbers:
        warehouse.command(f"DROP TABLE IF EXISTS {_TABLE.format(number)} SYNC")


def _look(warehouse: Warehouse, lease_ms: int) -> _Seen:
    row: dict[str, Any] = warehouse.query(_LOOK).row(0, named=True)
    try:
        note = msgspec.json.decode(row["note"], type=_Note)
    except msgspec.DecodeError:  # not ours, or damaged: counts as held until it has not changed for a lease's time
        changed_ms = row["changed_s"] * 1000
        note = _Note("an unknown process", "", 0, "", _text(changed_ms), changed_ms, lease_ms)
    return _Seen(row["now_ms"], row["number"], row["numbers"], note)


def _text(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="seconds")


def _comment(note: _Note) -> str:
    return quote(msgspec.json.encode(note).decode())
