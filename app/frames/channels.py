"""Where a session came from: by the first of its calls that says so, and what channel the rules make of it."""

import re
from collections.abc import Iterable, Sequence

import polars as pl

from app.channel_rules import ASKED, ChannelRules, Condition, host_pattern
from app.frames.pages import decoded, host_of, url_parameter

UTM = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content")
DIRECT_SOURCE, DIRECT_MEDIUM, NOT_SET = "(direct)", "(none)", "(not set)"
UNASSIGNED = "Unassigned"
_SEARCH = "search"
_ARRIVED = ("referrer", "referrer_host", *UTM, "click_id", "source", "medium", "search_term", "channel")


def arrivals(events: pl.DataFrame, rules: ChannelRules) -> pl.DataFrame:
    """Per session where it came from: `session_number` and the columns of `dwh.sessions` that say so.

    In: calls in order with `session_number, referrer, page_url`. The first call of a session that carries a source
    decides: a click id or utm tags in its address, or a referrer that is neither the shop's own nor a payment
    provider's. Where none does, the session is direct.
    """
    deciding = _deciding_calls(events, rules)
    told = (
        deciding.with_columns(*_click(rules), *(url_parameter("page_url", name).alias(name) for name in UTM))
        .join(_sites(deciding["referrer_host"], rules), on="referrer_host", how="left", maintain_order="left")
        .with_columns(source=_source(rules), medium=_medium(rules), search_term=_search_term(rules))
    )
    sessions = events.select("session_number").unique(maintain_order=True)
    arrived = sessions.join(told, on="session_number", how="left", maintain_order="left").with_columns(
        pl.col("source").fill_null(DIRECT_SOURCE),
        pl.col("medium").fill_null(DIRECT_MEDIUM),
        pl.col(_TEXTS).fill_null(""),
    )
    return arrived.with_columns(channel_of(arrived, rules)).select("session_number", *_ARRIVED)


def channel_of(arrived: pl.DataFrame, rules: ChannelRules) -> pl.Series:
    """The channel of each arrival, each distinct one told once.

    In: `source, medium, utm_campaign, utm_term, utm_content, referrer_host, click_parameter`.
    """
    asked = [name for name in ASKED if name in {"source", *rules.asked} and name != "category"]
    facts = arrived.select(pl.col(_FACTS.get(name, name)).str.to_lowercase().alias(name) for name in asked)
    distinct = facts.unique()
    distinct = distinct.join(_categories(distinct["source"], rules), on="source", how="left")
    channels = distinct.with_columns(channel=_channel(rules))
    return facts.join(channels, on=asked, how="left", maintain_order="left")["channel"]


_FACTS = {
    "campaign": "utm_campaign", "term": "utm_term", "content": "utm_content", "host": "referrer_host",
    "click_id": "click_parameter",
}  # fmt: skip
_TEXTS = ("referrer", "referrer_host", *UTM, "click_id", "click_parameter", "search_term")


# ---- the call that decides -----------------------------------------------------------------------------------------


def _deciding_calls(events: pl.DataFrame, rules: ChannelRules) -> pl.DataFrame:
    """Per session its first call that carries a source: `session_number, referrer, referrer_host, page_url`.

    A referrer that is none, the shop's own or a payment provider's is empty.
    """
    is_referral = (
        (pl.col("referrer_host") != "")
        & (pl.col("referrer_host") != pl.col("page_host"))
        & ~_matches("referrer_host", host_pattern((*rules.own_hosts, *rules.payment_hosts)))
    )
    is_tagged = pl.col("page_url").str.contains(_tag_pattern(rules))
    return (
        events.select("session_number", "referrer", "page_url")
        .filter(_is_another_address())
        .with_columns(referrer_host=host_of("referrer"), page_host=host_of("page_url"))
        .with_columns(is_referral=is_referral)
        .filter(pl.col("is_referral") | is_tagged)
        .unique("session_number", keep="first", maintain_order=True)
        .with_columns(pl.when("is_referral").then(pl.col("referrer", "referrer_host")).otherwise(pl.lit("")))
        .drop("is_referral", "page_host")
    )


def _is_another_address() -> pl.Expr:
    """Whether a call says something of where it came from that the call before in its session did not."""
    names = ("session_number", "referrer", "page_url")
    is_new = pl.any_horizontal((pl.col(name) != pl.col(name).shift(1)).fill_null(value=True) for name in names)
    return is_new & ((pl.col("referrer") != "") | (pl.col("page_url") != ""))


def _tag_pattern(rules: ChannelRules) -> str:
    """An address that holds a campaign or a click id, not empty."""
    names = [*UTM, *(re.escape(click_id.parameter) for click_id in rules.click_ids)]
    return rf"(?i)[?&;#](?:{'|'.join(names)})=[^&#]"


def _matches(column: str, pattern: str) -> pl.Expr:
    return pl.col(column).str.contains(pattern) if pattern else pl.lit(value=False)


# ---- what it says --------------------------------------------------------------------------------------------------


def _click(rules: ChannelRules) -> list[pl.Expr]:
    """`click_id` and, as `click_parameter`, which it is: the first that does not yield to tags, else the first."""
    groups = (
        [click_id.parameter for click_id in rules.click_ids if not click_id.yields_to_tags],
        [click_id.parameter for click_id in rules.click_ids if click_id.yields_to_tags],
    )
    found = [
        pl.col("page_url").str.extract_groups(rf"(?i)[?&;#]({'|'.join(map(re.escape, names))})=([^&#]+)")
        for names in groups
        if names
    ]
    if not found:
        return [pl.lit("").alias("click_id"), pl.lit("").alias("click_parameter")]
    names = pl.coalesce(*(groups.struct.field("1") for groups in found)).fill_null("").str.to_lowercase()
    values = pl.coalesce(*(groups.struct.field("2") for groups in found)).fill_null("")
    return [decoded(values).alias("click_id"), names.alias("click_parameter")]


def _sites(hosts: pl.Series, rules: ChannelRules) -> pl.DataFrame:
    """`referrer_host, site_source, site_medium, site_category, is_site` per distinct host that is not empty."""
    frame = pl.DataFrame({"referrer_host": hosts.unique()}).filter(pl.col("referrer_host") != "")
    sites = [site for site in rules.sites if site.host_pattern]
    found = frame.with_columns(
        number=_first(
            (pl.col("referrer_host").str.contains(site.host_pattern), pl.lit(number))
            for number, site in enumerate(sites)
        )
    )
    known = pl.DataFrame(
        {
            "number": range(len(sites)),
            "name": [site.name for site in sites],
            "site_medium": [site.medium for site in sites],
            "site_category": [site.category for site in sites],
        },
        schema={"number": pl.Int32, "name": pl.String, "site_medium": pl.String, "site_category": pl.String},
    )
    return (
        found.with_columns(pl.col("number").cast(pl.Int32))
        .join(known, on="number", how="left")
        .select(
            "referrer_host",
            pl.col("site_medium").fill_null("referral"),
            pl.col("site_category").fill_null(""),
            site_source=pl.when(pl.col("name").fill_null("") != "").then("name").otherwise("referrer_host"),
            is_site=pl.col("number").is_not_null(),
        )
    )


def _source(rules: ChannelRules) -> pl.Expr:
    yields, prefers = _click_flags(rules)
    by_click = _of_click(rules, "source")
    by_click = pl.when(prefers & pl.col("is_site").fill_null(value=False)).then("site_source").otherwise(by_click)
    tagged = _plain("utm_source")
    return (
        pl.when(by_click.is_not_null() & ~(yields & (tagged != "")))
        .then(by_click)
        .when(tagged != "")
        .then(tagged)
        .when(pl.col("referrer_host") != "")
        .then("site_source")
        .otherwise(pl.lit(NOT_SET))
    )


def _medium(rules: ChannelRules) -> pl.Expr:
    yields, _ = _click_flags(rules)
    by_click, tagged = _of_click(rules, "medium"), _plain("utm_medium")
    return (
        pl.when(by_click.is_not_null() & ~(yields & (tagged != "")))
        .then(by_click)
        .when(tagged != "")
        .then(tagged)
        .when((pl.col("referrer_host") != "") & (_plain("utm_source") == ""))
        .then("site_medium")
        .otherwise(pl.lit(NOT_SET))
    )


def _search_term(rules: ChannelRules) -> pl.Expr:
    """What was searched for, where the referrer is a search engine's and still says it."""
    terms = [url_parameter("referrer", re.escape(name)).str.strip_chars() for name in rules.search_parameters]
    said = pl.coalesce(*(pl.when(term != "").then(term) for term in terms), pl.lit(""))
    return pl.when(pl.col("site_category") == _SEARCH).then(said).otherwise(pl.lit(""))


def _plain(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars().str.to_lowercase()


def _of_click(rules: ChannelRules, what: str) -> pl.Expr:
    """What the click id says; null where there is none."""
    return _first(
        (pl.col("click_parameter") == click_id.parameter, pl.lit(getattr(click_id, what)))
        for click_id in rules.click_ids
    )


def _click_flags(rules: ChannelRules) -> tuple[pl.Expr, pl.Expr]:
    flags = (
        [click_id.parameter for click_id in rules.click_ids if getattr(click_id, flag)]
        for flag in ("yields_to_tags", "prefers_referrer")
    )
    yields, prefers = (pl.col("click_parameter").is_in(names) for names in flags)
    return yields, prefers


# ---- the channel ---------------------------------------------------------------------------------------------------


def _categories(sources: pl.Series, rules: ChannelRules) -> pl.DataFrame:
    """`source, category` per distinct source: as the site that it names, else as the list of sources says."""
    named = {name: site.category for site in reversed(rules.sites) for name in (*site.aliases, site.name) if name}
    listed = dict(reversed(rules.categories))
    by_host = _first(
        (pl.col("source").str.contains(site.host_pattern), pl.lit(site.category))
        for site in rules.sites
        if site.host_pattern
    )
    return pl.DataFrame({"source": sources.unique()}).with_columns(
        category=pl.coalesce(
            pl.col("source").replace_strict(named, default=None, return_dtype=pl.String),
            by_host,
            pl.col("source").replace_strict(listed, default=None, return_dtype=pl.String),
            pl.lit(""),
        )
    )


def _channel(rules: ChannelRules) -> pl.Expr:
    found = _first(
        (pl.any_horizontal(applies(condition) for condition in channel.conditions), pl.lit(channel.name))
        for channel in rules.channels
    )
    return found.fill_null(UNASSIGNED)


def applies(condition: Condition) -> pl.Expr:
    """Whether all that a condition names is so."""
    return pl.all_horizontal(
        *(pl.col(field).is_in(values) for field, values in condition.values),
        *(pl.col(field).str.contains(pattern) for field, pattern in condition.patterns),
    )


def _first(cases: Iterable[tuple[pl.Expr, pl.Expr]]) -> pl.Expr:
    """The value of the first case that applies; null if none does."""
    branches: Sequence[pl.Expr] = [pl.when(is_so).then(value) for is_so, value in cases]
    return pl.coalesce(*branches) if branches else pl.lit(None, pl.String)
