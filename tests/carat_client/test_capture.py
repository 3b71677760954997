"""What is captured of a call is the same through ASGI and WSGI: forms, ids, paths, and which calls at all."""

import gzip
import io
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from carat_client import CallSender, CaratASGI, CaratWSGI, ClientSettings, Cookie, Header
from tests.carat_client.test_asgi import answering, body, http_scope, start
from tests.carat_client.test_asgi import call as call_asgi
from tests.carat_client.test_wsgi import environ
from tests.support.receivers import KEY, receiving

FORM = "application/x-www-form-urlencoded"
BOUNDARY = "----WebKitFormBoundaryq7"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
LONG_AGO = "Thu, 01 Jan 1970 00:00:00 GMT"


@dataclass
class Shop:
    """A shop behind one of the two middlewares, whose calls go to a collector."""

    kind: str
    collector: Any
    senders: list[CallSender] = field(default_factory=list)

    def records(self, *calls: dict, **settings) -> list[dict]:
        """What was captured of these calls, in their order."""
        sender = CallSender(ClientSettings(url=self.collector.url, write_key=KEY, **settings))
        self.senders.append(sender)
        for call in calls:
            (self._asgi if self.kind == "asgi" else self._wsgi)(sender, **call)
        assert sender.flush(10)
        assert sender.stats.failures == 0
        return self.collector.records

    def _asgi(self, sender, method="GET", path="/api/x", sent="", headers=(), content=b"", sets=(), mount="") -> None:
        named = [(name.encode(), value.encode()) for name, value in dict(headers).items()]
        more = {"raw_path": sent.encode()} if sent else {}
        scope = http_scope(method, mount + path, headers=named, root_path=mount, **more)
        app = answering(
            start(200, b"text/html", *((b"Set-Cookie", value.encode()) for value in sets)), body(), reads=True
        )
        call_asgi(CaratASGI(app, sender), scope, content)

    def _wsgi(self, sender, method="GET", path="/api/x", sent="", headers=(), content=b"", sets=(), mount="") -> None:
        def app(environ, start_response):
            environ["wsgi.input"].read()
            start_response("200 OK", [("Content-Type", "text/html"), *(("Set-Cookie", value) for value in sets)])
            return [b""]

        bare = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
        named = {bare.get(n, "HTTP_" + n.upper().replace("-", "_")): value for n, value in dict(headers).items()}
        more = {"REQUEST_URI": sent} if sent else {}
        in_environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": mount, "PATH_INFO": path.encode().decode("latin-1"),
            "wsgi.input": io.BytesIO(content), **named, **more,
        }  # fmt: skip
        CaratWSGI(app, sender)(environ(**in_environ), lambda *_: None)


@pytest.fixture(params=["asgi", "wsgi"])
def shop(request):
    with receiving() as collector:
        shop = Shop(request.param, collector)
        yield shop
        for sender in shop.senders:
            sender.close(1)


def post(content: bytes, content_type: str = FORM, **headers: str) -> dict:
    return {"method": "POST", "content": content, "headers": {"content-type": content_type, **headers}}


def part(name: str, value: str, more: str = "") -> str:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


def multipart(*parts: str) -> bytes:
    return ("".join(parts) + f"--{BOUNDARY}--\r\n").encode()


@pytest.mark.parametrize(
    ("content", "content_type", "found"),
    [
        (b"product_id=17&quantity=2", FORM, {"product_id": "17", "quantity": "2"}),
        (b"product_id=17", "Application/X-WWW-Form-URLencoded; charset=UTF-8", {"product_id": "17"}),
        (b"id=1&id=2&metal%5B%5D=gold&q=&n=%C3%96se+45", FORM, {"id": ["1", "2"], "metal[]": ["gold"], "q": "", "n": "Öse 45"}),
        (b"attribute[pa_size]=54&add-to-cart=315", FORM, {"attribute[pa_size]": "54", "add-to-cart": "315"}),
        (b"user[password]=hunter2&card=4111+1111+1111+1111&mail=a%40mail.example", FORM,
         {"user[password]": "[redacted]", "card": "[card]", "mail": "[email]"}),
        (multipart(part("product", "17"), part("metal[]", "gold"), part("note", "a\r\nÖ")), MULTIPART,
         {"product": "17", "metal[]": ["gold"], "note": "a\r\nÖ"}),
        (multipart(part("id", "1"), part("id", "2"), part("photo", "x" * 99, '; filename="ring.jpg"')), MULTIPART,
         {"id": ["1", "2"]}),
        (multipart(part("pwd", "hunter2"), part("say %22hi%22", "1")), MULTIPART, {"pwd": "[redacted]", 'say "hi"': "1"}),
        (multipart(), MULTIPART, {}),
        (multipart(part("a", "1"))[:-6], MULTIPART, "unreadable"),
        (multipart(part("a", "1")), "multipart/form-data", "unreadable"),
        (b"a=" + b"x" * 100_000, FORM, {"_truncated": 100_002}),
        (b"", FORM, None),
        (b"a=1", "text/plain", None),
    ],
)  # fmt: skip
def test_forms_are_captured_as_objects(content, content_type, found, shop):
    (record,) = shop.records(post(content, content_type))
    assert record["request"]["body"] == ({"_unreadable": len(content)} if found == "unreadable" else found)


@pytest.mark.parametrize("count", [1000, 1001])
def test_a_form_has_at_most_1000_fields(count, shop):
    urlencoded = b"&".join(b"f%d=" % number for number in range(count))
    parts = multipart(*(part(f"f{number}", "") for number in range(count)))
    records = shop.records(post(urlencoded), post(parts, MULTIPART), max_body_bytes=200_000)
    for record, content in zip(records, (urlencoded, parts), strict=True):
        found = record["request"]["body"]
        assert found == {"_unreadable": len(content)} if count > 1000 else len(found) == count


def test_a_compressed_form_is_read_and_bounded(shop):
    whole, bomb = gzip.compress(b"product_id=17"), gzip.compress(b"a=" + b"x" * 200_000)
    first, second = shop.records(*(post(content, **{"content-encoding": "gzip"}) for content in (whole, bomb)))
    assert first["request"]["body"] == {"product_id": "17"}
    assert second["request"]["body"] == {"_truncated": len(bomb)}


def test_the_form_of_a_call_without_bodies_is_not_captured(shop):
    (record,) = shop.records(post(b"user=x"), bodiless_endpoints=("POST /api/x",))
    assert record["request"] is None


def test_the_first_call_carries_the_id_that_its_response_sets(shop):
    sets = ("theme=dark", "visitor_id=v-1; Path=/; HttpOnly; Max-Age=31536000", 'session_token="s-1"; SameSite=Lax')
    later = {"headers": {"cookie": "visitor_id=v-1; session_token=s-1"}}
    first, second = shop.records({"sets": sets}, later)
    assert first["visitor_id"] == second["visitor_id"] == "v-1"
    assert first["session_token"] == second["session_token"] != ""


def test_the_id_of_a_cookie_that_the_shop_names_is_taken_before_that_of_a_later_source(shop):
    call = {"sets": ["vid=v-1"], "headers": {"x-device": "d-1"}}
    (record,) = shop.records(call, visitor_id=(Cookie("vid"), Header("x-device")))
    assert record["visitor_id"] == "v-1"


def test_an_id_that_changes_at_login_begins_with_the_next_call(shop):
    headers = {"cookie": "visitor_id=v-1; session_token=guest-1", "x-user-id": "4711"}
    login = {"method": "POST", "headers": headers, "sets": ["visitor_id=v-2", "session_token=user-1"]}
    (record,) = shop.records(login, hash_session_token=False)
    assert (record["visitor_id"], record["session_token"], record["user_id"]) == ("v-1", "guest-1", "4711")


@pytest.mark.parametrize(
    "deletion",
    ["visitor_id=gone; Max-Age=0", "visitor_id=gone; max-age=-1", f"visitor_id=gone; Expires={LONG_AGO}", "visitor_id=; Path=/"],
)  # fmt: skip
def test_a_cookie_that_a_response_deletes_is_not_an_id(deletion, shop):
    (record,) = shop.records({"sets": [deletion]})
    assert record["visitor_id"] == ""


def test_the_last_of_several_cookies_of_one_name_counts(shop):
    sets = ["visitor_id=v-1", f"visitor_id=v-2; Expires={LONG_AGO}; Max-Age=60", "visitor_id2=no", "visitor_id"]
    (record,) = shop.records({"sets": sets})
    assert record["visitor_id"] == "v-2"


@pytest.mark.parametrize(
    "placeholder",
    [
        "undefined", "null", "0", "none", "None", "NaN", "Guest", "ANONYMOUS", "[object Object]", "%5Bobject%20Object%5D",
        "", " ", '"null"', str(uuid.UUID(int=0)), "0" * 32,
    ],
)  # fmt: skip
def test_a_placeholder_for_a_missing_id_is_not_sent(placeholder, shop):
    cookies = {"cookie": f"visitor_id={placeholder}; session_token={placeholder}", "x-user-id": placeholder}
    by_response = {"headers": cookies, "sets": ["visitor_id=v-1"]}
    by_header = {"headers": cookies | {"x-visitor-id": "v-2"}}
    never = {"headers": cookies, "sets": [f"visitor_id={placeholder}"]}
    records = shop.records(by_response, by_header, never)
    assert [record["visitor_id"] for record in records] == ["v-1", "v-2", ""]
    assert {(record["session_token"], record["user_id"]) for record in records} == {(None, "")}


@pytest.mark.parametrize(
    "visitor", ["00", "10", "nullable", "guest-17", "00000000-0000-0000-0000-000000000001", "nan-4"]
)
def test_an_id_that_resembles_a_placeholder_is_sent(visitor, shop):
    (record,) = shop.records({"headers": {"cookie": f"visitor_id={visitor}"}})
    assert record["visitor_id"] == visitor


@pytest.mark.parametrize(
    ("sent", "path", "endpoint"),
    [
        ("/api/p/CLE-056621%2F6", "/api/p/CLE-056621/6", "/api/p/CLE-056621%2F6"),
        ("/api/p/BAH-SB%2B7?q=a%2Fb", "/api/p/BAH-SB+7", "/api/p/BAH-SB%2B7"),
        ("/api/p/gid:%2F%2Fshopify%2FProduct%2F123", "/api/p/gid://shopify/Product/123",
         "/api/p/gid:%2F%2Fshopify%2FProduct%2F123"),
        ("/api/p/%252F", "/api/p/%2F", "/api/p/%252F"),
        ("/api/p/1%2F7;v=2", "/api/p/1/7;v=2", "/api/p/1%2F7;v=2"),
        ("/api/p/1%2F7;jsessionid=AB12", "/api/p/1/7;jsessionid=AB12", "/api/p/1%2F7;jsessionid=%5Bredacted%5D"),
        ("http://shop.example/api/p/1%2F2?x=1", "/api/p/1/2", "/api/p/1%2F2"),
        ("//api/p/1", "//api/p/1", "//api/p/1"),
        ("", "/api/p/CLE-056621/6", "/api/p/CLE-056621/6"),
        ("", "/api/p/Kette-Öse 45?#%", "/api/p/Kette-%C3%96se%2045%3F%23%25"),
    ],
)  # fmt: skip
def test_the_path_is_what_the_client_sent(sent, path, endpoint, shop):
    (record,) = shop.records({"sent": sent, "path": path})
    assert record["endpoint"] == endpoint


@pytest.mark.parametrize("sent", ["/shop/p/1%2F2", "/p/1%2F2"])
def test_the_mount_point_of_an_app_is_in_its_paths_once(sent, shop):
    (record,) = shop.records({"sent": sent, "path": "/p/1/2", "mount": "/shop"})
    assert record["endpoint"] == "/shop/p/1%2F2"


def test_a_long_path_is_not_cut_within_an_escape(shop):
    (record,) = shop.records({"sent": "/" + "a" * 4094 + "%2F", "path": "/" + "a" * 4094 + "/"})
    assert record["endpoint"] == "/" + "a" * 4094


def test_gunicorns_name_for_the_target_is_known():
    with receiving() as collector:
        shop = Shop("wsgi", collector)
        shop.records({"path": "/p/1/2", "headers": {}})
        sender = shop.senders[0]
        app = CaratWSGI(lambda _environ, start_response: [start_response("200 OK", []) or b""], sender)
        app(environ(SCRIPT_NAME="", PATH_INFO="/p/1/2", RAW_URI="/p/1%2F2"), lambda *_: None)
        assert sender.flush(10)
        assert [record["endpoint"] for record in collector.records] == ["/p/1/2", "/p/1%2F2"]
        sender.close(1)


MACHINE_CALLS = [
    ("OPTIONS", "/api/v1/catalog"), ("HEAD", "/api/v1/products/17"), ("GET", "/health"), ("GET", "/healthz"),
    ("GET", "/api/health"), ("POST", "/readyz"), ("GET", "/actuator/health"), ("GET", "/health/live"),
]  # fmt: skip
SHOPPER_CALLS = [
    *((method, "/api/v1/catalog") for method in ("GET", "POST", "PUT", "PATCH", "DELETE")),
    *(("GET", path) for path in ("/", "/healthy-stones", "/category/health", "/api/options", "/head", "/pinger", "/x*")),
]  # fmt: skip


def test_calls_that_no_shopper_makes_are_not_captured_by_default_and_all_others_are(shop):
    calls = [{"method": method, "path": path} for method, path in MACHINE_CALLS + SHOPPER_CALLS]
    records = shop.records(*calls)
    assert [(record["method"], record["endpoint"]) for record in records] == SHOPPER_CALLS


def test_a_shop_can_capture_the_calls_that_no_shopper_makes(shop):
    calls = [{"method": method, "path": path} for method, path in MACHINE_CALLS]
    records = shop.records(*calls, machine_endpoints=())
    assert [(record["method"], record["endpoint"]) for record in records] == MACHINE_CALLS


def test_a_shop_can_name_its_own_calls_that_no_shopper_makes(shop):
    calls = [("HEAD", "/api/x"), ("GET", "/api/alive"), ("POST", "/webhooks/psp"), ("GET", "/webhooks/psp")]
    records = shop.records(
        *({"method": method, "path": path} for method, path in calls),
        machine_endpoints=("/api/alive", "POST /webhooks/*"),
    )
    assert [(record["method"], record["endpoint"]) for record in records] == [calls[0], calls[3]]
