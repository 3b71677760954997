"""Finds secrets in XML and HTML: in elements and attributes whose name is a secret's, or that are given one."""

import re
from collections.abc import Callable

from carat_client.credentials import REDACTED

# Also where markup is escaped once.
_TAG = re.compile(r"(?:<|&lt;)([\w:.\-]{1,64}+)([^<>&]*+(?:&(?!gt;)[^<>&]*+)*+)(?:>|&gt;)")
_CONTENT = re.compile(r"\s*+(?:<!\[CDATA\[(?:(?!\]\]>).)*+(?:\]\]>)?|[^<&]*+(?:&(?!lt;)[^<&]*+)*+)", re.DOTALL)
_NAMED = re.compile(
    r"(?<![\w:.\-])(?:name|key|id|property|field|param|type)\s{0,4}=\s{0,4}[\"']([^\"'<>]{1,100})[\"']", re.IGNORECASE
)
_VALUE = re.compile(r"(?<![\w:.\-])((?:value|content|data)\s{0,4}=\s{0,4})(\"[^\"]*+\"?|'[^']*+'?)", re.IGNORECASE)
_NAMES_NEXT = frozenset({"key", "name"})  # <key>password</key><string>…</string>

_LONGEST_JUDGED = 512  # of a content; thousands of elements may be followed by all the rest

IsSecret = Callable[[str, str], bool]  # of a name and a value


def without_secrets_in_markup(text: str, is_secret: IsSecret) -> str:
    """Redact secrets in markup; text that is none stays as it is."""
    kept: list[str] = []
    done = 0
    names_next = ""
    for tag in _TAG.finditer(text):
        if tag.start() < done:
            continue
        element = tag[1].rpartition(":")[2]
        names = [element, *_NAMED.findall(tag[2])] if "=" in tag[2] else [element]
        for value in _VALUE.finditer(text, tag.start(2), tag.end(2)) if len(names) > 1 else ():
            if any(is_secret(name, value[2][1:-1]) for name in names):
                kept += [text[done : value.start(2)], f"{value[2][0]}{REDACTED}{value[2][0]}"]
                done = value.end(2)
        begin = _CONTENT.match(text, tag.end(), tag.end() + _LONGEST_JUDGED)
        if begin is None or not (content := begin[0].strip()):
            continue
        if names_next:
            names.append(names_next)
        if any(is_secret(name, content) for name in names):
            whole = _CONTENT.match(text, tag.end())
            assert whole is not None
            kept += [text[done : tag.end()], REDACTED]
            done = whole.end()
        names_next = content if element.lower() in _NAMES_NEXT else ""
    return "".join([*kept, text[done:]]) if kept else text
