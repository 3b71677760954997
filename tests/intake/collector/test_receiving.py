"""The collector accepts what can be stored, by the rules of `carat ingest`; the rest is reported and kept."""

import asyncio
import gzip
import json
import random
import uuid
from datetime import UTC, datetime

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.core.call_record import Line, RecordLimits
from app.intake.call_frames import read_lines
from app.intake.collector.bodies import split_body, split_invalid_array
from app.intake.collector.http_error import HTTPError
from app.intake.collector.validation import validate
from app.intake.spool import read_segment, sealed_segments
from tests.intake.collector.conftest import GOOD, call, from_now, line
from tests.support.collecting import collecting_here, spooled
from tests.support.corpora import json_suite
from tests.support.effort import repeated

NDJSON = "application/x-ndjson"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LIMITS = RecordLimits(100_000, 64, max_age_days=400)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


# ---- bodies ------------------------------------------------------------------------------------------------------


def test_accepted_and_rejected_calls_are_in_the_spool_as_they_were_sent(tmp_path):
    first = b'{"ts" : 1772359200000,\n "method":"GET", "endpoint":"/a", "response": {"b" : 1.10, "t": "\xc3\xa9"}}'
    with collecting_here(tmp_path / "spool") as running:
        array = running.post(b"[" + first + b" , " + GOOD + b',{"ts": NaN}, 17\n]', content_type="application/json")
        lines = running.post(GOOD + b"\r\n\n no record \n" + line(method=""), content_type=NDJSON)
    assert array.verdict == (2, [(2, "not JSON"), (3, "not an object")])
    assert lines.verdict == (1, [(1, "not JSON"), (2, "no method")])
    kept, refused = spooled(tmp_path / "spool")
    assert kept == [first, GOOD, GOOD]
    assert refused == [
        ("not JSON", b'{"ts": NaN}'), ("not an object", b"17"), ("not JSON", b"no record"), ("no method", line(method="")),
    ]  # fmt: skip


BODIES = {
    "an array": (json.dumps([call(), call()]).encode(), "application/json", 2),
    "an array with a charset": (json.dumps([call()]).encode(), "application/json; charset=utf-8", 1),
    "an array over many lines": (json.dumps([call(), call()], indent=2).encode(), "application/json", 2),
    "an array without a type": (json.dumps([call()]).encode(), None, 1),
    "an array called NDJSON": (json.dumps([call(), call()]).encode(), NDJSON, 2),
    "an empty array": (b" [ ] ", "application/json", 0),
    "a single record": (json.dumps(call(), indent=1).encode(), "application/json", 1),
    "NDJSON": (GOOD + b"\n" + GOOD + b"\n", NDJSON, 2),
    "NDJSON called JSON": (GOOD + b"\n" + GOOD, "application/json", 2),
    "NDJSON without a type": (GOOD + b"\n" + GOOD, None, 2),
    "NDJSON from Windows": (b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n" + GOOD, "Application/NDJSON", 2),
}


@pytest.mark.parametrize(("body", "content_type", "taken"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
def test_arrays_and_lines_are_accepted_whatever_the_content_type_says(collector, body, content_type, taken, encoding):
    compress = {None: bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[encoding]
    answer = collector.post(compress(body), content_type=content_type, content_encoding=encoding)
    assert answer.verdict == (taken, [])


def test_concatenated_compressed_streams_are_one_body(collector):
    for encoding, compress in (("gzip", gzip.compress), ("x-gzip", gzip.compress), ("zstd", zstandard.compress)):
        body = compress(GOOD + b"\n" + GOOD[:40]) + compress(GOOD[40:] + b"\n")
        assert collector.post(body, content_type=NDJSON, content_encoding=encoding).verdict == (2, [])


def test_chunks_of_any_size_are_one_body(collector):
    pieces = [GOOD[i : i + 7] for i in range(0, len(GOOD), 7)] + [b"\n", GOOD]
    answer = collector.request(
        "POST", "/v1/calls", iter(pieces),
        {"authorization": "Bearer a-key-that-only-these-tests-use", "transfer-encoding": "chunked"},
    )  # fmt: skip
    assert answer.verdict == (2, [])


BROKEN_ARRAYS = {
    "NaN": ([GOOD, b'{"ts": NaN}', GOOD], 1),
    "brackets and quotes in a text": ([line(user_id='],[{"\\'), b"{x}", GOOD], 1),
    "nothing between commas": ([GOOD, b"", GOOD], 1),
    "a comma at the end": ([GOOD, b""], 1),
    "too deep": ([GOOD, deep(5000), GOOD], 1),
    "bad UTF-8": ([line(raw=b'"response": "\xff"'), GOOD], 0),
    "a broken bracket": ([GOOD, b"{]", GOOD], 1),
}


@pytest.mark.parametrize(("records", "bad"), BROKEN_ARRAYS.values(), ids=BROKEN_ARRAYS)
def test_an_invalid_element_of_an_array_does_not_affect_the_others(collector, records, bad):
    taken, rejected = collector.post(b"[" + b", ".join(records) + b"]", content_type="application/json").verdict
    assert (taken, [index for index, _ in rejected]) == (len(records) - 1, [bad])


@pytest.mark.slow
@given(
    st.lists(
        st.recursive(
            st.integers() | st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
        )
    )
)
@settings(max_examples=repeated(30, 500))
def test_splitting_an_array_by_brackets_equals_decoding_it(values):
    for body in (
        json.dumps(values).encode(),
        json.dumps(values, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    ):
        if values:
            assert [json.loads(record) for record in split_invalid_array(body, 5000)] == values
        read = split_body(body, "application/json")
        assert read is None or [json.loads(record) for record in read] == values


# ---- verdicts ----------------------------------------------------------------------------------------------------


def ingested(records: list[bytes], now: datetime = NOW) -> tuple[int, list[tuple[int, str]]]:
    """The verdict of `carat ingest` on these lines."""
    lines = [Line(index, data, len(data)) for index, data in enumerate(records)]
    batch = read_lines(lines, source="test", now=now, limits=LIMITS)
    return batch.calls.height, batch.rejects.select("position", "reason").rows()


def validated(records: list[bytes], now: datetime = NOW) -> tuple[int, list[tuple[int, str]]]:
    result = asyncio.run(validate(records, now=now, limits=LIMITS))
    assert [
        (rejection.reason, records[rejection.index][: LIMITS.max_record_bytes]) for rejection in result.rejections
    ] == [(record.reason, record.data) for record in result.rejected]
    return len(result.accepted), [(rejection.index, rejection.reason) for rejection in result.rejections]


TIMES = st.one_of(
    st.datetimes(min_value=datetime(1969, 12, 1), max_value=datetime(2026, 7, 1)).map(lambda at: at.isoformat() + "Z"),
    st.datetimes(min_value=datetime(2026, 6, 2, 11), max_value=datetime(2026, 6, 2, 13)).map(
        lambda at: at.isoformat() + random.Random(at.microsecond).choice(["Z", "z", "+00:00", "-01:00", "", "+0100"])
    ),
    st.integers(-(10**5), 10**15),
    st.integers(170_000_000, 175_000_000),
    st.from_regex(r"2026-0[0-9]-[0-3][0-9][Tt_ ][0-2][0-9]:[0-6]0(:[0-6][0-9])?([.,][0-9]{1,12})?([Zz]|[+-][0-2][0-9]:?[0-5][0-9])?", fullmatch=True),
)  # fmt: skip
FIELDS = ("method", "endpoint", "call_id", "visitor_id", "user_id", "ip", "status", "duration_ms", "request", "response", "more")  # fmt: skip


@pytest.mark.slow
@given(
    st.lists(
        st.builds(
            lambda ts, fields: {"ts": ts} | fields,
            TIMES | JSON,
            st.dictionaries(
                st.sampled_from(FIELDS),
                JSON | st.sampled_from(["GET", "/x", "?q=1", str(uuid.UUID(int=5)), 10**30, 200]),
            ),
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
@settings(max_examples=repeated(60, 2000))
@example([{"ts": "2026-06-02T12:00:00.000000Z", "method": "GET", "endpoint": "/x"}], False)
@example([{"ts": "2026-06-02T12:00:00.0009999Z", "method": "GET", "endpoint": "/x"}], False)
@example([{"ts": "2026-06-02T12:00:00.001Z", "method": "GET", "endpoint": "/x"}], False)
@example([{"ts": "2026-06-01t12:00:00z", "method": "GET", "endpoint": "/x"}], False)
@example([{"ts": "1970-01-02T23:59:59.999Z"}, {"ts": "1970-01-03T00:00:00Z"}, {"ts": 172_799_999}], True)
@example([{"ts": "2026-06-01T12:00:00"}, {"ts": "2026-06-01T12:00:00Z", "endpoint": "?q=1"}], True)
@example([{"ts": "2026-06-01T12:00:00Z", name: True} for name in FIELDS], True)
@example([{"ts": "2026-06-01T12:00:00Z", name: 10**30} for name in FIELDS], True)
def test_any_record_is_accepted_or_rejected_as_by_ingest(records, is_complete):
    lines = [
        json.dumps({"method": "GET", "endpoint": "/x"} | record if is_complete else record).encode()
        for record in records
    ]
    assert validated(lines) == ingested(lines)


HALVES = (
    b"\\ud83d",
    b"\\uDC8D",
    b"\\ud83d\\udc8d",
    b"\\\\ud83d",
    b"\\u00e9",
    b"\\ud83",
    b"\xed\xa0\xbd",
    b"\xed\xb2\x8d",
    b"\\",
    b"x",
)


@given(st.lists(st.sampled_from(HALVES), max_size=7).map(b"".join), st.sampled_from(["user_id", "response", "more"]))
@settings(max_examples=repeated(150, 20_000), deadline=None)
def test_a_text_with_halves_of_characters_becomes_one_row_whichever_way_it_comes(text, field):
    """Through the collector as lines and as an array, and from a file: accepted or rejected alike, with equal rows."""
    record = line(raw=b'"%s": "%s"' % (field.encode(), text))
    from_file = read_lines([Line(0, record, len(record))], source="file", now=NOW, limits=LIMITS)
    bodies = [(record, NDJSON)]
    if not from_file.calls.is_empty():  # what is no JSON has no end within an array
        bodies.append((b"[" + record + b"," + GOOD + b"]", "application/json"))
    for body, content_type in bodies:
        records = split_body(body, content_type)
        records = split_invalid_array(body, 10) if records is None else records
        taken = asyncio.run(validate(records, now=NOW, limits=LIMITS)).accepted
        lines = [Line(0, data, len(data)) for data in taken if data != GOOD]
        loaded = read_lines(lines, source="spool", now=NOW, limits=LIMITS)
        assert loaded.rejects.is_empty()
        assert loaded.calls.equals(from_file.calls)


@given(st.integers(0, 2**32))
@settings(max_examples=repeated(40, 500))
def test_damaged_bytes_are_accepted_or_rejected_as_by_ingest(seed):
    chance = random.Random(seed)
    whole = line(user_id="é", response={"items": [1, {"a": "b\\"}]}, call_id=str(uuid.UUID(int=seed)))
    lines = []
    for _ in range(8):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = bytes(
                chance.choices(b'{}[]",:\\0e.\xff\xc3 nt', k=chance.randrange(3))
            )
        if stripped := bytes(data).strip():
            lines.append(stripped)
    assert validated(lines) == ingested(lines)


def test_every_text_of_the_json_test_suite_is_accepted_or_rejected_as_by_ingest():
    texts = [part.strip() for text in json_suite().values() for part in text.split(b"\n") if part.strip()]
    texts += [
        line(raw=b'"response": ' + text.replace(b"\n", b" ").strip()) for text in json_suite().values() if text.strip()
    ]
    assert len(texts) > 600
    verdict = validated(texts)
    assert verdict == ingested(texts)
    assert verdict[0] > 90


def test_every_text_of_the_json_test_suite_is_separated_from_its_neighbours_over_http(collector):
    texts = [b" ".join(text.split()) for text in json_suite().values() if text.strip() and len(text) < 50_000]
    for first in range(0, len(texts), 200):
        part = texts[first : first + 200]
        body = b"\n".join(row for text in part for row in (GOOD, text))
        taken, rejected = collector.post(body, content_type=NDJSON).verdict
        assert (taken, [index for index, _ in rejected]) == (len(part), list(range(1, 2 * len(part), 2)))


ODD = {
    "64 deep": (line(raw=b'"response": ' + deep(63)), None),
    "65 deep": (line(raw=b'"response": ' + deep(64)), "nested too deeply"),
    "65 deep in what is not stored": (line(raw=b'"more": ' + deep(64)), "nested too deeply"),
    "many brackets side by side": (line(raw=b'"response": [' + b"[],{}," * 200 + b"0]"), None),
    "brackets in a text": (line(user_id="[{" * 100), None),
    "100 000 deep": (line(raw=b'"response": ' + deep(20_000)), "nested too deeply"),
    "as large as may be": (line(raw=b'"more": "' + b"x" * (50_000 - len(GOOD) - 12) + b'"'), None),
    "one byte larger": (line(raw=b'"more": "' + b"x" * (50_001 - len(GOOD) - 12) + b'"'), "too large"),
    "a number of 5000 digits": (line(raw=b'"status": ' + b"1" * 5000), "number out of range"),
    "a time of 400 digits": (line(raw=b'"ts": ' + b"1" * 400), "in the future"),
    "a large exponent": (line(raw=b'"status": 1e999999'), "number out of range"),
    "invalid UTF-8 in the response": (line(raw=b'"response": "\xc3\x28"'), "not UTF-8"),
    "half a surrogate pair": (line(raw=b'"user_id": "\\udc00"'), None),
    "half a surrogate pair in the response": (line(raw=b'"response": {"title": "ring \\uD83D"}'), None),
    "half a surrogate pair as bytes": (line(raw=b'"user_id": "\xed\xa0\xbd"'), None),
    "Infinity": (line(raw=b'"duration_ms": Infinity'), "not JSON"),
    "NUL": (line(raw=b'"user_id": "\0"'), "not JSON"),
}


@pytest.mark.parametrize(("data", "reason"), ODD.values(), ids=ODD)
def test_an_unusual_record_is_accepted_or_rejected_as_by_ingest(collector, data, reason):
    verdict = collector.post(b"\n".join([GOOD, data, GOOD]), content_type=NDJSON).verdict
    assert verdict == ((3, []) if reason is None else (2, [(1, reason)]))


@pytest.mark.parametrize("days", [399, 399.9, 400.1, 9000])
def test_a_call_that_is_too_old_is_reported(tmp_path, days):
    with collecting_here(tmp_path / "spool", max_age_days=400) as running:
        verdict = running.post([call(ts=from_now(days=-days))]).verdict
    assert verdict == ((1, []) if days < 400 else (0, [(0, "too old")]))


def test_of_a_record_over_the_limit_only_the_first_bytes_are_spooled(tmp_path):
    bad = gzip.compress(b'{"ts": "' + b"x" * 20_000_000 + b'"}')
    with collecting_here(tmp_path / "spool", collect_max_record_bytes=50_000) as running:
        verdict = running.post(bad, content_type=NDJSON, content_encoding="gzip").verdict
    assert verdict == (0, [(0, "too large")])
    (segment,) = sealed_segments(tmp_path / "spool")
    assert segment.bytes < 51_000
    ((record,),) = [entry.records for entry in read_segment(segment.path)]
    assert (len(record.data), record.full_size) == (50_000, 20_000_010)


def test_one_batch_never_holds_the_loop_for_long():
    """Another task gets its turn after a few hundred records or kilobytes, however costly they are to check."""
    nested = line(raw=b'"response": [' + b",".join([deep(58)] * 800) + b"]")
    broken = b"x" * 95_000
    batch = [nested] * 20 + [broken] * 20 + [GOOD] * 2_000
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        other = asyncio.create_task(others())
        await validate(batch, now=NOW, limits=LIMITS)
        other.cancel()

    asyncio.run(run())
    assert turns >= sum(map(len, batch)) / 400_000 + 2_000 / 300


def test_a_clock_that_is_a_day_ahead_is_reported(collector):
    records = [call(ts=from_now(hours=hours)) for hours in (-1, 1, 23.9, 24.1)]
    assert collector.post(records).verdict == (3, [(3, "in the future")])
    ahead = collector.post([call(ts=from_now(days=2))]).json["rejected"][0]
    assert ahead["detail"].endswith("is more than a day ahead of this machine's clock")


def test_an_array_without_a_closing_bracket_is_refused_as_a_whole():
    for body in (b"[", b"[{}", b'["', b'[{"a": 1}, ', b"[] []", b"[1}2", b"[[]", b"[1,,2] x"):
        with pytest.raises(HTTPError, match="not a complete JSON array"):
            split_invalid_array(body, 5000)
