"""Paths without what varies from call to call: a segment is an id by its form."""

import re
from functools import lru_cache

_VERSION = re.compile(r"v\d+(?:\.\d+)*|\d{4}-\d{2}", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_HEX = re.compile(r"(?=.*\d)[0-9a-f]{8,}", re.IGNORECASE)
_NUMBERED = re.compile(r"\d+[-_.].+|.+[-_:]\d+(?:\.\w{2,4})?")  # 17-gold-ring, ring-17, gid:17
_PREFIXED = re.compile(r"[a-z]{2,8}_(?=\w*\d)\w{2,}", re.IGNORECASE)  # prod_01RING
_TOKEN = re.compile(r"(?=.*\d)(?=.*[A-Z])[\w%=+-]{8,}")  # Xk2pQ7mW9vT3
_CODE = re.compile(r"(?=.*[-_%])[A-Z0-9%_-]{4,}")  # RING-GOLD, in capitals only

_SCHEME_AND_HOST = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*")


def segments_of(endpoint: str) -> list[str]:
    """The segments of an endpoint's path, without scheme, host, query and path parameters."""
    path = re.split(r"[?#]", _SCHEME_AND_HOST.sub("", endpoint), maxsplit=1)[0]
    return [re.sub(r";.*$", "", segment) for segment in path.split("/") if segment]


@lru_cache(maxsize=100_000)
def is_id(segment: str) -> bool:
    """Whether a segment has the form of an id: a number, a UUID, a hash, or a name with a number in it."""
    if _VERSION.fullmatch(segment):
        return False
    forms = (_NUMBER, _UUID, _HEX, _NUMBERED, _PREFIXED, _TOKEN, _CODE)
    return any(form.fullmatch(segment) for form in forms)


def fold_ids(endpoint: str) -> str:
    """The endpoint's path with `{id}` where a segment has the form of an id."""
    return "/" + "/".join("{id}" if is_id(segment) else segment for segment in segments_of(endpoint))
