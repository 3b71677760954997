"""Calls from files for `carat map`: read in bounded memory, without a warehouse."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from app.core import console
from app.core.errors import SettingsError
from app.intake.files import STDIN, read_batches, require_readable, total_bytes
from app.settings import SHIPPED_ENDPOINT_MAPS, Settings, load_settings


@dataclass
class Reading:
    """How many records were read, and how many could not be, by reason."""

    calls: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def require_calls(self, names: Sequence[str]) -> None:
        """Raise SettingsError if the files hold no call."""
        if not self.calls:
            why = f": {self.rejected.total()} rejected records ({_written(self.rejected)})" if self.rejected else ""
            raise SettingsError(
                f"{', '.join(names)}: no calls{why}. A call is one JSON object a line with ts, method and endpoint"
            )


def _written(rejected: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in rejected.most_common(3))


def read_calls(names: list[str], settings: Settings, reading: Reading, *, label: str) -> Iterator[pl.DataFrame]:
    """Frames of calls in the shape of `pd.api_calls`, with a progress bar; `reading` counts them."""
    require_readable(names)
    now = datetime.now(tz=UTC)
    limits = replace(settings.record_limits, max_age_days=0)  # a map is tried on calls of any age
    done_bytes = 0
    with console.progress(label, total_bytes(names)) as bar:
        for name in names:
            for batch in read_batches(
                name,
                now=now,
                limits=limits,
                on_bytes=lambda at, before=done_bytes: bar.reach(before + at),  # type: ignore[misc]
            ):
                reading.calls += batch.calls.height
                reading.rejected.update(batch.rejects["reason"].to_list())
                if batch.calls.height:
                    yield batch.calls
            done_bytes += 0 if name == STDIN else Path(name).stat().st_size
    reading.require_calls(names)


def find_map(name: str | None) -> Path:
    """The map's file: a path or the name of a shipped map, by default that of CARAT_TRACKING."""
    if name is None:
        return load_settings().tracking
    shipped = {path.stem: path for path in sorted(SHIPPED_ENDPOINT_MAPS.glob("*.toml"))}
    if name in shipped and not Path(name).is_file():
        return shipped[name]
    if not Path(name).is_file():
        what = "is a directory" if Path(name).is_dir() else "does not exist"
        raise SettingsError(f"{name} {what}; name a map's file, or a shipped map: {', '.join(shipped)}")
    return Path(name)
