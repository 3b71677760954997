"""Output for people and programs: tables and progress bars on a terminal, JSON lines otherwise."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from app.core import watchdog
from app.core.variables import log_file

_WIDE = 200  # columns if the output is not a terminal
_out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
_err = Console(stderr=True, highlight=False)

_VISIBLE = (
    {code: chr(0x2400 + code) for code in range(0x20) if code != ord("\n")}
    | {ord("\t"): " ", 0x7F: "\u2421"}
    | dict.fromkeys((*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("carat")


def set_up_logging() -> None:
    """Log to stderr: readable lines on a terminal, otherwise one JSON object per line."""
    is_terminal = sys.stderr.isatty()
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)  # its messages are also raised as errors
    renderer = structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer(default=str)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if is_terminal else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def record_failure(error: BaseException) -> None:
    """Write an error with its traceback to the log file; stderr gets only one readable line."""
    with suppress(OSError):
        path = log_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(traceback.format_exception(error))
        # For its owner alone: errors may quote what a shopper or the shop's database wrote.
        with open(path, "a", encoding="utf-8", opener=partial(os.open, mode=0o600)) as file:
            file.write(
                json.dumps({"at": datetime.now(tz=UTC).isoformat(), "error": str(error), "traceback": text}) + "\n"
            )


def harmless(text: str) -> str:
    """The text with what would control a terminal replaced by visible signs: shoppers can send escape sequences.

    Line feeds stay; a tab becomes a blank. Direction marks go too, as they make a line read as another one.
    """
    return text.translate(_VISIBLE)


def say(line: str) -> None:
    _out.print(harmless(line), markup=False, soft_wrap=True)


def say_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, default=str, ensure_ascii=False) + "\n")


def say_error(line: str) -> None:
    one_line = harmless(line).replace("\n", " ")
    _err.print(f"carat: {one_line}", style="red" if _err.is_terminal else None, markup=False, soft_wrap=True)


def say_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Print a table; columns named in `right` are right-aligned."""
    table = Table(title=Text(title, style="table.title"), title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(format_value(value))) for value in row))  # text may contain [brackets]: no markup
    _out.print(table)


def format_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int | Decimal):
        return f"{value:,}"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


@contextmanager
def progress(label: str, total: int | None) -> Iterator["Bar"]:
    """A progress bar on stderr, shown only on a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as shown:
        yield Bar(shown, shown.add_task(label, total=total))


class Bar:
    """One progress bar."""

    def __init__(self, shown: Progress, task: Any) -> None:
        self._shown = shown
        self._task = task

    def advance(self, amount: int) -> None:
        watchdog.progress()
        self._shown.advance(self._task, amount)

    def reach(self, amount: int) -> None:
        watchdog.progress()
        self._shown.update(self._task, completed=amount)

    def label(self, text: str) -> None:
        watchdog.progress()
        self._shown.update(self._task, description=text)
