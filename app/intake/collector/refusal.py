"""Why a request as a whole is refused: its status, and a reason that tells the sender what to do."""

from http import HTTPStatus


class RefusedRequestError(Exception):
    """Nothing of the request was taken. With `retry_after_s`, the same request may be taken later."""

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
