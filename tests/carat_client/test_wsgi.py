"""The WSGI middleware: what a server sends is the same to the byte, and what is captured is what happened."""

import io
import json
import socket
import threading
from contextlib import contextmanager
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from carat_client import CallSender, CaratWSGI, ClientSettings
from tests.support.receivers import KEY, receiving

CATALOG = json.dumps({"total": 2, "items": [{"id": 1}, {"id": 2}]}).encode()
JSON = [("Content-Type", "application/json")]


class ShopError(Exception):
    pass


def whole(environ, start_response):
    start_response("200 OK", JSON)
    return [CATALOG]


def chunks(environ, start_response):
    start_response("200 OK", JSON)
    yield CATALOG[:9]
    yield b""
    yield CATALOG[9:]


def two(environ, start_response):
    start_response("200 OK", JSON)
    return (CATALOG[:9], CATALOG[9:])


class Sized:
    """An answer that knows its length, as some frameworks' do."""

    def __init__(self, environ, start_response):
        start_response("200 OK", JSON)
        self.is_closed = False

    def __len__(self):
        return 1

    def __iter__(self):
        yield CATALOG

    def close(self):
        self.is_closed = True


def by_writing(environ, start_response):
    write = start_response("200 OK", JSON)
    write(CATALOG[:9])
    return [CATALOG[9:]]


def a_file(environ, start_response):
    start_response("200 OK", [("Content-Type", "image/png")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 50_000))


def events(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return (b"data: %d\n\n" % number for number in range(50))


def no_content(environ, start_response):
    start_response("204 No Content", [])
    return []


def not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"1"')])
    return [b""]


def fails(environ, start_response):
    raise ShopError


def fails_after_start(environ, start_response):
    start_response("200 OK", JSON)
    yield b"{"
    raise ShopError


def answers_an_error(environ, start_response):
    start_response("200 OK", JSON)
    start_response("503 Busy", [("Content-Type", "text/plain")], (ShopError, ShopError(), None))
    return [b"busy"]


def echoes(environ, start_response):
    size = int(environ.get("CONTENT_LENGTH") or 0)
    read = environ["wsgi.input"].read
    content = read(3) + environ["wsgi.input"].readline(4) + read(size - 7) if size else b"null"
    start_response("201 Created", JSON)
    return [content]


APPS = [
    whole, chunks, two, Sized, by_writing, a_file, events, no_content, not_modified, fails, fails_after_start,
    answers_an_error, echoes,
]  # fmt: skip


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_):
        pass

    def handle(self):
        self.raw_requestline = self.rfile.readline(65537)
        self.parse_request()
        handler = QuietServerHandler(self.rfile, self.wfile, io.StringIO(), self.get_environ(), multithread=False)
        handler.request_handler = self
        handler.run(self.server.get_app())


class QuietServerHandler(ServerHandler):
    http_version = "1.1"

    def get_stderr(self):
        return io.StringIO()


@contextmanager
def serving(app):
    server = make_server("127.0.0.1", 0, app, handler_class=QuietHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(port: int, method: str, content: bytes = b"") -> bytes:
    """What a server sends, to the byte, but for the time."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"{method} /api/caf%C3%A9?q=a HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    return b"\r\n".join(line for line in received.split(b"\r\n") if not line.startswith(b"Date:"))


@pytest.fixture
def collector():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def sender(collector):
    settings = ClientSettings(url=collector.url, write_key=KEY, flush_interval_s=0.01, machine_endpoints=())
    sender = CallSender(settings)
    yield sender
    sender.close(1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
def test_a_server_sends_the_same_bytes_with_and_without(app, method, sender, collector):
    content = b'{"product_id": 17}' if method == "POST" else b""
    with serving(app) as port:
        without = answer(port, method, content)
    with serving(CaratWSGI(app, sender)) as port:
        assert answer(port, method, content) == without
    record = collector.await_records(1)[0]
    failed = app in {fails, fails_after_start}
    assert record["status"] == (500 if failed else int(without.split()[1]))
    assert record["endpoint"] == "/api/caf%C3%A9"
    assert record["request"] == {
        "query": {"q": "a"},
        "body": json.loads(content) if app is echoes and content else None,
    }
    assert sender.stats.failures == 0


@pytest.mark.parametrize("app", [whole, chunks, two, Sized, by_writing], ids=lambda app: app.__name__)
def test_the_json_of_an_answer_is_captured_however_it_is_given(app, sender, collector):
    with serving(CaratWSGI(app, sender)) as port:
        answer(port, "GET")
    assert collector.await_records(1)[0]["response"] == json.loads(CATALOG)


def environ(**more):
    return {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "/shop", "PATH_INFO": "/x", "QUERY_STRING": "", "SERVER_NAME": "shop",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(), "wsgi.multithread": True, "wsgi.multiprocess": False,
        "wsgi.run_once": False, "wsgi.file_wrapper": FileWrapper, **more,
    }  # fmt: skip


@pytest.mark.parametrize("app", [whole, chunks, events, no_content], ids=lambda app: app.__name__)
def test_neither_side_breaks_the_rules_of_wsgi(app, sender):
    def strict_about_types(environ, start_response):
        environ.setdefault("QUERY_STRING", "")
        given = [("Content-Type", "application/json")] if app is not no_content else []
        return app(environ, lambda status, headers, *more: start_response(status, given, *more))

    checked = validator(CaratWSGI(validator(strict_about_types), sender))
    result = checked(environ(), lambda status, headers, exc_info=None: lambda data: None)
    list(result)
    result.close()
    assert sender.stats.captured == 1
    assert sender.stats.failures == 0


def test_an_answer_that_is_given_up_is_closed_and_recorded(sender, collector):
    made = []

    def app(environ, start_response):
        made.append(Sized(environ, start_response))
        return made[0]

    result = CaratWSGI(app, sender)(
        environ(HTTP_COOKIE='visitor_id="c-81"', REMOTE_ADDR="203.0.113.9"), lambda *_: None
    )
    next(iter(result))
    result.close()
    assert made[0].is_closed
    record = collector.await_records(1)[0]
    assert (record["endpoint"], record["visitor_id"], record["ip"]) == ("/shop/x", "c-81", "203.0.113.9")


def test_an_error_of_the_app_is_raised_as_it_is(sender, collector):
    error = ShopError()

    def app(environ, start_response):
        raise error

    with pytest.raises(ShopError) as raised:
        CaratWSGI(app, sender)(environ(), lambda *_: None)
    assert raised.value is error
    assert collector.await_records(1)[0]["status"] == 500


def test_extractors_see_the_environ_after_the_app(collector):
    settings = ClientSettings(
        url=collector.url, write_key=KEY, flush_interval_s=0.01, user_id=lambda environ: environ["carat.user_id"]
    )
    sender = CallSender(settings)

    def app(environ, start_response):
        environ["carat.user_id"] = 4711
        return whole(environ, start_response)

    CaratWSGI(app, sender)(environ(), lambda *_: None)
    CaratWSGI(whole, sender)(environ(), lambda *_: None)
    assert [record["user_id"] for record in collector.await_records(2)] == ["4711", ""]
    assert sender.stats.failures == 1
    sender.close()


def test_an_environ_without_what_it_should_hold_is_the_apps_to_judge(sender):
    assert CaratWSGI(whole, sender)({}, lambda *_: None) == [CATALOG]
    assert sender.stats.failures == 1


QUERIES = {
    "raw UTF-8": ("q=золото", "золото"), "percent-encoded": ("q=%D0%B7", "з"), "raw Latin-1": (b"q=gr\xf6\xdfe", "größe"),
    "text of a server that decoded it": ("q=指輪", "指輪"), "raw emoji": ("q=💍", "💍"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_is_read_as_it_was_sent(name):
    sent, expected = QUERIES[name]
    if name != "text of a server that decoded it":
        sent = (sent if isinstance(sent, bytes) else sent.encode()).decode("latin-1")  # as PEP 3333 has it
    with receiving() as collector:
        sender = CallSender(ClientSettings(url=collector.url, write_key=KEY))
        list(CaratWSGI(whole, sender)(environ() | {"QUERY_STRING": sent}, lambda *_: None))
        assert sender.flush(10)
        assert collector.records[0]["request"]["query"] == {"q": expected}
        assert sender.stats.failures == 0
        sender.close()
