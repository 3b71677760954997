"""Where a session came from: by the first of its calls that says so, and what channel the rules make of it."""

import re
from collections.abc import Iterable, Sequence

import polars as pl

from app.frames.pages import decoded, host_of, url_parameter
from app.rules.channels import ASKED, ChannelRules, Condition, Site, registrable_site

UTM = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "utm_id")
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
    tagged = _tags(deciding, rules)
    sites = _sites(pl.concat([tagged["referrer_host"], tagged.select(_plain("utm_source")).to_series()]), rules)
    told = (
        tagged.join(sites, on="referrer_host", how="left", maintain_order="left")
        .join(_clicks(rules), on="click_parameter", how="left", maintain_order="left")
        .with_columns(source=_source(), medium=_medium(), search_term=_search_term(rules))
    )
    sessions = events.select("session_number").unique(maintain_order=True)
    arrived = sessions.join(told, on="session_number", how="left", maintain_order="left").with_columns(
        pl.col("source").fill_null(DIRECT_SOURCE),
        pl.col("medium").fill_null(DIRECT_MEDIUM),
        pl.col(_TEXTS).fill_null(""),
    )
    return arrived.with_columns(channel_of(arrived, sites, rules)).select("session_number", *_ARRIVED)


def channel_of(arrived: pl.DataFrame, sites: pl.DataFrame, rules: ChannelRules) -> pl.Series:
    """The channel of each arrival, each distinct one told once.

    In: `source, medium, utm_campaign, utm_term, utm_content, referrer_host, click_parameter`. `sites`: those of
    sources that are hosts.
    """
    asked = [name for name in ASKED if name in {"source", *rules.asked} and name != "category"]
    facts = arrived.select(pl.col(_FACTS.get(name, name)).str.to_lowercase().alias(name) for name in asked)
    distinct = facts.unique()
    distinct = distinct.join(_categories(distinct["source"], sites, rules), on="source", how="left")
    channels = distinct.with_columns(channel=_channel(rules))
    return facts.join(channels, on=asked, how="left", maintain_order="left")["channel"]


_FACTS = {
    "campaign": "utm_campaign", "term": "utm_term", "content": "utm_content", "host": "referrer_host",
    "click_id": "click_parameter",
}  # fmt: skip
_TEXTS = ("referrer", "referrer_host", *UTM, "click_id", "click_parameter", "search_term")


# ---- the call that decides -----------------------------------------------------------------------------------------


def _deciding_calls(events: pl.DataFrame, rules: ChannelRules) -> pl.DataFrame:
    """Per session its first call that carries a source: `session_number, referrer, referrer_host, page_url, is_tagged`.

    A referrer that is none, the shop's own or a payment provider's is empty.
    """
    calls = events.select("session_number", "referrer", "page_url").filter(_is_another_address())
    is_foreign = ~_matches("referrer_host", rules.unreferring)
    referrers = _hosts(calls["referrer"], "referrer_host").filter(pl.col("referrer_host") != "", is_foreign)
    carrying = (
        calls.with_columns(
            is_first=(pl.col("session_number") != pl.col("session_number").shift(1)).fill_null(value=True)
        )
        .join(referrers, on="referrer", how="left", maintain_order="left")
        .join(_hosts(calls["page_url"], "page_host"), on="page_url", how="left", maintain_order="left")
        .with_columns(
            is_referral=(pl.col("referrer_host") != pl.col("page_host")).fill_null(value=False),
            is_tagged=pl.col("page_url").str.contains(_tag_pattern(rules)),
        )
        .filter(pl.col("is_referral") | pl.col("is_tagged"))
        .pipe(_without_own_sites)
    )
    return (
        _without_returns(carrying.with_row_index("row"), calls, rules)
        .unique("session_number", keep="first", maintain_order=True)
        .with_columns(pl.when("is_referral").then(pl.col("referrer", "referrer_host")).otherwise(pl.lit("")))
        .select("session_number", "referrer", "page_url", "referrer_host", "is_tagged")
    )


def _without_own_sites(calls: pl.DataFrame) -> pl.DataFrame:
    """The calls less their referrals between hosts of one registered domain, which are only tagged if anything."""
    pairs = calls.filter("is_referral").select("referrer_host", "page_host").unique()
    ends = [pl.col(name).str.extract(r"([^.]+\.[^.]+)$") for name in pairs.columns]
    pairs = pairs.filter(ends[0] == ends[1])  # few: no others can be of one domain
    is_own = [registrable_site(referrer) == registrable_site(page) for referrer, page in pairs.iter_rows()]
    own = pairs.filter(pl.Series(is_own, dtype=pl.Boolean)).with_columns(is_own=pl.lit(value=True))
    if own.is_empty():
        return calls
    return (
        calls.join(own, on=["referrer_host", "page_host"], how="left", maintain_order="left")
        .with_columns(is_referral=pl.col("is_referral") & pl.col("is_own").is_null())
        .drop("is_own")
        .filter(pl.col("is_referral") | pl.col("is_tagged"))
    )


def _without_returns(carrying: pl.DataFrame, calls: pl.DataFrame, rules: ChannelRules) -> pl.DataFrame:
    """The calls without those of shoppers who come back from a site that no list knows: a bank's, or one to sign in.

    Such a site begins a visit on the session's first page only.
    """
    later = carrying.filter(~pl.col("is_tagged"), ~pl.col("is_first"))
    if later.is_empty():
        return carrying
    sites = _sites(later["referrer_host"], rules)
    listed = _categories(later["referrer_host"], sites, rules).filter(pl.col("category") != "").select("source")
    first_pages = (
        calls.join(later, on="session_number", how="semi", maintain_order="left")
        .unique("session_number", keep="first", maintain_order=True)
        .filter(pl.col("page_url") != "")
    )
    returns = (
        later.join(first_pages, on=["session_number", "page_url"], how="anti")
        .join(sites.filter("is_site"), on="referrer_host", how="anti")
        .join(listed, left_on="referrer_host", right_on="source", how="anti")
    )
    return carrying.join(returns, on="row", how="anti", maintain_order="left")


def _hosts(addresses: pl.Series, name: str) -> pl.DataFrame:
    """The host of each distinct address, under this name: many calls share few."""
    return addresses.unique().to_frame().with_columns(host_of(addresses.name).alias(name))


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


def _tags(deciding: pl.DataFrame, rules: ChannelRules) -> pl.DataFrame:
    """The deciding calls with what their addresses are tagged with: utm tags, `click_id` and `click_parameter`."""
    tagged = deciding.filter("is_tagged").with_columns(
        *_click(rules), *(url_parameter("page_url", name).alias(name) for name in UTM)
    )
    untagged = deciding.filter(~pl.col("is_tagged"))
    empty = [pl.lit("").alias(name) for name in ("click_id", "click_parameter", *UTM)]
    return pl.concat([tagged, untagged.with_columns(empty)])


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
    identifying = [click_id.parameter for click_id in rules.click_ids if click_id.identifies_click]
    values = pl.when(names.is_in(identifying)).then(values).otherwise(pl.lit(""))
    return [decoded(values).alias("click_id"), names.alias("click_parameter")]


def _sites(hosts: pl.Series, rules: ChannelRules) -> pl.DataFrame:
    """`referrer_host, site_source, site_medium, site_category, is_site` per distinct host that is not empty."""
    frame = pl.DataFrame({"referrer_host": hosts.unique()}).filter(pl.col("referrer_host") != "")
    sites = [site for site in rules.sites if site.host_pattern]
    found = frame.with_columns(listed=_listed_category("referrer_host", rules)).with_columns(
        number=_first((_is_of(site), pl.lit(number)) for number, site in enumerate(sites))
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


def _is_of(site: Site) -> pl.Expr:
    """Whether `referrer_host` is one of a site's, and not one that a list puts in a category of its own (`listed`)."""
    matches = pl.col("referrer_host").str.contains(site.host_pattern)
    if not site.yields_to_lists:
        return matches
    is_listed_otherwise = (pl.col("listed") != site.category).fill_null(value=False)
    return matches & (~is_listed_otherwise | pl.col("referrer_host").is_in(site.domains))


def _clicks(rules: ChannelRules) -> pl.DataFrame:
    """What click ids tell: `click_parameter, click_source, click_medium, yields, prefers`."""
    first = {click_id.parameter: click_id for click_id in reversed(rules.click_ids)}
    return pl.DataFrame(
        [(c.parameter, c.source, c.medium, c.yields_to_tags, c.prefers_referrer) for c in first.values()],
        schema={
            "click_parameter": pl.String, "click_source": pl.String, "click_medium": pl.String, "yields": pl.Boolean,
            "prefers": pl.Boolean,
        },
        orient="row",
    )  # fmt: skip


def _source() -> pl.Expr:
    tagged = _plain("utm_source")
    names_site = pl.col("prefers") & pl.col("is_site").fill_null(value=False)
    return (
        pl.when(_click_decides(tagged) & names_site)
        .then("site_source")
        .when(_click_decides(tagged))
        .then("click_source")
        .when(tagged != "")
        .then(tagged)
        .when(pl.col("referrer_host") != "")
        .then("site_source")
        .otherwise(pl.lit(NOT_SET))
    )


def _medium() -> pl.Expr:
    tagged = _plain("utm_medium")
    return (
        pl.when(_click_decides(tagged))
        .then("click_medium")
        .when(tagged != "")
        .then(tagged)
        .when((pl.col("referrer_host") != "") & (_plain("utm_source") == ""))
        .then("site_medium")
        .otherwise(pl.lit(NOT_SET))
    )


def _click_decides(tagged: pl.Expr) -> pl.Expr:
    """Whether there is a click id that says more than this tag."""
    return pl.col("click_source").is_not_null() & ~(pl.col("yields") & (tagged != ""))


def _search_term(rules: ChannelRules) -> pl.Expr:
    """What was searched for, where the referrer is a search engine's and still says it."""
    if not rules.search_parameters:
        return pl.lit("")
    names = "|".join(map(re.escape, rules.search_parameters))
    said = (
        pl.when(pl.col("site_category") == _SEARCH).then("referrer").str.extract(rf"(?i)[?&;#](?:{names})=([^&#]+)", 1)
    )
    return decoded(said.fill_null("")).str.strip_chars()


def _plain(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars().str.to_lowercase()


# ---- the channel ---------------------------------------------------------------------------------------------------


def _categories(sources: pl.Series, sites: pl.DataFrame, rules: ChannelRules) -> pl.DataFrame:
    """`source, category` per distinct source: as the site that it names, else as the list of sources says."""
    named = {name: site.category for site in reversed(rules.sites) for name in (*site.aliases, site.name) if name}
    by_host = sites.filter("is_site").select(source="referrer_host", by_host="site_category")
    return (
        pl.DataFrame({"source": sources.unique()})
        .join(by_host, on="source", how="left")
        .select(
            "source",
            category=pl.coalesce(
                pl.col("source").replace_strict(named, default=None, return_dtype=pl.String),
                "by_host",
                _listed_category("source", rules),
                pl.lit(""),
            ),
        )
    )


def _listed_category(column: str, rules: ChannelRules) -> pl.Expr:
    """The category that the first list gives to a source; null if it is in none."""
    listed = dict(reversed(rules.categories))
    return pl.col(column).replace_strict(listed, default=None, return_dtype=pl.String)


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
