"""What a build of a day may take over from the published day, and what it made.

Apart from the build itself, so that looking for stale days does not import it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import polars as pl

from app.rules.fit import Finding


@dataclass(frozen=True)
class ReusePlan:
    """What a build may take over from the published day; by default nothing: all is built from the raw calls.

    `reusable_days` are days whose `dwh.events` were typed by today's endpoint map and code. `rows` are the rows of the
    tables as published, where all may be kept except those of visitors whose calls changed: `quarter_hours` are the
    raw calls by quarter of an hour, `around` says whether calls of the day before and of the day after changed.
    `orders_elsewhere` is a hash of its orders that were placed on another day.
    """

    reusable_days: tuple[date, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    quarter_hours: pl.DataFrame | None = None
    around: tuple[bool, bool] = (False, False)
    until: datetime | None = None
    orders_elsewhere: int = 0


@dataclass(frozen=True)
class DayBuilt:
    """A day that was built: calls read, rows per table, seconds.

    `until` is the time of its sessions' last call. `unreadable_values` counts by entry of the map and field the JSON
    values that could not be read in the calls that were typed: all of them, or with `took_events_over` those that were
    not typed before. `misfits` say where the endpoint map does not fit the day's calls.
    `has_foreign_amounts`: whether a call that was read names another currency than the warehouse's. `is_patch`: whether
    only some of the day's sessions were read.
    `orders_elsewhere` is a hash of its orders placed on another day.
    """

    day: date
    calls: int
    rows: dict[str, int]
    seconds: float
    until: datetime
    unreadable_values: Counter[tuple[str, str]] = field(default_factory=Counter)
    took_events_over: bool = False
    misfits: tuple[Finding, ...] = ()
    has_foreign_amounts: bool = False
    is_patch: bool = False
    orders_elsewhere: int = 0

    @property
    def unreadable(self) -> int:
        return self.unreadable_values.total()

    @property
    def report(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("day", "calls", "rows", "unreadable", "seconds", "until")}
