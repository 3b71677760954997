"""Takes tables of a shop as the snapshot job does: described, read at one instant, in the dtypes that are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import connectorx
import polars as pl
import pyarrow as pa

from app.contracts import dtype_of
from app.core.errors import ShopError
from app.core.service_url import ServiceUrl
from app.frames.snapshots import as_kept, require_keys
from app.rules.snapshot_plan import SnapshotTable
from app.shop import Shop, ShopReading
from app.shop.mysql import MySQLShop
from app.shop.reading import ReaderProcess
from tests.support.mariadb import MariaDB


class InProcessReader(ReaderProcess):
    """Reads as the reading processes do, one table after the other in this one."""

    @contextmanager
    def started(self) -> Iterator["InProcessReader"]:
        self._batches = dict[str, list[pa.RecordBatch]]()
        yield self

    def go(self) -> None:
        for name, reading in self._readings.items():
            batches = connectorx.read_sql(
                self._url,
                reading.sql,
                return_type="arrow_stream",
                batch_size=reading.batch_rows,
                pre_execution_query=list(reading.before) or None,
            )
            self._batches[name] = list(batches)
            self.read.rows[name] = sum(batch.num_rows for batch in self._batches[name])

    def follow(self, table: str) -> Iterator[pa.RecordBatch]:
        yield from self._batches[table]


@dataclass
class Taken:
    """What was read, by table, or why it was not."""

    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    guarantees: dict[str, str] = field(default_factory=dict)
    bounded: dict[str, int] = field(default_factory=dict)


def table(name: str, *key: str, source: str = "", **more) -> SnapshotTable:
    return SnapshotTable(name=name, source=source or name, key=key or ("id",), **more)


@contextmanager
def opened(server: MariaDB, user: str = "carat", *, max_replica_lag_s: int = 300, **login: str) -> Iterator[MySQLShop]:
    """A shop's database, as the user with its own password."""
    login = {"password": f"{user}-geheim"} | login
    shop = MySQLShop(ServiceUrl.parse(server.url(user, **login), "mysql"), max_replica_lag_s=max_replica_lag_s)
    try:
        yield shop
    finally:
        shop.close()


@contextmanager
def reading(shop: Shop, folder: Path, *tables: SnapshotTable, limit_s: float = 30) -> Iterator[ShopReading]:
    folder.mkdir(exist_ok=True)
    with shop.reading({table: shop.describe(table) for table in tables}, folder, limit_s=limit_s) as reading:
        yield reading


def take(shop: Shop, folder: Path, *tables: SnapshotTable, limit_s: float = 30) -> Taken:
    """The tables as they are kept; keys of each are checked to come in their order."""
    taken = Taken()
    with reading(shop, folder, *tables, limit_s=limit_s) as current:
        taken.guarantees = current.guarantees
        for table in tables:
            try:
                batches = list(current.batches(table.name))
            except ShopError as error:
                taken.errors[table.name] = str(error)
            else:
                # History holds texts as bytes.
                columns = {
                    column.kept_as: pl.Binary() if column.type == "String" else dtype_of(column.type)
                    for column in shop.describe(table)
                }
                frames = [pl.from_arrow(pa.Table.from_batches([batch])) for batch in batches]
                read = pl.concat(frames) if frames else pl.DataFrame(schema=columns)
                kept, taken.bounded[table.name] = as_kept(read, columns)
                require_keys(kept, table.key, None)
                taken.frames[table.name] = kept
    return taken
