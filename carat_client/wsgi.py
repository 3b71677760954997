"""The WSGI middleware: for Flask, Django and any other WSGI framework."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from carat_client.call import Call
from carat_client.captured import Body
from carat_client.sender import CallSender
from carat_client.settings import header_names_in_environ

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_FAILED = 500


class CaratWSGI:
    """Passes the app's answer on unchanged and captures the call. Raises only what the app raises."""

    def __init__(self, app: Application, sender: CallSender) -> None:
        self._app = app
        self._sender = sender
        self._header_names = tuple(header_names_in_environ(sender.settings.read_headers()))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        sender = self._sender
        call = None
        try:
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            if sender.should_capture(environ["REQUEST_METHOD"], path):
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


class _Call(Call):
    """A call of WSGI: passes the answer on and takes notes."""

    __slots__ = ("_environ", "_mount", "_start_response", "_target")
    _CONTENT_TYPE = "content-type"
    _CONTENT_ENCODING = "content-encoding"
    _SET_COOKIE = "set-cookie"

    def __init__(
        self,
        sender: CallSender,
        names: tuple[str, ...],
        environ: Environ,
        path: str,
        start_response: StartResponse,
    ) -> None:
        super().__init__(sender, environ["REQUEST_METHOD"], path)
        target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""  # not part of WSGI: many servers set one
        self._target = target.encode("latin-1", "replace")
        self._mount = _sent_bytes(environ.get("SCRIPT_NAME", ""))
        self._environ = environ
        self._start_response = start_response
        self._headers = {name: environ[name] for name in names if name in environ}
        if self._has_captured_request(self._headers.get("CONTENT_TYPE", "")):
            self._request = Body(
                sender.settings.max_body_bytes,
                self._headers.get("HTTP_CONTENT_ENCODING", ""),
                self._headers.get("CONTENT_TYPE", ""),
            )
            environ["wsgi.input"] = _Input(environ["wsgi.input"], self._request)

    def start_response(self, status: str, headers: list[tuple[str, str]], *more: Any, **named: Any) -> Any:
        write = self._start_response(status, headers, *more, **named)
        try:
            self.status = int(status[:3])
            self._read_response_headers(headers)
            if self._response is not None:
                return _Writer(write, self._response)
        except Exception:  # noqa: BLE001
            self._sender.note_failure()
        return write

    def watch(self, answer: Iterable[bytes]) -> Iterable[bytes]:
        """The app's answer, or a wrapper that passes it on and records its chunks."""
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

    def _request_line(self) -> tuple[str | bytes, bytes, bytes, str | bytes, str, Any]:
        environ = self._environ
        query, peer = _sent_bytes(environ.get("QUERY_STRING", "")), environ.get("REMOTE_ADDR", "")
        return _sent_bytes(self._path), self._target, self._mount, query, peer, environ


def _sent_bytes(text: str) -> bytes:
    """The bytes that a value of the environ stands for, one a character; of a server that decoded them, its text."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


class _Answer:
    """Passes an answer on chunk by chunk."""

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
        """Called by servers however the answer ended, also when the client disconnected."""
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            self._call.end(self._call.status or _FAILED)


class _SizedAnswer(_Answer):
    """An answer with a known number of chunks: from a single chunk, servers derive the content length."""

    def __len__(self) -> int:
        return len(self._answer)  # type: ignore[arg-type]


class _Input:
    """Records the request body as the app reads it; reads nothing by itself."""

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
        """Pass on what only some sources have, recording what their other read methods return."""
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
    """The `write` callable that `start_response` returns, the old way of answering."""

    def __init__(self, write: Callable[[bytes], Any], body: Body) -> None:
        self._write = write
        self._body = body

    def __call__(self, chunk: bytes) -> Any:
        result = self._write(chunk)
        self._body.add(chunk)
        return result
