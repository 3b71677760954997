"""How shopper IP addresses are stored: they are treated on arrival, before anything of the call is written."""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec

_KEPT_BITS = {4: 24, 6: 48}
_HASHED = re.compile(r"hashed-[0-9a-f]{32}")
_IN_JSON = re.compile(rb'("ip"\s*:\s*")((?:[^"\\]|\\.)*)("|\\?\Z)', re.DOTALL)
_MOST_REMEMBERED = 65_536
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True)
class Addresses:
    """A treatment of IP addresses. Treating an address twice gives the same result as treating it once."""

    treat: Callable[[str], str]

    @property
    def are_kept(self) -> bool:
        return self.treat is _kept

    def in_bytes(self, record: bytes) -> bytes:
        """A raw record with its address treated; in invalid JSON, every address that can be found.

        An `ip` that is not text may hold an address in any form, so an empty list replaces it: no valid call record
        has one there.
        """
        if self.are_kept:
            return record
        try:
            fields = _fields.decode(record)
            ip = msgspec.json.decode(fields.get("ip", b"null"))
        except (msgspec.MsgspecError, RecursionError):
            return _IN_JSON.sub(lambda match: match[1] + self._treated(match[2]) + match[3], record)
        if "ip" not in fields:
            return record
        if ip is not None:
            ip = self.treat(ip) if isinstance(ip, str) else []
        # Encoded even if it is null: where the name is given twice, the other value may hold an address.
        return msgspec.json.encode(fields | {"ip": ip})

    def _treated(self, text: bytes) -> bytes:
        return self.treat(text.decode("ascii", "replace")).encode()


def kept() -> Addresses:
    """Addresses stay as they are."""
    return Addresses(_kept)


def truncated() -> Addresses:
    """Addresses become their network, the first 24 bits of IPv4 and 48 of IPv6; invalid ones become empty."""
    return Addresses(lru_cache(_MOST_REMEMBERED)(_truncated))


def hashed(key: str) -> Addresses:
    """Addresses become keyed hashes: equal ones stay equal, and without the key they cannot be guessed."""
    return Addresses(lru_cache(_MOST_REMEMBERED)(partial(_hashed, key.encode())))


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in a text as proxies write it: the first of a list, with or without a port; None if it has none."""
    first = text.partition(",")[0].strip()
    if first.startswith("["):
        first = first[1:].partition("]")[0]
    elif first.count(":") == 1:
        first = first.partition(":")[0]
    try:
        address = ip_address(first.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _kept(text: str) -> str:
    return text


def _truncated(text: str) -> str:
    if (address := parse_address(text)) is None:
        return ""
    return str(ip_network((address, _KEPT_BITS[address.version]), strict=False).network_address)


def _hashed(key: bytes, text: str) -> str:
    if not text or _HASHED.fullmatch(text):
        return text
    content = str(parse_address(text) or text).encode()
    return f"hashed-{hmac.new(key, content, hashlib.sha256).hexdigest()[:32]}"
