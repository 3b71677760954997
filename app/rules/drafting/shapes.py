"""What the documents of a group hold: values by path, lists of products, objects, ids of orders."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.rules.drafting import words
from app.rules.drafting.groups import ID, Group, Sample, without_extension
from app.rules.drafting.operations import quoted
from app.rules.field_path import ITEMS

Path = tuple[str, ...]  # such as ("response", "items", ITEMS, "id")

_MAX_LEAVES = 600
_LONGEST_KEY = 80
_PRODUCT_LISTS = frozenset({"product", "item", "element", "hit", "result", "node", "edge", "good", "article"})
_CONTAINERS = frozenset({"node", "edge", "element"})
_OTHER_LISTS = frozenset(
    {
        "variant",
        "option",
        "image",
        "category",
        "collection",
        "filter",
        "aggregation",
        "facet",
        "page",
        "currency",
        "attribute",
        "region",
        "error",
        "media",
        "tag",
        "menu",
        "breadcrumb",
        "payment",
        "shipping",
        "review",
        "method",
        "sorting",
        "order",
        "coupon",
        "discount",
        "fee",
    }
)
_NEVER_PRODUCTS = frozenset({"payment", "shipping", "address", "coupon", "discount", "tax", "totals"})
_PRODUCT_KEYS = {
    "productid": 0, "idproduct": 0, "product": 0, "sku": 1, "productsku": 1, "id": 2, "uid": 2, "itemid": 2,
    "referencedid": 2, "variantid": 3, "merchandiseid": 3, "handle": 4, "slug": 4, "urlkey": 4, "key": 5, "lineid": 5,
}  # fmt: skip
_ORDER_KEYS = {
    "orderid": 0, "idorder": 0, "orderno": 2, "ordernumber": 2, "incrementid": 2, "ordernum": 2, "orderref": 2,
}  # fmt: skip
_OF_ORDERS = frozenset({
    "ordernumber", "displayid", "paymentstatus", "financialstatus", "fulfillmentstatus", "orderkey", "amounttotal",
})  # fmt: skip
_NAMES = frozenset({"name", "title", "label"})


@dataclass
class Profile:
    """The scalar values of a group's samples by path: for each sample that has the path, its number and values."""

    group: Group
    leaves: dict[Path, dict[int, list[Any]]] = field(default_factory=dict)

    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def of(cls, group: Group, *, without: frozenset[int] = frozenset()) -> "Profile":
        """The values of the group's samples, without those of some numbers."""
        samples = [sample for number, sample in enumerate(group.samples) if number not in without]
        profile = cls(group, samples=samples)
        for number, sample in enumerate(samples):
            for path, value in _leaves_of_sample(sample, group):
                if path in profile.leaves or len(profile.leaves) < _MAX_LEAVES:
                    profile.leaves.setdefault(path, {}).setdefault(number, []).append(value)
        return profile

    def values(self, path: Path) -> list[str]:
        """The distinct values of a path as text, in their order."""
        found = self.leaves.get(path, {})
        return list(dict.fromkeys(text_of(value) for values in found.values() for value in values))

    def share(self, path: Path) -> float:
        """The share of the samples in which the path has a value."""
        return len(self.leaves.get(path, {})) / max(1, len(self.samples))

    def product_candidates(self) -> list[tuple[int, Path]]:
        """Paths that may hold a product's id, with the rank of their names, the best first."""
        found = [(rank, path) for path in self.leaves if (rank := product_rank(path)) is not None]
        return sorted(found, key=lambda one: (one[0], len(one[1]), one[1]))

    def listings(self) -> list[tuple[int, Path]]:
        """Lists of the answer that look like products, with a score, the best first; the paths end with ITEMS."""
        prefixes: dict[Path, set[str]] = {}
        for path in self.leaves:
            if path[0] == "response" and path.count(ITEMS) == 1:
                end = path.index(ITEMS) + 1
                prefixes.setdefault(path[:end], set()).update(words.plain(key) for key in path[end:])
        scored = [(score, prefix) for prefix, keys in prefixes.items() if (score := _listing_score(prefix, keys)) > 1]
        return sorted(scored, key=lambda one: (-one[0], len(one[1]), one[1]))

    def covering(self, paths: Sequence[Path], limit: int = 3) -> list[Path]:
        """The first path, and of the others those that have a value where the ones before have none."""
        kept: list[Path] = []
        covered: set[int] = set()
        for path in paths:
            numbers = {n for n, values in self.leaves[path].items() if any(has_value(value) for value in values)}
            if (not kept or numbers - covered) and len(kept) < limit:
                kept.append(path)
                covered |= numbers
        return kept

    def lists_several(self) -> bool:
        """Whether an answer lists products, more than one where the request names one."""
        for _, prefix in self.listings():
            paths = [path for path in self.leaves if path[: len(prefix)] == prefix and path.count(ITEMS) == 1]
            if any(len(values) > 1 for path in paths for values in self.leaves[path].values()):
                return True
        names = {"handle", "slug", "urlkey"}
        return bool(self.listings()) and not any(
            path[:2] == ("request", "query") and words.plain(path[-1]) in names for path in self.leaves
        )

    def order_ids(self) -> list[Path]:
        """Paths that may hold the id of an order, the best first."""
        found = []
        for path in self.leaves:
            rank = self._order_rank(path)
            if rank is not None:
                found.append((rank, path[0] != "response", len(path), path))
        return [path for *_, path in sorted(found)]

    def _order_rank(self, path: Path) -> int | None:
        if ITEMS in path or not any(has_value(value) for value in self.flat(path)):
            return None
        key, parent = words.plain(path[-1]), words.plain(path[-2]) if len(path) > 1 else ""
        if key in _ORDER_KEYS:
            return _ORDER_KEYS[key]
        if key in {"id", "number", "uid"}:
            if parent.endswith("order"):
                return 0 if key == "id" else 2
            siblings = {words.plain(other[-1]) for other in self.leaves if other[:-1] == path[:-1]}
            if key == "id" and siblings & _OF_ORDERS:
                return 1
        return None

    def flat(self, path: Path) -> list[Any]:
        """All values of a path, one after the other."""
        return [value for values in self.leaves.get(path, {}).values() for value in values]

    def has_product_object(self) -> bool:
        """Whether answers are about one product: an object with an id and a price or a name, outside of lists."""
        for path in self.leaves:
            if (
                path[0] == "response"
                and ITEMS not in path
                and words.plain(path[-1]) in {"id", "sku", "productid", "uid"}
            ):
                prefix = path[:-1]
                below = {words.plain(other[-1]) for other in self.leaves if other[: len(prefix)] == prefix}
                has_price = any("price" in key for key in below)
                if len(prefix) <= len(("response", "data", "x")) and (has_price or below & _NAMES):
                    return True
        return False


def product_rank(path: Path) -> int | None:
    """How well a path's name says that it holds a product's id, 0 the best; None if it does not."""
    key = words.plain(path[-1])
    rank = _PRODUCT_KEYS.get(key)
    if path[0] == "path":
        return 2
    if rank is None:
        return None
    parents = [words.plain(one) for one in path[1:-1] if one != ITEMS]
    said = {word for one in path[1:-1] for word in words.words_of(one)}
    if said & _NEVER_PRODUCTS or (len(path) > 1 and set(words.words_of(path[-2])) & _OTHER_LISTS - {"variant"}):
        return None
    if rank == _PRODUCT_KEYS["id"] and parents and parents[-1] == "product":
        return 0
    return rank


def _listing_score(prefix: Path, keys: set[str]) -> int:
    if not keys & set(_PRODUCT_KEYS):
        return 0
    names = [word for key in prefix[1:-1] for word in words.words_of(key)]
    outer = names
    while outer and outer[-1] in _CONTAINERS:
        outer = outer[:-1]
    if set(outer[-1:]) & _OTHER_LISTS or (outer == names and set(names[-1:]) & _OTHER_LISTS):
        return 0
    score = 1
    score += 2 * any(name in _PRODUCT_LISTS for name in names[-2:])
    score += 2 * any("price" in key for key in keys)
    score += bool(keys & (_NAMES | {"handle", "slug"}))
    score += 3 * ("product" in names)
    return score


def has_value(value: Any) -> bool:
    """Whether a value counts as one."""
    return not (value is None or value is False or value in ("", "false", "null", "0", 0))


def text_of(value: Any) -> str:
    """A scalar as the text that ids and conditions are compared by."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def expression_of(path: Path) -> str:
    """The path as an expression of the map."""
    text = path[0]
    for key in path[1:]:
        text += "[]" if key == ITEMS else f".{quoted(key)}"
    return text


def _leaves_of_sample(sample: Sample, group: Group) -> Iterator[tuple[Path, Any]]:
    for place, segment in enumerate(group.path):
        if segment == ID and place < len(sample.segments):
            yield ("path", str(place)), without_extension(sample.segments[place])
    for side in ("query", "body"):
        if side in sample.request:
            yield from _leaves(sample.request[side], ("request", side))
    yield from _leaves(sample.response, ("response",))


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY and key.isprintable():
                yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one, (*path, ITEMS))
    elif value is not None and (len(path) > 1 or not isinstance(value, str) or _is_bare_id(value)):
        yield path, value


def _is_bare_id(text: str) -> bool:
    return len(text) <= len("00000000-0000-0000-0000-000000000000") and text.isalnum()
