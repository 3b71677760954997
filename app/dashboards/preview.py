"""The dashboards as one page: the same cards, from the same SQL, in one HTML file that needs no network.

The page's parts are in `page/`. Everything that shoppers typed travels as JSON, in which no markup can begin, and the
page may run nothing but its own script: its policy names the script's hash.
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
from app.dashboards.answers import Days, Read, answer_cards, card_key, options_of, stored_days
from app.dashboards.model import Dashboard, DashCard, Library, Parameter
from app.dashboards.sql import parse_period

_PARTS = Path(__file__).parent / "page"
_SCRIPTS = (
    "echarts/echarts.min.js", "dom.js", "format.js", "series.js", "charts.js", "figures.js", "tables.js", "page.js",
)  # fmt: skip
_PLACE = re.compile(r"\{\{(policy|style|content|script)\}\}")
_STATIC_POLICY = "connect-src 'none'"
_LIVE_POLICY = "connect-src 'self'"
BY_ETL = "They are built out of the stored calls by `carat etl`, or `carat hourly`"


def write_page(read: Read, library: Library, path: Path, chosen: Mapping[str, Any] | None = None) -> int:
    """Write the page with the results of every card; its size in bytes."""
    page = static_page(read, library, chosen or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")  # a reader never sees half a page
    unfinished.write_bytes(page)
    unfinished.replace(path)
    return len(page)


def static_page(read: Read, library: Library, chosen: Mapping[str, Any]) -> bytes:
    """The page with its data inside; its filters say what was chosen."""
    results: dict[str, Any] = {}
    for dashboard in library.dashboards:
        results |= answer_cards(read, dashboard, dashboard.dashcards, chosen)
    content = _content(read, library, chosen) | {"results": results, "is_live": False}
    return _assemble(content, _STATIC_POLICY)


def live_page(read: Read, library: Library, *, until_built: str = BY_ETL) -> bytes:
    """The page without data, which asks for it as filters are chosen; `until_built`: what is to be done before."""
    content = _content(read, library, {}, until_built=until_built)
    return _assemble(content | {"results": {}, "is_live": True}, _LIVE_POLICY)


def chosen_filters(library: Library, texts: Sequence[str]) -> dict[str, Any]:
    """Filters written as `device=mobile`, by their slugs; SettingsError for what is none."""
    known = {parameter.slug: parameter for parameter in page_filters(library)}
    chosen: dict[str, Any] = {}
    for text in texts:
        slug, _, value = text.partition("=")
        if slug not in known or not value:
            raise SettingsError(f"--filter {text}: write it as NAME=VALUE, with one of {', '.join(known)} as NAME")
        if known[slug].type.startswith("date/"):
            parse_period(value)
            chosen[slug] = value
        else:
            chosen.setdefault(slug, []).append(value)
    return chosen


def page_filters(library: Library) -> list[Parameter]:
    """Every filter of the dashboards, each once."""
    return list({own.slug: own for dashboard in library.dashboards for own in dashboard.parameters}.values())


def made_of(days: Days) -> str:
    """Which days the page tells of."""
    return f"{_span(days.first, days.last)}, people only" if days.first and days.last else "no sessions are stored yet"


def _content(read: Read, library: Library, chosen: Mapping[str, Any], *, until_built: str = BY_ETL) -> dict[str, Any]:
    days = stored_days(read)
    return {
        "made": made_of(days),
        "until_built": "" if days.first else until_built,
        "chosen": {slug: value for slug, value in chosen.items() if value},
        "filters": [_filter(read, library, parameter, days, chosen) for parameter in page_filters(library)],
        "dashboards": [_dashboard(dashboard) for dashboard in library.dashboards],
    }


def _filter(
    read: Read, library: Library, parameter: Parameter, days: Days, chosen: Mapping[str, Any]
) -> dict[str, Any]:
    value = chosen.get(parameter.slug) or parameter.default
    own = {"slug": parameter.slug, "name": parameter.name}
    if not parameter.type.startswith("date/"):
        values = [value] if isinstance(value, str) else list(value or [])
        options = options_of(read, library.dashboards, parameter)
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


def _presets(days: Days) -> list[tuple[str, str]]:
    """Periods to choose with one click: the last days that are stored."""
    if not days.first or not days.last:
        return []
    last_days = [(f"{count} days", days.last - timedelta(days=count - 1)) for count in (7, 30)]
    whole = [*((name, first) for name, first in last_days if first > days.first), ("all", days.first)]
    return [(name, f"{first}~{days.last}") for name, first in whole]


def _span(first: date | None, last: date | None) -> str:
    """The days in words: Mar 1 to Mar 31, 2026."""
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
    tabs = [(tab.name, dashboard.on_tab(tab)) for tab in dashboard.tabs] or [(dashboard.name, dashboard.on_tab(None))]
    return {
        "slug": dashboard.slug,
        "name": dashboard.name,
        "description": dashboard.description,
        "tabs": [{"name": name, "cards": [_place(dashcard) for dashcard in cards]} for name, cards in tabs],
    }


def _place(dashcard: DashCard) -> dict[str, Any]:
    """Where a card stands and how it is shown; a dashboard's own settings go before the card's."""
    place = {
        "key": card_key(dashcard), "col": dashcard.col, "row": dashcard.row,
        "size_x": dashcard.size_x, "size_y": dashcard.size_y, "display": dashcard.display,
    }  # fmt: skip
    if dashcard.card_id is None:
        return place | {"text": dashcard.text, "settings": {}}
    card = dashcard.card
    settings = (card.settings if card else {}) | dashcard.settings
    return place | {
        "name": settings.get("card.title") or (card.name if card else "A card that is not there"),
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
    # In one pass: what stands in the data is never taken for a place to fill.
    return _PLACE.sub(lambda match: filled[match[1]], _part("template.html")).encode()


def _embedded(content: Mapping[str, Any]) -> str:
    """JSON in which neither a tag nor a comment can begin."""
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
