"""`carat dashboards …`: the verbs about dashboards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.core import console
from app.dashboards.model import DEFAULT_FOLDER, load_library
from app.settings import load_settings

if TYPE_CHECKING:
    from app.dashboards.push import Pushed

# As in app/main.py, each verb imports what it needs.

dashboards = typer.Typer(
    name="dashboards",
    help="Check the dashboards, push them to a Metabase, or show them on one local page.\n\n"
    "Example: carat dashboards preview",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dashboards.command("validate", short_help="Check the files and run every card")
def validate_command(
    *,
    no_warehouse: Annotated[bool, typer.Option("--no-warehouse", help="Check the files only; run no card.")] = False,
    folder: Annotated[Path, typer.Option(metavar="PATH", help="Directory of the dashboards' files.")] = DEFAULT_FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check the dashboards' files and run every card on the warehouse, without and with each filter.

    The files are checked by Metabase's own validator (where Node.js is installed) and by Carat's lint.

    Example: carat dashboards validate
    """
    from app.dashboards.validate import validate
    from app.warehouse import open_warehouse

    if no_warehouse:
        validation = validate(folder, None)
    else:
        with open_warehouse(load_settings(), purpose="carat dashboards validate", writes=False) as warehouse:
            validation = validate(folder, warehouse)
    if as_json:
        console.say_json(validation.report)
    else:
        for finding in validation.findings:
            console.say(str(finding))
        for note in validation.notes:
            console.say(f"note: {note}")
        if not validation.findings:
            console.say(f"{validation.dashboards} dashboards and their {validation.cards} cards are as they should be")
    validation.require_clean()


@dashboards.command("preview", short_help="Write the dashboards as one offline page")
def preview_command(
    *,
    out: Annotated[Path, typer.Option(metavar="PATH", help="The file to write.")] = Path("var/dashboards.html"),
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="NAME=VALUE", help="date=2026-03-01~2026-03-31, device=mobile; can be repeated."
        ),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page with working filters instead.")] = False,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to serve on; 0 picks any free port.")
    ] = 8322,
    folder: Annotated[Path, typer.Option(metavar="PATH", help="Directory of the dashboards' files.")] = DEFAULT_FOLDER,
) -> None:
    """Write the dashboards as one HTML page that needs no network, or serve them with working filters.

    Example: carat dashboards preview --out march.html --filter date=2026-03-01~2026-03-31
    """
    from app.dashboards.answers import reader_of
    from app.dashboards.preview import chosen_filters, write_page
    from app.warehouse import open_warehouse

    settings = load_settings()
    library = load_library(folder)
    chosen = chosen_filters(library, filters or [])
    purpose = "carat dashboards preview --serve" if serve else "carat dashboards preview"
    with open_warehouse(settings, purpose=purpose, writes=False) as warehouse:
        if serve:
            from app.core.signals import stopped_by_signal
            from app.dashboards.live import asking, serve_page

            with stopped_by_signal() as stopped:
                serve_page(asking(reader_of(warehouse)), library, host=host, port=port, stopped=stopped)
            return
        size = write_page(reader_of(warehouse), library, out, chosen)
    console.say(f"wrote {out} ({size / 1024**2:.1f} MB): open it in any browser, it needs no network")


@dashboards.command("push", short_help="Create or update them in Metabase")
def push_command(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change and stop.")] = False,
    database_host: Annotated[
        str | None,
        typer.Option(
            "--database-host", metavar="HOST:PORT", help="The warehouse as Metabase reaches it: clickhouse:8123."
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait while Metabase reads the warehouse.")
    ] = 300,
    folder: Annotated[Path, typer.Option(metavar="PATH", help="Directory of the dashboards' files.")] = DEFAULT_FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Create or update the dashboards in a running Metabase. Safe to repeat; other people's content is not changed.

    Example: carat dashboards push --dry-run

    Set CARAT_METABASE_URL and CARAT_METABASE_API_KEY (a key of the group Administrators). Metabase is connected to
    CARAT_WAREHOUSE, or to CARAT_METABASE_WAREHOUSE if set: a user who may only read is enough.
    """
    from app.dashboards.push import push

    library = load_library(folder)
    pushed = push(load_settings(), library, dry_run=dry_run, database_host=database_host, wait_s=wait)
    if as_json:
        console.say_json(pushed.report)
    else:
        _say_pushed(pushed)


def _say_pushed(pushed: "Pushed") -> None:
    for change in pushed.changes:
        console.say(str(change))
    for note in pushed.notes:
        console.say(f"note: {note}")
    where = f"{pushed.url} (Metabase {pushed.version})"
    if not pushed.changes:
        console.say(f"nothing to do: {where} has what the files say")
    elif pushed.dry_run:
        console.say(f"{len(pushed.changes)} change(s) would be made to {where}; nothing was changed")
    else:
        console.say(f"{len(pushed.changes)} change(s) made to {where}, and read back")
