"""All checks of the dashboards' files: Metabase's own validator, the lint, and running every card."""

from dataclasses import dataclass
from pathlib import Path

from app.core.errors import DashboardError
from app.dashboards.card_checks import check_cards
from app.dashboards.card_results import query_runner
from app.dashboards.findings import Finding
from app.dashboards.lint import lint
from app.dashboards.metabase_schema import FIX, schema_findings, validator
from app.dashboards.model import load_library
from app.warehouse import Warehouse


@dataclass(frozen=True)
class Validation:
    """The findings, the number of dashboards and cards checked, and notes on checks that were left out."""

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
        """Raise DashboardError if there are findings."""
        if self.findings:
            raise DashboardError(f"{len(self.findings)} finding(s) in {len({f.path for f in self.findings})} file(s)")


def validate(folder: Path, warehouse: Warehouse | None) -> Validation:
    """Check the files in the folder; without a warehouse, no card is run."""
    notes = []
    findings: list[Finding] = []
    program = validator()
    if program is None:
        notes.append(f"Metabase's own validator was not run: {FIX}")
    else:
        findings += schema_findings(folder, program)
    try:
        library = load_library(folder)
    except DashboardError as error:
        return Validation((*findings, Finding("files", folder, "", str(error))), 0, 0, tuple(notes))
    findings += lint(library)
    if warehouse is None:
        notes.append("no card was run: leave out --no-warehouse to run them")
    else:
        findings += check_cards(library.cards, warehouse, query_runner(warehouse))
    return Validation(tuple(findings), len(library.dashboards), len(library.cards), tuple(notes))
