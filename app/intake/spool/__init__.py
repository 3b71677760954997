"""The collector's spool: what was acknowledged, on disk until the warehouse has it. Needs neither Polars nor an engine.

One process writes (`Spool`), others read what is sealed (`sealed_segments`, `read_segment`).
"""

from app.core.errors import SpoolError, SpoolFullError
from app.intake.spool.format import Refused
from app.intake.spool.reader import Damage, Received, read_segment
from app.intake.spool.segments import (
    Depth,
    Segment,
    delivery_lag_s,
    mark_delivered,
    remove_old_deliveries,
    sealed_segments,
    spool_depth,
)
from app.intake.spool.writer import Spool, SpoolLimits, SpoolStats, seal_what_was_left

__all__ = [
    "Damage", "Depth", "Received", "Refused", "Segment", "Spool", "SpoolError", "SpoolFullError", "SpoolLimits",
    "SpoolStats", "delivery_lag_s", "mark_delivered", "read_segment", "remove_old_deliveries", "seal_what_was_left",
    "sealed_segments", "spool_depth",
]  # fmt: skip
