"""The data dictionary: one contract per table, from which its DDL, its comments and every check are made.

Contracts are enforced at two edges: on what is read from the warehouse (`Table.check_dtypes`) and on what is about to
be written (`Table.validate`), because an Arrow insert into ClickHouse silently turns null into a default and wraps an
overflow.
"""

from app.contracts.dwh import (
    CATALOG_SESSIONS,
    DWH_TABLES,
    EVENTS,
    ORDER_CALLS,
    PRODUCT_SESSIONS,
    SESSIONS,
    USER_HASH,
    VISITOR_OF_SESSION,
    dwh_tables,
)
from app.contracts.etl import (
    CALL_ID_FILTERS,
    COVERAGE,
    FINGERPRINTS,
    FORGOTTEN,
    LEDGER,
    PREPARED,
    PUBLICATIONS,
    REJECTS,
    RUNS,
    SNAPSHOTS,
    USER_AGENTS,
)
from app.contracts.orders import BOOK_TABLES, ORDERS, REFUNDS
from app.contracts.pd import API_CALLS, raw_calls
from app.contracts.spend import ORDER_COST_READINGS, SPEND_FILES, SPEND_READINGS, SPEND_TABLES
from app.contracts.table import Control, DwhTable, Input, PersonKey, Table, Total
from app.contracts.types import LABEL, MICRO_MONEY, MONEY, NULLABLE_LABEL, PRECISE_TIME, TIME, Column, dtype_of

__all__ = [
    "API_CALLS", "BOOK_TABLES", "CALL_ID_FILTERS", "CATALOG_SESSIONS", "COVERAGE", "DATABASES", "DWH_TABLES", "EVENTS",
    "FINGERPRINTS", "FORGOTTEN", "LABEL", "LEDGER", "MICRO_MONEY", "MONEY", "NULLABLE_LABEL", "ORDERS", "ORDER_CALLS",
    "ORDER_COST_READINGS", "PRECISE_TIME", "PREPARED", "PRODUCT_SESSIONS", "PUBLICATIONS", "REFUNDS", "REJECTS", "RUNS",
    "SESSIONS", "SNAPSHOTS", "SPEND_FILES", "SPEND_READINGS", "SPEND_TABLES", "TIME", "USER_AGENTS", "USER_HASH",
    "VISITOR_OF_SESSION", "Column", "Control", "DwhTable", "Input", "PersonKey", "Table", "Total", "all_tables",
    "dtype_of", "dwh_tables", "published_tables", "raw_calls",
]  # fmt: skip

DATABASES = {
    "pd": "Raw calls of the shop's API",
    "dwh": "The warehouse for people and BI",
    "history": "Versions of the shop database's rows",
    "etl": "Staging, ledger, runs and rejects",
}


def all_tables() -> list[Table]:
    """Every table that Carat creates; those of `history` follow the snapshot plan instead."""
    remembered = [FINGERPRINTS, CALL_ID_FILTERS, USER_AGENTS]
    own = [RUNS, REJECTS, PUBLICATIONS, LEDGER, COVERAGE, *remembered, SNAPSHOTS, FORGOTTEN, PREPARED]
    return [API_CALLS, *published_tables(), *own, *SPEND_TABLES]


def published_tables() -> list[DwhTable]:
    """Every table of `dwh` that is built a day at a time, in the order in which they are built."""
    return [*dwh_tables(), *BOOK_TABLES]
