"""The rules by which a session's channel is told, read from TOML and checked with file, line and key.

app/rules/channels.toml, which is shipped, explains the format; a shop's own file comes before it or replaces it.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from app.core.errors import SettingsError
from app.rules.rule_file import RuleFile, RuleTable
from app.settings import HOST, SHIPPED_CHANNELS

# What of a session's arrival a channel can ask for.
ASKED = ("source", "medium", "campaign", "term", "content", "host", "click_id", "category")
_KEYS = (
    "extends", "categories", "own_hosts", "payment_hosts", "search_parameters", "click_id", "site", "channel"
)  # fmt: skip
_CATEGORY_PREFIX = "SOURCE_CATEGORY_"


@dataclass(frozen=True)
class ClickId:
    """A parameter of an advertiser's link, and the source and medium that it tells.

    `yields_to_tags`: only where no utm_source and no utm_medium says otherwise. `prefers_referrer`: the source is the
    site that the referrer names, if it is known.
    """

    parameter: str
    source: str
    medium: str
    yields_to_tags: bool = False
    prefers_referrer: bool = False


@dataclass(frozen=True)
class Site:
    """A site that sends people here: by the pattern of its host, or by what utm_source calls it.

    Without a name its host is the source.
    """

    name: str
    category: str
    medium: str
    host_pattern: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Condition:
    """What must hold of an arrival, all of it: per field its values, or a pattern of them."""

    values: tuple[tuple[str, tuple[str, ...]], ...]
    patterns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Channel:
    """A channel, and the conditions of which one is enough."""

    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class ChannelRules:
    """Channels, click ids and sites in the order in which they are tried; `digest` changes when their meaning does.

    `categories`: sources by what they are. `own_hosts` and `payment_hosts`: whoever comes from there, or from a host
    below, comes from nowhere.
    """

    channels: tuple[Channel, ...]
    click_ids: tuple[ClickId, ...]
    sites: tuple[Site, ...]
    categories: tuple[tuple[str, str], ...]
    own_hosts: tuple[str, ...]
    payment_hosts: tuple[str, ...]
    search_parameters: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def asked(self) -> tuple[str, ...]:
        """The fields of an arrival by which channels are told."""
        conditions = [condition for channel in self.channels for condition in channel.conditions]
        named = {field for c in conditions for field, _ in (*c.values, *c.patterns)}
        return tuple(field for field in ASKED if field in named)

    def before(self, other: "ChannelRules") -> "ChannelRules":
        """These rules, then the others."""
        both = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return ChannelRules(**both)


def load_channel_rules(path: Path, *, own_hosts: Sequence[str] = ()) -> ChannelRules:
    """The rules in a TOML file, with more hosts of the shop's own; SettingsError names file, line and key."""
    file = RuleFile.read(path, setting="CARAT_CHANNELS")
    rules = parse_channel_rules(file, folder=path.parent)
    extends = file.content.get("extends", False)
    if not isinstance(extends, bool):
        raise file.error("", 0, "extends", "must be true or false")
    if extends:
        rules = rules.before(load_channel_rules(SHIPPED_CHANNELS))
    if not rules.channels:
        raise SettingsError(f"{path}: no [[channel]] table; `extends = true` adds those that are shipped")
    return replace(rules, own_hosts=(*rules.own_hosts, *own_hosts))


def parse_channel_rules(file: RuleFile, *, folder: Path) -> ChannelRules:
    """The rules of a file; those of the files that it names lie in the folder."""
    file.require_keys(_KEYS)
    return ChannelRules(
        tuple(_channel(table) for table in file.tables("channel", ("name", "when"))),
        tuple(_click_id(table) for table in file.tables("click_id", (field.name for field in fields(ClickId)))),
        tuple(_site(t) for t in file.tables("site", ("name", "category", "medium", "domains", "pattern", "aliases"))),
        tuple(pair for name in file.texts("categories") for pair in _categories(folder / name)),
        _hosts(file, "own_hosts"),
        _hosts(file, "payment_hosts"),
        file.texts("search_parameters"),
    )


def _hosts(file: RuleFile, key: str) -> tuple[str, ...]:
    hosts = file.texts(key)
    for host in hosts:
        if not HOST.fullmatch(host.strip(".")):
            raise file.error("", 0, key, f"{host!r} is no host such as shop.example")
    return hosts


def _click_id(table: RuleTable) -> ClickId:
    return ClickId(
        table.text("parameter").lower(),
        table.text("source").lower(),
        table.text("medium").lower(),
        table.flag("yields_to_tags"),
        table.flag("prefers_referrer"),
    )


def _site(table: RuleTable) -> Site:
    domains, pattern = table.texts("domains"), table.pattern("pattern")
    if not domains and not pattern and not table.texts("aliases"):
        raise table.error("domains", "missing: a [[site]] has domains, a pattern or aliases")
    patterns = [text for text in (host_pattern(domains), pattern) if text]
    return Site(
        table.text("name", default="").lower(),
        table.text("category").lower(),
        table.text("medium", default="referral").lower(),
        "|".join(f"(?:{text})" for text in patterns),
        table.texts("aliases"),
    )


def _channel(table: RuleTable) -> Channel:
    conditions = table.content.get("when")
    if not isinstance(conditions, list) or not conditions or not all(isinstance(c, dict) and c for c in conditions):
        raise table.error("when", "missing: a [[channel]] has [[channel.when]] tables that say where it applies")
    return Channel(table.text("name"), tuple(_condition(table.part(content)) for content in conditions))


def _condition(table: RuleTable) -> Condition:
    values, patterns = [], []
    for key in table.content:
        field, is_pattern = key.removesuffix("_matches"), key.endswith("_matches")
        if field not in ASKED:
            raise table.error(key, f"unknown; a channel asks for {', '.join(ASKED)}, or one of them with _matches")
        if is_pattern:
            patterns.append((field, table.pattern(key)))
        else:
            values.append((field, table.texts(key)))
    return Condition(tuple(values), tuple(patterns))


def host_pattern(domains: Iterable[str]) -> str:
    """The pattern of these domains and all below them; empty for none."""
    names = "|".join(re.escape(domain.strip(".")) for domain in domains)
    return rf"(?:^|\.)(?:{names})$" if names else ""


def _categories(path: Path) -> Iterable[tuple[str, str]]:
    """Source and category of a CSV file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"CARAT_CHANNELS: cannot read {path}: {error}") from None
    if not rows or rows[0] != ["source", "source_category"]:
        raise SettingsError(f"{path}, line 1: must be the header source,source_category")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]) or not all(row):
            raise SettingsError(f"{path}, line {number}: must be a source and its category")
        yield row[0].strip().lower(), row[1].removeprefix(_CATEGORY_PREFIX).lower()
