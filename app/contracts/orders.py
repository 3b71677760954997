"""The contracts of `dwh.orders` and `dwh.refunds`: what the shop's API calls and its own database say of each order."""

from app.contracts.table import CHEAP_TO_PATCH, DwhTable, Input, PersonKey
from app.contracts.types import LABEL, MONEY, NULLABLE_MONEY, ORIGINAL_MONEY, TIME, Column

ORDER_STATES = ("open", "paid", "cancelled", "refunded", "partly_refunded", "test", "unknown")

ORDERS = DwhTable(
    database="dwh", name="orders",
    comment="One row per order that the shop knows from its calls or from its own database.",
    columns=(
        Column("order_date", "Date", "business day on which the order was first seen, in a call or in the database"),
        Column("order_id", "String", "the order, as its calls write it, else as the database does"),
        Column("order_key", "String", "order_id in one form: lower case, numbers without leading zeros, UUIDs as hex"),
        Column("called_at", f"Nullable({TIME})", "first purchase call; null if there is none"),
        Column("created_at", f"Nullable({TIME})", "first seen in the database: made there, at the latest when read"),
        Column("calls", "UInt32", "purchase calls that name the order"),
        Column("session_id", "String", "the session that placed it; empty without a call"),
        Column("session_dates", "Array(Date)", "business days of the sessions of its calls"),
        Column("visitor_id", "String", "visitor key of that session; empty without a call"),
        Column("user_id", "String", "the user: of the session, else of the database; empty if neither knows one"),
        Column("channel", LABEL, "marketing channel of the session that placed it; empty without a call"),
        Column("currency", LABEL, "currency of the amounts called original"),
        Column("total_original", f"Nullable({ORIGINAL_MONEY})", "total as the database says it, else as the call does"),
        Column("total", f"Nullable({MONEY})", "the same in the warehouse's currency; null if unknown or no rate"),
        Column("called_total", f"Nullable({MONEY})", "total by the first call, in the warehouse's currency"),
        Column("database_total", f"Nullable({MONEY})", "total by the database, in the warehouse's currency"),
        Column("refunded", MONEY, "what was given back, each refund by the rate of its day"),
        Column("cost", f"Nullable({MONEY})", "cost of the units whose cost is known; null if none is"),
        Column(
            "items",
            f"Array(Tuple(product String, units UInt32, price {NULLABLE_MONEY}, cost {NULLABLE_MONEY}))",
            "what was ordered, prices and costs of one unit; by the database, else by the call",
        ),
        Column("state", LABEL, f"{', '.join(ORDER_STATES[:-1])} or {ORDER_STATES[-1]}"),
        Column("match", LABEL, "equal, amount_differs, only_called, only_in_database or called_twice"),
        Column("is_deleted", "Bool", "whether the database no longer has it; state and amounts are the last it had"),
        Column("net_revenue", f"Nullable({MONEY})", "total less refunds; 0 where cancelled or a test"),
        Column("contribution", f"Nullable({MONEY})", "net revenue less cost; null where a unit's cost is unknown"),
        Column("cost_coverage", "Float64", "share of the units whose cost is known, 0 to 1; 0 where no unit is known"),
        Column("sources_hash", "UInt64", "hash of the calls and rows of history from which the row was made"),
    ),
    order_by="order_key",
    day="order_date",
    unique_key=("order_key",),
    depends_on=frozenset({Input.ORDER_SOURCES}),
    session_column=None,
    never_empty=("order_id", "order_key"),
    totals=(),
    person_keys=(
        ("session_id", PersonKey.SESSION), ("visitor_id", PersonKey.VISITOR), ("user_id", PersonKey.USER),
    ),
    settings=CHEAP_TO_PATCH,
)  # fmt: skip

REFUNDS = DwhTable(
    database="dwh", name="refunds",
    comment="One row per refund, on its own date. An order's refunds add up to its `refunded`.",
    columns=(
        Column("refund_date", "Date", "business day of the refund"),
        Column("refund_id", "String", "the shop's refund; order and version where only the order tells of it"),
        Column("refunded_at", TIME, "when money was given back, or when the order was first seen to tell of it"),
        Column("order_id", "String", "the order, as in dwh.orders"),
        Column("order_key", "String", "the order in one form, as in dwh.orders"),
        Column("order_date", "Nullable(Date)", "order_date of the order: the cohort; null if the order is unknown"),
        Column("session_id", "String", "the session that placed the order; empty if unknown"),
        Column("visitor_id", "String", "visitor key of that session"),
        Column("user_id", "String", "user of the order"),
        Column("channel", LABEL, "marketing channel of the order"),
        Column("currency", LABEL, "currency of amount_original"),
        Column("amount_original", f"Nullable({ORIGINAL_MONEY})", "what was given back; negative where taken back"),
        Column("amount", f"Nullable({MONEY})", "the same in the warehouse's currency, by the rate of its day"),
        Column("order_state", LABEL, "state of the order"),
        Column("is_counted", "Bool", "whether it lowers net revenue: not where the order is cancelled or a test"),
        Column("said_by", LABEL, "refunds: a row of the shop's refunds; order: only the order's own row tells of it"),
        Column("sources_hash", "UInt64", "as in dwh.orders"),
    ),
    order_by="(order_key, refund_id)",
    day="refund_date",
    unique_key=("order_key", "refund_id"),
    depends_on=frozenset({Input.ORDER_SOURCES}),
    session_column=None,
    never_empty=("order_id", "refund_id"),
    totals=(),
    person_keys=(
        ("session_id", PersonKey.SESSION), ("visitor_id", PersonKey.VISITOR), ("user_id", PersonKey.USER),
    ),
    settings=CHEAP_TO_PATCH,
)  # fmt: skip

# Built after the tables of calls, from `dwh.order_calls` and `history`; the two of a day are replaced together.
BOOK_TABLES: tuple[DwhTable, ...] = (ORDERS, REFUNDS)
