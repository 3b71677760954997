"""Counts the calls whose body the shop's middleware could not read: it sends their size alone.

`{"_unreadable": 1234}` stands for a body in an unknown encoding or one that is no JSON, `{"_truncated": 1234}` for a
large one. To everything after it, that is a harmless object without any of the values that a map names.
"""

from collections import Counter

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from app.rules.fit import UNREAD_BODIES

_MARKS = ('{"_unreadable":', '{"_truncated":')


def count_unread_bodies(events: pl.DataFrame, documents: pa.Table) -> Counter[tuple[str, str]]:
    """The successful calls without their request or response body, by entry of the map and name of the body.

    In: events with `map_entry, is_error, document`, the last being their row in `documents`.
    """
    successful = events.filter(~pl.col("is_error"))
    found: Counter[tuple[str, str]] = Counter()
    for root, name in UNREAD_BODIES.items():
        texts = documents.column(root)
        # A response is the body; a request holds it beside the query.
        match = pc.starts_with if root == "response" else pc.match_substring
        is_unread = pc.or_(*(match(texts, mark) for mark in _MARKS))
        if not pc.any(is_unread).as_py():
            continue
        is_counted = pl.Series(is_unread).fill_null(value=False).gather(successful["document"])
        entries = successful.filter(is_counted)
        found.update({(entry, name): count for entry, count in entries["map_entry"].value_counts().iter_rows()})
    return found
