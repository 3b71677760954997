"""Words of shop APIs, in the singular: what a path, an operation or a key is about."""

import re
from functools import lru_cache


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


PRODUCT = _set("product item pdp article goods")
CATALOG = PRODUCT | _set("catalog search collection category listing suggest browse listing plp shop")
CART = _set("cart basket bag trolley minicart quote line")
FAVORITE = _set("wishlist favorite favourite wish saved")
CHECKOUT = _set("checkout shipping payment delivery billing")
ORDER = _set("order purchase")
PLACED = _set("complete completed place placed confirm confirmation thank thankyou success")
ADD = _set("add create append insert")
REMOVE = _set("remove delete removed deleted destroy clear")
UPDATE = _set("update change edit modify quantity qty set")
CANCEL = _set("cancel cancelled canceled cancellation void")
REFUND = _set("refund refunded")
LISTING = _set("search listing list catalog suggest collection category")
DETAIL = _set("detail pdp")
# Neighbours of products, carts and orders that are neither.
ELSEWHERE = _set(
    "review comment menu navigation recommendation recommended related selling upsell similar attribute config context"
    " account login register customer region country newsletter estimate coupon promotion promo rate rating token"
    " data variant option child children type fragment refresh preview analytics consent tracking health"
)
NEIGHBOURS = _set("review comment recommendation recommended related upsell similar")
ANY = (
    PRODUCT
    | CATALOG
    | CART
    | FAVORITE
    | CHECKOUT
    | ORDER
    | PLACED
    | ADD
    | REMOVE
    | UPDATE
    | CANCEL
    | REFUND
    | ELSEWHERE
)

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@lru_cache(maxsize=50_000)
def words_of(text: str) -> tuple[str, ...]:
    """The words of a name in any of the usual spellings, in lower case and in the singular."""
    return tuple(_singular(word.lower()) for word in _WORD.findall(text))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > len("ties"):
        return word.removesuffix("ies") + "y"
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word.removesuffix("s")
    return word


def plain(key: str) -> str:
    """A key without case and punctuation: `product_id`, `productId` and `product-id` are one."""
    return re.sub(r"[^a-z0-9]", "", key.lower())
