"""`carat query`: runs a statement on the warehouse."""

from app.warehouse import Warehouse
from app.warehouse.reading import parse_statement, require_own_tables, restrict


def run_query(warehouse: Warehouse, sql: str, *, fmt: str) -> bytes:
    """The result of a statement in one of ClickHouse's output formats.

    On an embedded warehouse it has no access to files and other servers, and a query runs on a read-only connection.
    A server has users with rights, quotas and limits for that; a process that holds the warehouse checks for itself.
    """
    if warehouse.is_embedded and warehouse.is_direct:
        statement = parse_statement(warehouse, sql)
        require_own_tables(warehouse, statement)
        if statement.is_reading:
            restrict(warehouse, statement, {})
    return warehouse.raw(sql, fmt=fmt)
