"""Numbers as people and shops write them: `1.234,56`, `€ 149.00`, `1 234,56`, `149.-`."""

import re
from decimal import Decimal

# Digits with at most one point, and an exponent: what JSON and programs write.
_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?0*\d{1,3})?")
# `1.234` is one and a bit, or more than a thousand.
AMBIGUOUS = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"
_AMBIGUOUS = re.compile(AMBIGUOUS)
_SIGN = r"(?P<sign>[+\u2212-]?)"
_NUMBER = r"(?P<number>\d.*?|[.,]\d.*?)"
_AROUND = re.compile(rf"^[^\d.,+\u2212-]*{_SIGN}[^\d.,+\u2212-]*{_NUMBER}(?:[.,][-\u2013\u2014]+)?[^\d]*$")
_ABBREVIATION = re.compile(r"^[^\W\d_]+\.(?=\s*\d)")  # `Rs.100`: the point is not the number's
_SPACES = "\u0020\u00a0\u2009\u202f'\u2019"  # between groups of digits
_LONGEST = 60


def read_number(text: str, decimal: str = "") -> Decimal | None:
    """The number in a text; None if there is none, or if it can be read in two ways.

    `decimal` is the sign before the fractions, "," or "."; without it only what leaves no doubt is read. A plain number
    with an exponent is always read.
    """
    text = _ABBREVIATION.sub("", text.strip())
    if len(text) > _LONGEST:
        return None
    if _PLAIN.fullmatch(text) and _is_meant_plainly(text, decimal):
        return Decimal(text)
    match = _AROUND.match(text)
    if match is None:
        return None
    digits = _without_groups(match["number"].strip(), decimal)
    if digits is None:
        return None
    return -Decimal(digits) if match["sign"] in {"-", "\u2212"} else Decimal(digits)


def _is_meant_plainly(text: str, decimal: str) -> bool:
    if "e" in text.lower() or "." not in text:
        return True
    return decimal == "." or (not decimal and not _AMBIGUOUS.match(text))


def _without_groups(number: str, decimal: str) -> str | None:
    """The number as digits and a point; None unless its signs make sense."""
    if spaces := [sign for sign in _SPACES if sign in number]:
        whole = re.split(r"[.,]", number)[0]
        if len(spaces) > 1 or not _is_grouped(whole, spaces[0]):
            return None
        number = whole.replace(spaces[0], "") + number[len(whole) :]
        if len(re.findall(r"[.,]", number)) > 1:
            return None
        return _with_point(number, decimal or next(iter(re.findall(r"[.,]", number)), "."))
    if not re.fullmatch(r"[\d.,]+", number):
        return None
    sign = decimal or _fraction_sign(number)
    return _with_point(number, sign) if sign else None


def _fraction_sign(number: str) -> str:
    """The sign before the fractions, where there is no doubt; empty otherwise."""
    signs: list[str] = re.findall(r"[.,]", number)
    if len(set(signs)) == 2:  # noqa: PLR2004  both signs: the last one
        return signs[-1]
    if len(signs) > 1:  # one sign several times stands between groups
        return "," if signs[0] == "." else "."
    if not signs:
        return "."
    return "" if re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", number) else signs[0]


def _with_point(number: str, sign: str) -> str | None:
    whole, _, fractions = number.partition(sign)
    group = "," if sign == "." else "."
    if group in whole:
        if not _is_grouped(whole, group):
            return None
        whole = whole.replace(group, "")
    if not re.fullmatch(r"\d*", whole + fractions) or not whole + fractions:
        return None
    return f"{whole or '0'}.{fractions or '0'}"


def _is_grouped(whole: str, sign: str) -> bool:
    return re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(sign)}\d{{3}})+|\d+", whole) is not None
