"""The rules that classify a user agent: our own patterns, and those that two well-kept projects maintain.

ua-parser (Apache 2.0) supplies uap-core's rules for device, system and browser; crawler-user-agents and crawlerdetect
(both MIT) supply patterns of bots. What none of them covers (the type of a device, bots they do not list, people they
take for bots) is in a TOML file like the shipped app/rules/devices.toml. docs/devices.md says why we chose these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self, get_args

from crawlerdetect.providers import crawlers as crawlerdetect
from crawleruseragents import CRAWLER_USER_AGENTS_DATA
from pydantic import Field, model_validator

from app.rules.toml_file import (
    Pattern,
    RuleModel,
    Tables,
    Text,
    TomlFile,
    digest_of,
    mistake,
    valid_patterns,
    wrong_pattern,
)
from app.settings import SHIPPED_DEVICES

DeviceType = Literal["desktop", "mobile", "tablet", "tv", "bot", "other"]
DEVICE_TYPES: tuple[DeviceType, ...] = get_args(DeviceType)
_PERSON = ""
# Distributions whose releases change what a user agent means.
_LOOKAROUNDS = ("(?=", "(?!", "(?<=", "(?<!")  # which Polars has not: spares trying a thousand patterns one by one
_MAINTAINED = ("ua-parser", "ua-parser-builtins", "crawler-user-agents", "crawlerdetect")
# Some of crawlerdetect's patterns are words such as "reader" and "http", which players and apps contain, too.
_NOT_FOR_CRAWLERDETECT = (
    r"(?i)android|\bios\b|vlc|player|podcast|reader|mosaic|libwww|lynx|okhttp|dart:io|screen-|^microsoft office"
)


@dataclass(frozen=True)
class DeviceRule:
    """A type of device and the patterns that must all match `read`, the user agent, or `device`, maker and model."""

    type: str
    patterns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class BotRule:
    """A pattern of machines and the reason it gives, empty for one of people; not where `unless` matches.

    `only_unknown`: it applies only where uap-core knows neither the device nor the system.
    """

    reason: str
    pattern: str
    unless: str = ""
    only_unknown: bool = False


@dataclass(frozen=True)
class DeviceRules:
    """Patterns in the order in which they are tried; `digest` changes when they may classify a user agent differently.

    `systems`, `browsers` and `brands` map uap-core's names to
    ours.
    """

    bots: tuple[BotRule, ...]
    devices: tuple[DeviceRule, ...]
    systems: tuple[tuple[str, str], ...]
    browsers: tuple[tuple[str, str], ...]
    brands: tuple[tuple[str, str], ...]

    @cached_property
    def digest(self) -> str:
        releases = [f"{name} {version(name)}" for name in _MAINTAINED]
        return digest_of((self, releases))

    def before(self, other: "DeviceRules") -> "DeviceRules":
        """These rules, then the others; of two names for one system, browser or brand the first counts."""
        return DeviceRules(
            self.bots + other.bots,
            self.devices + other.devices,
            *(
                tuple((dict(theirs) | dict(ours)).items())
                for ours, theirs in (
                    (self.systems, other.systems),
                    (self.browsers, other.browsers),
                    (self.brands, other.brands),
                )
            ),
        )


class _Person(RuleModel):
    pattern: Pattern
    unless: Pattern = ""


class _Bot(RuleModel):
    reason: Text
    pattern: Pattern
    unless: Pattern = ""
    only_unknown: bool = False


class _Device(RuleModel):
    type: DeviceType
    pattern: Pattern = ""  # of user agents
    device: Pattern = ""  # of maker and model

    @model_validator(mode="after")
    def _require_a_pattern(self) -> Self:
        if not (self.pattern or self.device):
            raise mistake("missing: a [[device]] has a pattern of user agents, of a device, or both", "pattern")
        return self


class _DevicesFile(RuleModel):
    extends: bool = False
    person: Tables[_Person] = ()
    bot: Tables[_Bot] = ()
    device: Tables[_Device] = ()
    os: dict[str, str] = Field(default_factory=dict)
    browser: dict[str, str] = Field(default_factory=dict)
    brand: dict[str, str] = Field(default_factory=dict)


def load_device_rules(path: Path) -> DeviceRules:
    """The rules in a TOML file, then the maintained patterns of bots; SettingsError names file, line and key."""
    tables = TomlFile.read(path, setting="CARAT_DEVICES").parse(_DevicesFile)
    people = tuple(BotRule(_PERSON, person.pattern, person.unless) for person in tables.person)
    bots = tuple(BotRule(bot.reason, bot.pattern, bot.unless, bot.only_unknown) for bot in tables.bot)
    rules = DeviceRules(
        people + bots,
        tuple(_device_rule(device) for device in tables.device),
        tuple(tables.os.items()),
        tuple(tables.browser.items()),
        tuple(tables.brand.items()),
    )
    if tables.extends:
        return rules.before(load_device_rules(SHIPPED_DEVICES))
    return replace(rules, bots=rules.bots + crawler_patterns())


def _device_rule(device: _Device) -> DeviceRule:
    patterns = {"read": device.pattern, "device": device.device}
    return DeviceRule(device.type, tuple((column, pattern) for column, pattern in patterns.items() if pattern))


@cache
def crawler_patterns() -> tuple[BotRule, ...]:
    """One rule for each kind of bot of crawler-user-agents, then one for all of crawlerdetect."""
    kinds: dict[str, list[str]] = {}
    for crawler in CRAWLER_USER_AGENTS_DATA:
        kind = next(iter(crawler.get("tags", ())), "crawler").replace("-", " ")
        kinds.setdefault(kind, []).append(f"(?:{crawler['pattern']})")
    listed = (BotRule(kind, joined_patterns(patterns)) for kind, patterns in sorted(kinds.items()))
    words = joined_patterns([f"(?i:{pattern})" for pattern in crawlerdetect.data])
    return (*listed, BotRule("crawler", words, unless=_NOT_FOR_CRAWLERDETECT, only_unknown=True))


def joined_patterns(patterns: Sequence[str]) -> str:
    """One pattern for any of these, without those that Polars cannot read: a release may bring one."""
    readable = [pattern for pattern in patterns if not any(sign in pattern for sign in _LOOKAROUNDS)]
    joined = "|".join(readable)
    if wrong_pattern(joined):
        return "|".join(valid_patterns(readable))
    return joined
