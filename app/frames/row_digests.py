"""Digests of rows: which rows of a table are as they were, without their former values.

A digest has 128 bits: two hashes of the row's key and values, by two seeds that only their owner knows. That two rows
of one key have the same digest although they differ is therefore not to be expected, not even if somebody tries.
"""

from collections.abc import Iterator, Sequence

import polars as pl

# No column of a database has a name like this.
DIGEST = ("\0digest 1", "\0digest 2")


def with_digests(rows: pl.DataFrame, seeds: tuple[int, int]) -> pl.DataFrame:
    """The rows with the two halves of their digests as columns more; null is a value of its own, -0.0 is 0.0."""
    return rows.with_columns(
        rows.hash_rows(seed).alias(name) if rows.height else pl.lit(None, pl.UInt64).alias(name)
        for name, seed in zip(DIGEST, seeds, strict=True)
    )


def unlike(
    was: pl.DataFrame | None, rows: pl.DataFrame | None, key: Sequence[str]
) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """The rows that are new or differ, and the keys that are gone, of one range of keys; None where there are none.

    `was`: the former keys with their digests. `rows`: what is there now, with digests. Both are in the order of the
    key, and no key is twice in one of them.
    """
    if was is None or rows is None:
        return rows, was.select(key) if was is not None else None
    if was.equals(rows.select(*key, *DIGEST)):
        return None, None
    # Half of the digest pairs old and new rows, because looking up one column is cheap. Each pair is then compared in
    # full: the keys and the whole digest.
    half = DIGEST[0]
    was_same, is_same = was[half].is_in(rows[half].implode()), rows[half].is_in(was[half].implode())
    if not was.filter(was_same).equals(rows.select(*key, *DIGEST).filter(is_same)):
        return rows, was.select(key).join(rows.select(key), on=key, how="anti", maintain_order="left")
    differing = rows.filter(~is_same)
    gone = was.filter(~was_same).select(key).join(differing.select(key), on=key, how="anti", maintain_order="left")
    return differing, gone


def gathered(
    pieces: Iterator[tuple[pl.DataFrame | None, pl.DataFrame | None]], key: Sequence[str], *, at_least: int
) -> Iterator[tuple[pl.DataFrame | None, pl.DataFrame]]:
    """What `unlike` found, joined to so many rows and keys: the rows without digests, and all keys they concern."""
    rows, keys, waiting = list[pl.DataFrame](), list[pl.DataFrame](), 0

    def joined() -> tuple[pl.DataFrame | None, pl.DataFrame]:
        return pl.concat(rows) if rows else None, pl.concat(keys)

    for differing, gone in pieces:
        if differing is not None and differing.height:
            # Texts of some rows hold on to those of the whole piece; a copy does not.
            copied = pl.from_arrow(differing.drop(DIGEST).to_arrow(compat_level=pl.CompatLevel.oldest()))
            assert isinstance(copied, pl.DataFrame)
            rows.append(copied)
            keys.append(copied.select(key))
        if gone is not None and gone.height:
            keys.append(gone.select(key))
        waiting = sum(frame.height for frame in keys)
        if waiting >= at_least:
            yield joined()
            rows, keys, waiting = [], [], 0
    if waiting:
        yield joined()
