"""The programs of docs/middleware.md, run as they stand there, in the frameworks that they are for."""

import asyncio
import os
import re
import subprocess
import sys

import fastapi
import pytest
from starlette.applications import Starlette

from tests.carat_client.test_asgi import call, http_scope
from tests.carat_client.test_wsgi import environ
from tests.support.paths import CHECKOUT
from tests.support.receivers import receiving

TEXT = (CHECKOUT / "docs" / "middleware.md").read_text()


def programs(heading: str) -> list[str]:
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def collector(monkeypatch):
    with receiving() as receiver:
        monkeypatch.setenv("CARAT_COLLECTOR", receiver.url)
        monkeypatch.setenv("CARAT_WRITE_KEY", "the-key-of-the-shop")
        monkeypatch.setenv("CARAT_HASH_KEY", "the-key-of-the-hashes")
        yield receiver


def run(program: str) -> dict:
    namespace = {"__name__": "shop"}
    exec(compile(program, "docs/middleware.md", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("framework", [Starlette, fastapi.FastAPI])
def test_starlette_and_fastapi(framework, collector):
    (program,) = programs("FastAPI and Starlette")
    named = f"from {framework.__module__} import {framework.__name__}"
    program = program.replace("from starlette.applications import Starlette", named)
    shop = run(program.replace("app = Starlette(", f"app = {framework.__name__}("))
    headers = [(b"cookie", b"visitor_id=c-81")]
    answer = call(
        shop["app"], http_scope(path="/api/v1/products/17", query=b"from=anna%40mail.example", headers=headers)
    )
    assert answer[-1]["body"] == b'{"id":17,"price":149.0}'
    call(shop["app"], http_scope(path="/not-of-the-api"))
    assert shop["sender"].flush(5)
    (record,) = collector.records
    assert (record["status"], record["visitor_id"], record["user_id"]) == (200, "c-81", "4711")
    assert record["response"] == {"id": 17, "price": 149.0}
    assert record["request"]["query"]["from"].startswith("email:")
    assert shop["sender"].stats.failures == 0


@pytest.mark.slow
def test_flask(collector):
    (program,) = programs("Flask")
    app = run(program)["app"]
    answer = app.test_client().post("/api/v1/cart/items", json={"product_id": 17, "card": "4111 1111 1111 1111"})
    assert (answer.status_code, answer.json) == (201, {"product_id": 17, "quantity": 1})
    answer.close()
    record = collector.await_records(1)[0]
    assert (record["method"], record["endpoint"], record["user_id"]) == ("POST", "/api/v1/cart/items", "4711")
    assert record["request"] == {"query": {}, "body": {"product_id": 17, "card": "[card]"}}
    assert record["response"] == {"product_id": 17, "quantity": 1}


DJANGO = """
import asyncio
import types
from django.conf import settings
from django.http import JsonResponse
from django.urls import path

def sign_in(get_response):  # in the place of AuthenticationMiddleware
    def middleware(request):
        request.user = types.SimpleNamespace(is_authenticated=True, pk=4711)
        return get_response(request)
    return middleware

def product(request, id):
    return JsonResponse({"id": id, "body": request.body.decode()})

urlpatterns = [path("api/v1/products/<int:id>", product)]
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="shop", MIDDLEWARE=["shop.sign_in", "middleware.pass_user_to_carat"])

if __name__ == "__main__":
    import sys
    sys.modules["shop"] = sys.modules["__main__"]
    import wsgi
    from tests.carat_client.test_wsgi import environ
    headers = {"PATH_INFO": "/api/v1/products/17", "SCRIPT_NAME": "", "HTTP_COOKIE": "visitor_id=c-81; sessionid=s3"}
    answer = wsgi.application(environ(**headers), lambda *_: None)
    assert b"".join(answer) == b'{"id": 17, "body": ""}'
    answer.close()
    assert wsgi.sender.stats.failures == 0

    from django.core.asgi import get_asgi_application
    from carat_client import CaratASGI
    from tests.carat_client.test_asgi import call, http_scope, lifespan
    app = CaratASGI(get_asgi_application(), wsgi.sender)
    call(app, http_scope(path="/api/v1/products/18"))
    assert lifespan(app) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
"""


@pytest.mark.slow
def test_django(tmp_path, collector):
    wsgi, middleware = programs("Django")
    for name, program in {"wsgi": wsgi, "middleware": middleware, "shop": DJANGO}.items():
        (tmp_path / f"{name}.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "shop.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    first, second = collector.records
    assert (first["endpoint"], first["visitor_id"], first["user_id"]) == ("/api/v1/products/17", "c-81", "4711")
    assert first["session_token"].startswith("token:")
    assert first["response"] == {"id": 17, "body": ""}
    assert (second["endpoint"], second["status"]) == ("/api/v1/products/18", 200)


def test_the_settings_that_are_explained_are_settings():
    (program,) = programs("What leaves the shop")
    run("from carat_client import ClientSettings, CallSender\nCallSender(" + program.strip() + ")")


def test_what_the_fields_are_taken_from_is_what_the_text_says(collector):
    from carat_client import CallSender, CaratASGI, CaratWSGI, ClientSettings

    sender = CallSender(ClientSettings(url=collector.url, write_key="k"))
    given = {"cookie": "visitor_id=v; session_token=s", "x-user-id": "u", "x-page-url": "/p", "x-referrer": "/r"}
    other = {"x-visitor-id": "v", "x-session-token": "s", "x-user-id": "u", "referer": "/p", "x-referrer": "/r"}

    async def asgi(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    def wsgi(environ, start_response):
        start_response("200 OK", [])
        return []

    for headers in (given, other):
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        call(CaratASGI(asgi, sender), http_scope(headers=named))
        in_environ = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
        CaratWSGI(wsgi, sender)(environ(**in_environ), lambda *_: None)
    assert asyncio.run(asyncio.to_thread(sender.flush, 5))
    fields = ("visitor_id", "user_id", "page_url", "referrer")
    assert {tuple(record[field] for field in fields) for record in collector.records} == {("v", "u", "/p", "/r")}
    assert len({record["session_token"] for record in collector.records}) == 1
    sender.close()
