"""`carat dashboards …`: the verbs about dashboards."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.core import console
from app.dashboards import DEFAULT_FOLDER

if TYPE_CHECKING:
    from app.dashboards.push import Pushed

# As in app/main.py, each verb imports what it needs.

dashboards = typer.Typer(
    name="dashboards",
    help="Check dashboards, push them to Metabase, or show them on a local page.\n\nExample: carat dashboards preview",
    short_help="Check, preview and push the dashboards.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[
    Path, typer.Option(metavar="FOLDER", show_default="Carat's own", help="Folder with the dashboards' files.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


class Display(StrEnum):
    """How a new card can be shown."""

    LINE = "line"
    BAR = "bar"
    AREA = "area"
    COMBO = "combo"
    ROW = "row"
    SCATTER = "scatter"
    TABLE = "table"
    SCALAR = "scalar"
    SMARTSCALAR = "smartscalar"
    PIE = "pie"
    FUNNEL = "funnel"


@dashboards.command("validate", short_help="Check the files and run every card.")
def validate_command(
    *,
    no_warehouse: Annotated[bool, typer.Option("--no-warehouse", help="Check only the files; run no card.")] = False,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Check the files with Metabase's own validator (needs Node.js) and a lint, and run every card on the warehouse.

    Example: carat dashboards validate
    """
    from app.dashboards.validate import validate
    from app.settings import load_settings
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
            console.say(f"{validation.dashboards} dashboards with {validation.cards} cards: no findings")
    validation.require_clean()


@dashboards.command("new-card", short_help="Add a card: you only write its SQL.")
def new_card_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The card's name, unique among all cards.")],
    *,
    dashboard: Annotated[str, typer.Option(metavar="DASHBOARD", help="Dashboard to add the card to, by name or file.")],
    tab: Annotated[
        str | None, typer.Option(metavar="TAB", help="Tab of the dashboard; needed if it has several.")
    ] = None,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Title on this dashboard, if not the card's name.")
    ] = None,
    display: Annotated[Display, typer.Option(metavar="DISPLAY", help=f"One of {', '.join(Display)}.")] = Display.LINE,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="What the numbers mean.")] = None,
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Write a new card's file with ids, filters and a placeholder query, and add the card to a dashboard.

    The card gets the dashboard's filters and a free place on the tab. Replace the query and the description in its
    file, then run `carat dashboards validate`.

    Example: carat dashboards new-card "Orders by device" --dashboard "Store overview" --tab Overview --display pie
    """
    from app.dashboards.model import load_library
    from app.dashboards.new_card import DESCRIPTION, add_card, tab_of

    library = load_library(folder)
    target = library.dashboard(dashboard)
    added = add_card(
        library,
        name,
        dashboard=target,
        tab=tab_of(target, tab),
        title=title,
        display=display,
        description=description or DESCRIPTION,
    )
    console.say(f"wrote {added.card_path}: replace its SQL, then run `carat dashboards validate`")
    console.say(f"added it to {added.dashboard_path} at column {added.col}, row {added.row}")


@dashboards.command("preview", short_help="Write or serve the dashboards as one page.")
def preview_command(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")] = Path("var/dashboards.html"),
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="NAME=VALUE", help="date=2026-03-01~2026-03-31, device=mobile, …; repeatable."
        ),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page with working filters instead.")] = False,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to serve on; default: only this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to serve on; 0 picks a free one.")
    ] = 8322,
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Write the dashboards as one HTML page that needs no network, or serve them with working filters.

    Example: carat dashboards preview --out march.html --filter date=2026-03-01~2026-03-31
    """
    from app.dashboards.card_results import query_runner
    from app.dashboards.model import load_library
    from app.dashboards.preview import chosen_filters, write_page
    from app.settings import load_settings
    from app.warehouse import open_warehouse

    settings = load_settings()
    library = load_library(folder, currency=settings.currency)
    chosen = chosen_filters(library, filters or [])
    purpose = "carat dashboards preview --serve" if serve else "carat dashboards preview"
    with open_warehouse(settings, purpose=purpose, writes=False) as warehouse:
        if serve:
            from app.core.signals import stopped_by_signal
            from app.dashboards.live import asking, serve_page

            with stopped_by_signal() as stopped:
                serve_page(
                    asking(query_runner(warehouse)),
                    library,
                    host=host,
                    port=port,
                    stopped=stopped,
                    proxy_hosts=settings.page_host_names,
                )
            return
        size = write_page(query_runner(warehouse), library, out, chosen)
    console.say(f"wrote {out} ({size / 1024**2:.1f} MB): open it in any browser; it needs no network")


def insights_command(
    *,
    chosen_texts: Annotated[
        list[str] | None, typer.Option("--filter", metavar="NAME=VALUE", help="A filter; repeatable.")
    ] = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Say in a few sentences what changed and whether it is real, where most money is lost, and what is broken.

    Example: carat insights --filter date=2026-03-01~2026-03-14 --filter device=mobile
    """
    from app.dashboards.card_results import query_runner
    from app.dashboards.insights import insights
    from app.dashboards.model import load_library
    from app.dashboards.preview import chosen_filters
    from app.settings import load_settings
    from app.warehouse import open_warehouse

    settings = load_settings()
    library = load_library(folder, currency=settings.currency)
    chosen = chosen_filters(library, chosen_texts or [])
    with open_warehouse(settings, purpose="carat insights", writes=False) as warehouse:
        found = insights(query_runner(warehouse), library, chosen)
    if as_json:
        console.say_json([insight.report for insight in found])
        return
    for insight in found:
        console.say(f"- {insight.text}")
    if not found:
        console.say("no days are stored yet: run `carat etl` or `carat hourly`")


@dashboards.command("push", short_help="Create or update them in Metabase.")
def push_command(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes line by line; make none.")] = False,
    database_host: Annotated[
        str | None,
        typer.Option("--database-host", metavar="HOST[:PORT]", help="The warehouse's host as Metabase reaches it."),
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Longest wait for Metabase to scan the warehouse.")
    ] = 300,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Create or update the dashboards in Metabase. Safe to repeat; other people's content is not touched.

    Example: carat dashboards push --dry-run

    Set CARAT_METABASE_URL, and CARAT_METABASE_API_KEY to a key of the group Administrators. Metabase connects to
    CARAT_METABASE_WAREHOUSE, or else to CARAT_WAREHOUSE; a read-only user is enough.
    """
    from app.dashboards.model import load_library
    from app.dashboards.push import push
    from app.settings import load_settings

    settings = load_settings()
    library = load_library(folder, currency=settings.currency)
    pushed = push(settings, library, dry_run=dry_run, database_host=database_host, wait_s=wait)
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
        console.say(f"nothing to do: {where} matches the files")
    elif pushed.dry_run:
        console.say(f"dry run: {len(pushed.changes)} change(s) to make in {where}")
    else:
        console.say(f"made {len(pushed.changes)} change(s) in {where} and verified them")
