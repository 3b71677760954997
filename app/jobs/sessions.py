"""Job sessions: a shard's events, one row a session, to `dwh.sessions`."""

import polars as pl

from app.contracts import SESSIONS
from app.frames.sessions import build_sessions
from app.warehouse import Staging, Warehouse


def run(events: pl.DataFrame, staging: Staging, *, through: Warehouse) -> None:
    sessions = build_sessions(events)

    staging.append(SESSIONS, sessions, through=through)
