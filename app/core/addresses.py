"""How shopper IP addresses are stored: kept, truncated or hashed on arrival, before the call is stored."""

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
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
    """How addresses are stored. Treating an address twice has the same result as once."""

    treat: Callable[[str], str]

    def in_records(self, records: Sequence[bytes]) -> Sequence[bytes]:
        """The records as sent, each with its address treated."""
        return records if self.treat is _kept else [self.in_bytes(record) for record in records]

    def in_bytes(self, record: bytes) -> bytes:
        """The record as sent, with its address treated; if it is not valid JSON, wherever an address can be found.

        A value that is not text may contain an address in any form, so it is replaced by an empty list, which is not
        valid there in a call record.
        """
        if self.treat is _kept:
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
        # Rewritten even if it is null: if the name occurs twice, the other value may be an address.
        return msgspec.json.encode(fields | {"ip": ip})

    def _treated(self, text: bytes) -> bytes:
        return self.treat(text.decode("ascii", "replace")).encode()


def kept() -> Addresses:
    """Store addresses as they arrive."""
    return Addresses(_kept)


def truncated() -> Addresses:
    """Store the network: the first 24 bits of IPv4, the first 48 of IPv6; empty if it is not a valid address."""
    return Addresses(lru_cache(_MOST_REMEMBERED)(_truncated))


def hashed(key: str) -> Addresses:
    """Store a keyed hash: equal addresses stay equal, and nobody without the key can try them all."""
    return Addresses(lru_cache(_MOST_REMEMBERED)(partial(_hashed, key.encode())))


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in a text as proxies write it: the first of a list, with or without a port; None if there is none."""
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
