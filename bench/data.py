"""Generates the day that every contender builds: once per size, kept in the folder, the same on every machine.

A base of up to 100,000 calls is generated here, column-wise and seeded; the engine multiplies it and gives each copy
its own visitors and call ids. All calls are inside one UTC day, none occurs twice, and each JSON field is written in
only one way: what Carat does beyond that (late calls, duplicates, sessions over midnight, mistyped JSON) is not
required of the others.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from app.contracts import API_CALLS
from app.settings import load_settings
from app.warehouse import open_warehouse
from bench.day import DAY, SEED, Dataset

_BASE_CALLS = 100_000
_DAY_MS = 86_400_000
_PAGE = 24
_PRODUCTS = 5_000
_LISTINGS = 402
_USER_AGENTS = 500
_SECTIONS = ("rings", "earrings", "necklaces", "bracelets", "watches", "charms")
_MATERIALS = ("gold", "silver", "platinum", "steel", "pearl", "leather")
_SORTS = ("popular", "price_asc", "price_desc", "new")
_WORDS = ("ring", "gold chain", "pearl earrings", "engagement ring", "charm", "silver bracelet", "gift", "pendant")
_MIX = {
    "catalog": 0.40, "product_view": 0.40, "favorite_add": 0.03, "favorite_remove": 0.01, "cart_add": 0.045,
    "cart_remove": 0.01, "cart_view": 0.02, "checkout": 0.015, "purchase": 0.01, "other": 0.06,
}  # fmt: skip


def build(day: Dataset, *, user_agents: Sequence[str] = ()) -> None:
    """Generate the day again; with `user_agents`, each visitor has one of them, evenly distributed."""
    shutil.rmtree(day.folder, ignore_errors=True)
    day.folder.mkdir(parents=True)
    base = day.folder / "base.parquet"
    base_calls = min(day.calls, _BASE_CALLS)
    base_frame(base_calls).write_parquet(base)
    agents = day.folder / "user_agents.parquet"
    pl.DataFrame({"agent": user_agents}, schema={"agent": pl.String}).with_row_index("number").write_parquet(agents)
    _fill_warehouse(day, base, base_calls, agents=agents, agent_count=len(user_agents))
    base.unlink()
    agents.unlink()
    day.mark_built()


def _fill_warehouse(day: Dataset, base: Path, base_calls: int, *, agents: Path, agent_count: int) -> None:
    own = {
        "call_id": "reinterpretAsUUID(MD5(concat(call_id, '/', toString(copy))))",
        "visitor_id": "concat(visitor_id, '-', toString(copy))",
        "received_at": "ts",
    }
    of_visitor = ""
    if agent_count:
        own["user_agent"] = "agent"
        of_visitor = (
            f"INNER JOIN file('{agents}', Parquet) AS agents "
            f"ON agents.number = toUInt32(cityHash64(base.visitor_id, copies.copy) % {agent_count}) "
        )
    names = API_CALLS.schema.names()
    values = ", ".join(f"{own[name]} AS {name}" if name in own else name for name in names)
    settings = load_settings(warehouse=f"chdb://{day.warehouse}")
    copies = -(-day.calls // base_calls)
    with open_warehouse(settings, purpose="bench") as warehouse:
        warehouse.command(
            f"INSERT INTO pd.api_calls ({', '.join(names)}) SELECT {values} "
            f"FROM (SELECT number AS copy FROM numbers({copies})) AS copies "
            f"CROSS JOIN file('{base}', Parquet) AS base {of_visitor}WHERE copy * {base_calls} + row < {day.calls}"
        )
        # One part, as the day is found some time after it was collected; nothing is left to merge while the clock runs.
        warehouse.command("OPTIMIZE TABLE pd.api_calls FINAL")
        columns = ", ".join(f"toString({name}) AS {name}" if name == "call_id" else name for name in names)
        warehouse.command(f"INSERT INTO FUNCTION file('{day.parquet}', Parquet) SELECT {columns} FROM pd.api_calls")


# ---- the base ----------------------------------------------------------------------------------------------------


def base_frame(calls: int) -> pl.DataFrame:
    """The columns of `pd.api_calls` that are written, with `row`; `call_id` as text."""
    rng = np.random.default_rng(SEED)
    session, first = _sessions(calls, rng)
    event = rng.choice(list(_MIX), size=calls, p=list(_MIX.values()))
    browsing = _Browsing(rng, session=session, event=event)
    is_error = rng.random(calls) < 0.02
    request, response = browsing.requests(), browsing.responses()
    response[is_error] = '{"error":"not available","code":"E4","request_id":"9f7c2a51"}'
    sessions = session[-1] + 1
    visitor = np.sort(rng.integers(0, int(sessions * 0.85) + 1, sessions))[session]  # some come back on the day
    user = np.where(rng.random(sessions) < 0.3, np.char.add("u", rng.integers(1, 10**6, sessions).astype(str)), "")
    page_url, referrer = _pages(rng, session=session, first=first, product=browsing.product)
    return pl.DataFrame(
        {
            "row": np.arange(calls, dtype=np.uint64),
            "call_id": np.char.add("call-", np.arange(calls).astype(str)),
            "ts": _times(rng, session=session, first=first),
            "visitor_id": np.char.add("v", (visitor + 10**9).astype(str)),
            "session_token": np.char.add("s-5d1f0a7be2c94", (session + 10**6).astype(str)),
            "user_id": user[session],
            "method": _by_event(event, _METHODS),
            "endpoint": browsing.endpoints(),
            "status": np.where(is_error, rng.choice([404, 409, 500], calls), 200).astype(np.uint16),
            "duration_ms": (rng.gamma(2.0, 20.0, calls) + 3).astype(np.uint32),
            "ip": _ips(rng, sessions)[session],
            "user_agent": _user_agents()[rng.zipf(1.3, sessions) % _USER_AGENTS][session],
            "referrer": referrer,
            "page_url": page_url,
            "request": request,
            "response": response,
        }
    ).with_columns(pl.from_epoch("ts", time_unit="ms").dt.replace_time_zone("UTC"))


_METHODS = {
    "favorite_add": "POST", "favorite_remove": "DELETE", "cart_add": "POST", "cart_remove": "DELETE",
    "checkout": "POST", "purchase": "POST",
}  # fmt: skip


def _by_event(event: np.ndarray, values: dict[str, str], otherwise: str = "GET") -> np.ndarray:
    return np.select([event == name for name in values], list(values.values()), otherwise)


def _sessions(calls: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each call's session, about nine calls long, and whether the call is its first."""
    lengths = rng.geometric(1 / 9, size=calls)
    session = np.repeat(np.arange(calls), lengths)[:calls]
    return session, np.diff(session, prepend=-1) > 0


def _times(rng: np.random.Generator, *, session: np.ndarray, first: np.ndarray) -> np.ndarray:
    pauses = np.minimum(rng.exponential(45_000, len(session)) + 200, 1_500_000).astype(np.int64)
    elapsed = np.cumsum(np.where(first, 0, pauses))
    starts_at = np.flatnonzero(first)
    since_start = elapsed - elapsed[starts_at][session]
    length = np.maximum.reduceat(since_start, starts_at)
    start = (rng.random(len(starts_at)) * (_DAY_MS - 1 - length)).astype(np.int64)
    midnight = int(np.datetime64(DAY, "ms").astype(np.int64))
    return midnight + start[session] + since_start


def _last_true(marks: np.ndarray, session: np.ndarray) -> np.ndarray:
    """For each row the last row of its session up to itself that is marked; -1 if there is none."""
    last = np.maximum.accumulate(np.where(marks, np.arange(len(marks)), -1))
    return np.where((last >= 0) & (session[last] == session), last, -1)


class _Browsing:
    """What each call shows and touches: listings drawn by popularity and paged through, products mostly from them."""

    def __init__(self, rng: np.random.Generator, *, session: np.ndarray, event: np.ndarray) -> None:
        calls = len(event)
        self.event = event
        self.listings = _listings(rng)
        self.product_json = _product_json(rng)
        is_catalog = event == "catalog"
        earlier = np.roll(_last_true(is_catalog, session), 1)
        has_earlier = (earlier >= 0) & (session[earlier] == session)
        opens = is_catalog & ((rng.random(calls) < 0.4) | ~has_earlier)
        opened = _last_true(opens, session)
        self.listing = self._listing_opened(rng, session=session)[opened]
        pages = np.array([len(listing.pages) for listing in self.listings])
        turns = np.cumsum(is_catalog & (rng.random(calls) < 0.8))  # else the same page again: a reload, a way back
        self.page = (turns - turns[opened]) % pages[self.listing]
        shown = np.stack([np.pad(listing.products, (0, 48), "wrap")[:48] for listing in self.listings])
        popular = rng.zipf(1.3, calls) % _PRODUCTS
        from_page = shown[self.listing, rng.integers(0, _PAGE, calls) + _PAGE * np.minimum(self.page, 1)]
        viewed = np.where((opened >= 0) & (rng.random(calls) < 0.85), from_page, popular)
        last_view = _last_true(event == "product_view", session)
        self.product = np.where((event != "product_view") & (last_view >= 0), viewed[last_view], viewed)
        self.quantity = np.where(rng.random(calls) < 0.9, 1, 2)
        self.price = rng.integers(900, 90_000, _PRODUCTS)
        self.second = popular

    def _listing_opened(self, rng: np.random.Generator, *, session: np.ndarray) -> np.ndarray:
        """The listing that each call would open: often the session's first again, else mostly one of its section."""
        calls = len(session)
        home = (rng.zipf(1.2, calls) % _LISTINGS)[session]
        sibling = (home + len(_SECTIONS) * (rng.zipf(1.5, calls) % 8)) % _LISTINGS
        anywhere = rng.zipf(1.2, calls) % _LISTINGS
        choice = rng.random(calls)
        return np.where(choice < 0.45, home, np.where(choice < 0.85, sibling, anywhere))

    def endpoints(self) -> np.ndarray:
        product = self.product.astype(str)
        return np.select(
            [self.event == name for name in ("product_view", "favorite_remove", "cart_remove")],
            [np.char.add(path, product) for path in ("/api/v1/products/", "/api/v1/favorites/", "/api/v1/cart/items/")],
            _by_event(self.event, _PATHS, "/api/v1/recommendations"),
        )

    def requests(self) -> np.ndarray:
        request = np.full(len(self.event), '{"query":{},"body":{}}', dtype=object)
        listing_json = np.array([listing.query for listing in self.listings], dtype=object)
        at = self.event == "catalog"
        page = (self.page[at] + 1).astype(str).astype(object)
        request[at] = '{"query":{' + listing_json[self.listing[at]] + ',"page":' + page + ',"per_page":24},"body":{}}'
        product, quantity = (column.astype(str).astype(object) for column in (self.product, self.quantity))
        at = self.event == "favorite_add"
        request[at] = '{"query":{},"body":{"product_id":' + product[at] + "}}"
        at = self.event == "cart_add"
        request[at] = '{"query":{},"body":{"product_id":' + product[at] + ',"quantity":' + quantity[at] + "}}"
        return request

    def responses(self) -> np.ndarray:
        response = np.full(len(self.event), '{"ok":true}', dtype=object)
        pages = np.full((_LISTINGS, max(len(listing.pages) for listing in self.listings)), "", dtype=object)
        for number, listing in enumerate(self.listings):
            pages[number, : len(listing.pages)] = listing.pages
        at = self.event == "catalog"
        response[at] = pages[self.listing[at], self.page[at]]
        at = self.event == "product_view"
        response[at] = self.product_json[self.product[at]]
        at = self.event == "purchase"
        response[at] = [self._order(row) for row in np.flatnonzero(at).tolist()]
        return response

    def _order(self, row: int) -> str:
        ids = dict.fromkeys([self.product[row], self.second[row]])
        items = [(int(product), int(self.quantity[row]), int(self.price[product])) for product in ids]
        total = sum(quantity * cents for _, quantity, cents in items)
        listed = [{"product_id": p, "quantity": q, "price": cents / 100} for p, q, cents in items]
        return _dump({"order_id": f"o-{row}", "total": total / 100, "currency": "EUR", "items": listed})


_PATHS = {
    "catalog": "/api/v1/catalog", "favorite_add": "/api/v1/favorites", "cart_add": "/api/v1/cart/items",
    "cart_view": "/api/v1/cart", "checkout": "/api/v1/checkout", "purchase": "/api/v1/orders",
}  # fmt: skip


@dataclass(frozen=True)
class _Listing:
    query: str  # the inside of the request's query object
    products: np.ndarray  # in the order of the listing
    pages: list[str]  # the response of each page


def _listings(rng: np.random.Generator) -> list[_Listing]:
    prices = rng.integers(900, 90_000, _PRODUCTS) / 100
    popularity = rng.random(_PRODUCTS) * 0.5 + np.linspace(1, 0, _PRODUCTS)
    listings = []
    for number in range(_LISTINGS):
        section = number % len(_SECTIONS)
        members = np.flatnonzero(np.arange(_PRODUCTS) % len(_SECTIONS) == section)
        members = members[rng.random(len(members)) < rng.choice([0.08, 0.3, 1.0])]
        noise = rng.random(len(members)) * rng.choice([0.05, 1.0])
        products = members[np.argsort(-(popularity[members] + noise))][: _PAGE * 12]
        query: dict[str, object] = {
            "q": _WORDS[number % len(_WORDS)] if number % 4 == 0 else "",
            "section": [_SECTIONS[section]],
            "material": list(_MATERIALS[: number % 3]),
            "metal": [],
            "sort": _SORTS[number % len(_SORTS)],
        }
        if number % 5 == 0:
            query |= {"price_min": 10 + number % 50, "price_max": 499.5}
        pages = [
            _dump(
                {
                    "total": len(members),
                    "items": [{"id": int(p), "price": prices[p], "stock": 3} for p in products[at : at + _PAGE]],
                }
            )
            for at in range(0, len(products), _PAGE)
            if at + _PAGE <= len(products)  # every page is full, so that every catalog call shows 24
        ]
        listings.append(_Listing(_dump(query)[1:-1], products, pages))
    return listings


def _product_json(rng: np.random.Generator) -> np.ndarray:
    text = "Hand-finished in our own workshop from recycled metal, hallmarked, and sent in a gift box with a card. "
    return np.array(
        [
            _dump(
                {
                    "id": number,
                    "title": f"{_MATERIALS[number % 6]} {_SECTIONS[number % 6]} no. {number}",
                    "price": float(rng.integers(900, 90_000)) / 100,
                    "section": _SECTIONS[number % 6],
                    "material": _MATERIALS[number % 6],
                    "description": text * 3,
                    "images": [f"https://img.example/p/{number}/{at}.webp" for at in range(3)],
                    "stock": {"qty": number % 40, "warehouse": "A"},
                }
            )
            for number in range(_PRODUCTS)
        ],
        dtype=object,
    )


def _dump(document: dict[str, object]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _ips(rng: np.random.Generator, sessions: int) -> np.ndarray:
    parts = rng.integers(1, 255, (4, sessions)).astype(str)
    return np.array([".".join(part) for part in parts.T])


def _user_agents() -> np.ndarray:
    systems = (
        "Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7", "iPhone; CPU iPhone OS 18_3 like Mac OS X",
        "Linux; Android 15; SM-S931B", "Linux; Android 14; Pixel 8", "iPad; CPU OS 18_1 like Mac OS X",
        "X11; Linux x86_64",
    )  # fmt: skip
    engine = "AppleWebKit/537.36 (KHTML, like Gecko)"
    agents = [
        f"Mozilla/5.0 ({systems[number % len(systems)]}) {engine} Chrome/{80 + number % 71}.0.{number}.0 Safari/537.36"
        for number in range(_USER_AGENTS - 5)
    ]
    return np.array([*agents, *(f"Mozilla/5.0 (compatible; Examplebot/{n}.0)" for n in range(5))])


def _pages(
    rng: np.random.Generator, *, session: np.ndarray, first: np.ndarray, product: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The page and the referrer of each call; a session comes from outside, some with a campaign."""
    outside = np.array(
        [
            "",
            "",
            "https://www.google.com/",
            "https://www.bing.com/",
            "https://l.instagram.com/",
            "https://blog.example/",
        ]
    )
    campaigns = np.array(
        [""] * 7
        + [
            "?utm_source=google&utm_medium=cpc&utm_campaign=spring&gclid=Cj0KCQiA",
            "?utm_source=newsletter&utm_medium=email",
        ]
        + ["?utm_source=instagram&utm_medium=social&utm_campaign=spring+looks"]
    )
    own = np.char.add("https://shop.example/p/", product.astype(str))
    landing = np.char.add("https://shop.example/", campaigns[rng.integers(0, len(campaigns), len(session))])
    came_from = outside[rng.integers(0, len(outside), session[-1] + 1)][session]
    return np.where(first, landing, own), np.where(first, came_from, "https://shop.example/")


if __name__ == "__main__":  # in a process of its own: the engine's memory must not stay with the one that measures
    build(Dataset.under(Path(sys.argv[1]), int(sys.argv[2])))
