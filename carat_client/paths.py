"""The path of a call as the client sent it: percent-encoded, without the query string."""

import re
from urllib.parse import quote, unquote_to_bytes

# All that a path may contain; anything else is encoded. `%` stays: what the client encoded is not encoded again.
_SAFE_SENT = "/%:@!$&'()*+,;=~"
_SAFE_DECODED = _SAFE_SENT.replace("%", "")
_ORIGIN = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)  # a request line may contain a whole URL
_CUT_ESCAPE = re.compile(r"%[0-9A-Fa-f]?\Z")


def sent_path(sent: bytes, decoded: bytes, prefix: bytes = b"") -> str:
    """The path of the call.

    Args:
        sent: The request target, undecoded; empty if the server does not pass it on.
        decoded: The path that the app sees. If there is nothing else, it is encoded again, except for slashes.
        prefix: The decoded path under which the app is mounted. It is put before a target that lacks it.

    """
    target = sent[origin.end() :] or b"/" if (origin := _ORIGIN.match(sent)) else sent
    target = target.partition(b"?")[0].partition(b"#")[0]
    if not target:
        return quote(decoded, safe=_SAFE_DECODED)
    path = quote(target, safe=_SAFE_SENT)
    if prefix and prefix + unquote_to_bytes(target) == decoded:
        return quote(prefix, safe=_SAFE_DECODED) + path
    return path


def shortened(path: str, length: int) -> str:
    """The path's beginning, without half an escape at its end."""
    return path if len(path) <= length else _CUT_ESCAPE.sub("", path[:length])
