"""The errors a user can see: one line with what, where and how to fix it, and the exit code."""

from collections.abc import Sequence
from typing import ClassVar


class CaratError(Exception):
    """The work failed, or a check found a difference."""

    exit_code: ClassVar[int] = 1


def require_none(failures: Sequence[CaratError]) -> None:
    """Raise the failures, if any, as one error of the first one's class."""
    if failures:
        raise type(failures[0])("; ".join(map(str, failures)))


class SettingsError(CaratError):
    """A setting, an argument or a configuration file is wrong."""

    exit_code: ClassVar[int] = 2


class LockedError(CaratError):
    """Another process holds the warehouse; retry later. `holder` is its command, if known."""

    exit_code: ClassVar[int] = 75

    def __init__(self, message: str, *, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class SourceError(CaratError):
    """A file of call records could not be read whole, or none of its records could be stored."""


class SpendError(CaratError):
    """A file of advertising costs cannot be known for sure, or contradicts itself; the text says what to answer."""


class WarehouseError(CaratError):
    """The warehouse could not be reached, or refused a statement."""


class WarehouseGoneError(WarehouseError):
    """The warehouse does not answer; the same work can be retried when it is back."""


class ClusterError(CaratError):
    """The machines that should share the work could not be reached, or failed."""


class AuditError(CaratError):
    """The audit of a build failed, so nothing was published."""


class ShopError(CaratError):
    """The shop's database could not be read, or its answer is implausible."""


class NoTableError(ShopError):
    """The shop's database has no such table, or none that the user may read."""


class MetabaseError(CaratError):
    """Metabase could not be reached, refused a request, or sent an unexpected answer."""


class ContractError(CaratError):
    """A frame does not match the contract of its table."""


class DashboardError(CaratError):
    """A dashboard file is invalid, or its data is not available."""


class BackupError(CaratError):
    """A backup could not be made, is incomplete or damaged, or does not fit the warehouse."""


class SpoolError(CaratError):
    """The spool could not be written or read; calls acknowledged before are not affected."""


class SpoolFullError(SpoolError):
    """The spool has no space now; it accepts records again as soon as it has."""
