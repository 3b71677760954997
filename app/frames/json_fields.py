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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from pydantic_core import from_json

from app.rules.embedded_text import document_in, with_nested_keys
from app.rules.expressions import comparable, shortest_number
from app.rules.field_path import ITEMS, FieldPath, Kind
from app.rules.number_text import AMBIGUOUS, read_number

_QUERY = "query"
_THOUSAND = 1000
_NOTHING = 1e-6
_NUMBERED_KEY = "[0]"
_KEY_IN_BRACKETS = ']":'
_NOT_SCALAR = "\0"  # what `comparable` says of lists and objects

_SAMPLED_DOCUMENTS = 32
_HALVING_LEAF = 16
_MIN_BLOCK_BYTES = 4 * 1024 * 1024
_DECIMAL = pa.decimal128(38, 18)  # holds what a JavaScript back end makes of 0.1 + 0.2
_BARE_SCALAR = r"(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|true|false)"
_QUOTED = r'("(?:[^"\\]|\\.)*")'


@dataclass(frozen=True)
class Extraction:
    """One column a path, in the documents' order (text, decimal, integer, or a list of these), and what was lost.

    `unreadable` counts, by the path's name, values of a type that the path cannot hold; under an empty name documents
    that are not JSON objects.
    """

    values: pl.DataFrame
    unreadable: Counter[str]


def extract(documents: pa.ChunkedArray, paths: Sequence[FieldPath]) -> Extraction:
    """The paths of every document; null where a document has none. Empty text is an absent document.

    The documents are an Arrow column of text: parsing them from Polars' string views would copy each twice. Paths that
    one reader cannot take together are read one after the other.
    """
    columns: list[pl.Series] = []
    unreadable: Counter[str] = Counter()
    for together in _readable_together(paths):
        extraction = _extract(documents, together)
        columns += extraction.values.get_columns()
        unreadable |= extraction.unreadable  # a document that is no object is so for every reader
    return Extraction(pl.DataFrame(columns).select(path.name for path in paths), unreadable)


def _readable_together(paths: Sequence[FieldPath]) -> list[list[FieldPath]]:
    groups: list[list[FieldPath]] = []
    for path in paths:
        fitting = (group for group in groups if not any(path.clashes_with(other) for other in group))
        group = next(fitting, None)
        if group is None:
            groups.append([path])
        else:
            group.append(path)
    return groups


def _extract(documents: pa.ChunkedArray, paths: Sequence[FieldPath]) -> Extraction:
    lines = _as_lines(documents)
    is_plain = pc.and_(pc.starts_with(lines, "{"), pc.ends_with(lines, "}\n"))
    for sign in _signs_of_nested_keys(paths):
        is_plain = pc.and_not(is_plain, pc.match_substring(lines, sign))
    plain = lines if pc.all(is_plain).as_py() else lines.filter(is_plain)
    parts: list[tuple[pa.Array, list[pa.Array]]] = []  # row numbers and the paths' values
    rows = pc.indices_nonzero(is_plain)
    table = _read_learned(plain, paths) if len(plain) else None
    if table is not None:
        parts.append((rows, table))
        refused = pa.array([], pa.uint64())
    elif _hold_decimal_commas(paths):  # as text, a bare number could not be told from one that is written as text
        refused = rows
    else:
        accepted, refused = _read_by_halving(_as_text_fields(plain, paths), rows, paths)
        parts += accepted
    parts, doubtful = _without_doubtful(parts, paths)
    refused = pa.concat_arrays([refused, doubtful])
    odd = pl.concat([pl.Series(refused), pl.Series(pc.indices_nonzero(pc.invert(is_plain)))]).sort().to_arrow()
    tolerant, unreadable = _read_tolerant(documents, odd, paths)
    parts.append((odd, tolerant))
    return Extraction(_in_order(parts, paths), unreadable)


def _signs_of_nested_keys(paths: Sequence[FieldPath]) -> set[str]:
    """Texts that stand in documents whose query may hold, under a key with brackets, what a path is for."""
    steps = {len(path.keys) for path in paths if path.keys[0] == _QUERY}
    signs = {_NUMBERED_KEY} if steps else set()
    return signs | ({_KEY_IN_BRACKETS} if steps and max(steps) > 2 else set())  # noqa: PLR2004  below query.name


def _hold_decimal_commas(paths: Sequence[FieldPath]) -> bool:
    return any(path.kind is Kind.NUMBER and path.decimal == "," for path in paths)


def _without_doubtful(
    parts: list[tuple[pa.Array, list[pa.Array]]], paths: Sequence[FieldPath]
) -> tuple[list[tuple[pa.Array, list[pa.Array]]], pa.Array]:
    """The parts without rows whose numbers mean something else where they are written as text; and those rows.

    The reader takes a number in quotes for a number. That is right unless it is like 1.234.
    """
    numbers = [place for place, path in enumerate(paths) if path.kind is Kind.NUMBER and not path.decimal]
    kept = []
    doubtful = [pa.array([], pa.uint64())]
    for rows, values in parts:
        is_doubtful = pl.Series([False]).new_from_index(0, len(rows))
        for place in numbers:
            is_doubtful |= _is_doubtful(pl.Series(values[place]))
        if not is_doubtful.any():
            kept.append((rows, values))
            continue
        mask = is_doubtful.to_arrow()
        doubtful.append(rows.filter(mask))
        rest = pc.invert(mask)
        kept.append((rows.filter(rest), [column.filter(rest) for column in values]))
    return kept, pa.concat_arrays(doubtful)


def _is_doubtful(values: pl.Series) -> pl.Series:
    if isinstance(values.dtype, pl.List):
        items = _is_doubtful(values.explode(empty_as_null=False, keep_nulls=False))
        if not items.any():
            return pl.Series([False]).new_from_index(0, len(values))
        frame = pl.DataFrame({"row": pl.int_range(len(values), eager=True), "values": values})
        flat = frame.explode("values", empty_as_null=False, keep_nulls=False)["row"].filter(items)
        return frame["row"].is_in(flat.unique().implode())
    if values.dtype == pl.String:
        return values.str.contains(AMBIGUOUS).fill_null(value=False)
    if not values.dtype.is_decimal():
        return pl.Series([False]).new_from_index(0, len(values))
    size = pl.col("value").cast(pl.Float64).abs()
    has_three_decimals = _is_whole(size * 1000) & ~_is_whole(size * 100)
    is_doubtful = (size >= 1) & (size < _THOUSAND) & has_three_decimals
    return values.to_frame("value").select(is_doubtful.fill_null(value=False)).to_series()


def _is_whole(number: pl.Expr) -> pl.Expr:
    """Whether a float is a whole number but for what its binary form cannot hold."""
    return (number - number.round()).abs() < _NOTHING


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
        text = text.str.replace_all(rf"([{{,\s](?:{keys})\s*:\s*){_QUOTED}", "${1}[null,${2}]")
    return text.to_arrow(compat_level=pl.CompatLevel.oldest())


# ---- the fast path -----------------------------------------------------------------------------------------------


def _read_learned(lines: pa.Array, paths: Sequence[FieldPath]) -> list[pa.Array] | None:
    sample = [_decode(line) for line in lines.slice(0, _SAMPLED_DOCUMENTS).to_pylist()]
    types = [_learned_type(path, sample) for path in paths]
    table = _read(lines, paths, types)
    return table and [_as_read(values, path) for values, path in zip(table, paths, strict=True)]


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
    if path.kind is Kind.NUMBER and path.decimal == ",":
        return pa.float64() if is_number else pa.string()
    if path.kind is Kind.NUMBER:  # Arrow reads a decimal from a number and from a number in quotes
        return _DECIMAL if _Number in seen else pa.string()
    if path.kind is Kind.ANY:
        return _type_of_any([_find(document, path.keys) for document in sample])
    scalar = pa.int64() if is_number else pa.string()
    if path.kind is Kind.TEXTS and any(isinstance(_find(document, path.keys), list) for document in sample):
        return pa.list_(scalar)
    return scalar


def _type_of_any(values: Sequence[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {dict}:
        return pa.struct([])
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {_Number}:
        return pa.float64()
    if kinds == {list}:
        items = {type(item) for value in values for item in value or ()}
        return pa.list_(pa.struct([]) if items == {dict} else pa.string())
    return pa.string()


def _as_read(values: pa.Array, path: FieldPath) -> pa.Array:
    """Values in the types that the other steps use: exact numbers; of anything, the text that conditions compare."""
    if path.kind is Kind.NUMBER and pa.types.is_floating(values.type):
        return pl.Series(values).cast(pl.String).cast(pl.Decimal(38, 18), strict=False).to_arrow()
    return comparable_text(values) if path.kind is Kind.ANY else values


def comparable_text(values: pa.Array) -> pa.Array:
    """What `comparable` makes of each value."""
    if pa.types.is_struct(values.type):
        return pc.if_else(pc.is_valid(values), _NOT_SCALAR, None)
    if pa.types.is_list(values.type):
        return pc.if_else(pc.equal(pc.list_value_length(values), 0), "", _NOT_SCALAR)
    if pa.types.is_boolean(values.type):
        return pc.cast(values, pa.string())
    text = pl.Series(values).cast(pl.String)
    distinct = text.unique().drop_nulls()
    short = pl.Series([shortest_number(one) for one in distinct], dtype=pl.String)
    is_same = (distinct == short).all()
    return (text if is_same else text.replace(distinct, short)).to_arrow(compat_level=pl.CompatLevel.oldest())


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
        if isinstance(document, str):
            document = document_in(str(document))
        if not isinstance(document, dict):
            return None if document is None else _UNREADABLE
        document = document.get(key)
        if position == 0 and key == _QUERY and isinstance(document, dict):
            document = with_nested_keys(document)
    return document


def _flat(value: Any) -> list[Any]:
    return [item for item in (value if isinstance(value, list) else [value]) if item is not None]


def _read_tolerant(
    documents: pa.ChunkedArray, rows: pa.Array, paths: Sequence[FieldPath]
) -> tuple[list[pa.Array], Counter[str]]:
    unreadable: Counter[str] = Counter()
    columns: list[list[Any]] = [[] for _ in paths]
    for text in documents.take(rows).to_pylist():
        document = decode_document(text)
        if not isinstance(document, dict):
            unreadable[""] += document is not None
            document = {}
        for path, column in zip(paths, columns, strict=True):
            value = _value(_find(document, path.keys), path)
            unreadable[path.name] += value is _UNREADABLE
            column.append(None if value is _UNREADABLE else value)
    unreadable += Counter()  # without zeros
    types = [pa.list_(pa.string()) if path.is_list else pa.string() for path in paths]
    return [pa.array(column, data_type) for column, data_type in zip(columns, types, strict=True)], unreadable


def decode_document(text: str | None) -> Any:
    """The document as Python values; text that holds one is read, and None stands for what cannot be read."""
    document = _decode(text)
    if isinstance(document, str):
        inner = document_in(str(document))
        document = document if inner is None else inner
    return "" if document is _UNREADABLE else document


def _value(value: Any, path: FieldPath) -> Any:
    """A value as the path's column holds it; _UNREADABLE if it cannot."""
    if path.kind is Kind.ANY:
        return None if value is _UNREADABLE else comparable(value)
    if not path.is_list:
        return _scalar_as_text(value[0] if isinstance(value, list) and len(value) == 1 else value, path)
    if value is None:
        return None
    if path.kind is Kind.TEXTS and not isinstance(value, list):
        value = [None, value]
    if not isinstance(value, list):
        return _UNREADABLE
    texts = [_scalar_as_text(item, path) for item in value]
    return _UNREADABLE if _UNREADABLE in texts else texts


def _scalar_as_text(value: Any, path: FieldPath) -> Any:
    if path.kind is Kind.NUMBER and isinstance(value, str):
        return number_as_text(str(value), is_text=not isinstance(value, _Number), decimal=path.decimal)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # a lone surrogate has no UTF-8; the escape is all that was sent
        return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int | float):  # from a cut-off document
        return repr(value)
    return None if value is None else _UNREADABLE


def number_as_text(text: str, *, is_text: bool, decimal: str) -> Any:
    """A number in the form that leaves no doubt; None for blank text, _UNREADABLE for what is not a number."""
    if not text.strip():
        return None
    number = read_number(text, decimal) if is_text else read_number(f"{text}E0" if "e" not in text.lower() else text)
    return _UNREADABLE if number is None else f"{number:f}E0"


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
        frames = [_wrap_scalars(_numbers_as_text(frame), as_text).cast(pl.Schema(as_text)) for frame in frames]
    rows = pl.concat([pl.Series("row", part_rows) for part_rows, _ in filled])
    return pl.concat(frames).select(pl.all().sort_by(rows))


def _numbers_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with exact numbers in the form that leaves no doubt."""

    def as_text(value: pl.Expr) -> pl.Expr:
        return value.cast(pl.String) + "E0"

    return frame.with_columns(
        pl.col(name).list.eval(as_text(pl.element())) if isinstance(dtype, pl.List) else as_text(pl.col(name))
        for name, dtype in frame.schema.items()
        if (dtype.inner if isinstance(dtype, pl.List) else dtype).is_decimal()
    )


def _wrap_scalars(frame: pl.DataFrame, types: dict[str, Any]) -> pl.DataFrame:
    """The frame with scalars as lists of an empty place and the value, which tells them from lists of one value."""
    scalars = [name for name, dtype in types.items() if isinstance(dtype, pl.List) and frame[name].dtype != pl.List]
    return frame.with_columns(
        pl.when(pl.col(name).is_not_null())
        .then(pl.concat_list(pl.lit(None, pl.String), pl.col(name).cast(pl.String)))
        .alias(name)
        for name in scalars
    )
