"""Leaks and innocents of our own making: calls of a shop with a secret in them, and calls with nothing to hide."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from carat_client import ClientSettings
from carat_client.captured import Body, Captured
from carat_client.records import RecordMaker
from tests.support.paths import FIXTURES

FOLDER = FIXTURES / "corpora" / "redaction"
PLACES = ("body", "login", "response", "text", "query", "url", "path")


@dataclass(frozen=True)
class Case:
    """A value at a place of a call: `body`, `login` (the body of a call that signs in), `response`, `text`, `query`,
    `url` (of the page) or `path`; with the secrets that must not leave, none for an innocent.
    """

    name: str
    place: str
    value: Any
    secrets: tuple[str, ...]


def corpus(kind: str) -> list[Case]:
    """The cases of `leaks` or `innocents`."""
    return [case for path in sorted((FOLDER / kind).glob("*.ndjson")) for case in _cases(path)]


def sent(case: Case, maker: RecordMaker | None = None) -> Any:
    """What the middleware sends of the case's value, at the place where it stood."""
    record = json.loads(_line(case, maker or _maker()))
    match case.place:
        case "body" | "login":
            return record["request"]["body"]
        case "text":
            return record["response"]["note"]
        case "response":
            return record["response"]
        case "query":
            return record["request"]["query"]
        case "url":
            return [record["page_url"], record["referrer"]]
        case "path":
            return record["endpoint"]
    raise AssertionError(case.place)


def original(case: Case) -> Any:
    """What is sent of an innocent."""
    if case.place == "query":
        return dict(parse_qsl(case.value, keep_blank_values=True))
    return [case.value, case.value] if case.place == "url" else case.value


def is_told(secret: str, content: Any) -> bool:
    """Whether the secret can be read in what was sent, however it is encoded there."""
    text = json.dumps(content, ensure_ascii=False) if not isinstance(content, str) else content
    for _ in range(4):
        if secret in text or secret in text.replace('\\"', '"').replace("\\\\", "\\"):
            return True
        text = unquote(text)
    # digits that are told whole, with whatever between them
    digits = re.sub(r"\D", "", secret)
    return len(digits) >= 13 and digits in re.sub(r"\D", "", text)


def _cases(path: Any) -> Iterator[Case]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        content = json.loads(line)
        secret = content.pop("secret", ())
        ((place, value),) = content.items()
        assert place in PLACES, f"{path.name}:{number}"
        yield Case(f"{path.stem}:{number}", place, value, (secret,) if isinstance(secret, str) else tuple(secret))


@cache
def _maker() -> RecordMaker:
    return RecordMaker(ClientSettings(url="http://collector.example", write_key="k"))


def _line(case: Case, maker: RecordMaker) -> bytes:
    value = case.value
    paths = {"path": value, "login": "/api/v1/login/verify"}
    page = value if case.place == "url" else "https://shop.example/"
    bodies = {
        "request": value if case.place in {"body", "login"} else None,
        "response": value if case.place == "response" else {"note": value} if case.place == "text" else None,
    }
    line = maker.line(
        Captured(
            call_id=bytes(16),
            started_ns=1_767_225_600_000_000_000,
            duration_s=0.01,
            method="POST",
            path=paths.get(case.place, "/api/v1/things"),
            query=value if case.place == "query" else "",
            peer="203.0.113.9",
            headers={b"x-page-url": page.encode(), b"x-referrer": page.encode()},
            extracted=None,
            status=200,
            **{name: _body(content) for name, content in bodies.items()},
        )
    )
    assert line is not None
    return line


def _body(content: Any) -> Body:
    body = Body(1_000_000)
    body.add(json.dumps(content).encode())
    return body
