"""A call in progress: what the ASGI and the WSGI middleware share."""

from typing import Any, ClassVar

from carat_client.captured import Body, Captured, clock, is_form, is_json, new_call_id, now_ns
from carat_client.sender import CallSender

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Call:
    """Collects what the server says about one call, and queues the call once when it ends."""

    __slots__ = (
        "_clock", "_has_ended", "_headers", "_method", "_path", "_request", "_response", "_sender", "_set_cookies",
        "_started_ns", "status",
    )  # fmt: skip
    _CONTENT_TYPE: ClassVar[bytes | str] = b"content-type"
    _CONTENT_ENCODING: ClassVar[bytes | str] = b"content-encoding"
    _SET_COOKIE: ClassVar[bytes | str] = b"set-cookie"

    def __init__(self, sender: CallSender, method: str, path: str) -> None:
        self._started_ns = now_ns()
        self._clock = clock()
        self._sender = sender
        self._method = method
        self._path = path
        self._headers: Any = {}
        self._request: Body | None = None
        self._response: Body | None = None
        self._set_cookies: tuple[bytes | str, ...] = ()
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
            path, target, mount, query, peer, context = self._request_line()
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
                    target=target,
                    mount=mount,
                    set_cookies=self._set_cookies,
                )
            )
        except Exception:  # noqa: BLE001  the shop's answer never depends on the capture
            self._sender.note_failure()

    def _request_line(self) -> tuple[str | bytes, bytes, bytes, str | bytes, str, Any]:
        """Path, undecoded target, mount, query, the peer's address, and what extractors are called with."""
        raise NotImplementedError

    def _has_captured_request(self, content_type: bytes | str) -> bool:
        """Whether the request has a body that is captured."""
        return (
            self._method not in _WITHOUT_BODY
            and (is_json(content_type) or is_form(content_type))
            and self._sender.should_capture_bodies(self._method, self._path)
        )

    def _read_response_headers(self, headers: Any) -> None:
        """Note the cookies that identify the shopper, and prepare for the body. Header names may be in any case."""
        content_type = encoding = ""
        set_cookies = []
        for name, value in headers:
            if len(name) in {10, 12, 16}:  # the lengths of the three names below
                lower = name.lower()
                if lower == self._CONTENT_TYPE:
                    content_type = value
                elif lower == self._CONTENT_ENCODING:
                    encoding = value
                elif lower == self._SET_COOKIE and self._sender.is_id_cookie(value):
                    set_cookies.append(value)
        self._set_cookies = tuple(set_cookies)
        if is_json(content_type) and self._sender.should_capture_bodies(self._method, self._path):
            self._response = Body(self._sender.settings.max_body_bytes, encoding, content_type)
        else:
            self._response = None
