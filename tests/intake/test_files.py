"""Sources of call records: what is recognized by its first bytes, and what is split into records however it is cut."""

import gzip
import io
import json
import random
import struct
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.call_record import RecordLimits
from app.core.errors import SourceError
from app.intake.call_frames import Batch
from app.intake.files import read_batches
from app.intake.json_stream import IncompleteJSONError, elements, first_bytes, records
from tests.support.effort import repeated

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MOMENT = datetime(2026, 3, 1, 10, 0, 0, 123_000, tzinfo=UTC)
MOMENT_MS = 1_772_359_200_123
CALLS = [{"ts": MOMENT_MS, "method": "GET", "endpoint": f"/{number}"} for number in range(3)]
ENDPOINTS = ["/0", "/1", "/2"]
NDJSON = b"\n".join(json.dumps(call).encode() for call in CALLS)
SKIPPABLE = [struct.pack("<II", 0x184D2A50 + kind, 5) + b"notes" for kind in range(16)]


def read(path: Path, **limits: int) -> list[Batch]:
    return list(read_batches(str(path), now=NOW, limits=RecordLimits(**limits)))


def endpoints(data: bytes, path: Path) -> list[str]:
    path.write_bytes(data)
    return [endpoint for batch in read(path) for endpoint in batch.calls["endpoint"]]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


# ---- what is read ------------------------------------------------------------------------------------------------

FORMS = {
    "lines": NDJSON, "an array": json.dumps(CALLS).encode(), "an array over many lines": json.dumps(CALLS, indent=2).encode(),
    "objects over many lines": b"\n".join(json.dumps(call, indent=2).encode() for call in CALLS),
    "arrays": b"\r\n".join(json.dumps([call]).encode() for call in CALLS), "an array with a mark": b"\xef\xbb\xbf " + json.dumps(CALLS).encode(),
    "blank lines and an array": b"\n \n" + json.dumps(CALLS).encode(), "an array, then lines": json.dumps(CALLS[:2]).encode() + b"\n" + NDJSON.splitlines()[2],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
def test_records_are_read_however_they_are_laid_out(tmp_path, form, compress):
    assert endpoints(compress(FORMS[form]), tmp_path / "calls") == ENDPOINTS


@pytest.mark.parametrize("kind", [0, 7, 15])
def test_skippable_frames_of_zstandard_are_skipped(tmp_path, kind):
    data = SKIPPABLE[kind] + zstd(NDJSON[:50]) + SKIPPABLE[kind] + SKIPPABLE[0] + zstd(NDJSON[50:]) + SKIPPABLE[kind]
    assert endpoints(data, tmp_path / "calls.zst") == ENDPOINTS


def test_an_invalid_element_costs_nothing_but_itself(tmp_path):
    path = tmp_path / "calls.json"
    path.write_bytes(b"[%s, {x}, , 17, %s]" % (NDJSON.splitlines()[0], NDJSON.splitlines()[1]))
    (batch,) = read(path)
    assert batch.calls["endpoint"].to_list() == ["/0", "/1"]
    assert batch.rejects.select("position", "reason").rows() == [(2, "not JSON"), (3, "not an object")]


def test_an_array_that_ends_early_is_damaged_after_its_valid_part(tmp_path):
    path = tmp_path / "calls.json"
    path.write_bytes(json.dumps(CALLS).encode()[:-12])
    batches = read_batches(str(path), now=NOW, limits=RecordLimits())
    assert next(batches).calls["endpoint"].to_list() == ["/0", "/1"]
    with pytest.raises(SourceError, match="damaged or incomplete"):
        next(batches)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", "[{", "}],", "\\\\u12"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=5), JSON, min_size=1, max_size=3), min_size=1),
    st.integers(0, 2**32),
    st.booleans(),
)
@settings(max_examples=repeated(100, 5000), deadline=None)
def test_a_stream_is_split_alike_wherever_it_is_cut(values, seed, is_array):
    chance = random.Random(seed)
    text = (
        json.dumps(values, indent=chance.choice([None, 1]))
        if is_array
        else "\n".join(json.dumps(v, indent=1) for v in values)
    )
    stream = io.BytesIO(text.encode())
    chunks = iter(lambda: stream.read(chance.randrange(1, 30)), b"")
    start, whole = first_bytes(chunks)
    assert [json.loads(data) for block in records(start, whole) for data in block.records] == values


@given(st.text(alphabet='[]{},:"\\ \na1', max_size=60), st.integers(1, 20))
@settings(max_examples=repeated(200, 20_000), deadline=None)
def test_any_text_is_split_alike_wherever_it_is_cut(text, size):
    def split(step: int) -> list[bytes]:
        data, found = text.encode(), []
        try:
            chunks = (data[at : at + step] for at in range(0, len(data), step))
            found.extend(record for block in elements(chunks) for record in block.records)
        except IncompleteJSONError:
            found.append(b"incomplete")
        return found

    assert split(size) == split(len(text) + 1)


# ---- what is refused, with the reason ----------------------------------------------------------------------------

REFUSED = {
    "UTF-16": (NDJSON.decode().encode("utf-16"), "UTF-16"), "UTF-16 without a mark": (NDJSON.decode().encode("utf-16-le"), "UTF-16"),
    "gzip in gzip": (gzip.compress(gzip.compress(NDJSON)), "compressed twice"), "gzip in zstd": (zstd(gzip.compress(NDJSON)), "compressed twice"),
    "skippable frames in gzip": (gzip.compress(SKIPPABLE[3] + zstd(NDJSON)), "compressed twice"),
    "UTF-16 in gzip": (gzip.compress(NDJSON.decode().encode("utf-16")), "UTF-16"), "Parquet in gzip": (gzip.compress(b"PAR1" + b"x" * 20), "compressed Parquet"),
    "encrypted Parquet": (b"PARE" + b"x" * 50, "encrypted Parquet"), "xz": (b"\xfd7zXZ\0" + b"x" * 50, "is xz"), "bzip2": (b"BZh91AY&SY", "is bzip2"),
    "a zip archive": (b"PK\x03\x04" + b"x" * 50, "zip archive"), "a database": (b"SQLite format 3\0" + b"x" * 50, "SQLite"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_holds_no_records_as_it_stands_is_named(tmp_path, data, reason):
    with pytest.raises(SourceError, match=reason):
        endpoints(data, tmp_path / "calls")


# ---- Parquet -----------------------------------------------------------------------------------------------------

TIMES = {
    "decimal milliseconds": pa.array([Decimal(MOMENT_MS)], pa.decimal128(38, 0)), "decimal seconds": pa.array([Decimal("1772359200.123")], pa.decimal128(20, 9)),
    "wide decimal": pa.array([Decimal(MOMENT_MS)], pa.decimal256(50, 2)), "int64 nanoseconds": pa.array([MOMENT_MS * 10**6 + 7]),
    "uint64 microseconds": pa.array([MOMENT_MS * 1000], pa.uint64()), "float seconds": pa.array([1772359200.123]),
    "timestamp in ns": pa.array([MOMENT_MS * 10**6 + 7], pa.timestamp("ns")), "timestamp in ns with a zone": pa.array([MOMENT_MS * 10**6 + 7], pa.timestamp("ns", "Europe/Berlin")),
    "timestamp in us": pa.array([MOMENT_MS * 1000 + 9], pa.timestamp("us")), "timestamp in ms": pa.array([MOMENT_MS], pa.timestamp("ms", "UTC")),
    "text": pa.array([MOMENT.isoformat()]), "large text": pa.array([MOMENT.isoformat()], pa.large_string()), "bytes": pa.array([str(MOMENT_MS).encode()]),
    "dictionary": pa.array([str(MOMENT_MS)]).dictionary_encode(),
}  # fmt: skip


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_times_of_parquet_mean_the_same_whatever_their_type(tmp_path, times):
    path = tmp_path / "calls.parquet"
    pq.write_table(pa.table({"ts": times, "method": ["GET"], "endpoint": ["/0"]}), path)
    (batch,) = read(path)
    assert (batch.calls["ts"].to_list(), batch.rejects["detail"].to_list()) == ([MOMENT], [])


def test_a_day_and_a_32_bit_number_are_told_apart(tmp_path):
    path = tmp_path / "calls.parquet"
    for times, reasons in (
        (pa.array([1_772_359_200], pa.int32()), []), (pa.array([20_513], pa.date32()), ["no time"]), (pa.array([None], pa.int64()), ["no time"]),
    ):  # fmt: skip
        pq.write_table(pa.table({"ts": times, "method": ["GET"], "endpoint": ["/0"]}), path)
        (batch,) = read(path)
        assert batch.rejects["reason"].to_list() == reasons


DOCUMENTS = {
    '{"a": 1}': ('{"a": 1}', None), ' {"a" : [1]}\n': ('{"a" : [1]}', None), "": ("", None), "null": ("", None), '"text"': ('"text"', None),
    '{"a": "\\ud800"}': ('{"a": "\\ufffd"}', None), "{'a': 1}": ("", "not JSON"), "[1": ("", "not JSON"), "NaN": ("", "not JSON"),
    "[" * 9 + "]" * 9: ("[" * 9 + "]" * 9, None), "[" * 10 + "]" * 10: ("", "nested too deeply"), "[" * 5000: ("", "n"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), DOCUMENTS.items(), ids=range(len(DOCUMENTS)))
def test_text_of_parquet_is_held_to_the_rules_of_lines(tmp_path, text, expected):
    stored, reason = expected
    path = tmp_path / "calls.parquet"
    for kind in (pa.string(), pa.binary()):
        value = text if kind == pa.string() else text.encode()
        table = {"ts": [MOMENT_MS], "method": ["GET"], "endpoint": ["/0"], "response": pa.array([value], kind)}
        pq.write_table(pa.table(table), path)
        (batch,) = read(path, max_nesting=10)
        if reason:
            assert batch.rejects["reason"][0].startswith(reason)
        else:
            assert batch.calls["response"].to_list() == [stored]


def test_structures_of_parquet_are_json(tmp_path):
    path = tmp_path / "calls.parquet"
    response = [{"total": 2, "items": [{"id": 1}, {"id": 2}]}]
    pq.write_table(pa.table({"ts": [MOMENT_MS], "method": ["GET"], "endpoint": ["/0"], "response": response}), path)
    assert [json.loads(batch.calls["response"][0]) for batch in read(path)] == response
    (batch,) = read(path, max_nesting=3)
    assert batch.rejects["reason"].to_list() == ["nested too deeply"]
