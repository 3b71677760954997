"""What a request says it does, where its path does not: a GraphQL operation, a route in the query, an action."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from app.rules.drafting import words
from app.rules.drafting.paths import is_id

# Keys whose value is the name of what is asked for.
_ROUTES = ("rest_route", "route", "controller", "wc-ajax", "fc", "module", "action", "task", "topic", "cmd", "do")
# Keys that may be such a name, or anything else: the value must hold a word of shops.
_NAMES = ("operationName", "name", "event", "event_name", "eventName", "eventType", "type", "op", "method")
_MOST_NAMES = 4
_FLAGS = ("add", "delete", "remove", "update")
_HANDLES = ("handle", "slug", "url_key", "urlKey")
_NAME = re.compile(r"/?[A-Za-z][\w./|:-]{0,99}")
_GRAPHQL = re.compile(r"\s*(?:#[^\n]*\n\s*)*(?P<kind>query|mutation|subscription|fragment|\{)")
_OPERATION = re.compile(
    r"\b(?P<kind>query|mutation)\b\s*(?P<name>\w+)?[^{]*\{\s*(?:\w+\s*:\s*)?(?P<field>\w+)(?P<next>\W?)"
)
_FIRST_FIELD = re.compile(r"\{\s*(?:\w+\s*:\s*)?(?P<field>\w+)(?P<next>\W?)")


@dataclass(frozen=True)
class Operation:
    """What a request asks for besides its method and path: the condition that names it, and its words."""

    text: str = ""  # how comments name it
    condition: str = ""
    words: tuple[str, ...] = ()
    is_write: bool | None = None  # None: by the method
    routes: tuple[str, ...] = ()


def operation_of(request: dict[str, Any]) -> Operation:
    """The operation of a request whose body is decoded."""
    for side in ("body", "query"):
        fields = request.get(side)
        if isinstance(fields, dict) and (found := _graphql(fields, side)):
            return found
    return _routed(request)


def _graphql(fields: dict[str, Any], side: str) -> Operation | None:
    sent = fields.get("query")
    text = sent if isinstance(sent, str) else ""
    name = fields.get("operationName")
    name = name if isinstance(name, str) and name else ""
    is_text = _GRAPHQL.match(text) is not None
    if not is_text and not (name and ("extensions" in fields or "variables" in fields)):
        return None
    found = (_OPERATION.search(text) or _FIRST_FIELD.search(text)) if is_text else None
    groups = found.groupdict() if found else {}
    field, following = groups.get("field") or "", groups.get("next") or ""
    said = name or groups.get("name") or ""
    asked = (*words.words_of(said), *words.words_of(field))
    if name:
        condition = f"request.{side}.operationName == {literal(name)}"
    else:
        asked_for = f"{groups['kind']} {said}" if said else field + (following if following == "(" else "")
        condition = f"!request.{side}.operationName && contains(request.{side}.query, {literal(asked_for)})"
    is_write = (
        groups.get("kind") == "mutation" if is_text else bool(set(asked) & (words.ADD | words.REMOVE | words.UPDATE))
    )
    label = f"{'mutation' if is_write else 'query'} {said or field}"
    return Operation(label, condition, asked, is_write, (field,))


def _routed(request: dict[str, Any]) -> Operation:
    conditions: list[str] = []
    labels: list[str] = []
    found: list[str] = []
    for side, key, value in islice(_named(request), _MOST_NAMES):
        path = f"request.{side}.{quoted(key)}"
        if value is True:
            conditions.append(path)
            labels.append(key)
            found += words.words_of(key)
        elif value.startswith("/"):
            conditions.append(_route_condition(path, value))
            labels.append(f"{key}={fold_route(value)}")
            found += words.words_of(re.sub(r"/[^/]*\d[^/]*", "", value))
        else:
            conditions.append(f"{path} == {literal(value)}")
            labels.append(f"{key}={value}")
            found += words.words_of(value)
    flags = set(found) & {"add", "delete", "remove", "update"}
    routes = tuple(label.partition("=")[2] for label in labels if "=" in label)
    return Operation(", ".join(labels), " && ".join(conditions), tuple(found), True if flags else None, routes)


def _named(request: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The sides, keys and names of what a request asks for; True in the place of a name where the key says it all."""
    for side in ("query", "body"):
        fields = request.get(side)
        if not isinstance(fields, dict):
            continue
        names = {key: value for key, value in fields.items() if isinstance(value, str) and _NAME.fullmatch(value)}
        yield from ((side, key, names[key]) for key in _ROUTES if key in names)
        yield from ((side, key, names[key]) for key in _NAMES if set(words.words_of(names.get(key, ""))) & words.ANY)
        yield from ((side, key, True) for key in _FLAGS if str(fields.get(key)).lower() in ("1", "true"))
        yield from ((side, key, True) for key in _HANDLES if side == "query" and fields.get(key))


def fold_route(route: str) -> str:
    """A route such as `/products/17` with `{id}` in the place of ids."""
    return "/".join("{id}" if part and is_id(part) else part for part in route.split("/"))


def _route_condition(path: str, route: str) -> str:
    folded = fold_route(route)
    first, placeholder, rest = folded.partition("{id}")
    if not placeholder:
        return f"{path} == {literal(route)}"
    parts = [f"starts_with({path}, {literal(first)})"]
    if last := rest.rpartition("{id}")[2]:
        parts.append(f"ends_with({path}, {literal(last)})")
    return " && ".join(parts)


def literal(text: str) -> str:
    """A text as a literal of JMESPath."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def quoted(key: str) -> str:
    """A key as part of an expression, in quotes where it needs them."""
    if re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
        return key
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
