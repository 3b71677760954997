"""Finds the sessions whose calls are others than those from which a published day was built."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl

from app.contracts import API_CALLS, VISITOR_OF_SESSION
from app.frames.days import DaySpans
from app.frames.sessionize import assign_sessions, changed_sessions
from app.jobs.build.boundaries import CALL_HASH, QUARTER, TS
from app.jobs.build.shards import Scope, blocks_of, read_moments, read_published, shard_count
from app.warehouse import Hashed, Warehouse

_CALLS_AT_ONCE = 1_000_000
_MOMENTS = pl.DataFrame(schema={"session_id": pl.String(), "ts": API_CALLS.schema["ts"], "is_there": pl.Boolean()})
_CALL = "(call_id, content_hash)"
_EVENTS = Hashed("dwh.events", at=QUARTER, content=CALL_HASH)  # as the raw calls are
_IN_DAY = f"ts >= {TS('start')} AND ts < {TS('end')}"
_IN_QUARTERS = f"toUnixTimestamp64Milli({QUARTER}) IN {{quarters:Array(Int64)}}"


@dataclass(frozen=True)
class Changes:
    """The sessions of a day that are built anew, when their calls are, queries of them and of their visitors.

    `calls`: how many these sessions have.
    """

    session_ids: pl.Series
    blocks: tuple[int, ...]
    calls: int
    sessions: str
    visitors: str


@contextmanager
def find_changes(
    warehouse: Warehouse, scope: Scope, quarters: pl.DataFrame, *, around: tuple[bool, bool]
) -> Iterator[Changes | None]:
    """The sessions of which the day's raw calls and `dwh.events` differ; kept aside in tables in memory meanwhile.

    None where that cannot be told, so that the whole day is to be built.

    `quarters`: `at, rows, fingerprint` of the raw calls by quarter of an hour. `around` says whether calls of the day
    before and of the day after changed: then visitors and sessions near a midnight are looked at, too (whether a
    session goes on past the midnight at the day's end can depend on whether it came over that at its beginning).
    """
    suffix = f"{scope.spans.day:%Y%m%d}_{uuid.uuid4().hex[:12]}"  # another attempt at the day never meets them
    visitors, sessions = f"etl.changed_visitors_{suffix}", f"etl.changed_sessions_{suffix}"
    warehouse.command(f"CREATE TABLE {visitors} (visitor_hash UInt64) ENGINE = Memory")
    try:
        visitor_calls = _keep_visitors(warehouse, scope, quarters, around, into=visitors)
        some = Scope(scope.spans, scope.endpoint_map, scope.timeout_ms, visitors=f"SELECT visitor_hash FROM {visitors}")
        count = shard_count(visitor_calls, shard_calls=_CALLS_AT_ONCE)
        found = [_changed(warehouse, number, count, some, reaches_on=any(around)) for number in range(count)]
        known = [shard for shard in found if shard is not None]
        if len(known) < count:
            yield None
            return
        moments = pl.concat([_MOMENTS, *known])
        session_ids = moments["session_id"].unique()
        warehouse.keep_aside(sessions, session_ids, column="session_id", kind="String")
        yield Changes(
            session_ids,
            tuple(blocks_of(moments["ts"])),
            int(moments["is_there"].sum()),
            f"SELECT session_id FROM {sessions}",
            some.visitors,
        )
    finally:
        for table in (visitors, sessions):
            warehouse.command(f"DROP TABLE IF EXISTS {table} SYNC")


def _keep_visitors(
    warehouse: Warehouse, scope: Scope, quarters: pl.DataFrame, around: tuple[bool, bool], *, into: str
) -> int:
    """Keep aside the visitors with a call that is there now and was not then, or the other way; their calls."""
    spans = scope.spans
    parameters = {
        "day": spans.day,
        "start": spans.start,
        "end": spans.end,
        "timeout_ms": scope.timeout_ms,
        "quarters": _differing(warehouse, spans, quarters),
    }
    raw = f"FROM pd.api_calls WHERE {_IN_DAY} AND {_IN_QUARTERS}"
    typed = f"FROM dwh.events WHERE event_date = {{day:Date}} AND {_IN_QUARTERS}"
    sources = [
        f"SELECT visitor_hash {raw} AND {_CALL} NOT IN (SELECT {_CALL} {typed})",
        f"SELECT {VISITOR_OF_SESSION} {typed} AND {_CALL} NOT IN (SELECT {_CALL} {raw})",
    ]
    after_start = "ts <= fromUnixTimestamp64Milli({start:Int64} + {timeout_ms:Int64}, 'UTC')"
    before_end = "ts >= fromUnixTimestamp64Milli({end:Int64} - {timeout_ms:Int64}, 'UTC')"
    for is_changed, near_midnight in zip(around, (after_start, before_end), strict=True):
        if is_changed:
            sources.append(f"SELECT visitor_hash FROM pd.api_calls WHERE {_IN_DAY} AND {near_midnight}")
    warehouse.command(f"INSERT INTO {into} {' UNION DISTINCT '.join(sources)}", parameters)
    calls = warehouse.scalar(
        f"SELECT count() FROM pd.api_calls WHERE {_IN_DAY} AND visitor_hash IN (SELECT visitor_hash FROM {into})",
        parameters,
    )
    return int(calls)


def _changed(warehouse: Warehouse, number: int, count: int, scope: Scope, *, reaches_on: bool) -> pl.DataFrame | None:
    """`session_id, ts, is_there` of the calls, there now or as published, of the changed sessions of these visitors.

    None where a call is there twice, which only a look at all of the visitors' calls can put right.
    """
    calls, earlier = read_moments(warehouse, number, count, scope)
    if calls["call_id"].is_duplicated().any():
        return None
    published = read_published(warehouse, number, count, scope)
    sessions = assign_sessions(calls, earlier, spans=scope.spans, timeout_ms=scope.timeout_ms)
    ids = changed_sessions(sessions, published, spans=scope.spans, timeout_ms=scope.timeout_ms, reaches_on=reaches_on)
    of_both = [
        frame.select("session_id", "ts", is_there=pl.lit(is_there))
        for frame, is_there in ((sessions, True), (published, False))
    ]
    return pl.concat(of_both).filter(pl.col("session_id").is_in(ids.implode()))


def _differing(warehouse: Warehouse, spans: DaySpans, quarters: pl.DataFrame) -> list[int]:
    """The quarters of an hour, as epoch ms, in which raw calls and `dwh.events` differ: few, so little is compared."""
    of_day = quarters.filter(pl.col("at").dt.epoch("ms").is_between(spans.start, spans.end, closed="left"))
    typed = warehouse.query(
        f"SELECT {_EVENTS.sums} FROM {_EVENTS.full_name} WHERE event_date = {{day:Date}} GROUP BY at",
        {"day": spans.day},
        schema=of_day.schema,
    )
    differing = pl.concat([of_day, typed]).unique(keep="none")
    return differing["at"].dt.epoch("ms").unique().to_list()
