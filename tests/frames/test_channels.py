"""Channels: the published definitions of GA4's default channel group, each covered both ways, and where a session came from."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest

from app.core.errors import SettingsError
from app.frames.channels import arrivals
from app.rules.channels import ChannelRules, load_channel_rules
from app.settings import SHIPPED_CHANNELS
from tests.support.paths import FIXTURES

RULES = load_channel_rules(SHIPPED_CHANNELS, own_hosts=["carat.example"])
CASES = pl.read_csv(FIXTURES / "channel_cases.csv", infer_schema=False).fill_null("")
# Addresses that real shops' sessions began with, and siblings of each.
ARRIVALS = pl.read_csv(FIXTURES / "arrival_cases.csv", infer_schema=False).fill_null("")


def calls(*addresses: tuple[str, str], session: int = 0) -> pl.DataFrame:
    """Calls of one session with these pages and referrers."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    return pl.DataFrame(
        [
            {"session_number": session, "ts": start + timedelta(minutes=n), "page_url": page, "referrer": referrer}
            for n, (page, referrer) in enumerate(addresses)
        ],
        schema={
            "session_number": pl.UInt32,
            "ts": pl.Datetime("ms", "UTC"),
            "page_url": pl.String,
            "referrer": pl.String,
        },
    )


def arrived(*addresses: tuple[str, str], rules: ChannelRules = RULES) -> dict:
    return arrivals(calls(*addresses), rules).row(0, named=True)


def rules_of(text: str, folder: Path) -> ChannelRules:
    path = folder / "channels.toml"
    path.write_text(text)
    return load_channel_rules(path)


def test_each_case_of_the_table_gets_its_channel_source_and_medium():
    pages = CASES.select(
        "https://shop.example/p/1" + pl.when(pl.col("tags") != "").then("?" + pl.col("tags")).otherwise(pl.lit(""))
    )
    events = pl.concat(
        calls((page, referrer), session=number)
        for number, (page, referrer) in enumerate(zip(pages.to_series(), CASES["referrer"], strict=True))
    )
    found = arrivals(events, RULES).select("channel", "source", "medium")
    wrong = [
        (case["rule"], got, expected)
        for case, got, expected in zip(
            CASES.to_dicts(), found.rows(), CASES.select("channel", "source", "medium").rows(), strict=True
        )
        if got != expected
    ]
    assert wrong == []


# Webmail that Google's list calls search; sites of payment providers, from which a shopper only returns.
_OTHER_THAN_THE_LIST = {"email.seznam.cz", "mail.rambler.ru", "mail.yandex.ru", "stripe.com", "checkout.stripe.com"}


@pytest.mark.parametrize(("medium", "kind"), [("referral", "Organic"), ("cpc", "Paid")])
def test_each_source_of_googles_list_gets_the_channel_of_its_category(medium, kind):
    sources = [pair for pair in RULES.categories if pair[0] not in _OTHER_THAN_THE_LIST]
    events = pl.concat(
        calls((f"https://shop.example/?utm_source={quote(source)}&utm_medium={medium}", ""), session=number)
        for number, (source, _) in enumerate(sources)
    )
    found = zip(sources, arrivals(events, RULES)["channel"], strict=True)
    assert len(sources) > 800
    assert [pair for pair in found if pair[1] != f"{kind} {pair[0][1].capitalize()}"] == []


def test_each_host_of_googles_list_gets_the_channel_of_its_category_as_a_referrer():
    hosts = [pair for pair in RULES.categories if "." in pair[0] and pair[0] not in _OTHER_THAN_THE_LIST]
    events = pl.concat(
        calls(("https://shop.example/", f"https://{host}/"), session=number) for number, (host, _) in enumerate(hosts)
    )
    found = zip(hosts, arrivals(events, RULES)["channel"], strict=True)
    assert len(hosts) > 500
    assert [pair for pair in found if pair[1] != f"Organic {pair[0][1].capitalize()}"] == []


def test_a_host_below_a_site_is_the_sites_unless_a_list_says_otherwise(tmp_path):
    own = rules_of('extends = true\n[[site]]\nname = "naver"\ncategory = "search"\ndomains = "naver.com"\n', tmp_path)
    page = "https://shop.example/"
    assert arrived((page, "https://blog.naver.com/"))["channel"] == "Organic Social"
    assert arrived((page, "https://ring.naver.com/"))["channel"] == "Organic Search"
    assert arrived((page, "https://shopping.naver.com/"))["channel"] == "Organic Shopping"
    assert arrived((page, "https://ring.naver.com/"))["source"] == "naver"
    assert arrived((page, "https://blog.naver.com/"), rules=own)["channel"] == "Organic Search"


def test_a_list_of_the_shops_own_beats_the_shipped_sites(tmp_path):
    (tmp_path / "mine.csv").write_text("source,source_category\nguides.bing.com,social\n")
    own = rules_of('extends = true\ncategories = ["mine.csv"]\n', tmp_path)
    page = "https://shop.example/"
    assert arrived((page, "https://guides.bing.com/"), rules=own)["channel"] == "Organic Social"
    assert arrived((page, "https://maps.bing.com/"), rules=own)["channel"] == "Organic Search"
    assert own.digest != RULES.digest


def test_each_address_that_real_shops_saw_gets_its_channel_source_and_medium():
    events = pl.concat(
        calls((page, referrer), session=number)
        for number, (page, referrer) in enumerate(ARRIVALS.select("page_url", "referrer").rows())
    )
    names = ("channel", "source", "medium")
    found = arrivals(events, RULES).select(ARRIVALS["case"], *names)
    wanted = ARRIVALS.select("case", *names)
    assert found.join(wanted, on=wanted.columns, how="anti", nulls_equal=True).to_dicts() == []


def test_the_table_covers_every_channel_of_the_shipped_rules_both_ways():
    assert CASES.height >= 150
    assert {channel.name for channel in RULES.channels} | {"Unassigned"} == set(CASES["channel"])
    rules = CASES.select(rule=pl.col("rule").str.extract("^([^:]+)"), is_miss=pl.col("rule").str.contains("near miss"))
    covered = {rule: set(rows["is_miss"]) for (rule,), rows in rules.group_by("rule")}
    of_channels = {rule: kinds for rule, kinds in covered.items() if rule not in {"unassigned", "campaign alone"}}
    assert len(of_channels) == len(RULES.channels) + 1  # and click ids
    assert {rule for rule, kinds in of_channels.items() if kinds != {True, False}} == set()


@pytest.mark.parametrize(
    ("referrer", "term"),
    [
        ("https://www.google.com/search?hl=de&q=gold+ring%20585", "gold ring 585"),
        ("https://de.search.yahoo.com/search?p=perlen", "perlen"),
        ("https://www.baidu.com/s?wd=%E9%87%91", "金"),
        ("https://yandex.ru/search/?text=%D0%BA%D0%BE%D0%BB%D1%8C%D1%86%D0%BE", "кольцо"),
        ("https://www.google.com/", ""),
        ("https://blog.example/?q=ring", ""),
    ],
)
def test_the_search_term_is_kept_where_a_search_engine_still_says_it(referrer, term):
    assert arrived(("https://shop.example/", referrer))["search_term"] == term


def test_the_first_call_that_carries_a_source_decides_and_everything_is_of_that_call():
    found = arrived(
        ("https://shop.example/", "https://shop.example/"),
        ("https://shop.example/a", "https://www.google.com/search?q=ring"),
        ("https://shop.example/b?utm_source=newsletter&utm_medium=email", ""),
    )
    assert (found["channel"], found["source"], found["utm_source"]) == ("Organic Search", "google", "")
    assert found["referrer"] == "https://www.google.com/search?q=ring"


def test_who_comes_back_from_the_payment_provider_came_from_where_they_came_before():
    found = arrived(
        ("https://shop.example/?utm_source=ig&utm_medium=social", "https://l.instagram.com/"),
        ("https://shop.example/thanks", "https://www.paypal.com/"),
    )
    assert (found["channel"], found["source"]) == ("Organic Social", "ig")
    assert arrived(("https://shop.example/thanks", "https://www.paypal.com/"))["referrer"] == ""


@pytest.mark.parametrize(
    "referrer", ["https://secure.bank.example/", "https://auth.id.example/", "https://blog.example/"]
)
def test_an_unknown_site_begins_a_visit_only_on_its_first_page(referrer):
    home, done = "https://shop.example/", "https://shop.example/done"
    assert arrived((home, referrer))["channel"] == "Referral"
    assert arrived((home, ""), (home, referrer))["channel"] == "Referral"
    assert arrived(("", ""), (done, referrer))["channel"] == "Referral"
    assert arrived((home, ""), (done, referrer))["channel"] == "Direct"
    assert arrived((home, home), ("", referrer))["channel"] == "Direct"
    assert arrived((home, "https://www.google.com/"), (done, referrer))["channel"] == "Organic Search"
    assert arrived((home, ""), (f"{done}?utm_source=crm&utm_medium=email", referrer))["channel"] == "Email"


@pytest.mark.parametrize("referrer", ["https://www.google.com/", "https://l.facebook.com/", "https://www.etsy.com/"])
def test_a_known_site_begins_a_visit_on_any_page(referrer):
    later = arrived(("https://shop.example/", ""), ("https://shop.example/rings", referrer))
    assert later["referrer"] == referrer
    assert later["channel"] != "Direct"


def test_own_hosts_that_the_shop_names_are_own_on_every_page():
    for referrer in ("https://blog.carat.example/", "https://m.carat.example/", "https://carat.example/"):
        assert arrived(("https://shop.example/", referrer))["channel"] == "Direct"


def test_what_is_left_of_google_ads_tags_is_not_the_id_of_a_click():
    assert arrived(("https://shop.example/?gad_source=1&gad_campaignid=22", ""))["click_id"] == ""
    assert arrived(("https://shop.example/?gad_source=1&gclid=Cj0", ""))["click_id"] == "Cj0"


def test_a_shop_can_count_fbclid_as_paid(tmp_path):
    rules = rules_of(
        """
extends = true

[[click_id]]
parameter = "fbclid"
source = "facebook"
medium = "paid_social"
yields_to_tags = true
prefers_referrer = true
""",
        tmp_path,
    )
    found = arrived(("https://shop.example/?fbclid=x", "https://l.instagram.com/"), rules=rules)
    assert (found["channel"], found["source"], found["medium"]) == ("Paid Social", "instagram", "paid_social")
    tagged = arrived(("https://shop.example/?fbclid=x&utm_source=ig&utm_medium=social", ""), rules=rules)
    assert tagged["channel"] == "Organic Social"


def test_a_shop_adds_its_own_banks_pages(tmp_path):
    rules = rules_of("extends = true\npayment_pattern = '^pay-[a-z]+\\.'\n", tmp_path)
    for referrer in ("https://pay-secure.bank.example/", "https://3ds2.bank.example/"):
        assert arrived(("https://shop.example/done", referrer), rules=rules)["channel"] == "Direct"


def test_the_platforms_id_of_a_campaign_is_kept_with_the_tags_beside_it():
    tagged = "https://shop.example/?utm_source=google&utm_medium=cpc&utm_id=120210000000000000&utm_campaign=Rings"
    found = arrived(("https://shop.example/", ""), (tagged, ""))
    assert (found["utm_id"], found["utm_campaign"], found["channel"]) == ("120210000000000000", "Rings", "Paid Search")
    assert arrived(("https://shop.example/?utm_source=google", ""))["utm_id"] == ""


def test_an_address_with_nothing_but_the_id_of_a_campaign_leaves_the_source_to_the_referrer():
    found = arrived(("https://shop.example/?utm_id=7", "https://www.google.com/"))
    assert (found["utm_id"], found["source"], found["medium"]) == ("7", "google", "organic")


def test_tags_are_kept_as_they_were_written_and_compared_in_lower_case():
    found = arrived(("https://shop.example/?utm_source=News%20Letter&utm_medium=Email&utm_term=a%2Bb&gclid=", ""))
    assert (found["utm_source"], found["source"], found["utm_term"]) == ("News Letter", "news letter", "a+b")
    assert found["channel"] == "Email"


def test_sessions_do_not_lend_each_other_their_sources():
    events = pl.concat(
        [calls(("https://shop.example/", "https://www.google.com/")), calls(("https://shop.example/", ""), session=1)]
    )
    assert arrivals(events, RULES)["channel"].to_list() == ["Organic Search", "Direct"]


def test_a_shops_own_rules_come_first_and_the_shipped_ones_after_them(tmp_path):
    rules = rules_of(
        """
extends = true
own_hosts = ["blog.example"]

[[click_id]]
parameter = "partner_id"
source = "partner"
medium = "influencer"

[[channel]]
name = "Influencers"
[[channel.when]]
medium = ["influencer"]
[[channel.when]]
source_matches = "^inf-"
campaign = ["spring"]
""",
        tmp_path,
    )
    shop = "https://shop.example/"
    assert arrived((f"{shop}?partner_id=7", ""), rules=rules)["channel"] == "Influencers"
    assert arrived((f"{shop}?utm_source=INF-anna&utm_campaign=Spring", ""), rules=rules)["channel"] == "Influencers"
    assert arrived((f"{shop}?utm_source=inf-anna&utm_campaign=fall", ""), rules=rules)["channel"] == "Unassigned"
    assert arrived((shop, "https://www.google.com/"), rules=rules)["channel"] == "Organic Search"
    assert arrived((shop, "https://blog.example/post"), rules=rules)["channel"] == "Direct"
    assert rules.digest != RULES.digest


def test_rules_that_do_not_extend_the_shipped_ones_replace_them(tmp_path):
    rules = rules_of('[[channel]]\nname = "All"\n[[channel.when]]\nsource_matches = "."\n', tmp_path)
    assert arrived(("https://shop.example/", "https://www.google.com/"), rules=rules)["channel"] == "All"
    assert arrived(("https://shop.example/?gclid=1", ""), rules=rules)["source"] == "(direct)"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("chanel = 1\n", "channels.toml:1: chanel: unknown key. Did you mean channel?"),
        ('extends = "yes"\n', "channels.toml:1: extends: must be true or false"),
        ('[[channel]]\nnome = "x"\n', "channels.toml:2: channel.nome: unknown key. Did you mean name?"),
        ('[[channel]]\nname = "x"\n', "channels.toml:1: channel.when: missing"),
        (
            '[[channel]]\nname = "x"\n[[channel.when]]\nsorce = ["a"]\n',
            "channels.toml:4: channel.when.sorce: unknown key. Did you mean source?",
        ),
        (
            '[[channel]]\nname = "x"\n[[channel.when]]\nsource_matches = "("\n',
            "channels.toml:4: channel.when.source_matches: is not a valid regular expression",
        ),
        ('[[channel]]\nname = "x"\n[[channel.when]]\nsource_matches = "(?=a)"\n', "look-around"),
        ('[[click_id]]\nparameter = "a"\nsource = "b"\n', "channels.toml:1: click_id.medium: missing"),
        (
            '[[click_id]]\nparameter = "a"\nsource = "b"\nmedium = "c"\nyields_to_tags = 1\n',
            "channels.toml:5: click_id.yields_to_tags: must be true or false",
        ),
        ('[[site]]\ncategory = "social"\n', "channels.toml:1: site.domains: missing"),
        ('categories = ["none.csv"]\n', "none.csv"),
        ('own_hosts = "a"\n', "channels.toml:1: own_hosts: must be a list"),
        (
            'own_hosts = ["https://shop.example"]\n',
            "channels.toml:1: own_hosts: 'https://shop.example' is not a host name",
        ),
        (
            '[[channel]]\nname = "x"\n[[channel.when]]\n',
            "channels.toml:3: channel.when: must name at least one of source",
        ),
        (
            '[[channel]]\nname = "x"\nwhen = ["a"]\n',
            "channels.toml:3: channel.when: must be a table such as [[channel.when]]",
        ),
        (
            '[[channel]]\nname = "x"\n[[channel.when]]\nsource = 7\n',
            "channels.toml:4: channel.when.source: must be text or a list of texts",
        ),
        ("extends = false\n", "no [[channel]] table"),
        ("[[channel]\n", "channels.toml"),
    ],
)
def test_a_mistake_in_the_rules_is_told_with_file_line_and_key(text, problem, tmp_path):
    with pytest.raises(SettingsError) as told:
        rules_of(text, tmp_path)
    assert problem in str(told.value)
    assert "channels.toml" in str(told.value) or "none.csv" in str(told.value)


def test_a_list_of_sources_that_is_none_is_told_with_its_line(tmp_path):
    (tmp_path / "mine.csv").write_text("source,source_category\nshop.example\n")
    with pytest.raises(SettingsError, match=r"mine\.csv, line 2: must be a source and its category"):
        rules_of('categories = ["mine.csv"]\n[[channel]]\nname = "x"\n[[channel.when]]\nsource = "a"\n', tmp_path)
