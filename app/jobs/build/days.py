"""Spans of days, and work on several days in parallel."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import date
from typing import TypeVar

from app.core.errors import AuditError, ContractError
from app.warehouse import Warehouse

# Errors of a single day: the other days are built all the same.
DAY_ERRORS = (AuditError, ContractError)
Span = tuple[date | None, date | None]
ALL_DAYS: Span = (None, None)
_Day = TypeVar("_Day")
_Done = TypeVar("_Done")


def is_within(day: date, span: Span) -> bool:
    """Whether the day lies in the span, both ends included; None is no bound."""
    first, last = span
    return (first is None or first <= day) and (last is None or day <= last)


def run_parallel(
    warehouse: Warehouse, days: Sequence[_Day], work: Callable[[_Day, Warehouse], _Done], *, number: int
) -> Iterator[_Done]:
    """Yield what `work` returns for each day, as they end; `number` days run at once, each with its own connection.

    Days are begun in order, and none is begun after an error.
    """

    def attempt(day: _Day) -> _Done:
        with warehouse.new_connection() as own:
            return work(day, own)

    with ThreadPoolExecutor(number) as pool:
        waiting = {pool.submit(attempt, day) for day in days}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in done]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
