"""A shop for real servers: `servers:asgi` and `servers:wsgi`; where its calls go is in the environment."""

import os

from carat_client import CallSender, CaratASGI, CaratWSGI, ClientSettings

sender = CallSender(ClientSettings(url=os.environ["COLLECTOR"], write_key="k", flush_interval_s=60, flush_timeout_s=5))


async def answer(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("can only handle http")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"pid": %d}' % os.getpid()})


def answer_wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b'{"pid": %d}' % os.getpid()]


asgi = CaratASGI(answer, sender)
wsgi = CaratWSGI(answer_wsgi, sender)
