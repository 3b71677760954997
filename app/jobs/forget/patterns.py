"""Regular expressions that find a person's identifiers in text, for Python (exact) and for the warehouse (a superset).

Texts are JSON, URLs, headers, logs, in whatever escapes. The warehouse's engine has no look-around, so its patterns
find some more than Python's, which decide.
"""

import re
import unicodedata
from functools import lru_cache
from html.entities import codepoint2name

from app.jobs.forget.identifiers import Identifiers

# What may stand between two words of an identifier: punctuation, blanks, and their escapes.
_NO_WORD = "[^A-Za-z0-9\x80-\U0010ffff%\\\\&]"
_GAP = rf"(?:{_NO_WORD}|%(?:25)*[0-9A-Fa-f]{{2}}|\\+u00[0-9A-Fa-f]{{2}}|\\+[nrtbf]|\\|&(?:#\w+|\w+);|[%&])"
_GAPS = _GAP + "{1,4}"
_BEFORE = r"(?:(?<![^\W_])|(?<=%[0-9A-Fa-f]{2})|(?<=%25[0-9A-Fa-f]{2})|(?<=\\[nrtbf])|(?<=\\u00[0-7][0-9A-Fa-f]))"
_AFTER = r"(?![^\W_])"
_PHONE_GAP = r"(?:[\s()./+\-]|%(?:25)*(?:20|2B|28|29|2F|2D|2E)|\\+/|\\+u00a0|&nbsp;){0,4}"

# Who a name can mean, as a word of its own (`owner_id`) or as the end of a name in camel case (`lastUserId`).
_ROLES = (
    "user", "customer", "owner", "person", "member", "buyer", "shopper", "client", "account", "author", "profile",
    "contact", "subscriber", "recipient", "kunde", "kunden", "cliente", "usuario", "utilisateur",
)  # fmt: skip
_ROLE = f"(?i:{'|'.join(_ROLES)})"
_ID = "(?i:ids?|no|nr|num|number|nummer|uuid|guid|gid|uid|pk|key|ref)"
_SUFFIX = rf"(?:(?i:s)?[_.\-]?{_ID}|(?:\[|%5B){_ID}(?:\]|%5D))?"
_OF_USERS = rf"(?:{_ROLE}{_SUFFIX}|(?i:uid|cust[_.\-]?(?:id|no)|(?:created|updated|placed|ordered)[_.\-]?by))"
_NAMES = {
    "users": _OF_USERS,
    "visitors": r"(?i:visitor[_.\-]?(?:id|key)?)",
    "tokens": r"(?i:session[_.\-]?token)",
}
# Where the word begins by which a name means a person: not within another word, but for camel case.
_BORDER = rf"(?:{_BEFORE}|(?<=[a-z0-9])(?=[A-Z]))"
_OWN_ID = r"[@_]*(?i:(?:entity|external|legacy|database|global)?[_\-]?(?:id|uuid|guid|gid|uid|pk|nr|no|number|key|ref))"
_QUOTE = r"""(?:\\*["']|%(?:25)*2[27])"""
_SLASH = r"(?:/|\\+/|%(?:25)*2F)"
_PEOPLE = rf"(?:{_ROLE}s?|(?i:people|persons|u))"
_TYPES = r"(?i:type|__typename|object|kind|resource|entity|model|_type)"
_LAST_OF_LATIN_1 = 0xFF
_LABELS = r"(?i:name|key|field|attribute|code|param|header)"


@lru_cache(maxsize=256)
def anywhere_pattern(ids: Identifiers) -> re.Pattern[str] | None:
    """What is found wherever it stands; a phone number with what of it stands before its last digits."""
    words = [_BEFORE + words_pattern(words) + _AFTER for words in ids.anywhere]
    phones = [
        rf"(?<![\dA-Za-z])(?:\+|%2B)?(?:\d{_PHONE_GAP}){{0,6}}?[(]?{phone_pattern(digits)}(?!\d)"
        for digits in ids.phones
    ]
    return re.compile("|".join((*words, *phones)), re.IGNORECASE) if words or phones else None


@lru_cache(maxsize=256)
def short_pattern(ids: Identifiers) -> re.Pattern[str] | None:
    """The short ids wherever they stand, in groups named by their kind; `place_pattern` decides whether they count."""
    kinds = [f"(?P<{kind}>{_values(ids, kind)})" for kind in _NAMES if ids.placed(kind)]
    return re.compile(rf"{_BEFORE}(?:{'|'.join(kinds)})(?:\.0+)?(?!\w|[.\-]\d|-\w)") if kinds else None


@lru_cache(maxsize=8)
def place_pattern(kind: str) -> re.Pattern[str]:
    """What stands right before an id that counts as one of this kind: in JSON, a query, a header, a path."""
    return re.compile(rf"{_BORDER}(?:{'|'.join(_places(kind))})\Z")


def loose_place_pattern(ids: Identifiers) -> str:
    """For the warehouse: each text that has a short id where `place_pattern` wants one matches."""
    return "|".join(f"(?:{'|'.join(_places(kind))})(?:{_values(ids, kind)})" for kind in _NAMES if ids.placed(kind))


def loose_member_pattern(ids: Identifiers) -> str:
    """For the warehouse: each text matches that has a short user id as the own id of an object, or in a list."""
    value = f"{_QUOTE}?(?:{_values(ids, 'users')})"
    return rf"{_OWN_ID}{_QUOTE}?\s*:\s*\[?{value}|[\[,]\s*{value}(?:\.0+)?{_QUOTE}?\s*[,\]]"


def words_pattern(words: tuple[str, ...]) -> str:
    """The words in every spelling, case apart."""
    return _GAPS.join(_SHARP_S.join("".join(map(_character, part)) for part in word.split("ss")) for word in words)


def anchor(words: tuple[str, ...]) -> str:
    """The longest run of ASCII characters in these words, which stands there in every spelling; empty if none is."""
    return max((run for word in words for run in re.findall("[a-z0-9]+", word.replace("ss", " "))), key=len, default="")


def is_name_of_users(column: str) -> bool:
    """Whether a column of this name holds a user's id."""
    return re.search(rf"{_BORDER}{_OF_USERS}\Z", column) is not None


def _places(kind: str) -> list[str]:
    """What may stand before an id of this kind."""
    named = _NAMES[kind] + rf"(?:{_QUOTE}|\[\]|%5B%5D)?"
    found = [
        rf"{named}\s*(?::|=>?|>|%3D|%3A|;(?:i|s:\d+):|\(\s*(?i:id)\s*:)\s*(?:{_QUOTE}|\[|\\)*",
        rf"{_LABELS}{_QUOTE}\s*:\s*{_QUOTE}[\w.\-]*{named}\s*,\s*{_QUOTE}(?i:value|val){_QUOTE}\s*:\s*{_QUOTE}?",
    ]
    if kind == "users":
        found += [
            rf"{_TYPES}{_QUOTE}\s*:\s*{_QUOTE}{_PEOPLE}{_QUOTE}\s*,\s*{_QUOTE}{_OWN_ID}{_QUOTE}\s*:\s*{_QUOTE}?",
            rf"{_PEOPLE}(?:{_SLASH}(?i:id|by-id))?(?:{_SLASH}|\({_QUOTE}?){_SLASH}*",
            rf"{_ROLE}[_.\-]?{_ID}{_QUOTE}\s*,\s*{_QUOTE}",
        ]
    return found


def _values(ids: Identifiers, kind: str) -> str:
    return "|".join(f"(?i:{words_pattern(words)})" for words in ids.placed(kind))


def phone_pattern(digits: str) -> str:
    """The last digits of a phone number, in any groups."""
    return _PHONE_GAP.join(digits)


@lru_cache(maxsize=4096)
def _character(character: str) -> str:
    if character.isascii():
        return character
    forms = set[str]()
    for one in (character, character.upper(), *("\u03c2" if character == "\u03c3" else "")):
        forms |= {re.escape(one), re.escape(unicodedata.normalize("NFD", one))}
        forms.add("".join(f"%(?:25)*{byte:02X}" for byte in one.encode()))
        units = one.encode("utf-16-be")
        forms.add("".join(rf"\\+u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)))
        for code in map(ord, one):
            forms |= {f"&#{code};", f"&#x{code:x};"}
            if code in codepoint2name:
                forms.add(f"&{codepoint2name[code]};")
            if code <= _LAST_OF_LATIN_1:
                forms.add(f"%{code:02X}")
    return f"(?:{'|'.join(sorted(forms))})"


_SHARP_S = f"(?:ss|{_character('ß')})"  # words have ss, texts may have either

# ---- objects of a person: {"user": {"name": …, "id": 17}} ----------------------------------------------------------

_OBJECTS = f"(?:{_OF_USERS}|{_ROLE}s|people|persons|me|viewer)"
OPENING = re.compile(r"(\\*)\"\s*:\s*(?=[\[{])")
OPENED = re.compile(rf"{_BORDER}{_OBJECTS}\Z")
MEMBER = re.compile(rf"(?:{_OWN_ID}{_QUOTE}?\s*:\s*\[?|[\[,]\s*){_QUOTE}?\Z")
LOOSE_OPENING = rf"{_OBJECTS}\\*\"\s*:\s*[\[{{]"
RESOURCE = re.compile(rf"(?:{_SLASH}|[_\-])(?:{_PEOPLE}(?:{_SLASH}[^/?#%\\]+)?|(?i:me))/*(?:[?#].*)?$")
OWN_ID = re.compile(_OWN_ID)
# Between the person's object and its id: what only wraps it.
WRAPPERS = frozenset({
    "data", "node", "nodes", "edges", "attributes", "results", "records", "rows", "body", "query", "value", "object",
    "result", "payload", "content", "response",
})  # fmt: skip


@lru_cache(maxsize=8)
def json_token(escapes: int) -> re.Pattern[str]:
    """A token of JSON whose quotes are escaped by so many backslashes: 0 in JSON, 1 in JSON in JSON, 3 within that."""
    quote, escape = rf"\\{{{escapes}}}\"", rf"\\{{{escapes + 1}}}"
    string = rf"{quote}(?P<text>(?:{escape}(?:{quote}|{escape}|[^\"\\])|[^\"\\])*){quote}"
    return re.compile(rf"{string}|(?P<number>-?\d[\d.eE+\-]*)|(?P<mark>[{{}}\[\],:])")
