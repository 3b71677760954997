"""Recognizes by its first bytes what a source is that holds no call records as it stands, and says how to fix it."""

from app.core.errors import SourceError

GZIP, ZSTD, PARQUET = "gzip", "zstd", "Parquet"
_MAGICS = (
    (b"\x1f\x8b", GZIP),
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"PAR1", PARQUET),
    (b"PARE", "encrypted Parquet"),
    (b"\xfd7zXZ", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "a zip archive"),
    (b"ARROW1", "Arrow"),
    (b"ORC", "ORC"),
    (b"Obj\x01", "Avro"),
    (b"SQLite format 3", "a SQLite database"),
)
_SKIPPABLE_FRAME = (range(0x50, 0x60), b"\x2a\x4d\x18")  # of zstd: any of sixteen first bytes, then these
_UTF_16 = {b"\xff\xfe", b"\xfe\xff"} | {
    first.encode(code) for first in "{[ \r\n" for code in ("utf-16-le", "utf-16-be")
}
_PACKED = frozenset({GZIP, ZSTD, "xz", "bzip2", "lz4", "a zip archive"})
LONGEST_MAGIC = 16


def format_of(start: bytes) -> str:
    """The name of the format; empty for text in one byte a character."""
    first, rest = _SKIPPABLE_FRAME
    if start[1:4] == rest and start[0] in first:
        return ZSTD
    if start[:2] in _UTF_16:
        return "UTF-16"
    return next((name for magic, name in _MAGICS if start.startswith(magic)), "")


def require_text(start: bytes, source: str, *, is_unpacked: bool) -> None:
    """Raise SourceError unless the source, as read or after decompression, is text in one byte a character."""
    kind = format_of(start)
    if not kind:
        return
    if kind == "UTF-16":
        raise SourceError(f"{source} is in UTF-16, not UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`")
    if is_unpacked and kind in _PACKED:
        raise SourceError(f"{source} is compressed twice, inside as {kind}: decompress it once")
    if is_unpacked:
        raise SourceError(f"{source} is compressed {kind}: decompress it and name the file inside")
    fix = "decompress it" if kind in _PACKED else "write it as NDJSON or as Parquet without encryption"
    raise SourceError(f"{source} is {kind}, not NDJSON or Parquet: {fix}")
