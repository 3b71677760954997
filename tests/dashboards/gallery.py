"""Dashboards made for a test: one card of every display, each with its own SQL, without any file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.dashboards.model import Card, Dashboard, DashCard, Library, Mapping, Parameter, Tab, Tag

DEVICE = Tag("device", "t-device", "Device", "dimension", "string/=", ("Carat", "dwh", "sessions", "device_type"))
DATE = Tag("date", "t-date", "Date", "dimension", "date/range", ("Carat", "dwh", "days", "day"))
FILTERS = (
    Parameter("p-date", "Date", "date", "date/range"),
    Parameter("p-device", "Device", "device", "string/="),
)
MAPPINGS = (Mapping("p-date", "dimension", "date", None), Mapping("p-device", "dimension", "device", None))
_COLUMNS, _ACROSS, _DOWN = 24, 8, 6


def a_card(name: str, display: str, sql: str, description: str = "", **settings: Any) -> Card:
    key = name.lower().replace(" ", "-")
    return Card(key, name, description, display, "Carat", sql, (DATE, DEVICE), settings, None, Path(f"{key}.yaml"), {})


def a_dashboard(name: str, cards: Sequence[Card], *, tabs: int = 1) -> Dashboard:
    """The cards three to a row, spread over so many tabs."""
    names = tuple(Tab(f"{name}-tab-{number}", f"Tab {number}", number) for number in range(tabs))
    placed = []
    for index, card in enumerate(cards):
        tab, place = names[index % tabs], index // tabs
        col, row = place * _ACROSS % _COLUMNS, place * _ACROSS // _COLUMNS * _DOWN
        key = f"{name}-{card.entity_id}"
        placed.append(DashCard(key, card.entity_id, card, tab.entity_id, col, row, _ACROSS, _DOWN, MAPPINGS, {}, {}))
    path = Path(f"{name.lower().replace(' ', '_')}.yaml")
    return Dashboard(f"d-{name}", name, f"About {name}.", 0, FILTERS, names, tuple(placed), None, path, {})


def a_library(*dashboards: Dashboard) -> Library:
    cards = {
        dashcard.card.entity_id: dashcard.card for own in dashboards for dashcard in own.dashcards if dashcard.card
    }
    return Library(Path(), (), dashboards, tuple(cards.values()), ())


def column(name: str, **style: Any) -> dict[str, Any]:
    """A column's settings, under the key that Metabase gives them."""
    return {f'["name","{name}"]': style}


def literal(text: str) -> str:
    """The text in SQL, without any character that a card's template could take for its own."""
    return f"unhex('{text.encode().hex()}')"


_DAYS = "SELECT toDate('2026-03-01') + number AS \"Day\""
_CHANNELS = "['Organic Search', 'Referral', 'Paid Search', 'Paid Social', 'Direct', 'Email', 'Affiliates']"
_MONEY = {"number_style": "currency", "currency": "EUR", "decimals": 0}
_RATE = {"number_style": "percent", "decimals": 1}


def every_display() -> list[Card]:
    """One card of each display, with numbers that make its labels tight."""
    by_day = (
        f'{_DAYS}, 900 + (number * 37) % 700 AS "Sessions", 0.02 + (number % 7) / 300 AS "Conversion" FROM numbers(31)'
    )
    by_device = (
        f"{_DAYS}, ['mobile', 'desktop', 'tablet'][1 + device] AS \"Device\", (number * 31 + device * 400) % 900 AS \"Sessions\" "
        "FROM numbers(31) ARRAY JOIN [0, 1, 2] AS device"
    )
    by_channel = f'SELECT {_CHANNELS}[number + 1] AS "Channel", 9000 - number * 1150 AS "Sessions" FROM numbers(7)'
    step = (
        "SELECT ['Visit', 'Catalog', 'Product', 'Cart', 'Checkout', 'Purchase'][number + 1] AS \"Step\", "
        '[18609, 16848, 11169, 5161, 999, 530][number + 1] AS "Sessions" FROM numbers(6)'
    )
    return [
        a_card("A number", "scalar", 'SELECT 1234567.5 AS "Revenue"', "What it says.", column_settings=column("Revenue", **_MONEY)),
        a_card("A trend that is good", "smartscalar", f'{_DAYS}, 100 + number AS "Orders" FROM numbers(2)'),
        a_card("Less is better", "smartscalar", f'{_DAYS}, 0.5 - number / 20 AS "Bounces" FROM numbers(9)',
               **{"scalar.switch_positive_negative": True, "column_settings": column("Bounces", **_RATE)}),
        a_card("A line", "line", by_day, **{"graph.metrics": ["Sessions"]}),
        a_card("Two lines on two axes", "line", by_day, column_settings=column("Conversion", **_RATE)),
        a_card("Lines of a breakout", "line", by_device, **{"graph.dimensions": ["Day", "Device"], "graph.metrics": ["Sessions"]}),
        a_card("Bars", "bar", by_channel, **{"graph.show_values": True}),
        a_card("Bars stacked", "bar", by_device, **{"graph.dimensions": ["Day", "Device"], "stackable.stack_type": "stacked"}),
        a_card("Bars as shares", "bar", by_device, **{"graph.dimensions": ["Day", "Device"], "stackable.stack_type": "normalized"}),
        a_card("Areas", "area", by_device, **{"graph.dimensions": ["Day", "Device"], "stackable.stack_type": "stacked"}),
        a_card("Both", "combo", by_day, **{
            "series_settings": {"Conversion": {"display": "line", "axis": "right"}},
            "column_settings": column("Conversion", **_RATE), "graph.show_goal": True, "graph.goal_value": 1200, "graph.goal_label": "Plan",
        }),
        a_card("Rows", "row", by_channel),
        a_card("Rows of two measures", "row", f'SELECT {_CHANNELS}[number + 1] AS "Channel", number + 1 AS "A", 9 - number AS "B" FROM numbers(7)'),
        a_card("A ring", "pie", by_channel, **{"pie.dimension": "Channel", "pie.metric": "Sessions"}),
        a_card("A funnel", "funnel", step, **{"funnel.dimension": "Step", "funnel.metric": "Sessions"}),
        a_card("A table", "table", "SELECT toDateTime('2026-03-01 10:20:30') AS \"At\", number * 1.5 AS \"Worth\", number / 50 AS \"Share\", "
               'number * 61 AS "Seconds", number % 2 = 0 AS "Even", NULL AS "Nothing" FROM numbers(40)', **{
                   "column_settings": column("Worth", **_MONEY) | column("Share", **_RATE, show_mini_bar=True) | column("Seconds", number_style="duration"),
                   "table.column_formatting": [{"columns": ["Worth"], "type": "range", "colors": ["white", "#509EE3"]}],
               }),
        a_card("A grid", "table", "SELECT ['Mon', 'Tue', 'Wed'][intDiv(number, 24) + 1] AS \"Weekday\", leftPad(toString(number % 24), 2, '0') AS \"Hour\", "
               'number * 3 AS "Sessions" FROM numbers(72)', **{
                   "table.pivot": True, "table.pivot_column": "Hour", "table.cell_column": "Sessions",
                   "table.column_formatting": [{"columns": ["Sessions"], "type": "range", "colors": ["#FFFFFF", "#509EE3"]}],
               }),
    ]  # fmt: skip
