"""Which spellings of an identifier are found, and what of a text stays as it is."""

import json
from datetime import UTC, datetime
from urllib.parse import quote, quote_plus

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.jobs.forget.identifiers import Identifiers, is_searchable, of_texts, phone_digits, words_of
from app.jobs.forget.redaction import may_name, redacted
from app.jobs.forget.suppression import Forgotten, digests_of
from tests.support.effort import repeated

IDS = Identifiers(
    ("17",), ("c-81aaaaaaaa",), (), ("anna.b@example.com", "Anna Müller"), (phone_digits("+49 170 1234567"),)
)
PLACES = {
    '{"user_id": "17"}': '{"user_id": "0"}',
    '{"userId" : 17, "n": 17}': '{"userId" : 0, "n": 17}',
    '{"a": "{\\"user_id\\": \\"17\\"}"}': '{"a": "{\\"user_id\\": \\"0\\"}"}',
    "https://x/?user_id=17&b=17": "https://x/?user_id=0&b=17",
    "/api/users/17/orders/17": "/api/users/0/orders/17",
    "\\/users\\/17\\/x": "\\/users\\/0\\/x",
    "/login?to=%2Fusers%2F17%2Forders": "/login?to=%2Fusers%2F0%2Forders",
    "/customers/17.json": "/customers/0.json",
    '{"user":{"id":17}}': '{"user":{"id":0}}',
    '{"user":{"a":{"id":17},"id":17},"item":{"id":17}}': '{"user":{"a":{"id":17},"id":0},"item":{"id":17}}',
    '{"b":"{\\"user\\":{\\"x\\":\\"}\\\\\\"{\\",\\"id\\":17}}"}': '{"b":"{\\"user\\":{\\"x\\":\\"}\\\\\\"{\\",\\"id\\":0}}"}',
    '{"users":[{"id":18},{"id":17}]}': '{"users":[{"id":18},{"id":0}]}',
    '{"customers":{"edges":[{"node":{"id":17}}]}}': '{"customers":{"edges":[{"node":{"id":0}}]}}',
    '{"user_ids":[18,17]}': '{"user_ids":[18,0]}',
    '{"uid":17,"guid":17}': '{"uid":0,"guid":17}',
    "X-User-Id: 17": "X-User-Id: 0",
    '["X-User-Id","17"]': '["X-User-Id","0"]',
    '{"owner_id":17.0,"createdBy":1}': '{"owner_id":0,"createdBy":1}',
    '{"created_by":"17"}': '{"created_by":"0"}',
    '{"customer": 17}': '{"customer": 0}',
    '{"type":"customers","id":"17"}': '{"type":"customers","id":"0"}',
    "gid://shopify/Customer/17": "gid://shopify/Customer/0",
    '{"name":"user_id","value":"17"}': '{"name":"user_id","value":"0"}',
    "user%5Bid%5D=17": "user%5Bid%5D=0",
    "<order><customer-id>17</customer-id><id>17</id></order>": "<order><customer-id>0</customer-id><id>17</id></order>",
    'a:2:{s:7:"user_id";i:17;s:2:"id";i:17;}': 'a:2:{s:7:"user_id";i:0;s:2:"id";i:17;}',
    "{ customer(id: 17) { name } }": "{ customer(id: 0) { name } }",
}
ANYWHERE = {
    "cookie c-81aaaaaaaa of nobody": "cookie forgotten of nobody",
    "mail Anna.B@Example.COM!": "mail forgotten!",
    "anna.b%40example.com": "forgotten",
    "x%2520anna.b%2540example.com": "x%2520forgotten",
    '{"m":"anna.b\\u0040example.com"}': '{"m":"forgotten"}',
    '{"n":"Anna M\\u00fcller"}': '{"n":"forgotten"}',
    "q=anna+m%C3%BCller": "q=forgotten",
    "ANNA MÜLLER": "forgotten",
    "Anna Mu\u0308ller": "forgotten",
    "line\\nAnna\\tM&uuml;ller": "line\\nforgotten",
    '{"a":["Anna","Müller"]}': '{"a":["forgotten","forgotten"]}',
    '{"p":"0170 1234567"}': '{"p":"forgotten"}',
    '{"p":491701234567}': '{"p":0}',
    "+49 (0)170-123 45 67": "forgotten",
    "tel:%2B49%20170%201234567": "tel:forgotten",
}
KEPT = (
    '{"user_id": "117", "price": 17}', '{"user_id": 170}', "https://x/?user_id=170", '{"user_id": 17.5}', "/products/17",
    '{"remember": 17}', '{"users": 17}', "/customers/17-b", '{"customer":{"items":[{"id":17}]}}', '{"id": 17}',
    '{"items":[17,17]}', "17", "Hanna Müller", "Joanna Müllerin", "anna-b@example.org", "99990170123456799",
    '{"price": 1234567}', "c-81aaaaaaaab",
)  # fmt: skip


@pytest.mark.parametrize(("text", "clean"), (PLACES | ANYWHERE).items())
def test_every_spelling_is_found_and_nothing_else_of_the_text_changes(text, clean):
    assert redacted(text, IDS) == clean
    overwritten = redacted(text, IDS, same_length=True)
    assert len(overwritten.encode()) == len(text.encode())
    assert redacted(overwritten, IDS, same_length=True) == overwritten


@pytest.mark.parametrize("text", KEPT)
def test_what_only_looks_like_the_person_stays(text):
    assert redacted(text, IDS) == text


def test_the_answer_about_a_person_holds_its_id_at_the_top():
    assert redacted('{"id": 17, "orders": [{"id": 17}]}', IDS, is_of_person=True) == '{"id": 0, "orders": [{"id": 17}]}'


def test_phone_numbers_are_one_with_and_without_the_code_of_the_country():
    assert phone_digits("0170/1234567").endswith(phone_digits("+49 (170) 1234567"))
    assert [phone_digits(text) for text in ("12345", "2026-03-02T10", "c-17", "+1 415 555 0123")] == ["", "", "", "55550123"]  # fmt: skip
    assert of_texts(("+49 170 1234567", "Anna")) == Identifiers(texts=("Anna",), phones=("701234567",))
    assert [is_searchable(text) for text in ("Li", "Li Wu", "12345", "@@@", "1234567")] == [False, True, False, False, True]  # fmt: skip


# ---- what is recognised by hashes alone ---------------------------------------------------------------------------

LATE = datetime(2026, 6, 1, tzinfo=UTC)
KEY = "00" * 32


def remembered(ids: Identifiers) -> Forgotten:
    return Forgotten(KEY, dict.fromkeys(digests_of(KEY, ids), LATE))


@pytest.mark.parametrize("text", [*PLACES, *ANYWHERE])
def test_hashes_find_what_the_identifiers_themselves_find(text):
    found = remembered(IDS).named_in(pl.Series(["nothing", text]))
    assert redacted(text, found) == redacted(text, IDS)


def test_hashes_find_nobody_in_texts_of_others():
    assert remembered(IDS).named_in(pl.Series(["Hanna Müller, 99990170123456799", '{"a": "c-81"}'])) == Identifiers()
    assert Forgotten().named_in(pl.Series(["Anna Müller"])) == Identifiers()


_SPELLED = st.sampled_from(
    [str, str.upper, str.title, quote, quote_plus, lambda v: quote(quote(v)), lambda v: json.dumps(v)[1:-1],
     lambda v: json.dumps(json.dumps(v))[3:-3]]
)  # fmt: skip
_WORD = st.text("abcxyzäöéßжя0123456789", min_size=3, max_size=8)
_TEXT = st.lists(_WORD, min_size=1, max_size=4).map(
    lambda words: ".".join(words) if len(words) % 2 else " ".join(words)
)


@hypothesis_settings(max_examples=repeated(100, 5000), deadline=None)
@given(identifier=_TEXT.filter(lambda v: not v.replace(".", "").isdigit()), spelled=_SPELLED, around=st.sampled_from(["{}", '{{"a":"{}"}}', "/x?q={}&b=1", "%22{}%22", "\\n{}"]))  # fmt: skip
def test_an_identifier_in_any_spelling_is_removed_by_its_hashes(identifier, spelled, around):
    ids = Identifiers(texts=(identifier,))
    text = around.format(spelled(identifier))
    found = remembered(ids).named_in(pl.Series([text]))
    assert found.texts == (" ".join(words_of(identifier)),)
    assert redacted(text, found) == redacted(text, ids) == around.format("forgotten")


def test_texts_that_cannot_name_anybody_are_left_out_before_they_are_read():
    spelled = [
        "0170 1234567",
        "%D0%97%D0%BE%D0%BB%D0%BE%D1%82%D0%BE",
        "\\u0437\\u043e\\u043b\\u043e\\u0442\\u043e",
        "ЗОЛОТО",
    ]
    texts = pl.DataFrame({"text": [*spelled, "of nobody"]})
    ids = of_texts(("+49 170 1234567", "Золото"))
    assert texts.select(may_name(pl.col("text"), ids)).to_series().to_list() == [*[True] * 4, False]
    assert [redacted(text, ids) for text in spelled] == ["forgotten"] * 4
    assert texts.select(may_name(pl.col("text"), Identifiers(users=("nobody",)))).to_series().to_list()[-1]
