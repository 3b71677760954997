"""Takes an export of advertising costs apart: rows, totals, footers, and what stands before the headers."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from app.core.errors import SpendError
from app.frames.spend.days import is_day
from app.frames.spend.layout import Layout, Line
from app.rules.ad_platform import TEXT_FIELDS, Platform, plain

_KEY_AND_VALUE = re.compile(r"\s*([^:]{2,60}?)\s*:\s*(.*)")


@dataclass
class ExportTable:
    """The lines of an export taken apart: texts of rows by field, with `line`; totals by what they say of the sum."""

    layout: Layout
    rows: pl.DataFrame
    totals: list[tuple[str, str, Mapping[str, str]]]
    preamble: Mapping[str, str]
    opening: Sequence[str]
    notes: list[str] = field(default_factory=list)

    @property
    def platform(self) -> Platform:
        return self.layout.platform


def says_nothing(lines: Sequence[Line], platforms: Sequence[Platform]) -> bool:
    """Whether a file holds nothing but a platform's words for "no data"."""
    words = {word for platform in platforms for word in platform.file.empty}
    return any(plain(line.label) in words for line in lines)


def take_apart(lines: Sequence[Line], layout: Layout) -> ExportTable:
    """Rows, totals and preamble; SpendError where a line has more cells than there are headers."""
    width = len(lines[layout.at].cells)
    preamble = _preamble(lines[: layout.at], layout.platform)
    body = [line for line in lines[layout.at + 1 :] if line.label]
    if len(body) == 1 and says_nothing(body, [layout.platform]):
        body = []
    for line in body:
        if any(cell.strip() for cell in line.cells[width:]):
            raise SpendError(
                f"line {line.number} has more cells than there are headers: a number with an unquoted separator? "
                "Export it again, or with another separator"
            )
    rows: list[Line] = []
    totals: list[tuple[str, str, Mapping[str, str]]] = []
    for line in body:
        kind = _kind(line, layout)
        if kind == "row":
            rows.append(line)
        elif kind != "footer":
            label = (
                line.label if layout.platform.total_check(line.label, layout.level) else "the row without a campaign"
            )
            totals.append((label, kind, {name: _cell(line, at) for name, at in layout.columns.items()}))
    fields = {name: [_cell(line, at) for line in rows] for name, at in layout.columns.items()}
    frame = pl.DataFrame(
        {"line": [line.number for line in rows], **fields},
        schema={"line": pl.Int64, **dict.fromkeys(fields, pl.String)},
    )
    return ExportTable(
        layout, _without_nulls(frame, layout.platform), totals, preamble, [line.label for line in lines[: layout.at]]
    )


def _cell(line: Line, at: int) -> str:
    return line.cells[at].strip() if at < len(line.cells) else ""


def _kind(line: Line, layout: Layout) -> str:
    """Whether a line is a row, a footer, or a total that is equal to the sum, at most it, or says nothing of it.

    A row with a day is a row, whatever its campaign is called.
    """
    platform, columns = layout.platform, layout.columns
    dated = day_field(columns)
    if dated and is_day(_cell(line, columns[dated])):
        is_unnamed = "campaign" in columns and not any(
            _cell(line, at)
            for name, at in columns.items()
            if name in TEXT_FIELDS and name not in {"account", "account_id", "currency"}
        )
        return "equal" if is_unnamed and "day" not in columns else "row"
    check = platform.total_check(line.label, layout.level)
    if check:
        return check
    if platform.is_footer(line.label):
        return "footer"
    filled = [cell for cell in line.cells if plain(cell) not in platform.nulls]
    amounts = [_cell(line, columns[name]) for name in ("amount", "amount_micros") if name in columns]
    names = [_cell(line, at) for name, at in columns.items() if name in TEXT_FIELDS and name != "currency"]
    if not any(plain(amount) not in platform.nulls for amount in amounts) and len(filled) <= 1:
        return "footer"
    if not any(plain(name) not in platform.nulls for name in names) and "campaign" in columns:
        return "equal"  # a row without a campaign and a day
    return "row"


def _without_nulls(frame: pl.DataFrame, platform: Platform) -> pl.DataFrame:
    """The texts, null where the platform writes its word for nothing."""
    texts = [name for name in frame.columns if name != "line"]
    is_null = {name: pl.col(name).str.to_lowercase().is_in(sorted(platform.nulls)) for name in texts}
    return frame.with_columns(pl.when(~is_null[name]).then(name).alias(name) for name in texts)


def _preamble(lines: Sequence[Line], platform: Platform) -> dict[str, str]:
    """What lines `Key: value` before the headers say, by the names of `Preamble`."""
    keys = {plain(label): name for name, label in platform.file.preamble.model_dump().items() if label}
    said = {}
    for line in lines:
        match = _KEY_AND_VALUE.fullmatch(",".join(cell for cell in line.cells if cell.strip()))
        if match and plain(match[1]) in keys:
            said[keys[plain(match[1])]] = match[2].strip()
    return said


def require_all_rows(table: ExportTable) -> None:
    """Raise SpendError if the file says that it has other rows than it holds, or totals of rows that are not there."""
    said = table.preamble.get("rows", "").replace(",", "")
    if said.isdigit() and int(said) != table.rows.height:
        raise SpendError(
            f"says Rows: {said} and holds {table.rows.height:,}: is it cut off, or was it edited? Export it again"
        )
    if not table.rows.is_empty():
        return
    for label, check, cells in table.totals:
        if check == "equal" and any(re.search("[1-9]", cells.get(name, "")) for name in ("amount", "amount_micros")):
            raise SpendError(f"has a total, {label!r}, and no rows: is it cut off? Export it again")


def day_field(columns: Collection[str]) -> str:
    """The field that says a row's day, or its first day; empty if none does."""
    return next((name for name in ("day", "starts", "hour") if name in columns), "")
