"""Finds tokens in paths, by the segment before them: `/reset/TOKEN`, `/magic-link/TOKEN`, `/verify-email/12/TOKEN`."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from carat_client.credentials import REDACTED
from carat_client.names import folded, words_of

_SEGMENT = re.compile(r"/([^/\s?#&\"'<>]{2,48})(?=/)")
_AFTER = re.compile(r"(?:/[^/\s?#&\"'<>]*+)++")
_BEFORE_LENGTH = 48


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What follows these is a secret unless it is an ordinary word of such paths.
_ALWAYS = _set(
    "contrasena forgotpassword haslo kennwort magiclink magiclogin otp passe passwd password passwordreset "
    "passwort reinitialiser reset resetpassword senha setpassword token tokens vergessen zurucksetzen "
    "zuruecksetzen"
)
# What follows these is a secret if it looks like one.
_IF_OPAQUE = _set(
    "activate activation auth confirm confirmation confirmemail invitation invitations invite invites login magic "
    "optin recover recovery secret secrets session sessions signin sso unsubscribe verification verify "
    "verifyemail verifymail"
)
_FILLERS = _set(
    "accept access account accounts api app change customer customers de double email forgot forgotten in key "
    "konto link links lost mail mailing mein mot my new newsletter one opt refresh register registration set sign "
    "the time update user users web your"
)
# Ordinary words of such paths, which are no secrets.
_ORDINARY = _set(
    "admin again age all authorize callback cart check code complete completed create current dashboard delete "
    "done edit error errors expired failed filter filters finish form html index info instructions introspect "
    "invalid list logout me oauth phone php request requested resend rest revoke search self sent settings "
    "signout signup sms sort start status step success successful v validate verified view"
)
# Below these, the names of goods and pages stand.
_GOODS = _set(
    "articles blog blogs brand brands c catalog categories category collection collections item items news p page "
    "pages product products search shop tag tags"
)
_HINTS = re.compile("|".join(sorted({word[:4] for word in _ALWAYS | _IF_OPAQUE})))
_ALWAYS_KIND: Final = 2
_IF_OPAQUE_KIND: Final = 1
_PASSWORDS = _set("passwordless password passwort kennwort contrasena senha haslo")
_MOST_WORDS = 3
_MOST_REMEMBERED = 4096
_LONGEST_WORD = 15
_OTP_DIGITS = range(4, 9)
_SHORTEST_MIXED = 6

_kinds: dict[str, int] = {}


def without_path_tokens(text: str, redact: Callable[[str], str] = lambda _: REDACTED) -> str:
    """Redact the segments of paths that are tokens, in a URL or wherever a path stands in a text."""
    if not any(map(_kind, text.split("/")[:-1])):
        return text
    kept: list[str] = []
    done = at = 0
    while match := _SEGMENT.search(text, at):
        at = match.end()
        kind = _kind(match[1])
        if not kind or _is_below_goods(text, match.start()):
            continue
        after = _AFTER.match(text, at)
        assert after is not None  # a slash follows
        redacted = "/".join(_redacted(after[0].split("/"), match[1], kind, redact))
        if redacted != after[0]:
            kept += [text[done:at], redacted]
            done = at = after.end()
    return "".join([*kept, text[done:]]) if kept else text


def is_sign_in(path: str) -> bool:
    """Whether a path's call signs in or verifies somebody, so that a `code` of it is a secret."""
    return any(_signs_in(part) for part in path.split("/") if part and not part.isdigit())


@lru_cache(_MOST_REMEMBERED)
def _signs_in(segment: str) -> bool:
    return len(segment) <= _BEFORE_LENGTH and not _SIGN_IN.isdisjoint(words_of(segment))


_SIGN_IN = _set(
    "activate auth callback login magic mfa oauth oidc otp password reset saml signin sso token verification verify"
)


def _kind(segment: str) -> int:
    found = _kinds.get(segment)
    if found is None:
        if len(segment) > _BEFORE_LENGTH or segment.isdigit():
            return 0  # not worth remembering
        if len(_kinds) >= _MOST_REMEMBERED:
            _kinds.clear()
        found = _kinds[segment] = _judge(segment) if _HINTS.search(segment.lower()) else 0
    return found


def _judge(segment: str) -> int:
    words = set(words_of(segment))
    if words & _PASSWORDS and len(words) <= _MOST_WORDS:
        return _ALWAYS_KIND
    if not words or not words <= _ALWAYS | _IF_OPAQUE | _FILLERS:
        return 0
    if words & _ALWAYS or {"magic", "link"} <= words:
        return _ALWAYS_KIND
    return _IF_OPAQUE_KIND if words & _IF_OPAQUE else 0


def _is_below_goods(text: str, at: int) -> bool:
    return folded(text[max(at - _BEFORE_LENGTH, 0) : at].rpartition("/")[2]) in _GOODS


def _redacted(segments: list[str], before: str, kind: int, redact: Callable[[str], str]) -> list[str]:
    """The segments, from the slash on, with those redacted that are tokens."""
    is_open = True
    found = []
    for segment in segments:
        if segment and is_open:
            kind = max(kind, _kind(segment))
            if _is_token(segment, before, kind):
                segment = redact(segment)  # noqa: PLW2901
            elif segment.isalpha() and not _is_ordinary(segment):
                is_open = False
        found.append(segment)
    return found


def _is_token(segment: str, before: str, kind: int) -> bool:
    if _is_ordinary(segment) or segment.startswith("[redacted"):
        return False
    if kind == _ALWAYS_KIND:
        return True
    if segment.isdigit():
        return len(segment) in _OTP_DIGITS and not {"confirm", "confirmation", "invite"} & {*words_of(before)}
    has_digit, has_letter = any(map(str.isdigit, segment)), any(map(str.isalpha, segment))
    if has_digit and has_letter:
        is_slug = all(part.isalpha() or part.isdigit() for part in segment.split("-"))  # `summer-2026`
        return len(segment) >= _SHORTEST_MIXED and (not is_slug or before.lower().startswith("secret"))
    return len(segment) > _LONGEST_WORD and "-" not in segment


def _is_ordinary(segment: str) -> bool:
    words = words_of(segment)
    return bool(words) and all(word in _ORDINARY or word in _FILLERS or word in _ALWAYS | _IF_OPAQUE for word in words)
