"""What matters in a period, in at most five sentences, made by rules.

They come from the results of the cards, without a query of their own, so that a sentence and its card never disagree.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from app.dashboards.card_results import RunQuery, card_results, stored_days
from app.dashboards.model import Dashboard, DashCard, Library
from app.dashboards.sql import parse_period

REAL = frozenset({"better", "worse"})
_TOTALS = ("Sessions", "Orders", "Revenue", "Sessions that ended in an order", "Average order value")
_CALLED = {"Sessions that ended in an order": "conversion", "Average order value": "the average order"}
_SYMBOLS = {"EUR": "€", "USD": "$", "GBP": "£"}
_FEWEST_FAILURES = 10
_LARGEST_SHARE = 0.01  # of calls that fail before a sentence is worth it
_MOST_SENTENCES = 5
_LISTED_PRODUCTS = 25  # the card lists no more
_TWO_SIDES = 2


@dataclass(frozen=True)
class Insight:
    """A sentence, its kind (change, gap, broken or unsure), where its card is, and the numbers in it."""

    kind: str
    text: str
    card: str
    dashboard: str
    tab: int
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "text": self.text, "card": self.card, "dashboard": self.dashboard, "tab": self.tab,
            "numbers": self.numbers,
        }  # fmt: skip


def insights(run_query: RunQuery, library: Library, chosen: Mapping[str, Any]) -> list[Insight]:
    """The sentences of the chosen period and filters, what changed first; none if no days are stored."""
    if (days := _days(run_query, chosen)) is None:
        return []
    cards = _Cards(run_query, library, chosen, days)
    first, doubts = [*_changes(cards), *_gap(cards)], list(_doubts(cards))
    broken = [*_failures(cards), *_empty_shelves(cards), *_vain_searches(cards)]
    return [*first, *broken[: _MOST_SENTENCES - len(first) - len(doubts)], *doubts]


class _Cards:
    """The results of cards by name; a card that is not there or fails has no rows."""

    def __init__(self, run_query: RunQuery, library: Library, chosen: Mapping[str, Any], days: int) -> None:
        self._run_query = run_query
        self._chosen = chosen
        self._places = {
            dashcard.card.name: (dashboard, dashcard)
            for dashboard in library.dashboards
            for dashcard in dashboard.dashcards
            if dashcard.card
        }
        self.days = days

    def rows(self, name: str) -> list[dict[str, Any]]:
        if name not in self._places:
            return []
        dashboard, dashcard = self._places[name]
        (result,) = card_results(self._run_query, dashboard, [dashcard], self._chosen).values()
        names = [column["name"] for column in result.get("columns", [])]
        return [dict(zip(names, row, strict=True)) for row in result.get("rows", [])]

    def insight(self, kind: str, text: str, name: str, **numbers: Any) -> Insight:
        dashboard, dashcard = self._places[name]
        return Insight(kind, text, name, dashboard.slug, _tab_number(dashboard, dashcard), numbers)

    def style(self, name: str, column: str) -> dict[str, Any]:
        card = self._places[name][1].card
        return card.column_settings.get(column, {}) if card else {}


def _tab_number(dashboard: Dashboard, dashcard: DashCard) -> int:
    return next((index for index, tab in enumerate(dashboard.tabs) if tab.entity_id == dashcard.tab_id), 0)


def _days(run_query: RunQuery, chosen: Mapping[str, Any]) -> int | None:
    """The number of days in the period; None if there are none."""
    stored = stored_days(run_query)
    if stored.last is None or stored.recent_first is None or stored.recent_last is None:
        return None
    if not chosen.get("date"):
        return (stored.recent_last - stored.recent_first).days + 1
    period = parse_period(str(chosen["date"]), today=stored.last + timedelta(days=1))
    first, last = period.first or stored.first, period.last or stored.last
    return (last - first).days + 1 if first else None


# ---- what changed ----------------------------------------------------------------------------------------------


def _changes(cards: _Cards) -> Iterator[Insight]:
    """Which of the first numbers changed beyond chance, or that none did."""
    real, noise = [], []
    for name in _TOTALS:
        rows = cards.rows(name)
        if len(rows) != _TWO_SIDES:
            continue
        column = next(key for key in rows[0] if key not in {"Period starts", "Verdict"})
        before, now = rows[0][column], rows[1][column]
        if now is None or not before:
            continue
        change, style = now / before - 1, cards.style(name, column)
        called = _CALLED.get(name, name.lower())
        is_rate = style.get("number_style") == "percent"  # a change of a rate in percent would read like points
        moved = f"{_said(before, style)} to {_said(now, style)}"
        if rows[1]["Verdict"] in REAL:
            by = "" if is_rate else f" {abs(change):.1%},"
            real.append(f"{called} {'rose' if change > 0 else 'fell'}{by} from {moved}")
        else:
            noise.append(f"{called} {moved if is_rate else f'{change:+.1%}'}")
    against = f"the {cards.days} days before" if cards.days > 1 else "the day before"
    if real:
        text = f"Against {against}, {_listed(real)}: chance alone does that in fewer than 1 of 20 periods."
        text += f" Within noise: {', '.join(noise)}." if noise else ""
        yield cards.insight("change", text, _TOTALS[0], real=len(real))
    elif noise:
        text = f"Nothing changed beyond chance against {against}; all within noise: {', '.join(noise)}."
        yield cards.insight("change", text, _TOTALS[0], real=0)


# ---- where most money is lost ----------------------------------------------------------------------------------


def _gap(cards: _Cards) -> Iterator[Insight]:
    """The device whose gap to the best one costs most, and the step at which most of it opens."""
    name = "What the gap to the best device costs"
    rows = [row for row in cards.rows(name) if row["Verdict"] == "worse"]
    whole = next((row for row in rows if row["On the way"] == "Visit → Purchase"), None)
    if whole is None:
        return
    steps = [row for row in rows if row["Device"] == whole["Device"] and row is not whole]
    widest = (
        f", most of it at {steps[0]['On the way']} ({steps[0]['Went on']:.1%} against {steps[0]['Its rate']:.1%})"
        if steps
        else ""
    )
    device, best = whole["Device"].capitalize(), whole["Best device"]
    text = (
        f"{device}: {whole['Went on']:.1%} of sessions buy against {whole['Its rate']:.1%} on {best}{widest}. "
        f"At the most this costs about {_rough(whole['Orders missing'])} orders, "
        f"{_money(whole['Revenue missing'], cards.style(name, 'Revenue missing'))}, in {cards.days} days."
    )
    yield cards.insight(
        "gap", text, name, orders=whole["Orders missing"], revenue=whole["Revenue missing"],
        step=steps[0]["On the way"] if steps else None,
    )  # fmt: skip


# ---- what is broken --------------------------------------------------------------------------------------------


def _failures(cards: _Cards) -> Iterator[Insight]:
    """The step at which calls fail most often: one that costs orders before all others."""
    name = "Calls that failed, step by step"
    rows = [
        row
        for row in cards.rows(name)
        if row["Step"] != "Elsewhere" and row["Failed"] >= _FEWEST_FAILURES and row["Share"] >= _LARGEST_SHARE
    ]
    if not rows:
        return
    row = max(rows, key=lambda row: (row["Against the others"] == "worse", row["Share"]))
    costs = (
        "and those sessions bought less often than others"
        if row["Against the others"] == "worse"
        else "and no loss of orders is seen"
    )
    text = (
        f"{row['Step']}: {row['Share']:.1%} of the calls failed ({row['Failed']:,} of {row['Calls']:,}); "
        f"{row['Sessions that met one']:,} sessions met one, {row['Got through later']:,} got through later, {costs}."
    )
    yield cards.insight("broken", text, name, share=row["Share"], failed=row["Failed"], calls=row["Calls"])


def _empty_shelves(cards: _Cards) -> Iterator[Insight]:
    name = "Out of stock while wanted"
    rows = cards.rows(name)
    if not rows:
        return
    revenue = sum(row["Revenue at risk"] or 0 for row in rows)
    sessions = sum(row["Sessions that wanted it"] for row in rows)
    at_least = "at least " if len(rows) == _LISTED_PRODUCTS else ""
    text = (
        f"Wanted while out of stock: {at_least}{_counted(len(rows), 'product')}, in {sessions:,} sessions, about "
        f"{_money(revenue, cards.style(name, 'Revenue at risk'))} at risk; first {rows[0]['Product']}."
    )
    yield cards.insight("broken", text, name, products=len(rows), revenue=revenue)


def _vain_searches(cards: _Cards) -> Iterator[Insight]:
    name = "Searches that found nothing, most frequent first"
    rows, share = cards.rows(name), cards.rows("Searches that found nothing")
    if not rows or not share or not share[-1]["Found nothing"]:
        return
    text = (
        f"{share[-1]['Found nothing']:.1%} of the search listings found nothing, most often "
        f"“{rows[0]['Search']}” ({rows[0]['Found nothing']:,})."
    )
    yield cards.insight("broken", text, name, share=share[-1]["Found nothing"], first=rows[0]["Search"])


# ---- what the warehouse is unsure of ---------------------------------------------------------------------------


def _doubts(cards: _Cards) -> Iterator[Insight]:
    """What makes the numbers less than sure: days that failed, calls that fit no entry, records that are missing."""
    failed = sum(row["Failed days"] or 0 for row in cards.rows("Days that are not built because they failed"))
    misfits = cards.rows("What the endpoint map does not fit")
    rejected = sum(row["Records"] for row in cards.rows("Records that could not be stored, by reason"))
    said = []
    if failed:
        said.append(f"{_counted(failed, 'day')} failed to build and show an older version")
    if misfits:
        places = _counted(len(misfits), "place")
        said.append(f"the endpoint map does not fit in {places} ({misfits[0]['What looks wrong']})")
    if rejected:
        said.append(f"{_counted(rejected, 'record')} could not be stored")
    if said:
        name = (
            "Days that are not built because they failed"
            if failed
            else "What the endpoint map does not fit"
            if misfits
            else "Records that could not be stored, by reason"
        )
        text = f"Not sure: {_listed(said)}."
        yield cards.insight("unsure", text, name, failed_days=failed, misfits=len(misfits), rejected=rejected)


# ---- words -----------------------------------------------------------------------------------------------------


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _said(value: float, style: Mapping[str, Any]) -> str:
    """A value as its card shows it."""
    decimals = int(style.get("decimals", 0))
    if style.get("number_style") == "percent":
        return f"{value:.{decimals}%}"
    if style.get("number_style") == "currency":
        return f"{_currency(style)}{value:,.{decimals}f}"
    return f"{value:,.{decimals}f}"


def _money(value: float, style: Mapping[str, Any]) -> str:
    return f"{_currency(style)}{_rough(value)}"


def _currency(style: Mapping[str, Any]) -> str:
    code = str(style.get("currency", ""))
    return _SYMBOLS.get(code, f"{code} ")


def _rough(value: float) -> str:
    """An estimate with the two digits that it deserves: 49,172 is 49,000."""
    digits = len(re.sub(r"\D", "", f"{abs(value):.0f}"))
    return f"{round(value, min(0, 2 - digits)):,.0f}"
