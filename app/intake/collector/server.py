"""Runs the collector: sockets, event loop, signals, systemd notifications and log."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import uvicorn
import uvloop

from app.core import console, watchdog
from app.core.errors import CaratError, SettingsError
from app.intake.collector.application import Application
from app.intake.collector.keys import WriteKeys
from app.intake.collector.metrics import Metrics
from app.intake.collector.protocol import ServerConfig
from app.intake.collector.receiving import Receiver
from app.intake.spool import Spool, SpoolLimits
from app.settings import Settings

_FIRST_INHERITED = 3  # by systemd's convention
_BACKLOG = 2048
_STOP_S = 25  # the time that requests in progress get on shutdown
_HANG_S = 15.0  # systemd pings stop if the event loop does not turn for this long
_SWITCH_S = 0.0005  # after a sync, the spool's thread gets the GIL from a busy event loop within this time
_RELOAD_KEYS_S = 5.0
_SUMMARY_S = 60.0
_TICKS_A_SECOND = 10  # of uvicorn's main loop


def listen(host: str, port: int) -> list[socket.socket]:
    """Open a listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return [socket.create_server((host, port), family=family, backlog=_BACKLOG)]
    except OSError as error:
        problem = (error.strerror or str(error)).partition(" (")[0]
        raise CaratError(f"cannot listen on {host}:{port}: {problem}. Choose another with --host and --port") from None


def inherited_sockets(fd: int | None = None) -> list[socket.socket]:
    """The listening sockets passed by systemd (or as `fd`); empty if there are none."""
    count = os.environ.get("LISTEN_FDS", "")
    is_meant = os.environ.get("LISTEN_PID") == str(os.getpid()) and count.isdecimal()
    fds = [fd] if fd is not None else range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)) if is_meant else []
    sockets = []
    for number in fds:
        try:
            os.set_inheritable(number, False)
            sockets.append(socket.socket(fileno=number))
            is_listening = sockets[-1].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise SettingsError(f"file descriptor {number} is not an inherited socket: {error.strerror}") from None
        if not is_listening:
            sockets[-1].close()
            raise SettingsError(f"the socket at file descriptor {number} is not listening")
    return sockets


class Collector:
    """A collector on sockets that are already open."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        self._settings = settings
        self._sockets = list(sockets)
        self._keys = WriteKeys(settings)
        self._server: _Server | None = None

    def run(self) -> None:
        """Collect until SIGTERM, SIGINT or `stop`; requests in progress are finished."""
        _raise_file_limit()
        _redirect_uvicorn_log()
        switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        gc.freeze()  # the objects so far stay: do not traverse them again and again
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        finally:
            gc.unfreeze()
            sys.setswitchinterval(switch_interval_s)
            for listener in self._sockets:
                listener.close()

    def stop(self) -> None:
        """Make `run` return. Can be called from any thread."""
        if self._server:
            self._server.should_exit = True

    async def _run(self) -> None:
        metrics = Metrics()
        spool = Spool(self._settings.spool, SpoolLimits.of(self._settings), on_sync=metrics.count_sync)
        await spool.open()
        try:
            receiver = Receiver(self._settings, self._keys, spool, metrics)
            application = Application(
                receiver, spool, self._settings.spool, metrics, connections=lambda: len(server.server_state.connections)
            )
            server = self._server = _Server(
                ServerConfig(application, self._settings, metrics, stop_timeout_s=_STOP_S),
                application,
                self._keys,
                metrics,
            )
            addresses = [_address(listener) for listener in self._sockets]
            console.log.info("collecting", at=addresses)
            if sys.stderr.isatty():  # where the log shows only warnings
                console.say(f"collecting at {', '.join(addresses)}, until Ctrl+C")
            await server.serve(self._sockets)
        finally:
            await spool.close()
        console.log.info("stopped", **metrics.since_last())


class _Server(uvicorn.Server):
    """uvicorn's server with our signal handling, watchdog and log summary."""

    def __init__(self, config: ServerConfig, application: Application, keys: WriteKeys, metrics: Metrics) -> None:
        super().__init__(config)
        self._application = application
        self._keys = keys
        self._metrics = metrics
        self._watched = ExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watched.enter_context(watchdog.watched(patience_s=_HANG_S))

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second, unless the event loop is blocked."""
        watchdog.progress()
        if not counter % round(_RELOAD_KEYS_S * _TICKS_A_SECOND):
            self._keys.reload_if_changed()
        if not counter % round(_SUMMARY_S * _TICKS_A_SECOND) and (figures := self._metrics.since_last()):
            console.log.info("collected", **figures)
            watchdog.status(f"{figures['accepted']} calls in the last minute")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish requests in progress, accept no new ones."""
        self._application.is_stopping = True
        watchdog.status("stopping")
        await super().shutdown(sockets)
        self._watched.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT shut the server down gracefully; SIGHUP reloads the keys."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._keys.reload)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)


class _CaratLogHandler(logging.Handler):
    """Writes uvicorn's warnings and errors to Carat's log, with tracebacks in the log file."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error:
            console.record_failure(error)
        console.log.error(record.getMessage().strip(), error=str(error or ""))


def _redirect_uvicorn_log() -> None:
    logger = logging.getLogger("uvicorn")
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.handlers = [_CaratLogHandler()]


def _raise_file_limit() -> None:
    """Raise the limit of open files to the maximum: each connection is one."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _address(listener: socket.socket) -> str:
    address = listener.getsockname()
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
