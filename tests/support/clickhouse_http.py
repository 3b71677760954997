"""ClickHouse's HTTP interface in front of one chDB engine, for tests of the real HTTP client.

Not imitated: external data, progress headers, streamed answers (a result is complete before its
first byte leaves), read-only GET, and the refusal of several statements in one request.

The rights of the user, its profile and its quota are the engine's own: see `users_config`.
"""

import argparse
import base64
import gzip
import http.client
import io
import json
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

import chdb
import lz4.frame
import zstandard

from tests.support.paths import CHECKOUT

USER = "default"
MIB = 1 << 20
MAX_SESSIONS = 64
# URL parameters that belong to the HTTP layer; every other one is a setting or a query parameter.
TRANSPORT_PARAMS = frozenset(
    (
        *("query", "database", "user", "password", "default_format", "query_id", "quota_key", "role"),
        *("session_id", "session_check", "session_timeout", "buffer_size", "compress", "decompress"),
        *("wait_end_of_query", "client_protocol_version", "enable_http_compression"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms"),
    )
)
STATUS_OF_CODE = {
    **dict.fromkeys((36, 41, 27, 26, 6, 72, 62, 53, 69, 70, 117, 125, 131, 386, 456, 457), 400),
    **dict.fromkeys((192, 193, 516, 497, 511), 403),
    **dict.fromkeys((16, 46, 47, 50, 56, 60, 81, 115), 404),
    159: 408,
    48: 501,
    209: 503,
}
NAME = rb"(?:`(?:[^`\\]|\\.)*`|\"[^\"]*\"|\w+)"
INSERT_WITH_DATA = re.compile(
    rb"\s*(?P<into>INSERT\s+INTO\s+(?:TABLE\s+)?NAME(?:\s*\.\s*NAME)?(?:\s*\((?:[^()`]|`[^`]*`)*\))?)"
    rb"(?P<settings>\s+SETTINGS\s[^;]*?)?\s*\bFORMAT\s+(?P<format>\w+)[ \t\f]*\r?\n?".replace(b"NAME", NAME),
    re.IGNORECASE,
)
TRAILING_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:SETTINGS\s[^;]*)?;?\s*$", re.IGNORECASE)
READERS: dict[str, Callable[[Any], Any]] = {
    "": lambda body: body,
    "identity": lambda body: body,
    "gzip": lambda body: gzip.GzipFile(fileobj=body),
    "lz4": lz4.frame.LZ4FrameFile,
    "zstd": lambda body: zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True),
}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,  # type: ignore[attr-defined]
    "zstd": zstandard.compress,
    "gzip": lambda data: gzip.compress(data, 1),
}


class EngineError(Exception):
    """An error as ClickHouse words it: `Code: N. DB::Exception: ... (NAME)`."""

    @property
    def code(self) -> int:
        found = re.search(r"Code: (\d+)", str(self))
        return int(found[1]) if found else 1002


class Answer(NamedTuple):
    body: bytes
    format: str | None
    summary: dict[str, str]


@dataclass
class Request:
    """One query with everything that shapes its execution; `data` holds the rows of an INSERT."""

    sql: bytes
    data: IO[bytes] | None
    params: dict[str, str]
    form: dict[str, str]

    @property
    def settings(self) -> dict[str, str]:
        names = [name for name in self.params if name not in TRANSPORT_PARAMS and not name.startswith("param_")]
        if odd := [name for name in names if not re.fullmatch(r"[\w.]+", name)]:
            raise EngineError(f"Code: 115. DB::Exception: Unknown setting '{odd[0]}'. (UNKNOWN_SETTING)")
        return {name: self.params[name] for name in names}

    @property
    def bind(self) -> dict[str, str]:
        return {k[6:]: v for k, v in (self.params | self.form).items() if k.startswith("param_")}


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@dataclass
class Engine:
    """One chDB engine; an HTTP session is a handle on it, and one lock serialises all queries."""

    path: Path
    config: Path | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    sessions: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for left_by_a_killed_server in self.path.glob("spool-*"):
            left_by_a_killed_server.unlink()
        self.root = self.connect()  # the engine lives as long as a handle is open
        self.version, self.timezone = self.run(self.root, "SELECT version(), timezone()").bytes().decode().split()

    def connect(self) -> Any:
        handle = chdb.connect(f"{self.path}?config-file={self.config}" if self.config else str(self.path))
        with suppress(EngineError):  # a user with `readonly = 1`
            self.run(handle, "SET implicit_select = 0")  # chDB's own default; a server rejects `1 + 1`
        return handle

    @staticmethod
    def run(handle: Any, sql: str | bytes, fmt: str = "TabSeparated", params: dict[str, str] | None = None) -> Any:
        try:
            return handle.query(sql, fmt, params=params or {})
        except Exception as error:
            message = str(error)
            raise EngineError(message[max(message.find("Code: "), 0) :].strip()) from error

    @contextmanager
    def handle_for(self, request: Request) -> Iterator[Any]:
        """A handle with the request's settings and database; neither outlives the request."""
        session = request.params.get("session_id")
        handle = self.sessions.pop(session, None) if session else None
        handle = handle or self.connect()
        undo: list[str] = []
        try:
            before = self.changed_settings(handle) if session else {}
            if settings := request.settings:
                self.run(handle, "SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items()))
                undo.append("SET " + ", ".join(f"{name} = {before.get(name, 'DEFAULT')}" for name in settings))
            if database := request.params.get("database"):
                current = self.run(handle, "SELECT currentDatabase()", "TSVRaw").bytes().decode()
                undo.append(f"USE `{current.strip()}`")
                self.run(handle, f"USE `{database}`")
            yield handle
        finally:
            try:
                for statement in undo if session else ():
                    self.run(handle, statement)
            except EngineError:
                session = None  # `readonly` cannot be undone: such a session ends here
            if session:
                self.sessions[session] = handle
                handle = self.sessions.pop(next(iter(self.sessions))) if len(self.sessions) > MAX_SESSIONS else None
            if handle:
                handle.close()

    def changed_settings(self, handle: Any) -> dict[str, str]:
        """What the session itself has SET, as literals."""
        rows = self.run(handle, "SELECT name, value FROM system.settings WHERE changed", "JSONEachRow").bytes()
        return {row["name"]: quoted(row["value"]) for row in map(json.loads, rows.splitlines())}

    def execute(self, request: Request) -> Answer:
        named = TRAILING_FORMAT.search(request.sql[-4096:])
        fmt = named[1].decode() if named else request.params.get("default_format")
        with self.lock, self.handle_for(request) as handle:
            # A statement without result set prints nothing, not even names: that tells it from
            # a SELECT without rows, which a server marks by naming the format in a header.
            result = self.run(handle, request.sql, fmt or "TabSeparatedWithNames", request.bind)
            body = bytes(result.bytes() or b"")
            counts = {
                "read_rows": result.rows_read(),
                "read_bytes": result.bytes_read(),
                "written_rows": result.rows_written(),
                "written_bytes": result.bytes_written(),
                "elapsed_ns": int(result.elapsed() * 1e9),
            }
        if not fmt and body:
            fmt, body = "TabSeparated", body.partition(b"\n")[2]
        return Answer(body, fmt, {name: str(count) for name, count in counts.items()})

    def close(self) -> None:
        with self.lock:
            for handle in (*self.sessions.values(), self.root):
                handle.close()


class Body(io.RawIOBase):
    """The bytes of one request body, of known length or chunked."""

    def __init__(self, stream: io.BufferedIOBase, length: int, *, chunked: bool) -> None:
        self.stream, self.left, self.chunked = stream, length, chunked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.chunked and not self.left:
            line = self.stream.readline()
            line = self.stream.readline() if line == b"\r\n" else line  # ends the previous chunk
            self.left = int(line.partition(b";")[0], 16)
            if not self.left:
                self.chunked = False
                while self.stream.readline().strip():  # trailers
                    pass
        size = self.stream.readinto(memoryview(buffer)[: self.left])
        if size < min(self.left, len(buffer)):
            raise ConnectionError("the client left in the middle of its body")
        self.left -= size
        return size


class Handler(BaseHTTPRequestHandler):
    server: "Server"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body leave in two writes

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        params = dict(parse_qsl(url.query, keep_blank_values=True))
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        raw = io.BufferedReader(Body(self.rfile, int(self.headers.get("Content-Length", 0)), chunked=chunked), MIB)
        engine = self.server.engine
        if url.path == "/fail_next":
            self.server.failures_left = int(params["n"])
            self.answer(200, b"Ok.\n")
        elif url.path == "/ping" or (self.command == "GET" and not params):
            self.answer(200, b"Ok.\n")
        elif url.path != "/":
            self.answer(404, b"There is no handle " + url.path.encode() + b"\n")
        else:
            # The body is read whole before anything is refused: a client that is still sending
            # would see a broken pipe instead of the answer.
            with tempfile.NamedTemporaryFile(dir=engine.path, prefix="spool-", suffix=".data") as spool:
                try:
                    try:
                        request = self.read_request(params, raw, spool)
                    finally:
                        while raw.read(MIB):
                            pass
                    self.check_password(params)
                    if self.server.take_failure():
                        self.answer(503, b"Service Unavailable\n")
                        return
                    self.answer_query(params, engine.execute(request))
                except EngineError as error:
                    text = f"{error} (version {engine.version} (official build))\n"
                    headers = {"X-ClickHouse-Exception-Code": str(error.code)}
                    self.answer(STATUS_OF_CODE.get(error.code, 500), text.encode(), headers)

    do_POST = do_GET

    def read_request(self, params: dict[str, str], raw: io.BufferedIOBase, spool: IO[bytes]) -> Request:
        encoding = self.headers.get("Content-Encoding", "")
        if encoding not in READERS:
            raise EngineError(f"Code: 48. DB::Exception: Unknown Content-Encoding {encoding}. (NOT_IMPLEMENTED)")
        body = READERS[encoding](raw)
        form: dict[str, str] = {}
        query = params.get("query", "").encode()
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body.read())
            for part in message.walk():
                if part.get_filename():
                    raise EngineError("Code: 48. DB::Exception: No external data here. (NOT_IMPLEMENTED)")
                if name := part.get_param("name", header="content-disposition"):
                    form[str(name)] = bytes(part.get_payload(decode=True)).decode()
            return Request(query + form.get("query", "").encode(), None, params, form)
        head = (query + b"\n" if query else b"") + body.read(MIB)
        insert = INSERT_WITH_DATA.match(head)
        if not insert:
            return Request(head + body.read(), None, params, form)
        spool.write(head[insert.end() :])
        while chunk := body.read(MIB):
            spool.write(chunk)
        spool.flush()
        source = f" FROM INFILE {quoted(spool.name)}".encode()
        sql = insert["into"] + source + (insert["settings"] or b"") + b" FORMAT " + insert["format"]
        return Request(sql, spool, params, form)

    def check_password(self, params: dict[str, str]) -> None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        basic = base64.b64decode(token).decode().partition(":") if scheme == "Basic" else ("", "", "")
        user = self.headers.get("X-ClickHouse-User") or basic[0] or params.get("user", USER)
        password = self.headers.get("X-ClickHouse-Key") or basic[2] or params.get("password", "")
        if (user, password) != (USER, self.server.password):
            raise EngineError(
                f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, "
                "or there is no user with such name. (AUTHENTICATION_FAILED)"
            )

    def answer_query(self, params: dict[str, str], answer: Answer) -> None:
        accepted = re.split(r"\s*,\s*", self.headers.get("Accept-Encoding", ""))
        wanted = params.get("enable_http_compression") == "1" and answer.body
        encoding = next((name for name in COMPRESSORS if wanted and name in accepted), None)
        headers = {
            "X-ClickHouse-Summary": json.dumps(answer.summary),
            "X-ClickHouse-Query-Id": params.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": self.server.engine.timezone,
        }
        if answer.format:
            headers["X-ClickHouse-Format"] = answer.format
        if encoding:
            headers["Content-Encoding"] = encoding
        self.answer(200, COMPRESSORS[encoding](answer.body) if encoding else answer.body, headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: standard error is for what goes wrong."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, engine: Engine, port: int, password: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.engine, self.password = engine, password
        self.failures_left, self.failure_lock = 0, threading.Lock()

    def take_failure(self) -> bool:
        with self.failure_lock:
            fails = self.failures_left > 0
            self.failures_left -= fails
            return fails


@dataclass
class RunningServer:
    process: subprocess.Popen[bytes]
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"clickhouse://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/"

    def fail_next(self, n: int) -> None:
        """Make the next n queries answer 503 without being run."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", f"/fail_next?n={n}")
        assert connection.getresponse().status == 200
        connection.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running_server(path: Path, password: str = "secret", config: Path | None = None) -> Iterator[RunningServer]:
    """A server on the engine directory `path`, in its own process: chDB allows one path a process."""
    command = [sys.executable, "-m", "tests.support.clickhouse_http", "--path", str(path), "--password", password]
    command += ["--config", str(config)] if config else []
    root = CHECKOUT
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        try:
            assert process.stdout
            with selectors.DefaultSelector() as selector:  # select() takes no descriptor past 1023
                selector.register(process.stdout, selectors.EVENT_READ)
                ready = selector.select(60)
            line = process.stdout.readline().decode() if ready else ""
            if not line.startswith("listening on "):
                process.kill()
                process.wait()
                stderr.seek(0)
                raise RuntimeError(f"the server did not start: {stderr.read().decode(errors='replace')}")
            yield RunningServer(process, int(line.rpartition(":")[2]), password)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def users_config(
    folder: Path, *, profile: str = "", grants: Sequence[str] = ("GRANT ALL ON *.*",), interval: str = ""
) -> Path:
    """A configuration of the engine: what an administrator gave its user.

    `profile` and `interval` are XML: the profile's settings and constraints, and the limits of the quota's hour.
    """
    folder.mkdir(parents=True, exist_ok=True)
    queries = "".join(f"<query>{grant}</query>" for grant in grants)
    hour = f"<interval><duration>3600</duration>{interval}</interval>" if interval else ""
    (folder / "users.xml").write_text(
        f"<clickhouse><profiles><default>{profile}</default></profiles><quotas><default>{hour}</default></quotas>"
        "<users><default><password></password><networks><ip>::/0</ip></networks><profile>default</profile>"
        f"<quota>default</quota><grants>{queries}</grants></default></users></clickhouse>"
    )
    (folder / "config.xml").write_text(f"<clickhouse><users_config>{folder}/users.xml</users_config></clickhouse>")
    return folder / "config.xml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--password", default="")
    parser.add_argument("--config", type=Path)
    args = parser.parse_args()
    # Blocked before the engine starts its threads, so that only sigwait below sees them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    engine = Engine(args.path.resolve(), args.config)
    server = Server(engine, args.port, args.password)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)  # noqa: T201
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.shutdown()
    engine.close()


if __name__ == "__main__":
    main()
