"""`carat dashboards …`: the verbs about dashboards."""

import typer

dashboards = typer.Typer(
    name="dashboards",
    help="Check the dashboards, push them to a Metabase, or show them on one local page.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
