"""Finds card numbers: they have a card issuer's prefix and length, and pass Luhn's test."""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Final

CARD: Final = "[card]"
FEWEST_DIGITS, MOST_DIGITS = 13, 19
_LONGEST_SHORT = 14  # only old Visa (13) and Diners Club (14) cards are so short, but many article numbers are
_LONGEST_RUN = 1000
_FEWEST_SIZES = 4

_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|(?:5[06-8]|6\d|8[12])\d{14,17}"  # Maestro, Discover, UnionPay, RuPay
    r"|3[47]\d{13}"  # American Express
    r"|(?:30[0-5]|309|3[689]\d)\d{11}|3[689]\d{14,17}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12,15}"  # JCB
    r"|220[0-4]\d{12,15}|9792\d{12}"  # Mir, Troy
)
_INVISIBLE = "\u00ad\u200b-\u200f\u2060\ufeff"
_GAP = rf"[\s\-+._/·|,:()\u2010-\u2015\u2212{_INVISIBLE}]{{0,6}}+"
# Digits with other gaps than these are a card's only if they are grouped as on one.
_USUAL_GAP = re.compile(rf"[\s\-+\u2010-\u2015\u2212{_INVISIBLE}]{{0,2}}|[{_INVISIBLE}]*")
_AS_ON_CARDS = ([4, 4, 4, 4], [4, 6, 5], [4, 6, 4], [4, 4, 4, 4, 3], [6, 13], [4, 4, 4, 4, 2], [8, 8])
_MANY_DIGITS = re.compile(rf"\d(?:{_GAP}\d){{{FEWEST_DIGITS - 1}}}")
_UUID = r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
_SHOPIFY_ID = r"gid://\w{1,40}+/\w{1,40}+/\d++"
_DIGIT_RUN = re.compile(rf"{_UUID}|{_SHOPIFY_ID}|(\d(?:{_GAP}\d){{{FEWEST_DIGITS - 1},}}+)")
_DIGITS = re.compile(r"\d+")
# A gift card is goods; so is what has an id's name between the card and the number.
_SAYS_CARD = re.compile(
    r"(?:(?<!gift)(?<!gift[ _\-])(?<!geschenk)(?:card|karte)|visa|diners)"
    r"(?![^\d]*?(?:variant|product|item|sku|article|order|\bid\b|ean|gtin))",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"[^\W\d_][\-_]?\Z")  # `RNG-39812345678901`
_WORDS_BEFORE = 30  # characters


def without_cards(text: str, *, is_card_field: bool = False) -> str:
    """Replace the card numbers in a text.

    Args:
        text: Any text.
        is_card_field: Whether the text stands where cards stand, so that 13 or 14 digits can be one.

    """
    if not _MANY_DIGITS.search(text):
        return text
    return _DIGIT_RUN.sub(lambda match: _without_cards(match, is_card_field), text)


def is_card_number(value: int, *, is_card_field: bool = False) -> bool:
    digits = str(abs(value))
    if not (FEWEST_DIGITS if is_card_field else _LONGEST_SHORT + 1) <= len(digits) <= MOST_DIGITS:
        return False
    return _ISSUED.fullmatch(digits) is not None and _luhn_checker(digits)(0, len(digits))


def _without_cards(match: re.Match[str], is_card_field: bool) -> str:
    """Remove card numbers from a run of digits. A card number begins and ends at a group of digits."""
    if match[1] is None:  # a UUID or a Shopify id
        return match[0]
    run = match[1]
    spans = [group.span() for group in _DIGITS.finditer(run)]
    groups = [run[begin:end] for begin, end in spans]
    gaps = [run[before[1] : after[0]] for before, after in pairwise(spans)]
    odd_gaps = [0, *accumulate(not _USUAL_GAP.fullmatch(gap) for gap in gaps)]  # prefix sums
    digits = "".join(str(int(digit)) for group in groups for digit in group)  # also of other scripts
    if len(digits) > _LONGEST_RUN:  # a table of numbers, too slow to search
        return CARD
    ends = [0]
    for group in groups:
        ends.append(ends[-1] + len(group))
    takes_short = _takes_short(match.string, match.start(), is_card_field)
    passes_luhn: Callable[[int, int], bool] | None = None
    covered: list[tuple[int, int]] = []
    for first in range(len(groups)):
        for last in range(first, len(groups)):
            begin, end = ends[first], ends[last + 1]
            if end - begin > MOST_DIGITS:
                break
            if end - begin < FEWEST_DIGITS or not _ISSUED.fullmatch(digits, begin, end):
                continue
            passes_luhn = passes_luhn or _luhn_checker(digits)
            written = groups[first : last + 1]
            has_usual_gaps = odd_gaps[last] == odd_gaps[first]
            is_written_so = has_usual_gaps or _is_grouped(written, gaps[first:last], run)
            is_meant = takes_short or _is_unmistakable(written)
            if passes_luhn(begin, end) and is_written_so and is_meant and not _are_sizes(written):
                covered.append((spans[first][0], spans[last][1]))
    return _cut(run, covered)


def _takes_short(text: str, begin: int, is_card_field: bool) -> bool:
    """Whether 13 or 14 digits that begin here can be a card's."""
    if is_card_field and not _ARTICLE.search(text, max(begin - 2, 0), begin):
        return True
    return _SAYS_CARD.search(text, max(begin - _WORDS_BEFORE, 0), begin) is not None


def _is_unmistakable(groups: Sequence[str]) -> bool:
    """Whether the digits are a card's without a word that says so."""
    lengths = [len(group) for group in groups]
    return sum(lengths) > _LONGEST_SHORT or lengths == [4, 6, 4]  # as on Diners Club's cards


def _is_grouped(groups: Sequence[str], gaps: Sequence[str], run: str) -> bool:
    """Whether digits are in the groups of a card, with the same between all of them."""
    is_part_of_an_address = ":" in gaps[0] and run.count(":") != len(gaps)  # of IPv6
    is_even = len({gap.strip() for gap in gaps}) == 1
    return is_even and not is_part_of_an_address and [len(group) for group in groups] in _AS_ON_CARDS


def _are_sizes(groups: Sequence[str]) -> bool:
    """Whether the groups are a list such as `50 52 54 56 58 60 62 64`: numbers at equal distances."""
    if len(groups) < _FEWEST_SIZES:
        return False
    numbers = [int(group) for group in groups]
    steps = {after - before for before, after in pairwise(numbers)}
    return len(steps) == 1 and steps != {0}


def _cut(run: str, covered: list[tuple[int, int]]) -> str:
    """Replace the covered ranges."""
    kept = []
    done = 0
    for begin, end in covered:  # sorted by start
        if begin >= done:
            kept += [run[done:begin], CARD]
        done = max(done, end)
    return "".join([*kept, run[done:]])


def _luhn_checker(text: str) -> Callable[[int, int], bool]:
    """A function that checks a range of digits with Luhn's test in constant time, from prefix sums."""
    sums = ([0], [0])  # prefix sums with the digits at even, or at odd, places doubled
    for place, digit in enumerate(map(int, text)):
        doubled = digit * 2 - 9 * (digit > 4)  # noqa: PLR2004
        sums[0].append(sums[0][-1] + (digit if place % 2 else doubled))
        sums[1].append(sums[1][-1] + (doubled if place % 2 else digit))

    def passes(begin: int, end: int) -> bool:
        chosen = sums[end % 2]  # the last digit, at place end - 1, is not doubled
        return (chosen[end] - chosen[begin]) % 10 == 0

    return passes
