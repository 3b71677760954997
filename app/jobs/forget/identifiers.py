r"""What a person is known by, in a form that is independent of how a text writes it.

An identifier is compared by its words: runs of letters and digits, in lower case, after escapes are read. So
`Anna.B@example.com`, `anna.b%40EXAMPLE.com` and `anna.b\u0040example.com` are one, and an id is found as a whole, never
as a part of a longer one. A phone number is compared by its last digits, in whatever groups it is written.
"""

import html
import re
import unicodedata
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property

_LONG, _LONG_IF_MIXED = 12, 8
_UUID_DIGITS = 32
_SHORTEST_TEXT = 3  # letters and digits: shorter ones would be found in every other call
_PHONE = re.compile(r"\s*[+(]?[\d\s()./\-]+")
_PHONE_DIGITS = range(7, 16)
_COUNTRY_DIGITS, _FEWEST_PHONE_DIGITS = 3, 7
_WORD = re.compile(r"[^\W_]+")
_MOST_ENCODED = 3  # a URL in a URL in a URL
_JSON_ESCAPES = re.compile(r"(?:\\+u[0-9a-fA-F]{4})+|\\+[nrtbf]")
_URL_ESCAPES = re.compile(r"(?:%[0-9a-fA-F]{2})+")


@dataclass(frozen=True)
class Identifiers:
    """A person's user ids, the visitor ids and session tokens that nobody else has used, and further texts.

    `texts` are names, e-mail addresses and the like, found wherever they stand; `phones` the last digits of phone
    numbers, as `phone_digits` returns them.
    """

    users: tuple[str, ...] = ()
    visitors: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((*self.ids, *self.texts, *self.phones))

    @property
    def ids(self) -> tuple[str, ...]:
        return (*self.users, *self.visitors, *self.tokens)

    @cached_property
    def anywhere(self) -> tuple[tuple[str, ...], ...]:
        """As words, what is found wherever it stands: texts, and ids that are too long to occur by chance."""
        values = (*self.texts, *filter(is_distinctive, self.ids))
        return tuple(sorted({words for value in values for words in spellings(value)}, key=_longest_first))

    def placed(self, kind: str) -> tuple[tuple[str, ...], ...]:
        """As words, the short `users`, `visitors` or `tokens`, which count only where such an id is expected."""
        values: tuple[str, ...] = getattr(self, kind)
        short = {words_of(value) for value in values if not is_distinctive(value)}
        return tuple(sorted(filter(None, short), key=_longest_first))


def of_texts(values: tuple[str, ...]) -> Identifiers:
    """The identifiers that these further texts are: phone numbers, and all others."""
    phones = {digits for value in values if (digits := phone_digits(value))}
    return Identifiers(texts=tuple(value for value in values if not phone_digits(value)), phones=tuple(sorted(phones)))


def merged(several: Iterable[Identifiers]) -> Identifiers:
    """All identifiers of several people as if they were one's."""
    every = list(several)
    return Identifiers(
        *(tuple(sorted({value for ids in every for value in getattr(ids, part.name)})) for part in fields(Identifiers))
    )


def words_of(value: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(unicodedata.normalize("NFC", value).casefold()))


def spellings(value: str) -> list[tuple[str, ...]]:
    """The value as words; a UUID also without its hyphens, and with them."""
    words = words_of(value)
    joined = "".join(words)
    if len(joined) == _UUID_DIGITS and re.fullmatch("[0-9a-f]+", joined):
        return [words_of(str(uuid.UUID(joined))), (joined,)]
    return [words] if words else []


def is_distinctive(value: str) -> bool:
    """Whether an id is too long to occur by chance: 12 characters, or 8 of which some are letters and some are not."""
    text = " ".join(words_of(value))
    is_mixed = not text.isdigit() and not text.isalpha()
    return len(text) >= _LONG or (len(text) >= _LONG_IF_MIXED and is_mixed)


def is_searchable(text: str) -> bool:
    """Whether a further text is long enough to be searched for everywhere; digits alone as long as a phone number."""
    joined = "".join(words_of(text))
    return len(joined) >= (_FEWEST_PHONE_DIGITS if joined.isdigit() else _SHORTEST_TEXT)


def phone_digits(value: str) -> str:
    """The last digits of a phone number, the same with and without its country's code; empty for other texts."""
    digits = re.sub(r"\D", "", value)
    if not _PHONE.fullmatch(value) or len(digits) not in _PHONE_DIGITS or not digits.isascii():
        return ""
    is_international = value.strip().startswith("+") or digits.startswith("00")
    national = digits.lstrip("0")
    if is_international:
        national = national[-max(_FEWEST_PHONE_DIGITS, len(national) - _COUNTRY_DIGITS) :]
    return national if len(national) >= _FEWEST_PHONE_DIGITS else ""


def decoded(text: str) -> str:
    """The text with escapes of JSON, URLs and HTML read, as deep as they are nested."""
    for _ in range(_MOST_ENCODED):
        before = text
        if "\\" in text:
            text = _JSON_ESCAPES.sub(_of_json, text)
        if "%" in text:
            text = _URL_ESCAPES.sub(_of_url, text)
        if "&" in text:
            text = html.unescape(text)
        if text == before:
            break
    return text


def _of_json(escapes: re.Match[str]) -> str:
    codes = re.findall(r"u([0-9a-fA-F]{4})", escapes[0])
    units = b"".join(int(code, 16).to_bytes(2, "big") for code in codes)
    return units.decode("utf-16-be", "replace") if codes else " "


def _of_url(escapes: re.Match[str]) -> str:
    data = bytes.fromhex(escapes[0].replace("%", ""))
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _longest_first(words: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return (-len("".join(words)), words)
