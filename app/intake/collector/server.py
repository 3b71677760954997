"""Runs the collector: its sockets, its event loop, its signals, and what systemd and the log are told."""

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
from app.intake.collector.intake import Intake
from app.intake.collector.keys import WriteKeys
from app.intake.collector.metrics import Metrics
from app.intake.collector.protocol import ServerConfig
from app.intake.spool import Spool, SpoolLimits
from app.settings import Settings

_FIRST_INHERITED = 3  # by systemd's convention
_BACKLOG = 2048
_STOP_S = 25  # what was begun may take so long to end
_HANG_S = 15.0  # an event loop that does not turn for so long is no longer reported to be alive
_SWITCH_S = 0.0005  # after a sync, the spool's thread waits no longer for a busy event loop to let it go on
_LOOK_AT_KEYS_S = 5.0
_SUMMARY_S = 60.0
_TICKS_A_SECOND = 10  # of uvicorn's main loop


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return [socket.create_server((host, port), family=family, backlog=_BACKLOG)]
    except OSError as error:
        problem = (error.strerror or str(error)).partition(" (")[0]
        raise CaratError(f"cannot listen on {host}:{port}: {problem}. Choose another with --host and --port") from None


def inherited_sockets(fd: int | None = None) -> list[socket.socket]:
    """The sockets that systemd, or whoever else started this process, opened for it; none where there are none."""
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
            raise SettingsError(
                f"file descriptor {number} is no socket that was handed over: {error.strerror}"
            ) from None
        if not is_listening:
            sockets[-1].close()
            raise SettingsError(f"the socket at file descriptor {number} does not listen")
    return sockets


class Collector:
    """One collector; it listens on sockets that are open already."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        self._settings = settings
        self._sockets = list(sockets)
        self._keys = WriteKeys(settings)
        self._server: _Server | None = None

    def run(self) -> None:
        """Collect until SIGTERM, SIGINT or `stop`; what was begun is finished."""
        _raise_file_limit()
        _send_warnings_to_our_log()
        switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        gc.freeze()  # what is here by now stays: nothing to look through again and again
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        finally:
            gc.unfreeze()
            sys.setswitchinterval(switch_interval_s)
            for listener in self._sockets:
                listener.close()

    def stop(self) -> None:
        """Let `run` end; from any thread."""
        if self._server:
            self._server.should_exit = True

    async def _run(self) -> None:
        metrics = Metrics()
        spool = Spool(self._settings.spool, SpoolLimits.of(self._settings), on_sync=metrics.synced)
        await spool.open()
        try:
            intake = Intake(self._settings, self._keys, spool, metrics)
            application = Application(
                intake, spool, self._settings.spool, metrics, connections=lambda: len(server.server_state.connections)
            )
            server = self._server = _Server(
                ServerConfig(application, self._settings, metrics, stop_timeout_s=_STOP_S),
                application,
                self._keys,
                metrics,
            )
            addresses = [_address(listener) for listener in self._sockets]
            console.log.info("collecting", at=addresses)
            if sys.stderr.isatty():  # where the log has warnings only
                console.say(f"collecting at {', '.join(addresses)}, until Ctrl+C")
            await server.serve(self._sockets)
        finally:
            await spool.close()
        console.log.info("stopped", **metrics.since_last())


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are handled here, and which says how it is doing."""

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
        """What uvicorn does ten times a second; more often than that, an event loop in trouble does not get to it."""
        watchdog.progress()
        if not counter % round(_LOOK_AT_KEYS_S * _TICKS_A_SECOND):
            self._keys.reload_if_changed()
        if not counter % round(_SUMMARY_S * _TICKS_A_SECOND) and (figures := self._metrics.since_last()):
            console.log.info("collected", **figures)
            watchdog.status(f"{figures['accepted']} calls in the last minute")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was begun, take nothing new."""
        self._application.is_stopping = True
        watchdog.status("stopping")
        await super().shutdown(sockets)
        self._watched.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server in order; SIGHUP has it read its keys again."""
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


class _ToOurLog(logging.Handler):
    """uvicorn's warnings and errors as lines of Carat's log, and their whole story in its file."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error:
            console.record_failure(error)
        console.log.error(record.getMessage().strip(), error=str(error or ""))


def _send_warnings_to_our_log() -> None:
    logger = logging.getLogger("uvicorn")
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.handlers = [_ToOurLog()]


def _raise_file_limit() -> None:
    """Each connection is an open file: as many as may be."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _address(listener: socket.socket) -> str:
    address = listener.getsockname()
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
