"""Lets other processes of the same user query an embedded warehouse through the process that holds it.

The engine allows one process. A process that holds it for long, such as `carat serve`, answers the queries of others
over a socket in the warehouse's directory. Each query runs on a read-only connection with limits that it cannot lift
(`app/warehouse/reading.py`), so the holder's own work continues. Only processes of the same user can connect. A socket
connection carries one query and its answer:

    query      8 bytes of length, then JSON: `sql`, `fmt`, `parameters`
    answer     1 byte, 0 or the exit code of the error; 8 bytes of length, then the result or the error message

`multiprocessing.connection` would do the framing, but a message that stalls halfway blocks its reader for good: a few
hanging clients would occupy all slots. Clients that have not sent their query occupy none: when too many wait, the one
that has waited longest is dropped.
"""

import os
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from app.core import console
from app.core.errors import CaratError, LockedError, WarehouseError, WarehouseGoneError
from app.warehouse.client import Warehouse
from app.warehouse.reading import parse_statement, require_own_tables, restrict

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

RunQuery = Callable[[Callable[[Warehouse], bytes]], bytes]
"""Runs a function with a new connection to the warehouse."""

_NAME = "carat.socket"
_MAX_CONCURRENT = 4  # others wait
_MAX_CLIENTS = 64  # whose query is being received, waits or runs
_MAX_QUERY_S = 60  # a step of the hourly work may have to wait for a reader of what it replaces
_MAX_QUERY_BYTES = 16 * 1024**2
_SMALL_ANSWER_BYTES = 1024**2
_RECEIVE_TIMEOUT_S, _SEND_TIMEOUT_S, _ANSWER_TIMEOUT_S = 5.0, 10.0, 300.0
_POLL_S = 0.1
_CLOSE_TIMEOUT_S = 5.0
_LIMITS = {
    "max_execution_time": _MAX_QUERY_S,
    "max_memory_usage": min(1024**3, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8),
    "max_result_bytes": 128 * 1024**2,
    "max_temporary_data_on_disk_size_for_query": 4 * 1024**3,
    "max_threads": max(1, (os.cpu_count() or 2) // 2),
}
_LIMIT_ERRORS = ("TIMEOUT_EXCEEDED", "MEMORY_LIMIT_EXCEEDED", "TOO_MANY_ROWS_OR_BYTES", "QUERY_WAS_CANCELLED")
_ONLY_QUERIES = (
    "`carat serve` holds the warehouse and answers only queries (SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS): stop it to "
    "run anything else"
)
_QUERY_HEAD, _ANSWER_HEAD, _PEER = struct.Struct("!Q"), struct.Struct("!BQ"), struct.Struct("3i")


class _Query(msgspec.Struct):
    sql: str
    fmt: str
    parameters: dict[str, Any]


@contextmanager
def serve_queries(path: Path, run: RunQuery) -> Iterator[None]:
    """Answer queries to the warehouse in this directory, which this process holds. Logs if there can be no socket."""
    try:
        listener = _listen(path)
    except OSError as error:
        console.log.warning("other commands cannot query the warehouse meanwhile", error=error.strerror or str(error))
        yield
        return
    server = QueryServer(listener, run)
    try:
        yield
    finally:
        with suppress(OSError):
            (path / _NAME).unlink()
        server.close()


def accepts_queries(path: Path) -> bool:
    """Whether a process of this user answers queries to the warehouse in this directory."""
    try:
        with _connect(path) as connection:
            return _is_of_this_user(connection)
    except OSError:
        return False


def connect_via_holder(path: Path, held: LockedError) -> Warehouse:
    """A connection through the process that holds the warehouse. Anything but a query raises `held`."""
    return Warehouse(lambda: cast("Client", QueryClient(path, held)), url=f"chdb://{path}", is_direct=False)


class QueryClient:
    """The part of a ClickHouse client that Warehouse needs: it sends queries to the holder and refuses the rest."""

    def __init__(self, path: Path, held: LockedError) -> None:
        self._path = path
        self._held = held

    @property
    def server_version(self) -> str:
        return self.raw_query("SELECT version()", fmt="TSV").decode().strip()

    def raw_query(self, query: str, parameters: Mapping[str, Any] | None = None, fmt: str = "") -> bytes:
        message = msgspec.json.encode(_Query(query, fmt, dict(parameters or {})))
        if len(message) > _MAX_QUERY_BYTES:
            raise WarehouseError(f"a query of {len(message):,} bytes is too long for `carat serve`")
        try:
            with _connect(self._path) as connection:
                connection.sendall(_QUERY_HEAD.pack(len(message)) + message)
                code, length = _ANSWER_HEAD.unpack(_receive(connection, _ANSWER_HEAD.size))
                answer = _receive(connection, length)
        except (TimeoutError, BlockingIOError):
            raise LockedError(f"{self._held} (it is busy with other queries)", holder=self._held.holder) from None
        except OSError as error:
            problem = "the process that holds the warehouse ended before it answered; run the same command again"
            raise WarehouseGoneError(f"chdb://{self._path}: {problem}") from error
        if code:
            kind = LockedError if code == LockedError.exit_code else WarehouseError
            raise kind(answer.decode())
        return answer

    def close(self) -> None:
        """Does nothing: each query has its own connection."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise self._held

    command = raw_insert = raw_stream = set_client_setting = _refuse


class QueryServer:
    """Answers queries in threads, a few at a time."""

    def __init__(self, listener: socket.socket, run: RunQuery) -> None:
        self._listener = listener
        self._run = run
        self._is_closing = threading.Event()
        self._free = threading.BoundedSemaphore(_MAX_CONCURRENT)
        self._clients = 0
        self._receiving: dict[int, socket.socket] = {}  # the longest first
        self._changed = threading.Condition()  # guards both
        self._accepting = threading.Thread(target=self._accept, name="query-socket", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Stop, and cancel running queries."""
        self._is_closing.set()
        self._accepting.join()
        self._listener.close()
        until = time.monotonic() + _CLOSE_TIMEOUT_S
        for _ in range(_MAX_CONCURRENT):
            self._free.acquire(timeout=max(0.0, until - time.monotonic()))

    def _accept(self) -> None:
        while not self._is_closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # a timeout, or no free file descriptor
                if not isinstance(error, TimeoutError):
                    time.sleep(_POLL_S)
                continue
            self._make_room()
            with self._changed:
                self._clients += 1
                self._receiving[id(connection)] = connection
            threading.Thread(
                target=self._serve, args=(connection,), name="query-socket-connection", daemon=True
            ).start()

    def _make_room(self) -> None:
        """Wait until there is room for one more client; drops the one whose query has been awaited longest."""
        with self._changed:
            while self._clients >= _MAX_CLIENTS and not self._is_closing.is_set():
                if self._receiving:
                    with suppress(OSError):
                        self._receiving.pop(next(iter(self._receiving))).shutdown(socket.SHUT_RDWR)
                self._changed.wait(_POLL_S)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                query = self._receive_query(connection)
                if query is None or not self._wait_for_turn(connection):
                    return
                try:  # a large answer keeps its turn until it is sent: memory is bounded
                    answer = self._answer(query, connection)
                    if len(answer[1]) > _SMALL_ANSWER_BYTES:
                        _send(connection, *answer)
                        return
                finally:
                    self._free.release()
                _send(connection, *answer)
        except (OSError, msgspec.MsgspecError):
            pass  # the client is gone, sent nonsense, or does not read
        finally:
            with self._changed:
                self._receiving.pop(id(connection), None)
                self._clients -= 1
                self._changed.notify()

    def _receive_query(self, connection: socket.socket) -> _Query | None:
        connection.settimeout(_RECEIVE_TIMEOUT_S)
        if not _is_of_this_user(connection):
            return None
        (length,) = _QUERY_HEAD.unpack(_receive(connection, _QUERY_HEAD.size))
        if length > _MAX_QUERY_BYTES:
            return None
        query = msgspec.json.decode(_receive(connection, length), type=_Query)
        with self._changed:
            self._receiving.pop(id(connection), None)
        return query

    def _wait_for_turn(self, connection: socket.socket) -> bool:
        """Wait until the query may run; false if its client is gone, or the server is closed, before."""
        gone = _gone(connection)
        while not self._free.acquire(timeout=_POLL_S):
            if self._is_closing.is_set() or gone.poll(0):
                return False
        return True

    def _answer(self, query: _Query, connection: socket.socket) -> tuple[int, bytes]:
        """The answer's code and content. A query that takes too long, or whose client is gone, is cancelled."""
        answers: list[tuple[int, bytes]] = []
        mark = f"-- query socket {uuid.uuid4().hex}"
        worker = threading.Thread(
            target=lambda: answers.append(self._execute(query, mark)), name="query-socket-sql", daemon=True
        )
        worker.start()
        gone = _gone(connection)
        until = time.monotonic() + _MAX_QUERY_S
        while worker.is_alive():
            worker.join(_POLL_S)
            if worker.is_alive() and (self._is_closing.is_set() or gone.poll(0) or time.monotonic() > until):
                self._cancel(mark)
        return answers[0]

    def _execute(self, query: _Query, mark: str) -> tuple[int, bytes]:
        def run(warehouse: Warehouse) -> bytes:
            statement = parse_statement(warehouse, query.sql, query.parameters)
            if not statement.is_reading or not query.fmt.isalnum():
                raise LockedError(_ONLY_QUERIES)
            require_own_tables(warehouse, statement)
            restrict(warehouse, [statement], _LIMITS)
            return warehouse.raw(f"{statement.sql}\n{mark}\n", fmt=query.fmt, parameters=statement.parameters)

        try:
            return 0, self._run(run)
        except CaratError as error:
            if self._is_closing.is_set():
                return LockedError.exit_code, b"`carat serve` is being stopped; run the same command again"
            return error.exit_code, f"{error}{_hint(str(error))}".encode()
        except Exception as error:  # noqa: BLE001  the client gets the error, and the work continues
            console.record_failure(error)
            return WarehouseError.exit_code, f"unexpected {type(error).__name__}: {error}".partition("\n")[0].encode()

    def _cancel(self, mark: str) -> None:
        sql = f"KILL QUERY WHERE position(query, '{mark}\\n') > 0 ASYNC"  # its own text has no such line

        def cancel(warehouse: Warehouse) -> bytes:
            warehouse.command(sql)
            return b""

        with suppress(CaratError):
            self._run(cancel)


def _hint(problem: str) -> str:
    if any(name in problem for name in _LIMIT_ERRORS):
        return (
            f". `carat serve` limits queries to {_MAX_QUERY_S} s, {_LIMITS['max_memory_usage'] // 1024**2} "
            f"MiB of memory and {_LIMITS['max_result_bytes'] // 1024**2} MiB of results: ask for less, or stop it first"
        )
    return ""


def _listen(path: Path) -> socket.socket:
    """Listen, replacing the socket of a killed process: only the holder of the directory listens there."""
    (path / _NAME).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            listener.bind(address)
        (path / _NAME).chmod(0o600)  # before anybody can connect
        listener.listen(256)
        listener.settimeout(_POLL_S)
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def _connect(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_TIMEOUT_S)
        _connect_in_turn(connection, path)
        yield connection


def _connect_in_turn(connection: socket.socket, path: Path) -> None:
    """Connect, waiting a little where so many others do that the kernel's queue is full."""
    until = time.monotonic() + _RECEIVE_TIMEOUT_S
    while True:
        try:
            with _address(path) as address:
                connection.connect(address)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(_POLL_S)
        else:
            return


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The socket's address through a descriptor of its folder: an address holds at most 107 bytes, a path many more."""
    handle = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{_NAME}"
    finally:
        os.close(handle)


def _send(connection: socket.socket, code: int, answer: bytes) -> None:
    connection.settimeout(_SEND_TIMEOUT_S)
    connection.sendall(_ANSWER_HEAD.pack(code, len(answer)))
    connection.sendall(answer)


def _gone(connection: socket.socket) -> select.poll:
    """Says whether the client is gone: it sends nothing after its query, so that readable means closed."""
    gone = select.poll()
    gone.register(connection, select.POLLIN)
    return gone


def _is_of_this_user(connection: socket.socket) -> bool:
    _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(user == os.geteuid())


def _receive(connection: socket.socket, length: int) -> bytes:
    """Receive exactly `length` bytes within the connection's timeout."""
    until = time.monotonic() + (connection.gettimeout() or _ANSWER_TIMEOUT_S)
    received = bytearray()
    while len(received) < length:
        piece = connection.recv(min(length - len(received), 1024**2))
        if not piece:
            raise ConnectionResetError("closed before the end of the message")
        if time.monotonic() > until:
            raise TimeoutError
        received += piece
    return bytes(received)
