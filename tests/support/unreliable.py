"""A connection that loses answers, delays them or is down: what stands between a client and a server in a test."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_INSERT_OF_CALLS = re.compile(rb"INSERT.{1,6}INTO.{1,6}pd.{1,6}api_calls")


@dataclass
class Unreliable:
    """Passes on what comes to its port; what goes wrong can be changed at any time."""

    upstream_port: int
    port: int = 0
    answers_to_lose: int = 0  # of inserts into pd.api_calls: the server has done them, the client is not told
    delay_s: float = 0.0
    is_down: bool = False
    lost: int = 0
    _connections: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def go_down(self) -> None:
        """Refuse new connections and break those that are there."""
        self.is_down = True
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        self.is_down = False

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self.is_down:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._connections |= {client, server}
            is_insert = threading.Event()
            for source, target, passes in ((client, server, self._to_server), (server, client, self._to_client)):
                threading.Thread(target=self._pass, args=(source, target, passes, is_insert), daemon=True).start()

    def _pass(self, source, target, passes, is_insert) -> None:
        with suppress(OSError):
            while (data := source.recv(1 << 16)) and passes(data, is_insert):
                target.sendall(data)
        for connection in (source, target):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._connections.discard(source)
        source.close()

    def _to_server(self, data: bytes, is_insert: threading.Event) -> bool:
        if data.startswith((b"POST", b"GET")):
            (is_insert.set if _INSERT_OF_CALLS.search(data[:4096]) else is_insert.clear)()
        return True

    def _to_client(self, data: bytes, is_insert: threading.Event) -> bool:
        if self.delay_s:
            time.sleep(self.delay_s)
        if is_insert.is_set() and self.answers_to_lose > 0:
            self.answers_to_lose -= 1
            self.lost += 1
            return False
        return True


@contextmanager
def unreliable(upstream_port: int) -> Iterator[Unreliable]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        between = Unreliable(upstream_port, port=listener.getsockname()[1])
        threading.Thread(target=between.serve, args=(listener,), daemon=True).start()
        try:
            yield between
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            between.go_down()
