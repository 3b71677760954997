"""`carat query`: runs statements on the warehouse."""

import re

from app.warehouse import Warehouse
from app.warehouse.reading import parse_statement, require_own_tables, restrict

# A semicolon inside any of these does not end a statement: strings, quoted names, heredocs and comments.
_TOKEN = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"""
    r"""|--[^\n]*|/\*.*?\*/|;|[^'"`$;/-]+|.""",
    re.DOTALL,
)


def run_query(warehouse: Warehouse, sql: str, *, fmt: str) -> list[bytes]:
    """The results of one statement or several, in their order, in one of ClickHouse's output formats.

    On an embedded warehouse it has no access to files and other servers, and a query runs on a read-only connection.
    A server has users with rights, quotas and limits for that; a process that holds the warehouse checks for itself.
    """
    statements = split_statements(sql)
    if warehouse.is_embedded and warehouse.is_direct:
        parsed = [parse_statement(warehouse, text) for text in statements]
        for statement in parsed:
            require_own_tables(warehouse, statement)
        if all(statement.is_reading for statement in parsed):
            restrict(warehouse, parsed, {})
    return [warehouse.raw(text, fmt=fmt) for text in statements]


def split_statements(sql: str) -> list[str]:
    """The statements of a text, which semicolons separate; an empty text is one, and the engine says what is wrong."""
    parts = [""]
    for token in _TOKEN.finditer(sql):
        if token[0] == ";":
            parts.append("")
        else:
            parts[-1] += token[0]
    return [part for part in parts if _without_comments(part).strip()] or [sql]


def _without_comments(sql: str) -> str:
    return "".join(token[0] for token in _TOKEN.finditer(sql) if not token[0].startswith(("--", "/*")))
