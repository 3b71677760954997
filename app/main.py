"""The command line: one verb each, every error as one line with the right exit code."""

import gc
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app import __version__
from app.core import console
from app.core.errors import CaratError, SettingsError
from app.dashboards.commands import dashboards, insights_command
from app.ops import reports
from app.ops.arguments import parse_instant, parse_jobs, parse_names, parse_span
from app.ops.maps.commands import maps

if TYPE_CHECKING:
    from app.settings import Settings

# Each verb imports what it needs: engines and frames take a second and hundreds of megabytes, which --help and the
# collector do without.

# NumPy would start threads for linear algebra, of which there is none here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Python's default of 700 makes the collector visit again and again what imports create and nobody ever frees.
_OBJECTS_BEFORE_COLLECTION = 50_000

app = typer.Typer(
    name="carat",
    help="Turn a shop's API calls and database into a ClickHouse warehouse that shows where shoppers are lost.\n\n"
    "`carat VERB --help` explains a verb, with an example.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(dashboards, short_help="Check, preview or push the dashboards")
app.command("insights", short_help="What changed, and what matters, in words")(insights_command)
app.add_typer(maps, short_help="Check, try or draft an endpoint map")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address the collector listens on.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, metavar="PORT", help="Port of the collector; 0 picks any free port.")
]
PagePort = Annotated[
    int,
    typer.Option(
        min=0, max=65535, metavar="PORT", help="Port of the dashboards, on 127.0.0.1 only; 0 picks any free port."
    ),
]
FirstDay = Annotated[str | None, typer.Option("--from", metavar="DATE", help="First business day.")]
LastDay = Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last business day (inclusive).")]


def main() -> None:
    """Run the command line; the only place where errors are caught."""
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    console.set_up_logging()
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        console.say_error("stopped; run the same command again to continue")
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
        console.say_error(f"{error.filename or 'system'}: {problem}. Fix this and run the same command again")
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  a user cannot use a bare traceback
        console.record_failure(error)
        problem = str(error).strip().partition("\n")[0]
        console.say_error(f"unexpected {type(error).__name__}: {problem}. This is a bug in Carat; please report it")
        sys.exit(1)


def load_settings() -> "Settings":
    """The settings of this installation."""
    from app import settings

    return settings.load_settings()


@app.callback(invoke_without_command=True)
def _version(*, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        console.say(f"carat {__version__}")
        raise typer.Exit


@app.command("migrate", short_help="Create or upgrade all tables; repeatable")
def migrate_command(*, as_json: AsJson = False) -> None:
    """Create and upgrade the warehouse's databases, tables and views, and its link to the shop's MySQL.

    Safe to repeat. Other commands that write create and upgrade tables by themselves; only this one links the MySQL.

    Example: carat migrate
    """
    from app.shop import open_shop
    from app.shop.mysql import MySQLShop
    from app.warehouse import migrate, open_warehouse
    from app.warehouse.shop_link import link_shop

    settings = load_settings()
    with open_warehouse(settings, purpose="carat migrate", prepare=False) as warehouse:
        changes = migrate(warehouse, settings, every_replica=True)
        if settings.has_mysql:
            with open_shop(settings) as shop:
                assert isinstance(shop, MySQLShop)
                changes += link_shop(warehouse, shop)
    reports.print_changes(changes, as_json=as_json)


@app.command(short_help="Load call records from files or stdin")
def ingest(
    paths: Annotated[
        list[str] | None, typer.Argument(help="NDJSON or JSON (.gz, .zst), Parquet, or - for stdin.", metavar="PATH")
    ] = None,
    *,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Instead, try the rejected records of etl.rejects again.")
    ] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="With --rejects: only what was rejected since then.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load call records into pd.api_calls. A record that was loaded before is not stored again.

    Records that cannot be stored go to etl.rejects with the reason. After a limit was raised or the clock corrected,
    --rejects stores those that are valid now and takes them out of etl.rejects.

    Exits 1 if a file is damaged or none of its records could be stored.

    Example: carat ingest calls-2026-03-01.ndjson.gz
    """
    from app.intake.files import require_readable
    from app.jobs.ingest import ingest_paths
    from app.jobs.rejects import replay_rejects
    from app.warehouse import open_warehouse

    settings = load_settings()
    paths = paths or []
    if not (paths or rejects):
        raise SettingsError("Missing argument 'PATH': name the files to load, or - for stdin, or use --rejects")
    if paths and rejects:
        raise SettingsError("--rejects reads etl.rejects: leave out the files")
    if since and not rejects:
        raise SettingsError("--since belongs to --rejects")
    rejected_since = parse_instant(since, option="--since")
    require_readable(paths)
    with open_warehouse(settings, purpose="carat ingest") as warehouse:
        if rejects:
            totals = replay_rejects(warehouse, settings, since=rejected_since)
        else:
            totals = ingest_paths(warehouse, settings, paths)
    reports.print_ingested(totals, as_json=as_json)
    totals.require_done()


@app.command(short_help="Receive calls over HTTP into the spool")
def collect(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8787,
    fd: Annotated[
        int | None, typer.Option(metavar="N", help="Listen on this open file descriptor instead of a port.")
    ] = None,
) -> None:
    """Receive calls over HTTP and write them to the spool, from which `carat load` delivers them.

    Needs CARAT_WRITE_KEYS; `openssl rand -hex 24` makes a key. SIGTERM stops it after it has answered what it accepted.

    Example: carat collect --host 0.0.0.0
    """
    from app.intake.collector.server import Collector, inherited_sockets, listen

    settings = load_settings()
    Collector(settings, inherited_sockets(fd) or listen(host, port)).run()


@app.command(short_help="Deliver the spool into the warehouse")
def load(
    *,
    keep_on: Annotated[bool, typer.Option("--follow", help="Keep delivering until stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver the collector's spool into pd.api_calls, each call once.

    Calls of the last seconds are still being collected and are delivered by the next run.

    Example: carat load --follow
    """
    from app.core.signals import stopped_by_signal
    from app.core.watchdog import watched
    from app.jobs.load.delivery import load_spool
    from app.jobs.load.follow import follow_spool

    with watched(), stopped_by_signal() as stopped:
        settings = load_settings()
        if keep_on:
            follow_spool(settings, stopped=stopped)
            return
        delivery = load_spool(settings, stopped=stopped)
    reports.print_delivery(delivery, as_json=as_json)
    if stopped.is_set():
        raise typer.Abort
    delivery.require_done()


@app.command(short_help="Run everything on one machine")
def serve(*, host: Host = "127.0.0.1", port: Port = 8787, page_port: PagePort = 8322) -> None:
    """Run the collector, the loader, the hourly schedule and the live dashboards on one machine.

    Needs CARAT_WRITE_KEYS; `openssl rand -hex 24` makes a key. SIGTERM or Ctrl-C stops it.

    Example: carat serve --port 8787
    """
    from app.core.signals import stopped_by_signal
    from app.core.watchdog import watched
    from app.intake.collector.server import inherited_sockets, listen
    from app.ops.supervisor import serve as run_children

    load_settings()
    sockets = inherited_sockets() or listen(host, port)
    with watched(), stopped_by_signal(grace_s=0) as stopped:  # the child processes have a grace period of their own
        run_children(sockets, page_port=page_port, stopped=stopped)


@app.command(hidden=True, short_help="The part of serve that holds the warehouse")
def schedule(*, page_port: PagePort = 8322) -> None:
    """Run the part of `carat serve` that holds the warehouse. `carat serve` starts it.

    Example: carat schedule
    """
    from app.core.signals import stopped_by_signal
    from app.core.watchdog import watched
    from app.dashboards.live import scheduler_page
    from app.ops.scheduler import Scheduler

    settings = load_settings()
    page = scheduler_page("127.0.0.1", page_port, currency=settings.currency, proxy_hosts=settings.page_host_names)
    with watched(), stopped_by_signal() as stopped:
        Scheduler(settings, stopped=stopped, page=page).run()


@app.command(short_help="Append changes in the shop DB to history")
def snapshot(
    *,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="When the data was current; for replaying restored dumps."),
    ] = None,
    tables: Annotated[
        str | None,
        typer.Option("--tables", metavar="A,B", help="Only these tables of the snapshot plan (comma-separated)."),
    ] = None,
    accept_deletes: Annotated[
        bool,
        typer.Option("--accept-deletes", help="Accept a snapshot in which most rows or columns disappeared."),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="DELETE the history of --tables and start over. Cannot be undone."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read the shop's database and append what changed since the last snapshot to history.

    All tables are read as of one instant. Carat only reads the shop's database.

    Example: carat snapshot --tables items,stock
    """
    from app.jobs.snapshot import refusals, take_snapshot
    from app.warehouse import open_warehouse

    settings = load_settings()
    if rebuild and not tables:
        raise SettingsError("--rebuild deletes history: name the --tables to delete it of")
    with open_warehouse(settings, purpose="carat snapshot") as warehouse:
        taken = take_snapshot(
            warehouse,
            settings,
            at=parse_instant(at),
            names=parse_names(tables),
            accept_deletes=accept_deletes,
            rebuild=rebuild,
        )
    reports.print_snapshots(taken, as_json=as_json)
    reports.require_snapshots(refusals(taken))


@app.command(short_help="Read advertising costs from exports")
def spend(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Exports of platforms: CSV or Excel.", metavar="FILE")
    ] = None,
    *,
    table: Annotated[str, typer.Option("--from", metavar="TABLE", help="Instead, read a table of the warehouse.")] = "",
    platform: Annotated[str, typer.Option(metavar="NAME", help="Whose costs these are, such as google.")] = "",
    account: Annotated[str, typer.Option(metavar="NAME", help="The advertising account, if the file has none.")] = "",
    currency: Annotated[str, typer.Option(metavar="CODE", help="Their currency, if the file has none.")] = "",
    decimal: Annotated[str, typer.Option(metavar="SIGN", help="The decimal sign: . or ,")] = "",
    dates: Annotated[str, typer.Option(metavar="ORDER", help="dmy or mdy, if 03/04/2026 can be either.")] = "",
    time_zone: Annotated[
        str, typer.Option("--time-zone", metavar="ZONE", help="Time zone of the account's days.")
    ] = "",
    spreads: Annotated[
        bool, typer.Option("--spread", help="Divide rows of several days evenly, and mark them.")
    ] = False,
    exported: Annotated[
        str | None, typer.Option("--exported", metavar="TIME", help="When the files were exported, if not just now.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is understood and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read advertising costs from what platforms export, or from a table that another tool fills.

    A newer file replaces the days that it has of a platform and account; older readings stay in the past. The same file
    twice is nothing. A file that leaves something open is refused with the question to answer, and exits 1.

    Example: carat spend campaigns-november.csv meta.xlsx
    """
    from app.ops.spend import parse_answers, print_spend, run_spend

    settings = load_settings()
    exported_at = parse_instant(exported, option="--exported")
    answers = parse_answers(
        platform=platform,
        account=account,
        currency=currency,
        decimal=decimal,
        dates=dates,
        time_zone=time_zone,
        spreads=spreads,
    )
    result = run_spend(settings, paths or [], answers, table=table, exported_at=exported_at, dry_run=dry_run)
    print_spend(result, as_json=as_json)
    result.require_done()


@app.command(short_help="Build the days that are stale")
def etl(
    *,
    day: Annotated[str | None, typer.Option("--date", metavar="DATE", help="Only this business day.")] = None,
    first: FirstDay = None,
    last: LastDay = None,
    jobs: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these dwh tables (comma-separated); default: all.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Rebuild the days from their raw calls even if they are not stale.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be built and stop.")] = False,
    accept_rows: Annotated[
        bool, typer.Option("--accept-rows", help="Publish a day even if its row count is far from usual.")
    ] = False,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="URL", help="Build on the workers of a Dask scheduler: tcp://scheduler:8786."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build sessions, catalog sessions and product sessions of every stale day from its raw calls.

    Dates are business days, written as 2026-03-01. Without dates, every stale day is built.

    Example: carat etl --from 2026-03-01 --to 2026-03-31
    """
    from app.jobs.build.backfill import build_stale
    from app.jobs.build.fan_out import open_runner
    from app.jobs.build.order_book import BOOK_JOBS
    from app.warehouse import open_warehouse
    from app.warehouse.cluster import refuse_on_cluster

    settings = load_settings()
    span = parse_span(day, first, last)
    wanted = parse_jobs(jobs)
    if jobs and not {*BOOK_JOBS}.isdisjoint(wanted):
        refuse_on_cluster(settings, f"`carat etl --jobs {jobs}`", f"Leave out {' and '.join(BOOK_JOBS)}")
    with (
        open_runner(settings, on, dry_run=dry_run) as runner,
        open_warehouse(settings, purpose="carat etl", writes=not dry_run) as warehouse,
    ):
        backfill = build_stale(
            warehouse,
            settings,
            span=span,
            jobs=wanted,
            force=force,
            dry_run=dry_run,
            skip_row_count_check=accept_rows,
            runner=runner,
        )
    reports.print_backfill(backfill, is_plan=dry_run, as_json=as_json)
    backfill.require_done()


@app.command(short_help="List the stale days and why they are stale")
def plan(*, as_json: AsJson = False) -> None:
    """List the stale days and why each is stale. Changes nothing.

    Example: carat plan
    """
    from app.jobs.build.backfill import plan_days
    from app.warehouse import open_warehouse

    settings = load_settings()
    with open_warehouse(settings, purpose="carat plan", writes=False) as warehouse:
        stale = plan_days(warehouse, settings)
    reports.print_stale(stale, as_json=as_json)


@app.command(short_help="Load, snapshot and build all that is due")
def hourly(*, as_json: AsJson = False) -> None:
    """Load the spool, take a snapshot, and build and audit every stale day. The timer runs this.

    It catches up on missed hours, however many.

    Example: carat hourly
    """
    from app.core.watchdog import status as say_status
    from app.core.watchdog import watched
    from app.jobs.hourly import run_hour
    from app.warehouse import open_warehouse

    with watched():
        settings = load_settings()
        with open_warehouse(settings, purpose="carat hourly") as warehouse:
            hour = run_hour(warehouse, settings, say=say_status)
    reports.print_hour(hour, as_json=as_json)
    hour.require_done()


@app.command(short_help="Prove that published days match raw calls")
def verify(*, first: FirstDay = None, last: LastDay = None, as_json: AsJson = False) -> None:
    """Rebuild days from their raw calls into staging and compare them with what is published, row by row.

    Prints every difference and exits 1 if there is one. Publishes nothing.

    Example: carat verify --from 2026-03-01 --to 2026-03-31
    """
    from app.jobs.verify import verify_days
    from app.warehouse import open_warehouse

    settings = load_settings()
    span = parse_span(None, first, last)
    with open_warehouse(settings, purpose="carat verify") as warehouse:
        verification = verify_days(warehouse, settings, span=span)
    reports.print_verification(verification, as_json=as_json)
    reports.require_equal(verification)


@app.command(short_help="Run SQL on the warehouse")
def query(
    sql: Annotated[
        str, typer.Argument(help="One or more queries, separated by semicolons; - reads stdin.", metavar="SQL")
    ],
    *,
    output: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="table, csv, json (one array), ndjson or parquet.")
    ] = "table",
) -> None:
    """Run SQL on the configured warehouse.

    Example: carat query "SELECT session_date, count() FROM dwh.sessions GROUP BY 1 ORDER BY 1"
    """
    from app.ops.query import run_query
    from app.warehouse import open_warehouse

    if output not in reports.QUERY_FORMATS:
        raise SettingsError(f"--format {output}: choose from {', '.join(reports.QUERY_FORMATS)}")
    text = sys.stdin.read() if sql == "-" else sql
    with open_warehouse(load_settings(), purpose="carat query", writes=False) as warehouse:
        results = run_query(warehouse, text, fmt=reports.QUERY_FORMATS[output])
    for result in results:
        sys.stdout.buffer.write(reports.query_output(result, output, is_terminal=sys.stdout.isatty()))


@app.command(short_help="Show runs, freshness, rows and rejects")
def status(*, as_json: AsJson = False) -> None:
    """Show how fresh each table is, the spool, the last runs, recent rejects, and where the endpoint map does not fit.

    Example: carat status
    """
    from app.ops.status import (
        freshness,
        last_runs,
        last_snapshots,
        map_misfits,
        products_met,
        recent_rejects,
        spool_state,
    )
    from app.warehouse import open_warehouse

    settings = load_settings()
    with open_warehouse(settings, purpose="carat status", writes=False) as warehouse:
        found = {
            "tables": freshness(warehouse),
            "spool": spool_state(settings),
            "snapshots": last_snapshots(warehouse),
            "runs": last_runs(warehouse),
            "rejects": recent_rejects(warehouse),
            "endpoint map": map_misfits(warehouse),
            "products in history": products_met(warehouse),
        }
    reports.print_status(found, as_json=as_json)


@app.command(short_help="Check the setup and say how to fix it")
def doctor(
    *,
    settings: Annotated[bool, typer.Option("--settings", help="List every setting with its default instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check settings, connections, versions, privileges, clock and disk, and say how to fix what is wrong.

    Exits 1 if anything is wrong; a warning, such as an endpoint map that does not fit the calls, is not.

    Example: carat doctor --settings
    """
    if settings:
        from app.settings import known_settings

        reports.print_settings(known_settings(), as_json=as_json)
        return

    from app.ops.doctor import examine

    findings = examine()
    reports.print_findings(findings, as_json=as_json)
    if not all(finding.is_ok for finding in findings):
        raise typer.Exit(1)


@app.command(short_help="Erase a person everywhere and prove it")
def forget(
    *,
    user: Annotated[str, typer.Option("--user", metavar="ID", help="The user_id to erase.")],
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="TEXT", help="Also search for this e-mail, phone or name; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is stored about the user and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person's data everywhere, raw calls included, and search for what is left. Cannot be undone.

    Calls made as a guest are erased if they belong to the user; what others did on the same device stays. The shop's
    own database, ingested files and backups are not changed. Exits 1 if any trace of the person remains.

    Example: carat forget --user 4711 --also anna@example.com --also "+49 170 1234567"
    """
    from app.jobs.forget.erase import forget_user
    from app.warehouse import open_warehouse

    settings = load_settings()
    if not (dry_run or yes):
        if not sys.stdin.isatty():
            raise SettingsError("erasing cannot be undone: confirm it with --yes, or look first with --dry-run")
        typer.confirm(f"Erase all data of user {user}? This cannot be undone", abort=True)
    with open_warehouse(settings, purpose="carat forget", writes=not dry_run) as warehouse:
        erasure = forget_user(warehouse, settings, user, also=also or (), now=datetime.now(tz=UTC), dry_run=dry_run)
    reports.print_erasure(erasure, as_json=as_json)
    reports.require_erased(erasure)


@app.command("backup", short_help="Back up warehouse, history and spool")
def backup_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New directory for the backup.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Copy the warehouse, its history and the collector's spool into a new directory, with a manifest to check it by.

    A ClickHouse server writes its tables to its own disk CARAT_BACKUP_DISK; docs/backups.md says how to set that up.
    Passwords and keys are not in a backup.

    Example: carat backup /backups/2026-03-01
    """
    from app.jobs.backup import back_up

    manifest = back_up(load_settings(), folder)
    reports.print_backup(manifest, folder, as_json=as_json)


@app.command("restore", short_help="Restore a backup, checked, all or none")
def restore_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the backup.")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a warehouse that is not empty.")] = False,
    as_json: AsJson = False,
) -> None:
    """Restore a backup after checking it. Nothing is changed until all of it is restored beside the present tables.

    After an interruption, run the same command again. People who were forgotten since the backup stay forgotten if the
    warehouse that is replaced knows of them.

    Example: carat restore /backups/2026-03-01 --replace
    """
    from app.jobs.backup import restore

    restored = restore(load_settings(), folder, replace=replace, now=datetime.now(tz=UTC))
    reports.print_restored(restored, as_json=as_json)


@app.command("fill", short_help="Copy another warehouse into a new one")
def fill_command(*, as_json: AsJson = False) -> None:
    """Copy the raw calls and the history of the warehouse in CARAT_FILL_FROM into a new one: a cluster, for instance.

    What is built of them is not copied: run `carat etl` afterwards, then `carat verify`. The other warehouse is only
    read; nothing may write to it meanwhile. After an interruption, run the same command again.

    Example: carat fill  (after export CARAT_FILL_FROM=chdb://./var/warehouse)
    """
    from app.jobs.fill import fill
    from app.warehouse import open_warehouse

    settings = load_settings()
    if settings.fill_from is None:
        raise SettingsError("CARAT_FILL_FROM is not set: it is the URL of the warehouse to copy")
    other = settings.model_copy(update={"warehouse": settings.fill_from})
    with (
        open_warehouse(other, purpose="carat fill", writes=False) as old,
        open_warehouse(settings, purpose="carat fill") as warehouse,
    ):
        filled = fill(warehouse, old, settings)
    reports.print_filled(filled, as_json=as_json)


@app.command(short_help="Generate a demo shop and its warehouse")
def demo(
    *,
    calls: Annotated[int, typer.Option(min=1_000, metavar="N", help="Number of API calls in the month.")] = 300_000,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed for the generated shop.")] = 7,
    folder: Annotated[Path, typer.Option(metavar="PATH", help="Directory for the shop's files.")] = Path("var/demo"),
) -> None:
    """Generate a demo shop with a month of traffic, build and verify the warehouse, and print a summary.

    Example: carat demo --calls 100000
    """
    from app.demo.calls import DemoPlan
    from app.demo.run import run_demo

    run_demo(load_settings(), DemoPlan(calls=calls, seed=seed), folder)
