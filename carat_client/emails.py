"""Finds e-mail addresses in texts, percent-encoded ones included."""

import re
from collections.abc import Callable

_AT_DOMAIN = re.compile(r"(?:@|%40)(?!\d(?:\.\d)?x\.)(?:(?:[\w\-]{1,63}\.){1,16}[\w\-]{1,63}|\[[0-9A-Fa-f.:]{3,45}\])")
_LONGEST_LOCAL_PART = 64
# The part before the @, matched backwards: first the usual characters, so that `email=a@b.example` keeps its name, then
# everything that a mail server accepts.
_LOCAL_PARTS = (
    re.compile(r"[\w.+\-]+"),
    re.compile(r"[^\s@<>,;()\[\]\"\\]+"),
    re.compile(r"\"[^\"\r\n]+\""),
)


def without_emails(text: str, replace: Callable[[str], str]) -> str:
    """Replace the e-mail addresses in a text."""
    kept = []
    done = 0
    for match in _AT_DOMAIN.finditer(text):
        begin = _local_part_begins(text, done, match.start())
        if begin < match.start():
            kept += [text[done:begin], replace(text[begin : match.end()])]
            done = match.end()
    return "".join([*kept, text[done:]]) if kept else text


def _local_part_begins(text: str, lowest: int, at: int) -> int:
    backwards = text[max(lowest, at - _LONGEST_LOCAL_PART) : at][::-1]
    for pattern in _LOCAL_PARTS:
        if found := pattern.match(backwards):
            return at - found.end()
    return at
