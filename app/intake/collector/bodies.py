"""Turns a request body into records: decompresses it within limits and splits it, even if some records are invalid."""

import re
import zlib
from http import HTTPStatus

import msgspec

from app.core.json_text import with_whole_characters
from app.intake.collector.http_error import HTTPError
from app.intake.compression import zstd

ENCODINGS = ("gzip", "zstd")
JSON_TYPES = frozenset({"application/json", "text/json"})
LINES_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})

_UTF8_MARK = b"\xef\xbb\xbf"
_MAX_WINDOW_LOG = 23  # 8 MB, the maximum that RFC 9659 allows senders
_MAX_STREAMS = 64
_MAX_LINES = 200_000  # including blank lines
_LARGE_BYTES = 1024**2
_MANY_VALUES = 1_000_000  # commas of an array: if each separated records, decoding would take a multiple of its size
_MAX_SEPARATORS = 3_000_000  # of an array that is split token by token, which is slow
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)

_raw_array = msgspec.json.Decoder(list[msgspec.Raw])
_raw_value = msgspec.json.Decoder(msgspec.Raw)


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Decompress gzip or zstd; HTTPError if the data is invalid or larger than the limit."""
    pieces: list[bytes] = []
    room = limit + 1
    try:
        for _ in range(_MAX_STREAMS):  # both formats allow several concatenated streams
            decompressor = _decompressor(encoding)
            piece = decompressor.decompress(data, room)
            while piece or decompressor.eof:
                pieces.append(piece)
                room -= len(piece)
                if room <= 0:
                    raise _too_large(limit)
                if decompressor.eof:
                    break
                piece = decompressor.decompress(getattr(decompressor, "unconsumed_tail", b""), room)
            if not decompressor.eof:
                raise HTTPError(HTTPStatus.BAD_REQUEST, f"the body is not a complete {encoding} stream: it ends early")
            data = decompressor.unused_data
            if not data:
                return b"".join(pieces)
    except (zlib.error, zstd.ZstdError) as error:
        raise HTTPError(HTTPStatus.BAD_REQUEST, f"the body is not a {encoding} stream: {error}") from None
    raise HTTPError(HTTPStatus.BAD_REQUEST, f"the body has more than {_MAX_STREAMS} {encoding} streams")


def split_body(body: bytes, content_type: str) -> list[bytes] | None:
    """Split a JSON array or NDJSON into records, unchanged; None for an array that needs `split_invalid_array`.

    If the content type and the body disagree, the body decides.
    """
    body = body.removeprefix(_UTF8_MARK).strip()
    if not body:
        raise HTTPError(HTTPStatus.BAD_REQUEST, "the body is empty: send a JSON array or one record per line")
    if body.startswith(b"["):
        if len(body) > _LARGE_BYTES and body.count(b",") > _MANY_VALUES:
            return None
        records = _whole_array(body)
        return records if records is not None or content_type not in LINES_TYPES else _lines(body)
    return [body] if content_type not in LINES_TYPES and _is_json(body) else _lines(body)


def split_invalid_array(body: bytes, max_records: int) -> list[bytes]:
    """The elements of a JSON array of which some are invalid, or of a very large one. Slow.

    Strings and brackets determine where an element ends. HTTPError if they are unbalanced, or if there are more than
    `max_records` elements.
    """
    body = body.removeprefix(_UTF8_MARK).strip()
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_SEPARATORS:
        raise HTTPError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body has more than {_MAX_SEPARATORS} values: send smaller batches",
        )
    records: list[bytes] = []
    start, depth = 0, 0
    for token in _TOKEN.finditer(body):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                start = start or token.end()
            case b"," if depth == 1:
                records.append(body[start : token.start()].strip())
                start = token.end()
                require_max_records(len(records) + 1, max_records)
            case b"]" | b"}":
                depth -= 1
                if not depth:
                    if token.end() == len(body):
                        return [*records, body[start : token.start()].strip()]
                    break
            case b'"':  # an unterminated string
                break
    raise HTTPError(
        HTTPStatus.BAD_REQUEST, "the body is not a complete JSON array: it ends early or continues after its end"
    )


def require_max_records(records: int, max_records: int) -> None:
    """Raise HTTPError if a request has too many records."""
    if records > max_records:
        raise HTTPError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"more than {max_records} records (CARAT_COLLECT_MAX_RECORDS): send smaller batches",
        )


def _decompressor(encoding: str) -> "zlib._Decompress | zstd.ZstdDecompressor":
    if encoding == "gzip":
        return zlib.decompressobj(wbits=31)
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})


def _too_large(limit: int) -> HTTPError:
    return HTTPError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {limit} bytes when decompressed: send smaller batches",
    )


def _lines(body: bytes) -> list[bytes]:
    lines = body.split(b"\n", _MAX_LINES)
    if len(lines) > _MAX_LINES:
        raise HTTPError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {_MAX_LINES} lines: send smaller batches"
        )
    return [record for line in lines if (record := line.strip())]


def _whole_array(body: bytes) -> list[bytes] | None:
    """The elements of a valid JSON array; None if it is invalid. Their text may still be invalid UTF-8."""
    try:
        return [bytes(record) for record in _raw_array.decode(body)]
    except (msgspec.DecodeError, RecursionError):
        whole = with_whole_characters(body)  # a half of a surrogate pair need not cost the slow way
        return None if whole is body else _whole_array(whole)


def _is_json(body: bytes) -> bool:
    try:
        _raw_value.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
