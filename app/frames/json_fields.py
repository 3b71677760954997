"""Fields out of JSON text, column-wise: a fast path for good documents, a tolerant one for the few it refuses.

The fast path hands whole columns to Arrow's JSON reader as newline-delimited text with an explicit schema. That reader
wants one type a field and refuses a whole block for one bad row, so there are three steps, each for what the one
before it refused:

1. the types that a sample of the documents shows;
2. every field as text: bare numbers are quoted and scalars wrapped where a list is wanted, by regular expressions that
   are exact on valid JSON (a raw quote cannot occur inside a JSON string);
3. the refused rows alone, found by halving, decoded one by one, taking from each what it holds.

Which step reads a document depends on its neighbours, so all three must give it the same values. Two things see to it:

- A number keeps whether it was bare or text, since `1.234` is doubtful only as text. The reader takes a number in
  quotes for a decimal, so documents that quote one go to the second step; from there on a bare number ends in `E0`.
- A text among lists keeps that it was a text, which is split where an element of a list is not: it becomes a list that
  begins with TEXT_AMONG_LISTS.

A row contributes exactly one document or is refused: each begins with `{` and ends with `}`, a newline stands between
one's `}` and the next one's `{`, which is never valid inside a document, nor is a newline inside a string. So no
document can hold two rows, and equal counts mean aligned rows.
"""

import json
import re
from collections.abc import Callable, Sequence
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

TEXT_AMONG_LISTS = "\0"
_WITH_NESTED_KEYS = ("query", "body")
_NOT_SCALAR = "\0"  # what `comparable` says of lists and objects
_DEEPEST = 100  # levels of a document that Python does not decode whole

_SAMPLED_DOCUMENTS = 32
_HALVING_LEAF = 16
_MIN_BLOCK_BYTES = 4 * 1024 * 1024
_DECIMAL = pa.decimal128(38, 18)  # holds what a JavaScript back end makes of 0.1 + 0.2
_BARE_NUMBER = r"(0(?:\.[0-9]+)?|-0\.[0-9]+|-?[1-9][0-9]*(?:\.[0-9]+)?)"  # but -0, which is 0 as an integer
_BARE_TRUTH = "(true|false)"
_QUOTED = r'("(?:[^"\\]|\\.)*")'
_KEY_WITH_ESCAPE = r'\\[^"]*'  # its last part
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True)
class Extraction:
    """One column a path, in the documents' order (text, decimal, integer, or a list of these), and what was lost.

    `unreadable` holds, by the path's name, the positions of documents with a value of a type that the path cannot hold;
    under an empty name those of documents that are not JSON objects.
    """

    values: pl.DataFrame
    unreadable: dict[str, list[int]]


def extract(documents: pa.ChunkedArray, paths: Sequence[FieldPath]) -> Extraction:
    """The paths of every document; null where a document has none. Empty text is an absent document.

    The documents are an Arrow column of text: parsing them from Polars' string views would copy each twice. Paths that
    one reader cannot take together are read one after the other.
    """
    columns: list[pl.Series] = []
    unreadable: dict[str, list[int]] = {}
    for together in _readable_together(paths):
        extraction = _extract(documents, together)
        columns += extraction.values.get_columns()
        unreadable |= extraction.unreadable
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
    if pattern := _pattern_of_nested_keys(paths):
        is_plain = pc.and_not(is_plain, pc.match_substring_regex(lines, pattern))
    rows = pc.indices_nonzero(is_plain)
    plain = lines if len(rows) == len(lines) else lines.filter(is_plain)
    parts = _read_learned(plain, rows, paths) if len(plain) else []  # row numbers and the paths' values
    done = sum(len(part_rows) for part_rows, _ in parts)
    if done < len(plain):
        if parts:
            is_left = pc.invert(pc.is_in(rows, parts[0][0]))
            plain, rows = plain.filter(is_left), rows.filter(is_left)
        accepted, refused = _read_by_halving(_as_text_fields(plain, paths), rows, paths)
        parts += accepted
    else:
        refused = pa.array([], pa.uint64())
    odd = pl.concat([pl.Series(refused), pl.Series(pc.indices_nonzero(pc.invert(is_plain)))]).sort().to_arrow()
    tolerant, unreadable = _read_tolerant(documents, odd, paths)
    parts.append((odd, tolerant))
    return Extraction(_in_order(parts, paths), unreadable)


def _pattern_of_nested_keys(paths: Sequence[FieldPath]) -> str:
    """A pattern of keys with brackets that may hold what a path leads to; empty if there are none."""
    names = {path.keys[1] for path in paths if path.keys[0] in _WITH_NESTED_KEYS and len(path.keys) > 1}
    return rf'"(?:{_any_of(names)})\[[^"]*\]"\s*:' if names else ""


def _any_of(keys: set[str]) -> str:
    """A pattern of any of these keys as JSON writes them, without the quotes."""
    written = {json.dumps(key, ensure_ascii=is_ascii)[1:-1] for key in keys for is_ascii in (True, False)}
    return "|".join(re.escape(key) for key in sorted(written))


# ---- lines -------------------------------------------------------------------------------------------------------


def _as_lines(documents: pa.ChunkedArray) -> pa.Array:
    """Each document with a newline behind it, in one buffer."""
    text = documents.cast(pa.large_string()).combine_chunks()
    empty = pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(pc.fill_null(text, empty), pa.scalar("\n", pa.large_string()), empty)


def _as_text_fields(lines: pa.Array, paths: Sequence[FieldPath]) -> pa.Array:
    """The lines with every path's bare scalars quoted, and in brackets where the path is a list of text."""
    # A newline is white space between tokens, and never valid inside a string.
    text = pl.Series(lines).str.replace_all("\n", " ", literal=True).str.strip_chars() + "\n"
    keys = {is_number: _last_keys(paths, is_number) for is_number in (True, False)}
    for is_number, pattern in keys.items():
        if pattern:
            mark = "E0" if is_number else ""
            text = text.str.replace_all(rf"{pattern}{_BARE_NUMBER}", f'${{1}}"${{2}}{mark}"')
            text = text.str.replace_all(rf"{pattern}{_BARE_TRUTH}", '${1}"${2}"')
    if wrapped := _last_keys([path for path in paths if path.kind is Kind.TEXTS], is_number=False):
        text = text.str.replace_all(rf"{wrapped}{_QUOTED}", '${1}["\\u0000",${2}]')
    return text.to_arrow(compat_level=pl.CompatLevel.oldest())


def _last_keys(paths: Sequence[FieldPath], is_number: bool) -> str:
    """A pattern of the last keys of the paths of numbers, or of the others, up to the value; empty without any."""
    keys = {path.keys[-1] for path in paths if (path.kind is Kind.NUMBER) is is_number}
    return rf'([{{,\s]"(?:{_any_of(keys)})"\s*:\s*)' if keys else ""


# ---- the fast path -----------------------------------------------------------------------------------------------


def _read_learned(lines: pa.Array, rows: pa.Array, paths: Sequence[FieldPath]) -> list[tuple[pa.Array, list[pa.Array]]]:
    """What can be read by the types that a sample shows: the rows with their values; nothing where one is otherwise."""
    sample = [_decode(line, _Number) for line in lines.slice(0, _SAMPLED_DOCUMENTS).to_pylist()]
    types = [_learned_type(path, sample) for path in paths]
    decimals = {path.keys[-1] for path, learned in zip(paths, types, strict=True) if learned == _DECIMAL}
    if decimals:  # the reader takes a number in quotes for a number, whatever a point in it means
        is_quoted = pc.match_substring_regex(lines, rf'(?:"(?:{_any_of(decimals)})|{_KEY_WITH_ESCAPE})"\s*:\s*"')
        if pc.any(is_quoted).as_py():
            lines, rows = (values.filter(pc.invert(is_quoted)) for values in (lines, rows))
    table = _read(lines, paths, types) if len(lines) else None
    if table is None:
        return []
    return [(rows, [_as_read(values, path) for values, path in zip(table, paths, strict=True)])]


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
            accepted.append((part_rows, [_as_read(column, path) for column, path in zip(values, paths, strict=True)]))
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
    found = [_find(document, path.keys) for document in sample]
    if path.kind is Kind.ANY:
        return _type_of_any(found)
    seen = {type(value) for one in found for value in _flat(one)}
    if path.kind is Kind.NUMBER:
        return _DECIMAL if _Number in seen else pa.string()
    scalar = pa.int64() if seen == {_Number} else pa.string()
    if path.kind is Kind.TEXTS and any(isinstance(one, list) for one in found):
        return pa.list_(scalar)
    return scalar


def _type_of_any(values: Sequence[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {dict}:
        return pa.struct([])
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {_Number} and all(value is None or value.isdigit() for value in values):
        return pa.int64()
    if kinds == {list}:
        items = {type(item) for value in values for item in value or ()}
        return pa.list_(pa.struct([]) if items == {dict} else pa.string())
    return pa.string()


def _as_read(values: pa.Array, path: FieldPath) -> pa.Array:
    """Values as the other steps give them: of anything, the text that conditions compare."""
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


def _decode(text: str | None, number: Callable[[str], Any] | None = None) -> Any:
    """The document as Python values; of a cut-off one what came before the cut.

    `number` makes a number of its text; by default it is the nearest that Python has.
    """
    if text is None or not text.strip():
        return None
    text = text.replace("\n", " ")  # as the second step reads it
    try:
        return _load(text, number)
    except RecursionError:
        text = _without_deep_parts(text)
    except ValueError:
        pass
    try:
        return _load(text, number)
    except (ValueError, RecursionError):
        pass
    try:  # a number at the cut may have lost digits
        document = from_json(re.sub(r"[-+.0-9eE]+\s*$", "", text).encode(errors="replace"), allow_partial=True)
    except ValueError:
        return _UNREADABLE
    return document if isinstance(document, dict) else _UNREADABLE


def _load(text: str, number: Callable[[str], Any] | None) -> Any:
    integer = number and (lambda digits: number("0" if digits == "-0" else digits))
    return json.loads(text, strict=False, parse_int=integer, parse_float=number, parse_constant=lambda _: None)


def _without_deep_parts(text: str) -> str:
    """The text with null for lists and objects below the deepest level that is decoded."""
    parts, level, at = [], 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in ("[", "{"):
            level += 1
            if level == _DEEPEST + 1:
                parts += [text[at : token.start()], "null"]
        elif token[0] in ("]", "}"):
            level -= 1
            if level == _DEEPEST:
                at = token.end()
    return "".join(parts) + text[at:] if level <= _DEEPEST else text


def _find(document: Any, keys: tuple[str, ...]) -> Any:
    """The value at the end of a path; after ITEMS a list with one value an element."""
    for position, key in enumerate(keys):
        if isinstance(document, str):
            document = document_in(str(document))
        if document is None:
            return None
        if key == ITEMS:
            if not isinstance(document, list):
                return _UNREADABLE
            elements = [part for item in document for part in (item if isinstance(item, list) else [item])]
            items = (_find(element, keys[position + 1 :]) for element in elements)
            return [None if item is _UNREADABLE else item for item in items]
        if not isinstance(document, dict):
            return _UNREADABLE
        document = document.get(key)
        if position == 0 and key in _WITH_NESTED_KEYS and isinstance(document, dict):
            document = with_nested_keys(document)
    return document


def _flat(value: Any) -> list[Any]:
    return [item for item in (value if isinstance(value, list) else [value]) if item is not None]


def _read_tolerant(
    documents: pa.ChunkedArray, rows: pa.Array, paths: Sequence[FieldPath]
) -> tuple[list[pa.Array], dict[str, list[int]]]:
    unreadable: dict[str, list[int]] = {}
    columns: list[list[Any]] = [[] for _ in paths]
    for row, text in zip(rows.to_pylist(), documents.take(rows).to_pylist(), strict=True):
        document = _document(text, _Number)
        if not isinstance(document, dict):
            if document is not None:
                unreadable.setdefault("", []).append(row)
            document = {}
        for path, column in zip(paths, columns, strict=True):
            value = _value(_find(document, path.keys), path)
            if value is _UNREADABLE:
                unreadable.setdefault(path.name, []).append(row)
            column.append(None if value is _UNREADABLE else value)
    types = [pa.list_(pa.string()) if path.is_list else pa.string() for path in paths]
    return [pa.array(column, data_type) for column, data_type in zip(columns, types, strict=True)], unreadable


def decode_document(text: str | None) -> Any:
    """The document as Python values; text that holds one is read, and "" stands for what cannot be read."""
    document = _document(text, None)
    return "" if document is _UNREADABLE else document


def _document(text: str | None, number: Callable[[str], Any] | None) -> Any:
    document = _decode(text, number)
    if isinstance(document, str) and not isinstance(document, _Number):
        inner = document_in(document)
        return document if inner is None else inner
    return document


def _value(value: Any, path: FieldPath) -> Any:
    """A value as the path's column holds it; _UNREADABLE if it cannot."""
    if path.kind is Kind.ANY:
        return None if value is _UNREADABLE else _as_utf8(comparable(value))
    if value is None:
        return None
    if not path.is_list:
        return _scalar_as_text(_only_one(value), path)
    if path.kind is Kind.TEXTS and not isinstance(value, list):
        text = _scalar_as_text(value, path)
        return text if text is _UNREADABLE else [TEXT_AMONG_LISTS, text]
    if not isinstance(value, list):
        return _UNREADABLE
    texts = [_scalar_as_text(_only_one(item), path) for item in value]
    return _UNREADABLE if _UNREADABLE in texts else texts


def _only_one(value: Any) -> Any:
    """The value of a list with one value; anything else as it is."""
    given = _flat(value) if isinstance(value, list) else ()
    return given[0] if len(given) == 1 else None if isinstance(value, list) and not given else value


def _scalar_as_text(value: Any, path: FieldPath) -> Any:
    if path.kind is Kind.NUMBER and (isinstance(value, _Number) or type(value) in {int, float}):
        return number_as_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _as_utf8(str(value))
    if isinstance(value, int | float):  # from a cut-off document
        return repr(value)
    return None if value is None else _UNREADABLE


def _as_utf8(text: str | None) -> str | None:
    """The text with a replacement character for each lone surrogate, which has no UTF-8."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def number_as_text(number: object) -> str:
    """A bare number in the form that tells it from one that was written as text: with an exponent."""
    text = number if isinstance(number, str) else repr(number)
    return text if "e" in text.lower() else f"{text}E0"


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
    """The frame with scalars among lists as lists, marked."""
    scalars = [name for name, dtype in types.items() if isinstance(dtype, pl.List) and frame[name].dtype != pl.List]
    return frame.with_columns(
        pl.when(pl.col(name).is_not_null())
        .then(pl.concat_list(pl.lit(TEXT_AMONG_LISTS), pl.col(name).cast(pl.String)))
        .alias(name)
        for name in scalars
    )
