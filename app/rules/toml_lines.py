"""Finds the line on which each key of a TOML text stands: TOML readers do not keep it.

The text is valid TOML; `tomllib` has read it. So this scanner only needs to know where keys and values begin and end.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_INDENT = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:\\.|[^"\\\n])*"|' r"'[^'\n]*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


@dataclass(frozen=True)
class KeyLines:
    """The lines of keys, tables and list items by their path: keys as text, positions in lists as numbers from 0."""

    _lines: Mapping[KeyPath, int]

    def of(self, path: KeyPath) -> int | None:
        """The line of a path, or of the innermost table or list on the way to it; None if there is none."""
        return next((self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines), None)


def find_lines(text: str) -> KeyLines:
    """The lines, from 1, of everything in a valid TOML text."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.scan()
    return KeyLines(scanner.lines)


class _Scanner:
    """Reads a TOML text from front to back and notes where keys begin."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted_to = 0
        self._line = 1
        self._table_counts: dict[KeyPath, int] = {}
        self.lines: dict[KeyPath, int] = {}

    def scan(self) -> None:
        table: KeyPath = ()
        self._skip(_SPACE)
        while self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._read_header(opening=2)
            elif self._text.startswith("[", self._at):
                table = self._read_header(opening=1)
            else:
                self._read_pair(table)
            self._skip(_SPACE)

    def _read_header(self, *, opening: int) -> KeyPath:
        """The path of the table that a `[table]` or `[[table]]` line opens."""
        line = self._line_here()
        self._at += opening
        keys = self._read_keys()
        self._at += opening  # the closing brackets
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._last_of((*path, key))
            self.lines.setdefault(path, line)
        path = (*path, keys[-1])
        if opening == 2:  # noqa: PLR2004  [[
            self.lines.setdefault(path, line)
            self._table_counts[path] = self._table_counts.get(path, 0) + 1
            path = self._last_of(path)
        self.lines[path] = line
        return path

    def _last_of(self, path: KeyPath) -> KeyPath:
        """The newest table of a list of tables, or the path itself."""
        count = self._table_counts.get(path)
        return path if count is None else (*path, count - 1)

    def _read_pair(self, table: KeyPath) -> None:
        line = self._line_here()
        path = table
        for key in self._read_keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._at += 1  # =
        self._skip(_INDENT)
        self._read_value(path)

    def _read_keys(self) -> list[str]:
        """A dotted key; leaves the position after it and the blanks that follow."""
        keys = []
        while True:
            self._skip(_INDENT)
            match = _BARE_KEY.match(self._text, self._at) or _STRING.match(self._text, self._at)
            assert match
            keys.append(match[0] if match[0][0] not in "\"'" else str(tomllib.loads(f"key = {match[0]}")["key"]))
            self._at = match.end()
            self._skip(_INDENT)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _read_value(self, path: KeyPath) -> None:
        opening = self._text[self._at]
        if opening not in "[{":
            match = _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at)
            assert match
            self._at = match.end()
            return
        self._at += 1
        closing = "]" if opening == "[" else "}"
        number = 0
        while True:
            self._skip(_SPACE)
            if self._text[self._at] == closing:
                self._at += 1
                return
            if self._text[self._at] == ",":
                self._at += 1
            elif opening == "{":
                self._read_pair(path)
            else:
                self.lines[*path, number] = self._line_here()
                self._read_value((*path, number))
                number += 1

    def _skip(self, what: re.Pattern[str]) -> None:
        match = what.match(self._text, self._at)
        assert match
        self._at = match.end()

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line
