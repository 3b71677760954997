"""Turns call records, JSON lines or Parquet rows, into frames for `pd.api_calls` and `etl.rejects`.

A record that cannot be stored does not affect the others: it becomes a reject, with its reason and its bytes.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from app.contracts import API_CALLS, REJECTS
from app.core.addresses import Addresses
from app.core.call_record import (
    CONTENT_FIELDS,
    Line,
    Record,
    RecordLimits,
    RejectedRecordError,
    epoch_ms,
    json_value,
    read_line,
    require_size,
    row_of,
)
from app.intake.blocks import Block
from app.intake.plain_calls import content_digests, plain_calls

KEPT_REJECT_BYTES = 64 * 1024 * 1024
_DEFAULT_LIMITS = RecordLimits()
_DOCUMENTS = ("request", "response")
_DEEPEST = 1000  # a reject is kept however deep it is nested


@dataclass(frozen=True)
class UnreadableRow:
    """A Parquet row that cannot be converted to Python values: the row as an Arrow stream, and the problem."""

    data: bytes
    problem: str


@dataclass(frozen=True)
class Batch:
    """Some records, checked: `calls` has the schema of `pd.api_calls`, `rejects` that of `etl.rejects`."""

    calls: pl.DataFrame
    rejects: pl.DataFrame


def read_block(block: Block, *, source: str, now: datetime, limits: RecordLimits = _DEFAULT_LIMITS) -> Batch:
    """Check a block of JSON records: plain ones as columns, the others one by one, as `read_lines` checks all.

    A call's time may lie a day after its record was received, which is `now` by default.
    """
    received_ms = epoch_ms(now) if block.received_ms is None else block.received_ms
    plain = plain_calls(block.records, sizes=block.sizes, received_ms=received_ms, limits=limits)
    if plain.is_plain.all():
        return Batch(plain.calls, reject_frame([]))
    indexes = (~plain.is_plain).arg_true().to_list()
    others = read_lines([block.line(index) for index in indexes], source=source, now=now, limits=limits)
    rejected = set(others.rejects["position"])
    accepted = [index for index in indexes if block.positions[index] not in rejected]
    places = pl.concat([plain.is_plain.arg_true(), pl.Series(accepted, dtype=pl.UInt32)])
    calls = pl.concat([plain.calls, others.calls])[places.arg_sort()]  # in the order of the records
    return Batch(calls, others.rejects)


def read_lines(
    lines: Sequence[Line],
    *,
    source: str,
    now: datetime,
    limits: RecordLimits = _DEFAULT_LIMITS,
) -> Batch:
    """Check JSON lines one by one. A call's time may lie a day after its line was received, by default `now`."""
    rows: list[tuple[Any, ...]] = []
    received: list[int] = []
    rejects = []
    at, at_ms, times = now, epoch_ms(now), limits.times(now)
    for line in lines:
        if (line_at := line.received_at or now) is not at:
            at, at_ms, times = line_at, epoch_ms(line_at), limits.times(line_at)
        try:
            rows.append(read_line(line, times=times, limits=limits))
            received.append(at_ms)
        except RejectedRecordError as error:
            rejects.append(reject_row(_without_address(line, limits.addresses), error, source=source, now=at))
    return Batch(_calls(rows, received), reject_frame(rejects))


def read_rows(
    rows: Sequence[dict[str, Any] | UnreadableRow],
    *,
    first_position: int,
    source: str,
    now: datetime,
    limits: RecordLimits = _DEFAULT_LIMITS,
) -> Batch:
    """Check rows of Parquet, in which request and response are JSON text, or lists and structures."""
    calls = []
    rejects = []
    times = limits.times(now)
    for position, row in enumerate(rows, start=first_position):
        data = row.data if isinstance(row, UnreadableRow) else _as_json(row)
        line = Line(position, data, len(data))
        try:
            if isinstance(row, UnreadableRow):
                raise RejectedRecordError("unreadable row", row.problem)  # noqa: TRY301
            require_size(line, limits.max_record_bytes)
            calls.append(row_of(_record(row, limits.max_nesting), times, limits.addresses))
        except RejectedRecordError as error:
            kept = line if isinstance(row, UnreadableRow) else replace(line, data=_as_record(row))
            rejects.append(reject_row(_without_address(kept, limits.addresses), error, source=source, now=now))
    return Batch(_calls(calls, [epoch_ms(now)] * len(calls)), reject_frame(rejects))


def _without_address(line: Line, addresses: Addresses) -> Line:
    return replace(line, data=addresses.in_bytes(line.data))


def _record(row: dict[str, Any], max_nesting: int) -> Record:
    fields = {name: value for name, value in row.items() if name in Record.__struct_fields__ and value is not None}
    documents = {name: _document(fields.get(name), name, max_nesting) for name in _DOCUMENTS}
    return Record(**fields | documents)


def _document(value: Any, name: str, max_nesting: int) -> msgspec.Raw:
    if value is None or value in ("", b""):
        return msgspec.Raw(b"")
    if isinstance(value, str):
        value = value.encode()
    return json_value(value if isinstance(value, bytes) else _as_json(value), name, max_nesting)


def _as_record(row: dict[str, Any]) -> bytes:
    """The row as the JSON record that means the same, so that the reject can be read again."""
    row = dict(row)
    for name in _DOCUMENTS:
        if row.get(name):
            with suppress(RejectedRecordError):  # what is no JSON stays as it is
                row[name] = _document(row[name], name, _DEEPEST)
    if isinstance(ts := row.get("ts"), datetime) and ts.tzinfo is None:
        row["ts"] = ts.replace(tzinfo=UTC)
    return _as_json(row)


def _as_json(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)


def content_hashes(calls: pl.DataFrame) -> pl.Series:
    """The `content_hash` column as `pd.api_calls` computes it."""
    digests = content_digests(calls.with_columns(pl.col("ts").dt.epoch("ms")))
    return pl.Series("content_hash", [int.from_bytes(digest[:8], "little") for digest in digests], dtype=pl.UInt64)


def _calls(rows: Sequence[tuple[Any, ...]], received: Sequence[int]) -> pl.DataFrame:
    if not rows:
        return pl.DataFrame(schema=API_CALLS.schema)
    columns = dict(zip((*CONTENT_FIELDS, "call_id"), zip(*rows, strict=True), strict=True))
    ts = pl.Series("ts", columns.pop("ts"), dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    schema = {name: API_CALLS.schema[name] for name in columns}
    received_at = pl.Series("received_at", received, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(columns, schema=schema).with_columns(ts, received_at).select(API_CALLS.schema.names())


def reject_row(line: Line, error: RejectedRecordError, *, source: str, now: datetime) -> tuple[Any, ...]:
    """A row of `etl.rejects`. Its id makes repeated runs of the same source idempotent."""
    record = line.data[:KEPT_REJECT_BYTES]
    digest = hashlib.md5(f"{source}\0{line.position}\0{error.reason}\0".encode(), usedforsecurity=False)
    digest.update(record)
    return (now, source, line.position, error.reason, error.detail, line.size, record, digest.hexdigest())


def reject_frame(rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """Rows from `reject_row` as a frame with the schema of `etl.rejects`."""
    return pl.DataFrame(rows, schema=REJECTS.schema, orient="row")
