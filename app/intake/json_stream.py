"""Splits a stream of JSON into its records in bounded memory: lines, arrays, or objects written over several lines."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import compress

import numpy as np

from app.core.call_record import Line
from app.intake.blocks import Block
from app.intake.call_frames import KEPT_REJECT_BYTES

_UTF8_MARK = b"\xef\xbb\xbf"
_LOOKED_AT_BYTES = 4096
# Lines begin with a whole object. An array, or an opening brace alone in its line, does not.
_SEVERAL_LINES = re.compile(rb"\s*(?:\[|\{[ \t\r]*\n)")
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_QUOTE, _COMMA, _BRACE = b'",{'
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


class IncompleteJSONError(EOFError):
    """The stream ends inside of an array, an object or a text."""


def first_bytes(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The start of a stream, and the whole stream again; a mark of UTF-8 at its start is left out.

    An error in the start is raised when the stream is read to that place.
    """
    start = b""
    failure: Exception | None = None
    try:
        while len(start) < _LOOKED_AT_BYTES and (chunk := next(chunks, b"")):
            start += chunk
    except Exception as error:  # noqa: BLE001  raised below
        failure = error
    start = start.removeprefix(_UTF8_MARK)
    return start, _again(start, chunks, failure)


def _again(start: bytes, chunks: Iterator[bytes], failure: Exception | None) -> Iterator[bytes]:
    yield start
    if failure:
        raise failure
    yield from chunks


def records(start: bytes, chunks: Iterable[bytes]) -> Iterator[Block]:
    """The records of a stream that begins with `start`; IncompleteJSONError after the last, if it ends early."""
    return elements(chunks) if _SEVERAL_LINES.match(start) else lines(chunks)


def lines(chunks: Iterable[bytes]) -> Iterator[Block]:
    """The lines that are not blank, by their number; a block for each chunk in which lines end."""
    position, held = 1, _Held()
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        held.add(first)
        if not rest:
            continue
        block = Block()
        if line := held.take(position):
            block.add(line)
        last = rest.pop()
        block.extend(_whole_lines(rest, position + 1))
        position += 1 + len(rest)
        held.add(last)
        yield block
    if line := held.take(position):
        yield Block([line.data], [line.position], [line.size])


def _whole_lines(parts: list[bytes], position: int) -> Block:
    """Lines that were read whole, of which the first has this position."""
    records = list(map(bytes.strip, parts))
    block = Block(records, list(range(position, position + len(parts))), list(map(len, parts)))
    if all(records):
        return block
    return Block(
        list(compress(block.records, records)),
        list(compress(block.positions, records)),
        list(compress(block.sizes, records)),
    )


def elements(chunks: Iterable[bytes]) -> Iterator[Block]:
    """The elements of arrays and the objects between them, by their number; a block for each chunk.

    Strings and brackets determine where one ends, so an invalid one does not affect the others unless its brackets are
    unbalanced.
    """
    splitter = _Splitter()
    position = 0
    for chunk in chunks:
        block = Block()
        for element in splitter.feed(chunk):
            position += 1
            block.add(replace(element, position=position))
        yield block
    if last := splitter.held.take(position + 1):
        yield Block([last.data], [last.position], [last.size])
    if splitter.depth or splitter.is_in_string:
        raise IncompleteJSONError("it ends inside of an array, an object or a text")


class _Held:
    """The bytes of one record so far; of an extremely long one, only what a reject keeps is held in memory."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._kept = self._size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._kept < KEPT_REJECT_BYTES:
            self._pieces.append(piece[: KEPT_REJECT_BYTES - self._kept])
            self._kept += len(self._pieces[-1])

    def take(self, position: int) -> Line | None:
        """The record, if it is not blank; what follows is the next one."""
        data, size = b"".join(self._pieces).strip(), self._size
        self._pieces, self._kept, self._size = [], 0, 0
        return Line(position, data, size) if data else None


class _Splitter:
    """Finds the ends of elements, wherever the stream is cut into chunks."""

    def __init__(self) -> None:
        self.depth = 0
        self.is_in_string = False
        self.held = _Held()
        self._is_in_array = False
        self._cut_escape = b""  # the backslash with which the chunk before ended

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The elements that end in this chunk."""
        chunk = self._cut_escape + chunk
        masked = _ESCAPE.sub(b"__", chunk)  # so that each quote begins or ends a string
        self._cut_escape = masked[-1:] if masked.endswith(b"\\") else b""
        if self._cut_escape:
            chunk, masked = chunk[:-1], masked[:-1]
        start = 0
        for at, byte, depth in self._outer_tokens(masked):
            is_closing = byte in b"]}"
            if byte == _COMMA and depth > self._is_in_array:
                continue  # between the fields of an object
            is_part = is_closing and not (depth and self._is_in_array)
            self.held.add(chunk[start : at + is_part])
            start = at if byte == _BRACE else at + 1
            if not (is_closing or byte == _COMMA):
                self._is_in_array = byte != _BRACE
            if line := self.held.take(0):
                yield line
        self.held.add(chunk[start:])

    def _outer_tokens(self, masked: bytes) -> Iterator[tuple[int, int, int]]:
        """The commas and brackets between elements: where each is, its byte, and the depth before it."""
        if not masked:
            return iter(())
        codes = np.frombuffer(masked, np.uint8)
        is_inside = (np.cumsum(codes == _QUOTE, dtype=np.int32) + self.is_in_string) & 1 == 1
        steps = np.where(is_inside, 0, _STEPS[codes])
        depths = np.cumsum(steps, dtype=np.int32) + np.int32(self.depth)
        depths -= np.minimum(np.minimum.accumulate(depths), 0)  # a bracket that closes nothing leaves it at 0
        befores = np.concatenate(([self.depth], depths[:-1]))
        self.depth, self.is_in_string = int(depths[-1]), bool(is_inside[-1])
        is_opening, is_closing = (steps == 1) & (depths == 1), (steps == -1) & (depths == 0)
        is_comma = (codes == _COMMA) & ~is_inside & (depths <= 1)
        places = np.flatnonzero(is_opening | is_closing | is_comma)
        return zip(places.tolist(), codes[places].tolist(), befores[places].tolist(), strict=True)
