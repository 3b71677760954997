"""Expressions that only the library can evaluate: on one document at a time, for the calls of one entry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from app.frames.json_fields import decode_document
from app.rules.embedded_text import decoder, with_nested_keys
from app.rules.expressions import DOCUMENTS, Expression, TooCostlyError, search

_decode = msgspec.json.Decoder(strict=False).decode


@dataclass(frozen=True)
class Sought:
    """One result to look for: its name, the expression, and how text on the way is decoded (empty: as it shows)."""

    name: str
    expression: Expression
    decode: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Per name one result a call, as Python values; and by name the positions of calls that cost too much."""

    values: dict[str, list[Any]]
    too_costly: dict[str, list[int]]


def search_documents(calls: pl.DataFrame, documents: pa.Table, sought: Sequence[Sought], paths: pl.DataFrame) -> Found:
    """The results of the expressions on each call, in the calls' order.

    In: calls with `document, method, endpoint, status`; `paths` holds a column a placeholder.
    """
    needed = [name for name in DOCUMENTS if any(name in one.expression.roots for one in sought)]
    texts = [documents.column(name).take(calls["document"].to_arrow()).to_pylist() for name in needed]
    records = calls.select("method", "endpoint", "status").to_dicts()
    placeholders = paths.to_dicts() if paths.width else [{}] * calls.height
    decoders = {one.name: decoder(one.decode) if one.decode else None for one in sought}
    values: dict[str, list[Any]] = {one.name: [] for one in sought}
    too_costly: dict[str, list[int]] = {one.name: [] for one in sought}
    for number, record in enumerate(records):
        record |= {name: _document(text[number]) for name, text in zip(needed, texts, strict=True)}
        record["path"] = placeholders[number]
        _nest_query(record)
        for one in sought:
            try:
                found = _search(one.expression, record, decoders[one.name])
            except TooCostlyError:
                found = None
                too_costly[one.name].append(number)
            values[one.name].append(found)
    return Found(values, too_costly)


def _search(expression: Expression, record: dict[str, Any], decode: Callable[[str], Any] | None) -> Any:
    """The result of an expression; `decode` reads the text on its way, or at its end where there is none on the way."""
    if decode is None:
        return search(expression, record)
    on_the_way: list[str] = []

    def decode_on_the_way(text: str) -> Any:
        on_the_way.append(text)
        return decode(text)

    found = search(expression, record, decode_on_the_way)
    return decode(found) if isinstance(found, str) and not on_the_way else found


def _document(text: str | None) -> Any:
    if not text:
        return None
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return decode_document(text)


def _nest_query(record: dict[str, Any]) -> None:
    request = record.get("request")
    if isinstance(request, dict):
        for name in ("query", "body"):
            fields = request.get(name)
            if isinstance(fields, dict) and any("[" in key for key in fields):
                record["request"] = request = request | {name: with_nested_keys(fields)}
