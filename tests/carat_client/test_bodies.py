"""Bodies are read whatever their encoding; those that cannot be are counted by reason, and nothing grows beyond bounds."""

import gzip
import json
import sys
import zlib
from contextlib import suppress

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from carat_client import CallSender, CaratASGI, ClientSettings
from carat_client import bodies as carat_bodies
from carat_client.bodies import TOO_LARGE, UnreadBodyError, read_body
from carat_client.captured import Body
from tests.carat_client.test_asgi import answering, call, http_scope, start
from tests.carat_client.test_asgi import body as sent
from tests.support.effort import repeated
from tests.support.receivers import KEY, receiving

ORDER = {"order_id": 5, "total": "298.00", "title": "Öse ring золото"}
TEXT = json.dumps(ORDER, ensure_ascii=False)
PLAIN = TEXT.encode()
LIMIT = 100_000


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def read(content: bytes, encoding: str = "", content_type: str = "application/json", limit: int = LIMIT):
    body = Body(limit, encoding, content_type)
    for first in range(0, len(content), 7):
        body.add(content[first : first + 7])
    return read_body(body, limit)


def reason(content: bytes, encoding: str = "", content_type: str = "application/json", limit: int = LIMIT) -> str:
    with pytest.raises(UnreadBodyError) as raised:
        read(content, encoding, content_type, limit)
    return raised.value.reason


READ = {
    "plain": (PLAIN, ""), "identity": (PLAIN, "identity"), "gzip": (gzip.compress(PLAIN), "gzip"), "x-gzip": (gzip.compress(PLAIN), "X-Gzip"),
    "gzip of several members": (gzip.compress(PLAIN[:9]) + gzip.compress(PLAIN[9:]), "gzip"), "deflate": (zlib.compress(PLAIN), "deflate"),
    "raw deflate": (deflated(PLAIN), "deflate"), "br": (brotli.compress(PLAIN), "br"), "zstd": (zstd(PLAIN), "zstd"),
    "zstd of several frames": (zstd(PLAIN[:9]) + zstd(PLAIN[9:]), "zstd"), "one in the other": (brotli.compress(gzip.compress(PLAIN)), "gzip, br"),
    "gzip twice, declared once": (gzip.compress(gzip.compress(PLAIN)), "gzip"), "gzip, not declared": (gzip.compress(PLAIN), ""),
    "zstd, not declared": (zstd(PLAIN), ""),
}  # fmt: skip


@pytest.mark.parametrize(("content", "encoding"), READ.values(), ids=READ)
def test_a_compressed_body_is_read(content, encoding):
    assert read(content, encoding) == ORDER


@pytest.mark.parametrize(
    ("charset", "text"),
    [("iso-8859-1", "Öse"), ("windows-1251", "золото"), ("Shift_JIS", "指輪"), ("gbk", "戒指"), ("utf-16", TEXT), ("UTF-8", TEXT), ("utf-32", TEXT)],
)  # fmt: skip
def test_a_declared_charset_is_read(charset, text):
    content = json.dumps({"t": text}, ensure_ascii=False).encode(charset)
    assert read(content, content_type=f'application/json; charset="{charset}"') == {"t": text}


@pytest.mark.parametrize("charset", ["rot13", "punycode", "idna", "hex", "zlib", "unicode_escape", "no such", ""])
def test_what_is_no_charset_of_text_counts_as_none(charset):
    assert read(PLAIN, content_type=f"application/json; charset={charset}") == ORDER


UNREAD = {
    "another encoding": (b"x", "dcb", "content encoding dcb"), "broken gzip": (b"x", "gzip", "not gzip, as it is declared"), "cut off gzip": (gzip.compress(PLAIN)[:-3], "gzip", "not gzip, as it is declared"),
    "broken br": (b"garbage!" * 9, "br", "not br, as it is declared"), "cut off br": (brotli.compress(PLAIN)[:-3], "br", "not br, as it is declared"),
    "cut off zstd": (zstd(PLAIN)[:-3], "zstd", "not zstd, as it is declared"), "no JSON": (b"{broken", "", "not JSON"), "deep": (b"[" * 90_000, "", "not JSON"),
    "no UTF-8": (b'{"t": "\xd6se"}', "", "not in UTF-8 or the declared charset"), "large": (b" " * 100_001, "", TOO_LARGE),
}  # fmt: skip


@pytest.mark.parametrize(("content", "encoding", "told"), UNREAD.values(), ids=UNREAD)
def test_a_body_that_cannot_be_read_has_a_reason(content, encoding, told):
    assert reason(content, encoding) == told


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, deflated, brotli.compress, zstd])
def test_a_bomb_is_not_decompressed_beyond_the_limit(compress):
    encoding = {gzip.compress: "gzip", brotli.compress: "br", zstd: "zstd"}.get(compress, "deflate")
    assert reason(compress(b" " * 50_000_000), encoding) == TOO_LARGE
    assert reason(compress(compress(b" " * 50_000_000)), f"{encoding}, {encoding}") == TOO_LARGE


def test_without_its_package_brotli_is_an_unknown_encoding(monkeypatch):
    monkeypatch.setitem(sys.modules, "brotli", None)
    carat_bodies._decompressors.cache_clear()
    try:
        assert reason(brotli.compress(PLAIN), "br") == "content encoding br"
    finally:
        monkeypatch.undo()
        carat_bodies._decompressors.cache_clear()


def test_zstandard_is_read_by_either_package(monkeypatch):
    for name in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    read_it = carat_bodies._zstd_decompressor()
    assert read_it(zstd(PLAIN[:9]) + zstd(PLAIN[9:]), LIMIT) == PLAIN
    assert len(read_it(zstd(b" " * 50_000_000), LIMIT)) == LIMIT + 1


@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br", "zstd", "gzip, br"]), st.booleans())
@settings(max_examples=repeated(200, 20_000), deadline=None)
def test_any_bytes_are_read_or_refused_with_that_error_alone(content, encoding, is_magic):
    content = (b"\x1f\x8b\x08" if is_magic else b"") + content
    with suppress(UnreadBodyError):
        read(content, encoding)


def test_the_sender_counts_bodies_that_it_could_not_read():
    with receiving() as collector:
        sender = CallSender(ClientSettings(url=collector.url, write_key=KEY))
        for content, encoding in (
            (b"x", b"dcb"),
            (b"y", b"dcb"),
            (b" " * 100_001, b""),
            (brotli.compress(PLAIN), b"br"),
        ):
            app = answering(start(200, b"application/json", (b"content-encoding", encoding)), sent(content))
            call(CaratASGI(app, sender), http_scope())
        assert sender.flush(10)
        assert [record["response"] for record in collector.records][-1] == ORDER
        assert sender.stats.unread_bodies == {"content encoding dcb": 2, TOO_LARGE: 1}
        sender.close()
