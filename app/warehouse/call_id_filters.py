"""Which calls are stored already: asked of a Bloom filter for each part, so that few parts are searched.

Parts are immutable, so a filter is valid as long as a part with the same checksum exists. It is made when a look-up
first meets the part, from its call ids, and stored unless few ids are new. A filter that is lost is made again.

A filter is an array of blocks of 1024 bits. An id sets one bit in each of the 16 words of one block. With about 36 bits
for each id, less than one unknown id in a million is taken for a known one, and looked for in the part itself.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from app.contracts import API_CALLS, CALL_ID_FILTERS
from app.warehouse.client import Warehouse
from app.warehouse.fingerprints import active_parts

_FORM = "1024/28"  # to be changed with whatever decides on the bits of an id
_WORDS = 16  # of a block, 64 bits each
_IDS_A_BLOCK = 28
_WORDS_A_HASH = 8  # six bits of a hash choose the bit in a word
_LAST_BIT, _ONE = np.uint64(63), np.uint64(1)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR, _SECOND_FACTOR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

_TRIES = 3
_INCOMING = "etl.incoming_ids"
_PARTS_A_READ = 500  # named in one statement
_IDS_A_READ = 1_000_000
_IDS_A_LOAD = 8_000_000  # whose filters are 36 MB
_KEPT_BYTES = 512 * 1024 * 1024  # held in memory from one look-up to the next
_STORED_IDS = 50_000  # filters of fewer new ids are not stored yet: their parts are soon merged
_MOST_GONE = 10  # filters of parts that are gone, for which nothing is deleted yet

_Words = NDArray[np.uint64]

# Of the warehouse that was asked last, by the server's URL and the checksum of the part, which says all of its content.
_in_memory: dict[str, dict[str, "CallIdFilter"]] = {}


def stored_calls(warehouse: Warehouse, call_ids: pl.Series, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """These columns of the stored calls that have one of these ids, of 16 bytes each."""
    if call_ids.is_empty():
        return pl.DataFrame(schema=schema)
    hashes = IdHashes.of(call_ids.to_arrow(compat_level=pl.CompatLevel.oldest()))
    nodes = warehouse.nodes
    for url in _in_memory.keys() - {node.url for node in nodes}:
        del _in_memory[url]
    return pl.concat([_stored_on(node, call_ids, hashes, schema) for node in nodes])


def _stored_on(
    warehouse: Warehouse, call_ids: pl.Series, hashes: "IdHashes", schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """The same of one node, whose parts and filters are its own."""
    columns = ", ".join(schema)
    for _ in range(_TRIES):
        parts = active_parts(warehouse, API_CALLS.full_name)
        added, where = _Added(), dict[str, NDArray[np.intp]]()
        for name, found in _filters(warehouse, parts, added):
            suspects = found.suspects(hashes)
            if len(suspects):
                where[name] = suspects
        found_calls = pl.DataFrame(schema=schema)
        if where:
            ids = call_ids.gather(np.unique(np.concatenate(list(where.values()))))
            found_calls = _select(warehouse, columns, ids, schema, parts=where)
        read = {*added.names, *where}
        if not read or read <= set(active_parts(warehouse, API_CALLS.full_name)["name"]):
            _keep(warehouse, added.filters)
            _store(warehouse, parts, added)
            return found_calls
        # Else a part was merged, perhaps before it was read.
    return _select(warehouse, columns, call_ids, schema)


def forget() -> None:
    """Hold no filter in memory, as when the process began."""
    _in_memory.clear()


def _select(
    warehouse: Warehouse,
    columns: str,
    ids: pl.Series,
    schema: Mapping[str, pl.DataType],
    *,
    parts: Collection[str] = (),
) -> pl.DataFrame:
    """The stored calls that have one of these ids; in these parts, if there are some but not too many to name."""
    is_limited = 0 < len(parts) <= _PARTS_A_READ
    of_parts = " AND _part IN {parts:Array(String)}" if is_limited else ""
    with warehouse.held_ids(ids, table=_INCOMING) as given:
        return warehouse.query(
            f"SELECT {columns} FROM {API_CALLS.full_name} WHERE call_id IN ({given}){of_parts}",
            {"parts": list(parts)} if is_limited else {},
            schema=schema,
        )


# ---- filters -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IdHashes:
    """Per id its index, and three hashes: one chooses the block, the others a bit in each of its words.

    Sorted by the first hash, so that filters are read and written from their start to their end.
    """

    index: NDArray[np.intp]
    block: _Words
    first: _Words
    second: _Words

    @classmethod
    def of(cls, ids: pa.Array | pa.ChunkedArray) -> Self:
        """In: ids of 16 bytes each."""
        halves = _halves(ids)
        block = _mixed(halves[:, 0] + _mixed(halves[:, 1] + _STEP))
        index = np.argsort(block)
        block = block[index]
        first = _mixed(block + _STEP)
        return cls(index, block >> np.uint64(32), first, _mixed(first + _STEP))

    def only(self, are_wanted: NDArray[np.bool_]) -> Self:
        """Those of some ids, by their indexes."""
        at = np.flatnonzero(are_wanted[self.index])
        return type(self)(self.index[at], self.block[at], self.first[at], self.second[at])

    @cached_property
    def first_mask(self) -> _Words:
        return self.mask(0)

    def mask(self, word: int, some: NDArray[np.intp] | slice = slice(None)) -> _Words:
        """The bit that each id sets in this word of its block."""
        which, place = divmod(word, _WORDS_A_HASH)
        values = (self.second if which else self.first)[some]
        return _ONE << (values >> np.uint64(6 * place) & _LAST_BIT)


class CallIdFilter:
    """A Bloom filter of call ids: never says of an id that was added that it is unknown."""

    def __init__(self, words: _Words) -> None:
        self.words = words

    @classmethod
    def for_ids(cls, count: int) -> Self:
        """An empty filter with room for this number of ids."""
        return cls(np.zeros((count // _IDS_A_BLOCK + 1) * _WORDS, np.uint64))

    def add(self, hashes: IdHashes) -> None:
        at = self._blocks(hashes)
        starts = np.flatnonzero(np.diff(at, prepend=-1))
        for word in range(_WORDS if len(at) else 0):
            self.words[at[starts] + word] |= np.bitwise_or.reduceat(hashes.mask(word), starts)

    def suspects(self, hashes: IdHashes) -> NDArray[np.intp]:
        """The indexes of the ids that may have been added."""
        at = self._blocks(hashes)
        found = np.flatnonzero(self.words[at] & hashes.first_mask)
        for word in range(1, _WORDS):
            if not len(found):
                break
            found = found[(self.words[at[found] + word] & hashes.mask(word, found)) != 0]
        return hashes.index[found]

    def _blocks(self, hashes: IdHashes) -> NDArray[np.int64]:
        """The first word of each id's block."""
        blocks = np.uint64(len(self.words) // _WORDS)
        return (hashes.block * blocks >> np.uint64(32)).view(np.int64) * _WORDS


def _halves(ids: pa.Array | pa.ChunkedArray) -> _Words:
    """The ids as rows of two numbers."""
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    fixed = array.cast(pa.binary(16))
    data = np.frombuffer(fixed.buffers()[1] or b"", "<u8").astype(np.uint64, copy=False)
    return data[2 * fixed.offset :][: 2 * len(fixed)].reshape(-1, 2)


def _mixed(values: _Words) -> _Words:
    """The values, mixed so that each bit depends on all of theirs: ids may be numbered or begin with the time."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST_FACTOR
    values = (values ^ (values >> np.uint64(27))) * _SECOND_FACTOR
    return values ^ (values >> np.uint64(31))


# ---- a filter for each part ----------------------------------------------------------------------------------------


class _Added:
    """The filters that had to be made: names of their parts, and the filters by checksum."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.filters: dict[str, CallIdFilter] = {}
        self.ids = 0


def _filters(warehouse: Warehouse, parts: pl.DataFrame, added: _Added) -> Iterator[tuple[str, CallIdFilter]]:
    """The name and the filter of each part; notes in `added` which had to be made."""
    held = _in_memory.setdefault(warehouse.url, {})
    for part in held.keys() - set(parts["part"]):
        del held[part]
    in_memory = pl.col("part").is_in(list(held))
    for name, part in parts.filter(in_memory).select("name", "part").iter_rows():
        yield name, held[part]
    for some in _grouped(parts.filter(~in_memory), _IDS_A_LOAD):
        stored = _stored(warehouse, some)
        missing = some.filter(~pl.col("part").is_in(list(stored)))
        made = _made(warehouse, missing)
        _keep(warehouse, stored)
        added.names += missing["name"].to_list()
        added.filters |= made
        added.ids += int(missing["rows"].sum())
        for name, part, _ in some.iter_rows():
            yield name, stored.get(part) or made[part]


def _keep(warehouse: Warehouse, filters: Mapping[str, CallIdFilter]) -> None:
    """Hold these filters in memory, as far as there is room."""
    of_node = _in_memory.setdefault(warehouse.url, {})
    held_bytes = sum(found.words.nbytes for held in _in_memory.values() for found in held.values())
    for part, found in filters.items():
        held_bytes += found.words.nbytes
        if held_bytes <= _KEPT_BYTES:
            of_node[part] = found


def _grouped(parts: pl.DataFrame, most_ids: int) -> Iterator[pl.DataFrame]:
    """The parts in groups of at most so many ids, or of one part, and not too many to name."""
    start = ids = 0
    for index, rows in enumerate(parts["rows"]):
        if index > start and (ids + rows > most_ids or index - start >= _PARTS_A_READ):
            yield parts[start:index]
            start, ids = index, 0
        ids += rows
    if start < parts.height:
        yield parts[start:]


def _stored(warehouse: Warehouse, parts: pl.DataFrame) -> dict[str, CallIdFilter]:
    table = warehouse.query_arrow(
        f"SELECT part, words FROM {CALL_ID_FILTERS.full_name} "
        "WHERE form = {form:String} AND part IN {parts:Array(String)} "
        "SETTINGS output_format_arrow_compression_method = 'none'",  # they cannot be compressed
        {"form": _FORM, "parts": parts["part"].to_list()},
    )
    if not table.num_rows:
        return {}
    words = table.column("words")
    found = {}
    for index, part in enumerate(table.column("part").to_pylist()):
        found[part] = CallIdFilter(np.asarray(words[index].values))
    return found


def _made(warehouse: Warehouse, parts: pl.DataFrame) -> dict[str, CallIdFilter]:
    """The filters of these parts, from their call ids."""
    made = {part: CallIdFilter.for_ids(rows) for part, rows in parts.select("part", "rows").iter_rows()}
    for some in _grouped(parts, _IDS_A_READ):
        part_of = dict(some.select("name", "part").iter_rows())
        most_rows = int(some["rows"].max())  # type: ignore[arg-type]
        for start in range(0, most_rows, _IDS_A_READ):
            ids = warehouse.query_arrow(
                f"SELECT _part AS name, call_id FROM {API_CALLS.full_name} WHERE _part IN {{names:Array(String)}} "
                "AND _part_offset >= {start:UInt64} AND _part_offset < {end:UInt64}",
                {"names": list(part_of), "start": start, "end": start + _IDS_A_READ},
            )
            if not ids.num_rows:
                continue
            hashes = IdHashes.of(ids.column("call_id"))
            names = pl.Series(ids.column("name")).cast(pl.String)
            for name, part in part_of.items():
                made[part].add(hashes.only((names == name).to_numpy()) if len(part_of) > 1 else hashes)
    return made


def _store(warehouse: Warehouse, parts: pl.DataFrame, added: _Added) -> None:
    """Store the new filters, and delete those of parts that are gone if there are many of them."""
    if added.ids < _STORED_IDS:
        return
    words = [found.words for found in added.filters.values()]
    rows = {"part": list(added.filters), "form": [_FORM] * len(words), "words": words}
    warehouse.insert(CALL_ID_FILTERS, pl.DataFrame(rows, schema=CALL_ID_FILTERS.schema))
    stored = warehouse.query(f"SELECT DISTINCT part FROM {CALL_ID_FILTERS.full_name}")["part"]
    gone = stored.filter(~stored.is_in(parts["part"].to_list()))
    if len(gone) > parts.height + _MOST_GONE:
        for some in gone.to_frame().iter_slices(_PARTS_A_READ):
            names = {"parts": some["part"].to_list()}
            warehouse.command(f"DELETE FROM {CALL_ID_FILTERS.full_name} WHERE part IN {{parts:Array(String)}}", names)
