"""All checks of the dashboards' files: Metabase's own validator, the lint of the files, and the cards' answers."""

from dataclasses import dataclass
from pathlib import Path

from app.core.errors import DashboardError
from app.dashboards.answers import reader_of
from app.dashboards.findings import Finding
from app.dashboards.lint import lint
from app.dashboards.metabase_schema import MEND, schema_findings, validator
from app.dashboards.model import load_library
from app.dashboards.running import run_cards
from app.warehouse import Warehouse


@dataclass(frozen=True)
class Validation:
    """What was found, how much was looked at, and what could not be looked at."""

    findings: tuple[Finding, ...]
    dashboards: int
    cards: int
    notes: tuple[str, ...]

    @property
    def report(self) -> dict[str, object]:
        return {
            "dashboards": self.dashboards,
            "cards": self.cards,
            "findings": [finding.report for finding in self.findings],
            "notes": list(self.notes),
        }

    def require_clean(self) -> None:
        """Raise DashboardError if anything was found."""
        if self.findings:
            raise DashboardError(f"{len(self.findings)} finding(s) in {len({f.path for f in self.findings})} file(s)")


def validate(folder: Path, warehouse: Warehouse | None) -> Validation:
    """Check the files in the folder; without a warehouse, only what the files say themselves."""
    notes = []
    findings: list[Finding] = []
    program = validator()
    if program is None:
        notes.append(f"Metabase's own validator was not run: {MEND}")
    else:
        findings += schema_findings(folder, program)
    try:
        library = load_library(folder)
    except DashboardError as error:
        return Validation((*findings, Finding("files", folder, "", str(error))), 0, 0, tuple(notes))
    findings += lint(library)
    if warehouse is None:
        notes.append("no card was run: leave out --no-warehouse to run each on the warehouse")
    else:
        findings += run_cards(library.cards, warehouse, reader_of(warehouse))
    return Validation(tuple(findings), len(library.dashboards), len(library.cards), tuple(notes))
