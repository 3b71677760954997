"""Receives batches of calls: reads, splits and validates them, writes them to the spool, then acknowledges them."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec

from app.core import console
from app.core.call_record import epoch_ms
from app.intake.collector.asgi import Answer, Body
from app.intake.collector.bodies import (
    ENCODINGS,
    JSON_TYPES,
    LINES_TYPES,
    decompress,
    require_max_records,
    split_body,
    split_invalid_array,
)
from app.intake.collector.http_error import HTTPError
from app.intake.collector.keys import WriteKeys
from app.intake.collector.metrics import Metrics
from app.intake.collector.validation import Rejection, ValidationResult, in_turns, validate
from app.intake.spool import Spool, SpoolError, SpoolFullError
from app.settings import Settings

_TYPES = JSON_TYPES | LINES_TYPES
_RETRY_S = 1  # after a problem that passes soon
_RETRY_SPOOL_S = 5
_THREAD_BYTES = 8 * 1024  # larger bodies, which can become very large, are decompressed in a thread
_UNREAD_BODIES = (b'{"_unreadable":', b'{"_truncated":')  # as the middleware writes it
_DISK_FAILURE_S = 10.0  # how long a failed write makes the collector unready, unless one succeeds
_FULL_S = 2.0  # the same for a full disk, which may have space again at any moment


class _Acknowledgement(msgspec.Struct):
    accepted: int
    rejected: Sequence[Rejection]


_encode = msgspec.json.Encoder().encode


class Receiver:
    """Receives batches of calls into the spool."""

    def __init__(self, settings: Settings, keys: WriteKeys, spool: Spool, metrics: Metrics) -> None:
        self._settings = settings
        self._limits = replace(settings.record_limits, max_record_bytes=settings.collect_max_record_bytes)
        self._keys = keys
        self._spool = spool
        self._metrics = metrics
        self._failure = ""
        self._failing_until = 0.0
        self.held_bytes = 0

    @property
    def disk_problem(self) -> str:
        """The error of the latest write if it failed recently; otherwise empty."""
        return self._failure if time.monotonic() < self._failing_until else ""

    async def receive(self, headers: Mapping[bytes, bytes], body: Body) -> Answer:
        """Receive the calls of a request; they are on disk when this returns."""
        started = time.perf_counter()
        self._require_key(headers)
        content_type, encoding = _content_type(headers), _content_encoding(headers)
        with self._holding() as hold:
            data = await body.read(limit=self._settings.collect_max_body_bytes, hold=hold)
            body_bytes = len(data)
            if encoding:
                data = await self._decompressed(data, encoding)
                hold(len(data))
            unread_bodies = sum(map(data.count, _UNREAD_BODIES))
            records = split_body(data, content_type)
            if records is None:
                records = await asyncio.to_thread(split_invalid_array, data, self._settings.collect_max_records)
            result = await self._validate_and_store(records)
        seconds = time.perf_counter() - started
        self._metrics.count_batch(
            len(result.accepted), result.reasons, body_bytes=body_bytes, unread_bodies=unread_bodies, seconds=seconds
        )
        return Answer(HTTPStatus.OK, _encode(_Acknowledgement(len(result.accepted), result.rejections)))

    def _require_key(self, headers: Mapping[bytes, bytes]) -> None:
        if not self._keys.admits(headers.get(b"authorization", b"")):
            raise HTTPError(
                HTTPStatus.UNAUTHORIZED,
                "no valid write key: send `Authorization: Bearer` with one of CARAT_WRITE_KEYS",
                headers=((b"www-authenticate", b"Bearer"),),
            )

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes that a request holds until it is answered; HTTPError if all requests hold too many."""
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            if self.held_bytes + more > self._settings.collect_max_held_bytes:
                raise HTTPError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "too many bytes in progress (CARAT_COLLECT_MAX_HELD_BYTES): send it again later",
                    retry_after_s=_RETRY_S,
                )
            held += more
            self.held_bytes += more

        try:
            hold(0)
            yield hold
        finally:
            self.held_bytes -= held

    async def _decompressed(self, data: bytes, encoding: str) -> bytes:
        limit = self._settings.collect_max_decompressed_bytes
        if len(data) < _THREAD_BYTES:
            return decompress(data, encoding, limit)
        return await asyncio.to_thread(decompress, data, encoding, limit)

    async def _validate_and_store(self, records: Sequence[bytes]) -> ValidationResult:
        require_max_records(len(records), self._settings.collect_max_records)
        now = datetime.now(tz=UTC)
        result = await validate(await self._with_treated_addresses(records), now=now, limits=self._limits)
        try:
            await self._spool.append(result.accepted, received_at_ms=epoch_ms(now), rejected=result.rejected)
        except SpoolError as error:
            self._note_failure(error)
            raise HTTPError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "there is no space for more calls now" if isinstance(error, SpoolFullError) else "the disk failed",
                retry_after_s=_RETRY_SPOOL_S,
            ) from None
        if self._failure:
            console.log.info("calls can be written again", failed_before=self._failure)
            self._failure = ""
        return result

    async def _with_treated_addresses(self, records: Sequence[bytes]) -> Sequence[bytes]:
        addresses = self._limits.addresses
        if addresses.are_kept:
            return records
        return [addresses.in_bytes(records[index]) async for index in in_turns(range(len(records)), records)]

    def _note_failure(self, error: SpoolError) -> None:
        if not self._failure:
            console.log.error("calls cannot be written, requests are answered with 503", error=str(error))
        self._failure = str(error)
        lasts_s = _FULL_S if isinstance(error, SpoolFullError) else _DISK_FAILURE_S
        self._failing_until = time.monotonic() + lasts_s


def _content_type(headers: Mapping[bytes, bytes]) -> str:
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if content_type and content_type not in _TYPES:
        raise HTTPError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{content_type} is not supported: send a JSON array as application/json, or one record per line "
            "as application/x-ndjson",
            headers=((b"accept", b"application/json, application/x-ndjson"),),
        )
    return content_type


def _content_encoding(headers: Mapping[bytes, bytes]) -> str:
    encoding = headers.get(b"content-encoding", b"").strip().lower().decode("latin-1").removeprefix("x-")
    if encoding in {"", "identity"}:
        return ""
    if encoding not in ENCODINGS:
        raise HTTPError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content encoding {encoding} is not supported: send {' or '.join(ENCODINGS)}, or none",
            headers=((b"accept-encoding", ", ".join(ENCODINGS).encode()),),
        )
    return encoding
