"""The valid name that a misspelt one was probably meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The question `Did you mean …?`; empty if no valid name is close."""
    by_lower_case = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.7)
    return f"Did you mean {by_lower_case[close[0]]}?" if close else ""


def choose_from(word: str, known: Iterable[str]) -> str:
    """What to write instead of an invalid name: the closest valid one if there is one, then all of them."""
    known = tuple(known)
    return f"{did_you_mean(word, known)} Choose from {', '.join(known)}".strip()
