"""The contracts of advertising costs: what was read, and from which files.

Each reading stays. The views `dwh.spend` and `dwh.order_costs` show of every day, or order, the latest one. A reading
counts from the moment at which its row of `etl.spend_files` is there, so one that was interrupted never shows.
"""

from app.contracts.table import Table
from app.contracts.types import LABEL, MICRO_MONEY, MONEY, TIME, Column

_OF_READING = (
    Column("file_id", "String", "the file or table: hash of its content and of what was answered about it"),
    Column("reading_id", "String", "the reading in etl.spend_files"),
    Column("exported_at", TIME, "how new the file is: what it or the user says, else when it was read"),
    Column("read_at", TIME, "when it was read"),
)

SPEND_READINGS = Table(
    "etl", "spend_readings",
    "Advertising costs as read, every reading of them; dwh.spend shows the latest of each platform, account and day.",
    (
        Column("spend_date", "Date", "day of the platform, in time_zone"),
        Column("platform", LABEL, "google, meta, microsoft, …, by the names of app/rules/platforms"),
        Column("account", LABEL, "advertising account: its id, else its name; empty if unknown"),
        Column("campaign_id", "String", "the platform's id of the campaign; empty if unknown"),
        Column("campaign", "String", "name of the campaign"),
        Column("ad_group_id", "String", "the platform's id of the ad group or ad set"),
        Column("ad_group", "String", "name of the ad group or ad set"),
        Column("ad_id", "String", "the platform's id of the ad"),
        Column("ad", "String", "name of the ad"),
        Column("level", LABEL, "finest level that the row names: account, campaign, ad_group or ad"),
        Column("amount_original", f"Nullable({MICRO_MONEY})", "cost as the platform says it; null if it says none"),
        Column("currency", LABEL, "currency of the amounts called original"),
        Column("rate", "Nullable(Decimal(18, 8))", "what one unit of it was on the day; null without a rate"),
        Column("amount", f"Nullable({MONEY})", "cost in the currency converted_to; a day's rows add up to its sum"),
        Column("converted_to", LABEL, "the warehouse's currency when the file was read"),
        Column("clicks", "Nullable(UInt64)", "clicks as the platform counts them; null if unknown or masked"),
        Column("impressions", "Nullable(UInt64)", "impressions as the platform counts them"),
        Column("platform_conversions", f"Nullable({MICRO_MONEY})", "conversions that the platform claims"),
        Column("platform_value_original", f"Nullable({MICRO_MONEY})", "value of these, as the platform says it"),
        Column("platform_value", f"Nullable({MONEY})", "value of these in the currency converted_to"),
        Column("is_spread", "Bool", "whether the row is an even part of a row of several days"),
        Column("time_zone", LABEL, "whose days these are; empty if it is the account's, unknown"),
        *_OF_READING,
    ),
    order_by="(platform, account, spend_date, reading_id)",
)  # fmt: skip

ORDER_COST_READINGS = Table(
    "etl", "order_cost_readings",
    "Costs by order as read, every reading of them; dwh.order_costs shows the latest of each transaction.",
    (
        Column("order_date", "Date", "day of the transaction, in time_zone"),
        Column("platform", LABEL, "the network that is paid by order, such as awin"),
        Column("account", LABEL, "the shop's account there; empty if unknown"),
        Column("transaction_id", "String", "the network's id of the transaction, else the order"),
        Column("order_id", "String", "the order, as in dwh.events"),
        Column("publisher_id", "String", "who brought the order"),
        Column("publisher", "String", "name of who brought the order"),
        Column("status", LABEL, "pending, approved, declined or as the network says"),
        Column("cost_original", f"Nullable({MICRO_MONEY})", "commission and the network's fee"),
        Column("sale_original", f"Nullable({MICRO_MONEY})", "value of the order, as the network says it"),
        Column("currency", LABEL, "currency of the amounts called original"),
        Column("rate", "Nullable(Decimal(18, 8))", "what one unit of it was on the day; null without a rate"),
        Column("cost", f"Nullable({MONEY})", "cost in the currency converted_to"),
        Column("sale", f"Nullable({MONEY})", "value of the order in the currency converted_to"),
        Column("converted_to", LABEL, "the warehouse's currency when the file was read"),
        Column("time_zone", LABEL, "whose days these are; empty if it is the account's, unknown"),
        *_OF_READING,
    ),
    order_by="(platform, account, transaction_id, reading_id)",
)  # fmt: skip

SPEND_FILES = Table(
    "etl", "spend_files",
    "One row per reading of advertising costs: a file or table, and what was understood. Rows of others do not count.",
    (
        *_OF_READING,
        Column("file", "String", "name of the file, or the table of the warehouse"),
        Column("source", LABEL, "file or table"),
        Column("platform", LABEL, "whose export it is; plain for a table of any platform"),
        Column("platforms", "Array(String)", "platforms that its rows name"),
        Column("accounts", "Array(String)", "accounts that its rows name"),
        Column("first_day", "Nullable(Date)", "first day of its rows"),
        Column("last_day", "Nullable(Date)", "last day of its rows"),
        Column("rows", "UInt64", "rows that were stored of it"),
        Column("currencies", "Array(String)", "currencies of its amounts"),
        Column("notes", "Array(String)", "what a reader should know of it"),
    ),
    order_by="(read_at, reading_id)",
)  # fmt: skip

SPEND_TABLES: tuple[Table, ...] = (SPEND_READINGS, ORDER_COST_READINGS, SPEND_FILES)
