"""Finds credentials by what they look like: tokens of well-known services, private keys, IBANs, and passwords in URLs.

Every regular expression matches in linear time: it runs on whatever shoppers send.
"""

import re
from typing import Final

REDACTED: Final = "[redacted]"

# Each alternative begins with a literal or a set, which is compared before anything else is tried.
_KNOWN_TOKENS = re.compile(
    r"\b(?:"
    r"[Bb](?i:earer)\s{1,4}+[\w\-.~+/]{8,}+=*+"
    r"|[Bb](?i:asic)\s{1,4}+(?=[A-Za-z+/]{0,512}+[0-9=])[A-Za-z0-9+/]{8,}+=*+"
    r"|[prs]k_(?:live|test)_\w{8,}+"
    r"|sk-(?:(?:ant|proj|svcacct|or)-[\w\-]{12,}+|[A-Za-z0-9]{20,}+)"
    r"|s(?:hp[a-z]{2}_[0-9A-Za-z]{16,}+|q0[a-z]{3}-[\w\-]{20,}+)"
    r"|SG\.[\w\-]{16,}+\.[\w\-]{16,}+"
    r"|g(?:h[a-z]_\w{20,}+|ithub_pat_\w{20,}+|lpat-[\w\-]{16,}+)"
    r"|A(?:[KS]IA[0-9A-Z]{16}|Iza[\w\-]{30,}+|GE-SECRET-KEY-1\w{20,}+|TATT\w{20,}+)"
    r"|x(?:ox[a-z]|app)-[\w\-]{10,}+"
    r"|w(?:hsec_[\w+/=]{12,}+|c_order_\w{8,}+)"
    r"|ya29\.[\w\-]{12,}+|1//0[\w\-]{20,}+|EAA[A-Za-z0-9]{20,}+"
    r"|np(?:m_[A-Za-z0-9]{30,}+)|hf_[A-Za-z0-9]{24,}+|pypi-[\w\-]{30,}+|dop_v1_[0-9a-f]{32,}+|lin_api_\w{20,}+"
    r"|(?:pi|seti|ps)_[A-Za-z0-9]{4,64}+_secret_\w{8,}+"
    r"|c[ks]_[0-9a-f]{40}"
    r"|mb_[A-Za-z0-9+/]{32,}+=*+"
    r")"
)
_PRIVATE_KEY = re.compile(
    r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}(?:PRIVATE|SECRET) KEY[A-Z ]{0,10}-{4,5}|---- BEGIN SSH2 ENCRYPTED[^\n-]{0,40}----"
    r"|PuTTY-User-Key-File-\d"
)
_PRIVATE_KEY_END = re.compile(r"-{4,5} ?END [A-Z0-9 ]{0,60}-{4,5}|Private-MAC: ?\w*")
_WEB_TOKEN = re.compile(r"(?<![\w\-])[\w\-]{11,}+\.[\w\-]{0,}+(?:\.[\w\-]*+){0,3}")
_HOOK = re.compile(r"(?<=/services/)[A-Z]\w{4,20}/\w{4,20}/\w{8,}+|(?<=/webhooks/)\d{6,24}/[\w\-]{16,}+")

# ISO 13616: how many characters the IBANs of a country have.
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
_IBAN_GAP = " \u00a0\u202f-."
# From the check digits on: digits are rarer than letters.
_IBAN = re.compile(rf"[0-9]{{2}}(?<=[A-Za-z]{{2}}[0-9]{{2}})(?:[{re.escape(_IBAN_GAP)}]?[0-9A-Za-z]){{11,30}}")
_IBAN_MODULUS = 97

# In the first, a password may contain @, in the second also / ? and #, for which a user and no port must precede it.
_USER_IN_URL = re.compile(r"(?<=//)[^\s/?#@]{1,512}+@(?:[^\s/?#@]{0,64}+@){0,8}+")
_ODD_PASSWORD_IN_URL = re.compile(r"(?<=//)[^\s/?#@:]{0,64}+:(?!\d{1,5}(?:[/?#]|\Z))[^\s@\"'<>]{1,128}+@(?=[\w\[])")

_UUID = re.compile(r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}")
_OPAQUE = re.compile(r"[\w\-+/=.~%]+")
_CHANGES = re.compile(r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])|(?<=[a-z])(?=[A-Z])")
_FEWEST_CHANGES = 4
_LONGEST_OPAQUE = 4096
_SHORTEST_RANDOM, _SHORTEST_OPAQUE = 6, 16


def without_users_in_urls(text: str) -> str:
    """Remove user and password from URLs, also from those without a scheme (`//user:password@host`)."""
    return _ODD_PASSWORD_IN_URL.sub("", _USER_IN_URL.sub("", text))


def without_credentials(text: str) -> str:
    """Replace what looks like a credential, whatever its name."""
    text = _KNOWN_TOKENS.sub(REDACTED, text)
    if "eyJ" in text:
        text = _WEB_TOKEN.sub(_without_web_token, text)
    if "BEGIN " in text or "PuTTY" in text:
        text = _without_private_keys(text)
    if "hooks" in text:
        text = _HOOK.sub(REDACTED, text)
    return _without_ibans(text)


def looks_random(text: str) -> bool:
    """Whether a text looks like one that a machine drew: letters and digits alternate, as in no word or coupon."""
    if not _SHORTEST_RANDOM <= len(text) <= _LONGEST_OPAQUE or not _OPAQUE.fullmatch(text) or _UUID.fullmatch(text):
        return False
    return sum(1 for _ in _CHANGES.finditer(text)) >= _FEWEST_CHANGES


def looks_opaque(text: str) -> bool:
    """Whether a text could be a session's id or a signature: long, without blanks, and with digits."""
    is_long = len(text) >= _SHORTEST_OPAQUE and _OPAQUE.fullmatch(text[:_LONGEST_OPAQUE]) is not None
    return looks_random(text) or (is_long and any(map(str.isdigit, text)))


def _without_web_token(match: re.Match[str]) -> str:
    before, token, _ = match[0].partition("eyJ")
    return before + REDACTED if token else match[0]


def _without_private_keys(text: str) -> str:
    """Cut private keys, up to their end or that of the text, however their lines are wrapped."""
    kept = []
    done = 0
    while begin := _PRIVATE_KEY.search(text, done):
        end = _PRIVATE_KEY_END.search(text, begin.end())
        kept += [text[done : begin.start()], REDACTED]
        done = end.end() if end else len(text)
    return "".join([*kept, text[done:]]) if kept else text


def _without_ibans(text: str) -> str:
    kept = []
    done = at = 0
    while match := _IBAN.search(text, at):
        begin = match.start() - 2
        end = _iban_end(text, begin, match.end()) if begin >= done else 0
        if end:
            kept += [text[done:begin], REDACTED]
            done = at = end
        else:
            at = match.start() + 2
    return "".join([*kept, text[done:]]) if kept else text


def _iban_end(text: str, begin: int, latest: int) -> int:
    """Where the IBAN that begins here ends; 0 if it is none."""
    length = _IBAN_LENGTHS.get(text[begin : begin + 2].upper())
    if length is None or (begin and text[begin - 1].isalnum()):
        return 0
    digits = ""
    for place in range(begin, latest):
        character = text[place]
        if character not in _IBAN_GAP:
            digits += character
        if len(digits) == length:
            is_whole = place + 1 >= len(text) or not text[place + 1].isalnum()
            rearranged = "".join(str(int(c, 36)) for c in digits[4:] + digits[:4])
            return place + 1 if is_whole and int(rearranged) % _IBAN_MODULUS == 1 else 0
    return 0
