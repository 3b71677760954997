"""Reads captured bodies: decompresses them, decodes their text, parses them as JSON or as a form.

Brotli and, before Python 3.14, Zstandard need a package of the shop's: `brotli` from version 1.2, `backports.zstd` or
`zstandard`. Without it, such a body is unreadable. Nothing is decompressed beyond the limit, whatever a client sends.
"""

import codecs
import json
import zlib
from collections.abc import Callable
from email.message import Message
from functools import lru_cache, partial
from typing import Any

from carat_client.captured import Body, is_form
from carat_client.forms import decode, read_form

TOO_LARGE = "larger than max_body_bytes"
_GZIP_OR_ZLIB, _RAW_DEFLATE = 47, -15  # window bits of zlib
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MOST_LAYERS = 4
_MOST_STREAMS = 64
_ZSTD_WINDOW_LOG = 23  # 8 MB, as RFC 9659 allows at most
# Others are slow for long texts, or no encodings of text.
_CHARSETS = (
    "ascii",
    "utf",
    "iso8859",
    "cp",
    "koi8",
    "mac",
    "gb",
    "big5",
    "shift",
    "euc",
    "iso2022",
    "hz",
    "tis",
    "ptcp",
)

Decompress = Callable[[bytes, int], bytes]


class UnreadBodyError(Exception):
    """A body that is sent as its size alone; `reason` comes from a fixed list, so that it can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_body(body: Body, limit: int) -> Any:
    """The content of a body; raises UnreadBodyError."""
    if not body.is_whole:
        raise UnreadBodyError(TOO_LARGE)
    plain = _plain(b"".join(body.chunks), decode(body.encoding), limit)
    content_type = decode(body.content_type)
    if is_form(body.content_type):
        try:
            return read_form(plain, content_type)
        except ValueError:
            raise UnreadBodyError("not a complete form, or one of more than 1,000 fields") from None
    try:
        return json.loads(_text(plain, content_type), parse_constant=lambda _: None)
    except UnicodeDecodeError:
        raise UnreadBodyError("not in UTF-8 or the declared charset") from None
    except (ValueError, RecursionError):
        raise UnreadBodyError("not JSON") from None


def _plain(content: bytes, encodings: str, limit: int) -> bytes:
    """The body without compression, including one that was applied but not declared."""
    names = [name.strip().lower() for name in encodings.split(",")]
    for name in reversed(names[:_MOST_LAYERS]):
        if name not in {"", "identity"}:
            content = _decompressed(content, name, limit)
    for _ in range(_MOST_LAYERS):
        undeclared = {_GZIP_MAGIC: "gzip", _ZSTD_MAGIC[:2]: "zstd"}.get(content[:2])
        if undeclared is None or (undeclared == "zstd" and content[:4] != _ZSTD_MAGIC):
            break
        content = _decompressed(content, undeclared, limit)
    return content


def _decompressed(content: bytes, encoding: str, limit: int) -> bytes:
    decompress = _decompressors().get(encoding.removeprefix("x-"))
    if decompress is None:
        raise UnreadBodyError(f"content encoding {encoding[:20]}")
    try:
        plain = decompress(content, limit)
    except Exception as error:
        if isinstance(error, UnreadBodyError):
            raise
        raise UnreadBodyError(f"not {encoding[:20]}, as it is declared") from None
    if len(plain) > limit:
        raise UnreadBodyError(TOO_LARGE)
    return plain


@lru_cache(maxsize=1)
def _decompressors() -> dict[str, Decompress]:
    """The decompressors that can be had here, by content encoding."""
    found: dict[str, Decompress | None] = {
        "gzip": _gunzip,
        "deflate": _inflate,
        "br": _brotli_decompressor(),
        "zstd": _zstd_decompressor(),
    }
    return {name: decompress for name, decompress in found.items() if decompress}


def _gunzip(content: bytes, limit: int) -> bytes:
    return _in_streams(content, limit, lambda: zlib.decompressobj(_GZIP_OR_ZLIB))


def _inflate(content: bytes, limit: int) -> bytes:
    """Deflate with the header of zlib, as it is defined, or without, as it is often sent."""
    try:
        return _gunzip(content, limit)
    except zlib.error:
        return _in_streams(content, limit, lambda: zlib.decompressobj(_RAW_DEFLATE))


def _in_streams(content: bytes, limit: int, decompressor: Callable[[], Any]) -> bytes:
    """The content of one or several streams; longer than the limit if there is more."""
    plain = b""
    for _ in range(_MOST_STREAMS):
        stream = decompressor()
        more: bytes = stream.decompress(content, limit + 1 - len(plain))
        plain += more
        if len(plain) > limit:
            return plain
        if not stream.eof:
            raise ValueError("incomplete")
        content = stream.unused_data
        if not content:
            return plain
    raise ValueError("too many streams")


def _brotli_decompressor() -> Decompress | None:
    try:
        import brotli  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: PLC0415  optional
    except ImportError:
        return None

    def decompress(content: bytes, limit: int) -> bytes:
        stream = brotli.Decompressor()
        plain: bytes = stream.process(content, output_buffer_limit=limit + 1)  # TypeError before 1.2: without a limit
        while len(plain) <= limit and not stream.is_finished():
            more = stream.process(b"", output_buffer_limit=limit + 1)
            if not more:
                raise ValueError("incomplete")
            plain += more
        return plain

    return decompress


def _zstd_decompressor() -> Decompress | None:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            zstd = __import__(name, fromlist=["ZstdDecompressor"])
        except ImportError:
            continue
        return partial(_of_standard_zstd, zstd)
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415  optional
    except ImportError:
        return None

    def decompress(content: bytes, limit: int) -> bytes:
        decompressor = zstandard.ZstdDecompressor(max_window_size=2**_ZSTD_WINDOW_LOG)
        plain: bytes = decompressor.stream_reader(content, read_across_frames=True).read(limit + 1)
        return plain

    return decompress


def _of_standard_zstd(zstd: Any, content: bytes, limit: int) -> bytes:
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return _in_streams(content, limit, lambda: zstd.ZstdDecompressor(options=options))


def _text(content: bytes, content_type: str) -> bytes | str:
    """The text in its declared charset; without one, JSON tells its own by the first bytes."""
    charset = _charset(content_type)
    return content.decode(charset) if charset else content


@lru_cache(maxsize=64)
def _charset(content_type: str) -> str:
    """The charset that a content type declares; empty for UTF-8, UTF-16 and UTF-32, and for unknown ones."""
    if "charset" not in content_type.lower():
        return ""
    header = Message()
    header["Content-Type"] = content_type
    try:
        name = codecs.lookup(str(header.get_param("charset", ""))).name
    except (LookupError, ValueError):
        return ""
    return name if name.startswith(_CHARSETS) and not name.startswith("utf") else ""
