"""Checks call records as columns, a block at a time, with the same result as `read_line` of each.

Each record is decoded by the same JSON decoder that `app.core.call_record` uses, into fields of the usual types, and
the rules are applied to columns. A value that is not in its usual form is judged by the function that judges it there.
A record that needs more is left to `read_line`, which alone rejects.
"""

from collections.abc import Callable, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from app.contracts import API_CALLS
from app.core.call_record import (
    CONTENT_FIELDS,
    CONTENT_SEPARATOR,
    COUNT_LIMITS,
    REQUIRED_FIELDS,
    TEXT_FIELDS,
    RecordLimits,
    RejectedRecordError,
    count_of,
    moment_ms,
    text_digest,
    text_of,
    valid_text,
)
from app.core.json_text import is_deeper

_DOCUMENTS = ("request", "response")
_USUAL_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,9})?Z$"
_USUAL_ID = r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
_FAR_MS = 2**62

_Id = str | int | float | None
_Text = str | None


class _UsualRecord(msgspec.Struct, gc=False):
    """A call record whose fields have the types that are usual; the defaults stand for missing fields."""

    ts: str | int | float | None = None
    method: _Text = None
    endpoint: _Text = None
    call_id: _Text = None
    visitor_id: _Id = None
    session_token: _Id = None
    user_id: _Id = None
    status: _Id = None
    duration_ms: _Id = None
    ip: _Text = None
    user_agent: _Text = None
    referrer: _Text = None
    page_url: _Text = None
    request: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")


class PlainCalls(NamedTuple):
    """The calls among a block's records, in the shape of `pd.api_calls`, and which records they are (Boolean)."""

    calls: pl.DataFrame
    is_plain: pl.Series


_UNUSUAL = _UsualRecord()  # in the place of a record that could not be decoded: without a time it is no call
_decode = msgspec.json.Decoder(_UsualRecord).decode


def plain_calls(
    records: Sequence[bytes], *, sizes: Sequence[int], received_ms: Sequence[int] | int, limits: RecordLimits
) -> PlainCalls:
    """The records that are calls as far as their columns show; the others need `read_line`.

    In: per record its bytes, its full size, and when it was received (or one time for all), in epoch ms.
    """
    decoded = _decoded(_whole_texts(records))
    values = {name: list(map(attrgetter(name), decoded)) for name in _UsualRecord.__struct_fields__}
    del decoded
    columns = {name: _texts(values.pop(name), name) for name in TEXT_FIELDS}
    columns |= {name: _counts(values.pop(name), limit) for name, limit in COUNT_LIMITS.items()}
    columns |= {name: _documents(values.pop(name)) for name in _DOCUMENTS}
    columns |= {"ts": _moments(values.pop("ts")), "call_id": _call_ids(values.pop("call_id"))}
    if not limits.addresses.are_kept:
        treat = limits.addresses.treat
        treated = [None if address is None else treat(address) for address in columns["ip"]]
        columns["ip"] = pl.Series(treated, dtype=pl.String)

    received = pl.Series(received_ms, dtype=pl.Int64) if not isinstance(received_ms, int) else pl.lit(received_ms)
    calls = pl.DataFrame(columns).with_columns(received_at=received)
    is_plain = calls.select(
        pl.all_horizontal(pl.col(*columns).is_not_null())
        & pl.all_horizontal(pl.col(REQUIRED_FIELDS) != "")
        & limits.contain(pl.col("ts"), pl.col("received_at"))
        & pl.Series(_are_small(records, sizes, limits), dtype=pl.Boolean)
    ).to_series()
    calls = calls if is_plain.all() else calls.filter(is_plain)
    calls = _with_derived_ids(calls).with_columns(pl.col("ts", "received_at").cast(pl.Datetime("ms", "UTC")))
    return PlainCalls(calls.select(API_CALLS.schema.names()).cast(pl.Schema(API_CALLS.schema)), is_plain)


def content_digests(calls: pl.DataFrame) -> list[bytes]:
    """The digest of each call's content, as `content_digest` computes it; `ts` in epoch ms."""
    texts = calls.select(
        pl.concat_str([pl.col(name).cast(pl.String) for name in CONTENT_FIELDS], separator=CONTENT_SEPARATOR)
    )
    return list(map(text_digest, texts.to_series().cast(pl.Binary)))


def _decoded(records: Sequence[bytes]) -> list[_UsualRecord]:
    decoded: list[_UsualRecord] = []
    remaining = iter(records)
    while len(decoded) < len(records):
        try:
            for record in map(_decode, remaining):
                decoded.append(record)  # noqa: PERF402  what came before an error stays
        except (msgspec.MsgspecError, RecursionError):
            decoded.append(_UNUSUAL)
    return decoded


def _whole_texts(records: Sequence[bytes]) -> Sequence[bytes]:
    """The records, empty where the bytes are not valid UTF-8 or have an escaped half of a surrogate pair.

    The decoder does not check texts that it leaves as they are.
    """
    suspects = [data for data in records if not data.isascii() or (b"\\" in data and b"\\u" in data)]
    if _is_whole(b"\n".join(suspects)):
        return records
    return [data if _is_whole(data) else b"" for data in records]


def _is_whole(data: bytes) -> bool:
    try:
        return valid_text(data) is data
    except RejectedRecordError:
        return False


def _are_small(records: Sequence[bytes], sizes: Sequence[int], limits: RecordLimits) -> np.ndarray:
    """Which records are within the limits of size and nesting."""
    count = len(records)
    brackets = np.fromiter(map(bytes.count, records, repeat(b"{")), np.int64, count)
    brackets += np.fromiter(map(bytes.count, records, repeat(b"[")), np.int64, count)
    are_small = np.fromiter(sizes, np.int64, count) <= limits.max_record_bytes
    for index in np.flatnonzero((brackets > limits.max_nesting) & are_small).tolist():
        are_small[index] = not is_deeper(records[index], limits.max_nesting)
    return are_small


# ---- columns: null where a value has to be rejected, or needs `read_line` -------------------------------------------


def _texts(values: list[Any], name: str) -> pl.Series:
    try:
        return pl.Series(values, dtype=pl.String).fill_null("")
    except (TypeError, OverflowError):  # a number among them
        return pl.Series([_accepted(text_of, value, name) for value in values], dtype=pl.String)


def _counts(values: list[Any], limit: int) -> pl.Series:
    try:
        return pl.Series(values, dtype=pl.Int64).fill_null(0).clip(0, limit - 1)
    except (TypeError, OverflowError):  # a text, a fraction or a very large number among them
        return pl.Series([count_of(value, limit) for value in values], dtype=pl.Int64)


def _moments(values: list[Any]) -> pl.Series:
    texts = pl.Series([value if isinstance(value, str) else None for value in values], dtype=pl.String)
    is_usual = texts.str.contains(_USUAL_TIME)
    moments = (
        pl.select(pl.when(is_usual).then(texts.str.strip_suffix("Z")))
        .to_series()
        .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="ms", strict=False)
        .dt.epoch("ms")
    )
    if not moments.has_nulls():
        return moments
    others = [_accepted(moment_ms, values[index]) for index in moments.is_null().arg_true()]
    return moments.scatter(moments.is_null().arg_true(), [_in_64_bits(moment) for moment in others])


def _call_ids(values: list[Any]) -> pl.Series:
    """The ids as 16 bytes, empty where there is none."""
    texts = pl.Series(values, dtype=pl.String).fill_null("")
    is_usual = texts.str.contains(_USUAL_ID)
    ids = pl.select(pl.when(is_usual | (texts == "")).then(texts.str.replace_all("-", "", literal=True))).to_series()
    return ids.str.decode("hex", strict=False)


def _documents(values: list[msgspec.Raw]) -> pl.Series:
    """The JSON texts, which are known to be UTF-8; empty where there is none."""
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
    array = pa.LargeStringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)))
    texts = pl.Series(array)
    is_null = texts == "null"
    return texts.set(is_null, "") if is_null.any() else texts


def _in_64_bits(moment: int | None) -> int | None:
    return moment if moment is not None and abs(moment) < _FAR_MS else None


def _accepted(read: Callable[..., Any], *given: Any) -> Any:
    try:
        return read(*given)
    except RejectedRecordError:
        return None


def _with_derived_ids(calls: pl.DataFrame) -> pl.DataFrame:
    has_none = calls["call_id"].bin.size() == 0
    if not has_none.any():
        return calls
    ids = pl.Series(content_digests(calls.filter(has_none)), dtype=pl.Binary)
    return calls.with_columns(calls["call_id"].scatter(has_none.arg_true(), ids))
