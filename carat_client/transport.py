"""Posts batches to the collector over one persistent connection."""

import gzip
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Literal
from urllib.parse import urlsplit

from carat_client.settings import ClientSettings

_ENDPOINT = "/v1/calls"
_OK, _NOT_MODIFIED = 200, 300
_TOO_LARGE = 413
_RETRYABLE = frozenset({408, 425, 429})
_SERVER_ERRORS = 500
_LONGEST_ANSWER = 1024 * 1024
_LONGEST_RETRY_AFTER_S = 300.0


@dataclass(frozen=True)
class Outcome:
    """The result of sending a batch: `delivered`, `retry` later, `split` and resend, or `refused` for good."""

    kind: Literal["delivered", "retry", "split", "refused"]
    reason: str = ""
    rejected: int = 0
    retry_after_s: float | None = None


class Transport:
    """A connection to the collector, opened on the first batch. Used by the sender's thread only."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.url)
        self._is_secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._path = parts.path.rstrip("/").removesuffix(_ENDPOINT) + _ENDPOINT
        self._context: ssl.SSLContext | None = None
        self._connection: HTTPConnection | None = None

    def post(self, lines: Sequence[bytes], *, timeout_s: float | None = None) -> Outcome:
        """Send a batch. Reconnects once if the collector closed the idle connection."""
        body = gzip.compress(b"\n".join(lines), compresslevel=1, mtime=0)
        was_open = self._connection is not None
        try:
            return self._post(body, timeout_s)
        except TimeoutError:
            self.close()
            return Outcome("retry", "timeout")
        except (OSError, HTTPException) as error:
            self.close()
            if not was_open:
                return Outcome("retry", type(error).__name__)
        try:
            return self._post(body, timeout_s)
        except (OSError, HTTPException) as error:
            self.close()
            return Outcome("retry", type(error).__name__)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, body: bytes, timeout_s: float | None) -> Outcome:
        read_timeout_s = min(self._settings.read_timeout_s, timeout_s or self._settings.read_timeout_s)
        if self._connection is None:
            self._connection = self._connect(timeout_s)
        connection = self._connection
        connection.sock.settimeout(read_timeout_s)
        connection.request("POST", self._path, body=body, headers=self._headers())
        with connection.getresponse() as response:
            content = response.read(_LONGEST_ANSWER)
            if not response.isclosed():  # longer than any answer of a collector
                self.close()
            return _outcome(response, content)

    def _connect(self, timeout_s: float | None) -> HTTPConnection:
        connect_timeout_s = min(self._settings.connect_timeout_s, timeout_s or self._settings.connect_timeout_s)
        connection: HTTPConnection
        if self._is_secure:
            if self._context is None:
                self._context = ssl.create_default_context(cafile=self._settings.ca_file)
            connection = HTTPSConnection(self._host, self._port, timeout=connect_timeout_s, context=self._context)
        else:
            connection = HTTPConnection(self._host, self._port, timeout=connect_timeout_s)
        connection.connect()
        return connection

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._settings.write_key.strip()}",
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "gzip",
            "User-Agent": "carat-client",
        }


def _outcome(response: HTTPResponse, content: bytes) -> Outcome:
    status = response.status
    if _OK <= status < _NOT_MODIFIED:
        return Outcome("delivered", rejected=_rejected(content))
    if status == _TOO_LARGE:
        return Outcome("split", "413")
    if status in _RETRYABLE or status >= _SERVER_ERRORS:
        return Outcome("retry", str(status), retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")))
    return Outcome("refused", str(status))


def _rejected(content: bytes) -> int:
    try:
        rejected = json.loads(content)["rejected"]
        return len(rejected)
    except (ValueError, KeyError, TypeError):
        return 0


def _retry_after_s(text: str) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if text.strip().isdecimal():
        return min(float(text), _LONGEST_RETRY_AFTER_S)
    try:
        seconds = (parsedate_to_datetime(text) - datetime.now(tz=UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S)
