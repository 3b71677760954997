"""Whether an endpoint map fits a shop's calls: what looks wrong, from plain counts per entry and field.

`carat map try` counts the calls of files. A build counts those of a day.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

MOST = 0.5
SOME = 0.1

# What an event is worth nothing without, and how to fix it.
_ESSENTIAL: Mapping[str, Mapping[str, str]] = {
    "catalog": {"shown_products": "point it at the ids of the products in the response"},
    "product_view": {"product_id": "point it at the product's id in the path, the request or the response"},
    "favorite_add": {"product_id": "point it at the product's id"},
    "favorite_remove": {"product_id": "point it at the product's id"},
    "cart_add": {"product_id": "point it at the product's id, or recall it by the id of the variant or line"},
    "cart_remove": {"product_id": "point it at the product's id, or recall it by the id of the line"},
    "cart_update": {"product_id": "point it at the product's id, or recall it by the id of the line"},
    "purchase": {
        "order_id": "point it at the order's id in the response, or test it in `when` if such calls are not orders",
        "revenue": "point it at the order's total, or recall the total of the cart",
        "order_products": "point it at the products of the order's lines, or recall them from the cart",
    },
    "order_cancel": {"order_id": "point it at the order's id"},
    "refund": {"order_id": "point it at the order's id"},
}
# Shoppers may leave these out, so many calls without one prove little.
_OPTIONAL = frozenset({
    "search_query", "section", "material", "metal", "price_min", "price_max", "page", "per_page", "sort",
})  # fmt: skip
# Bodies that the middleware could not read, by the document that they belong to; counted as if each were a field.
UNREAD_BODIES: Mapping[str, str] = {"request": "request body", "response": "response body"}
_FIX_UNREAD = (
    "let the middleware see bodies before they are compressed, raise its max_body_bytes, or install what it needs to "
    "read them: see Unread bodies in docs/middleware.md"
)
_ENOUGH_CALLS = 20
_ENOUGH_OPTIONAL_CALLS = 500
_ENOUGH_FOR_STEP = {"catalog": 200, "product_view": 200, "cart_add": 1_000, "purchase": 5_000}
_ENOUGH_ORDERS = 5
_ENOUGH_PRODUCTS = 3


@dataclass(frozen=True)
class FieldCount:
    """In how many calls of an entry a field has a value, how many values could not be read, how many lack a rate."""

    filled: int
    unreadable: int = 0
    without_rate: int = 0  # amounts in a currency that could not be converted


@dataclass(frozen=True)
class EntryCount:
    """The calls of one entry of the map, and its fields; the empty field stands for documents that are not objects."""

    entry: str
    event: str
    calls: int
    fields: Mapping[str, FieldCount] = field(default_factory=dict)


@dataclass(frozen=True)
class Coverage:
    """What the map made of some calls: `unmatched` are the successful calls that fit no entry."""

    calls: int
    unmatched: int
    entries: tuple[EntryCount, ...]
    has_currency: bool = False  # whether the map says one for calls that name none
    unmatched_unread: Mapping[str, int] = field(default_factory=dict)  # of the unmatched, by UNREAD_BODIES


@dataclass(frozen=True)
class Meeting:
    """Of the products of one step how many no earlier step had: "bought, never viewed: 12 of 15"."""

    step: str
    earlier: str
    products: int
    unmet: int
    examples: tuple[str, ...] = ()
    earlier_examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What looks wrong: the entry, the field (empty: the entry as a whole), the problem, and how to fix it."""

    entry: str
    field: str
    problem: str
    fix: str

    def __str__(self) -> str:
        where = " ".join(part for part in (self.entry, self.field) if part)
        return f"{where}: {self.problem}. {self.fix[:1].upper()}{self.fix[1:]}"


def find_misfits(coverage: Coverage) -> list[Finding]:
    """What looks wrong in the counts of some calls, the map as a whole first."""
    findings = list(_of_map(coverage))
    for entry in coverage.entries:
        if entry.calls:
            findings += _of_entry(entry, has_currency=coverage.has_currency)
    return findings


def find_strangers(meetings: Iterable[Meeting]) -> list[Finding]:
    """Steps most of whose products no earlier step had: one product probably has two ids."""
    findings = []
    for meeting in meetings:
        if meeting.products >= _ENOUGH_PRODUCTS and meeting.unmet > MOST * meeting.products:
            known = (
                f"; {meeting.earlier} were {', '.join(meeting.earlier_examples)}" if meeting.earlier_examples else ""
            )
            examples = f", e.g. {', '.join(meeting.examples)}" if meeting.examples else ""
            problem = f"never {meeting.earlier}: {meeting.unmet} of {meeting.products} products{examples}{known}"
            fix = "use the same id in every entry, or map variants and lines to products by recall or lookup"
            findings.append(Finding(meeting.step, "", problem, fix))
    return findings


def find_repeated_orders(orders: int, distinct_ids: int, examples: Iterable[str] = ()) -> list[Finding]:
    """Orders that mostly share their ids: the id is probably not the order's."""
    if orders < _ENOUGH_ORDERS or distinct_ids > MOST * orders:
        return []
    problem = f"{orders} orders have only {distinct_ids} different ids, e.g. {', '.join(examples)}"
    return [Finding("purchase", "order_id", problem, "point it at a value that differs between orders")]


def _of_map(coverage: Coverage) -> Iterator[Finding]:
    for name, unread in coverage.unmatched_unread.items():
        if unread > SOME * coverage.unmatched:
            problem = f"not read by the middleware in {unread} of {coverage.unmatched} calls that fit no entry"
            yield Finding("the map", name, problem, _FIX_UNREAD)
    matched = sum(entry.calls for entry in coverage.entries)
    if coverage.unmatched > MOST * (matched + coverage.unmatched):
        problem = f"{coverage.unmatched} of {matched + coverage.unmatched} successful calls fit no entry"
        yield Finding(
            "the map", "", problem, "add entries for the unmatched endpoints, or choose the map of your platform"
        )
    for event, enough in _ENOUGH_FOR_STEP.items():
        calls = sum(entry.calls for entry in coverage.entries if entry.event == event)
        if not calls and coverage.calls >= enough:
            problem = f"none of {coverage.calls} calls is a {event}"
            yield Finding("the map", "", problem, f"check the path, method and `when` of the {event} entries")


def _of_entry(entry: EntryCount, *, has_currency: bool) -> Iterator[Finding]:
    essential = _ESSENTIAL.get(entry.event, {})
    for name, fix in essential.items():
        filled = entry.fields.get(name, FieldCount(0)).filled
        missing = entry.calls - filled
        # The last page of a search may show nothing.
        limit = MOST if name == "shown_products" else SOME
        if missing > limit * entry.calls:
            yield Finding(entry.entry, name, f"empty in {missing} of {entry.calls} calls ({entry.event})", fix)
    if entry.event in {"purchase", "refund"} and not has_currency:
        missing = entry.calls - entry.fields.get("currency", FieldCount(0)).filled
        if missing > SOME * entry.calls:
            fix = 'point it at the currency\'s code, or set `currency = "EUR"` at the top of the map'
            yield Finding(entry.entry, "currency", f"empty in {missing} of {entry.calls} calls ({entry.event})", fix)
    for name, count in entry.fields.items():
        if count.without_rate:
            problem = f"{count.without_rate} of {count.filled} amounts have no rate of exchange"
            fix = "look at `currency` in dwh.events: correct its expression, or give newer rates (CARAT_RATES)"
            yield Finding(entry.entry, name, problem, fix)
        yield from _of_field(entry, name, count, is_essential=name in essential)


def _of_field(entry: EntryCount, name: str, count: FieldCount, *, is_essential: bool) -> Iterator[Finding]:
    if name in UNREAD_BODIES.values():
        # Each order counts: one without its body has no revenue.
        if count.unreadable > (0 if entry.event in {"purchase", "refund"} else SOME * entry.calls):
            problem = f"not read by the middleware in {count.unreadable} of {entry.calls} calls"
            yield Finding(entry.entry, name, problem, _FIX_UNREAD)
        return
    if count.unreadable and count.unreadable > SOME * (count.filled + count.unreadable):
        if not name:
            fix = "look at the examples: the response may be HTML, or a list where an object is expected"
            yield Finding(entry.entry, "", f"{count.unreadable} documents are not JSON objects", fix)
            return
        fix = "look at the examples; `decimal`, `match`, `split` or `decode` say how a value is written"
        problem = f"{count.unreadable} of {count.filled + count.unreadable} values cannot be read"
        yield Finding(entry.entry, name, problem, fix)
    elif name and not count.filled and not is_essential and name != "currency":
        is_optional = name in _OPTIONAL or name.startswith("filters.")
        if entry.calls >= (_ENOUGH_OPTIONAL_CALLS if is_optional else _ENOUGH_CALLS):
            problem = f"empty in all {entry.calls} calls"
            yield Finding(entry.entry, name, problem, "correct its expression, or remove the field")
