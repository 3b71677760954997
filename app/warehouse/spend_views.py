"""The views of advertising costs: of every day, or order, the latest reading, now or as of an instant."""

from collections.abc import Sequence

from app.contracts import ORDER_COST_READINGS, SPEND_READINGS, TIME, Column
from app.core.sql import quote
from app.rules.campaign_aliases import load_campaign_aliases
from app.settings import Settings
from app.warehouse.campaign_audit import campaign_audit
from app.warehouse.campaign_views import campaign_views
from app.warehouse.views import View

_OF_READINGS = {"reading_id"}
_SHOWN = "SELECT reading_id FROM etl.spend_files"


def spend_views(settings: Settings) -> tuple[View, ...]:
    """The views, in the order in which they depend on each other."""
    aliases = load_campaign_aliases(settings.campaigns)
    comments = {column.name: column.comment for column in SPEND_READINGS.columns if column.name not in _OF_READINGS}
    order_comments = {
        column.name: column.comment for column in ORDER_COST_READINGS.columns if column.name not in _OF_READINGS
    }
    before = f" WHERE read_at <= {{ts:{TIME}}}"
    return (
        View(
            "dwh.order_costs",
            "What networks that are paid by order cost: one row per transaction, as the newest file says it. It joins "
            "on order_id; a declined one costs nothing.",
            _order_costs(settings.currency),
            order_comments,
        ),
        View(
            "dwh.spend",
            "Advertising costs: one row per day, platform, account and the finest level that the newest file of the "
            "day has. Of costs by order, the day's sum per publisher. As of an instant: dwh.spend_at(ts = …).",
            _spend(settings.currency),
            comments,
        ),
        View(
            "dwh.spend_at",
            "dwh.spend as it was known at an instant: dwh.spend_at(ts = '2026-03-01 12:00:00').",
            _spend(settings.currency, read=before),
            {},
        ),
        *campaign_views(aliases),
        campaign_audit(aliases),
    )


def _names(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns if column.name not in _OF_READINGS]


def _in_currency(name: str, currency: str) -> str:
    """An amount, null where it was converted to a currency that the warehouse had before."""
    return f"if(converted_to = {quote(currency)}, {name}, NULL) AS {name}"


def _order_costs(currency: str, *, read: str = "") -> str:
    amounts = ("cost", "sale")
    selected = [
        _in_currency(name, currency) if name in amounts else name for name in _names(ORDER_COST_READINGS.columns)
    ]
    return f"""SELECT {", ".join(selected)}
FROM etl.order_cost_readings
WHERE (platform, account, transaction_id, reading_id) IN (
    SELECT platform, account, transaction_id, argMax(reading_id, (exported_at, read_at))
    FROM etl.order_cost_readings WHERE reading_id IN ({_SHOWN}{read}) GROUP BY platform, account, transaction_id
)"""


def _spend(currency: str, *, read: str = "") -> str:
    """The latest reading of each platform, account and day, and what is paid by order, added up by day."""
    amounts = ("amount", "platform_value")
    names = _names(SPEND_READINGS.columns)
    selected = [_in_currency(name, currency) if name in amounts else name for name in names]
    of_orders = {
        "spend_date": "order_date",
        "campaign_id": "publisher_id",
        "campaign": "any(publisher)",
        **dict.fromkeys(("ad_group_id", "ad_group", "ad_id", "ad"), "''"),
        "level": "'campaign'",
        "amount_original": _whole("cost_original"),
        "rate": "any(rate)",
        "amount": _whole("cost"),
        "converted_to": "any(converted_to)",
        "clicks": "NULL",
        "impressions": "NULL",
        "platform_conversions": "count()",
        "platform_value_original": _whole("sale_original"),
        "platform_value": _whole("sale"),
        "is_spread": "false",
        "file_id": "argMax(file_id, (exported_at, read_at))",
        "exported_at": "max(exported_at)",
        "read_at": "max(read_at)",
    }
    types = {column.name: column.type for column in SPEND_READINGS.columns}
    sums = ", ".join(f"CAST({of_orders.get(name, name)} AS {types[name]}) AS `of_{name}`" for name in names)
    renamed = ", ".join(f"`of_{name}` AS {name}" for name in names)
    return f"""SELECT {", ".join(selected)}
FROM etl.spend_readings
WHERE (platform, account, spend_date, reading_id) IN (
    SELECT platform, account, spend_date, argMax(reading_id, (exported_at, read_at))
    FROM etl.spend_readings WHERE reading_id IN ({_SHOWN}{read}) GROUP BY platform, account, spend_date
)
UNION ALL
SELECT {renamed} FROM (
    SELECT {sums} FROM ({_order_costs(currency, read=read)}) WHERE status != 'declined'
    GROUP BY order_date, platform, account, publisher_id, currency, time_zone
)"""


def _whole(name: str) -> str:
    """The sum of an amount, null where a part of it is not known."""
    return f"if(countIf({name} IS NULL) > 0, NULL, sum({name}))"
