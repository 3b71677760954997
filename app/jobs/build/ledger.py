"""What each business day was built from, and so which days are stale: found by comparison, never by a clock.

What a table depends on is declared in its contract (`DwhTable.depends_on`).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from app.contracts import BOOK_TABLES, EVENTS, LEDGER, ORDER_CALLS, DwhTable, Input, dwh_tables
from app.frames.days import DayBounds, day_bounds
from app.jobs.build.boundaries import BoundaryFingerprints, read_boundary_fingerprints
from app.jobs.build.built import DayBuilt, ReusePlan
from app.jobs.build.call_sql import CALL_HASH, QUARTER_HOUR
from app.jobs.build.lookups import lookup_sums
from app.jobs.build.orders import read_orders_elsewhere
from app.jobs.build.product_history import history_sums
from app.jobs.build.rules import BuildRules
from app.rules.currencies import Currencies
from app.warehouse import FingerprintSource, Warehouse, fingerprints

RAW_CALLS = FingerprintSource("pd.api_calls", at=QUARTER_HOUR, content=CALL_HASH)
# Two days back: whether a visitor paused during the day before depends on the call before their first one on it.
_AROUND = {"previous_days_fingerprint": (-1, -2), "next_day_fingerprint": (1,)}
# Per rule, a column of the ledger: the input that it belongs to (None: every table depends on it), and the reason.
_RULES: dict[str, tuple[Input | None, str]] = {
    "endpoint_map": (Input.ENDPOINT_MAP, "endpoint map changed"),
    "currency": (Input.ENDPOINT_MAP, "currency changed"),
    "transform_version": (None, "version of Carat changed"),
    "timezone": (None, "time zone changed"),
    "session_timeout_ms": (Input.SESSIONS, "session timeout changed"),
    "no_ids": (None, "ids that count as none changed"),
    "product_plan": (Input.PRODUCT_HISTORY, "snapshot plan of products changed"),
    "session_rules": (Input.SESSION_RULES, "rules for devices, bots, channels or countries changed"),
}


@dataclass(frozen=True)
class StaleDay:
    """A day to build: which of its tables, and why.

    `can_reuse_events`: the published events were typed by the same endpoint map and code. `can_patch`: all of its
    tables were built from the same calls, nothing but calls changed, and their rows belong to sessions, so that only
    changed sessions need to be rebuilt.
    """

    day: date
    jobs: tuple[str, ...]
    reasons: tuple[str, ...]
    can_reuse_events: bool = field(default=False, compare=False)
    can_patch: bool = field(default=False, compare=False)

    @property
    def report(self) -> dict[str, Any]:
        return {"day": self.day, "jobs": self.jobs, "reason": "; ".join(self.reasons)}


@dataclass(frozen=True)
class Sums:
    """Cumulative fingerprints by instant, as lists: they are asked once per day and table."""

    instants: list[datetime]
    fingerprints: list[int]

    @classmethod
    def of(cls, versions: pl.DataFrame) -> "Sums":
        return cls(versions["at"].to_list(), versions["fingerprint"].to_list())

    def at(self, until: datetime) -> int:
        """The fingerprint of what is valid from this instant or earlier; 0 if nothing is."""
        number = bisect_right(self.instants, until)
        return self.fingerprints[number - 1] if number else 0


@dataclass(frozen=True)
class Inputs:
    """What the days would be built from now, and what they were built from.

    `days`: `day, calls, raw_fingerprint` and the fingerprints of the days around it. `quarter_hours`: `at, rows,
    fingerprint` of the raw calls. `versions`: `at, fingerprint` of products' versions, cumulative;
    `lookup_versions` the same of the rows that the endpoint map looks up. `built`: the
    ledger's last row per day and table. `orders_elsewhere`: per day a hash of its orders that were placed on another
    day. `rules`: the rules of today as columns of the ledger.
    `reads_calls_alone`: whether the endpoint map makes every event of its call and nothing else.
    """

    days: pl.DataFrame
    quarter_hours: pl.DataFrame
    versions: pl.DataFrame
    lookup_versions: pl.DataFrame
    built: dict[tuple[date, str], dict[str, Any]]
    orders_elsewhere: dict[date, int]
    rules: dict[str, Any]
    zone: ZoneInfo
    timeout_ms: int
    currencies: Currencies
    reads_calls_alone: bool

    def of_day(self, day: date) -> dict[str, Any]:
        return self.days.row(by_predicate=pl.col("day") == day, named=True)

    @property
    def oldest_day(self) -> date | None:
        """The first day of which there are raw calls."""
        oldest = self.days.filter(pl.col("calls") > 0)["day"].min()
        return oldest if isinstance(oldest, date) else None

    def verifiable_days(self) -> list[date]:
        """The days whose raw calls are within their retention."""
        oldest = self.oldest_day
        return [day for day in self.days["day"] if oldest and day >= oldest]

    def history_fingerprint(self, until: datetime) -> int:
        """The fingerprint of the versions of products that are valid from this instant or earlier."""
        return self._sums.at(until)

    def lookup_fingerprint(self, until: datetime) -> int:
        """The same of the rows that the endpoint map looks up."""
        return self._lookup_sums.at(until)

    @cached_property
    def _sums(self) -> "Sums":
        return Sums.of(self.versions)

    @cached_property
    def _lookup_sums(self) -> "Sums":
        return Sums.of(self.lookup_versions)

    def read_boundaries(self, warehouse: Warehouse, bounds: DayBounds) -> BoundaryFingerprints:
        """The fingerprints of calls of the neighbouring days that can change a day's sessions."""
        return read_boundary_fingerprints(
            warehouse, bounds, quarter_hours=self.quarter_hours, timeout_ms=self.timeout_ms
        )

    def after_builds(self, warehouse: Warehouse) -> "Inputs":
        """The same inputs, with what was built since and the orders that it placed."""
        return replace(self, built=_last_built(warehouse), orders_elsewhere=read_orders_elsewhere(warehouse))

    def reuse_plan(self, stale: StaleDay, boundaries: BoundaryFingerprints) -> ReusePlan:
        """What the build of a stale day may take over from the published day."""
        if not stale.can_reuse_events:
            return ReusePlan()
        following = stale.day + timedelta(days=1)
        reusable: tuple[date, ...] = (stale.day, following) if _can_reuse_events(self, following) else (stale.day,)
        if not self.reads_calls_alone:  # an event depends on more than its call
            reusable = ()
        if not stale.can_patch:
            return ReusePlan(reusable)
        last = {job: self.built[stale.day, job] for job in stale.jobs}
        events = last[EVENTS.name]
        if not self.reads_calls_alone and events["earlier_fingerprint"] != boundaries.earlier_fingerprint:
            return ReusePlan()  # sessions with the same calls may recall something else
        return ReusePlan(
            reusable,
            rows={job: row["rows"] for job, row in last.items()},
            quarter_hours=self.quarter_hours,
            around=(
                events["earlier_fingerprint"] != boundaries.earlier_fingerprint,
                events["later_fingerprint"] != boundaries.later_fingerprint,
            ),
            until=max(row["history_until"] for row in last.values()),
            orders_elsewhere=last[ORDER_CALLS.name]["orders_elsewhere"],
        )

    def rules_of(self, table: DwhTable) -> dict[str, Any]:
        """The rules that the table depends on; the others are empty or 0."""
        return {
            name: self.rules[name] if input_ is None or input_ in table.depends_on else type(self.rules[name])()
            for name, (input_, _) in _RULES.items()
        }


def read_inputs(warehouse: Warehouse, rules: BuildRules, *, keep: bool) -> Inputs:
    """What there is to build from; each call is read once in its life, if `keep` stores its fingerprint."""
    quarter_hours = (
        pl.concat([fingerprints(node, RAW_CALLS, keep=keep) for node in warehouse.nodes])
        .group_by("at")
        .agg(pl.col("rows", "fingerprint").sum())
        .sort("at")
    )
    local_day = pl.col("at").dt.convert_time_zone(rules.settings.timezone).dt.date()
    of_days = quarter_hours.group_by(day=local_day).agg(calls=pl.col("rows").sum(), hash=pl.col("fingerprint").sum())
    built = _last_built(warehouse)
    known = pl.DataFrame({"day": [day for day, _ in built]}, schema={"day": pl.Date})
    wanted = pl.concat([of_days.select("day"), known, _published_days(warehouse)]).unique().sort("day")
    days = wanted.join(of_days, on="day", how="left").rename({"hash": "raw_fingerprint"})
    for name, offsets in _AROUND.items():
        shifted = [of_days.select(pl.col("day") - timedelta(days=n), pl.col("hash") * abs(n)) for n in offsets]
        around = pl.concat(shifted).group_by("day").agg(pl.col("hash").sum().alias(name))
        days = days.join(around, on="day", how="left")
    return Inputs(
        days.with_columns(pl.exclude("day").fill_null(0)).sort("day"),
        quarter_hours,
        history_sums(warehouse, rules.plan, keep=keep).with_columns(pl.col("fingerprint").cum_sum()),
        lookup_sums(warehouse, rules.endpoint_map, keep=keep).with_columns(pl.col("fingerprint").cum_sum()),
        built,
        read_orders_elsewhere(warehouse),
        rules.digests,
        rules.zone,
        rules.timeout_ms,
        rules.currencies,
        rules.endpoint_map.reads_calls_alone,
    )


def compare(
    warehouse: Warehouse, inputs: Inputs, *, jobs: Sequence[str] | None = None, force: bool = False
) -> tuple[list[StaleDay], list[tuple[date, str]]]:
    """The days whose last build had other inputs than there are now, oldest first; with `force` every day.

    Also returns the days and tables that are up to date although calls of a neighbouring day changed, because their
    sessions reach none of those.
    """
    stale: list[StaleDay] = []
    untouched: list[tuple[date, str]] = []
    tables = dwh_tables(jobs)
    kept = _past_their_calls(warehouse, inputs)
    for now in inputs.days.iter_rows(named=True):
        day = now["day"]
        if not force and day in kept:
            continue
        last = {table: inputs.built.get((day, table.name)) for table in tables}
        reasons = {table: _reasons(inputs, now, table, row) for table, row in last.items()}
        around = [t for t, row in last.items() if row and not reasons[t] and _differs_around(now, t, row)]
        if around:
            bounds = day_bounds(day, inputs.zone)
            boundaries = inputs.read_boundaries(warehouse, bounds)
            for table in around:
                reasons[table] = _reasons_around(boundaries, last[table] or {})
            untouched += [(day, table.name) for table in around if not reasons[table]]
        chosen = [table for table in tables if reasons[table] or force]
        if chosen:
            texts = dict.fromkeys(text for table in chosen for text, _ in reasons[table])
            stale.append(
                StaleDay(
                    day,
                    tuple(table.name for table in dwh_tables([table.name for table in chosen])),
                    tuple(texts) or ("forced",),
                    can_reuse_events=not force and _can_reuse_events(inputs, day),
                    can_patch=not force and _can_patch(inputs, day, chosen, reasons),
                )
            )
    return stale, untouched


def record_built(
    warehouse: Warehouse, inputs: Inputs, built: DayBuilt, boundaries: BoundaryFingerprints, *, now: datetime
) -> None:
    """Write down what a day's tables were built from."""
    of_day = inputs.of_day(built.day)
    history, looked_up = inputs.history_fingerprint(built.until), inputs.lookup_fingerprint(built.until)
    entries = [
        of_day
        | inputs.rules_of(table)
        | vars(boundaries)
        | {
            "job": table.name,
            "built_at": _after_the_last(inputs, built.day, table.name, now),
            "history_until": built.until,
            "history_fingerprint": history if Input.PRODUCT_HISTORY in table.depends_on else 0,
            "rates": _rates(inputs, built, table),
            "lookup_fingerprint": looked_up if Input.ENDPOINT_MAP in table.depends_on else 0,
            "orders_elsewhere": built.orders_elsewhere if Input.ORDERS in table.depends_on else 0,
            "rows": built.rows[table.name],
            "unreadable": built.unreadable,
        }
        for table in dwh_tables(built.rows)
    ]
    warehouse.insert(LEDGER, pl.DataFrame(entries, schema=LEDGER.schema))


def _rates(inputs: Inputs, built: DayBuilt, table: DwhTable) -> str:
    """The digest of the day's rates where an amount was converted; a patched day keeps what its other sessions need."""
    last = inputs.built.get((built.day, table.name))
    is_needed = built.has_foreign_amounts or (built.is_patch and last is not None and last["rates"] != "")
    return inputs.currencies.rates_digest(built.day) if is_needed else ""


def record_untouched(
    warehouse: Warehouse, inputs: Inputs, *, untouched: Iterable[tuple[date, str]], now: datetime
) -> None:
    """Record that tables are up to date, so that the next comparison need not read their neighbours' calls."""
    entries = [
        inputs.built[day, job]
        | {name: inputs.of_day(day)[name] for name in _AROUND}
        | {"built_at": _after_the_last(inputs, day, job, now)}
        for day, job in untouched
    ]
    if entries:
        warehouse.insert(LEDGER, pl.DataFrame(entries, schema=LEDGER.schema))


def _after_the_last(inputs: Inputs, day: date, job: str, now: datetime) -> datetime:
    """Now, or just after the previous entry where the clock was set back: the latest entry counts."""
    last = inputs.built.get((day, job))
    return max(now, last["built_at"] + timedelta(milliseconds=1)) if last else now


def _past_their_calls(warehouse: Warehouse, inputs: Inputs) -> set[date]:
    """The days before the oldest call: their calls are past the retention, so the published rows stay.

    Without days that were built in another time zone, whose calls are there but belong to later days in this one.
    """
    oldest = inputs.oldest_day
    before = {day for day in inputs.days["day"] if oldest is None or day < oldest}
    other_zone = [
        day
        for day in before
        if (last := inputs.built.get((day, EVENTS.name))) and last["timezone"] != inputs.rules["timezone"]
    ]
    if not other_zone:
        return before
    sql = (
        "SELECT event_date, min(ts) AS first, (SELECT min(ts) FROM pd.api_calls) AS oldest "
        "FROM dwh.events WHERE event_date IN {days:Array(Date)} GROUP BY event_date"
    )
    schema = {"event_date": pl.Date(), "first": EVENTS.schema["ts"], "oldest": EVENTS.schema["ts"]}
    found = pl.concat([node.query(sql, {"days": other_zone}, schema=schema) for node in warehouse.nodes])
    of_days = found.group_by("event_date").agg(pl.col("first").min(), pl.col("oldest"))
    left_over = of_days.filter(pl.col("first") >= found["oldest"].min())
    return before - set(left_over["event_date"])


def _reasons(
    inputs: Inputs, now: dict[str, Any], table: DwhTable, last: dict[str, Any] | None
) -> list[tuple[str, Input | None]]:
    """Why a table is stale, apart from calls of neighbouring days: each reason as text, with its input."""
    if last is None:
        return [("never built", None)]
    found: list[tuple[str, Input | None]] = []
    calls_differ = (now["raw_fingerprint"], now["calls"]) != (last["raw_fingerprint"], last["calls"])
    if Input.CALLS in table.depends_on and calls_differ:
        found.append((_calls_changed(now["calls"] - last["calls"]), Input.CALLS))
    today = inputs.rules_of(table)
    found += [(why, input_) for name, (input_, why) in _RULES.items() if last[name] != today[name]]
    if last["rates"] and last["rates"] != inputs.currencies.rates_digest(last["day"]):
        found.append(("rates of exchange changed", Input.ENDPOINT_MAP))
    if Input.PRODUCT_HISTORY in table.depends_on:
        history = inputs.history_fingerprint(last["history_until"])
        if last["history_fingerprint"] != history:
            found.append(("history of its products changed", Input.PRODUCT_HISTORY))
    if Input.ENDPOINT_MAP in table.depends_on:
        looked_up = inputs.lookup_fingerprint(last["history_until"])
        if last["lookup_fingerprint"] != looked_up:
            found.append(("a table that the endpoint map looks up changed", Input.ENDPOINT_MAP))
    elsewhere = inputs.orders_elsewhere.get(now["day"], 0)
    if Input.ORDERS in table.depends_on and last["orders_elsewhere"] != elsewhere:
        found.append(("which of its orders were placed on another day changed", Input.ORDERS))
    return found


def _calls_changed(difference: int) -> str:
    if not difference:
        return "calls changed"
    return f"{abs(difference):,} call{'s' if abs(difference) > 1 else ''} {'came' if difference > 0 else 'went'}"


def _differs_around(now: dict[str, Any], table: DwhTable, last: dict[str, Any]) -> bool:
    return Input.SESSIONS in table.depends_on and any(now[name] != last[name] for name in _AROUND)


def _reasons_around(boundaries: BoundaryFingerprints, last: dict[str, Any]) -> list[tuple[str, Input | None]]:
    texts = {
        "earlier_fingerprint": "calls of the day before, from which its sessions come, changed",
        "later_fingerprint": "calls of the day after, into which its sessions reach, changed",
    }
    return [(text, Input.CALLS) for name, text in texts.items() if last[name] != getattr(boundaries, name)]


def _can_reuse_events(inputs: Inputs, day: date) -> bool:
    """Whether `dwh.events` holds its calls as today's endpoint map and code type them."""
    last = inputs.built.get((day, EVENTS.name))
    if last is None or (last["rates"] and last["rates"] != inputs.currencies.rates_digest(day)):
        return False
    return all(last[name] == inputs.rules[name] for name in ("endpoint_map", "currency", "transform_version"))


def _can_patch(
    inputs: Inputs,
    day: date,
    tables: Sequence[DwhTable],
    reasons: dict[DwhTable, list[tuple[str, Input | None]]],
) -> bool:
    if not {EVENTS, ORDER_CALLS} <= {*tables} or not all(table.session_column for table in tables):
        return False
    built = [inputs.built.get((day, table.name)) for table in tables]
    same_calls = {
        (row["raw_fingerprint"], row["calls"], row["earlier_fingerprint"], row["later_fingerprint"]) if row else None
        for row in built
    }
    only_calls = all(input_ is Input.CALLS for table in tables for _, input_ in reasons[table])
    return only_calls and None not in same_calls and len(same_calls) == 1


def _last_built(warehouse: Warehouse) -> dict[tuple[date, str], dict[str, Any]]:
    columns = ", ".join(f"`{name}`" for name in LEDGER.schema.names())
    rows = warehouse.query(
        f"SELECT {columns} FROM etl.ledger WHERE job NOT IN {{jobs:Array(String)}} "
        "ORDER BY built_at DESC LIMIT 1 BY day, job",
        {"jobs": [table.name for table in BOOK_TABLES]},
    )
    return {(row["day"], row["job"]): row for row in rows.iter_rows(named=True)}


def _published_days(warehouse: Warehouse) -> pl.DataFrame:
    """The days that `dwh.events` holds, by the names of its partitions."""
    days = [
        node.query(
            "SELECT DISTINCT toDate(partition) AS day FROM system.parts "
            f"WHERE active AND rows > 0 AND database = '{node.database('dwh')}' AND table = 'events'",
            schema={"day": pl.Date()},
        )
        for node in warehouse.nodes
    ]
    return pl.concat(days).unique()
