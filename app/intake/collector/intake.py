"""What becomes of a batch of calls: read, taken apart, judged, put on disk, and then acknowledged."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import msgspec

from app.core import console
from app.intake.collector.asgi import Answer, Body
from app.intake.collector.bodies import (
    ENCODINGS,
    JSON_TYPES,
    LINES_TYPES,
    decompress,
    require_few,
    split_array_with_care,
    split_body,
)
from app.intake.collector.keys import WriteKeys
from app.intake.collector.metrics import Metrics
from app.intake.collector.refusal import RefusedRequestError
from app.intake.collector.verdicts import Judged, Rejected, judge
from app.intake.spool import Spool, SpoolError, SpoolFullError
from app.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_TYPES = JSON_TYPES | LINES_TYPES
_RETRY_S = 1  # after what passes soon
_RETRY_SPOOL_S = 5
_ASIDE_BYTES = 8 * 1024  # what is larger, and so may become very large, is decompressed beside other requests
_TROUBLE_S = 10.0  # how long a failure of the disk counts where nothing was written since
_NO_ROOM_S = 2.0  # there may be room again at any moment


class _Acknowledgement(msgspec.Struct):
    accepted: int
    rejected: Sequence[Rejected]


_encode = msgspec.json.Encoder().encode


class Intake:
    """Takes batches of calls into the spool."""

    def __init__(self, settings: Settings, keys: WriteKeys, spool: Spool, metrics: Metrics) -> None:
        self._settings = settings
        self._ips = settings.addresses
        self._keys = keys
        self._spool = spool
        self._metrics = metrics
        self._failure = ""
        self._in_trouble_until = 0.0
        self.held_bytes = 0

    @property
    def trouble(self) -> str:
        """What the disk failed with, if that was just now and nothing could be written since."""
        return self._failure if time.monotonic() < self._in_trouble_until else ""

    async def take(self, headers: Mapping[bytes, bytes], body: Body) -> Answer:
        """Take the calls of a request: they are on disk when this returns."""
        begun = time.perf_counter()
        self._require_key(headers)
        content_type, encoding = _content_type(headers), _content_encoding(headers)
        with self._holding() as hold:
            data = await body.read(limit=self._settings.collect_max_body_bytes, hold=hold)
            body_bytes = len(data)
            if encoding:
                data = await self._decompressed(data, encoding)
                hold(len(data))
            records = split_body(data, content_type)
            if records is None:
                records = await asyncio.to_thread(split_array_with_care, data, self._settings.collect_max_records)
            judged = await self._judge_and_store(records)
        seconds = time.perf_counter() - begun
        self._metrics.took(len(judged.taken), judged.reasons, body_bytes=body_bytes, seconds=seconds)
        return Answer(HTTPStatus.OK, _encode(_Acknowledgement(len(judged.taken), judged.rejected)))

    def _require_key(self, headers: Mapping[bytes, bytes]) -> None:
        if not self._keys.admits(headers.get(b"authorization", b"")):
            raise RefusedRequestError(
                HTTPStatus.UNAUTHORIZED,
                "no write key that holds: send `Authorization: Bearer` and one of CARAT_WRITE_KEYS",
                headers=((b"www-authenticate", b"Bearer"),),
            )

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Counts the bytes that a request takes up until it is answered, and refuses them where there are too many."""
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            if self.held_bytes + more > self._settings.collect_max_held_bytes:
                raise RefusedRequestError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "more comes in than can be taken now (CARAT_COLLECT_MAX_HELD_BYTES): send it again later",
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
        if len(data) < _ASIDE_BYTES:
            return decompress(data, encoding, limit)
        return await asyncio.to_thread(decompress, data, encoding, limit)

    async def _judge_and_store(self, records: Sequence[bytes]) -> Judged:
        require_few(len(records), self._settings.collect_max_records)
        now = datetime.now(tz=UTC)
        judged = await judge(
            self._ips.in_records(records),
            now=now,
            max_bytes=self._settings.collect_max_record_bytes,
            max_nesting=self._settings.max_nesting,
        )
        try:
            await self._spool.append(
                judged.taken, received_at_ms=(now - _EPOCH) // _MILLISECOND, refused=judged.refused
            )
        except SpoolError as error:
            self._note_failure(error)
            raise RefusedRequestError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "there is no room for more calls now" if isinstance(error, SpoolFullError) else "the disk fails",
                retry_after_s=_RETRY_SPOOL_S,
            ) from None
        if self._failure:
            console.log.info("calls are written again", failed_before=self._failure)
            self._failure = ""
        return judged

    def _note_failure(self, error: SpoolError) -> None:
        if not self._failure:
            console.log.error("calls cannot be written, and are refused", error=str(error))
        self._failure = str(error)
        lasts_s = _NO_ROOM_S if isinstance(error, SpoolFullError) else _TROUBLE_S
        self._in_trouble_until = time.monotonic() + lasts_s


def _content_type(headers: Mapping[bytes, bytes]) -> str:
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if content_type and content_type not in _TYPES:
        raise RefusedRequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{content_type} is not taken: send a JSON array as application/json, or one record a line "
            "as application/x-ndjson",
            headers=((b"accept", b"application/json, application/x-ndjson"),),
        )
    return content_type


def _content_encoding(headers: Mapping[bytes, bytes]) -> str:
    encoding = headers.get(b"content-encoding", b"").strip().lower().decode("latin-1").removeprefix("x-")
    if encoding in {"", "identity"}:
        return ""
    if encoding not in ENCODINGS:
        raise RefusedRequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content encoding {encoding} is not taken: send {' or '.join(ENCODINGS)}, or none",
            headers=((b"accept-encoding", ", ".join(ENCODINGS).encode()),),
        )
    return encoding
