"""Rules as data: TOML files of tables in order, read and checked with file, line and key."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from app.core.errors import SettingsError


class RuleFile:
    """A TOML file, and where in it a mistake is: TOML readers keep no lines."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._lines = text.splitlines()
        try:
            self.content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: Path, *, setting: str) -> "RuleFile":
        """The file; SettingsError names the setting if there is none."""
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise SettingsError(f"{setting}: cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{setting}: {path} holds no text in UTF-8") from None

    def require_keys(self, known: Iterable[str]) -> None:
        """Raise unless the file's own keys are among these."""
        known = tuple(known)
        for key in self.content:
            if key not in known:
                raise self.error("", 0, key, f"unknown; a file of these rules holds {', '.join(known)}")

    def tables(self, kind: str, keys: Iterable[str]) -> list["RuleTable"]:
        """The `[[kind]]` tables in their order, none with other keys than these."""
        entries = self.content.get(kind, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self.error("", 0, kind, f"must be [[{kind}]] tables")
        found = [RuleTable(self, kind, number, entry) for number, entry in enumerate(entries, start=1)]
        known = tuple(keys)
        for table in found:
            for key in table.content:
                if key not in known:
                    raise table.error(key, f"unknown; a [[{kind}]] has {', '.join(known)}")
        return found

    def names(self, kind: str) -> dict[str, str]:
        """The `[kind]` table of text to text."""
        entries = self.content.get(kind, {})
        if not isinstance(entries, dict):
            raise self.error("", 0, kind, f"must be a [{kind}] table")
        for key, value in entries.items():
            if not isinstance(value, str):
                raise self.error("", 0, key, "must be text")
        return entries

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts of the file's own, in lower case."""
        values = self.content.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            raise self.error("", 0, key, "must be a list of texts")
        return tuple(value.lower() for value in values)

    def error(self, kind: str, entry: int, key: str, problem: str) -> SettingsError:
        """The problem with a key of the entry with this number, from 1, of a kind; of the file itself with 0."""
        at = 0
        header = 0
        for number, line in enumerate(self._lines, start=1):
            if kind and re.match(rf"\s*\[\[\s*{re.escape(kind)}\s*\]\]", line):
                at += 1
                header = number if at == entry else header
            if at == entry and re.match(rf"\s*(?:\[+\s*)?(?:[\w.]+\.)?\"?{re.escape(key)}\"?\s*[=\]]", line):
                return SettingsError(f"{self.source}, line {number}, {key}: {problem}")
        where = f", line {header}" if header else ""
        return SettingsError(f"{self.source}{where}, {key}: {problem}")


class RuleTable:
    """One entry of a rule file."""

    def __init__(self, file: RuleFile, kind: str, number: int, content: dict[str, Any]) -> None:
        self._file, self._kind, self._number = file, kind, number
        self.content = content

    def part(self, content: dict[str, Any]) -> "RuleTable":
        """A table within this one, whose mistakes are this one's."""
        return RuleTable(self._file, self._kind, self._number, content)

    def error(self, key: str, problem: str) -> SettingsError:
        return self._file.error(self._kind, self._number, key, problem)

    def text(self, key: str, *, default: str | None = None) -> str:
        """The text at a key; without a default it must be there."""
        value = self.content.get(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise self.error(key, "missing, or not text")
        return value

    def flag(self, key: str) -> bool:
        """The truth at a key; false where there is none."""
        value = self.content.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A text, or a list of texts, in lower case; empty where there is none."""
        value = self.content.get(key, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise self.error(key, "must be text or a list of texts")
        return tuple(one.lower() for one in values)

    def pattern(self, key: str) -> str:
        """A regular expression that Polars understands; empty where there is none."""
        pattern = self.text(key, default="")
        if problem := wrong_pattern(pattern):
            raise self.error(key, f"no regular expression: {problem}")
        return pattern


def wrong_pattern(pattern: str) -> str:
    """What is wrong with a regular expression, in a line; empty if nothing is."""
    try:
        pl.select(pl.lit("x").str.contains(pattern))
    except pl.exceptions.PolarsError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "invalid")
    return ""
