"""Prints what a command did: tables for people, JSON for programs; and fails the command where work is left."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.core import console
from app.core.errors import AuditError, ShopError

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    import polars as pl

    from app.jobs.backup import Manifest, Restored
    from app.jobs.build.backfill import Backfill
    from app.jobs.build.ledger import StaleDay
    from app.jobs.forget.erase import Erasure
    from app.jobs.hourly import Hour
    from app.jobs.load.delivery import Delivery
    from app.jobs.raw_calls import LoadResult
    from app.jobs.verify import Verification
    from app.ops.finding import Finding
    from app.rules.fit import Finding as Misfit

_SNAPSHOT_COUNTS = ("rows", "inserts", "updates", "deletes")
_SNAPSHOT_COLUMNS = ("table", *_SNAPSHOT_COUNTS, "error")


def print_changes(changes: Sequence[str], *, as_json: bool) -> None:
    """What a migration changed."""
    if as_json:
        console.say_json({"changes": changes})
    else:
        console.say("\n".join(changes) or "nothing to do: every table is up to date")


# Names of `carat query --format`, and the engine's formats that they are made from.
QUERY_FORMATS = {
    "table": "PrettyCompactNoEscapes",
    "csv": "CSVWithNames",
    "json": "JSONEachRow",
    "ndjson": "JSONEachRow",
    "parquet": "Parquet",
}


def query_output(result: bytes, name: str, *, is_terminal: bool = False) -> bytes:
    """A result in the engine's format as the format of this name prints it."""
    if name == "parquet" or (name == "csv" and not is_terminal):
        return result
    text = result.decode(errors="replace")  # a record's bytes may be anything
    if name == "table" or is_terminal:
        text = console.harmless(text)
    if name == "json":  # the engine escapes line breaks in values, so that each line is a row
        text = "[" + text.rstrip("\n").replace("\n", ",\n") + "]\n"
    return text.encode()


def print_ingested(totals: "LoadResult", *, as_json: bool) -> None:
    """How many records were stored, were there already, or were rejected."""
    from app.jobs.raw_calls import ingest_summary  # noqa: PLC0415  takes Polars, which other reports do without

    if not as_json:
        console.say(ingest_summary(totals))
        return
    names = ("records", "stored", "duplicates", "rejected")
    console.say_json({name: getattr(totals, name) for name in names})


def print_delivery(delivery: "Delivery", *, as_json: bool) -> None:
    """What was delivered from the spool."""
    if as_json:
        console.say_json(delivery.report)
    else:
        console.say(delivery.summary)


def print_snapshots(taken: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """What changed in each table of the shop since the last snapshot."""
    if as_json:
        console.say_json(taken)
        return
    rows = [
        (
            row["table"],
            *(row[name] for name in _SNAPSHOT_COUNTS),
            "not changed" if row["error"] else row["guarantee"],
        )
        for row in taken
    ]
    title = f"snapshot of {taken[0]['at']:%Y-%m-%d %H:%M:%S}"
    console.say_table(title, ("table", *_SNAPSHOT_COUNTS, "read at"), rows, right=_SNAPSHOT_COUNTS)


def print_backfill(backfill: "Backfill", *, is_plan: bool, as_json: bool) -> None:
    """The days that were built; where `is_plan`, those that would be."""
    if as_json:
        console.say_json(_backfill_report(backfill))
    elif is_plan:
        print_stale(backfill.stale, as_json=False)
    else:
        _say_built(backfill)


def print_stale(stale: "Sequence[StaleDay]", *, as_json: bool) -> None:
    """The days that are stale, and why."""
    reports = [day.report for day in stale]
    if as_json:
        console.say_json(reports)
    elif not reports:
        console.say("nothing to do: every day is up to date")
    else:
        rows = [(report["day"], ", ".join(report["jobs"]), report["reason"]) for report in reports]
        console.say_table(f"{len(rows)} stale day(s)", ("day", "tables", "why"), rows)


def print_hour(hour: "Hour", *, as_json: bool) -> None:
    """What the hourly run delivered, snapshotted and built."""
    if as_json:
        snapshots = [{name: row[name] for name in _SNAPSHOT_COLUMNS} for row in hour.snapshots]
        console.say_json({"load": hour.delivery.report, "snapshots": snapshots} | _backfill_report(hour.backfill))
        return
    if hour.delivery.segments:
        console.say(hour.delivery.summary)
    if hour.snapshots:
        rows = [[row[name] for name in _SNAPSHOT_COLUMNS] for row in hour.snapshots]
        console.say_table("snapshot", _SNAPSHOT_COLUMNS, rows, right=_SNAPSHOT_COUNTS)
    _say_built(hour.backfill)


def print_verification(verification: "Verification", *, as_json: bool) -> None:
    """Whether days are what their raw calls say, and what differs."""
    if as_json:
        console.say_json(_verification_report(verification))
        return
    days = {table.day for table in verification.tables}
    rows = sum(table.rows for table in verification.tables)
    if not verification.differing:
        console.say(f"verified {len(days)} day(s), {rows:,} rows: every one is what the raw calls say")
    for table in verification.differing:
        why = verification.stale.get(table.day)
        note = f" ({table.day} is stale: {why})" if why else ""
        console.say(f"{table.day} dwh.{table.table}: {table.differing:,} of {table.rows:,} rows differ{note}")
        for example in table.examples:
            console.say(f"  {example}")


def print_status(reports: "Mapping[str, pl.DataFrame]", *, as_json: bool) -> None:
    """The state of the warehouse, one table a subject."""
    if as_json:
        console.say_json({name: report.to_dicts() for name, report in reports.items()})
        return
    for name, report in reports.items():
        numbers = [column for column, dtype in report.schema.items() if dtype.is_numeric()]
        console.say_table(name, report.columns, report.rows(), right=numbers)


def print_settings(listed: Sequence[Mapping[str, str]], *, as_json: bool) -> None:
    """Every setting with its default and its meaning."""
    if as_json:
        console.say_json(listed)
    else:
        console.say_table("settings", ("setting", "default", "meaning"), [tuple(row.values()) for row in listed])


def print_findings(findings: "Sequence[Finding]", *, as_json: bool) -> None:
    """What the doctor found."""
    if as_json:
        console.say_json([vars(finding) for finding in findings])
        return
    rows = [(_verdict(finding), finding.check, finding.detail) for finding in findings]
    console.say_table("doctor", ("", "check", "what was found"), rows)


def _verdict(finding: "Finding") -> str:
    if not finding.is_ok:
        return "FIX"
    return "warning" if finding.is_warning else "ok"


def print_erasure(erasure: "Erasure", *, as_json: bool) -> None:
    """What was erased of a person, or would be."""
    if as_json:
        console.say_json(erasure.report)
        return
    what = f"{erasure.calls:,} calls, {erasure.visitors:,} visitor ids, {erasure.tokens:,} session tokens"
    if erasure.is_dry:
        console.say(f"found {what}; nothing was changed")
    else:
        console.say(f"erased {what}; {len(erasure.days):,} days were rebuilt")
    columns = ("rows before", "rows after", "named before", "named after")
    rows = [(t.table, t.rows_before, t.rows_after, t.named_before, t.named_after) for t in erasure.tables]
    if rows:
        console.say_table("forget", ("table", *columns), rows, right=columns)
    for file, lines in erasure.files.items():
        console.say(f"{file}: {lines:,} lines named the person")
    searched = ", ".join(f"{count:,} {kind}" for kind, count in erasure.searched_for.items() if count)
    console.say(f"searched for: {searched}")
    if not erasure.is_found:
        console.say("nothing names this person: is the id spelled as in the calls?")
    if erasure.is_proven:
        console.say(
            "proven: no row, no part on disk, no line of the log and no record of the spool names the person so"
        )
    console.say("not searched:")
    for place in erasure.not_searched:
        console.say(f"  - {place}")


def require_snapshots(failed: Sequence[str]) -> None:
    """Raise ShopError where tables could not be snapshotted."""
    if failed:
        raise ShopError(f"{'; '.join(failed)}. The history of these tables is unchanged")


def require_equal(verification: "Verification") -> None:
    """Raise AuditError that says what to run next, where a published day differs from its raw calls."""
    if not verification.differing:
        return
    days = sorted({table.day for table in verification.differing})
    stale = [day for day in days if day in verification.stale]
    fix = (
        "run `carat etl` first: these days are stale"
        if len(stale) == len(days)
        else f"run `carat etl --force --from {days[0]} --to {days[-1]}` to publish what the calls say"
    )
    raise AuditError(f"{len(days)} day(s) differ from their raw calls ({days[0]} to {days[-1]}): {fix}")


def require_erased(erasure: "Erasure") -> None:
    """Raise AuditError where something still names the person."""
    if erasure.is_dry or erasure.is_proven:
        return
    left = ", ".join(f"{found.table}.{found.column} ({found.rows:,} rows)" for found in erasure.occurrences)
    raise AuditError(
        f"the person is still named in {left or 'old parts'}. An open segment of the spool is closed within seconds; "
        "a column of history must be listed as `person` in the snapshot plan. Then run the same command again"
    )


def _backfill_report(backfill: "Backfill") -> dict[str, Any]:
    return {
        "stale": [day.report for day in backfill.stale],
        "built": [day.report for day in backfill.built],
        "failed": [str(failure) for failure in backfill.failures],
        "orders": [day.report for day in backfill.orders],
        "postponed": backfill.postponed,
        "warnings": [{"day": day.day, **vars(misfit)} for day in backfill.built for misfit in day.misfits],
    }


def _verification_report(verification: "Verification") -> dict[str, Any]:
    return {
        "days": len({table.day for table in verification.tables}),
        "rows": sum(table.rows for table in verification.tables),
        "stale": verification.stale,
        "different": [
            vars(table) | {"examples": [vars(example) for example in table.examples]}
            for table in verification.differing
        ],
    }


def print_backup(manifest: "Manifest", folder: "Path", *, as_json: bool) -> None:
    """What is in a backup."""
    if as_json:
        tables = {table.name: table.rows for table in manifest.tables}
        segments = [segment.name for segment in manifest.segments]
        content = {"id": manifest.id, "directory": folder.resolve(), "disk": manifest.disk, "path": manifest.path}
        content |= {"started_at": manifest.started_at, "ended_at": manifest.ended_at, "bytes": manifest.bytes}
        console.say_json(content | {"tables": tables, "segments": segments})
        return
    where = f", tables on the server's disk {manifest.disk}: {manifest.path}" if manifest.is_on_a_server else ""
    console.say(
        f"backed up {manifest.rows:,} rows of {len(manifest.tables)} tables and {len(manifest.segments)} segments of "
        f"the spool to {folder} ({manifest.bytes / 1024**2:,.1f} MiB){where}"
    )


def print_filled(rows: Mapping[str, int], *, as_json: bool) -> None:
    """What `carat fill` copied: rows by table."""
    if as_json:
        console.say_json({"rows": rows})
        return
    copied = ", ".join(f"{count:,} rows of {table}" for table, count in rows.items())
    console.say(f"copied {copied}; now run `carat etl`" if copied else "all of it is there already; run `carat etl`")


def print_restored(restored: "Restored", *, as_json: bool) -> None:
    """What a restore did."""
    if as_json:
        console.say_json(restored.report)
        return
    manifest = restored.manifest
    console.say(
        f"restored {manifest.rows:,} rows of {len(manifest.tables)} tables as of "
        f"{manifest.started_at:%Y-%m-%d %H:%M:%S} UTC; {restored.segments + restored.delivered_again} segments of the "
        "spool wait for delivery"
    )
    if restored.erased_again:
        console.say("people who were forgotten since that backup were erased again")
    for view in restored.lost_views:
        console.say(f"warning: the view {view} was not created; its statement is in the backup's manifest.json")
    console.say("`carat verify` proves that the days are what their raw calls say; `carat hourly` catches up")


def _say_built(backfill: "Backfill") -> None:
    if not backfill.stale:
        if backfill.orders:
            _say_orders(backfill)
        else:
            print_stale([], as_json=False)
        return
    from app.contracts import dwh_tables  # noqa: PLC0415  takes Polars, which other reports do without

    names = [table.name for table in dwh_tables()]
    rows = [(b.day, b.calls, *(b.rows.get(name) for name in names), b.unreadable, b.seconds) for b in backfill.built]
    columns = ("day", "calls read", *names, "unreadable", "seconds")
    console.say_table(f"built {len(backfill.built)} of {len(backfill.stale)} day(s)", columns, rows, right=columns[1:])
    _say_orders(backfill)
    if backfill.postponed:
        console.say(f"{len(backfill.postponed)} older day(s) are left for the next hour; `carat etl` builds them now")
    _say_misfits(backfill)


def _say_orders(backfill: "Backfill") -> None:
    if backfill.orders:
        rows = [(day.day, day.rows["orders"], day.rows["refunds"], day.seconds) for day in backfill.orders]
        columns = ("day", "orders", "refunds", "seconds")
        console.say_table(f"orders of {len(rows)} day(s)", columns, sorted(rows), right=columns[1:])


def _say_misfits(backfill: "Backfill") -> None:
    """Where the endpoint map does not fit the days that were built: each place once, as the last of its days says."""
    days: dict[tuple[str, str, str], list[date]] = {}
    last: dict[tuple[str, str, str], Misfit] = {}
    for built in backfill.built:
        for misfit in built.misfits:
            place = (misfit.entry, misfit.field, misfit.fix)
            days.setdefault(place, []).append(built.day)
            last[place] = misfit
    for place, misfit in last.items():
        first, *others = days[place]
        when = f"{first}" if not others else f"{len(days[place])} days, the last {others[-1]}"
        console.say(f"warning ({when}): {misfit}")
