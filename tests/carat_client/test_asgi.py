"""The ASGI middleware: the shop's answer is the same to the byte, and what is captured is what happened."""

import asyncio
import gzip
import json
import time

import pytest

from carat_client import CallSender, CaratASGI, ClientSettings, Cookie, Header
from tests.support.deadline import deadline
from tests.support.receivers import KEY, receiving, refused

CATALOG = json.dumps({"total": 2, "items": [{"id": 1}, {"id": 2}]}).encode()


@pytest.fixture
def collector():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def sender(collector):
    sender = CallSender(ClientSettings(url=collector.url, write_key=KEY, flush_interval_s=0.01))
    yield sender
    sender.close(1)


def http_scope(method="GET", path="/api/v1/catalog", query=b"", headers=(), **more) -> dict:
    return {
        "type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers),
        "client": ("203.0.113.9", 4711), **more,
    }  # fmt: skip


def call(app, scope: dict, *chunks: bytes) -> list[dict]:
    """All messages the app sends in answer to a request whose body comes in these chunks."""
    waiting = [
        {"type": "http.request", "body": c, "more_body": n + 1 < len(chunks)} for n, c in enumerate(chunks or (b"",))
    ]
    messages = []

    async def receive():
        if not waiting:
            await asyncio.Event().wait()  # the client stays
        return waiting.pop(0)

    async def send(message):
        messages.append(message)

    asyncio.run(app(scope, receive, send))
    return messages


def answering(*messages: dict, reads: bool = False, error: BaseException | None = None):
    async def app(scope, receive, send):
        if reads:
            while (await receive()).get("more_body"):
                pass
        for message in messages:
            await send(message)
        if error:
            raise error

    return app


def start(status=200, content_type=b"application/json", *headers) -> dict:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type), *headers]}


def body(content: bytes = b"", more: bool = False) -> dict:
    return {"type": "http.response.body", "body": content, "more_body": more}


@pytest.mark.parametrize(
    "messages",
    [
        [start(), body(CATALOG)],
        [start(), body(CATALOG[:9], True), body(b"", True), body(CATALOG[9:], True), body()],
        [start(200, b"text/event-stream"), *(body(b"data: %d\n\n" % n, True) for n in range(50)), body()],
        [start(204), body()],
        [start(304), body()],
        [start(), body()],
        [start(200, b"image/png"), {"type": "http.response.pathsend", "path": "/x.png"}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}],
        [start() | {"trailers": True}, body(CATALOG), {"type": "http.response.trailers", "headers": []}],
        [{"type": "http.response.debug", "info": {}}, start(), body(b"x" * 1_000_000)],
        [start(), body(b"not JSON")],
        [],
    ],
    ids=["json", "chunks", "events", "204", "304", "HEAD", "file", "bare", "trailers", "large", "not JSON", "nothing"],
)
def test_every_message_of_an_answer_goes_through_as_it_is(messages, sender, collector):
    app = answering(*messages)
    passed = call(CaratASGI(app, sender), http_scope())
    assert [id(message) for message in passed] == [id(message) for message in messages]
    record = collector.await_records(1)[0]
    assert record["status"] == (next(iter(m["status"] for m in messages if "status" in m), 500))
    assert (sender.stats.captured, sender.stats.failures) == (1, 0)


def test_a_call_is_captured_with_all_that_the_contract_names(sender, collector):
    headers = [
        (b"user-agent", b"Mozilla/5.0"), (b"cookie", b"a=b; visitor_id=c-81"), (b"cookie", b"session_token=s3"),
        (b"x-user-id", b"4711"), (b"referer", b"https://shop.example/p/17?utm_source=x"),
        (b"x-referrer", b"https://search.example/"), (b"content-type", b"application/json; charset=utf-8"),
    ]  # fmt: skip
    scope = http_scope("POST", "/api/v1/cart/items", b"q=a&section[]=rings&section[]=chains&x=", headers)
    app = answering(start(201), body(b'{"ok": ', True), body(b"true}"), reads=True)
    before = time.time()
    call(CaratASGI(app, sender), scope, b'{"product_id"', b': 17, "quantity": 1.50}')
    record = collector.await_records(1)[0]
    assert before - 0.002 <= _epoch(record.pop("ts")) <= time.time()
    assert len(record.pop("call_id")) == 36
    assert record.pop("session_token").startswith("token:")
    assert record.pop("duration_ms") in range(2000)
    assert record == {
        "method": "POST", "endpoint": "/api/v1/cart/items", "status": 201, "visitor_id": "c-81", "user_id": "4711",
        "ip": "203.0.113.9", "user_agent": "Mozilla/5.0", "referrer": "https://search.example/",
        "page_url": "https://shop.example/p/17?utm_source=x",
        "request": {"query": {"q": "a", "section[]": ["rings", "chains"], "x": ""}, "body": {"product_id": 17, "quantity": 1.5}},
        "response": {"ok": True},
    }  # fmt: skip
    assert collector.headers[0]["Authorization"] == f"Bearer {KEY}"


def _epoch(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("messages", "response"),
    [
        ([start(), body(CATALOG)], json.loads(CATALOG)),
        ([start(200, b"Application/Problem+JSON"), body(b"[1]")], [1]),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"application/json")]}, body(b"1")], 1),
        ([start(200, b"application/json", (b"content-encoding", b"gzip")), body(gzip.compress(CATALOG))], json.loads(CATALOG)),
        ([start(200, b"application/json", (b"content-encoding", b"br")), body(b"xyz")], {"_unreadable": 3}),
        ([start(200, b"application/json", (b"content-encoding", b"gzip")), body(b"xyz")], {"_unreadable": 3}),
        ([start(200, b"application/json", (b"content-encoding", b"gzip")), body(gzip.compress(b"1" * 200_000, 9))], "bomb"),
        ([start(), body(b"{broken")], {"_unreadable": 7}),
        ([start(), body(b"[" * 90_000)], {"_unreadable": 90_000}),
        ([start(), body(b" " * 60_000, True), body(b" " * 60_000)], {"_truncated": 120_000}),
        ([start(200, b"text/html"), body(b"<html>")], None),
        ([start(200, b"application/x-ndjson"), body(b"{}\n{}")], None),
        ([start(200, b"text/event-stream"), body(b"data: {}\n\n")], None),
        ([start(), body()], None),
    ],
)  # fmt: skip
def test_of_a_response_json_is_kept_up_to_a_size(messages, response, sender, collector):
    call(CaratASGI(answering(*messages), sender), http_scope())
    found = collector.await_records(1)[0]["response"]
    assert found == response if response != "bomb" else list(found) == ["_truncated"]


def test_a_body_that_the_app_does_not_read_is_not_read_for_it(sender, collector):
    async def receive():
        raise AssertionError("nobody asked for it")

    async def send(message):
        pass

    scope = http_scope("POST", headers=[(b"content-type", b"application/json")])
    asyncio.run(CaratASGI(answering(start(), body(b"1")), sender)(scope, receive, send))
    assert collector.await_records(1)[0]["request"] == {"query": {}, "body": None}


class ShopError(Exception):
    pass


@pytest.mark.parametrize(
    ("messages", "error", "status"),
    [
        ([], ShopError(), 500),
        ([start(), body(b"{", True)], ShopError(), 500),
        ([start(404), body(b"{}")], ShopError(), 404),  # answered, then failed: as frameworks do that log
        ([], asyncio.CancelledError(), 499),
        ([start(), body(b"{", True)], asyncio.CancelledError(), 200),
    ],
)
def test_an_error_of_the_app_is_raised_as_it_is_and_recorded(messages, error, status, sender, collector):
    with pytest.raises(type(error)) as raised:
        call(CaratASGI(answering(*messages, error=error), sender), http_scope())
    assert raised.value is error or isinstance(error, asyncio.CancelledError)
    assert collector.await_records(1)[0]["status"] == status


def test_an_answer_is_recorded_when_it_is_out_though_the_app_works_on(sender, collector):
    async def app(scope, receive, send):
        await send(start())
        await send(body(b"1"))
        await asyncio.sleep(0.3)
        assert sender.stats.captured == 1

    call(CaratASGI(app, sender), http_scope())
    assert collector.await_records(1)[0]["status"] == 200


def test_what_is_no_http_call_passes_through(sender):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    scope = {"type": "websocket", "path": "/"}
    asyncio.run(CaratASGI(app, sender)(scope, "receive", "send"))
    assert seen == [(scope, "receive", "send")]
    assert sender.stats.captured == 0


def test_extractors_see_what_the_app_put_into_the_scope_and_one_that_fails_is_counted(collector):
    def fails(scope):
        raise KeyError("user")

    settings = ClientSettings(
        url=collector.url, write_key=KEY, flush_interval_s=0.01,
        user_id=(fails, lambda scope: None, lambda scope: scope["user"]), visitor_id=(Cookie("vid"), Header("X-Device")),
    )  # fmt: skip

    async def app(scope, receive, send):
        scope["user"] = 4711
        await answering(start(), body(b"1"))(scope, receive, send)

    sender = CallSender(settings)
    assert len(call(CaratASGI(app, sender), http_scope(headers=[(b"x-device", b"d-1")]))) == 2
    record = collector.await_records(1)[0]
    assert (record["user_id"], record["visitor_id"]) == ("4711", "d-1")
    assert sender.stats.failures == 1
    sender.close()


@pytest.mark.parametrize(
    ("proxies", "forwarded", "ip"),
    [
        (0, b"198.51.100.1", "203.0.113.9"),
        (1, b"198.51.100.1", "198.51.100.1"),
        (1, b"6.6.6.6, 198.51.100.1", "198.51.100.1"),  # the first is what the shopper claims
        (2, b"6.6.6.6, 198.51.100.1:80, 10.0.0.1", "198.51.100.1"),
        (2, b"[2001:db8::1]:443, 10.0.0.1", "2001:db8::1"),
        (5, b"198.51.100.1", "198.51.100.1"),
        (1, b"unknown", "203.0.113.9"),
        (1, b"", "203.0.113.9"),
    ],
)
def test_the_address_is_what_the_outermost_trusted_proxy_saw(proxies, forwarded, ip, collector):
    settings = ClientSettings(url=collector.url, write_key=KEY, flush_interval_s=0.01, trusted_proxies=proxies)
    sender = CallSender(settings)
    scope = http_scope(headers=[(b"x-forwarded-for", forwarded)])
    call(CaratASGI(answering(start(), body(b"1")), sender), scope)
    assert collector.await_records(1)[0]["ip"] == ip
    sender.close()


def test_endpoints_are_chosen_ignored_and_kept_without_bodies(collector):
    settings = ClientSettings(
        url=collector.url, write_key=KEY, flush_interval_s=0.01, endpoints=("/api/*",),
        ignored_endpoints=("/api/health", "* /api/*/internal/*"), bodiless_endpoints=("POST /api/login",),
    )  # fmt: skip
    sender = CallSender(settings)
    app = CaratASGI(answering(start(), body(CATALOG), reads=True), sender)
    is_json = [(b"content-type", b"application/json")]
    for method, path in [("GET", "/x"), ("GET", "/api/health"), ("PUT", "/api/v1/internal/x"), ("POST", "/api/login")]:
        call(app, http_scope(method, path, b"a=1", is_json), b'{"user": "x"}')
    call(app, http_scope("PUT", "/api/login", b"a=1", is_json), b'{"user": "x"}')
    first, second = collector.await_records(2)
    assert (first["method"], first["request"], first["response"]) == ("POST", None, None)
    assert second["request"] == {"query": {"a": "1"}, "body": {"user": "x"}}
    assert sender.stats.captured == 2
    sender.close()


def test_of_a_sample_all_calls_of_a_visitor_are_kept_or_none(collector):
    kept = {}
    for share in (0.3, 0.6):
        settings = ClientSettings(url=collector.url, write_key=KEY, flush_interval_s=0.01, sample=share)
        sender = CallSender(settings)
        app = CaratASGI(answering(start(), body(b"1")), sender)
        for number in range(600):
            call(app, http_scope(headers=[(b"cookie", b"visitor_id=v%d" % (number % 200))]))
        assert sender.flush(10)
        visitors = [record["visitor_id"] for record in collector.records]
        assert {visitors.count(visitor) for visitor in visitors} == {3}
        assert abs(len(set(visitors)) - share * 200) < 40
        assert sender.stats.sampled_out == 600 - len(visitors)
        kept[share] = set(visitors)
        collector.records.clear()
        sender.close()
    assert kept[0.3] < kept[0.6]


def test_a_blank_url_switches_the_capture_off():
    sender = CallSender(ClientSettings(url="", write_key=""))
    messages = [start(), body(b"1")]
    assert call(CaratASGI(answering(*messages), sender), http_scope()) == messages
    assert sender.stats.captured == 0


def test_a_scope_without_what_it_should_hold_is_the_apps_to_judge(sender):
    messages = [start(), body(b"1")]
    assert call(CaratASGI(answering(*messages), sender), {"type": "http"}) == messages
    assert sender.stats.failures == 1


def lifespan(app) -> list[str]:
    asked = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    said = []

    async def receive():
        return asked.pop(0)

    async def send(message):
        said.append(message["type"])

    asyncio.run(app({"type": "lifespan"}, receive, send))
    return said


async def with_lifespan(scope, receive, send):
    for part in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{part}"
        await send({"type": f"lifespan.{part}.complete"})


async def without_lifespan(scope, receive, send):
    raise ValueError("can only handle http")


@pytest.mark.parametrize("app", [with_lifespan, without_lifespan])
def test_the_end_of_the_lifespan_is_confirmed_when_what_is_queued_is_out(app, collector):
    sender = CallSender(ClientSettings(url=collector.url, write_key=KEY, flush_interval_s=60))
    call(CaratASGI(answering(start(), body(b"1")), sender), http_scope())
    assert collector.records == []
    assert lifespan(CaratASGI(app, sender)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert len(collector.records) == 1
    sender.close()


def test_an_error_of_the_apps_own_lifespan_is_raised_as_it_is(sender):
    async def fails_to_start(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise ShopError

    with pytest.raises(ShopError):
        lifespan(CaratASGI(fails_to_start, sender))


def test_the_end_waits_no_longer_than_it_may_for_a_collector_that_is_gone():
    with refused() as url:
        sender = CallSender(ClientSettings(url=url, write_key=KEY, flush_timeout_s=0.2))
        call(CaratASGI(answering(start(), body(b"1")), sender), http_scope())
        with deadline():
            assert lifespan(CaratASGI(with_lifespan, sender))[-1] == "lifespan.shutdown.complete"
            sender.close(0)
        assert sender.stats.dropped == {"not sent before the end": 1}


def test_a_preflight_that_cors_answers_is_no_call_of_a_shopper(sender, collector):
    from starlette.applications import Starlette
    from starlette.middleware.cors import CORSMiddleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    shop = Starlette(routes=[Route("/api/v1/catalog", lambda _: JSONResponse({"total": 0}))])
    shop.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_headers=["X-Page-Url"])
    origin = (b"origin", b"https://shop.example")
    asked = [origin, (b"access-control-request-method", b"GET"), (b"access-control-request-headers", b"x-page-url")]
    for app in (CaratASGI(shop, sender), shop):
        call(app, http_scope("OPTIONS", "/api/v1/catalog", headers=asked))
    call(CaratASGI(shop, sender), http_scope("GET", "/api/v1/catalog", headers=[origin]))
    assert [record["method"] for record in collector.await_records(1)] == ["GET"]
    assert sender.stats.captured == 1
