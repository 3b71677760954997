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


@dashboards.command("validate")
def validate_command(
    *,
    no_warehouse: Annotated[bool, typer.Option("--no-warehouse", help="Only look at the files: run no card.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the dashboards' files are.")] = DEFAULT_FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Check the files with Metabase's own validator (where Node.js is) and a lint, and run every card on the warehouse.

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


@dashboards.command("preview")
def preview_command(
    *,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("var/dashboards.html"),
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="date=2026-03-01~2026-03-31, device=mobile, …; repeatable.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page, with working filters, instead.")] = False,
    host: Annotated[str, typer.Option(help="Where to serve: this machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to serve; 0 takes any free port.")] = 8322,
    folder: Annotated[Path, typer.Option(help="Where the dashboards' files are.")] = DEFAULT_FOLDER,
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


@dashboards.command("push")
def push_command(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be changed, line by line.")] = False,
    database_host: Annotated[
        str | None, typer.Option("--database-host", help="How Metabase calls the warehouse's host: clickhouse:8123.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that Metabase may take to read the warehouse.")] = 300,
    folder: Annotated[Path, typer.Option(help="Where the dashboards' files are.")] = DEFAULT_FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Make a running Metabase have these dashboards; what people made there is left alone, the same again is nothing.

    Example: carat dashboards push --dry-run

    Metabase's address is CARAT_METABASE_URL, its API key (of the group Administrators) CARAT_METABASE_API_KEY. It gets
    the warehouse of CARAT_WAREHOUSE, or of CARAT_METABASE_WAREHOUSE: a user who may only read is enough.
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
