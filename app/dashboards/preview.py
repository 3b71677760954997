"""The dashboards as one page: the same cards, from the same SQL, in one HTML file that needs no network.

The page's parts are in `page/`. Text that shoppers typed is embedded as escaped JSON, so it never becomes markup,
and the page's Content-Security-Policy allows only its own script, by hash.
"""

import base64
import calendar
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from app.core.errors import SettingsError
from app.dashboards.card_results import RunQuery, StoredDays, card_key, card_results, options_of, stored_days
from app.dashboards.insights import insights
from app.dashboards.model import Dashboard, DashCard, Library, Parameter
from app.dashboards.sql import parse_period

_PARTS = Path(__file__).parent / "page"
_SCRIPTS = (
    "echarts/echarts.min.js", "dom.js", "format.js", "series.js", "charts.js", "figures.js", "tables.js", "page.js",
)  # fmt: skip
_PLACE = re.compile(r"\{\{(policy|style|content|script)\}\}")
_STATIC_POLICY = "connect-src 'none'"
_LIVE_POLICY = "connect-src 'self'"
BY_ETL = "Run `carat etl` or `carat hourly` to build them from the stored calls"


def write_page(run_query: RunQuery, library: Library, path: Path, chosen: Mapping[str, Any] | None = None) -> int:
    """Write the page with the results of every card and return its size in bytes."""
    page = static_page(run_query, library, chosen or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")  # readers never see half a page
    unfinished.write_bytes(page)
    unfinished.replace(path)
    return len(page)


def static_page(run_query: RunQuery, library: Library, chosen: Mapping[str, Any]) -> bytes:
    """The page with embedded results; its filters show what was chosen."""
    results: dict[str, Any] = {}
    for dashboard in library.dashboards:
        results |= card_results(run_query, dashboard, dashboard.dashcards, chosen)
    said = [insight.report for insight in insights(run_query, library, chosen)]
    content = _content(run_query, library, chosen) | {"results": results, "insights": said, "is_live": False}
    return _assemble(content, _STATIC_POLICY)


def live_page(run_query: RunQuery, library: Library, *, until_built: str = BY_ETL) -> bytes:
    """The page that fetches results as filters are chosen; `until_built` is shown while there are no sessions."""
    content = _content(run_query, library, {}, until_built=until_built)
    return _assemble(content | {"results": {}, "insights": [], "is_live": True}, _LIVE_POLICY)


def chosen_filters(library: Library, texts: Sequence[str]) -> dict[str, Any]:
    """Parse filters such as `device=mobile`, by slug; SettingsError if one is invalid."""
    known = {parameter.slug: parameter for parameter in page_filters(library)}
    chosen: dict[str, Any] = {}
    for text in texts:
        slug, _, value = text.partition("=")
        if slug not in known or not value:
            raise SettingsError(f"--filter {text}: expected NAME=VALUE, where NAME is one of {', '.join(known)}")
        if known[slug].type.startswith("date/"):
            parse_period(value)
            chosen[slug] = value
        else:
            chosen.setdefault(slug, []).append(value)
    return chosen


def page_filters(library: Library) -> list[Parameter]:
    """The filters of all dashboards, without duplicates."""
    return list({own.slug: own for dashboard in library.dashboards for own in dashboard.parameters}.values())


def data_span(days: StoredDays) -> str:
    """The days that the page's data covers, in words."""
    return (
        f"data of {_span(days.first, days.last)}, bots excluded"
        if days.first and days.last
        else "no sessions are stored yet"
    )


def _content(
    run_query: RunQuery, library: Library, chosen: Mapping[str, Any], *, until_built: str = BY_ETL
) -> dict[str, Any]:
    days = stored_days(run_query)
    return {
        "made": data_span(days),
        "until_built": "" if days.first else until_built,
        "chosen": {slug: value for slug, value in chosen.items() if value},
        "filters": [_filter(run_query, library, parameter, days, chosen) for parameter in page_filters(library)],
        "dashboards": [_dashboard(dashboard) for dashboard in library.dashboards],
    }


def _filter(
    run_query: RunQuery, library: Library, parameter: Parameter, days: StoredDays, chosen: Mapping[str, Any]
) -> dict[str, Any]:
    value = chosen.get(parameter.slug) or parameter.default
    own = {"slug": parameter.slug, "name": parameter.name}
    if not parameter.type.startswith("date/"):
        values = [value] if isinstance(value, str) else list(value or [])
        options = options_of(run_query, library.dashboards, parameter)
        return own | {"kind": "text", "options": options, "said": ", ".join(values) or "all"}
    if value:
        period = parse_period(str(value), today=date.max if days.last is None else days.last + timedelta(days=1))
        said = _span(period.first, period.last)
    else:
        said = _span(days.recent_first, days.recent_last)
    return own | {
        "kind": "date", "said": said, "presets": _presets(days),
        "first": str(days.first or ""), "last": str(days.last or ""),
        "default": f"{days.recent_first}~{days.recent_last}" if days.recent_first else "",
    }  # fmt: skip


def _presets(days: StoredDays) -> list[tuple[str, str]]:
    """Periods that are one click away: the last stored days."""
    if not days.first or not days.last:
        return []
    last_days = [(f"{count} days", days.last - timedelta(days=count - 1)) for count in (7, 30)]
    whole = [*((name, first) for name, first in last_days if first > days.first), ("all", days.first)]
    return [(name, f"{first}~{days.last}") for name, first in whole]


def _span(first: date | None, last: date | None) -> str:
    """The days in words, such as Mar 1 to Mar 31, 2026."""
    if first and last and first.year == last.year and first != last:
        return f"{_words(first).rpartition(',')[0]} to {_words(last)}"
    if first and last:
        return _words(first) if first == last else f"{_words(first)} to {_words(last)}"
    if first or last:
        return f"since {_words(first)}" if first else f"until {_words(last or date.max)}"
    return "all days"


def _words(day: date) -> str:
    return f"{calendar.month_abbr[day.month]} {day.day}, {day.year}"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "slug": dashboard.slug,
        "name": dashboard.name,
        "description": dashboard.description,
        "filters": [parameter.slug for parameter in dashboard.parameters],
        "tabs": [
            {"name": name, "cards": [_place(dashcard) for dashcard in cards]} for name, cards in tabs_of(dashboard)
        ],
    }


def tabs_of(dashboard: Dashboard) -> list[tuple[str, tuple[DashCard, ...]]]:
    """The name and cards of each tab, in order; a dashboard without tabs is one."""
    tabs = [(tab.name, dashboard.on_tab(tab)) for tab in dashboard.tabs]
    return tabs or [(dashboard.name, dashboard.on_tab(None))]


def _place(dashcard: DashCard) -> dict[str, Any]:
    """A card's place and display; the dashboard's own settings override the card's."""
    place = {
        "key": card_key(dashcard), "col": dashcard.col, "row": dashcard.row,
        "size_x": dashcard.size_x, "size_y": dashcard.size_y, "display": dashcard.display,
    }  # fmt: skip
    if dashcard.card_id is None:
        return place | {"text": dashcard.text, "settings": {}}
    card = dashcard.card
    settings = (card.settings if card else {}) | dashcard.settings
    return place | {
        "name": settings.get("card.title") or (card.name if card else "Missing card"),
        "description": settings.get("card.description") or (card.description if card else ""),
        "settings": settings,
    }


def _assemble(content: Mapping[str, Any], connections: str) -> bytes:
    style, script = _part("page.css"), _script()
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; {connections}; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {"policy": policy, "style": style, "script": script, "content": _embedded(content)}
    # In one pass, so that data never counts as a placeholder.
    return _PLACE.sub(lambda match: filled[match[1]], _part("template.html")).encode()


def _embedded(content: Mapping[str, Any]) -> str:
    """JSON escaped so that no tag or comment can start in it."""
    text = msgspec.json.encode(content).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _script() -> str:
    return "".join(f"{_part(name)}\n" for name in _SCRIPTS)


@cache
def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")
