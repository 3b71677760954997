"""`carat dashboards …`: the verbs about dashboards."""

from pathlib import Path
from typing import Annotated

import typer

from app import console
from app.dashboards.answers import reader_of
from app.dashboards.model import DEFAULT_FOLDER, load_library
from app.dashboards.preview import chosen_filters, write_page
from app.settings import load_settings
from app.warehouse import open_warehouse

dashboards = typer.Typer(
    name="dashboards",
    help="Check the dashboards, push them to a Metabase, or show them on one local page.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


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
    settings = load_settings()
    library = load_library(folder)
    chosen = chosen_filters(library, filters or [])
    with open_warehouse(settings, purpose="carat dashboards preview", writes=False) as warehouse:
        if serve:
            from app.dashboards.live import serve_page  # noqa: PLC0415  only serving needs a server

            serve_page(reader_of(warehouse), library, host=host, port=port)
            return
        size = write_page(reader_of(warehouse), library, out, chosen)
    console.say(f"wrote {out} ({size / 1024**2:.1f} MB): open it in any browser, it needs no network")
