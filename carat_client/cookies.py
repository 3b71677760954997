"""Cookies that the browser sends, and those that a response sets."""

from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def read_cookies(header: str) -> dict[str, str]:
    """Cookies by name. If a name occurs several times, the first (most specific) one counts."""
    cookies: dict[str, str] = {}
    for part in header.split(";"):
        name, mark, value = part.partition("=")
        if mark:
            cookies.setdefault(name.strip(), _bare(value))
    return cookies


def read_set_cookies(headers: Iterable[str], at: datetime) -> dict[str, str]:
    """Values that `Set-Cookie` headers give to cookies, by name, without cookies that they delete.

    If a name occurs several times, the last one counts, as in browsers.
    """
    cookies: dict[str, str] = {}
    for header in headers:
        pair, *attributes = header.split(";")
        name, mark, value = pair.partition("=")
        if not mark:
            continue
        if _is_expired(attributes, at):
            cookies.pop(name.strip(), None)
        else:
            cookies[name.strip()] = _bare(value)
    return cookies


def _is_expired(attributes: Iterable[str], at: datetime) -> bool:
    """Whether the browser deletes the cookie. `Max-Age` takes precedence over `Expires`."""
    named = {}
    for attribute in attributes:
        name, _, value = attribute.partition("=")
        named[name.strip().lower()] = value.strip()
    max_age = named.get("max-age", "")
    if max_age.removeprefix("-").isdecimal():
        return max_age.startswith("-") or not max_age.strip("0")
    try:
        expires = parsedate_to_datetime(named["expires"])
    except (KeyError, ValueError, TypeError, IndexError):
        return False
    return (expires if expires.tzinfo else expires.replace(tzinfo=UTC)) <= at


def _bare(value: str) -> str:
    return value.strip().strip('"')
