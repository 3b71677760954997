"""JSON as bytes: how deep it is nested, and text that UTF-8 cannot hold. Both take one pass, whatever the content."""

import re
from itertools import accumulate

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_STEPS = bytes({ord("["): 1, ord("{"): 1, ord("]"): 0xFF, ord("}"): 0xFF}.get(byte, 0) for byte in range(256))
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_MAY_BE_HALF = (b"\\ud", b"\\uD")
_HIGH, _LOW, _ANY = rb"[dD][89abAB][0-9a-fA-F]{2}", rb"[dD][c-fC-F][0-9a-fA-F]{2}", rb"[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR = rb"u" + _HIGH + rb"\\u" + _LOW
_WITHOUT_HALVES = re.compile(rb"(?:[^\\]++|\\(?:[^u]|u(?!" + _ANY + rb")|" + _PAIR + rb"))*+", re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:[^u]|" + _PAIR + rb"|u(?P<half>" + _ANY + rb")?)", re.DOTALL)
_REPLACEMENT = rb"\ufffd"


def is_deeper(data: bytes, limit: int) -> bool:
    """Whether lists and objects of this valid JSON are nested more than `limit` deep."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    brackets = _STRING.sub(b"", data).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(brackets).cast("b")), default=0) > limit


def with_whole_characters(data: bytes) -> bytes:
    r"""The JSON with U+FFFD for each escaped half of a surrogate pair: `\ud83d` without a `\ude00` after it.

    JavaScript writes such halves where it cuts a text inside an emoji. JSON allows them, and UTF-8 cannot hold them.
    """
    if not any(start in data for start in _MAY_BE_HALF) or _WITHOUT_HALVES.fullmatch(data):
        return data
    return _ESCAPE.sub(lambda found: _REPLACEMENT if found["half"] else found[0], data)


def as_utf8(data: bytes) -> bytes:
    """The text in valid UTF-8, where surrogates were encoded one by one (CESU-8): pairs joined, halves as U+FFFD.

    Raises UnicodeDecodeError for anything else that is not UTF-8.
    """
    try:
        data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogatepass")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    return data
