"""Whatever comes in: what can be stored is stored, the rest is kept with its reason, and no neighbour is lost."""

import gzip
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from app.contracts import API_CALLS, DWH_TABLES
from app.core.call_record import RecordLimits
from app.core.errors import CaratError, SettingsError
from app.core.no_ids import DEFAULT_NO_IDS, normal_id, parse_no_ids
from app.intake.files import require_readable
from app.jobs import ingest
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from tests.support.corpora import json_suite, naughty_strings
from tests.support.empty_warehouse import make_empty
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.slow

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MAX_RECORD_BYTES = 1024 * 1024
# What polars' strip_chars takes away: Unicode white space, which is less than Python's str.strip does.
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))

both_engines = pytest.mark.parametrize("engine_url", ["embedded", "served"], indirect=True)


@pytest.fixture(scope="module")
def open_engine(engine_url) -> Iterator[tuple[Warehouse, Settings]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("CARAT_WAREHOUSE", engine_url)
        settings = Settings(_env_file=None)
    with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
        yield warehouse, settings


@pytest.fixture
def warehouse(open_engine) -> Warehouse:
    """One connection for all tests here, since they are many and small."""
    make_empty(*open_engine)
    return open_engine[0]


@pytest.fixture
def build(warehouse, open_engine) -> Callable[[], dict[date, int]]:
    """Builds what is stale; how many values were unreadable, by day."""
    return lambda: {
        d.day: d.unreadable for d in build_stale(warehouse, open_engine[1], span=(None, None), jobs=JOBS).built
    }


@pytest.fixture
def ingest_file(warehouse) -> Callable[..., ingest.LoadResult]:
    def run(path: Path, *, now: datetime = NOW) -> ingest.LoadResult:
        totals = ingest.LoadResult()
        ingest.ingest_source(warehouse, str(path), now=now, totals=totals, limits=RecordLimits(MAX_RECORD_BYTES))
        return totals

    return run


# A process begins with its parent's memory as its peak, so it is started and measured by one that has little.
MEASURED = """
import os, sys
_, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[2], sys.argv[2:]), 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Finished(NamedTuple):
    code: int
    out: str
    err: str
    max_rss_mib: float


@pytest.fixture
def carat(tmp_path) -> Callable[..., Finished]:
    """Runs the command line in a process and a warehouse of its own; a bare traceback is never right."""

    def run(*arguments: str, stdin: bytes = b"", **settings: str) -> Finished:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CARAT_") or name == "CARAT_MAX_AGE_DAYS"
        }
        environment |= {"CARAT_WAREHOUSE": f"chdb://{tmp_path}/cli", "CARAT_LOG": f"{tmp_path}/carat.log", **settings}
        environment["PYTHONPATH"] = str(CHECKOUT)
        fed, out, err, peak = (tmp_path / name for name in ("stdin", "stdout", "stderr", "peak"))
        fed.write_bytes(stdin)
        with fed.open("rb") as source, out.open("wb") as to, err.open("wb") as errors:
            code = subprocess.run(
                [sys.executable, "-c", MEASURED, str(peak), sys.executable, "-m", "app", *arguments],
                cwd=tmp_path,
                env=environment,
                stdin=source,
                stdout=to,
                stderr=errors,
                check=False,
            ).returncode
        max_rss_mib = int(peak.read_text()) / 1024
        finished = Finished(code, out.read_text(errors="replace"), err.read_text(errors="replace"), max_rss_mib)
        assert "Traceback" not in finished.err
        return finished

    return run


def error_lines(finished: Finished) -> list[str]:
    """What a person reads: stderr without the JSON lines of the log."""
    return [line for line in finished.err.splitlines() if not line.startswith("{")]


def record(**fields: Any) -> dict[str, Any]:
    return {"ts": "2026-03-01T10:00:00Z", "method": "GET", "endpoint": "/x", "visitor_id": "v", "status": 200, **fields}


def line(*, raw: bytes | None = None, **fields: Any) -> bytes:
    """A record's bytes; `raw` are further members, as they stand."""
    data = json.dumps(record(**fields)).encode()
    return data if raw is None else data[:-1] + b", " + raw + b"}"


def many_lines(count: int) -> list[bytes]:
    """Lines that do not compress well, so that half of a compressed file is about half of them."""
    chance = random.Random(7)
    return [line(endpoint=f"/{number}", visitor_id=chance.randbytes(40).hex()) for number in range(count)]


def stored_calls(warehouse: Warehouse) -> pl.DataFrame:
    return warehouse.query("SELECT * EXCEPT received_at FROM pd.api_calls ORDER BY ALL")


def endpoints(warehouse: Warehouse) -> list[str]:
    return (
        warehouse.query("SELECT endpoint FROM pd.api_calls ORDER BY endpoint").get_column("endpoint").to_list()
        if warehouse.scalar("SELECT count() FROM pd.api_calls")
        else []
    )


def rejects(warehouse: Warehouse) -> list[tuple[str, bytes]]:
    """Reason and bytes of each reject, in their order in the source."""
    found = warehouse.query("SELECT reason, hex(record) AS record FROM etl.rejects ORDER BY source, position")
    return [(reason, bytes.fromhex(data)) for reason, data in found.rows()] if found.width else []


BEFORE, AFTER = line(endpoint="/before"), line(endpoint="/after")


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\n \n\t\r\n\n", b"\xef\xbb\xbf"], ids=["empty", "newline", "blank lines", "only a BOM"]
)
def test_a_file_without_records_stores_and_rejects_nothing(warehouse, ingest_file, tmp_path, content):
    (tmp_path / "empty.ndjson").write_bytes(content)
    assert ingest_file(tmp_path / "empty.ndjson").records == 0
    assert (endpoints(warehouse), rejects(warehouse)) == ([], [])


def test_a_half_written_last_line_is_kept_as_it_stands_and_the_whole_file_later_stores_it(
    warehouse, ingest_file, tmp_path
):
    path = tmp_path / "growing.ndjson"
    whole = b"\n".join([BEFORE, AFTER])
    path.write_bytes(whole[:-25])
    assert ingest_file(path).rejected == {"not JSON": 1}
    assert rejects(warehouse) == [("not JSON", AFTER[:-25])]
    path.write_bytes(whole)
    totals = ingest_file(path)
    assert (totals.stored, totals.duplicates, totals.rejected) == (1, 1, {})
    assert endpoints(warehouse) == ["/after", "/before"]


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_no_part_of_a_record(warehouse, ingest_file, tmp_path):
    path = tmp_path / "from-windows.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([BEFORE, b"", b"  ", AFTER, b""]))
    assert ingest_file(path).stored == 2
    assert (endpoints(warehouse), rejects(warehouse)) == (["/after", "/before"], [])


def readable_part(data: bytes, suffix: str) -> bytes:
    if suffix == "gz":
        return zlib.decompressobj(wbits=31).decompress(data)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@pytest.mark.parametrize("count", [300, 30_000], ids=["small", "large"])
@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_cut_off_compressed_file_stores_what_is_readable_and_the_whole_one_the_rest(
    warehouse, ingest_file, tmp_path, suffix, count
):
    lines = many_lines(count)
    compress = {
        "gz": lambda data: gzip.compress(data, 1),
        "zst": lambda data: zstandard.ZstdCompressor(level=-5).compress(data),
    }[suffix]
    data = compress(b"\n".join(lines) + b"\n")
    path = tmp_path / f"calls.ndjson.{suffix}"
    cut = data[: len(data) * 2 // 3]
    path.write_bytes(cut)
    with pytest.raises(CaratError, match=r"damaged or incomplete.*run the same command on the complete file") as caught:
        ingest_file(path)
    assert str(path) in str(caught.value)
    readable = readable_part(cut, suffix).count(b"\n")
    assert warehouse.scalar("SELECT count() FROM pd.api_calls") == readable
    path.write_bytes(data)
    totals = ingest_file(path)
    assert (totals.stored, totals.duplicates, totals.rejected) == (count - readable, readable, {})


def test_a_cut_off_compressed_file_ends_the_command_with_exit_1_and_one_line(carat, tmp_path):
    data = gzip.compress(b"\n".join(many_lines(2_000)))
    (tmp_path / "calls.ndjson.gz").write_bytes(data[: len(data) * 2 // 3])
    finished = carat("ingest", "calls.ndjson.gz")
    assert finished.code == 1
    assert [bool(re.search(r"calls.*is damaged or incomplete", told)) for told in error_lines(finished)] == [True]


def test_bytes_after_the_end_of_a_gzip_file_lose_no_record_of_it(warehouse, ingest_file, tmp_path):
    path = tmp_path / "calls.ndjson.gz"
    path.write_bytes(gzip.compress(b"\n".join([BEFORE, AFTER, b""])) + b"rubbish")
    with pytest.raises(CaratError, match="damaged or incomplete"):
        ingest_file(path)
    assert endpoints(warehouse) == ["/after", "/before"]


def test_a_path_that_is_missing_or_a_directory_is_wrong_usage_before_anything_is_read(tmp_path):
    (tmp_path / "calls.ndjson").write_bytes(BEFORE)
    for name, problem in (("missing.ndjson", "does not exist"), (".", "is a directory")):
        with pytest.raises(SettingsError, match=problem) as caught:
            require_readable([str(tmp_path / "calls.ndjson"), str(tmp_path / name)])
        assert str(tmp_path / name) in str(caught.value)
        assert caught.value.exit_code == 2


def test_the_command_says_in_one_line_which_path_cannot_be_read_and_exits_2(carat, tmp_path):
    (tmp_path / "calls.ndjson").write_bytes(BEFORE)
    finished = carat("ingest", "calls.ndjson", "missing.ndjson")
    assert (finished.code, finished.err, finished.out) == (2, "carat: missing.ndjson does not exist\n", "")
    assert not (tmp_path / "cli").exists()


def test_gzipped_records_come_from_stdin(carat):
    finished = carat("ingest", "-", "--json", stdin=gzip.compress(b"\n".join([BEFORE, b"no record", AFTER])))
    assert (finished.code, error_lines(finished)) == (0, [])
    assert json.loads(finished.out) == {"records": 3, "stored": 2, "duplicates": 0, "rejected": {"not JSON": 1}}


def test_records_come_from_stdin(warehouse, monkeypatch):
    totals = ingest.LoadResult()
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"\n".join([BEFORE, b"no record", AFTER]))))
    )
    ingest.ingest_source(warehouse, "-", now=NOW, totals=totals, limits=RecordLimits(MAX_RECORD_BYTES))
    assert (totals.stored, rejects(warehouse)) == (2, [("not JSON", b"no record")])
    assert warehouse.query("SELECT source, position FROM etl.rejects").rows() == [("stdin", 2)]


def test_a_record_of_50_mb_is_kept_whole_in_the_rejects_in_bounded_memory(carat, tmp_path):
    filling = random.Random(7).randbytes(25_000_000).hex().encode()
    huge = line(raw=b'"filling": "' + filling + b'"')
    (tmp_path / "calls.ndjson").write_bytes(b"\n".join([BEFORE, huge, AFTER]))
    finished = carat("ingest", "calls.ndjson", "--json")
    assert json.loads(finished.out) == {"records": 3, "stored": 2, "duplicates": 0, "rejected": {"too large": 1}}
    assert finished.max_rss_mib < 1300  # ten copies of it on its way, engine included, whatever else is in the file
    kept = carat(
        "query",
        "SELECT reason, detail, record_bytes, length(record) AS kept, lower(hex(SHA256(record))) AS hash FROM etl.rejects",
        "--format",
        "ndjson",
    )
    assert json.loads(kept.out) == {
        "reason": "too large", "detail": f"{len(huge)} bytes, the limit is 1048576 (CARAT_MAX_RECORD_BYTES, CARAT_COLLECT_MAX_RECORD_BYTES)",
        "record_bytes": len(huge), "kept": len(huge), "hash": hashlib.sha256(huge).hexdigest(),
    }  # fmt: skip


# ---- single records ----------------------------------------------------------------------------------------------

DEEP = b"[" * 10_000 + b"]" * 10_000
BAD_RECORDS = {
    "from the future": (line(ts="2026-06-02T00:00:01Z"), "in the future"),
    "from the far future, in ms": (line(ts=10**14 - 1), "in the future"),
    "without ts": (b'{"method": "GET", "endpoint": "/x"}', "no time"),
    "ts null": (line(ts=None), "no time"),
    "ts empty": (line(ts=""), "no time"),
    "ts without an offset": (line(ts="2026-03-01T10:00:00"), "no time"),
    "ts a date": (line(ts="2026-03-01"), "no time"),
    "ts no time": (line(ts="yesterday"), "no time"),
    "ts a list": (line(ts=[1]), "no time"),
    "ts an object": (line(ts={"$date": 1}), "no time"),
    "ts true": (line(ts=True), "no time"),
    "ts before 1970": (line(ts=-1), "no time"), "ts of a clock that was never set": (line(ts=172_799), "no time"),
    "ts of a year before 1": (line(ts="0000-01-01T00:00:00Z"), "no time"),
    "method missing": (b'{"ts": 1772359200000, "endpoint": "/x"}', "no method"),
    "method empty": (line(method=""), "no method"),
    "endpoint null": (line(endpoint=None), "no endpoint"),
    "endpoint a list": (line(endpoint=["/x"]), "bad endpoint"),
    "visitor_id true": (line(visitor_id=True), "bad visitor_id"),
    "visitor_id an object": (line(visitor_id={"id": 1}), "bad visitor_id"),
    "session_token a list": (line(session_token=["t"]), "bad session_token"),
    "user_agent an object": (line(user_agent={}), "bad user_agent"),
    "call_id no UUID": (line(call_id="order-17"), "bad call_id"),
    "call_id a number": (line(call_id=17), "bad call_id"),
    "call_id a list": (line(call_id=[1]), "bad call_id"),
    "a list": (b"[" + BEFORE + b"]", "not an object"),
    "a number": (b"17", "not an object"),
    "text": (b'"x"', "not an object"),
    "null": (b"null", "not an object"),
    "no JSON": (b"GET /x 200", "not JSON"),
    "two records on one line": (BEFORE + AFTER, "not JSON"),
    "a comma at the end": (BEFORE + b",", "not JSON"),
    "a NUL byte": (line(raw=b'"user_id": "a\0b"'), "not JSON"),
    "NUL bytes alone": (b"\0" * 4096, "not JSON"),
    "NaN": (line(raw=b'"response": {"price": NaN}'), "not JSON"),
    "invalid UTF-8": (line(raw=b'"user_id": "\xff"'), "not UTF-8"),
    "invalid UTF-8 in the response": (line(raw=b'"response": {"title": "\xc3\x28"}'), "not UTF-8"),
    "UTF-16": (BEFORE.decode().encode("utf-16"), "not UTF-8"),
    "a deep response": (line(raw=b'"response": ' + DEEP), "nested too deeply"),
    "a deep id": (line(raw=b'"visitor_id": ' + DEEP), "nested too deeply"),
    "a deep unknown field": (line(raw=b'"more": ' + DEEP), "nested too deeply"),
    "too large": (line(raw=b'"more": "' + b"x" * MAX_RECORD_BYTES + b'"'), "too large"),
    "ts of 5000 digits as text": (line(ts="1" * 5000), "in the future"),
    "ts of 400 digits": (line(raw=b'"ts": ' + b"1" * 400), "in the future"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_bad_record_is_rejected_with_its_bytes_and_its_neighbours_are_stored(warehouse, ingest_records, data, reason):
    totals = ingest_records(BEFORE, data, AFTER)
    assert (totals.stored, totals.rejected) == (2, {reason: 1})
    assert rejects(warehouse) == [(reason, data)]
    assert endpoints(warehouse) == ["/after", "/before"]


@both_engines
def test_bytes_that_are_no_text_reach_the_rejects_unchanged(warehouse, ingest_records):
    every_byte = bytes(byte for byte in range(256) if byte != ord("\n"))
    data = b"{" + every_byte * 3 + b"}"
    ingest_records(BEFORE, data, AFTER)
    assert rejects(warehouse) == [("not UTF-8", data)]
    assert warehouse.query("SELECT position, record_bytes, detail FROM etl.rejects").rows() == [
        (2, len(data), "byte 128: invalid start byte")
    ]


GOOD_RECORDS = {
    "ts as epoch ms": (line(ts=1772359200123), "ts", datetime(2026, 3, 1, 10, 0, 0, 123_000, tzinfo=UTC)),
    "ts as epoch ms in text": (line(ts="1772359200123"), "ts", datetime(2026, 3, 1, 10, 0, 0, 123_000, tzinfo=UTC)),
    "ts with a fraction of a ms": (line(ts=1772359200123.9), "ts", datetime(2026, 3, 1, 10, 0, 0, 123_000, tzinfo=UTC)),
    "ts in nanoseconds": (line(ts="2026-03-01T10:00:00.123999999Z"), "ts", datetime(2026, 3, 1, 10, 0, 0, 123_000, tzinfo=UTC)),
    "ts with an offset": (line(ts="2026-03-01T15:30:00.123+05:30"), "ts", datetime(2026, 3, 1, 10, 0, 0, 123_000, tzinfo=UTC)),
    "ts just less than a day ahead": (line(ts="2026-06-02T00:00:00Z"), "ts", datetime(2026, 6, 2, tzinfo=UTC)),
    "ts at the first moment that is taken": (line(ts=172_800), "ts", datetime(1970, 1, 3, tzinfo=UTC)),
    "visitor_id a number": (line(visitor_id=17), "visitor_id", "17"),
    "visitor_id a large number": (line(visitor_id=2**80), "visitor_id", str(2**80)),
    "visitor_id null": (line(visitor_id=None), "visitor_id", ""),
    "NUL characters": (line(visitor_id="a\0b\0"), "visitor_id", "a\0b\0"),
    "a line break in an id": (line(visitor_id="a\r\nb"), "visitor_id", "a\r\nb"),
    "half a pair of surrogates": (line(raw=b'"user_id": "ring \\uD83D"'), "user_id", "ring \ufffd"),
    "the second half alone": (line(raw=b'"user_id": "\\udc8d."'), "user_id", "\ufffd."),
    "half a pair of surrogates as bytes": (line(raw=b'"user_id": "\xed\xa0\xbd"'), "user_id", "\ufffd"),
    "a pair of surrogates as bytes": (line(raw=b'"user_id": "\xed\xa0\xbd\xed\xb2\x8d"'), "user_id", "\U0001f48d"),
    "what looks like a surrogate": (line(raw=b'"user_id": "\\\\ud83d"'), "user_id", "\\ud83d"),
    "a pair of surrogates": (line(raw=b'"user_id": "\\ud83d\\udc8d"'), "user_id", "\U0001f48d"),
    "status as text": (line(status="404"), "status", 404),
    "status with a fraction": (line(status=200.0), "status", 200),
    "status a word": (line(status="ok"), "status", 0),
    "status a list": (line(status=[200]), "status", 0),
    "status true": (line(status=True), "status", 0),
    "status missing": (line(status=None), "status", 0),
    "status below zero": (line(status=-200), "status", 0),
    "status too large": (line(status=2**40), "status", 2**16 - 1),
    "status of 5000 digits as text": (line(status="1" * 5000), "status", 2**16 - 1),
    "status of 400 digits": (line(raw=b'"status": ' + b"1" * 400), "status", 2**16 - 1),
    "duration too large": (line(duration_ms=2**70), "duration_ms", 2**32 - 1),
    "endpoint with a query": (line(endpoint="/x?page=2?"), "endpoint", "/x?page=2?"),
    "endpoint of a query string alone": (line(endpoint="?page=2"), "endpoint", "?page=2"),
    "request as text": (line(request="not an object"), "request", '"not an object"'),
    "request null": (line(request=None), "request", ""),
    "response as sent": (line(raw=b'"response": {"b" : 1.10,\t"a":[ ]  , "b": "\\u00e9\xc3\xa9"}'), "response", '{"b" : 1.10,\t"a":[ ]  , "b": "\\u00e9é"}'),
    "unknown fields": (line(raw=b'"experiment": {"arm": [1, 2]}'), "endpoint", "/x"),
    "a key twice": (line(raw=b'"visitor_id": "second"'), "visitor_id", "second"),
    "call_id in upper case": (line(call_id="0188F3A2-0000-7000-8000-00000000ABCD"), "toString(call_id)", "0188f3a2-0000-7000-8000-00000000abcd"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "column", "expected"), GOOD_RECORDS.values(), ids=GOOD_RECORDS)
def test_an_unusual_record_is_stored_as_what_it_means(warehouse, ingest_records, data, column, expected):
    assert ingest_records(data).stored == 1
    assert warehouse.query(f"SELECT {column} FROM pd.api_calls").item() == expected


def test_half_a_surrogate_pair_in_a_response_is_replaced(warehouse, ingest_records):
    data = line(endpoint="/odd", raw=b'"response": {"title": "\\ud83d", "text": "\\ud83d\\udc8d"}')
    assert ingest_records(BEFORE, data, AFTER).stored == 3
    stored = warehouse.query("SELECT response FROM pd.api_calls WHERE endpoint = '/odd'").item()
    assert stored == r'{"title": "\ufffd", "text": "\ud83d\udc8d"}'


# ---- the same again ----------------------------------------------------------------------------------------------


def conflicting_lines() -> list[bytes]:
    """Calls with and without ids; some ids stand for two or three different records."""
    ids = [str(uuid.UUID(int=number)) for number in range(12)]
    lines = [line(endpoint=f"/{number}", call_id=call_id) for number, call_id in enumerate(ids)]
    lines += [line(endpoint=f"/same-ts-{number}", call_id=call_id) for number, call_id in enumerate(ids[:6])]
    lines += [
        line(endpoint=f"/later-{number}", call_id=call_id, ts="2026-03-02T10:00:00Z")
        for number, call_id in enumerate(ids[3:9])
    ]
    return [*lines, *(line(endpoint=f"/derived-{number}") for number in range(12))]


def test_the_same_file_twice_stores_every_call_and_every_reject_once(warehouse, ingest_file, tmp_path):
    path = tmp_path / "calls.ndjson"
    path.write_bytes(b"\n".join([*many_lines(50), b"no record", line(ts=None), b"no record"]))
    ingest_file(path)
    calls, kept = stored_calls(warehouse), rejects(warehouse)
    again = ingest_file(path, now=datetime(2026, 6, 2, tzinfo=UTC))
    assert (again.stored, again.duplicates) == (0, 50)
    assert stored_calls(warehouse).equals(calls)
    assert rejects(warehouse) == kept
    assert len(kept) == 3


def test_records_that_lost_their_call_id_are_rejected_once_however_often_the_file_comes(
    warehouse, ingest_file, tmp_path
):
    path = tmp_path / "calls.ndjson"
    path.write_bytes(b"\n".join(conflicting_lines()))
    ingest_file(path)
    assert warehouse.query("SELECT reason, count() FROM etl.rejects GROUP BY reason").rows() == [("call_id taken", 12)]
    for hour in (1, 2):
        ingest_file(path, now=datetime(2026, 6, 1, hour, tzinfo=UTC))
    assert warehouse.query("SELECT reason, count() FROM etl.rejects GROUP BY reason").rows() == [("call_id taken", 12)]


def test_the_same_records_in_any_order_and_number_of_files_give_the_same_calls(warehouse, ingest_records):
    lines = conflicting_lines()
    ingest_records(*lines)
    expected = stored_calls(warehouse)
    assert expected.height == 24
    for seed in range(2):
        warehouse.command("TRUNCATE TABLE pd.api_calls")
        shuffled = random.Random(seed).sample(lines, len(lines))
        for start in range(0, len(shuffled), 31):
            ingest_records(*shuffled[start : start + 31])
        assert stored_calls(warehouse).equals(expected)


def test_a_record_without_call_id_is_stored_once_whatever_file_and_line_it_comes_in(warehouse, ingest_records):
    data = line(request={"query": {"q": "ring"}}, response={"total": 1})
    assert ingest_records(data, data).stored == 1
    reordered = json.dumps(dict(reversed(json.loads(data).items()))).encode()
    totals = ingest_records(AFTER, reordered)
    assert (totals.stored, totals.duplicates) == (1, 1)
    assert endpoints(warehouse) == ["/after", "/x"]


# ---- Parquet -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ingest_parquet(ingest_file, tmp_path) -> Callable[..., ingest.LoadResult]:
    def run(columns: dict[str, Any] | pa.Table) -> ingest.LoadResult:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, tmp_path / "calls.parquet")
        return ingest_file(tmp_path / "calls.parquet")

    return run


def parquet_columns(height: int = 2, **columns: Any) -> dict[str, Any]:
    fixed = {"ts": ["2026-03-01T10:00:00Z"] * height, "method": ["GET"] * height}
    return {**fixed, "endpoint": [f"/{number}" for number in range(height)], **columns}


def test_parquet_stores_what_ndjson_stores_under_the_same_derived_ids(warehouse, ingest_records, ingest_parquet):
    records = [
        record(
            ts=f"2026-03-01T10:0{number}:00.5Z",
            endpoint=f"/api/{number}",
            user_id=["u", None, ""][number],
            status=[200, 404, None][number],
            duration_ms=number,
        )
        for number in range(3)
    ]
    documents = ['{"query": {"q": "é\\u00e9"}}', "", '{ "body":{"n":1.10} }']
    lines = [
        line(raw=b'"request": ' + (text.encode() or b"null"), **fields)
        for fields, text in zip(records, documents, strict=True)
    ]
    ingest_records(*lines)
    expected = stored_calls(warehouse)
    columns = {name: [fields[name] for fields in records] for name in records[0]} | {"request": documents}
    assert ingest_parquet(columns).duplicates == 3
    warehouse.command("TRUNCATE TABLE pd.api_calls")
    moments = [datetime.fromisoformat(fields["ts"]) for fields in records]
    for ts in (
        columns["ts"],
        pa.array(moments, pa.timestamp("ms", "UTC")),
        pa.array([m.replace(tzinfo=None) for m in moments], pa.timestamp("ns")),
        [int(m.timestamp() * 1000) for m in moments],
    ):
        totals = ingest_parquet(columns | {"ts": ts})
        assert (totals.records, totals.rejected) == (3, {})
    assert stored_calls(warehouse).equals(expected)


def test_call_ids_in_parquet_may_be_text_or_bytes(warehouse, ingest_parquet):
    ids = [uuid.UUID(int=number) for number in (1, 2)]
    assert ingest_parquet(parquet_columns(call_id=[str(call_id) for call_id in ids])).stored == 2
    assert (
        ingest_parquet(parquet_columns(call_id=pa.array([call_id.bytes for call_id in ids], pa.binary(16)))).duplicates
        == 2
    )


def test_a_bad_row_of_parquet_is_rejected_with_its_values_and_its_neighbours_are_stored(warehouse, ingest_parquet):
    totals = ingest_parquet(
        parquet_columns(3, ts=["2026-03-01T10:00:00Z", None, "2026-03-01T10:00:00Z"], visitor_id=["a", "b", "c"])
    )
    assert (totals.stored, totals.rejected) == (2, {"no time": 1})
    ((reason, kept),) = rejects(warehouse)
    assert (reason, json.loads(kept)) == ("no time", {"ts": None, "method": "GET", "endpoint": "/1", "visitor_id": "b"})


def test_text_in_parquet_that_is_not_utf8_costs_its_row_alone(warehouse, ingest_parquet):
    as_bytes = pa.array([b'{"a": 1}', b'{"a": "\xff"}', b'{"a": 2}'], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, as_bytes.buffers())
    totals = ingest_parquet(parquet_columns(3, response=text))
    assert (totals.stored, sum(totals.rejected.values())) == (2, 1)
    assert endpoints(warehouse) == ["/0", "/2"]


def test_a_time_in_parquet_beyond_the_year_9999_costs_its_row_alone(warehouse, ingest_parquet):
    totals = ingest_parquet(parquet_columns(ts=pa.array([1772359200, 999_999_999_999], pa.timestamp("s"))))
    assert (totals.stored, sum(totals.rejected.values())) == (1, 1)


def test_a_time_inside_a_nested_parquet_column_costs_at_most_its_row(warehouse, ingest_parquet):
    nested = pa.array([{"at": None}, {"at": 1_772_359_200_000_000_001}], pa.struct([("at", pa.timestamp("ns"))]))
    totals = ingest_parquet(parquet_columns(response=nested))
    assert totals.records == 2
    assert "/0" in endpoints(warehouse)


def test_json_in_a_binary_parquet_column_is_kept_as_sent(warehouse, ingest_parquet):
    assert ingest_parquet(parquet_columns(response=pa.array([b'{"a": 1}', b'{"a":2}'], pa.binary()))).stored == 2
    assert sorted(warehouse.query("SELECT response FROM pd.api_calls").get_column("response")) == [
        '{"a": 1}',
        '{"a":2}',
    ]


def damaged_parquet(kind: str, folder: Path) -> bytes:
    table = pa.table(parquet_columns(40_000))
    pq.write_table(table, folder / "whole.parquet", row_group_size=20_000)
    data = bytearray((folder / "whole.parquet").read_bytes())
    if kind == "cut off":
        return bytes(data[: len(data) * 2 // 3])
    if kind == "no footer":
        return b"PAR1" + bytes(100)
    second = pq.ParquetFile(folder / "whole.parquet").metadata.row_group(1).column(2)
    start = second.data_page_offset + 40
    data[start : start + 400] = random.Random(7).randbytes(400)
    return bytes(data)


@pytest.mark.parametrize(("kind", "stored"), [("cut off", 0), ("no footer", 0), ("a page overwritten", 20_000)])
def test_a_damaged_parquet_file_stores_what_is_readable_and_is_named(warehouse, ingest_file, tmp_path, kind, stored):
    path = tmp_path / "calls.parquet"
    path.write_bytes(damaged_parquet(kind, tmp_path))
    with pytest.raises(CaratError, match="is not a complete Parquet file") as caught:
        ingest_file(path)
    assert str(path) in str(caught.value)
    assert warehouse.scalar("SELECT count() FROM pd.api_calls") == stored


# ---- collections of what breaks readers --------------------------------------------------------------------------


def test_every_document_of_the_json_test_suite_as_a_record_is_rejected_with_its_bytes(warehouse, ingest_records):
    lines = [
        data
        for document in json_suite().values()
        for data in document.replace(b"\r", b"\n").split(b"\n")
        if data.strip()
    ]
    around = [line(endpoint=f"/{number}") for number in range(len(lines))]
    totals = ingest_records(*(data for pair in zip(around, lines, strict=True) for data in pair))
    assert (totals.stored, sum(totals.rejected.values())) == (len(lines), len(lines))
    assert set(totals.rejected) <= {"not JSON", "not UTF-8", "not an object", "nested too deeply", "no time"}
    # White space around a record is no part of it.
    assert sorted(data for _, data in rejects(warehouse)) == sorted(data.strip() for data in lines)
    assert len(endpoints(warehouse)) == len(lines)


def as_object(text: str) -> dict | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def catalog_rows(documents: list[str], *, day: int) -> dict[str, list]:
    """One catalog call a document, each followed by a good one of the same visitor."""
    height = 2 * len(documents)
    responses = [text for document in documents for text in (document, '{"total": 7, "items": [{"id": "good"}]}')]
    return {
        "call_id": [str(uuid.UUID(int=day * 10**6 + number)) for number in range(height)],
        "ts": [f"2026-03-{day:02}T{10 + number % 2}:00:00Z" for number in range(height)],
        "visitor_id": [f"visitor-{number // 2}" for number in range(height)],
        "method": ["GET"] * height, "endpoint": ["/api/v1/catalog"] * height, "status": [200] * height,
        "response": responses,
    }  # fmt: skip


def insert_unchecked(warehouse: Warehouse, columns: dict[str, list]) -> None:
    """Store rows as older versions took them from Parquet: whatever their text was."""
    calls = pl.DataFrame(columns).with_columns(
        pl.col("call_id").map_elements(lambda text: uuid.UUID(text).bytes, pl.Binary),
        pl.col("ts").str.to_datetime(time_zone="UTC", time_unit="ms"),
    )
    missing = [
        pl.lit("" if kind == pl.String else 0).cast(kind).alias(name)
        for name, kind in API_CALLS.schema.items()
        if name not in columns
    ]
    warehouse.insert(API_CALLS, calls.with_columns(missing).select(API_CALLS.schema.names()).cast(API_CALLS.schema))


def test_every_document_of_the_json_test_suite_as_a_response_never_fails_a_build(warehouse, build):
    suite = json_suite()
    documents = {}
    for name, data in suite.items():
        try:
            documents[name] = data.decode()
        except UnicodeDecodeError:
            continue
    objects = [text for name, text in documents.items() if name.startswith("y_") and as_object(text) is not None]
    wrapped = [
        f'{{"before": {text}, "total": 5, "items": [{{"id": 1, "x": {text}}}]}}'
        for name, text in documents.items()
        if name.startswith("y_")
    ]
    assert len(objects) > 10
    days = {1: list(documents.values()), 2: objects, 3: wrapped}
    for day, texts in days.items():
        insert_unchecked(warehouse, catalog_rows(texts, day=day))
        stored = warehouse.query(
            "SELECT hex(response) FROM pd.api_calls WHERE toDayOfMonth(ts) = {day:UInt8} ORDER BY call_id", {"day": day}
        ).to_series()
        assert [bytes.fromhex(text).decode() for text in stored[::2]] == texts

    unreadable = build()

    assert (unreadable[date(2026, 3, 2)], unreadable[date(2026, 3, 3)]) == (0, 0)
    assert unreadable[date(2026, 3, 1)] <= len(documents)
    for day, texts in days.items():
        events = warehouse.query(
            "SELECT results_total, shown_products FROM dwh.events WHERE event_date = {day:Date} AND event = 'catalog' ORDER BY call_id",
            {"day": date(2026, 3, day)},
        )
        assert events.height == 2 * len(texts)
        assert set(events[1::2].select("results_total", pl.col("shown_products").list.join("|")).rows()) == {
            (7, "good")
        }
    of_wrapped = warehouse.query(
        "SELECT DISTINCT results_total, shown_products[1] FROM dwh.events WHERE event_date = '2026-03-03' ORDER BY 1"
    )
    assert of_wrapped.rows() == [(5, "1"), (7, "good")]


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "unclosed"])
@pytest.mark.parametrize("opening", ["[", '{"a":'], ids=["lists", "objects"])
def test_a_response_of_100_000_levels_never_fails_a_build(warehouse, build, opening, is_closed):
    closing = {"[": "]", '{"a":': "}"}[opening] if is_closed else ""
    text = f'{{"total": 3, "items": [{{"id": "shown"}}], "deep": {opening * 100_000}1{closing * 100_000}{"}" if is_closed else ""}'
    insert_unchecked(warehouse, catalog_rows([text, '{"total": 4, "items": [{"id": "next"}]}'], day=1))
    unreadable = build()[date(2026, 3, 1)]
    events = warehouse.query("SELECT results_total, shown_products[1] FROM dwh.events ORDER BY call_id").rows()
    assert events[1:] == [(7, "good"), (4, "next"), (7, "good")]
    assert events[0] == (3, "shown") or unreadable > 0


def identifies(visitor_id: str) -> bool:
    return normal_id(visitor_id) not in {"", *parse_no_ids(DEFAULT_NO_IDS)}


@both_engines
def test_every_naughty_string_comes_out_as_it_went_in(warehouse, ingest_records, build):
    expected: dict[bytes, dict[str, Any]] = {}
    lines: list[bytes] = []
    for number, text in enumerate(naughty_strings()):
        calls = [
            {
                "endpoint": "/api/v1/catalog",
                "request": {"query": {"q": text, "section": text, "sort": text}},
                "response": {"total": 1, "items": [{"id": text}]},
            },
            {
                "endpoint": "/api/v1/catalog",
                "request": {"query": {"q": text, "section": [text, "rings"]}},
                "response": {"total": "1", "items": [{"id": text}, {"id": 7}]},
            },
            {"endpoint": "/api/v1/favorites", "method": "POST", "request": {"body": {"product_id": text}}},
            {
                "endpoint": "/api/v1/orders",
                "method": "POST",
                "response": {
                    "order_id": text,
                    "currency": text,
                    "items": [{"product_id": text, "quantity": 1, "price": 1}],
                },
            },
        ]
        stripped = text.strip(WHITE_SPACE)
        sections = [part.strip(WHITE_SPACE) for part in text.split(",") if part.strip(WHITE_SPACE)]
        product = re.sub(r"^(\d+)\.0+$", r"\1", stripped)  # 314.0 and 314 are one id
        shown = [product] if product else []
        listing = {"search_query": stripped, "section": sections, "sort": stripped, "shown_products": shown}
        wanted = [
            listing,
            listing
            | {"section": [*([stripped] if stripped else []), "rings"], "sort": "", "shown_products": [*shown, "7"]},
            {"product_id": product},
            {"order_id": product, "currency": stripped.upper(), "order_products": shown},
        ]
        for position, (call, values) in enumerate(zip(calls, wanted, strict=True)):
            for escapes in (False, True):
                call_id = uuid.UUID(int=number * 100 + position * 2 + escapes)
                fields = record(
                    ts=f"2026-03-01T{10 + escapes}:{position:02}:00Z", visitor_id=text, call_id=str(call_id), **call
                )
                lines.append(json.dumps(fields, ensure_ascii=escapes).encode())
                expected[call_id.bytes] = values | ({"visitor_id": text} if identifies(text) else {})

    assert ingest_records(*lines).stored == len(lines)
    assert build() == {date(2026, 3, 1): 0}

    events = {row["call_id"]: row for row in warehouse.query("SELECT * FROM dwh.events").iter_rows(named=True)}
    found = {call_id: {name: events[call_id][name] for name in values} for call_id, values in expected.items()}
    assert found == expected
    visitors = {values["visitor_id"] for values in expected.values() if "visitor_id" in values}
    for table in DWH_TABLES[1:]:
        assert visitors <= set(warehouse.query(f"SELECT DISTINCT visitor_id FROM {table.full_name}").to_series())
    products = {product for values in expected.values() for product in values.get("shown_products", ())}
    assert set(warehouse.query("SELECT DISTINCT product_id FROM dwh.product_sessions").to_series()) == products
