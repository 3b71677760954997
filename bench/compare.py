"""Checks that the contenders made the same rows: counts per table, sums over them, and every session."""

from collections.abc import Iterator

import polars as pl

from bench.day import Dataset
from bench.measure import Measured, sessions_file

_SESSION = {"visitor_id": pl.String} | dict.fromkeys(
    ("started_at", "calls", "product_views", "orders", "revenue_cents"), pl.Int64
)
_EXAMPLES = 3


def differences(measured: dict[str, Measured], day: Dataset) -> list[str]:
    """A line for each way in which a contender differs from the first one; empty when all agree."""
    first, *others = measured
    reference = _sessions(first, day)
    lines = []
    for name in others:
        for kind, own, theirs in (
            ("rows", measured[first].rows, measured[name].rows),
            ("sum", measured[first].sums, measured[name].sums),
        ):
            lines += [
                f"{kind} {key}: {first} {value:,}, {name} {theirs.get(key, 0):,}"
                for key, value in own.items()
                if theirs.get(key) != value
            ]
        sessions = _sessions(name, day)
        if _digest(sessions) != _digest(reference):
            lines += _examples(reference, sessions, first=first, name=name)
    return lines


def _sessions(name: str, day: Dataset) -> pl.DataFrame:
    return pl.read_parquet(sessions_file(name, day)).select(pl.col(c).cast(dtype) for c, dtype in _SESSION.items())


def _digest(sessions: pl.DataFrame) -> tuple[int, int]:
    """Count and a hash that does not depend on the order of the rows (it sums the rows' hashes, wrapping)."""
    return sessions.height, int(sessions.hash_rows().sum())


def _examples(reference: pl.DataFrame, sessions: pl.DataFrame, *, first: str, name: str) -> Iterator[str]:
    yield f"sessions: {first} {reference.height:,}, {name} {sessions.height:,}; for example"
    for owner, own, other in ((first, reference, sessions), (name, sessions, reference)):
        for row in (
            own.join(other, on=own.columns, how="anti")
            .sort("visitor_id", "started_at")
            .head(_EXAMPLES)
            .iter_rows(named=True)
        ):
            yield f"  only {owner} has {row}"
