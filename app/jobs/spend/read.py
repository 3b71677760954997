"""Reads advertising costs: understands a file or table, converts its amounts, and stores it as one reading."""

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import polars as pl

from app.contracts import ORDER_COST_READINGS, SPEND_READINGS
from app.core.errors import CaratError, SettingsError, SpendError, require_none
from app.frames.spend.days import parse_day
from app.frames.spend.layout import Line
from app.frames.spend.money import in_money, unknown_rates
from app.frames.spend.understand import Answers, Understood, understand
from app.jobs.runs import recorded
from app.jobs.spend.files import Sheet, read_sheet
from app.jobs.spend.store import (
    Reading,
    days_of_newer_files,
    days_without_common_campaign,
    last_read_at,
    latest_days,
    only_changed_days,
    read_before,
    store,
)
from app.rules.ad_platform import Platform, shipped_platforms
from app.rules.currencies import load_currencies
from app.settings import Settings
from app.warehouse import Warehouse

_TABLE = re.compile(r"\w+\.\w+")
_MOST_ROWS = 1_000_000
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([AP]M)?", re.IGNORECASE)
_HALF_DAY_H = 12
_SHOWN_DAYS = 3


@dataclass(frozen=True)
class Report:
    """What became of a file: `state` is read, nothing, same or, before it is stored, understood."""

    file: str
    state: str
    platform: str = ""
    language: str = ""
    accounts: tuple[str, ...] = ()
    currencies: tuple[str, ...] = ()
    decimal: str = ""
    time_zone: str = ""
    first_day: date | None = None
    last_day: date | None = None
    levels: tuple[str, ...] = ()
    campaigns: int = 0
    rows: int = 0
    amount: Any = None
    checked: str = ""
    notes: tuple[str, ...] = ()


@dataclass
class SpendRead:
    """What became of each file, and what was refused."""

    reports: list[Report] = field(default_factory=list)
    refused: list[CaratError] = field(default_factory=list)

    def require_done(self) -> None:
        """Raise what was refused, if anything was."""
        require_none(self.refused)


def look_at_files(settings: Settings, paths: Sequence[Path], answers: Answers, *, now: datetime) -> SpendRead:
    """What would be understood of the files; nothing is stored, and no warehouse is needed."""
    result = SpendRead()
    for path in _oldest_first(paths):
        try:
            sheet, understood = _understand_file(settings, path, answers, now=now)
            reading = _reading(
                settings, sheet, understood, answers, file=path.name, source="file", exported_at=None, read_at=now
            )
            result.reports.append(_report("understood", reading, understood))
        except SpendError as error:
            result.refused.append(SpendError(f"{path}: {error}"))
    return result


def read_files(
    warehouse: Warehouse,
    settings: Settings,
    paths: Sequence[Path],
    answers: Answers,
    *,
    exported_at: datetime | None = None,
    now: datetime | None = None,
) -> SpendRead:
    """Read the files, those that were changed first before the others, each whole or not at all.

    A file that is refused does not keep the others from being read.
    """
    result = SpendRead()
    with recorded(warehouse, "spend") as run:
        for path in _oldest_first(paths):
            read_at = _next_moment(warehouse, now)
            try:
                sheet, understood = _understand_file(settings, path, answers, now=read_at)
                reading = _reading(
                    settings,
                    sheet,
                    understood,
                    answers,
                    file=path.name,
                    source="file",
                    exported_at=exported_at,
                    read_at=read_at,
                )
                result.reports.append(_store(warehouse, reading, understood))
            except SpendError as error:
                result.refused.append(SpendError(f"{path}: {error}"))
        stored = sum(report.rows for report in result.reports if report.state == "read")
        run.count(rows_in=sum(report.rows for report in result.reports), rows_out=stored, rejected=len(result.refused))
        run.error = result.refused[0] if result.refused else None
    return result


def read_table(
    warehouse: Warehouse,
    settings: Settings,
    table: str,
    answers: Answers,
    *,
    dry_run: bool,
    now: datetime | None = None,
) -> SpendRead:
    """Read a table of the warehouse that another tool fills; of days that did not change, nothing is stored."""
    if not _TABLE.fullmatch(table):
        raise SettingsError(
            f"--from {table}: name a table of the warehouse with its database, such as airbyte.google_ads"
        )
    result = SpendRead()
    read_at = (now or datetime.now(tz=UTC)) if dry_run else _next_moment(warehouse, now)
    sheet = _sheet_of(warehouse, table)
    if not sheet.lines:
        result.reports.append(Report(table, "nothing", notes=("it holds no rows",)))
        return result
    try:
        understood = understand(sheet.lines, answers, shipped_platforms(), today=_today(settings, read_at), points=True)
        reading = _reading(
            settings, sheet, understood, answers, file=table, source="table", exported_at=None, read_at=read_at
        )
        if dry_run:
            result.reports.append(_report("understood", reading, understood))
            return result
        with recorded(warehouse, "spend") as run:
            changed = replace(reading, rows=only_changed_days(warehouse, reading)) if understood.rows.width else reading
            report = _store(warehouse, changed, understood, is_table=True)
            run.count(rows_in=reading.rows.height, rows_out=report.rows if report.state == "read" else 0)
        result.reports.append(report)
    except SpendError as error:
        result.refused.append(SpendError(f"{table}: {error}"))
    return result


def _understand_file(settings: Settings, path: Path, answers: Answers, *, now: datetime) -> tuple[Sheet, Understood]:
    platforms: tuple[Platform, ...] = shipped_platforms()
    sheet = read_sheet(path, platforms)
    return sheet, understand(sheet.lines, answers, platforms, today=_today(settings, now), points=sheet.points)


def _oldest_first(paths: Sequence[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, str(path)))


def _next_moment(warehouse: Warehouse, now: datetime | None) -> datetime:
    """Now, but after every reading that was stored: in a millisecond there is one."""
    last = last_read_at(warehouse)
    moment = now or datetime.now(tz=UTC)
    return max(moment, last + timedelta(milliseconds=1)) if last else moment


def _today(settings: Settings, now: datetime) -> date:
    return now.astimezone(settings.zone).date()


def _sheet_of(warehouse: Warehouse, table: str) -> Sheet:
    """The rows of a table as lines of text, sorted, so that its digest does not depend on their order."""
    columns = warehouse.query(f"SELECT * APPLY toString FROM {table} LIMIT {_MOST_ROWS + 1}")
    if columns.height > _MOST_ROWS:
        raise SpendError(f"{table} has more than {_MOST_ROWS:,} rows: make a view of the last months, and name that")
    names = [re.sub(r"^toString\(`?(.*?)`?\)$", r"\1", name) for name in columns.columns]
    rows = sorted(columns.cast(pl.String).fill_null("").iter_rows())
    digest = hashlib.sha256(repr((names, rows)).encode()).hexdigest()
    lines = [names, *map(list, rows)] if rows else []
    return Sheet(tuple(Line(number, cells) for number, cells in enumerate(lines, start=1)), digest, points=True)


# ---- a reading -----------------------------------------------------------------------------------------------------


def _reading(
    settings: Settings,
    sheet: Sheet,
    understood: Understood,
    answers: Answers,
    *,
    file: str,
    source: str,
    exported_at: datetime | None,
    read_at: datetime,
) -> Reading:
    """A file that was understood as a reading, its amounts converted."""
    said = _exported_at(understood, read_at)
    table = ORDER_COST_READINGS if understood.platform.file.grain == "order" else SPEND_READINGS
    rows = pl.DataFrame(schema=table.schema)
    notes = list(understood.notes)
    if understood.rows.width:
        rows = _converted(settings, understood)
        if unknown := unknown_rates(rows):
            notes.append(f"the ECB has no rate of {', '.join(unknown)}: these amounts count nowhere")
        zones = set(rows["time_zone"].unique()) - {"", settings.timezone}
        if zones:
            notes.append(f"its days are those of {', '.join(sorted(zones))}, the shop's of {settings.timezone}")
    return Reading(
        file_id=hashlib.sha256(repr((sheet.digest, answers, settings.currency)).encode()).hexdigest()[:32],
        reading_id=uuid.uuid4().hex,
        exported_at=exported_at or said or read_at,
        read_at=read_at,
        file=file,
        source=source,
        platform=understood.platform.name,
        table=table,
        rows=rows,
        notes=tuple(notes),
    )


def _converted(settings: Settings, understood: Understood) -> pl.DataFrame:
    """The rows in the shape of their table, less what the reading says."""
    rows = understood.rows
    is_of_orders = understood.platform.file.grain == "order"
    day = "order_date" if is_of_orders else "spend_date"
    rates = load_currencies(settings).rates(rows["currency"].unique().to_list(), rows[day].unique().to_list())
    if is_of_orders:
        amounts = {"cost": "cost_original", "sale": "sale_original"}
        return in_money(rows, rates, target=settings.currency, amounts=amounts, day=day)
    named = rows.rename({"value": "platform_value", "conversions": "platform_conversions"})
    amounts = {"amount": "amount_original", "platform_value": "platform_value_original"}
    money = in_money(named, rates, target=settings.currency, amounts=amounts, day=day)
    wanted = [name for name in SPEND_READINGS.schema if name in money.columns]
    return money.select(pl.col(name).cast(SPEND_READINGS.schema[name]) for name in wanted)


def _exported_at(understood: Understood, read_at: datetime) -> datetime | None:
    """What a file says of its own age: the last moment that it knows."""
    text = understood.exported_at
    day = parse_day(text, understood.order)
    if day is None:
        return None
    match = _TIME_OF_DAY.search(text)
    hour = int(match[1]) if match else 0
    if match and match[4]:
        hour = hour % _HALF_DAY_H + (_HALF_DAY_H if match[4].upper() == "PM" else 0)
    minute = int(match[2]) if match else 0
    return min(datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC), read_at)


def _store(warehouse: Warehouse, reading: Reading, understood: Understood, *, is_table: bool = False) -> Report:
    """Store a reading, unless there is nothing in it or the same file was read before."""
    if reading.rows.is_empty():
        unchanged = replace(reading, notes=("nothing changed",)) if understood.rows.width else reading
        return _report("nothing", unchanged, understood)
    before = None if is_table else read_before(warehouse, reading.file_id)
    if before:
        note = f"the same file was read at {before:%Y-%m-%d %H:%M}"
        return _report("same", replace(reading, notes=(note,)), understood)
    notes = list(reading.notes)
    if reading.table is SPEND_READINGS:
        notes += _notes_on_days(warehouse, reading)
    noted = replace(reading, notes=tuple(notes))
    store(warehouse, noted)
    return _report("read", noted, understood)


def _notes_on_days(warehouse: Warehouse, reading: Reading) -> Iterator[str]:
    """What a reader should know of the days that are there already."""
    latest = latest_days(warehouse, reading)
    if older := days_of_newer_files(reading, latest):
        yield f"of {older} days a newer file was read before, which still counts"
    if days := days_without_common_campaign(warehouse, reading, latest):
        shown = ", ".join(str(day) for day in days[:_SHOWN_DAYS]) + (", …" if len(days) > _SHOWN_DAYS else "")
        yield (
            f"replaced {len(days)} days that had other campaigns only ({shown}): if this is another account, read both "
            "files again with --account NAME"
        )


def _report(state: str, reading: Reading, understood: Understood) -> Report:
    """What a person wants to know of a file."""
    rows = reading.rows
    if rows.is_empty():
        return Report(reading.file, state, reading.platform, understood.language, notes=reading.notes)
    is_of_orders = reading.table is ORDER_COST_READINGS
    campaign = ("publisher_id", "publisher") if is_of_orders else ("campaign_id", "campaign")
    return Report(
        reading.file,
        state,
        ", ".join(sorted(rows["platform"].unique())),
        understood.language,
        tuple(sorted(rows["account"].unique())),
        tuple(sorted(rows["currency"].unique())),
        understood.decimal,
        ", ".join(sorted(set(rows["time_zone"].unique()) - {""})),
        cast("date", reading.days.min()),
        cast("date", reading.days.max()),
        ("order",) if is_of_orders else tuple(sorted(rows["level"].unique())),
        rows.select(campaign).unique().height,
        rows.height,
        _cost(rows, is_of_orders=is_of_orders),
        understood.checked,
        reading.notes,
    )


def _cost(rows: pl.DataFrame, *, is_of_orders: bool) -> Any:
    """The sum as the platform says it; what a network declined costs nothing."""
    if is_of_orders:
        return rows.filter(pl.col("status") != "declined")["cost_original"].sum()
    return rows["amount_original"].sum()
