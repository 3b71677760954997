"""The CRC-32 of any range of a file in nearly constant time, after the file was read once.

A corrupt part may be full of heads that look right, written by whoever sent it. Reading what each of them claims to
hold would take time that grows with the square of the part's size.

The checksum of a range follows from those of the two prefixes of the file that end at its borders: appending n bytes
multiplies a checksum, which is a polynomial over GF(2), by x^8n.
"""

import zlib
from functools import cache
from typing import IO

_POLYNOMIAL = 0xEDB88320  # of CRC-32, bits reversed
_ONE = 1 << 31
_BLOCK_BYTES = 4096


class FileChecksums:
    """The checksums of the ranges of an open file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._prefixes = [0]  # of the first n blocks
        file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            self._prefixes.append(zlib.crc32(block, self._prefixes[-1]))

    def crc32(self, start: int, end: int, *, after: int = 0) -> int:
        """The checksum of the bytes from start to end, continuing from that of what comes before them."""
        return _shifted(self._prefix(start) ^ after, end - start) ^ self._prefix(end)

    def _prefix(self, end: int) -> int:
        block, rest = divmod(end, _BLOCK_BYTES)
        if not rest:
            return self._prefixes[block]
        self._file.seek(block * _BLOCK_BYTES)
        return zlib.crc32(self._file.read(rest), self._prefixes[block])


def _shifted(checksum: int, size: int) -> int:
    """The checksum multiplied by x^(8 * size)."""
    place = 0
    while size:
        if byte := size & 0xFF:
            checksum = _product(_power(byte, place), checksum)
        size >>= 8
        place += 1
    return checksum


@cache
def _power(byte: int, place: int) -> int:
    """The power of x with the exponent 8 * byte * 256^place."""
    power, base = _ONE, _ONE >> 8
    for _ in range(8 * place):
        base = _product(base, base)
    for _ in range(byte):
        power = _product(power, base)
    return power


def _product(one: int, other: int) -> int:
    """The product of two polynomials, modulo that of CRC-32."""
    product = 0
    while one:
        if one & _ONE:
            product ^= other
        one = (one << 1) & 0xFFFFFFFF
        other = (other >> 1) ^ (_POLYNOMIAL if other & 1 else 0)
    return product
