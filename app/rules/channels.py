"""The rules that assign a session to a channel, read from TOML and checked.

The shipped app/rules/channels.toml explains the format; a shop's own file comes before it or replaces it.
"""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Self

from publicsuffixlist import PublicSuffixList
from pydantic import AfterValidator, Field, GetPydanticSchema, WrapValidator, create_model, model_validator

from app.core.errors import SettingsError
from app.rules.toml_file import (
    LowerText,
    LowerTextOrTexts,
    LowerTexts,
    Pattern,
    RuleModel,
    Tables,
    Text,
    Texts,
    TomlFile,
    digest_of,
    mistake,
)
from app.settings import HOST, SHIPPED_CHANNELS

# The fields of a session's arrival that a channel's conditions can test.
ASKED = ("source", "medium", "campaign", "term", "content", "host", "click_id", "category")
_CATEGORY_PREFIX = "SOURCE_CATEGORY_"


class ClickId(RuleModel):
    """A parameter of an advertiser's link, and the source and medium that it stands for.

    `yields_to_tags`: it counts only where there is neither utm_source nor utm_medium. `prefers_referrer`: the source is
    the referring site, if it is a known one. `identifies_click`: its value goes into `click_id`.
    """

    parameter: LowerText
    source: LowerText
    medium: LowerText
    yields_to_tags: bool = False
    prefers_referrer: bool = False
    identifies_click: bool = True


@dataclass(frozen=True)
class Site:
    """A site that sends visitors, recognized by the pattern of its host or by its aliases in utm_source.

    The source is its name or, if that is empty, its host. `yields_to_lists`: a host below its domains that a list of
    sources puts in another category, as blog.naver.com below naver.com, is not the site's.
    """

    name: str
    category: str
    medium: str
    host_pattern: str
    aliases: tuple[str, ...]
    domains: tuple[str, ...] = ()
    yields_to_lists: bool = False


@dataclass(frozen=True)
class Condition:
    """A condition of an arrival: every field has one of its values, or matches its pattern."""

    values: tuple[tuple[str, tuple[str, ...]], ...]
    patterns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Channel:
    """A channel; it applies to an arrival that meets any of its conditions."""

    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class ChannelRules:
    """Channels, click ids and sites in the order in which they are tried; `digest` changes when their meaning does.

    `categories`: source and its category. `own_hosts` and `payment_hosts`: visits from these hosts and their
    subdomains are not referrals. `payment_patterns`: nor are those from hosts of these patterns.
    """

    channels: tuple[Channel, ...]
    click_ids: tuple[ClickId, ...]
    sites: tuple[Site, ...]
    categories: tuple[tuple[str, str], ...]
    own_hosts: tuple[str, ...]
    payment_hosts: tuple[str, ...]
    payment_patterns: tuple[str, ...]
    search_parameters: tuple[str, ...]

    @property
    def digest(self) -> str:
        return digest_of((self, f"publicsuffixlist {version('publicsuffixlist')}"))

    @property
    def unreferring(self) -> str:
        """The pattern of hosts from which visits are not referrals; empty for none."""
        return any_pattern((host_pattern((*self.own_hosts, *self.payment_hosts)), *self.payment_patterns))

    @property
    def asked(self) -> tuple[str, ...]:
        """The fields of an arrival that the conditions test."""
        conditions = [condition for channel in self.channels for condition in channel.conditions]
        named = {field for c in conditions for field, _ in (*c.values, *c.patterns)}
        return tuple(field for field in ASKED if field in named)

    def before(self, other: "ChannelRules") -> "ChannelRules":
        """These rules, then the others."""
        both = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return ChannelRules(**both)


def _require_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for number, host in enumerate(hosts):
        if not HOST.fullmatch(host.strip(".")):
            raise mistake(f"{host!r} is not a host name such as shop.example", number)
    return hosts


Hosts = Annotated[LowerTexts, AfterValidator(_require_hosts)]


class _SiteTable(RuleModel):
    category: LowerText
    name: LowerText = ""
    medium: LowerText = "referral"
    domains: LowerTextOrTexts = ()
    pattern: Pattern = ""
    aliases: LowerTextOrTexts = ()

    @model_validator(mode="after")
    def _require_a_way_to_recognize_it(self) -> Self:
        if not (self.domains or self.pattern or self.aliases):
            raise mistake("missing: a [[site]] has domains, a pattern or aliases", "domains")
        return self


_FIELDS: dict[str, Any] = dict.fromkeys(ASKED, (LowerTextOrTexts, ()))
_FIELDS |= {f"{field}_matches": (Pattern, "") for field in ASKED}
_ConditionTable = create_model("_ConditionTable", __base__=RuleModel, **_FIELDS)


def _condition(content: Any, validate: Callable[[Any], RuleModel]) -> Condition:
    table = validate(content)
    if not content:
        raise mistake(f"must name at least one of {', '.join(ASKED)}")
    given = [(key, getattr(table, key)) for key in content]  # in the order of the file, on which the digest depends
    return Condition(
        tuple((key, values) for key, values in given if key in ASKED),
        tuple((key.removesuffix("_matches"), pattern) for key, pattern in given if key not in ASKED),
    )


_TableAsCondition = GetPydanticSchema(
    lambda _, schema_of: schema_of(Annotated[_ConditionTable, WrapValidator(_condition)])
)


class _ChannelTable(RuleModel):
    name: Text
    when: Tables[Annotated[Condition, _TableAsCondition]] = Field(
        min_length=1, description="[[channel.when]] tables that say where it applies"
    )


class _ChannelsFile(RuleModel):
    extends: bool = False
    categories: Texts = ()
    own_hosts: Hosts = ()
    payment_hosts: Hosts = ()
    payment_pattern: Pattern = ""
    search_parameters: LowerTexts = ()
    click_id: Tables[ClickId] = ()
    site: Tables[_SiteTable] = ()
    channel: Tables[_ChannelTable] = ()


def load_channel_rules(path: Path, *, own_hosts: Sequence[str] = ()) -> ChannelRules:
    """The rules in a TOML file, with more of the shop's own hosts; SettingsError names file, line and key."""
    file = TomlFile.read(path, setting="CARAT_CHANNELS")
    tables = file.parse(_ChannelsFile)
    rules = ChannelRules(
        tuple(Channel(channel.name, channel.when) for channel in tables.channel),
        tables.click_id,
        tuple(_site(table, yields_to_lists=bool(tables.categories)) for table in tables.site),
        tuple(pair for name in tables.categories for pair in _categories(path.parent / name)),
        tables.own_hosts,
        tables.payment_hosts,
        (tables.payment_pattern,) if tables.payment_pattern else (),
        tables.search_parameters,
    )
    if tables.extends:
        rules = rules.before(load_channel_rules(SHIPPED_CHANNELS))
    if not rules.channels:
        raise file.error((), "has no [[channel]] table; `extends = true` adds the shipped ones")
    return replace(rules, own_hosts=(*rules.own_hosts, *own_hosts))


def _site(table: _SiteTable, *, yields_to_lists: bool) -> Site:
    pattern = any_pattern((host_pattern(table.domains), table.pattern))
    return Site(
        table.name, table.category, table.medium, pattern, table.aliases, table.domains, yields_to_lists=yields_to_lists
    )


def any_pattern(patterns: Iterable[str]) -> str:
    """The pattern of what any of these that is not empty matches; empty for none."""
    return "|".join(f"(?:{pattern})" for pattern in patterns if pattern)


def host_pattern(domains: Iterable[str]) -> str:
    """The pattern of these domains and all below them; empty for none."""
    names = "|".join(re.escape(domain.strip(".")) for domain in domains)
    return rf"(?:^|\.)(?:{names})$" if names else ""


def registrable_site(host: str) -> str:
    """The domain that somebody registered, or was given by a platform, with all hosts below it.

    That of m.shop.co.uk is shop.co.uk, that of shop.myshopify.com is itself. The host itself, where there is none.
    """
    if not host or host.rpartition(".")[2].isdigit():  # an address
        return host
    return _public_suffixes().privatesuffix(host) or host


@cache
def _public_suffixes() -> PublicSuffixList:
    return PublicSuffixList()


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
