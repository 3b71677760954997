"""Where a session came from: a first, simple grouping by campaign tags and referrer, and the parts of URLs it needs."""

from urllib.parse import unquote_plus

import polars as pl

_SEARCH = r"(?:^|\.)(?:google|bing|yahoo|duckduckgo|ecosia|yandex|baidu|qwant|startpage|seznam|naver)\.[a-z.]+$"
_SOCIAL = (
    r"(?:^|\.)(?:facebook|instagram|pinterest|tiktok|twitter|x|linkedin|reddit|youtube|vk|threads|t)"
    r"\.(?:com|co|net|ru)$"
)
_MAIL = r"(?:^|\.)mail\.|outlook\.live\.com$"


def channel(*, has_click_id: pl.Expr) -> pl.Expr:
    """The marketing channel, from `utm_source, utm_medium, referrer_host` and whether there is a paid click id."""
    source, medium, host = (pl.col(n).str.to_lowercase() for n in ("utm_source", "utm_medium", "referrer_host"))
    is_social = host.str.contains(_SOCIAL) | source.str.contains(r"facebook|instagram|pinterest|tiktok|twitter")
    is_paid = medium.str.contains(r"^(?:.*cp.*|ppc|retargeting|paid.*)$") & (medium != "cpm")
    rules = (
        ("Display", medium.is_in(["display", "banner", "cpm", "interstitial", "expandable"])),
        ("Paid Social", (is_paid | has_click_id) & is_social),
        ("Paid Search", is_paid | has_click_id),
        (
            "Email",
            medium.is_in(["email", "e-mail", "e_mail", "e mail"])
            | source.is_in(["email", "newsletter"])
            | host.str.contains(_MAIL),
        ),
        ("Affiliates", medium.is_in(["affiliate", "affiliates"])),
        ("SMS", (source == "sms") | (medium == "sms")),
        ("Mobile Push", medium.str.ends_with("push") | medium.str.contains("mobile|notification")),
        ("Organic Social", is_social | medium.is_in(["social", "social-network", "social-media", "sm"])),
        ("Organic Search", host.str.contains(_SEARCH) | (medium == "organic")),
        ("Referral", (host != "") | medium.is_in(["referral", "app", "link"])),
        ("Unassigned", (source != "") | (medium != "")),
    )
    return pl.coalesce(*(pl.when(applies).then(pl.lit(name)) for name, applies in rules), pl.lit("Direct"))


def referrer_host(column: str) -> pl.Expr:
    host = pl.col(column).str.extract(r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^@/?#]*@)?([^:/?#]+)", 1)
    return host.fill_null("").str.to_lowercase().str.strip_prefix("www.")


def page_without_query(column: str) -> pl.Expr:
    return pl.col(column).str.replace(r"[?#].*$", "")


def url_parameter(column: str, name: str) -> pl.Expr:
    """The decoded value of a query parameter of a URL, empty where there is none."""
    value = pl.col(column).str.extract(rf"(?i)[?&]{name}=([^&#]*)", 1).fill_null("")
    return value.map_batches(_decoded, return_dtype=pl.String)


def _decoded(values: pl.Series) -> pl.Series:
    encoded = values.filter(values.str.contains(r"[%+]")).unique()  # few, and each decoded once
    return values.replace(encoded, pl.Series([unquote_plus(value) for value in encoded], dtype=pl.String))
