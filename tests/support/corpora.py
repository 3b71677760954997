"""Corpora that others maintain, beside the checkout, and how well Carat reads them."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from app.frames.devices import read_user_agents
from app.rules.devices import DeviceRules
from tests.support.device_classes import class_of, is_browser


@dataclass
class Reading:
    """How many cases there were, how many were read right, and the others: user agent, expected, read."""

    cases: int = 0
    right: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.right / self.cases

    def count(self, user_agent: str, expected: str, read: str) -> None:
        self.cases += 1
        self.right += expected == read
        if expected != read:
            self.wrong.append((user_agent, expected, read))

    def __str__(self) -> str:
        kinds = ", ".join(f"{n:,} {e} as {r}" for (e, r), n in Counter((e, r) for _, e, r in self.wrong).most_common(5))
        return f"{self.share:.2%} of {self.cases:,}{f' ({kinds})' if kinds else ''}"


def uap_cases(corpora: Path, name: str) -> list[dict[str, Any]]:
    """The cases of one of uap-core's tests: device, ua or os."""
    text = (corpora / "uap-core" / "tests" / f"test_{name}.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    cases: list[dict[str, Any]] = yaml.load(text, Loader=loader)["test_cases"]
    return cases


def crawlers(corpora: Path) -> list[str]:
    """The user agents that crawler-user-agents gives as instances."""
    entries = json.loads((corpora / "crawler-user-agents" / "crawler-user-agents.json").read_text(encoding="utf-8"))
    return [instance for entry in entries for instance in entry.get("instances", ())]


def read_devices(corpora: Path, rules: DeviceRules) -> Reading:
    """The class of every device of uap-core's tests that has one."""
    cases = uap_cases(corpora, "device")
    expected = {c["user_agent_string"]: class_of(c["family"], c["brand"], c["model"]) for c in cases}
    return _read({agent: kind for agent, kind in expected.items() if kind}, rules)


def read_crawlers(corpora: Path, rules: DeviceRules) -> Reading:
    return _read(dict.fromkeys(crawlers(corpora), "bot"), rules)


def read_browsers(corpora: Path, rules: DeviceRules) -> Reading:
    """That no browser of uap-core's tests is a machine's."""
    browsers = [case["user_agent_string"] for case in uap_cases(corpora, "ua") if is_browser(case["family"])]
    return _read(dict.fromkeys(browsers, "person"), rules)


def _read(expected: dict[str, str], rules: DeviceRules) -> Reading:
    read = dict(read_user_agents(pl.Series(list(expected)), rules).select("user_agent", "device_type").iter_rows())
    reading = Reading()
    for agent, kind in expected.items():
        found = read[agent]
        reading.count(agent, kind, "person" if kind == "person" and found != "bot" else found)
    return reading
