"""Judges names by their words: whether a value of this name is a secret, an id, an address, a card, or none of these.

`cardCvv`, `card-cvv` and `CARD_CVV` have the same words, and `kreditkartennummer` those of `kreditkarten_nummer`. Words
are compared without case and accents, and are those that login, payment and account forms use in English, German,
French, Spanish, Italian, Portuguese, Russian and Polish; passwords are known in some more languages.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

# What a name says of its value. From SECRETS to LOGIN_WORD, it is a secret only if the value or its neighbours say so.
(
    PLAIN,
    ID,
    CARD_FIELD,
    HEADERS,
    VERIFYING,
    SECRET,
    SECRETS,
    PIN,
    PAN,
    CODE,
    KEY,
    OPAQUE,
    LOGIN_WORD,
    EMAIL,
    ALLOWED,
    DENIED,
) = range(16)

# What a name says of its neighbours in the same object or query.
NAMES_ONE: Final = 1  # {"name": "password", …}
HOLDS_ONE: Final = 2  # {…, "value": "hunter2"}
ACCOUNT: Final = 4
SIGN_IN: Final = 8
MAYBE_SIGN_IN: Final = 16
ADDRESS: Final = 32
ACCESS: Final = 64
REFRESH: Final = 128
NAMES_MAYBE: Final = 512  # also a product's: {"name": "Secret", "content": "a locket"}
HOLDS_MAYBE: Final = 1024
LAST_WORD: Final = 2048  # in a text, the words before it belong to the name: `Security code: 123`
COUNTS: Final = 256  # set by the redactor: the object holds numbers only

_LONGEST_NAME = 200
_ASCII_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # `APIKey`, `apiKey`
_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "\u0131": "i", "æ": "ae", "œ": "oe"})


def folded(text: str) -> str:
    """Lower case without accents."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not unicodedata.combining(c)).translate(_LETTERS)


def words_of(name: str) -> list[str]:
    """The words of a name, folded; digits only separate them, except for those of `2fa`.

    `userPassword`, `user_password`, `user[password]` and `USER PASSWORD` have the words user and password.
    """
    name = name[:_LONGEST_NAME]
    whole = [word.lower() for word in _ASCII_WORDS.findall(name)] if name.isascii() else _unicode_words(name)
    if "2fa" in name.lower():
        whole.append("mfa")
    return [part for word in whole for part in _parts(word)]


def _unicode_words(name: str) -> list[str]:
    words: list[str] = []
    word = ""
    for character in unicodedata.normalize("NFKC", name):
        if character.isalpha():
            if character.isupper() and word and not word[-1].isupper():
                words.append(word)
                word = ""
            elif not character.isupper() and len(word) > 1 and word[-1].isupper() and word.isupper():
                words.append(word[:-1])  # `APIKey`
                word = word[-1]
            word += character
        elif unicodedata.category(character) not in {"Cf", "Mn"}:  # invisible ones are no separators
            words.append(word)
            word = ""
    words.append(word)
    return [folded(part) for part in words if part]


def judge(name: str) -> tuple[int, int]:
    """What the name says of its value (PLAIN, SECRET …), and of its neighbours (bits: ACCOUNT, ADDRESS …)."""
    words = words_of(name)
    if not words:
        return PLAIN, 0
    joined = "".join(words)
    roles = _ROLES.get(joined, 0) or _half_of_a_pair(words)
    return _verdict(name, words, joined), roles | LAST_WORD * (words[-1].startswith(_LAST_WORDS))


def says_password(text: str) -> bool:
    """Whether a text is the name of a secret, and no ordinary word such as the title `Secret`."""
    joined = "".join(words_of(text))
    return _IS_STEM.search(joined) is not None


def normal(name: str) -> str:
    """A name as rules are written: lower case, letters and digits only."""
    return "".join(filter(str.isalnum, name)).lower()


def may_name_secret(text: str) -> bool:
    """Whether a text could be a secret's name: fast, and true too often."""
    return len(text) <= _LONGEST_NAME and (not text.isascii() or _HINTS.search(text.lower()) is not None)


def _set(text: str) -> frozenset[str]:
    return frozenset(folded(text).split())


# ---- words -------------------------------------------------------------------------------------------------------

# Wherever they stand in a name, even within a word.
_STEMS = tuple(
    _set(
        "password passwd passwrd passwort passphrase passcode pswd kennwort geheimzahl geheimwort losungswort "
        "contrasen motdepasse motpasse parolaordine parolaordin paroladordine palavrapasse palabrasecreta парол "
        "кодовоеслово wachtwoord adgangskod losenord passord salasana jelszo haslo hasla лозинк lozink "
        "κωδικοςπροσβασης συνθηματικο 密码 密碼 パスワード 비밀번호 كلمةالمرور סיסמה "
        "sessid sessionid sessionkey jwt csrf xsrf "
        "credential securitycode verificationcode onetimecode zugangsdaten anmeldedaten credencia credenzial "
        "samlresponse samlrequest samlassertion samlart "
        "kartenpruf cryptogramme seedphrase recoveryphrase mnemonic socialsecurity sozialversicherung "
        "securitesociale steuerid creditcard tokenid tokenvalue tokenstring tokendata secretvalue secretid "
        "secretstring cookievalue cookieheader cookiestring authheader authdata authcode authkey authtoken "
        "accesstoken refreshtoken idtoken clientsecret apikey accesskey privatekey writekey signingkey "
        "encryptionkey authorization authentication cardnumber cardnum cardcvc cardcvv otpcode "
        "codicefiscale"
    )
)
_IS_STEM = re.compile("|".join(_STEMS))
# Words that are secrets by themselves, in any name.
_SECRET_WORDS = _set(
    "pwd pw psw pword mdp senha senhas heslo sifre parol token tokens jeton токен токена otp totp hotp mfa tfa "
    "otc cvv cvc cvn ccv cav iban ssn cpf pesel snils снилс hmac sig bearer nonce wpnonce cookie cookies auth "
    "authorization authorisation authentication assertion verifier mtan smstan pushtan chiptan wresult apikey"
)
_WHOLE_OR_LAST = _set("sid pass csc secret secrets segreto secreto geheimnis секрет")
_KEY_LIKE = _set(
    "proof key token code id access value hash string phrase word answer base hex data confirm repeat new old"
)
_NO_PASS_BEFORE = _set("boarding season day week ski museum gift annual vip event travel bus train all")
# A name that ends, or begins, with these says something about a secret, and does not hold it.
_ABOUT = _set(
    "type types expires expiry expiration expire at in on length len required enabled disabled strength policy "
    "count counts limit attempts tries valid validity min max sent label labels placeholder title error errors "
    "status check checked result provider providers method methods amount currency brand last consent banner "
    "notice settings preferences accepted cutter jar dough used usage rate ttl age version updated changed exists "
    "present supported category categories format kind month year santa garden sale url uri endpoint path link "
    "page screen message name domain symbol color colour verified confirmed "
    "of ring rings necklace bracelet earring earrings pendant charm brooch chain box case holder cover collection"
)
_ASKS = _set("is has requires needs show hide enable allow can should min max total count")
_CODES = _set("code codes kod kody koda kodu код кода codigo codigos codice codici kode")
_SECRET_CODES = _set(
    "access acces acceso accesso acesso zugang zugangs dostep dostepu доступа login signin sms смс otp mfa tfa "
    "totp auth backup recovery reset pin cvv cvc cvn cv secret secreto segreto secreta tajny секретный device "
    "unlock freischalt door two factor onetime passe confirm"
)
_SECRET_CODE_STEMS = (
    "secur", "segur", "sicur", "sicherheit", "bezpiecz", "безопас", "verif", "weryf", "провер", "подтвер", "podtver",
    "potwier", "confirm", "conferm", "bestatig", "activat", "activac", "attivaz", "ativac", "aktiv", "authoriz",
    "authent", "confidenti", "autentic", "autoriz", "pruf", "einmal", "jednoraz", "однораз", "monouso",
)  # fmt: skip
_VERIFYING = _set("login signin challenge twofactor factor")  # {"verification": {"code": "123456"}}
_SENT_CODES = _set("email mail mobile phone")  # or, as `phone_code`, those of a country
_PINS = _set("pin пин")
_PIN_WORDS = _set(
    "cardholder card code codes kod код user customer client login account new old current confirm confirmation repeat "
    "security mobile phone sms device bank debit credit atm gift wallet parental transaction my your the use "
    "enter is verify hash secret access payment pay auth number nr no karten sim lock unlock dein ihre mein mon "
    "mi il tu su votre number"
)
_TANS = _set("sms mobile m push chip photo i e code")
_KEYS = _set("key keys clave cle chiave klucz ключ schlussel chave")
_SECRET_KEYS = _set(
    "secure api access private secret consumer ws write signing encryption auth authentication license licence master "
    "service server account shared storage subscription functions hmac ssh webhook deploy activation reset login "
    "recovery wallet client order app security admin secreta secrete segreta privada privata privee acceso "
    "prywatny tajny секретный geheimer privater nueva actual user usuario sas rsa aes pgp gpg"
)
_CARDS = _set(
    "card cc creditcard debitcard giftcard karte karten kreditkarte kreditkarten carte carta tarjeta cartao karty "
    "karta карты карта kaart"
)
_NUMBERS = _set("number numbers num no nr nummer numero numer nomer номер nombre")
_BANK_ACCOUNTS = _set("account routing konto konta bankkonto compte cuenta conto conta счета")
_ANSWERS = _set("answer antwort reponse respuesta risposta resposta odpowiedz ответ")
_SECRET_ANSWERS = ("secur", "secret", "segret", "geheim", "sekret", "sicherheit", "tajn", "секрет")
_GOODS = _set(
    "variant product item article artikel sku order line stock part model style serial tracking invoice customer "
    "merchandise catalog reference shipment parcel"
)
_GLUED_ENDS = (
    "code", "key", "token", "tokens", "number", "nummer", "secret", "код", "kod", "cookie", "hash", "pwd", "otp", "cvv",
    "cvc",
)  # fmt: skip
_GLUED = {
    "pin": _PIN_WORDS,
    "pass": _set("db user login admin root my old new smtp mail ftp mysql app wp"),
    "num": _CARDS,
    "no": _CARDS,
    "nr": _CARDS,
}
_ALL_GLUED_ENDS = (*_GLUED_ENDS, *_GLUED)
_LEAST_GLUED = 2
_PAIR = 2
_PAIRED = _set(
    "property config configuration setting option attribute field param parameter header meta custom env variable form "
    "input element control"
)

_LAST_WORDS = tuple(
    _set(
        "code key num nummer passe password word wort phrase segur securit sicurezza verif value pin пин secret kart "
        "carte carta tarjeta cartao карты код смс sms подтверждения безопасности доступа ordine answer bezpiecze "
        "weryfikacyjny acces token"
    )
)

# Values of these names are ids, never card numbers, however many digits they have.
_ID_ENDINGS = (
    "id", "ids", "sku", "skus", "variant", "variants", "product", "products", "order", "orders", "gtin", "ean", "upc",
    "isbn", "barcode", "barcodes", "ordernumber", "productnumber", "articlenumber", "itemnumber", "partnumber",
    "serialnumber", "trackingnumber", "orderno", "productno", "articleno", "itemno",
)  # fmt: skip
_NOT_IDS = ("paid", "valid")
_CARD_PARTS = ("card", "kreditkarte")
_CARD_ENDINGS = ("number", "num", "pan", "cc", "ccno", "ccnr", "no")
_EMAILS = _set("mail emails mails")


def _roles() -> dict[str, int]:
    kinds = {
        NAMES_ONE: "key field fieldname fieldid label attribute attributecode attributename param paramname "
        "parameter header headername property prop k variable var question setting option",
        NAMES_MAYBE: "name id type n code title",
        HOLDS_ONE: "value val v values fieldvalue attributevalue paramvalue headervalue stringvalue valuestring",
        HOLDS_MAYBE: "content data text input answer default defaultvalue current",
        ACCOUNT: "email mail emailaddress phone phonenumber mobile tel telephone msisdn login user username userid "
        "usuario utente benutzer benutzername identifiant utilisateur uzytkownik challenge challengeid "
        "identifier телефон логин correo telefono telefon telefone telefonnummer handy handynummer mobil celular "
        "cellulare phonenr mobilephone mobilenumber idorder idmodule",
        SIGN_IN: "granttype redirecturi codeverifier sessionstate authuser",
        MAYBE_SIGN_IN: "state scope clientid iss responsetype",
        ADDRESS: "city state street address country postalcode zip zipcode postcode district line town province "
        "region countrycode locality addressline",
        ACCESS: "access",
        REFRESH: "refresh",
    }
    found: dict[str, int] = {}
    for role, names in kinds.items():
        for name in _set(names):
            found[name] = found.get(name, 0) | role
    return found


_ROLES = _roles()


def _hints(words: Iterable[str]) -> re.Pattern[str]:
    """Finds the beginning of a word that can make a name a secret's."""
    ascii_words = sorted(word for word in words if word.isascii())
    short = [word for word in ascii_words if not any(word != other and other in word for other in ascii_words)]
    return re.compile("|".join(short))


_HINTS = _hints(
    {
        *_STEMS,
        *_SECRET_WORDS,
        *_WHOLE_OR_LAST,
        *_LAST_WORDS,
        *_CARDS,
        *_KEYS,
        *_PINS,
        "pass",
        "code",
        "kod",
        "codi",
        "tan",
        "session",
        "signature",
    }
    | {"account", "answer", "passport", "2fa", "access", "refresh", "ticket", "geheim", "nummer", "parola"}
)


# ---- the rules ---------------------------------------------------------------------------------------------------


def _parts(word: str) -> tuple[str, ...]:
    """A word of two that are written together as both: `apikey`, `kreditkartennummer`."""
    if not word.endswith(_ALL_GLUED_ENDS):
        return (word,)
    for end, befores in _GLUED.items():
        if word.endswith(end) and word[: -len(end)] in befores:
            return word[: -len(end)], end
    for end in _GLUED_ENDS:
        if word.endswith(end) and len(word) >= len(end) + _LEAST_GLUED:
            return word[: -len(end)], end
    return (word,)


def _verdict(name: str, words: list[str], joined: str) -> int:
    is_about = words[-1] in _ABOUT or words[0] in _ASKS
    if not is_about and (found := _secret(words, frozenset(words), joined)) != PLAIN:
        return found
    plain = normal(name)
    if plain in _EMAILS or plain.endswith(("email", "emailaddress")):
        return EMAIL
    if words[-1] == "headers":
        return HEADERS
    if words[-1] in _VERIFYING or words[-1].startswith(_SECRET_CODE_STEMS):
        return VERIFYING
    return _place(words, plain)


def _secret(words: list[str], known: frozenset[str], joined: str) -> int:
    """The verdict of the first rule that fits: rules on whole names before those on their words."""
    if _IS_STEM.search(joined):
        return SECRET
    if known & _SECRET_WORDS and not joined.startswith("tokenof"):
        return SECRETS if words[-1] in {"tokens", "cookies"} else SECRET
    if _is_whole_or_last(words):
        return SECRET
    for rule in (_by_code, _by_pin, _by_key, _by_card, _by_account):
        if (found := rule(words, known)) != PLAIN:
            return found
    if words[-1] in {"session", "sess", "signature", "ticket"} or joined in {"access", "refresh", "signaturevalue"}:
        return OPAQUE
    return PLAIN


def _half_of_a_pair(words: list[str]) -> int:
    """The role of `propertyName`, `config_key` and `option_value`."""
    if len(words) != _PAIR or words[0] not in _PAIRED:
        return 0
    return {"name": NAMES_ONE, "key": NAMES_ONE, "code": NAMES_ONE, "value": HOLDS_ONE, "val": HOLDS_ONE}.get(
        words[1], 0
    )


def _is_whole_or_last(words: list[str]) -> bool:
    """Whether one of the words that are also ordinary ones stands where it means a secret."""
    last = words[-1]
    if last == "secrets" and len(words) == 1:
        return True
    for place, word in enumerate(words):
        if word not in _WHOLE_OR_LAST or (word == "pass" and place and words[place - 1] in _NO_PASS_BEFORE):
            continue
        after = words[place + 1] if place + 1 < len(words) else ""
        if not after or (word in {"pass", "secret", "csc"} and after in _KEY_LIKE):
            return True
    return last == "parola"


def _by_code(words: list[str], known: frozenset[str]) -> int:
    if not known & _CODES:
        return PLAIN
    if known & _PINS:
        return PIN
    if len(words) == 1:
        return CODE
    if known & _SECRET_CODES or known & _CARDS or any(word.startswith(_SECRET_CODE_STEMS) for word in words):
        return SECRET
    return PIN if known & _SENT_CODES else PLAIN


def _by_pin(words: list[str], known: frozenset[str]) -> int:
    if words[-1] == "pan":
        return PAN
    is_pin = known & _PINS and (len(words) == 1 or known & _PIN_WORDS)
    is_tan = "tan" in known and (len(words) == 1 or known & _TANS)
    return PIN if is_pin or is_tan else PLAIN


def _by_key(words: list[str], known: frozenset[str]) -> int:
    if not known & _KEYS:
        return PLAIN
    if len(words) == 1:
        return LOGIN_WORD if words[0] in {"clave", "chave"} else KEY
    return SECRET if known & _SECRET_KEYS or "form" in known else PLAIN  # Magento's form_key guards against forgery


def _by_card(words: list[str], known: frozenset[str]) -> int:
    """`card_number`, `numero_de_carte`, `номер_карты`: the two stand together."""
    places = [place for place, word in enumerate(words) if word in _NUMBERS]
    for place in places:
        is_before = place and words[place - 1] in _CARDS
        if is_before or (words[place] not in {"number", "numbers"} and _CARDS & {*words[place + 1 : place + 3]}):
            return SECRET
    is_verification = (known & {"card", "cc"} and known & {"verification", "cid", "security"}) or (
        {"verification", "value"} <= known
    )
    return SECRET if is_verification else PLAIN


def _by_account(words: list[str], known: frozenset[str]) -> int:
    is_bank = {"bank", "account"} <= known or (known & _BANK_ACCOUNTS and known & _NUMBERS)
    is_passport = known & {"passport", "reisepass", "passeport", "pasaporte"} and known & _NUMBERS
    is_answer = known & _ANSWERS and any(word.startswith(_SECRET_ANSWERS) for word in words)
    return SECRET if is_bank or is_passport or is_answer else PLAIN


def _place(words: list[str], plain: str) -> int:
    """What a name that is not a secret's says about its value."""
    bare = plain.rstrip("0123456789")  # `ean13`, `id[0]`
    if bare.endswith(_ID_ENDINGS) and not bare.endswith(_NOT_IDS):
        return ID
    if words[-1] in _NUMBERS and _GOODS.intersection(words):
        return ID
    return CARD_FIELD if any(part in bare for part in _CARD_PARTS) or bare.endswith(_CARD_ENDINGS) else PLAIN
