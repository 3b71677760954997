"""Decides whether a value is a secret where its name alone does not say so: by the value itself and by its neighbours.

A pin is also a brooch, a code also a coupon's or a product's, and a key also a facet's.
"""

import re
from collections.abc import Callable
from typing import Any

from carat_client.credentials import looks_opaque, looks_random
from carat_client.names import (
    ACCESS,
    ACCOUNT,
    ADDRESS,
    CODE,
    COUNTS,
    DENIED,
    HOLDS_ONE,
    KEY,
    LOGIN_WORD,
    MAYBE_SIGN_IN,
    OPAQUE,
    PAN,
    PIN,
    REFRESH,
    SECRET,
    SECRETS,
    SIGN_IN,
)

DEPENDS = frozenset({SECRETS, PIN, PAN, CODE, KEY, OPAQUE, LOGIN_WORD})

_PIN_DIGITS = range(4, 13)
_POSTAL_DIGITS = 6
_CODE_DIGITS = range(4, 11)
_SHORTEST_MIXED, _SHORTEST_KEY, _LONGEST_COUPON = 6, 8, 15
_ITEM_KEY = re.compile(r"[0-9a-f]{32}")  # of a cart's line in WooCommerce


def is_secret(verdict: int, value: Any, roles: int = 0, *, signs_in: bool = False) -> bool:
    """Whether a value is a secret.

    Args:
        verdict: The verdict on its name.
        value: The value as it was sent.
        roles: What the names of its neighbours say.
        signs_in: Whether the call signs in or verifies somebody.

    """
    if value is None or isinstance(value, bool):
        return verdict == DENIED
    if verdict in {SECRET, DENIED}:
        return True
    if isinstance(value, list):
        return any(not isinstance(one, list) and is_secret(verdict, one, roles, signs_in=signs_in) for one in value)
    if verdict == SECRETS:
        return not isinstance(value, int | float)  # a number counts them
    judge = _JUDGES.get(verdict)
    return judge is not None and type(value) in {str, int} and judge(str(value), roles, signs_in)


def _is_pin(text: str, roles: int, signs_in: bool) -> bool:
    """Whether the value of `pin` is a PIN: digits only, and enough of them.

    An object of counts is a list of facets, and six digits in an address are an Indian postal code.
    """
    digits = "".join(filter(str.isalnum, text))
    is_postal = roles & ADDRESS and len(digits) == _POSTAL_DIGITS
    return digits.isdigit() and len(digits) in _PIN_DIGITS and not is_postal and not (roles & COUNTS and not signs_in)


def _is_pan(text: str, roles: int, signs_in: bool) -> bool:  # noqa: ARG001
    return sum(map(str.isdigit, text)) >= _PIN_DIGITS.start


def _is_code(text: str, roles: int, signs_in: bool) -> bool:
    if len(text) < _CODE_DIGITS.start:
        return False
    is_mixed = _is_mixed(text)
    if roles & SIGN_IN or (roles & MAYBE_SIGN_IN and is_mixed and len(text) >= _SHORTEST_MIXED):
        return True
    if signs_in:
        return text.isdigit() or is_mixed or any(map(str.isdigit, text))
    if roles & ACCOUNT and not roles & ADDRESS and text.isdigit():
        return len(text) in _CODE_DIGITS
    return len(text) > _LONGEST_COUPON and is_mixed and looks_random(text)


def _is_key(text: str, roles: int, signs_in: bool) -> bool:
    if roles & HOLDS_ONE:
        return False
    if roles & ACCOUNT or signs_in:
        return len(text) >= _SHORTEST_MIXED and _is_mixed(text)
    return not _ITEM_KEY.fullmatch(text) and len(text) >= _SHORTEST_KEY and looks_random(text)


def _is_login_word(text: str, roles: int, signs_in: bool) -> bool:  # noqa: ARG001
    return bool(roles & ACCOUNT) or signs_in


def _is_opaque(text: str, roles: int, signs_in: bool) -> bool:  # noqa: ARG001
    is_half_of_a_pair = roles & ACCESS and roles & REFRESH and len(text) >= _SHORTEST_KEY and not text.isalpha()
    return is_half_of_a_pair or looks_opaque(text)


def _is_mixed(text: str) -> bool:
    """Whether lower-case letters stand beside digits or upper-case ones, as in no coupon and in no word."""
    has_lower, has_other = any(map(str.islower, text)), any(c.isupper() or c.isdigit() for c in text)
    return has_lower and has_other


_JUDGES: dict[int, Callable[[str, int, bool], bool]] = {
    PIN: _is_pin,
    PAN: _is_pan,
    CODE: _is_code,
    KEY: _is_key,
    LOGIN_WORD: _is_login_word,
    OPAQUE: _is_opaque,
}
