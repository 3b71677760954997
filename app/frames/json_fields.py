"""Fields out of JSON text, column-wise: a fast path for good documents, a tolerant one for the few it refuses.

The fast path hands whole columns to Arrow's JSON reader as newline-delimited text with an explicit schema. That reader
wants one type a field and refuses a whole block for one bad row, so there are three steps, each for what the one
before it refused:

1. the types that a sample of the documents shows;
2. every field as text: bare numbers are quoted and scalars wrapped where a list is wanted, by regular expressions that
   are exact on valid JSON (a raw quote cannot occur inside a JSON string);
3. the refused rows alone, found by halving, decoded one by one, taking from each what it holds.

A row contributes exactly one document or is refused: each begins with `{` and ends with `}`, a newline stands between
one's `}` and the next one's `{`, which is never valid inside a document, nor is a newline inside a string. So no
document can hold two rows, and equal counts mean aligned rows.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from pydantic_core import from_json

from app.rules.field_path import ITEMS, FieldPath, Kind

_SAMPLED_DOCUMENTS = 32
_HALVING_LEAF = 16
_MIN_BLOCK_BYTES = 4 * 1024 * 1024
_DECIMAL = pa.decimal128(38, 18)  # holds what a JavaScript back end makes of 0.1 + 0.2
_BARE_SCALAR = r"(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|true|false)"
_QUOTED = r'("(?:[^"\\]|\\.)*")'


@dataclass(frozen=True)
class Extraction:
    """One column a path, in the documents' order (text, decimal, integer, or a list of these), and what was lost.

    `unreadable` counts documents that are no JSON and values of a type that the path cannot hold.
    """

    values: pl.DataFrame
    unreadable: int


def extract(documents: pa.ChunkedArray, paths: Sequence[FieldPath]) -> Extraction:
    """The paths of every document; null where a document has none. Empty text is an absent document.

    The documents are an Arrow column of text: parsing them from Polars' string views would copy each twice.
    """
    lines = _as_lines(documents)
    is_plain = pc.and_(pc.starts_with(lines, "{"), pc.ends_with(lines, "}\n"))
    plain = lines if pc.all(is_plain).as_py() else lines.filter(is_plain)
    parts: list[tuple[pa.Array, list[pa.Array]]] = []  # row numbers and the paths' values
    rows = pc.indices_nonzero(is_plain)
    table = _read_learned(plain, paths) if len(plain) else None
    if table is not None:
        parts.append((rows, table))
        refused = pa.array([], pa.uint64())
    else:
        accepted, refused = _read_by_halving(_as_text_fields(plain, paths), rows, paths)
        parts += accepted
    odd = pl.concat([pl.Series(refused), pl.Series(pc.indices_nonzero(pc.invert(is_plain)))]).sort().to_arrow()
    tolerant, unreadable = _read_tolerant(documents, odd, paths)
    parts.append((odd, tolerant))
    return Extraction(_in_order(parts, paths), unreadable)


# ---- lines -------------------------------------------------------------------------------------------------------


def _as_lines(documents: pa.ChunkedArray) -> pa.Array:
    """Each document with a newline behind it, in one buffer."""
    text = documents.cast(pa.large_string()).combine_chunks()
    empty = pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(pc.fill_null(text, empty), pa.scalar("\n", pa.large_string()), empty)


def _as_text_fields(lines: pa.Array, paths: Sequence[FieldPath]) -> pa.Array:
    """The lines with every path's bare numbers quoted, and scalars in brackets where the path is a list of text."""
    keys = "|".join(re.escape(json.dumps(key)) for key in sorted({path.keys[-1] for path in paths}))
    wrapped = [path.keys[-1] for path in paths if path.kind is Kind.TEXTS]
    # A newline is white space between tokens, and never valid inside a string.
    text = pl.Series(lines).str.replace_all(r"\n", " ", literal=False).str.strip_chars() + "\n"
    text = text.str.replace_all(rf"([{{,\s](?:{keys})\s*:\s*){_BARE_SCALAR}", '${1}"${2}"')
    if wrapped:
        keys = "|".join(re.escape(json.dumps(key)) for key in sorted(set(wrapped)))
        text = text.str.replace_all(rf"([{{,\s](?:{keys})\s*:\s*){_QUOTED}", "${1}[${2}]")
    return text.to_arrow(compat_level=pl.CompatLevel.oldest())


# ---- the fast path -----------------------------------------------------------------------------------------------


def _read_learned(lines: pa.Array, paths: Sequence[FieldPath]) -> list[pa.Array] | None:
    sample = [_decode(line) for line in lines.slice(0, _SAMPLED_DOCUMENTS).to_pylist()]
    return _read(lines, paths, [_learned_type(path, sample) for path in paths])


def _read_by_halving(
    lines: pa.Array, rows: pa.Array, paths: Sequence[FieldPath]
) -> tuple[list[tuple[pa.Array, list[pa.Array]]], pa.Array]:
    """The parts that can be read with every field as text, and the rows that cannot."""
    types = [pa.list_(pa.string()) if path.kind is Kind.TEXTS else pa.string() for path in paths]
    accepted = []
    refused = [pa.array([], pa.uint64())]
    pending = [(lines, rows)] if len(lines) else []
    while pending:
        part, part_rows = pending.pop()
        values = _read(part, paths, types)
        if values is not None:
            accepted.append((part_rows, values))
        elif len(part) <= _HALVING_LEAF:
            refused.append(part_rows)
        else:
            step = -(-len(part) // 8)
            pending += [(part.slice(at, step), part_rows.slice(at, step)) for at in range(0, len(part), step)]
    return accepted, pa.concat_arrays(refused)


def _read(lines: pa.Array, paths: Sequence[FieldPath], types: Sequence[pa.DataType]) -> list[pa.Array] | None:
    """The paths of lines that are all as `types` say, or None."""
    tree: dict[str, Any] = {}
    for path, data_type in zip(paths, types, strict=True):
        branch = tree
        for key in path.keys[:-1]:
            branch = branch.setdefault(key, {})
        branch[path.keys[-1]] = data_type
    start, end = lines.offset, lines.offset + len(lines)
    offsets = pa.Array.from_buffers(pa.int64(), end + 1, [None, lines.buffers()[1]])
    first, last = offsets[start].as_py(), offsets[end].as_py()
    longest = pc.max(pc.binary_length(lines)).as_py()
    try:
        table = pj.read_json(
            pa.BufferReader(lines.buffers()[2].slice(first, last - first)),
            read_options=pj.ReadOptions(block_size=max(_MIN_BLOCK_BYTES, longest + 1)),
            parse_options=pj.ParseOptions(explicit_schema=_schema(tree), unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(lines):
        return None
    return [_walk(table, path.keys) for path in paths]


def _schema(tree: dict[str, Any]) -> pa.Schema:
    return pa.schema([pa.field(key, _branch_type(branch)) for key, branch in tree.items()])


def _branch_type(branch: Any) -> pa.DataType:
    if not isinstance(branch, dict):
        return branch
    if ITEMS in branch:
        return pa.list_(_branch_type(branch[ITEMS]))
    return pa.struct(list(_schema(branch)))


def _walk(table: pa.Table, keys: tuple[str, ...]) -> pa.Array:
    """The values at the end of a path; with ITEMS in it, a list a row."""
    values = table.column(keys[0]).combine_chunks()
    for position, key in enumerate(keys[1:], start=1):
        if key == ITEMS:
            items = _walk_struct(values.values, keys[position + 1 :])
            return pa.ListArray.from_arrays(values.offsets, items, mask=pc.is_null(values))
        values = pc.struct_field(values, key)
    return values


def _walk_struct(values: pa.Array, keys: tuple[str, ...]) -> pa.Array:
    for key in keys:
        values = pc.struct_field(values, key)
    return values


def _learned_type(path: FieldPath, sample: Sequence[Any]) -> pa.DataType:
    seen = {type(value) for document in sample for value in _flat(_find(document, path.keys))}
    is_number = seen == {_Number}
    if path.kind is Kind.NUMBER:  # Arrow reads a decimal from a number and from a number in quotes
        return _DECIMAL if _Number in seen else pa.string()
    scalar = pa.int64() if is_number else pa.string()
    if path.kind is Kind.TEXTS and any(isinstance(_find(document, path.keys), list) for document in sample):
        return pa.list_(scalar)
    return scalar


# ---- the tolerant path -------------------------------------------------------------------------------------------


class _Number(str):
    """A JSON number, as it was written."""

    __slots__ = ()


class _Unreadable:
    """Stands for a document or value that is there but cannot be read."""


_UNREADABLE = _Unreadable()


def _decode(text: str | None) -> Any:
    """The document as Python values, with numbers as they were written; of a cut-off one what came before the cut."""
    if text is None or not text.strip():
        return None
    try:
        return json.loads(text, strict=False, parse_int=_integer, parse_float=_Number, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        pass
    try:  # a number at the cut may have lost digits
        document = from_json(re.sub(r"[-+.0-9eE]+\s*$", "", text).encode(errors="replace"), allow_partial=True)
    except ValueError:
        return _UNREADABLE
    return document if isinstance(document, dict) else _UNREADABLE


def _integer(digits: str) -> _Number:
    return _Number("0" if digits == "-0" else digits)


def _find(document: Any, keys: tuple[str, ...]) -> Any:
    """The value at the end of a path; after ITEMS a list with one value an element."""
    for position, key in enumerate(keys):
        if key == ITEMS:
            if document is None:
                return None
            if not isinstance(document, list):
                return _UNREADABLE
            return [_find(element, keys[position + 1 :]) if isinstance(element, dict) else None for element in document]
        if not isinstance(document, dict):
            return None if document is None else _UNREADABLE
        document = document.get(key)
    return document


def _flat(value: Any) -> list[Any]:
    return [item for item in (value if isinstance(value, list) else [value]) if item is not None]


def _read_tolerant(
    documents: pa.ChunkedArray, rows: pa.Array, paths: Sequence[FieldPath]
) -> tuple[list[pa.Array], int]:
    unreadable = 0
    columns: list[list[Any]] = [[] for _ in paths]
    for text in documents.take(rows).to_pylist():
        document = _decode(text)
        if document is _UNREADABLE:
            unreadable += 1
            document = None
        if not isinstance(document, dict):
            document = {}
        for path, column in zip(paths, columns, strict=True):
            value = _as_text(_find(document, path.keys), is_list=path.is_list, may_wrap=path.kind is Kind.TEXTS)
            unreadable += value is _UNREADABLE
            column.append(None if value is _UNREADABLE else value)
    types = [pa.list_(pa.string()) if path.is_list else pa.string() for path in paths]
    return [pa.array(column, data_type) for column, data_type in zip(columns, types, strict=True)], unreadable


def _as_text(value: Any, *, is_list: bool, may_wrap: bool) -> Any:
    if value is None or not is_list:
        return _scalar_as_text(value)
    if may_wrap and not isinstance(value, list):
        value = [value]
    if not isinstance(value, list):
        return _UNREADABLE
    texts = [_scalar_as_text(item) for item in value]
    return _UNREADABLE if _UNREADABLE in texts else texts


def _scalar_as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # a lone surrogate has no UTF-8; the escape is all that was sent
        return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int | float):  # from a cut-off document
        return repr(value)
    return None if value is None else _UNREADABLE


# ---- putting the parts together ----------------------------------------------------------------------------------


def _in_order(parts: Sequence[tuple[pa.Array, list[pa.Array]]], paths: Sequence[FieldPath]) -> pl.DataFrame:
    names = [path.name for path in paths]
    filled = [(rows, values) for rows, values in parts if len(rows)]
    if not filled:
        return pl.DataFrame(schema={path.name: pl.List(pl.String) if path.is_list else pl.String for path in paths})
    frames = [pl.DataFrame(dict(zip(names, map(pl.Series, values), strict=True))) for _, values in filled]
    if len(frames) == 1:  # rows are ascending within a part
        return frames[0]
    if any(frame.schema != frames[0].schema for frame in frames):
        as_text: dict[str, pl.DataType] = {
            path.name: pl.List(pl.String()) if path.is_list else pl.String() for path in paths
        }
        frames = [_wrap_scalars(frame, as_text).cast(pl.Schema(as_text)) for frame in frames]
    rows = pl.concat([pl.Series("row", part_rows) for part_rows, _ in filled])
    return pl.concat(frames).select(pl.all().sort_by(rows))


def _wrap_scalars(frame: pl.DataFrame, types: dict[str, Any]) -> pl.DataFrame:
    scalars = [name for name, dtype in types.items() if isinstance(dtype, pl.List) and frame[name].dtype != pl.List]
    return frame.with_columns(
        pl.when(pl.col(name).is_not_null()).then(pl.concat_list(pl.col(name).cast(pl.String))) for name in scalars
    )
