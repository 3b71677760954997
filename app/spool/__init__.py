"""The collector's spool: what was acknowledged, on disk until the warehouse has it. Needs neither Polars nor an engine.

One process writes (`Spool`), others read what is sealed (`sealed_segments`, `read_segment`).
"""

from app.errors import SpoolError, SpoolFullError
from app.spool.format import Refused
from app.spool.reader import Damage, Received, read_segment
from app.spool.segments import (
    Depth,
    Segment,
    delivery_lag_s,
    mark_delivered,
    remove_old_deliveries,
    sealed_segments,
    spool_depth,
)
from app.spool.writer import Spool, SpoolLimits, SpoolStats, seal_what_was_left

__all__ = [
    "Damage", "Depth", "Received", "Refused", "Segment", "Spool", "SpoolError", "SpoolFullError", "SpoolLimits",
    "SpoolStats", "delivery_lag_s", "mark_delivered", "read_segment", "remove_old_deliveries", "seal_what_was_left",
    "sealed_segments", "spool_depth",
]  # fmt: skip
