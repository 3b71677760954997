"""Removes secrets from a call before it leaves the shop: by the names of values, and by what the values look like.

It runs in the sender's thread on whatever shoppers send, so every regular expression matches in linear time.
"""

import hashlib
import hmac
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote, unquote, unquote_plus

from carat_client.cards import CARD, FEWEST_DIGITS, is_card_number, without_cards
from carat_client.credentials import REDACTED, without_credentials, without_users_in_urls
from carat_client.emails import without_emails
from carat_client.evidence import DEPENDS, is_secret
from carat_client.markup import without_secrets_in_markup
from carat_client.named_values import without_named_values
from carat_client.names import (
    ALLOWED,
    CARD_FIELD,
    COUNTS,
    DENIED,
    HEADERS,
    HOLDS_MAYBE,
    HOLDS_ONE,
    ID,
    NAMES_MAYBE,
    NAMES_ONE,
    PLAIN,
    SECRET,
    VERIFYING,
    judge,
    may_name_secret,
    normal,
    says_password,
)
from carat_client.names import EMAIL as EMAIL_FIELD
from carat_client.path_tokens import is_sign_in, without_path_tokens

EMAIL: Final = "[email]"
TOO_DEEP: Final = "[nested too deeply]"

_SEARCHED = frozenset({PLAIN, ID, CARD_FIELD, HEADERS, VERIFYING})
_NAMES, _HOLDS = NAMES_ONE | NAMES_MAYBE, HOLDS_ONE | HOLDS_MAYBE
_PAIR = 2

_DEEPEST = 58  # of a request or response body; the collector takes records of 64 levels
_KNOWN_NAMES = 4096
_MOST_REMEMBERED, _LONGEST_REMEMBERED = 16_384, 200
_JSON_BEGINS = frozenset('{["')
_SHORTEST_EMAIL = 6
_SHORTEST_SECRET = 12
_FEWEST_AS_NUMBER = 10 ** (FEWEST_DIGITS - 1)
_UNQUOTINGS = 3
_FEWEST_COUNTS = 3

_BLANK = re.compile(r"\s")
_TO_LETTERS = str.maketrans("0123456789", "ghijklmnop")  # so that a hash is never mistaken for a card number


class Redactor:
    """The rules of one shop. `allow` and `deny` hold names (`order_id`) or dotted paths (`response.items.id`)."""

    def __init__(
        self,
        *,
        hash_key: str = "",
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        yield_gil: Callable[[], None] = lambda: None,
    ) -> None:
        self._yield_gil = yield_gil
        self._hash_key = hash_key.encode()
        self._named: dict[str, int] = {}
        self._paths: dict[str, Any] = {}
        for verdict, rules in ((ALLOWED, allow), (DENIED, deny)):  # deny comes last: it takes precedence
            for rule in rules:
                self._add_rule(rule, verdict)
        self._tops: dict[str, tuple[int, tuple[dict[str, Any], ...]]] = {}
        self._known_names: dict[str, tuple[int, str, int]] = {}
        self._signs_in = False
        self._harmless_names: set[str] = set()  # of texts
        self._harmless: set[str] = set()  # texts without secrets: a shop's answers repeat themselves

    def field(self, name: str, value: Any, *, signs_in: bool = False) -> Any:
        """Redact a top-level field such as `request`, `response` or `endpoint`; None if it is denied.

        `signs_in` says that the call signs in or verifies somebody: a `code` in it is a secret then.
        """
        verdict, paths = self._top(name)
        if verdict == DENIED:
            return None
        if verdict == ALLOWED:
            return value
        self._signs_in = signs_in
        try:
            return self._value(value, paths, 0)
        finally:
            self._signs_in = False

    def url_field(self, name: str, url: str) -> str | None:
        verdict, _ = self._top(name)
        if verdict == DENIED:
            return None
        return url if verdict == ALLOWED else self.url(url)

    def identity(self, name: str, value: str) -> str | None:
        """An id: unchanged, or hashed if it is personal. None if it is personal and there is no hash key."""
        found = self.field(name, value)
        if found is None or found == value or (found.startswith("email:") and " " not in found):
            return found if isinstance(found, str) else None
        return f"id:{self._hash(value)}" if self._hash_key else None

    def token(self, name: str, value: str) -> str | None:
        """Hash a credential of the shop, so that its calls can still be grouped."""
        verdict, _ = self._top(name)
        if verdict == DENIED:
            return None
        return value if verdict == ALLOWED else f"token:{self._hash(value)}"

    def text(self, text: str, place: int = PLAIN) -> str:
        """Remove e-mail addresses, card numbers and secrets from free text. `place` is the verdict on its name."""
        if len(text) < _SHORTEST_EMAIL:
            return text
        if text[0] in _JSON_BEGINS or text[0].isspace():
            found = self._nested_json(text)
            if found is not None:
                return found
        plain = self._plain_text(text, place)
        if "%" in text:
            unquoted = _unquoted(text)
            without = (self._nested_json(unquoted) if unquoted[:1] in _JSON_BEGINS else None) or self._plain_text(
                unquoted, place
            )
            if without != unquoted:
                return without
        return plain

    def url(self, url: str) -> str:
        """Remove secrets from a URL's query, path and fragment. A URL without secrets stays unchanged."""
        if not url:
            return url
        if "@" in url:
            url = without_users_in_urls(url)
        rest, hash_mark, fragment = url.partition("#")
        address, mark, query = rest.partition("?")
        if "=" in fragment:
            fragment = self._query(fragment, fragment.partition("?")[0])
        else:
            fragment = self._quoted(fragment, safe="/:,;@!$'()*")
        return f"{self._address(address)}{mark}{self._query(query, address)}{hash_mark}{fragment}"

    def _address(self, address: str) -> str:
        """Redact a URL's path. A secret within one segment leaves the others as they were sent."""
        safe = ":,;=@!$'()*"
        redacted = self._quoted(address, safe=f"/{safe}")
        if redacted == address:
            return address
        segments = "/".join(self._quoted(segment, safe=safe) for segment in address.split("/"))
        return segments if _unquoted(segments) == _unquoted(redacted) else redacted

    def _query(self, query: str, path: str) -> str:
        """Redact a query string, or what stands as one after a path."""
        if not query:
            return query
        pairs = [pair.partition("=") for pair in query.split("&")]
        known = [self._known(_unquoted(name.replace("+", " "))) for name, _, _ in pairs]
        roles, signs_in = 0, False
        if any(verdict in DEPENDS for verdict, _, _ in known):
            for _, _, role in known:
                roles |= role
            signs_in = is_sign_in(path)
        redacted = []
        for (name, mark, value), (verdict, _, _) in zip(pairs, known, strict=True):
            told = self._query_value(value, verdict, roles, signs_in) if value else ""
            redacted.append(f"{self._quoted(name, is_form=True)}{mark}{told}")
        return "&".join(redacted)

    def _query_value(self, value: str, verdict: int, roles: int, signs_in: bool) -> str:
        if verdict in {SECRET, DENIED}:
            return quote(REDACTED)
        if verdict in DEPENDS and is_secret(verdict, _unquoted(value.replace("+", " ")), roles, signs_in=signs_in):
            return quote(REDACTED)
        if verdict == EMAIL_FIELD:
            return quote(self._email(unquote_plus(value)))
        return value if verdict == ALLOWED else self._quoted(value, is_form=True, place=verdict)

    def _quoted(self, text: str, *, safe: str = "", is_form: bool = False, place: int = PLAIN) -> str:
        """Redact percent-encoded text; it is encoded again only if it contained a secret."""
        unquoted = _unquoted(text.replace("+", " ") if is_form else text)
        redacted = self._safe(unquoted, place)
        return text if redacted == unquoted else quote(redacted, safe=safe)

    def _value(self, value: Any, paths: tuple[dict[str, Any], ...], depth: int, place: int = PLAIN) -> Any:
        """Redact a value. `place` is the verdict on its name."""
        kind = type(value)
        if kind is str:
            return self._safe(value, place)
        if kind is int or kind is float:
            return value if -_FEWEST_AS_NUMBER < value < _FEWEST_AS_NUMBER else _long_number(value, place)
        if kind is not dict and kind is not list:
            return value  # true, false or null
        if depth >= _DEEPEST:
            return TOO_DEEP
        if kind is list:
            return self._list(value, paths, depth + 1, place)
        return self._object(value, paths, depth + 1, place)

    def _safe(self, text: str, place: int = PLAIN) -> str:
        """Redact text, remembering which texts contain no secrets."""
        if place == CARD_FIELD:
            return self.text(text, place)
        if text in self._harmless:
            return text
        self._yield_gil()
        redacted = self.text(text)
        if redacted != text and place == ID and not _BLANK.search(text):  # text with blanks is not an id
            return self.text(text, place)
        if redacted == text and len(text) <= _LONGEST_REMEMBERED:
            if len(self._harmless) >= _MOST_REMEMBERED:
                self._harmless.clear()
            self._harmless.add(text)
        return redacted

    def _list(self, content: list[Any], paths: tuple[dict[str, Any], ...], depth: int, place: int) -> list[Any]:
        found = [self._value(element, paths, depth, place) for element in content]
        for index, element in enumerate(content):
            if type(element) is list and len(element) == _PAIR:  # [["X-Api-Key", "…"], …]
                self._redact_second(element, found[index], 0, is_pair=True)
        if place == HEADERS:  # ["X-Api-Key", "…", "Accept", "*/*"]
            for index in range(0, len(content) - 1, _PAIR):
                self._redact_second(content, found, index, is_pair=True)
        elif len(content) == _PAIR:
            self._redact_second(content, found, 0, is_pair=False)
        return found

    def _redact_second(self, content: list[Any], found: Any, index: int, *, is_pair: bool) -> None:
        """Redact what follows a secret's name in a list. Two words of which one is `secret` may be tags, too."""
        name, value = content[index], content[index + 1]
        if type(name) is not str or not may_name_secret(name) or type(found) is not list:
            return
        verdict = self._verdict(name)
        if is_pair:
            is_told = is_secret(verdict, value, signs_in=self._signs_in)
        else:
            is_told = verdict == SECRET and type(value) is str and not (value.isalpha() and value.islower())
        if is_told:
            found[index + 1] = REDACTED

    def _object(  # noqa: C901  called for each object of each call
        self, content: dict[str, Any], paths: tuple[dict[str, Any], ...], depth: int, place: int = PLAIN
    ) -> dict[str, Any]:
        self._yield_gil()
        found: dict[str, Any] = {}
        open_cases = []
        roles = 0
        for name, value in content.items():
            below: tuple[dict[str, Any], ...] = ()
            verdict, shown, role = self._known_names.get(name) or self._classify(name)
            roles |= role
            if paths:
                below = _below(name, paths)
                verdict = _stronger(verdict, below)
            if verdict in _SEARCHED:
                found[shown] = self._value(value, below, depth, verdict)
            elif verdict == ALLOWED:
                found[name] = value
            elif verdict == EMAIL_FIELD:
                found[shown] = self._under_email(value, below, depth)
            elif verdict in DEPENDS:
                found[shown] = self._value(value, below, depth)
                open_cases.append((verdict, value, shown))
            else:
                found[shown] = REDACTED if is_secret(verdict, value) else value
        if open_cases:
            roles |= COUNTS * self._is_counts(content)
            signs_in = self._signs_in or place == VERIFYING
            for verdict, value, shown in open_cases:
                if is_secret(verdict, value, roles, signs_in=signs_in):
                    found[shown] = REDACTED
        if roles & _NAMES and roles & _HOLDS:
            self._redact_named_value(content, found)
        return found

    def _is_counts(self, content: dict[str, Any]) -> bool:
        """Whether an object holds numbers by name, such as the facets of a catalog, and no ids."""
        return len(content) >= _FEWEST_COUNTS and all(
            type(value) in {int, float} and self._verdict(name) != ID for name, value in content.items()
        )

    def _may_be_hidden(self, name: str) -> bool:
        return may_name_secret(name) or (bool(self._named) and normal(name) in self._named)

    def _redact_named_value(self, content: dict[str, Any], found: dict[str, Any]) -> None:
        """Redact the value of `{"name": "password", "value": …}`, however the two are called."""
        known = [(*self._known(name), value) for name, value in content.items()]
        for _, _, role, name in known:
            if not role & _NAMES or type(name) is not str or not self._may_be_hidden(name):
                continue
            verdict = self._verdict(name)
            for _, shown, held_as, value in known:
                is_named = held_as & HOLDS_ONE or (held_as & HOLDS_MAYBE and (role & NAMES_ONE or says_password(name)))
                if is_named and verdict != ALLOWED and is_secret(verdict, value, signs_in=self._signs_in):
                    found[shown] = REDACTED

    def _under_email(self, value: Any, paths: tuple[dict[str, Any], ...], depth: int) -> Any:
        if isinstance(value, str) and value.strip():
            return self._email(value)
        return self._value(value, paths, depth)

    def _plain_text(self, text: str, place: int) -> str:
        if "//" in text and "@" in text:
            text = without_users_in_urls(text)
        if "<" in text or "&lt;" in text:
            text = without_secrets_in_markup(text, self._is_named_secret)
        text = without_named_values(text, self._name_in_text)
        if "/" in text:
            text = without_path_tokens(text)
        if "@" in text or "%40" in text:
            text = without_emails(text, self._email)
        if len(text) >= _SHORTEST_SECRET:
            text = without_credentials(text)
            if place != ID:
                text = without_cards(text, is_card_field=place == CARD_FIELD)
        return text

    def _is_named_secret(self, name: str, value: str) -> bool:
        return is_secret(self._verdict(name), value)

    def _name_in_text(self, name: str) -> tuple[int, int]:
        """The verdict on a name in a text, and its roles."""
        known = self._known_names.get(name)
        if known is None:
            if name in self._harmless_names:
                return PLAIN, 0
            if not self._may_be_hidden(name):  # such as `https`, or `10` of `10:30`
                if len(self._harmless_names) >= _KNOWN_NAMES:
                    self._harmless_names.clear()
                self._harmless_names.add(name)
                return PLAIN, 0
            known = self._classify(name)
        return known[0], known[2]

    def _nested_json(self, text: str) -> str | None:
        """Redact text that is JSON; None if it is not JSON or contains nothing to redact."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict | list | str):
            return None
        try:
            redacted = self._value(content, (), 0)
            return None if redacted == content else json.dumps(redacted, ensure_ascii=False)
        except RecursionError:
            return REDACTED

    def _email(self, address: str) -> str:
        address = address.replace("%40", "@").strip().lower()
        return f"email:{self._hash(address)}" if self._hash_key else EMAIL

    def _hash(self, value: str) -> str:
        content = value.encode("utf-8", "surrogatepass")
        digest = hmac.digest(self._hash_key, content, "sha256") if self._hash_key else hashlib.sha256(content).digest()
        return digest[:16].hex().translate(_TO_LETTERS)

    def _add_rule(self, rule: str, verdict: int) -> None:
        parts = [normal(part) if part != "*" else "*" for part in rule.split(".")]
        *way, last = parts
        if not all(parts):
            raise ValueError(f"{rule!r} is neither a name nor a dotted path such as response.items.id")
        if not way:
            self._named[last] = verdict
            return
        node = self._paths
        for part in way:
            node = node.setdefault(part, {})
        node.setdefault(last, {})[""] = verdict

    def _top(self, name: str) -> tuple[int, tuple[dict[str, Any], ...]]:
        """The verdict on a top-level field, and the paths below it."""
        found = self._tops.get(name)
        if found is None:
            below = _below(name, (self._paths,))
            found = self._tops[name] = _stronger(self._named.get(normal(name), PLAIN), below), below
        return found

    def _verdict(self, name: str) -> int:
        return self._known(name)[0]

    def _known(self, name: str) -> tuple[int, str, int]:
        return self._known_names.get(name) or self._classify(name)

    def _classify(self, name: str) -> tuple[int, str, int]:
        """The verdict on values of this name, the redacted name, and what it says of its neighbours. Remembered."""
        if len(self._known_names) >= _KNOWN_NAMES:  # senders can invent names
            self._known_names.clear()
        verdict, roles = judge(name)
        self._known_names[name] = result = self._named.get(normal(name), verdict), self.text(name), roles
        return result


def _below(name: str, paths: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    plain = normal(name)
    return tuple(node[part] for node in paths for part in (plain, "*") if part in node)


def _stronger(by_name: int, below: tuple[dict[str, Any], ...]) -> int:
    """The effective verdict: a denial by name, else the verdict of the paths, else that of the name."""
    by_path = max((node[""] for node in below if "" in node), default=PLAIN)
    return DENIED if by_name == DENIED else by_path or by_name


def _unquoted(text: str) -> str:
    """Decode percent-encoding, also if it was applied several times."""
    for _ in range(_UNQUOTINGS):
        if "%" not in text or (plain := unquote(text)) == text:
            break
        text = plain
    return text


def _long_number(value: float, place: int) -> Any:
    """Redact a card number; infinities and NaN become null."""
    if not math.isfinite(value):
        return None
    if place == ID or value != int(value):
        return value
    return CARD if is_card_number(int(value), is_card_field=place == CARD_FIELD) else value
