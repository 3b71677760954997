"""The warehouse: one connection, its tables, and the ways in which days and snapshots are published."""

from app.warehouse.client import Warehouse
from app.warehouse.fingerprints import FingerprintSource, fingerprints
from app.warehouse.history import recover_snapshots
from app.warehouse.migration import migrate
from app.warehouse.opening import open_warehouse
from app.warehouse.publication import Staging, publish, recover

__all__ = [
    "FingerprintSource", "Staging", "Warehouse", "fingerprints", "migrate", "open_warehouse", "publish", "recover",
    "recover_snapshots",
]  # fmt: skip
