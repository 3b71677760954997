"""The command line: one verb each, every error as one line with the right exit code."""

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import __version__
from app.core import console
from app.core.errors import AuditError, CaratError, SettingsError, ShopError
from app.dashboards.commands import dashboards
from app.settings import known_settings, load_settings

if TYPE_CHECKING:
    from app.jobs.build.backfill import Backfill
    from app.jobs.build.ledger import StaleDay
    from app.jobs.forget.erase import Erasure
    from app.jobs.verify_days import Verification

# Each verb imports what it needs: engines and frames take a second and hundreds of megabytes, which --help and the
# collector do without.

app = typer.Typer(
    name="carat",
    help="A shop's API calls, turned into a ClickHouse warehouse that shows where shoppers are lost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(dashboards)

_SNAPSHOT_REPORT = ("table", "rows", "inserts", "updates", "deletes", "error")
AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


def main() -> None:
    """Run the command line; the only place where errors are caught."""
    console.set_up_logging()
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        console.say_error("stopped; run the same command again to go on")
        sys.exit(130)
    except typer.TyperException as error:
        if error.message.startswith("Usage:"):  # called without a verb
            console.say(error.message)
            sys.exit(2)
        console.say_error(f"{error.format_message().rstrip('.')}. See `carat --help`")
        sys.exit(2)
    except CaratError as error:
        console.record_failure(error)
        console.say_error(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        console.record_failure(error)
        problem = error.strerror or str(error).partition("\n")[0] or type(error).__name__
        console.say_error(f"{error.filename or 'system'}: {problem}. Mend that and run the same command again")
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  a bare traceback tells a user nothing
        console.record_failure(error)
        problem = str(error).strip().partition("\n")[0]
        console.say_error(f"unexpected {type(error).__name__}: {problem}. This is a defect of Carat; please report it")
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _version(*, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        console.say(f"carat {__version__}")
        raise typer.Exit


@app.command("migrate")
def migrate_command(*, as_json: AsJson = False) -> None:
    """Create and upgrade the databases and tables, and the link to the shop's MySQL; safe to repeat.

    Example: carat migrate
    """
    from app.shop import MySQLShop, open_shop
    from app.warehouse import migrate, open_warehouse
    from app.warehouse.shop_link import link_shop

    settings = load_settings()
    with open_warehouse(settings, purpose="carat migrate") as warehouse:
        changes = migrate(warehouse, settings)
        if settings.has_mysql:
            with open_shop(settings) as shop:
                assert isinstance(shop, MySQLShop)
                changes += link_shop(warehouse, shop)
    if as_json:
        console.say_json({"changes": changes})
    else:
        console.say("\n".join(changes) or "everything is as it should be")


@app.command()
def ingest(
    paths: Annotated[list[str], typer.Argument(help="NDJSON (.gz, .zst), Parquet, or - for stdin.", metavar="PATH…")],
    *,
    as_json: AsJson = False,
) -> None:
    """Bulk-load call records into pd.api_calls; the same record twice is stored once.

    Example: carat ingest calls-2026-03-01.ndjson.gz
    """
    from app.intake.files import require_readable
    from app.jobs.raw_calls import ingest_summary
    from app.jobs.runs import ingest_paths, prepare
    from app.warehouse import open_warehouse

    settings = load_settings()
    require_readable(paths)
    with open_warehouse(settings, purpose="carat ingest") as warehouse:
        prepare(warehouse, settings)
        totals = ingest_paths(warehouse, settings, paths)
    if as_json:
        console.say_json(
            {
                "records": totals.records,
                "stored": totals.stored,
                "duplicates": totals.duplicates,
                "rejected": totals.rejected,
            }
        )
        return
    console.say(ingest_summary(totals))


@app.command()
def collect(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8787,
    fd: Annotated[int | None, typer.Option(help="Listen on an open socket instead: its file descriptor.")] = None,
) -> None:
    """Take calls over HTTP into the spool, from which carat load delivers them; ends in order on SIGTERM.

    Example: carat collect --host 0.0.0.0 (with CARAT_WRITE_KEYS, such as `openssl rand -hex 24` makes them)
    """
    from app.intake.collector.server import Collector, inherited_sockets, listen

    settings = load_settings()
    Collector(settings, inherited_sockets(fd) or listen(host, port)).run()


@app.command()
def load(
    *,
    keep_on: Annotated[bool, typer.Option("--follow", help="Go on as the spool fills, until stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver the collector's spool into pd.api_calls, each call once; what came in the last seconds comes next time.

    Example: carat load --follow
    """
    from app.core.signals import stopped_by_signal
    from app.core.watchdog import watched
    from app.jobs.load.delivery import follow, load_spool

    with watched(), stopped_by_signal() as stopped:
        settings = load_settings()
        if keep_on:
            follow(settings, stopped=stopped)
            return
        delivery = load_spool(settings, stopped=stopped)
    if as_json:
        console.say_json(delivery.report)
    else:
        console.say(delivery.summary)
    if stopped.is_set():
        raise typer.Abort
    delivery.require_done()


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="Address the collector listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0: any that is free.")] = 8787,
    page_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the dashboards, for this machine alone; 0: any that is free.")
    ] = 8322,
) -> None:
    """Collector, loader, hourly schedule and the live dashboards together, for one machine; SIGTERM or Ctrl-C end it.

    Example: carat serve --port 8787 (with CARAT_WRITE_KEYS, such as `openssl rand -hex 24` makes them)
    """
    from app.core.signals import stopped_by_signal
    from app.core.watchdog import watched
    from app.intake.collector.server import inherited_sockets, listen
    from app.ops.supervisor import serve as run_children

    load_settings()
    sockets = inherited_sockets() or listen(host, port)
    with watched(), stopped_by_signal(grace_s=0) as stopped:  # the children have their own time limits
        run_children(sockets, page_port=page_port, stopped=stopped)


@app.command(hidden=True)
def schedule(
    *, page_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the dashboards.")] = 8322
) -> None:
    """The process of carat serve that holds the warehouse; serve starts it.

    Example: carat schedule
    """
    from app.core.signals import stopped_by_signal
    from app.core.watchdog import watched
    from app.dashboards.live import scheduler_page
    from app.ops.scheduler import Scheduler

    with watched(), stopped_by_signal() as stopped:
        Scheduler(load_settings(), stopped=stopped, page=scheduler_page("127.0.0.1", page_port)).run()


@app.command()
def snapshot(
    *,
    at: Annotated[str | None, typer.Option("--at", help="The instant that was read, for a replay from dumps.")] = None,
    tables: Annotated[str | None, typer.Option("--tables", help="Some of the snapshot plan's, a,b.")] = None,
    accept_deletes: Annotated[
        bool, typer.Option("--accept-deletes", help="Believe that most rows or columns are gone.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Forget the history of --tables and begin it anew.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read the shop's database and append what changed to history.

    Example: carat snapshot --tables items,stock
    """
    from app.jobs.runs import prepare, refusals, take_snapshot
    from app.warehouse import open_warehouse

    settings = load_settings()
    if rebuild and not tables:
        raise SettingsError("--rebuild forgets history: name the --tables it is for")
    names = [name.strip() for name in (tables or "").split(",") if name.strip()]
    with open_warehouse(settings, purpose="carat snapshot") as warehouse:
        prepare(warehouse, settings)
        taken = take_snapshot(
            warehouse, settings, at=_instant(at), names=names, accept_deletes=accept_deletes, rebuild=rebuild
        )
    if as_json:
        console.say_json(taken)
    else:
        counts = ("rows", "inserts", "updates", "deletes")
        rows = [
            (row["table"], *(row[name] for name in counts), "refused" if row["error"] else row["guarantee"])
            for row in taken
        ]
        console.say_table(
            f"snapshot of {taken[0]['at']:%Y-%m-%d %H:%M:%S}", ("table", *counts, "read at"), rows, right=counts
        )
    if failed := refusals(taken):
        raise ShopError(f"{'; '.join(failed)}. Nothing was changed there")


@app.command()
def etl(
    *,
    day: Annotated[str | None, typer.Option("--date", help="One business day, YYYY-MM-DD.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="First business day.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last business day, included.")] = None,
    jobs: Annotated[str | None, typer.Option(help="Some of the tables of dwh, a,b; by default all.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build days that are not stale, from their calls alone.")] = (
        False
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be built.")] = False,
    accept_rows: Annotated[
        bool, typer.Option("--accept-rows", help="Believe a day with far more or fewer rows than usual.")
    ] = False,
    on: Annotated[
        str | None, typer.Option("--on", help="Dask scheduler whose workers build the days: tcp://scheduler:8786.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build what is stale: sessions, catalog and product sessions out of the raw calls.

    Example: carat etl --from 2026-03-01 --to 2026-03-31
    """
    from app.jobs.build.backfill import build_stale
    from app.jobs.build.fan_out import open_builder
    from app.jobs.runs import prepare
    from app.warehouse import open_warehouse

    settings = load_settings()
    span = _span(day, first, last)
    wanted = _jobs(jobs)
    with (
        open_builder(settings, on, dry_run=dry_run) as builder,
        open_warehouse(settings, purpose="carat etl", writes=not dry_run) as warehouse,
    ):
        if not dry_run:
            prepare(warehouse, settings)
        backfill = build_stale(
            warehouse,
            settings,
            span=span,
            jobs=wanted,
            force=force,
            dry_run=dry_run,
            believe_size=accept_rows,
            builder=builder,
        )
    if as_json:
        console.say_json(_built_report(backfill))
    elif dry_run or not backfill.stale:
        _say_stale(backfill.stale)
    else:
        _say_built(backfill)
    backfill.require_done()


@app.command()
def plan(*, as_json: AsJson = False) -> None:
    """List what is stale and why, without touching anything.

    Example: carat plan
    """
    from app.jobs.build.backfill import plan_days
    from app.jobs.build.day import JOBS
    from app.warehouse import open_warehouse

    settings = load_settings()
    with open_warehouse(settings, purpose="carat plan", writes=False) as warehouse:
        stale = plan_days(warehouse, settings, jobs=JOBS)
    if as_json:
        console.say_json([day.report for day in stale])
    else:
        _say_stale(stale)


@app.command()
def hourly(*, as_json: AsJson = False) -> None:
    """What the timer runs: load the spool, snapshot, build what is stale, audit; missed hours are caught up.

    Example: carat hourly
    """
    from app.core.watchdog import status as say_status
    from app.core.watchdog import watched
    from app.jobs.hourly import run_hour
    from app.jobs.runs import prepare
    from app.warehouse import open_warehouse

    with watched():
        settings = load_settings()
        with open_warehouse(settings, purpose="carat hourly") as warehouse:
            prepare(warehouse, settings)
            hour = run_hour(warehouse, settings, say=say_status)
    if as_json:
        snapshots = [{name: row[name] for name in _SNAPSHOT_REPORT} for row in hour.snapshots]
        console.say_json({"load": hour.delivery.report, "snapshots": snapshots} | _built_report(hour.backfill))
    else:
        if hour.delivery.segments:
            console.say(hour.delivery.summary)
        if hour.snapshots:
            rows = [[row[name] for name in _SNAPSHOT_REPORT] for row in hour.snapshots]
            console.say_table("snapshot", _SNAPSHOT_REPORT, rows, right=_SNAPSHOT_REPORT[1:-1])
        if hour.backfill.stale:
            _say_built(hour.backfill)
        else:
            _say_stale([])
    hour.require_done()


@app.command()
def verify(
    *,
    first: Annotated[str | None, typer.Option("--from", help="First business day.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last business day, included.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build days from their raw calls beside what is published, compare row by row; any difference exits 1.

    Example: carat verify --from 2026-03-01 --to 2026-03-31
    """
    from app.jobs.runs import prepare
    from app.jobs.verify_days import verify_days
    from app.warehouse import open_warehouse

    settings = load_settings()
    span = _span(None, first, last)
    with open_warehouse(settings, purpose="carat verify") as warehouse:
        prepare(warehouse, settings)
        verification = verify_days(warehouse, settings, span=span)
    if as_json:
        console.say_json(_verified_report(verification))
    else:
        _say_verified(verification)
    if verification.differing:
        days = sorted({table.day for table in verification.differing})
        stale = [day for day in days if day in verification.stale]
        mend = (
            "run `carat etl` first: these days are stale"
            if len(stale) == len(days)
            else f"run `carat etl --force --from {days[0]} --to {days[-1]}` to publish what the calls say"
        )
        raise AuditError(f"{len(days)} day(s) are not what their calls say ({days[0]} to {days[-1]}): {mend}")


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="A query; - reads it from stdin.")],
    *,
    output: Annotated[str, typer.Option("--format", help="table, csv, json or parquet.")] = "table",
) -> None:
    """Run SQL on the configured warehouse.

    Example: carat query "SELECT session_date, count() FROM dwh.sessions GROUP BY 1 ORDER BY 1"
    """
    from app.warehouse import open_warehouse

    formats = {"table": "PrettyCompactNoEscapes", "csv": "CSVWithNames", "json": "JSONEachRow", "parquet": "Parquet"}
    if output not in formats:
        raise SettingsError(f"--format {output}: choose from {', '.join(formats)}")
    text = sys.stdin.read() if sql == "-" else sql
    with open_warehouse(load_settings(), purpose="carat query", writes=False) as warehouse:
        sys.stdout.buffer.write(warehouse.raw(text.strip().rstrip(";"), fmt=formats[output]))


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Show the last runs, how fresh each table is, its rows, what waits in the spool, and what was rejected.

    Example: carat status
    """
    from app.ops.status import freshness, last_runs, last_snapshots, recent_rejects, spool_state
    from app.warehouse import open_warehouse

    settings = load_settings()
    with open_warehouse(settings, purpose="carat status", writes=False) as warehouse:
        reports = {
            "tables": freshness(warehouse),
            "spool": spool_state(settings),
            "snapshots": last_snapshots(warehouse),
            "runs": last_runs(warehouse),
            "rejects": recent_rejects(warehouse),
        }
    if as_json:
        console.say_json({name: report.to_dicts() for name, report in reports.items()})
        return
    for name, report in reports.items():
        numbers = [column for column, dtype in report.schema.items() if dtype.is_numeric()]
        console.say_table(name, report.columns, report.rows(), right=numbers)


@app.command()
def doctor(
    *,
    settings: Annotated[bool, typer.Option("--settings", help="List every setting instead, with its default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check settings, connection, versions, privileges, clock and disk; say how to mend each.

    Example: carat doctor --settings
    """
    if settings:
        listed = known_settings()
        if as_json:
            console.say_json(listed)
        else:
            console.say_table("settings", ("setting", "default", "meaning"), [tuple(row.values()) for row in listed])
        return

    from app.ops.doctor import examine

    findings = examine()
    if as_json:
        console.say_json([vars(finding) for finding in findings])
    else:
        rows = [("ok" if f.is_ok else "MEND", f.check, f.detail) for f in findings]
        console.say_table("doctor", ("", "check", "what was found"), rows)
    if not all(finding.is_ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def forget(
    *,
    user: Annotated[str, typer.Option("--user", help="The user_id whose data is to go.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what there is of the user.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a person everywhere, raw calls included, and prove it; what still names the person exits 1.

    Example: carat forget --user 4711

    A guest's calls that are stitched to the user go, too; what others did on the same device stays. The shop's own
    database, files that were ingested from, and backups are not touched.
    """
    from app.jobs.forget.erase import forget_user
    from app.jobs.runs import prepare
    from app.warehouse import open_warehouse

    settings = load_settings()
    if not (dry_run or yes):
        if not sys.stdin.isatty():
            raise SettingsError("what is forgotten cannot be brought back: say --yes, or look first with --dry-run")
        typer.confirm(f"Remove all data of user {user}? It cannot be brought back", abort=True)
    with open_warehouse(settings, purpose="carat forget", writes=not dry_run) as warehouse:
        if not dry_run:
            prepare(warehouse, settings)
        erasure = forget_user(warehouse, settings, user, now=datetime.now(tz=UTC), dry_run=dry_run)
    if as_json:
        console.say_json(erasure.report)
    else:
        _say_erased(erasure)
    if not dry_run and not erasure.is_proven:
        left = ", ".join(f"{trace.table}.{trace.column} ({trace.rows:,} rows)" for trace in erasure.traces)
        raise AuditError(
            f"the person is still named in {left or 'old parts'}: an open segment is closed in a while; a column of "
            "history is to be named as `person` in the snapshot plan. Then run the same command again"
        )


@app.command()
def demo(
    *,
    calls: Annotated[int, typer.Option(min=1_000, help="API calls in the month.")] = 300_000,
    seed: Annotated[int, typer.Option(help="Another seed is another shop.")] = 7,
    folder: Annotated[Path, typer.Option(help="Where the shop's files are written.")] = Path("var/demo"),
) -> None:
    """Make a whole jewelry shop and a month of its calls, ingest and build it, and show how it does.

    Example: carat demo --calls 100000
    """
    from app.demo.calls import DemoPlan
    from app.demo.run import run_demo

    run_demo(load_settings(), DemoPlan(calls=calls, seed=seed), folder)


def _span(day: str | None, first: str | None, last: str | None) -> tuple[date | None, date | None]:
    if day and (first or last):
        raise SettingsError("--date goes without --from and --to")
    start, end = _date(day or first), _date(day or last)
    if start and end and end < start:
        raise SettingsError(f"--to {end} lies before --from {start}")
    return start, end


def _date(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise SettingsError(f"{text!r} is no date; write it as 2026-03-01") from None


def _instant(text: str | None) -> datetime | None:
    """An instant; one without an offset is UTC."""
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise SettingsError(f"--at {text!r} is no instant; write it as 2026-03-01T12:00:00Z") from None
    return at.replace(tzinfo=UTC) if at and at.tzinfo is None else at and at.astimezone(UTC)


def _jobs(text: str | None) -> tuple[str, ...]:
    from app.jobs.build.day import JOBS

    names = tuple(name.strip() for name in (text or ",".join(JOBS)).split(",") if name.strip())
    if unknown := [name for name in names if name not in JOBS]:
        raise SettingsError(f"--jobs {unknown[0]}: choose from {', '.join(JOBS)}")
    return tuple(name for name in JOBS if name in names)


def _built_report(backfill: "Backfill") -> dict[str, Any]:
    return {
        "stale": [day.report for day in backfill.stale],
        "built": [vars(day) for day in backfill.built],
        "failed": [str(failure) for failure in backfill.failures],
    }


def _verified_report(verification: "Verification") -> dict[str, Any]:
    return {
        "days": len({table.day for table in verification.tables}),
        "rows": sum(table.rows for table in verification.tables),
        "stale": verification.stale,
        "different": [
            vars(table) | {"examples": [vars(example) for example in table.examples]}
            for table in verification.differing
        ],
    }


def _say_built(backfill: "Backfill") -> None:
    from app.jobs.build.day import JOBS

    rows = [(b.day, b.calls, *(b.rows.get(job) for job in JOBS), b.unreadable, b.seconds) for b in backfill.built]
    columns = ("day", "calls read", *JOBS, "unreadable", "seconds")
    console.say_table(f"built {len(backfill.built)} of {len(backfill.stale)} day(s)", columns, rows, right=columns[1:])


def _say_stale(stale: "list[StaleDay]") -> None:
    if not stale:
        console.say("nothing to do: every day is what its calls say")
        return
    reports = [day.report for day in stale]
    rows = [(report["day"], ", ".join(report["jobs"]), report["reason"]) for report in reports]
    console.say_table(f"{len(stale)} stale day(s)", ("day", "tables", "why"), rows)


def _say_erased(erasure: "Erasure") -> None:
    what = f"{erasure.calls:,} calls, {erasure.visitors:,} visitor ids, {erasure.tokens:,} session tokens"
    if erasure.is_dry:
        console.say(f"there are {what}; nothing was touched")
    else:
        console.say(f"removed {what}; {len(erasure.days):,} days were built anew")
    columns = ("rows before", "rows after", "named before", "named after")
    rows = [(t.table, t.rows_before, t.rows_after, t.named_before, t.named_after) for t in erasure.tables]
    if rows:
        console.say_table("forget", ("table", *columns), rows, right=columns)
    for file, lines in erasure.files.items():
        console.say(f"{file}: {lines:,} lines named the person")
    if erasure.is_proven:
        console.say("proven: no row, no part on the disk and no line of the log names the person any more")
    console.say(
        "Not touched: the shop's own database (delete the person there; snapshots leave such rows out from now on), "
        "files that were ingested, backups, and logs of the warehouse's server"
    )


def _say_verified(verification: "Verification") -> None:
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
