"""Where a day of one size is kept: the raw table in an embedded warehouse, and the same rows in a Parquet file."""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

DAY = date(2026, 3, 2)
SEED = 20260302
_VERSION = 2  # raise it when the generator changes, so that kept days are generated again


@dataclass(frozen=True)
class Dataset:
    """A day of one size in its own folder."""

    calls: int
    folder: Path

    @classmethod
    def under(cls, parent: Path, calls: int) -> "Dataset":
        return cls(calls, parent.resolve() / str(calls))

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse"

    @property
    def parquet(self) -> Path:
        return self.folder / "calls.parquet"

    @property
    def is_built(self) -> bool:
        return self._mark.exists() and json.loads(self._mark.read_text()) == self._identity

    def mark_built(self) -> None:
        self._mark.write_text(json.dumps(self._identity))

    @property
    def _mark(self) -> Path:
        return self.folder / "built.json"

    @property
    def _identity(self) -> dict[str, int]:
        return {"version": _VERSION, "seed": SEED, "calls": self.calls}
