"""Devices, systems, browsers and machines: by corpora that others maintain, and by what this shop is called by."""

from datetime import UTC, datetime, timedelta
from functools import cache
from unittest.mock import patch

import polars as pl
import pytest

from app.core.errors import SettingsError
from app.demo import user_agents as demo
from app.frames import devices
from app.frames.devices import read_user_agents
from app.frames.sessions import is_crowded
from app.rules.devices import DeviceRules, joined_patterns, load_device_rules
from app.settings import SHIPPED_DEVICES
from tests.support.corpora import Reading, read_browsers, read_crawlers, read_devices, uap_cases

RULES = load_device_rules(SHIPPED_DEVICES)

PIXEL = "Mozilla/5.0 (Linux; Android 13; SM-A546B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/116.0.0.0 Mobile Safari/537.36"
MACHINES = [
    ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/138.0.0.0 Safari/537.36", "browser automation"),
    ("curl/8.5.0", "http library"),
    ("python-requests/2.32.3", "http library"),
    ("node", "http library"),
    ("undici", "http library"),
    ("node-fetch/3.3.2", "http library"),
    ("axios/1.7.2", "http library"),
    ("Mozilla/5.0 Node/v20.11.0", "http library"),
    ("Mozilla/5.0 Node/22", "http library"),
    ("Mozilla/5.0", "http library"),
    ("Mozilla/4.0", "http library"),
    ("Mozilla/4.0 (compatible;)", "http library"),
    ("Mozilla/5.0 (compatible)", "http library"),
    ("okhttp3-scraper/1.0 spider", "http library"),
    ("Mozilla/5.0 (compatible; SiteScanner/1.0)", "crawler"),
    ("Dart/3.4 bot", "http library"),
    ("Java/17.0.1", "http library"),
    ("Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)", "monitoring"),
    ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", "social preview"),
    ("WhatsApp/2.23.20.0", "social preview"),
    ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)", "ai crawler"),
    ("Mozilla/5.0 (compatible; ClaudeBot/1.0; +claudebot@anthropic.com)", "ai crawler"),
    ("Mozilla/5.0 (compatible; NeverHeardOfBot/1.0)", "crawler"),
    ("Mozilla/5.0 (compatible; Webzio-Extended/1.0)", "crawler"),
    ("Mozilla/5.0 xtate/2.12.4", "crawler"),
    ("Mozilla/5.0 SomeLeadRadar/4.0", "crawler"),
    ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko; SomeVerification) Chrome/143.0.0.0 Safari/537.36", "crawler"),
    ("recon-engine/0.4 (contact: ops@recon.example)", "crawler"),
    ("Yet Another Site Survey 1.0", "crawler"),
    ("Chrome", "http library"),
    ("default_useragent", "http library"),
    ("${jndi:ldap://x.example/a}", "http library"),
]  # fmt: skip
PEOPLE = [
    "CaratShop/6.4.0 (Linux; Android 15; SM-S921B) okhttp/5.1.0",
    "okhttp/4.12.0",
    "okhttp/5.0.0-alpha.14",
    "CaratShop/6.4.0 okhttp/4.12.0",
    "Dart/3.4 (dart:io)",
    "Dart/2.19 (dart:io)",
    "CaratShop/2.3 Dart/3.4 (dart:io)",
    "CaratShop/12 CFNetwork/1494.0.7 Darwin/23.4.0",
    "Carat%20Shop/3 CFNetwork/1240.0.4 Darwin/20.6.0",
    "CaratShop/6.4.0 (iPhone15,3; iOS 18.6; https://carat.example)",
    "Carat/2.1 Android/14 https://carat.example",
    f"{PIXEL} Instagram 237.0.0.7.102 Android (28/9; 480dpi; 1080x2115; CUBOT; X20 PRO)",
    "Mozilla/5.0 (LG-T500 AppleWebkit/531 Browser/Phantom/V2.0 Widget/LGMW/3.0 Java/ASVM/1.1 Profile/MIDP-2.1)",
    f"{PIXEL} QRScanner/3.1",
    f"{PIXEL} BarcodeScanner/2.0",
    f"{PIXEL} QR Code Scanner/1.4",
    "Mozilla/5.0 (Linux; Android 10; Pixel 3) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/86.0.4240.110 Safari/537.36",
    "Mozilla/5.0 (Linux; Android 11; CUBOT X30) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Linux; Android 15; CPH2725 Build/AP3A.240617.008; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/138.0.7204.179 Mobile Safari/537.36",
    "Mozilla/5.0 (Linux; Android 4.1.1; HTC Butterfly Build/JRO03C) AppleWebKit/535.19 (KHTML, like Gecko) Chrome/18.0.1025.166 Mobile Safari/535.19",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/22G86 [Pinterest/iOS]",
]
NOTHING = ["", " ", "(", "\x00", "%s%n", "💍", "Mozilla/5.0 (", ")(" * 5000]
LAPTOP = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15"
DEMO = (demo.PHONE_BROWSERS, demo.PHONE_APPS, demo.TABLETS, demo.DESKTOPS, demo.TVS, demo.CRAWLERS)


@cache
def everything() -> dict[str, dict]:
    """All user agents of this file by the shipped rules, read at once as a run does."""
    agents = [agent for agents in DEMO for agent, *_ in agents] + [demo.MONITOR, demo.TIRELESS, "Mirror/1"]
    agents += [agent for agent, _ in MACHINES] + PEOPLE + NOTHING + [PIXEL, LAPTOP]
    return {row["user_agent"]: row for row in read_user_agents(pl.Series(agents), RULES).to_dicts()}


def read(user_agent: str, rules: DeviceRules = RULES) -> dict:
    if rules is RULES:
        return everything()[user_agent]
    return read_user_agents(pl.Series([user_agent]), rules).row(0, named=True)


def types(agents) -> list[str]:
    return [read(agent)["device_type"] for agent, *_ in agents]


@pytest.mark.slow
def test_the_class_of_devices_is_right_in_97_of_100_of_the_corpus_that_has_one():
    reading = read_devices(RULES)
    assert reading.cases > 12_000
    assert reading.share >= 0.97, str(reading)


def test_99_of_100_crawlers_of_the_corpus_are_found():
    reading = read_crawlers(RULES)
    assert reading.cases > 2_000
    assert reading.share >= 0.99, str(reading)


def test_fewer_than_5_of_1000_browsers_are_called_machines():
    reading = read_browsers(RULES)
    assert reading.cases > 400
    assert reading.share > 0.995, str(reading)


@pytest.mark.slow
def test_the_accelerator_reads_as_the_parser_without_it_does():
    agents = uap_cases("devices")["user_agent"].gather_every(20)
    fast = read_user_agents(agents, RULES).sort("user_agent")
    devices._parser.cache_clear()
    try:
        with patch.dict("sys.modules", {"ua_parser.regex": None}):
            plain = read_user_agents(agents, RULES).sort("user_agent")
    finally:
        devices._parser.cache_clear()
    assert fast.equals(plain)


def test_the_demo_shops_callers_are_what_they_are():
    assert set(types(demo.PHONE_BROWSERS)) == {"mobile"}
    assert set(types(demo.PHONE_APPS)) == {"mobile"}
    assert set(types(demo.TABLETS)) == {"tablet"}
    assert set(types(demo.DESKTOPS)) == {"desktop"}
    assert set(types(demo.TVS)) == {"tv"}
    assert set(types([*demo.CRAWLERS, (demo.MONITOR,), (demo.TIRELESS,)])) == {"bot"}


@pytest.mark.parametrize(("user_agent", "reason"), MACHINES)
def test_machines_are_told_with_the_reason(user_agent, reason):
    found = read(user_agent)
    assert (found["device_type"], found["bot_reason"], found["browser"]) == ("bot", f"user agent: {reason}", "")


def _android(model: str, *, tail: str = "Safari/537.36") -> str:
    return f"Mozilla/5.0 (Linux; Android 11; {model}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/98.0.4758.87 {tail}"


@pytest.mark.parametrize(
    ("user_agent", "kind"),
    [
        (_android("32LEA73T2SM"), "tv"),
        (_android("TDTV50CS06U"), "tv"),
        (_android("HTY-32H06B-VZ", tail="Mobile Safari/537.36"), "tv"),
        (_android("X96Max_Plus2", tail="Mobile Safari/537.36"), "tv"),
        (_android("Bell Streamer Build/STTC.230104.002; wv", tail="Mobile Safari/537.36"), "tv"),
        (_android("AGS3-W09", tail="Mobile Safari/537.36"), "tablet"),
        (_android("iPA2451", tail="Mobile Safari/537.36"), "tablet"),
        (_android("BQ-8067L", tail="Mobile Safari/537.36"), "tablet"),
        (_android("M50HD", tail="YaSearchBrowser/24.20/apad Mobile Safari/537.36"), "tablet"),
        (_android("STV100-4", tail="Mobile Safari/537.36"), "mobile"),
        (_android("LG-H968", tail="Mobile Safari/537.36"), "mobile"),
        (_android("Lenovo K53a48", tail="Mobile Safari/537.36"), "mobile"),
        (_android("SM-J700T", tail="Mobile Safari/537.36"), "mobile"),
        (_android("Coolpad E2C", tail="Mobile Safari/537.36"), "mobile"),
        (_android("MGI-AN00; HMSCore 6.3.0.327"), "mobile"),
        (_android("HP EliteBook 820 G2"), "desktop"),
        (_android("Inspiron 5567"), "desktop"),
    ],
)
def test_the_class_is_told_by_how_makers_number_their_models(user_agent, kind):
    assert read_user_agents(pl.Series([user_agent]), RULES)["device_type"].to_list() == [kind]


@pytest.mark.parametrize("user_agent", PEOPLE)
def test_people_are_no_machines_whatever_their_phones_and_apps_are_called(user_agent):
    found = read(user_agent)
    assert (found["device_type"], found["bot_reason"]) == ("mobile", "")


def test_system_browser_and_brand_are_called_as_people_call_them():
    phone = read(PIXEL)
    assert (phone["device_brand"], phone["os"], phone["browser"]) == ("Samsung", "Android", "Chrome")
    laptop = read(LAPTOP)
    assert (laptop["device_brand"], laptop["os"], laptop["browser"]) == ("Apple", "macOS", "Safari")


@pytest.mark.parametrize("user_agent", NOTHING)
def test_a_user_agent_that_says_nothing_is_a_persons_on_an_unknown_device(user_agent):
    found = read(user_agent)
    assert (found["device_type"], found["bot_reason"], found["os"], found["browser"]) == ("other", "", "", "")


def test_a_shops_own_rules_decide_of_devices_and_machines(tmp_path):
    path = tmp_path / "devices.toml"
    path.write_text(
        '[[bot]]\nreason = "our tests"\npattern = "^CaratTest/"\n[[device]]\ntype = "tv"\npattern = "Mirror"\n'
    )
    rules = load_device_rules(path)
    assert read("CaratTest/1", rules)["bot_reason"] == "user agent: our tests"
    assert read("Mirror/1", rules)["device_type"] == "tv"
    assert read("Mirror/1")["device_type"] == "other"
    assert rules.digest != RULES.digest


@pytest.mark.parametrize(
    "user_agent", ["okhttp/4.12.0", "CaratShop/6.4.0 okhttp/4.12.0", "CaratShop/2 Dart/3.4 (dart:io)"]
)
def test_a_shop_without_an_app_can_call_its_libraries_bots(user_agent, tmp_path):
    path = tmp_path / "devices.toml"
    path.write_text(
        """
extends = true

[[bot]]
reason = "http library"
pattern = '(?:^| )(?:okhttp|Dart)/'

[os]
"Mac OS X" = "Mac"
"""
    )
    rules = load_device_rules(path)
    assert read(user_agent, rules)["bot_reason"] == "user agent: http library"
    assert read("node", rules)["bot_reason"] == "user agent: http library"
    phone, laptop = read(PIXEL, rules), read(LAPTOP, rules)
    assert (phone["device_type"], phone["browser"], laptop["os"]) == ("mobile", "Chrome", "Mac")


def test_a_bot_may_be_one_only_where_nothing_else_is_said_and_nothing_is_known(tmp_path):
    path = tmp_path / "devices.toml"
    rule = '[[bot]]\nreason = "ours"\npattern = "Sapphire"\nunless = "Ring"\nonly_unknown = true\n'
    path.write_text(f"extends = true\n{rule}")
    rules = load_device_rules(path)
    assert read("Sapphire/1.0", rules)["bot_reason"] == "user agent: ours"
    assert read("Sapphire/1.0 Ring", rules)["bot_reason"] == ""
    assert read(f"{PIXEL} Sapphire/1.0", rules)["bot_reason"] == ""
    assert rules.digest != RULES.digest


def test_a_shops_own_people_come_before_the_shipped_bots(tmp_path):
    path = tmp_path / "devices.toml"
    path.write_text("extends = true\n[[person]]\npattern = '^axios/'\n")
    assert read("axios/1.7.2", load_device_rules(path))["bot_reason"] == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[[device]]\ntype = "phone"\npattern = "x"\n',
            "2: device.type: 'phone' is not valid. Choose from desktop, mobile",
        ),
        ('[[device]]\ntype = "tv"\n', "1: device.pattern: missing"),
        ('[[bot]]\nreason = "x"\npattern = "["\n', "3: bot.pattern: is not a valid regular expression"),
        ('[[bot]]\npattern = "x"\n', "1: bot.reason: missing"),
        ('[[bot]]\nreason = "x"\npattern = "x"\nunless = "["\n', "4: bot.unless: is not a valid regular expression"),
        ('[[person]]\npatern = "x"\n', "2: person.patern: unknown key. Did you mean pattern?"),
        ("[os]\niOS = 1\n", "2: os.iOS: must be text"),
    ],
)
def test_a_mistake_in_the_rules_is_told_with_file_line_and_key(text, problem, tmp_path):
    path = tmp_path / "devices.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as told:
        load_device_rules(path)
    assert str(told.value).startswith(f"{path}:{problem}")


@pytest.mark.parametrize(
    ("seconds", "limit", "crowded"),
    [
        ([0, 10, 20, 59.999], 3, True),
        ([0, 10, 20, 60], 3, False),
        ([0, 100, 110, 120, 130], 3, True),
        ([0, 10, 20], 3, False),
        ([0, 0, 0, 0], 0, False),
    ],
)
def test_more_calls_within_a_minute_than_the_limit_are_no_persons(seconds, limit, crowded):
    start = datetime(2026, 3, 1, tzinfo=UTC)
    calls = pl.DataFrame(
        {
            "session_number": [0] * len(seconds) + [1],
            "ts": [start + timedelta(seconds=s) for s in [*seconds, seconds[-1]]],
        }
    ).with_columns(pl.col("ts").dt.cast_time_unit("ms"))
    found = calls.with_columns(crowded=is_crowded(limit)).group_by("session_number").agg(pl.col("crowded").any())
    assert dict(found.rows()) == {0: crowded, 1: False}


def test_a_reading_says_what_was_taken_for_what():
    reading = Reading()
    for kind in ("tv", "mobile", "mobile"):
        reading.count("x", "mobile", kind)
    assert str(reading) == "66.67% of 3 (1 mobile as tv)"


def test_a_pattern_that_polars_does_not_understand_is_left_out():
    assert joined_patterns(["a", "(?=b)", "c"]) == "a|c"
