"""Metabase's REST API over one pool of connections: JSON in, JSON out, and every refusal as one readable line."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any, NoReturn
from urllib.parse import urlencode

import urllib3
from pydantic import SecretStr
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout

from app import __version__
from app.core.errors import CaratError, MetabaseError, SettingsError

OLDEST_VERSION = 58
"""First version with all of what is used: several databases in one ClickHouse connection, and MBQL 5 in both ways."""

_TIMEOUT = Timeout(connect=10, read=180)  # saving a connection makes Metabase try it
_RETRIES = Retry(
    total=3, connect=2, other=0, allowed_methods={"GET"}, status_forcelist={502, 503, 504}, backoff_factor=0.2,
    raise_on_status=False,
)  # fmt: skip
_PAGE = 100
_LONGEST_MESSAGE = 500
_TAG = re.compile(r"v?[01]\.(?P<major>\d+)")


class NotFoundError(MetabaseError):
    """Metabase has no such thing, or this key may not know of it."""


class ForbiddenError(MetabaseError):
    """Metabase knows the key, and does not let it do that."""


class RejectedError(MetabaseError):
    """Metabase understood the request, and what it asks for cannot be."""


class Metabase:
    """A running Metabase, spoken to with an API key. What leaves here never holds a secret."""

    def __init__(self, url: str, key: SecretStr, *, secrets: tuple[str, ...] = ()) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._secrets = tuple(filter(None, (key.get_secret_value(), *secrets)))
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRIES)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # that it tries again is no news

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, query=query)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask("POST", path, body=body or {})

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("PUT", path, body=body)

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """The items of a listing that comes in pages."""
        offset = 0
        while True:
            page = self.get(path, limit=_PAGE, offset=offset, **query)
            items = rows(page)
            yield from items
            offset += len(items)
            total = page.get("total") if isinstance(page, dict) else None
            if not items or len(items) < _PAGE or (total is not None and offset >= total):
                return

    def properties(self) -> dict[str, Any]:
        """What this Metabase is: its version, the engines it can connect to; raises if it is none, or too old."""
        try:
            found = self.get("/api/session/properties")
        except NotFoundError:
            self._refuse_stranger()
        match found:
            case {"version": {"tag": str(tag)}}:
                number = _TAG.match(tag)
            case _:
                self._refuse_stranger()
        if number and int(number["major"]) < OLDEST_VERSION:  # what is built from a branch has no number
            raise MetabaseError(
                f"{self.url} is Metabase {tag}: at least 0.{OLDEST_VERSION} is needed. Upgrade it, then push again"
            )
        if found.get("has-user-setup") is False:
            raise MetabaseError(
                f"{self.url} has never been set up: open it in a browser, make the first user and a key"
            )
        return dict(found)

    def _ask(
        self, method: str, path: str, *, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None
    ) -> Any:
        headers = {
            "x-api-key": self._key.get_secret_value(),
            "accept": "application/json",
            "user-agent": f"carat/{__version__}",
        }
        fields = [
            (name, str(one).lower() if isinstance(one, bool) else str(one))
            for name, value in (query or {}).items()
            for one in (value if isinstance(value, list | tuple) else [value])
        ]
        if body is not None:
            headers["content-type"] = "application/json"
        content = None if body is None else json.dumps(body).encode()
        url = self.url + path + (f"?{urlencode(fields)}" if fields else "")
        try:
            answer = self._pool.request(method, url, headers=headers, body=content, redirect=False)
        except HTTPError as error:
            self._refuse_silence(error)
        if answer.status >= 300:  # noqa: PLR2004
            self._refuse(method, path, answer)
        if not answer.data:
            return None
        try:
            return json.loads(answer.data)
        except ValueError:
            self._refuse_stranger()

    def _refuse_stranger(self) -> NoReturn:
        raise SettingsError(f"CARAT_METABASE_URL: {self.url} answers, but is no Metabase. Check the address") from None

    def _refuse_silence(self, error: HTTPError) -> NoReturn:
        """Raise what a request that got no answer means."""
        reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        if isinstance(reason, SSLError):
            raise MetabaseError(
                f"{self.url}: no trusted TLS connection ({_brief(reason)}). "
                "Check https:// and the certificate; one of your own authority is named in SSL_CERT_FILE"
            ) from None
        if isinstance(reason, NameResolutionError):
            raise MetabaseError(f"{self.url}: no such host. Check CARAT_METABASE_URL") from None
        if isinstance(reason, NewConnectionError):
            raise MetabaseError(
                f"{self.url} refuses the connection. Check CARAT_METABASE_URL, and that Metabase runs"
            ) from None
        if isinstance(reason, ConnectTimeoutError | ReadTimeoutError):
            raise MetabaseError(
                f"{self.url} does not answer in time. Check that Metabase runs, then push again"
            ) from None
        raise MetabaseError(f"{self.url}: {_brief(reason)}. Check that Metabase runs, then push again") from None

    def _refuse(self, method: str, path: str, answer: urllib3.BaseHTTPResponse) -> NoReturn:
        """Raise what an answer that is no success means."""
        where = f"{self.url} {method} {path}"
        said = self._message(answer)
        match answer.status:
            case 401:
                raise SettingsError(
                    f"CARAT_METABASE_API_KEY: {self.url} does not know this key. "
                    "Make one in Metabase: Admin > Settings > Authentication > API keys"
                )
            case 403:
                raise ForbiddenError(
                    f"{where}: the API key may not do that. Give its group the right, or use Administrators'"
                )
            case 404:
                raise NotFoundError(f"{where}: {said or 'not found'}")
            case status if status < 400:  # noqa: PLR2004
                target = answer.headers.get("location", "elsewhere").partition("?")[0].removesuffix(path)
                raise SettingsError(f"CARAT_METABASE_URL: {self.url} sends on to {target}. Set that address")
            case 502 | 503 | 504:
                raise MetabaseError(
                    f"{self.url} is not ready ({answer.status}). Wait until it has started, then push again"
                )
            case 400 | 422:
                raise RejectedError(f"{where}: Metabase refuses that{': ' if said else ''}{said}")
            case status:
                raise MetabaseError(f"{where}: Metabase answers {status}{': ' if said else ''}{said}")

    def _message(self, answer: urllib3.BaseHTTPResponse) -> str:
        """What Metabase says of a refusal, in one line and without a secret."""
        text = answer.data.decode(errors="replace").strip()
        if text.startswith("<"):  # a page of somebody else
            return ""
        try:
            content = json.loads(text)
        except ValueError:
            content = text
        if isinstance(content, dict):
            parts = [content.get("message"), *_leaves(content.get("specific-errors") or content.get("errors"))]
            content = "; ".join(dict.fromkeys(str(part) for part in parts if part)) or text
        return self.clean(str(content))

    def clean(self, text: str) -> str:
        """A message in one line of bearable length, without a secret."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:_LONGEST_MESSAGE]


def rows(answer: Any) -> list[dict[str, Any]]:
    """The rows of a listing, which is a list, or an object with the list as `data`."""
    found = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(found, list):
        raise MetabaseError("Metabase answers a listing that is no list: is another server in between?")
    return found


def whole(error: CaratError, note: str) -> CaratError:
    """The error with what else a user must know of it."""
    return type(error)(f"{error}. {note}")


def _brief(error: Exception) -> str:
    text = str(error.args[-1] if error.args else error)
    return re.sub(r"^.*?Error\(\d*,?\s*", "", text).strip("')( ")[:200] or type(error).__name__


def _leaves(content: Any, path: str = "") -> Iterator[str]:
    """The messages in Metabase's nested errors, each with the path it stands at."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value, path)
    elif content:
        yield f"{path}: {content}" if path else str(content)
