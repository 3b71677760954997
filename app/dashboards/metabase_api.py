"""A client of Metabase's REST API: JSON in, JSON out, every error as one readable line."""

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
"""The first version with everything Carat uses: several databases per ClickHouse connection, and MBQL 5 in and out."""

_TIMEOUT = Timeout(connect=10, read=180)  # Metabase tests a connection when saving it
_RETRIES = Retry(
    total=3, connect=2, other=0, allowed_methods={"GET"}, status_forcelist={502, 503, 504}, backoff_factor=0.2,
    raise_on_status=False,
)  # fmt: skip
_PAGE = 100
_LONGEST_MESSAGE = 500
_TAG = re.compile(r"v?[01]\.(?P<major>\d+)")


class NotFoundError(MetabaseError):
    """Metabase has no such object, or hides it from this key."""


class ForbiddenError(MetabaseError):
    """The API key lacks the permission."""


class RejectedError(MetabaseError):
    """Metabase rejected the content of the request."""


class Metabase:
    """A running Metabase, used with an API key. Error messages never contain a secret."""

    def __init__(self, url: str, key: SecretStr, *, secrets: tuple[str, ...] = ()) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._secrets = tuple(filter(None, (key.get_secret_value(), *secrets)))
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRIES)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # retries are not worth a warning

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, query=query)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask("POST", path, body=body or {})

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("PUT", path, body=body)

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """All items of a paginated listing."""
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
        """Metabase's version and the engines it supports; raises if the server is not Metabase, or too old."""
        try:
            found = self.get("/api/session/properties")
        except NotFoundError:
            self._raise_not_metabase()
        match found:
            case {"version": {"tag": str(tag)}}:
                number = _TAG.match(tag)
            case _:
                self._raise_not_metabase()
        if number and int(number["major"]) < OLDEST_VERSION:  # a build from a branch has no version number
            raise MetabaseError(
                f"{self.url} is Metabase {tag}: at least 0.{OLDEST_VERSION} is needed. Upgrade it, then push again"
            )
        if found.get("has-user-setup") is False:
            raise MetabaseError(
                f"{self.url} has not been set up: open it in a browser, create the first user and an API key"
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
            response = self._pool.request(method, url, headers=headers, body=content, redirect=False)
        except HTTPError as error:
            self._raise_no_response(error)
        if response.status >= 300:  # noqa: PLR2004
            self._raise_for_status(method, path, response)
        if not response.data:
            return None
        try:
            return json.loads(response.data)
        except ValueError:
            self._raise_not_metabase()

    def _raise_not_metabase(self) -> NoReturn:
        raise SettingsError(
            f"CARAT_METABASE_URL: {self.url} responds, but is not a Metabase. Check the address"
        ) from None

    def _raise_no_response(self, error: HTTPError) -> NoReturn:
        """Raise the error of a request without a response."""
        reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        if isinstance(reason, SSLError):
            raise MetabaseError(
                f"{self.url}: no trusted TLS connection ({_brief(reason)}). "
                "Check https:// and the certificate; set SSL_CERT_FILE for your own certificate authority"
            ) from None
        if isinstance(reason, NameResolutionError):
            raise MetabaseError(f"{self.url}: no such host. Check CARAT_METABASE_URL") from None
        if isinstance(reason, NewConnectionError):
            raise MetabaseError(
                f"{self.url} refuses the connection. Check CARAT_METABASE_URL, and that Metabase runs"
            ) from None
        if isinstance(reason, ConnectTimeoutError | ReadTimeoutError):
            raise MetabaseError(
                f"{self.url} does not respond in time. Check that Metabase runs, then push again"
            ) from None
        raise MetabaseError(f"{self.url}: {_brief(reason)}. Check that Metabase runs, then push again") from None

    def _raise_for_status(self, method: str, path: str, response: urllib3.BaseHTTPResponse) -> NoReturn:
        """Raise the error of an unsuccessful response."""
        where = f"{self.url} {method} {path}"
        message = self._message(response)
        match response.status:
            case 401:
                raise SettingsError(
                    f"CARAT_METABASE_API_KEY: {self.url} does not know this key. "
                    "Create one in Metabase: Admin > Settings > Authentication > API keys"
                )
            case 403:
                raise ForbiddenError(f"{where}: the API key lacks the permission. Grant it to the group of the key")
            case 404:
                raise NotFoundError(f"{where}: {message or 'not found'}")
            case status if status < 400:  # noqa: PLR2004
                target = response.headers.get("location", "elsewhere").partition("?")[0].removesuffix(path)
                raise SettingsError(f"CARAT_METABASE_URL: {self.url} redirects to {target}. Use that address")
            case 502 | 503 | 504:
                raise MetabaseError(
                    f"{self.url} is not ready ({response.status}). Wait until it has started, then push again"
                )
            case 400 | 422:
                raise RejectedError(f"{where}: Metabase rejects the request{': ' if message else ''}{message}")
            case status:
                raise MetabaseError(f"{where}: Metabase returns {status}{': ' if message else ''}{message}")

    def _message(self, response: urllib3.BaseHTTPResponse) -> str:
        """Metabase's error message in one line, without secrets."""
        text = response.data.decode(errors="replace").strip()
        if text.startswith("<"):  # an error page of another server
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
        """The message in one line of limited length, without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:_LONGEST_MESSAGE]


def rows(response: Any) -> list[dict[str, Any]]:
    """The rows of a listing: a list, or an object with the list as `data`."""
    found = response.get("data") if isinstance(response, dict) else response
    if not isinstance(found, list):
        raise MetabaseError("Metabase returns a listing that is not a list. Check for a proxy in between")
    return found


def with_note(error: CaratError, note: str) -> CaratError:
    """The error with a further sentence for the user."""
    return type(error)(f"{error}. {note}")


def _brief(error: Exception) -> str:
    text = str(error.args[-1] if error.args else error)
    return re.sub(r"^.*?Error\(\d*,?\s*", "", text).strip("')( ")[:200] or type(error).__name__


def _leaves(content: Any, path: str = "") -> Iterator[str]:
    """The messages in Metabase's nested errors, each with its path."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value, path)
    elif content:
        yield f"{path}: {content}" if path else str(content)
