"""What each business day was built from, and so which days are stale: found by comparison, never by a clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from app import TRANSFORM_VERSION
from app.contracts import CATALOG_SESSIONS, LEDGER, PRODUCT_SESSIONS, SESSIONS
from app.frames.days import day_spans
from app.jobs.build.boundaries import CALL_HASH, QUARTER, Reach, read_reach
from app.jobs.build.day import Basis
from app.jobs.build.product_history import history_sums
from app.rules.endpoint_map import EndpointMap
from app.rules.session_rules import SessionRules
from app.rules.snapshot_plan import SnapshotPlan
from app.settings import Settings
from app.warehouse import Hashed, Warehouse, fingerprints

RAW_CALLS = Hashed("pd.api_calls", at=QUARTER, content=CALL_HASH)
# Two days back: whether a visitor paused all the day before is told by the call before its first.
_AROUND = {"previous_days_fingerprint": (-1, -2), "next_day_fingerprint": (1,)}
_RULES = {
    "endpoint_map": "endpoint map changed",
    "transform_version": "version of Carat changed",
    "timezone": "time zone changed",
    "session_timeout_ms": "session timeout changed",
    "product_plan": "snapshot plan of products changed",
    "session_rules": "rules for devices, bots, channels or countries changed",
}
# Rules that not all tables are built by.
_RULES_OF_SOME = {
    "product_plan": {PRODUCT_SESSIONS.name},
    "session_rules": {SESSIONS.name, CATALOG_SESSIONS.name, PRODUCT_SESSIONS.name},
}


@dataclass(frozen=True)
class StaleDay:
    """A day to build: which of its tables, and why.

    `can_reuse_events`: the published events were typed from their calls by the same map and rules. `can_patch`: all of
    its tables were built from the same calls and nothing but calls changed, so other visitors' rows stay as they are.
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
class Inputs:
    """What the days would be built from now, and what they were built from.

    `days`: `day, calls, raw_fingerprint` and the fingerprints of the whole days around it. `quarters`: `at, rows,
    fingerprint` of the raw calls. `versions`: `at, fingerprint` of products' versions, summed up to each instant.
    `built`: the ledger's last row per day and job.
    """

    days: pl.DataFrame
    quarters: pl.DataFrame
    versions: pl.DataFrame
    built: dict[tuple[date, str], dict[str, Any]]
    rules: dict[str, Any]
    zone: ZoneInfo
    timeout_ms: int

    def of_day(self, day: date) -> dict[str, Any]:
        return self.days.row(by_predicate=pl.col("day") == day, named=True)

    @property
    def oldest_day(self) -> date | None:
        """The first day of which there are raw calls."""
        oldest = self.days.filter(pl.col("calls") > 0)["day"].min()
        return oldest if isinstance(oldest, date) else None

    def verifiable_days(self) -> list[date]:
        """The days whose raw calls are, or would be, there; others are past the retention of theirs."""
        oldest = self.oldest_day
        return [day for day in self.days["day"] if oldest and day >= oldest]

    def history_fingerprint(self, until: datetime) -> int:
        """The versions of products' rows that hold from this instant or earlier."""
        before = self.versions.filter(pl.col("at") <= until)
        return int(before["fingerprint"][-1]) if before.height else 0

    def basis(self, stale: StaleDay, reach: Reach) -> Basis:
        """What of the published day its build may take over."""
        if not stale.can_reuse_events:
            return Basis()
        following = stale.day + timedelta(days=1)
        reusable = (stale.day, following) if _can_reuse_events(self, following) else (stale.day,)
        if not stale.can_patch:
            return Basis(reusable)
        last = {job: self.built[stale.day, job] for job in stale.jobs}
        events = last["events"]
        return Basis(
            reusable,
            rows={job: row["rows"] for job, row in last.items()},
            quarters=self.quarters,
            around=(
                events["earlier_fingerprint"] != reach.earlier_fingerprint,
                events["later_fingerprint"] != reach.later_fingerprint,
            ),
            until=max(row["history_until"] for row in last.values()),
        )

    def rules_of(self, job: str) -> dict[str, Any]:
        """What else than calls and history a table is built by."""
        foreign = {name: "" for name, tables in _RULES_OF_SOME.items() if job not in tables}
        return self.rules | foreign


def read_rules(
    settings: Settings, endpoint_map: EndpointMap, plan: SnapshotPlan, session_rules: SessionRules
) -> dict[str, Any]:
    """What else than calls and history days are built by, as columns of the ledger."""
    return {
        "endpoint_map": endpoint_map.digest,
        "transform_version": TRANSFORM_VERSION,
        "timezone": settings.timezone,
        "session_timeout_ms": settings.session_timeout_ms,
        "product_plan": plan.products_digest,
        "session_rules": session_rules.digest,
    }


def read_inputs(
    warehouse: Warehouse,
    settings: Settings,
    endpoint_map: EndpointMap,
    plan: SnapshotPlan,
    session_rules: SessionRules,
    *,
    keep: bool,
) -> Inputs:
    """What there is to build from, without reading a call twice in its life; with `keep` that is remembered."""
    quarters = fingerprints(warehouse, RAW_CALLS, keep=keep)
    local_day = pl.col("at").dt.convert_time_zone(settings.timezone).dt.date()
    of_days = quarters.group_by(day=local_day).agg(calls=pl.col("rows").sum(), hash=pl.col("fingerprint").sum())
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
        quarters,
        history_sums(warehouse, plan, keep=keep).with_columns(pl.col("fingerprint").cum_sum()),
        built,
        read_rules(settings, endpoint_map, plan, session_rules),
        settings.zone,
        settings.session_timeout_ms,
    )


def compare(
    warehouse: Warehouse, inputs: Inputs, *, jobs: Sequence[str], force: bool = False
) -> tuple[list[StaleDay], list[tuple[date, str]]]:
    """The days whose last build had other inputs than there are now, oldest first; with `force` every day.

    And the days and tables that are as built though a neighbour's calls changed: their sessions reach none of those.
    """
    stale: list[StaleDay] = []
    untouched: list[tuple[date, str]] = []
    kept = _past_their_calls(warehouse, inputs)
    for now in inputs.days.iter_rows(named=True):
        day = now["day"]
        if not force and day in kept:
            continue
        last = {job: inputs.built.get((day, job)) for job in jobs}
        reasons = {job: _reasons(inputs, now, job, row) for job, row in last.items()}
        around = [job for job, row in last.items() if row and not reasons[job] and _differs_around(now, row)]
        if around:
            reach = read_reach(warehouse, day_spans(day, inputs.zone), timeout_ms=inputs.timeout_ms)
            for job in around:
                reasons[job] = _reasons_around(reach, last[job] or {})
            untouched += [(day, job) for job in around if not reasons[job]]
        chosen = tuple(job for job in jobs if reasons[job] or force)
        if chosen:
            texts = dict.fromkeys(text for job in chosen for text, _ in reasons[job])
            stale.append(
                StaleDay(
                    day,
                    chosen,
                    tuple(texts) or ("forced",),
                    can_reuse_events=not force and _can_reuse_events(inputs, day),
                    can_patch=not force and _can_patch(inputs, day, chosen, reasons),
                )
            )
    return stale, untouched


def record_built(
    warehouse: Warehouse,
    inputs: Inputs,
    *,
    day: date,
    reach: Reach,
    until: datetime,
    rows: dict[str, int],
    unreadable: int,
    now: datetime,
) -> None:
    """Write down what a day's tables were built from; `rows` are theirs, `until` is its sessions' last call."""
    of_day = inputs.of_day(day)
    entries = [
        of_day
        | inputs.rules_of(job)
        | vars(reach)
        | {
            "job": job,
            "built_at": _after_the_last(inputs, day, job, now),
            "history_until": until,
            "history_fingerprint": inputs.history_fingerprint(until) if job == PRODUCT_SESSIONS.name else 0,
            "rows": count,
            "unreadable": unreadable,
        }
        for job, count in rows.items()
    ]
    warehouse.insert(LEDGER, pl.DataFrame(entries, schema=LEDGER.schema))


def record_untouched(
    warehouse: Warehouse, inputs: Inputs, *, untouched: Iterable[tuple[date, str]], now: datetime
) -> None:
    """Write down that tables are what their inputs say, so that the next look need not read their neighbours' calls."""
    entries = [
        inputs.built[day, job]
        | {name: inputs.of_day(day)[name] for name in _AROUND}
        | {"built_at": _after_the_last(inputs, day, job, now)}
        for day, job in untouched
    ]
    if entries:
        warehouse.insert(LEDGER, pl.DataFrame(entries, schema=LEDGER.schema))


def _after_the_last(inputs: Inputs, day: date, job: str, now: datetime) -> datetime:
    """Now, or where the clock was set back just after the entry before: the last entry is the one that counts."""
    last = inputs.built.get((day, job))
    return max(now, last["built_at"] + timedelta(milliseconds=1)) if last else now


def _past_their_calls(warehouse: Warehouse, inputs: Inputs) -> set[date]:
    """The days before the oldest call, of which what is published is kept: their calls are past their retention.

    Not those by another time zone, whose calls are there but belong to later days by this one.
    """
    oldest = inputs.oldest_day
    before = {day for day in inputs.days["day"] if oldest is None or day < oldest}
    other_zone = [
        day
        for day in before
        if (last := inputs.built.get((day, "events"))) and last["timezone"] != inputs.rules["timezone"]
    ]
    if not other_zone:
        return before
    left_over = warehouse.query(
        "SELECT event_date FROM dwh.events WHERE event_date IN {days:Array(Date)} GROUP BY event_date "
        "HAVING min(ts) >= (SELECT min(ts) FROM pd.api_calls)",
        {"days": other_zone},
        schema={"event_date": pl.Date()},
    )
    return before - set(left_over["event_date"])


def _reasons(inputs: Inputs, now: dict[str, Any], job: str, last: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Why a table is stale, as far as its own day says: what a person reads, and whether it is `calls` or not."""
    if last is None:
        return [("never built", "rules")]
    found = []
    if (now["raw_fingerprint"], now["calls"]) != (last["raw_fingerprint"], last["calls"]):
        found.append((_calls_changed(now["calls"] - last["calls"]), "calls"))
    found += [(why, "rules") for name, why in _RULES.items() if last[name] != inputs.rules_of(job)[name]]
    if job == PRODUCT_SESSIONS.name and last["history_fingerprint"] != inputs.history_fingerprint(
        last["history_until"]
    ):
        found.append(("history of its products changed", "history"))
    return found


def _calls_changed(difference: int) -> str:
    if not difference:
        return "calls changed"
    return f"{abs(difference):,} call{'s' if abs(difference) > 1 else ''} {'came' if difference > 0 else 'went'}"


def _differs_around(now: dict[str, Any], last: dict[str, Any]) -> bool:
    return any(now[name] != last[name] for name in _AROUND)


def _reasons_around(reach: Reach, last: dict[str, Any]) -> list[tuple[str, str]]:
    texts = {
        "earlier_fingerprint": "calls of the day before, from which its sessions come, changed",
        "later_fingerprint": "calls of the day after, into which its sessions reach, changed",
    }
    return [(text, "calls") for name, text in texts.items() if last[name] != getattr(reach, name)]


def _can_reuse_events(inputs: Inputs, day: date) -> bool:
    """Whether `dwh.events` holds what the endpoint map says today of the calls it was typed from."""
    last = inputs.built.get((day, "events"))
    return last is not None and all(last[name] == inputs.rules[name] for name in ("endpoint_map", "transform_version"))


def _can_patch(inputs: Inputs, day: date, jobs: Sequence[str], reasons: dict[str, list[tuple[str, str]]]) -> bool:
    built = [inputs.built.get((day, job)) for job in ("events", *jobs)]
    same_calls = {
        (row["raw_fingerprint"], row["calls"], row["earlier_fingerprint"], row["later_fingerprint"]) if row else None
        for row in built
    }
    only_calls = all(kind == "calls" for job in jobs for _, kind in reasons[job])
    return "events" in jobs and only_calls and None not in same_calls and len(same_calls) == 1


def _last_built(warehouse: Warehouse) -> dict[tuple[date, str], dict[str, Any]]:
    columns = ", ".join(f"`{name}`" for name in LEDGER.schema.names())
    rows = warehouse.query(f"SELECT {columns} FROM etl.ledger ORDER BY built_at DESC LIMIT 1 BY day, job")
    return {(row["day"], row["job"]): row for row in rows.iter_rows(named=True)}


def _published_days(warehouse: Warehouse) -> pl.DataFrame:
    """The days that `dwh.events` holds, by the names of its partitions."""
    return warehouse.query(
        "SELECT DISTINCT toDate(partition) AS day FROM system.parts "
        "WHERE active AND rows > 0 AND database = 'dwh' AND table = 'events'",
        schema={"day": pl.Date()},
    )
