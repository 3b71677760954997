"""What a user agent says of the device: a first, simple reading by well-known marks, each distinct one read once."""

import polars as pl

_BOT = (
    r"(?i)bot\b|bot/|crawl|spider|slurp|headless|lighthouse|monitor|pingdom|uptime|preview|facebookexternalhit|"
    r"python-|curl/|wget/|okhttp|java/|go-http-client|axios/|scrapy|libwww|httpclient|gptbot|claudebot|ccbot"
)
_DEVICE_TYPES = (
    ("bot", _BOT),
    ("tv", r"(?i)smart-?tv|appletv|googletv|hbbtv|bravia|\btizen\b.*\btv\b|web0s|roku|crkey"),
    ("tablet", r"(?i)ipad|tablet|kindle|silk/|playbook"),
    ("mobile", r"(?i)iphone|ipod|mobile|windows phone|opera mini"),
    ("tablet", r"(?i)android"),
    ("desktop", r"(?i)windows nt|macintosh|x11|cros "),
)
_BRANDS = (
    ("Apple", r"iPhone|iPad|iPod|Macintosh|AppleTV"), ("Samsung", r"(?i)samsung|\bSM-|\bGT-"),
    ("Google", r"Pixel|Nexus"),
    ("Huawei", r"(?i)huawei|honor"), ("Xiaomi", r"(?i)xiaomi|redmi|\bmi \d|poco"), ("OnePlus", r"(?i)oneplus"),
    ("LG", r"\bLG[-;/ ]|Web0S"), ("Sony", r"(?i)sony|bravia|xperia"), ("Amazon", r"Kindle|Silk/|\bKF[A-Z]{2,}"),
)  # fmt: skip
_SYSTEMS = (
    ("iOS", r"iPhone|iPad|iPod"), ("Android", r"Android"), ("Windows", r"Windows"), ("macOS", r"Macintosh|Mac OS X"),
    ("ChromeOS", r"CrOS"), ("Tizen", r"Tizen"), ("webOS", r"Web0S"), ("Linux", r"Linux|X11"),
)  # fmt: skip
_BROWSERS = (
    ("Edge", r"Edg(?:e|A|iOS)?/"), ("Opera", r"OPR/|Opera"), ("Samsung Internet", r"SamsungBrowser/"),
    ("Yandex", r"YaBrowser/"), ("Firefox", r"Firefox/|FxiOS/"), ("Chrome", r"Chrome/|CriOS/"), ("Safari", r"Safari/"),
    ("Internet Explorer", r"MSIE |Trident/"),
)  # fmt: skip


def device_columns(user_agents: pl.Series) -> pl.DataFrame:
    """One row per distinct `user_agent`: `device_type, device_brand, os, browser, is_bot`."""
    device_type = _first_match(_DEVICE_TYPES, otherwise="other")
    return pl.DataFrame({"user_agent": user_agents.unique()}).select(
        "user_agent",
        device_type=device_type,
        device_brand=_first_match(_BRANDS),
        os=_first_match(_SYSTEMS),
        browser=pl.when(device_type == "bot").then(pl.lit("")).otherwise(_first_match(_BROWSERS)),
        is_bot=device_type == "bot",
    )


def _first_match(rules: tuple[tuple[str, str], ...], *, otherwise: str = "") -> pl.Expr:
    agent = pl.col("user_agent")
    return pl.coalesce(
        *(pl.when(agent.str.contains(pattern)).then(pl.lit(name)) for name, pattern in rules), pl.lit(otherwise)
    )
