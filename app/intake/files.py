"""Where call records come from: NDJSON (plain, gzip, zstd), Parquet, or stdin, read in bounded memory."""

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

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from app.core import addresses
from app.core.addresses import Addresses
from app.core.call_record import MAX_NESTING, Line
from app.core.errors import CaratError, SettingsError
from app.intake.call_frames import KEPT_REJECT_BYTES, Batch, UnreadableRow, read_lines, read_rows

STDIN = "-"
_CHUNK_BYTES = 1024 * 1024
_BATCH_RECORDS = 20_000
_BATCH_BYTES = 64 * 1024 * 1024
_UTF8_MARK = b"\xef\xbb\xbf"
_KEPT = addresses.kept()


def require_readable(names: list[str]) -> None:
    """Raise SettingsError naming the first of the paths that cannot be read, before any of them is."""
    for name in names:
        if name != STDIN and not Path(name).is_file():
            problem = "is a directory; name the files in it" if Path(name).is_dir() else "does not exist"
            raise SettingsError(f"{name} {problem}")


def total_bytes(names: list[str]) -> int | None:
    """The size of all sources together; None where stdin is among them."""
    return None if STDIN in names else sum(Path(name).stat().st_size for name in names)


def read_batches(
    name: str,
    *,
    now: datetime,
    max_record_bytes: int,
    max_nesting: int = MAX_NESTING,
    ips: Addresses = _KEPT,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Iterator[Batch]:
    """The records of a source in batches. What can be read of a damaged source comes first, then CaratError.

    `on_bytes` is told how far into the source each batch reaches; `ips` is how addresses are kept.
    """
    source = "stdin" if name == STDIN else str(Path(name).resolve())
    with _open(name) as raw:
        magic = raw.peek(4)[:4]
        if magic == b"PAR1":
            if name == STDIN:
                raise SettingsError("Parquet cannot be read from stdin; name the file")
            yield from _parquet_batches(raw, source, now, max_record_bytes, ips=ips, on_bytes=on_bytes)
            return
        for lines in _batched(_lines(_decompressed(raw, magic)), source):
            yield read_lines(
                lines,
                source=source,
                now=now,
                max_record_bytes=max_record_bytes,
                max_nesting=max_nesting,
                ips=ips,
            )
            if name != STDIN:
                on_bytes(raw.tell())


def _open(name: str) -> io.BufferedReader:
    if name == STDIN:
        return cast("io.BufferedReader", sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise SettingsError(f"{name}: {error.strerror}") from None


def _decompressed(raw: io.BufferedReader, magic: bytes) -> IO[bytes]:
    if magic[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if magic == b"\x28\xb5\x2f\xfd":
        return cast("IO[bytes]", zstd.ZstdFile(raw))
    return raw


def _lines(stream: IO[bytes]) -> Iterator[Line]:
    """The lines that are not blank. Of an endless one no more is held than a reject keeps."""
    position, pieces, kept, size = 1, list[bytes](), 0, 0
    is_first = True
    read = getattr(stream, "read1", stream.read)  # what a damaged file still holds comes before its error
    while chunk := read(_CHUNK_BYTES):
        parts = (chunk.removeprefix(_UTF8_MARK) if is_first else chunk).split(b"\n")
        is_first = False
        for number, part in enumerate(parts):
            if number:
                if line := b"".join(pieces).strip():
                    yield Line(position, line, size)
                position, pieces, kept, size = position + 1, [], 0, 0
            size += len(part)
            if kept < KEPT_REJECT_BYTES:
                pieces.append(part[: KEPT_REJECT_BYTES - kept])
                kept += len(pieces[-1])
    if line := b"".join(pieces).strip():
        yield Line(position, line, size)


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
        raise CaratError(
            f"{source} is damaged or half-written ({error}): what could be read of it is stored; "
            "run the same command on the whole file, nothing is stored twice"
        ) from None
    if batch:
        yield batch


def _parquet_batches(
    raw: io.BufferedReader,
    source: str,
    now: datetime,
    max_record_bytes: int,
    *,
    ips: Addresses,
    on_bytes: Callable[[int], None],
) -> Iterator[Batch]:
    try:
        file = pq.ParquetFile(raw)
        position = 1
        for part in file.iter_batches(batch_size=_BATCH_RECORDS):
            for rows in _parquet_rows(part):
                yield read_rows(
                    rows, first_position=position, source=source, now=now, max_record_bytes=max_record_bytes, ips=ips
                )
                position += len(rows)
            on_bytes(raw.tell())
    except (pa.ArrowException, OSError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise CaratError(
            f"{source} is no whole Parquet file ({first_line}): write it again, then repeat this"
        ) from None


def _parquet_rows(part: pa.RecordBatch) -> Iterator[list[dict[str, Any] | UnreadableRow]]:
    """The rows of a batch; where one of them cannot be had in Python, row by row."""
    try:
        yield part.to_pylist()
    except (ValueError, OverflowError):  # text that is no UTF-8, years past 9999, nanoseconds
        for number in range(part.num_rows):
            row = part.slice(number, 1)
            try:
                yield row.to_pylist()
            except (ValueError, OverflowError) as error:
                yield [UnreadableRow(_row_bytes(row), str(error))]


def _row_bytes(row: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_batch(row)
    return bytes(sink.getvalue())
