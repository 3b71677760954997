"""Job catalog_sessions: what a shard's sessions browsed, one row a catalog call, to `dwh.catalog_sessions`."""

import polars as pl

from app.contracts import CATALOG_SESSIONS
from app.frames.browsing import Browsing
from app.frames.catalog_sessions import build_catalog_sessions
from app.warehouse import Staging, Warehouse


def run(browsing: Browsing, sessions: pl.DataFrame, staging: Staging, *, through: Warehouse) -> None:
    catalog_sessions = build_catalog_sessions(browsing, sessions)

    staging.append(CATALOG_SESSIONS, catalog_sessions, through=through)
