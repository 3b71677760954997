"""The demo shop's catalogue: about two thousand pieces of jewelry and accessories, and the listings of them."""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from random import Random
from typing import NamedTuple

import msgspec

from app.demo.chance import Weighted, normal, pick, seeded, shuffled

PER_PAGE = 24
SORTS = ("popular", "price_asc", "price_desc", "newest")

_LISTINGS_REMEMBERED = 8_192
_YEARS_OPEN = 3


class Section(NamedTuple):
    """A department of the shop and what is sold there."""

    slug: str
    code: str
    pieces: int
    nouns: tuple[str, ...]
    median_eur: float
    spread: float
    materials: tuple[tuple[str | None, float], ...]
    metals: tuple[tuple[str | None, float], ...]
    weight_g: float


_FINE_METALS: tuple[tuple[str | None, float], ...] = (
    ("gold 585", 24), ("silver 925", 26), ("white gold 585", 11), ("rose gold 585", 10), ("gold 750", 8),
    ("gold 375", 7), ("gilded silver 925", 9), ("platinum 950", 3), ("titanium", 2),
)  # fmt: skip
_EVERYDAY_METALS: tuple[tuple[str | None, float], ...] = (
    ("silver 925", 38), ("gilded silver 925", 20), ("gold 585", 14), ("stainless steel", 14), ("gilded brass", 9),
    ("gold 375", 5),
)  # fmt: skip
_WATCH_METALS: tuple[tuple[str | None, float], ...] = (
    ("stainless steel", 60), ("gilded steel", 20), ("titanium", 10), ("gold 750", 4), ("silver 925", 6),
)  # fmt: skip
_STONES: tuple[tuple[str | None, float], ...] = (
    (None, 22), ("diamond", 16), ("cubic zirconia", 13), ("pearl", 7), ("sapphire", 7), ("emerald", 6), ("ruby", 5),
    ("topaz", 6), ("amethyst", 5), ("garnet", 4), ("moonstone", 4), ("opal", 3), ("onyx", 2),
)  # fmt: skip
_SOFT_STONES: tuple[tuple[str | None, float], ...] = (
    (None, 26), ("pearl", 20), ("mother-of-pearl", 7), ("amber", 7), ("turquoise", 7), ("enamel", 9),
    ("cubic zirconia", 9), ("moonstone", 5), ("diamond", 6), ("garnet", 4),
)  # fmt: skip

SECTIONS: tuple[Section, ...] = (
    Section("rings", "RNG", 400, ("ring", "band", "signet ring", "eternity ring", "stacking ring"),
            189, 0.95, _STONES, _FINE_METALS, 3.4),
    Section("earrings", "EAR", 370, ("stud earrings", "hoop earrings", "drop earrings", "ear cuffs", "huggie earrings"),
            95, 0.9, _STONES, _EVERYDAY_METALS, 2.6),
    Section("necklaces", "NCK", 250, ("necklace", "chain", "choker", "lariat", "bead necklace"),
            149, 0.95, _SOFT_STONES, _FINE_METALS, 8.5),
    Section("bracelets", "BRC", 240, ("bracelet", "bangle", "tennis bracelet", "charm bracelet", "cuff"),
            119, 0.9, _SOFT_STONES, _EVERYDAY_METALS, 9.5),
    Section("pendants", "PND", 210, ("pendant", "locket", "medallion", "charm", "initial pendant"),
            85, 0.85, _STONES, _FINE_METALS, 2.9),
    Section("watches", "WTC", 120, ("watch", "chronograph", "automatic watch", "bracelet watch"),
            239, 0.8, ((None, 70), ("mother-of-pearl", 18), ("diamond", 12)), _WATCH_METALS, 68),
    Section("brooches", "BRO", 90, ("brooch", "lapel pin", "cameo brooch"),
            59, 0.7, (("enamel", 35), ("crystal", 20), ("pearl", 15), ("amber", 15), (None, 15)), _EVERYDAY_METALS, 9),
    Section("cufflinks", "CUF", 70, ("cufflinks", "tie clip", "shirt studs"),
            79, 0.6, ((None, 45), ("onyx", 22), ("enamel", 20), ("mother-of-pearl", 13)), _EVERYDAY_METALS, 14),
    Section("hair-accessories", "HAI", 110, ("hair clip", "headband", "hair comb", "tiara", "hair pins"),
            24, 0.55, (("crystal", 30), ("velvet", 22), ("silk", 20), ("pearl", 18), (None, 10)),
            ((None, 45), ("gilded brass", 40), ("stainless steel", 15)), 18),
    Section("bags", "BAG", 90, ("clutch", "evening bag", "crossbody bag", "jewelry case", "purse"),
            89, 0.6, (("leather", 60), ("velvet", 18), ("silk", 12), ("crystal", 10)), ((None, 100),), 420),
    Section("anklets", "ANK", 50, ("anklet", "charm anklet"),
            45, 0.5, ((None, 45), ("pearl", 20), ("turquoise", 20), ("crystal", 15)), _EVERYDAY_METALS, 4),
)  # fmt: skip

_COLLECTIONS = (
    "Aurora", "Selene", "Vega", "Lumen", "Ondine", "Fleur", "Celeste", "Isola", "Marais", "Nocturne", "Alba", "Riviera",
    "Odette", "Solstice", "Petal", "Atlas", "Ivy", "Meridian", "Cinder", "Halo",
)  # fmt: skip
_MOODS = ("", "", "", "Classic ", "Fine ", "Vintage ", "Minimal ", "Hammered ", "Filigree ", "Twisted ", "Petite ")
_METAL_FACTORS = {
    "platinum 950": 3.2, "gold 750": 2.5, "white gold 585": 1.9, "rose gold 585": 1.75, "gold 585": 1.7,
    "gold 375": 1.1, "titanium": 0.9, "gilded silver 925": 0.6, "silver 925": 0.48, "gilded steel": 0.85,
    "stainless steel": 0.5, "gilded brass": 0.35,
}  # fmt: skip
_MATERIAL_FACTORS = {
    "diamond": 2.6, "emerald": 1.9, "sapphire": 1.8, "ruby": 1.9, "opal": 1.3, "pearl": 1.15, "topaz": 1.05,
    "leather": 1.2, "cubic zirconia": 0.75, "crystal": 0.8, "enamel": 0.85, "velvet": 0.8,
}  # fmt: skip

# What the shop's search understands in each language: filter value -> words. An unknown word finds nothing.
_SYNONYMS = {
    "rings": "ring rings ringe bague bagues кольцо кольца anillo anillos anello anelli pierścionek pierścionki",
    "earrings": "earring earrings ohrring ohrringe ohrstecker boucles d'oreilles серьги сережки pendientes orecchini "
    "kolczyki",
    "necklaces": "necklace necklaces halskette halsketten kette collier colliers ожерелье колье цепочка collar collana "
    "naszyjnik",
    "bracelets": "bracelet bracelets armband armbänder armreif браслет браслеты pulsera pulseras bracciale bransoletka",
    "pendants": "pendant pendants anhänger pendentif pendentifs подвеска кулон colgante ciondolo wisiorek",
    "watches": "watch watches uhr uhren damenuhr montre montres часы reloj relojes orologio zegarek",
    "brooches": "brooch brooches brosche broschen broche broches брошь брошка spilla broszka",
    "cufflinks": "cufflink cufflinks manschettenknöpfe boutons manchette запонки gemelos gemelli spinki",
    "hair-accessories": "hair haarspange haarschmuck haarreif barrette cheveux заколка ободок волос diadema cabello",
    "bags": "bag bags tasche handtasche clutch sac pochette сумка клатч bolso borsa torebka",
    "anklets": "anklet anklets fußkettchen fusskettchen chevillère cheville tobillera cavigliera",
    "diamond": "diamond diamonds diamant diamanten diamants бриллиант бриллиантом бриллиантами diamante diamantes",
    "pearl": "pearl pearls perle perlen perles жемчуг жемчугом жемчужные perla perlas perły",
    "sapphire": "sapphire saphir сапфир сапфиром zafiro zaffiro",
    "emerald": "emerald smaragd émeraude изумруд изумрудом esmeralda smeraldo",
    "ruby": "ruby rubin rubis рубин рубином rubí rubino",
    "amber": "amber bernstein ambre янтарь янтарем ámbar ambra bursztyn",
    "amethyst": "amethyst améthyste аметист amatista",
    "garnet": "garnet granat grenat гранат гранатом",
    "moonstone": "moonstone mondstein pierre-de-lune лунный",
    "opal": "opal opale опал ópalo",
    "topaz": "topaz topas topaze топаз topacio",
    "enamel": "enamel emaille émail эмаль эмалью esmalte",
    "leather": "leather leder cuir кожа кожаная cuero pelle",
    "cubic zirconia": "zirconia zirkonia zirconium фианит фианитом circonita",
    "gold": "gold golden goldene gelbgold or золото золотое золотая золотые oro złoto złote złoty",
    "white gold": "weißgold weissgold",
    "rose gold": "roségold rosegold",
    "silver": "silver silber silberne argent серебро серебряное серебряный серебряные plata argento srebro srebrny",
    "platinum": "platinum platin platine платина platino",
    "steel": "steel edelstahl stahl acier сталь acero acciaio",
    "titanium": "titanium titan titane титан titanio",
}
_STOP_WORDS = (
    "a an and the with for of in to mit und für aus der die das de du des en et pour avec le la à с из и для на con "
    "para di per z ze dla i women men damen herren femme homme her him"
)
_PRODUCT_TEXT = (
    "Made in small batches by our goldsmiths. Comes gift-wrapped with a care card. Resizing is free for thirty days.",
    "A quiet everyday piece with a hand-polished finish. Hallmarked, nickel-free and kind to sensitive skin.",
    "Drawn by hand, cast from recycled metal and set under the microscope. Two years of warranty, free cleaning.",
)


@dataclass(frozen=True, slots=True)
class Item:
    """One article of the shop as it stood before the demo's first day."""

    id: int
    sku: str
    title: str
    section: str
    material: str | None
    metal: str | None
    price: Decimal
    created_at: datetime
    stock: int
    weight_g: float

    @property
    def slug(self) -> str:
        """The title as it appears in page addresses."""
        return self.title.lower().replace(" ", "-").replace(".", "")


class Listing(NamedTuple):
    """One query, its filters and its sort: what stays the same while a shopper turns pages."""

    q: str | None = None
    section: tuple[str, ...] = ()
    material: tuple[str, ...] = ()
    metal: tuple[str, ...] = ()
    price_min: int | None = None
    price_max: int | None = None
    sort: str = "popular"


class Catalogue:
    """The items and everything the shop's API says about them, answers encoded once and kept."""

    def __init__(self, items: tuple[Item, ...], popularity: list[int]) -> None:
        self.items = items
        self.by_id = {item.id: item for item in items}
        ranked = [items[place] for place in popularity]
        # Zipf-like, flattened at the top so that no single piece carries the shop.
        self.popular = Weighted((item.id, 1 / (rank + 12) ** 0.95) for rank, item in enumerate(ranked))
        self._orders: dict[str, list[Item]] = {
            "popular": ranked,
            "price_asc": sorted(items, key=lambda item: (item.price, item.id)),
            "price_desc": sorted(items, key=lambda item: (-item.price, item.id)),
            "newest": sorted(items, key=lambda item: (item.created_at, item.id), reverse=True),
        }
        self._words = _search_index(items)
        self._found: dict[Listing, tuple[int, ...]] = {}
        self._cards = {
            item.id: b'{"id":%d,"title":%b,"price":%b,"image":"/i/%d.jpg"}'
            % (item.id, msgspec.json.encode(item.title), str(item.price).encode(), item.id)
            for item in items
        }
        self._products: dict[int, bytes] = {}

    @cached_property
    def popular_by_section(self) -> dict[str, Weighted[int]]:
        """Per section the ids of its items, drawn by popularity."""
        ranked = self._orders["popular"]
        return {
            section.slug: Weighted(
                (item.id, 1 / (rank + 12) ** 0.95) for rank, item in enumerate(ranked) if item.section == section.slug
            )
            for section in SECTIONS
        }

    def found(self, listing: Listing) -> tuple[int, ...]:
        """The ids of all items the listing matches, in its order."""
        ids = self._found.get(listing)
        if ids is None:
            if len(self._found) >= _LISTINGS_REMEMBERED:
                self._found.clear()
            ids = self._found[listing] = self._search(listing)
        return ids

    def listing_answer(self, listing: Listing, page: int, per_page: int) -> tuple[tuple[int, ...], bytes]:
        """The ids shown on one page (from 1), and the API's response body."""
        ids = self.found(listing)
        shown = ids[(page - 1) * per_page : page * per_page]
        cards = b",".join([self._cards[item_id] for item_id in shown])
        return shown, b'{"total":%d,"page":%d,"per_page":%d,"items":[%b]}' % (len(ids), page, per_page, cards)

    def product_answer(self, item_id: int) -> bytes:
        """The API's response body for one product's page."""
        answer = self._products.get(item_id)
        if answer is None:
            item = self.by_id[item_id]
            answer = self._products[item_id] = msgspec.json.encode(
                {
                    "id": item.id,
                    "sku": item.sku,
                    "title": item.title,
                    "price": msgspec.Raw(str(item.price).encode()),
                    "currency": "EUR",
                    "section": item.section,
                    "material": item.material,
                    "metal": item.metal,
                    "in_stock": item.stock > 0,
                    "rating": 3.5 + item.id % 16 / 10,
                    "description": _PRODUCT_TEXT[item.id % len(_PRODUCT_TEXT)],
                    "images": [f"/i/{item.id}-{view}.jpg" for view in range(1, 3 + item.id % 3)],
                },
            )
        return answer

    def similar(self, item_id: int) -> tuple[int, ...]:
        """Ids of pieces the shop recommends beside this one."""
        neighbours = self.found(Listing(section=(self.by_id[item_id].section,)))
        here = neighbours.index(item_id)
        return tuple(other for other in neighbours[max(0, here - 2) : here + 3] if other != item_id)

    def similar_answer(self, item_id: int) -> bytes:
        """The API's response body for the recommendations beside a product."""
        return b'{"items":[%b]}' % b",".join(self._cards[other] for other in self.similar(item_id))

    def _search(self, listing: Listing) -> tuple[int, ...]:
        ids: set[int] | None = None
        stop_words = _STOP_WORDS.split()
        for word in (listing.q or "").casefold().split():
            if word not in stop_words:
                having = self._words.get(word, frozenset())
                ids = set(having) if ids is None else ids & having
        by_price = self._orders["price_asc"]
        low = 0 if listing.price_min is None else bisect_left(by_price, Decimal(listing.price_min), key=_price)
        high = None if listing.price_max is None else bisect_right(by_price, Decimal(listing.price_max), key=_price)
        affordable = {item.id for item in by_price[low:high]}
        return tuple(
            item.id
            for item in self._orders[listing.sort]
            if (ids is None or item.id in ids)
            and item.id in affordable
            and (not listing.section or item.section in listing.section)
            and (not listing.material or item.material in listing.material)
            and (not listing.metal or item.metal in listing.metal)
        )


@lru_cache(maxsize=4)
def build_catalogue(seed: int, start: date) -> Catalogue:
    """The catalogue of the shop with this seed, as of its first day."""
    rng = seeded(seed, "catalogue")
    items: list[Item] = []
    taken: dict[str, int] = {}
    opened = datetime.combine(start, time()) - timedelta(days=_YEARS_OPEN * 365)
    item_id = 1_000
    for section in SECTIONS:
        materials, metals = Weighted(section.materials), Weighted(section.metals)
        for number in range(1, section.pieces + 1):
            # Gaps are the articles that were delisted over the years.
            item_id += 1 + (rng.random() < 0.12)
            material, metal = materials.draw(rng), metals.draw(rng)
            title = _title(rng, section, material, metal)
            taken[title] = taken.get(title, 0) + 1
            if taken[title] > 1:
                title = f"{title} No. {taken[title]}"
            factor = _METAL_FACTORS.get(metal or "", 1) * _MATERIAL_FACTORS.get(material or "", 1)
            euros = max(4.9, section.median_eur * factor * math.exp(section.spread * 0.75 * normal(rng)))
            alloy = "".join(word[0] for word in (metal or "x").split()).upper()
            # Squared: a shop adds more pieces every year.
            age = rng.random() ** 2
            items.append(
                Item(
                    id=item_id,
                    sku=f"{section.code}-{alloy}-{number:04d}",
                    title=title,
                    section=section.slug,
                    material=material,
                    metal=metal,
                    price=_shop_price(rng, euros),
                    created_at=opened + timedelta(seconds=int((1 - age) * (_YEARS_OPEN * 365 - 1) * 86_400)),
                    stock=0 if rng.random() < 0.04 else 1 + int(40 * rng.random() ** 3 * (1 if euros > 400 else 4)),
                    weight_g=round(section.weight_g * math.exp(0.35 * normal(rng)), 1),
                ),
            )
    return Catalogue(tuple(items), shuffled(rng, range(len(items))))


def _title(rng: Random, section: Section, material: str | None, metal: str | None) -> str:
    piece = f"{pick(rng, _MOODS)}{metal or ''} {pick(rng, section.nouns)}".strip()
    if material:
        piece += f" in {material}" if material in {"leather", "velvet", "silk"} else f" with {material}"
    return f"{pick(rng, _COLLECTIONS)} {piece[0].lower()}{piece[1:]}"


def _shop_price(rng: Random, euros: float) -> Decimal:
    """The price rounded the way shops do: 24.90, 119.00, 1 250.00, sometimes an odd sum of cents."""
    if euros >= 1_000:
        return Decimal(round(euros / 50) * 50).quantize(Decimal("0.01"))
    cents = pick(rng, (0, 0, 50, 90, 90, 95, 99, int(rng.random() * 100)))
    return (Decimal(int(euros)) + Decimal(cents) / 100).quantize(Decimal("0.01"))


def _price(item: Item) -> Decimal:
    return item.price


def _search_index(items: tuple[Item, ...]) -> dict[str, frozenset[int]]:
    """Word -> ids of the items it finds: the words of the titles, and their translations."""
    translations = {value: words.split() for value, words in _SYNONYMS.items()}
    index: defaultdict[str, set[int]] = defaultdict(set)
    for item in items:
        words = set(item.title.casefold().replace("-", " ").split())
        for value in (item.section, item.material):
            words.update(translations.get(value or "", ()))
        for metal, names in translations.items():
            if item.metal and metal in item.metal:
                words.update(names)
        for word in words:
            index[word].add(item.id)
    return {word: frozenset(ids) for word, ids in index.items()}
