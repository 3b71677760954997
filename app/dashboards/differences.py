"""What two nested values differ in, path by path, and how a person reads it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any, Final

_LONGEST = 160


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING: Final = _Nothing()
"""What stands where one side has no such key."""


@dataclass(frozen=True)
class Difference:
    """One place in which what was found is not what is wanted."""

    path: str
    found: Any
    wanted: Any

    def __str__(self) -> str:
        if isinstance(self.found, str) and isinstance(self.wanted, str) and "\n" in self.found + self.wanted:
            lines = unified_diff(self.found.splitlines(), self.wanted.splitlines(), lineterm="", n=1)
            return "\n".join([f"{self.path}:", *(f"  {line}" for line in list(lines)[2:])])
        if self.found is NOTHING:
            return f"{self.path}: + {_short(self.wanted)}"
        if self.wanted is NOTHING:
            return f"{self.path}: - {_short(self.found)}"
        return f"{self.path}: {_short(self.found)} -> {_short(self.wanted)}"

    @property
    def report(self) -> dict[str, Any]:
        """The difference for a machine; a side that has no such key is left out."""
        sides = {"found": self.found, "wanted": self.wanted}
        return {"path": self.path} | {name: value for name, value in sides.items() if value is not NOTHING}


def differences(found: Any, wanted: Any, path: str = "") -> Iterator[Difference]:
    """The places in which two values differ; mappings are compared key by key, everything else as a whole."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            below = f"{path}.{key}" if path else str(key)
            yield from differences(found.get(key, NOTHING), wanted.get(key, NOTHING), below)
    elif type(found) is not type(wanted) or found != wanted:
        if isinstance(found, int | float) and isinstance(wanted, int | float) and found == wanted:
            return  # 1 and 1.0 are the same number in JSON
        yield Difference(path, found, wanted)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
