"""`carat spend`: what a person answers about files of costs, and what is printed of them."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from app.core import console
from app.core.currency_codes import parse_currency_code
from app.core.errors import SettingsError
from app.settings import Settings

if TYPE_CHECKING:
    from app.frames.spend.understand import Answers
    from app.jobs.spend.read import Report, SpendRead

_DECIMALS = {".": ".", ",": ",", "point": ".", "comma": ","}
_ORDERS = ("dmy", "mdy")


def parse_answers(
    *, platform: str, account: str, currency: str, decimal: str, dates: str, time_zone: str, spreads: bool
) -> "Answers":
    """The answers, checked; SettingsError names the option that is wrong."""
    from app.frames.spend.understand import Answers  # noqa: PLC0415  takes Polars, which --help does without

    try:
        code = parse_currency_code(currency) if currency else ""
    except ValueError as error:
        raise SettingsError(f"--currency {error}") from None
    if decimal and decimal not in _DECIMALS:
        raise SettingsError(f"--decimal {decimal!r}: choose from . and ,")
    if dates and dates.lower() not in _ORDERS:
        raise SettingsError(f"--dates {dates!r}: choose from dmy (31/03/2026) and mdy (03/31/2026)")
    return Answers(
        platform=platform.strip(),
        account=account.strip(),
        currency=code,
        decimal=_DECIMALS.get(decimal, ""),
        dates=dates.lower(),
        time_zone=time_zone.strip(),
        spreads=spreads,
    )


def run_spend(
    settings: Settings,
    paths: Sequence[str],
    answers: "Answers",
    *,
    table: str,
    exported_at: datetime | None,
    dry_run: bool,
) -> "SpendRead":
    """Read files, or a table of the warehouse; a dry run of files needs no warehouse."""
    from app.intake.files import require_readable  # noqa: PLC0415
    from app.jobs.spend.read import look_at_files, read_files, read_table  # noqa: PLC0415
    from app.warehouse import open_warehouse  # noqa: PLC0415
    from app.warehouse.cluster import refuse_on_cluster  # noqa: PLC0415

    if bool(paths) == bool(table):
        raise SettingsError(
            "--from reads a table: leave out the files" if table else "Missing argument 'FILE': name the files to read"
        )
    if exported_at and exported_at > datetime.now(tz=UTC):
        raise SettingsError(f"--exported {exported_at:%Y-%m-%d %H:%M} lies in the future")
    if exported_at and table:
        raise SettingsError("--exported is about files: a table is read as it is now")
    require_readable(list(paths))
    files = [Path(path) for path in paths]
    if dry_run and files:
        return look_at_files(settings, files, answers, now=datetime.now(tz=UTC))
    refuse_on_cluster(settings, "`carat spend`", "`carat spend --dry-run FILE` shows what a file holds")
    with open_warehouse(settings, purpose="carat spend", writes=not dry_run) as warehouse:
        if table:
            return read_table(warehouse, settings, table, answers, dry_run=dry_run)
        return read_files(warehouse, settings, files, answers, exported_at=exported_at)


def print_spend(result: "SpendRead", *, as_json: bool) -> None:
    """What was understood of each file, as a table, and what a reader should know of it."""
    if as_json:
        console.say_json(
            {
                "files": [asdict(report) for report in result.reports],
                "refused": [str(error) for error in result.refused],
            }
        )
        return
    if result.reports:
        columns = (
            "file", "", "platform", "account", "first day", "last day", "level", "campaigns", "rows", "cost",
            "currency", "decimal", "compared with",
        )  # fmt: skip
        console.say_table("", columns, [_row(report) for report in result.reports], right=("campaigns", "rows", "cost"))
    for report in result.reports:
        for note in report.notes:
            console.say(f"{report.file}: {note}")


def _row(report: "Report") -> tuple[object, ...]:
    cost = None if report.amount is None else report.amount.quantize(report.amount.__class__("0.01"))
    return (
        report.file,
        report.state,
        report.platform,
        ", ".join(filter(None, report.accounts)),
        report.first_day,
        report.last_day,
        ", ".join(report.levels),
        report.campaigns,
        report.rows,
        cost,
        ", ".join(report.currencies),
        report.decimal,
        report.checked,
    )
