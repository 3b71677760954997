"""Reads call records from files or stdin in bounded memory: NDJSON or JSON arrays (plain, gzip, zstd), or Parquet."""

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from app.core.call_record import Line, RecordLimits
from app.core.errors import SettingsError, SourceError
from app.intake.call_frames import Batch, UnreadableRow, read_lines, read_rows
from app.intake.compression import zstd
from app.intake.formats import GZIP, LONGEST_MAGIC, PARQUET, ZSTD, format_of, require_text
from app.intake.json_stream import first_bytes, records

STDIN = "-"
_CHUNK_BYTES = 1024 * 1024
_BATCH_RECORDS = 20_000
_BATCH_BYTES = 64 * 1024 * 1024
_DEFAULT_LIMITS = RecordLimits()


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
        for records in _batched(_records(raw, format_of(start), source), source):
            yield read_lines(records, source=source, now=now, limits=limits)
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


def _records(raw: io.BufferedReader, kind: str, source: str) -> Iterator[Line]:
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


def _batched(lines: Iterator[Line], source: str) -> Iterator[list[Line]]:
    batch: list[Line] = []
    held = 0
    try:
        for line in lines:
            batch.append(line)
            held += len(line.data)
            if len(batch) >= _BATCH_RECORDS or held >= _BATCH_BYTES:
                yield batch
                batch, held = [], 0
    except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
        if batch:
            yield batch
        raise SourceError(
            f"{source} is damaged or incomplete ({error}): the readable part is stored; "
            "run the same command on the complete file, nothing is stored twice"
        ) from None
    if batch:
        yield batch


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
        for part in file.iter_batches(batch_size=_BATCH_RECORDS):
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
