"""Every leak of the corpus is closed, and every innocent is sent as it is, at the place of the call where it stands."""

import json

import pytest

from carat_client.names import judge, words_of
from tests.support.redaction_corpus import Case, corpus, is_told, original, sent

LEAKS, INNOCENTS = corpus("leaks"), corpus("innocents")


def test_the_corpus_is_large_and_no_case_stands_twice():
    for cases in (LEAKS, INNOCENTS):
        assert len({(case.place, repr(case.value)) for case in cases}) == len(cases) >= 400
    assert all(case.secrets for case in LEAKS)
    assert not any(case.secrets for case in INNOCENTS)


@pytest.mark.parametrize("case", LEAKS, ids=lambda case: case.name)
def test_a_leak_is_closed(case: Case):
    assert is_told(case.secrets[0], case.value), "the corpus must hold what it says"
    found = sent(case)
    assert not [secret for secret in case.secrets if is_told(secret, found)]


@pytest.mark.parametrize("case", INNOCENTS, ids=lambda case: case.name)
def test_an_innocent_is_sent_as_it_is(case: Case):
    assert sent(case) == original(case)


@pytest.mark.parametrize("case", LEAKS, ids=lambda case: case.name)
def test_a_leak_is_closed_in_json_within_a_string(case: Case):
    if case.place != "body":
        return
    nested = Case(case.name, "text", json.dumps(case.value), case.secrets)
    found = sent(nested)
    assert not [secret for secret in case.secrets if is_told(secret, found)]


@pytest.mark.parametrize(("name", "words"), [
    ("cardCvv", ["card", "cvv"]), ("CARD_CVV", ["card", "cvv"]), ("card-cvv", ["card", "cvv"]), ("card.cvv[0]", ["card", "cvv"]), ("cardcvv", ["card", "cvv"]),
    ("APIKey", ["api", "key"]), ("x-api-key2", ["x", "api", "key"]), ("Kreditkartennummer", ["kreditkarten", "nummer"]), ("códigoDeSeguridad", ["codigo", "de", "seguridad"]),
    ("номерКарты", ["номер", "карты"]), ("noweHasło", ["nowe", "haslo"]), ("hatPin", ["hat", "pin"]), ("2fa", ["fa", "mfa"]), ("", []), ("__", []),
])  # fmt: skip
def test_a_name_has_the_same_words_in_every_style(name, words):
    assert words_of(name) == words


@pytest.mark.parametrize("style", [str.upper, str.title, "_".join, "-".join, ".".join, " ".join])
@pytest.mark.parametrize(
    "name", ["card cvv", "api key", "new password", "sms code", "mot de passe", "kod pin", "номер карты"]
)
def test_a_name_is_judged_alike_in_every_style(name, style):
    parts = name.split()
    written = style(name) if style in (str.upper, str.title) else style(parts)
    camel = parts[0] + "".join(part.title() for part in parts[1:])
    assert judge(written)[0] == judge(camel)[0] == judge(name)[0] != judge("title")[0]


@pytest.mark.parametrize("before", ["", "my", "stripe"])
@pytest.mark.parametrize("name", ["password", "apikey", "accesskey", "privatekey", "authorization", "accesstoken", "cardnumber", "sessionid", "securitycode"])  # fmt: skip
def test_a_name_in_lower_case_throughout_is_judged_as_one_in_words(before, name):
    assert judge(before + name)[0] == judge("user_password")[0]
