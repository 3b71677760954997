"""The error that answers a request with a status other than 200."""

from http import HTTPStatus


class HTTPError(Exception):
    """The request is answered with this status and nothing of it is stored. `retry_after_s`: it may succeed later."""

    def __init__(
        self,
        status: HTTPStatus,
        reason: str,
        *,
        retry_after_s: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers
        if retry_after_s is not None:
            self.headers += ((b"retry-after", str(retry_after_s).encode()),)
