"""The shop's own database: describes its tables and reads all of them as of one instant."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

from app.core.errors import SettingsError
from app.core.service_url import ServiceUrl
from app.rules.snapshot_plan import SnapshotTable
from app.settings import Settings
from app.shop.columns import ShopColumn
from app.shop.mysql import MySQLShop
from app.shop.reading import ONE_INSTANT, ShopReading
from app.shop.sqlite import SQLiteShop

__all__ = ["ONE_INSTANT", "MySQLShop", "Shop", "ShopColumn", "ShopReading", "open_shop", "require_shop"]


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
    shop = (
        MySQLShop(url, max_replica_lag_s=settings.max_replica_lag_s)
        if url.scheme == "mysql"
        else SQLiteShop(url.local_path)
    )
    with closing(shop):
        yield shop
