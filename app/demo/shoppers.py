"""Who visits the demo shop: devices, traffic sources, and what each kind of shopper looks for."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal, NamedTuple

from app.demo.catalog import Catalog
from app.demo.chance import Weighted, between, pick, seeded
from app.demo.plan import CAMPAIGN, DemoPlan
from app.demo.user_agents import DESKTOPS, PHONE_APPS, PHONE_BROWSERS, TABLETS, TVS

DeviceKind = Literal["phone", "tablet", "desktop", "tv"]
Client = Literal["web", "app"]

# Chances of going one step further down the funnel.
Reach = tuple[float, float, float, float, float]


class Device(NamedTuple):
    """A shopper's device, and the client on it that calls the shop's API."""

    kind: DeviceKind
    client: Client
    user_agent: str


@dataclass(frozen=True)
class Persona:
    """A way of shopping.

    `reach` are the chances to get from the visit to a listing, from there to a product, then the cart, the checkout and
    the purchase; `views`, `listings` and `favorites` are means per visit.
    """

    name: str
    reach: Reach
    views: float
    listings: float
    favorites: float
    searches: float
    filters: float
    sorts: Weighted[str]
    sections: Weighted[str]
    price_min: tuple[int, ...] = ()
    price_max: tuple[int, ...] = ()


class Entry(NamedTuple):
    """How a visit begins: the referrer, and the query string of the first page's address."""

    referrer: str | None
    tags: str


@dataclass(frozen=True)
class Shopper:
    """A visitor, as far as the shop's API can see."""

    persona: Persona
    devices: tuple[Device, ...]
    visitor_ids: tuple[str, ...]
    user_id: str | None
    ips: tuple[str, ...]
    language: str


def _devices(kind: DeviceKind, client: Client, agents: tuple[tuple[str, float], ...]) -> Weighted[Device]:
    return Weighted((Device(kind, client, agent), weight) for agent, weight in agents)


_DEVICES: Weighted[Weighted[Device]] = Weighted(
    (
        (_devices("phone", "web", PHONE_BROWSERS), 49),
        (_devices("phone", "app", PHONE_APPS), 16),
        (_devices("desktop", "web", DESKTOPS), 29.6),
        (_devices("tablet", "web", TABLETS), 5),
        (_devices("tv", "web", TVS), 0.4),
    ),
)

_ALL_SECTIONS: tuple[tuple[str, float], ...] = (
    ("rings", 22), ("earrings", 22), ("necklaces", 15), ("bracelets", 12), ("pendants", 10), ("watches", 6),
    ("brooches", 3),
    ("cufflinks", 3), ("hair-accessories", 4), ("bags", 4), ("anklets", 2),
)  # fmt: skip


def _leaning(**stronger: float) -> Weighted[str]:
    """All sections, with the weights of some multiplied."""
    return Weighted((slug, weight * stronger.get(slug.replace("-", "_"), 1)) for slug, weight in _ALL_SECTIONS)


def _sorts(popular: float, cheap: float, dear: float, newest: float) -> Weighted[str]:
    return Weighted((("popular", popular), ("price_asc", cheap), ("price_desc", dear), ("newest", newest)))


WINDOW_SHOPPER = Persona(
    "window shopper",
    (0.86, 0.56, 0.12, 0.25, 0.40),
    views=2.2,
    listings=1.7,
    favorites=0.25,
    searches=0.15,
    filters=0.4,
    sorts=_sorts(80, 4, 6, 10),
    sections=_leaning(),
)
BARGAIN_HUNTER = Persona(
    "bargain hunter",
    (0.93, 0.66, 0.28, 0.36, 0.50),
    views=2.6,
    listings=2.4,
    favorites=0.15,
    searches=0.35,
    filters=1.1,
    sorts=_sorts(35, 55, 0, 10),
    sections=_leaning(earrings=1.4, hair_accessories=2, anklets=2),
    price_max=(20, 25, 30, 50, 75, 100),
)
GIFT_BUYER = Persona(
    "gift buyer",
    (0.94, 0.69, 0.29, 0.52, 0.60),
    views=2.8,
    listings=1.5,
    favorites=0.2,
    searches=0.5,
    filters=0.8,
    sorts=_sorts(75, 12, 3, 10),
    sections=_leaning(necklaces=1.5, cufflinks=3, watches=1.8, pendants=1.4),
    price_min=(25, 50, 75, 100),
    price_max=(75, 100, 150, 200, 300),
)
TREND_FOLLOWER = Persona(
    "trend follower",
    (0.91, 0.66, 0.17, 0.32, 0.46),
    views=1.6,
    listings=0.9,
    favorites=0.5,
    searches=0.12,
    filters=0.2,
    sorts=_sorts(50, 5, 0, 45),
    sections=_leaning(earrings=1.8, bags=2, hair_accessories=1.6),
)
COLLECTOR = Persona(
    "collector",
    (0.97, 0.82, 0.25, 0.42, 0.58),
    views=5.5,
    listings=2.6,
    favorites=0.9,
    searches=0.4,
    filters=1.3,
    sorts=_sorts(30, 0, 30, 40),
    sections=_leaning(rings=1.5, brooches=3, watches=2, hair_accessories=0.2, anklets=0.2),
    price_min=(100, 150, 200, 300, 500),
)
RETURNING_CUSTOMER = Persona(
    "returning customer",
    (0.90, 0.76, 0.31, 0.52, 0.65),
    views=2.6,
    listings=1.5,
    favorites=0.45,
    searches=0.35,
    filters=0.6,
    sorts=_sorts(55, 8, 7, 30),
    sections=_leaning(),
    price_max=(100, 200),
)

_NEWCOMERS = Weighted(
    ((WINDOW_SHOPPER, 38), (BARGAIN_HUNTER, 20), (GIFT_BUYER, 18), (TREND_FOLLOWER, 20), (COLLECTOR, 4)),
)
_REGULARS = Weighted(
    ((WINDOW_SHOPPER, 25), (BARGAIN_HUNTER, 18), (GIFT_BUYER, 8), (TREND_FOLLOWER, 12), (COLLECTOR, 10),
     (RETURNING_CUSTOMER, 27)),
)  # fmt: skip

_LANGUAGES = Weighted((("en", 42), ("de", 24), ("fr", 13), ("ru", 7), ("es", 6), ("it", 5), ("pl", 3)))

# What people type, by language; the misspelt ones and the things the shop does not sell find nothing.
SEARCHES: dict[str, Weighted[str]] = {
    "en": Weighted((
        ("gold ring", 9), ("pearl earrings", 8), ("silver necklace", 7), ("diamond ring", 7), ("hoop earrings", 6),
        ("tennis bracelet", 5), ("locket", 4), ("signet ring", 4), ("white gold ring", 4), ("men watch", 3),
        ("tiara", 2),
        ("moonstone", 3), ("emerald ring", 3), ("Silver Bracelet", 3), ("initial pendant", 3), ("charm bracelet", 3),
        ("cufflinks", 2), ("evening bag", 2), ("aurora", 2), ("rose gold", 4), ("opal pendant", 2), ("amber", 2),
        ("  gold earrings", 2), ("GOLD CHAIN", 2), ("perl earings", 2), ("neckless silver", 2), ("braclet", 2),
        ("nose ring stud", 2), ("gift card", 2), ("dimond ring", 1), ("body chain", 1), ("ankle bracelett", 1),
    )),
    "de": Weighted((
        ("ring gold", 8), ("ohrringe silber", 8), ("halskette", 7), ("perlen ohrringe", 6), ("armband silber", 6),
        ("verlobungsring", 5), ("kette mit anhänger", 5), ("ohrstecker gold", 5), ("damenuhr", 4),
        ("ring mit diamant", 4),
        ("manschettenknöpfe", 3), ("brosche", 3), ("weißgold ring", 3), ("Bernstein", 3), ("fußkettchen", 3),
        ("haarreif", 2), ("platin ring", 2), ("edelstahl uhr", 2), ("geschenkgutschein", 2), ("ohringe silber", 3),
        ("halskete gold", 2), ("armbant", 1), ("bauchnabelpiercing", 1),
    )),
    "fr": Weighted((
        ("bague or", 8), ("boucles d'oreilles perles", 7), ("collier argent", 7), ("bracelet femme", 6),
        ("pendentif", 4), ("montre femme", 4), ("bague diamant", 5), ("bague émeraude", 3), ("broche", 3),
        ("sautoir", 2),
        ("collier perle", 4), ("pochette", 2), ("chevillère", 2), ("bague de fiançailles", 3), ("boucle doreille", 3),
        ("colier argent", 2), ("bracelet homme cuir tressé", 1),
    )),
    "ru": Weighted((
        ("золотое кольцо", 8), ("серебряные серьги", 7), ("серьги с жемчугом", 6), ("кольцо с бриллиантом", 6),
        ("браслет", 5), ("подвеска серебро", 4), ("цепочка золото", 4), ("янтарь", 3), ("брошь", 3),
        ("обручальное кольцо", 3),
        ("кольцо с изумрудом", 2), ("часы", 2), ("серги золотые", 2), ("брослет", 2), ("кальцо", 1),
    )),
    "es": Weighted((
        ("anillo oro", 8), ("pendientes plata", 7), ("collar perlas", 6), ("pulsera plata", 6), ("reloj", 3),
        ("anillo de diamantes", 4), ("tobillera", 3), ("gargantilla", 3), ("aniyo", 1), ("pulcera", 2),
    )),
    "it": Weighted((
        ("anello oro", 8), ("orecchini", 7), ("collana argento", 6), ("bracciale", 5), ("ciondolo", 4), ("orologio", 3),
        ("anello con diamante", 3), ("fedi nuziali", 2), ("orechini perle", 2),
    )),
    "pl": Weighted((
        ("pierścionek", 7), ("kolczyki srebro", 6), ("naszyjnik", 5), ("bransoletka", 5), ("bursztyn", 3),
        ("pierscionek zaręczynowy", 3), ("kolczyki złoto", 3), ("bransoletka meska", 1),
    )),
}  # fmt: skip


class _Source(NamedTuple):
    """A traffic source: its weight on ordinary days and in the campaign, its referrers, and the tags it adds."""

    ordinary: float
    campaign: float
    referrers: tuple[str | None, ...]
    tags: str


_GOOGLES = ("https://www.google.com/",) * 5 + (
    "https://www.google.de/",
    "https://www.google.fr/",
    "https://www.google.co.uk/",
)
_MAILS = (None, None, "https://mail.google.com/", "android-app://com.google.android.gm/", "https://outlook.live.com/")
_BINGS = ("https://www.bing.com/",)
_FACEBOOKS = ("https://m.facebook.com/", "https://l.facebook.com/")
_BLOGS = ("https://weddings.example/dresses-and-rings", "https://style.example/spring-looks")
_ASSISTANTS = ("https://chatgpt.com/", "https://www.perplexity.ai/")
_MAILING = "utm_source=newsletter&utm_medium=email&utm_campaign={campaign}&utm_content=hero"
_INSTAGRAM_AD = (
    "utm_source=instagram&utm_medium=paid_social&utm_campaign={campaign}&utm_content=reel-{creative}&fbclid={fbclid}"
)
_WEB_SOURCES = (
    _Source(24, 20, (None,), ""),
    _Source(23.5, 18, _GOOGLES, ""),
    _Source(1.5, 1, _GOOGLES, "srsltid={srsltid}"),
    _Source(9, 10, _GOOGLES,
            "utm_source=google&utm_medium=cpc&utm_campaign={ad_group}&utm_term={keyword}&gclid={gclid}"),
    # Auto-tagging alone: only the click id distinguishes the ad from a search result.
    _Source(4, 4, _GOOGLES, "gclid={gclid}"),
    _Source(0, 2, _GOOGLES, "utm_source=google&utm_medium=cpc&utm_campaign={campaign}&gclid={gclid}"),
    _Source(2.5, 2, _BINGS, ""),
    _Source(1.2, 1, _BINGS, "utm_source=bing&utm_medium=cpc&utm_campaign={ad_group}&msclkid={msclkid}"),
    _Source(5, 5, ("https://l.instagram.com/",), "utm_source=ig&utm_medium=social&utm_content=link_in_bio"),
    _Source(7, 12, ("https://l.instagram.com/",), _INSTAGRAM_AD),
    _Source(3, 2, _FACEBOOKS, "fbclid={fbclid}"),
    _Source(3, 5, _FACEBOOKS, "utm_source=facebook&utm_medium=paid_social&utm_campaign={campaign}&fbclid={fbclid}"),
    _Source(2.7, 2.4, ("https://www.pinterest.com/",), ""),
    _Source(1.8, 1.6, ("https://www.pinterest.com/",), "utm_source=pinterest&utm_medium=social"),
    _Source(5, 12, _MAILS, _MAILING),
    _Source(1.3, 1, ("https://duckduckgo.com/",), ""),
    _Source(0.6, 0.5, ("https://www.ecosia.org/",), ""),
    _Source(0.9, 0.8, ("https://yandex.ru/",), ""),
    _Source(0.3, 0.2, ("https://yandex.ru/",), "yclid={yclid}"),
    _Source(2, 2.5, ("https://www.awin1.com/",),
            "utm_source=awin&utm_medium=affiliate&utm_campaign={partner}&awc={awc}"),
    _Source(1, 1.5, ("https://www.tiktok.com/",),
            "utm_source=tiktok&utm_medium=paid_social&utm_campaign={campaign}&ttclid={ttclid}"),
    _Source(0.6, 0.5, ("https://www.youtube.com/",), ""),
    _Source(1.5, 1.2, _BLOGS, ""),
    _Source(1, 1, ("https://www.idealo.de/",), "utm_source=idealo&utm_medium=cpc&utm_campaign=feed"),
    _Source(0.8, 0.7, _ASSISTANTS, ""),
    _Source(1, 2, ("https://news.example/",), "utm_source=criteo&utm_medium=cpm&utm_campaign={campaign}"),
    _Source(0.3, 0.6, (None,), "utm_source=sms&utm_medium=sms&utm_campaign={campaign}"),
)  # fmt: skip
# The app is opened directly, from a push message, or through a link.
_APP_SOURCES = (
    _Source(78, 70, (None,), ""),
    _Source(12, 16, (None,), "utm_source=app&utm_medium=push&utm_campaign={campaign}"),
    _Source(7, 9, (None,), _MAILING),
    _Source(2, 3, ("https://l.instagram.com/",), _INSTAGRAM_AD),
    _Source(1, 2, (None,), "utm_source=sms&utm_medium=sms&utm_campaign={campaign}"),
)
# (client, whether the campaign runs) -> traffic sources.
_SOURCES_BY_CLIENT: dict[tuple[Client, bool], Weighted[_Source]] = {
    ("web", False): Weighted((source, source.ordinary) for source in _WEB_SOURCES),
    ("web", True): Weighted((source, source.campaign) for source in _WEB_SOURCES),
    ("app", False): Weighted((source, source.ordinary) for source in _APP_SOURCES),
    ("app", True): Weighted((source, source.campaign) for source in _APP_SOURCES),
}
_AD_GROUPS = ("brand", "rings-generic", "earrings-generic", "gifts-for-her", "shopping-all")
_KEYWORDS = ("gold+ring", "pearl+earrings", "silver+necklace", "jewelry+gift", "carat+shop", "engagement+ring")
_PLACEHOLDERS: dict[str, Callable[[Random], str]] = {
    "campaign": lambda rng: pick(rng, ("always-on", "new-arrivals", "retargeting")),
    "ad_group": lambda rng: pick(rng, _AD_GROUPS),
    "keyword": lambda rng: pick(rng, _KEYWORDS),
    "creative": lambda rng: str(between(rng, 1, 9)),
    "partner": lambda rng: str(between(rng, 100_000, 100_030)),
    "gclid": lambda rng: "Cj0KCQi" + _letters(rng, 40),
    "srsltid": lambda rng: "AfmBO" + _letters(rng, 30),
    "fbclid": lambda rng: "IwY2xjawG" + _letters(rng, 40),
    "ttclid": lambda rng: "E.C.P." + _letters(rng, 36),
    "msclkid": lambda rng: f"{rng.getrandbits(128):032x}",
    "yclid": lambda rng: str(rng.getrandbits(63)),
    "awc": lambda rng: str(rng.getrandbits(64)),
}
_PLACEHOLDER = re.compile(r"{(\w+)}")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


def enter(rng: Random, device: Device, *, is_campaign: bool) -> Entry:
    """Draw where a visit comes from."""
    source = _SOURCES_BY_CLIENT[device.client, is_campaign].draw(rng)
    tags = source.tags
    if is_campaign and rng.random() < 0.7:
        tags = tags.replace("{campaign}", CAMPAIGN)
    tags = _PLACEHOLDER.sub(lambda found: _PLACEHOLDERS[found[1]](rng), tags)
    return Entry(pick(rng, source.referrers), tags)


def regulars(plan: DemoPlan) -> int:
    """The number of regular customers, who visit repeatedly."""
    return max(60, plan.calls // 55)


def newcomer(rng: Random) -> Shopper:
    """A first-time visitor."""
    return Shopper(
        persona=_NEWCOMERS.draw(rng),
        devices=(_DEVICES.draw(rng).draw(rng),),
        visitor_ids=(_visitor_id(rng),),
        user_id=None,
        ips=(_address(rng),),
        language=_LANGUAGES.draw(rng),
    )


@lru_cache(maxsize=65_536)
def regular(seed: int, number: int) -> Shopper:
    """The regular customer with that number: the same person on every day and in every process."""
    rng = seeded(seed, "regular", number)
    first = _DEVICES.draw(rng).draw(rng)
    devices = (first, _DEVICES.draw(rng).draw(rng)) if rng.random() < 0.2 else (first,)
    # Neighbouring numbers sometimes share a household and with it an address.
    home = seeded(seed, "household", number // 2)
    is_shared = home.random() < 0.15
    at_home = _address(home if is_shared else rng)
    return Shopper(
        persona=_REGULARS.draw(rng),
        devices=devices,
        visitor_ids=tuple(_visitor_id(rng) for _ in devices),
        user_id=str(10_000 + number) if rng.random() < 0.62 else None,
        ips=(at_home, _address(rng)) if rng.random() < 0.5 else (at_home,),
        language=_LANGUAGES.draw(rng),
    )


def wanted_item(rng: Random, persona: Persona, catalog: Catalog) -> int:
    """The id of an item this persona might look for."""
    return catalog.popular_by_section[persona.sections.draw(rng)].draw(rng)


def _visitor_id(rng: Random) -> str:
    return f"v{rng.getrandbits(80):020x}"


def _address(rng: Random) -> str:
    """An address from a range reserved for documentation, benchmarks or carriers, so that it is nobody's."""
    kind, bits = rng.random(), rng.getrandbits(32)
    if kind < 0.62:
        return f"198.{18 + (bits >> 16 & 1)}.{bits >> 8 & 255}.{bits & 255}"
    if kind < 0.8:
        # A mobile carrier's gateway: few addresses for many people.
        return f"100.{64 + (bits >> 8 & 3)}.{bits >> 4 & 7}.{bits & 15}"
    return f"2001:db8:{bits >> 16:x}:{bits & 0xFFFF:x}::{1 + (bits >> 3 & 0xFF):x}"


def _letters(rng: Random, count: int) -> str:
    bits = rng.getrandbits(6 * count)
    return "".join([_ALPHABET[bits >> 6 * place & 63] for place in range(count)])
