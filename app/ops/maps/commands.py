"""`carat map …`: the verbs about the endpoint map."""

from pathlib import Path
from typing import Annotated

import typer

from app.core import console
from app.core.errors import SettingsError

# As in app/main.py, each verb imports what it needs.

maps = typer.Typer(
    name="map",
    help="Check the endpoint map, try it on calls, or draft one from calls. None of this needs a warehouse.\n\n"
    "Example: carat map try calls.ndjson",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Calls = Annotated[
    list[str], typer.Argument(metavar="CALLS", help="NDJSON (.gz, .zst), Parquet, or - for stdin.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@maps.command("check", short_help="Check an endpoint map and list its entries")
def check_command(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A map's file or a shipped map; default: CARAT_TRACKING.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Check an endpoint map and list its entries: event, method, path, whether there is a condition, and fields.

    The first mistake is printed as FILE:LINE: KEY: problem, and the exit code is 2. If the map looks values up in
    history, it says which tables that needs and whether the snapshot plan has them.

    Example: carat map check shop.toml
    """
    from app.ops.maps.reading import find_map
    from app.ops.maps.reports import print_map
    from app.rules.endpoint_map import load_endpoint_map
    from app.rules.snapshot_plan import load_snapshot_plan
    from app.settings import load_settings

    path = find_map(file)
    endpoint_map = load_endpoint_map(path)
    plan = None
    if endpoint_map.lookups:
        try:
            plan = load_snapshot_plan(load_settings().snapshots)
        except SettingsError:
            console.log.info("the snapshot plan cannot be read")
    print_map(path, endpoint_map, plan, as_json=as_json)


@maps.command("try", short_help="Show what a map makes of your calls")
def try_command(
    calls: Calls,
    *,
    map_name: Annotated[
        str | None,
        typer.Option("--map", metavar="FILE|NAME", help="A map's file or a shipped map; default: CARAT_TRACKING."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an endpoint map makes of calls: per entry its calls and fields, and which calls it does not know.

    What looks wrong is printed with the entry, the field and how to fix it. The exit code is 0 even then. Values that
    are looked up in history stay empty, as there is no warehouse.

    Example: carat map try calls-*.ndjson.gz --map woocommerce
    """
    from app.ops.maps.reading import find_map
    from app.ops.maps.reports import print_trial
    from app.ops.maps.trial import try_map
    from app.rules.endpoint_map import load_endpoint_map
    from app.settings import load_settings

    path = find_map(map_name)
    print_trial(path, try_map(load_endpoint_map(path), calls, load_settings()), as_json=as_json)


@maps.command("draft", short_help="Propose a map from your calls")
def draft_command(
    calls: Calls,
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the map to this new file instead of stdout.")
    ] = None,
) -> None:
    """Propose an endpoint map from calls, as TOML to edit. Every guess has its reason and confidence as a comment.

    The same calls always give the same map.

    Example: carat map draft calls.ndjson > shop.toml
    """
    from app.ops.maps.drafting import draft_map
    from app.ops.maps.reports import print_draft
    from app.settings import load_settings

    if out is not None and out.exists():
        raise SettingsError(f"--out {out} exists; name a new file")
    lines = draft_map(calls, load_settings())
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print_draft(lines, out)
