"""What shoppers do in the demo shop: each visit becomes a sequence of API calls."""

from decimal import Decimal
from functools import lru_cache
from random import Random
from typing import Literal
from urllib.parse import quote

import msgspec

from app.demo.assortment import Assortment
from app.demo.catalog import PER_PAGE, SECTIONS, Catalog, Item, Listing
from app.demo.chance import Weighted, between, geometric, pick
from app.demo.plan import HOUR_MS, MINUTE_MS, SECOND_MS, DemoPlan
from app.demo.request_log import API, Call, RequestLog, error_response
from app.demo.shoppers import SEARCHES, Device, Persona, Shopper, enter, wanted_item

SITE = "https://shop.example"

# How a client encodes lists and numbers: real clients are inconsistent.
QueryFormat = Literal["lists", "scalars", "texts"]

VISIT, CATALOG, PRODUCT, CART, CHECKOUT, PURCHASE = range(6)

# Factors on a persona's chances by device: small screens lose people near checkout.
_DEVICE_REACH = {
    "phone": (1.0, 0.98, 0.91, 0.90, 0.88),
    "tablet": (1.0, 1.02, 1.0, 1.0, 1.0),
    "desktop": (1.0, 1.02, 1.08, 1.08, 1.08),
    "tv": (0.9, 0.9, 0.4, 0.3, 0.3),
}
_CAMPAIGN_REACH = (1.0, 1.04, 1.15, 1.08, 1.05)

_SECTION_MATERIALS = {
    section.slug: Weighted((value, weight) for value, weight in section.materials if value) for section in SECTIONS
}
_SECTION_METALS = {
    section.slug: Weighted((value, weight) for value, weight in section.metals if value)
    for section in SECTIONS
    if any(value for value, _ in section.metals)
}

_HOME = msgspec.json.encode(
    {
        "banners": [{"image": f"/i/{slug}.jpg", "link": f"/{slug}"} for slug in ("new", "rings", "watches")],
        "news": ["Free resizing", "Delivered insured in 2-4 days"],
    },
)
_SESSION = b'{"currency":"EUR","country":"DE","features":["wishlist","express"],"consent":"granted"}'
_STORES = b'{"stores":[{"city":"Berlin","opens":"10:00"},{"city":"Lyon","opens":"09:30"}]}'
_DELIVERY = b'{"options":[{"id":"post","price":4.90,"days":4},{"id":"courier","price":9.90,"days":2}]}'
_REVIEWS = b'{"average":4.6,"reviews":[{"stars":5,"text":"Even lovelier than in the pictures."}]}'
_OK = b'{"ok":true}'
_NO_PRODUCT = error_response("product_not_found", "This piece is no longer part of our collection.")
_OUT_OF_STOCK = error_response("out_of_stock", "This piece has just been sold.")
_OUTAGE = error_response("service_unavailable", "Checkout is temporarily unavailable. Please try again later.")
_BAD_ADDRESS = error_response("invalid_address", "Please check the postal code.")
_DECLINED = error_response("payment_declined", "The payment was declined by your bank.")
_BAD_LOGIN = error_response("invalid_credentials", "Wrong e-mail address or password.")

_FREE_SHIPPING_FROM = Decimal(75)
_SHIPPING = Decimal("4.90")


class DailyIds:
    """Assigns the ids of one day's orders and accounts, different from those of any other day."""

    def __init__(self, plan: DemoPlan, day_index: int) -> None:
        self._day = plan.day(day_index)
        self._first_account = 10_000_000 + day_index * 100_000
        self._orders = 0
        self._accounts = 0

    def order_id(self) -> str:
        """The next order's id."""
        self._orders += 1
        return f"{self._day:%y%m%d}-{self._orders:05d}"

    def user_id(self) -> str:
        """The next new account's id."""
        self._accounts += 1
        return str(self._first_account + self._accounts)


class Visit:
    """One shopper's visit; `calls()` plays it out."""

    def __init__(
        self,
        rng: Random,
        assortment: Assortment,
        shopper: Shopper,
        ids: DailyIds,
        starts_ms: int,
        *,
        is_campaign: bool,
        outage_ms: tuple[int, int],
    ) -> None:
        self.rng = rng
        self.assortment = assortment
        self.shopper = shopper
        self.persona: Persona = shopper.persona
        self.ids = ids
        self.outage_ms = outage_ms
        # Somebody with two devices mostly uses the first one.
        which = int(len(shopper.devices) * rng.random() ** 1.6)
        self.device: Device = shopper.devices[which]
        self.language = shopper.language
        self.depth = self._depth(is_campaign=is_campaign)
        self.entry = enter(rng, self.device, is_campaign=is_campaign)
        self.query_format: QueryFormat = (
            "texts" if self.device.client == "app" else "scalars" if rng.random() < 0.1 else "lists"
        )
        # An older release of the web shop sends null for whatever is not set.
        sends_nulls = self.query_format == "lists" and rng.random() < 0.07
        self.is_terse = rng.random() < 0.5
        self.per_page = pick(rng, (12, 48, 48)) if rng.random() < 0.06 else PER_PAGE
        self.log = RequestLog(
            rng,
            starts_ms,
            self._identity(shopper.visitor_ids[which]),
            sends_epoch=self.query_format == "texts" and rng.random() < 0.35,
            sends_nulls=sends_nulls,
        )
        self.log.referrer = self.entry.referrer
        self.signs_in_later = False
        if shopper.user_id is not None:
            remembered = rng.random()
            if remembered < 0.76:
                self.log.user_id = shopper.user_id
            self.signs_in_later = 0.76 <= remembered < 0.94
        self.cart: dict[int, int] = {}
        self.listing = Listing()
        self.page = 1
        self.shown: tuple[int, ...] = ()
        self.viewed: list[int] = []
        self.rests = 2

    @property
    def catalog(self) -> Catalog:
        """The catalog at this moment of the visit; it may differ from what the shopper saw earlier."""
        return self.assortment.at(self.log.now_ms)

    def calls(self) -> list[Call]:
        """The visit's calls in the order they happened."""
        landed_on_product = self.depth >= PRODUCT and self.rng.random() < (0.5 if self.entry.tags else 0.26)
        if not landed_on_product and (self.depth == VISIT or self.rng.random() < 0.3):
            self._land_at_home()
        if self.depth == VISIT:
            self._look_around()
        elif self.depth == CATALOG:
            self._browse(1 + geometric(self.rng, self.persona.listings * 0.6, 12))
        else:
            self._look_at_products(landed_on_product=landed_on_product)
            if self.depth >= CART and self._fill_cart() and self.depth >= CHECKOUT and self._check_out():
                self._order()
        return self.log.calls

    # -- start -------------------------------------------------------------------------------------------------------

    def _depth(self, *, is_campaign: bool) -> int:
        """How far this visit goes if nothing fails."""
        depth = VISIT
        device = _DEVICE_REACH[self.device.kind]
        for chance, by_device, by_campaign in zip(self.persona.reach, device, _CAMPAIGN_REACH, strict=True):
            if self.rng.random() >= chance * by_device * (by_campaign if is_campaign else 1):
                break
            depth += 1
        return depth

    def _identity(self, visitor_id: str) -> dict[str, str | None]:
        """The fields that identify the shopper; some refuse cookies, a few refuse everything."""
        privacy = self.rng.random()
        has_token = privacy < 0.92 or 0.94 <= privacy < 0.994
        return {
            "visitor_id": visitor_id if privacy < 0.94 else None,
            "session_token": f"{self.rng.getrandbits(96):024x}" if has_token else None,
            "ip": pick(self.rng, self.shopper.ips),
            "user_agent": self.device.user_agent,
        }

    def _land_at_home(self) -> None:
        self._open("")
        self.log.send("GET", f"{API}/home", _HOME, typical_ms=40)

    def _greet(self) -> None:
        """Send what the client requests before it shows the first page."""
        if self.device.client == "web" and self.rng.random() < 0.4:
            body: dict[str, object] = {"locale": self.language}
            self.log.send("POST", f"{API}/session", _SESSION, body=body, status=201, typical_ms=25)
        if self.log.user_id is not None and self.rng.random() < 0.5:
            self._me()

    def _look_around(self) -> None:
        """Visit pages other than the catalog, or none."""
        for _ in range(geometric(self.rng, 0.6, 3)):
            self._pause()
            match int(self.rng.random() * 4):
                case 0:
                    self._open("stores")
                    self.log.send("GET", f"{API}/stores", _STORES)
                case 1 if self.log.user_id:
                    self._open("account/orders")
                    self.log.send("GET", f"{API}/me/orders", b'{"orders":[]}')
                case 2:
                    self.log.send("POST", f"{API}/newsletter", _OK, body={"language": self.language}, status=202)
                case _:
                    self._open("service/returns")
                    self.log.send("GET", f"{API}/pages/returns", _OK)

    # -- listings ----------------------------------------------------------------------------------------------------

    def _browse(self, steps: int) -> None:
        """Look at that many listing pages."""
        for _ in range(steps):
            if self.log.calls:
                self._pause()
            choice = self.rng.random()
            more_pages = len(self.catalog.found(self.listing)) > self.page * self.per_page
            if self.shown and more_pages and choice < 0.4:
                self.page += 1
            elif self.shown and choice < 0.62:
                self.listing, self.page = self._refined(self.listing), 1
            else:
                self.listing, self.page = self._new_listing(), 1
            self._list()

    def _list(self) -> None:
        listing = self.listing
        turn = f"?page={self.page}" if self.page > 1 else ""
        if listing.q is None:
            self._open((listing.section[0] if listing.section else "all") + turn)
        else:
            if self.log.calls and self.page == 1 and self.rng.random() < 0.35:
                self._suggest(listing.q)
            self._open(f"search?q={_quoted(listing.q)}" + turn.replace("?", "&"))
        self.shown, response = self.catalog.listing_response(listing, self.page, self.per_page)
        status = self.log.send("GET", f"{API}/catalog", response, query=self._query(), typical_ms=110)
        if status >= 400:
            self.shown = ()

    def _new_listing(self) -> Listing:
        rng, persona = self.rng, self.persona
        q = None
        section: tuple[str, ...] = (persona.sections.draw(rng),)
        if rng.random() < persona.searches:
            language = self.language if rng.random() < 0.88 else "en"
            q, section = SEARCHES[language].draw(rng), ()
        elif rng.random() < 0.05:
            section = ()
        elif rng.random() < 0.06:
            other = persona.sections.draw(rng)
            section = section if other in section else (*section, other)
        listing = Listing(q=q, section=section, sort=persona.sorts.draw(rng))
        if q is None and rng.random() < persona.filters * 0.45:
            listing = self._refined(listing)
        return listing

    def _refined(self, listing: Listing) -> Listing:
        """The listing with one more filter, or with another sort order."""
        rng, persona = self.rng, self.persona
        section = listing.section[0] if listing.section else persona.sections.draw(rng)
        choice = rng.random()
        if choice < 0.3 and section in _SECTION_METALS:
            return listing._replace(metal=_with(rng, listing.metal, _SECTION_METALS[section]))
        if choice < 0.55:
            return listing._replace(material=_with(rng, listing.material, _SECTION_MATERIALS[section]))
        if choice < 0.75 and persona.price_max:
            price_max = pick(rng, persona.price_max)
            # Nobody sets a minimum price above the maximum.
            price_min = listing.price_min if listing.price_min and listing.price_min < price_max else None
            return listing._replace(price_max=price_max, price_min=price_min)
        if choice < 0.85 and persona.price_min:
            price_min = pick(rng, persona.price_min)
            if listing.price_max is None or price_min < listing.price_max:
                return listing._replace(price_min=price_min)
        if listing.q is not None and choice > 0.93:
            return listing._replace(section=(section,))
        return listing._replace(sort=persona.sorts.draw(rng))

    def _query(self) -> dict[str, object]:
        """The listing as this client encodes it in the query string."""
        listing = self.listing
        query: dict[str, object] = {}
        if listing.q is not None:
            query["q"] = listing.q
        elif self.log.sends_nulls:
            query["q"] = "" if self.is_terse else None
        for name, values in (("section", listing.section), ("material", listing.material), ("metal", listing.metal)):
            if values:
                query[name] = self._many(values)
            elif self.log.sends_nulls:
                query[name] = None
        numbers: dict[str, int | None] = {
            "price_min": listing.price_min,
            "price_max": listing.price_max,
            "page": None if self.is_terse and self.page == 1 else self.page,
            "per_page": None if self.is_terse and self.per_page == PER_PAGE else self.per_page,
        }
        for name, number in numbers.items():
            if number is not None:
                query[name] = str(number) if self.query_format == "texts" else number
            elif self.log.sends_nulls:
                query[name] = None
        if not self.is_terse or listing.sort != "popular":
            query["sort"] = listing.sort
        return query

    def _many(self, values: tuple[str, ...]) -> object:
        if self.query_format == "lists":
            return values
        if self.query_format == "texts":
            return ",".join(values)
        return values[0] if len(values) == 1 else values

    def _suggest(self, q: str) -> None:
        start = q.strip()[: between(self.rng, 2, 6)]
        self.log.send("GET", f"{API}/suggest", b'{"suggestions":[]}', query={"q": start}, typical_ms=20)
        self.log.now_ms += between(self.rng, 600, 4_000)

    # -- products ----------------------------------------------------------------------------------------------------

    def _look_at_products(self, *, landed_on_product: bool) -> None:
        views = 1 + geometric(self.rng, self.persona.views, 30)
        if landed_on_product:
            self._view(wanted_item(self.rng, self.persona, self.catalog))
            if self.depth == PRODUCT and self.rng.random() < 0.38:
                return
        else:
            self._browse(1 + geometric(self.rng, self.persona.listings * 0.25, 8))
        signs_in_at = int(self.rng.random() * views) if self.signs_in_later else -1
        for number in range(views):
            if number == signs_in_at:
                self._sign_in()
            self._view(self._tempting())

    def _tempting(self) -> int:
        """The id of the item the shopper looks at next."""
        choice = self.rng.random()
        if self.viewed and choice < 0.16:
            neighbours = self.catalog.similar(self.viewed[-1])
            if neighbours:
                return pick(self.rng, neighbours)
        tries = 0
        while tries < 3 and (not self.shown or (choice < 0.32 and not tries)):
            self._browse(1)
            tries += 1
        if not self.shown:
            return wanted_item(self.rng, self.persona, self.catalog)
        # Items at the top of a page are opened most.
        return self.shown[int(len(self.shown) * self.rng.random() ** 1.7)]

    def _view(self, item_id: int) -> bool:
        """Open a product's page; return whether it loaded."""
        rng = self.rng
        if self.log.calls:
            self._pause()
        item = self.catalog.by_id[item_id]
        self._open(f"p/{item.id}-{item.slug}")
        if rng.random() < 0.004:
            # An old link from a search engine.
            gone = between(rng, 400, 999)
            self.log.send("GET", f"{API}/products/{gone}", _NO_PRODUCT, status=404, typical_ms=30)
            self._pause()
        response = self.catalog.product_response(item_id)
        if self.log.send("GET", f"{API}/products/{item_id}", response, typical_ms=70) >= 400:
            return False
        self.viewed.append(item_id)
        if rng.random() < 0.22:
            self.log.send("GET", f"{API}/products/{item_id}/similar", self.catalog.similar_response(item_id))
        if rng.random() < 0.2:
            self.log.send("GET", f"{API}/products/{item_id}/reviews", _REVIEWS, typical_ms=45)
        if rng.random() < self.persona.favorites / self.persona.views * (1.6 if self.log.user_id else 0.8):
            self._favorite(item_id)
        return True

    def _favorite(self, item_id: int) -> None:
        self.log.now_ms += between(self.rng, 1_500, 20_000)
        body: dict[str, object] = {"product_id": self._number(item_id)}
        self.log.send("POST", f"{API}/favorites", _OK, body=body, status=201, typical_ms=35)
        if self.rng.random() < 0.12:
            self._pause()
            self.log.send("DELETE", f"{API}/favorites/{item_id}", None, status=204, typical_ms=35)

    # -- cart and order ----------------------------------------------------------------------------------------------

    def _fill_cart(self) -> bool:
        """Add items to the cart; return whether any is left in it."""
        rng = self.rng
        wanted = 1 + geometric(rng, 0.35, 4)
        for _ in range(wanted + 3):
            if len(self.cart) >= wanted:
                break
            if (not self.viewed or self.viewed[-1] in self.cart) and not self._view(self._tempting()):
                continue
            self._add_to_cart(self.viewed[-1])
        if self.cart and rng.random() < 0.55:
            self._view_cart()
        if self.cart and rng.random() < (0.08 if self.depth >= CHECKOUT else 0.24):
            self._remove_from_cart(pick(rng, list(self.cart)))
            if not self.cart and self.depth >= CHECKOUT and self._view(self._tempting()):
                self._add_to_cart(self.viewed[-1])
        return bool(self.cart)

    def _add_to_cart(self, item_id: int) -> None:
        rng, item = self.rng, self.catalog.by_id[item_id]
        quantity = between(rng, 2, 3) if rng.random() < (0.12 if item.price < 60 else 0.02) else 1
        body: dict[str, object] = {"product_id": self._number(item_id)}
        # The app leaves out a quantity of one.
        if quantity > 1 or self.query_format != "texts":
            body["quantity"] = self._number(quantity)
        for _ in range(2):
            self.log.now_ms += between(rng, 4_000, 45_000)
            if item_id in self.catalog.sold_out:
                self.log.send("POST", f"{API}/cart/items", _OUT_OF_STOCK, body=body, status=409)
                # Sold out: the shopper looks for something else.
                self.viewed.clear()
                return
            response = self._cart_response({**self.cart, item_id: quantity})
            if self.log.send("POST", f"{API}/cart/items", response, body=body, status=201, typical_ms=80) < 400:
                self.cart[item_id] = quantity
                return

    def _remove_from_cart(self, item_id: int) -> None:
        self._pause()
        if self.log.send("DELETE", f"{API}/cart/items/{item_id}", None, status=204, typical_ms=50) < 400:
            del self.cart[item_id]

    def _view_cart(self) -> None:
        self._pause()
        self._open("cart")
        self.log.send("GET", f"{API}/cart", self._cart_response(self.cart), typical_ms=55)

    def _check_out(self) -> bool:
        """Go through the checkout; return whether the shopper goes on to order."""
        rng = self.rng
        if self.log.user_id is None:
            if self.shopper.user_id is not None and rng.random() < 0.6:
                self._sign_in()
            elif self.shopper.user_id is None and rng.random() < 0.22:
                self._register()
        self._view_cart()
        self._pause()
        self._open("checkout")
        self.log.send("GET", f"{API}/delivery/options", _DELIVERY, typical_ms=90)
        delivery = pick(rng, ("post", "post", "courier", "atelier"))
        body: dict[str, object] = {"delivery": delivery, "gift": rng.random() < 0.2}
        if rng.random() < 0.07:
            self._pause()
            self.log.send("POST", f"{API}/checkout", _BAD_ADDRESS, body=body, status=422, typical_ms=120)
        for _ in range(between(rng, 1, 3)):
            self.log.now_ms += between(rng, 15_000, 100_000)
            is_down = self.outage_ms[0] <= self.log.now_ms < self.outage_ms[1]
            status = self.log.send(
                "POST",
                f"{API}/checkout",
                _OUTAGE if is_down else b'{"checkout_id":"%x","state":"open"}' % rng.getrandbits(48),
                body=body,
                status=503 if is_down else 201,
                typical_ms=5_000 if is_down else 180,
            )
            if status < 400:
                return self.depth >= PURCHASE
        return False

    def _order(self) -> None:
        rng = self.rng
        payment: dict[str, object] = {"payment": pick(rng, ("card", "card", "paypal", "invoice", "klarna"))}
        order_id = self.ids.order_id()
        for _ in range(2):
            self.log.now_ms += between(rng, 8_000, 90_000)
            if self.outage_ms[0] <= self.log.now_ms < self.outage_ms[1]:
                self.log.send("POST", f"{API}/orders", _OUTAGE, body=payment, status=503, typical_ms=5_000)
                return
            if not self.catalog.sold_out.isdisjoint(self.cart):
                # Sold out since it was added to the cart.
                self.log.send("POST", f"{API}/orders", _OUT_OF_STOCK, body=payment, status=409, typical_ms=90)
                return
            if rng.random() < 0.06:
                self.log.send("POST", f"{API}/orders", _DECLINED, body=payment, status=402, typical_ms=900)
                continue
            response = self._order_response(order_id)
            if self.log.send("POST", f"{API}/orders", response, body=payment, status=201, typical_ms=450) < 400:
                if rng.random() < 0.035:
                    # The confirmation was slow, so the shopper pressed the button again.
                    self.log.now_ms += between(rng, 900, 15_000)
                    self.log.send("POST", f"{API}/orders", response, body=payment, status=200, typical_ms=90)
                self._open("checkout/done")
                if self.log.user_id is not None:
                    self.log.send("GET", f"{API}/me/orders", b'{"orders":["%b"]}' % order_id.encode())
                return

    def _cart_response(self, cart: dict[int, int]) -> bytes:
        by_id = self.catalog.by_id
        lines = [(by_id[item_id], quantity) for item_id, quantity in cart.items()]
        subtotal = sum((item.price * quantity for item, quantity in lines), Decimal(0))
        return b'{"items":[%b],"subtotal":%b,"currency":"EUR"}' % (
            b",".join(_line(item, quantity) for item, quantity in lines),
            str(subtotal).encode(),
        )

    def _order_response(self, order_id: str) -> bytes:
        by_id = self.catalog.by_id
        lines = [(by_id[item_id], quantity) for item_id, quantity in self.cart.items()]
        worth = sum((item.price * quantity for item, quantity in lines), Decimal(0))
        shipping = Decimal("0.00") if worth >= _FREE_SHIPPING_FROM else _SHIPPING
        # Orders of the app leave out a quantity of one now and then, as its cart does.
        is_brief = self.query_format == "texts" and self.rng.random() < 0.3
        return b'{"order_id":"%b","total":%b,"currency":"EUR","shipping":%b,"items":[%b]}' % (
            order_id.encode(),
            str(worth + shipping).encode(),
            str(shipping).encode(),
            b",".join(_line(item, None if is_brief and quantity == 1 else quantity) for item, quantity in lines),
        )

    # -- account -----------------------------------------------------------------------------------------------------

    def _sign_in(self) -> None:
        self.signs_in_later = False
        self._pause()
        self._open("account/login")
        login: dict[str, object] = {"method": "password"}
        if self.rng.random() < 0.1:
            self.log.send("POST", f"{API}/auth/login", _BAD_LOGIN, body=login, status=401, typical_ms=220)
            self.log.now_ms += between(self.rng, 5_000, 25_000)
        if self.log.send("POST", f"{API}/auth/login", _OK, body=login, typical_ms=220) < 400:
            self.log.user_id = self.shopper.user_id
            self._me()

    def _register(self) -> None:
        self._pause()
        self._open("account/new")
        body: dict[str, object] = {"newsletter": True}
        if self.log.send("POST", f"{API}/auth/register", _OK, body=body, status=201, typical_ms=300) < 400:
            self.log.user_id = self.ids.user_id()

    def _me(self) -> None:
        response = msgspec.json.encode({"user_id": self.log.user_id, "language": self.language, "tier": "friend"})
        self.log.send("GET", f"{API}/me", response, typical_ms=30)
        if self.rng.random() < 0.3:
            self.log.send("GET", f"{API}/favorites", b'{"items":[]}', typical_ms=40)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _number(self, value: int) -> object:
        return str(value) if self.query_format == "texts" else value

    def _open(self, path: str) -> None:
        """Open a page; the first page's address carries the campaign tags."""
        log = self.log
        is_first = not log.calls
        if self.device.client == "app":
            # The app has no addresses: only the link that opened it is known, and only at first.
            log.page_url = f"{SITE}/{self.language}/?{self.entry.tags}" if is_first and self.entry.tags else None
            log.referrer = self.entry.referrer if is_first else None
        else:
            url = f"{SITE}/{self.language}/{path}"
            if is_first:
                if self.entry.tags:
                    url += f"{'&' if '?' in url else '?'}{self.entry.tags}"
            elif log.page_url != url:
                log.referrer = log.page_url
            log.page_url = url
        if is_first:
            self._greet()

    def _pause(self) -> None:
        """Pause between pages, now and then for long."""
        luck = self.rng.random()
        pause_ms = 2 * SECOND_MS + int(70 * SECOND_MS * self.rng.random() ** 3)
        if luck > 0.985 and self.rests:
            self.rests -= 1
            pause_ms = between(self.rng, 3 * MINUTE_MS, 28 * MINUTE_MS)
            if luck > 0.996:
                pause_ms = between(self.rng, 31 * MINUTE_MS, 3 * HOUR_MS)
        self.log.now_ms += pause_ms


def _with(rng: Random, values: tuple[str, ...], choices: Weighted[str]) -> tuple[str, ...]:
    """The filter with one more value selected, sometimes two."""
    for _ in range(2 if rng.random() < 0.35 else 1):
        value = choices.draw(rng)
        if value not in values:
            values = (*values, value)
    return values


def _line(item: Item, quantity: int | None) -> bytes:
    """One line of a cart or an order."""
    price = str(item.price).encode()
    if quantity is None:
        return b'{"product_id":%d,"price":%b}' % (item.id, price)
    return b'{"product_id":%d,"quantity":%d,"price":%b}' % (item.id, quantity, price)


@lru_cache(maxsize=1_024)
def _quoted(text: str) -> str:
    return quote(text)
