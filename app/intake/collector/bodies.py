"""From the bytes of a request to its records: decompressed within bounds, and taken apart, the broken ones, too."""

import re
import sys
import zlib
from http import HTTPStatus

import msgspec

from app.intake.collector.refusal import RefusedRequestError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODINGS = ("gzip", "zstd")
JSON_TYPES = frozenset({"application/json", "text/json"})
LINES_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})

_UTF8_MARK = b"\xef\xbb\xbf"
_MAX_WINDOW_LOG = 23  # 8 MB, the most that RFC 9659 lets a sender ask for
_MOST_STREAMS = 64
_MOST_LINES = 200_000  # blank ones, too
_LARGE_BYTES = 1024**2
_MANY_VALUES = 1_000_000  # of an array: were they all records of it, each would take up a multiple of its size
_MOST_SEPARATORS = 3_000_000  # of an array that is taken apart with care, which costs time
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)

_raw_array = msgspec.json.Decoder(list[msgspec.Raw])
_raw_value = msgspec.json.Decoder(msgspec.Raw)


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """What was compressed with gzip or zstd; RefusedRequestError where it is damaged or larger than the limit."""
    pieces: list[bytes] = []
    room = limit + 1
    try:
        for _ in range(_MOST_STREAMS):  # both may be several streams, one after the other
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
                raise RefusedRequestError(
                    HTTPStatus.BAD_REQUEST, f"the body is no whole {encoding} stream: it ends early"
                )
            data = decompressor.unused_data
            if not data:
                return b"".join(pieces)
    except (zlib.error, zstd.ZstdError) as error:
        raise RefusedRequestError(HTTPStatus.BAD_REQUEST, f"the body is no {encoding} stream: {error}") from None
    raise RefusedRequestError(HTTPStatus.BAD_REQUEST, f"the body is more than {_MOST_STREAMS} {encoding} streams")


def split_body(body: bytes, content_type: str) -> list[bytes] | None:
    """The records of a JSON array or of NDJSON, as they were sent; None for an array to be taken apart with care.

    The content type decides; where it does not fit what is there, what is there does.
    """
    body = body.removeprefix(_UTF8_MARK).strip()
    if not body:
        raise RefusedRequestError(HTTPStatus.BAD_REQUEST, "the body is empty: send a JSON array, or one record a line")
    if body.startswith(b"["):
        if len(body) > _LARGE_BYTES and body.count(b",") > _MANY_VALUES:
            return None
        records = _whole_array(body)
        return records if records is not None or content_type not in LINES_TYPES else _lines(body)
    return [body] if content_type not in LINES_TYPES and _is_json(body) else _lines(body)


def split_array_with_care(body: bytes, most: int) -> list[bytes]:
    """The elements of what is a JSON array but for some of them, or a very large one; takes a while.

    Strings and brackets tell where each ends. RefusedRequestError where they do not, or there are more than `most`.
    """
    body = body.removeprefix(_UTF8_MARK).strip()
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_SEPARATORS:
        raise RefusedRequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {_MOST_SEPARATORS} values: send less at once"
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
                require_few(len(records) + 1, most)
            case b"]" | b"}":
                depth -= 1
                if not depth:
                    if token.end() == len(body):
                        return [*records, body[start : token.start()].strip()]
                    break
            case b'"':  # of a text that does not end
                break
    raise RefusedRequestError(
        HTTPStatus.BAD_REQUEST, "the body is no whole JSON array: it ends early, or goes on after its end"
    )


def require_few(records: int, most: int) -> None:
    """Raise RefusedRequestError where a request has too many records."""
    if records > most:
        raise RefusedRequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"more than {most} records at once (CARAT_COLLECT_MAX_RECORDS): send less at once",
        )


def _decompressor(encoding: str) -> "zlib._Decompress | zstd.ZstdDecompressor":
    if encoding == "gzip":
        return zlib.decompressobj(wbits=31)
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})


def _too_large(limit: int) -> RefusedRequestError:
    return RefusedRequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {limit} bytes when decompressed: send less at once",
    )


def _lines(body: bytes) -> list[bytes]:
    lines = body.split(b"\n", _MOST_LINES)
    if len(lines) > _MOST_LINES:
        raise RefusedRequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {_MOST_LINES} lines: send less at once"
        )
    return [record for line in lines if (record := line.strip())]


def _whole_array(body: bytes) -> list[bytes] | None:
    """The elements of a JSON array; None where it is none. Text in them may still be no UTF-8."""
    try:
        return [bytes(record) for record in _raw_array.decode(body)]
    except (msgspec.DecodeError, RecursionError):
        return None


def _is_json(body: bytes) -> bool:
    try:
        _raw_value.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
