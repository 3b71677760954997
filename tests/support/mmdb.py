"""Writes small databases in MaxMind's file format (its specification 2.0), so that tests need nobody's data."""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

_ROOM = 16  # bytes of zero between the tree and the data
_MARKER = b"\xab\xcd\xefMaxMind.com"
_MAP, _TEXT, _UINT16, _UINT32, _UINT64, _ARRAY = 7, 2, 5, 6, 9, 11
_EXTENDED = 7  # types above it


def write_mmdb(path: Path, networks: Mapping[str, Any], *, built: int = 1_770_000_000) -> Path:
    """A database that says `networks[network]` of every address in the network; the longest network that fits wins."""
    nodes: list[list[int | tuple[int] | None]] = [[None, None]]
    data = b""
    for network, record in sorted(networks.items(), key=lambda item: ip_network(item[0]).prefixlen):
        leaf = (len(data),)
        data += _encoded(record)
        _insert(nodes, _bits(network), leaf)
    tree = b"".join(_pointer(side, len(nodes)).to_bytes(4, "big") for node in nodes for side in node)
    metadata = {
        "node_count": (_UINT32, len(nodes)),
        "record_size": (_UINT16, 32),
        "ip_version": (_UINT16, 6),
        "database_type": "Test-Country",
        "languages": ["en"],
        "binary_format_major_version": (_UINT16, 2),
        "binary_format_minor_version": (_UINT16, 0),
        "build_epoch": (_UINT64, built),
        "description": {"en": "made for a test"},
    }
    path.write_bytes(tree + bytes(_ROOM) + data + _MARKER + _encoded(metadata))
    return path


def _bits(network: str) -> str:
    """The bits of a network's prefix; IPv4 lies in ::/96."""
    parsed = ip_network(network)
    if parsed.version == 4:
        return "0" * 96 + f"{int(parsed.network_address):032b}"[: parsed.prefixlen]
    return f"{int(parsed.network_address):0128b}"[: parsed.prefixlen]


def _insert(nodes: list[list[Any]], bits: str, leaf: tuple[int]) -> None:
    at = 0
    for bit in map(int, bits[:-1]):
        following = nodes[at][bit]
        if not isinstance(following, int):  # what held for the whole network holds for both of its halves
            nodes.append([following, following])
            nodes[at][bit] = following = len(nodes) - 1
        at = following
    nodes[at][int(bits[-1])] = leaf


def _pointer(side: Any, count: int) -> int:
    if side is None:
        return count
    return count + _ROOM + side[0] if isinstance(side, tuple) else side


def _encoded(value: Any) -> bytes:
    if isinstance(value, tuple):
        kind, number = value
        content = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return _control(kind, len(content)) + content
    if isinstance(value, str):
        return _control(_TEXT, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _control(_ARRAY, len(value)) + b"".join(map(_encoded, value))
    return _control(_MAP, len(value)) + b"".join(_encoded(k) + _encoded(v) for k, v in value.items())


def _control(kind: int, size: int) -> bytes:
    """The type and the size, which is below 285 here."""
    short, rest = (size, b"") if size < 29 else (29, bytes([size - 29]))
    if kind > _EXTENDED:
        return bytes([short, kind - _EXTENDED]) + rest
    return bytes([kind << 5 | short]) + rest
