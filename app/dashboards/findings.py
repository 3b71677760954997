"""A problem in the dashboards' files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """The check that found it, the file, the place in the file, and the problem with its fix."""

    check: str
    path: Path
    where: str
    problem: str

    def __str__(self) -> str:
        place = f"{self.path}: {self.where}" if self.where else str(self.path)
        return f"{place}: {self.problem} [{self.check}]"

    @property
    def report(self) -> dict[str, str]:
        return {"check": self.check, "file": str(self.path), "where": self.where, "problem": self.problem}
