"""The differences between two nested values, path by path, in readable form."""

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
"""Stands for the value on a side that lacks the key."""


@dataclass(frozen=True)
class Difference:
    """A place where the actual value differs from the desired one."""

    path: str
    actual: Any
    desired: Any

    def __str__(self) -> str:
        if isinstance(self.actual, str) and isinstance(self.desired, str) and "\n" in self.actual + self.desired:
            lines = unified_diff(self.actual.splitlines(), self.desired.splitlines(), lineterm="", n=1)
            return "\n".join([f"{self.path}:", *(f"  {line}" for line in list(lines)[2:])])
        if self.actual is NOTHING:
            return f"{self.path}: + {_short(self.desired)}"
        if self.desired is NOTHING:
            return f"{self.path}: - {_short(self.actual)}"
        return f"{self.path}: {_short(self.actual)} -> {_short(self.desired)}"

    @property
    def report(self) -> dict[str, Any]:
        """The difference for JSON output; a side that lacks the key is left out."""
        sides = {"found": self.actual, "wanted": self.desired}  # the keys are part of the output of `push --json`
        return {"path": self.path} | {name: value for name, value in sides.items() if value is not NOTHING}


def differences(actual: Any, desired: Any, path: str = "") -> Iterator[Difference]:
    """The places where two values differ; mappings are compared key by key, everything else as a whole."""
    if isinstance(actual, dict) and isinstance(desired, dict):
        for key in [*desired, *(key for key in actual if key not in desired)]:
            below = f"{path}.{key}" if path else str(key)
            yield from differences(actual.get(key, NOTHING), desired.get(key, NOTHING), below)
    elif type(actual) is not type(desired) or actual != desired:
        if isinstance(actual, int | float) and isinstance(desired, int | float) and actual == desired:
            return  # 1 and 1.0 are the same number in JSON
        yield Difference(path, actual, desired)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
