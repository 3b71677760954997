"""The rules by which a user agent is read: patterns of our own, and those that two well-kept projects maintain.

ua-parser (Apache 2.0) brings the rules of uap-core for device, system and browser, crawler-user-agents (MIT) patterns
of machines. What these do not say (the class of a device, machines they do not list, who is none although they say
so) is in a TOML file like the shipped app/rules/devices.toml. docs/devices.md says why these two.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from crawleruseragents import CRAWLER_USER_AGENTS_DATA

from app.rules.rule_file import RuleFile
from app.rules.toml_file import wrong_pattern

DEVICE_TYPES = ("desktop", "mobile", "tablet", "tv", "bot", "other")
# Distributions whose releases change what a user agent means.
_MAINTAINED = ("ua-parser", "ua-parser-builtins", "crawler-user-agents")


@dataclass(frozen=True)
class DeviceRule:
    """A type of device, and what must match: `read`, the user agent, or `device`, its maker and model as parsed."""

    type: str
    patterns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DeviceRules:
    """Patterns in the order in which they are tried; `digest` changes when what they say of a user agent may.

    `people`: never machines, whatever the other patterns say. `bots`: why it is one, and pattern. The names are what
    systems, browsers and brands of uap-core are called here.
    """

    people: tuple[str, ...]
    bots: tuple[tuple[str, str], ...]
    devices: tuple[DeviceRule, ...]
    systems: tuple[tuple[str, str], ...]
    browsers: tuple[tuple[str, str], ...]
    brands: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        releases = [f"{name} {version(name)}" for name in _MAINTAINED]
        return hashlib.sha256(repr((self, releases)).encode()).hexdigest()[:16]


def load_device_rules(path: Path) -> DeviceRules:
    """The rules in a TOML file; SettingsError names file, line and key of the first mistake."""
    return parse_device_rules(RuleFile.read(path, setting="CARAT_DEVICES"))


def parse_device_rules(file: RuleFile) -> DeviceRules:
    """The rules in a file, with the maintained patterns of machines after its own."""
    file.require_keys(("person", "bot", "device", "os", "browser", "brand"))
    devices = []
    for table in file.tables("device", ("type", "pattern", "device")):
        if (kind := table.text("type")) not in DEVICE_TYPES:
            raise table.error("type", f"{kind!r} is no type of device; choose from {', '.join(DEVICE_TYPES)}")
        patterns = {"read": table.pattern("pattern"), "device": table.pattern("device")}
        if not any(patterns.values()):
            raise table.error("pattern", "missing: a [[device]] has a pattern of user agents or of a device, or both")
        devices.append(DeviceRule(kind, tuple((column, pattern) for column, pattern in patterns.items() if pattern)))
    bots = []
    for table in file.tables("bot", ("reason", "pattern")):
        table.text("pattern")
        bots.append((table.text("reason"), table.pattern("pattern")))
    people = []
    for table in file.tables("person", ("pattern",)):
        table.text("pattern")
        people.append(table.pattern("pattern"))
    return DeviceRules(
        tuple(people),
        (*bots, *crawler_patterns()),
        tuple(devices),
        tuple(file.names("os").items()),
        tuple(file.names("browser").items()),
        tuple(file.names("brand").items()),
    )


@cache
def crawler_patterns() -> tuple[tuple[str, str], ...]:
    """The patterns of crawler-user-agents by what kind of machine they tell, each kind's as one."""
    kinds: dict[str, list[str]] = {}
    for crawler in CRAWLER_USER_AGENTS_DATA:
        kind = next(iter(crawler.get("tags", ())), "crawler").replace("-", " ")
        kinds.setdefault(kind, []).append(f"(?:{crawler['pattern']})")
    return tuple((kind, joined_patterns(patterns)) for kind, patterns in sorted(kinds.items()))


def joined_patterns(patterns: Sequence[str]) -> str:
    """One pattern for any of these; one that Polars does not understand, as a later release may bring, is left out."""
    joined = "|".join(patterns)
    if wrong_pattern(joined):
        return "|".join(pattern for pattern in patterns if not wrong_pattern(pattern))
    return joined
