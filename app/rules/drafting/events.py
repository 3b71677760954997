"""Which event the calls of a group probably are, by words and by the shape of their documents."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.rules.drafting import words
from app.rules.drafting.groups import ID
from app.rules.drafting.shapes import Path, Profile

OTHER = "other"
HIGH, MEDIUM, LOW = "high", "medium", "low"
METHOD = re.compile(r"[A-Z-]+")
_BARE: Path = ("response",)
_OWN_LISTING = 4  # scores of lists
_STRONG_LISTING = 6


@dataclass(frozen=True)
class Guess:
    """What a group's calls probably are, how sure that is, and why."""

    event: str
    confidence: str = LOW
    reason: str = ""


def guess_event(profile: Profile, shown: frozenset[str] = frozenset()) -> Guess:
    """The event of a group's calls; `other` where nothing speaks for one. `shown` are the ids of listed products."""
    said = _Said.of(profile)
    if profile.group.calls == profile.group.failed:
        return Guess(OTHER, reason="every call failed")
    if profile.group.method in {"HEAD", "OPTIONS"} or not METHOD.fullmatch(profile.group.method):
        return Guess(OTHER, reason="not a call of a shopper")
    for rule in (_undone, _neighbour, _favorite, _purchase, _cart, _view, _catalog, _checkout):
        if guess := rule(said, profile):
            return guess
    if not profile.group.is_write and _leads_to(profile, shown):
        return Guess("product_view", LOW, "the path ends with the id of a product that was listed")
    return Guess(OTHER, reason="no word and no shape of an event")


@dataclass(frozen=True)
class _Said:
    """The words of a group: of its whole path and operation, and of their last part, which counts most."""

    all: frozenset[str]
    last: frozenset[str]
    is_write: bool
    ends_with_id: bool
    parent: frozenset[str]  # of the segment before a last id

    @classmethod
    def of(cls, profile: Profile) -> "_Said":
        group = profile.group
        static = [words.words_of(segment) for segment in group.path if segment != ID]
        ends_with_id = bool(group.path) and group.path[-1] == ID
        operation = group.operation
        path_words = frozenset(word for found in static for word in found)
        last = frozenset(static[-1]) if static else frozenset()
        if operation.words:
            route = operation.routes[-1] if operation.routes else ""
            segments = [one for one in route.split("/") if one]
            if len(segments) > 1:
                ends_with_id = segments[-1] == ID
                last = frozenset(words.words_of(segments[-2 if ends_with_id else -1]))
            else:
                last |= frozenset(operation.words)
        parent = last if ends_with_id else frozenset()
        return cls(path_words | frozenset(operation.words), last, group.is_write, ends_with_id, parent)


def _quoted(found: frozenset[str] | set[str]) -> str:
    return ", ".join(f'"{word}"' for word in sorted(found))


def _undone(said: _Said, profile: Profile) -> Guess | None:
    ids = profile.order_ids() or [path for path in profile.leaves if "order" in words.words_of(path[-1])]
    if found := said.all & words.REFUND:
        return Guess("refund", MEDIUM, f"{_quoted(found)}, and the id of an order") if said.is_write and ids else None
    if (found := said.all & words.CANCEL) and said.is_write and (ids or said.all & words.ORDER):
        return Guess("order_cancel", MEDIUM, _quoted(found | (said.all & words.ORDER)))
    return None


def _neighbour(said: _Said, profile: Profile) -> Guess | None:
    found = (said.last & words.ELSEWHERE) | (said.all & words.NEIGHBOURS)
    acts = said.all & (words.ADD | words.REMOVE | words.PLACED)
    if found and not (acts and said.is_write) and not _bare_order(said, profile):
        return Guess(OTHER, reason=f"{_quoted(found)}, a neighbour")
    return None


def _favorite(said: _Said, profile: Profile) -> Guess | None:
    found = said.all & words.FAVORITE
    if not found:
        return None
    if not said.is_write:
        return Guess(OTHER, reason=f"{_quoted(found)} is only read")
    is_removed = profile.group.method == "DELETE" or bool(said.all & words.REMOVE)
    return Guess("favorite_remove" if is_removed else "favorite_add", HIGH, f"{_quoted(found)}, and a change")


def _purchase(said: _Said, profile: Profile) -> Guess | None:  # noqa: PLR0911  a case each
    placed, order = said.all & words.PLACED, said.all & words.ORDER
    ids = profile.order_ids()
    is_of_shop = bool(order or said.all & (words.CART | words.CHECKOUT))
    if said.last & (words.REMOVE | words.UPDATE) or (said.all & words.CART and said.last & words.ADD):
        return None
    if placed and (is_of_shop or ids) and (said.is_write or ids) and not said.last & {"success"}:
        return Guess(
            "purchase", HIGH if ids else MEDIUM, _quoted(placed | order) + (", and the id of an order" if ids else "")
        )
    if _bare_order(said, profile):
        return Guess("purchase", MEDIUM, "a payment whose answer is an id alone")
    if not said.is_write:
        return None
    if order and ids and not said.ends_with_id and not (profile.listings() and not said.last & words.ORDER):
        return Guess("purchase", HIGH, f"{_quoted(order)} in a change, and the id of an order")
    named = [path for path in ids if "order" in words.plain("".join(path[1:]))]
    is_checkout = said.last & (words.CHECKOUT | words.PLACED)
    if is_checkout and any(path[0] == "response" for path in named):
        return Guess("purchase", MEDIUM, f"{_quoted(frozenset(is_checkout))}, and the answer has the id of an order")
    return None


def _bare_order(said: _Said, profile: Profile) -> bool:
    """A payment of a cart that answers with nothing but an id."""
    is_paid = said.is_write and "payment" in said.last and bool(said.all & (words.CART | words.ORDER | {"checkout"}))
    return is_paid and any(not isinstance(value, bool) for value in profile.flat(_BARE))


def _cart(said: _Said, profile: Profile) -> Guess | None:  # noqa: PLR0911  a case each
    found = said.all & words.CART
    acts = said.last & (words.ADD | words.REMOVE | words.UPDATE)
    if not found or ("checkout" in found and not acts):
        return None
    method = profile.group.method
    if not said.is_write:
        is_whole = bool(said.last & words.CART) or said.ends_with_id or bool(said.last & words.PRODUCT)
        if is_whole and not said.last & words.CHECKOUT:
            return Guess("cart_view", MEDIUM, f"{_quoted(found)} is read")
        return None
    removes = said.last & words.REMOVE or (said.all & words.REMOVE and not said.all & words.ADD)
    if method == "DELETE" or removes:
        return Guess("cart_remove", HIGH, f"{_quoted(found)}, and {'DELETE' if method == 'DELETE' else 'a removal'}")
    has_product = any(path[0] == "request" for _, path in profile.product_candidates())
    adds = said.last & words.ADD or said.all & words.ADD - {"create"}
    if adds and (has_product or said.last & words.CART or not said.last & words.CHECKOUT):
        return Guess("cart_add", HIGH if has_product else MEDIUM, f"{_quoted(found)}, and {_quoted(frozenset(adds))}")
    is_of_line = said.ends_with_id and bool(said.parent & (words.PRODUCT | {"line"}))
    if said.last & words.CHECKOUT and "line" not in said.last:
        return None
    if said.last & words.UPDATE or method in {"PATCH", "PUT"} or is_of_line:
        return Guess("cart_update", MEDIUM, f"{_quoted(found)}, and a change of what is in it")
    if has_product:
        return Guess("cart_add", MEDIUM, f"{_quoted(found)}, and the request names a product")
    return None


def _view(said: _Said, profile: Profile) -> Guess | None:
    if profile.group.is_write and profile.group.operation.words:
        return None
    about = (said.parent or said.last) & (words.PRODUCT | words.DETAIL)
    is_list = bool((said.parent or said.last) & words.LISTING) and (profile.listings() or _has_total(profile))
    if not about or (is_list and not said.last & words.DETAIL):
        return None
    names_one = said.ends_with_id or _asks_for_one(profile)
    is_plural = profile.lists_several() and not said.last & words.DETAIL
    if profile.has_product_object() and (names_one or not is_plural):
        return Guess(
            "product_view", HIGH, f"{_quoted(about)}, and the answer is one object with an id and a price or name"
        )
    if names_one and (not is_plural or said.ends_with_id):
        return Guess("product_view", MEDIUM, f"{_quoted(about)}, and the request names one")
    if said.last & words.DETAIL and profile.listings():
        return Guess("product_view", MEDIUM, f"{_quoted(about)}")
    return None


def _asks_for_one(profile: Profile) -> bool:
    keys = {"productid", "idproduct", "handle", "slug", "urlkey", "sku"}
    asked = [path for path in profile.leaves if path[0] == "request" and words.plain(path[-1]) in keys]
    return any(profile.share(path) > 1 / 2 for path in asked)


def _catalog(said: _Said, profile: Profile) -> Guess | None:
    listings = profile.listings()
    found = said.all & words.CATALOG
    is_about_categories = said.last <= {"category", "collection"} and not said.ends_with_id and not _is_page(profile)
    if is_about_categories and (not listings or listings[0][0] < _OWN_LISTING):
        return Guess(OTHER, reason="a list of categories")
    if listings and found and (not profile.group.is_write or _asks_for_many(said, profile)):
        strength = HIGH if listings[0][0] >= _OWN_LISTING else MEDIUM
        return Guess("catalog", strength, f"{_quoted(found)}, and the answer has a list of objects with ids")
    if listings and listings[0][0] >= _STRONG_LISTING and not profile.group.is_write and not _is_of_other(said):
        return Guess("catalog", MEDIUM, "the answer has a list of objects with ids and prices")
    if said.last & {"list", "listing", "search"} and found and not profile.group.is_write and _has_total(profile):
        return Guess("catalog", LOW, f"{_quoted(found)}, and the answer has a total")
    about = said.last & words.LISTING or said.parent & {"category", "collection"}
    if about and not profile.group.is_write and _is_page(profile):
        return Guess("catalog", LOW, f"{_quoted(frozenset(about))}, and the answer is a page")
    return None


def _is_of_other(said: _Said) -> bool:
    return bool(said.all & (words.CART | words.CHECKOUT | words.ORDER | words.FAVORITE | words.ELSEWHERE))


def _leads_to(profile: Profile, shown: frozenset[str]) -> bool:
    """Whether the path ends with a product that was listed, such as 17 or 17-gold-ring.html."""
    path = profile.group.path
    if not path or path[-1] != ID:
        return False
    values = profile.values(("path", str(len(path) - 1)))
    return bool(values) and any(value in shown or value.partition("-")[0] in shown for value in values)


def _has_total(profile: Profile) -> bool:
    return any(
        path[0] == "response" and words.plain(path[-1]) in {"totalcount", "total", "count"} for path in profile.leaves
    )


def _asks_for_many(said: _Said, profile: Profile) -> bool:
    keys = set(_request_keys(profile))
    return bool(said.all & words.LISTING) or bool(keys & {"limit", "page", "offset", "q", "query", "search", "filters"})


def _request_keys(profile: Profile) -> Iterator[str]:
    for path in profile.leaves:
        if path[0] == "request":
            yield words.plain(path[-1])


def _is_page(profile: Profile) -> bool:
    return any(isinstance(sample.response, str) and "<" in sample.response for sample in profile.samples)


def _checkout(said: _Said, profile: Profile) -> Guess | None:
    found = said.all & words.CHECKOUT
    if found and "create" in said.all and profile.listings():
        return Guess("cart_add", MEDIUM, f"{_quoted(found | {'create'})}, and the answer has lines")
    is_about = said.is_write or "checkout" in said.last
    if found and is_about:
        return Guess("checkout", MEDIUM if "checkout" in said.all else LOW, _quoted(found))
    order_page = said.last & words.ORDER and not said.is_write and _is_page(profile)
    return Guess("checkout", LOW, "a page of an order that is not placed yet") if order_page else None
