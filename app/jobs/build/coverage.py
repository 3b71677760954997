"""What the endpoint map made of each day's calls (`etl.coverage`), and where it seems not to fit.

Calls and values are counted in the published `dwh.events`, so they are those of the whole day whatever part of it a
build replaced. Values that could not be read leave no trace there. They are counted while calls are typed: a build that
takes typed events over adds those of the calls it types to what was counted before.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from app.contracts import COVERAGE, EVENTS
from app.core.sql import quote
from app.frames.coverage import field_names
from app.frames.events import FAILED_STATUS
from app.frames.money import ORIGINALS
from app.jobs.build.built import DayBuilt
from app.rules.endpoint_map import OTHER, PARALLEL_FIELDS, EndpointMap
from app.rules.fit import UNREAD_BODIES, Coverage, EntryCount, FieldCount, Finding, find_misfits
from app.warehouse import Warehouse

_MOST_ENDPOINTS = 10
_LIST_OF = dict(zip(PARALLEL_FIELDS, ("order_products", "order_quantities", "order_prices"), strict=True))
_OF_DAY = "FROM dwh.events WHERE event_date = {day:Date}"
_UNMATCHED = f"map_entry = '' AND status < {FAILED_STATUS} AND NOT is_error"
# A segment of a path that looks like an id says nothing of the endpoint, and may name a person.
_ENDPOINT = (
    "arrayStringConcat(arrayMap(part -> if(match(part, '^[0-9]+$|[0-9]{2}|@|%40'), '{id}', part), "
    "splitByChar('/', splitByChar('?', endpoint)[1])), '/')"
)


@dataclass(frozen=True)
class _Counted:
    """A day's calls: per entry its calls, per field those with a value; and the endpoints that no entry fits."""

    calls: Mapping[str, int]
    fields: Mapping[tuple[str, str], tuple[int, int]]  # calls with a value, and amounts without a rate
    unmatched: int
    endpoints: Mapping[str, int]


def record_coverage(
    warehouse: Warehouse, built: DayBuilt, endpoint_map: EndpointMap, *, now: datetime
) -> tuple[Finding, ...]:
    """Count what the map made of a published day, write it to `etl.coverage`, and return where the map does not fit."""
    last = warehouse.query(
        "SELECT map_entry, field, unreadable, built_at FROM dwh.map_fit WHERE day = {day:Date}",
        {"day": built.day},
        schema={name: COVERAGE.schema[name] for name in ("map_entry", "field", "unreadable", "built_at")},
    )
    unreadable = Counter(built.unreadable_values)
    if built.took_events_over:
        unreadable.update({(entry, field): count for entry, field, count, _ in last.iter_rows() if count})
    counted = _count(warehouse, built.day, endpoint_map)
    coverage = _coverage(counted, unreadable, endpoint_map)
    findings = find_misfits(coverage)
    # A clock that was set back must not make the older rows the newest.
    built_at = max(now, last["built_at"][0] + timedelta(milliseconds=1)) if last.height else now
    rows = [
        {"day": built.day, "built_at": built_at} | row
        for row in _rows(coverage, counted.endpoints, unreadable, findings)
    ]
    warehouse.insert(COVERAGE, pl.DataFrame(rows, schema=COVERAGE.schema))
    return tuple(findings)


def _count(warehouse: Warehouse, day: date, endpoint_map: EndpointMap) -> _Counted:
    names = sorted({name for call in endpoint_map.calls for name in field_names(call)})
    sums = [f"countIf({_has_value(name)}) AS `{name} filled`" for name in names]
    sums += [
        f"countIf({name} IS NULL AND {original} IS NOT NULL) AS `{name} without rate`"
        for name, original in ORIGINALS.items()
    ]
    sql = (
        f"SELECT map_entry, count() AS calls, countIf({_UNMATCHED}) AS unmatched, {', '.join(sums)} {_OF_DAY} "
        "GROUP BY map_entry"
    )
    of_nodes = [frame for node in warehouse.nodes if (frame := node.query(sql, {"day": day})).width]
    found = pl.concat(of_nodes).group_by("map_entry").sum().rows(named=True) if of_nodes else []
    sql = f"SELECT {_ENDPOINT} AS path, count() AS calls {_OF_DAY} AND {_UNMATCHED} GROUP BY path"
    if len(warehouse.nodes) == 1:
        sql += f" ORDER BY calls DESC, path LIMIT {_MOST_ENDPOINTS}"
    schema = {"path": pl.String(), "calls": pl.UInt64()}
    of_all = pl.concat([node.query(sql, {"day": day}, schema=schema) for node in warehouse.nodes])
    endpoints = of_all.group_by("path").agg(pl.col("calls").sum())
    endpoints = endpoints.sort(["calls", "path"], descending=[True, False]).head(_MOST_ENDPOINTS)
    return _Counted(
        {row["map_entry"]: row["calls"] for row in found},
        {
            (row["map_entry"], name): (row[f"{name} filled"], row.get(f"{name} without rate", 0))
            for row in found
            for name in names
        },
        sum(row["unmatched"] for row in found),
        dict(endpoints.iter_rows()),
    )


def _has_value(name: str) -> str:
    """The SQL of whether a row of `dwh.events` has a value in a field of the map, as `frames.coverage.has_value`."""
    if name.startswith("filters."):
        return f"mapContains(filters, {quote(name.removeprefix('filters.'))})"
    (column,) = (column for column in EVENTS.columns if column.name == name)
    if column.type.startswith("Array("):
        # Lines without a price are filled with 0, so a list of zeros says nothing.
        nothing = "''" if column.type == "Array(String)" else "0"
        return f"arrayExists(value -> value != {nothing}, {name})"
    said = ORIGINALS.get(name, name)  # an amount without a rate has a value all the same
    has_value = f"{said} IS NOT NULL" if column.is_nullable else f"{said} != ''"
    return f"({has_value} OR notEmpty({_LIST_OF[name]}))" if name in _LIST_OF else has_value


def _coverage(counted: _Counted, unreadable: Counter[tuple[str, str]], endpoint_map: EndpointMap) -> Coverage:
    entries = []
    for call in endpoint_map.calls:
        calls = counted.calls.get(call.label, 0)
        fields = {}
        for name in field_names(call):
            filled, without_rate = counted.fields.get((call.label, name), (0, 0))
            fields[name] = FieldCount(filled, unreadable[call.label, name], without_rate)
        if lost := unreadable[call.label, ""]:
            fields[""] = FieldCount(calls, lost)
        for name in UNREAD_BODIES.values():
            if lost := min(unreadable[call.label, name], calls):  # taken over: since then a call may have gone
                fields[name] = FieldCount(calls - lost, lost)
        entries.append(EntryCount(call.label, call.event, calls, fields))
    calls = sum(entry.calls for entry in entries) + counted.unmatched
    unread = {name: unreadable["", name] for name in UNREAD_BODIES.values() if unreadable["", name]}
    return Coverage(
        calls,
        counted.unmatched,
        tuple(entries),
        has_currency=bool(endpoint_map.currency),
        unmatched_unread={name: min(count, counted.unmatched) for name, count in unread.items()},
    )


def _rows(
    coverage: Coverage, endpoints: Mapping[str, int], unreadable: Counter[tuple[str, str]], findings: list[Finding]
) -> Iterator[dict[str, Any]]:
    """The rows of `etl.coverage` without day and time; of entries without calls only those of the entries."""
    problems = _by_row(coverage, findings)

    def row(entry: str, event: str, name: str, count: FieldCount, calls: int) -> dict[str, Any]:
        problem, fix = problems.get((entry, name), ("", ""))
        return {
            "map_entry": entry,
            "event": event,
            "field": name,
            "calls": calls,
            "filled": count.filled,
            "unreadable": count.unreadable,
            "without_rate": count.without_rate,
            "problem": problem,
            "fix": fix,
            "endpoints": [] if entry else list(endpoints),
            "endpoint_calls": [] if entry else list(endpoints.values()),
        }

    yield row("", OTHER, "", FieldCount(0), coverage.unmatched)
    for name, unread in coverage.unmatched_unread.items():
        yield row("", OTHER, name, FieldCount(coverage.unmatched - unread, unread), coverage.unmatched)
    for entry in coverage.entries:
        # A problem may also be that the entry does not read a field at all.
        missing = {name: FieldCount(0) for owner, name in problems if owner == entry.entry}
        fields = {**missing, **entry.fields} if entry.calls else {}
        fields[""] = FieldCount(entry.calls, unreadable[entry.entry, ""])
        for name, count in fields.items():
            yield row(entry.entry, entry.event, name, count, entry.calls)


def _by_row(coverage: Coverage, findings: list[Finding]) -> dict[tuple[str, str], tuple[str, str]]:
    """Problems and fixes by entry and field, under an empty entry those of the map as a whole."""
    entries = {entry.entry for entry in coverage.entries}
    found: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.entry if finding.entry in entries else "", finding.field), []).append(finding)
    return {
        place: ("; ".join(one.problem for one in own), "; ".join(one.fix for one in own))
        for place, own in found.items()
    }
