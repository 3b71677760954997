"""Reads call records from files or stdin in bounded memory: NDJSON or JSON arrays (plain, gzip, zstd), or Parquet."""

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from app.core.call_record import RecordLimits
from app.core.errors import SettingsError, SourceError
from app.intake.blocks import Block
from app.intake.call_frames import Batch, UnreadableRow, read_block, read_rows
from app.intake.compression import zstd
from app.intake.formats import GZIP, LONGEST_MAGIC, PARQUET, ZSTD, format_of, require_text
from app.intake.json_stream import first_bytes, records

STDIN = "-"
_CHUNK_BYTES = 1024 * 1024
_BATCH_RECORDS = 40_000
_PARQUET_BATCH_ROWS = 20_000  # each becomes Python values
_BATCH_BYTES = 64 * 1024 * 1024
_DEFAULT_LIMITS = RecordLimits()
_DAMAGES = (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError)


def require_readable(names: list[str]) -> None:
    """Raise SettingsError for the first path that cannot be read, before anything is read."""
    for name in names:
        if name != STDIN and not Path(name).is_file():
            problem = "is a directory; name the files in it" if Path(name).is_dir() else "does not exist"
            raise SettingsError(f"{name} {problem}")


def total_bytes(names: list[str]) -> int | None:
    """The total size of the sources; None if stdin is one of them."""
    return None if STDIN in names else sum(Path(name).stat().st_size for name in names)


def read_batches(
    name: str,
    *,
    now: datetime,
    limits: RecordLimits = _DEFAULT_LIMITS,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Iterator[Batch]:
    """Read a source in batches. For a damaged source, yields what can be read, then raises SourceError.

    `on_bytes` is called with the position in the source after each batch.
    """
    source = source_name(name)
    with _open(name) as raw:
        start = raw.peek(LONGEST_MAGIC)[:LONGEST_MAGIC]
        if format_of(start) == PARQUET:
            if name == STDIN:
                raise SettingsError("Parquet cannot be read from stdin; name the file")
            yield from _parquet_batches(raw, source, now, limits, on_bytes)
            return
        check = partial(read_block, source=source, now=now, limits=limits)
        for batch in map(check, _batched(_records(raw, format_of(start), source), source)):  # keeps no block's bytes
            yield batch
            if name != STDIN:
                on_bytes(raw.tell())


def source_name(name: str) -> str:
    """What a source is called in `etl.rejects` and in messages."""
    return "stdin" if name == STDIN else str(Path(name).resolve())


def _open(name: str) -> io.BufferedReader:
    if name == STDIN:
        return cast("io.BufferedReader", sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise SettingsError(f"{name}: {error.strerror}") from None


def _records(raw: io.BufferedReader, kind: str, source: str) -> Iterator[Block]:
    stream: IO[bytes] = raw
    if kind == GZIP:
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    elif kind == ZSTD:
        stream = cast("IO[bytes]", zstd.ZstdFile(raw))
    start, chunks = first_bytes(_chunks(stream))
    require_text(start, source, is_unpacked=stream is not raw)
    yield from records(start, chunks)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    read = getattr(stream, "read1", stream.read)  # yields the readable part of a damaged file before the error
    while chunk := read(_CHUNK_BYTES):
        yield chunk


def _batched(blocks: Iterator[Block], source: str) -> Iterator[Block]:
    """The records in blocks of bounded size; SourceError after the last if the source is damaged."""
    waiting, held = Block(), 0
    damage: SourceError | None = None
    try:
        for block in blocks:
            waiting.extend(block)
            held += block.bytes
            while len(waiting) >= _BATCH_RECORDS or held >= _BATCH_BYTES:
                yield waiting.take(_BATCH_RECORDS)
                held = waiting.bytes
    except _DAMAGES as error:
        damage = SourceError(
            f"{source} is damaged or incomplete ({error}): the readable part is stored; "
            "run the same command on the complete file, nothing is stored twice"
        )
    if len(waiting):
        yield waiting.take(_BATCH_RECORDS)
    if damage:
        raise damage


def _parquet_batches(
    raw: io.BufferedReader,
    source: str,
    now: datetime,
    limits: RecordLimits,
    on_bytes: Callable[[int], None],
) -> Iterator[Batch]:
    try:
        file = pq.ParquetFile(raw)
        position = 1
        for part in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
            for rows in _parquet_rows(part):
                yield read_rows(rows, first_position=position, source=source, now=now, limits=limits)
                position += len(rows)
            on_bytes(raw.tell())
    except (pa.ArrowException, OSError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(
            f"{source} is not a complete Parquet file ({first_line}): write it again, then run the same command"
        ) from None


def _parquet_rows(part: pa.RecordBatch) -> Iterator[list[dict[str, Any] | UnreadableRow]]:
    """The rows of a batch; converted one by one if any of them has no Python value."""
    part = _in_microseconds(part)
    try:
        yield part.to_pylist()
    except (ValueError, OverflowError):  # invalid UTF-8, years past 9999, nanoseconds
        for number in range(part.num_rows):
            row = part.slice(number, 1)
            try:
                yield row.to_pylist()
            except (ValueError, OverflowError) as error:
                yield [UnreadableRow(_row_bytes(row), str(error))]


def _in_microseconds(part: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with times that Python can hold: it has no nanoseconds."""
    for place, field in enumerate(part.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            times = part.column(place).cast(pa.timestamp("us", field.type.tz), safe=False)
            part = part.set_column(place, field.name, times)
    return part


def _row_bytes(row: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_batch(row)
    return bytes(sink.getvalue())
