"""Where the fields of an event probably are: by the names of keys and by values that meet those of other calls."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from app.rules.drafting import words
from app.rules.drafting.shapes import Path, Profile, expression_of, has_value, product_rank, text_of
from app.rules.field_path import ITEMS
from app.rules.number_text import read_number

MEETS = 0.5
_GRAPHQL = (("body", "query"), ("query", "query"))
_OF_CART = 10  # behind every other name
_CENTS = 100
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_CATALOG_KEYS: dict[str, tuple[str, ...]] = {
    "search_query": ("q", "query", "search", "searchquery", "searchterm", "term", "keyword", "keywords", "s"),
    "page": ("page", "p", "currentpage", "pagenumber", "pageno"),
    "per_page": ("perpage", "limit", "pagesize", "resultsperpage", "first", "size", "n", "hitsperpage"),
    "sort": ("sort", "sortby", "orderby", "order", "sortkey", "sorting"),
    "price_min": ("pricemin", "minprice", "pricefrom", "pricegte"),
    "price_max": ("pricemax", "maxprice", "priceto", "pricelte"),
    "section": ("section", "category", "categoryid", "categories", "idcategory", "collection", "navigationid"),
    "material": ("material", "materials"),
    "metal": ("metal", "metals"),
}  # fmt: skip
_FILTERS = (
    "stone",
    "size",
    "brand",
    "color",
    "colour",
    "manufacturer",
    "manufacturers",
    "properties",
    "gender",
    "style",
)
_OFFSETS = ("offset", "skip", "start")
_TOTALS = ("totalcount", "total", "totalresults", "totalitems", "producttotal", "count", "estimatedtotalhits", "nbhits")
_QUANTITIES = ("quantity", "qty", "amount", "count", "cartquantity")
_PRICES = ("price", "unitprice", "priceamount", "finalprice", "calculatedprice", "amount", "grossprice", "saleprice")
_REVENUES = (
    "grandtotal",
    "amounttotal",
    "ordertotal",
    "totalprice",
    "totalamount",
    "total",
    "totalpaid",
    "value",
    "revenue",
)
_PARTS_OF_TOTAL = frozenset(
    {
        "item",
        "shipping",
        "tax",
        "discount",
        "sub",
        "subtotal",
        "net",
        "fee",
        "delivery",
        "position",
        "line",
        "coupon",
        "refund",
    }
)
_AMOUNTS = ("amount", "total", "gross", "value", "totalprice", "centamount")
_MINOR = ("minorunit", "decimals", "fractiondigits", "exponent")


@dataclass(frozen=True)
class FieldGuess:
    """A field, the value of its key in the map, and why."""

    name: str
    value: str  # TOML
    reason: str = ""


@dataclass
class Products:
    """The ids of products that lists have shown, by the key that holds them; and which key the draft uses."""

    shown: dict[str, set[str]] = field(default_factory=dict)
    key: str = ""

    @property
    def ids(self) -> set[str]:
        """The ids under the key in use."""
        return self.shown.get(self.key, set())

    def share(self, values: Sequence[str]) -> float:
        """The share of the values that are ids of products that were shown."""
        return sum(value in self.ids for value in values) / len(values) if values else 0


@dataclass(frozen=True)
class Drafted:
    """The fields of an entry, what it remembers, and which path is named by a placeholder."""

    fields: tuple[FieldGuess, ...]
    remember: tuple[FieldGuess, ...] = ()


def find_products(catalogs: Sequence[Profile], others: Sequence[Profile]) -> Products:
    """Which key of the listed products holds the ids that views, carts and orders use."""
    products = Products()
    for profile in catalogs:
        for _, prefix in profile.listings()[:1]:
            for path in _ids_of_list(profile, prefix):
                key = words.plain(path[-1])
                listed = profile.group.listed.get(key, set())
                products.shown.setdefault(key, set()).update(profile.values(path), listed)
    candidates = [[profile.values(path) for _, path in profile.product_candidates()] for profile in others]

    def meetings(key: str) -> int:
        shown = products.shown[key]
        return sum(
            any(values and sum(v in shown for v in values) > MEETS * len(values) for values in paths)
            for paths in candidates
        )

    ranked = sorted(products.shown, key=lambda key: (-meetings(key), product_rank(("response", ITEMS, key)) or 0, key))
    products.key = ranked[0] if ranked else ""
    return products


def _ids_of_list(profile: Profile, prefix: Path) -> list[Path]:
    """The paths of a list that hold ids of its objects, the best first."""
    found = [
        (rank, len(path), path)
        for rank, path in profile.product_candidates()
        if path[: len(prefix)] == prefix and ITEMS not in path[len(prefix) :] and len(path) - len(prefix) <= 2  # noqa: PLR2004
    ]
    return [path for *_, path in sorted(found)]


def guess_fields(event: str, profile: Profile, products: Products, names: dict[str, str]) -> Drafted:
    """The fields of an event in these calls; `names` are those of the path's placeholders by their place."""
    drafter = _Drafter(profile, products, names)
    if event == "catalog":
        return Drafted(tuple(drafter.catalog()))
    if event == "purchase":
        return Drafted(tuple(drafter.purchase()))
    if event in {"order_cancel", "refund"}:
        return Drafted(tuple(drafter.undone(event)))
    if event in {"cart_view", "checkout", "other"}:
        return Drafted(())
    return drafter.of_product(event)


def cart_values(profile: Profile, products: Products) -> dict[str, tuple[str, int]]:
    """What answers say of a whole cart: total, products, quantities and prices, as expressions with their decimals."""
    return _Drafter(profile, products, {}).cart()


@dataclass(frozen=True)
class _Drafter:
    profile: Profile
    products: Products
    names: dict[str, str]

    # ---- catalog -------------------------------------------------------------------------------------------------

    def catalog(self) -> Iterator[FieldGuess]:
        is_under_section = bool(set(self._words_before_last()) & {"category", "collection", "listing"})
        for name, keys in _CATALOG_KEYS.items():
            if (paths := self._request_paths(keys)) and not (name == "section" and is_under_section):
                yield FieldGuess(name, _several(paths))
        if not self._request_paths(_CATALOG_KEYS["page"]) and (paths := self._request_paths(_OFFSETS)):
            yield FieldGuess("page", f"{{ path = {toml_text(expression_of(paths[0]))}, offset = true }}", "an offset")
        for filter_name in _FILTERS:
            if paths := self._request_paths((filter_name,)):
                yield FieldGuess(f"filters.{filter_name}", _several(paths))
        totals = [path for path in self.profile.leaves if path[0] == "response" and ITEMS not in path]
        if found := _by_keys(totals, _TOTALS, is_fit=lambda path: _all_counts(self.profile.flat(path))):
            yield FieldGuess("results_total", toml_text(expression_of(found[0])))
        for _, prefix in self.profile.listings()[:1]:
            paths = _ids_of_list(self.profile, prefix)
            best = [path for path in paths if words.plain(path[-1]) == self.products.key] or paths
            if self.names and is_under_section:
                yield FieldGuess("section", f'"path.{list(self.names.values())[-1]}"', "what the listing is of")
            if best:
                yield FieldGuess(
                    "shown_products",
                    toml_text(expression_of(best[0])),
                    f"a list of {len(self.profile.values(best[0]))} different ids",
                )

    def _words_before_last(self) -> tuple[str, ...]:
        path = self.profile.group.path
        places = [place for place, segment in enumerate(path) if segment == "{id}"]
        return words.words_of(path[places[-1] - 1]) if places and places[-1] else ()

    def _request_paths(self, keys: Sequence[str]) -> list[Path]:
        paths = [path for path in self.profile.leaves if path[0] == "request" and path.count(ITEMS) <= 1]
        paths = [path[:-1] if path[-1] == ITEMS else path for path in paths]
        paths = [path for path in dict.fromkeys(paths) if ITEMS not in path]
        found = _by_keys(
            paths, keys, is_fit=lambda path: path[1:] not in _GRAPHQL or not self.profile.group.operation.words
        )
        return found[:2]

    # ---- products ------------------------------------------------------------------------------------------------

    def of_product(self, event: str) -> Drafted:
        path, share = self._product_path(event)
        fields: list[FieldGuess] = []
        remember: list[FieldGuess] = []
        if path is not None:
            value = toml_text(self._expression(path))
            if share < MEETS and event.startswith("cart") and (pair := self._translation(path)):
                key, product = pair
                name = f"{words.plain(path[-1])}s" if path[0] != "path" else "lines"
                value = f'{{ path = {value}, recall = "{name}" }}'
                remember.append(
                    FieldGuess(
                        name,
                        f"{{ key = {toml_text(expression_of(key))}, value = {toml_text(expression_of(product))} }}",
                    )
                )
                fields.append(FieldGuess("product_id", value, "the answer says which product belongs to it"))
            else:
                fields.append(FieldGuess("product_id", value, self._meeting(share)))
            if event != "product_view":
                fields += self._next_to(path, "quantity", _QUANTITIES)
        if event == "product_view":
            fields += self._price()
        if event in {"product_view", "cart_add"}:
            fields += self._currency()
        return Drafted(tuple(fields), tuple(remember))

    def _meeting(self, share: float) -> str:
        if not self.products.ids:
            return "no list shows which ids the shop uses"
        if not share:
            return "NONE of the sampled values was seen in a list"
        return f"{share:.0%} of the sampled values were seen in lists"

    def _product_path(self, event: str) -> tuple[Path | None, float]:
        """The path that most probably holds the product: its values were shown, then its name."""
        best: tuple[float, int, int, int, Path] | None = None
        for rank, path in self.profile.product_candidates():
            if event != "product_view" and path[0] == "response" and ITEMS in path:
                continue  # the whole cart, not what was changed
            values = [value for value in self.profile.values(path) if value]
            is_listed = self.products.share(values) >= MEETS
            if path[0] == "path" and is_listed:
                rank = 0  # noqa: PLW2901
            if event != "product_view" and not is_listed and rank > 1:
                if path[0] == "response":
                    continue  # the id of the cart or the line
                rank += _OF_CART * (path[-2:] == ("variables", "id"))  # noqa: PLW2901
            if not values or (path[0] == "path" and not self._is_placeholder_of_product(path)):
                continue
            share = round(self.products.share(values), 1)
            score = (-(share if share >= MEETS else 0), rank, -round(10 * self.profile.share(path)), len(path), path)
            best = score if best is None or score < best else best
        return (None, 0.0) if best is None else (best[4], -best[0])

    def _is_placeholder_of_product(self, path: Path) -> bool:
        place, segments = int(path[1]), self.profile.group.path
        before = set(words.words_of(segments[place - 1])) if place else set()
        return place == len(segments) - 1 or bool(before & words.PRODUCT)

    def _translation(self, path: Path) -> tuple[Path, Path] | None:
        """Two paths of a list in the answer: one holds the request's values, the other products that were shown."""
        asked = set(self.profile.values(path))
        lists: dict[Path, list[Path]] = {}
        for one in self.profile.leaves:
            if one[0] == "response" and one.count(ITEMS) == 1:
                lists.setdefault(one[: one.index(ITEMS) + 1], []).append(one)
        for paths in lists.values():
            keys = [one for one in paths if asked & set(self.profile.values(one)) and not self._is_shown(one)]
            products = [one for one in paths if self._is_shown(one) and product_rank(one) is not None]
            if keys and products:
                return min(keys, key=len), min(products, key=lambda one: (product_rank(one) or 0, len(one)))
        return None

    def _is_shown(self, path: Path) -> bool:
        return self.products.share(self.profile.values(path)) >= MEETS

    def _next_to(self, path: Path, name: str, keys: Sequence[str]) -> list[FieldGuess]:
        """A field next to another one: in the same object, or elsewhere in the request."""
        is_number = lambda one: _all_numbers(self.profile.flat(one))  # noqa: E731
        same = [one for one in self.profile.leaves if one[:-1] == path[:-1] and one[0] == path[0]]
        asked = [one for one in self.profile.leaves if one[0] == "request" and ITEMS not in one]
        found = _by_keys(same, keys, is_fit=is_number) or _by_keys(asked, keys, is_fit=is_number)
        return [FieldGuess(name, toml_text(expression_of(found[0])))] if found else []

    def _price(self) -> list[FieldGuess]:
        paths = [path for path in self.profile.leaves if path[0] == "response" and ITEMS not in path]
        is_price = lambda path: _all_numbers(self.profile.flat(path)) and _is_about_price(path)  # noqa: E731
        found = _by_keys(paths, _PRICES, is_fit=is_price)
        return [self._amounts("price", self.profile.covering(found))] if found else []

    # ---- orders --------------------------------------------------------------------------------------------------

    def purchase(self) -> Iterator[FieldGuess]:
        if ids := self.profile.order_ids():
            yield FieldGuess("order_id", _several(self.profile.covering(ids)))
        elif self.profile.flat(("response",)):
            yield FieldGuess("order_id", '"response"', "the answer is the id alone")
        if ranked := self._totals():
            yield self._amounts("revenue", self.profile.covering(ranked))
        yield from self._currency()
        yield from self._lines()

    def _totals(self) -> list[Path]:
        """Where the total of an order or cart may stand, the best first."""
        found = []
        for path in self.profile.leaves:
            if ITEMS in path or path[0] == "path" or len(path) == 1 or _is_part(path) or not _is_total(path):
                continue
            values = self.profile.flat(path)
            if _all_numbers(values) and any(_amounts(values)):
                found.append((_total_rank(path), path[0] == "request", len(path), path))
        return [path for *_, path in sorted(found)]

    def _currency(self) -> Iterator[FieldGuess]:
        codes = [path for path in self.profile.leaves if ITEMS not in path and path[0] in {"response", "request"}]
        codes = [
            path
            for path in codes
            if any("currency" in words.plain(key) or words.plain(key) == "isocode" for key in path[-2:])
        ]
        codes = [path for path in codes if all(_CURRENCY.fullmatch(str(value)) for value in self.profile.flat(path))]
        if codes:
            ranked = sorted(codes, key=lambda path: (path[0] == "request", len(path), path))
            yield FieldGuess("currency", _several(self.profile.covering(ranked)))

    def _lines(self) -> Iterator[FieldGuess]:
        scored = sorted(
            (-round(self.products.share(self.profile.values(path)), 1), rank, path[0] == "request", len(path), path)
            for rank, path in self.profile.product_candidates()
            if path.count(ITEMS) == 1 and path[0] != "path"
        )
        if not scored:
            return
        best = scored[0]
        alike = [path for *score, path in scored if score[0] == best[0] and (-best[0] >= MEETS or path == best[-1])]
        paths = self.profile.covering(alike)
        yield FieldGuess("order_products", _several(paths), self._meeting(-best[0]))
        quantities: list[Path] = []
        prices: list[Path] = []
        for path in paths:
            quantity, price = self._of_line(path)
            quantities += [quantity] if quantity else []
            prices += [price] if price else []
        if quantities:
            yield FieldGuess("order_quantities", _several(quantities))
        if prices:
            yield self._amounts("order_prices", prices)

    def undone(self, event: str) -> Iterator[FieldGuess]:
        named = self.profile.order_ids()
        asked = [path for path in named if path[0] == "request"] or named
        if asked:
            yield FieldGuess("order_id", toml_text(expression_of(asked[0])))
        elif self.names:
            yield FieldGuess("order_id", f'"path.{list(self.names.values())[-1]}"', "the id in the path")
        paths = [path for path in self.profile.leaves if path[0] in {"request", "response"} and path.count(ITEMS) <= 1]
        is_money = lambda path: _all_numbers(self.profile.flat(path))  # noqa: E731
        if event == "refund" and (found := _by_keys(paths, _AMOUNTS, is_fit=is_money)):
            yield self._money("amount", found[0])

    # ---- what a cart says and the order needs --------------------------------------------------------------------

    def cart(self) -> dict[str, tuple[str, int]]:
        """What the answer says of the whole cart: by the name to remember, the expression and its decimals."""
        found: dict[str, tuple[str, int]] = {}
        if totals := [path for path in self._totals() if path[0] == "response"]:
            found["total"] = (expression_of(totals[0]), self._decimals(totals[0]))
        lines = [
            path for _, path in self.profile.product_candidates() if path[0] == "response" and path.count(ITEMS) == 1
        ]
        lines = [path for path in lines if self.products.share(self.profile.values(path)) >= MEETS]
        if lines:
            products, quantities, prices = lines[0], *self._of_line(lines[0])
            found["products"] = (expression_of(products), 0)
            if quantities:
                found["quantities"] = (expression_of(quantities), 0)
            if prices:
                found["prices"] = (expression_of(prices), self._decimals(prices))
        return found

    def _decimals(self, path: Path) -> int:
        """The decimals of an amount in cents, where its answers agree on them; 0 where it is in main units."""
        if minor := self._minor(path, in_list=ITEMS in path):
            said = {text_of(value) for value in self.profile.flat(minor)}
            return int(said.pop()) if len(said) == 1 and all(one.isdigit() for one in said) else 0
        return 2 if any("cent" in words.words_of(key) for key in path) else 0

    def _of_line(self, path: Path) -> tuple[Path | None, Path | None]:
        """Where the quantity and the price of a line stand, next to its product."""
        prefix = path[: path.index(ITEMS) + 1]
        inside = [one for one in self.profile.leaves if one[: len(prefix)] == prefix and one.count(ITEMS) == 1]
        numbers = [one for one in inside if _all_numbers(self.profile.flat(one))]
        quantities = _by_keys(numbers, _QUANTITIES[:2], is_fit=lambda _: True)
        prices = _by_keys(numbers, _PRICES, is_fit=_is_about_price)
        return (quantities[0] if quantities else None), (prices[0] if prices else None)

    # ---- money ---------------------------------------------------------------------------------------------------

    def _amounts(self, name: str, paths: Sequence[Path]) -> FieldGuess:
        """A field of money that stands in one of several places."""
        guesses = [self._money(name, path) for path in paths]
        if len(guesses) == 1:
            return guesses[0]
        reasons = dict.fromkeys(one.reason for one in guesses if one.reason)
        return FieldGuess(name, f"[{', '.join(one.value for one in guesses)}]", "; ".join(reasons))

    def _money(self, name: str, path: Path) -> FieldGuess:
        """A field of money; `minor_units` where something says that the amount is in cents."""
        expression = toml_text(self._expression(path))
        if minor := self._minor(path):
            value = f"{{ path = {expression}, minor_units = {toml_text(expression_of(minor))} }}"
            return FieldGuess(name, value, "a neighbour says the decimals")
        if any("cent" in words.words_of(key) for key in path):
            return FieldGuess(name, f"{{ path = {expression}, minor_units = 2 }}", "its name says cents")
        if self._is_cents_of_another(path):
            return FieldGuess(
                name, f"{{ path = {expression}, minor_units = 2 }}", "100 times another amount of the same calls"
            )
        return FieldGuess(name, expression)

    def _minor(self, path: Path, *, in_list: bool = False) -> Path | None:
        """A neighbour of an amount that says how many decimals it has."""
        for one in self.profile.leaves:
            is_near = one[:-1] in {path[:-1], path[:-2]}
            if (
                is_near
                and (in_list or ITEMS not in one)
                and any(words.plain(one[-1]).endswith(minor) for minor in _MINOR)
            ):
                return one
        return None

    def _is_cents_of_another(self, path: Path) -> bool:
        amounts = _amounts(self.profile.flat(path))
        if not amounts or any(amount != int(amount) for amount in amounts):
            return False
        others = [
            one
            for one in self.profile.leaves
            if one != path and _is_about_price(one) and one.count(ITEMS) == path.count(ITEMS)
        ]
        return any(_amounts(self.profile.flat(one)) == [amount / _CENTS for amount in amounts] for one in others)

    def _expression(self, path: Path) -> str:
        return f"path.{self.names[path[1]]}" if path[0] == "path" else expression_of(path)


# ---- values ------------------------------------------------------------------------------------------------------


def _amounts(values: Sequence[object]) -> list[float]:
    numbers = [read_number(text_of(value), "") for value in values if has_value(value)]
    return [float(number) for number in numbers if number is not None]


def _all_numbers(values: Sequence[object]) -> bool:
    given = [value for value in values if value not in ("", None)]
    return bool(given) and all(not isinstance(value, bool) and _is_number(value) for value in given)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, str) and any(c.isdigit() for c in value) and read_number(value, ".") is not None
    )


def _all_counts(values: Sequence[object]) -> bool:
    return bool(values) and all(text_of(value).isdigit() for value in values)


def _is_about_price(path: Path) -> bool:
    return any("price" in words.plain(key) or "amount" in words.plain(key) for key in path if key != ITEMS)


def _is_part(path: Path) -> bool:
    return any(set(words.words_of(key)) & _PARTS_OF_TOTAL for key in path[1:] if words.plain(key) not in _REVENUES)


def _is_total(path: Path) -> bool:
    return _total_rank(path) < len(_REVENUES)


def _total_rank(path: Path) -> int:
    """How well one of the last keys says that an amount is an order's total: 0 the best."""
    keys = [words.plain(key) for key in path[1:]]
    last = keys[-1] if keys else ""
    if last not in (*_REVENUES, *_AMOUNTS) and not last.startswith("total"):
        return len(_REVENUES)
    ranks = [_REVENUES.index(key) for key in keys if key in _REVENUES]
    return min(ranks, default=len(_REVENUES))


def _by_keys(paths: Sequence[Path], keys: Sequence[str], *, is_fit: Callable[[Path], bool]) -> list[Path]:
    """The paths whose last key is one of the names, in the order of the names, then the shorter one."""
    ranks = {key: rank for rank, key in enumerate(keys)}
    found = [(ranks[words.plain(path[-1])], len(path), path) for path in paths if words.plain(path[-1]) in ranks]
    return [path for *_, path in sorted(found) if is_fit(path)]


def _several(paths: Sequence[Path]) -> str:
    written = [toml_text(expression_of(path)) for path in paths]
    return written[0] if len(written) == 1 else f"[{', '.join(written)}]"


def toml_text(text: str) -> str:
    """A text in TOML: in single quotes where it holds double ones."""
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
