"""The live page: the preview with working filters, served to this machine's browsers.

`LivePage` is a bare ASGI application: `GET /` is the page, `GET /api/cards?dashboard=…&date=…&device=…` the results of
a dashboard's cards. It only reads, asks one question at a time of the one connection it is given, and remembers an
answer for a short while.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
import uvicorn

from app.core import console
from app.core.errors import CaratError, DashboardError, SettingsError
from app.dashboards.card_results import RunQuery, card_results, query_runner, stored_days
from app.dashboards.model import Dashboard, Library, load_library
from app.dashboards.preview import BY_ETL, data_span, live_page, page_filters
from app.dashboards.sql import parse_period

if TYPE_CHECKING:
    from app.ops.scheduler import Page, Reader

Ask = Callable[[Callable[[RunQuery], bytes]], bytes]
"""Answers a question over a connection of its choice."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_BY_SERVE = (
    "The first calls are built as soon as `carat serve` has delivered them, within half a minute; what "
    "follows, at each full hour"
)
_FRESH_S = 15.0
_MOST_REMEMBERED = 64
_MOST_WAITING = 8
_LONGEST_QUERY = 4_096
_MOST_VALUES = 20
_LONGEST_VALUE = 200
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",  # the page itself holds the rest
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_HTML, _JSON = "text/html; charset=utf-8", "application/json"


@dataclass(frozen=True)
class _Answer:
    status: int
    kind: str
    body: bytes


class _RefusalError(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.answer = _Answer(status, _JSON, msgspec.json.encode({"error": problem}))


class LivePage:
    """The application; `ask` is only ever called by one thread, with what is to be read for one answer.

    Requests that name another host than `hosts` are refused, so that a web page elsewhere cannot read through a name
    of its own that leads here; None takes any, for use behind a proxy. `until_built` is shown while there are no
    sessions.
    """

    def __init__(
        self, ask: Ask, library: Library, *, hosts: frozenset[str] | None = LOOPBACK, until_built: str = BY_ETL
    ) -> None:
        self._ask = ask
        self._library = library
        self._until_built = until_built
        self._hosts = hosts
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="live-page")
        self._remembered: OrderedDict[Any, tuple[float, asyncio.Task[bytes]]] = OrderedDict()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            answer = await self._answer(scope)
        except _RefusalError as refusal:
            answer = refusal.answer
        except CaratError as error:
            console.log.error("live page", problem=str(error))
            answer = _RefusalError(503, f"the warehouse does not answer: {error}").answer
        headers = _HEADERS | {"content-type": answer.kind, "content-length": str(len(answer.body))}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                self._worker.shutdown(wait=False, cancel_futures=True)
                return

    async def _answer(self, scope: Mapping[str, Any]) -> _Answer:
        if self._hosts is not None and _host_of(scope) not in self._hosts:
            raise _RefusalError(421, "this page is served to this machine alone: open it as http://127.0.0.1")
        if scope["method"] not in {"GET", "HEAD"}:
            raise _RefusalError(405, "only GET is answered")
        match scope["path"]:
            case "/":
                body = await self._remember("page", self._page)
                return _Answer(200, _HTML, body)
            case "/api/cards":
                dashboard, chosen = self._asked(scope["query_string"])
                key = (dashboard.slug, *sorted((slug, str(value)) for slug, value in chosen.items()))
                return _Answer(
                    200, _JSON, await self._remember(key, lambda run_query: self._cards(run_query, dashboard, chosen))
                )
        raise _RefusalError(404, "there is nothing here: the page is at /")

    def _page(self, run_query: RunQuery) -> bytes:
        return live_page(run_query, self._library, until_built=self._until_built)

    @staticmethod
    def _cards(run_query: RunQuery, dashboard: Dashboard, chosen: Mapping[str, Any]) -> bytes:
        results = card_results(run_query, dashboard, dashboard.dashcards, chosen)
        return msgspec.json.encode({"results": results, "made": data_span(stored_days(run_query))})

    async def _remember(self, key: Any, answer: Callable[[RunQuery], bytes]) -> bytes:
        """The answer, asked anew when it is older than some seconds; who asks the same meanwhile waits for the same."""
        now = time.monotonic()
        known = self._remembered.get(key)
        if known and (not known[1].done() or (now - known[0] < _FRESH_S and known[1].exception() is None)):
            return await asyncio.shield(known[1])
        if sum(not task.done() for _, task in self._remembered.values()) >= _MOST_WAITING:
            raise _RefusalError(503, "too many questions at once: try again in a moment")
        task = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._worker, self._ask, answer))
        self._remembered[key] = (now, task)  # type: ignore[assignment]
        self._remembered.move_to_end(key)
        done = [old for old, (_, other) in self._remembered.items() if other.done()]
        for old in done[: max(0, len(self._remembered) - _MOST_REMEMBERED)]:
            del self._remembered[old]
        return await asyncio.shield(task)

    def _asked(self, query: bytes) -> tuple[Dashboard, dict[str, Any]]:
        """The dashboard and the filters' values that a request names; _RefusalError for anything else."""
        if len(query) > _LONGEST_QUERY:
            raise _RefusalError(414, "that is too long a question")
        try:
            pairs = parse_qsl(query.decode(), strict_parsing=bool(query), max_num_fields=_MOST_VALUES, errors="strict")
        except ValueError:
            raise _RefusalError(400, "that is no query such as ?dashboard=…&device=mobile") from None
        asked: dict[str, list[str]] = {}
        for name, value in pairs:
            if len(value) > _LONGEST_VALUE or "\0" in value:
                raise _RefusalError(400, f"{name[:_LONGEST_VALUE]}: that value is too long")
            asked.setdefault(name, []).append(value)
        slugs = asked.pop("dashboard", [])
        dashboard = next((own for own in self._library.dashboards if [own.slug] == slugs), None)
        if dashboard is None:
            known = ", ".join(own.slug for own in self._library.dashboards)
            raise _RefusalError(404, f"dashboard: one of {known} is expected")
        filters = {own.slug: own for own in page_filters(self._library)}
        if unknown := asked.keys() - filters.keys():
            raise _RefusalError(400, f"{min(unknown)[:_LONGEST_VALUE]}: there is no such filter")
        chosen: dict[str, Any] = {}
        for slug, values in asked.items():
            chosen[slug] = _period(values) if filters[slug].type.startswith("date/") else values
        return dashboard, chosen


def asking(run_query: RunQuery) -> Ask:
    """Every answer by this one connection."""
    return lambda question: question(run_query)


def serve_page(
    ask: Ask,
    library: Library,
    *,
    host: str,
    port: int,
    stopped: threading.Event,
    option: str = "--port",
    until_built: str = BY_ETL,
) -> None:
    """Serve the live page until told to stop; port 0 takes any that is free, `option` is what chooses the port."""
    hosts = LOOPBACK | {host} if host in LOOPBACK else None
    server = uvicorn.Server(
        uvicorn.Config(
            LivePage(ask, library, hosts=hosts, until_built=until_built),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
            limit_concurrency=64,
        )
    )

    def stop() -> None:
        stopped.wait()
        server.should_exit = True

    with _listening(host, port, option) as listener:
        shown = f"[{host}]" if ":" in host else host
        console.say(f"the dashboards are at http://{shown}:{listener.getsockname()[1]}/ until this is stopped")
        if hosts is None:
            console.say("whoever reaches this machine can read the dashboards: there is no password")
        threading.Thread(target=stop, name="page-stop", daemon=True).start()
        server.run(sockets=[listener])


def page_of_keeper(host: str, port: int) -> "Page":
    """The live page as `carat serve` shows it, beside the work."""

    def show(reader: "Reader", *, stopped: threading.Event) -> None:
        def ask(question: Callable[[RunQuery], bytes]) -> bytes:
            return reader.read(lambda warehouse: question(query_runner(warehouse)))

        serve_page(
            ask,
            load_library(),
            host=host,
            port=port,
            stopped=stopped,
            option="--page-port",
            until_built=_BY_SERVE,
        )

    return show


@contextlib.contextmanager
def _listening(host: str, port: int, option: str) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"cannot listen at {host} port {port}: {error.strerror or error}. Choose another with {option}"
        ) from None
    with listener:
        yield listener


def _host_of(scope: Mapping[str, Any]) -> str:
    text = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].lower()


def _period(values: list[str]) -> str:
    if len(values) != 1:
        raise _RefusalError(400, "one period is expected, not several")
    try:
        parse_period(values[0])
    except DashboardError as error:
        raise _RefusalError(400, str(error)) from None
    return values[0]
