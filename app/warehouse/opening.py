"""Opens the configured warehouse for this process alone: one writer at a time, whichever engine it is."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.settings import Settings
from app.warehouse.client import ANSWER_S, Warehouse, connect_embedded, connect_server, embedded_path
from app.warehouse.lease import hold_lease
from app.warehouse.lock import hold_embedded


@contextmanager
def open_warehouse(
    settings: Settings, *, purpose: str, writes: bool = True, answer_s: int = ANSWER_S
) -> Iterator[Warehouse]:
    """A connection to the configured warehouse; `purpose` is what others are told while it is held.

    A server that does not answer a statement within `answer_s` counts as gone.

    The embedded engine has room for one process; a server for any number that only read (`writes` is false) beside
    one that writes. Raises LockedError when another process holds it, WarehouseError when there is no connection.
    """
    url = settings.warehouse.get_secret_value()
    if settings.has_server:
        with connect_server(url, answer_s=answer_s) as warehouse:
            if not writes:
                yield warehouse
                return
            with hold_lease(warehouse, purpose=purpose) as lease:
                yield warehouse.guarded_by(lease.require)
    else:
        path = embedded_path(url)
        with hold_embedded(path, purpose=purpose), connect_embedded(path) as warehouse:
            yield warehouse
