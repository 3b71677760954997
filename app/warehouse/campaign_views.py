"""Campaigns beside the sessions they brought.

A session's campaign is found by its utm_id, then by the name in utm_campaign, then by the shop's aliases, each among
the campaigns of its platform. A name that several campaigns have means the one that cost something that day, else none.
Where a session says no campaign, only its platform is known. No cost is divided below the level at which it is known.
"""

from collections.abc import Sequence

from app.core.sql import quote
from app.rules.campaign_aliases import CampaignAliases
from app.warehouse.views import View

PAID_MEDIUM = "^(.*cp[acmv].*|ppc|.*paid.*|retargeting|remarketing|display|banner|affiliates?|sponsored|ads?)$"


def campaign_views(aliases: CampaignAliases) -> tuple[View, ...]:
    """Paid sessions with their campaigns, and campaigns with their costs and sessions."""
    return (
        View(
            "dwh.campaign_sessions",
            "Paid sessions by day, platform and what their links say of the campaign, with the campaign of dwh.spend "
            "that is meant. Without bots.",
            _of_sessions(aliases),
            _OF_SESSIONS,
        ),
        View(
            "dwh.campaigns",
            "One row per day, platform and campaign: its cost beside the sessions that it brought. Costs without "
            "sessions and sessions without costs have rows, too; a cost that is not known is null.",
            _campaigns(),
            _OF_CAMPAIGNS,
        ),
    )


def name_key(name: str) -> str:
    """A name as it is compared: case and blanks do not count."""
    return f"replaceRegexpAll(lowerUTF8({name}), '\\\\s+', '')"


def text_array(texts: Sequence[str]) -> str:
    return f"CAST([{', '.join(map(quote, texts))}] AS Array(String))"


def platform_of(source: str, aliases: CampaignAliases) -> str:
    """The platform of a source: the one that is known to be called so, or one that has costs under this very name."""
    sources, platforms = zip(*aliases.sources, strict=True)
    known = f"transform(lower({source}), {text_array(sources)}, {text_array(platforms)}, '')"
    has_costs = f"lower({source}) IN (SELECT platform FROM etl.spend_readings)"
    return f"multiIf(({known} AS known_platform) != '', known_platform, {has_costs}, lower({source}), '')"


def _alias_of(text: str, aliases: CampaignAliases) -> str:
    """What a shop's alias calls a campaign; empty where there is none."""
    if not aliases.aliases:
        return "''"
    said = [f"{alias.platform} {_plain_name(alias.utm_campaign)}" for alias in aliases.aliases]
    return (
        f"transform(concat(platform, ' ', {name_key(text)}), {text_array(said)}, "
        f"{text_array([alias.campaign for alias in aliases.aliases])}, '')"
    )


def _plain_name(name: str) -> str:
    return "".join(name.lower().split())


def _known() -> str:
    """`platform, kind, day, known_key` and the campaign that it means, with how many it may mean."""
    named = ", ".join(
        f"argMax({column}, spend_date) AS {name}"
        for column, name in (("account", "known_account"), ("campaign_id", "known_id"), ("campaign", "known_name"))
    )
    identity = "uniqExact(if(campaign_id = '', concat(account, ' ', campaign), campaign_id)) AS meanings"
    return f"""SELECT platform, 'id' AS kind, toDate(0) AS day, campaign_id AS known_key, {named}, 1 AS meanings
        FROM dwh.spend WHERE campaign_id != '' GROUP BY platform, campaign_id
        UNION ALL
        SELECT platform, 'name', toDate(0), {name_key("campaign")} AS name_key, {named}, {identity}
        FROM dwh.spend WHERE campaign != '' GROUP BY platform, name_key
        UNION ALL
        SELECT platform, 'name', spend_date AS of_day, {name_key("campaign")} AS name_key, {named}, {identity}
        FROM dwh.spend WHERE campaign != '' AND (amount_original != 0 OR clicks > 0)
        GROUP BY platform, of_day, name_key"""


def _of_sessions(aliases: CampaignAliases) -> str:
    """One row per day, platform and what sessions say of their campaign, with the campaign that it means."""
    by_id, by_name = _alias_of("utm_id", aliases), _alias_of("utm_campaign", aliases)
    alias = f"if({by_id} != '', {by_id}, {by_name})"
    probes = ", ".join(
        f"({kind}, {day}, {key}, {rank})"
        for rank, (kind, day, key) in enumerate(
            (
                ("'id'", "toDate(0)", "trimBoth(utm_id)"),
                ("'id'", "toDate(0)", "trimBoth(utm_campaign)"),
                ("'name'", "day", name_key("utm_campaign")),
                ("'name'", "toDate(0)", name_key("utm_campaign")),
                ("'id'", "toDate(0)", "alias"),
                ("'name'", "day", name_key("alias")),
                ("'name'", "toDate(0)", name_key("alias")),
                ("''", "toDate(0)", "' '"),  # of sessions that say nothing
            ),
            start=1,
        )
    )
    return f"""SELECT day, platform, utm_id, utm_campaign,
    found.1 AS account, found.2 AS campaign_id, found.3 AS campaign,
    multiIf(rank = 0 AND utm_id = '' AND utm_campaign = '', 'platform', rank = 0, 'none', rank <= 2, 'id', rank <= 4,
        'name', 'alias') AS matched_by,
    rank = 0 AND meant > 1 AS is_ambiguous, sessions, orders, revenue
FROM (
SELECT day, platform, utm_id, utm_campaign, any(came) AS sessions, any(bought) AS orders, any(earned) AS revenue,
    any(is_from_ad) AS is_paid, minIf(probe.4, meanings = 1) AS rank, max(meanings) AS meant,
    argMinIf((known_account, known_id, known_name), probe.4, meanings = 1) AS found
FROM (
    SELECT *, {alias} AS alias, arrayJoin(arrayFilter(probe -> probe.3 != '', [{probes}])) AS probe
    FROM (
        SELECT session_date AS day, {platform_of("source", aliases)} AS platform, utm_id,
            toString(utm_campaign) AS utm_campaign,
            count() AS came, sum(orders) AS bought, sum(revenue) AS earned,
            max(match(lower(medium), {quote(PAID_MEDIUM)}) OR utm_id != '') AS is_from_ad
        FROM dwh.sessions WHERE NOT is_bot AND source NOT IN ('(direct)', '')
        GROUP BY day, platform, utm_id, utm_campaign
    ) WHERE platform != ''
) AS said LEFT JOIN ({_known()}) AS known
ON said.platform = known.platform AND said.probe.1 = known.kind AND said.probe.2 = known.day
    AND said.probe.3 = known.known_key
GROUP BY day, platform, utm_id, utm_campaign
) WHERE is_paid OR rank > 0"""


def _campaigns() -> str:
    return f"""SELECT day, platform, account, any(id) AS campaign_id, argMax(name, (is_cost, name)) AS campaign,
    arrayStringConcat(arraySort(groupUniqArrayIf(how, how != '')), ', ') AS matched_by,
    if(countIf(is_cost) = 0 OR countIf(is_cost AND cost IS NULL) > 0, NULL, sum(cost)) AS spend,
    sum(cost_clicks) AS clicks, sum(cost_impressions) AS impressions, sum(claimed) AS platform_conversions,
    sum(claimed_value) AS platform_value, max(spread) AS is_spread,
    if(day BETWEEN (SELECT min(session_date) FROM dwh.sessions) AND (SELECT max(session_date) FROM dwh.sessions),
        sum(brought), NULL) AS sessions,
    if(sessions IS NULL, NULL, sum(bought)) AS orders, if(sessions IS NULL, NULL, sum(earned)) AS revenue
FROM (
    SELECT spend_date AS day, platform, account, campaign_id AS id, campaign AS name, '' AS how, true AS is_cost,
        amount AS cost, clicks AS cost_clicks, impressions AS cost_impressions, platform_conversions AS claimed,
        platform_value AS claimed_value, is_spread AS spread, toUInt64(0) AS brought, toUInt64(0) AS bought,
        toDecimal128(0, 2) AS earned
    FROM dwh.spend
    UNION ALL
    SELECT day, platform, account, if(matched_by = 'none', utm_id, campaign_id),
        if(matched_by = 'none', utm_campaign, campaign), matched_by, false, NULL, NULL, NULL, NULL, NULL, false,
        sessions, orders, toDecimal128(revenue, 2)
    FROM dwh.campaign_sessions
)
GROUP BY day, platform, account, if(id != '', id, {name_key("name")})"""


_OF_SESSIONS = {
    "day": "business day of the sessions",
    "platform": "the platform, by the source of the sessions",
    "utm_id": "what the links say",
    "utm_campaign": "what the links say",
    "account": "advertising account of the campaign; empty if none is meant",
    "campaign_id": "the platform's id of the campaign that is meant; empty if none is",
    "campaign": "name of the campaign that is meant",
    "matched_by": "id, name or alias; platform where the links name no campaign, none where they name an unknown one",
    "is_ambiguous": "whether several campaigns have this name, so that none is meant",
    "sessions": "sessions",
    "orders": "their orders",
    "revenue": "their revenue",
}
_OF_CAMPAIGNS = {
    "day": "business day of the sessions, and day of the platform of the costs",
    "platform": "the platform, as in dwh.spend",
    "account": "advertising account; empty where only sessions are known",
    "campaign_id": "the platform's id; of sessions that match no campaign, their utm_id",
    "campaign": "name of the campaign; of sessions that match none, their utm_campaign; empty where only the "
    "platform is known",
    "matched_by": "how its sessions were found: id, name or alias; platform where they name no campaign, none where "
    "they name one that has no costs; empty without sessions",
    "spend": "cost in the warehouse's currency; null where it is not known",
    "clicks": "clicks as the platform counts them; null where they are not known",
    "impressions": "impressions as the platform counts them",
    "platform_conversions": "conversions that the platform claims",
    "platform_value": "value of these",
    "is_spread": "whether a part of the cost is an even part of several days",
    "sessions": "sessions of people that came by it; null on days without any sessions known",
    "orders": "orders of these sessions",
    "revenue": "revenue of these sessions",
}
