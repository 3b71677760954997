"""Lets other processes of the same user read an embedded warehouse through the one that holds it.

The engine has room for one process. Where that one stays, as `carat serve` does, it answers the queries of others over
a socket in the warehouse's directory: each by a connection of its own that can only read, within limits, so that its
own work goes on. A connection carries one question and its answer:

    question   8 bytes of length, and as many of JSON: `sql`, `fmt`, `parameters`
    answer     1 byte, 0 or the exit code of what went wrong; 8 bytes of length, and as many of result or problem
"""

import os
import re
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
from clickhouse_connect.driver.client import Client

from app.core import console
from app.core.errors import CaratError, LockedError, WarehouseError, WarehouseGoneError
from app.warehouse.client import Warehouse

Read = Callable[[Callable[[Warehouse], bytes]], bytes]
"""Answers a question by a new connection to the warehouse."""

_NAME = "carat.socket"
_MOST_AT_ONCE = 4  # who comes meanwhile waits
_LONGEST_S = 60  # a step of the hourly work may have to wait for who reads what it replaces
_LARGEST_QUESTION = 16 * 1024**2
_ASK_S, _TAKE_S, _PATIENCE_S = 5.0, 30.0, 300.0
_LOOK_S = 0.1
_END_S = 5.0
_LIMITS = {
    "max_execution_time": _LONGEST_S,
    "max_memory_usage": min(1024**3, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8),
    "max_result_bytes": 128 * 1024**2,
    "max_threads": max(1, (os.cpu_count() or 2) // 2),
}
_BEYOND = ("TIMEOUT_EXCEEDED", "MEMORY_LIMIT_EXCEEDED", "TOO_MANY_ROWS_OR_BYTES", "QUERY_WAS_CANCELLED")
_READING = ("SELECT", "WITH", "EXPLAIN", "SHOW", "DESCRIBE", "EXISTS")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`", re.DOTALL)
_WRITES_ON = re.compile(r"\bINTO\b|\bPARALLEL WITH\b")  # a file is written by SELECT … INTO OUTFILE
_QUESTION, _ANSWER, _PEER = struct.Struct("!Q"), struct.Struct("!BQ"), struct.Struct("3i")


class _Question(msgspec.Struct):
    sql: str
    fmt: str
    parameters: dict[str, Any]


@contextmanager
def answering(path: Path, read: Read) -> Iterator[None]:
    """Answer who asks about the warehouse in this directory, which this process holds; not without a socket there."""
    try:
        listener = _listen(path)
    except OSError as error:
        console.log.warning("other commands cannot read the warehouse meanwhile", error=error.strerror or str(error))
        yield
        return
    desk = _Desk(listener, read)
    try:
        yield
    finally:
        with suppress(OSError):
            (path / _NAME).unlink()
        desk.close()


def is_answered(path: Path) -> bool:
    """Whether a process of this user answers questions about the warehouse in this directory."""
    try:
        with _connect(path) as connection:
            return _is_of_this_user(connection)
    except OSError:
        return False


def connect_beside(path: Path, held: LockedError) -> Warehouse:
    """A connection by way of the process that holds the warehouse; `held` is raised for what does more than read."""
    return Warehouse(lambda: cast("Client", _Asking(path, held)), url=f"chdb://{path}")


class _Asking:
    """What a warehouse's connection needs of a client: it has queries answered, and refuses the rest."""

    def __init__(self, path: Path, held: LockedError) -> None:
        self._path = path
        self._held = held

    @property
    def server_version(self) -> str:
        return self.raw_query("SELECT version()", fmt="TSV").decode().strip()

    def raw_query(self, query: str, parameters: Mapping[str, Any] | None = None, fmt: str = "") -> bytes:
        question = msgspec.json.encode(_Question(query, fmt, dict(parameters or {})))
        if len(question) > _LARGEST_QUESTION:
            raise WarehouseError(f"a query of {len(question):,} bytes is too long to be answered by `carat serve`")
        try:
            with _connect(self._path) as connection:
                connection.sendall(_QUESTION.pack(len(question)) + question)
                code, length = _ANSWER.unpack(_receive(connection, _ANSWER.size))
                answer = _receive(connection, length)
        except (TimeoutError, BlockingIOError):
            raise LockedError(f"{self._held} (it is busy with other questions)", holder=self._held.holder) from None
        except OSError as error:
            problem = "the process that holds the warehouse ended before it had answered; run the same command again"
            raise WarehouseGoneError(f"chdb://{self._path}: {problem}") from error
        if code:
            kind = LockedError if code == LockedError.exit_code else WarehouseError
            raise kind(answer.decode())
        return answer

    def close(self) -> None:
        """Nothing: each question has a connection of its own."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise self._held

    command = raw_insert = raw_stream = set_client_setting = _refuse


class _Desk:
    """Takes questions in threads of its own, a few at once."""

    def __init__(self, listener: socket.socket, read: Read) -> None:
        self._listener = listener
        self._read = read
        self._is_closing = threading.Event()
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)
        self._taking = threading.Thread(target=self._take, name="beside", daemon=True)
        self._taking.start()

    def close(self) -> None:
        """End what is being answered."""
        self._is_closing.set()
        self._taking.join()
        self._listener.close()
        until = time.monotonic() + _END_S
        for _ in range(_MOST_AT_ONCE):
            self._free.acquire(timeout=max(0.0, until - time.monotonic()))

    def _take(self) -> None:
        while not self._is_closing.is_set():
            if not self._free.acquire(timeout=_LOOK_S):
                continue
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # nobody asked for a while, or no handle is free
                self._free.release()
                if not isinstance(error, TimeoutError):
                    time.sleep(_LOOK_S)
                continue
            threading.Thread(target=self._serve, args=(connection,), name="beside-one", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(_ASK_S)
                if not _is_of_this_user(connection):
                    return
                (length,) = _QUESTION.unpack(_receive(connection, _QUESTION.size))
                if length > _LARGEST_QUESTION:
                    return
                question = msgspec.json.decode(_receive(connection, length), type=_Question)
                code, answer = self._answer(question, connection)
                connection.settimeout(_TAKE_S)
                connection.sendall(_ANSWER.pack(code, len(answer)))
                connection.sendall(answer)
        except (OSError, msgspec.MsgspecError):
            pass  # who asked is gone, asks nothing, or does not listen
        finally:
            self._free.release()

    def _answer(self, question: _Question, connection: socket.socket) -> tuple[int, bytes]:
        """The answer's code and content; what takes too long, or whom nobody waits for any more, is ended."""
        told: list[tuple[int, bytes]] = []
        mark = f"-- beside {uuid.uuid4().hex}"
        worker = threading.Thread(target=lambda: told.append(self._ask(question, mark)), name="beside-sql", daemon=True)
        worker.start()
        left = select.poll()
        left.register(connection, select.POLLIN)  # nothing more is sent: there is something to read where it was closed
        until = time.monotonic() + _LONGEST_S
        while worker.is_alive():
            worker.join(_LOOK_S)
            if worker.is_alive() and (self._is_closing.is_set() or left.poll(0) or time.monotonic() > until):
                self._end(mark)
        return told[0]

    def _ask(self, question: _Question, mark: str) -> tuple[int, bytes]:
        def ask(warehouse: Warehouse) -> bytes:
            warehouse.read_only(_LIMITS)
            _require_reading(warehouse, question)
            return warehouse.raw(f"{question.sql}\n{mark}", fmt=question.fmt, parameters=question.parameters)

        try:
            return 0, self._read(ask)
        except CaratError as error:
            if self._is_closing.is_set():
                return LockedError.exit_code, b"`carat serve` is being stopped; run the same command again"
            return error.exit_code, f"{error}{_mend(str(error))}".encode()
        except Exception as error:  # noqa: BLE001  who asked is told, and the work goes on
            console.record_failure(error)
            return WarehouseError.exit_code, f"unexpected {type(error).__name__}: {error}".partition("\n")[0].encode()

    def _end(self, mark: str) -> None:
        sql = f"KILL QUERY WHERE position(query, '{mark}\\n') > 0 ASYNC"  # its own text has no such line

        def end(warehouse: Warehouse) -> bytes:
            warehouse.command(sql)
            return b""

        with suppress(CaratError):
            self._read(end)


def _require_reading(warehouse: Warehouse, question: _Question) -> None:
    """Raise LockedError for what is no single query: the engine's own `readonly` lets files be written, queries killed.

    The engine itself says how it reads the text: without comments, keywords in capitals, one statement.
    """
    try:
        read_as = warehouse.scalar("SELECT formatQuerySingleLine({sql:String})", {"sql": question.sql})
    except WarehouseGoneError:
        raise
    except WarehouseError as error:
        raise WarehouseError(str(error).partition(": In scope SELECT formatQuery")[0]) from None
    if not read_as.startswith(_READING) or _WRITES_ON.search(_QUOTED.sub("", read_as)) or not question.fmt.isalnum():
        raise LockedError(
            "`carat serve` holds the warehouse and answers for it what only reads (SELECT, SHOW, DESCRIBE, EXPLAIN, "
            "EXISTS): stop it for as long as anything else is to be done"
        )


def _mend(problem: str) -> str:
    if any(name in problem for name in _BEYOND):
        return (
            f". `carat serve` answers beside its work, within {_LONGEST_S} s, {_LIMITS['max_memory_usage'] // 1024**2} "
            f"MiB of memory and {_LIMITS['max_result_bytes'] // 1024**2} MiB of results: ask for less, or stop it first"
        )
    return ""


def _listen(path: Path) -> socket.socket:
    """Replace what a killed process left: who holds the directory is the only one to listen in it."""
    (path / _NAME).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            listener.bind(address)
        (path / _NAME).chmod(0o600)  # before anybody can connect
        listener.listen(64)
        listener.settimeout(_LOOK_S)
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def _connect(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_S)
        with _address(path) as address:
            connection.connect(address)
        yield connection


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The socket's address, by way of a handle: an address has room for 107 bytes, a path for many more."""
    handle = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{_NAME}"
    finally:
        os.close(handle)


def _is_of_this_user(connection: socket.socket) -> bool:
    _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(user == os.geteuid())


def _receive(connection: socket.socket, length: int) -> bytes:
    """Exactly so many bytes, within the connection's timeout."""
    until = time.monotonic() + (connection.gettimeout() or _PATIENCE_S)
    received = bytearray()
    while len(received) < length:
        piece = connection.recv(min(length - len(received), 1024**2))
        if not piece:
            raise ConnectionResetError("closed before its end")
        if time.monotonic() > until:
            raise TimeoutError
        received += piece
    return bytes(received)
