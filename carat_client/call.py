"""A call in progress: what the ASGI and the WSGI middleware share."""

from typing import Any, ClassVar

from carat_client.captured import Body, Captured, clock, is_json, new_call_id, now_ns
from carat_client.sender import CallSender

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Call:
    """Collects what the server says about one call, and queues the call once when it ends."""

    __slots__ = (
        "_clock", "_has_ended", "_headers", "_method", "_path", "_request", "_response", "_sender", "_started_ns",
        "status",
    )  # fmt: skip
    _CONTENT_TYPE: ClassVar[bytes | str] = b"content-type"
    _CONTENT_ENCODING: ClassVar[bytes | str] = b"content-encoding"

    def __init__(self, sender: CallSender, method: str, path: str) -> None:
        self._started_ns = now_ns()
        self._clock = clock()
        self._sender = sender
        self._method = method
        self._path = path
        self._headers: Any = {}
        self._request: Body | None = None
        self._response: Body | None = None
        self._has_ended = False
        self.status = 0

    def end(self, status: int) -> None:
        """Queue the call; only the first time counts."""
        if self._has_ended:
            return
        self._has_ended = True
        try:
            duration_s = clock() - self._clock
            sender = self._sender
            path, query, peer, context = self._request_line()
            sender.enqueue(
                Captured(
                    call_id=new_call_id(),
                    started_ns=self._started_ns,
                    duration_s=duration_s,
                    method=self._method,
                    path=path,
                    query=query,
                    peer=peer,
                    headers=self._headers,
                    extracted=sender.extract(context),
                    status=status,
                    request=self._request,
                    response=self._response,
                )
            )
        except Exception:  # noqa: BLE001  the shop's answer never depends on the capture
            self._sender.note_failure()

    def _request_line(self) -> tuple[str | bytes, str | bytes, str, Any]:
        """Path, query, the peer's address, and what extractors are called with."""
        raise NotImplementedError

    def _has_captured_request(self, content_type: bytes | str) -> bool:
        """Whether the request has a body that is captured."""
        return (
            self._method not in _WITHOUT_BODY
            and is_json(content_type)
            and self._sender.should_capture_bodies(self._method, self._path)
        )

    def _new_response(self, headers: Any) -> Body | None:
        """A body to fill with the response; None if it is not captured. Header names may be in any case."""
        content_type = encoding = ""
        for name, value in headers:
            if len(name) in {12, 16}:  # the lengths of the two names below
                lower = name.lower()
                if lower == self._CONTENT_TYPE:
                    content_type = value
                elif lower == self._CONTENT_ENCODING:
                    encoding = value
        if not is_json(content_type) or not self._sender.should_capture_bodies(self._method, self._path):
            return None
        return Body(self._sender.settings.max_body_bytes, encoding)
