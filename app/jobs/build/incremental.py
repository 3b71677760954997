"""Finds the sessions that a published day no longer holds as the raw calls say."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import polars as pl

from app.contracts import API_CALLS, EVENTS, VISITOR_OF_SESSION
from app.frames.sessionize import assign_sessions, changed_sessions
from app.jobs.build.call_sql import CALL_HASH, QUARTER_HOUR, fits, instant, is_counted
from app.jobs.build.shards import BuildScope, ShardKey, blocks_of, read_moments, read_published
from app.warehouse import FingerprintSource, Warehouse

_SHARD_CALLS = 1_000_000
_CALL_KEY = ["call_id", "content_hash"]
_MOMENTS = pl.DataFrame(
    schema={
        "session_id": pl.String(),
        "ts": API_CALLS.schema["ts"],
        **{name: EVENTS.schema[name] for name in _CALL_KEY},
        "is_there": pl.Boolean(),
    }
)
_CALL = "(call_id, content_hash)"
_PUBLISHED_CALLS = FingerprintSource("dwh.events", at=QUARTER_HOUR, content=CALL_HASH)  # as the raw calls are
_IN_DAY = f"ts >= {instant('start')} AND ts < {instant('end')}"
_IN_QUARTER_HOURS = f"toUnixTimestamp64Milli({QUARTER_HOUR}) IN {{quarter_hours:Array(Int64)}}"


@dataclass(frozen=True)
class ChangedSessions:
    """The sessions of a day that are to be rebuilt, the blocks and number of their calls.

    `sessions` and `visitors` are queries of their `session_id` and of their visitors' `visitor_hash`.
    """

    session_ids: pl.Series
    blocks: tuple[int, ...]
    calls: int
    sessions: str
    visitors: str


@contextmanager
def find_changed_sessions(
    warehouse: Warehouse, scope: BuildScope, quarter_hours: pl.DataFrame, *, around: tuple[bool, bool]
) -> Iterator[ChangedSessions | None]:
    """The sessions whose calls in `pd.api_calls` and in `dwh.events` differ, held in temporary tables.

    None where this cannot be determined, so that the whole day is to be built.

    `quarter_hours`: `at, rows, fingerprint` of the raw calls. `around` says whether calls of the day before and of the
    day after changed. If so, sessions near a midnight are compared as well: whether a session continues past the
    midnight at the day's end can depend on whether it crossed the one at its beginning.
    """
    if scope.nodes > 1 and scope.links.has_calls_without_id:  # whose they are is known to all nodes together only
        yield None
        return
    suffix = f"{scope.bounds.day:%Y%m%d}_{uuid.uuid4().hex[:12]}"  # so that attempts at the same day share nothing
    visitors, sessions = f"etl.changed_visitors_{suffix}", f"etl.changed_sessions_{suffix}"
    try:
        visitor_calls = _find_visitors(warehouse, scope, quarter_hours, around, into=visitors)
        some = replace(scope, visitors=f"SELECT visitor_hash FROM {visitors}", reusable_days=())
        keys = ShardKey.of(some, visitor_calls, shard_calls=_SHARD_CALLS)
        found = [_changed_in_shard(warehouse.nodes[key.node], key, reaches_on=any(around)) for key in keys]
        known = [shard for shard in found if shard is not None]
        if len(known) < len(keys):
            yield None
            return
        moments = pl.concat([_MOMENTS, *known])
        if scope.links.has_calls_without_id and _are_lost(moments):
            yield None
            return
        session_ids = moments["session_id"].unique()
        warehouse.create_temp_table(sessions, session_ids, column="session_id", kind="String")
        yield ChangedSessions(
            session_ids,
            tuple(blocks_of(moments["ts"])),
            int(moments["is_there"].sum()),
            f"SELECT session_id FROM {sessions}",
            some.visitors,
        )
    finally:
        warehouse.drop_tables([visitors, sessions])


def _find_visitors(
    warehouse: Warehouse, scope: BuildScope, quarter_hours: pl.DataFrame, around: tuple[bool, bool], *, into: str
) -> int:
    """Create `into`, the visitors with a call that came or went; returns the number of calls they have on the day."""
    bounds = scope.bounds
    parameters = {
        "day": bounds.day,
        "start": bounds.start,
        "end": bounds.end,
        "timeout_ms": scope.timeout_ms,
        "quarter_hours": _differing(warehouse, scope, quarter_hours),
    }
    raw = f"FROM pd.api_calls WHERE {_IN_DAY} AND {_IN_QUARTER_HOURS} AND {is_counted(scope.endpoint_map)}"
    typed = f"FROM dwh.events WHERE event_date = {{day:Date}} AND {_IN_QUARTER_HOURS}"
    sources = [
        f"SELECT visitor_hash {raw} AND {_CALL} NOT IN (SELECT {_CALL} {typed})",
        f"SELECT {VISITOR_OF_SESSION} {typed} AND {_CALL} NOT IN (SELECT {_CALL} {raw})",
    ]
    after_start = "ts <= fromUnixTimestamp64Milli({start:Int64} + {timeout_ms:Int64}, 'UTC')"
    before_end = "ts >= fromUnixTimestamp64Milli({end:Int64} - {timeout_ms:Int64}, 'UTC')"
    if scope.links.table:
        sources.append(_whose_owner_changed(scope.links.table))
    for is_changed, near_midnight in zip(around, (after_start, before_end), strict=True):
        if is_changed:
            sources.append(f"SELECT visitor_hash FROM pd.api_calls WHERE {_IN_DAY} AND {near_midnight}")
    create = f"CREATE TABLE {into} (visitor_hash UInt64) ENGINE = Memory AS"
    of_visitors = (
        f"SELECT count() FROM pd.api_calls WHERE {_IN_DAY} AND visitor_hash IN (SELECT visitor_hash FROM {into})"
    )
    calls = 0
    for node in warehouse.nodes:
        node.command(f"{create} {' UNION DISTINCT '.join(sources)}", parameters)
        calls += int(node.scalar(of_visitors, parameters))
    return calls


def _changed_in_shard(warehouse: Warehouse, key: ShardKey, *, reaches_on: bool) -> pl.DataFrame | None:
    """`session_id, ts, is_there` of the changed sessions' calls, both raw (`is_there`) and published.

    None where a call is stored twice: only all of the visitors' calls together say which one counts.
    """
    scope = key.scope
    calls, earlier = read_moments(warehouse, key)
    if calls["call_id"].is_duplicated().any():
        return None
    published = read_published(warehouse, key)
    sessions = assign_sessions(calls, earlier, bounds=scope.bounds, timeout_ms=scope.timeout_ms)
    ids = changed_sessions(sessions, published, bounds=scope.bounds, timeout_ms=scope.timeout_ms, reaches_on=reaches_on)
    of_both = [
        frame.select("session_id", "ts", *_CALL_KEY, is_there=pl.lit(is_there))
        for frame, is_there in ((sessions, True), (published, False))
    ]
    return pl.concat(of_both).filter(pl.col("session_id").is_in(ids.implode()))


def _whose_owner_changed(links: str) -> str:
    """The SQL of the visitors who gain or lose a call without an id, by the table of the day's links."""
    events = f"SELECT call_id, {VISITOR_OF_SESSION} AS visitor FROM dwh.events WHERE event_date = {{day:Date}}"
    return (
        f"SELECT arrayJoin([owner_hash, published]) AS visitor_hash FROM ("
        f"SELECT owner_hash, ifNull(visitor, 0) AS published FROM {links} LEFT JOIN "
        f"({events} AND call_id IN (SELECT call_id FROM {links})) AS events USING (call_id)) "
        "WHERE owner_hash != published"
    )


def _are_lost(moments: pl.DataFrame) -> bool:
    """Whether a published call of these visitors is none of theirs any more.

    It is gone, and nothing says whom it linked to other calls; or another visitor's who is not among these.
    """
    there, published = moments.filter("is_there"), moments.filter(~pl.col("is_there"))
    return not published.join(there, on=_CALL_KEY, how="anti").is_empty()


def _differing(warehouse: Warehouse, scope: BuildScope, quarter_hours: pl.DataFrame) -> list[int]:
    """The quarter hours, as epoch ms, in which the raw calls that count and `dwh.events` differ."""
    bounds = scope.bounds
    of_day = quarter_hours.filter(pl.col("at").dt.epoch("ms").is_between(bounds.start, bounds.end, closed="left"))
    ignored = " OR ".join(f"({fits(pattern)})" for pattern in scope.endpoint_map.ignored) or "0"
    parts = (
        f"{_PUBLISHED_CALLS.sums} FROM {_PUBLISHED_CALLS.full_name} WHERE event_date = {{day:Date}}",
        f"{_PUBLISHED_CALLS.sums} FROM pd.api_calls WHERE {_IN_DAY} AND ({ignored})",
    )
    known = [
        node.query(
            f"SELECT {part} GROUP BY at",
            {"day": bounds.day, "start": bounds.start, "end": bounds.end},
            schema=of_day.schema,
        )
        for node in warehouse.nodes
        for part in parts
    ]
    sums = pl.concat(known).group_by("at").agg(pl.col("rows", "fingerprint").sum()).select(of_day.columns)
    differing = pl.concat([of_day, sums.cast(of_day.schema)]).unique(keep="none")
    return differing["at"].dt.epoch("ms").unique().to_list()
