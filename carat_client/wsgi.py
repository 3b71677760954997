"""The middleware of WSGI: Flask, Django and whatever else speaks it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from carat_client.captured import Body, Captured, clock, is_json, new_call_id, now_ns
from carat_client.sender import CallSender
from carat_client.settings import header_names_in_environ

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_FAILED = 500
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class CaratWSGI:
    """Hands the app's answer on as it is and notes what it says of the call; never raises what the app did not."""

    def __init__(self, app: Application, sender: CallSender) -> None:
        self._app = app
        self._sender = sender
        self._header_names = tuple(header_names_in_environ(sender.settings.read_headers()))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        sender = self._sender
        call = None
        try:
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            if sender.wants(environ["REQUEST_METHOD"], path):
                call = _Call(sender, self._header_names, environ, path, start_response)
        except Exception:  # noqa: BLE001  the shop's answer never depends on the capture
            sender.note_failure()
        if call is None:
            return self._app(environ, start_response)
        try:
            answer = self._app(environ, call.start_response)
        except BaseException:
            call.end(_FAILED)
            raise
        return call.watch(answer)


class _Call:
    """One call while it happens."""

    __slots__ = (
        "_clock", "_environ", "_headers", "_is_over", "_method", "_path", "_request", "_response", "_sender",
        "_start_response", "_started_ns", "status",
    )  # fmt: skip

    def __init__(
        self,
        sender: CallSender,
        names: tuple[str, ...],
        environ: Environ,
        path: str,
        start_response: StartResponse,
    ) -> None:
        self._started_ns = now_ns()
        self._clock = clock()
        self._sender = sender
        self._environ = environ
        self._path = path
        self._start_response = start_response
        self._request: Body | None = None
        self._response: Body | None = None
        self._is_over = False
        self.status = 0
        self._headers = {name: environ[name] for name in names if name in environ}
        self._method = method = environ["REQUEST_METHOD"]
        if (
            method not in _WITHOUT_BODY
            and is_json(self._headers.get("CONTENT_TYPE", ""))
            and sender.wants_bodies(method, path)
        ):
            self._request = Body(sender.settings.max_body_bytes, self._headers.get("HTTP_CONTENT_ENCODING", ""))
            environ["wsgi.input"] = _Input(environ["wsgi.input"], self._request)

    def start_response(self, status: str, headers: list[tuple[str, str]], *more: Any, **named: Any) -> Any:
        write = self._start_response(status, headers, *more, **named)
        try:
            self.status = int(status[:3])
            self._response = self._begin_response(headers)
            if self._response is not None:
                return _Writer(write, self._response)
        except Exception:  # noqa: BLE001
            self._sender.note_failure()
        return write

    def watch(self, answer: Iterable[bytes]) -> Iterable[bytes]:
        """The app's answer, or one that passes it on and notes what it was made of."""
        try:
            if type(answer) in {list, tuple}:  # servers look at their length
                self._add_all(answer)
                return answer
            file_wrapper = self._environ.get("wsgi.file_wrapper")
            if isinstance(file_wrapper, type) and isinstance(answer, file_wrapper):  # servers send these by themselves
                self.end(self.status or _FAILED)
                return answer
            if hasattr(answer, "__len__"):
                return _SizedAnswer(answer, self)
        except Exception:  # noqa: BLE001
            self._sender.note_failure()
            return answer
        return _Answer(answer, self)

    def add(self, chunk: bytes) -> None:
        if self._response is not None and chunk:
            self._response.add(chunk)

    def _add_all(self, answer: Iterable[bytes]) -> None:
        for chunk in answer:
            self.add(chunk)
        self.end(self.status or _FAILED)

    def _begin_response(self, headers: list[tuple[str, str]]) -> Body | None:
        content_type = encoding = ""
        for name, value in headers:
            if len(name) in {12, 16}:  # as long as the names below, which may be in any case
                lower = name.lower()
                if lower == "content-type":
                    content_type = value
                elif lower == "content-encoding":
                    encoding = value
        if not is_json(content_type) or not self._sender.wants_bodies(self._method, self._path):
            return None
        return Body(self._sender.settings.max_body_bytes, encoding)

    def end(self, status: int) -> None:
        """The call is over; only the first time counts."""
        if self._is_over:
            return
        self._is_over = True
        try:
            duration_s = clock() - self._clock
            environ, sender = self._environ, self._sender
            sender.offer(
                Captured(
                    call_id=new_call_id(),
                    started_ns=self._started_ns,
                    duration_s=duration_s,
                    method=self._method,
                    path=self._path.encode("latin-1"),
                    query=environ.get("QUERY_STRING", ""),
                    peer=environ.get("REMOTE_ADDR", ""),
                    headers=self._headers,
                    extracted=sender.extract(environ),
                    status=status,
                    request=self._request,
                    response=self._response,
                )
            )
        except Exception:  # noqa: BLE001
            self._sender.note_failure()


class _Answer:
    """An answer that is passed on chunk by chunk."""

    def __init__(self, answer: Iterable[bytes], call: _Call) -> None:
        self._answer = answer
        self._chunks: Iterator[bytes] | None = None
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        call = self._call
        try:
            if self._chunks is None:
                self._chunks = iter(self._answer)
            chunk = next(self._chunks)
        except StopIteration:
            call.end(call.status or _FAILED)
            raise
        except BaseException:
            call.end(_FAILED)
            raise
        try:
            call.add(chunk)
        except Exception:  # noqa: BLE001
            call._sender.note_failure()  # noqa: SLF001
        return chunk

    def close(self) -> None:
        """Servers call it however the answer ended, also where the client went away."""
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            self._call.end(self._call.status or _FAILED)


class _SizedAnswer(_Answer):
    """An answer of which servers ask the number of chunks: of a single one they know its length."""

    def __len__(self) -> int:
        return len(self._answer)  # type: ignore[arg-type]


class _Input:
    """A request's body as the app reads it, no byte more."""

    def __init__(self, source: Any, body: Body) -> None:
        self._source = source
        self._body = body

    def read(self, *size: int) -> bytes:
        return self._noted(self._source.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._noted(self._source.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        return [self._noted(line) for line in self._source.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return map(self._noted, self._source)

    def __getattr__(self, name: str) -> Any:
        """What only some sources have; of these, too, whatever reads is noted."""
        found = getattr(self._source, name)
        if name in {"readinto", "readinto1"}:
            return lambda buffer: self._noted_in(buffer, found(buffer))
        if name == "read1":
            return lambda *size: self._noted(found(*size))
        return found

    def _noted_in(self, buffer: Any, count: int | None) -> int | None:
        if count:
            self._body.add(bytes(memoryview(buffer)[:count]))
        return count

    def _noted(self, chunk: bytes) -> bytes:
        if chunk:
            self._body.add(chunk)
        return chunk


class _Writer:
    """The old way of answering, by calls."""

    def __init__(self, write: Callable[[bytes], Any], body: Body) -> None:
        self._write = write
        self._body = body

    def __call__(self, chunk: bytes) -> Any:
        result = self._write(chunk)
        self._body.add(chunk)
        return result
