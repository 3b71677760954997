"""Proves that what is published is what the raw calls say: builds days aside and compares them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from app.core import console
from app.frames.days import day_spans
from app.jobs.build.backfill import ALL_DAYS, Rules, Span, at_once, is_within, share_workers
from app.jobs.build.day import JOBS, stage_day
from app.jobs.build.ledger import compare, read_inputs
from app.jobs.build.shards import Scope, count_calls
from app.jobs.verify import TableVerified, compare_with_published
from app.settings import Settings
from app.warehouse import Warehouse


@dataclass(frozen=True)
class Verification:
    """What was compared, a table and day each, oldest first, and why days that are not up to date are not."""

    tables: list[TableVerified]
    stale: dict[date, str]

    @property
    def differing(self) -> list[TableVerified]:
        return [table for table in self.tables if table.differing]


def verify_days(warehouse: Warehouse, settings: Settings, *, span: Span = ALL_DAYS) -> Verification:
    """Build every day in the span whose raw calls are there, beside what is published, and compare row by row."""
    rules = Rules.load(settings, remember_user_agents=False)
    inputs = read_inputs(warehouse, settings, rules.endpoint_map, rules.plan, rules.session_rules, keep=True)
    stale, _ = compare(warehouse, inputs, jobs=JOBS)
    days = [day for day in inputs.verifiable_days() if is_within(day, span)]
    shared = share_workers(rules, len(days))
    tables: list[TableVerified] = []
    with console.progress("verify", sum(inputs.of_day(day)["calls"] for day in days)) as bar:

        def verify(day: date, through: Warehouse) -> list[TableVerified]:
            bar.label(f"verify {day}")
            return _verify_day(through, day, shared, bar.advance)

        for verified in at_once(warehouse, days, verify, number=settings.days_at_once):
            tables += verified
    tables.sort(key=lambda table: (table.day, JOBS.index(table.table)))
    return Verification(tables, {day.day: "; ".join(day.reasons) for day in stale if is_within(day.day, span)})


def _verify_day(warehouse: Warehouse, day: date, rules: Rules, on_calls: Callable[[int], None]) -> list[TableVerified]:
    settings = rules.settings
    spans = day_spans(day, settings.zone)
    staged = stage_day(
        warehouse,
        Scope(spans, rules.endpoint_map, settings.session_timeout_ms),
        calls=count_calls(warehouse, spans),
        settings=settings,
        plan=rules.plan,
        session_rules=rules.session_rules,
        user_agents=rules.user_agents,
        on_calls=on_calls,
    )
    try:
        return compare_with_published(warehouse, staged.staging)
    finally:
        staged.staging.drop()
