"""The shop's own database: describes its tables and reads all of them as of one instant."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.core.errors import SettingsError
from app.core.service_url import ServiceUrl
from app.rules.snapshot_plan import SnapshotTable
from app.settings import Settings
from app.shop.columns import ShopColumn
from app.shop.reading import ONE_INSTANT, ShopReading

if TYPE_CHECKING:
    from app.shop.mysql import MySQLShop
    from app.shop.sqlite import SQLiteShop

__all__ = ["ONE_INSTANT", "Shop", "ShopColumn", "ShopReading", "open_shop", "require_shop"]


class Shop(Protocol):
    """A connection to the shop's database."""

    name: str

    def describe(self, table: SnapshotTable) -> list[ShopColumn]: ...

    def why_apart(self, tables: int) -> str:
        """Why so many tables cannot be read at one instant; empty if they can."""
        ...

    def reading(
        self, tables: dict[SnapshotTable, list[ShopColumn]], folder: Path, *, limit_s: float
    ) -> AbstractContextManager[ShopReading]: ...


def require_shop(settings: Settings) -> ServiceUrl:
    """The URL of the shop's database; SettingsError if it is not set."""
    if settings.shop_db is None:
        raise SettingsError("CARAT_SHOP_DB is not set: write mysql://user:password@host:3306/shop or sqlite:///path")
    return settings.shop_db


@contextmanager
def open_shop(settings: Settings) -> Iterator[Shop]:
    """The configured shop's database; ShopError says why it cannot be reached or trusted."""
    url = require_shop(settings)
    with closing(_connect(url, settings)) as shop:
        yield shop


def _connect(url: ServiceUrl, settings: Settings) -> "MySQLShop | SQLiteShop":
    # Imported here: PyMySQL with its cryptography takes as long as a small shop's hour has.
    if url.scheme == "mysql":
        from app.shop.mysql import MySQLShop  # noqa: PLC0415

        return MySQLShop(url, max_replica_lag_s=settings.max_replica_lag_s)
    from app.shop.sqlite import SQLiteShop  # noqa: PLC0415

    return SQLiteShop(url.local_path)
