"""The warehouse: one connection, its tables, and the one way in which a day is published."""

from app.warehouse.client import Warehouse, open_warehouse
from app.warehouse.migration import migrate
from app.warehouse.publication import Staging, publish, recover

__all__ = ["Staging", "Warehouse", "migrate", "open_warehouse", "publish", "recover"]
