"""Reads the files that advertising platforms export: CSV of any separator and encoding, and Excel."""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from app.core.errors import SpendError
from app.frames.spend.layout import Line, find_layouts
from app.rules.ad_platform import Platform

_SEPARATORS = (",", ";", "\t", "|")
_SAYS_SEPARATOR = re.compile(r"sep=.\r?\n")  # Excel's first line
_EXCEL = b"PK\x03\x04"
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_LONGEST_CELL = 1024 * 1024
_LARGEST_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Sheet:
    """A file's lines, and the hash of its bytes. `points`: a program wrote its numbers, with a point."""

    lines: tuple[Line, ...]
    digest: str
    points: bool = False


def read_sheet(path: Path, platforms: Sequence[Platform]) -> Sheet:
    """The lines of a file; SpendError if it is empty, too large, or neither text nor Excel."""
    if path.stat().st_size > _LARGEST_BYTES:
        raise SpendError(f"is larger than {_LARGEST_BYTES // 1024**2} MiB. Export fewer days at once")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if data.startswith((_EXCEL, _OLD_EXCEL)):
        return Sheet(_of_excel(data, platforms), digest, points=True)
    text = _decoded(data)
    if not text.strip():
        raise SpendError("is empty. Was the download complete? Export it again")
    return Sheet(_best(list(_split(_SAYS_SEPARATOR.sub("", text, count=1))), platforms), digest)


def _decoded(data: bytes) -> str:
    """The text of UTF-8, UTF-16 or else Windows-1252, as old versions of Excel write it."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data[:400]:
        has_low_first = data[1:400:2].count(0) > data[0:400:2].count(0)
        return data.decode("utf-16-le" if has_low_first else "utf-16-be", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _split(text: str) -> Iterator[tuple[Line, ...]]:
    """The lines by each separator; without any, lines of one cell."""
    csv.field_size_limit(_LONGEST_CELL)
    if not any(separator in text for separator in _SEPARATORS):
        yield tuple(Line(number, [line]) for number, line in enumerate(text.splitlines(), start=1))
    for separator in _SEPARATORS:
        if separator not in text:
            continue
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            yield tuple(Line(reader.line_num, cells) for cells in reader)
        except csv.Error:
            continue


def _best(splits: Sequence[tuple[Line, ...]], platforms: Sequence[Platform]) -> tuple[Line, ...]:
    """The lines in which the most of a platform's headers are found."""
    if not splits:
        raise SpendError("is neither CSV nor Excel. Export the report as CSV")
    if len(splits) == 1:
        return splits[0]
    worth = [max((layout.worth for layout in find_layouts(lines, platforms)), default=(0, 0, 0)) for lines in splits]
    return splits[worth.index(max(worth))]


def _of_excel(data: bytes, platforms: Sequence[Platform]) -> tuple[Line, ...]:
    """The lines of the sheet that holds costs."""
    try:
        sheets = pl.read_excel(
            io.BytesIO(data), sheet_id=0, engine="calamine", has_header=False, infer_schema_length=0,
            drop_empty_rows=False, raise_if_empty=False,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001  the reader raises errors of several libraries
        problem = str(error).partition("\n")[0]
        raise SpendError(f"is not a readable Excel file: {problem}. Export the report again, or as CSV") from None
    return _best(
        [
            tuple(Line(number, list(cells)) for number, cells in enumerate(sheet.fill_null("").iter_rows(), start=1))
            for sheet in sheets.values()
        ],
        platforms,
    )
