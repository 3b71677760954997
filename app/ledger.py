"""What each business day was built from, and so which days are stale: found by comparison, never by a clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl

from app import TRANSFORM_VERSION
from app.contracts import LEDGER, PRODUCT_SESSIONS
from app.jobs.product_history import history_fingerprints
from app.settings import Settings
from app.snapshot_plan import SnapshotPlan
from app.tracking import EndpointMap
from app.warehouse import Warehouse

_INPUTS = {
    "raw_fingerprint": "calls came or went",
    "endpoint_map": "endpoint map changed",
    "rules": "settings or version changed",
    "history_fingerprint": "history of its products changed",
}


@dataclass(frozen=True)
class StaleDay:
    """A day to build: which of its tables, and why."""

    day: date
    jobs: tuple[str, ...]
    reason: str


def inputs_now(warehouse: Warehouse, settings: Settings, endpoint_map: EndpointMap, plan: SnapshotPlan) -> pl.DataFrame:
    """What each day would be built from now: `day, calls, raw_fingerprint, endpoint_map, rules, history_fingerprint`.

    A day's sessions reach into its neighbours, so their calls are part of it, and all versions of its products' rows
    up to the end of the day after it.
    """
    days = warehouse.query(
        "SELECT toDate(ts, {zone:String}) AS day, count() AS calls, "
        "groupBitXor(cityHash64(call_id, content_hash)) AS hash "
        "FROM pd.api_calls GROUP BY day",
        {"zone": settings.timezone},
    ).cast({"calls": pl.UInt64, "hash": pl.UInt64})
    published = warehouse.query("SELECT DISTINCT event_date AS day FROM dwh.events")
    wanted = pl.concat([days.select("day"), published.select("day")]).unique().sort("day")
    around = [
        wanted.join(days.with_columns(pl.col("day") + timedelta(days=offset)), on="day", how="left").select(
            pl.col("calls", "hash").fill_null(0).name.suffix(str(offset))
        )
        for offset in (-1, 0, 1)
    ]
    rules = f"{settings.timezone} {settings.session_timeout_ms} {TRANSFORM_VERSION} {plan.products_digest}"
    history = history_fingerprints(warehouse, plan, settings.timezone).select(
        "day", history_fingerprint=pl.col("hash").cumulative_eval(pl.element().bitwise_xor())
    )
    known = wanted.select(until=pl.col("day") + timedelta(days=1)).join_asof(history, left_on="until", right_on="day")
    return pl.concat([wanted, *around, known.select("history_fingerprint")], how="horizontal").select(
        "day",
        calls=pl.col("calls-1") + pl.col("calls0") + pl.col("calls1"),
        # What is before, in and after the day must not cancel each other out when a call moves between days.
        raw_fingerprint=pl.col("hash-1") ^ (pl.col("hash0") // 3) ^ (pl.col("hash1") // 7),
        endpoint_map=pl.lit(endpoint_map.digest),
        rules=pl.lit(rules),
        history_fingerprint=pl.col("history_fingerprint").fill_null(0),
    )


def stale_days(
    warehouse: Warehouse, inputs: pl.DataFrame, *, jobs: Sequence[str], force: bool = False
) -> list[StaleDay]:
    """The days whose last build had other inputs than there are now, oldest first; with `force` every day."""
    built = warehouse.query(
        "SELECT day, job, raw_fingerprint, endpoint_map, rules, history_fingerprint "
        "FROM etl.ledger ORDER BY built_at DESC LIMIT 1 BY day, job"
    )
    known = {(row["day"], row["job"]): row for row in built.iter_rows(named=True)}
    stale = []
    for row in inputs.iter_rows(named=True):
        reasons: dict[str, list[str]] = {}
        for job in jobs:
            last = known.get((row["day"], job))
            if last is None:
                reasons.setdefault("never built", []).append(job)
                continue
            changed = [why for name, why in _INPUTS.items() if last[name] != row[name] and _concerns(job, name)]
            if changed or force:
                reasons.setdefault(", ".join(changed) or "forced", []).append(job)
        if reasons:
            stale.append(
                StaleDay(row["day"], tuple(job for group in reasons.values() for job in group), "; ".join(reasons))
            )
    return stale


def _concerns(job: str, name: str) -> bool:
    """Whether a table is built from this input: only product sessions join history."""
    return name != "history_fingerprint" or job == PRODUCT_SESSIONS.name


def record_built(
    warehouse: Warehouse, inputs: pl.DataFrame, *, day: date, jobs: Iterable[str], unreadable: int, now: datetime
) -> None:
    """Write down what a day's tables were built from."""
    built = inputs.filter(pl.col("day") == day).join(pl.DataFrame({"job": list(jobs)}), how="cross")
    built = built.with_columns(
        built_at=pl.lit(now).cast(LEDGER.schema["built_at"]), unreadable=pl.lit(unreadable, pl.UInt64)
    )
    warehouse.insert(LEDGER, built.select(LEDGER.schema.names()))
