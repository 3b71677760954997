"""Every failure a user can meet: one line of what, where and how to mend, and the exit code it ends with."""

from collections.abc import Sequence
from typing import ClassVar


class CaratError(Exception):
    """The work failed, or a check found a difference."""

    exit_code: ClassVar[int] = 1


def require_none(failures: Sequence[CaratError]) -> None:
    """Raise the failures, if there are any, as one error of the first one's kind."""
    if failures:
        raise type(failures[0])("; ".join(map(str, failures)))


class SettingsError(CaratError):
    """A setting, an argument or a configuration file is wrong."""

    exit_code: ClassVar[int] = 2


class LockedError(CaratError):
    """Somebody else holds the warehouse; the same command may go through later. `holder`: their command, if known."""

    exit_code: ClassVar[int] = 75

    def __init__(self, message: str, *, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class WarehouseError(CaratError):
    """The warehouse could not be reached or refused a statement."""


class WarehouseGoneError(WarehouseError):
    """The warehouse does not answer; the same work may go through when it is back."""


class ClusterError(CaratError):
    """The machines that were to share the work could not be reached, or died of it."""


class AuditError(CaratError):
    """What was built does not add up, so it was not published."""


class ShopError(CaratError):
    """The shop's database could not be read, or what it answered cannot be trusted."""


class MetabaseError(CaratError):
    """Metabase could not be reached, refused a request, or answered what cannot be understood."""


class ContractError(CaratError):
    """A frame does not have the shape its table's contract promises."""


class DashboardError(CaratError):
    """A dashboard's file is wrong, or what it asks for cannot be had."""


class SpoolError(CaratError):
    """The spool could not be written or read; what it acknowledged before is untouched."""


class SpoolFullError(SpoolError):
    """The spool has no room now; it takes records again as soon as it has."""
