"""What a warehouse is asked: the measure for tests of how work grows, since a count does not depend on the machine."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from app.warehouse import Warehouse

_ASKING = ("command", "query_arrow", "raw", "write_arrow_file")


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """The SQL of every statement that this process runs meanwhile, inserts apart."""
    statements: list[str] = []

    def counting(run: Any) -> Any:
        def counted(self: Warehouse, sql: str, *arguments: Any, **named: Any) -> Any:
            statements.append(sql)
            return run(self, sql, *arguments, **named)

        return counted

    with ExitStack() as patches:
        for name in _ASKING:
            patches.enter_context(patch.object(Warehouse, name, counting(getattr(Warehouse, name))))
        yield statements
