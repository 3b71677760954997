"""Snapshots of the shop's database.

`take` runs one, `schemas` decides how each table is compared, `tables` compares and publishes.
"""

from app.jobs.snapshot.take import refusals, take_snapshot

__all__ = ["refusals", "take_snapshot"]
