"""Records are read as columns, a block at a time: with the result that reading them one by one has, however odd."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contracts import API_CALLS
from app.core.addresses import hashed, kept, truncated
from app.core.call_record import RecordLimits, epoch_ms
from app.intake.blocks import Block
from app.intake.call_frames import Batch, content_hashes, read_block, read_lines
from app.intake.plain_calls import plain_calls
from tests.support.effort import repeated

NOW = datetime(2026, 6, 1, 12, 30, 15, 678_901, tzinfo=UTC)
DEEP, TOO_DEEP = (b"[" * depth + b"]" * depth for depth in (11, 12))

# What may stand in each field: usual values first, then odd ones, as JSON bytes.
TIMES = [
    b'"2026-03-01T10:02:17.123Z"', b'"2026-03-01T10:02:17Z"', b'"2026-03-01T10:02:17.1239999Z"', b"1772359200123", b"1772359200", b"1772359200.5",
    b'"2026-03-01T10:02:17.123456789Z"', b'"2026-03-01t10:02:17z"', b'"2026-03-01T10:02:17+01:00"', b'"2026-03-01 10:02:17-0530"', b'"2026-03-01T10:02:60Z"',
    b'"2026-02-29T10:02:17Z"', b'"2026-03-01T24:00:00Z"', b'"2026-03-01T23:59:59.9999999Z"', b'"2026-03-01T10:02:17"', b'"2026-03-01"', b'"20260301T100217Z"',
    b'"2026-W09-7T10:02:17Z"', b'"1772359200"', b'"1772359200.123"', b"1772359200123456", b"1772359200123456789", b"1e12", b"1.7723592e9", b"-5", b"0", b"1" + b"0" * 25,
    b"1" + b"0" * 400, b"1e999", b'"0000-01-01T00:00:00Z"', b'"1969-12-31T23:59:59.999Z"', b'"1970-01-03T00:00:00Z"', b'"2026-06-02T12:30:15.678Z"', b'"2026-06-02T12:30:15.679Z"',
    b'"9999-12-31T23:59:59Z"', b'"\xd9\xa2\xd9\xa0\xd9\xa2\xd9\xa6-03-01T10:02:17Z"', b'"2026-03-01T10:02:17,5Z"', b'"2026-03-01T10:02:17.Z"', b"null", b'""', b"true", b"{}", b"NaN", b'" "',
]  # fmt: skip
IDS = [
    b'"6f1c3a6e-8f0f-4d8c-9d55-0a1b2c3d4e5f"', b'"6F1C3A6E-8F0F-4D8C-9D55-0A1B2C3D4E5F"', b"null", b'""', b'"6f1c3a6e8f0f4d8c9d550a1b2c3d4e5f"',
    b'"{6f1c3a6e-8f0f-4d8c-9d55-0a1b2c3d4e5f}"', b'"urn:uuid:6f1c3a6e-8f0f-4d8c-9d55-0a1b2c3d4e5f"', b'"6f1c-3a6e8f0f-4d8c-9d55-0a1b2c3d4e5f"', b'"order-17"', b"17", b"12345678901234567890123456789012",
    b'"6f1c3a6e-8f0f-4d8c-9d55-0a1b2c3d4e5g"', b'"6f1c3a6e-8f0f-4d8c-9d55-0a1b2c3d4e5f\\n"',
]  # fmt: skip
TEXTS = [
    b'"v-1"', b'""', b"null", b'"\xc3\xa9\xf0\x9f\x92\x8d"', b'"a\\u0000b\\n\\"\\\\"', b"4711", b"-0", b"4711.0", b"1e3", b"0.1", b"1e29", b"1e31", b"1" + b"0" * 31, b"1" * 400, b"1" + b"0" * 5000,
    b"true", b"[]", b"{}", b'"\\ud83d\\udc8d"', b'"\\ud83d"', b'"\\uDC8D\\\\ud83d"', b'"\xed\xa0\xbd"', b'"\xff"', b'"\\x"', b'"open', b'"' + b"long" * 30 + b'"', b'"\x1f"', b'"203.0.113.77"', b'"2001:db8::1"',
]  # fmt: skip
NUMBERS = [
    b"200", b"0", b"null", b"1" * 400, b'"404"', b'"0404"', b'"x"', b"-1", b"65535", b"65536", b"4294967296", b"1" + b"0" * 30, b"200.9", b"1e3", b"-0.0", b"1e400", b"false", b"[1]", b'"\\u0032"', b"01",
]  # fmt: skip
DOCUMENTS = [
    b'{"query":{"q":"ring"},"body":null}', b'{"items":[{"id":1},{"id":2}]}', b"null", b' { "a" : 1.50 } ', b"[]", b"17", b'"{}"', b'""', b'"null"', b"true", DEEP, TOO_DEEP,
    b'["[[[[[[[[[[[[[[[[[["]', b'{"a":"\\ud83d"}', b'{"a":"\xc3\x28"}', b'{"a":"\xed\xa0\xbd\xed\xb2\x8d"}', b'{"a":tru}', b"{,}", b'{"a":1}}', b"[[[[[[[[[[[[[[", b'{"a":"b\\"}', b'{"a":1e999}', b"1." + b"3" * 50,
]  # fmt: skip
VALUES = {
    b"ts": TIMES, b"call_id": IDS, b"status": NUMBERS, b"duration_ms": NUMBERS, b"request": DOCUMENTS, b"response": DOCUMENTS, b"extra": [*DOCUMENTS, *TEXTS],
} | dict.fromkeys((b"method", b"endpoint", b"visitor_id", b"session_token", b"user_id", b"ip", b"user_agent", b"referrer", b"page_url"), TEXTS)  # fmt: skip
USUAL = {name: values[0] for name, values in VALUES.items()}
LINES = [
    b"{}",
    b"[]",
    b"17",
    b"null",
    b"x",
    b'{"ts":',
    b"\xff\xfe",
    b"{}{}",
    b"[" * 2000,
    b'{"ts":1}\\',
    b'"\\ud83d"',
    b"\xed\xa0\xbd",
]


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record of which some fields are missing, odd or repeated, or a line that is none."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(LINES))
    names = [name for name in USUAL if name in {b"ts", b"method", b"endpoint"} or draw(st.booleans())]
    odd = draw(st.lists(st.sampled_from(list(VALUES)), max_size=3))
    members = [(name, USUAL[name]) for name in names if name not in odd]
    members += [(name, draw(st.sampled_from(VALUES[name]))) for name in odd]
    if draw(st.booleans()):
        members = draw(st.permutations(members))
    if draw(st.integers(0, 9)) == 0 and members:
        members.append(draw(st.sampled_from(members)))
    if draw(st.integers(0, 9)) == 0:
        members.append((b"\\u0074s", draw(st.sampled_from(TIMES))))
    space = draw(st.sampled_from([b"", b"", b" ", b"\n", b"\t"]))
    text = b",".join(b'"%s"%s:%s%s' % (name, space, space, value) for name, value in members)
    return b"{%s}" % text + draw(st.sampled_from([b"", b"", b"", b"\r", b" ", b"x", b","]))


LIMITS = st.builds(
    RecordLimits,
    max_record_bytes=st.sampled_from([300, 600, 100_000]),
    max_nesting=st.just(12),
    addresses=st.sampled_from([kept(), truncated(), hashed("a key for the tests")]),
    max_age_days=st.sampled_from([0, 100]),
)


def one_by_one(block: Block, limits: RecordLimits) -> Batch:
    return read_lines([block.line(index) for index in range(len(block))], source="x", now=NOW, limits=limits)


def in_blocks(block: Block, limits: RecordLimits, size: int) -> list[Batch]:
    rest = Block(
        list(block.records), list(block.positions), list(block.sizes), block.received_ms and list(block.received_ms)
    )
    batches = []
    while len(rest):
        batches.append(read_block(rest.take(size), source="x", now=NOW, limits=limits))
    return batches


@given(st.lists(records(), min_size=1, max_size=12), LIMITS, st.integers(1, 12), st.booleans())
@settings(max_examples=repeated(400, 30_000), deadline=None)
def test_blocks_of_any_size_give_the_calls_and_rejects_of_single_records(data, limits, size, has_times):
    sizes = [len(record) + 200 * (number == 3) for number, record in enumerate(data)]
    received = [epoch_ms(NOW - timedelta(hours=7 * number)) for number in range(len(data))] if has_times else None
    block = Block(data, list(range(5, 5 + len(data))), sizes, received)
    expected = one_by_one(block, limits)
    found = in_blocks(block, limits, size)
    assert pl.concat([batch.calls for batch in found]).equals(expected.calls)
    assert pl.concat([batch.rejects for batch in found]).equals(expected.rejects)


@pytest.mark.parametrize("field", [name.decode() for name in VALUES])
def test_each_odd_value_is_read_in_a_block_as_it_is_alone(field):
    """Alone in its record, among usual ones, so that no other reason hides it."""
    name = field.encode()
    usual = b"{%s}" % b",".join(b'"%s":%s' % pair for pair in USUAL.items())
    data = []
    for value in VALUES[name]:
        members = [pair for pair in USUAL.items() if pair[0] != name]
        data += [b'{%s,"%s":%s}' % (b",".join(b'"%s":%s' % pair for pair in members), name, value), usual]
    block = Block(data, list(range(len(data))), list(map(len, data)))
    limits = RecordLimits(max_nesting=12)
    expected, (found,) = one_by_one(block, limits), in_blocks(block, limits, len(block))
    assert found.calls.equals(expected.calls)
    assert found.rejects.equals(expected.rejects)


def test_usual_records_of_many_shops_need_no_second_look():
    """Ids as numbers, statuses as text, times of any form, no call_id, emoji and deep answers: none is read twice."""
    record = {
        "ts": "2026-03-01T10:00:00.5Z",
        "method": "GET",
        "endpoint": "/x",
        "request": {"query": {}},
        "response": None,
    }
    forms = [
        {"call_id": str(uuid.uuid4()), "user_id": 4711, "visitor_id": "v"}, {"status": "200", "duration_ms": 12.5}, {"ts": 1772359200123},
        {"ts": "2026-03-01T10:00:00+01:00"}, {"user_agent": "💍 é"}, {"response": [{"a": [number]} for number in range(200)]}, {"user_id": None},
    ]  # fmt: skip
    data = [json.dumps(record | form).encode() for form in forms]
    plain = plain_calls(data, sizes=list(map(len, data)), received_ms=epoch_ms(NOW), limits=RecordLimits())
    assert plain.is_plain.all()
    assert plain.calls.schema == API_CALLS.schema
    assert plain.calls["response"][0] == ""


def test_the_content_hash_of_a_call_without_an_id_begins_its_id():
    data = [
        b'{"ts":1772359200123,"method":"GET","endpoint":"/%d","status":200,"response":{"a":"\xc3\xa9"}}' % n
        for n in range(3)
    ]
    (batch,) = in_blocks(Block(data, [1, 2, 3], list(map(len, data))), RecordLimits(), 3)
    begins = [int.from_bytes(call_id[:8], "little") for call_id in batch.calls["call_id"]]
    assert content_hashes(batch.calls).to_list() == begins
