"""Documents that stand as text inside a document: JSON, base64 of JSON, a form; and query keys with brackets."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{2,}={0,2}")
_FORM = re.compile(r"\??[^\s=&]+=[^\s]*")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_MAX_PAIRS = 10_000
_MAX_INDEX = 1_000


def document_in(text: str) -> Any:
    """The document that a text holds, whichever way it is written; None if it holds none."""
    text = text.strip()
    if text[:1] in ("{", "["):
        return from_json(text)
    if _BASE64.fullmatch(text):
        decoded = from_base64(text)
        if decoded and decoded.lstrip()[:1] in ("{", "["):
            return from_json(decoded)
    return from_form(text)


def from_json(text: str) -> Any:
    """The value of a JSON text; None if it is not valid."""
    try:
        return json.loads(text, strict=False, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def from_base64(text: str) -> str | None:
    """The text behind base64 in either alphabet; None if it is not valid."""
    try:
        padded = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
        return base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def from_form(text: str) -> Any:
    """The fields of a form or query string, with brackets in names read as lists and objects; None if it is neither."""
    if not _FORM.fullmatch(text.strip()):
        return None
    try:
        pairs = parse_qsl(text.strip().removeprefix("?"), keep_blank_values=True, max_num_fields=_MAX_PAIRS)
    except ValueError:
        return None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return with_nested_keys(fields)


def with_nested_keys(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, and what their keys with brackets mean: `a[b][]=1` also as `{"a": {"b": ["1"]}}`."""
    if not any("[" in key for key in fields):
        return fields
    nested: dict[str, Any] = {}
    for key, value in fields.items():
        name, bracket, rest = key.partition("[")
        steps = _BRACKETS.findall(bracket + rest)
        if name and steps and "".join(f"[{step}]" for step in steps) == bracket + rest:
            _place(nested, [name, *steps], value)
    return {key: _with_lists(value) for key, value in nested.items() if key not in fields} | fields


def _place(branch: dict[str, Any], steps: Sequence[str], value: Any) -> None:
    for step, following in pairwise(steps):
        if following == "":  # `name[]` and `name[][key]`: what follows belongs to a list
            values = value if isinstance(value, list) else [value]
            for number, one in enumerate(values):
                at = branch.setdefault(step, {})
                if isinstance(at, dict):
                    at[f"{len(at)}" if len(values) == 1 else f"{number}"] = one
            return
        inner = branch.setdefault(step, {})
        if not isinstance(inner, dict):
            return
        branch = inner
    branch[steps[-1]] = value


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isascii() and key.isdigit() and int(key) < _MAX_INDEX for key in value):
        return [_with_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _with_lists(inner) for key, inner in value.items()}


_DECODERS: Mapping[str, Callable[[str], Any]] = {"json": from_json, "base64": from_base64, "form": from_form}
DECODERS = tuple(_DECODERS)


def decoder(names: Sequence[str]) -> Callable[[str], Any]:
    """A function that decodes a text by these decoders one after the other; what cannot be decoded is None."""

    def decode(text: str) -> Any:
        value: Any = text
        for name in names:
            if not isinstance(value, str):
                break
            value = _DECODERS[name](value)
        return value

    return decode
