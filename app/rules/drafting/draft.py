"""An endpoint map proposed from the calls of a log, as TOML to edit."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from app.rules.drafting import words
from app.rules.drafting.events import METHOD, OTHER, Guess, guess_event
from app.rules.drafting.failures import Success, success_conditions
from app.rules.drafting.fields import Drafted, FieldGuess, Products, cart_values, find_products, guess_fields, toml_text
from app.rules.drafting.groups import ID, CallGroups, Group
from app.rules.drafting.shapes import Profile
from app.rules.endpoint_map import EVENTS, FIELDS
from app.rules.expressions import MAX_LENGTH

_KINDS = ("catalog", "product_view", "cart_add", "purchase")
_OF_PRODUCTS = ("product_view", "favorite_add", "favorite_remove", "cart_add", "cart_remove", "cart_update", "purchase")
_CHANGES = ("purchase", "cart_add", "cart_update", "cart_remove", "order_cancel", "refund")
_OF_CART = {
    "total": "revenue",
    "products": "order_products",
    "quantities": "order_quantities",
    "prices": "order_prices",
}
_CARTS = ("cart_view", "cart_add", "cart_update", "cart_remove", "checkout")
_NOTHING = "no call looks like an event; this entry stands for the first one that you write"
_UNMATCHED_SHOWN = 50
_WIDTH = 110
_NUMBERED_SLUG = re.compile(r"\d+-.+")
_EXTENSION = re.compile(r"\.(?:json|js|html?|php|xml)$")


@dataclass
class Entry:
    """One entry of the draft and what it was guessed from."""

    group: Group
    profile: Profile
    guess: Guess
    path: str
    names: dict[str, str]
    when: str = ""
    why: list[str] = field(default_factory=list)
    drafted: Drafted = field(default_factory=lambda: Drafted(()))


def draft_lines(groups: CallGroups) -> list[str]:
    """The lines of a map for these calls: an entry a group that looks like an event, the others as comments."""
    profiles = [Profile.of(group) for group in groups.groups()]
    shown = frozenset(value for profile in profiles for value in _listed(profile))
    guesses = [(profile, guess_event(profile, shown)) for profile in profiles]
    catalogs = [profile for profile, guess in guesses if guess.event == "catalog"]
    others = [profile for profile, guess in guesses if guess.event in _OF_PRODUCTS]
    products = find_products(catalogs, others)
    entries = [_entry(profile, guess, products) for profile, guess in guesses if guess.event != OTHER]
    _recall_from_carts(entries, products)
    if guesses and not entries:
        entries = [_entry(profile, replace(guess, reason=_NOTHING), products) for profile, guess in guesses[:1]]
    rest = [(profile, guess) for profile, guess in guesses if guess.event == OTHER]
    guards = [
        _entry(profile, replace(guess, reason=f"{guess.reason}; an entry below would take them"), products)
        for profile, guess in rest
        if _is_taken(profile.group, entries)
    ]
    guarded = {id(entry.profile) for entry in guards}
    lines = list(_head(groups, guesses, products))
    taken: set[tuple[str, str]] = set()
    for entry in sorted([*entries, *guards], key=_precedence):
        where = (entry.group.method, entry.path)
        if where not in taken:
            lines += ["", *_entry_lines(entry)]
        if not entry.when:  # it takes all calls of its method and path
            taken.add(where)
    lines += _unmatched([(profile, guess) for profile, guess in rest if id(profile) not in guarded])
    return lines


def _listed(profile: Profile) -> Iterator[str]:
    for _, prefix in profile.listings()[:1]:
        for path in profile.leaves:
            if path[: len(prefix)] == prefix and words.plain(path[-1]) in {"id", "productid", "idproduct", "sku"}:
                yield from profile.values(path)


# ---- one entry ---------------------------------------------------------------------------------------------------


def _entry(profile: Profile, guess: Guess, products: Products) -> Entry:
    group = profile.group
    successes: list[Success] = []
    if guess.event in _CHANGES:
        successes = success_conditions(profile, guess.event)
        failed = frozenset(number for one in successes for number in one.failed)
        profile = Profile.of(group, without=failed) if failed else profile
    path, names = _path_text(profile)
    reasons: list[str] = []
    drafted = guess_fields(guess.event, profile, products, names)
    for one in drafted.fields:  # a placeholder that is the product has the field's name
        match = re.fullmatch(r'"path\.(\w+)"', one.value)
        if one.name == "product_id" and match:
            path = path.replace(f"{{{match[1]}}}", "{product_id}").replace(f"{{{match[1]}:", "{product_id:")
            names = {place: "product_id" if name == match[1] else name for place, name in names.items()}
            drafted = guess_fields(guess.event, profile, products, names)
            reasons.append(f"product_id: {one.reason}")
            kept = tuple(one for one in drafted.fields if one.value != '"path.product_id"')
            drafted = Drafted(kept, drafted.remember)
    entry = Entry(group, profile, guess, path, names, group.operation.condition, reasons, drafted)
    _add_success(entry, successes)
    return entry


def _recall_from_carts(entries: Sequence[Entry], products: Products) -> None:
    """Orders whose answers lack a total or lines recall those of the cart."""
    orders = [entry for entry in entries if entry.guess.event == "purchase"]
    lacking = {id(entry): _lacking(entry) for entry in orders}
    wanted = {name for names in lacking.values() for name in names}
    decimals: dict[str, int] = {}
    for entry in entries:
        if entry.guess.event in _CARTS:
            said = {name: value for name, value in cart_values(entry.profile, products).items() if name in wanted}
            kept = {name: value for name, value in said.items() if decimals.setdefault(name, value[1]) == value[1]}
            added = tuple(
                FieldGuess(f"cart_{name}", f"{{ value = {toml_text(value[0])} }}") for name, value in kept.items()
            )
            entry.drafted = Drafted(entry.drafted.fields, (*entry.drafted.remember, *added))
    for entry in orders:
        added = tuple(
            FieldGuess(_OF_CART[name], _recalled(name, decimals[name]), "what the cart said before")
            for name in lacking[id(entry)]
            if name in decimals
        )
        entry.drafted = Drafted((*entry.drafted.fields, *added), entry.drafted.remember)


def _lacking(entry: Entry) -> list[str]:
    names = {one.name for one in entry.drafted.fields}
    lines = [] if "order_products" in names else ["products", "quantities", "prices"]
    return ([] if "revenue" in names else ["total"]) + lines


def _recalled(name: str, decimals: int) -> str:
    units = f", minor_units = {decimals}" if decimals else ""
    return f'{{ recall = "cart_{name}"{units} }}'


def _add_success(entry: Entry, conditions: Sequence[Success]) -> None:
    for one in conditions:
        condition = f"({one.condition})" if " || " in one.condition else one.condition
        joined = f"{entry.when} && {condition}" if entry.when else condition
        if len(joined) <= MAX_LENGTH:
            entry.when = joined
            looked_at = len(entry.group.samples)
            entry.why.append(f"when: {one.reason}; {len(one.failed)} of {looked_at} answers that were read fail it")


def _path_text(profile: Profile) -> tuple[str, dict[str, str]]:
    """The path as the map writes it, and the names of its placeholders by their place."""
    parts: list[str] = []
    names: dict[str, str] = {}
    for place, segment in enumerate(profile.group.path):
        if segment != ID:
            parts.append("".join(one for one in segment if one.isprintable() and one not in "{}?"))
            continue
        before = [word for one in profile.group.path[:place] if one != ID for word in words.words_of(one)]
        name = _free_name(before[-1] if before and before[-1].isascii() else "id", set(names.values()))
        names[str(place)] = name
        sent = [sample.segments[place] for sample in profile.group.samples if place < len(sample.segments)]
        if sent and all(_NUMBERED_SLUG.fullmatch(one) for one in sent):
            parts.append(f"{{{name}:[0-9]+}}-{{{name}_slug}}")
        else:
            endings = {match[0] if (match := _EXTENSION.search(one)) else "" for one in sent}
            parts.append(f"{{{name}}}{endings.pop() if len(endings) == 1 else ''}")
    return "/" + "/".join(parts), names


def _free_name(word: str, taken: set[str]) -> str:
    name = f"{word}_id" if word in FIELDS or f"{word}_id" not in FIELDS else word
    number = 2
    free = name
    while free in taken or free in FIELDS:
        free, number = f"{name}{number}", number + 1
    return free


def _is_taken(group: Group, entries: Sequence[Entry]) -> bool:
    """Whether an entry would take the calls of a group that is not an event."""
    return any(
        entry.group.method == group.method
        and len(entry.group.path) == len(group.path)
        and all(part in (ID, own) for part, own in zip(entry.group.path, group.path, strict=True))
        and entry.group.operation.condition in ("", group.operation.condition)
        for entry in entries
    )


def _precedence(entry: Entry) -> tuple[object, ...]:
    """Entries that name more come first: fewer placeholders, then those with a condition, exact ones first."""
    operation = entry.group.operation
    return (
        entry.group.path.count(ID),
        not operation.condition,
        "contains(" in operation.condition or "starts_with(" in operation.condition,
        -len(operation.condition) if operation.condition else 0,
        EVENTS.index(entry.guess.event),
        -entry.group.calls,
        entry.group.method,
        entry.path,
        operation.condition,
    )


# ---- as text -----------------------------------------------------------------------------------------------------


def _head(groups: CallGroups, guesses: Sequence[tuple[Profile, Guess]], products: Products) -> Iterator[str]:
    counted = Counter[str]()
    for profile, guess in guesses:
        counted[guess.event] += profile.group.calls - profile.group.failed
    yield f"# Endpoint map drafted from {groups.calls} calls. Every entry is a guess: read its comment and correct it."
    yield "# Then `carat map check FILE` and `carat map try CALLS --map FILE`. docs/endpoint-map.md explains maps."
    yield "#"
    for event in EVENTS:
        if counted[event]:
            yield f"# {event}: {counted[event]} calls"
    for event in _KINDS:
        if not counted[event]:
            yield f"# {event}: NO CALL WAS RECOGNIZED. Look for it among the calls at the end of this file."
    if products.key:
        yield f"# Products go by the key {_comment(products.key)} of the lists: {len(products.ids)} ids were seen."
    if groups.overflow:
        yield f"# {groups.overflow} calls of further endpoints were left out."
    yield ""
    yield '# currency = "EUR"    # where a call does not name one'


def _entry_lines(entry: Entry) -> Iterator[str]:
    group, guess = entry.group, entry.guess
    failed = f", {group.failed} failed" if group.failed else ""
    if guess.event == OTHER:
        yield f"# {group.calls} calls{failed}: {_comment(guess.reason)}."
    else:
        yield f"# {group.calls} calls{failed}. Confidence {guess.confidence}: {_comment(guess.reason)}."
    for why in entry.why:
        yield f"# {_comment(why)}."
    yield "[[call]]"
    yield f'event = "{guess.event}"'
    yield f"method = {toml_text(group.method if METHOD.fullmatch(group.method) else '*')}"
    yield f"path = {toml_text(entry.path)}"
    if entry.when:
        yield f"when = {toml_text(entry.when)}"
    for name, one in (
        (f"fields.{one.name}" if not one.name.startswith("filters.") else one.name, one) for one in entry.drafted.fields
    ):
        yield f"{name} = {one.value}" + (f"  # {_comment(one.reason)}" if one.reason else "")
    for one in entry.drafted.remember:
        yield f"remember.{one.name} = {one.value}"


def _unmatched(rest: Sequence[tuple[Profile, Guess]]) -> Iterator[str]:
    if not rest:
        return
    yield ""
    yield f"# ---- calls without an entry: {len(rest)} kinds, by number of calls ----"
    yield "#"
    for profile, guess in rest[:_UNMATCHED_SHOWN]:
        group = profile.group
        operation = f" ({group.operation.text})" if group.operation.text else ""
        where = f"{group.method} /{'/'.join(group.path)}{operation}"
        yield f"# {group.calls:>7}  {_comment(f'{where}: {guess.reason}')}"
    if more := rest[_UNMATCHED_SHOWN:]:
        yield f"# {sum(profile.group.calls for profile, _ in more):>7}  in {len(more)} more kinds"


def _comment(text: str) -> str:
    """A text that can stand in a comment: one line, without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)[: 2 * _WIDTH]
