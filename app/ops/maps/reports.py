"""Prints what `carat map` found: tables for people, JSON for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.core import console
from app.ops.maps.trial import Trial
from app.rules.endpoint_map import EndpointMap, MappedCall, Reading
from app.rules.fit import EntryCount
from app.rules.snapshot_plan import SnapshotPlan

_UNMATCHED_SHOWN = 20
_REPEATED_SHOWN = 5


def print_map(path: Path, endpoint_map: EndpointMap, plan: SnapshotPlan | None, *, as_json: bool) -> None:
    """The entries of a valid map, and what its lookups need of history."""
    tables = {lookup.table: lookup for lookup in endpoint_map.lookups}
    planned = {table.name: table for table in plan.tables} if plan else {}
    missing = sorted(set(tables) - set(planned)) if plan else []
    if as_json:
        console.say_json(
            {
                "map": str(path),
                "entries": [_entry_report(call) for call in endpoint_map.calls],
                "currency": endpoint_map.currency or None,
                "history_tables": sorted(tables),
                "history_tables_not_in_snapshot_plan": missing,
            }
        )
        return
    rows = [[*_entry_row(call)] for call in endpoint_map.calls]
    console.say_table(str(path), ["no", "event", "method", "path", "when", "fields"], rows, right=["no"])
    for lookup in endpoint_map.lookups:
        console.say(
            f"lookup: {lookup.value} by {lookup.key} of history.{lookup.table}: {_plan_state(lookup, planned, plan)}"
        )
    console.say(f"{path} is valid: {len(endpoint_map.calls)} entries, {len(endpoint_map.ignored)} ignored patterns")


def _plan_state(lookup: Any, planned: dict[str, Any], plan: SnapshotPlan | None) -> str:
    if plan is None:
        return "the snapshot plan cannot be read; `carat doctor` says why"
    table = planned.get(lookup.table)
    if table is None:
        return f"not in the snapshot plan, so the value is empty. Add [{lookup.table}] to it, or set CARAT_SNAPSHOTS"
    dropped = [column for column in (lookup.key, lookup.value) if not table.keeps(column)]
    if dropped:
        return f"the snapshot plan does not keep column {dropped[0]}, so the value is empty"
    return "in the snapshot plan"


def _entry_row(call: MappedCall) -> tuple[Any, ...]:
    number, _, rest = call.label.partition(": ")
    method, _, path = rest.partition(" ")
    fields = [*call.fields, *(f"filters.{name}" for name in call.filters)]
    return int(number), call.event, method, path, "yes" if call.when else "", ", ".join(fields)


def _entry_report(call: MappedCall) -> dict[str, Any]:
    number, event, method, path, when, _ = _entry_row(call)
    return {
        "number": number,
        "event": event,
        "method": method,
        "path": path,
        "has_when": bool(when),
        "fields": {name: [_reading_text(one) for one in many] for name, many in call.fields.items()},
        "filters": {name: [_reading_text(one) for one in many] for name, many in call.filters.items()},
        "remembers": [memory.name for memory in call.memories],
    }


def _reading_text(reading: Reading) -> str:
    source = reading.expression.text if reading.expression else reading.const
    return source if source is not None else f"recall {', '.join(reading.recall)}"


def print_trial(path: Path, trial: Trial, *, as_json: bool) -> None:
    """What the map made of the calls."""
    if as_json:
        console.say_json(trial_report(path, trial))
        return
    for entry in trial.coverage.entries:
        if entry.calls:
            _print_entry(trial, entry)
    _print_unmatched(trial)
    for line in _summary(trial):
        console.say(line)
    for finding in trial.findings:
        console.say(f"Looks wrong: {finding}")
    if not trial.findings:
        console.say("Nothing looks wrong.")


def _print_entry(trial: Trial, entry: EntryCount) -> None:
    title = f"{entry.entry}   {entry.event}: {_counted(entry.calls, 'call')}"
    if not entry.fields:
        console.say(f"{title}, no fields")
        return
    rows = [
        [
            name or "(document)",
            _share(count.filled, entry.calls),
            count.unreadable or None,
            ", ".join(trial.examples.get((entry.entry, name), ())),
        ]
        for name, count in entry.fields.items()
    ]
    console.say(title)
    console.say_table(
        "", ["field", "with a value", "unreadable", "examples"], rows, right=["with a value", "unreadable"]
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _print_unmatched(trial: Trial) -> None:
    if not trial.unmatched:
        return
    listed = trial.unmatched.most_common(_UNMATCHED_SHOWN)
    rows = [[count, method, path] for (method, path), count in listed]
    if more := len(trial.unmatched) - len(listed):
        rows.append([sum(trial.unmatched.values()) - sum(count for _, count in listed), "", f"… {more} more"])
    console.say_table("Calls that fit no entry", ["calls", "method", "path"], rows, right=["calls"])


def _summary(trial: Trial) -> list[str]:
    unused = [entry.entry for entry in trial.coverage.entries if not entry.calls]
    calls, share = _counted(trial.reading.calls, "call"), _share(trial.other, trial.typed)
    counts = f"{calls}: {trial.ignored:,} ignored, {trial.failed:,} failed (status 400 or above)"
    events = f"{trial.typed - trial.other:,} events, {share} of the calls that count are `other`"
    lines = [f"{counts}, {events}"]
    if trial.reading.rejected:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in trial.reading.rejected.most_common())
        lines.append(f"{_counted(trial.reading.rejected.total(), 'record')} could not be read ({reasons})")
    if trial.failed_orders:
        lines.append(f"{_counted(trial.failed_orders, 'order')} failed by what `when` says of the answer")
    lines += [
        f"{meeting.step}, never {meeting.earlier}: {meeting.unmet} of {meeting.products} products"
        + (f", e.g. {', '.join(meeting.examples)}" if meeting.examples else "")
        for meeting in trial.steps.meetings()
    ]
    if repeated := trial.repeated_orders:
        shown = ", ".join(f"{order} ({count} calls)" for order, count in list(repeated.items())[:_REPEATED_SHOWN])
        lines.append(f"Order ids in several calls, each of which counts once: {len(repeated)}, e.g. {shown}")
    if unused:
        lines.append(f"Entries that fit no call: {len(unused)}: {'; '.join(unused)}")
    return lines + _notes(trial)


def _notes(trial: Trial) -> list[str]:
    tables = sorted({lookup.table for lookup in trial.endpoint_map.lookups})
    if not tables:
        return []
    needed = f"Values that are looked up in history ({', '.join(tables)}) need a warehouse"
    return [f"{needed} and are empty here; `carat etl` fills them"]


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %" if total else "-"


def trial_report(path: Path, trial: Trial) -> dict[str, Any]:
    """What the map made of the calls, for programs."""
    coverage = trial.coverage
    return {
        "map": str(path),
        "calls": trial.reading.calls,
        "rejected": dict(trial.reading.rejected),
        "ignored": trial.ignored,
        "failed": trial.failed,
        "failed_orders": trial.failed_orders,
        "other": trial.other,
        "share_other": trial.other / trial.typed if trial.typed else None,
        "entries": [
            {
                "entry": entry.entry,
                "event": entry.event,
                "calls": entry.calls,
                "fields": [
                    {
                        "field": name,
                        "filled": count.filled,
                        "share": count.filled / entry.calls if entry.calls else None,
                        "unreadable": count.unreadable,
                        "examples": trial.examples.get((entry.entry, name), []),
                    }
                    for name, count in entry.fields.items()
                ],
            }
            for entry in coverage.entries
        ],
        "unmatched": [
            {"method": method, "path": path, "calls": count} for (method, path), count in trial.unmatched.most_common()
        ],
        "products": [
            {name: getattr(meeting, name) for name in ("step", "earlier", "products", "unmet", "examples")}
            for meeting in trial.steps.meetings()
        ],
        "repeated_orders": trial.repeated_orders,
        "looks_wrong": [_finding_report(finding) for finding in trial.findings],
        "notes": _notes(trial),
    }


def _finding_report(finding: Any) -> dict[str, str]:
    return {name: getattr(finding, name) for name in ("entry", "field", "problem", "fix")}


def print_draft(lines: Sequence[str], out: Path | None) -> None:
    """The drafted map on stdout, or where it was written."""
    if out is None:
        console.say("\n".join(lines))
    else:
        console.say(f"wrote {out}: edit it, then run `carat map check {out}` and `carat map try CALLS --map {out}`")
