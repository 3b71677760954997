"""The endpoint map: a shop's own API described in data, read from TOML and checked with file, line and key."""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.errors import SettingsError
from app.rules.field_path import ITEMS, FieldPath, Kind

EVENTS = (
    "catalog", "product_view", "favorite_add", "favorite_remove", "cart_add", "cart_remove", "cart_view", "checkout",
    "purchase",
)  # fmt: skip
OTHER = "other"

# Fields a map can place, and what each holds. A list field's path steps into a list, or holds one.
FIELDS: dict[str, Kind] = {
    "product_id": Kind.TEXT,
    "quantity": Kind.NUMBER,
    "price": Kind.NUMBER,
    "order_id": Kind.TEXT,
    "revenue": Kind.NUMBER,
    "currency": Kind.TEXT,
    "search_query": Kind.TEXT,
    "section": Kind.TEXTS,
    "material": Kind.TEXTS,
    "metal": Kind.TEXTS,
    "price_min": Kind.NUMBER,
    "price_max": Kind.NUMBER,
    "page": Kind.NUMBER,
    "per_page": Kind.NUMBER,
    "sort": Kind.TEXT,
    "results_total": Kind.NUMBER,
    "shown_products": Kind.TEXT,
    "order_products": Kind.TEXT,
    "order_quantities": Kind.NUMBER,
    "order_prices": Kind.NUMBER,
}
LIST_FIELDS = frozenset({"shown_products", "order_products", "order_quantities", "order_prices"})
ORDER_ITEM_FIELDS = ("order_products", "order_quantities", "order_prices")

_KEY = re.compile(r'"(?P<quoted>[^"]+)"|(?P<plain>[^."\[\]]+)')
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class MappedCall:
    """One call of the map: the pattern of its path, and the leaves of its request and response."""

    event: str
    method: str
    path_pattern: str
    path_fields: tuple[str, ...]  # by capture group, from 1; empty name where the group is no field
    request: tuple[FieldPath, ...]
    response: tuple[FieldPath, ...]


@dataclass(frozen=True)
class EndpointMap:
    """The calls of a shop, in the order in which they are tried; `digest` changes when their meaning does."""

    calls: tuple[MappedCall, ...]
    digest: str


def load_endpoint_map(path: Path) -> EndpointMap:
    """The map in a TOML file; SettingsError names file, line and key of the first mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"CARAT_TRACKING: cannot read {path}: {error}") from None
    return parse_endpoint_map(text, source=str(path))


def parse_endpoint_map(text: str, *, source: str) -> EndpointMap:
    """The map in a TOML text."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source}: {error}") from None
    lines = _Lines(text, source)
    if unknown := set(content) - {"call"}:
        raise lines.error(0, min(unknown), "unknown; a map holds [[call]] tables only")
    entries = content.get("call")
    if not isinstance(entries, list) or not entries:
        raise SettingsError(
            f"{source}: no [[call]] table; see the shipped app/rules/endpoint_maps/demo.toml for an example"
        )
    if not all(isinstance(entry, dict) for entry in entries):
        raise SettingsError(f"{source}: `call` must be [[call]] tables, not a list of values")
    calls = tuple(_call(entry, number, lines) for number, entry in enumerate(entries, start=1))
    seen: dict[tuple[str, str], int] = {}
    for number, call in enumerate(calls, start=1):
        if (first := seen.setdefault((call.method, call.path_pattern), number)) != number:
            raise lines.error(number, "path", f"this method and path are already those of call number {first}")
    return EndpointMap(calls, hashlib.sha256(repr(calls).encode()).hexdigest()[:16])


class _Lines:
    """Finds the line of a key for an error; TOML readers do not keep it."""

    def __init__(self, text: str, source: str) -> None:
        self._lines = text.splitlines()
        self._source = source

    def error(self, entry: int, key: str, problem: str) -> SettingsError:
        at = 0
        for number, line in enumerate(self._lines, start=1):
            at += line.strip().startswith("[[call]]")
            if at == entry and re.match(rf"\s*\[?\"?{re.escape(key)}\"?\s*[=.\]]", line):
                return SettingsError(f"{self._source}, line {number}, {key}: {problem}")
            if at == entry and "." not in key and re.match(rf"\s*fields\.{re.escape(key)}\s*=", line):
                return SettingsError(f"{self._source}, line {number}, fields.{key}: {problem}")
        header = [n for n, line in enumerate(self._lines, start=1) if line.strip().startswith("[[call]]")]
        where = f", line {header[entry - 1]}" if 0 < entry <= len(header) else ""
        return SettingsError(f"{self._source}{where}, {key}: {problem}")


def _call(entry: dict[str, Any], number: int, lines: _Lines) -> MappedCall:
    for key in entry.keys() - {"event", "method", "path", "fields"}:
        raise lines.error(number, key, "unknown key; a call has event, method, path and fields")
    for key in ("event", "method", "path"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise lines.error(number, key, "missing, or not text")
    if entry["event"] not in EVENTS:
        raise lines.error(number, "event", f"{entry['event']!r} is no event; choose from {', '.join(EVENTS)}")
    if not entry["path"].startswith("/") or "?" in entry["path"]:
        raise lines.error(number, "path", "must begin with / and hold no query string")
    placeholders = _PLACEHOLDER.findall(entry["path"])
    if rest := re.search(r"[{}]", _PLACEHOLDER.sub("", entry["path"])):
        raise lines.error(number, "path", f"stray {rest[0]!r}; a placeholder is {{name}}")
    fields = entry.get("fields", {})
    if not isinstance(fields, dict):
        raise lines.error(number, "fields", "must be a table of field = path")
    leaves = [leaf for name, paths in fields.items() for leaf in _leaves(name, paths, number, lines)]
    _require_tree(leaves, number, lines)
    pattern = _PLACEHOLDER.sub("\0", entry["path"].rstrip("/") or "/")
    return MappedCall(
        event=entry["event"],
        method=entry["method"].upper(),
        path_pattern="^" + re.escape(pattern).replace("\0", "([^/]+)").replace("\\\x00", "([^/]+)") + "/?$",
        path_fields=tuple(name if name in FIELDS else "" for name in placeholders),
        request=tuple(leaf for side, leaf in leaves if side == "request"),
        response=tuple(leaf for side, leaf in leaves if side == "response"),
    )


def _leaves(name: str, paths: Any, number: int, lines: _Lines) -> Iterator[tuple[str, FieldPath]]:
    if name not in FIELDS:
        raise lines.error(number, name, f"unknown field; choose from {', '.join(FIELDS)}")
    for position, path in enumerate(paths if isinstance(paths, list) else [paths]):
        if not isinstance(path, str):
            raise lines.error(number, name, "a path is text, such as request.query.q")
        side, *keys = _keys(path) or [""]
        if side not in {"request", "response"} or not keys or keys[-1] == ITEMS or keys.count(ITEMS) > 1:
            problem = f"{path!r} is no path; write request.… or response.…, with at most one [], not at the end"
            raise lines.error(number, name, problem)
        if (ITEMS in keys) != (name in LIST_FIELDS):
            needed = "needs one []" if name in LIST_FIELDS else "takes no []"
            raise lines.error(number, name, f"{path!r}: this field {needed}, as in response.items[].id")
        yield side, FieldPath(f"{name}.{position}", FIELDS[name], tuple(keys))


def _keys(path: str) -> list[str]:
    keys = []
    rest = path
    while rest:
        match = _KEY.match(rest)
        if match is None:
            return []
        keys.append(match["quoted"] or match["plain"])
        rest = rest[match.end() :]
        if rest.startswith("[]"):
            keys.append(ITEMS)
            rest = rest[2:]
        if rest and not rest.startswith("."):
            return []
        rest = rest[1:]
    return keys


def _require_tree(leaves: list[tuple[str, FieldPath]], number: int, lines: _Lines) -> None:
    """No leaf may be another's branch, nor stand twice: one value has one field."""
    seen = {(side, leaf.keys): leaf.name for side, leaf in leaves}
    if len(seen) < len(leaves):
        name = next(leaf.name for side, leaf in leaves if seen[side, leaf.keys] != leaf.name)
        raise lines.error(number, name.split(".")[0], "this path is already another field's")
    for side, leaf in leaves:
        for length in range(1, len(leaf.keys)):
            if other := seen.get((side, leaf.keys[:length])):
                problem = f"its path goes through the value of {other.split('.')[0]}"
                raise lines.error(number, leaf.name.split(".")[0], problem)
