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

REDACTED: Final = "[redacted]"
EMAIL: Final = "[email]"
TOO_DEEP: Final = "[nested too deeply]"

# Names are compared in lower case, with letters and digits only.
_SECRET_PARTS = (
    "password", "passwd", "passwort", "passphrase", "passcode", "secret", "token", "apikey", "accesskey", "privatekey",
    "authorization", "authentication", "authcode", "authkey", "credential", "cookie", "sessionid", "sessionkey",
    "sessid", "jwt", "csrf", "xsrf", "signature", "cardnumber", "cardnum", "creditcard", "cardno",
    "cardcvc", "securitycode", "verificationcode", "writekey", "signingkey", "encryptionkey", "otpcode", "onetimecode",
)  # fmt: skip
_SECRET_NAMES = frozenset(
    {
        "pass",
        "pwd",
        "pw",
        "pan",
        "otp",
        "totp",
        "mfa",
        "cvv",
        "cvv2",
        "cvc",
        "cvc2",
        "csc",
        "auth",
        "sid",
        "ssn",
        "iban",
    }
)
_EMAIL_NAMES = frozenset({"mail", "emails", "mails"})
# Values of these names are ids, never card numbers, however many digits they have.
_ID_ENDINGS = (
    "id", "ids", "sku", "skus", "variant", "variants", "product", "products", "order", "orders", "gtin", "ean", "upc",
    "isbn", "barcode", "barcodes", "ordernumber", "productnumber", "articlenumber", "itemnumber", "partnumber",
    "serialnumber", "trackingnumber", "orderno", "productno", "articleno", "itemno",
)  # fmt: skip
_NOT_IDS = ("paid", "valid")
_CARD_PARTS = ("card", "kreditkarte")
_CARD_ENDINGS = ("number", "num", "pan", "cc", "ccno", "ccnr", "no")
_PLAIN, _SECRET, _EMAIL, _PIN, _ID, _CARD_FIELD, _ALLOWED, _DENIED = range(8)
_SEARCHED = frozenset({_PLAIN, _ID, _CARD_FIELD})

_DEEPEST = 58  # of a request or response body; the collector takes records of 64 levels
_KNOWN_NAMES = 4096
_MOST_REMEMBERED, _LONGEST_REMEMBERED = 16_384, 200
_SHORTEST_EMAIL = 6
_SHORTEST_SECRET = 12
_FEWEST_AS_NUMBER = 10 ** (FEWEST_DIGITS - 1)
_UNQUOTINGS = 3

_AT_DOMAIN = re.compile(r"(?:@|%40)(?:(?:[\w\-]{1,63}\.){1,16}[\w\-]{1,63}|\[[0-9A-Fa-f.:]{3,45}\])")
_LONGEST_LOCAL_PART = 64
# The part before the @, matched backwards: first the usual characters, so that `email=a@b.example` keeps its name, then
# everything that a mail server accepts.
_LOCAL_PARTS = (
    re.compile(r"[\w.+\-]+"),
    re.compile(r"[^\s@<>,;()\[\]\"\\]+"),
    re.compile(r"\"[^\"\r\n]+\""),
)

_NAME = re.compile(r"(?<![\w.\-])([\w.\-]{1,64}+)(?:\[\w*+\])*+\\?[\"']?\s{0,4}+(?:=>|[=:])\s{0,4}+")
_VALUE = re.compile(
    r"\"(?:[^\"\\]|\\.)*+\"?|\\\"(?:[^\"\\]|\\[^\"])*+(?:\\?\")?|'[^']*+'?"
    r"|(?:(?:bearer|basic|digest|token)\s{1,4}+)?[^\s,;&<>]++",
    re.IGNORECASE,
)
_LINE = re.compile(r"[^\r\n]+")  # a header's value contains the usual separators
_LOOKS_SECRET = re.compile(
    r"(?<!\w)(?:"
    r"(?i:bearer)\s{1,4}+[\w\-.~+/]{8,}+=*+"
    r"|(?i:basic)\s{1,4}+(?=[A-Za-z+/]{0,512}+[0-9=])[A-Za-z0-9+/]{8,}+=*+"
    r"|[srp]k_(?:live|test)_\w{8,}+"
    r"|gh[a-z]_\w{20,}+|github_pat_\w{20,}+|glpat-[\w\-]{16,}+"
    r"|A[KS]IA[0-9A-Z]{16}|AIza[\w\-]{30,}+"
    r"|xox[a-z]-[\w\-]{10,}+"
    r")"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]*+(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?"
)
_WEB_TOKEN = re.compile(r"(?<![\w\-])[\w\-]{11,}+\.[\w\-]{4,}+(?:\.[\w\-]*+)?")
_BLANK = re.compile(r"\s")
_USER_IN_URL = re.compile(r"(?<=://)[^\s/?#@]{1,512}+@")
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
        for verdict, rules in ((_ALLOWED, allow), (_DENIED, deny)):  # deny comes last: it takes precedence
            for rule in rules:
                self._add_rule(rule, verdict)
        self._tops: dict[str, tuple[int, tuple[dict[str, Any], ...]]] = {}
        self._known_names: dict[str, tuple[int, str]] = {}
        self._harmless: set[str] = set()  # texts without secrets: a shop's answers repeat themselves

    def field(self, name: str, value: Any) -> Any:
        """Redact a top-level field such as `request`, `response` or `endpoint`; None if it is denied."""
        verdict, paths = self._top(name)
        if verdict == _DENIED:
            return None
        return value if verdict == _ALLOWED else self._value(value, paths, 0)

    def url_field(self, name: str, url: str) -> str | None:
        verdict, _ = self._top(name)
        if verdict == _DENIED:
            return None
        return url if verdict == _ALLOWED else self.url(url)

    def identity(self, name: str, value: str) -> str | None:
        """An id: unchanged, or hashed if it is personal. None if it is personal and there is no hash key."""
        found = self.field(name, value)
        if found is None or found == value or (found.startswith("email:") and " " not in found):
            return found if isinstance(found, str) else None
        return f"id:{self._hash(value)}" if self._hash_key else None

    def token(self, name: str, value: str) -> str | None:
        """Hash a credential of the shop, so that its calls can still be grouped."""
        verdict, _ = self._top(name)
        if verdict == _DENIED:
            return None
        return value if verdict == _ALLOWED else f"token:{self._hash(value)}"

    def text(self, text: str, place: int = _PLAIN) -> str:
        """Remove e-mail addresses, card numbers and secrets from free text. `place` is the verdict on its name."""
        if len(text) < _SHORTEST_EMAIL:
            return text
        if text[0] in '{["' or text[:1].isspace():
            found = self._nested_json(text)
            if found is not None:
                return found
        plain = self._plain_text(text, place)
        if "%" in text:
            unquoted = _unquoted(text)
            without = self._plain_text(unquoted, place)
            if without != unquoted:
                return without
        return plain

    def url(self, url: str) -> str:
        """Remove secrets from a URL's query, path and fragment. A URL without secrets stays unchanged."""
        if not url:
            return url
        rest, hash_mark, fragment = url.partition("#")
        address, mark, query = rest.partition("?")
        address = self._address(_USER_IN_URL.sub("", address))
        fragment = self._query(fragment) if "=" in fragment else self._quoted(fragment, safe="/:,;@!$'()*")
        return f"{address}{mark}{self._query(query)}{hash_mark}{fragment}"

    def _address(self, address: str) -> str:
        """Redact a URL's path. A secret within one segment leaves the others as they were sent."""
        safe = ":,;=@!$'()*"
        redacted = self._quoted(address, safe=f"/{safe}")
        if redacted == address:
            return address
        segments = "/".join(self._quoted(segment, safe=safe) for segment in address.split("/"))
        return segments if _unquoted(segments) == _unquoted(redacted) else redacted

    def _query(self, query: str) -> str:
        return "&".join(self._pair(pair) for pair in query.split("&")) if query else query

    def _pair(self, pair: str) -> str:
        name, mark, value = pair.partition("=")
        plain_name = _unquoted(name.replace("+", " "))
        if mark and value:
            verdict = self._verdict(plain_name)
            if verdict in {_SECRET, _DENIED} or (verdict == _PIN and _is_pin(_unquoted(value))):
                value = quote(REDACTED)
            elif verdict == _EMAIL:
                value = quote(self._email(unquote_plus(value)))
            elif verdict != _ALLOWED:
                value = self._quoted(value, is_form=True, place=verdict)
        return f"{self._quoted(name, is_form=True)}{mark}{value}"

    def _quoted(self, text: str, *, safe: str = "", is_form: bool = False, place: int = _PLAIN) -> str:
        """Redact percent-encoded text; it is encoded again only if it contained a secret."""
        unquoted = _unquoted(text.replace("+", " ") if is_form else text)
        redacted = self._safe(unquoted, place)
        return text if redacted == unquoted else quote(redacted, safe=safe)

    def _value(self, value: Any, paths: tuple[dict[str, Any], ...], depth: int, place: int = _PLAIN) -> Any:
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
            return [self._value(element, paths, depth + 1, place) for element in value]
        return self._object(value, paths, depth + 1)

    def _safe(self, text: str, place: int = _PLAIN) -> str:
        """Redact text, remembering which texts contain no secrets."""
        if place == _CARD_FIELD:
            return self.text(text, place)
        if text in self._harmless:
            return text
        self._yield_gil()
        redacted = self.text(text)
        if redacted != text and place == _ID and not _BLANK.search(text):  # text with blanks is not an id
            return self.text(text, place)
        if redacted == text and len(text) <= _LONGEST_REMEMBERED:
            if len(self._harmless) >= _MOST_REMEMBERED:
                self._harmless.clear()
            self._harmless.add(text)
        return redacted

    def _object(self, content: dict[str, Any], paths: tuple[dict[str, Any], ...], depth: int) -> dict[str, Any]:
        self._yield_gil()
        found: dict[str, Any] = {}
        for name, value in content.items():
            below: tuple[dict[str, Any], ...] = ()
            verdict, shown = self._known_names.get(name) or self._classify(name)
            if paths:
                below = _below(name, paths)
                verdict = _stronger(verdict, below)
            if verdict in _SEARCHED:
                found[shown] = self._value(value, below, depth, verdict)
            elif verdict == _ALLOWED:
                found[name] = value
            elif verdict == _EMAIL:
                found[shown] = self._under_email(value, below, depth)
            elif verdict == _PIN:
                found[shown] = REDACTED if _is_pin(value) else self._value(value, below, depth)
            else:  # true, false and null reveal nothing
                is_revealing = verdict == _DENIED or not (value is None or isinstance(value, bool))
                found[shown] = REDACTED if is_revealing else value
        return found

    def _under_email(self, value: Any, paths: tuple[dict[str, Any], ...], depth: int) -> Any:
        if isinstance(value, str) and value.strip():
            return self._email(value)
        return self._value(value, paths, depth)

    def _plain_text(self, text: str, place: int) -> str:
        if "://" in text:
            text = _USER_IN_URL.sub("", text)
        if "=" in text or ":" in text:
            text = self._without_named(text)
        if "@" in text or "%40" in text:
            text = self._without_emails(text)
        if len(text) >= _SHORTEST_SECRET:
            text = _LOOKS_SECRET.sub(REDACTED, text)
            if "eyJ" in text:
                text = _WEB_TOKEN.sub(_without_web_token, text)
            if place != _ID:
                text = without_cards(text, is_card_field=place == _CARD_FIELD)
        return text

    def _without_emails(self, text: str) -> str:
        kept = []
        done = 0
        for match in _AT_DOMAIN.finditer(text):
            begin = _local_part_begins(text, done, match.start())
            if begin < match.start():
                kept += [text[done:begin], self._email(text[begin : match.end()])]
                done = match.end()
        return "".join([*kept, text[done:]]) if kept else text

    def _without_named(self, text: str) -> str:
        """Remove values that follow a secret's name: `password: x`, `"token":"x"`, `api_key=x`."""
        kept = []
        done = at = 0
        while match := _NAME.search(text, at):
            at = match.end()
            name = match[1]
            verdict = self._verdict(name)
            if verdict not in {_SECRET, _DENIED, _PIN}:
                continue
            is_header = name.lower().endswith(("cookie", "authorization"))
            value = (_LINE if is_header else _VALUE).match(text, at)
            if value and (verdict != _PIN or _is_pin(value[0])):
                kept += [text[done:at], REDACTED]
                done = at = value.end()
        return "".join([*kept, text[done:]]) if kept else text

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
        parts = [_normal(part) if part != "*" else "*" for part in rule.split(".")]
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
            found = self._tops[name] = _stronger(self._named.get(_normal(name), _PLAIN), below), below
        return found

    def _verdict(self, name: str) -> int:
        return (self._known_names.get(name) or self._classify(name))[0]

    def _classify(self, name: str) -> tuple[int, str]:
        """The verdict on values of this name, and the redacted name. Remembered."""
        if len(self._known_names) >= _KNOWN_NAMES:  # senders can invent names
            self._known_names.clear()
        normal = _normal(name)
        if normal in self._named:
            verdict = self._named[normal]
        elif normal in _SECRET_NAMES or any(part in normal for part in _SECRET_PARTS):
            verdict = _SECRET
        elif normal in _EMAIL_NAMES or normal.endswith(("email", "emailaddress")):
            verdict = _EMAIL
        else:
            verdict = _place(normal)
        self._known_names[name] = result = verdict, self.text(name)
        return result


def _below(name: str, paths: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    normal = _normal(name)
    return tuple(node[part] for node in paths for part in (normal, "*") if part in node)


def _stronger(by_name: int, below: tuple[dict[str, Any], ...]) -> int:
    """The effective verdict: a denial by name, else the verdict of the paths, else that of the name."""
    by_path = max((node[""] for node in below if "" in node), default=_PLAIN)
    return _DENIED if by_name == _DENIED else by_path or by_name


def _normal(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _place(normal: str) -> int:
    """What a name that is not a secret's says about its value."""
    bare = normal.rstrip("0123456789")  # `ean13`, `id[0]`
    if normal == "pin":
        return _PIN
    if bare.endswith(_ID_ENDINGS) and not bare.endswith(_NOT_IDS):
        return _ID
    return _CARD_FIELD if any(part in bare for part in _CARD_PARTS) or bare.endswith(_CARD_ENDINGS) else _PLAIN


def _unquoted(text: str) -> str:
    """Decode percent-encoding, also if it was applied several times."""
    for _ in range(_UNQUOTINGS):
        if "%" not in text or (plain := unquote(text)) == text:
            break
        text = plain
    return text


def _local_part_begins(text: str, lowest: int, at: int) -> int:
    backwards = text[max(lowest, at - _LONGEST_LOCAL_PART) : at][::-1]
    for pattern in _LOCAL_PARTS:
        if found := pattern.match(backwards):
            return at - found.end()
    return at


def _without_web_token(match: re.Match[str]) -> str:
    before, token, _ = match[0].partition("eyJ")
    return before + REDACTED if token else match[0]


def _is_pin(value: object) -> bool:
    """Whether the value of the name `pin` is a PIN: digits only. In a jewelry shop, a pin is also a brooch."""
    if isinstance(value, list):
        return any(not isinstance(element, list) and _is_pin(element) for element in value)
    return type(value) in {str, int} and "".join(filter(str.isalnum, str(value))).isdigit()


def _long_number(value: float, place: int) -> Any:
    """Redact a card number; infinities and NaN become null."""
    if not math.isfinite(value):
        return None
    if place == _ID or value != int(value):
        return value
    return CARD if is_card_number(int(value), is_card_field=place == _CARD_FIELD) else value
