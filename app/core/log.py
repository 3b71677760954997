"""The log on stderr: one JSON object per line, or readable lines from warnings up where stderr is a terminal."""

import json
import sys
from datetime import UTC, datetime
from typing import Any


class Log:
    """Writes events with named values. It takes milliseconds to import, which every command pays."""

    shows_info = True

    def info(self, event: str, **values: Any) -> None:
        if self.shows_info and not sys.stderr.isatty():
            _write_json("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        _write("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        _write("error", event, values)


def _write(level: str, event: str, values: dict[str, Any]) -> None:
    if not sys.stderr.isatty():
        _write_json(level, event, values)
        return
    details = "".join(f"  {name}={_shown(value)}" for name, value in values.items())
    sys.stderr.write(f"{_now()} [{level}] {event}{details}\n")


def _write_json(level: str, event: str, values: dict[str, Any]) -> None:
    entry = values | {"event": event, "level": level, "timestamp": _now()}
    sys.stderr.write(json.dumps(entry, default=str) + "\n")  # in one call, so that threads do not mix their lines
    sys.stderr.flush()


def _shown(value: Any) -> str:
    """A value on one line; `repr` makes what would control the terminal visible."""
    return repr(value) if isinstance(value, str | int | float) else repr(str(value))


def _now() -> str:
    return datetime.now(tz=UTC).isoformat().replace("+00:00", "Z")
