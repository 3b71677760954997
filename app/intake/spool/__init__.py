"""The collector's spool: keeps acknowledged calls on disk until they are delivered. Needs neither Polars nor an engine.

One process writes (`Spool`); others read sealed segments (`sealed_segments`, `read_segment`).
"""

from app.core.errors import SpoolError, SpoolFullError
from app.intake.spool.format import RejectedRecord
from app.intake.spool.reader import Corruption, Received, read_segment
from app.intake.spool.segments import (
    Backlog,
    Segment,
    acknowledge,
    delivery_lag_s,
    foreign_files,
    remove_old_deliveries,
    sealed_segments,
    spool_backlog,
)
from app.intake.spool.writer import Spool, SpoolLimits, SpoolStats, seal_leftovers

__all__ = [
    "Backlog",
    "Corruption",
    "Received",
    "RejectedRecord",
    "Segment",
    "Spool",
    "SpoolError",
    "SpoolFullError",
    "SpoolLimits",
    "SpoolStats",
    "acknowledge",
    "delivery_lag_s",
    "foreign_files",
    "read_segment",
    "remove_old_deliveries",
    "seal_leftovers",
    "sealed_segments",
    "spool_backlog",
]  # fmt: skip
