"""Opens the configured warehouse for this process alone: one writer at a time, whichever engine it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from app.core.errors import LockedError
from app.settings import Settings
from app.warehouse.client import ANSWER_S, Warehouse, connect_embedded, connect_server
from app.warehouse.lease import hold_lease
from app.warehouse.lock import hold_embedded
from app.warehouse.query_socket import connect_beside, is_answered

LOADER = "carat load"
_LOADER_WAIT_S = 60
_Held = TypeVar("_Held")


@contextmanager
def open_warehouse(
    settings: Settings, *, purpose: str, writes: bool = True, answer_s: int = ANSWER_S
) -> Iterator[Warehouse]:
    """A connection to the configured warehouse; `purpose` is what others are told while it is held.

    A server that does not answer a statement within `answer_s` counts as gone.

    The embedded engine has room for one process; a server for any number that only read (`writes` is false) beside
    one that writes. Who only reads an embedded one that `carat serve` holds has its queries answered by that. Raises
    LockedError when another process holds it, WarehouseError when there is no connection.
    """
    if settings.has_server:
        with connect_server(settings.warehouse, answer_s=answer_s) as warehouse:
            if not writes:
                yield warehouse
                return
            with _after_the_loader(lambda: hold_lease(warehouse, purpose=purpose), purpose) as lease:
                yield warehouse.guarded_by(lease.require)
    else:
        with (
            _embedded(settings.warehouse.local_path, purpose=purpose, writes=writes) as connect,
            connect() as warehouse,
        ):
            yield warehouse


@contextmanager
def _embedded(path: Path, *, purpose: str, writes: bool) -> Iterator[Callable[[], Warehouse]]:
    """How to connect to an embedded warehouse: as who holds it, or beside who does and answers."""
    held: LockedError | None = None
    with ExitStack() as stack:
        try:
            stack.enter_context(_after_the_loader(lambda: hold_embedded(path, purpose=purpose), purpose))
        except LockedError as error:
            if writes or not is_answered(path):
                raise
            held = error
        yield (lambda: connect_beside(path, held)) if held else (lambda: connect_embedded(path))


@contextmanager
def _after_the_loader(hold: Callable[[], AbstractContextManager[_Held]], purpose: str) -> Iterator[_Held]:
    """What is held; where a loader holds it, once it lets go: it does so every few seconds while it follows a spool."""
    until = time.monotonic() + (0 if purpose == LOADER else _LOADER_WAIT_S)
    with ExitStack() as stack:
        while True:
            try:
                held = stack.enter_context(hold())
                break
            except LockedError as error:
                if error.holder != LOADER or time.monotonic() >= until:
                    raise
                time.sleep(0.2)
        yield held
