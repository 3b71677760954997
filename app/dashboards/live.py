"""The live page: the preview with working filters, served to browsers on this machine.

`LivePage` is an ASGI application. `GET /` is the page, `GET /api/cards?dashboard=…&tab=…&date=…&device=…` the results
of the cards on a tab (of all tabs, if none is named), and `GET /api/insights?date=…` what matters, in words. It only
reads, runs one query at a time on the connection it is given, and caches answers for a short time.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.core import console
from app.core.errors import CaratError, DashboardError, SettingsError
from app.dashboards.card_results import RunQuery, card_results, query_runner, stored_days
from app.dashboards.insights import insights
from app.dashboards.model import Dashboard, Library, load_library
from app.dashboards.preview import BY_ETL, data_span, live_page, page_filters, tabs_of
from app.dashboards.sql import parse_period

if TYPE_CHECKING:
    from app.ops.scheduler import Page, Reader

Ask = Callable[[Callable[[RunQuery], bytes]], bytes]
"""Answers a question over a connection of its choice."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

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
_STARLETTE_PROBLEMS = {"Not Found": "no such path: the page is at /", "Method Not Allowed": "only GET is answered"}
_HTML, _JSON = "text/html; charset=utf-8", "application/json"


class LivePage:
    """The application. `ask` is called by a single thread.

    Requests for a host other than `hosts` are refused, so that another web page cannot read this one through a domain
    of its own (DNS rebinding); None allows any host, for use behind a proxy. `until_built` is shown while there are no
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
        self._application = Starlette(
            routes=[
                Route("/", self._answer_page),
                Route("/api/cards", self._answer_cards),
                Route("/api/insights", self._answer_insights),
            ],
            exception_handlers={HTTPException: _answer_error, CaratError: _answer_unavailable},
            lifespan=self._lifespan,
        )
        self._remembered: OrderedDict[Any, tuple[float, asyncio.Task[bytes]]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _answer_page(self, request: Request) -> Response:
        self._require_host(request)
        return _response(request, await self._remember("page", self._page), _HTML)

    async def _answer_cards(self, request: Request) -> Response:
        self._require_host(request)
        dashboard, tab, chosen = self._asked(request.scope["query_string"])
        key = (dashboard.slug, tab, *sorted((slug, str(value)) for slug, value in chosen.items()))
        results = await self._remember(key, lambda run_query: self._cards(run_query, dashboard, tab, chosen))
        return _response(request, results, _JSON)

    async def _answer_insights(self, request: Request) -> Response:
        self._require_host(request)
        chosen = self._chosen(_asked_values(request.scope["query_string"]))
        key = ("insights", *sorted((slug, str(value)) for slug, value in chosen.items()))
        return _response(request, await self._remember(key, lambda run_query: self._insights(run_query, chosen)), _JSON)

    def _insights(self, run_query: RunQuery, chosen: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode([insight.report for insight in insights(run_query, self._library, chosen)])

    def _require_host(self, request: Request) -> None:
        if self._hosts is not None and _host_of(request) not in self._hosts:
            raise HTTPException(
                421,
                "this page is served only to this machine: open it as http://127.0.0.1, or name the host of your proxy "
                "in CARAT_PAGE_HOSTS",
            )

    def _page(self, run_query: RunQuery) -> bytes:
        return live_page(run_query, self._library, until_built=self._until_built)

    @staticmethod
    def _cards(run_query: RunQuery, dashboard: Dashboard, tab: int | None, chosen: Mapping[str, Any]) -> bytes:
        shown = dashboard.dashcards if tab is None else tabs_of(dashboard)[tab][1]
        results = card_results(run_query, dashboard, shown, chosen)
        return msgspec.json.encode({"results": results, "made": data_span(stored_days(run_query))})

    async def _remember(self, key: Any, answer: Callable[[RunQuery], bytes]) -> bytes:
        """A cached answer, renewed after some seconds. Concurrent requests for the same answer share one query."""
        now = time.monotonic()
        known = self._remembered.get(key)
        if known and (not known[1].done() or (now - known[0] < _FRESH_S and known[1].exception() is None)):
            return await asyncio.shield(known[1])
        if sum(not task.done() for _, task in self._remembered.values()) >= _MOST_WAITING:
            raise HTTPException(503, "too many requests at once: try again in a moment")
        task = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._worker, self._ask, answer))
        self._remembered[key] = (now, task)  # type: ignore[assignment]
        self._remembered.move_to_end(key)
        done = [old for old, (_, other) in self._remembered.items() if other.done()]
        for old in done[: max(0, len(self._remembered) - _MOST_REMEMBERED)]:
            del self._remembered[old]
        return await asyncio.shield(task)

    def _asked(self, query: bytes) -> tuple[Dashboard, int | None, dict[str, Any]]:
        """The dashboard, tab and filters' values that a request names; HTTPException for anything else."""
        asked = _asked_values(query)
        slugs = asked.pop("dashboard", [])
        dashboard = next((own for own in self._library.dashboards if [own.slug] == slugs), None)
        if dashboard is None:
            known = ", ".join(own.slug for own in self._library.dashboards)
            raise HTTPException(404, f"dashboard: one of {known} is expected")
        tab = _tab(asked.pop("tab", []), len(tabs_of(dashboard)))
        return dashboard, tab, self._chosen(asked)

    def _chosen(self, asked: Mapping[str, list[str]]) -> dict[str, Any]:
        filters = {own.slug: own for own in page_filters(self._library)}
        if unknown := asked.keys() - filters.keys():
            raise HTTPException(400, f"{min(unknown)[:_LONGEST_VALUE]}: there is no such filter")
        chosen: dict[str, Any] = {}
        for slug, values in asked.items():
            chosen[slug] = _period(values) if filters[slug].type.startswith("date/") else values
        return chosen


def asking(run_query: RunQuery) -> Ask:
    """Answers every question over this connection."""
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
    proxy_hosts: frozenset[str] = frozenset(),
) -> None:
    """Serve the live page until `stopped` is set. Port 0: any free port. `option`: the option that sets the port.

    `proxy_hosts`: the hosts of a proxy on this machine, which asks for a password and speaks TLS.
    """
    hosts = LOOPBACK | proxy_hosts | {host} if host in LOOPBACK else None
    server = uvicorn.Server(
        uvicorn.Config(
            LivePage(ask, library, hosts=hosts, until_built=until_built),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
            limit_concurrency=64,
            ws="none",
        )
    )

    def stop() -> None:
        stopped.wait()
        server.should_exit = True

    with _listening(host, port, option) as listener:
        shown = f"[{host}]" if ":" in host else host
        console.say(f"the dashboards are at http://{shown}:{listener.getsockname()[1]}/ until this is stopped")
        if hosts is None:
            console.say(
                "anybody who can reach this machine can read the dashboards, without a password or TLS: "
                "docs/operating.md shows a proxy that asks for one"
            )
        threading.Thread(target=stop, name="page-stop", daemon=True).start()
        server.run(sockets=[listener])


def scheduler_page(host: str, port: int, *, currency: str, proxy_hosts: frozenset[str] = frozenset()) -> "Page":
    """The live page of `carat serve`, also under the hosts of a proxy, with amounts in this currency."""

    def show(reader: "Reader", *, stopped: threading.Event) -> None:
        def ask(question: Callable[[RunQuery], bytes]) -> bytes:
            return reader.read(lambda warehouse: question(query_runner(warehouse)))

        serve_page(
            ask,
            load_library(currency=currency),
            host=host,
            port=port,
            stopped=stopped,
            option="--page-port",
            until_built=_BY_SERVE,
            proxy_hosts=proxy_hosts,
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


def _response(request: Request, content: bytes, media_type: str, status: int = 200) -> Response:
    response = Response(content, status, _HEADERS | {"content-type": media_type})
    if request.method == "HEAD":
        response.body = b""
    return response


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = _STARLETTE_PROBLEMS.get(error.detail, error.detail)
    return _response(request, msgspec.json.encode({"error": problem}), _JSON, error.status_code)


async def _answer_unavailable(request: Request, error: Exception) -> Response:
    console.log.error("live page", problem=str(error))
    content = msgspec.json.encode({"error": f"the warehouse does not answer: {error}"})
    return _response(request, content, _JSON, 503)


def _host_of(request: Request) -> str:
    text = request.headers.get("host", "")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].lower()


def _asked_values(query: bytes) -> dict[str, list[str]]:
    """The values of each name in a query string; HTTPException if it is none, or too long."""
    if len(query) > _LONGEST_QUERY:
        raise HTTPException(414, "the query string is too long")
    try:
        pairs = parse_qsl(query.decode(), strict_parsing=bool(query), max_num_fields=_MOST_VALUES, errors="strict")
    except ValueError:
        raise HTTPException(400, "not a query string such as ?dashboard=…&device=mobile") from None
    asked: dict[str, list[str]] = {}
    for name, value in pairs:
        if len(value) > _LONGEST_VALUE or "\0" in value:
            raise HTTPException(400, f"{name[:_LONGEST_VALUE]}: that value is too long")
        asked.setdefault(name, []).append(value)
    return asked


def _tab(values: list[str], count: int) -> int | None:
    """The number of the tab; None, which stands for all, if none is named."""
    if not values:
        return None
    if len(values) != 1 or values[0] not in map(str, range(count)):
        raise HTTPException(404, f"tab: a number from 0 to {count - 1} is expected")
    return int(values[0])


def _period(values: list[str]) -> str:
    if len(values) != 1:
        raise HTTPException(400, "one period is expected, not several")
    try:
        parse_period(values[0])
    except DashboardError as error:
        raise HTTPException(400, str(error)) from None
    return values[0]
