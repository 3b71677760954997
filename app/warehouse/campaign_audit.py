"""What keeps advertising costs from meeting the sessions they brought, and how to fix it."""

from app.core.sql import quote
from app.rules.ad_platform import shipped_platforms
from app.rules.campaign_aliases import CampaignAliases
from app.warehouse.campaign_views import PAID_MEDIUM, name_key, platform_of, text_array
from app.warehouse.views import View

_AUDITED_DAYS = 90
_LIKELY = 0.85  # similarity of two names, of 1


def campaign_audit(aliases: CampaignAliases) -> View:
    """The view of all that does not match."""
    return View(
        "dwh.campaign_audit",
        f"What keeps costs of the last {_AUDITED_DAYS} days from meeting their sessions: the money at risk, and how to "
        "fix it.",
        _audit(aliases),
        _OF_AUDIT,
    )


def _audit(aliases: CampaignAliases) -> str:
    """The union of what each kind finds, over the last days for which there are sessions."""
    span = f"""WITH (SELECT max(session_date) FROM dwh.sessions) AS span_last,
    span_last - {_AUDITED_DAYS - 1} AS ninety_days,
    greatest((SELECT min(session_date) FROM dwh.sessions), ninety_days) AS span_first,
    spent AS (
        SELECT platform, account, campaign_id, any(campaign) AS campaign_name, {name_key("campaign")} AS name_key,
            min(spend_date) AS first_spent, max(spend_date) AS last_spent, sum(amount) AS spend
        FROM dwh.spend WHERE spend_date BETWEEN span_first AND span_last
        GROUP BY platform, account, campaign_id, name_key
    ),
    came AS (SELECT * FROM dwh.campaign_sessions WHERE day BETWEEN span_first AND span_last),
    tagged AS (SELECT platform, sum(sessions) AS tagged FROM came WHERE matched_by != 'platform' GROUP BY platform),
    linked AS (
        SELECT DISTINCT platform, account, if(campaign_id != '', campaign_id, {name_key("campaign")}) AS key
        FROM came WHERE matched_by IN ('id', 'name', 'alias')
    ),
    strays AS (
        SELECT platform, utm_campaign, any(utm_id) AS stray_id, sum(sessions) AS sessions, sum(orders) AS orders,
            sum(revenue) AS revenue, min(day) AS first_came, max(day) AS last_came, max(is_ambiguous) AS is_shared
        FROM came WHERE matched_by = 'none' GROUP BY platform, utm_campaign
    )"""
    kinds = (
        _no_tagged(),
        _not_linked(),
        _collisions(),
        _unknown_campaigns(),
        _unknown_sources(aliases),
        _not_converted(),
    )
    shown = ", ".join(f"out_{name} AS {name}" for name in _OF_AUDIT)
    return f"{span}\nSELECT {shown} FROM (\n" + "\nUNION ALL\n".join(kinds) + "\n)"


def _row(kind: str, **columns: str) -> str:
    """The columns of a row of the audit; those that are not given are empty."""
    defaults = {
        "platform": "''", "account": "''", "campaign_id": "''", "campaign": "''", "utm_campaign": "''",
        "first_day": "span_first", "last_day": "span_last", "money_at_risk": "NULL", "sessions": "0", "orders": "0",
        "revenue": "0",
    }  # fmt: skip
    types = {
        "first_day": "Date", "last_day": "Date", "money_at_risk": "Nullable(Decimal(38, 2))", "sessions": "UInt64",
        "orders": "UInt64", "revenue": "Decimal(38, 2)",
    }  # fmt: skip
    filled = defaults | columns
    shown = ", ".join(f"CAST({value} AS {types.get(name, 'String')}) AS out_{name}" for name, value in filled.items())
    return f"{quote(kind)} AS out_kind, {shown}"


def _tracking() -> str:
    """The SQL of the template that a platform's links need."""
    templates = [(p.name, p.file.tracking) for p in shipped_platforms() if p.file.tracking]
    names, texts = zip(*templates, strict=True)
    default = "'utm_source=NAME&utm_medium=cpc&utm_campaign=NAME&utm_id=CAMPAIGN_ID'"
    return f"transform(platform, {text_array(names)}, {text_array(texts)}, {default})"


def _no_tagged() -> str:
    row = _row(
        "no_tagged_sessions",
        platform="platform",
        account="account",
        first_day="min(first_spent)",
        last_day="max(last_spent)",
        money_at_risk="sum(spent.spend)",
        problem="concat('no session of ', platform, ' says which campaign brought it')",
        fix=f"concat('set as the tracking template or URL parameters: ', {_tracking()})",
    )
    return f"""SELECT {row} FROM spent WHERE platform NOT IN (SELECT platform FROM tagged)
    GROUP BY platform, account HAVING sum(spent.spend) > 0"""


def _not_linked() -> str:
    alias = (
        "concat('add to CARAT_CAMPAIGNS: [[alias]] platform = \"', platform, '\" utm_campaign = \"', likely, "
        "'\" campaign = \"', if(campaign_id != '', campaign_id, named), '\"')"
    )
    repair = (
        "concat('add to its links: utm_campaign=', encodeURLComponent(named), "
        "if(campaign_id != '', concat('&utm_id=', campaign_id), ''))"
    )
    row = _row(
        "not_linked",
        platform="platform",
        account="account",
        campaign_id="campaign_id",
        campaign="named",
        utm_campaign="likely",
        first_day="first_seen",
        last_day="last_seen",
        money_at_risk="cost",
        problem="'it has costs, and no session names it'",
        fix=f"if(likely != '', {alias}, {repair})",
    )
    similarity = f"jaroWinklerSimilarity({name_key('campaign_name')}, {name_key('strays.utm_campaign')})"
    return f"""SELECT {row} FROM (
        SELECT spent.platform AS platform, account, campaign_id, any(campaign_name) AS named,
            any(first_spent) AS first_seen,
            any(last_spent) AS last_seen, any(spent.spend) AS cost,
            argMaxIf(strays.utm_campaign, {similarity}, strays.utm_campaign != '' AND {similarity} >= {_LIKELY})
                AS likely
        FROM spent LEFT JOIN strays ON spent.platform = strays.platform
        WHERE spent.spend > 0 AND (campaign_id != '' OR name_key != '')
            AND spent.platform IN (SELECT platform FROM tagged)
            AND (spent.platform, account, if(campaign_id != '', campaign_id, name_key))
                NOT IN (SELECT platform, account, key FROM linked)
        GROUP BY spent.platform, account, campaign_id, name_key
    )"""


def _collisions() -> str:
    row = _row(
        "name_collision",
        platform="platform",
        campaign="any(campaign_name)",
        campaign_id="arrayStringConcat(arraySort(groupUniqArray(campaign_id)), ', ')",
        utm_campaign="any(strays.utm_campaign)",
        first_day="min(first_spent)",
        last_day="max(last_spent)",
        money_at_risk="sum(spent.spend)",
        sessions="any(strays.sessions)",
        orders="any(strays.orders)",
        revenue="any(strays.revenue)",
        problem="'several campaigns have this name, and sessions say only the name'",
        fix=f"concat('tell them apart by their ids: ', {_tracking()})",
    )
    return f"""SELECT {row} FROM spent INNER JOIN strays
    ON spent.platform = strays.platform AND spent.name_key = {name_key("strays.utm_campaign")}
    WHERE strays.is_shared AND spent.name_key != '' GROUP BY spent.platform AS platform, spent.name_key"""


def _unknown_campaigns() -> str:
    row = _row(
        "unknown_campaign",
        platform="platform",
        campaign_id="stray_id",
        utm_campaign="utm_campaign",
        first_day="first_came",
        last_day="last_came",
        sessions="sessions",
        orders="orders",
        revenue="revenue",
        problem="'sessions name a campaign that has no costs'",
        fix="'read its costs with carat spend, or give it an alias in CARAT_CAMPAIGNS'",
    )
    return f"SELECT {row} FROM strays WHERE NOT is_shared"


def _unknown_sources(aliases: CampaignAliases) -> str:
    row = _row(
        "unknown_source",
        platform="''",
        utm_campaign="arrayStringConcat(arraySlice(arraySort(groupUniqArray(toString(utm_campaign))), 1, 5), ', ')",
        first_day="min(session_date)",
        last_day="max(session_date)",
        sessions="count()",
        orders="sum(dwh.sessions.orders)",
        revenue="sum(dwh.sessions.revenue)",
        problem="concat('paid sessions come from ', utm_source, ', which is not a known platform')",
        fix="concat('add to CARAT_CAMPAIGNS: [[source]] utm_source = \"', lower(utm_source), '\" platform = \"NAME\"')",
    )
    return f"""SELECT {row} FROM dwh.sessions
    WHERE NOT is_bot AND session_date BETWEEN span_first AND span_last AND utm_source != ''
        AND match(lower(medium), {quote(PAID_MEDIUM)}) AND {platform_of("source", aliases)} = ''
    GROUP BY utm_source"""


def _not_converted() -> str:
    row = _row(
        "not_converted",
        platform="platform",
        account="account",
        first_day="min(spend_date)",
        last_day="max(spend_date)",
        problem="concat('costs of ', toString(sum(amount_original)), ' ', currency, ' count nowhere')",
        fix="if(any(rate) IS NULL, 'the ECB has no rate of it: read the costs in another currency', "
        "'CARAT_CURRENCY changed since: read the files again')",
    )
    return f"""SELECT {row} FROM dwh.spend WHERE amount IS NULL AND amount_original != 0
    AND spend_date BETWEEN span_first AND span_last GROUP BY platform, account, currency"""


_OF_AUDIT = {
    "kind": "no_tagged_sessions, not_linked, name_collision, unknown_campaign, unknown_source or not_converted",
    "platform": "the platform; empty where that is the question",
    "account": "advertising account",
    "campaign_id": "the platform's id of the campaign",
    "campaign": "name of the campaign at the platform",
    "utm_campaign": "what sessions say that may be meant",
    "first_day": "first day of it in the span",
    "last_day": "last day of it in the span",
    "money_at_risk": "cost that meets no sessions, so that nobody knows what it brought; null where it is not known",
    "sessions": "sessions that meet no cost",
    "orders": "orders of these",
    "revenue": "revenue of these",
    "problem": "what is wrong",
    "fix": "how to fix it",
}
