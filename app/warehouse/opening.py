"""Opens the configured warehouse: for one writer at a time, on either engine, with its tables prepared."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from app.core import console
from app.core.errors import LockedError
from app.settings import Settings
from app.warehouse.client import QUERY_TIMEOUT_S, Warehouse, connect_embedded, connect_server
from app.warehouse.cluster import open_cluster
from app.warehouse.history import recover_snapshots
from app.warehouse.lease import hold_lease
from app.warehouse.lock import hold_embedded
from app.warehouse.migration import migrate
from app.warehouse.publication import recover
from app.warehouse.query_socket import accepts_queries, connect_via_holder

LOADER = "carat load"
_LOADER_WAIT_S = 60
_Held = TypeVar("_Held")


@contextmanager
def open_warehouse(
    settings: Settings,
    *,
    purpose: str,
    writes: bool = True,
    prepare: bool = True,
    query_timeout_s: int = QUERY_TIMEOUT_S,
    engine_config: Path | None = None,
) -> Iterator[Warehouse]:
    """Connect to the configured warehouse; `purpose` is what other commands see while it is held.

    Opened for writing, the warehouse is prepared (see `prepare_warehouse`) unless `prepare` is false. The embedded
    engine has room for one process; a server for one that writes and any number that only read (`writes` is false).
    While `carat serve` holds an embedded warehouse, it answers the queries of those that only read.

    A server that does not answer a statement within `query_timeout_s` counts as unreachable. `engine_config` is a
    configuration file for the embedded engine. Raises LockedError when
    another process holds the warehouse, WarehouseError when there is no connection.
    """
    with ExitStack() as stack:
        if settings.has_server:
            warehouse = stack.enter_context(_connect_server(settings, query_timeout_s=query_timeout_s, writes=writes))
            if writes:
                lease = stack.enter_context(_after_the_loader(lambda: hold_lease(warehouse, purpose=purpose), purpose))
                warehouse.with_guard(lease.require)
        else:
            path = settings.warehouse.local_path
            connect = stack.enter_context(_embedded(path, purpose=purpose, writes=writes, engine_config=engine_config))
            warehouse = stack.enter_context(connect())
        if writes and prepare:
            prepare_warehouse(warehouse, settings)
        yield warehouse


def prepare_warehouse(warehouse: Warehouse, settings: Settings) -> None:
    """Create and upgrade the tables, and finish what a killed process left unfinished."""
    migrate(warehouse, settings)
    for table in recover_snapshots(warehouse):
        console.log.warning("finished a snapshot after an interruption", table=table)
    for day in recover(warehouse):
        console.log.warning("published again after an interruption", day=str(day))


def _connect_server(settings: Settings, *, query_timeout_s: int, writes: bool) -> Warehouse:
    if settings.warehouse.cluster:
        return open_cluster(settings, query_timeout_s=query_timeout_s, writes=writes)
    return connect_server(settings.warehouse, query_timeout_s=query_timeout_s, writes=writes)


@contextmanager
def _embedded(
    path: Path, *, purpose: str, writes: bool, engine_config: Path | None
) -> Iterator[Callable[[], Warehouse]]:
    """How to connect to an embedded warehouse: directly, or through the process that holds it and answers."""
    held: LockedError | None = None
    with ExitStack() as stack:
        try:
            stack.enter_context(_after_the_loader(lambda: hold_embedded(path, purpose=purpose), purpose))
        except LockedError as error:
            if writes or not accepts_queries(path):
                raise
            held = error
        yield (
            (lambda: connect_via_holder(path, held))
            if held
            else (lambda: connect_embedded(path, engine_config=engine_config))
        )


@contextmanager
def _after_the_loader(hold: Callable[[], AbstractContextManager[_Held]], purpose: str) -> Iterator[_Held]:
    """Hold the warehouse, waiting for a loader that follows a spool: it releases it every few seconds."""
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
