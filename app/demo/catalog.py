"""The demo shop's catalog: about two thousand items of jewelry and accessories, and their listings."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from random import Random
from typing import NamedTuple

import msgspec

from app.demo.chance import Weighted, between, normal, pick, seeded, shuffled

PER_PAGE = 24
SORTS = ("popular", "price_asc", "price_desc", "newest")

_LISTINGS_CACHED = 8_192
_YEARS_OPEN = 3
_ITEMS_TO_COME = 60

# One title is misspelt until somebody corrects it: that of a popular item.
RIGHT_WORD, MISSPELT_WORD = "pendant", "pendent"
_MISSPELT_RANK = 60

# Title, section, material, metal.
Description = tuple[str, str, str | None, str | None]


class Section(NamedTuple):
    """A section of the shop and what is sold there; `pieces` is its number of items."""

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
_TRANSLATIONS = {value: words.split() for value, words in _SYNONYMS.items()}
_STOP_WORDS = (
    "a an and the with for of in to mit und für aus der die das de du des en et pour avec le la à с из и для на con "
    "para di per z ze dla i women men damen herren femme homme her him"
)
_PRODUCT_TEXT = (
    "Made in small batches by our goldsmiths. Comes gift-wrapped with a care card. Resizing is free for thirty days.",
    "A quiet everyday piece with a hand-polished finish. Hallmarked, nickel-free and kind to sensitive skin.",
    "Drawn by hand, cast from recycled metal and set under the microscope. Two years of warranty, free cleaning.",
)


@dataclass(frozen=True)
class Item:
    """An item as one version of the catalog describes it, with its stock when it was first listed.

    Its API responses are encoded once and cached on it; a changed item is a new object and encodes them again.
    """

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
    def description(self) -> Description:
        """The fields that the shop's search looks at."""
        return self.title, self.section, self.material, self.metal

    @property
    def slug(self) -> str:
        """The title as it appears in page addresses."""
        return self.title.lower().replace(" ", "-").replace(".", "")

    @cached_property
    def cents(self) -> int:
        """The price in cents: an integer compares fastest."""
        return int(self.price.scaleb(2))

    @cached_property
    def card(self) -> bytes:
        """The item in the API's listings."""
        return b'{"id":%d,"title":%b,"price":%b,"image":"/i/%d.jpg"}' % (
            self.id,
            msgspec.json.encode(self.title),
            str(self.price).encode(),
            self.id,
        )

    @cached_property
    def page(self) -> bytes:
        """The API's response body for the item's page while it is in stock."""
        return msgspec.json.encode(
            {
                "id": self.id,
                "sku": self.sku,
                "title": self.title,
                "price": msgspec.Raw(str(self.price).encode()),
                "currency": "EUR",
                "section": self.section,
                "material": self.material,
                "metal": self.metal,
                "in_stock": True,
                "rating": 3.5 + self.id % 16 / 10,
                "description": _PRODUCT_TEXT[self.id % len(_PRODUCT_TEXT)],
                "images": [f"/i/{self.id}-{view}.jpg" for view in range(1, 3 + self.id % 3)],
            },
        )


class Listing(NamedTuple):
    """A query with its filters and sort order: what stays the same from page to page."""

    q: str | None = None
    section: tuple[str, ...] = ()
    material: tuple[str, ...] = ()
    metal: tuple[str, ...] = ()
    price_min: int | None = None
    price_max: int | None = None
    sort: str = "popular"

    @property
    def asks_for_prices(self) -> bool:
        """Whether a change of prices could change the result or its order."""
        return self.price_min is not None or self.price_max is not None or self.sort in {"price_asc", "price_desc"}


class Wording:
    """The catalog's content except prices, with its search index; versions with the same content share it."""

    def __init__(self, ranked: Sequence[Item], before: "Wording | None" = None) -> None:
        self.descriptions = {item.id: item.description for item in ranked}
        self._ranks = {item.id: rank for rank, item in enumerate(ranked)}
        self._created = {item.id: item.created_at for item in ranked}
        self._by_section: dict[str, list[int]] = {section.slug: [] for section in SECTIONS}
        for item in ranked:
            self._by_section[item.section].append(item.id)
        self.popular_by_section = {
            # Zipf-like, flattened at the top so that no single item dominates.
            section: Weighted((item_id, 1 / (self._ranks[item_id] + 12) ** 0.95) for item_id in ids)
            for section, ids in self._by_section.items()
        }
        self.words: dict[str, frozenset[int]] = {} if before is None else dict(before.words)
        self._index({} if before is None else before.descriptions)
        self._found: dict[Listing, tuple[int, ...]] = {}

    def found(self, listing: Listing) -> tuple[int, ...]:
        """The ids of all items that a listing without prices matches, in its order."""
        ids = self._found.get(listing)
        if ids is None:
            if len(self._found) >= _LISTINGS_CACHED:
                self._found.clear()
            ids = self._found[listing] = self._search(listing)
        return ids

    def _search(self, listing: Listing) -> tuple[int, ...]:
        if listing.sort == "newest":
            latest_id_first = sorted(self.found(listing._replace(sort="popular")), reverse=True)
            return tuple(sorted(latest_id_first, key=self._created.__getitem__, reverse=True))
        section = listing.section
        ids: Iterable[int] = self._ranks
        if (by_words := self._by_words(listing.q)) is not None:
            ids = sorted(by_words, key=self._ranks.__getitem__)
        elif len(section) == 1:
            ids, section = self._by_section.get(section[0], ()), ()
        for place, values in ((1, section), (2, listing.material), (3, listing.metal)):
            if values:
                ids = [item_id for item_id in ids if self.descriptions[item_id][place] in values]
        return tuple(ids)

    def _by_words(self, q: str | None) -> frozenset[int] | None:
        """The ids of the items that a search text finds; None if it asks for nothing."""
        stop_words = _STOP_WORDS.split()
        words = [word for word in (q or "").casefold().split() if word not in stop_words]
        having = [self.words.get(word, frozenset()) for word in words]
        return having[0].intersection(*having[1:]) if having else None

    def _index(self, before: dict[int, Description]) -> None:
        """Update the search index (word -> item ids) with the words of changed titles and their translations."""
        now = self.descriptions
        came: defaultdict[str, set[int]] = defaultdict(set)
        went: defaultdict[str, set[int]] = defaultdict(set)
        for item_id in before.keys() | now.keys():
            if before.get(item_id) != now.get(item_id):
                for description, words in ((before.get(item_id), went), (now.get(item_id), came)):
                    for word in _words(description) if description else ():
                        words[word].add(item_id)
        for word in went.keys() | came.keys():
            self.words[word] = (self.words.get(word, frozenset()) - went[word]) | came[word]


class Catalog:
    """One version of the catalog: the listed items and the API responses about them.

    Hidden items are neither listed nor recommended, but their pages still respond.
    """

    def __init__(
        self,
        ranked: Sequence[Item],
        *,
        sold_out: frozenset[int],
        hidden: Iterable[Item] = (),
        before: "Catalog | None" = None,
    ) -> None:
        self.ranked = ranked
        self.items = tuple(sorted(ranked, key=lambda item: item.id))
        self.by_id = {item.id: item for item in (*hidden, *self.items)}
        self.sold_out = sold_out
        self.wording = self._wording_after(before)
        self._cents = {item.id: item.cents for item in ranked}
        self._found: dict[Listing, tuple[int, ...]] = {}

    @property
    def popular_by_section(self) -> dict[str, Weighted[int]]:
        """Per section the ids of its items, drawn by popularity."""
        return self.wording.popular_by_section

    def found(self, listing: Listing) -> tuple[int, ...]:
        """The ids of all items the listing matches, in its order."""
        if not listing.asks_for_prices:
            return self.wording.found(listing)
        ids = self._found.get(listing)
        if ids is None:
            if len(self._found) >= _LISTINGS_CACHED:
                self._found.clear()
            ids = self._found[listing] = self._search(listing)
        return ids

    def listing_response(self, listing: Listing, page: int, per_page: int) -> tuple[tuple[int, ...], bytes]:
        """The ids shown on one page (from 1), and the API's response body."""
        ids, by_id = self.found(listing), self.by_id
        shown = ids[(page - 1) * per_page : page * per_page]
        cards = b",".join([by_id[item_id].card for item_id in shown])
        return shown, b'{"total":%d,"page":%d,"per_page":%d,"items":[%b]}' % (len(ids), page, per_page, cards)

    def product_response(self, item_id: int) -> bytes:
        """The API's response body for one product's page."""
        page = self.by_id[item_id].page
        return page.replace(b'"in_stock":true', b'"in_stock":false') if item_id in self.sold_out else page

    def similar(self, item_id: int) -> tuple[int, ...]:
        """Ids of the items the shop recommends with this one."""
        neighbours = self.found(Listing(section=(self.by_id[item_id].section,)))
        here = neighbours.index(item_id) if item_id in neighbours else 0
        return tuple(other for other in neighbours[max(0, here - 2) : here + 3] if other != item_id)

    def similar_response(self, item_id: int) -> bytes:
        """The API's response body for a product's recommendations."""
        return b'{"items":[%b]}' % b",".join(self.by_id[other].card for other in self.similar(item_id))

    def _wording_after(self, before: "Catalog | None") -> Wording:
        if before is None:
            return Wording(self.ranked)
        differs_in_prices_only = len(self.items) == len(before.items) and all(
            item is same or (item.id == same.id and item.description == same.description)
            for item, same in zip(self.items, before.items, strict=True)
        )
        return before.wording if differs_in_prices_only else Wording(self.ranked, before.wording)

    def _search(self, listing: Listing) -> tuple[int, ...]:
        is_by_price = listing.sort in {"price_asc", "price_desc"}
        sort = "popular" if is_by_price else listing.sort
        ids: Iterable[int] = self.wording.found(listing._replace(price_min=None, price_max=None, sort=sort))
        cents = self._cents
        if listing.price_min is not None:
            ids = [item_id for item_id in ids if cents[item_id] >= 100 * listing.price_min]
        if listing.price_max is not None:
            ids = [item_id for item_id in ids if cents[item_id] <= 100 * listing.price_max]
        if is_by_price:
            ids = sorted(sorted(ids), key=cents.__getitem__, reverse=listing.sort == "price_desc")
        return tuple(ids)


class ItemMaker:
    """Generates items, each with a unique id, article number and title."""

    def __init__(self, start: date) -> None:
        self._opened = datetime.combine(start, time()) - timedelta(days=_YEARS_OPEN * 365)
        self._last_id = 1_000
        self._numbers: Counter[str] = Counter()
        self._titles: Counter[str] = Counter()

    def item(self, rng: Random, section: Section) -> Item:
        """The section's next item."""
        # The gaps are items that were delisted over the years.
        self._last_id += 1 + (rng.random() < 0.12)
        self._numbers[section.slug] += 1
        material, metal = _choices(section.materials).draw(rng), _choices(section.metals).draw(rng)
        title = _title(rng, section, material, metal)
        self._titles[title] += 1
        if self._titles[title] > 1:
            title = f"{title} No. {self._titles[title]}"
        factor = _METAL_FACTORS.get(metal or "", 1) * _MATERIAL_FACTORS.get(material or "", 1)
        euros = max(4.9, section.median_eur * factor * math.exp(section.spread * 0.75 * normal(rng)))
        alloy = "".join(word[0] for word in (metal or "x").split()).upper()
        # Squared: the shop adds more items every year.
        age = rng.random() ** 2
        return Item(
            id=self._last_id,
            sku=f"{section.code}-{alloy}-{self._numbers[section.slug]:04d}",
            title=title,
            section=section.slug,
            material=material,
            metal=metal,
            price=_shop_price(rng, euros),
            created_at=self._opened + timedelta(seconds=int((1 - age) * (_YEARS_OPEN * 365 - 1) * 86_400)),
            stock=0 if rng.random() < 0.04 else 1 + int(40 * rng.random() ** 3 * (1 if euros > 400 else 4)),
            weight_g=round(section.weight_g * math.exp(0.35 * normal(rng)), 1),
        )


class Inventory(NamedTuple):
    """The shop on its first day, and the items that it will add later in its first month."""

    catalog: Catalog
    to_come: tuple[Item, ...]


@lru_cache(maxsize=4)
def build_inventory(seed: int, start: date) -> Inventory:
    """The inventory of the shop with this seed."""
    rng, maker = seeded(seed, "catalogue"), ItemMaker(start)
    items = [maker.item(rng, section) for section in SECTIONS for _ in range(section.pieces)]
    ranked = [items[place] for place in shuffled(rng, range(len(items)))]
    misspelt = next(place for place in range(_MISSPELT_RANK, len(ranked)) if RIGHT_WORD in ranked[place].title)
    ranked[misspelt] = replace(ranked[misspelt], title=ranked[misspelt].title.replace(RIGHT_WORD, MISSPELT_WORD))
    sold_out = frozenset(item.id for item in items if not item.stock)

    rng, sections = seeded(seed, "to come"), Weighted((section, section.pieces) for section in SECTIONS)
    to_come = tuple(
        replace(maker.item(rng, sections.draw(rng)), stock=between(rng, 6, 40)) for _ in range(_ITEMS_TO_COME)
    )
    return Inventory(Catalog(ranked, sold_out=sold_out), to_come)


def build_catalog(seed: int, start: date) -> Catalog:
    """The catalog of the shop with this seed, as of its first day."""
    return build_inventory(seed, start).catalog


def _title(rng: Random, section: Section, material: str | None, metal: str | None) -> str:
    piece = f"{pick(rng, _MOODS)}{metal or ''} {pick(rng, section.nouns)}".strip()
    if material:
        piece += f" in {material}" if material in {"leather", "velvet", "silk"} else f" with {material}"
    return f"{pick(rng, _COLLECTIONS)} {piece[0].lower()}{piece[1:]}"


def _shop_price(rng: Random, euros: float) -> Decimal:
    """The price rounded as shops do: 24.90, 119.00, 1 250.00, sometimes an odd number of cents."""
    if euros >= 1_000:
        return Decimal(round(euros / 50) * 50).quantize(Decimal("0.01"))
    cents = pick(rng, (0, 0, 50, 90, 90, 95, 99, int(rng.random() * 100)))
    return (Decimal(int(euros)) + Decimal(cents) / 100).quantize(Decimal("0.01"))


@lru_cache
def _choices(values: tuple[tuple[str | None, float], ...]) -> Weighted[str | None]:
    return Weighted(values)


def _words(description: Description) -> set[str]:
    title, section, material, metal = description
    words = set(title.casefold().replace("-", " ").split())
    for value in (section, material):
        words.update(_TRANSLATIONS.get(value or "", ()))
    for metal_name, names in _TRANSLATIONS.items():
        if metal and metal_name in metal:
            words.update(names)
    return words
