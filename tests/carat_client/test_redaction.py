"""No card number, e-mail address or secret leaves the shop, wherever in a call it stands; all else does."""

import json
import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carat_client import ClientSettings
from carat_client.captured import Body, Captured
from carat_client.cards import CARD
from carat_client.records import RecordMaker
from carat_client.redaction import EMAIL, REDACTED, Redactor
from tests.support.deadline import deadline
from tests.support.effort import repeated

EXAMPLES = repeated(40, 2000)
SECRET_NAMES = [
    "password", "Password", "user_password", "newPassword", "API-Key", "apiKey", "api_key", "access_token", "X-Auth-Token",
    "refreshToken", "client_secret", "Authorization", "cookie", "Set-Cookie", "cvv", "CVC", "otp", "cardNumber",
    "card_number", "iban", "session_token", "sid", "csrfToken", "JWT", "private_key", "pwd", "credentials",
]  # fmt: skip


def luhn_complete(digits: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * 2 if place % 2 == 0 else int(digit)
        total += doubled - 9 if doubled > 9 else doubled
    return digits + str(-total % 10)


ISSUED = {
    "4": (16, 19), "51": (16,), "55": (16,), "2221": (16,), "2720": (16,), "34": (15,), "37": (15,), "6011": (16, 19),
    "62": (16, 17, 18, 19), "65": (16,), "3528": (16,), "3589": (16, 19), "50": (16,), "5893": (16, 19), "6759": (16, 18),
    "36": (16, 19), "2200": (16,), "8171": (16,), "9792": (16,),
}  # fmt: skip


@st.composite
def issued_cards(draw) -> str:
    """A card number with the prefix and the length of an issuer."""
    prefix = draw(st.sampled_from(sorted(ISSUED)))
    more = draw(st.sampled_from(ISSUED[prefix])) - len(prefix) - 1
    return luhn_complete(prefix + draw(st.text("0123456789", min_size=more, max_size=more)))


cards = issued_cards()
secrets = st.text("ABCDEFGHabcdefgh0123456789", min_size=8, max_size=30).map(lambda text: f"q7{text}z")
texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text("abcdefg_", min_size=1, max_size=8)


@st.composite
def written_cards(draw, card: str) -> str:
    """A card number as people write it: in groups, with one separator between them."""
    separator = draw(st.sampled_from(["", " ", "-", "\u00a0", "\u2011", " -"]))
    size = draw(st.integers(1, 6))
    return separator.join(card[at : at + size] for at in range(0, len(card), size))


@st.composite
def planted_calls(draw) -> tuple[dict, dict]:
    """The parts of a call with something planted in each of several places, and what was planted."""
    card, email, secret = draw(cards), draw(st.emails()), draw(secrets)
    name = draw(st.sampled_from(SECRET_NAMES))

    def phrase() -> str:
        planted = draw(
            st.sampled_from(
                [
                    draw(written_cards(card)), email, f"{name}={secret}", f'"{name}": "{secret}"', f"Bearer {secret}",
                    f"https://shop.example/x?{name}={secret}&mail={quote(email, safe='')}", quote(card + " " + email),
                    f"https://{secret}:{secret}@shop.example/", f"{name}: {secret}",
                ]
            )
        )  # fmt: skip
        return f"{draw(texts)} {planted} {draw(texts)}"

    def leaf():
        return draw(
            st.sampled_from(
                [
                    phrase(), int(card), {name: secret}, {name: [secret, {"x": secret}]}, {phrase(): 1}, draw(texts), None,
                    json.dumps({name: secret, "note": phrase()}), {"email": email}, {"contact_e-mail": f" {email} "}, 17,
                    json.dumps(json.dumps({"a": [phrase(), int(card)]})), True, 1.5,
                ]
            )
        )  # fmt: skip

    def tree(depth: int):
        kind = draw(st.integers(0, 2)) if depth else 0
        if kind == 0:
            return leaf()
        children = [tree(depth - 1) for _ in range(draw(st.integers(0, 3)))]
        return children if kind == 1 else {f"{draw(names)}{n}": child for n, child in enumerate(children)}

    query = "&".join(
        [f"{quote(name)}={secret}", f"q={quote(phrase())}", f"{quote(draw(names))}={quote(email, safe='')}"]
    )
    call = {
        "path": f"/api/{quote(draw(texts), safe='')}/{draw(written_cards(card))}/{email}",
        "query": query,
        "user-agent": phrase(),
        "referer": f"https://shop.example/{quote(phrase())}?{query}#{query}",
        "x-referrer": f"https://{secret}:{secret}@shop.example/?next={quote('https://x.example/?' + query, safe='')}",
        "cookie": f"visitor_id={quote(email, safe='@')}; session_token={secret}; other={secret}",
        "x-user-id": draw(st.sampled_from([email, card])),
        "authorization": f"Bearer {secret}",
        "request": tree(3),
        "response": tree(3),
    }
    return call, {"card": card, "email": email, "secret": secret}


def sent(call: dict, **settings) -> bytes:
    maker = RecordMaker(ClientSettings(url="http://collector.example", write_key="k", **settings))
    names = ("user-agent", "referer", "x-referrer", "cookie", "x-user-id", "authorization")
    bodies = {}
    for name in ("request", "response"):
        bodies[name] = Body(1_000_000)
        bodies[name].add(json.dumps(call.get(name)).encode())
    line = maker.line(
        Captured(
            call_id=bytes(16),
            started_ns=1_767_225_600_000_000_000,
            duration_s=0.01,
            method="POST",
            path=call.get("path", "/"),
            query=call.get("query", ""),
            peer="203.0.113.9",
            headers={name.encode(): call[name].encode() for name in names if name in call},
            extracted=None,
            status=200,
            **bodies,
        )
    )
    assert line is not None
    return line


def leaves(content):
    if isinstance(content, dict):
        for name, value in content.items():
            yield name
            yield from leaves(value)
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value)
    else:
        yield str(content)


def decoded(text: str) -> str:
    for _ in range(4):
        text = unquote(text).replace('\\"', '"').replace("\\\\", "\\")
    return text


@pytest.mark.parametrize("hash_key", ["", "key of the hashes"])
@settings(max_examples=EXAMPLES)
@given(planted=planted_calls())
def test_nothing_that_was_planted_is_in_what_is_sent(planted, hash_key):
    call, what = planted
    line = sent(call, hash_key=hash_key)
    for leaf in leaves(json.loads(line)):
        text = decoded(leaf)
        assert what["email"].lower() not in text.lower()
        assert what["secret"] not in text
        assert what["card"] not in re.sub(r"\D", "", text)
    assert what["secret"].encode() not in line


ordinary = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**11), 10**11)
    | st.floats(-1e9, 1e9)
    | st.text("abcdefghijklmnop ÄÖü.,!?-_/'\n", max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=EXAMPLES)
@given(content=ordinary)
def test_what_is_harmless_is_sent_as_it_is(content):
    assert json.loads(sent({"response": content}))["response"] == content


@settings(max_examples=EXAMPLES)
@given(content=st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=10))
def test_what_was_redacted_has_nothing_more_to_redact(content):
    redactor = Redactor(hash_key="k")
    once = redactor.field("response", content)
    assert redactor.field("response", once) == once


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("card 4111 1111 1111 1111, thanks", f"card {CARD}, thanks"),
        ("qty 2 4111-1111-1111-1111 exp 12", f"qty 2 {CARD} exp 12"),
        ("x5500005555555559y", f"x{CARD}y"),
        ("٤١١١١١١١١١١١١١١١", CARD),  # the same in Arabic digits
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),  # no card: the last digit is wrong
        ("4111111111111111555555", "4111111111111111555555"),  # too long for a card
        ("1c06a1a5-4111-4111-8111-111111111111", "1c06a1a5-4111-4111-8111-111111111111"),  # a UUID
        ("write to Anna.Maier+shop@mail.example.com.", f"write to {EMAIL}."),
        ("'anna@mail.example', \"bob@mail.example\"", f"'{EMAIL}', \"{EMAIL}\""),
        ("https://x.example/?to=anna%40mail.example", f"https://x.example/?to={EMAIL}"),
        ("https://x.example/?to=anna%2540mail.example", f"https://x.example/?to={EMAIL}"),
        ("https://anna:hunter2@x.example/", "https://x.example/"),
        ("follow @anna", "follow @anna"),
        ("password: hunter2 or so", f"password: {REDACTED} or so"),
        ('{"password": "a\\"b c", broken', f'{{"password": {REDACTED}, broken'),
        ('log: \\"token\\":\\"abc def\\", next', f'log: \\"token\\":{REDACTED}, next'),
        ("Cookie: a=b; c=d", f"Cookie: {REDACTED}"),
        ("authorization=Basic YWxhZGRpbjpvcGVu", f"authorization={REDACTED}"),
        ("key sk_live_51Hsomething1 here", f"key {REDACTED} here"),
        ("Basic earrings, bearer of luck", "Basic earrings, bearer of luck"),
        ("material=gold&size:7", "material=gold&size:7"),
        ('{"a": "b"}', '{"a": "b"}'),
        ('{"a": {"pin": 1234}}', f'{{"a": {{"pin": "{REDACTED}"}}}}'),
    ],
)  # fmt: skip
def test_free_text(text, redacted):
    assert Redactor().text(text) == redacted


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://shop.example/p/17?utm_source=a%20b&gclid=Ab-1_2", "https://shop.example/p/17?utm_source=a%20b&gclid=Ab-1_2"),
        ("/r?e=anna%40mail.example&x=1", "/r?e=%5Bemail%5D&x=1"),
        ("/r?token=abc&x=1#access_token=abc", "/r?token=%5Bredacted%5D&x=1#access_token=%5Bredacted%5D"),
        ("/r?n=4111+1111+1111+1111", "/r?n=%5Bcard%5D"),
        ("/u/anna@mail.example/orders", "/u/%5Bemail%5D/orders"),
        ("https://a:b@shop.example/", "https://shop.example/"),
        ("/?next=%2Flogin%3Ftoken%3Dabc", "/?next=%2Flogin%3Ftoken%3D%5Bredacted%5D"),
        ("", ""),
    ],
)  # fmt: skip
def test_urls(url, redacted):
    assert Redactor().url(url) == redacted


def test_an_address_has_the_same_hash_wherever_it_stands_and_another_under_another_key():
    content = {"email": " Anna@Mail.example ", "note": "from anna@mail.example", "list": ["anna@mail.example"]}
    found = Redactor(hash_key="one").field("response", content)
    assert found["email"].startswith("email:")
    assert found == {"email": found["email"], "note": f"from {found['email']}", "list": [found["email"]]}
    assert Redactor(hash_key="two").field("response", content)["email"] != found["email"]


def test_true_false_and_null_under_a_secret_name_tell_nothing_and_stay():
    assert Redactor().field("response", {"token": None, "password": True, "pin": 2345, "secret": {}}) == {
        "token": None, "password": True, "pin": REDACTED, "secret": REDACTED,
    }  # fmt: skip


def test_values_are_allowed_and_denied_by_name_and_by_path():
    content = {
        "body": {"ref": 4111111111111111, "items": [{"ref": 4111111111111111, "note": "x"}], "Street_Name": "Elm", "token": "t"}
    }  # fmt: skip
    redactor = Redactor(
        allow=["request.body.items.ref", "token"], deny=["streetname", "request.body.items[].note", "user_agent"]
    )
    assert redactor.field("request", content) == {
        "body": {
            "ref": CARD, "items": [{"ref": 4111111111111111, "note": REDACTED}], "Street_Name": REDACTED, "token": "t",
        }
    }  # fmt: skip
    assert redactor.field("user_agent", "Mozilla") is None
    both = Redactor(allow=["request.*.id"], deny=["id"])
    assert both.field("request", {"body": {"id": 1}}) == {"body": {"id": REDACTED}}


def test_ids_that_look_like_cards_can_be_allowed_in_the_endpoint():
    call = {"path": "/api/products/4111111111111111"}
    assert json.loads(sent(call))["endpoint"] == "/api/products/%5Bcard%5D"
    assert json.loads(sent(call, allow=("endpoint",)))["endpoint"] == call["path"]


def test_the_session_token_leaves_as_a_hash_and_a_personal_id_only_under_a_key():
    call = {"cookie": "session_token=s3cr3t; visitor_id=anna@mail.example", "x-user-id": "4111111111111111"}
    bare, keyed = json.loads(sent(call)), json.loads(sent(call, hash_key="k"))
    assert (bare["visitor_id"], bare["user_id"]) == (None, None)
    assert keyed["visitor_id"].startswith("email:")
    assert keyed["user_id"].startswith("id:")
    assert bare["session_token"].startswith("token:")
    assert bare["session_token"] != keyed["session_token"]
    assert json.loads(sent(call, hash_session_token=False))["session_token"] == "s3cr3t"


SHOPIFY_VARIANT = luhn_complete("3981234567890")  # 14 digits, and by Luhn's test and prefix a Diners Club card
EAN = luhn_complete("400638133393")  # 13 digits, and by both an old Visa card
LONG_ID = luhn_complete("411122223333444")


@pytest.mark.parametrize(
    "content",
    [
        {"pin": "lapel"}, {"pin": "hat pin"}, {"pin": ["brooch pin", "lapel pin, 18k"]}, {"pin": {"stone": "opal"}},
        {"pin": "PIN-10234"}, {"pins": 4, "pin_type": "tie"}, {"note": "pin: enamel, 30 mm"}, {"pin": None, "is_pin": True},
        {"variant_id": int(SHOPIFY_VARIANT)}, {"variantId": SHOPIFY_VARIANT}, {"merchandise": SHOPIFY_VARIANT},
        {"lines": [{"variant": int(SHOPIFY_VARIANT), "quantity": 1}]}, {"product_ids": [LONG_ID, int(LONG_ID)]},
        {"id": f"gid://shopify/ProductVariant/{LONG_ID}"}, {"lines": f"gid://shopify/CartLine/{LONG_ID}"},
        {"ean": EAN}, {"gtin13": int(EAN)}, {"code": f"EAN {EAN}"}, {"sku": f"RING-{LONG_ID}-54"}, {"order": LONG_ID},
        {"stone_id": f"GIA-{LONG_ID}"}, {"stone": "GIA 2141438171"}, {"items[0][id]": LONG_ID},
        {"sizes": "50 52 54 56 58 60 62 64"}, {"sizes": "36 38 40 42 44 46 48"}, {"ring_size": "17.5", "chain_cm": 45},
        {"ts": 1772877737123, "ns": 1772877737123456789}, {"carat": 0.75, "price": "1 234 567,89"},
    ],
)  # fmt: skip
def test_goods_and_ids_of_a_jewelry_shop_are_sent_as_they_are(content):
    assert Redactor().field("request", content) == content


def test_sizes_and_ids_of_the_last_test_would_be_cards_by_their_digits_alone():
    for digits in (SHOPIFY_VARIANT, EAN, LONG_ID):
        assert Redactor().field("request", {"card_field": digits}) == {"card_field": CARD}


@pytest.mark.parametrize(
    "url",
    [
        "/collections/pins?pin=lapel&pin=hat+pin", f"/products/ring?variant={SHOPIFY_VARIANT}",
        f"/api/v1/variants/{SHOPIFY_VARIANT}", f"/p/x?variant_id={LONG_ID}&items%5B0%5D%5Bid%5D={LONG_ID}",
        f"/p/gid:%2F%2Fshopify%2FProductVariant%2F{LONG_ID}",
    ],
)  # fmt: skip
def test_urls_of_pins_and_variants_are_sent_as_they_are(url):
    assert Redactor().url(url) == url


@pytest.mark.parametrize(
    ("content", "redacted"),
    [
        ({"pin": 1234}, {"pin": REDACTED}),
        ({"pin": " 12-34 "}, {"pin": REDACTED}),
        ({"pin": ["1234", "x"]}, {"pin": REDACTED}),
        ({"note": "my pin: 1234."}, {"note": f"my pin: {REDACTED}"}),
        ({"note": '{"pin": "1234"'}, {"note": f'{{"pin": {REDACTED}'}),
        ({"pin": "card 4111 1111 1111 1111"}, {"pin": f"card {CARD}"}),
    ],
)
def test_a_pin_of_digits_is_a_secret(content, redacted):
    assert Redactor().field("request", content) == redacted
    assert Redactor().url("/x?pin=1234") == "/x?pin=%5Bredacted%5D"


@pytest.mark.parametrize(
    "content",
    [
        {"card": "30569309025904"}, {"cc_number": 30569309025904}, {"number": "3056 930902 5904"}, {"cc": 4222222222222},
        {"note": "3056 930902 5904"}, {"note": "my card 30569309025904"}, {"note": "Visa: 4222222222222"},
        {"order": "paid with 4111 1111 1111 1111"}, {"prepaid": "4111111111111111"}, {"ref": 378282246310005},
        {"order": {"payment": {"nr": "5555555555554444"}}}, {"note": "41 11 11 11 11 11 11 11"},
    ],
)  # fmt: skip
def test_card_numbers_are_redacted_where_cards_stand(content):
    sent_text = re.sub(r"\D", "", json.dumps(Redactor().field("request", content)))
    assert sent_text == ""


def test_a_secret_in_a_path_leaves_the_escapes_of_the_other_segments():
    assert Redactor().url("/p/CLE-056621%2F6/anna%40mail.example") == "/p/CLE-056621%2F6/%5Bemail%5D"
    assert Redactor().url("/p/a%2Fb/Bearer%20abcdefgh1/secret2") == "/p/a/b/%5Bredacted%5D"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000 + "@", "1 " * 100_000, "-eyJ" * 50_000, "eyJ." * 50_000, "a.b@" * 50_000, "x" * 60 + "@a.b " * 40_000,
        "4" * 200_000, "a." * 100_000 + "@" + "a." * 100_000, "=" * 200_000,
        "token=" * 30_000, '"' * 200_000, "%25" * 60_000, "{" * 200_000, "eyJ" * 60_000, "basic " * 30_000,
        'password="' + "\\" * 200_000, "a@" * 100_000, "://" * 60_000, "[" * 50 + '"\\"' + "]" * 50, "x:" * 100_000,
        "1-" * 6 + "2 " * 100_000, "-----BEGIN PRIVATE KEY-----" * 8000, "Key:" * 50_000, "code=$a " * 25_000, "my security code: " * 11_000,
        "<password><![CDATA[" * 10_000, "<a><![CDATA[" * 16_000, "<key>password</key>" * 10_000, "<a " * 60_000, "&lt;" * 50_000, "<" + "a" * 200_000,
        "/reset/a" * 25_000, "/login/a1b2c3" * 15_000, "//a:" * 50_000, "//a@" * 50_000, "//" + "a" * 100_000 + ":" + "b" * 100_000,
        "DE89370400440532013000 " * 8000, "DE89 " * 40_000, "AT11" * 50_000, "4111.1111.1111.1111 " * 10_000, "1, 2." * 40_000, "(1)" * 60_000, "user[a]=" * 25_000,
        "PuTTY-User-Key-File-2" * 9000, "pi_aaaa_" * 25_000, "my otp is 1 " * 16_000, '[["password","x"],' * 12_000, json.dumps([["password", "x"]] * 12_000), json.dumps({f"pin{n}": n for n in range(10_000)}),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_time_grows_with_the_length_of_a_text_whatever_it_holds(text):
    with deadline(30):  # a tenth of a second, or many minutes where it grows with the square of the length
        Redactor().text(text)


def test_numbers_that_json_does_not_have_and_half_characters_are_sent_as_what_it_has():
    body = Body(1000)
    body.add(b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": "\\ud800", "e": 12345678901234567890123}')
    maker = RecordMaker(ClientSettings(url="http://c.example", write_key="k"))
    call = Captured(bytes(16), 0, 0.0, "GET", "/", "", "", {}, None, 200, None, body)
    line = maker.line(call)
    assert b"NaN" not in line
    assert b"Infinity" not in line
    assert json.loads(line)["response"] == {"a": None, "b": None, "c": None, "d": "?", "e": 12345678901234567890123}


def test_what_is_nested_deeper_than_the_collector_takes_is_cut_there():
    response = json.loads("[" * 500 + "]" * 500)
    line = sent({"response": response})
    assert line.count(b"[") < 64
    assert b"nested too deeply" in line


def test_what_is_remembered_is_bounded():
    redactor = Redactor()
    for number in range(18):
        redactor.field("response", {f"{number} {n}": f"harmless {number} {n}" for n in range(1000)})
        redactor.field("response", "x" * 100_000)
    assert len(redactor._harmless) <= 16_384
    assert len(redactor._known_names) <= 4096
    assert max(map(len, redactor._harmless)) <= 200


def test_a_denied_name_hides_the_value_that_is_given_it():
    content = [{"name": "street", "value": "Elm"}, {"name": "city", "value": "Ulm"}]
    assert Redactor(deny=["street"]).field("request", content) == [{"name": "street", "value": REDACTED}, content[1]]
    assert Redactor(allow=["otp"]).field("request", [{"name": "otp", "value": "1234"}])[0]["value"] == "1234"
