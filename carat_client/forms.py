"""Reads HTML forms as objects: `application/x-www-form-urlencoded` and the fields of `multipart/form-data`."""

import re
from collections.abc import Iterable
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
_MOST_FIELDS = 1000

_NAME = re.compile(rb';\s*name="([^"\r\n]*)"', re.IGNORECASE)
_FILE_NAME = re.compile(rb";\s*filename\*?\s*=", re.IGNORECASE)
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n"}  # how browsers write these characters in a field's name


def media_type(content_type: bytes | str) -> str:
    """The type without parameters, in lower case."""
    return decode(content_type).partition(";")[0].strip().lower()


def read_form(content: bytes, content_type: str) -> dict[str, Any]:
    """The form's fields by name; a repeated name, or one that ends in `[]`, has a list.

    Raises:
        ValueError: it has more than 1,000 fields, or is not complete.

    """
    if media_type(content_type) == MULTIPART:
        fields: Iterable[tuple[str, str]] = _multipart_fields(content, content_type)
    else:
        fields = parse_qsl(decode(content), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    found = collect(fields)
    return {name: [value] if name.endswith("[]") and isinstance(value, str) else value for name, value in found.items()}


def read_query(text: str) -> dict[str, Any]:
    """Names and values of a query string; a repeated name has a list of values."""
    try:
        return collect(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        return {"_truncated": len(text)}


def collect(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Values by name; a repeated name has a list of values."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in found:
            found[name] = value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found


def decode(value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _multipart_fields(content: bytes, content_type: str) -> list[tuple[str, str]]:
    """Names and values; files are left out."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if not boundary:
        raise ValueError("the form has no boundary")
    _, *parts = (b"\r\n" + content).split(b"\r\n--" + boundary.encode("latin-1"), _MOST_FIELDS + 1)
    if not parts or not parts[-1].startswith(b"--"):
        raise ValueError("the form has too many fields or is not complete")
    fields = []
    for part in parts[:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if name and not _FILE_NAME.search(head):
            fields.append((_field_name(name[1]), decode(value)))
    return fields


def _field_name(name: bytes) -> str:
    text = decode(name)
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text
