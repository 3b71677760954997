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
from typing import TYPE_CHECKING, Any

from app.core import watchdog
from app.core.log import Log
from app.core.variables import log_file

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Rich takes a tenth of a second of CPU, so it is imported where it is needed: for a table, or progress on a terminal.

_WIDE = 200  # columns if the output is not a terminal

log = Log()

_VISIBLE = (
    {code: chr(0x2400 + code) for code in range(0x20) if code != ord("\n")}
    | {ord("\t"): " ", 0x7F: "\u2421"}
    | dict.fromkeys((*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")
)


def set_up_logging() -> None:
    """Keep libraries from writing to the log what they also raise as errors."""
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)


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
    sys.stdout.write(harmless(line) + "\n")
    sys.stdout.flush()


def say_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, default=str, ensure_ascii=False) + "\n")


def say_error(line: str) -> None:
    message = f"carat: {harmless(line)}".replace("\n", " ")
    is_colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    sys.stderr.write(f"\x1b[31m{message}\x1b[0m\n" if is_colored else f"{message}\n")
    sys.stderr.flush()


def say_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Print a table; columns named in `right` are right-aligned."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=Text(title, style="table.title"), title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(format_value(value))) for value in row))  # text may contain [brackets]: no markup
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE).print(table)


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
    if not sys.stderr.isatty():
        yield Bar()
        return
    from rich import progress as parts  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (
        parts.SpinnerColumn(),
        parts.TextColumn("{task.description}", markup=False),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TimeElapsedColumn(),
        parts.TimeRemainingColumn(),
    )
    with parts.Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as shown:
        yield Bar(shown, shown.add_task(label, total=total))


class Bar:
    """One progress bar; without `shown` it only reports to the watchdog."""

    def __init__(self, shown: "Progress | None" = None, task: "TaskID | None" = None) -> None:
        self._shown = shown
        self._task = task

    def advance(self, amount: int) -> None:
        watchdog.progress()
        if self._shown and self._task is not None:
            self._shown.advance(self._task, amount)

    def reach(self, amount: int) -> None:
        self._update(completed=amount)

    def label(self, text: str) -> None:
        self._update(description=text)

    def _update(self, **changed: Any) -> None:
        watchdog.progress()
        if self._shown and self._task is not None:
            self._shown.update(self._task, **changed)
