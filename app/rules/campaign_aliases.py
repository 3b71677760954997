"""What a shop says of its campaigns: how sessions call them, and which platform a source is; from a TOML file.

[[source]]                      # utm_source=adw is Google Ads
utm_source = "adw"
platform = "google"

[[alias]]                       # of Google Ads alone
platform = "google"
utm_campaign = "brand-de"       # what utm_campaign or utm_id say
campaign = "Brand | Germany"    # the campaign's id or name at the platform
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from app.rules.ad_platform import shipped_platforms
from app.rules.toml_file import LowerText, RuleModel, Tables, Text, TomlFile


class CampaignAlias(RuleModel):
    """Another name of a campaign, on one platform."""

    platform: LowerText = Field(description="the platform whose campaign it is, such as google")
    utm_campaign: Text = Field(description="what utm_campaign or utm_id say in links")
    campaign: Text = Field(description="the campaign's id or name at the platform")


class PlatformSource(RuleModel):
    """A source of sessions that is a platform's."""

    utm_source: LowerText = Field(description="what utm_source says in links")
    platform: LowerText = Field(description="the platform, such as google")


class _AliasFile(RuleModel):
    alias: Tables[CampaignAlias] = ()
    source: Tables[PlatformSource] = ()


@dataclass(frozen=True)
class CampaignAliases:
    """Aliases of campaigns, and each source with its platform: the shop's own, then those that are shipped."""

    aliases: tuple[CampaignAlias, ...]
    sources: tuple[tuple[str, str], ...]


def load_campaign_aliases(path: Path | None) -> CampaignAliases:
    """The aliases in a shop's file, and the shipped sources; SettingsError names file, line and key of a mistake."""
    own = _AliasFile()
    if path is not None:
        file = TomlFile.read(path, setting="CARAT_CAMPAIGNS")
        own = file.parse(_AliasFile)
        seen: dict[tuple[str, str], int] = {}
        for number, alias in enumerate(own.alias):
            key = (alias.platform, alias.utm_campaign.casefold())
            if key in seen:
                raise file.error(
                    ("alias", number, "utm_campaign"),
                    f"{alias.utm_campaign!r} of {alias.platform} has an alias already",
                )
            seen[key] = number
    shipped = [(source, platform.name) for platform in shipped_platforms() for source in platform.file.sources]
    named = {source.utm_source: source.platform for source in own.source}
    return CampaignAliases(own.alias, tuple((dict(shipped) | named).items()))
