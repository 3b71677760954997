"""Words of shop APIs, in the singular: what a path, an operation or a key is about."""

import re
from functools import lru_cache

PRODUCT = frozenset("product item pdp article goods".split())
CATALOG = PRODUCT | frozenset("catalog search collection category listing suggest browse listing plp shop".split())
CART = frozenset("cart basket bag trolley minicart quote line".split())
FAVORITE = frozenset("wishlist favorite favourite wish saved".split())
CHECKOUT = frozenset("checkout shipping payment delivery billing".split())
ORDER = frozenset("order purchase".split())
PLACED = frozenset("complete completed place placed confirm confirmation thank thankyou success".split())
ADD = frozenset("add create append insert".split())
REMOVE = frozenset("remove delete removed deleted destroy clear".split())
UPDATE = frozenset("update change edit modify quantity qty set".split())
CANCEL = frozenset("cancel cancelled canceled cancellation void".split())
REFUND = frozenset("refund refunded".split())
LISTING = frozenset("search listing list catalog suggest collection category".split())
DETAIL = frozenset("detail pdp".split())
# Neighbours of products, carts and orders that are neither.
ELSEWHERE = frozenset(
    "review comment menu navigation recommendation recommended related selling upsell similar attribute config context"
    " account login register customer region country newsletter estimate coupon promotion promo rate rating token"
    " data variant option child children type fragment refresh preview analytics consent tracking health".split()
)
NEIGHBOURS = frozenset("review comment recommendation recommended related upsell similar".split())
# Events without which the draft is not of use: the four kinds.
ANY = PRODUCT | CATALOG | CART | FAVORITE | CHECKOUT | ORDER | PLACED | ADD | REMOVE | UPDATE | CANCEL | REFUND | ELSEWHERE

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
